"""16 bits and floating-point numbers: read and written as they are, seen in 8 bits by a model."""

import io
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from maskweave.depth import turned
from maskweave.errors import MaskweaveError
from maskweave.images import Picture, decode_image, read_image
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


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize(("kind", "colours"), [("rgb", 3), ("minisblack", 1)])
def test_one_channel_of_which_nothing_is_said_is_alpha(kind: str, colours: int, dtype: str) -> None:
    array = values(dtype, colours + 1)
    found = decoded(_untold(array, kind, 1))
    assert same(found.values, array[:, :, 0] if colours == 1 else array[:, :, :3])
    assert same(found.alpha, array[:, :, -1])
    with pytest.raises(MaskweaveError, match=r"it: .*neither colour nor opacity"):
        decoded(_untold(values(dtype, colours + 2), kind, 2))


def _untold(array: np.ndarray, kind: str, surplus: int) -> bytes:
    """Return a TIFF file whose tag ExtraSamples is one that nobody knows."""
    content = tiff(array, photometric=kind, extrasamples=["unassalpha"] * surplus)
    with tifffile.TiffFile(io.BytesIO(content)) as found:
        place = found.pages.first.tags["ExtraSamples"].offset
    return content[:place] + struct.pack("<H", 65_000) + content[place + 2 :]


def test_four_channels_of_opencv_come_back(tmp_path: Path) -> None:
    for dtype in ("uint8", "uint16", "float32"):
        array = values(dtype, 4)
        cv2.imwrite(str(tmp_path / "x.tif"), array[:, :, [2, 1, 0, 3]])
        found = read_image(tmp_path / "x.tif")
        assert same(found.values, array[:, :, :3]) and same(found.alpha, array[:, :, 3])


def test_fewer_channels_than_colours_are_refused() -> None:
    content = tiff(values("uint16", 1), photometric="minisblack")
    with tifffile.TiffFile(io.BytesIO(content)) as found:
        place = found.pages.first.tags["PhotometricInterpretation"].offset + 8
    content = content[:place] + struct.pack("<H", 2) + content[place + 2 :]
    with pytest.raises(MaskweaveError, match="it: RGB of 1 channels is not supported"):
        decoded(content)


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
    hole = values("uint8", 1) < 100
    alpha = np.where(hole, 0, 255).astype(np.uint8)
    assert check_writable(Picture(values("uint8"), alpha), Path("x.jpg"), hole) == ()
