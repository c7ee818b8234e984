"""Crops: every hole pixel belongs to exactly one; known pixels alone decide the small picture."""

import cv2
import numpy as np
import pytest
import torch

from maskweave.crops import enlarge, enlarge_mask, plan_crops, shrink
from maskweave.holes import draw_hole


def random_holes() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    holes = [
        draw_hole(kind, *size, rng)
        for kind in ("random-walk", "thin", "box", "half")
        for size in ((64, 64), (40, 200), (300, 90), (20, 20))
    ]
    specks = rng.random((100, 130)) < 0.01
    whole = np.ones((50, 70), dtype=bool)
    return [*holes, specks, whole]


@pytest.mark.parametrize("context", [0, 0.1, 0.25, 0.45])
@pytest.mark.parametrize("index", range(18))
def test_every_hole_pixel_belongs_to_exactly_one_crop(index: int, context: float) -> None:
    hole = random_holes()[index]
    count = np.zeros(hole.shape, dtype=int)
    for crop in plan_crops(hole, 16, context=context):
        window = count[crop.rows, crop.columns]
        assert window.shape == crop.part.shape  # inside the image
        window += crop.part
    assert np.array_equal(count, hole.astype(int))


def test_no_hole_no_crop() -> None:
    assert plan_crops(np.zeros((30, 30), dtype=bool), 16) == []


def test_an_image_of_the_models_size_is_one_crop() -> None:
    hole = np.zeros((16, 16), dtype=bool)
    hole[1, 1] = hole[14, 14] = True
    [crop] = plan_crops(hole, 16)
    assert crop.part.shape == (16, 16)


def test_a_crop_is_square_with_context_around_its_hole() -> None:
    hole = np.zeros((200, 300), dtype=bool)
    hole[90:130, 150:180] = True
    [crop] = plan_crops(hole, 16)
    assert crop.part.shape == (80, 80)
    rows, columns = np.nonzero(crop.part)
    assert (rows.min(), 79 - rows.max()) == (20, 20)
    assert (columns.min(), 79 - columns.max()) == (25, 25)


def test_more_context_widens_a_crop() -> None:
    hole = np.zeros((700, 900), dtype=bool)
    hole[300:340, 450:480] = True
    for context, side in ((0, 40), (0.1, 50), (0.25, 80), (0.4, 200), (0.45, 400)):
        [crop] = plan_crops(hole, 16, context=context)
        assert crop.part.shape == (side, side)
        rows = np.flatnonzero(crop.part.any(1))
        assert min(rows[0], side - 1 - rows[-1]) >= int(side * context)


def test_pieces_of_a_long_crop_keep_the_context() -> None:
    hole = np.zeros((40, 1000), dtype=bool)
    hole[20, 5:995] = True
    for context in (0.1, 0.25, 0.4):
        for crop in plan_crops(hole, 16, context=context):
            columns = np.flatnonzero(crop.part.any(0))
            assert columns[0] >= 80 * context or crop.columns.start == 0
            assert 79 - columns[-1] >= 80 * context or crop.columns.stop == 1000


def test_distant_holes_get_crops_of_their_own_and_near_ones_share() -> None:
    hole = np.zeros((100, 400), dtype=bool)
    hole[40:60, 20:40] = hole[40:60, 300:320] = True
    hole[45:50, 45:48] = True
    crops = plan_crops(hole, 16)
    assert len(crops) == 2
    assert crops[0].part.sum() == 400 + 15


@pytest.mark.parametrize("size", [(64, 2000), (2000, 64), (70, 900)])
def test_no_crop_is_squashed_beyond_two_to_one(size: tuple[int, int]) -> None:
    hole = np.zeros(size, dtype=bool)
    cv2.line(hole.view(np.uint8), (3, 3), (size[1] - 4, size[0] - 4), 1, 3)
    crops = plan_crops(hole, 64)
    count = np.zeros(size, dtype=int)
    for crop in crops:
        height, width = crop.part.shape
        assert max(height, width) <= 2 * min(height, width)
        crop.window(count)[crop.part] += 1
    assert np.array_equal(count, hole.astype(int))


def test_shrinking_averages_known_pixels_alone() -> None:
    pixels = np.full((32, 32, 3), 200, dtype=np.uint8)
    hole = np.zeros((32, 32), dtype=bool)
    hole[8:20, 8:20] = True
    pixels[hole] = 0
    known, small = shrink(pixels, hole, (8, 8))
    assert small[2:5, 2:5].all()
    assert not small[0].any()
    torch.testing.assert_close(known[:, ~small], torch.full_like(known[:, ~small], 200 / 127.5 - 1))
    assert (known[:, small] == 0).all()


def test_law_2_shrinking_never_reads_the_hole(rng: np.random.Generator) -> None:
    for size in (16, 40):
        hole = draw_hole("random-walk", size, size, rng)
        pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        other = np.where(hole[:, :, None], 255 - pixels, pixels)
        for one, two in zip(
            shrink(pixels, hole, (16, 16)), shrink(other, hole, (16, 16)), strict=True
        ):
            assert torch.equal(one, two)


def test_at_the_models_size_nothing_is_resampled(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    hole = np.zeros((16, 16), dtype=bool)
    known, _ = shrink(pixels, hole, (16, 16))
    assert np.array_equal(enlarge(known, pixels, hole), pixels)


def test_feathering_joins_a_fill_of_another_brightness_to_its_surroundings() -> None:
    pixels = np.full((64, 64, 3), 150, dtype=np.uint8)
    hole = np.zeros((64, 64), dtype=bool)
    hole[16:48, 16:48] = True
    too_dark = torch.full((3, 16, 16), 100 / 127.5 - 1)
    filled = enlarge(too_dark, pixels, hole)[:, :, 0].astype(int)
    assert abs(filled[32, 16] - 150) < 12  # at the border
    assert abs(filled[32, 32] - 100) <= 1  # in the middle
    assert (np.diff(filled[32, 16:32]) <= 0).all()


def test_feathering_leaves_no_seam_where_the_surroundings_vary() -> None:
    wave = 127 + 100 * np.sin(np.arange(64) / 3)
    pixels = np.tile(wave[None, :, None], (64, 1, 3)).astype(np.uint8)
    hole = np.zeros((64, 64), dtype=bool)
    hole[14:50, 14:50] = True
    filled = enlarge(torch.zeros(3, 16, 16), pixels, hole).astype(int)
    inside, outside = filled[14, 16:48], pixels[13, 16:48].astype(int)
    assert np.abs(inside - outside).mean() < 0.25 * np.abs(127 - outside).mean()


def test_a_token_grid_is_enlarged_to_the_pixels_it_covers() -> None:
    masked = torch.tensor([[True, False], [False, True]])
    part = np.ones((4, 6), dtype=bool)
    part[0, 0] = False
    enlarged = enlarge_mask(masked, part)
    assert enlarged.astype(int).tolist() == [
        [0, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 1, 1],
        [0, 0, 0, 1, 1, 1],
    ]
