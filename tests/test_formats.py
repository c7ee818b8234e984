"""What an image is: the tables of docs/files.md, and what is listed in a folder."""

import io
import os
import re
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner

from maskweave.cli.main import app
from maskweave.data.cache import cached_images, cached_photos
from maskweave.data.folder import square
from maskweave.data.shards import ImageShards
from maskweave.errors import MaskweaveError
from maskweave.formats import READ, WRITTEN, find_images, list_images
from maskweave.images import decode_image, read_image
from maskweave.metadata import NAMES
from test_images import chunk, damaged, encoded, png

PAGE = (Path(__file__).parent.parent / "docs" / "files.md").read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """Return the rows of the table under a heading of the page, without its first two."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    return rows[2:]


SIDE = 64
DEEP = np.random.default_rng(0).integers(0, 65536, (SIDE, SIDE, 4), dtype=np.uint16)
FLAT = np.full((SIDE, SIDE, 3), (1000, 30_000, 65_535), dtype=np.uint16)
COLOURS = Image.fromarray((DEEP >> 8).astype(np.uint8), "RGBA")


def picture(mode: str) -> Image.Image:
    return Image.new("LAB", (4, 4)) if mode == "LAB" else COLOURS.convert(mode)


def saved(kind: str, mode: str, **options: Any) -> Callable[[], bytes]:
    return lambda: encoded(picture(mode), kind, **options)


def tiff(array: np.ndarray, photometric: str, *extra: str) -> Callable[[], bytes]:
    def made() -> bytes:
        buffer = io.BytesIO()
        given = {"extrasamples": list(extra)} if extra else {}
        tifffile.imwrite(buffer, array, photometric=photometric, **given)
        return buffer.getvalue()

    return made


def opencv(suffix: str, array: np.ndarray, *options: int) -> Callable[[], bytes]:
    return lambda: bytes(cv2.imencode(suffix, array, options)[1])


def deep_png(channels: int, kind: int) -> Callable[[], bytes]:
    lines = DEEP[:, :, :channels].astype(">u2").reshape(SIDE, -1)
    return lambda: png(SIDE, SIDE, 16, kind, b"".join(b"\0" + line.tobytes() for line in lines))


def bomb() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Bomb", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    return encoded(Image.new("L", (4, 4)), "PNG", pnginfo=info)


def several(kind: str) -> Callable[[], bytes]:
    others = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "blue")]
    return saved(kind, "RGB", save_all=True, append_images=others)


FLOATS = (DEEP / 65535).astype(np.float32)
SAMPLES: dict[tuple[str, str], Callable[[], bytes]] = {
    ("PNG", "1 bit"): saved("PNG", "1"),
    ("PNG", "grey"): saved("PNG", "L"),
    ("PNG", "grey and alpha"): saved("PNG", "LA"),
    ("PNG", "grey and a transparent grey"): saved("PNG", "L", transparency=7),
    ("PNG", "palette"): lambda: encoded(picture("RGB").quantize(), "PNG"),
    ("PNG", "palette and alpha"): saved("PNG", "P", transparency=7),
    ("PNG", "RGB"): saved("PNG", "RGB"),
    ("PNG", "RGB and alpha"): saved("PNG", "RGBA"),
    ("PNG", "RGB and a transparent colour"): saved("PNG", "RGB", transparency=(1, 2, 3)),
    ("PNG", "16-bit grey"): deep_png(1, 0),
    ("PNG", "16-bit grey and alpha"): deep_png(2, 4),
    ("PNG", "16-bit RGB"): deep_png(3, 2),
    ("PNG", "16-bit RGB and alpha"): deep_png(4, 6),
    ("JPEG", "grey"): saved("JPEG", "L"),
    ("JPEG", "YCbCr"): saved("JPEG", "YCbCr"),
    ("JPEG", "several pictures (MPO)"): several("MPO"),
    ("WebP", "lossy or lossless"): saved("WEBP", "RGB", lossless=True),
    ("WebP", "with alpha"): saved("WEBP", "RGBA"),
    ("TIFF", "1 bit"): saved("TIFF", "1"),
    ("TIFF", "grey"): saved("TIFF", "L"),
    ("TIFF", "grey and alpha"): saved("TIFF", "LA"),
    ("TIFF", "palette"): lambda: encoded(picture("RGB").quantize(), "TIFF"),
    ("TIFF", "RGB"): saved("TIFF", "RGB"),
    ("TIFF", "RGB and alpha"): saved("TIFF", "RGBA"),
    ("TIFF", "16-bit grey"): tiff(DEEP[:, :, 0], "minisblack"),
    ("TIFF", "16-bit grey, white is zero"): tiff(DEEP[:, :, 0], "miniswhite"),
    ("TIFF", "16-bit RGB"): tiff(DEEP[:, :, :3], "rgb"),
    ("TIFF", "16-bit RGB and alpha"): tiff(DEEP, "rgb", "unassalpha"),
    ("TIFF", "16-bit RGB and a channel of which nothing is said"): opencv(".tif", DEEP),
    ("TIFF", "float32 grey"): tiff(FLOATS[:, :, 0], "minisblack"),
    ("TIFF", "float32 RGB"): tiff(FLOATS[:, :, :3], "rgb"),
    ("TIFF", "float32 RGB and alpha"): tiff(FLOATS, "rgb", "unassalpha"),
    ("BMP", "1 bit"): saved("BMP", "1"),
    ("BMP", "grey"): saved("BMP", "L"),
    ("BMP", "palette"): lambda: encoded(picture("RGB").quantize(), "BMP"),
    ("BMP", "RGB"): saved("BMP", "RGB"),
    ("GIF", "one picture"): saved("GIF", "RGB"),
    ("GIF", "one picture, transparent in parts"): saved("GIF", "P", transparency=7),
    ("PBM", "1 bit"): saved("PPM", "1"),
    ("PGM", "grey"): saved("PPM", "L"),
    ("PGM", "16-bit grey"): opencv(".pgm", DEEP[:, :, 0]),
    ("PPM", "RGB"): saved("PPM", "RGB"),
    ("PPM", "16-bit RGB"): opencv(".ppm", DEEP[:, :, :3]),
    ("JPEG 2000", "grey"): saved("JPEG2000", "L"),
    ("JPEG 2000", "RGB"): saved("JPEG2000", "RGB"),
    ("JPEG 2000", "RGB and alpha"): saved("JPEG2000", "RGBA"),
    ("JPEG 2000", "16-bit grey"): lambda: encoded(Image.fromarray(DEEP[:, :, 0]), "JPEG2000"),
    ("JPEG 2000", "16-bit RGB"): opencv(".jp2", FLAT),
    ("AVIF", "8 bits"): saved("AVIF", "RGB"),
    ("AVIF", "8 bits and alpha"): saved("AVIF", "RGBA"),
    ("QOI", "RGB"): saved("QOI", "RGB"),
    ("QOI", "RGB and alpha"): saved("QOI", "RGBA"),
    ("JPEG", "CMYK"): saved("JPEG", "CMYK"),
    ("TIFF", "CMYK"): saved("TIFF", "CMYK"),
    ("TIFF", "16-bit CMYK"): tiff(DEEP, "separated"),
    ("TIFF", "LAB"): saved("TIFF", "LAB"),
    ("TIFF", "int32"): tiff(DEEP[:, :, 0].astype(np.int32), "minisblack"),
    ("TIFF", "int16"): tiff(DEEP[:, :, 0].astype(np.int16), "minisblack"),
    ("TIFF", "float64"): tiff(FLOATS[:, :, 0].astype(np.float64), "minisblack"),
    ("TIFF", "16-bit RGB and multiplied alpha"): tiff(DEEP, "rgb", "assocalpha"),
    ("TIFF", "RGB and a channel that is no alpha"): saved("TIFF", "RGBX"),
    ("TIFF", "two pages"): several("TIFF"),
    ("GIF", "an animation"): several("GIF"),
    ("WebP", "an animation"): several("WEBP"),
    ("PNG", "an animation"): several("PNG"),
    ("PPM", "values up to 1023"): lambda: b"P6 1 1 1023\n" + bytes(6),
    ("PFM", "floating-point numbers"): opencv(".pfm", FLOATS[:, :, 0]),
    ("AVIF", "10 bits"): opencv(".avif", DEEP[:, :, :3] >> 6, cv2.IMWRITE_AVIF_DEPTH, 10),
    ("PNG", "20,000 x 6,000 pixels"): lambda: png(20_000, 6_000, 8, 2, b""),
    ("PNG", "a text that unpacks to more than 1 MB"): bomb,
    ("PNG", "half a file"): lambda: saved("PNG", "RGB")()[:5000],
    ("PNG", "pixels with a wrong checksum"): lambda: damaged(saved("PNG", "RGB")()),
    ("TGA", "RGB"): saved("TGA", "RGB"),
    ("ICO", "RGB and alpha"): saved("ICO", "RGBA"),
    ("none", "nothing"): lambda: b"",
}


@pytest.mark.parametrize(("kind", "content", "outcome"), table("What is read"))
def test_what_is_read(kind: str, content: str, outcome: str) -> None:
    found = decode_image(io.BytesIO(SAMPLES[kind, content]()), "it")
    colours = "grey" if found.values.ndim == 2 else "RGB"
    alpha = "" if found.alpha is None else " with alpha"
    assert f"{colours} {found.values.dtype}{alpha}" == outcome
    assert found.alpha is None or found.alpha.dtype == found.values.dtype


@pytest.mark.parametrize(("kind", "content", "message"), table("What is refused"))
def test_what_is_refused(kind: str, content: str, message: str) -> None:
    with pytest.raises(MaskweaveError, match=f"^it.*{re.escape(message)}") as caught:
        decode_image(io.BytesIO(SAMPLES[kind, content]()), "it")
    assert "\n" not in str(caught.value)


def test_the_tables_name_all_samples_and_formats() -> None:
    rows = table("What is read") + table("What is refused")
    assert [(kind, content) for kind, content, _ in rows] == list(SAMPLES)
    names = re.findall(r"`(\.\w+)`", PAGE.split("Files whose names end in one of these")[1])
    assert names[: len(READ)] == sorted(READ)
    written = [
        [
            kind,
            " ".join(holds.suffixes),
            ", ".join(holds.depths),
            "yes" if holds.alpha else "no",
            ", ".join(name for field, name in NAMES.items() if field in holds.about) or "nothing",
        ]
        for kind, holds in WRITTEN.items()
    ]
    assert table("What is written") == written


def test_a_folder_lists_what_can_be_read_and_counts_the_rest_in_one_note(tmp_path: Path) -> None:
    names = ("b.png", "a.JPG", "c.jfif", "d.avif", "e.gif", "f.ppm", "g.jp2", "h.qoi")
    for name in (*names, "._b.png", ".DS_Store", "i.heic", "j.HEIC", "k.txt", "README"):
        (tmp_path / name).touch()
    (tmp_path / "deeper.png").mkdir()
    listing = list_images(tmp_path)
    assert [file.name for file in listing.files] == sorted(names)
    assert listing.notes == ("4 files were left: 2 .heic, 1 .txt, 1 without suffix",)
    (tmp_path / "a.png").touch()
    with pytest.raises(MaskweaveError, match="several images are called a"):
        list_images(tmp_path)


def test_links_are_followed_once_or_named(tmp_path: Path) -> None:
    one, two, far = tmp_path / "one", tmp_path / "two", tmp_path / "far"
    for folder in (one / "inner", far, two):
        folder.mkdir(parents=True)
    for file in (one / "a.png", one / "inner" / "b.png", far / "c.png"):
        file.touch()
    (one / "d.png").symlink_to(far / "c.png")
    (one / "gone.png").symlink_to(far / "none.png")
    (one / "loop").symlink_to(one)
    (one / "outside").symlink_to(far)
    flat = list_images(one)
    assert [file.name for file in flat.files] == ["a.png", "d.png"]
    named = ", ".join(str(one / name) for name in ("gone.png", "loop", "outside"))
    assert flat.notes == (f"links that lead to no file: {named}",)
    found = find_images(one)
    assert [str(file.relative_to(one)) for file in found.files] == [
        "a.png", "d.png", "inner/b.png", "outside/c.png",
    ]  # fmt: skip
    assert found.notes == (f"links that lead to no file: {one / 'gone.png'}",)


NOTE = "2 files were left: 1 .heic, 1 .txt"


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder of two images, two other files and a hidden one."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name, kind in (("a.png", "PNG"), ("b.jfif", "JPEG")):
        picture("RGB").save(folder / name, kind)
    for name in ("c.heic", "d.txt", "._a.png"):
        (folder / name).write_bytes(b"no image")
    return folder


@pytest.mark.parametrize(
    "command",
    ["holes --output out --images {}", "data check {}", "evaluate {0} --truth {0} --masks {0}"],
)
def test_commands_tell_what_they_left(
    command: str, mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mixed.parent)
    monkeypatch.setattr("maskweave.cli.evaluate.load_meter", MagicMock(side_effect=SystemExit(0)))
    result = CliRunner().invoke(app, command.format(mixed).split())
    assert result.exit_code == 0
    assert f"note: {mixed}: {NOTE}" in result.stderr


def test_training_sets_tell_what_they_left(mixed: Path) -> None:
    cache = mixed.parent / "cache"
    assert cached_images(mixed, SIDE, cache).notes == (NOTE,)
    assert cached_photos(mixed, SIDE, cache).notes == (NOTE,)
    with tarfile.open(mixed.parent / "0.tar", "w") as shard:
        for file in sorted(mixed.iterdir()):
            shard.add(file, file.name)
    shards = ImageShards(mixed.parent, partial(square, size=SIDE), "squares")
    assert len(shards) == 2 and shards.notes == (NOTE,)


def test_folders_without_images_are_refused_with_what_they_hold(tmp_path: Path) -> None:
    with pytest.raises(MaskweaveError, match="cannot read folder"):
        list_images(tmp_path / "none")
    with pytest.raises(MaskweaveError, match="is not a folder"):
        find_images(tmp_path / "none")
    for listed in (list_images, find_images):
        with pytest.raises(MaskweaveError, match=r"holds no image .*\.png, .*\.webp"):
            listed(tmp_path)
    (tmp_path / "x.heic").touch()
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait for ever
    with pytest.raises(MaskweaveError, match=r"2 files were left: 1 \.heic, 1 \.png"):
        list_images(tmp_path)


def test_what_is_in_a_file_decides_how_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.heic").write_bytes(SAMPLES["AVIF", "8 bits"]())
    assert read_image(tmp_path / "x.heic").about.format == "AVIF"


def test_a_gamma_beside_16_bits_changes_no_value() -> None:
    row = b"\0" + bytes(range(6))
    content = png(
        1, 1, 16, 2, row, chunk(b"gAMA", (100_000).to_bytes(4)) + chunk(b"sBIT", b"\7" * 3)
    )
    assert decode_image(io.BytesIO(content), "it").values.tolist() == [[[1, 515, 1029]]]
