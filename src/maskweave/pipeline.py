"""From an image and a mask to filled images: encode once, decode tokens, paint once, paste."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskweave.checkpoint import (
    as_config,
    load_tokenizer,
    load_transformer,
    resolve,
    save_component,
)
from maskweave.crops import Crop, enlarge, enlarge_mask, plan_crops, shrink
from maskweave.errors import MaskweaveError
from maskweave.files import read_json, write_json
from maskweave.holes import known_patches, remark, token_mask
from maskweave.images import Hole, Pixels, as_hole, as_pixels, check_sizes, converted
from maskweave.maskgit import DecodeSettings, Step, decode
from maskweave.schedules import named
from maskweave.tokenizer.base import Tokenizer
from maskweave.transformer import BidirectionalTransformer


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
    """Of the output type."""
    steps: list[list[StepPicture]] | None = None
    """For every image of ``images``, its steps; None unless asked for."""


class _Row(NamedTuple):
    """One row of a batch: a crop of an image, to be filled once."""

    image: int
    output: int
    crop: Crop
    seed: int


class _Canvas(NamedTuple):
    """An output while its crops are filled one after the other."""

    pixels: Pixels
    masked: Hole


class _State(NamedTuple):
    """A crop after a step of decoding."""

    painted: Float[Tensor, "3 size size"]
    masked: Bool[Tensor, "length"]


class InpaintPipeline:
    """Fills holes in images of any size with a tokenizer and a transformer."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        transformer: BidirectionalTransformer,
        defaults: DecodeSettings | None = None,
    ) -> None:
        config = transformer.config
        if (tokenizer.codebook_size, tokenizer.grid) != (config.codebook_size, config.grid):
            raise MaskweaveError("tokenizer and transformer differ in their codebook or grid size")
        if config.patch_size not in (0, tokenizer.patch_size):
            raise MaskweaveError("tokenizer and transformer differ in their patch size")
        self.tokenizer = tokenizer.eval()
        self.transformer = transformer.eval()
        self.defaults = defaults or DecodeSettings()

    @classmethod
    def from_pretrained(cls, name: str | Path) -> "InpaintPipeline":
        """Load a model by its shipped name, its folder or its hub id.

        Raises
        ------
        MaskweaveError
            If there is no such model or its files are broken.
        """
        directory = resolve(name)
        if (directory / "tokenizer").is_dir() and not (directory / "transformer").is_dir():
            raise MaskweaveError(f"{directory} holds a tokenizer alone: train a transformer on it")
        file = directory / "config.json"
        defaults = as_config(DecodeSettings, read_json(file).get("defaults", {}), file)
        tokenizer = load_tokenizer(directory / "tokenizer")
        return cls(tokenizer, load_transformer(directory / "transformer"), defaults)

    def save_pretrained(self, directory: Path, dtype: torch.dtype | None = None) -> None:
        """Write the model to a folder, its floating-point weights as ``dtype`` if given."""
        save_component(self.tokenizer, directory / "tokenizer", dtype)
        save_component(self.transformer, directory / "transformer", dtype)
        write_json(directory / "config.json", {"defaults": dataclasses.asdict(self.defaults)})

    def to(
        self, device: str | torch.device, dtype: torch.dtype = torch.float32
    ) -> "InpaintPipeline":
        """Move to a device and round the transformer's weights to ``dtype``.

        The tokenizer keeps float32 weights: it encodes in float32 and paints in mixed precision.
        """
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

    @torch.inference_mode()
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
        callback_on_step_end: Callable[["InpaintPipeline", int, Step], None] | None = None,
        **settings: Any,
    ) -> InpaintOutput:
        """Fill the holes of one image or of a list of images.

        Parameters
        ----------
        image : PIL.Image.Image or numpy.ndarray, or a list of them
            Of any size; arrays are uint8, (height, width, 3).
        mask_image : PIL.Image.Image or numpy.ndarray, or a list of them
            White (128 or more) or True is the hole; of the image's size. Without it the
            transparent pixels of the image are the hole.
        num_inference_steps : int, optional
            T; the model's default otherwise, as for the other decode settings.
        temperature : float, optional
            Scale of the noise on the confidence.
        num_images_per_prompt : int
            Different fills of each image.
        generator : torch.Generator or a list with one for each image
            On the CPU; without one every call differs.
        batch_size : int
            Crops that are decoded at once. Changes nothing beyond rounding.
        keep_known : bool
            Return every pixel outside the hole as it was. Otherwise those of the crops as painted.
        output_type : {"pil", "np", "pt"}
            PIL images, uint8 arrays (height, width, 3) or uint8 tensors (3, height, width).
        output_steps : bool
            Paint the image after every step as well.
        callback_on_step_end : callable, optional
            Called with the pipeline, the number of the step and a ``maskgit.Step``, batch by batch.
        **settings
            Any other field of ``DecodeSettings``: ``schedule``, ``stop_after``,
            ``token_temperature``, ``top_k``, ``confidence``.

        Raises
        ------
        MaskweaveError
            If sizes or counts do not match or a setting is unknown or out of range.
        """
        if min(num_images_per_prompt, batch_size) < 1:
            raise MaskweaveError("num_images_per_prompt and batch_size must be at least 1")
        if output_type not in ("pil", "np", "pt"):
            raise MaskweaveError(f"output_type is pil, np or pt, got {output_type!r}")
        named_here = {"steps": num_inference_steps, "temperature": temperature}
        resolved = self.settings(**named_here | settings)
        images, holes = _pair(image, mask_image)
        sources = _generators(generator, len(images))
        rows = _plan(holes, self.tokenizer.config.image_size, num_images_per_prompt, sources)

        def on_step(step: Step) -> None:
            if callback_on_step_end is not None:
                callback_on_step_end(self, step.number, step)

        kept = (resolved.stop_after or resolved.steps) if output_steps else 1
        canvases = [
            [_Canvas(pixels.copy(), np.zeros_like(hole)) for _ in range(kept)]
            for pixels, hole in zip(images, holes, strict=True)
            for _ in range(num_images_per_prompt)
        ]
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            windows = [
                (row.crop.window(images[row.image]), row.crop.window(holes[row.image]))
                for row in batch
            ]
            fills = self._fill(batch, windows, resolved, output_steps, on_step)
            for row, window, states in zip(batch, windows, fills, strict=True):
                for k, canvas in enumerate(canvases[row.output]):
                    # Decoding ends early when nothing is masked.
                    _paste(canvas, row.crop, window, states[min(k, len(states) - 1)], keep_known)
        return _output(canvases, output_type, output_steps)

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

    def fill_tokens(
        self,
        known: Float[Tensor, "batch 3 size size"],
        hole: Bool[Tensor, "batch size size"],
        generators: Sequence[torch.Generator],
        settings: DecodeSettings | None = None,
        on_step: Callable[[Step], None] | None = None,
    ) -> Int[Tensor, "batch length"]:
        """Return the tokens of images of the model's size, those under the holes as decoded.

        The images ``known`` are in [-1, 1] and 0 in the hole. Each draws from its generator, which
        is on the CPU; settings are the model's defaults unless given.
        """
        settings = settings or self.defaults
        patch = self.tokenizer.patch_size
        patches = known_patches(known, hole, patch).to(self.dtype)
        with torch.autocast(known.device.type, enabled=False):  # a caller's would change tokens
            tokens = self.tokenizer.encode(known)
        how: dict[str, Any] = dataclasses.asdict(settings)
        how["schedule"] = named(settings.schedule)
        return decode(
            lambda tokens, masked: self.transformer(tokens, masked, patches),
            tokens,
            token_mask(hole, patch),
            mask_token=self.transformer.config.mask_token,
            generators=generators,
            on_step=on_step,
            **how,
        )

    def _fill(
        self,
        rows: Sequence[_Row],
        windows: Sequence[tuple[Pixels, Hole]],
        settings: DecodeSettings,
        keep_steps: bool,
        on_step: Callable[[Step], None],
    ) -> list[list[_State]]:
        """Fill a batch of windows; return the states of each, only the last unless all are kept."""
        config = self.tokenizer.config
        shrunk = [shrink(pixels, hole, config.image_size) for pixels, hole in windows]
        known = torch.stack([image for image, _ in shrunk]).to(self.device)
        hole = torch.stack([small for _, small in shrunk]).to(self.device)
        grids: list[tuple[Tensor, Tensor]] = []  # tokens and what is masked of them, step by step

        def keep(step: Step) -> None:
            on_step(step)
            if keep_steps:
                grids.append((step.tokens, step.masked))

        generators = [torch.Generator().manual_seed(row.seed) for row in rows]
        tokens = self.fill_tokens(known, hole, generators, settings, keep)
        if not keep_steps:
            grids.append((tokens, torch.zeros_like(tokens, dtype=torch.bool)))
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            painted = [self.tokenizer.decode(t, known, hole).float().cpu() for t, _ in grids]
        return [
            [
                _State(picture[i], grid[i].cpu())
                for picture, (_, grid) in zip(painted, grids, strict=True)
            ]
            for i in range(len(windows))
        ]


