"""Image inpainting with masked generative transformers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskweave.pipeline import InpaintPipeline

__all__ = ["InpaintPipeline"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the pipeline, and with it torch, only when it is used."""
    if name == "InpaintPipeline":
        from maskweave.pipeline import InpaintPipeline

        return InpaintPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
