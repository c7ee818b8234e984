"""The guide of the first level: an interpolation of the known pixels and nothing else."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.restoration import inpaint_biharmonic

from maskweave.guide import bend, interpolated, plain_kept_plain, push_pull, shading
from maskweave.holes import KINDS, draw_hole

SIZES = st.tuples(st.integers(1, 70), st.integers(1, 70))


def random_hole(height: int, width: int, share: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, height, width, generator=generator) < share


@settings(max_examples=40, deadline=None)
@given(SIZES, st.floats(0, 1), st.integers(0, 2**32))
def test_known_pixels_stay_and_fills_lie_within_their_range(
    size: tuple[int, int], share: float, seed: int
) -> None:
    hole = random_hole(*size, share, seed)
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    filled = push_pull(image, hole)
    outside = ~hole[:, None].expand_as(image)
    assert torch.equal(filled[outside], image[outside])
    for colour, result in zip(image[0], filled[0], strict=True):
        found = colour[~hole[0]] if not hole.all() else torch.zeros(1)
        assert found.min() - 1e-6 <= result.min()
        assert result.max() <= found.max() + 1e-6


@settings(max_examples=40, deadline=None)
@given(SIZES, st.floats(0, 1), st.integers(0, 2**32), st.floats(-1, 1))
def test_a_constant_stays_constant(
    size: tuple[int, int], share: float, seed: int, value: float
) -> None:
    hole = random_hole(*size, share, seed)
    image = torch.full((1, 3, *size), value)
    expected = torch.zeros_like(image) if hole.all() else image
    torch.testing.assert_close(push_pull(image, hole), expected, atol=1e-6, rtol=0)


@settings(max_examples=20, deadline=None)
@given(SIZES, st.integers(0, 2**32))
def test_nothing_is_read_under_the_hole_nor_in_other_images(
    size: tuple[int, int], seed: int
) -> None:
    hole = torch.cat([random_hole(*size, 0.5, seed), random_hole(*size, 0.9, seed + 1)])
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(seed))
    other = image.masked_fill(hole[:, None], torch.nan)
    filled = push_pull(image, hole)
    assert torch.equal(push_pull(other, hole), filled)
    for i in range(2):
        torch.testing.assert_close(push_pull(image[i : i + 1], hole[i : i + 1])[0], filled[i])


def test_an_image_without_known_pixels_is_zero_and_one_known_pixel_fills_it() -> None:
    image, hole = torch.rand(1, 3, 37, 50), torch.ones(1, 37, 50, dtype=torch.bool)
    assert not push_pull(image, hole).any()
    hole[0, 20, 3] = False
    expected = image[:, :, 20, 3, None, None].expand_as(image)
    torch.testing.assert_close(push_pull(image, hole), expected)


@pytest.mark.parametrize("kind", KINDS[:-1])  # beyond the border of a half there is nothing
def test_ramps_come_out_nearly_as_ramps(kind: str) -> None:
    rows, columns = torch.linspace(-1, 1, 128)[:, None], torch.linspace(-1, 1, 128)
    ramps = torch.stack([rows.expand(128, 128), columns.expand(128, 128), (rows + columns) / 2])
    rng = np.random.default_rng(0)
    holes = torch.from_numpy(np.stack([draw_hole(kind, 128, 128, rng) for _ in range(16)]))
    holes[:, [0, -1]] = holes[:, :, [0, -1]] = False  # else there is nothing to see across it
    filled = push_pull(ramps.expand(16, 3, 128, 128), holes)
    error = (filled - ramps).abs().mean(1)[holes].mean()
    blank = ramps.abs().mean(0).expand(16, 128, 128)[holes].mean()
    assert error < 0.04
    assert error < blank / 8


def test_an_image_takes_a_millisecond_or_so() -> None:
    image = torch.rand(16, 3, 128, 128)
    hole = torch.rand(16, 128, 128) < 0.5
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = []
        for _ in range(8):
            start = time.perf_counter()
            push_pull(image, hole)
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    assert min(times) / 16 < 4e-3


@settings(max_examples=40, deadline=None)
@given(SIZES, st.floats(0, 1), st.integers(0, 2**32))
def test_bending_keeps_known_pixels_and_the_range(
    size: tuple[int, int], share: float, seed: int
) -> None:
    hole = random_hole(*size, share, seed)
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    bent = bend(image, hole)
    outside = ~hole[:, None].expand_as(image)
    assert torch.equal(bent[outside], image[outside])
    assert bent.isfinite().all() and bent.abs().max() <= 1


def test_bending_ends_in_the_biharmonic_surface(rng: np.random.Generator) -> None:
    hole = torch.zeros(1, 24, 24, dtype=torch.bool)
    hole[0, 9:14, 4:18] = True  # further than two pixels from the edge, beyond which ends differ
    image = torch.from_numpy(rng.uniform(-0.5, 0.5, (1, 3, 24, 24))).float()
    image[..., 0, 0], image[..., 0, 1] = -1, 1  # scikit-image clips to the range of what is known
    expected = inpaint_biharmonic(
        image[0].permute(1, 2, 0).numpy(), hole[0].numpy(), channel_axis=2
    )
    bent = bend(push_pull(image, hole), hole, steps=100)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(bent, expected.clip(-1, 1), atol=1e-3)


def test_the_guide_carries_ramps_across_scratches(rng: np.random.Generator) -> None:
    ramp = torch.linspace(-0.9, 0.9, 128).expand(1, 3, 128, 128)
    hole = torch.from_numpy(draw_hole("scratch", 128, 128, rng))[None]
    hole[..., [0, -1]] = False
    errors = [
        (filled - ramp).abs().mean(1)[hole].mean()
        for filled in (push_pull(ramp, hole), interpolated(ramp, hole).pixels)
    ]
    assert errors[1] < errors[0] / 2


def shaded(seed: int) -> torch.Tensor:
    """Return an image whose colours are quadratic in its rows and columns."""
    slopes = torch.rand(3, 6, generator=torch.Generator().manual_seed(seed)) * 0.3 - 0.15
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 128), indexing="ij")
    return (slopes @ torch.stack([x**0, x, y, x * x, x * y, y * y]).flatten(1)).view(1, 3, 96, 128)


@pytest.mark.parametrize("kind", KINDS)
def test_the_guide_carries_shades_into_any_hole(kind: str) -> None:
    for seed in range(4):
        image = shaded(seed)
        hole = torch.from_numpy(draw_hole(kind, 96, 128, np.random.default_rng(seed)))[None]
        filled = interpolated(image, hole).pixels
        assert (filled - image).abs().mean(1)[hole].mean() < 0.01


@settings(max_examples=40, deadline=None)
@given(SIZES, st.floats(0, 1), st.integers(0, 2**32))
def test_the_guide_keeps_known_pixels_and_the_range_and_does_not_peek(
    size: tuple[int, int], share: float, seed: int
) -> None:
    hole = random_hole(*size, share, seed)
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    filled = interpolated(image, hole).pixels
    outside = ~hole[:, None].expand_as(image)
    assert torch.equal(filled[outside], image[outside])
    assert filled.isfinite().all() and filled.abs().max() <= 1
    other = image.masked_fill(hole[:, None], torch.nan)
    assert torch.equal(interpolated(other, hole).pixels[:, :, hole[0]], filled[:, :, hole[0]])


def test_the_surface_is_next_to_nothing_where_pixels_do_not_lie_on_one() -> None:
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    image[0] = torch.where(torch.arange(64) < 40, -1.0, 1.0)  # an edge
    hole = torch.zeros(2, 64, 64, dtype=torch.bool)
    hole[:, 10:50, 20:60] = True
    surface = shading(image, hole)
    means = surface.mean((2, 3), keepdim=True)
    assert (surface - means)[1].abs().max() < 1e-3
    assert (surface - means)[0].abs().mean() < 0.3


def box() -> torch.Tensor:
    """Return a hole in the middle of such an image."""
    hole = torch.zeros(1, 96, 128, dtype=torch.bool)
    hole[:, 24:72, 32:96] = True
    return hole


def test_shades_are_kept_from_what_is_painted_on_them() -> None:
    image, hole = (shaded(1) * 127.5).round() / 127.5, box()
    guide = interpolated(image, hole)
    painted = image + 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        plain_kept_plain(painted, image, hole, guide),
        torch.where(hole[:, None], guide.pixels, image),
    )


def test_what_is_painted_on_texture_stays_to_the_byte() -> None:
    generator = torch.Generator().manual_seed(0)
    image, hole = shaded(1), box()
    textured = image + 4 / 255 * torch.randn(image.shape, generator=generator)
    painted = torch.randn(image.shape, generator=generator)
    guide = interpolated(textured, hole)
    assert torch.equal(plain_kept_plain(painted, textured, hole, guide), painted)


@pytest.mark.parametrize("known", [0, 100])
def test_few_known_pixels_do_not_tell_that_there_is_no_texture(known: int) -> None:
    image, hole = torch.zeros(1, 3, 40, 48), torch.ones(1, 40, 48, dtype=torch.bool)
    hole.flatten()[:known] = False
    painted = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain_kept_plain(painted, image, hole, interpolated(image, hole)), painted)


def test_whether_there_is_texture_is_not_read_under_the_hole() -> None:
    image, hole = shaded(1), box()
    hidden = torch.where(hole[:, None], torch.rand(image.shape), image)
    painted, guide = torch.zeros_like(image), interpolated(image, hole)
    assert torch.equal(*(plain_kept_plain(painted, each, hole, guide) for each in (image, hidden)))
