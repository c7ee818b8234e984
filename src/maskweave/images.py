"""Pictures and masks, on disk and in memory.

What is read becomes 8-bit RGB with the EXIF orientation applied. Grey and palette images are
converted, which loses nothing; an alpha channel can name the hole and is not kept; a colour profile
is. Refused, because known pixels could not come back unchanged or because nobody can say which
picture is meant: 16-bit and floating-point images, CMYK and other colour spaces, animations and
files of several pages. Refused as well: files that are empty, truncated, no image at all, or larger
than ``LARGEST_IMAGE`` pixels.
"""

import re
import warnings
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from maskweave.errors import MaskweaveError
from maskweave.files import unfinished

LARGEST_IMAGE = 100_000_000
"""Pixels beyond which a file is taken for a decompression bomb."""

GREY = 128
"""Covers a hole in pictures."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Files that count as images in a folder."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
"""What Pillow may take a file for, whatever its name: it decodes others with a loss of depth."""

LOSSLESS_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "La", "RGBa")


Pixels = UInt8[np.ndarray, "height width 3"]
Hole = Bool[np.ndarray, "height width"]


class Picture(NamedTuple):
    """An image and, if it has an alpha channel, where it is transparent."""

    pixels: Pixels
    """Pixels in RGB."""
    transparent: Hole | None
    """Alpha below 128; None without an alpha channel."""
    profile: bytes | None
    """ICC colour profile; None without one."""
    format: str
    """Pillow's name of the file's format: PNG, JPEG, ..."""
    mode: str
    """Pillow's name of the file's mode: RGB, L, P, ..."""


def read_image(file: Path) -> Picture:
    """Read a picture as 8-bit RGB.

    Raises
    ------
    MaskweaveError
        If the file is missing or is refused for one of the reasons that the module names.
    """
    if not file.is_file():
        raise MaskweaveError(f"{file} {'is no file' if file.exists() else 'does not exist'}")
    return decode_image(file, str(file))


def decode_image(source: Path | BinaryIO, name: str) -> Picture:
    """Read a picture from a file or from bytes, as ``read_image`` does; errors call it ``name``."""
    image, kind = _open(source, name)
    transparent = _transparent(image) if image.has_transparency_data else None
    # The profile of a grey image does not fit the colour image that it becomes.
    profile = None if image.mode in ("1", "L", "LA", "La") else image.info.get("icc_profile")
    return Picture(np.array(image.convert("RGB")), transparent, profile, kind, image.mode)


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


def write_image(pixels: np.ndarray, file: Path, profile: bytes | None = None) -> None:
    """Write a picture in the format of the file's suffix; it appears there only when whole.

    Missing folders are made. All of ``SUFFIXES`` but JPEG keep every pixel.

    Parameters
    ----------
    pixels : numpy.ndarray
        uint8, (height, width, 3) or, for grey, (height, width).
    file : Path
        Name of the file.
    profile : bytes, optional
        ICC colour profile.

    Raises
    ------
    MaskweaveError
        If the suffix is unknown or the file cannot be written.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise MaskweaveError(f"{file}: the name of an image ends in {', '.join(SUFFIXES)}")
    kind = Image.registered_extensions()[file.suffix.lower()]
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    if profile:
        options["icc_profile"] = profile
    with unfinished(file) as path:
        try:
            Image.fromarray(pixels).save(path, format=kind, **options)
        except (OSError, ValueError) as error:  # Pillow's, of sizes that a format cannot hold
            reason = getattr(error, "strerror", None) or error
            raise MaskweaveError(f"cannot write {file}: {reason}") from error


def covered(pixels: Pixels, hole: Hole) -> Pixels:
    """Return an image with its hole painted mid-grey."""
    return np.where(hole[:, :, None], np.uint8(GREY), pixels)


def refuse_existing(files: Iterable[Path], overwrite: bool) -> None:
    """Raise MaskweaveError if one of the files exists, unless they may be overwritten."""
    existing = [] if overwrite else [file for file in files if file.exists()]
    if existing:
        raise MaskweaveError(f"{existing[0]} exists; --overwrite replaces it")


def as_list(images: Any, channels: bool = True) -> list[Any]:
    """Return images, given as one, as a list or as a batch in an array or tensor, as a list.

    ``channels`` is False for masks, whose arrays have one axis less.
    """
    if isinstance(images, list | tuple):
        return list(images)
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 3 + channels:
        return list(images)
    return [images]


