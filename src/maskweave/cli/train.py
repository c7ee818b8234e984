"""``maskweave train``: the stages of training on a folder of images."""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer

train_app = typer.Typer(help="Train a tokenizer, a transformer and its decoder on your own images.")

Data = Annotated[Path, typer.Option(help="Folder of training images, searched recursively.")]
Output = Annotated[Path, typer.Option(help="The run's folder; a run in it goes on.")]
Validation = Annotated[Path | None, typer.Option(help="Folder of images for samples and figures.")]
Preset = Annotated[str, typer.Option(help="Name of a recipe.")]
Cache = Annotated[Path | None, typer.Option(help="Where prepared images and tokens are kept.")]
Init = Annotated[
    str | None, typer.Option(help="Model to start from: a run, model folder or model name.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Override, as in run.steps=1000; repeatable.")
]

Labels = Annotated[
    Literal["folders"] | None,
    typer.Option(
        help="folders: what an image shows is the folder below --data that it lies in; inpaint "
        "--label then takes its name."
    ),
]

Recipe = TypeVar("Recipe")


def _recipe(presets: dict[str, Recipe], name: str, assignments: list[str] | None) -> Recipe:
    from maskweave.training.overrides import override, pick

    return override(pick(presets, name), assignments or [])


def _component(model: str | None, name: str) -> Path | None:
    from maskweave.convert.folder import component

    return None if model is None else component(model, name)


@train_app.command()
def tokenizer(
    data: Data,
    output: Output,
    validation: Validation = None,
    preset: Preset = "cats64",
    set_: Set = None,
    cache: Cache = None,
    init: Init = None,
) -> None:
    """Stage 1: train the tokenizer."""
    from maskweave.presets import TOKENIZERS
    from maskweave.training.train import train_tokenizer

    start = _component(init, "tokenizer")
    train_tokenizer(_recipe(TOKENIZERS, preset, set_), data, output, validation, cache, start)


@train_app.command()
def transformer(
    data: Data,
    output: Output,
    tokenizer: Annotated[
        str,
        typer.Option(
            help="Run of stage 1, model folder or name, or checkpoints that convert knows."
        ),
    ],
    validation: Validation = None,
    preset: Preset = "cats64",
    set_: Set = None,
    cache: Cache = None,
    init: Init = None,
    labels: Labels = None,
) -> None:
    """Stage 2: train the transformer on the tokens of a tokenizer."""
    from maskweave.convert.folder import component
    from maskweave.presets import TRANSFORMERS
    from maskweave.training.train import train_transformer

    train_transformer(
        _recipe(TRANSFORMERS, preset, set_),
        data,
        component(tokenizer, "tokenizer"),
        output,
        validation,
        cache,
        _component(init, "transformer"),
        labels,
    )


@train_app.command()
def decoder(
    data: Data,
    output: Output,
    model: Annotated[str, typer.Option(help="Run of stage 2, model folder or model name.")],
    validation: Validation = None,
    preset: Preset = "cats64",
    set_: Set = None,
    cache: Cache = None,
) -> None:
    """Stage 3: train the decoder to paint from what the transformer fills in."""
    from maskweave.checkpoint import resolve
    from maskweave.presets import DECODERS
    from maskweave.training.train import train_decoder

    train_decoder(_recipe(DECODERS, preset, set_), data, resolve(model), output, validation, cache)


@train_app.command()
def narrow(
    data: Data,
    output: Output,
    model: Annotated[str, typer.Option(help="Run of stage 3, model folder or model name.")],
    validation: Validation = None,
    preset: Preset = "photos",
    set_: Set = None,
    cache: Cache = None,
) -> None:
    """Train a decoder of its own for narrow holes of photos, which needs no tokens."""
    from maskweave.checkpoint import resolve
    from maskweave.presets import NARROWS
    from maskweave.training.train import train_narrow

    train_narrow(_recipe(NARROWS, preset, set_), data, resolve(model), output, validation, cache)
