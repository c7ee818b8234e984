"""Values of any depth as the 8 bits that a model sees, and back; no values but known ones count."""

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Shaped, UInt8

from maskweave.guide import push_pull

NEAR = 64
"""Pixels around a hole whose range of values a model sees, and its fill gets."""

LARGEST = 1 << 22
"""Pixels beyond which hidden colours are continued at a lower resolution."""

ROWS = 16
"""Rows that are converted at once, as floating-point numbers of a whole photo would be many."""

Hole = Bool[np.ndarray, "height width"]
Values = Shaped[np.ndarray, "height width *channels"]


def known_range(values: Values, known: Hole, hole: Hole) -> tuple[float, float] | None:
    """Return the least and the largest known value near a hole, or else anywhere.

    Numbers that are infinite or none do not count; None is returned where there is no other.
    """
    around = _box(hole)
    # OpenCV measures the distance to the nearest zero, which is the hole.
    away = cv2.distanceTransform((~hole[around]).astype(np.uint8), cv2.DIST_C, 3)
    near = values[around][known[around] & (away <= NEAR)]
    for chosen in (near, values[known]):
        finite = chosen[np.isfinite(chosen)]
        if finite.size:
            return float(finite.min()), float(finite.max())
    return None


def _box(hole: Hole) -> tuple[slice, slice]:
    """Return the part of a picture that lies near a hole, or all if there is none."""
    if not hole.any():
        return slice(None), slice(None)
    ends = [np.flatnonzero(hole.any(axis=axis))[[0, -1]].tolist() for axis in (1, 0)]
    rows, columns = (slice(max(first - NEAR, 0), last + NEAR + 1) for first, last in ends)
    return rows, columns


def as_bytes(values: Values, low: float, high: float) -> Values:
    """Return values as uint8, from ``low`` as 0 to ``high`` as 255; what is no number is 0."""
    if high <= low:
        return np.zeros(values.shape, dtype=np.uint8)
    if values.dtype == np.uint16:
        return _levels(np.arange(1 << 16), low, high)[values]
    found = np.empty(values.shape, dtype=np.uint8)
    for top in range(0, len(values), ROWS):
        found[top : top + ROWS] = _levels(values[top : top + ROWS], low, high)
    return found


def _levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    levels = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.nan_to_num(levels, posinf=255.0, neginf=0.0).round().clip(0, 255).astype(np.uint8)


def from_bytes(levels: np.ndarray, low: float, high: float, dtype: np.dtype) -> np.ndarray:
    """Return uint8 as values of a type, 0 as ``low`` and 255 as ``high``."""
    if dtype == np.uint8:
        return levels
    values = low + np.arange(256) * ((high - low) / 255)
    return (values if dtype.kind == "f" else values.round()).astype(dtype)[levels]


def luminance(pixels: UInt8[np.ndarray, "*places 3"]) -> UInt8[np.ndarray, "*places"]:
    """Return the luminance of colours, with Pillow's weights of ITU-R 601: grey stays itself."""
    weights = np.array((19595, 38470, 7471), dtype=np.uint32)
    return ((pixels @ weights + 0x8000) >> 16).astype(np.uint8)


def continued(
    pixels: UInt8[np.ndarray, "height width 3"], hidden: Hole, unknown: Hole
) -> UInt8[np.ndarray, "height width 3"]:
    """Return a picture whose hidden pixels continue the visible ones; ``unknown`` are neither."""
    visible = (~(hidden | unknown)).astype(np.float32)
    height, width = visible.shape
    step = 1
    while height * width > LARGEST * step**2:
        step *= 2
    size = (-(-width // step), -(-height // step))
    share = cv2.resize(visible, size, interpolation=cv2.INTER_AREA)
    channels = []
    for channel in np.moveaxis(pixels, 2, 0):
        total = cv2.resize(channel * visible, size, interpolation=cv2.INTER_AREA)
        mean = torch.from_numpy(total / np.maximum(share, 1e-6))
        channels.append(mean)
    known, empty = torch.stack(channels)[None], torch.from_numpy(share == 0)[None]
    [around] = push_pull(known, empty).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    smooth = cv2.resize(around, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.where(hidden[:, :, None], smooth, pixels)
