"""Pictures on disk, in their own depth, with what their format can hold of what is said of them."""

import struct
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin

from maskweave.depth import opaque
from maskweave.errors import MaskweaveError
from maskweave.files import unfinished
from maskweave.formats import SUFFIXES, WRITTEN
from maskweave.images import Picture
from maskweave.jpeg import save_jpeg
from maskweave.metadata import NAMES, About
from maskweave.tones import Hole

LONGEST_IN_JPEG = 65_000
"""Bytes of EXIF or of XMP that fit into a JPEG file."""

LARGEST_RESOLUTION_IN_JPEG = 65_535
"""Pixels per inch of which a JPEG file can tell."""

BITS = {"uint8": "8 bits", "uint16": "16 bits", "float32": "floating-point numbers"}


def check_writable(picture: Picture, file: Path, hole: Hole | None = None) -> tuple[str, ...]:
    """Return what to tell of writing a picture whose hole is filled to a file of this name.

    Parameters
    ----------
    picture : Picture
        As it was read.
    file : Path
        Its suffix tells the format.
    hole : numpy.ndarray, optional
        True where the picture will be opaque.

    Raises
    ------
    MaskweaveError
        If the suffix is unknown or the format cannot hold the picture.
    """
    kind = _format(file)
    holds, depth = WRITTEN[kind], str(picture.values.dtype)
    clear = _clear(picture, hole)
    missing = [] if depth in holds.depths else [BITS[depth]]
    missing += ["transparency"] if clear and not holds.alpha else []
    if missing:
        others = [n for n, h in WRITTEN.items() if depth in h.depths and (h.alpha or not clear)]
        raise MaskweaveError(
            f"{file}: {kind} holds no {' and no '.join(missing)}, but {' and '.join(others)} can"
        )
    if max(picture.shape) > holds.side:
        height, width = picture.shape
        raise MaskweaveError(f"{file}: {width}x{height} is more than the {holds.side} of {kind}")
    lost = picture.about.said() - _kept(picture, kind).said()
    *names, last = [name for each, name in NAMES.items() if each in lost] or [""]
    joined = f"{', '.join(names)} and {last}" if names else last
    return (f"{kind} cannot hold {joined} of the image",) if last else ()


def write_picture(
    picture: Picture,
    file: Path,
    *,
    replace: bool = True,
    source: Path | None = None,
    quality: int | None = None,
) -> tuple[str, ...]:
    """Write a picture in the format of the file's suffix; return what to tell of it.

    It appears there only when whole. Missing folders are made. All formats but JPEG keep every
    value.

    Parameters
    ----------
    picture : Picture
        What is written of it, besides its values, is what the format can hold.
    file : Path
        Name of the file.
    replace : bool
        Whether a file that is there by then is replaced.
    source, quality
        Of a JPEG file, as in ``jpeg.save_jpeg``.

    Raises
    ------
    MaskweaveError
        If the suffix is unknown, the format cannot hold the picture or the file cannot be written.
    """
    check_writable(picture, file)
    kind = _format(file)
    values = picture.values
    if picture.alpha is not None and WRITTEN[kind].alpha:
        values = np.dstack([values, picture.alpha])
    with unfinished(file, replace) as path:
        try:
            if kind == "JPEG":
                options = _options(_kept(picture, kind), kind)
                return (save_jpeg(values, path, source=source, quality=quality, **options),)
            with path.open("wb") as content:
                _write(content, values, _kept(picture, kind), kind)
            return ()
        except OSError as error:
            if error.errno:
                raise
            raise MaskweaveError(f"cannot write {file}: {error}") from error
        except (ValueError, struct.error) as error:  # Pillow's, of what a format cannot hold
            raise MaskweaveError(f"cannot write {file}: {error}") from error


def write_image(pixels: np.ndarray, file: Path) -> None:
    """Write an array, uint8, (height, width, 3) or (height, width), as ``write_picture`` does."""
    write_picture(Picture(pixels), file)


def _format(file: Path) -> str:
    for kind, holds in WRITTEN.items():
        if file.suffix.lower() in holds.suffixes:
            return kind
    raise MaskweaveError(f"{file}: the name of an image ends in {', '.join(SUFFIXES)}")


def _clear(picture: Picture, hole: Hole | None) -> bool:
    """Return whether something stays transparent, so that alpha says more than nothing."""
    if picture.alpha is None:
        return False
    clear = picture.alpha != opaque(picture.alpha.dtype)
    return bool((clear if hole is None else clear & ~hole).any())


def _kept(picture: Picture, kind: str) -> About:
    """Return what a format can hold of what is said of a picture."""
    about = picture.about.only(WRITTEN[kind].about)
    if kind == "JPEG":
        long = [
            each for each in ("exif", "xmp") if len(getattr(about, each) or b"") > LONGEST_IN_JPEG
        ]
        about = replace(about, **dict.fromkeys(long))
        if max(about.dpi or (0,)) > LARGEST_RESOLUTION_IN_JPEG:
            about = replace(about, dpi=None)
    if kind == "WEBP" and (about.profile or b"")[16:20] == b"GRAY":  # it has colours alone
        about = replace(about, profile=None)
    return about


