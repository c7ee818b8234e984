"""What computes networks, and in which precision."""

import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import torch
from torch import Tensor

from maskweave.errors import MaskweaveError

if TYPE_CHECKING:
    import openvino

Runtime = Literal["openvino", "onnx"]
"""What runs graphs, on the CPU."""

SUFFIX = {"openvino": ".xml", "onnx": ".onnx"}
"""Suffix of a graph's file; OpenVINO keeps the weights beside it in a ``.bin`` file."""


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


def check_dtype(backend: str, dtype: torch.dtype) -> None:
    """Raise MaskweaveError if graphs are not computed in this precision."""
    knows = {"openvino": (torch.float32, torch.bfloat16), "onnx": (torch.float32,)}[backend]
    if dtype not in knows:
        names = " and ".join(map(str, knows))
        raise MaskweaveError(f"{backend} computes in {names}, not in {dtype}".replace("torch.", ""))


class Graph(Protocol):
    """A network that is ready to run on the CPU."""

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """The shape of each input by its name, but for the first axis, which is free."""
        ...

    def run(self, **inputs: Tensor) -> Sequence[Tensor]:
        """Return what it computes of its inputs, given by name."""
        ...


@cache
def openvino_core() -> "openvino.Core":
    """Return the one core of OpenVINO that this process has, to its end.

    A core gives its thread a stack for handlers of signals, and takes it away as it ends. Of
    several that do not end in the reverse order, it leaves the thread one that is gone: the next
    signal that Python handles, as Ctrl-C, ends the process with a segmentation fault.
    """
    import openvino

    return openvino.Core()


class OpenVINOGraph:
    """A graph that OpenVINO runs, with as many threads as torch has."""

    def __init__(self, file: Path, dtype: torch.dtype = torch.float32) -> None:
        self.compiled = openvino_core().compile_model(
            file,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "PERFORMANCE_HINT": "LATENCY",
                "ENABLE_CPU_PINNING": False,
            },
        )

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """The shape of each input by its name, but for the first axis, which is free."""
        return {
            name: tuple(axis.get_length() for axis in list(port.partial_shape)[1:])
            for port in self.compiled.inputs
            for name in port.names
        }

    def run(self, **inputs: Tensor) -> Sequence[Tensor]:
        """Return what it computes of its inputs, given by name, in any thread."""
        arrays = {name: value.numpy() for name, value in inputs.items()}
        outputs = self.compiled.infer_new_request(arrays)
        return [torch.from_numpy(array) for array in outputs.to_tuple()]


class ONNXGraph:
    """A graph that ONNX Runtime runs, with as many threads as torch has."""

    def __init__(self, file: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"]
        )

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """The shape of each input by its name, but for the first axis, which is free."""
        return {each.name: tuple(each.shape[1:]) for each in self.session.get_inputs()}

    def run(self, **inputs: Tensor) -> Sequence[Tensor]:
        """Return what it computes of its inputs, given by name, in any thread."""
        arrays = {name: value.numpy() for name, value in inputs.items()}
        return [torch.from_numpy(array) for array in self.session.run(None, arrays)]


def reason_of(error: Exception) -> str:
    """Return what a runtime says of an error, without where in its code it was found."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("Exception from ", "Check ", "While "))]
    return next(iter(kept or lines), type(error).__name__)


@contextmanager
def needing(runtime: str) -> Generator[None]:
    """Turn a missing package of a runtime's extra into one line; see that none reports its use.

    Raises
    ------
    MaskweaveError
        It says what to install.
    """
    # Both tell their makers who runs what as they are imported, unless they are told before.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        yield
    except ModuleNotFoundError as error:
        raise MaskweaveError(
            f"no module {error.name}: pip install 'maskweave[{runtime}]' installs what this needs"
        ) from error
