"""Values of 16 bits and floating-point numbers, of which Pillow alone would keep 8 bits."""

import logging
import re
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np
import tifffile
from PIL import Image

from maskweave.errors import MaskweaveError
from maskweave.formats import check_limits
from maskweave.metadata import SIDEWAYS, About, about_tiff, exif_of, orientation
from maskweave.png import pixels_alone

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # it tells of what is odd in a file

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_COLOURS = {"RGB": 3, "MINISBLACK": 1, "MINISWHITE": 1}


class Deep(NamedTuple):
    """What is in a file, the right way up."""

    values: np.ndarray
    """Grey (height, width) or RGB (height, width, 3), uint16 or float32."""
    alpha: np.ndarray | None
    """Opacity of the same type."""


def opaque(dtype: np.dtype[Any]) -> float:
    """Return the alpha of what is not transparent at all, which is also white."""
    return 1 if dtype.kind == "f" else int(np.iinfo(dtype).max)


def turned(values: np.ndarray, angle: int) -> np.ndarray:
    """Return an array turned as an EXIF orientation asks."""
    if angle in SIDEWAYS:
        values = values.swapaxes(0, 1)
    if angle in (3, 4, 7, 8):
        values = values[::-1]
    if angle in (2, 3, 6, 7):
        values = values[:, ::-1]
    return np.ascontiguousarray(values)


def bits_of(image: Image.Image, file: BinaryIO | None) -> int:
    """Return how many bits a value has, 8 or 16, in a file that Pillow has opened, not yet loaded.

    Without the file, what only it tells is taken for 8.

    Raises
    ------
    MaskweaveError
        If it is another number.
    """
    tile = next(iter(getattr(image, "tile", ())), None)
    arguments: Any = tile.args if tile else None
    bits = 16 if ";16" in f"{image.mode} {arguments}" else 8
    if tile and tile.codec_name in ("ppm", "ppm_plain") and isinstance(arguments, tuple):
        largest = arguments[-1]
        if largest not in (255, 65535):
            raise MaskweaveError(f"values up to {largest} are not supported, only 255 and 65535")
        bits = largest.bit_length()
    if file and image.format == "JPEG2000":
        bits = _bits_of_jpeg2000(_content(file))
    # av1-isobmff, 2.3: the box av1C, whose third byte says that there are 10 or 12 bits.
    if (
        file
        and image.format == "AVIF"
        and re.search(rb"(?s)av1C..[\x40-\x7f\xc0-\xff]", _content(file))
    ):
        bits = 10
    if bits not in (8, 16):
        raise MaskweaveError(f"{image.format} of {bits} bits or more is not supported")
    return bits


# ISO/IEC 15444-1, A.5.1: the marker segment SIZ, with one byte of depth and sign for a component.
def _bits_of_jpeg2000(content: bytes) -> int:
    start = content.index(b"\xff\x4f\xff\x51") + 4
    number = int.from_bytes(content[start + 36 : start + 38])
    depths = {content[start + 38 + 3 * i] for i in range(number)}
    if len(depths) != 1 or max(depths) >= 128:
        raise MaskweaveError("signed values and components that differ in depth are not supported")
    return depths.pop() + 1


def decode(image: Image.Image, file: BinaryIO) -> Deep:
    """Return 16-bit values of a file that Pillow has opened, as they lie in it."""
    grey = image.mode == "LA" or "LA;16" in str(getattr(image, "tile", ""))
    if image.format != "PPM":  # whose 16 bits Pillow reads a hundred times more slowly than OpenCV
        image.load()  # Pillow finds what is damaged, and a transparent colour
    pixels = _pixels(pixels_alone(file) if image.format == "PNG" else _content(file))
    if pixels.dtype != np.uint16 or pixels.shape[:2] != (image.height, image.width):
        raise MaskweaveError(f"16 bits cannot be read from this {image.format}")
    values, alpha = pixels, None
    if pixels.ndim == 3:
        values = pixels[:, :, 0] if grey else pixels[:, :, :3]
        alpha = pixels[:, :, 3] if pixels.shape[2] == 4 else None
    key = image.info.get("transparency")
    if alpha is None and key is not None:
        other = values != np.array(key, dtype=np.uint16)
        alpha = (other if other.ndim == 2 else other.any(axis=2)) * np.uint16(65535)
    angle = orientation(exif_of(image))
    return Deep(turned(values, angle), None if alpha is None else turned(alpha, angle))


