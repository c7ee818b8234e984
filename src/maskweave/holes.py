"""Holes in pixels, drawn as inpainting papers draw them, and what they hide of the token grid."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from maskweave.errors import MaskweaveError

KINDS = ("random-walk", "thin", "medium", "thick", "box", "half")

LAMA_SIZE = 256
"""The image size for which LaMa states its lengths, in pixels."""

SUSPICIOUS_SHARE = 0.6
"""Above this share of hole a mask is likely to be meant the other way round."""

LONGEST = 64
"""A random walk takes for ever to fill its share of an image that is longer than so many times its
width."""

LARGEST_SHARE = 0.5
"""LaMa draws a hole again when it covers more of the image than this."""


@dataclass(frozen=True)
class Strokes:
    """LaMa's free-form strokes (Suvorov et al. 2022, configs/data_gen/random_*_256.yaml)."""

    fewest: int
    """Smallest number of strokes."""
    most: int
    """Largest number of strokes."""
    width: int
    """Bound of the brush width, in pixels of a 256-pixel image."""
    length: int
    """Bound of one segment's length, in pixels of a 256-pixel image."""


THIN = Strokes(fewest=4, most=50, width=10, length=40)
MEDIUM = Strokes(fewest=4, most=5, width=50, length=100)
THICK = Strokes(fewest=1, most=5, width=100, length=200)


def draw_hole(
    kind: str, height: int, width: int, rng: np.random.Generator
) -> Bool[np.ndarray, "height width"]:
    """Draw one hole.

    Parameters
    ----------
    kind : str
        One of ``KINDS``. ``random-walk`` covers 10 to 30 % of the image as in the reference
        experiment; ``thin``, ``medium``, ``thick`` and ``box`` follow LaMa, scaled from 256 pixels
        to the shorter side and covering at most half of the image; ``half`` is the left, right,
        upper or lower half.
    height, width : int
        Size in pixels, at least 8, neither more than ``LONGEST`` times the other.
    rng : numpy.random.Generator
        Source of randomness: the same state gives the same hole.

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
    if min(height, width) < 8 or max(height, width) > LONGEST * min(height, width):
        raise MaskweaveError(
            f"a hole needs at least 8x8 pixels and sides that differ at most {LONGEST} times, "
            f"got {width}x{height}"
        )
    match kind:
        case "random-walk":
            return _random_walk(height, width, rng)
        case "thin":
            return _redraw_large(lambda: _strokes(THIN, height, width, rng))
        case "medium":
            return _redraw_large(lambda: _strokes(MEDIUM, height, width, rng))
        case "thick":
            return _redraw_large(lambda: _strokes(THICK, height, width, rng))
        case "box":
            return _redraw_large(lambda: _boxes(height, width, rng))
        case _:
            return _half(height, width, rng)


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise MaskweaveError unless there is at least one kind of hole and all are known."""
    unknown = set(kinds) - set(KINDS)
    if unknown or not kinds:
        names = ", ".join(map(repr, sorted(unknown))) or "none"
        raise MaskweaveError(f"unknown kind of hole {names}; known are {', '.join(KINDS)}")


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


def remark(hole: Bool[np.ndarray, "height width"]) -> str | None:
    """Return what a user should be told of a hole: that it is empty or suspiciously large."""
    if not hole.any():
        return "the mask is empty: nothing to fill"
    if hole.mean() > SUSPICIOUS_SHARE:
        return f"{hole.mean():.0%} of the image is hole: is the mask inverted?"
    return None


def token_mask(
    hole: Bool[Tensor, "batch height width"], patch: int
) -> Bool[Tensor, "batch length"]:
    """Say which tokens a hole hides: those with any pixel in it, row by row.

    ``patch`` is the side of a token's patch in pixels and divides the height and the width.
    """
    return F.max_pool2d(hole[:, None].float(), patch).flatten(1).bool()


