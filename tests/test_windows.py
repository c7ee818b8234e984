"""Levels and windows of photos of any size: what a plan promises, for any hole."""

import time
from collections.abc import Callable, Iterator
from itertools import combinations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from maskweave.errors import MaskweaveError
from maskweave.levels import enlarge_guide, plan_levels, shrink_photo
from maskweave.windows import Window, plan_windows

SIDE, MARGIN, CORE = 16, 4, 8
"""Of windows that are small enough to search for counterexamples."""


@st.composite
def holes(draw: st.DrawFn, smallest: int = 1, largest: int = 90) -> np.ndarray:
    """Draw specks, lines and boxes in a photo, of any shape."""
    height, width = (draw(st.integers(smallest, largest)) for _ in range(2))
    canvas = np.zeros((height, width), dtype=np.uint8)
    place = st.tuples(st.integers(0, width - 1), st.integers(0, height - 1))
    for x, y in draw(st.lists(place, max_size=8)):
        canvas[y, x] = 1
    for start, end in draw(st.lists(st.tuples(place, place), max_size=3)):
        cv2.line(canvas, start, end, 1, draw(st.integers(1, 4)))
    for (x, y), (columns, rows) in draw(st.lists(st.tuples(place, place), max_size=2)):
        canvas[y : y + rows, x : x + columns] = 1
    return canvas.astype(bool)


def planned(hole: np.ndarray, side: int = SIDE, context: float = 0.25) -> list[Window]:
    return [window for windows in plan_windows(hole, side, context=context) for window in windows]


def meet(one: Window, other: Window) -> bool:
    return all(
        a.start < b.stop and b.start < a.stop
        for a, b in ((one.rows, other.rows), (one.columns, other.columns))
    )


def axes(window: Window, hole: np.ndarray) -> Iterator[tuple[slice, slice, int]]:
    """Yield the extent of the window, that of its core and the photo's side, for both axes."""
    yield window.rows, window.core_rows, hole.shape[0]
    yield window.columns, window.core_columns, hole.shape[1]


CONTEXTS = st.sampled_from([0, 0.1, 0.25, 0.4])


@settings(max_examples=80, deadline=None)
@given(holes(), CONTEXTS)
def test_every_hole_pixel_belongs_to_exactly_one_window(hole: np.ndarray, context: float) -> None:
    owners = np.zeros(hole.shape, dtype=int)
    for window in planned(hole, context=context):
        part = window.part(hole)
        assert part.shape == (SIDE, SIDE)
        assert part.any()
        rows, columns = np.nonzero(part)
        owners[rows + window.rows.start, columns + window.columns.start] += 1
    assert np.array_equal(owners, hole.astype(int))


@settings(max_examples=80, deadline=None)
@given(holes(), st.sampled_from([8, 13, 16, 31]), CONTEXTS)
def test_windows_are_squares_in_the_photo_with_context_around_their_parts(
    hole: np.ndarray, side: int, context: float
) -> None:
    context = context if side > 10 else 0.25  # others leave no core
    for window in planned(hole, side, context):
        for extent, core, limit in axes(window, hole):
            assert extent.stop - extent.start == side
            assert extent.start >= 0
            if limit < side:
                assert extent.start == 0
                continue
            assert extent.stop <= limit
            assert core.start - extent.start >= side * context or extent.start == 0
            assert extent.stop - core.stop >= side * context or extent.stop == limit


@settings(max_examples=60, deadline=None)
@given(holes())
def test_windows_of_a_round_do_not_meet_and_each_meets_one_of_every_earlier_round(
    hole: np.ndarray,
) -> None:
    rounds = plan_windows(hole, SIDE)
    for number, windows in enumerate(rounds):
        assert not any(meet(one, other) for one, other in combinations(windows, 2))
        for earlier in rounds[:number]:
            assert all(any(meet(one, other) for other in earlier) for one in windows)


