"""From images and masks to filled images: the call that users of diffusers know."""

import dataclasses
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from maskweave.batches import paint_requests
from maskweave.checkpoint import (
    as_config,
    load_tokenizer,
    load_transformer,
    resolve,
    save_component,
    upload,
)
from maskweave.errors import MaskweaveError
from maskweave.files import read_json, write_json
from maskweave.holes import remark
from maskweave.images import Hole, Pixels, as_hole, as_list, as_pixels, check_sizes, converted
from maskweave.legacy import read_defaults
from maskweave.maskgit import DecodeSettings, Step
from maskweave.progress import progress
from maskweave.seeds import draw_seeds
from maskweave.tokenizer.base import Tokenizer
from maskweave.transformer import BidirectionalTransformer
from maskweave.walk import Crops, Filling, Walk, Windows, check_framing, drive


class StepPicture(NamedTuple):
    """What the fill looks like after a step of decoding."""

    image: Any
    """The image with all tokens as predicted so far, of the output type."""
    masked: Hole
    """Hole pixels whose tokens are predicted again in the next step."""


@dataclass(frozen=True)
class InpaintOutput:
    """Filled images, image by image and, for each, sample by sample."""

    images: list[Any]
    """Filled images of the output type."""
    steps: list[list[StepPicture]] | None = None
    """For every image of ``images``, its steps; None unless asked for."""


