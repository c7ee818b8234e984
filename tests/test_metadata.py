"""What a file says of its picture goes along, but for what would show the picture as it was."""

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from maskweave.errors import MaskweaveError
from maskweave.formats import WRITTEN
from maskweave.images import Picture, as_picture, converted, read_image
from maskweave.metadata import NAMES, About
from maskweave.writing import check_writable, write_picture
from test_images import chunk, png

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6">'
    b"<tiff:Orientation>6</tiff:Orientation><xmp:Thumbnails><rdf:Alt>/9j/4AAQ</rdf:Alt>"
    b"</xmp:Thumbnails><dc:creator>Ada</dc:creator></rdf:Description></x:xmpmeta>"
)
THUMBNAIL = b"\xff\xd8 what was removed \xff\xd9"


def exif(orientation: int = 6) -> Image.Exif:
    """EXIF of a camera: with a thumbnail, a maker's note, a place and a text."""
    found = Image.Exif()
    found[ExifTags.Base.Make], found[ExifTags.Base.Copyright] = "Maker", "Ada"
    found[ExifTags.Base.Orientation] = orientation
    found[ExifTags.IFD.Exif] = {
        ExifTags.Base.ExposureTime: 0.125,
        ExifTags.Base.DateTimeOriginal: "2024:05:01 12:00:00",
        ExifTags.Base.MakerNote: b"maker's preview",
        ExifTags.Base.UserComment: b"ASCII\0\0\0hello",
    }
    found[ExifTags.IFD.GPSInfo] = {ExifTags.GPS.GPSLatitudeRef: "N"}
    return found


