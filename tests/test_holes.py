"""Holes: every kind, at every size, has the share and the shape it promises."""

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from typer.testing import CliRunner

from maskweave.cli.main import app
from maskweave.errors import MaskweaveError
from maskweave.holes import (
    LARGEST_SHARE,
    PHOTO_KINDS,
    draw_hole,
    draw_holes,
    known_patches,
    token_mask,
)
from maskweave.masks import read_mask


@pytest.mark.parametrize("kind", PHOTO_KINDS)
@pytest.mark.parametrize(("height", "width"), [(64, 64), (256, 256), (48, 100), (8, 9), (8, 512)])
def test_a_hole_is_never_empty_and_never_more_than_half(kind: str, height: int, width: int) -> None:
    for seed in range(20):
        hole = draw_hole(kind, height, width, np.random.default_rng(seed))
        assert hole.shape == (height, width)
        assert hole.dtype == np.bool_
        share = hole.mean()
        # The halves of an odd width differ by a column.
        assert 0 < share <= LARGEST_SHARE + (1 / min(height, width) if kind == "half" else 0)


@pytest.mark.parametrize("kind", PHOTO_KINDS)
def test_the_same_seed_draws_the_same_hole_and_another_seed_another(kind: str) -> None:
    first, again = (draw_hole(kind, 64, 64, np.random.default_rng(3)) for _ in range(2))
    others = [draw_hole(kind, 64, 64, np.random.default_rng(seed)) for seed in range(4, 12)]
    assert np.array_equal(first, again)
    assert any(not np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("size", [64, 256])
def test_random_walks_cover_as_much_as_the_reference_ones(size: int) -> None:
    holes = draw_holes(["random-walk"], 200, size, size, np.random.default_rng(0))
    shares = holes.float().mean((1, 2))
    assert 0.09 < shares.min() < 0.13
    assert 0.27 < shares.max() < 0.36
    assert 0.18 < shares.mean() < 0.24


def test_random_walks_are_connected_up_to_the_grid() -> None:
    from skimage.measure import label

    for seed in range(10):
        hole = draw_hole("random-walk", 64, 64, np.random.default_rng(seed))
        assert label(hole, connectivity=1).max() == 1


def depth(hole: np.ndarray) -> float:
    """Return the largest distance from a hole's pixels to what is known, in pixels."""
    return float(cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, 5).max())


def test_thick_strokes_are_thicker_than_thin_ones() -> None:
    thin, medium, thick = (
        np.mean([depth(hole) for hole in draw_holes([kind], 200, 128, 128, rng).numpy()])
        for kind in ("thin", "medium", "thick")
        for rng in [np.random.default_rng(0)]
    )
    assert thin < medium < thick


# LaMa's configs/data_gen/random_{thin,medium,thick}_256.yaml, commits 6bb7047 and 552cd55:
# min_times, max_times, max_width and max_len of irregular_kwargs (irregular_proba 1, max_angle 4),
# box_proba, and min_times, max_times, bbox_min_size, bbox_max_size and margin of box_kwargs.
LAMA = {
    "thin": ((4, 50, 10, 40), 0.0, (0, 0, 0, 0, 0)),
    "medium": ((4, 5, 50, 100), 0.3, (1, 5, 10, 50, 0)),
    "thick": ((1, 5, 100, 200), 0.3, (1, 3, 30, 150, 10)),
}


