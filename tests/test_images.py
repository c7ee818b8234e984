"""Reading and writing: what is converted, what is refused, and that nothing is half written."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from maskweave.errors import MaskweaveError
from maskweave.formats import SUFFIXES, WRITTEN
from maskweave.images import Picture, decode_image, read_image
from maskweave.writing import write_image, write_picture


@pytest.fixture
def pixels(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [s for s in SUFFIXES if s not in WRITTEN["JPEG"].suffixes])
def test_every_suffix_but_jpeg_is_lossless(suffix: str, pixels: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "new" / f"x{suffix.upper()}"
    write_image(pixels, file)
    assert np.array_equal(read_image(file).pixels, pixels)
    assert [p.name for p in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_grey_and_palette_images_become_rgb_without_loss(
    mode: str, pixels: np.ndarray, tmp_path: Path
) -> None:
    image = Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / "x.png")
    picture = read_image(tmp_path / "x.png")
    assert np.array_equal(picture.pixels, np.array(image.convert("RGB")))
    assert picture.transparent is None


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_alpha_below_128_is_transparent(mode: str, pixels: np.ndarray, tmp_path: Path) -> None:
    alpha = np.full((6, 8), 255, dtype=np.uint8)
    alpha[2, 3], alpha[2, 4], alpha[2, 5] = 0, 127, 128
    image = Image.fromarray(pixels)
    image.putalpha(Image.fromarray(alpha))
    image.convert("RGBA" if mode == "PA" else mode).save(tmp_path / "x.png")
    transparent = read_image(tmp_path / "x.png").transparent
    assert transparent is not None
    assert np.argwhere(transparent).tolist() == [[2, 3], [2, 4]]


def test_the_colour_of_transparent_pixels_is_kept_and_never_seen(tmp_path: Path) -> None:
    values = np.full((12, 12, 3), (10, 200, 30), dtype=np.uint8)
    alpha = np.full((12, 12), 255, dtype=np.uint8)
    values[:, 6:], alpha[:, 6:] = (255, 0, 255), 0
    alpha[:, 5] = 1  # which is visible, if hardly
    for suffix in (".png", ".webp", ".tif"):
        write_picture(Picture(values, alpha), tmp_path / f"x{suffix}")
        picture = read_image(tmp_path / f"x{suffix}")
        assert np.array_equal(picture.values, values)
        assert picture.alpha is not None and np.array_equal(picture.alpha, alpha)
    hole = np.zeros((12, 12), dtype=bool)
    hole[4:8, 3:9] = True
    picture = Picture(values, alpha)
    for seen in (picture.seen(hole), picture.pixels):
        assert (seen[~hole] == (10, 200, 30)).all()
    painted = np.zeros_like(values)
    filled = picture.filled(painted, hole)
    assert filled.alpha is not None and (filled.alpha[hole] == 255).all()
    assert (filled.values[~hole & (alpha == 0)] == (255, 0, 255)).all()
    assert np.array_equal(filled.alpha[~hole], alpha[~hole])


def test_a_picture_that_nobody_sees_is_black() -> None:
    alpha = np.zeros((3, 3), dtype=np.uint8)
    assert not Picture(np.full((3, 3, 3), 99, dtype=np.uint8), alpha).pixels.any()


def test_a_photo_with_a_preview_is_the_photo(pixels: np.ndarray, tmp_path: Path) -> None:
    photo, preview = Image.fromarray(pixels), Image.new("RGB", (2, 2))
    photo.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[preview])
    with Image.open(tmp_path / "x.jpg") as image:
        assert image.n_frames == 2
    assert read_image(tmp_path / "x.jpg").pixels.shape == pixels.shape


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_a_colour_profile_is_kept(suffix: str, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for mode in ("RGB", "L"):
        Image.new(mode, (4, 4)).save(tmp_path / f"x{suffix}", icc_profile=profile)
        picture = read_image(tmp_path / f"x{suffix}")
        write_picture(picture, tmp_path / f"y{suffix}")
        kept = read_image(tmp_path / f"y{suffix}").about.profile
        assert kept == profile


def test_exif_orientation_is_applied(pixels: np.ndarray, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "x.png").pixels, np.rot90(pixels, -1))


def chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def png(
    width: int, height: int, depth: int, colour: int, rows: bytes, between: bytes = b""
) -> bytes:
    """Write a PNG by hand: Pillow writes neither 16-bit colour nor absurd sizes."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = between + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data


