"""Image inpainting with masked generative transformers."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskweave.maskgit import DecodeSettings
    from maskweave.pipeline import InpaintPipeline, load_pipeline
    from maskweave.seeds import seeded

__all__ = ["DecodeSettings", "InpaintPipeline", "load_pipeline", "seeded"]
__version__ = "0.2.0"

_MODULES = {
    "DecodeSettings": "maskweave.maskgit",
    "InpaintPipeline": "maskweave.pipeline",
    "load_pipeline": "maskweave.pipeline",
    "seeded": "maskweave.seeds",
}


def __getattr__(name: str) -> Any:
    """Import a public name, and with it torch, only when it is used."""
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
