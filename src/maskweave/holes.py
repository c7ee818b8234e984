"""Holes in pixels, drawn as inpainting papers draw them, and what they hide of the token grid."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from maskweave.drawing import (
    Boxes,
    Strokes,
    draw_blob,
    draw_boxes,
    draw_half,
    draw_random_walk,
    draw_scratches,
    draw_strokes,
    draw_text,
)
from maskweave.errors import MaskweaveError
from maskweave.guide import Guide, planes

KINDS = ("random-walk", "thin", "medium", "thick", "box", "half")
"""Kinds that models of whole objects are trained for."""

PHOTO_KINDS = (*KINDS, "scratch", "scratches", "text", "blob")
"""All kinds: those as well that people want removed from photos."""

LONGEST = 64
"""A random walk takes for ever to fill its share of an image that is longer than so many times its
width."""

LARGEST_SHARE = 0.5
"""LaMa draws a hole again when it covers more of the image than this."""


# Suvorov et al. 2022, configs/data_gen/random_{thin,medium,thick}_256.yaml: what evaluation draws.
THIN = Strokes(fewest=4, most=51, width=10, length=40)
MEDIUM = Strokes(fewest=4, most=6, width=50, length=100)
THICK = Strokes(fewest=1, most=6, width=100, length=200)
MEDIUM_BOXES = Boxes(most=5, smallest=10, largest=50, margin=0)
THICK_BOXES = Boxes(most=3, smallest=30, largest=150, margin=10)

BOX_SHARE = 0.3 / 1.3
"""Share of boxes among the medium and the thick holes that are drawn, large ones included: LaMa
weighs strokes with 1 and boxes with 0.3."""

BOX = Boxes(most=3, smallest=30, largest=149, margin=10)
"""A pixel less than LaMa's, as ever, so that a seed keeps its mask."""

SCRATCHES = (1, 6)
"""Least and largest width of a scratch in training, in pixels."""


