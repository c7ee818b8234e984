"""Figures of one filled image against the truth, over arrays of 8-bit pixels."""

from collections.abc import Sequence
from importlib.metadata import version
from itertools import groupby, pairwise

import cv2
import numpy as np
import torch
from jaxtyping import Float
from skimage.metrics import structural_similarity
from torch import nn

from maskweave.data.augment import to_unit_range
from maskweave.errors import MaskweaveError
from maskweave.images import Hole, Pixels

EXACT = 100.0
"""Greatest PSNR, in dB: that of equal pixels would be infinite."""

BAND = 4
"""Half-width of the band along the border of the hole, in pixels."""

PIXELS = 1 << 20
"""Pixels that are looked at together, as memory allows; LPIPS of a larger image is of its tiles."""

TILE = 1024
"""Longest side of such a tile, in pixels."""

SMALLEST_SIDE = 32
"""Below it, in pixels, the networks and SSIM's window have nothing to look at."""

REACH = 3
"""Pixels that SSIM's window of 7x7 looks at on each side."""

SCIKIT_IMAGE = f"scikit-image {version('scikit-image')}"

GREATEST = "known_change_max"
"""The one figure of which not the mean but the greatest matters."""

SOURCES = {
    "psnr_hole": f"OpenCV {cv2.__version__}, dB, over the pixels of the hole",
    "psnr": f"OpenCV {cv2.__version__}, dB, over the image",
    "ssim_hole": f"{SCIKIT_IMAGE}, 7x7 window, mean of the map in the hole",
    "ssim": f"{SCIKIT_IMAGE}, 7x7 window, mean of the map",
    "boundary_error": f"mean |difference| of 255 levels within {BAND} pixels of the hole's border",
    "known_change_mean": "mean |difference| of 255 levels outside the hole",
    GREATEST: "greatest |difference| of 255 levels outside the hole",
}
"""What is behind each figure of ``pixel_figures``."""


def check_example(name: str, result: Pixels, truth: Pixels, hole: Hole) -> None:
    """Raise MaskweaveError, with the name, unless an image can be measured in its hole."""
    for image in (result, truth):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            kind = f"{image.dtype} {image.shape}"
            raise MaskweaveError(f"{name}: images are uint8 (height, width, 3), got {kind}")
    if not result.shape[:2] == truth.shape[:2] == hole.shape:
        sizes = [f"{array.shape[1]}x{array.shape[0]}" for array in (result, truth, hole)]
        raise MaskweaveError("{}: result {}, truth {}, mask {} pixels".format(name, *sizes))
    if min(hole.shape) < SMALLEST_SIDE:
        raise MaskweaveError(f"{name}: sides of less than {SMALLEST_SIDE} pixels are not measured")
    if not hole.any():
        raise MaskweaveError(f"{name}: the mask is empty, so there is no hole to measure in")


def pixel_figures(result: Pixels, truth: Pixels, hole: Hole) -> dict[str, float]:
    """Return the figures that ``SOURCES`` explains; NaN where no pixel is left to measure."""
    difference = np.abs(result.astype(np.int16) - truth)
    ssim_hole, ssim = _similarities(result, truth, hole)
    return {
        "psnr_hole": psnr(result[hole], truth[hole]),
        "psnr": psnr(result, truth),
        "ssim_hole": ssim_hole,
        "ssim": ssim,
        "boundary_error": _mean(difference[boundary(hole)]),
        "known_change_mean": _mean(difference[~hole]),
        GREATEST: float(difference[~hole].max()) if not hole.all() else float("nan"),
    }


def psnr(result: np.ndarray, truth: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of 8-bit values, in dB, at most ``EXACT``."""
    if np.array_equal(result, truth):
        return EXACT
    return min(EXACT, cv2.PSNR(result, truth, 255.0))


def boundary(hole: Hole) -> Hole:
    """Mark hole pixels within ``BAND`` of a known pixel, and known pixels within it of the hole."""
    kernel = np.ones((2 * BAND + 1, 2 * BAND + 1), np.uint8)
    grown, shrunk = (change(hole.astype(np.uint8), kernel) for change in (cv2.dilate, cv2.erode))
    return (grown != shrunk).astype(bool)


@torch.inference_mode()
def lpips_distances(
    results: Sequence[Pixels],
    truth: Sequence[Pixels],
    network: nn.Module,
) -> Float[np.ndarray, "images"]:
    """Return LPIPS of each pair of whole images of any sizes; 0 for equal ones.

    That of an image of more than ``PIXELS`` is the mean over its tiles, weighed by their pixels.
    """
    device = next(network.parameters()).device
    distances: list[np.ndarray] = []
    pairs = zip(results, truth, strict=True)
    for shape, group in groupby(pairs, key=lambda pair: pair[0].shape):
        alike, at_once = list(group), PIXELS // (shape[0] * shape[1])
        if at_once == 0:
            distances.append(np.array([_distance_by_tiles(*pair, network) for pair in alike]))
            continue
        for start in range(0, len(alike), at_once):
            one, other = (
                to_unit_range(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(device))
                for images in zip(*alike[start : start + at_once], strict=True)
            )
            distances.append(network(one, other).flatten().cpu().numpy())
    return np.concatenate(distances)


def _distance_by_tiles(result: Pixels, truth: Pixels, network: nn.Module) -> float:
    total = 0.0
    for rows in _split(truth.shape[0], TILE):
        for columns in _split(truth.shape[1], TILE):
            one, other = result[rows, columns], truth[rows, columns]
            if not np.array_equal(one, other):
                [distance] = lpips_distances([one], [other], network)
                total += float(distance) * one.shape[0] * one.shape[1]
    return total / (truth.shape[0] * truth.shape[1])


def _similarities(result: Pixels, truth: Pixels, hole: Hole) -> tuple[float, float]:
    """Return the mean of SSIM's map in the hole and overall, made in strips of rows."""
    height, width = hole.shape
    sums = np.zeros(2)
    for rows in _split(height, max(SMALLEST_SIDE, PIXELS // 4 // width)):
        seen = slice(max(rows.start - REACH, 0), rows.stop + REACH)
        similarity: np.ndarray = structural_similarity(
            result[seen], truth[seen], channel_axis=2, full=True
        )[1]
        own = similarity[rows.start - seen.start :][: rows.stop - rows.start]
        sums += own[hole[rows]].sum(), own.sum()
    in_hole, overall = sums / (3 * np.array([hole.sum(), hole.size]))
    return float(in_hole), float(overall)


def _split(length: int, longest: int) -> list[slice]:
    """Return parts of about the same length, none longer than the longest."""
    edges = np.linspace(0, length, -(-length // longest) + 1).astype(int).tolist()
    return [slice(start, stop) for start, stop in pairwise(edges)]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
