"""What computes networks, and in which precision."""

from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import torch

from maskweave.errors import MaskweaveError

Runtime = Literal["openvino", "onnx"]
"""What runs graphs, on the CPU."""


def choose_backend(asked: str | None, written: object, directory: Path) -> str:
    """Return what computes a model.

    Parameters
    ----------
    asked : str, optional
        torch, openvino or onnx; ``auto`` takes OpenVINO where it is installed; None what the
        model's files are for.
    written : object
        What the model was exported for, as its config says; None if it was not.
    directory : Path
        The model's folder, for errors.

    Raises
    ------
    MaskweaveError
        If there is no such backend, or the model was exported for another.
    """
    if asked not in (None, "auto", "torch", *get_args(Runtime)):
        raise MaskweaveError(f"backend is auto, torch, openvino or onnx, got {asked!r}")
    if written is None and asked == "auto":
        return "openvino" if find_spec("openvino") else "torch"
    if written is None:
        return asked or "torch"
    if written not in get_args(Runtime):
        raise MaskweaveError(f"{directory} was exported for {written!r:.40}, which is not known")
    if asked not in (None, "auto", written):
        raise MaskweaveError(f"{directory} was exported for {written}: it does not run by {asked}")
    return str(written)


def fast_dtype(backend: str) -> torch.dtype:
    """Return the precision in which a backend is fastest on this CPU.

    That is bfloat16 where the CPU has instructions for it and the backend uses them.
    """
    able = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of PyTorch do not tell
    has = able.get("avx512_bf16") or able.get("amx_bf16")
    return torch.bfloat16 if has and backend != "onnx" else torch.float32


@contextmanager
def needing(runtime: str) -> Generator[None]:
    """Turn a missing package of a runtime's extra into one line.

    Raises
    ------
    MaskweaveError
        It says what to install.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MaskweaveError(
            f"no module {error.name}: pip install 'maskweave[{runtime}]' installs what this needs"
        ) from error
