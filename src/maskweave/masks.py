"""What in a mask is the hole: one rule for files, arrays and transparency.

White is the hole: what rounds to ``threshold`` or more of 255 levels, whatever depth the mask has.
White is 255 in 8 bits, 65535 in 16 bits and 1 in floating-point numbers, which go from 0 to 1.
Colours count by their luminance. Where the alpha of a mask varies, as in a layer that was painted
on, the alpha is the mask if what is painted has one colour. A mask that nobody can have meant is
refused with the reason: colour and alpha that both vary; marks that are too dark to be white; a
mask of several levels of which everything counts as white.
"""

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image
from torch import Tensor

from maskweave.depth import opaque
from maskweave.errors import MaskweaveError
from maskweave.images import Hole, Picture, as_picture, read_image
from maskweave.metadata import SIDEWAYS

SUSPICIOUS_SHARE = 0.6
"""Above this share of hole a mask is likely to be meant the other way round."""

ONE_COLOUR = 8
"""Levels by which a colour may differ from another and still be the same, as far as it is seen:
layers that were once premultiplied or compressed are no more exact."""

SOFT = (32, 223)
"""Levels of 255 between which a mask is neither near black nor near white."""


class Mask(NamedTuple):
    """The hole in an image and what there is to say about it."""

    hole: Hole
    """True in the hole, as the mask is to be seen."""
    notes: tuple[str, ...]
    """What a user should be told."""
    orientation: int = 1
    """EXIF orientation that was applied to the mask."""


def read_mask(file: Path, *, invert: bool = False, threshold: int = 128, grow: int = 0) -> Mask:
    """Read a mask image.

    Parameters
    ----------
    file : Path
        An image of 8 or 16 bits or of floating-point numbers from 0 to 1. It is turned by its own
        EXIF orientation.
    invert : bool
        Whether black is the hole.
    threshold : int
        What counts as white, from 1 to 255: what rounds to so many of 255 levels or more.
    grow : int
        Pixels by which the hole is widened to all sides, at least 0.

    Raises
    ------
    MaskweaveError
        If the file cannot be read, an option is out of range or the mask cannot be meant so.
    """
    check_options(threshold, grow)
    return _from_picture(read_image(file), str(file), invert, threshold, grow)


def as_mask(
    mask: Any, picture: Picture, *, invert: bool = False, threshold: int = 128, grow: int = 0
) -> Mask:
    """Return the hole of a picture as a mask in memory, or else its own transparency, says.

    Parameters
    ----------
    mask : Picture, PIL.Image.Image, numpy.ndarray, torch.Tensor or None
        An image, which is taken as a file is, or an array (height, width), (1, height, width) or
        (height, width, 1): bool, uint8, uint16, or float from 0 to 1. None takes the transparent
        pixels of the picture.
    picture : Picture
        What the mask belongs to, of the same size.
    invert, threshold, grow
        As in ``read_mask``. Only ``grow`` concerns transparent pixels.

    Raises
    ------
    MaskweaveError
        If the mask is of another kind or size, missing, or cannot be meant so.
    """
    check_options(threshold, grow)
    if mask is None:
        if picture.transparent is None:
            raise MaskweaveError("an image without transparency needs a mask_image")
        hole = grown(picture.transparent, grow)
        return Mask(hole, remarks(hole))
    if isinstance(mask, Image.Image | Picture):
        read = _from_picture(as_picture(mask, "the mask"), "the mask", invert, threshold, grow)
    else:
        read = _judged(_levels_of_array(mask), "the mask", invert, threshold, grow)
    return read._replace(notes=read.notes + check_fit(read, picture))


def as_masks(masks: Any, images: int) -> list[Any]:
    """Return the masks of so many images, given as one, as a list or as a batch, as a list.

    Arrays of three axes or more are a batch if their first axis has one entry for each image.
    """
    if masks is None:
        return [None] * images
    if isinstance(masks, list | tuple):
        return list(masks)
    batch = isinstance(masks, np.ndarray | Tensor) and masks.ndim > 2 and len(masks) == images
    return list(masks) if batch else [masks]