def lama(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Draw as LaMa's bin/gen_mask_dataset.py does for a photo of 256x256 pixels."""
    (few, many, widest, longest), box_weight, (fewest, most, least, largest, margin) = LAMA[kind]
    mask = np.zeros((256, 256), np.float32)
    if rng.random() < box_weight / (1 + box_weight):
        for _ in range(rng.integers(fewest, most + 1)):
            w, h = rng.integers(least, largest + 1), rng.integers(least, largest + 1)
            x, y = (rng.integers(margin, 256 - margin - side + 1) for side in (w, h))
            mask[y : y + h, x : x + w] = 1
    else:
        # RandomIrregularMaskGenerator passes max_times + 1, which can be drawn.
        for i in range(rng.integers(few, many + 2)):
            x, y = rng.integers(256), rng.integers(256)
            for _ in range(1 + rng.integers(5)):
                angle = 0.01 + rng.integers(4)
                angle = 2 * np.pi - angle if i % 2 == 0 else angle
                length, brush = 10 + rng.integers(longest), 5 + rng.integers(widest)
                to_x = np.clip(int(x + length * np.sin(angle)), 0, 256)
                to_y = np.clip(int(y + length * np.cos(angle)), 0, 256)
                cv2.line(mask, (int(x), int(y)), (int(to_x), int(to_y)), 1.0, int(brush))
                x, y = to_x, to_y
    return mask > 0 if mask.mean() <= 0.5 else lama(kind, rng)  # max_tamper_area


@pytest.mark.parametrize(
    ("kind", "boxes"), [("thin", (0, 0)), ("medium", (0.18, 0.28)), ("thick", (0.3, 0.41))]
)
def test_against_lama(kind: str, boxes: tuple[float, float]) -> None:
    """Compare shares of hole, depths, and how many holes are made of boxes."""

    def of_boxes(hole: np.ndarray) -> bool:
        # Strokes have round ends and no upright edges; five boxes have at most ten ends.
        return np.count_nonzero((hole[1:] != hole[:-1]).any(axis=1)) <= 10

    number, rng = 1000, np.random.default_rng(0)
    wanted = [lama(kind, rng) for _ in range(number)]
    found = [draw_hole(kind, 256, 256, rng) for _ in range(number)]
    for measure in (np.mean, depth):
        a, b = (np.array([measure(hole) for hole in holes]) for holes in (wanted, found))
        assert a.mean() == pytest.approx(b.mean(), abs=4 * a.std() * (2 / number) ** 0.5)
        # All quantiles at once: a difference that chance exceeds once in a thousand times.
        assert ks_2samp(a, b).statistic < 1.95 * (2 / number) ** 0.5
    shares = [np.mean([of_boxes(hole) for hole in holes]) for holes in (wanted, found)]
    # More than 0.3 / 1.3, since strokes are more often too large and drawn again.
    assert all(boxes[0] <= share <= boxes[1] for share in shares)
    assert shares[0] == pytest.approx(shares[1], abs=4 * (2 * 0.3 * 0.7 / number) ** 0.5)


@pytest.mark.parametrize("size", [128, 1024])
@pytest.mark.parametrize("width", [1, 2, 4, 6])
def test_scratches_cross_the_image_in_their_width_in_pixels(size: int, width: int) -> None:
    def kept(hole: np.ndarray, diameter: int) -> float:
        """Return the share of a hole that discs of a diameter reach without leaving it."""
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter, diameter))
        opened = cv2.morphologyEx(hole.astype(np.uint8), cv2.MORPH_OPEN, disc)
        return float(opened.sum() / hole.sum())

    holes = [
        draw_hole("scratch", size, size, np.random.default_rng(seed), (width, width))
        for seed in range(30)
    ]
    for hole in holes:
        border = np.concatenate([hole[0], hole[-1], hole[:, 0], hole[:, -1]])
        assert border.any()
    assert np.median([kept(hole, width + 2) for hole in holes]) < 0.3  # where scratches cross
    assert np.median([kept(hole, max(1, width - 2)) for hole in holes]) > 0.9
    assert np.median([hole.sum() for hole in holes]) > width * size


@pytest.mark.parametrize("size", [64, 128, 512])
def test_many_scratches_are_as_dense_in_images_of_every_size(size: int) -> None:
    rngs = map(np.random.default_rng, range(40))
    share = np.mean([draw_hole("scratches", size, size, rng).mean() for rng in rngs])
    assert 0.15 < share < 0.3


def test_text_keeps_its_size_in_pixels() -> None:
    def rows(size: int) -> float:
        rngs = map(np.random.default_rng, range(100))
        return np.mean([draw_hole("text", size, size, rng).any(axis=1).sum() for rng in rngs])

    assert 8 < rows(256) < 100
    assert rows(256) == pytest.approx(rows(1024), rel=0.3)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 128), (300, 500), (64, 2048)])
