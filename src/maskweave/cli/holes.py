"""``maskweave holes``: draw mask images."""

import re
from pathlib import Path
from typing import Annotated

import typer

from maskweave.cli.options import Overwrite, Seed
from maskweave.errors import MaskweaveError

KINDS = "random-walk, thin, medium, thick, box, half, scratch, text or blob"

SCRATCHES = (2, 4)
"""Least and largest width of a scratch, in pixels."""


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
    import numpy as np

    from maskweave.formats import list_images
    from maskweave.holes import check_kinds, draw_hole
    from maskweave.images import refuse_existing
    from maskweave.writing import write_image

    check_kinds([kind])
    if images:
        wanted = [(file.stem, *_size_of(file)) for file in list_images(images).files]
    else:
        wanted = [(f"{kind}_{index:04d}", *_size(size)) for index in range(number)]
    files = [output / f"{stem}.png" for stem, *_ in wanted]
    refuse_existing(files, overwrite)
    for index, (file, (_, width, height)) in enumerate(zip(files, wanted, strict=True)):
        hole = draw_hole(kind, height, width, np.random.default_rng((seed, index)), SCRATCHES)
        write_image(hole * np.uint8(255), file)
    typer.echo(f"{len(files)} masks in {output}")


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
