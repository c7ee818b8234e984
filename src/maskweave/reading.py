"""A photo that is to be filled, from the files of an image and its mask, wherever they lie."""

import dataclasses
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from maskweave.call import Photo
from maskweave.errors import MaskweaveError
from maskweave.images import Picture, decode_image, read_image
from maskweave.masks import Mask, as_mask, check_fit, read_mask
from maskweave.seeds import draw_seeds, seeded
from maskweave.settings import Natural, settings
from maskweave.tars import is_member, read_member
from maskweave.writing import check_writable


@settings
class Reading:
    """How masks are read."""

    invert: bool = False
    """Whether black is the hole."""
    threshold: int = 128
    """What counts as white, of 255."""
    grow: Natural = 0
    """Pixels by which holes are widened."""


class Source(NamedTuple):
    """Where an image and its mask come from."""

    image: Path
    """A file, or one in a shard as ``tars`` names it."""
    mask: Path | None = None
    """The same; None takes the transparent pixels of the image."""
    image_content: bytes | None = None
    """What is in the file, if somebody else has read it."""
    mask_content: bytes | None = None
    """The same of the mask."""


def read_photo(
    source: Source, seeds: list[int], output: Path, reading: Reading
) -> tuple[Photo, list[str]]:
    """Read an image and its mask; return them with what there is to tell of them.

    Parameters
    ----------
    source : Source
        What is read.
    seeds : list of int
        The seed of each fill.
    output : Path
        What is to be written: its format has to hold the image.
    reading : Reading
        How the mask is read.

    Raises
    ------
    MaskweaveError
        If a file cannot be read, the mask does not fit, or the output's format cannot hold it.
    """
    picture = _picture(source.image, source.image_content)
    mask = _mask(source, picture, reading)
    notes = list(mask.notes)
    try:
        notes += check_writable(picture, output, mask.hole)
    except MaskweaveError as error:
        raise MaskweaveError(f"{error}; --format names another for files in a folder") from error
    return Photo(picture, mask.hole, seeds), notes


def seeds_of(seed: int, image: Path, samples: int) -> list[int]:
    """Return the seeds of an image's fills: they depend on the run's and the image's name alone."""
    [seeds] = draw_seeds(seeded(seed, image.stem), 1, samples)
    return seeds


def _picture(file: Path, content: bytes | None) -> Picture:
    if content is None and is_member(file):
        content = read_member(file)
    return read_image(file) if content is None else decode_image(BytesIO(content), str(file))


def _mask(source: Source, picture: Picture, reading: Reading) -> Mask:
    file, content = source.mask, source.mask_content
    if file is None:
        if picture.transparent is None:
            raise MaskweaveError(f"{source.image} has no transparency: name a --mask")
        return as_mask(None, picture, grow=reading.grow)
    how: dict[str, Any] = dataclasses.asdict(reading)  # type: ignore[arg-type]
    if content is not None or is_member(file):
        return as_mask(_picture(file, content), picture, **how)
    mask = read_mask(file, **how)
    return mask._replace(notes=(*mask.notes, *check_fit(mask, picture)))
