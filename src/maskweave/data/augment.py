"""Augmentations that keep a photo a photo: mirror images and shifts of a few pixels."""

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from maskweave.data.folder import Square
from maskweave.errors import MaskweaveError


def to_unit_range(
    images: UInt8[Tensor, "batch 3 height width"],
) -> Float[Tensor, "batch 3 height width"]:
    """Scale bytes to [-1, 1]."""
    return images.float() / 127.5 - 1


def check_shift(largest: int, size: int) -> None:
    """Raise MaskweaveError if ``flip_and_shift`` cannot shift images of this size that far."""
    if not 0 <= largest < size:
        raise MaskweaveError(f"shift {largest} must be at least 0 and less than the size {size}")


def flip_and_shift(image: Square, largest: int, rng: np.random.Generator) -> Square:
    """Mirror an image or not and shift it by up to ``largest`` pixels, reflecting the border."""
    size = image.shape[1]
    y, x = rng.integers(2 * largest + 1, size=2)
    if rng.random() < 0.5:
        image = image[:, :, ::-1]
    padded = np.pad(image, ((0, 0), (largest, largest), (largest, largest)), mode="reflect")
    return padded[:, y : y + size, x : x + size].copy()


def view(image: Square, index: int, number: int, largest: int) -> Square:
    """Return one of several fixed versions of an image, whose tokens can therefore be cached.

    Version 0 is the image itself; each other one is mirrored and shifted as its ``number`` and the
    image's ``index`` in the set decide.
    """
    if number == 0:
        return image
    return flip_and_shift(image, largest, np.random.default_rng((index, number)))
