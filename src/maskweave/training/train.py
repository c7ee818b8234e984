"""The commands of training: images to a tokenizer, then to a transformer, then a better decoder."""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from maskweave.checkpoint import identity, load_tokenizer, load_transformer
from maskweave.data.augment import to_unit_range
from maskweave.data.cache import cached_tokens
from maskweave.data.labels import folder_names
from maskweave.errors import MaskweaveError
from maskweave.files import read_json, user_cache, write_json, write_whole
from maskweave.maskgit import DecodeSettings
from maskweave.pipeline import InpaintPipeline
from maskweave.tokenizer.base import Tokenizer
from maskweave.tokenizer.convolutional import ConvolutionalVQGAN
from maskweave.tokenizer.painted import PaintedVQGAN, PaintingTokenizer
from maskweave.tokenizer.vqgan import VQGAN
from maskweave.training.decoder_task import DecoderRecipe, DecoderTask
from maskweave.training.examples import Examples
from maskweave.training.loop import Task, accelerator_for, course_of, fit
from maskweave.training.narrow_task import NarrowRecipe, NarrowTask
from maskweave.training.same_run import differing, lengths, refuse_other
from maskweave.training.sets import read_sets
from maskweave.training.tokenizer_task import TokenizerRecipe, TokenizerTask
from maskweave.training.transformer_task import TransformerRecipe, TransformerTask
from maskweave.transformer import BidirectionalTransformer

CARD = """\
# {name}

Fills holes in {size}x{size} images. Made by `maskweave train {stage}`.

- **Sizes**: {length} tokens, {codes} codes; see `tokenizer/config.json`, `transformer/config.json`.
- **Data**: {images} images, and {validation} others for validation.
- **Recipe**: {steps} steps of {batch} images; the whole is in `recipe.json`.
- **Validation loss**: {loss:.4g}, in fixed holes.
"""


class _Folders(NamedTuple):
    data: Path
    output: Path
    validation: Path | None
    cache: Path | None


class _Stage:
    """What all stages do before and after the training itself.

    A run is told from others by its recipe and what it is made of ``beside``; its model takes
    squares of side ``size``.
    """

    def __init__(
        self,
        recipe: TokenizerRecipe | TransformerRecipe | DecoderRecipe | NarrowRecipe,
        beside: dict[str, Any],
        folders: _Folders,
        size: int,
        classes: Sequence[str] = (),
    ) -> None:
        run, examples = recipe.run, recipe.examples
        self.size, self.examples, self.run, self.output = size, examples, run, folders.output
        self.made_of = asdict(recipe) | beside
        self.usual = asdict(type(recipe)()) | {"defaults": asdict(DecodeSettings())}
        self.cache = folders.cache or user_cache()
        _refuse_among_images(self.output, folders.data, folders.validation)
        refuse_other(self.output, self.made_of, self.usual)
        self.accelerator = accelerator_for(run, self.output)
        self.data = read_sets(
            *(folders.data, folders.validation, size, examples, self.cache, self.accelerator),
            classes,
        )
        self.course = course_of(run, len(self.data.indices))
        self.lengths, self.told = lengths(self.output, run, len(self.data.indices))
        torch.manual_seed(run.seed)

    def fit(self, task: Task, tokens: np.ndarray | None = None) -> None:
        """Write the resolved recipe into the run's folder, unless that holds another, and train.

        ``tokens`` are those of all images, where they are cached.
        """
        made_of = self.made_of | {"images": self.data.images.key}
        if labels := self.data.labels:
            made_of["labels"] = hashlib.sha256(np.array(labels, "<i8").tobytes()).hexdigest()
        refuse_other(self.output, made_of, self.usual)
        if len(self.lengths) > 1:
            made_of["lengths"] = self.lengths
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            if self.told:
                print("note:", self.told, file=sys.stderr)
            write_json(self.output / "recipe.json", made_of)
        data = self.data
        dataset = Examples(data.images, data.indices, self.size, self.examples, tokens, data.labels)
        fit(task, dataset, len(data.indices), self.run, self.output, self.accelerator)

    def write_card(self, name: str, tokenizer: Tokenizer) -> None:
        """Write the model's card from what the last checkpoint says.

        Of a card that is there, only the lines that a longer run makes untrue are written anew.
        """
        file = self.output / "README.md"
        if not self.accelerator.is_main_process:
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
        content = card.encode()
        if file.exists():
            content = _brought_up_to_date(file.read_bytes(), content)
        write_whole(file, content)


