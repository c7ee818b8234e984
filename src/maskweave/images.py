"""Pictures in memory: how they come from files, arrays and tensors, and what a model sees of them.

A picture keeps its own depth, its alpha and what its file says of it. Values are 8 or 16 bits or
float32; one-bit and palette images become 8 bits, which loses nothing. Refused, because known
pixels could not come back unchanged or because nobody can say which picture is meant: other depths,
CMYK and other colour spaces, animations and files of several pages; and files that are empty,
truncated, no image at all, or too large. docs/files.md has the whole table.
"""

import warnings
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from maskweave.depth import bits_of, decode, decode_tiff, opaque, turned
from maskweave.errors import MaskweaveError
from maskweave.formats import FORMATS, check_limits
from maskweave.metadata import About, about_image, exif_of, orientation, png_chunks
from maskweave.tones import Hole, as_bytes, continued, from_bytes, known_range, luminance

GREY = 128
"""Covers a hole in pictures."""

SHALLOW_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "La", "RGBa")
WHOLE_MODES = ("I", "I;16", "I;16L", "I;16B")
DEEP_MODES = (*WHOLE_MODES[1:], "F")

Pixels = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True, eq=False)
class Picture:
    """An image in its own depth, the right way up, and what goes along with it."""

    values: np.ndarray
    """Grey values (height, width) or RGB (height, width, 3): uint8, uint16 or float32."""
    alpha: np.ndarray | None = None
    """Opacity (height, width) of the same type, at most 255, 65535 or 1; None without it."""
    about: About = field(default_factory=About)
    """What the file says beside the values."""
    span: tuple[float, float] | None = None
    """Values that a model sees as black and white; None is the range of those near the hole."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def transparent(self) -> Hole | None:
        """Where the alpha is below half; None without an alpha channel."""
        return None if self.alpha is None else self.alpha < opaque(self.values.dtype) / 2

    @property
    def pixels(self) -> Pixels:
        """8-bit RGB, as training and evaluation see it; not to be written to.

        Raises
        ------
        MaskweaveError
            If values are floating-point numbers beyond 0 to 1, whose white nobody knows.
        """
        white = opaque(self.values.dtype)
        if self.values.dtype.kind == "f" and ((self.values < 0) | (self.values > white)).any():
            raise MaskweaveError("values beyond 0 to 1 have no 8 bits; scale them")
        return self._seen(np.zeros(self.shape, dtype=bool), 0, white)

    def seen(self, hole: Hole) -> Pixels:
        """Return what a model is to look at in order to fill a hole; not to be written to.

        Deep values become 8 bits by their range near the hole; beyond it they are clipped. Nothing
        under the hole counts. Where the picture is wholly transparent, the visible pixels around
        are continued, as the colours there may be anything.
        """
        return self._seen(hole, *self._range(hole))

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
        low, high = self._range(hole)
        if not keep_known:
            hole = hole | (painted != self._seen(hole, low, high)).any(axis=2)
        values, new = self.values.copy(), painted[hole]
        if values.ndim == 2:
            new = luminance(new)
        values[hole] = from_bytes(new, low, high, values.dtype)
        alpha = self.alpha
        if alpha is not None:
            alpha = np.where(hole, np.array(opaque(values.dtype), dtype=values.dtype), alpha)
        return replace(self, values=values, alpha=alpha)

    def _range(self, hole: Hole) -> tuple[float, float]:
        """Return which values are seen as 0 and as 255."""
        if self.span or self.values.dtype == np.uint8:
            return self.span or (0, 255)
        known = ~hole if self.alpha is None else ~hole & (self.alpha > 0)
        return known_range(self.values, known, hole) or (0, opaque(self.values.dtype))

    def _seen(self, hole: Hole, low: float, high: float) -> Pixels:
        pixels = self.values
        if pixels.dtype != np.uint8:
            pixels = as_bytes(pixels, low, high)
        if pixels.ndim == 2:
            pixels = np.stack([pixels] * 3, axis=2)
        hidden = None if self.alpha is None else (self.alpha == 0) & ~hole
        return pixels if hidden is None or not hidden.any() else continued(pixels, hidden, hole)


def read_image(file: Path) -> Picture:
    """Read a picture in its own depth.

    Raises
    ------
    MaskweaveError
        If the file is missing or is refused for one of the reasons that the module names.
    """
    if not file.is_file():
        raise MaskweaveError(f"{file} {'is no file' if file.exists() else 'does not exist'}")
    with _readable(str(file)), file.open("rb") as content:
        return _decoded(content)


def decode_image(source: BinaryIO, name: str) -> Picture:
    """Read a picture from an open file or from bytes; errors call it ``name``."""
    with _readable(name):
        return _decoded(source)


def covered(pixels: Pixels, hole: Hole) -> Pixels:
    """Return an image with its hole painted mid-grey."""
    return np.where(hole[:, :, None], np.uint8(GREY), pixels)


def refuse_existing(files: Iterable[Path], overwrite: bool) -> None:
    """Raise MaskweaveError if one of the files exists, unless they may be overwritten."""
    existing = [] if overwrite else [file for file in files if file.exists()]
    if existing:
        raise MaskweaveError(f"{existing[0]} exists; --overwrite replaces it")


def as_list(images: Any) -> list[Any]:
    """Return images, given as one, as a list or as a batch in an array or tensor, as a list."""
    if isinstance(images, list | tuple):
        return list(images)
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        return list(images)
    return [images]


def as_picture(image: Any, name: str = "the image") -> Picture:
    """Return an image as a picture; errors of PIL images call it ``name``.

    Parameters
    ----------
    image : Picture, PIL.Image.Image, numpy.ndarray or torch.Tensor
        A PIL image is refused as a file is. Arrays are (height, width) or (height, width, 3 or 4),
        tensors (1, 3 or 4, height, width), the fourth being alpha: uint8, uint16, or float from 0
        to 1, which becomes float32 and may be NaN.

    Raises
    ------
    MaskweaveError
        If it is none of these.
    """
    if isinstance(image, Picture):
        return image
    if isinstance(image, Image.Image):
        with _readable(name):
            return _converted(image)
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
        image = image.transpose(1, 2, 0) if image.ndim == 3 else image
        image = image[:, :, 0] if image.shape[2:] == (1,) else image
    if isinstance(image, np.ndarray) and (image.ndim == 2 or image.shape[2:] in ((3,), (4,))):
        span = None
        if np.issubdtype(image.dtype, np.floating) and not ((image < 0) | (image > 1)).any():
            image, span = image.astype(np.float32), (0, 1)
        if image.dtype in (np.uint8, np.uint16, np.float32):
            alpha = image[:, :, 3].copy() if image.shape[2:] == (4,) else None
            values = image if alpha is None else image[:, :, :3]
            return Picture(np.ascontiguousarray(values), alpha, span=span)
    raise MaskweaveError(
        "an image is a PIL image, an array (height, width, 3) or a tensor (3, height, width): "
        "uint8, uint16, or float from 0 to 1"
    )


def check_output(picture: Picture, output_type: str) -> None:
    """Raise MaskweaveError unless ``converted`` can return such a picture."""
    rich = picture.values.ndim == 3 or picture.alpha is not None
    deep = picture.values.dtype != np.uint8 and picture.span is None
    if output_type == "pil" and deep and rich:
        raise MaskweaveError(
            "PIL has no colours and no alpha of more than 8 bits: ask for output_type 'np'"
        )


def converted(picture: Picture, output_type: str) -> Any:
    """Return a picture as "pil" in its own depth, or as colours in float32.

    What came as floats from 0 to 1 becomes 8 bits in "pil". Colours are an array (height, width, 3)
    as "np", a tensor (3, height, width) as "pt", with alpha a fourth channel; white is 1 in these,
    unless the picture itself is of floating-point numbers.
    """
    check_output(picture, output_type)
    values, alpha, said = picture.values, picture.alpha, picture.about
    if output_type == "pil":
        both = values if alpha is None else np.dstack([values, alpha])
        if picture.span:
            both = as_bytes(both, *picture.span)
        image = Image.fromarray(both)
        info = {"icc_profile": said.profile, "exif": said.exif, "xmp": said.xmp, "dpi": said.dpi}
        image.info |= {name: each for name, each in info.items() if each}
        return image
    values = np.stack([values] * 3, axis=2) if values.ndim == 2 else values
    values = values if alpha is None else np.dstack([values, alpha])
    floats = (values / np.float32(opaque(values.dtype))).astype(np.float32)
    return floats if output_type == "np" else torch.from_numpy(floats).permute(2, 0, 1)


@contextmanager
def _readable(name: str) -> Generator[None]:
    """Turn what decoders stumble over in a broken file into one line, and say which file it is."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of what is odd in a file, and of large images at a limit of its own.
            warnings.simplefilter("ignore")
            yield
    except MaskweaveError as error:
        raise MaskweaveError(f"{name}: {error}") from error
    except Exception as error:
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise MaskweaveError(f"{name} is not a readable image: {reason}") from error


