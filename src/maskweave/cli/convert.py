"""``maskweave convert``: models of other code, as model folders."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from maskweave.cli.demo import FACE
from maskweave.cli.options import Overwrite

if TYPE_CHECKING:
    from maskweave.pipeline import InpaintPipeline

convert_app = typer.Typer(help="Turn checkpoints of other code into a model folder.")

FILES = (
    "README.md",
    "config.json",
    "tokenizer/config.json",
    "tokenizer/model.safetensors",
    "transformer/config.json",
    "transformer/model.safetensors",
)

CARD = """\
# {name}

A model of the reference experiment (MaskGIT inpainting of cat faces), converted from these files:

| part | file | SHA-256 |
|---|---|---|
| tokenizer | {tokenizer} | {tokenizer_hash} |
| transformer | {transformer} | {transformer_hash} |

- **Sizes**: {size}x{size} pixels, {rows}x{columns} tokens, {codes} codes; transformer of dim {dim},
  {depth} layers, {heads} heads.
- **Decode settings**: those of the reference experiment, in `config.json`.
- **Limits**: the decoder does not see the known pixels, so seams can show at the hole's border.
  The encoder sees beyond a token's patch, so the tokens around a hole are not those of whole
  images, on which the reference trains its transformer.
"""


@convert_app.command()
def reference(
    tokenizer: Annotated[Path, typer.Option(help="File of the VQGAN.")],
    transformer: Annotated[Path, typer.Option(help="File of the transformer.")],
    output: Annotated[Path, typer.Option(help="Folder for the model.")],
    heads: Annotated[int, typer.Option(min=1, help="Attention heads of the transformer.")] = 16,
    qkv_layout: Annotated[
        Literal["roles", "heads"] | None,
        typer.Option(
            help="Rows of a fused matrix: (3, heads, width) or (heads, 3, width). "
            "roles unless the matrix is called qkv_layer, where it must be said."
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert a VQGAN and a transformer of the reference experiment, as torch.save wrote them.

    A file of the whole model can be given for both. What the model then predicts of a photo is said
    on stderr.
    """
    from maskweave.convert import convert
    from maskweave.files import sha256, write_whole
    from maskweave.images import refuse_existing

    refuse_existing((output / name for name in FILES), overwrite)
    pipeline, notes = convert(tokenizer, transformer, heads, qkv_layout)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    pipeline.save_pretrained(output)
    first, second = pipeline.tokenizer.config, pipeline.transformer.config
    card = CARD.format(
        name=output.resolve().name,
        tokenizer=tokenizer.name,
        tokenizer_hash=sha256(tokenizer),
        transformer=transformer.name,
        transformer_hash=sha256(transformer),
        size=first.image_size,
        rows=pipeline.tokenizer.grid[0],
        columns=pipeline.tokenizer.grid[1],
        codes=first.codebook_size,
        dim=second.dim,
        depth=second.depth,
        heads=heads,
    )
    write_whole(output / "README.md", card.encode())
    print(_check_on_photo(pipeline), file=sys.stderr)
    typer.echo(output)


def _check_on_photo(pipeline: "InpaintPipeline") -> str:
    """Say how well the model predicts masked tokens, and how well one that knows nothing would."""
    import torch
    from PIL import Image
    from skimage.data import chelsea
    from torchvision.transforms.functional import pil_to_tensor

    from maskweave.convert import masked_accuracy

    size = pipeline.tokenizer.config.image_size
    photo = Image.fromarray(chelsea()).crop(FACE).resize((size, size), Image.Resampling.LANCZOS)
    accuracy = masked_accuracy(pipeline, pil_to_tensor(photo).to(torch.float32) / 127.5 - 1)
    codes = pipeline.tokenizer.codebook_size
    return (
        f"check: predicts {accuracy:.1%} of the tokens of a cat's photo with half of them masked; "
        f"chance is {1 / codes:.1%} (one of {codes} codes), and near it heads or the layout of qkv "
        "are wrong or the model is untrained"
    )
