"""Pictures in another size, for clients that ask for one."""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from maskweave.images import Picture

CROP, PAD = 1, 2


def resized(picture: Picture, height: int, width: int, mode: int = 0) -> Picture:
    """Return a picture in another size.

    Parameters
    ----------
    picture : Picture
        Of any size and depth.
    height, width : int
        The size, in pixels.
    mode : int
        0 stretches the picture, 1 cuts off what is too long, 2 adds what its border shows.
    """
    if picture.shape == (height, width):
        return picture
    rows, columns = picture.shape
    inner = height, width
    if mode in (CROP, PAD):
        choose = max if mode == CROP else min
        scale = choose(height / rows, width / columns)
        inner = max(round(rows * scale), 1), max(round(columns * scale), 1)
    smaller = inner[0] * inner[1] < rows * columns
    kind = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    change: Callable[[np.ndarray], np.ndarray] = lambda values: _centred(  # noqa: E731
        cv2.resize(values, inner[::-1], interpolation=kind), height, width
    )
    alpha = None if picture.alpha is None else change(picture.alpha)
    return replace(picture, values=change(picture.values), alpha=alpha)


def _centred(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut off or add as much on both sides as leads to a size."""
    for axis, side in enumerate((height, width)):
        beyond = side - values.shape[axis]
        if beyond < 0:
            start = -beyond // 2
            values = values.take(range(start, start + side), axis=axis)
        elif beyond > 0:
            margins = [(0, 0)] * values.ndim
            margins[axis] = beyond // 2, beyond - beyond // 2
            values = np.pad(values, margins, mode="edge")
    return values
