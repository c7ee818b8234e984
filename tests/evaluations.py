"""Six images to evaluate, the command that does so, and what it answers."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from maskweave.cli.main import app

SHAPE = (32, 40)


@pytest.fixture
def folders(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Six true images, their masks in another format, and results that differ in the hole."""
    hole = np.zeros(SHAPE, np.uint8)
    hole[8:20, 6:26] = 255
    for name in ("truth", "masks", "results"):
        (tmp_path / name).mkdir()
    for index, stem in enumerate("abcdef"):
        low = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        image = np.array(Image.fromarray(low).resize(SHAPE[::-1], Image.Resampling.BICUBIC))
        Image.fromarray(image).save(tmp_path / "truth" / f"{stem}.png")
        image[hole > 0] = 30 * index
        Image.fromarray(image).save(tmp_path / "results" / f"{stem}.png")
        Image.fromarray(hole).save(tmp_path / "masks" / f"{stem}.bmp")
    return tmp_path


def evaluate(folder: Path, *more: object) -> Result:
    paths = ("--truth", folder / "truth", "--masks", folder / "masks")
    arguments = ("evaluate", folder / "results", *paths, "--features", 64, "--device", "cpu", *more)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def figures(result: Result) -> dict[str, float | None]:
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["figures"]
    return {name: figure["value"] for name, figure in found.items()}


def refuses(result: Result, message: str) -> None:
    """Expect an error in one line and nothing else."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ") and message in line
