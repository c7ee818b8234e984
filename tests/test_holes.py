"""Holes: every kind, at every size, has the share and the shape it promises."""

import numpy as np
import pytest
import torch

from maskweave.errors import MaskweaveError
from maskweave.holes import KINDS, LARGEST_SHARE, draw_hole, draw_holes, known_patches, token_mask


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), [(64, 64), (256, 256), (48, 100), (8, 9)])
def test_a_hole_is_never_empty_and_never_more_than_half(kind: str, height: int, width: int) -> None:
    for seed in range(20):
        hole = draw_hole(kind, height, width, np.random.default_rng(seed))
        assert hole.shape == (height, width)
        assert hole.dtype == np.bool_
        share = hole.mean()
        # The halves of an odd width differ by a column.
        assert 0 < share <= LARGEST_SHARE + (1 / min(height, width) if kind == "half" else 0)


@pytest.mark.parametrize("kind", KINDS)
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


def test_thick_strokes_are_thicker_than_thin_ones() -> None:
    from scipy.ndimage import distance_transform_edt

    def depth(kind: str) -> float:
        holes = draw_holes([kind], 50, 128, 128, np.random.default_rng(0)).numpy()
        return float(np.mean([distance_transform_edt(hole).max() for hole in holes]))

    assert depth("thin") < depth("medium") < depth("thick")


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
