"""Augmentations that keep a photo a photo: mirror images, shifts of a few pixels and crops."""

import math

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from maskweave.data.folder import Photo, Square
from maskweave.errors import MaskweaveError

LEAST_CROP = 0.75
"""Side of a crop as a share of the size that it gets: it is enlarged 1.34 times at most."""

SOFT = (1 / 16, 1 / 4)
"""Least and largest blur of pictures that are out of focus."""

MOST_BLUR, MOST_COLOUR, MOST_NOISE = 1.5, 12.0, 12.0
"""Strongest faults of a coarse fill: the blur's deviation in coarse pixels, those of a patch's
colour and of the noise in levels of 255."""


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


def random_crop(image: Photo, size: int, least: float, rng: np.random.Generator) -> Square:
    """Cut a square out of a photo, mirror it half of the time and bring it to a size.

    Its side is drawn uniformly in pixels, its place uniformly among all that hold it. Shrinking
    averages areas, enlarging is cubic.

    Parameters
    ----------
    image : numpy.ndarray
        uint8, (3, height, width).
    size : int
        Side of the result in pixels.
    least : float
        Smallest side as a share of the photo's shorter one, in (0, 1]. The side is at least
        ``LEAST_CROP`` of ``size`` as well; from a photo too small for that it is the shorter one.
    rng : numpy.random.Generator
        Source of randomness: the same state gives the same crop.

    Raises
    ------
    MaskweaveError
        If ``least`` is out of its range.
    """
    if not 0 < least <= 1:
        raise MaskweaveError(f"the least side of a crop is a share in (0, 1], got {least}")
    height, width = image.shape[1:]
    shorter = min(height, width)
    smallest = min(shorter, math.ceil(max(least * shorter, LEAST_CROP * size)))
    side = int(rng.integers(smallest, shorter + 1))
    top, left = rng.integers((height - side + 1, width - side + 1)).tolist()
    crop = image[:, top : top + side, left : left + side]
    if rng.random() < 0.5:
        crop = crop[:, :, ::-1]
    pixels = cv2.merge(list(crop))
    if side != size:
        method = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
        pixels = cv2.resize(pixels, (size, size), interpolation=method)
    return np.stack(cv2.split(pixels))


def native_crop(image: Photo, size: int, rng: np.random.Generator) -> Square:
    """Cut a square of a size in pixels out of a photo as it is, and mirror it half of the time.

    Of a photo with a shorter side a larger one is made of its largest square.
    """
    height, width = image.shape[1:]
    if min(height, width) < size:
        return random_crop(image, size, 1.0, rng)
    top, left = rng.integers((height - size + 1, width - size + 1)).tolist()
    crop = image[:, top : top + size, left : left + size]
    return (crop[:, :, ::-1] if rng.random() < 0.5 else crop).copy()


def stream() -> str:
    """Name NumPy's generator and a few of its draws, on which every random view depends.

    Another version of NumPy may draw other numbers from the same seed (NEP 19).
    """
    rng = np.random.default_rng((0, 1))
    return f"{type(rng.bit_generator).__name__} {rng.integers(9, size=4).tolist()} {rng.random()}"


def out_of_focus(image: Square, rng: np.random.Generator) -> Square:
    """Blur an image until little but its shades is left, as skies, walls and backgrounds are.

    The blur's deviation is a share of the side, drawn from ``SOFT`` uniformly in its logarithm.
    """
    deviation = math.exp(rng.uniform(*np.log(SOFT))) * image.shape[1]
    pixels = cv2.GaussianBlur(cv2.merge(list(image)), (0, 0), deviation)
    return np.stack(cv2.split(pixels))


# Ho et al. 2022, "Cascaded diffusion models", section 4: conditioning augmentation
def coarse_fill(image: Square, rng: np.random.Generator) -> Square:
    """Return an image as the fill of a coarser level might be: half its resolution, and wrong.

    The image is shrunk by 2, blurred, given noise and patches of other colours, each as strong as
    drawn, and enlarged again: what learns from it learns to sharpen and to mend, not to copy.
    """
    coarse = cv2.resize(cv2.merge(list(image)), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    pixels = coarse.astype(np.float32)
    if (blur := rng.uniform(-0.5, MOST_BLUR)) > 0.2:
        pixels = cv2.GaussianBlur(pixels, (0, 0), blur)
    height, width = pixels.shape[:2]
    colours = rng.normal(0, rng.uniform(0, MOST_COLOUR), (5, 5, 3)).astype(np.float32)
    pixels += cv2.resize(colours, (width, height), interpolation=cv2.INTER_LINEAR)
    strength = MOST_NOISE * rng.random()
    noise = rng.standard_normal(pixels.shape, dtype=np.float32)
    pixels = np.clip(pixels + strength * noise, 0, 255)
    fine = cv2.resize(pixels, image.shape[:0:-1], interpolation=cv2.INTER_LINEAR)
    return np.stack(cv2.split(fine.round().astype(np.uint8)))
