"""Options that several commands share."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskweave.errors import MaskweaveError

if TYPE_CHECKING:
    from maskweave.call import Pipeline
    from maskweave.pipeline import InpaintPipeline

Model = Annotated[str, typer.Option(help="Shipped model, model folder or Hugging Face hub id.")]
ModelOrMethod = Annotated[
    str,
    typer.Option(
        help="Shipped model, model folder or Hugging Face hub id; or a method that needs none: "
        "telea, navier-stokes, biharmonic, fsr."
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Same seed, same pictures.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
InvertMask = Annotated[bool, typer.Option("--invert-mask", help="Black is the hole.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")]
Dtype = Annotated[
    str,
    typer.Option(
        help="Precision: float32, bfloat16, float16, or auto: bfloat16 on a CPU that is made for "
        "it, else float32."
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(
        help="torch, openvino, onnx, or auto: OpenVINO on the CPU where it is installed, else "
        "torch. Without it what the model's files are for. The bytes of a fill depend on it."
    ),
]


def one_line(message: str) -> str:
    """Return a message without line breaks."""
    return " ".join(message.split())


def note_left_out(*folders: Path | None, deep: bool = False) -> None:
    """Say on stderr what in folders is no image; ``deep`` if those below are searched as well."""
    from maskweave.formats import find_images, list_images

    for folder in filter(None, folders):
        with suppress(MaskweaveError):  # if its images are needed, somebody else says so
            for note in (find_images if deep else list_images)(folder).notes:
                print(f"note: {folder}: {note}", file=sys.stderr)


def choose_device(device: str) -> str:
    """Return a device that works; ``auto`` is the accelerator that is there, if any, or the CPU."""
    import torch

    if device == "auto":
        found = torch.accelerator.is_available() and torch.accelerator.current_accelerator()
        device = str(found or "cpu")
    try:
        torch.zeros((), device=device).item()
    # torch raises RuntimeError, AssertionError or NotImplementedError, by device and build.
    except Exception as error:
        raise MaskweaveError(f"no device {device!r}: {str(error).splitlines()[0]}") from error
    return device


def load_model(
    model: str, device: str, dtype: str, backend: str | None = None
) -> "InpaintPipeline":
    """Load a model onto a device, in a precision, to be computed by a backend."""
    import torch

    from maskweave.pipeline import InpaintPipeline

    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise MaskweaveError(f"dtype is auto, float32, bfloat16 or float16, got {dtype!r}")
    place = choose_device(device)
    if (place, dtype) == ("cpu", "float16"):
        print("note: float16 is slow on a CPU; bfloat16 is as small and faster", file=sys.stderr)
    if place != "cpu":  # what auto takes is for CPUs alone
        backend = None if backend == "auto" else backend
        dtype = "float32" if dtype == "auto" else dtype
    precision = "auto" if dtype == "auto" else getattr(torch, dtype)
    loaded = InpaintPipeline.from_pretrained(model, torch_dtype=precision, backend=backend)
    return loaded if loaded.backend != "torch" and device == "auto" else loaded.to(place)


def load_pipeline(model: str, device: str, dtype: str, backend: str | None = None) -> "Pipeline":
    """Load a model as ``load_model`` does, or a classical method, which has no use for either.

    Raises
    ------
    MaskweaveError
        If such a method is told a device, a precision or a backend.
    """
    from maskweave.classical import METHODS, ClassicalPipeline

    if model not in METHODS:
        return load_model(model, device, dtype, backend)
    told = (device, dtype, backend or "torch")
    if told not in (("auto", "float32", "torch"), ("cpu", "float32", "torch")):
        raise MaskweaveError(
            f"{model} runs on the CPU: it takes no --device, no --dtype and no --backend"
        )
    return ClassicalPipeline(model)