class InpaintPipeline:
    """Fills holes in images of any size with a tokenizer and a transformer, framed as they need."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        transformer: BidirectionalTransformer,
        defaults: DecodeSettings | None = None,
        framing: str = "whole object",
    ) -> None:
        config = transformer.config
        if (tokenizer.codebook_size, tokenizer.grid) != (config.codebook_size, config.grid):
            raise MaskweaveError("tokenizer and transformer differ in their codebook or grid size")
        if config.patch_size not in (0, tokenizer.patch_size):
            raise MaskweaveError("tokenizer and transformer differ in their patch size")
        self.tokenizer = tokenizer.eval()
        self.transformer = transformer.eval()
        self.defaults = defaults or DecodeSettings()
        self.framing = check_framing(framing, tokenizer.guided, tokenizer.image_size)
        self.show_progress = True

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        torch_dtype: torch.dtype = torch.float32,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> "InpaintPipeline":
        """Load a model by its shipped name, its folder or its hub id.

        Parameters
        ----------
        name : str or Path
            Shipped are those that ``maskweave models`` lists.
        torch_dtype : torch.dtype
            Precision of the transformer and of painting, as in ``to``.
        revision, cache_dir, token, local_files_only
            As in ``huggingface_hub.snapshot_download``; read only of a hub id.

        Raises
        ------
        MaskweaveError
            If there is no such model or its files are broken.
        """
        directory = resolve(
            name,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
        if (directory / "tokenizer").is_dir() and not (directory / "transformer").is_dir():
            raise MaskweaveError(f"{directory} holds a tokenizer alone: train a transformer on it")
        file = directory / "config.json"
        defaults = as_config(DecodeSettings, read_defaults(file), file)
        framing = read_json(file).get("framing", "whole object")
        tokenizer = load_tokenizer(directory / "tokenizer")
        pipeline = cls(tokenizer, load_transformer(directory / "transformer"), defaults, framing)
        return pipeline.to(torch_dtype)

    def save_pretrained(self, directory: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the model to a folder, its floating-point weights as ``dtype`` if given."""
        directory = Path(directory)
        save_component(self.tokenizer, directory / "tokenizer", dtype)
        save_component(self.transformer, directory / "transformer", dtype)
        config = {"framing": self.framing, "defaults": dataclasses.asdict(self.defaults)}
        write_json(directory / "config.json", config)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload model",
    ) -> str:
        """Upload the model to the Hugging Face hub; return the address of the commit.

        Raises
        ------
        MaskweaveError
            If the hub refuses or cannot be reached.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload(Path(folder), repo_id, private, token, commit_message)

    def to(
        self,
        device: str | torch.device | torch.dtype | None = None,
        dtype: torch.dtype | None = None,
    ) -> "InpaintPipeline":
        """Move to a device, round the transformer's weights to a dtype, or both, as modules do.

        What is not given stays as it is. The tokenizer keeps float32 weights: it encodes in float32
        and paints in mixed precision.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        self.tokenizer.to(device)
        self.transformer.to(device, dtype)
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.transformer.position_embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the transformer."""
        return self.transformer.position_embedding.dtype

    def set_progress_bar_config(self, *, disable: bool) -> None:
        """Switch the progress bar off or on, as in diffusers; it needs a terminal."""
        self.show_progress = not disable

    def __call__(
        self,
        image: Any,
        mask_image: Any = None,
        *,
        num_inference_steps: int | None = None,
        temperature: float | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        batch_size: int = 16,
        keep_known: bool = True,
        output_type: Literal["pil", "np", "pt"] = "pil",
        output_steps: bool = False,
        callback_on_step_end: Callable[["InpaintPipeline", int, int, dict[str, Any]], Any]
        | None = None,
        **settings: Any,
    ) -> InpaintOutput:
        """Fill the holes of one image or of a list of images.

        Parameters
        ----------
        image : PIL.Image.Image, numpy.ndarray or torch.Tensor, or a list of them
            Images of any size. Arrays are (height, width, 3), tensors (3, height, width), or
            batches of these; uint8, or float in [0, 1], which is rounded to 8 bits.
        mask_image : the same types
            White (128 or more, 0.5 or more of floats) or True is the hole; of the image's size,
            (height, width). Without it the transparent pixels of the image are the hole.
        num_inference_steps : int, optional
            T; the model's default otherwise, as for the other decode settings.
        temperature : float, optional
            Scale of the noise in the order of decoding.
        num_images_per_prompt : int
            Different fills of each image.
        generator : torch.Generator or a list with one for each image or for each fill
            On any device; without one every call differs. The same numbers are promised for the
            same kind of device. ``seeded(seed, name)`` gives what ``maskweave inpaint`` uses.
        batch_size : int
            Crops or windows that are decoded at once. Changes nothing beyond rounding.
        keep_known : bool
            Return every pixel outside the hole as it was. Otherwise those around it as painted.
        output_type : {"pil", "np", "pt"}
            PIL images, float arrays (height, width, 3) or float tensors (3, height, width) in
            [0, 1]: in a list, as images may differ in size.
        output_steps : bool
            Paint the image after every step as well.
        callback_on_step_end : callable, optional
            Called with the pipeline, the number of the step, how many of the T steps are left and a
            dict of ``tokens``, ``masked`` and ``confidence`` as in ``maskgit.Step``, batch by
            batch. Unlike in diffusers what it returns is not read: known tokens stay.
        **settings
            Any other field of ``DecodeSettings``, for instance ``schedule``, ``order``,
            ``token_temperature`` or ``paint``.

        Raises
        ------
        MaskweaveError
            If sizes or counts do not match or a setting is unknown or out of range.
        """
        if not all(type(n) is int and n >= 1 for n in (num_images_per_prompt, batch_size)):
            raise MaskweaveError("num_images_per_prompt and batch_size are ints of at least 1")
        if output_type not in ("pil", "np", "pt"):
            raise MaskweaveError(f"output_type is pil, np or pt, got {output_type!r}")
        named = {"steps": num_inference_steps, "temperature": temperature}
        resolved = self.settings(**named | settings)
        images, holes = _pair(image, mask_image)
        seeds = draw_seeds(generator, len(images), num_images_per_prompt)

        def on_step(step: Step) -> None:
            if callback_on_step_end is not None:
                left = resolved.steps - 1 - step.number
                tensors = {name: getattr(step, name) for name in ("tokens", "masked", "confidence")}
                callback_on_step_end(self, step.number, left, tensors)

        filled = self.fill(
            images,
            holes,
            seeds,
            resolved,
            batch_size=batch_size,
            keep_known=keep_known,
            every_step=output_steps,
            on_step=on_step,
        )
        steps = [
            [StepPicture(converted(one.image, output_type), one.masked) for one in states]
            for states in filled
        ]
        pictures = [states[-1].image for states in steps]
        return InpaintOutput(pictures, steps if output_steps else None)

    def settings(self, **overrides: Any) -> DecodeSettings:
        """Return the model's defaults with those overrides that are not None.

        Raises
        ------
        MaskweaveError
            If a setting is unknown or out of range.
        """
        given = {name: value for name, value in overrides.items() if value is not None}
        unknown = given.keys() - {field.name for field in dataclasses.fields(DecodeSettings)}
        if unknown:
            raise MaskweaveError(f"unknown decode settings {', '.join(sorted(unknown))}")
        return dataclasses.replace(self.defaults, **given)

    @torch.inference_mode()
    def fill(
        self,
        images: Sequence[Pixels],
        holes: Sequence[Hole],
        seeds: Sequence[Sequence[int]],
        settings: DecodeSettings,
        *,
        batch_size: int = 16,
        keep_known: bool = True,
        every_step: bool = False,
        on_step: Callable[[Step], None] | None = None,
    ) -> list[list[StepPicture]]:
        """Fill arrays; the call with PIL images and generators goes through here.

        Parameters
        ----------
        images, holes
            uint8, (height, width, 3), and True in the hole, (height, width).
        seeds : sequence of sequences of int
            For each image the seed of each of its fills, from 0 to 2^63 - 1.
        settings : DecodeSettings
            How tokens are decoded and painted.
        batch_size, keep_known
            As in the call.
        every_step : bool
            Return the picture after each step, not only the last.
        on_step : callable, optional
            Told of each step of each batch.

        Returns
        -------
        list
            For every fill, image by image, its pictures as uint8 arrays.
        """
        if settings.paint == "expected" and any(len(each) > 1 for each in seeds):
            raise MaskweaveError("paint 'expected' samples nothing: there is one fill, not several")
        size, shown = self.tokenizer.image_size, settings.last_step if every_step else 1
        fillings: list[Filling] = []
        walks: list[Walk] = []
        count = 0
        for pixels, hole, its_seeds in zip(images, holes, seeds, strict=True):
            plan = Windows(hole, size[0]) if self.framing == "texture" else Crops(hole, size)
            for seed in its_seeds:
                fillings.append(Filling(pixels, hole, seed, keep_known, shown))
                walks.append(plan.walk(fillings[-1]))
                count += len(plan)

        paint = partial(
            paint_requests, self.tokenizer, self.transformer, settings, every_step, on_step
        )
        with progress(count, shown=self.show_progress) as advance:
            for painted in drive(walks, paint, batch_size):
                advance(painted)
        return [[StepPicture(*canvas) for canvas in filling.canvases] for filling in fillings]


def _pair(image: Any, mask_image: Any) -> tuple[list[Pixels], list[Hole]]:
    """Return images as arrays and their holes, warning of holes that look like a mistake."""
    images = as_list(image)
    masks = [None] * len(images) if mask_image is None else as_list(mask_image, channels=False)
    if len(images) != len(masks):
        raise MaskweaveError(f"{len(images)} images but {len(masks)} masks")
    pixels = [as_pixels(one) for one in images]
    holes = [as_hole(mask, one) for mask, one in zip(masks, images, strict=True)]
    for array, hole in zip(pixels, holes, strict=True):
        check_sizes(array, hole)
        if note := remark(hole):
            warnings.warn(note, stacklevel=3)  # at the line that called the pipeline
    return pixels, holes