def draw_hole(
    kind: str,
    height: int,
    width: int,
    rng: np.random.Generator,
    scratches: tuple[int, int] = SCRATCHES,
) -> Bool[np.ndarray, "height width"]:
    """Draw one hole.

    Parameters
    ----------
    kind : str
        One of ``PHOTO_KINDS``. ``random-walk`` covers 10 to 30 % of the image as in the reference
        experiment; ``thin``, ``medium`` and ``thick`` are LaMa's mixtures of strokes and boxes
        (the evaluation masks of Suvorov et al. 2022) and ``box`` is the boxes among the thick, all
        scaled from 256 pixels to the shorter side and covering at most half of the image; ``half``
        is the left, right, upper or lower half; ``scratch`` is one to five bent lines from border
        to border, ``scratches`` one for every 10 to 20 pixels of the shorter side, ``text`` is
        words and dates, all of a width in pixels that the size of the image does not
        change; ``blob`` covers 5 to 30 % of the image with the outline of an object.
    height, width : int
        Size in pixels, at least 8, neither more than ``LONGEST`` times the other.
    rng : numpy.random.Generator
        Source of randomness: the same state gives the same hole.
    scratches : tuple of int
        Least and largest width of scratches, in pixels, at least 1.

    Returns
    -------
    numpy.ndarray
        True in the hole, at least one pixel of it.

    Raises
    ------
    MaskweaveError
        If the kind is unknown or the size too small.
    """
    check_kinds([kind])
    check_size(height, width)
    match kind:
        case "random-walk":
            draw = draw_random_walk
        case "thin":
            draw = partial(draw_strokes, THIN)
        case "medium":
            draw = partial(_draw_mixed, MEDIUM, MEDIUM_BOXES)
        case "thick":
            draw = partial(_draw_mixed, THICK, THICK_BOXES)
        case "box":
            draw = partial(draw_boxes, BOX)
        case "half":
            return draw_half(height, width, rng)  # of an odd width, which may be more than half
        case "scratch":
            draw = partial(draw_scratches, (1, 5), scratches)
        case "scratches":
            shorter = min(height, width)
            numbers = (max(1, shorter // 20), max(1, shorter // 10))
            draw = partial(draw_scratches, numbers, scratches)
        case "text":
            draw = draw_text
        case _:
            draw = draw_blob
    while True:
        hole = draw(height, width, rng)
        if 0 < np.count_nonzero(hole) <= LARGEST_SHARE * hole.size:
            return hole


def check_size(height: int, width: int) -> None:
    """Raise MaskweaveError if an image of this size is too small for a hole, or too long."""
    if min(height, width) < 8 or max(height, width) > LONGEST * min(height, width):
        raise MaskweaveError(
            f"a hole needs at least 8x8 pixels and sides that differ at most {LONGEST} times, "
            f"got {width}x{height}"
        )


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise MaskweaveError unless there is at least one kind of hole and all are known."""
    unknown = set(kinds) - set(PHOTO_KINDS)
    if unknown or not kinds:
        names = ", ".join(map(repr, sorted(unknown))) or "none"
        raise MaskweaveError(f"unknown kind of hole {names}; known are {', '.join(PHOTO_KINDS)}")


def draw_holes(
    kinds: Sequence[str],
    batch: int,
    height: int,
    width: int,
    rng: np.random.Generator,
    whole: float = 0.0,
) -> Bool[Tensor, "batch height width"]:
    """Draw a hole for each image of a batch, each of a kind chosen evenly among ``kinds``.

    ``whole`` is the share of images, in [0, 1], whose hole is everything instead.
    """
    chosen = (kinds[int(rng.integers(len(kinds)))] for _ in range(batch))
    holes = np.stack([draw_hole(kind, height, width, rng) for kind in chosen])
    holes[rng.random(batch) < whole] = True
    return torch.from_numpy(holes)


def token_mask(
    hole: Bool[Tensor, "batch height width"], patch: int, dilation: int = 0
) -> Bool[Tensor, "batch length"]:
    """Say which tokens a hole hides: those with any pixel in it, row by row.

    ``patch`` is the side of a token's patch in pixels and divides the height and the width;
    tokens at most ``dilation`` from these are hidden as well.
    """
    hidden = F.max_pool2d(hole[:, None].float(), patch)
    if dilation:
        hidden = F.max_pool2d(hidden, 2 * dilation + 1, stride=1, padding=dilation)
    return hidden.flatten(1).bool()


def is_narrow(hole: Bool[Tensor, "batch height width"], width: int) -> Bool[Tensor, "batch"]:
    """Say which holes are nowhere wider than so many pixels: no larger square fits into them."""
    if width >= min(hole.shape[1:]):
        return torch.ones(len(hole), dtype=torch.bool, device=hole.device)
    # A square of hole pixels alone is one in which no known pixel is largest.
    known = F.max_pool2d((~hole)[:, None].float(), width + 1, stride=1)
    return known.flatten(1).amin(1) > 0


def known_patches(
    images: Float[Tensor, "batch 3 height width"],
    hole: Bool[Tensor, "batch height width"],
    patch: int,
    guide: Guide | None = None,
) -> Float[Tensor, "batch length numbers"]:
    """Return what is known of each token's patch, row by row, without reading under the hole.

    These are the 4 patch^2 numbers of ``guide.planes``, or 5 patch^2 with a guide.
    """
    seen = planes(images, hole, guide)
    return F.pixel_unshuffle(seen, patch).flatten(2).transpose(1, 2)  # (B, h w, 4 p p)


def _draw_mixed(
    strokes: Strokes, boxes: Boxes, height: int, width: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw strokes or, less often, boxes (LaMa's ``MixedMaskGenerator``)."""
    if rng.random() < BOX_SHARE:
        return draw_boxes(boxes, height, width, rng)
    return draw_strokes(strokes, height, width, rng)
