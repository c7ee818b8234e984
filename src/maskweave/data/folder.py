"""Images as training takes them: as squares, or whole."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from maskweave.errors import MaskweaveError
from maskweave.images import Pixels, read_image

Square = UInt8[np.ndarray, "3 size size"]
Photo = UInt8[np.ndarray, "3 height width"]

LARGEST_ASPECT = 4
"""Of a photo, whose longer side is cropped to so many times the shorter one."""


def read_square(file: Path, size: int) -> Square:
    """Read an image, cropped to its central square and resized.

    Raises
    ------
    MaskweaveError
        If the file cannot be read or a side is shorter than ``size`` pixels.
    """
    return _converted(file, partial(square, size=size))


def square(pixels: Pixels, size: int) -> Square:
    """Crop an image to its central square and resize that to ``size``, which never enlarges it."""
    height, width = pixels.shape[:2]
    if min(height, width) < size:
        raise MaskweaveError(f"{width}x{height} is smaller than {size}x{size}")
    image = Image.fromarray(pixels)
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return np.array(image).transpose(2, 0, 1).copy()


def read_photo(file: Path, shorter_side: int, smallest: int) -> Photo:
    """Read an image of any shape, shrunk where its shorter side is longer than asked for.

    Of an image longer than ``LARGEST_ASPECT`` times its shorter side the middle is kept.

    Raises
    ------
    MaskweaveError
        If the file cannot be read or a side is shorter than ``smallest`` pixels.
    """
    return _converted(file, partial(photo, shorter_side=shorter_side, smallest=smallest))


def photo(pixels: Pixels, shorter_side: int, smallest: int) -> Photo:
    """Shrink an image of any shape, as ``read_photo`` does a file's."""
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    if shorter < smallest:
        raise MaskweaveError(f"{width}x{height} has a side below {smallest}")
    longest = LARGEST_ASPECT * shorter
    top, left = (max(0, side - longest) // 2 for side in (height, width))
    image = Image.fromarray(pixels[top : top + longest, left : left + longest])
    if shorter > shorter_side:
        size = [round(side * shorter_side / shorter) for side in image.size]
        image = image.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    return np.array(image).transpose(2, 0, 1).copy()


def _converted(file: Path, convert: Callable[[Pixels], Photo]) -> Photo:
    picture = read_image(file)
    try:
        return convert(picture.pixels)
    except MaskweaveError as error:
        raise MaskweaveError(f"{file}: {error}") from error