def train_tokenizer(
    recipe: TokenizerRecipe,
    data: str | Path,
    output: str | Path,
    validation: str | Path | None = None,
    cache: str | Path | None = None,
    init: str | Path | None = None,
) -> None:
    """Train stage 1 on a set of images; ``output/tokenizer`` is what it makes.

    Parameters
    ----------
    recipe : TokenizerRecipe
        Written to ``output/recipe.json``.
    data : str or Path
        Folder of images, searched recursively, or of tar shards.
    output : str or Path
        The run's folder. A run that is already there goes on from its newest checkpoint.
    validation : str or Path, optional
        Folder of images for figures and sample pictures; by default a share of ``data`` is held
        out, chosen by the hash of each file.
    cache : str or Path, optional
        Where images are kept ready for training; by default in the user's cache folder.
    init : str or Path, optional
        Folder of a tokenizer component of the recipe's sizes, from whose weights the run starts.

    Raises
    ------
    MaskweaveError
        If a folder has no images, too few or too many broken ones, ``output`` lies in one of them
        or holds a model or a run of another recipe, ``init`` is of other sizes, or a disk is full.
    """
    start: VQGAN | None = load_tokenizer(init) if init else None  # type: ignore[assignment]
    beside = _started_from(start, recipe.model, init)
    folders = _folders(data, output, validation, cache)
    stage = _Stage(recipe, beside, folders, recipe.model.image_size)
    task = TokenizerTask(recipe, stage.data.validation, stage.accelerator, stage.course, start)
    stage.fit(task)


def train_transformer(
    recipe: TransformerRecipe,
    data: str | Path,
    tokenizer: str | Path,
    output: str | Path,
    validation: str | Path | None = None,
    cache: str | Path | None = None,
    init: str | Path | None = None,
    labels: Literal["folders"] | None = None,
) -> None:
    """Train stage 2 on a set of images; ``output`` becomes a model that the pipeline loads.

    ``tokenizer`` is the folder of a tokenizer component, from which the number of codes and tokens
    is taken, and the patch if the transformer sees one; the images are tokenised once, into
    ``cache``. ``init`` is the folder of a transformer component, which sees a guide or not as
    before; a new one sees it if the tokenizer does. With ``labels="folders"`` the
    transformer learns what the images of each folder in ``data`` show: an image's label is the
    place of its folder among all, sorted by name. The rest is as in ``train_tokenizer``, but that a
    run on another tokenizer is refused as well.
    """
    vqgan = load_tokenizer(tokenizer)
    start: BidirectionalTransformer | None = (
        load_transformer(init) if init else None  # type: ignore[assignment]
    )
    guided = start.config.guided if start else vqgan.guided
    classes = folder_names(Path(data)) if labels else ()
    model = replace(
        recipe.model,
        codebook_size=vqgan.codebook_size,
        grid=vqgan.grid,
        patch_size=vqgan.patch_size if recipe.model.patch_size else 0,
        guided=guided and recipe.model.patch_size > 0,
        classes=len(classes),
        class_names=classes,
    )
    recipe = replace(recipe, model=model)
    beside = {"tokenizer": identity(vqgan)} | _started_from(start, model, init)
    folders = _folders(data, output, validation, cache)
    recipe.examples.check(vqgan.image_size[0], recipe.model.guided)
    stage = _Stage(recipe, beside, folders, vqgan.image_size[0], classes)
    found, accelerator = stage.data, stage.accelerator
    parts = (recipe, vqgan, found.validation, accelerator, stage.course, start)
    task = TransformerTask(*parts, found.validation_labels)
    tokens = None
    if recipe.masking.views:
        with accelerator.local_main_process_first():
            tokens = cached_tokens(
                found.images,
                lambda images: _encode(vqgan, images, accelerator.device),
                beside["tokenizer"],
                views=recipe.masking.views,
                shift=recipe.examples.shift,
                cache=stage.cache,
            )
    stage.fit(task, tokens)
    stage.write_card("transformer", vqgan)