def _decoded(file: BinaryIO) -> Picture:
    if found := decode_tiff(file):
        (values, alpha), said = found
        return Picture(values, alpha, said)
    file.seek(0)
    with Image.open(file, formats=FORMATS) as image:
        _check(image, (*SHALLOW_MODES, *WHOLE_MODES))
        deep = bits_of(image, file) > 8
        file.seek(0)
        if deep:
            values, alpha = decode(image, file)
            picture = Picture(values, alpha, about_image(image))
        else:
            picture = _converted(image)
        if image.format == "PNG":
            chunks = tuple(png_chunks(file))
            picture = replace(picture, about=replace(picture.about, chunks=chunks))
        return picture


def _converted(image: Image.Image) -> Picture:
    """Return Pillow's image in the depth that Pillow gives it."""
    if image.mode in SHALLOW_MODES and bits_of(image, None) > 8:
        raise MaskweaveError("PIL keeps 8 of its 16 bits: images.read_image keeps all")
    _check(image, (*SHALLOW_MODES, *DEEP_MODES))
    shown = orientation(exif_of(image))  # loads some formats, which are known to be small by now
    image.load()
    said = about_image(image)
    angle = said.orientation  # 1 of a TIFF file, which Pillow has turned as it loaded it
    said, alpha = replace(said, orientation=shown), None
    if image.mode in DEEP_MODES:
        values = np.array(image).astype(np.float32 if image.mode == "F" else np.uint16)
    else:
        if image.has_transparency_data:
            alpha = turned(np.array(image.convert("RGBA").getchannel("A")), angle)
        mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
        values = np.array(image if image.mode == mode else image.convert(mode))
    return Picture(turned(values, angle), alpha, said)


def _check(image: Image.Image, modes: tuple[str, ...]) -> None:
    # The further pictures of an MPO, which many cameras write, are previews of the first.
    pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    check_limits(image.width, image.height, pages)
    if image.mode not in modes:
        raise MaskweaveError(f"{image.mode} images are not supported; convert it to RGB")
