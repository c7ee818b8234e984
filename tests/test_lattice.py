"""The lattice: 1 for what has no peaks of its own, well above for a grid, wherever it begins."""

import cv2
import numpy as np
import pytest

from maskweave.evaluation.lattice import LENGTH, PERIOD, WIDTH, Peaks, peaks_of, strongest
from maskweave.holes import draw_hole
from maskweave.images import Hole, Pixels

SHAPE = (200, 260)


def texture(seed: int, slope: float = 1.2) -> Pixels:
    """Return a picture whose spectrum falls as those of photos do."""
    rng = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(SHAPE[0])[:, None], np.fft.fftfreq(SHAPE[1])
    falls = np.maximum(np.hypot(rows, columns), 0.01) ** -slope
    waves = np.fft.fft2(rng.normal(size=(3, *SHAPE))) * falls
    picture = np.fft.ifft2(waves).real
    picture = 128 + 25 * picture / picture.std()
    return picture.transpose(1, 2, 0).round().clip(0, 255).astype(np.uint8)


TRUTHS = [texture(seed) for seed in range(12)]
HOLES = [draw_hole("thick", *SHAPE, np.random.default_rng(seed)) for seed in range(12)]


def levels(picture: np.ndarray) -> Pixels:
    return picture.round().clip(0, 255).astype(np.uint8)


def lattice(fills: list[Pixels], truths: list[Pixels], holes: list[Hole] = HOLES) -> float:
    found = [peaks_of(*one) for one in zip(fills, truths, holes, strict=True)]
    ratios, strips = zip(*found, strict=True)
    return strongest(Peaks(np.array(ratios), np.array(strips)))[0]


def waves(top: int, left: int, period: float = PERIOD) -> np.ndarray:
    """Return a grid of waves of one level, (height, width, 1)."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    grid = np.cos(2 * np.pi * (columns + left) / period) + np.cos(2 * np.pi * (rows + top) / period)
    return grid[..., None]


def lines(top: int, left: int) -> np.ndarray:
    """Return lines of one level that enclose squares of 8 pixels, (height, width, 1)."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return (((rows + top) % PERIOD == 0) | ((columns + left) % PERIOD == 0))[..., None] * 1.0


def in_windows(offset: int) -> np.ndarray:
    """Return waves that begin elsewhere in every square of 96 pixels."""
    grid, rng = np.zeros((*SHAPE, 1)), np.random.default_rng(offset)
    for top in range(0, SHAPE[0], 96):
        for left in range(0, SHAPE[1], 96):
            window = (slice(top, top + 96), slice(left, left + 96))
            grid[window] = waves(*rng.integers(0, 8, 2))[window]
    return grid


def test_the_truth_has_the_peaks_of_the_truth() -> None:
    assert lattice(TRUTHS, TRUTHS) == 1.0


@pytest.mark.parametrize("sigma", [0.7, 1, 2, 4, 8])
def test_a_blurred_truth_has_no_peak(sigma: float) -> None:
    blurred = [cv2.GaussianBlur(truth, (0, 0), sigma) for truth in TRUTHS]
    assert 0.9 < lattice(blurred, TRUTHS) < 1.17


def test_another_texture_has_no_peak() -> None:
    others = [texture(seed) for seed in range(100, 112)]
    assert 0.85 < lattice(others, TRUTHS) < 1.17
    rougher = [texture(seed, slope=0.6) for seed in range(100, 112)]
    assert 0.85 < lattice(rougher, TRUTHS) < 1.17


@pytest.mark.parametrize("grid", [waves, lines], ids=["waves", "lines"])
@pytest.mark.parametrize(("top", "left"), [(0, 0), (3, 5), (4, 1)])
def test_a_grid_of_two_levels_is_a_peak_wherever_it_begins(grid, top: int, left: int) -> None:
    fills = [levels(truth + 2 * grid(top, left)) for truth in TRUTHS]
    assert lattice(fills, TRUTHS) > 1.6
    smooth = [levels(cv2.GaussianBlur(truth, (0, 0), 2) + 2 * grid(top, left)) for truth in TRUTHS]
    assert lattice(smooth, TRUTHS) > 2


def test_windows_that_begin_anywhere_hide_no_grid() -> None:
    fills = [levels(truth + 2 * in_windows(seed)) for seed, truth in enumerate(TRUTHS)]
    together = [levels(truth + 2 * waves(0, 0)) for truth in TRUTHS]
    assert 1.6 < lattice(fills, TRUTHS) < lattice(together, TRUTHS)


def test_a_grid_of_the_truth_is_none_of_the_fill() -> None:
    blocks = [levels(truth + 2 * lines(0, 0)) for truth in TRUTHS]
    same = [levels(truth + 2 * lines(3, 5)) for truth in TRUTHS]
    assert 0.9 < lattice(same, blocks) < 1.1
    assert lattice(TRUTHS, blocks) < 1


def test_patches_of_four_pixels_are_seen_and_other_periods_are_not() -> None:
    half, other = (
        [levels(truth + 2 * waves(1, 2, period)) for truth in TRUTHS] for period in (4, 64 / 5)
    )
    assert lattice(half, TRUTHS) > 1.6
    assert lattice(other, TRUTHS) < 1.17


def test_known_pixels_do_not_count() -> None:
    fills = [
        np.where(hole[..., None], truth, levels(truth + 9 * waves(0, 0)))
        for truth, hole in zip(TRUTHS, HOLES, strict=True)
    ]
    assert lattice(fills, TRUTHS) == 1.0


def test_holes_without_room_for_a_strip_are_not_measured() -> None:
    thin = np.zeros(SHAPE, dtype=bool)
    thin[: WIDTH - 1] = thin[:, : WIDTH - 1] = True
    small = np.zeros(SHAPE, dtype=bool)
    small[: LENGTH - 1, : LENGTH - 1] = True
    fills, truths = [texture(1)] * 2, [texture(2)] * 2
    assert np.isnan(lattice(fills, truths, [thin, small]))
    upright = np.zeros(SHAPE, dtype=bool)
    upright[7 : 7 + LENGTH, 9 : 9 + WIDTH] = True
    for hole in (upright, np.rot90(upright)):
        shown = [
            np.rot90(image) if hole is not upright else image for image in (fills[0], truths[0])
        ]
        ratios, strips = peaks_of(*map(np.ascontiguousarray, shown), np.ascontiguousarray(hole))
        assert strips == 1 and np.isfinite(ratios).all()
    ratios = np.stack([ratios, np.full(4, np.nan)])
    value, spread, n = strongest(Peaks(ratios, np.array([1, 0])))
    assert (n, spread) == (1, None) and value == np.exp(ratios[0].max())


def test_the_interval_is_over_images_and_narrower_with_more_of_them() -> None:
    rng = np.random.default_rng(0)
    ratios = rng.normal(0.5, 0.2, (400, 4))
    spreads = []
    for n in (40, 400):
        value, spread, number = strongest(Peaks(ratios[:n], np.full(n, 9)))
        assert number == n and spread is not None
        assert value == pytest.approx(np.exp(ratios[:n].mean(0).max()))
        spreads.append(spread)
    assert spreads[0] > 2 * spreads[1] > 0


def test_a_large_image_takes_no_more_strips_than_needed() -> None:
    hole = np.ones((600, 1200), dtype=bool)
    picture = np.zeros((600, 1200, 3), dtype=np.uint8)
    assert peaks_of(picture, picture, hole)[1] == 4000
