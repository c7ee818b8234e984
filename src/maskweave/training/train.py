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
from torch.utils.data import Dataset

from maskweave.checkpoint import identity, load_tokenizer
from maskweave.data.augment import check_shift, to_unit_range
from maskweave.data.cache import Images, cached_images, cached_tokens
from maskweave.data.check import SPLITS
from maskweave.data.shards import ImageShards
from maskweave.data.split import is_validation
from maskweave.errors import MaskweaveError
from maskweave.files import read_json, user_cache, write_json, write_whole
from maskweave.images import SUFFIXES
from maskweave.pipeline import InpaintPipeline
from maskweave.progress import warn
from maskweave.tokenizer.base import Tokenizer
from maskweave.tokenizer.vqgan import VQGAN
from maskweave.training.decoder_task import DecoderRecipe, DecoderTask
from maskweave.training.loop import RunConfig, Task, accelerator_for, course_of, fit
from maskweave.training.painting import HoledExamples
from maskweave.training.tokenizer_task import TokenizerRecipe, TokenizerTask
from maskweave.training.transformer_task import (
    MaskedExamples,
    TransformerRecipe,
    TransformerTask,
)

VALIDATION_IMAGES = 256
"""Images of which validation figures are made, at most."""

VALIDATION_SHARE = 0.05
"""Share of the images that is held out where no folder for validation is named."""

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


class _Folders(NamedTuple):
    data: Path
    output: Path
    validation: Path | None
    cache: Path | None


class _Data(NamedTuple):
    images: Images
    indices: list[int]
    """Places of the images that are trained on."""
    validation: UInt8[Tensor, "batch 3 size size"]


class _Stage:
    """What all stages do before and after the training itself.

    A run is told from others by what it is ``made_of``; its images are squares of side ``size``.
    """

    def __init__(
        self, made_of: dict[str, Any], run: RunConfig, folders: _Folders, size: int
    ) -> None:
        self.made_of, self.run, self.output = made_of, run, folders.output
        self.cache = folders.cache or user_cache()
        _refuse_among_images(self.output, folders.data, folders.validation)
        _refuse_other(self.output, made_of)
        self.accelerator = accelerator_for(run, self.output)
        self.data = _read(folders.data, folders.validation, size, self.cache, self.accelerator)
        self.course = course_of(run, len(self.data.indices))
        torch.manual_seed(run.seed)

    def fit(self, task: Task, dataset: Dataset[Any]) -> None:
        """Write the resolved recipe into the run's folder, unless that holds another, and train."""
        made_of = self.made_of | {"images": self.data.images.key}
        _refuse_other(self.output, made_of)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            write_json(self.output / "recipe.json", made_of)
        images = len(self.data.indices)
        fit(task, dataset, images, self.run, self.output, self.accelerator)

    def write_card(self, name: str, tokenizer: Tokenizer) -> None:
        """Write the model's card, unless there is one, from what the last checkpoint says."""
        file = self.output / "README.md"
        if file.exists() or not self.accelerator.is_main_process:
            return
        last = max((self.output / "checkpoints").glob("step_*"))
        card = CARD.format(
            name=self.output.resolve().name,
            stage=name,
            size=tokenizer.image_size[0],
            length=tokenizer.length,
            codes=tokenizer.codebook_size,
            images=len(self.data.indices),
            validation=len(self.data.validation),
            steps=self.course.steps,
            batch=self.run.batch_size,
            loss=read_json(last / "progress.json")["validation_loss"],
        )
        write_whole(file, card.encode())


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
    folders = _Folders(data, output, validation, cache)
    stage = _Stage(asdict(recipe), recipe.run, folders, recipe.model.image_size)
    task = TokenizerTask(recipe, stage.data.validation, stage.accelerator, stage.course)
    stage.fit(task, HoledExamples(stage.data.images, stage.data.indices, recipe.loss))


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
    vqgan = load_tokenizer(tokenizer)
    model = replace(
        recipe.model,
        codebook_size=vqgan.codebook_size,
        grid=vqgan.grid,
        patch_size=vqgan.patch_size if recipe.model.patch_size else 0,
    )
    recipe, masking = replace(recipe, model=model), recipe.masking
    made_of = asdict(recipe) | {"tokenizer": identity(vqgan)}
    folders = _Folders(data, output, validation, cache)
    stage = _Stage(made_of, recipe.run, folders, vqgan.image_size[0])
    found, accelerator = stage.data, stage.accelerator
    task = TransformerTask(recipe, vqgan, found.validation, accelerator, stage.course)
    with accelerator.local_main_process_first():
        tokens = cached_tokens(
            found.images,
            lambda images: _encode(vqgan, images, accelerator.device),
            made_of["tokenizer"],
            views=masking.views,
            shift=masking.shift,
            cache=stage.cache,
        )
    stage.fit(task, MaskedExamples(found.images, found.indices, tokens, masking))
    stage.write_card("transformer", vqgan)


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
        "model": identity(pipeline.tokenizer, pipeline.transformer),
        "defaults": asdict(pipeline.defaults),
    }
    stage = _Stage(made_of, recipe.run, _Folders(data, output, validation, cache), size)
    task = DecoderTask(recipe, pipeline, stage.data.validation, stage.accelerator, stage.course)
    stage.fit(task, HoledExamples(stage.data.images, stage.data.indices, recipe.loss))
    stage.write_card("decoder", pipeline.tokenizer)


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


@torch.no_grad()
def _encode(tokenizer: Tokenizer, images: np.ndarray, device: torch.device) -> np.ndarray:
    squares = to_unit_range(torch.from_numpy(images).to(device))
    kind = np.uint16 if tokenizer.codebook_size <= 1 << 16 else np.uint32
    return tokenizer.encode(squares).cpu().numpy().astype(kind)


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