@settings(max_examples=50, deadline=None)
@given(holes(), st.randoms(use_true_random=False))
def test_the_order_within_a_round_changes_nothing(hole: np.ndarray, random: object) -> None:
    photo = np.random.default_rng(0).random((*hole.shape, 1))
    photo[hole] = 0

    def fill(arrange: Callable[[list[Window]], None]) -> np.ndarray:
        canvas, left = photo.copy(), hole.copy()
        for windows in plan_windows(hole, SIDE):
            arrange(windows)
            for window in windows:
                seen = window.cut(canvas, 0.5)
                weights = np.arange(seen.size).reshape(seen.shape)
                picture = np.full(seen.shape, np.sin((seen * weights).sum()))
                window.paste(canvas, picture, hole)
                left[window.core_rows, window.core_columns] = False
        assert not left.any()
        return canvas

    filled = fill(lambda windows: None)
    assert np.array_equal(filled[~hole], photo[~hole])
    assert np.array_equal(fill(random.shuffle), filled)  # type: ignore[attr-defined]


@settings(max_examples=50, deadline=None)
@given(holes())
def test_windows_with_the_least_hole_come_first(hole: np.ndarray) -> None:
    rounds = plan_windows(hole, SIDE)
    if rounds:
        counts = [[window.cut(hole, False).sum() for window in windows] for windows in rounds]
        assert counts[0][0] == min(map(min, counts))
        assert all(one == sorted(one) for one in counts)


@settings(max_examples=50, deadline=None)
@given(holes(largest=SIDE))
def test_a_photo_that_fits_into_a_window_is_one_level_and_one_window(hole: np.ndarray) -> None:
    [level] = plan_levels(hole, SIDE)
    assert np.array_equal(level.thin, hole)
    assert len(planned(hole)) == hole.any()
    photo = np.ones((*hole.shape, 3), dtype=np.uint8)
    for window in planned(hole):
        unknown = window.cut(hole, True)
        assert np.array_equal(unknown[: hole.shape[0], : hole.shape[1]], hole)
        assert unknown.sum() == hole.sum() + SIDE * SIDE - hole.size
        assert window.cut(photo, 0).sum() == photo.sum()


def test_beyond_the_photo_lies_what_is_asked_for() -> None:
    photo = np.arange(5 * 20).reshape(5, 20)
    window = Window(slice(0, 8), slice(12, 20), slice(0, 5), slice(14, 18))
    assert np.array_equal(window.cut(photo, 7)[:5], photo[:, 12:])
    assert (window.cut(photo, 7)[5:] == 7).all()
    assert (window.cut(photo, None) == photo[[0, 1, 2, 3, 4, 4, 4, 4], 12:]).all()


@given(st.integers(0, 90), st.integers(0, 90), st.integers(1, CORE), st.integers(1, CORE))
@settings(max_examples=50, deadline=None)
def test_a_hole_of_up_to_half_a_window_takes_one(y: int, x: int, rows: int, columns: int) -> None:
    hole = np.zeros((100, 100), dtype=bool)
    hole[y : y + rows, x : x + columns] = True
    assert len(planned(hole)) == 1


def drawn(start: tuple[int, int], end: tuple[int, int], thick: int = 5) -> np.ndarray:
    canvas = np.zeros((1200, 1600), dtype=np.uint8)
    cv2.line(canvas, start, end, 1, thick)
    return canvas.astype(bool)


@pytest.mark.parametrize("end", [(1540, 40), (40, 1140), (1100, 1100), (1540, 240), (240, 1140)])
def test_a_scratch_takes_about_one_window_for_each_half_window_of_it(end: tuple[int, int]) -> None:
    longer = max(end) - 40 + 5
    assert len(planned(drawn((40, 40), end), 128)) <= 1.15 * longer / 64 + 1


def test_neighbouring_specks_share_a_window_and_far_ones_do_not_disturb_it() -> None:
    rng = np.random.default_rng(0)
    hole = np.zeros((2000, 2000), dtype=bool)
    corners = [(400 * i + 31 * j, 400 * j + 17 * i) for i in range(5) for j in range(5)]
    for y, x in corners:
        hole[y + rng.integers(0, 64, 20), x + rng.integers(0, 64, 20)] = True
    assert len(planned(hole, 128)) == len(corners)


def test_windows_without_a_core_are_refused_and_an_empty_hole_has_no_windows() -> None:
    hole = np.zeros((40, 40), dtype=bool)
    assert plan_windows(hole, SIDE) == []
    for side, context in ((16, 0.5), (1, 0.25), (0, 0.0), (16, -0.1)):
        with pytest.raises(MaskweaveError, match="has no core"):
            plan_windows(hole, side, context=context)


def thickness(hole: np.ndarray) -> float:
    """Return twice the largest distance to a known pixel, or the longer side if there is none."""
    if hole.all():
        return float(max(hole.shape))
    return 2 * cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, 0).max()


