"""16 bits and floating-point numbers: read and written as they are, seen in 8 bits by a model."""

import io
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maskweave.depth import turned
from maskweave.errors import MaskweaveError
from maskweave.images import Picture, as_picture, check_output, converted, decode_image, read_image
from maskweave.writing import check_writable, write_picture
from test_images import chunk, png

HEIGHT, WIDTH = 7, 9
LARGEST = {"uint8": 255, "uint16": 65535, "float32": 1}


def values(dtype: str, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Values over the whole range of a type; floats go beyond 0 to 1."""
    rng = np.random.default_rng(seed)
    shape = (HEIGHT, WIDTH, channels) if channels > 1 else (HEIGHT, WIDTH)
    if dtype == "float32":
        return (rng.standard_normal(shape) * 100).astype(np.float32)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def opacity(dtype: str) -> np.ndarray:
    if dtype == "float32":
        return np.random.default_rng(1).random((HEIGHT, WIDTH)).astype(np.float32)
    return values(dtype, 1, seed=1)


def tiff(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def decoded(content: bytes) -> Picture:
    return decode_image(io.BytesIO(content), "it")


def same(found: np.ndarray | None, wanted: np.ndarray | None) -> bool:
    if found is None or wanted is None:
        return found is wanted
    return found.dtype == wanted.dtype and np.array_equal(found, wanted, equal_nan=True)


WRITTEN = [
    *((".png", dtype, alpha) for dtype in ("uint8", "uint16") for alpha in (False, True)),
    *((".tif", dtype, alpha) for dtype in LARGEST for alpha in (False, True)),
    *((".ppm", dtype, False) for dtype in ("uint8", "uint16")),
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("suffix", "dtype", "alpha"), WRITTEN)
def test_every_depth_comes_back(
    suffix: str, dtype: str, alpha: bool, channels: int, tmp_path: Path
) -> None:
    picture = Picture(values(dtype, channels), opacity(dtype) if alpha else None)
    write_picture(picture, tmp_path / f"x{suffix}")
    found = read_image(tmp_path / f"x{suffix}")
    assert same(found.values, picture.values) and same(found.alpha, picture.alpha)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm"])
def test_others_read_what_is_written(suffix: str, tmp_path: Path) -> None:
    for channels in (1, 3):
        array = values("uint16", channels)
        write_picture(Picture(array), tmp_path / f"x{suffix}")
        found = cv2.imread(str(tmp_path / f"x{suffix}"), cv2.IMREAD_UNCHANGED)
        assert found is not None
        assert same(found if channels == 1 else found[:, :, ::-1], array)


def test_others_read_floating_point_numbers(tmp_path: Path) -> None:
    array, alpha = values("float32"), opacity("float32")
    write_picture(Picture(array, alpha), tmp_path / "x.tif")
    assert same(tifffile.imread(tmp_path / "x.tif"), np.dstack([array, alpha]))
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        assert file.pages.first.extrasamples == (tifffile.EXTRASAMPLE.UNASSALPHA,)


LAYOUTS: dict[str, dict[str, Any]] = {
    "strips": {"rowsperstrip": 2},
    "tiles": {"tile": (16, 16)},
    "planes": {"planarconfig": "separate"},
    "big-endian": {"byteorder": ">"},
    "bigtiff": {"bigtiff": True},
    "deflate": {"compression": "zlib"},
}


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tiff_is_read_however_it_is_laid_out(layout: str, dtype: str) -> None:
    array = values(dtype)
    given = np.moveaxis(array, 2, 0) if layout == "planes" else array
    assert same(decoded(tiff(given, photometric="rgb", **LAYOUTS[layout])).values, array)


def test_tiff_with_a_compression_of_libtiff_is_read(tmp_path: Path) -> None:
    for dtype in ("uint16", "float32"):
        array = values(dtype)
        options = [cv2.IMWRITE_TIFF_COMPRESSION, 5, cv2.IMWRITE_TIFF_PREDICTOR, 1]  # LZW
        cv2.imwrite(str(tmp_path / "x.tif"), array[:, :, ::-1], options)
        assert same(read_image(tmp_path / "x.tif").values, array)


def test_white_may_be_zero() -> None:
    array = values("uint16", 1)
    assert same(decoded(tiff(array, photometric="miniswhite")).values, 65535 - array)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_pictures_are_turned(orientation: int, tmp_path: Path) -> None:
    array = values("uint16")
    with Image.fromarray((array >> 8).astype(np.uint8)) as image:
        image.getexif()[0x0112] = orientation
        image.save(tmp_path / "shallow.png", exif=image.getexif())
    shallow = read_image(tmp_path / "shallow.png").values
    assert same(turned((array >> 8).astype(np.uint8), orientation), shallow)
    tag = [(274, "H", 1, orientation, True)]
    lzw = cv2.imencode(".tif", array[:, :, ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])[1].tobytes()
    exif = Image.Exif()
    exif[0x0112] = orientation
    eight = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    for content in (
        tiff(array, photometric="rgb", extratags=tag),
        _tagged(lzw, orientation),
        png(WIDTH, HEIGHT, 16, 2, rows(array), eight),
    ):
        found = decoded(content)
        assert same(found.values, turned(array, orientation))
        assert found.about.orientation == orientation


def _tagged(content: bytes, orientation: int) -> bytes:
    """Return a TIFF with another value of a tag of four bytes, which becomes the orientation."""
    file = io.BytesIO(content)
    with tifffile.TiffFile(file) as found:
        tags = found.pages.first.tags
        software = next(tag for tag in tags if tag.name == "PlanarConfiguration")
        assert software.value == 1  # as is the default
        place = software.offset
    entry = struct.pack("<HHIHH", 274, 3, 1, orientation, 0)
    return content[:place] + entry + content[place + 12 :]


def rows(array: np.ndarray) -> bytes:
    """Return rows of 16 bits as a PNG holds them, without a filter."""
    lines = array.astype(">u2").reshape(len(array), -1)
    return b"".join(b"\0" + line.tobytes() for line in lines)


def test_png_of_16_bits_may_have_grey_with_alpha_and_one_transparent_colour() -> None:
    both = values("uint16", 2)
    found = decoded(png(WIDTH, HEIGHT, 16, 4, rows(both)))
    assert same(found.values, both[:, :, 0]) and same(found.alpha, both[:, :, 1])
    for channels, kind in ((1, 0), (3, 2)):
        array = values("uint16", channels)
        key = np.array(array[2, 3], dtype=">u2").tobytes()
        found = decoded(png(WIDTH, HEIGHT, 16, kind, rows(array), chunk(b"tRNS", key)))
        assert same(found.values, array) and found.transparent is not None
        assert np.argwhere(found.transparent).tolist() == [[2, 3]]


def test_jpeg_2000_of_16_bits_is_read(tmp_path: Path) -> None:
    array = values("uint16", 1)
    Image.fromarray(array).save(tmp_path / "x.jp2")
    assert same(read_image(tmp_path / "x.jp2").values, array)
    flat = np.full((64, 64, 3), (1000, 30_000, 65_535), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "x.jp2"), flat[:, :, ::-1])
    assert same(read_image(tmp_path / "x.jp2").values, flat)


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (values("float32").astype(np.float64), {"photometric": "rgb"}, "64 bits .float64."),
        (values("uint16").astype(np.int16), {"photometric": "rgb"}, "16 bits .int16."),
        (values("uint16").astype(np.uint32), {"photometric": "rgb"}, "32 bits .uint32."),
        (values("uint16", 4), {"photometric": "separated"}, "SEPARATED of 16 bits"),
        (values("uint16"), {"photometric": "cielab"}, "CIELAB of 16 bits"),
        (
            values("uint16", 4),
            {"photometric": "rgb", "extrasamples": ["assocalpha"]},
            "premultiplied alpha of 16 bits",
        ),
        (
            values("uint8", 4),
            {"photometric": "rgb", "extrasamples": ["unspecified"]},
            "neither colour nor opacity",
        ),
        (np.stack([values("uint16")] * 2), {"photometric": "rgb"}, "several pages"),
    ],
)
def test_other_tiff_is_refused_by_name(array: np.ndarray, options: Any, message: str) -> None:
    with pytest.raises(MaskweaveError, match=f"it: .*{message}"):
        decoded(tiff(array, **options))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"P6 1 1 1023\n" + bytes(6), "values up to 1023"),
        (b"P5 1 1 100\n" + bytes(1), "values up to 100"),
        (cv2.imencode(".avif", values("uint16") >> 6, [cv2.IMWRITE_AVIF_DEPTH, 10])[1], "10 bits"),
    ],
)
def test_depths_that_would_be_scaled_are_refused(content: Any, message: str) -> None:
    with pytest.raises(MaskweaveError, match=message):
        decoded(bytes(content))


def test_truncated_deep_files_are_refused() -> None:
    array = np.random.default_rng(0).integers(0, 65536, (80, 90, 3), dtype=np.uint16)
    floats = array.astype(np.float32)
    files = [cv2.imencode(suffix, array)[1].tobytes() for suffix in (".png", ".ppm", ".jp2")]
    files += [tiff(array, photometric="rgb"), tiff(floats, photometric="rgb", compression="zlib")]
    for content in files:
        assert decoded(content).values.shape == array.shape
        for tenth in range(10):
            with pytest.raises(MaskweaveError, match="it"):
                decoded(content[: len(content) * tenth // 10])


HOLE = np.zeros((HEIGHT, WIDTH), dtype=bool)
HOLE[2:5, 3:6] = True


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
    with pytest.raises(MaskweaveError, match="output_type 'np'"):
        check_output(Picture(values("uint16")), "pil")
    with pytest.raises(MaskweaveError, match="8 of its 16 bits"):
        as_picture(Image.open(io.BytesIO(cv2.imencode(".png", values("uint16"))[1].tobytes())))


@pytest.mark.parametrize(
    ("dtype", "alpha", "name", "message"),
    [
        ("uint16", False, "x.jpg", "JPEG holds no 16 bits, but PNG and TIFF and PPM can"),
        ("float32", False, "x.png", "PNG holds no floating-point numbers, but TIFF can"),
        ("uint8", True, "x.bmp", "BMP holds no transparency, but PNG and WEBP and TIFF can"),
        ("uint16", True, "x.webp", "WEBP holds no 16 bits, but PNG and TIFF can"),
        ("uint16", True, "x.jpeg", "JPEG holds no 16 bits and no transparency, but PNG and TIFF"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_before_anything_is_filled(
    dtype: str, alpha: bool, name: str, message: str, tmp_path: Path
) -> None:
    picture = Picture(values(dtype), opacity(dtype) if alpha else None)
    with pytest.raises(MaskweaveError, match=message):
        check_writable(picture, tmp_path / name)
    with pytest.raises(MaskweaveError, match=message):
        write_picture(picture, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_transparency_that_is_filled_need_not_be_held() -> None:
    alpha = np.where(HOLE, 0, 255).astype(np.uint8)
    assert check_writable(Picture(values("uint8"), alpha), Path("x.jpg"), HOLE) == ()