def known_patches(
    images: Float[Tensor, "batch 3 height width"],
    hole: Bool[Tensor, "batch height width"],
    patch: int,
) -> Float[Tensor, "batch length numbers"]:
    """Return what is known of each token's patch, row by row, without reading under the hole.

    These are 4 patch^2 numbers: the pixels, zero in the hole, and where the hole is.
    """
    hole = hole[:, None]
    seen = torch.cat([images.masked_fill(hole, 0.0), hole.to(images.dtype)], dim=1)
    return F.pixel_unshuffle(seen, patch).flatten(2).transpose(1, 2)  # (B, h w, 4 p p)


def _random_walk(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Walk in unit steps, reflected at the border, until 10 to 30 % of 64x64 cells are covered."""
    cell = max(1, round(min(height, width) / 64))
    rows, columns = math.ceil(height / cell), math.ceil(width / cell)
    target = max(1, round(rng.uniform(0.1, 0.3) * rows * columns))
    position = np.array([rng.integers(rows), rng.integers(columns)])
    visited = np.zeros(rows * columns, dtype=bool)
    steps = np.array([[0, 1], [0, -1], [1, 0], [-1, 0]])
    while (missing := target - visited.sum()) > 0:
        stretch = position + np.cumsum(steps[rng.integers(4, size=256)], axis=0)
        row, column = _reflect(stretch[:, 0], rows), _reflect(stretch[:, 1], columns)
        cells, first_visit = np.unique(row * columns + column, return_index=True)
        fresh = cells[np.argsort(first_visit)]  # in the order of the walk
        visited[fresh[~visited[fresh]][:missing]] = True
        position = np.array([row[-1], column[-1]])
    hole = visited.reshape(rows, columns)
    return hole.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]


def _reflect(position: np.ndarray, size: int) -> np.ndarray:
    folded = position % (2 * size)
    return np.where(folded < size, folded, 2 * size - 1 - folded)


def _strokes(kind: Strokes, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Draw LaMa's ``make_random_irregular_mask``: polylines of up to five segments."""
    scale = min(height, width) / LAMA_SIZE
    canvas = np.zeros((height, width), dtype=np.uint8)
    for stroke in range(rng.integers(kind.fewest, kind.most + 1)):
        x, y = rng.integers(width), rng.integers(height)
        for _ in range(1 + rng.integers(5)):
            angle = 0.01 + rng.integers(4)
            if stroke % 2 == 0:
                angle = 2 * math.pi - angle
            length = scale * (10 + rng.integers(kind.length))
            brush = max(1, round(scale * (5 + rng.integers(kind.width))))
            end_x = int(np.clip(x + length * math.sin(angle), 0, width))
            end_y = int(np.clip(y + length * math.cos(angle), 0, height))
            cv2.line(canvas, (int(x), int(y)), (end_x, end_y), 1, brush)
            x, y = end_x, end_y
    return canvas.astype(bool)


def _boxes(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one to three rectangles with sides of 30 to 150 pixels of a 256-pixel image."""
    scale = min(height, width) / LAMA_SIZE
    margin = int(10 * scale)
    hole = np.zeros((height, width), dtype=bool)
    for _ in range(rng.integers(1, 4)):
        h, w = (max(1, round(scale * side)) for side in rng.integers(30, 150, size=2))
        top = rng.integers(margin, height - margin - h + 1)
        left = rng.integers(margin, width - margin - w + 1)
        hole[top : top + h, left : left + w] = True
    return hole


def _half(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    hole = np.zeros((height, width), dtype=bool)
    side = rng.integers(4)
    if side < 2:
        hole[:, : width // 2] = True
    else:
        hole[: height // 2] = True
    return hole if side % 2 == 0 else ~hole


def _redraw_large(draw: Callable[[], np.ndarray]) -> np.ndarray:
    while True:
        hole = draw()
        if 0 < hole.mean() <= LARGEST_SHARE:
            return hole