def decode_tiff(file: BinaryIO) -> tuple[Deep, About] | None:
    """Return what is in a TIFF file of more than 8 bits; None of any other file.

    Raises
    ------
    MaskweaveError
        If its values are of another type than 16-bit or float32, or if there are channels in it,
        in 8 bits as well, that are neither colour nor plain opacity.
    """
    if _content(file, 4) not in _TIFF:
        return None
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        check_limits(page.imagewidth, page.imagelength, len(tiff.pages))
        extra, mode = tuple(page.extrasamples), tifffile.PHOTOMETRIC(page.photometric).name
        # Many programs do not say what a channel beside the colours is: it is taken for opacity.
        surplus = page.samplesperpixel - _COLOURS.get(mode, page.samplesperpixel - len(extra))
        if surplus < 0:
            raise MaskweaveError(f"{mode} of {page.samplesperpixel} channels is not supported")
        if surplus > 1 or tifffile.EXTRASAMPLE.UNSPECIFIED in extra:
            raise MaskweaveError("channels that are neither colour nor opacity are not supported")
        kind, bits = str(page.dtype), page.bitspersample
        if kind in ("uint8", "bool"):
            return None
        if (kind, bits) not in (("uint16", 16), ("float32", 32)):
            raise MaskweaveError(f"TIFF of {bits} bits ({kind}) is not supported")
        white = mode == "MINISWHITE" and kind == "uint16"
        if mode not in ("RGB", "MINISBLACK") and not white:
            raise MaskweaveError(f"{mode} of {bits} bits is not supported; convert it to RGB")
        if tifffile.EXTRASAMPLE.ASSOCALPHA in extra:
            raise MaskweaveError(f"premultiplied alpha of {bits} bits is not supported")
        about = about_tiff(page, file, f"{mode} {kind}")
        samples = _samples(page, file, about.orientation)
    values = samples[:, :, 0] if mode != "RGB" else samples[:, :, :3]
    if white:
        values = 65535 - values
    alpha = samples[:, :, -1] if surplus else None
    return Deep(np.ascontiguousarray(values), None if alpha is None else alpha.copy()), about


def _samples(page: Any, file: BinaryIO, angle: int) -> np.ndarray:
    """Return the values of a page (height, width, channels), the right way up."""
    apart = page.planarconfig != tifffile.PLANARCONFIG.CONTIG
    try:
        samples = page.asarray()
    except (KeyError, ValueError):  # a compression that it leaves to another package
        # OpenCV knows all of them, but takes what lies in another order for this one.
        if apart or page.samplesperpixel not in (1, 3, 4):
            raise
        samples = _pixels(_content(file))  # which it has turned
    else:
        samples = samples.reshape(-1, *samples.shape[-2:]) if apart else samples
        samples = turned(np.moveaxis(samples, 0, 2) if apart else samples, angle)
    samples = samples if samples.ndim == 3 else samples[:, :, None]
    rows, columns, channels = samples.shape
    sides = sorted((page.imagelength, page.imagewidth))
    if (sorted((rows, columns)), channels) != (sides, page.samplesperpixel):
        raise MaskweaveError("its values cannot be read")
    return samples


def _pixels(content: bytes) -> np.ndarray:
    """Return what OpenCV reads, in the order red, green, blue, alpha."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        pixels = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    finally:
        cv2.utils.logging.setLogLevel(level)
    if pixels is None:
        raise MaskweaveError("its values cannot be read")
    return pixels if pixels.ndim == 2 else pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]


def _content(file: BinaryIO, length: int = -1) -> bytes:
    file.seek(0)
    return file.read(length)
