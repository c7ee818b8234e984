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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from maskweave.errors import MaskweaveError
from maskweave.files import unfinished
from maskweave.metadata import About, about

LARGEST_IMAGE = 100_000_000
"""Pixels beyond which a file is taken for a decompression bomb."""

GREY = 128
"""Covers a hole in pictures."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Files that count as images in a folder."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
"""What Pillow may take a file for, whatever its name: it decodes others with a loss of depth."""

LOSSLESS_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "La", "RGBa")
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I", "F")

Pixels = UInt8[np.ndarray, "height width 3"]
Hole = Bool[np.ndarray, "height width"]


@dataclass(frozen=True, eq=False)
class Picture:
    """An image in its own depth, the right way up, and what goes along with it."""

    values: np.ndarray
    """Grey values (height, width) or RGB (height, width, 3): uint8, uint16 or float32."""
    alpha: np.ndarray | None = None
    """Opacity (height, width) of the same type, at most 255, 65535 or 1; None without it."""
    about: About = field(default_factory=About)
    """What the file says beside the values."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def transparent(self) -> Hole | None:
        """Where the alpha is below half; None without an alpha channel."""
        return None if self.alpha is None else self.alpha < 128

    @property
    def pixels(self) -> Pixels:
        """8-bit RGB, as training and evaluation see it."""
        return _coloured(self.values)

    def seen(self, hole: Hole) -> Pixels:
        """Return what a model is to look at in order to fill a hole: a new array of 8-bit RGB.

        Nothing under the hole counts.
        """
        return self.pixels

    def filled(self, painted: Pixels, hole: Hole, keep_known: bool = True) -> "Picture":
        """Return the picture with what was painted on ``seen(hole)``.

        Parameters
        ----------
        painted : numpy.ndarray
            What ``seen`` gave, as a model has changed it.
        hole : numpy.ndarray
            True in the hole, where the result is opaque.
        keep_known : bool
            Whether all values outside the hole stay as they are. Otherwise those stay that the
            model has not changed.
        """
        if not keep_known:
            hole = hole | (painted != self.seen(hole)).any(axis=2)
        grey = self.values.ndim == 2
        new = np.array(Image.fromarray(painted).convert("L")) if grey else painted
        values = np.where(hole if grey else hole[:, :, None], new, self.values)
        alpha = None if self.alpha is None else np.where(hole, np.uint8(255), self.alpha)
        return replace(self, values=values, alpha=alpha)


class Listing(NamedTuple):
    """The images of a folder."""

    files: list[Path]
    """The images, sorted."""
    notes: tuple[str, ...]
    """What a user should be told of files that were left out."""


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
    with _readable(name), warnings.catch_warnings():
        # Pillow warns of what is odd in a file, and of large images at a limit of its own.
        warnings.simplefilter("ignore")
        with Image.open(source, formats=FORMATS) as image:
            return _decoded(image, name)


def _decoded(image: Image.Image, name: str) -> Picture:
    upright, said = _checked(image, name), about(image)  # only then is it known to be small
    alpha = (
        np.array(upright.convert("RGBA").getchannel("A")) if upright.has_transparency_data else None
    )
    grey = upright.mode in ("1", "L", "LA", "La")
    return Picture(np.array(upright.convert("L" if grey else "RGB")), alpha, said)


def open_image(source: Path | BinaryIO | Image.Image, name: str) -> tuple[Image.Image, int]:
    """Return an image of any depth, loaded and turned upright, and the EXIF orientation it had.

    Raises
    ------
    MaskweaveError
        If it is refused for one of the reasons that the module names, but for its depth; the error
        calls it ``name``.
    """
    modes = (*LOSSLESS_MODES, *DEEP_MODES)
    with _readable(name), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(source, Image.Image):
            return _checked(source, name, modes), about(source).orientation
        with Image.open(source, formats=FORMATS) as image:
            return _checked(image, name, modes), about(image).orientation


def list_images(directory: Path) -> Listing:
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
    return Listing(files, ())