def check_options(threshold: int, grow: int) -> None:
    """Raise MaskweaveError if a threshold is not from 1 to 255 or a growth is negative."""
    if type(threshold) is not int or not 1 <= threshold <= 255:
        raise MaskweaveError(f"threshold is an int from 1 to 255, got {threshold!r}")
    if type(grow) is not int or grow < 0:
        raise MaskweaveError(f"grow is an int of at least 0, got {grow!r}")


def check_fit(mask: Mask, picture: Picture) -> tuple[str, ...]:
    """Return what to tell of how a mask lies on its picture.

    Raises
    ------
    MaskweaveError
        If they differ in size.
    """
    (rows, columns), (height, width) = mask.hole.shape, picture.shape
    turned, orientation = picture.about.orientation, mask.orientation
    if (rows, columns) != (height, width):
        sizes = f"the mask is {columns}x{rows} pixels, the image {width}x{height}"
        if (rows, columns) == (width, height) and turned in SIDEWAYS and orientation == 1:
            raise MaskweaveError(
                f"{sizes}: its EXIF orientation ({turned}) turns the image, and the mask has none; "
                "draw the mask on the photo as it is shown"
            )
        if (rows, columns) == (width, height) and orientation in SIDEWAYS:
            sizes += f": its EXIF orientation ({orientation}) turns the mask"
        raise MaskweaveError(sizes)
    # Where turning changes the size, equal sizes say that the mask is upright.
    if turned == 1 or orientation != 1 or (turned in SIDEWAYS and height != width):
        return ()
    return (
        f"the image is turned by its EXIF orientation ({turned}), and the mask has none: it is "
        "taken to lie on the photo as it is shown",
    )


def remarks(hole: Hole) -> tuple[str, ...]:
    """Return what a user should be told of a hole: that it is empty or suspiciously large."""
    if not hole.any():
        return ("the mask is empty: nothing to fill",)
    if hole.mean() > SUSPICIOUS_SHARE:
        return (f"{hole.mean():.0%} of the image is hole: is the mask inverted?",)
    return ()


