"""Fills that fade into the photo around the hole, for those who prefer that to exact pixels."""

from dataclasses import replace

import cv2
import numpy as np

from maskweave.images import Hole, Picture


def softened(picture: Picture, filled: Picture, hole: Hole, pixels: int) -> Picture:
    """Let a fill of a wider hole fade into the photo around the hole.

    Parameters
    ----------
    picture : Picture
        The photo.
    filled : Picture
        The photo with ``masks.grown(hole, pixels)`` filled.
    hole : numpy.ndarray
        True in the hole, in which the fill is not changed.
    pixels : int
        Distance from the hole, at least 1, at which the fill is gone; it falls linearly.
    """
    distance = cv2.distanceTransform((~hole).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    around = (distance > 0) & (distance <= pixels)
    weight = 1 - distance[around] / (pixels + 1)

    def blended(photo: np.ndarray, fill: np.ndarray) -> np.ndarray:
        old, new = photo[around].astype(np.float64), fill[around].astype(np.float64)
        mixed = old + (weight if old.ndim == 1 else weight[:, None]) * (new - old)
        result = fill.copy()
        result[around] = mixed if fill.dtype.kind == "f" else np.rint(mixed)
        return result

    alpha = filled.alpha
    if picture.alpha is not None and alpha is not None:
        alpha = blended(picture.alpha, alpha)
    return replace(filled, values=blended(picture.values, filled.values), alpha=alpha)
