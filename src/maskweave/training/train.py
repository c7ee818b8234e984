"""The two commands of training: a folder of images to a tokenizer, then to a transformer."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from maskweave.checkpoint import load_tokenizer, read_json, write_json
from maskweave.data.folder import ImageFolder
from maskweave.errors import MaskweaveError
from maskweave.training.loop import RunConfig, accelerator_for, fit
from maskweave.training.tokenizer_task import TokenizerRecipe, TokenizerTask
from maskweave.training.transformer_task import TransformerRecipe, TransformerTask

VALIDATION_IMAGES = 64


def train_tokenizer(
    recipe: TokenizerRecipe, data: Path, output: Path, validation: Path | None = None
) -> None:
    """Train stage 1 on a folder of images; ``output/tokenizer`` is what it makes.

    Parameters
    ----------
    recipe : TokenizerRecipe
        Written to ``output/recipe.json``.
    data : Path
        Folder of images, searched recursively.
    output : Path
        The run's folder. A run that is already there goes on from its newest checkpoint.
    validation : Path, optional
        Folder of images for figures and sample pictures; by default the first ones of ``data``.

    Raises
    ------
    MaskweaveError
        If a folder has no images or too few, or ``output`` holds a run of another recipe.
    """
    size = recipe.model.image_size
    dataset, samples = _read(data, validation, size, recipe.run)
    torch.manual_seed(recipe.run.seed)
    accelerator = accelerator_for(recipe.run, output)
    task = TokenizerTask(recipe, samples, accelerator)
    _claim(output, dataclasses.asdict(recipe), accelerator)
    fit(task, dataset, recipe.run, output, accelerator)


def train_transformer(
    recipe: TransformerRecipe,
    data: Path,
    tokenizer: Path,
    output: Path,
    validation: Path | None = None,
) -> None:
    """Train stage 2 on a folder of images; ``output`` becomes a model that the pipeline loads.

    ``tokenizer`` is the folder of a tokenizer component, from which the number of codes and tokens
    is taken, and the patch if the transformer sees one; the rest is as in ``train_tokenizer``, but
    that a run on another tokenizer is refused as well.
    """
    vqgan = load_tokenizer(tokenizer)
    model = dataclasses.replace(
        recipe.model,
        codebook_size=vqgan.config.codebook_size,
        length=vqgan.config.length,
        patch=vqgan.config.patch if recipe.model.patch else 0,
    )
    recipe = dataclasses.replace(recipe, model=model)
    dataset, samples = _read(data, validation, vqgan.config.image_size, recipe.run)
    torch.manual_seed(recipe.run.seed)
    accelerator = accelerator_for(recipe.run, output)
    task = TransformerTask(recipe, vqgan, samples, accelerator)
    with (tokenizer / "model.safetensors").open("rb") as weights:
        trained_on = {"tokenizer_sha256": hashlib.file_digest(weights, "sha256").hexdigest()}
    _claim(output, dataclasses.asdict(recipe) | trained_on, accelerator)
    fit(task, dataset, recipe.run, output, accelerator)


def _read(
    data: Path, validation: Path | None, size: int, run: RunConfig
) -> tuple[ImageFolder, Tensor]:
    dataset = ImageFolder(data, size)
    if len(dataset) < run.batch_size:
        raise MaskweaveError(
            f"{data} holds {len(dataset)} images, fewer than a batch of {run.batch_size}"
        )
    watched = ImageFolder(validation, size) if validation else dataset
    count = min(VALIDATION_IMAGES, len(watched))
    return dataset, torch.stack([watched[i] for i in range(count)])


def _claim(output: Path, recipe: dict[str, Any], accelerator: Accelerator) -> None:
    """Write the resolved recipe into the run's folder, which must not hold another one."""
    # Through JSON and back, so that tuples compare equal to the lists of the file.
    recipe = json.loads(json.dumps(recipe))
    file = output / "recipe.json"
    if file.exists() and read_json(file) != recipe:
        raise MaskweaveError(f"{output} holds a run of another recipe ({file}); name a new folder")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        write_json(file, recipe)