def _write(file: BinaryIO, values: np.ndarray, about: About, kind: str) -> None:
    if kind == "TIFF":
        _write_tiff(file, values, about)
    elif kind == "PNG" and values.dtype == np.uint16:
        _write_deep_png(file, values, about)
    elif kind == "PPM" and values.dtype == np.uint16:
        height, width = values.shape[:2]
        file.write(b"P%d %d %d 65535\n" % (5 if values.ndim == 2 else 6, width, height))
        file.write(values.astype(">u2").tobytes())
    else:
        options = _options(about, kind)
        if kind == "PNG":
            options["compress_level"] = 4  # within 3 % of the size with 6, in half of the time
        Image.fromarray(values).save(file, kind, **options)


def _options(about: About, kind: str) -> dict[str, Any]:
    """Return what Pillow is to write beside the pixels."""
    options: dict[str, Any] = {
        "exif": about.exif,
        "xmp": about.xmp,
        "icc_profile": about.profile,
        "dpi": about.dpi,
        "comment": about.comment,
    }
    if kind == "WEBP":
        options |= {"lossless": True, "exact": True}  # colours of transparent pixels as well
    if kind == "PNG":
        options["pnginfo"] = info = PngImagePlugin.PngInfo()
        for name, content in about.chunks:
            info.add(name, content)
        if about.comment:
            info.add_text("Comment", about.comment.decode(errors="replace"))
        if about.xmp:
            info.add(b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + about.xmp)
    return {name: each for name, each in options.items() if each}


# PNG specification, 5.2, 9.2 and 11.2: the order of chunks, the filter "Up", IHDR.
def _write_deep_png(file: BinaryIO, values: np.ndarray, about: About) -> None:
    """Write 16 bits, which Pillow does not, among all that Pillow writes beside the pixels."""
    height, width, channels = np.atleast_3d(values).shape
    plain, said = BytesIO(), BytesIO()
    Image.new("L", (1, 1)).save(plain, "PNG")
    Image.new("L", (1, 1)).save(said, "PNG", **_options(about, "PNG"))
    start, end = plain.getvalue()[:33], plain.getvalue()[33:]  # up to IHDR, from IDAT on
    rows = values.astype(">u2").view(np.uint8).reshape(height, -1)
    filtered = np.full((height, rows.shape[1] + 1), 2, dtype=np.uint8)
    filtered[0, 1:] = rows[0]
    filtered[1:, 1:] = rows[1:] - rows[:-1]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    file.write(start[:8])
    _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    file.write(said.getvalue().removeprefix(start).removesuffix(end))
    _write_chunk(file, b"IDAT", zlib.compress(filtered.tobytes(), 1))
    _write_chunk(file, b"IEND", b"")


def _write_chunk(file: BinaryIO, name: bytes, content: bytes) -> None:
    file.write(struct.pack(">I", len(content)) + name)
    file.write(content)
    file.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(name))))


# TIFF 6.0, sections 4, 6 and 18: one strip without compression.
def _write_tiff(file: BinaryIO, values: np.ndarray, about: About) -> None:
    height, width, channels = np.atleast_3d(values).shape
    bits, kind = values.dtype.itemsize * 8, 3 if values.dtype.kind == "f" else 1
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if about.exif:
        exif = Image.Exif()
        exif.load(about.exif)
        for tag in exif:
            inner = tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
            tags[tag] = exif.get_ifd(tag) if inner else exif[tag]
    tags[TiffImagePlugin.IMAGEWIDTH] = width
    tags[TiffImagePlugin.IMAGELENGTH] = height
    tags[TiffImagePlugin.BITSPERSAMPLE] = (bits,) * channels
    tags[TiffImagePlugin.SAMPLEFORMAT] = (kind,) * channels
    tags[TiffImagePlugin.COMPRESSION] = 1
    tags[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = 1 if channels < 3 else 2
    tags[TiffImagePlugin.SAMPLESPERPIXEL] = channels
    if channels in (2, 4):
        tags[TiffImagePlugin.EXTRASAMPLES] = 2  # alpha that colours were not multiplied by
    tags[TiffImagePlugin.ROWSPERSTRIP] = height
    tags[TiffImagePlugin.STRIPOFFSETS] = 0  # which Pillow counts from the end of the directory
    tags[TiffImagePlugin.STRIPBYTECOUNTS] = values.nbytes
    if about.dpi:
        tags[TiffImagePlugin.X_RESOLUTION], tags[TiffImagePlugin.Y_RESOLUTION] = about.dpi
        tags[TiffImagePlugin.RESOLUTION_UNIT] = 2
    if about.xmp:
        tags[TiffImagePlugin.XMP] = about.xmp
    if about.profile:
        tags[TiffImagePlugin.ICCPROFILE] = about.profile
    tags.save(file)
    file.write(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
