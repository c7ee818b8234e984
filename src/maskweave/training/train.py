"""The commands of training: images to a tokenizer, then to a transformer, then a better decoder."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import UInt8
from torch import Tensor

from maskweave.checkpoint import load_tokenizer, weights_hash
from maskweave.data.augment import check_shift, to_unit_range
from maskweave.data.cache import Images, cached_images, cached_tokens
from maskweave.data.check import SPLITS
from maskweave.data.shards import ImageShards
from maskweave.data.split import is_validation
from maskweave.errors import MaskweaveError
from maskweave.files import read_json, sha256, user_cache, write_json, write_whole
from maskweave.images import SUFFIXES
from maskweave.pipeline import InpaintPipeline
from maskweave.progress import warn
from maskweave.tokenizer.base import Tokenizer
from maskweave.tokenizer.vqgan import VQGAN
from maskweave.training.decoder_task import DecoderRecipe, DecoderTask
from maskweave.training.loop import RunConfig, accelerator_for, epoch_length, fit, length
from maskweave.training.painting import HoledExamples
from maskweave.training.tokenizer_task import TokenizerRecipe, TokenizerTask
from maskweave.training.transformer_task import (
    MaskedExamples,
    TransformerRecipe,
    TransformerTask,
)

VALIDATION_IMAGES = 256
"""Of which validation figures are made."""

VALIDATION_SHARE = 0.05
"""Of the images, held out where no folder for validation is named."""

HARMLESS = ("workers", "log_every", "save_every", "wandb")
"""Settings of a run that change none of its weights: it may go on with others."""


CARD = """\
# {name}

Fills holes in {size}x{size} images. Made by `maskweave train {stage}`.

