"""Pictures and masks on disk.

What is read becomes 8-bit RGB with the EXIF orientation applied. Grey and palette images are
converted, which loses nothing. Refused, because known pixels could not come back unchanged or
because nobody can say which picture is meant: 16-bit and floating-point images, CMYK and other
colour spaces, animations. Refused as well: files that are empty, truncated, no image at all, or
larger than ``LARGEST_IMAGE`` pixels.
"""

import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps

from maskweave.errors import MaskweaveError

LARGEST_IMAGE = 100_000_000
"""Pixels beyond which a file is taken for a decompression bomb."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Files that count as images in a folder."""

LOSSLESS_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "La", "RGBa")


class Picture(NamedTuple):
    """An image and, if it has an alpha channel, where it is transparent."""

    pixels: UInt8[np.ndarray, "height width 3"]
    """RGB."""
    transparent: Bool[np.ndarray, "height width"] | None
    """Alpha below 128; None without an alpha channel."""


def read_image(file: Path) -> Picture:
    """Read a picture as 8-bit RGB.

    Raises
    ------
    MaskweaveError
        If the file is missing or is refused for one of the reasons that the module names.
    """
    image = _open(file)
    if image.mode not in LOSSLESS_MODES:
        raise MaskweaveError(
            f"{file}: {image.mode} images are not supported; convert it to 8-bit RGB first"
        )
    transparent = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        transparent = np.array(image.getchannel("A")) < 128
    return Picture(np.array(image.convert("RGB")), transparent)


def read_mask(file: Path, invert: bool = False) -> Bool[np.ndarray, "height width"]:
    """Read a mask image: True, the hole, where it is white (128 or more), or black if inverted.

    An image of any mode that ``read_image`` takes; its alpha channel is ignored.
    """
    hole = np.array(Image.fromarray(read_image(file).pixels).convert("L")) >= 128
    return ~hole if invert else hole


def list_images(directory: Path) -> list[Path]:
    """Return the images directly in a folder, sorted by name.

    Raises
    ------
    MaskweaveError
        If the folder cannot be read, holds no image, or two images differ in their suffix only.
    """
    try:
        files = sorted(p for p in directory.iterdir() if p.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise MaskweaveError(f"cannot read folder {directory}: {error.strerror}") from error
    if not files:
        raise MaskweaveError(f"{directory} holds no image ({', '.join(SUFFIXES)})")
    stems = [file.stem for file in files]
    twins = sorted({stem for stem in stems if stems.count(stem) > 1}) if len(set(stems)) < len(stems) else []
    if twins:
        raise MaskweaveError(f"{directory}: several images are called {', '.join(twins[:3])}")
    return files


def write_image(pixels: UInt8[np.ndarray, "height width 3"], file: Path) -> None:
    """Write a picture in the format of the file's suffix; it appears there only when whole."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        Image.fromarray(pixels).save(unfinished, format=Image.registered_extensions()[file.suffix])
        os.replace(unfinished, file)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise MaskweaveError(f"cannot write {file}: {error.strerror or error}") from error


def _open(file: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images at a limit of its own; ours is checked below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                if image.width * image.height > LARGEST_IMAGE:
                    raise MaskweaveError(
                        f"{file}: {image.width}x{image.height} is more than {LARGEST_IMAGE} pixels"
                    )
                if getattr(image, "n_frames", 1) > 1:
                    raise MaskweaveError(f"{file}: animated images are not supported")
                image.load()
                return ImageOps.exif_transpose(image)
    except FileNotFoundError as error:
        raise MaskweaveError(f"{file} does not exist") from error
    except MaskweaveError:
        raise
    except Image.DecompressionBombError as error:
        raise MaskweaveError(f"{file}: too large: {error}") from error
    # Pillow's decoders raise whatever they stumble over in a broken file.
    except Exception as error:
        raise MaskweaveError(f"{file} is not a readable image: {error}") from error
