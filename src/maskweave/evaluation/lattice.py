"""How much a fill shows the grid of a model's patches: a lattice that LPIPS does not mind.

A decoder that paints patch by patch may leave lines or blobs that come again every patch. They are
peaks in the spectrum, at the frequencies 1/8, 2/8, 3/8 and 4/8 of a pixel for patches of 8 pixels,
along rows and along columns. Each is compared with its neighbours, as a texture has power there
too, and then with the same peak of the true image, as JPEG files have blocks of 8 pixels. Power
does not depend on phase, so it makes no difference where the windows of a model begin.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int

from maskweave.images import Hole, Pixels

PERIOD = 8
"""Side of the patches in pixels, or a multiple of it: those of 4 and of 2 are seen as well."""

LENGTH, WIDTH = 64, 24
"""Sides of the strips that are looked at, in pixels: both are multiples of the period, the first
along the frequency, the second the pixels across of which the mean is taken."""

APART = (-4, -2, 0, 2, 4)
"""Distances of a peak and its neighbours, in steps of the spectrum. Hann's window spreads what
comes again and again over one step on either side."""

BESIDE = [0, 1, 3, 4]
"""Places of the neighbours among these."""

FAINT = 1.0
"""Power, in squared levels of 255, of noise that hides what is fainter."""

SHARE = 0.25
"""Share of the truth's power that is added to all: where a fill is much smoother than the truth,
nothing in it is a peak that the truth would not hide."""

MOST = 2000
"""Strips of an image along rows, and along columns, at most; of more these are spread evenly."""

RESAMPLED = 1000
"""Samples of the images of which the interval is made."""

SOURCE = (
    f"strips of {LENGTH}x{WIDTH} pixels within the hole, Hann's window; power at k/{PERIOD} "
    "against its neighbours, over the truth's, the greatest of all k"
)
"""What is behind the figure."""


class Peaks(NamedTuple):
    """Peaks of the fills of some images against those of the truth."""

    ratios: Float[np.ndarray, "images harmonics"]
    """Logarithms of the ratios, for the frequencies k / ``PERIOD``; NaN where there is no strip."""
    strips: Int[np.ndarray, "images"]
    """Number of the strips that were looked at."""


def peaks_of(result: Pixels, truth: Pixels, hole: Hole) -> tuple[Float[np.ndarray, "4"], int]:
    """Return the logarithms of the ratios of one image, and how many strips are in its hole.

    Parameters
    ----------
    result, truth : numpy.ndarray
        Filled and true image, uint8, (height, width, 3).
    hole : numpy.ndarray
        True in the hole, (height, width); only pixels there are looked at.
    """
    left, top, width, height = cv2.boundingRect(hole.astype(np.uint8))
    box = (slice(top, top + height), slice(left, left + width))
    inside, *greys = hole[box], *(image[box].mean(2) for image in (result, truth))
    found: list[np.ndarray] = []
    for turn in (np.asarray, np.transpose):
        places = _places(turn(inside))
        found.append(np.stack([_powers(turn(grey), places) for grey in greys]))
    power = np.concatenate(found, axis=1)  # (2, strips, frequencies)
    if not power.shape[1]:
        return np.full(PERIOD // 2, np.nan), 0
    near = power[:, :, _bins()] + FAINT  # (2, strips, harmonics, apart)
    # A smooth strip counts as much as one of strong texture.
    contrast = np.exp(np.log(near[1][..., BESIDE]).mean((1, 2)))
    means = (near / contrast[:, None, None]).mean(1)
    logs = np.log(means + SHARE * means[1][:, BESIDE].mean(1)[:, None])
    far, close = logs[..., [0, 4]].mean(-1), logs[..., [1, 3]].mean(-1)
    # What a parabola through the neighbours has in the middle, so that a blur makes no peak.
    filled, true = logs[..., 2] - (4 * close - far) / 3
    return filled - true, power.shape[1]


def strongest(peaks: Peaks) -> tuple[float, float | None, int]:
    """Return the greatest ratio, pooled over images, half its 95 % interval and their number.

    1 is a fill with peaks as high as the truth's. Each image counts by its strips. The interval is
    a bootstrap over the images; a greatest ratio of noise lies a little above 1. It is NaN, of no
    image, where no hole has room for a strip.
    """
    seen = peaks.strips > 0
    n = int(seen.sum())
    if n == 0:
        return float("nan"), None, 0
    weights = peaks.strips[seen].astype(np.float64)
    weighted = peaks.ratios[seen] * weights[:, None]

    def greatest(chosen: Int[np.ndarray, "images"]) -> float:
        return float(np.exp(weighted[chosen].sum(0) / weights[chosen].sum()).max())

    value = greatest(np.arange(n))
    if n == 1:
        return value, None, n
    rng = np.random.default_rng(0)
    samples = [greatest(rng.integers(n, size=n)) for _ in range(RESAMPLED)]
    low, high = np.percentile(samples, [2.5, 97.5])
    return value, float(high - low) / 2, n


def _bins() -> Int[np.ndarray, "harmonics apart"]:
    """Return the places of each peak and its neighbours in the spectrum of a strip."""
    peaks = np.arange(1, PERIOD // 2 + 1)[:, None] * (LENGTH // PERIOD)
    bins = peaks + np.array(APART)
    return np.where(bins > LENGTH // 2, LENGTH - bins, bins)  # it is even


def _places(inside: Hole) -> Int[np.ndarray, "strips 2"]:
    """Return the upper left corners of strips that lie in the hole, a quarter of a side apart."""
    height, width = inside.shape
    if height < WIDTH or width < LENGTH:
        return np.zeros((0, 2), dtype=np.int64)
    sums = cv2.integral(inside.astype(np.uint8))
    whole = (
        sums[WIDTH:, LENGTH:] - sums[:-WIDTH, LENGTH:] - sums[WIDTH:, :-LENGTH]
        + sums[:-WIDTH, :-LENGTH]
    )[:: WIDTH // 4, :: LENGTH // 4] == WIDTH * LENGTH  # fmt: skip
    places = np.argwhere(whole) * (WIDTH // 4, LENGTH // 4)
    number = min(len(places), MOST)
    return places[np.arange(number) * len(places) // max(number, 1)]


def _powers(
    grey: Float[np.ndarray, "height width"], places: Int[np.ndarray, "strips 2"]
) -> Float[np.ndarray, "strips frequencies"]:
    """Return the power spectra of strips along rows; that of white noise is its variance."""
    along, across = _hann(LENGTH), _hann(WIDTH)
    lines = np.array(
        [across @ grey[top : top + WIDTH, left : left + LENGTH] for top, left in places]
    ).reshape(-1, LENGTH)
    lines = (lines - (lines @ along)[:, None] / along.sum()) * along
    return np.abs(np.fft.rfft(lines)) ** 2 / ((along**2).sum() * (across**2).sum())


def _hann(length: int) -> Float[np.ndarray, "length"]:
    """Return Hann's window with the period of its length, as spectra need it."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
