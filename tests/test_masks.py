"""What in a mask is the hole: by alpha, depth, threshold and growth; and what is refused."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import binary_dilation, gaussian_filter

from maskweave.errors import MaskweaveError
from maskweave.images import Picture
from maskweave.masks import as_mask, read_mask
from maskweave.metadata import About

MARKS = np.zeros((20, 24), dtype=bool)
MARKS[5:9, 6:15] = True
WHITE = MARKS * np.uint8(255)


def photo(height: int = 20, width: int = 24, orientation: int = 1) -> Picture:
    return Picture(np.zeros((height, width, 3), np.uint8), about=About(orientation=orientation))


def saved(levels: np.ndarray | Image.Image, file: Path, **options: Any) -> Path:
    if isinstance(levels, np.ndarray) and levels.ndim == 3 and levels.dtype == np.uint16:
        assert cv2.imwrite(str(file), levels)  # Pillow writes no deep colours
        return file
    image = levels if isinstance(levels, Image.Image) else Image.fromarray(levels)
    image.save(file, **options)
    return file


def layer(colour: tuple[int, int, int], below: tuple[int, int, int]) -> np.ndarray:
    """Return what a brush leaves on an empty layer."""
    pixels = np.zeros((*MARKS.shape, 4), dtype=np.uint8)
    pixels[:, :, :3] = below
    pixels[MARKS] = (*colour, 255)
    return pixels


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (255, 0, 0)])
@pytest.mark.parametrize("below", [(255, 255, 255), (0, 0, 0), (7, 80, 200)])
def test_a_brush_of_one_colour_on_an_empty_layer_is_the_hole(
    colour: tuple[int, int, int], below: tuple[int, int, int], tmp_path: Path
) -> None:
    file = saved(layer(colour, below), tmp_path / "m.png")
    assert np.array_equal(read_mask(file).hole, MARKS)
    assert np.array_equal(read_mask(file, invert=True).hole, ~MARKS)
    deep = saved(layer(colour, below).astype(np.uint16) * 257, tmp_path / "deep.png")
    assert np.array_equal(read_mask(deep).hole, MARKS)


def test_a_soft_brush_whose_colour_was_premultiplied_has_one_colour(tmp_path: Path) -> None:
    alpha = np.round(gaussian_filter(WHITE.astype(np.float64), 1.5))
    premultiplied = np.round(np.array([200, 90, 30]) * alpha[:, :, None] / 255)
    colour = np.round(premultiplied / np.maximum(alpha, 1)[:, :, None] * 255)
    pixels = np.dstack([colour, alpha]).astype(np.uint8)
    mask = read_mask(saved(pixels, tmp_path / "m.png"), threshold=64)
    assert np.array_equal(mask.hole, alpha >= 64)


def test_an_alpha_that_says_nothing_is_ignored(tmp_path: Path) -> None:
    pixels = np.dstack([WHITE] * 3 + [np.full_like(WHITE, 200)])
    assert np.array_equal(read_mask(saved(pixels, tmp_path / "m.png")).hole, MARKS)


def test_colour_and_alpha_that_both_vary_are_ambiguous(tmp_path: Path) -> None:
    alpha = np.full_like(WHITE, 255)
    alpha[0, 0] = 0
    for name, pixels in {
        "both.png": np.dstack([WHITE] * 3 + [alpha]),
        "hidden.png": np.dstack([WHITE] * 3 + [np.zeros_like(WHITE)]),
    }.items():
        with pytest.raises(MaskweaveError, match=f"{name}: its colour and its alpha both vary"):
            read_mask(saved(pixels, tmp_path / name))


def test_a_layer_that_nobody_painted_on_is_empty(tmp_path: Path) -> None:
    empty = np.dstack([np.full_like(WHITE, 255)] * 3 + [np.zeros_like(WHITE)])
    mask = read_mask(saved(empty, tmp_path / "m.png"))
    assert not mask.hole.any()
    assert mask.notes == ("the mask is empty: nothing to fill",)


def palette(first: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(MARKS.astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, *first])
    return image


DARK = {
    "red": (np.dstack([WHITE, WHITE * 0, WHITE * 0]), "76 of 255"),
    "label": (MARKS.astype(np.uint8), "1 of 255"),
    "deep label": (MARKS.astype(np.uint16), "1 of 65535"),
    "palette": (palette((128, 0, 0)), "38 of 255"),
    "faint": (Image.fromarray(MARKS * np.float32(0.25)), "0.25 of 1"),
}


@pytest.mark.parametrize("name", DARK)
def test_marks_that_are_not_white_are_refused_with_their_level(name: str, tmp_path: Path) -> None:
    marks, level = DARK[name]
    file = saved(marks, tmp_path / "m.tif")
    with pytest.raises(MaskweaveError, match=f"its brightest pixel is {level}; --threshold 1"):
        read_mask(file)
    if name != "deep label":
        assert np.array_equal(read_mask(file, threshold=1).hole, MARKS)


def test_grey_marks_on_white_are_refused_when_black_is_the_hole(tmp_path: Path) -> None:
    file = saved(255 - MARKS * np.uint8(60), tmp_path / "m.png")
    with pytest.raises(MaskweaveError, match="its darkest pixel is 195 of 255; --threshold 255"):
        read_mask(file, invert=True)
    assert np.array_equal(read_mask(file, invert=True, threshold=255).hole, MARKS)


def test_everything_is_hole_only_where_the_mask_is_of_one_colour(tmp_path: Path) -> None:
    white = read_mask(saved(np.full_like(WHITE, 255), tmp_path / "white.png"))
    black = read_mask(saved(WHITE * 0, tmp_path / "black.png"), invert=True)
    for mask in (white, black):
        assert mask.hole.all()
        assert mask.notes == ("100% of the image is hole: is the mask inverted?",)
    light = saved(WHITE // 2 + np.uint8(128), tmp_path / "light.png")
    with pytest.raises(
        MaskweaveError, match=r"light\.png: all of it is hole, though .* not all whi"
    ):
        read_mask(light)
    with pytest.raises(MaskweaveError, match="all of it is hole"):
        read_mask(saved(WHITE, tmp_path / "m.png"), grow=40)


@pytest.mark.parametrize("threshold", [1, 2, 100, 128, 129, 254, 255])
def test_a_mask_has_the_same_hole_in_every_depth(threshold: int, tmp_path: Path) -> None:
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = eight >= threshold
    for name, levels in {
        "8.png": eight,
        "rgb.png": np.dstack([eight] * 3),
        "16.png": eight.astype(np.uint16) * 257,
        "16.tif": eight.astype(np.uint16) * 257,
        "rgb16.png": np.dstack([eight.astype(np.uint16) * 257] * 3),
        "rgb16.tif": np.dstack([eight.astype(np.uint16) * 257] * 3),
        "float.tif": eight.astype(np.float32) / 255,
    }.items():
        file = saved(levels, tmp_path / name)
        assert np.array_equal(read_mask(file, threshold=threshold).hole, expected), name
        assert np.array_equal(read_mask(file, threshold=threshold, invert=True).hole, ~expected)


def test_a_deep_level_is_rounded_not_cut(tmp_path: Path) -> None:
    levels = np.array([[0, 32767, 32768, 65535]], dtype=np.uint16)
    assert read_mask(saved(levels, tmp_path / "m.png")).hole.tolist() == [
        [False, False, True, True]
    ]


def test_floats_beyond_one_and_32_bits_are_refused(tmp_path: Path) -> None:
    for levels, message in (
        (MARKS * np.float32(255), "m.tif holds float32 from 0 to 255: a mask is"),
        (np.where(MARKS, np.float32("nan"), np.float32(0)), "from nan to nan"),
        (MARKS * np.int32(100_000), "TIFF of 32 bits"),
    ):
        with pytest.raises(MaskweaveError, match=message):
            read_mask(saved(levels, tmp_path / "m.tif"))


def test_a_soft_brush_is_told_of_and_a_smooth_edge_is_not(tmp_path: Path) -> None:
    big = np.zeros((200, 200), dtype=np.float64)
    big[60:140, 50:150] = 255
    for blur, count in ((0, 0), (0.7, 0), (8, 1)):
        levels = (gaussian_filter(big, blur) if blur else big).astype(np.uint8)
        notes = read_mask(saved(levels, tmp_path / "m.png")).notes
        assert len(notes) == count
        assert not count or "neither near black nor near white" in notes[0]
    Image.fromarray(big.astype(np.uint8)).save(tmp_path / "m.jpg", quality=60)
    assert read_mask(tmp_path / "m.jpg").notes == ()


def test_a_hole_grows_by_pixels_to_all_sides(rng: np.random.Generator, tmp_path: Path) -> None:
    specks = rng.random((60, 50)) < 0.004
    file = saved(specks * np.uint8(255), tmp_path / "m.png")
    for grow in (1, 2, 5):
        y, x = np.ogrid[-grow : grow + 1, -grow : grow + 1]
        disc = y**2 + x**2 <= grow**2
        assert np.array_equal(read_mask(file, grow=grow).hole, binary_dilation(specks, disc))
    inverted = saved(~specks * np.uint8(255), tmp_path / "i.png")
    assert np.array_equal(
        read_mask(inverted, invert=True, grow=5).hole, read_mask(file, grow=5).hole
    )
    assert not read_mask(saved(WHITE * 0, tmp_path / "m.png"), grow=3).hole.any()


@pytest.mark.parametrize("options", [{"threshold": 0}, {"threshold": 256}, {"grow": -1}])
def test_options_out_of_range_are_refused(options: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(MaskweaveError, match=f"{next(iter(options))} is an int"):
        read_mask(saved(WHITE, tmp_path / "m.png"), **options)


def test_a_mask_is_turned_by_its_own_orientation(tmp_path: Path) -> None:
    mask = read_mask(saved(WHITE, tmp_path / "m.png", exif=exif(6)))
    assert np.array_equal(mask.hole, np.rot90(MARKS, -1))
    assert mask.orientation == 6
    fitted = as_mask(Image.open(tmp_path / "m.png"), photo(24, 20, 6))
    assert np.array_equal(fitted.hole, mask.hole)
    assert fitted.notes == ()


def test_sizes_that_differ_are_refused_with_the_orientation_to_blame(tmp_path: Path) -> None:
    with pytest.raises(MaskweaveError, match=r"mask is 24x20 pixels, the image 25x20$"):
        as_mask(MARKS, photo(20, 25))
    with pytest.raises(MaskweaveError, match=r"its EXIF orientation \(8\) turns the image"):
        as_mask(MARKS, photo(24, 20, 8))
    turned = Image.open(saved(WHITE, tmp_path / "m.png", exif=exif(6)))
    with pytest.raises(MaskweaveError, match=r"its EXIF orientation \(6\) turns the mask"):
        as_mask(turned, photo())


@pytest.mark.parametrize(
    ("shape", "orientation", "told"),
    [((20, 20), 6, True), ((20, 24), 3, True), ((20, 24), 6, False), ((20, 20), 1, False)],
)
def test_a_mask_that_would_fit_a_turned_photo_either_way_is_told_of(
    shape: tuple[int, int], orientation: int, told: bool
) -> None:
    notes = as_mask(np.eye(*shape, dtype=bool), photo(*shape, orientation)).notes
    assert len(notes) == told
    assert not told or f"EXIF orientation ({orientation}), and the mask has none" in notes[0]


@pytest.mark.parametrize(
    "mask",
    [
        MARKS,
        WHITE,
        MARKS.astype(np.uint16) * 65535,
        MARKS.astype(np.float64),
        MARKS.astype(np.float16),
        torch.from_numpy(MARKS)[None],
        torch.from_numpy(MARKS)[:, :, None],
        WHITE[:, :, None],
        torch.from_numpy(WHITE),
        torch.from_numpy(MARKS).bfloat16(),
        Image.fromarray(WHITE),
        Image.fromarray(MARKS),
        Image.fromarray(MARKS.astype(np.uint16) * 65535),
        Image.fromarray(layer((255, 0, 0), (0, 0, 0))),
        Image.fromarray(MARKS.astype(np.float32)),
    ],
    ids=lambda mask: f"{type(mask).__name__} {getattr(mask, 'dtype', getattr(mask, 'mode', ''))}",
)
def test_masks_in_memory_are_read_as_files_are(mask: Any) -> None:
    assert np.array_equal(as_mask(mask, photo()).hole, MARKS)
    assert np.array_equal(as_mask(mask, photo(), invert=True).hole, ~MARKS)
    grown = as_mask(mask, photo(), grow=1).hole
    assert np.array_equal(grown, binary_dilation(MARKS))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (MARKS.astype(np.uint8), "the mask: it has marks but no hole, .* pixel is 1 of 255"),
        (MARKS.astype(np.int64), "the mask holds int64 from 0 to 1: a mask is bool, uint8"),
        (np.full((20, 24), 2.0), "the mask holds float64 from 2 to 2"),
        (np.zeros((20, 24, 3), dtype=np.uint8), r"a mask is .* got the shape \(20, 24, 3\)"),
        (np.zeros((0, 4), dtype=bool), "a mask is a PIL image or an array"),
        (Image.new("L", (0, 0)), "the mask has no pixels"),
        (Image.new("CMYK", (24, 20)), "CMYK"),
        (None, "needs a mask_image"),
        ("mask.png", "a mask is a PIL image or an array .* got str"),
    ],
)
def test_what_is_no_mask_is_refused(mask: Any, message: str) -> None:
    with pytest.raises(MaskweaveError, match=message):
        as_mask(mask, photo())


@pytest.mark.parametrize("grow", [10**9, 10**30])
def test_a_hole_grows_no_further_than_the_picture(grow: int, tmp_path: Path) -> None:
    with pytest.raises(MaskweaveError, match="all of it is hole"):
        as_mask(MARKS, photo(), grow=grow)
    with pytest.raises(MaskweaveError, match="all of it is hole"):
        read_mask(saved(WHITE, tmp_path / "m.png"), grow=grow)
    picture = Picture(np.zeros((20, 24), np.uint8), alpha=255 - WHITE)
    assert as_mask(None, picture, grow=grow).hole.all()


def test_transparent_pixels_grow_too() -> None:
    picture = Picture(np.zeros((20, 24), np.uint8), alpha=255 - WHITE)
    assert np.array_equal(as_mask(None, picture).hole, MARKS)
    assert np.array_equal(as_mask(None, picture, grow=1).hole, binary_dilation(MARKS))


def test_cases_of_the_shared_data(shared: Path) -> None:
    cases = shared / "cases"
    for name in ("mask_ok", "mask_white_on_transparent", "mask_i16"):
        hole, notes, _ = read_mask(cases / f"{name}.png")
        assert np.array_equal(hole, read_mask(cases / "mask_ok.png").hole)
        assert notes == ()
    for name in ("mask_01", "mask_red"):
        with pytest.raises(MaskweaveError, match="it has marks but no hole"):
            read_mask(cases / f"{name}.png")
    assert "neither near black" in read_mask(cases / "table_soft_mask.png").notes[0]
