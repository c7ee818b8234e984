"""``maskweave convert``: checkpoints of other projects, as model or component folders."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from maskweave.cli.demo import FACE
from maskweave.cli.options import Overwrite
from maskweave.errors import MaskweaveError

if TYPE_CHECKING:
    from maskweave.tokenizer.base import Tokenizer
    from maskweave.transformer import BidirectionalTransformer


def convert(
    output: Annotated[Path, typer.Option(help="Folder for the model or the component.")],
    family: Annotated[
        str | None,
        typer.Argument(
            help="Whose checkpoints: lab (the default), google, openmuse, taming, halton, "
            "llamagen, amused."
        ),
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="File of the tokenizer.")] = None,
    transformer: Annotated[Path | None, typer.Option(help="File of the transformer.")] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Folder as the project publishes it, instead of files."),
    ] = None,
    heads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Attention heads of the transformer. lab: 16; halton: those of its own sizes.",
        ),
    ] = None,
    qkv_layout: Annotated[
        Literal["roles", "heads"] | None,
        typer.Option(
            help="lab: rows of a fused matrix, (3, heads, width) or (heads, 3, width). "
            "roles unless the matrix is called qkv_layer, where it must be said."
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, help="Side of a tokenizer's images, 256 unless a transformer tells."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert checkpoints of other projects: two files to a model, one to a component.

    Of the lab a file of the whole model can be given for both. What its model then predicts of a
    photo is said on stderr. The transformer's file of amused lies in the folder as published.
    """
    from maskweave.convert.families import Options
    from maskweave.convert.folder import convert as make
    from maskweave.images import refuse_existing

    family, tokenizer, transformer = _files(family, tokenizer, transformer, model)
    made = make(family, tokenizer, transformer, Options(heads, qkv_layout, image_size))
    refuse_existing((output / name for name in made.paths()), overwrite)
    made.save(output)
    for note in made.notes:
        print(f"note: {note}", file=sys.stderr)
    if made.family == "lab" and made.tokenizer and made.transformer:
        print(_check_on_photo(made.tokenizer, made.transformer), file=sys.stderr)  # type: ignore[arg-type]
    typer.echo(output)


def _files(
    family: str | None, tokenizer: Path | None, transformer: Path | None, model: Path | None
) -> tuple[str, Path | None, Path | None]:
    """Return the family and its files, those in a folder if one is given."""
    from maskweave.convert.families import family_named, family_of
    from maskweave.convert.weights import about

    if model is None:
        return family or "lab", tokenizer, transformer
    if tokenizer or transformer:
        raise MaskweaveError("give a folder by --model, or files: not both")
    if not model.is_dir():
        raise MaskweaveError(f"{model} is no folder")
    wanted = family and family_named(family)[0]
    with about(model):
        found = family_of(model)
        if found is None or wanted not in (None, found.name):
            raise MaskweaveError(f"holds no files named as those of {wanted or 'any known family'}")
    first, second = (model / part if part else None for part in found[1:])
    return found.name, first, second


def _check_on_photo(tokenizer: "Tokenizer", transformer: "BidirectionalTransformer") -> str:
    """Say how well the model predicts masked tokens, and how well one that knows nothing would."""
    import torch
    from PIL import Image
    from skimage.data import chelsea
    from torchvision.transforms.functional import pil_to_tensor

    from maskweave.convert.lab import masked_accuracy

    size = tokenizer.image_size
    photo = Image.fromarray(chelsea()).crop(FACE).resize(size, Image.Resampling.LANCZOS)
    pixels = pil_to_tensor(photo).to(torch.float32) / 127.5 - 1
    accuracy = masked_accuracy(tokenizer, transformer, pixels)
    codes = tokenizer.codebook_size
    return (
        f"check: predicts {accuracy:.1%} of the tokens of a cat's photo with half of them masked; "
        f"chance is {1 / codes:.1%} (one of {codes} codes), and near it heads or the layout of qkv "
        "are wrong or the model is untrained"
    )