- **Sizes**: {length} tokens, {codes} codes; see `tokenizer/config.json`, `transformer/config.json`.
- **Data**: {images} images, and {validation} others for validation.
- **Recipe**: {steps} steps of {batch} images; the whole is in `recipe.json`.
- **Validation loss**: {loss:.4g}, in fixed holes of all kinds.
"""


class _Data(NamedTuple):
    images: Images
    indices: list[int]
    """Of the images that are trained on."""
    validation: UInt8[Tensor, "batch 3 size size"]


def train_tokenizer(
    recipe: TokenizerRecipe,
    data: Path,
    output: Path,
    validation: Path | None = None,
    cache: Path | None = None,
) -> None:
    """Train stage 1 on a set of images; ``output/tokenizer`` is what it makes.

    Parameters
    ----------
    recipe : TokenizerRecipe
        Written to ``output/recipe.json``.
    data : Path
        Folder of images, searched recursively, or of tar shards.
    output : Path
        The run's folder. A run that is already there goes on from its newest checkpoint.
    validation : Path, optional
        Folder of images for figures and sample pictures; by default a share of ``data`` is held
        out, chosen by the hash of each file.
    cache : Path, optional
        Where images are kept ready for training; by default in the user's cache folder.

    Raises
    ------
    MaskweaveError
        If a folder has no images, too few or too many broken ones, ``output`` lies in one of them
        or holds a model or a run of another recipe, or a disk is full.
    """
    _refuse_among_images(output, data, validation)
    _refuse_other(output, asdict(recipe))
    accelerator = accelerator_for(recipe.run, output)
    size = recipe.model.image_size
    found = _read(data, validation, size, cache or user_cache(), accelerator)
    steps, epoch = _lengths(recipe.run, found)
    torch.manual_seed(recipe.run.seed)
    task = TokenizerTask(recipe, found.validation, accelerator, steps, epoch)
    _claim(output, asdict(recipe) | {"images": found.images.key}, accelerator)
    examples = HoledExamples(found.images, found.indices, recipe.loss)
    fit(task, examples, len(found.indices), recipe.run, output, accelerator)


def train_transformer(
    recipe: TransformerRecipe,
    data: Path,
    tokenizer: Path,
    output: Path,
    validation: Path | None = None,
    cache: Path | None = None,
) -> None:
    """Train stage 2 on a set of images; ``output`` becomes a model that the pipeline loads.

    ``tokenizer`` is the folder of a tokenizer component, from which the number of codes and tokens
    is taken, and the patch if the transformer sees one; the images are tokenised once, into
    ``cache``. The rest is as in ``train_tokenizer``, but that a run on another tokenizer is refused
    as well.
    """
    vqgan, cache = load_tokenizer(tokenizer), cache or user_cache()
    model = replace(
        recipe.model,
        codebook_size=vqgan.config.codebook_size,
        grid=vqgan.grid,
        patch_size=vqgan.config.patch_size if recipe.model.patch_size else 0,
    )
    recipe = replace(recipe, model=model)
    weights = sha256(tokenizer / "model.safetensors")
    made_of = asdict(recipe) | {"tokenizer_sha256": weights}
    _refuse_among_images(output, data, validation)
    _refuse_other(output, made_of)
    accelerator = accelerator_for(recipe.run, output)
    found = _read(data, validation, vqgan.config.image_size, cache, accelerator)
    steps, epoch = _lengths(recipe.run, found)
    torch.manual_seed(recipe.run.seed)
    task = TransformerTask(recipe, vqgan, found.validation, accelerator, steps, epoch)
    _claim(output, made_of | {"images": found.images.key}, accelerator)
    with accelerator.local_main_process_first():
        tokens = cached_tokens(
            found.images,
            lambda images: _encode(vqgan, images, accelerator.device),
            weights,
            views=recipe.masking.views,
            shift=recipe.masking.shift,
            cache=cache,
        )
    examples = MaskedExamples(found.images, found.indices, tokens, recipe.masking)
    fit(task, examples, len(found.indices), recipe.run, output, accelerator)
    if accelerator.is_main_process:
        _write_card(output, "transformer", vqgan, recipe.run, steps, found)


def train_decoder(
    recipe: DecoderRecipe,
    data: Path,
    model: Path,
    output: Path,
    validation: Path | None = None,
    cache: Path | None = None,
) -> None:
    """Train stage 3 on a set of images: ``output`` becomes the model with a better decoder.

    ``model`` is the folder of a model. The rest is as in ``train_tokenizer``, but that a run on
    another model is refused as well.
    """
    pipeline = InpaintPipeline.from_pretrained(model)
    if not isinstance(pipeline.tokenizer, VQGAN):
        raise MaskweaveError("the decoder of the reference VQGAN does not see known pixels")
    size = pipeline.tokenizer.config.image_size
    check_shift(recipe.loss.shift, size)
    made_of = asdict(recipe) | {
        "model": weights_hash(pipeline.tokenizer, pipeline.transformer),
        "defaults": asdict(pipeline.defaults),
    }
    _refuse_among_images(output, data, validation)
    _refuse_other(output, made_of)
    accelerator = accelerator_for(recipe.run, output)
    found = _read(data, validation, size, cache or user_cache(), accelerator)
    steps, epoch = _lengths(recipe.run, found)
    torch.manual_seed(recipe.run.seed)
    task = DecoderTask(recipe, pipeline, found.validation, accelerator, steps, epoch)
    _claim(output, made_of | {"images": found.images.key}, accelerator)
    examples = HoledExamples(found.images, found.indices, recipe.loss)
    fit(task, examples, len(found.indices), recipe.run, output, accelerator)
    if accelerator.is_main_process:
        _write_card(output, "decoder", pipeline.tokenizer, recipe.run, steps, found)


def _read(
    data: Path, validation: Path | None, size: int, cache: Path, accelerator: Accelerator
) -> _Data:
    with accelerator.local_main_process_first():
        images = _open(data, size, cache, accelerator)
        watched = _open(validation, size, cache, accelerator) if validation else images
    splits = [name for name in SPLITS if (data / name).is_dir()]
    if len(splits) > 1 and accelerator.is_main_process:
        warn(f"{data} holds the splits {', '.join(splits)}, and all of them are trained on")
    if validation:
        held_out, indices = range(len(watched)), list(range(len(images)))
        copies = len(set(watched.digests) & set(images.digests))
        if copies and accelerator.is_main_process:
            warn(f"{copies} images of {validation} are copies of images of {data}")
    else:
        held_out = [i for i, d in enumerate(images.digests) if is_validation(d, VALIDATION_SHARE)]
        # Of a small set too, something is held out.
        held_out = held_out or [min(range(len(images)), key=images.digests.__getitem__)]
        indices = sorted(set(range(len(images))) - set(held_out))
        if not indices:
            raise MaskweaveError(f"{data}: all {len(images)} images are held out; name others")
    # By their hashes, so that none of a folder's parts is preferred.
    chosen = sorted(held_out, key=watched.digests.__getitem__)[:VALIDATION_IMAGES]
    samples = [torch.from_numpy(watched[i]) for i in chosen]
    return _Data(images, indices, torch.stack(samples))


def _open(directory: Path, size: int, cache: Path, accelerator: Accelerator) -> Images:
    if any(directory.glob("*.tar")):
        if loose := next((f for f in directory.rglob("*") if f.suffix.lower() in SUFFIXES), None):
            raise MaskweaveError(f"{directory} holds both shards (*.tar) and images, as {loose}")
        return ImageShards(directory, size)
    images = cached_images(directory, size, cache)
    if accelerator.is_main_process:
        for name, reason in images.skipped.items():
            warn(f"{name} in {directory} is left out: {reason}")
    return images


def _lengths(run: RunConfig, data: _Data) -> tuple[int, int]:
    """Return the steps of the run and of a pass over the images."""
    return length(run, len(data.indices)), epoch_length(run, len(data.indices))


@torch.no_grad()
def _encode(tokenizer: Tokenizer, images: np.ndarray, device: torch.device) -> np.ndarray:
    squares = to_unit_range(torch.from_numpy(images).to(device))
    return tokenizer.encode(squares).cpu().numpy().astype(np.uint16)


def _refuse_among_images(output: Path, data: Path, validation: Path | None) -> None:
    for images in (data, validation or data):
        if output.resolve().is_relative_to(images.resolve()):
            raise MaskweaveError(f"{output} lies in {images}, and its pictures would join those")


def _refuse_other(output: Path, recipe: dict[str, Any]) -> None:
    """Refuse a folder that holds a model or another run."""
    file = output / "recipe.json"
    if file.exists():
        found = read_json(file)
        found["run"] = found.get("run", {}) | {n: recipe["run"][n] for n in HARMLESS}
        # Through JSON and back, so that tuples compare equal to the lists of the file.
        if differing := _differing(found, json.loads(json.dumps(recipe))):
            raise MaskweaveError(
                f"{output} holds a run of another recipe ({file}: not the same "
                f"{', '.join(differing)}); name a new folder"
            )
    elif any((output / name).exists() for name in ("config.json", "tokenizer", "transformer")):
        raise MaskweaveError(f"{output} holds a model; name a new folder")


def _differing(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Return the dotted names of what is not as wanted."""
    names: list[str] = []
    for name, value in wanted.items():
        if isinstance(value, dict) and isinstance(found.get(name), dict):
            names += [f"{name}.{inner}" for inner in _differing(found[name], value)]
        elif found.get(name) != value:
            names.append(name)
    return names


def _claim(output: Path, recipe: dict[str, Any], accelerator: Accelerator) -> None:
    """Write the resolved recipe into the run's folder, unless that holds something else."""
    _refuse_other(output, recipe)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_json(output / "recipe.json", recipe)


def _write_card(
    output: Path, stage: str, tokenizer: Tokenizer, run: RunConfig, steps: int, data: _Data
) -> None:
    """Write the model's card, unless there is one, from what the last checkpoint says."""
    if (output / "README.md").exists():
        return
    last = max((output / "checkpoints").glob("step_*"))
    card = CARD.format(
        name=output.resolve().name,
        stage=stage,
        size=tokenizer.config.image_size,
        length=tokenizer.length,
        codes=tokenizer.codebook_size,
        images=len(data.indices),
        validation=len(data.validation),
        steps=steps,
        batch=run.batch_size,
        loss=read_json(last / "progress.json")["validation_loss"],
    )
    write_whole(output / "README.md", card.encode())