def write_picture(picture: Picture, file: Path, replace: bool = True) -> None:
    """Write a picture in the format of the file's suffix; it appears there only when whole.

    Missing folders are made. Without ``replace`` a file that is there by then stays.

    Raises
    ------
    MaskweaveError
        If the suffix is unknown, the format cannot hold the picture or the file cannot be written.
    """
    values = picture.values
    if picture.alpha is not None:
        values = np.dstack([_coloured(values), picture.alpha])
    kind = _format(file)
    options: dict[str, Any] = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    if picture.about.profile:
        options["icc_profile"] = picture.about.profile
    with unfinished(file, replace) as path:
        try:
            Image.fromarray(values).save(path, format=kind, **options)
        except (OSError, ValueError) as error:  # Pillow's, of sizes that a format cannot hold
            if getattr(error, "errno", None):
                raise
            raise MaskweaveError(f"cannot write {file}: {error}") from error


def write_image(pixels: np.ndarray, file: Path) -> None:
    """Write an array, uint8, (height, width, 3) or (height, width), as ``write_picture`` does."""
    write_picture(Picture(pixels), file)


def _format(file: Path) -> str:
    if file.suffix.lower() not in SUFFIXES:
        raise MaskweaveError(f"{file}: the name of an image ends in {', '.join(SUFFIXES)}")
    return Image.registered_extensions()[file.suffix.lower()]


def _coloured(values: np.ndarray) -> np.ndarray:
    """Return a new array (height, width, 3)."""
    return np.array(values) if values.ndim == 3 else np.stack([values] * 3, axis=2)


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


def as_picture(image: Any) -> Picture:
    """Return an image as a picture.

    A PIL image is refused or converted as a file is. Arrays are (height, width, 3), tensors
    (3, height, width); floats are in [0, 1] and are rounded.
    """
    if isinstance(image, Picture):
        return image
    if isinstance(image, Image.Image):
        with _readable("the image"):
            return _decoded(image, "the image")
    if isinstance(image, Tensor) and image.ndim == 3:
        image = _as_array(image.permute(1, 2, 0))
    if isinstance(image, np.ndarray) and image.shape[2:] == (3,):
        if image.dtype == np.uint8:
            return Picture(np.array(image, order="C"))
        if np.issubdtype(image.dtype, np.floating) and ((image >= 0) & (image <= 1)).all():
            return Picture((image.astype(np.float64) * 255).round().astype(np.uint8))
    raise MaskweaveError(
        "an image is a PIL image, an array (height, width, 3) or a tensor (3, height, width): "
        "uint8, or float from 0 to 1"
    )


def converted(picture: Picture, output_type: str) -> Any:
    """Return a picture as "pil", or as floats in [0, 1]: "np", or "pt" (3, height, width)."""
    if output_type == "pil":
        return Image.fromarray(picture.values)
    floats = picture.pixels.astype(np.float32) / 255
    return floats if output_type == "np" else torch.from_numpy(floats).permute(2, 0, 1)


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


def _checked(image: Image.Image, name: str, modes: tuple[str, ...] = LOSSLESS_MODES) -> Image.Image:
    """Return an image the right way up, unless it is one of those that the module refuses."""
    if image.width * image.height > LARGEST_IMAGE:
        size = f"{image.width}x{image.height}"
        raise MaskweaveError(f"{name}: {size} is more than {LARGEST_IMAGE} pixels")
    # The further pictures of an MPO, which many cameras write, are previews of the first.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise MaskweaveError(f"{name}: animations and files of several pages are not supported")
    # Pillow opens 16-bit colour as 8-bit RGB; only the raw mode of its tiles tells.
    deep = re.search(r";16[BLN]", str(getattr(image, "tile", "")))
    if image.mode not in modes or (deep and modes == LOSSLESS_MODES):
        mode = image.mode if image.mode not in LOSSLESS_MODES else "16-bit"
        raise MaskweaveError(f"{name}: {mode} images are not supported; convert it to 8-bit RGB")
    return ImageOps.exif_transpose(image)