def _generators(
    generator: torch.Generator | Sequence[torch.Generator] | None, images: int
) -> Sequence[torch.Generator]:
    """Return the generator that each image draws its seeds from."""
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    if isinstance(generator, torch.Generator):
        return [generator] * images
    if len(generator) != images:
        raise MaskweaveError(f"{images} images need as many generators, got {len(generator)}")
    return generator


def _plan(
    holes: Sequence[Hole], size: int, samples: int, generators: Sequence[torch.Generator]
) -> list[_Row]:
    """List all crops of all images and samples, each with a seed from its image's generator.

    Seeds are drawn before any decoding, so that the batch a crop lands in does not matter.
    """
    rows: list[_Row] = []
    for index, (hole, generator) in enumerate(zip(holes, generators, strict=True)):
        crops = plan_crops(hole, size)
        for sample in range(samples):
            for crop in crops:
                seed = int(torch.randint(2**62, (), generator=generator))
                rows.append(_Row(index, index * samples + sample, crop, seed))
    return rows


def _paste(
    canvas: _Canvas, crop: Crop, window: tuple[Pixels, Hole], state: _State, keep_known: bool
) -> None:
    """Copy what was painted to the canvas: the crop's part of the hole and, if wanted, the known.

    Other hole pixels in the window belong to other crops.
    """
    _, hole = window
    part = crop.part if keep_known else crop.part | ~hole
    crop.window(canvas.pixels)[part] = enlarge(state.painted, *window)[part]
    crop.window(canvas.masked)[crop.part] = enlarge_mask(state.masked, crop.part)[crop.part]


def _output(
    canvases: Sequence[Sequence[_Canvas]], output_type: str, output_steps: bool
) -> InpaintOutput:
    images = [converted(states[-1].pixels, output_type) for states in canvases]
    if not output_steps:
        return InpaintOutput(images)
    steps = [
        [StepPicture(converted(state.pixels, output_type), state.masked) for state in states]
        for states in canvases
    ]
    return InpaintOutput(images, steps)


def _pair(image: Any, mask_image: Any) -> tuple[list[Pixels], list[Hole]]:
    """Return images as arrays and their holes, warning of holes that look like a mistake."""
    images = list(image) if isinstance(image, list | tuple) else [image]
    masks = list(mask_image) if isinstance(mask_image, list | tuple) else [mask_image] * len(images)
    if len(images) != len(masks):
        raise MaskweaveError(f"{len(images)} images but {len(masks)} masks")
    pixels = [as_pixels(one) for one in images]
    holes = [as_hole(mask, one) for mask, one in zip(masks, images, strict=True)]
    for array, hole in zip(pixels, holes, strict=True):
        check_sizes(array, hole)
        if note := remark(hole):
            warnings.warn(note, stacklevel=3)
    return pixels, holes
