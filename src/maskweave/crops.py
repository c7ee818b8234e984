"""Images of any size: square crops around the holes, down to the model's size and back.

Pixels under a hole are blanked before anything else looks at them.
"""

from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

LEAST_CONTEXT = 1.5
"""A crop is square unless the image is too small to give a square this much context."""

LARGEST_ASPECT = 2
"""The longer side of a crop, as a multiple of the shorter one, beyond which the model would see
squashed shapes: a hole that is longer is filled piece by piece."""


class Crop(NamedTuple):
    """A window of an image and the hole pixels that are to be filled from it."""

    rows: slice
    """Vertical extent, in pixels."""
    columns: slice
    """Horizontal extent, in pixels."""
    part: Bool[np.ndarray, "height width"]
    """Of the window: the hole pixels that this crop fills; each belongs to one crop only."""

    def window(self, array: np.ndarray) -> np.ndarray:
        """Return a view of what lies in the window."""
        return array[self.rows, self.columns]


def plan_crops(
    hole: Bool[np.ndarray, "height width"], size: int, *, context: float = 0.25
) -> list[Crop]:
    """Cover every connected part of a hole by a crop with context around it.

    The largest parts come first, and a crop takes along all smaller parts that lie wholly in it.
    An image of the model's size is one crop.

    Parameters
    ----------
    hole : numpy.ndarray
        True where pixels are to be filled.
    size : int
        Longer side of the model's images in pixels, and the least side of a crop.
    context : float
        From 0 to below 0.5: share of a crop that lies on each side of the longer side of its
        largest part, wherever the image has it.
    """
    height, width = hole.shape
    if not hole.any():
        return []
    if (height, width) == (size, size):
        return [Crop(slice(0, size), slice(0, size), hole)]
    _, labels, stats, _ = cv2.connectedComponentsWithStats(hole.astype(np.uint8), connectivity=8)
    left, top, box_width, box_height, area = stats.T
    waiting = np.ones(len(stats), dtype=bool)
    waiting[0] = False  # the background
    crops: list[Crop] = []
    for label in np.argsort(-area, kind="stable"):
        if not waiting[label]:
            continue
        longer = max(box_height[label], box_width[label])
        shorter_side = min(height, width)
        side = max(size, round(longer / (1 - 2 * context)))
        if shorter_side >= LEAST_CONTEXT * longer:
            side = min(side, shorter_side)
        rows = _window(top[label], box_height[label], side, height)
        columns = _window(left[label], box_width[label], side, width)
        inside = (
            waiting
            & (top >= rows.start)
            & (top + box_height <= rows.stop)
            & (left >= columns.start)
            & (left + box_width <= columns.stop)
        )
        waiting &= ~inside
        crops += _pieces(Crop(rows, columns, inside[labels[rows, columns]]), context)
    return crops


def _pieces(crop: Crop, context: float) -> list[Crop]:
    """Split a crop of an extreme aspect along its longer side into such that overlap."""
    height, width = crop.part.shape
    long, short = max(height, width), min(height, width)
    if long <= LARGEST_ASPECT * short:
        return [crop]
    reach = LARGEST_ASPECT * short
    own_length = max(round(reach * (1 - 2 * context)), 1)
    pieces: list[Crop] = []
    for start in range(0, long, own_length):  # each fills the stretch in its middle
        stretch = slice(start, min(start + own_length, long))
        own = np.zeros_like(crop.part)
        if width > height:
            own[:, stretch] = crop.part[:, stretch]
        else:
            own[stretch] = crop.part[stretch]
        if not own.any():
            continue
        side = _window(start, own_length, reach, long)
        across = width > height
        rows = crop.rows if across else _shifted(side, crop.rows.start)
        columns = _shifted(side, crop.columns.start) if across else crop.columns
        pieces.append(Crop(rows, columns, own[:, side] if across else own[side]))
    return pieces


def _shifted(extent: slice, by: int) -> slice:
    return slice(extent.start + by, extent.stop + by)


def as_floats(
    pixels: UInt8[np.ndarray, "height width 3"],
) -> Float[Tensor, "3 height width"]:
    """Return pixels as models take them, in [-1, 1]."""
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1


