"""``maskweave inpaint --from``: make a fill again that was downloaded from the page."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from maskweave.cli.options import load_pipeline
from maskweave.errors import MaskweaveError

if TYPE_CHECKING:
    from maskweave.call import Pipeline
    from maskweave.recall import Recipe


def name_of(recipe: "Recipe", told_by: object, model: str | None) -> str:
    """Return which model repeats a fill: the one that the user names, or the recipe's.

    Raises
    ------
    MaskweaveError
        If the user names none, and the recipe's does not come with the package.
    """
    from maskweave.checkpoint import shipped_models
    from maskweave.classical import METHODS

    # A recipe comes from anywhere: it names no folder and nothing that is to be downloaded.
    if not model and recipe.model not in (*shipped_models(), *METHODS):
        filled = f"{told_by} was filled by {recipe.model!r:.60}"
        raise MaskweaveError(f"{filled}: say where it is: --model")
    return model or recipe.model


def load_again(
    recipe: "Recipe", told_by: object, name: str, device: str
) -> "tuple[Pipeline, list[str]]":
    """Load what repeats a fill; return what is remarkable as well.

    Raises
    ------
    MaskweaveError
        If it cannot be loaded, or its weights are not those of the recipe.
    """
    from maskweave.classical import METHODS
    from maskweave.recall import made_by

    place = "cpu" if name in METHODS else device
    pipeline = load_pipeline(name, place, recipe.dtype, recipe.backend)
    made = made_by(pipeline)
    if made.weights != recipe.weights:
        raise MaskweaveError(f"{told_by} was filled by other weights than those of {name}")
    if made.device == recipe.device:
        return pipeline, []
    return pipeline, [f"it was filled on {recipe.device}: on {made.device} numbers may differ"]


@dataclass(frozen=True)
class Again:
    """What is to be filled again, and what is told of it beside the recipe."""

    recipe: Path
    """PNG file that tells how it was filled."""
    image: Path
    """The photo as it was."""
    mask: Path | None
    """Its mask; None takes transparent pixels."""
    output: Path
    """File to write."""
    model: str | None
    """A model that takes the place of the recipe's, for instance its folder."""
    device: str
    """Where it runs."""
    overwrite: bool
    """Whether the output may be replaced."""


def repeat(again: Again) -> None:
    """Fill a photo as the recipe says; the same photo, mask and machine give the same bytes.

    Raises
    ------
    MaskweaveError
        If something cannot be read or written, or the weights are not those of the recipe.
    """
    from maskweave.call import Photo
    from maskweave.images import read_image, refuse_existing
    from maskweave.masks import as_mask, check_fit, grown, read_mask
    from maskweave.recall import read_recipe
    from maskweave.soften import softened
    from maskweave.writing import check_writable, write_picture

    recipe = read_recipe(again.recipe)
    refuse_existing([again.output], again.overwrite)
    picture = read_image(again.image)
    if again.mask:
        mask = read_mask(again.mask)
        notes = [*mask.notes, *check_fit(mask, picture)]
    else:
        mask = as_mask(None, picture)
        notes = list(mask.notes)
    notes += check_writable(picture, again.output, mask.hole)
    name = name_of(recipe, again.recipe, again.model)
    pipeline, remarks = load_again(recipe, again.recipe, name, again.device)
    notes += remarks
    hole = mask.hole
    photo = Photo(picture, grown(hole, recipe.soften), recipe.seeds)
    [(_, fills)] = pipeline.fill(
        [photo], recipe.decode_settings, on_note=lambda _, note: notes.append(note)
    )
    filled = fills[recipe.fill][-1].image
    if recipe.soften:
        filled = softened(picture, filled, hole, recipe.soften)
    notes += write_picture(
        recipe.noted(filled), again.output, replace=again.overwrite, source=again.image
    )
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    typer.echo(again.output)
