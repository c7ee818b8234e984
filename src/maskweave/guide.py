"""The guide: a blurred guess at what lies under the hole, from which networks start to paint.

Where a hole is first filled it is a smooth interpolation of the known pixels; thick parts of a hole
are filled again at finer levels, where it is the fill of the level below.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

TINY = 1e-20
"""Where to stop dividing: what is left of the bending is nothing."""

RIDGE = 1e-5
"""What holds back the slopes of a surface that few known pixels tell, beside mean squares."""

TRUST = 8
"""Power of the share of the variance that a surface explains: skies and walls have nearly all of
it, and where there is less, what is around a hole says more than what is far away."""

PLAIN = (0.5, 1.5)
"""Levels of 255 by which known pixels miss a surface, root mean square: up to the first as much as
rounding to bytes does, so that there is no texture; from the second on it is painted in full."""

TOLD = 0.25
"""Least share of known pixels that can tell that there is no texture."""

BENDS = 12
"""Steps of ``bend``: enough for a scratch; the middle of a thick hole stays as it was."""


class Guide(NamedTuple):
    """Pixels under the holes of a batch, and where these come from."""

    pixels: Float[Tensor, "batch 3 height width"]
    """Pixels in [-1, 1], of which only those in the hole are read."""
    finer: Bool[Tensor, "batch"]
    """Whether they are the fill of a coarser level, not an interpolation of the known pixels."""

    def rows(self, rows: slice | list[int]) -> "Guide":
        """Return the guide of some images of the batch."""
        return Guide(self.pixels[rows], self.finer[rows])


def interpolated(
    known: Float[Tensor, "batch 3 height width"], hole: Bool[Tensor, "batch height width"]
) -> Guide:
    """Return the guide where there is no coarser level."""
    finer = torch.zeros(len(known), dtype=torch.bool, device=known.device)
    surface = shading(known, hole)
    filled = push_pull(known - surface, hole) + surface
    start = torch.where(hole[:, None], filled.clamp(-1, 1), known)
    return Guide(bend(start, hole), finer)


def planes(
    known: Float[Tensor, "batch 3 height width"],
    hole: Bool[Tensor, "batch height width"],
    guide: Guide | None,
) -> Float[Tensor, "batch planes height width"]:
    """Return what networks see of images, without reading under the hole.

    These are the pixels, the guide's or without one zero in the hole; where the hole is; and with a
    guide whether that is the fill of a coarser level.
    """
    hole = hole[:, None]
    where = hole.to(known.dtype)
    if guide is None:
        return torch.cat([known.masked_fill(hole, 0.0), where], dim=1)
    pixels = torch.where(hole, guide.pixels.to(known.dtype), known)
    finer = guide.finer[:, None, None, None].to(known.dtype)
    return torch.cat([pixels, where, finer.expand_as(where)], dim=1)


class Surface(NamedTuple):
    """The quadratic surface through the known pixels of each image."""

    mean: Float[Tensor, "batch 3 1 1"]
    """Mean of the known pixels; 0 where an image is all hole."""
    slopes: Float[Tensor, "batch 3 height width"]
    """What the surface is beside it."""
    total: Float[Tensor, "batch"]
    """Variance of the known pixels."""
    left: Float[Tensor, "batch"]
    """What the surface leaves of it."""


# Least squares with a ridge (Hoerl and Kennard 1970), in x, y, x^2, xy, y^2 and a constant.
def surface(
    known: Float[Tensor, "batch 3 height width"], hole: Bool[Tensor, "batch height width"]
) -> Surface:
    """Return the quadratic surface through the known pixels; nothing under the hole is read."""
    height, width = hole.shape[1:]
    keep = (~hole).flatten(1)[:, None].to(known.dtype)  # (batch, 1, pixels)
    colours = known.masked_fill(hole[:, None], 0.0).flatten(2)
    number = keep.sum(2, keepdim=True).clamp(min=1)
    mean = colours.sum(2, keepdim=True) / number
    colours = (colours - mean) * keep
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height, dtype=known.dtype, device=known.device),
        torch.linspace(-1, 1, width, dtype=known.dtype, device=known.device),
        indexing="ij",
    )
    terms = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y]).flatten(1)  # (6, pixels)
    ridge = RIDGE * torch.eye(len(terms), dtype=known.dtype, device=known.device)
    squares = (terms * keep) @ terms.T / number + ridge  # (batch, 6, 6)
    factors = torch.linalg.solve(squares, (colours @ terms.T / number).mT).mT
    slopes = factors @ terms
    numbers = 3 * number[:, 0, 0]
    total = colours.square().sum((1, 2)) / numbers
    left = ((colours - slopes) * keep).square().sum((1, 2)) / numbers
    return Surface(mean[..., None], slopes.unflatten(2, (height, width)), total, left)


def shading(
    known: Float[Tensor, "batch 3 height width"], hole: Bool[Tensor, "batch height width"]
) -> Float[Tensor, "batch 3 height width"]:
    """Return the quadratic surface through the known pixels, as far as they lie on one.

    It carries the shade of a sky or a wall on into a large hole, where an interpolation would be
    flat. It is weighed by a power of the share of their variance that it explains, and so is next
    to nothing in most photos.

    Parameters
    ----------
    known : Tensor
        Images in [-1, 1]. What lies under the hole is never read.
    hole : Tensor
        True in the hole.

    Returns
    -------
    Tensor
        The surface of all pixels; 0 where an image is all hole.
    """
    mean, slopes, total, left = surface(known, hole)
    trust = (1 - (left + TINY) / (total + TINY)).clamp(min=0) ** TRUST
    return mean + trust[:, None, None, None] * slopes


def plain_kept_plain(
    painted: Float[Tensor, "batch 3 height width"],
    known: Float[Tensor, "batch 3 height width"],
    hole: Bool[Tensor, "batch height width"],
    guide: Guide,
) -> Float[Tensor, "batch 3 height width"]:
    """Return painted images, or their guides where known pixels have no texture.

    On a plain ground or a mere shade the guide is the answer to within rounding, and whatever a
    network paints beside it can be seen.

    Parameters
    ----------
    painted, known : Tensor
        Images in [-1, 1]. What lies under the hole in ``known`` is never read.
    hole : Tensor
        True in the hole.
    guide : Guide
        What they were painted from.
    """
    levels = surface(known, hole).left.sqrt() * 255 / 2
    least, most = PLAIN
    share = ((levels - least) / (most - least)).clamp(0, 1)
    share = torch.where(hole.float().mean((1, 2)) > 1 - TOLD, 1.0, share)
    start = torch.where(hole[:, None], guide.pixels, known)
    return torch.lerp(start, painted, share[:, None, None, None])


# Gortler et al. 1996, "The Lumigraph": pull and push, with a box filter on the way down. Weights
# saturate as there: a coarse pixel is known as soon as one of its four finer ones is.
def push_pull(
    known: Float[Tensor, "batch 3 height width"], hole: Bool[Tensor, "batch height width"]
) -> Float[Tensor, "batch 3 height width"]:
    """Fill holes smoothly from the known pixels around them.

    The image is shrunk by halves down to one pixel, each coarse pixel the mean of what is known of
    its four finer ones (pull); on the way back holes take the colours of the level below (push).
    The result is smooth between known pixels and constant beyond them.

    Parameters
    ----------
    known : Tensor
        Images of any size, even or odd. What lies under the hole is never read.
    hole : Tensor
        True in the hole.

    Returns
    -------
    Tensor
        The known pixels as they were and the holes filled within their range; 0 where an image is
        all hole.
    """
    blank = known.masked_fill(hole[:, None], 0.0)
    return _filled(blank, (~hole)[:, None].to(known.dtype))


def _filled(
    colour: Float[Tensor, "batch 3 height width"], keep: Float[Tensor, "batch 1 height width"]
) -> Float[Tensor, "batch 3 height width"]:
    """Fill one level of the pyramid; ``colour`` is 0 wherever ``keep``, 0 or 1, is 0."""
    height, width = keep.shape[2:]
    if height == width == 1:
        return colour
    both = F.pad(torch.cat([colour, keep], dim=1), (0, width % 2, 0, height % 2))
    total, share = F.avg_pool2d(both, 2).split([3, 1], dim=1)
    coarse_keep = (share > 0).to(keep.dtype)
    coarse = _filled(total / share.clamp(min=0.25), coarse_keep)
    # Once around each filled pixel: the boxes would show in the fill, and ramps as stairs.
    even = F.avg_pool2d(coarse, 3, stride=1, padding=1, count_include_pad=False)
    coarse = torch.where(coarse_keep > 0, coarse, even)
    fine = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    return torch.where(keep > 0, colour, fine[:, :, :height, :width])


# Damelin and Hoang 2018, "On surface completion and image inpainting by biharmonic functions"; by
# the conjugate gradients of Hestenes and Stiefel 1952, each image its own system of equations.
def bend(
    pixels: Float[Tensor, "batch 3 height width"],
    hole: Bool[Tensor, "batch height width"],
    steps: int = BENDS,
) -> Float[Tensor, "batch 3 height width"]:
    """Bend holes towards the biharmonic surface, which carries slopes on across their border.

    Parameters
    ----------
    pixels : Tensor
        Images in [-1, 1], also in the hole, where these are what to start from.
    hole : Tensor
        True in the hole.
    steps : int
        Number of steps, each of which reaches two pixels further from the border.

    Returns
    -------
    Tensor
        The known pixels as they were, the holes in [-1, 1].
    """
    inside = hole[:, None].to(pixels.dtype)
    filled = pixels
    residual = -_bending(filled) * inside
    direction, length = residual, _dot(residual, residual)
    for _ in range(steps):
        bending = _bending(direction) * inside
        step = length / _dot(direction, bending).clamp(min=TINY)
        filled = filled + step * direction
        residual = residual - step * bending
        before, length = length, _dot(residual, residual)
        direction = residual + length / before.clamp(min=TINY) * direction
    return torch.where(hole[:, None], filled.clamp(-1, 1), pixels)


def _bending(
    x: Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, "batch 3 height width"]:
    """Return the Laplacian of the Laplacian, which is zero where a surface bends least."""
    for _ in range(2):
        y = F.pad(x, (1, 1, 1, 1), mode="replicate")
        x = x - (y[..., :-2, 1:-1] + y[..., 2:, 1:-1] + y[..., 1:-1, :-2] + y[..., 1:-1, 2:]) / 4
    return x


def _dot(
    a: Float[Tensor, "batch 3 height width"], b: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch 1 1 1"]:
    return (a * b).sum((1, 2, 3), keepdim=True)