def test_blobs_are_smooth_and_cover_5_to_30_percent(height: int, width: int) -> None:
    shares, largest = [], []
    for seed in range(100):
        hole = draw_hole("blob", height, width, np.random.default_rng(seed))
        shares.append(hole.mean())
        pieces = cv2.connectedComponentsWithStats(hole.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]
        largest.append(pieces.max() / hole.sum())
    assert 0.045 < min(shares) < 0.1
    assert 0.25 < max(shares) < 0.31
    assert np.median(largest) > 0.9  # one object, not specks


@pytest.mark.parametrize("kind", PHOTO_KINDS)
def test_holes_of_large_photos_are_drawn_at_once(kind: str) -> None:
    before = time.perf_counter()
    assert draw_hole(kind, 4000, 6000, np.random.default_rng(0)).shape == (4000, 6000)
    assert time.perf_counter() - before < 2


def test_the_command_draws_every_kind_and_says_so(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["holes", "--help"], env={"COLUMNS": "200"}).output
    for kind in PHOTO_KINDS:
        assert kind in shown
        arguments = ["holes", "--output", tmp_path, "--kind", kind, "--number", 2, "--size", 96]
        assert CliRunner().invoke(app, list(map(str, arguments))).exit_code == 0
        assert read_mask(tmp_path / f"{kind}_0001.png").hole.any()


def test_strokes_scale_with_the_size_of_the_image() -> None:
    small, large = (
        draw_holes(["medium"], 200, size, size, np.random.default_rng(0)).float().mean().item()
        for size in (64, 256)
    )
    assert small == pytest.approx(large, rel=0.25)


def test_kinds_are_drawn_evenly() -> None:
    holes = draw_holes(["half", "random-walk"], 400, 64, 64, np.random.default_rng(0))
    halves = (holes.float().mean((1, 2)) == 0.5).float().mean()
    assert 0.4 < halves < 0.6


def test_a_token_is_masked_if_any_of_its_pixels_is_in_the_hole() -> None:
    hole = torch.zeros(2, 8, 12, dtype=torch.bool)
    hole[0, 3, 3] = True  # the last pixel of the first patch
    hole[1, 4, 11] = True  # the first row of the last patch
    expected = torch.zeros(2, 6, dtype=torch.bool)
    expected[0, 0] = expected[1, 5] = True
    assert torch.equal(token_mask(hole, 4), expected)


def test_the_share_of_whole_holes_is_as_asked_and_changes_no_other_hole() -> None:
    some, none = (
        draw_holes(["box"], 400, 64, 64, np.random.default_rng(0), whole) for whole in (0.25, 0.0)
    )
    whole = some.all(2).all(1)
    assert 0.19 < whole.float().mean() < 0.31
    assert torch.equal(some[~whole], none[~whole])


def test_known_patches_hold_the_pixels_outside_the_hole_and_the_hole() -> None:
    images = torch.randn(2, 3, 8, 12)
    hole = torch.rand(2, 8, 12) < 0.5
    patches = known_patches(images, hole, 4)
    assert patches.shape == (2, 6, 4 * 16)
    fourth = patches[1, 4].view(4, 4, 4)  # channels, rows, columns: the second patch below
    below, inside = slice(4, 8), slice(4, 8)
    holed = hole[1, below, inside]
    assert torch.equal(fourth[3].bool(), holed)
    assert torch.equal(fourth[:3, ~holed], images[1, :, below, inside][:, ~holed])
    assert not fourth[:3, holed].any()
    hidden = torch.where(hole[:, None], torch.full_like(images, torch.nan), images)
    assert torch.equal(known_patches(hidden, hole, 4), patches)


@pytest.mark.parametrize(("kind", "size"), [("circle", 64), ("box", 4)])
def test_unknown_kinds_and_tiny_sizes_are_refused(kind: str, size: int) -> None:
    with pytest.raises(MaskweaveError):
        draw_hole(kind, size, size, np.random.default_rng(0))