def with_thumbnail(content: Image.Exif) -> bytes:
    """Append a second directory, which holds the thumbnail, to EXIF."""
    plain = content.tobytes()
    data = bytearray(plain[6:])
    order: Any = "little" if data[:2] == b"II" else "big"
    start = int.from_bytes(data[4:8], order)
    link = start + 2 + 12 * int.from_bytes(data[start : start + 2], order)
    data[link : link + 4] = len(data).to_bytes(4, order)

    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, order)

    end = len(data) + 2 + 2 * 12 + 4
    entries = ((0x0201, end), (0x0202, len(THUMBNAIL)))
    data += number(2, 2)
    for tag, value in entries:
        data += number(tag, 2) + number(4, 2) + number(1, 4) + number(value, 4)
    data += bytes(4) + THUMBNAIL
    return b"Exif\0\0" + bytes(data)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A JPEG with everything in it."""
    file = tmp_path / "photo.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(
        file,
        exif=with_thumbnail(exif()),
        xmp=XMP,
        icc_profile=SRGB,
        dpi=(300, 150),
        comment=b"hello",
    )
    assert THUMBNAIL in file.read_bytes()
    return file


SUFFIXES = [holds.suffixes[0] for holds in WRITTEN.values()]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_a_format_can_hold_goes_along_and_the_rest_is_told(suffix: str, photo: Path) -> None:
    before = read_image(photo)
    file = photo.with_name(f"out{suffix}")
    notes = check_writable(before, file)
    write_picture(before, file)
    after = read_image(file).about
    [kind] = [name for name, holds in WRITTEN.items() if suffix in holds.suffixes]
    for field, name in NAMES.items():
        if field in ("dpi", "chunks", "comment"):
            continue
        kept = getattr(after, field) == getattr(before.about, field)
        assert kept == (field in WRITTEN[kind].about)
        assert kept == (name not in "".join(notes))
    if "dpi" in WRITTEN[kind].about:
        assert after.dpi is not None and np.allclose(after.dpi, (300, 150), atol=0.02)
    else:
        assert after.dpi is None and "the resolution" in notes[0]
    assert after.orientation == 1 and before.about.orientation == 6


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_nothing_shows_what_was_removed_or_turns_the_picture_again(
    suffix: str, photo: Path
) -> None:
    file = photo.with_name(f"out{suffix}")
    write_picture(read_image(photo), file)
    content = file.read_bytes()
    for trace in (
        THUMBNAIL,
        b"maker's preview",
        b"Thumbnails",
        b'Orientation="6',
        b"Orientation>6",
    ):
        assert trace not in content
    with Image.open(file) as image:
        assert image.size == (8, 12)  # as the photo is shown
        found = image.getexif()
        assert found[ExifTags.Base.Orientation] == 1
        assert (found[ExifTags.Base.Make], found[ExifTags.Base.Copyright]) == ("Maker", "Ada")
        inner = found.get_ifd(ExifTags.IFD.Exif)
        assert inner[ExifTags.Base.ExposureTime] == 0.125
        assert inner[ExifTags.Base.DateTimeOriginal] == "2024:05:01 12:00:00"
        assert inner[ExifTags.Base.UserComment] == b"ASCII\0\0\0hello"
        assert found.get_ifd(ExifTags.IFD.GPSInfo) == {ExifTags.GPS.GPSLatitudeRef: "N"}
        assert not found.get_ifd(ExifTags.IFD.IFD1)
        assert b"<dc:creator>Ada</dc:creator>" in image.info["xmp"]


def test_a_comment_is_a_comment_or_a_text(photo: Path) -> None:
    write_picture(read_image(photo), photo.with_name("out.jpg"))
    write_picture(read_image(photo), photo.with_name("out.png"))
    assert read_image(photo.with_name("out.jpg")).about.comment == b"hello"
    with Image.open(photo.with_name("out.png")) as image:
        assert image.info["Comment"] == "hello"


TEXTS = {
    "tEXt": chunk(b"tEXt", b"Author\0Ada"),
    "zTXt": chunk(b"zTXt", b"Software\0\0" + zlib.compress(b"Brush 1.0")),
    "iTXt": chunk(b"iTXt", b"Title\0\0\0de\0Titel\0" + "Löwe".encode()),
    "gAMA": chunk(b"gAMA", (45455).to_bytes(4)),
    "cHRM": chunk(b"cHRM", bytes(range(32))),
    "sRGB": chunk(b"sRGB", b"\0"),
}


@pytest.mark.parametrize("depth", [8, 16])
def test_text_and_gamma_of_png_come_back_in_both_depths(depth: int, tmp_path: Path) -> None:
    row = bytes(1 + 3 * depth // 8)
    between = b"".join(TEXTS.values()) + chunk(b"pHYs", bytes((0, 0, 9, 9, 0, 0, 9, 9, 1)))
    content = png(1, 1, depth, 2, row, between).replace(
        chunk(b"IEND", b""), chunk(b"tEXt", b"Late\0text behind the pixels") + chunk(b"IEND", b"")
    )
    (tmp_path / "x.png").write_bytes(content)
    picture = read_image(tmp_path / "x.png")
    write_picture(picture, tmp_path / "y.png")
    written = (tmp_path / "y.png").read_bytes()
    for each in (*TEXTS.values(), chunk(b"tEXt", b"Late\0text behind the pixels")):
        assert written.count(each) >= 1
    again = read_image(tmp_path / "y.png")
    assert again.about == picture.about and picture.about.dpi is not None
    [note] = check_writable(picture, Path("z.tif" if depth == 16 else "z.jpg"))
    assert "cannot hold PNG's text and gamma" in note


def test_text_that_holds_another_files_exif_is_not_copied(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    raw = exif().tobytes().hex()
    info.add_text("Raw profile type exif", f"\nexif\n{len(raw) // 2:8}\n{raw}\n", zip=True)
    info.add_text("Raw profile type 8bim", "a preview")
    Image.new("RGB", (4, 2)).save(tmp_path / "x.png", pnginfo=info)
    picture = read_image(tmp_path / "x.png")
    assert picture.shape == (4, 2) and picture.about.exif and not picture.about.chunks


def test_a_text_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Bomb", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    Image.new("RGB", (4, 2)).save(tmp_path / "x.png", pnginfo=info)
    with pytest.raises(MaskweaveError, match=r"x\.png"):
        read_image(tmp_path / "x.png")


def test_a_grey_profile_goes_with_grey_files_alone(tmp_path: Path) -> None:
    grey = SRGB[:16] + b"GRAY" + SRGB[20:]
    Image.new("L", (4, 4)).save(tmp_path / "x.png", icc_profile=grey)
    picture = read_image(tmp_path / "x.png")
    assert picture.about.profile == grey
    for suffix in (".png", ".tif", ".jpg"):
        write_picture(picture, tmp_path / f"y{suffix}")
        again = read_image(tmp_path / f"y{suffix}")
        assert again.values.ndim == 2 and again.about.profile == grey
    assert check_writable(picture, Path("y.webp")) == (
        "WEBP cannot hold the colour profile of the image",
    )
    write_picture(picture, tmp_path / "y.webp")
    assert read_image(tmp_path / "y.webp").about.profile is None


def test_a_resolution_is_not_invented(tmp_path: Path) -> None:
    for suffix in set(SUFFIXES) - {".bmp"}:  # for which Pillow invents one
        Image.new("RGB", (4, 4)).save(tmp_path / f"x{suffix}")
        assert read_image(tmp_path / f"x{suffix}").about.dpi is None


def test_deep_and_shallow_tiff_say_the_same(photo: Path) -> None:
    before = read_image(photo)
    for dtype in ("uint8", "uint16", "float32"):
        file = photo.with_name(f"{dtype}.tif")
        write_picture(replace(before, values=before.values.astype(dtype)), file)
        after = read_image(file).about
        assert (after.exif, after.xmp, after.profile, after.dpi) == (
            before.about.exif, before.about.xmp, SRGB, (300, 150),
        )  # fmt: skip


def test_what_is_too_long_for_jpeg_is_told_and_left(photo: Path) -> None:
    before = read_image(photo)
    long = Picture(before.values, None, replace(before.about, xmp=b"<x>" + bytes(70_000)))
    assert check_writable(long, Path("x.jpg")) == ("JPEG cannot hold XMP of the image",)
    write_picture(long, photo.with_name("long.jpg"))
    assert read_image(photo.with_name("long.jpg")).about.xmp is None


@pytest.mark.parametrize(
    "broken", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + bytes(40), b"nonsense"]
)
def test_broken_exif_loses_nothing_but_itself(broken: bytes, tmp_path: Path) -> None:
    content, place = io.BytesIO(), b"Exif\0\0" + b"x" * len(broken)
    Image.new("RGB", (4, 2)).save(content, "JPEG", exif=place)
    data = content.getvalue().replace(
        b"Exif\0\0" + b"x" * len(broken), broken.ljust(6 + len(broken))
    )
    (tmp_path / "x.jpg").write_bytes(data)
    picture = read_image(tmp_path / "x.jpg")
    assert picture.shape == (2, 4)
    write_picture(picture, tmp_path / "y.png")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_exif_with_damaged_bytes_refuses_no_photo(form: str, tmp_path: Path) -> None:
    rng, plain = np.random.default_rng(0), with_thumbnail(exif())
    for _ in range(60):
        broken = bytearray(plain)
        for place in rng.integers(6, len(broken), rng.integers(1, 5)):
            broken[place] = rng.integers(256)
        buffer = io.BytesIO()
        Image.new("RGB", (4, 2)).save(buffer, form, exif=bytes(broken), dpi=(72, 72))
        source = tmp_path / "source.jpg"
        source.write_bytes(buffer.getvalue())
        picture = read_image(source)
        for suffix in SUFFIXES:
            write_picture(picture, tmp_path / f"x{suffix}", source=source)
            assert read_image(tmp_path / f"x{suffix}").shape == picture.shape


def test_an_orientation_of_another_type_turns_the_photo(tmp_path: Path) -> None:
    odd = exif()
    odd[ExifTags.Base.Orientation] = 6
    content = bytearray(odd.tobytes())
    order: Any = "little" if content[6:8] == b"II" else "big"
    entry = content.index((274).to_bytes(2, order) + (3).to_bytes(2, order))
    content[entry + 2 : entry + 12] = (
        (11).to_bytes(2, order)  # a floating-point number
        + (1).to_bytes(4, order)
        + struct.pack("<f" if order == "little" else ">f", 6)
    )
    Image.new("RGB", (4, 2)).save(tmp_path / "x.png", exif=bytes(content))
    picture = read_image(tmp_path / "x.png")
    assert picture.shape == (4, 2) and picture.about.orientation == 6


def test_width_and_height_before_turning_are_left(tmp_path: Path) -> None:
    sized = exif()
    sized[ExifTags.IFD.Exif] = {
        ExifTags.Base.ExifImageWidth: 4,
        ExifTags.Base.ExifImageHeight: 2,
        ExifTags.Base.ExposureTime: 0.5,
    }
    Image.new("RGB", (4, 2)).save(tmp_path / "x.png", exif=sized)
    write_picture(read_image(tmp_path / "x.png"), tmp_path / "y.png")
    with Image.open(tmp_path / "y.png") as image:
        kept = image.getexif().get_ifd(ExifTags.IFD.Exif)
    assert dict(kept) == {ExifTags.Base.ExposureTime: 0.5}


@pytest.mark.parametrize("resolution", [4e9, 1e6, 1e-9])
def test_an_absurd_resolution_is_no_error(resolution: float, tmp_path: Path) -> None:
    pixels = np.zeros((2, 4, 3), np.uint8)
    tifffile.imwrite(
        tmp_path / "x.tif", pixels, photometric="rgb", resolution=(resolution, resolution)
    )
    picture = read_image(tmp_path / "x.tif")
    assert (picture.about.dpi is None) == (resolution == 4e9)
    for suffix in SUFFIXES:
        write_picture(picture, tmp_path / f"y{suffix}")
    if resolution == 1e6:
        for name in ("y.png", "y.tif"):
            assert np.allclose(read_image(tmp_path / name).about.dpi or 0, 1e6, atol=0.02)
        assert check_writable(picture, Path("x.jpg")) == (
            "JPEG cannot hold the resolution of the image",
        )


def test_what_a_library_cannot_pack_is_one_line(tmp_path: Path) -> None:
    picture = Picture(np.zeros((2, 4, 3), np.uint8), None, About(dpi=(1e12, 1e12)))
    with pytest.raises(MaskweaveError, match="cannot write"):
        write_picture(picture, tmp_path / "x.png")


def test_what_is_lost_is_joined_as_in_a_sentence(photo: Path) -> None:
    [note] = check_writable(read_image(photo), Path("x.bmp"))
    assert note == "BMP cannot hold EXIF, XMP, the colour profile and the comment of the image"


def test_pil_images_say_what_they_said(photo: Path) -> None:
    with Image.open(photo) as image:
        picture = as_picture(image)
    assert picture.shape == (12, 8)
    found = converted(picture, "pil")
    assert found.info["icc_profile"] == SRGB and found.info["dpi"] == (300, 150)
    assert found.getexif()[ExifTags.Base.Copyright] == "Ada"
    assert found.getexif()[ExifTags.Base.Orientation] == 1
