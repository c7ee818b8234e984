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
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Draw holes as inpainting papers do, each from the seed and its number."""
    import numpy as np

    from maskweave.holes import draw_hole
    from maskweave.images import LARGEST_IMAGE, refuse_existing, write_image

    sides = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", size)
    if not sides:
        raise MaskweaveError(f"size is a number of pixels or WIDTHxHEIGHT, got {size!r}")
    width, height = int(sides[1]), int(sides[2] or sides[1])
    if width * height > LARGEST_IMAGE:
        raise MaskweaveError(f"{width}x{height} is more than {LARGEST_IMAGE} pixels")
    files = [output / f"{kind}_{index:04d}.png" for index in range(number)]
    refuse_existing(files, overwrite)
    for index, file in enumerate(files):
        hole = draw_hole(kind, height, width, np.random.default_rng((seed, index)), SCRATCHES)
        write_image(hole * np.uint8(255), file)
    typer.echo(f"{number} masks in {output}")