@pytest.mark.parametrize(
    ("rows", "levels"),
    [
        (slice(50, 51), 1),
        (slice(50, 177), 1),
        (slice(50, 180), 2),
        (slice(0, 64), 1),
        (slice(0, 66), 2),  # nothing is known beyond the border
    ],
)
def test_a_hole_is_as_thick_as_twice_the_distance_to_a_known_pixel(
    rows: slice, levels: int
) -> None:
    hole = np.zeros((300, 300), dtype=bool)
    hole[rows] = True
    assert len(plan_levels(hole, 128)) == levels


@settings(max_examples=60, deadline=None)
@given(holes(largest=150))
def test_levels_divide_the_hole_until_it_is_at_most_a_window_thick(hole: np.ndarray) -> None:
    levels = plan_levels(hole, SIDE)
    for exponent, level in enumerate(levels):
        assert level.exponent == exponent
        assert level.thin.shape == hole.shape
        assert not (level.thin & level.thick).any()
        assert np.array_equal(level.thin | level.thick, hole)
        assert level.thick.any() == (level is not levels[-1])
        assert thickness(level.thin) <= SIDE or max(hole.shape) <= SIDE
        _, hole = shrink_photo(np.zeros((*hole.shape, 1), dtype=np.uint8), level.thick)


@settings(max_examples=60, deadline=None)
@given(holes(largest=150), st.integers(0, 3))
def test_limited_levels_are_the_first_ones_and_the_last_of_them_fills_the_rest(
    hole: np.ndarray, most: int
) -> None:
    levels, limited = plan_levels(hole, SIDE), plan_levels(hole, SIDE, most)
    assert len(limited) == min(len(levels), most + 1)
    for level, same in zip(levels, limited[:-1], strict=False):
        assert np.array_equal(level.thin, same.thin) and np.array_equal(level.thick, same.thick)
    last = levels[len(limited) - 1]
    assert np.array_equal(limited[-1].thin, last.thin | last.thick)
    assert not limited[-1].thick.any()


@pytest.mark.parametrize("width", [129, 200, 300, 600])
def test_the_first_level_is_the_first_at_which_the_hole_is_thin_enough(width: int) -> None:
    hole = np.zeros((900, 1200), dtype=bool)
    hole[200 : 200 + width, 300:800] = True
    levels = plan_levels(hole, 128)
    found = min(k for k in range(9) if thickness(levels[0].thick) / 2**k <= 128)
    assert len(levels) == found + 1
    assert np.array_equal(levels[0].thick, hole)