def as_pixels(image: Any) -> Pixels:
    """Return an image as a new uint8 array (height, width, 3).

    A PIL image is refused or converted as a file is. Arrays are (height, width, 3), tensors
    (3, height, width); floats are in [0, 1] and are rounded.
    """
    if isinstance(image, Image.Image):
        with _readable("the image"):
            return np.array(_checked(image, "the image").convert("RGB"))
    if isinstance(image, Tensor) and image.ndim == 3:
        image = _as_array(image.permute(1, 2, 0))
    if isinstance(image, np.ndarray) and image.shape[2:] == (3,):
        if image.dtype == np.uint8:
            return np.array(image, order="C")
        if np.issubdtype(image.dtype, np.floating) and ((image >= 0) & (image <= 1)).all():
            return (image.astype(np.float64) * 255).round().astype(np.uint8)
    raise MaskweaveError(
        "an image is a PIL image, an array (height, width, 3) or a tensor (3, height, width): "
        "uint8, or float from 0 to 1"
    )


def as_hole(mask: Any, image: Any) -> Hole:
    """Return a mask, or without one the transparent pixels of its image, as True in the hole."""
    if mask is None:
        if not (isinstance(image, Image.Image) and image.has_transparency_data):
            raise MaskweaveError("an image without transparency needs a mask_image")
        with _readable("the image"):
            return _transparent(_checked(image, "the image"))
    if isinstance(mask, Image.Image):
        with _readable("the mask"):
            mask = np.array(_checked(mask, "the mask").convert("RGB").convert("L"))
    if isinstance(mask, Tensor):
        mask = _as_array(mask)
    if isinstance(mask, np.ndarray) and mask.ndim == 3 and mask.shape[0] == 1:
        mask = mask[0]
    if isinstance(mask, np.ndarray) and mask.ndim == 2:
        if mask.dtype == np.bool_:
            return mask
        if mask.dtype == np.uint8:
            return mask >= 128
        if np.issubdtype(mask.dtype, np.floating) and ((mask >= 0) & (mask <= 1)).all():
            return mask >= 0.5
    raise MaskweaveError(
        "a mask is a PIL image or an array or tensor (height, width): bool, uint8, or float from "
        "0 to 1"
    )


def check_sizes(pixels: Pixels, hole: Hole) -> None:
    """Raise MaskweaveError unless an image and its mask are of one size."""
    if pixels.shape[:2] != hole.shape:
        (rows, columns), (height, width) = hole.shape, pixels.shape[:2]
        raise MaskweaveError(f"the mask is {columns}x{rows} pixels, the image {width}x{height}")


def converted(pixels: Pixels, output_type: str) -> Any:
    """Return an array as "pil", or as floats in [0, 1]: "np", or "pt" (3, height, width)."""
    if output_type == "pil":
        return Image.fromarray(pixels)
    floats = pixels.astype(np.float32) / 255
    return floats if output_type == "np" else torch.from_numpy(floats).permute(2, 0, 1)


def _open(source: Path | BinaryIO, name: str) -> tuple[Image.Image, str]:
    """Return an image and its format, which the image loses when it is turned."""
    with _readable(name), warnings.catch_warnings():
        # Pillow warns of what is odd in a file, and of large images at a limit of its own.
        warnings.simplefilter("ignore")
        with Image.open(source, formats=FORMATS) as image:
            return _checked(image, name), image.format or ""


@contextmanager
def _readable(name: str) -> Generator[None]:
    """Turn what Pillow's decoders stumble over in a broken file into one line."""
    try:
        yield
    except MaskweaveError:
        raise
    except Exception as error:
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise MaskweaveError(f"{name} is not a readable image: {reason}") from error


def _as_array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _checked(image: Image.Image, name: str) -> Image.Image:
    """Return an image the right way up, unless it is one of those that the module refuses."""
    if image.width * image.height > LARGEST_IMAGE:
        size = f"{image.width}x{image.height}"
        raise MaskweaveError(f"{name}: {size} is more than {LARGEST_IMAGE} pixels")
    # The further pictures of an MPO, which many cameras write, are previews of the first.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise MaskweaveError(f"{name}: animations and files of several pages are not supported")
    # Pillow opens 16-bit colour as 8-bit RGB; only the raw mode of its tiles tells.
    if image.mode not in LOSSLESS_MODES or re.search(r";16[BLN]", str(getattr(image, "tile", ""))):
        mode = image.mode if image.mode not in LOSSLESS_MODES else "16-bit"
        raise MaskweaveError(f"{name}: {mode} images are not supported; convert it to 8-bit RGB")
    return ImageOps.exif_transpose(image)


def _transparent(image: Image.Image) -> Hole:
    return np.array(image.convert("RGBA").getchannel("A")) < 128