def grown(hole: Hole, pixels: int) -> Hole:
    """Return a hole with all that is at most so many pixels away from it."""
    if not pixels or not hole.any():
        return hole
    pixels = min(pixels, sum(hole.shape))  # all there is; OpenCV and NumPy count no further
    rows, columns = (np.flatnonzero(np.any(hole, axis=axis)) for axis in (1, 0))
    around = (
        slice(max(rows[0] - pixels, 0), rows[-1] + 1 + pixels),
        slice(max(columns[0] - pixels, 0), columns[-1] + 1 + pixels),
    )
    known = (~hole[around]).astype(np.uint8)
    larger = hole.copy()
    larger[around] = cv2.distanceTransform(known, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= pixels
    return larger


def _from_picture(picture: Picture, name: str, invert: bool, threshold: int, grow: int) -> Mask:
    mask = _judged(_levels_of_picture(picture, name), name, invert, threshold, grow)
    return mask._replace(orientation=picture.about.orientation)


def _levels_of_picture(picture: Picture, name: str) -> np.ndarray:
    """Return what of a picture is the mask: its luminance or its alpha."""
    values, alpha, white = picture.values, picture.alpha, opaque(picture.values.dtype)
    if not values.size:
        raise MaskweaveError(f"{name} has no pixels")
    if alpha is None or alpha.min() == alpha.max() > 0:
        return values if values.ndim == 2 else cv2.cvtColor(values, cv2.COLOR_RGB2GRAY)
    # Of the colour of a pixel so much counts as is seen of it; in an empty layer, all.
    seen = alpha if alpha.any() else np.full_like(alpha, white)
    colours = np.atleast_3d(values)
    brush = colours.reshape(alpha.size, -1)[seen.argmax()]
    differs = np.zeros_like(alpha)
    for levels, level in zip(colours.transpose(2, 0, 1), brush, strict=True):
        differs = np.maximum(differs, np.maximum(levels, level) - np.minimum(levels, level))
    if cv2.multiply(differs, seen, scale=1 / white).max() > ONE_COLOUR / 255 * white:
        raise MaskweaveError(
            f"{name}: its colour and its alpha both vary, so that nobody can say which of them is "
            "the mask; save it in black and white without alpha"
        )
    return alpha


def _levels_of_array(mask: Any) -> np.ndarray:
    """Return an array or tensor as an array (height, width) of a type whose white is known."""
    if isinstance(mask, Tensor):
        mask = mask.detach().cpu()
        mask = (mask.float() if mask.is_floating_point() else mask).numpy()
    array = isinstance(mask, np.ndarray)
    levels = mask
    if array and mask.ndim == 3 and 1 in (mask.shape[0], mask.shape[2]):
        levels = mask[0] if mask.shape[0] == 1 else mask[:, :, 0]
    if not (array and levels.ndim == 2 and levels.size):
        got = f"the shape {mask.shape}" if array else type(mask).__name__
        raise MaskweaveError(
            "a mask is a PIL image or an array or tensor (height, width): bool, uint8, uint16, or "
            f"float from 0 to 1; got {got}"
        )
    return levels


def _judged(levels: np.ndarray, name: str, invert: bool, threshold: int, grow: int) -> Mask:
    """Return the hole of a mask whose white is the largest number of its type, or 1.

    Raises
    ------
    MaskweaveError
        If it has other numbers, marks but no hole, or a hole everywhere but not by one level.
    """
    if levels.dtype == np.bool_:
        levels = levels.astype(np.uint8) * np.uint8(255)
    white = _white(levels, name)
    hole = levels >= (threshold - 0.5) / 255 * white
    hole = ~hole if invert else hole
    darkest, brightest = levels.min(), levels.max()
    if not hole.any() and (darkest < white if invert else brightest > 0):
        raise MaskweaveError(f"{name}: {_unreached(darkest, brightest, white, invert, threshold)}")
    hole = grown(hole, grow)
    if hole.all() and (brightest > 0 if invert else darkest < white):
        raise MaskweaveError(
            f"{name}: all of it is hole, though it is not all {'black' if invert else 'white'}: "
            f"its levels go from {darkest:g} to {brightest:g} of {white:g}; is it a mask, and do "
            "threshold, inversion and growth fit it?"
        )
    return Mask(hole, remarks(hole) + _softness(levels, white, threshold))


def _white(levels: np.ndarray, name: str) -> float:
    """Return the number that is white in a mask."""
    floats = levels.dtype.kind == "f" and ((levels >= 0) & (levels <= 1)).all()
    if floats or levels.dtype.name in ("uint8", "uint16"):
        return float(opaque(levels.dtype))
    raise MaskweaveError(
        f"{name} holds {levels.dtype} from {levels.min():g} to {levels.max():g}: a mask is bool, "
        "uint8, uint16, or float from 0 to 1"
    )


def _unreached(darkest: float, brightest: float, white: float, invert: bool, threshold: int) -> str:
    """Return why a mask with marks has no hole, and what helps."""
    if invert:
        found, limit = f"its darkest pixel is {darkest:g} of {white:g}", f"below {threshold}"
        helps = "--threshold 255 takes whatever is not white"
    else:
        found, limit = f"its brightest pixel is {brightest:g} of {white:g}", f"{threshold} or more"
        helps = "--threshold 1 takes whatever is not black"
    return (
        f"it has marks but no hole, which is what has {limit} of 255 levels: {found}; {helps} "
        "(threshold= in Python)"
    )


def _softness(levels: np.ndarray, white: float, threshold: int) -> tuple[str, ...]:
    """Return a note if much of a mask is grey beyond the smooth edge of what is white."""
    low, high = (level / 255 * white for level in SOFT)
    grey = (levels > low) & (levels < high)
    reached = (levels >= (threshold - 0.5) / 255 * white).astype(np.uint8)
    square = np.ones((3, 3), dtype=np.uint8)
    edge = cv2.morphologyEx(reached, cv2.MORPH_GRADIENT, square).astype(np.bool_)
    if np.count_nonzero(grey & ~edge) <= np.count_nonzero(edge) / 2:
        return ()
    return (
        f"{grey.mean():.1%} of the mask is neither near black nor near white, and white begins at "
        f"{threshold} of 255: --threshold sets another level, --grow widens the hole",
    )