def damaged(content: bytes) -> bytes:
    """Change the checksum of a PNG file's last pixels, which stay as they are."""
    end = len(content) - len(chunk(b"IEND", b""))
    return content[: end - 1] + bytes((content[end - 1] ^ 1,)) + content[end:]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


RED = Image.new("RGB", (40, 40), "red")
BROKEN = {
    "empty.png": (b"", "not a readable image"),
    "text.png": (b"no image at all", "not a readable image"),
    "truncated.png": (encoded(RED, "PNG")[:60], "not a readable image"),
    "truncated.jpg": (encoded(RED, "JPEG")[:-200], "not a readable image"),
    "bomb.png": (png(60_000, 60_000, 8, 2, b""), "more than|exceeds limit"),
    "large.png": (png(20_000, 6_000, 8, 2, b""), "20000x6000 is more than"),
    "cmyk.jpg": (encoded(Image.new("CMYK", (4, 4)), "JPEG"), "CMYK images are not supported"),
    "lab.tif": (encoded(Image.new("LAB", (4, 4)), "TIFF"), "LAB images are not supported"),
    "integer.tif": (encoded(Image.new("I", (4, 4)), "TIFF"), "32 bits .int32. is not supported"),
    "moving.webp": (
        encoded(RED, "WEBP", save_all=True, append_images=[Image.new("RGB", (40, 40))]),
        "animations and files of several pages are not supported",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_bad_files_are_refused_by_name(name: str, tmp_path: Path) -> None:
    content, message = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MaskweaveError, match=message) as caught:
        read_image(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("depth", [8, 16])
def test_what_is_odd_in_a_png_is_one_line_or_none(
    depth: int, capfd: pytest.CaptureFixture[str]
) -> None:
    row = bytes(1 + 3 * depth // 8)
    with pytest.raises(MaskweaveError, match=r"^it is not a readable image: the checksum"):
        decode_image(io.BytesIO(damaged(png(1, 1, depth, 2, row))), "it")
    odd = png(1, 1, depth, 2, row, chunk(b"sBIT", bytes(7)) + chunk(b"tIME", bytes(7)))
    for content in (odd, odd[:-12]):  # without its end as well
        assert decode_image(io.BytesIO(content), "it").shape == (1, 1)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_of_8_bits_says_how_it_was_turned(orientation: int, pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for mode in ("RGB", "L", "P", "RGBA"):
        image = Image.fromarray(pixels).convert(mode)
        found = decode_image(io.BytesIO(encoded(image, "TIFF", exif=exif)), "it")
        upright = decode_image(io.BytesIO(encoded(image, "PNG", exif=exif)), "it")
        assert found.about.orientation == upright.about.orientation == orientation
        assert np.array_equal(found.values, upright.values)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MaskweaveError, match="does not exist"):
        read_image(tmp_path / "none.png")
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    for name in (".", "pipe"):
        with pytest.raises(MaskweaveError, match="is no file"):
            read_image(tmp_path / name)


def test_a_file_that_cannot_be_written_leaves_nothing(pixels: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MaskweaveError, match="cannot write"):
        write_image(pixels, tmp_path / "file" / "x.png")
    with pytest.raises(MaskweaveError, match="20000x1 is more than"):
        write_image(np.zeros((1, 20_000, 3), dtype=np.uint8), tmp_path / "x.webp")
    with pytest.raises(MaskweaveError, match="the name of an image ends in"):
        write_image(pixels, tmp_path / "x.gif")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
