"""Smooth photos by number, and what is reported of a folder of them."""

from pathlib import Path

import numpy as np
from PIL import Image

from maskweave.data import check
from maskweave.data.check import find_splits, read_entries, summarise


def still(count: int = 1, text: str = "") -> None:
    """Move no progress bar."""


def photo(seed: int, width: int = 48, height: int = 48) -> Image.Image:
    """Draw what is smooth, as photos are, and like no other seed's."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def save(image: Image.Image, file: Path, **options: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, **options)
    return file


def report(directory: Path, size: int = 0, share: float = 0.05) -> check.Report:
    return summarise(*read_entries(find_splits(directory), share, still), size, still)
