"""Pictures and masks, on disk and in memory.

What is read becomes 8-bit RGB with the EXIF orientation applied. Grey and palette images are
converted, which loses nothing. Refused, because known pixels could not come back unchanged or
because nobody can say which picture is meant: 16-bit and floating-point images, CMYK and other
colour spaces, animations. Refused as well: files that are empty, truncated, no image at all, or
larger than ``LARGEST_IMAGE`` pixels.
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps

from maskweave.errors import MaskweaveError

LARGEST_IMAGE = 100_000_000
"""Pixels beyond which a file is taken for a decompression bomb."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Files that count as images in a folder."""

LOSSLESS_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "La", "RGBa")


Pixels = UInt8[np.ndarray, "height width 3"]
Hole = Bool[np.ndarray, "height width"]


class Picture(NamedTuple):
    """An image and, if it has an alpha channel, where it is transparent."""

    pixels: Pixels
    """RGB."""
    transparent: Hole | None
    """Alpha below 128; None without an alpha channel."""


def read_image(file: Path) -> Picture:
    """Read a picture as 8-bit RGB.

    Raises
    ------
    MaskweaveError
        If the file is missing or is refused for one of the reasons that the module names.
    """
    image = _open(file)
    transparent = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        transparent = np.array(image.getchannel("A")) < 128
    return Picture(np.array(image.convert("RGB")), transparent)


def read_mask(file: Path, invert: bool = False) -> Hole:
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
        files = sorted(directory.iterdir())
    except OSError as error:
        raise MaskweaveError(f"cannot read folder {directory}: {error.strerror}") from error
    files = [file for file in files if file.suffix.lower() in SUFFIXES and file.is_file()]
    if not files:
        raise MaskweaveError(f"{directory} holds no image ({', '.join(SUFFIXES)})")
    twins = [stem for stem, number in Counter(file.stem for file in files).items() if number > 1]
    if twins:
        raise MaskweaveError(f"{directory}: several images are called {', '.join(twins[:3])}")
    return files


def write_image(pixels: Pixels, file: Path) -> None:
    """Write a picture in the format of the file's suffix; it appears there only when whole.

    Missing folders are made. All of ``SUFFIXES`` but JPEG keep every pixel.

    Raises
    ------
    MaskweaveError
        If the suffix is unknown or the file cannot be written.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise MaskweaveError(f"{file}: the name of an image ends in {', '.join(SUFFIXES)}")
    unfinished = file.with_name(f".{file.name}.unfinished")
    kind = Image.registered_extensions()[file.suffix.lower()]
    options = {"lossless": True} if kind == "WEBP" else {}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(unfinished, format=kind, **options)
        unfinished.replace(file)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise MaskweaveError(f"cannot write {file}: {error.strerror or error}") from error


def refuse_existing(files: Iterable[Path], overwrite: bool) -> None:
    """Raise MaskweaveError if one of the files exists, unless they may be overwritten."""
    existing = [] if overwrite else [file for file in files if file.exists()]
    if existing:
        raise MaskweaveError(f"{existing[0]} exists; --overwrite replaces it")


def as_pixels(image: Any) -> Pixels:
    """Return a PIL image or a uint8 array (height, width, 3) as such an array."""
    if isinstance(image, Image.Image):
        return np.array(image.convert("RGB"))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,):
        return image
    raise MaskweaveError("an image is a PIL image or a uint8 array (height, width, 3)")


def as_hole(mask: Any, image: Any) -> Hole:
    """Return a mask, or without one the transparent pixels of its image, as True in the hole."""
    if mask is None:
        if not (isinstance(image, Image.Image) and image.has_transparency_data):
            raise MaskweaveError("an image without transparency needs a mask_image")
        return np.array(image.convert("RGBA").getchannel("A")) < 128
    if isinstance(mask, Image.Image):
        mask = np.array(mask.convert("L"))
    if isinstance(mask, np.ndarray) and mask.ndim == 2 and mask.dtype in (np.uint8, np.bool_):
        return mask if mask.dtype == np.bool_ else mask >= 128
    raise MaskweaveError("a mask is a PIL image or a uint8 or bool array (height, width)")


def check_sizes(pixels: Pixels, hole: Hole) -> None:
    """Raise MaskweaveError unless an image and its mask are of one size."""
    if pixels.shape[:2] != hole.shape:
        (rows, columns), (height, width) = hole.shape, pixels.shape[:2]
        raise MaskweaveError(f"the mask is {columns}x{rows} pixels, the image {width}x{height}")


def converted(pixels: Pixels, output_type: str) -> Any:
    """Return an array as "pil", "np" or "pt": (3, height, width) there."""
    match output_type:
        case "pil":
            return Image.fromarray(pixels)
        case "pt":
            return torch.from_numpy(pixels).permute(2, 0, 1)
        case _:
            return pixels


def _open(file: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images at a limit of its own; ours is checked below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                _refuse(image, file)
                image.load()
                return ImageOps.exif_transpose(image)
    except FileNotFoundError as error:
        raise MaskweaveError(f"{file} does not exist") from error
    except MaskweaveError:
        raise
    # Pillow's decoders raise whatever they stumble over in a broken file.
    except Exception as error:
        raise MaskweaveError(f"{file} is not a readable image: {error}") from error


def _refuse(image: Image.Image, file: Path) -> None:
    if image.width * image.height > LARGEST_IMAGE:
        size = f"{image.width}x{image.height}"
        raise MaskweaveError(f"{file}: {size} is more than {LARGEST_IMAGE} pixels")
    if getattr(image, "n_frames", 1) > 1:
        raise MaskweaveError(f"{file}: animated images are not supported")
    # Pillow opens 16-bit colour as 8-bit RGB; only the raw mode of its tiles tells.
    if image.mode not in LOSSLESS_MODES or re.search(r";16[BLN]", str(getattr(image, "tile", ""))):
        mode = image.mode if image.mode not in LOSSLESS_MODES else "16-bit"
        raise MaskweaveError(f"{file}: {mode} images are not supported; convert it to 8-bit RGB")
