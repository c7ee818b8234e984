"""The levels of a photo from native pixels to coarse ones, and which parts of a hole each fills.

Pure geometry, on holes and arrays alone. A photo is filled on a way down and up again: down, from
native pixels on, the ``thin`` part of the hole, then ``shrink_photo``; up, the ``thick`` part,
guided by the level below, enlarged by ``enlarge_guide``. So thin holes never take the detour, and
the level below always is a whole picture.
"""

import itertools
import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Shaped

STRIP = 128
"""Rows of a photo that are shrunk at once: floats of a whole photo take ten times its memory."""


class Level(NamedTuple):
    """A photo at one resolution, and what of it is filled there."""

    exponent: int
    """k: the photo is shrunk k times by 2."""
    thin: Bool[np.ndarray, "height width"]
    """Hole pixels that are filled from their surroundings alone, before the photo is shrunk."""
    thick: Bool[np.ndarray, "height width"]
    """Hole pixels that are filled at the next level first, which is then their guide."""


def plan_levels(
    hole: Bool[np.ndarray, "height width"], window: int, most: int | None = None
) -> list[Level]:
    """Say at which resolutions a photo is filled, from native pixels to the coarsest.

    A pixel is filled from its surroundings alone at the first level at which the hole around it is
    at most a window thick: twice the distance to the nearest known pixel. Nothing is known beyond
    the photo, so a hole along its border is twice as thick as it is wide. Thickness is local: of a
    blob with a long tail the tail stays at native pixels. A level that fits into a window is not
    shrunk further. The coarsest level is the one without ``thick``.

    Parameters
    ----------
    hole : numpy.ndarray
        True in the hole of the photo.
    window : int
        Side of a window in pixels.
    most : int, optional
        How many levels there are at most beside native pixels; the coarsest is then filled from its
        surroundings alone, however thick its hole.

    Returns
    -------
    list of Level
        With exponents 0, 1, 2, ...; ``thin`` and ``thick`` share no pixel, and both together are
        the hole at level 0 and ``thick``, shrunk, at the next.
    """
    levels: list[Level] = []
    while True:
        thick = np.zeros_like(hole) if len(levels) == most else _thick(hole, window)
        levels.append(Level(len(levels), hole & ~thick, thick))
        if not thick.any():
            return levels
        hole = _shrink_hole(thick)


def shrink_photo(
    pixels: Shaped[np.ndarray, "height width channels"], hole: Bool[np.ndarray, "height width"]
) -> tuple[
    Shaped[np.ndarray, "half_height half_width channels"],
    Bool[np.ndarray, "half_height half_width"],
]:
    """Shrink a photo by 2, each pixel the mean of what is known of its four finer ones.

    A coarse pixel is known if at least half of its finer ones are: so the hole keeps its place and
    area from level to level, where any stricter or laxer rule lets it grow or wither. Sides are
    rounded up.

    Returns
    -------
    pixels : numpy.ndarray
        The smaller photo, of the same kind of numbers, 0 in the hole. Of ``pixels`` nothing is read
        under the hole.
    hole : numpy.ndarray
        The smaller hole, as in ``plan_levels``.
    """
    small = _shrink_hole(hole)
    coarse = np.zeros((*small.shape, pixels.shape[2]), dtype=pixels.dtype)
    for top in range(0, len(small), STRIP):
        there, here = slice(2 * top, 2 * (top + STRIP)), slice(top, top + STRIP)
        mean = _mean(pixels[there], hole[there])
        if np.issubdtype(pixels.dtype, np.integer):
            mean = np.rint(mean)
        coarse[here] = np.where(small[here, :, None], 0, mean)
    return coarse, small


def enlarge_guide(
    coarse: Shaped[np.ndarray, "half_height half_width channels"], height: int, width: int
) -> Shaped[np.ndarray, "height width channels"]:
    """Enlarge a filled photo by 2, undoing ``shrink_photo``: bilinear, which keeps ramps.

    ``height`` and ``width`` are those of the finer level, twice the coarse ones or one less.
    """
    rows, columns = coarse.shape[:2]
    fine = cv2.resize(coarse, (2 * columns, 2 * rows), interpolation=cv2.INTER_LINEAR)
    return fine.reshape(2 * rows, 2 * columns, -1)[:height, :width]


def _thick(hole: Bool[np.ndarray, "height width"], window: int) -> Bool[np.ndarray, "height width"]:
    """Return the hole pixels near those that are more than half a window deep.

    Near is within a window: in a corner, a blob's pixels are sqrt(2) halves from the deep.
    """
    thick = np.zeros_like(hole)
    if max(hole.shape) <= window:
        return thick
    # A disc holds a square, and squares are quick to find: most photos are done with here, and of
    # others only the part that matters is measured.
    square = np.ones((2 * int(window / 2 / math.sqrt(2)) + 1,) * 2, dtype=np.uint8)
    candidates = cv2.erode(hole.astype(np.uint8), square)
    left, top, width, height = cv2.boundingRect(candidates)
    if not width:
        return thick
    rows = slice(max(top - window, 0), top + height + window)
    box = (rows, slice(max(left - window, 0), left + width + window))
    deep = (_distance(hole[box]) > window / 2) & (candidates[box] > 0)
    if deep.any():
        thick[box] = hole[box] & (_distance(~deep) <= window)
    return thick


def _distance(hole: Bool[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    """Return the distance of every hole pixel to the nearest that is none; huge without one."""
    return cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _shrink_hole(
    hole: Bool[np.ndarray, "height width"],
) -> Bool[np.ndarray, "half_height half_width"]:
    """Return which coarse pixels are hole: those of which less than half is known."""
    balance = np.where(hole, np.int8(1), np.int8(-1))
    for axis, side in enumerate(hole.shape):
        balance = np.add.reduceat(balance, np.arange(0, side, 2), axis=axis, dtype=np.int8)
    return balance > 0


def _mean(
    pixels: Shaped[np.ndarray, "height width channels"], hole: Bool[np.ndarray, "height width"]
) -> Float[np.ndarray, "half_height half_width channels"]:
    """Return for blocks of 2x2 pixels the mean of what is known, 0 if that is nothing."""
    height, width, channels = pixels.shape
    total = np.zeros(((height + 1) // 2, (width + 1) // 2, channels), dtype=np.float32)
    known = np.zeros_like(total[:, :, :1])
    for row, column in itertools.product((0, 1), repeat=2):
        keep = ~hole[row::2, column::2, None]
        here = tuple(slice(side) for side in keep.shape[:2])  # odd photos lack the last ones
        total[here] += np.where(keep, pixels[row::2, column::2], 0)
        known[here] += keep
    return total / np.maximum(known, 1)