def test_thin_parts_of_a_hole_stay_at_native_pixels() -> None:
    person = np.zeros((1200, 1600), dtype=bool)
    person[400:800, 500:650] = True
    wire = drawn((0, 600), (1599, 620), 7)  # from edge to edge, across the person
    speck = np.zeros_like(person)
    speck[100:103, 100:103] = True
    first, *coarser = plan_levels(person | wire | speck, 128)
    assert np.array_equal(first.thick & person, person)
    assert (first.thin & speck).sum() == speck.sum()
    assert (first.thick & wire & ~person).sum() < 0.1 * wire.sum()
    assert not any(level.thin[:, : level.thin.shape[1] // 5].any() for level in coarser)
    # What is left of the wire takes a window for each half window of it.
    assert len(planned(first.thin, 128)) <= wire.any(0).sum() / 64 + 2


@pytest.mark.parametrize("shape", [(500, 700), (40, 700), (129, 129), (1, 700)])
def test_a_photo_without_a_known_pixel_is_shrunk_into_one_window(shape: tuple[int, int]) -> None:
    levels = plan_levels(np.ones(shape, dtype=bool), 128)
    assert all(level.thick.all() for level in levels[:-1])
    assert max(levels[-1].thin.shape) <= 128
    assert len(planned(levels[-1].thin, 128)) == 1


def walk(photo: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fill a photo as the module says, each window with the mean of what is known in it."""
    levels, photo, unknown = plan_levels(hole, SIDE), photo.copy(), hole.copy()

    def paint(part: np.ndarray, guide: np.ndarray | None = None) -> None:
        for window in planned(part):
            known = window.cut(photo, 0)[~window.cut(unknown, True)]
            mean = known.mean() if len(known) else 0
            picture = np.full((SIDE, SIDE, 1), mean) if guide is None else window.cut(guide, 0)
            window.paste(photo, picture, part)
            window.paste(unknown, np.zeros((SIDE, SIDE), dtype=bool), part)

    above = []
    for level in levels:
        paint(level.thin)
        assert np.array_equal(unknown, level.thick)
        above.append((photo, unknown))
        photo, unknown = shrink_photo(photo, unknown)
    photo, unknown = above.pop()
    for level in levels[-2::-1]:
        guide = enlarge_guide(photo, *level.thick.shape)
        photo, unknown = above.pop()
        paint(level.thick, guide)
        assert not unknown.any()
    return photo


@settings(max_examples=40, deadline=None)
@given(holes(largest=150))
def test_down_and_up_again_all_is_filled_from_what_is_known(hole: np.ndarray) -> None:
    photo = np.random.default_rng(0).uniform(1, 2, (*hole.shape, 1))
    filled = walk(photo, hole)
    assert np.array_equal(filled[~hole], photo[~hole])
    assert hole.all() or (filled >= 1 - 1e-6).all()
    assert np.array_equal(walk(np.where(hole[:, :, None], np.nan, photo), hole), filled)


PIXELS = arrays(
    np.uint8,
    st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3)),
    elements=st.integers(0, 255),
)


@settings(max_examples=60, deadline=None)
@given(PIXELS, st.floats(0, 1), st.sampled_from(["uint8", "uint16", "float32"]))
def test_a_coarse_pixel_is_the_mean_of_the_known_finer_ones(
    pixels: np.ndarray, share: float, kind: str
) -> None:
    pixels = pixels.astype(kind) * (257 if kind == "uint16" else 1)
    hole = np.random.default_rng(0).random(pixels.shape[:2]) < share
    small, small_hole = shrink_photo(pixels, hole)
    assert small.dtype == pixels.dtype
    for i, j in np.ndindex(small_hole.shape):
        block = (slice(2 * i, 2 * i + 2), slice(2 * j, 2 * j + 2))
        known = pixels[block][~hole[block]].astype(float)
        assert small_hole[i, j] == (len(known) < hole[block].size / 2)
        expected = np.zeros(3) if small_hole[i, j] else known.mean(0)
        if kind != "float32":
            expected = np.rint(expected)
        np.testing.assert_allclose(small[i, j], expected, rtol=1e-6)
    other = np.where(hole[:, :, None], 99, pixels).astype(kind)
    assert np.array_equal(shrink_photo(other, hole)[0], small)


@pytest.mark.parametrize(("height", "width"), [(40, 60), (41, 60), (40, 61), (7, 9)])
def test_shrinking_and_enlarging_keeps_a_ramp(height: int, width: int) -> None:
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    ramp = np.stack([rows, columns, 2 * rows - columns + 3], axis=2)
    coarse, hole = shrink_photo(ramp, np.zeros((height, width), dtype=bool))
    assert not hole.any()
    fine = enlarge_guide(coarse, height, width)
    assert fine.shape == ramp.shape
    inner = slice(1, -2)  # the last coarse pixel of an odd side is half a pixel off
    np.testing.assert_allclose(fine[inner, inner], ramp[inner, inner], atol=1e-4)
    np.testing.assert_allclose(fine, ramp, atol=2)


def test_an_enlarged_guide_has_the_kind_of_its_pixels_and_any_channels() -> None:
    for channels in (1, 3, 4):
        coarse = np.full((5, 7, channels), 77, dtype=np.uint8)
        fine = enlarge_guide(coarse, 9, 14)
        assert fine.shape == (9, 14, channels)
        assert fine.dtype == np.uint8
        assert (fine == 77).all()


def test_two_hundred_thousand_specks_on_24_megapixels_are_planned_in_a_second() -> None:
    rng = np.random.default_rng(0)
    hole = np.zeros((4000, 6000), dtype=bool)
    hole[rng.integers(0, 4000, 200_000), rng.integers(0, 6000, 200_000)] = True

    def plan() -> tuple[float, int]:
        start = time.process_time()
        [level] = plan_levels(hole, 128)
        windows = planned(level.thin, 128)
        return time.process_time() - start, len(windows)

    seconds, windows = min(plan() for _ in range(3))  # other processes slow the memory down
    assert seconds < 1
    assert windows <= -(-4000 // 64) * -(-6000 // 64)