def as_bytes(image: Float[Tensor, "3 height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Return what a model painted, in [-1, 1], as pixels."""
    return _levels(image.float().cpu()).round().astype(np.uint8)


def luminance(image: Float[Tensor, "3 height width"]) -> Float[Tensor, "3 height width"]:
    """Return an image in grey, its three channels alike (ITU-R BT.601, as Pillow converts)."""
    weights = torch.tensor([0.299, 0.587, 0.114])
    return torch.einsum("c, c h w -> h w", weights, image.float().cpu()).expand(3, -1, -1)


def shrink(
    pixels: UInt8[np.ndarray, "height width 3"],
    hole: Bool[np.ndarray, "height width"],
    size: tuple[int, int],
) -> tuple[Float[Tensor, "3 rows columns"], Bool[Tensor, "rows columns"]]:
    """Resize a crop to the model's size: known pixels in [-1, 1], zero in the hole, and the hole.

    A small pixel is hole as soon as hole pixels contribute a thousandth to it, and known colours
    are averaged over known pixels alone.
    """
    known = as_floats(pixels)
    keep = torch.from_numpy(~hole)[None].float()
    if hole.shape != size:
        both = torch.cat([known * keep, keep])[None]
        both = F.interpolate(both, size, mode="bilinear", antialias=True)[0]
        keep = both[3:]
        known = (both[:3] / keep.clamp(min=1e-3)).clamp(-1, 1)
    small_hole = keep[0] < 1 - 1e-3
    return known.masked_fill(small_hole, 0.0), small_hole


def enlarge(
    painted: Float[Tensor, "3 rows columns"],
    pixels: UInt8[np.ndarray, "height width 3"],
    hole: Bool[np.ndarray, "height width"],
) -> UInt8[np.ndarray, "height width 3"]:
    """Resize what the model painted to the crop, matched to the known pixels beside the hole."""
    height, width = hole.shape
    image = painted.float().cpu()
    if image.shape[1:] != hole.shape:
        image = F.interpolate(image[None], (height, width), mode="bicubic", antialias=True)[0]
    array = _levels(image)
    scale = max(height, width) / painted.shape[-1]
    if scale > 1:
        array = _feather(array, pixels, hole, radius=round(4 * scale))
    return array.round().clip(0, 255).astype(np.uint8)


def _levels(image: Float[Tensor, "3 height width"]) -> Float[np.ndarray, "height width 3"]:
    return ((image.clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0).numpy()


def enlarge_mask(
    masked: Bool[Tensor, "rows columns"], part: Bool[np.ndarray, "height width"]
) -> Bool[np.ndarray, "height width"]:
    """Return the pixels of a crop's part of the hole that lie in masked tokens."""
    sides = zip(part.shape, masked.shape, strict=True)
    rows, columns = (np.arange(side) * tokens // side for side, tokens in sides)
    return masked.numpy()[np.ix_(rows, columns)] & part


def _feather(fill: np.ndarray, pixels: np.ndarray, hole: np.ndarray, radius: int) -> np.ndarray:
    """Shift the fill towards the known colours at the hole's border, fading out into the hole.

    The difference between known pixels and fill, averaged over the known pixels nearby, is added
    with a weight that is 1 at a straight border (where half of the blur's mass is known). Once more
    at each half of the radius: first the colour is matched, in the end every pixel of the border.
    """
    keep, known = (~hole).astype(np.float32), pixels.astype(np.float32)
    while radius:
        difference = known - fill
        difference *= keep[:, :, None]
        # Stack blur is nearly a Gaussian and takes as long for any width.
        kernel = (2 * radius + 1,) * 2
        mass, correction = cv2.stackBlur(keep, kernel), cv2.stackBlur(difference, kernel)
        correction *= (np.minimum(2 * mass, 1) / np.maximum(mass, 1e-3))[:, :, None]
        fill = fill + correction
        radius //= 2
    return fill


def _window(start: int, length: int, side: int, limit: int) -> slice:
    """Center a window of ``side`` on a span, moved and cut to lie within [0, limit)."""
    side = min(side, limit)
    first = int(np.clip(start + length // 2 - side // 2, 0, limit - side))
    return slice(first, first + side)
