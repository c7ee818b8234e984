"""What a model sees of a picture, and what becomes of what it paints: the laws for every depth."""

import io

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maskweave.errors import MaskweaveError
from maskweave.images import Picture, as_picture, check_output, converted
from test_depth import HEIGHT, LARGEST, WIDTH, opacity, same, values

HOLE = np.zeros((HEIGHT, WIDTH), dtype=bool)
HOLE[2:5, 3:6] = True
FLOATS = np.random.default_rng(0).random((HEIGHT, WIDTH, 3)).astype(np.float32)


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", LARGEST)
def test_what_lies_under_the_hole_changes_nothing(dtype: str, channels: int, alpha: bool) -> None:
    array, opaque = values(dtype, channels), opacity(dtype) if alpha else None
    other, over = array.copy(), None if opaque is None else opaque.copy()
    other[HOLE] = np.nan if dtype == "float32" else 1
    if over is not None:
        over[HOLE] = 0
        over[0, 0] = opaque[0, 0] = 0  # type: ignore[index]
    one, two = Picture(array, opaque), Picture(other, over)
    assert np.array_equal(one.seen(HOLE)[~HOLE], two.seen(HOLE)[~HOLE])
    painted = np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    filled = one.filled(painted, HOLE), two.filled(painted, HOLE)
    assert same(filled[0].values, filled[1].values) and same(filled[0].alpha, filled[1].alpha)
    assert same(filled[0].values[~HOLE], array[~HOLE])
    if opaque is not None and filled[0].alpha is not None:
        assert same(filled[0].alpha[~HOLE], opaque[~HOLE])
        assert (filled[0].alpha[HOLE] == LARGEST[dtype]).all()


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_the_range_near_the_hole_is_seen_from_black_to_white(one: int, two: int) -> None:
    array = np.full((HEIGHT, WIDTH, 3), one, dtype=np.uint16)
    array[0] = two
    low, high = sorted((one, two))
    for picture in (Picture(array), Picture(array.astype(np.float32) - 1000)):
        seen, shift = picture.seen(HOLE), 0 if picture.values.dtype == np.uint16 else 1000
        assert low == high or {seen[0, 0, 0], seen[1, 0, 0]} == {0, 255}
        for level in (0, 51, 255):
            painted = np.full((HEIGHT, WIDTH, 3), level, dtype=np.uint8)
            found = picture.filled(painted, HOLE).values[HOLE]
            assert np.allclose(found + shift, low + (high - low) * level / 255, atol=0.51)


def test_only_values_near_the_hole_count_and_others_are_clipped() -> None:
    array = np.full((10, 300), 1000, dtype=np.uint16)
    array[:, :100], array[:, 200] = 500, 65_535
    array[:, 110:130] = 1200
    hole = np.zeros((10, 300), dtype=bool)
    hole[4:6, 120:125] = True  # 64 pixels reach from 56 to 188
    seen = Picture(array).seen(hole)
    assert seen[0, 0, 0] == 0 and seen[0, 115, 0] == 255 and seen[0, 200, 0] == 255
    assert seen[0, 250, 0] == round(500 / 700 * 255)


def test_numbers_that_are_none_survive_outside_the_hole() -> None:
    array = values("float32")
    array[0, 0], array[6, 8] = np.nan, np.inf
    picture = Picture(array)
    clean = Picture(np.where(np.isfinite(array), array, 0).astype(np.float32))
    assert np.array_equal(picture.seen(HOLE)[1:5], clean.seen(HOLE)[1:5])
    filled = picture.filled(picture.seen(HOLE), HOLE).values
    assert same(filled[~HOLE], array[~HOLE]) and np.isfinite(filled[HOLE]).all()


def test_without_known_pixels_the_whole_range_is_painted() -> None:
    everywhere = np.ones((HEIGHT, WIDTH), dtype=bool)
    white = np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8)
    for dtype, largest in LARGEST.items():
        assert (Picture(values(dtype)).filled(white, everywhere).values == largest).all()


def test_known_pixels_may_be_painted_over() -> None:
    for dtype in LARGEST:
        picture = Picture(values(dtype))
        painted = picture.seen(HOLE).copy()
        painted[0, 0] = 255 - painted[0, 0]
        changed = HOLE.copy()
        changed[0, 0] = True
        filled = picture.filled(painted, HOLE, keep_known=False).values
        assert same(filled[~changed], picture.values[~changed])
        assert not (filled[0, 0] == picture.values[0, 0]).all()


def test_grey_is_painted_grey_and_stays_what_it_is() -> None:
    picture = Picture(values("uint8", 1))
    assert np.array_equal(picture.seen(HOLE), np.stack([picture.values] * 3, axis=2))
    assert same(picture.filled(picture.seen(HOLE), HOLE).values, picture.values)


def test_training_and_evaluation_see_the_whole_range() -> None:
    array = np.array([[0, 257 * 7, 65535]], dtype=np.uint16)
    assert Picture(array).pixels[0, :, 0].tolist() == [0, 7, 255]
    assert Picture(array.astype(np.float32) / 65535).pixels[0, :, 0].tolist() == [0, 7, 255]
    with pytest.raises(MaskweaveError, match="beyond 0 to 1"):
        _ = Picture(array.astype(np.float32)).pixels


@pytest.mark.parametrize("dtype", LARGEST)
def test_arrays_and_tensors_come_back_exactly(dtype: str) -> None:
    array = values(dtype, 4) if dtype != "float32" else np.dstack([opacity(dtype)] * 4)
    for each in (array[:, :, :3], array, array[:, :, 0]):
        picture = as_picture(each)
        tensor = torch.from_numpy(each if each.ndim == 3 else each[:, :, None])
        assert same(as_picture(tensor.permute(2, 0, 1)).values, picture.values)
        found = converted(picture, "np")
        wanted = each if each.ndim == 3 else np.dstack([each] * 3)
        assert found.dtype == np.float32
        assert np.allclose(found.astype(np.float64) * LARGEST[dtype], wanted, atol=0.01)
        assert np.array_equal(converted(picture, "pt").permute(1, 2, 0).numpy(), found)


def test_pil_keeps_the_depths_that_it_has() -> None:
    for dtype, mode in (("uint8", "L"), ("uint16", "I;16"), ("float32", "F")):
        array = values(dtype, 1)
        picture = as_picture(Image.fromarray(array))
        assert same(picture.values, array)
        image = converted(picture, "pil")
        assert image.mode == mode and same(np.array(image), array)
    for each in (FLOATS, FLOATS[:, :, 0], np.dstack([FLOATS, FLOATS[:, :, 0]])):
        image = converted(as_picture(each), "pil")
        assert same(np.array(image), (each * 255).round().astype(np.uint8))
    with pytest.raises(MaskweaveError, match="output_type 'np'"):
        check_output(Picture(values("uint16")), "pil")
    with pytest.raises(MaskweaveError, match="8 of its 16 bits"):
        as_picture(Image.open(io.BytesIO(cv2.imencode(".png", values("uint16"))[1].tobytes())))
