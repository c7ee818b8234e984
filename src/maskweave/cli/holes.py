"""``maskweave holes``: draw mask images."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from maskweave.cli.options import Overwrite, Seed, note_left_out
from maskweave.errors import MaskweaveError

KINDS = "random-walk, thin, medium, thick, box, half, scratch, scratches, text or blob"

SCRATCHES = (2, 4)
"""Least and largest width of a scratch, in pixels."""


class Wanted(NamedTuple):
    """A mask that is to be drawn."""

    stem: str
    """Its name without suffix."""
    width: int
    """Its width in pixels."""
    height: int
    """Its height in pixels."""


def holes(
    output: Annotated[Path, typer.Option(help="Folder for the masks, white in the hole.")],
    kind: Annotated[str, typer.Option(help=KINDS)] = "random-walk",
    number: Annotated[int, typer.Option(min=1, help="How many.")] = 10,
    size: Annotated[str, typer.Option(help="Side in pixels, or WIDTHxHEIGHT.")] = "64",
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images: one mask for each, in its size and with its name, instead of a "
            "number of masks of one size."
        ),
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Draw holes as inpainting papers do, each from the seed and its number."""
    from maskweave.holes import check_kinds
    from maskweave.images import refuse_existing

    check_kinds([kind])
    if images:
        wanted = sizes_of(images)
        note_left_out(images)
    else:
        wanted = [Wanted(f"{kind}_{index:04d}", *_size(size)) for index in range(number)]
    refuse_existing([output / f"{each.stem}.png" for each in wanted], overwrite)
    draw(wanted, kind, seed, output)
    typer.echo(f"{len(wanted)} masks in {output}")


def sizes_of(images: Path) -> list[Wanted]:
    """Return what masks to draw for the images of a folder."""
    from maskweave.formats import list_images

    return [Wanted(file.stem, *_size_of(file)) for file in list_images(images).files]


def draw(wanted: Sequence[Wanted], kind: str, seed: int, output: Path) -> None:
    """Draw masks, each from the seed and its place among them, and write them to a folder."""
    import numpy as np

    from maskweave.holes import draw_hole
    from maskweave.writing import write_image

    for index, (stem, width, height) in enumerate(wanted):
        hole = draw_hole(kind, height, width, np.random.default_rng((seed, index)), SCRATCHES)
        write_image(hole * np.uint8(255), output / f"{stem}.png")


def _size(text: str) -> tuple[int, int]:
    """Return width and height, given as text."""
    from maskweave.formats import LARGEST_IMAGE

    sides = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text)
    if not sides:
        raise MaskweaveError(f"size is a number of pixels or WIDTHxHEIGHT, got {text!r}")
    width, height = int(sides[1]), int(sides[2] or sides[1])
    if width * height > LARGEST_IMAGE:
        raise MaskweaveError(f"{width}x{height} is more than {LARGEST_IMAGE} pixels")
    return width, height


def _size_of(file: Path) -> tuple[int, int]:
    """Return width and height of an image, the right way up, that has room for a hole."""
    from maskweave.holes import check_size
    from maskweave.images import read_image

    height, width = read_image(file).shape
    try:
        check_size(height, width)
    except MaskweaveError as error:
        raise MaskweaveError(f"{file}: {error}") from error
    return width, height
