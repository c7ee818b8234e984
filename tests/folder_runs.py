"""Eight photos with a mask for all, and the command that fills their folder."""

from pathlib import Path

import numpy as np
from PIL import Image


def eight_photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Write eight photos with a mask for all."""
    (tmp_path / "images").mkdir()
    for name in "abcdefgh":
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
    hole = np.zeros((40, 40), dtype=np.uint8)
    hole[4:12, 3:9] = 255
    Image.fromarray(hole).save(tmp_path / "mask.png")
    return tmp_path


def arguments(photos: Path, model: Path, output: object = None, *more: object) -> list[str]:
    command = (
        "inpaint", photos / "images", "--mask", photos / "mask.png", "--model", model,
        "--output", output or photos / "out", "--batch-size", 1, *more,
    )  # fmt: skip
    return [str(argument) for argument in command]


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())