def train_decoder(
    recipe: DecoderRecipe,
    data: str | Path,
    model: str | Path,
    output: str | Path,
    validation: str | Path | None = None,
    cache: str | Path | None = None,
) -> None:
    """Train stage 3 on a set of images: ``output`` becomes the model with a better decoder.

    ``model`` is the folder of a model. If its tokenizer is another project's, that keeps its
    encoder and its codes, and a new decoder learns, which sees the known pixels. The rest is as in
    ``train_tokenizer``, but that a run on another model is refused as well.
    """
    pipeline = InpaintPipeline.from_pretrained(model)
    tokenizer = pipeline.tokenizer
    if not isinstance(tokenizer, PaintingTokenizer | ConvolutionalVQGAN):
        raise MaskweaveError(f"{model} is exported: train the model that it was made of")
    size = tokenizer.image_size[0]
    recipe.examples.check(size, tokenizer.guided)
    beside = {
        "model": identity(pipeline.tokenizer, pipeline.transformer),
        "defaults": asdict(pipeline.defaults),
    }
    folders = _folders(data, output, validation, cache)
    stage = _Stage(recipe, beside, folders, size)
    if isinstance(tokenizer, ConvolutionalVQGAN):
        pipeline.tokenizer = PaintedVQGAN.around(tokenizer, recipe.channels)
    task = DecoderTask(recipe, pipeline, stage.data.validation, stage.accelerator, stage.course)
    stage.fit(task)
    stage.write_card("decoder", pipeline.tokenizer)


def train_narrow(
    recipe: NarrowRecipe,
    data: str | Path,
    model: str | Path,
    output: str | Path,
    validation: str | Path | None = None,
    cache: str | Path | None = None,
) -> None:
    """Train a decoder for narrow holes: ``output`` becomes the model with it.

    ``model`` is the folder of a model with a guide. The rest is as in ``train_decoder``.
    """
    pipeline = InpaintPipeline.from_pretrained(model)
    size = pipeline.tokenizer.image_size[0]
    recipe.examples.check(size, pipeline.tokenizer.guided)
    beside = {"model": identity(pipeline.tokenizer, pipeline.transformer)}
    stage = _Stage(recipe, beside, _folders(data, output, validation, cache), size)
    task = NarrowTask(recipe, pipeline, stage.data.validation, stage.accelerator, stage.course)
    stage.fit(task)
    stage.write_card("narrow", pipeline.tokenizer)


def _brought_up_to_date(old: bytes, new: bytes) -> bytes:
    """Return a card with the steps and the loss of another, where it still has such lines."""
    changing = (b"- **Recipe**", b"- **Validation loss**")
    lines = {line.partition(b":")[0]: line for line in new.splitlines(keepends=True)}
    return b"".join(
        lines[label] if (label := line.partition(b":")[0]) in changing else line
        for line in old.splitlines(keepends=True)
    )


def _folders(
    data: str | Path, output: str | Path, validation: str | Path | None, cache: str | Path | None
) -> _Folders:
    return _Folders(
        Path(data),
        Path(output),
        Path(validation) if validation else None,
        Path(cache) if cache else None,
    )


def _started_from(start: nn.Module | None, config: Any, init: str | Path | None) -> dict[str, str]:
    """Return what a run is made of besides its recipe: the weights that it starts from, if any.

    Raises
    ------
    MaskweaveError
        If these are of another architecture or config than the recipe's model.
    """
    if start is None:
        return {}
    wanted, found = (asdict(each) for each in (config, start.config))  # type: ignore[call-overload]
    if (architecture := found["architecture"]) != wanted["architecture"]:
        raise MaskweaveError(f"{init} is {architecture}, which is not trained here")
    if names := differing(found, wanted):
        its_own = ", ".join(
            f"model.{name}={_as_override(found[name])}" for name in names if name in found
        )
        raise MaskweaveError(f"{init} does not fit the recipe, but would with {its_own}")
    return {"init": identity(start)}


def _as_override(value: Any) -> str:
    return str(value).strip("()").replace(" ", "").lower()


@torch.no_grad()
def _encode(tokenizer: Tokenizer, images: np.ndarray, device: torch.device) -> np.ndarray:
    squares = to_unit_range(torch.from_numpy(images).to(device))
    kind = np.uint16 if tokenizer.codebook_size <= 1 << 16 else np.uint32
    return tokenizer.encode(squares).cpu().numpy().astype(kind)


def _refuse_among_images(output: Path, data: Path, validation: Path | None) -> None:
    for images in (data, validation or data):
        if output.resolve().is_relative_to(images.resolve()):
            raise MaskweaveError(f"{output} lies in {images}, and its pictures would join those")
