"""What is not imported by those who have no use for it, as each such package costs them time."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HEAVY = {
    *("accelerate", "fastapi", "gradio", "matplotlib", "onnxruntime", "openvino", "pandas", "ray"),
    *("scipy", "skimage", "tensorboard", "torch_fidelity", "torchmetrics", "torchvision"),
}
"""What only other commands need."""

COMPILER = {"sympy", "torch._dynamo", "torch._inductor"}
"""Parts of torch that are slower to import than all others together."""

LEAN = {"PIL", "cv2", "numpy", "rich.progress", "torch"}
"""What a fill needs, but no help."""


def imported(code: str, *arguments: str) -> set[str]:
    """Return the modules that a fresh interpreter has after some code."""
    told = (
        f"import sys; sys.argv[1:] = {list(arguments)!r}\n{code}\nprint(*sys.modules, sep=chr(10))"
    )
    run = subprocess.run(
        [sys.executable, "-c", told], capture_output=True, text=True, check=True, timeout=300
    )
    return set(run.stdout.split("\n"))


def command(*arguments: str) -> set[str]:
    return imported("from maskweave.cli.main import app\napp(standalone_mode=False)", *arguments)


@pytest.fixture
def cat(tmp_path: Path) -> list[str]:
    """Arguments that fill a hole in a picture."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "image.png")
    hole = np.zeros((64, 64), np.uint8)
    hole[20:40, 20:40] = 255
    Image.fromarray(hole).save(tmp_path / "mask.png")
    image, mask, output = (str(tmp_path / f"{name}.png") for name in ("image", "mask", "out"))
    return ["inpaint", image, "--mask", mask, "--output", output]


@pytest.mark.parametrize("code", ["import maskweave", "import maskweave.cli.main"])
def test_imports_alone_bring_nothing_heavy(code: str) -> None:
    assert imported(code) & (HEAVY | COMPILER | LEAN) == set()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["inpaint", "--help"], ["--version"], ["models"]]
)
def test_help_and_lists_import_nothing_heavy(arguments: list[str]) -> None:
    assert command(*arguments) & (HEAVY | COMPILER | LEAN) == set()


@pytest.mark.parametrize("model", ["photos", "cats64", "telea", "navier-stokes"])
def test_a_fill_imports_only_what_it_needs(cat: list[str], model: str) -> None:
    modules = command(*cat, "--model", model)
    assert Path(cat[-1]).exists()
    assert "torch" in modules
    assert modules & (HEAVY | COMPILER) == set()


def test_a_fill_from_python_imports_only_what_it_needs() -> None:
    code = (
        "import numpy as np; from maskweave import InpaintPipeline\n"
        "pipe = InpaintPipeline.from_pretrained('cats64')\n"
        "pipe(np.zeros((64, 64, 3), np.uint8), np.pad(np.ones((8, 8), bool), 28))"
    )
    assert imported(code) & (HEAVY | COMPILER) == set()
