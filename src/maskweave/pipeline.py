"""From an image and a mask to filled images: encode once, decode tokens, paint once, paste."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from maskweave.checkpoint import (
    load_tokenizer,
    load_transformer,
    read_json,
    resolve,
    save_component,
    write_json,
)
from maskweave.crops import Crop, enlarge, plan_crops, shrink
from maskweave.errors import MaskweaveError
from maskweave.holes import token_mask
from maskweave.maskgit import Step, decode
from maskweave.schedules import named
from maskweave.tokenizer.vqgan import VQGAN
from maskweave.transformer import BidirectionalTransformer

LARGE_SHARE = 0.6
"""Above this share of hole a mask is likely to be meant the other way round."""

Pixels = UInt8[np.ndarray, "height width 3"]
Hole = Bool[np.ndarray, "height width"]


@dataclass(frozen=True)
class DecodeSettings:
    """How tokens are decoded, see ``maskweave.maskgit.decode``; a model carries its defaults."""

    steps: int = 8
    """T."""
    schedule: str = "cosine"
    """Name of the mask schedule."""
    stop_after: int | None = None
    """Run only the first t steps."""
    temperature: float = 1.0
    """Scale of the Gumbel noise on the confidence."""
    token_temperature: float = 1.0
    """Temperature at which tokens are sampled; 0 takes the likeliest."""
    top_k: int | None = None
    """Sample among the k likeliest codes only."""
    confidence: Literal["log_probability", "probability"] = "log_probability"
    """What confidence is computed from."""


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


class _State(NamedTuple):
    """A crop after a step of decoding."""

    painted: Float[Tensor, "3 size size"]
    masked: Bool[Tensor, "length"]


class InpaintPipeline:
    """Fills holes in images of any size with a tokenizer and a transformer."""

    def __init__(
        self,
        tokenizer: VQGAN,
        transformer: BidirectionalTransformer,
        defaults: DecodeSettings | None = None,
    ) -> None:
        ours, theirs = tokenizer.config, transformer.config
        if (ours.codebook_size, ours.length) != (theirs.codebook_size, theirs.length):
            raise MaskweaveError("tokenizer and transformer differ in their codebook or grid size")
        self.tokenizer = tokenizer.eval()
        self.transformer = transformer.eval()
        self.defaults = defaults or DecodeSettings()
        self.dtype = torch.float32

    @classmethod
    def from_pretrained(cls, name: str | Path) -> "InpaintPipeline":
        """Load a model by its shipped name, its folder or its hub id.

        Raises
        ------
        MaskweaveError
            If there is no such model or its files are broken.
        """
        directory = resolve(name)
        file = directory / "config.json"
        try:
            defaults = DecodeSettings(**read_json(file).get("defaults", {}))
        except TypeError as error:
            raise MaskweaveError(f"{file} holds unknown decode settings: {error}") from error
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
        """Move to a device and choose the precision of matrix products; tokens are exact in float32."""
        self.tokenizer.to(device)
        self.transformer.to(device)
        self.dtype = dtype
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.transformer.position_embedding.device

    @torch.no_grad()
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
            Return every pixel outside the hole as it was. Otherwise the painted crops as they are.
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
        resolved = self._settings(
            settings | {"steps": num_inference_steps, "temperature": temperature}
        )
        images, holes = _pair(image, mask_image)
        rows = _plan(
            holes,
            self.tokenizer.config.image_size,
            num_images_per_prompt,
            _generators(generator, len(images)),
        )
        kept = (resolved.stop_after or resolved.steps) if output_steps else 1
        copies = range(num_images_per_prompt)
        pictures = [[pixels.copy() for _ in range(kept)] for pixels in images for _ in copies]
        unfilled = [[hole & False for _ in range(kept)] for hole in holes for _ in copies]

        def report(step: Step) -> None:
            if callback_on_step_end is not None:
                callback_on_step_end(self, step.index, step)

        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            windows = [_window(images[row.image], holes[row.image], row.crop) for row in batch]
            generators = [torch.Generator().manual_seed(row.seed) for row in batch]
            fills = self._fill(windows, generators, resolved, output_steps, report)
            for row, window, states in zip(batch, windows, fills, strict=True):
                for k in range(kept):  # decoding ends early when nothing is masked
                    state = states[min(k, len(states) - 1)]
                    _paste(row.crop, window, state, pictures[row.output][k], keep_known)
                    unfilled[row.output][k][row.crop.rows, row.crop.columns] |= _enlarge_mask(
                        state.masked, row.crop.part
                    )
        finished = [_convert(states[-1], output_type) for states in pictures]
        if not output_steps:
            return InpaintOutput(finished)
        steps = [
            [StepPicture(_convert(p, output_type), m) for p, m in zip(states, masks, strict=True)]
            for states, masks in zip(pictures, unfilled, strict=True)
        ]
        return InpaintOutput(finished, steps)

    def _settings(self, overrides: dict[str, Any]) -> DecodeSettings:
        """Return the model's defaults with all overrides that are not None."""
        given = {name: value for name, value in overrides.items() if value is not None}
        unknown = given.keys() - {field.name for field in dataclasses.fields(DecodeSettings)}
        if unknown:
            raise MaskweaveError(f"unknown decode settings {', '.join(sorted(unknown))}")
        return dataclasses.replace(self.defaults, **given)

    def _fill(
        self,
        windows: Sequence[tuple[Pixels, Hole]],
        generators: Sequence[torch.Generator],
        settings: DecodeSettings,
        keep_steps: bool,
        report: Callable[[Step], None],
    ) -> list[list[_State]]:
        """Fill a batch of windows; return the states of each, only the last unless all are kept."""
        size, patch = self.tokenizer.config.image_size, self.tokenizer.config.patch
        shrunk = [shrink(pixels, hole, size) for pixels, hole in windows]
        known = torch.stack([image for image, _ in shrunk]).to(self.device)
        hole = torch.stack([small for _, small in shrunk]).to(self.device)
        steps: list[Step] = []

        def on_step(step: Step) -> None:
            report(step)
            if keep_steps:
                steps.append(step)

        autocast = torch.autocast(
            self.device.type, self.dtype, enabled=self.dtype != torch.float32
        )
        tokens = self.tokenizer.encode(known)
        with autocast:
            masked = token_mask(hole, patch)
            tokens = decode(
                self.transformer,
                tokens,
                masked,
                mask_token=self.transformer.config.mask_token,
                generators=generators,
                **dataclasses.asdict(settings) | {"schedule": named(settings.schedule)},
                on_step=on_step,
            )
            last = (tokens, torch.zeros_like(masked))
            grids = [(step.tokens, step.masked) for step in steps] if keep_steps else [last]
            painted = [self.tokenizer.decode(t, known, hole).float().cpu() for t, _ in grids]
        return [
            [
                _State(image[i], token_grid[i].cpu())
                for image, (_, token_grid) in zip(painted, grids, strict=True)
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
    crop: Crop, window: tuple[Pixels, Hole], state: _State, picture: Pixels, keep_known: bool
) -> None:
    """Copy what was painted into the picture: the crop's part of the hole, or all of the crop."""
    part = crop.part if keep_known else np.ones_like(crop.part)
    picture[crop.rows, crop.columns][part] = enlarge(state.painted, *window)[part]


def _enlarge_mask(masked: Bool[Tensor, "length"], part: Hole) -> Hole:
    """Return the hole pixels of a crop that lie in masked tokens."""
    grid = round(len(masked) ** 0.5)
    height, width = part.shape
    rows, columns = (np.arange(n) * grid // n for n in (height, width))
    return masked.view(grid, grid).numpy()[np.ix_(rows, columns)] & part


def _window(pixels: Pixels, hole: Hole, crop: Crop) -> tuple[Pixels, Hole]:
    return pixels[crop.rows, crop.columns], hole[crop.rows, crop.columns]


def _pair(image: Any, mask_image: Any) -> tuple[list[Pixels], list[Hole]]:
    """Return images as arrays and their holes, warning of holes that are suspiciously large."""
    images = list(image) if isinstance(image, list | tuple) else [image]
    masks = list(mask_image) if isinstance(mask_image, list | tuple) else [mask_image] * len(images)
    if len(images) != len(masks):
        raise MaskweaveError(f"{len(images)} images but {len(masks)} masks")
    pixels = [_as_pixels(one) for one in images]
    holes = [_as_hole(mask, one) for mask, one in zip(masks, images, strict=True)]
    for array, hole in zip(pixels, holes, strict=True):
        if array.shape[:2] != hole.shape:
            raise MaskweaveError(
                f"the mask is {hole.shape[1]}x{hole.shape[0]} pixels, "
                f"the image {array.shape[1]}x{array.shape[0]}"
            )
        if hole.mean() > LARGE_SHARE:
            warnings.warn(
                f"{hole.mean():.0%} of the image is hole: is the mask inverted?", stacklevel=3
            )
    return pixels, holes


def _as_pixels(image: Any) -> Pixels:
    if isinstance(image, Image.Image):
        return np.array(image.convert("RGB"))
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,):
        return image
    raise MaskweaveError("an image is a PIL image or a uint8 array (height, width, 3)")


def _as_hole(mask: Any, image: Any) -> Hole:
    if mask is None:
        if not (isinstance(image, Image.Image) and image.has_transparency_data):
            raise MaskweaveError("an image without transparency needs a mask_image")
        return np.array(image.convert("RGBA").getchannel("A")) < 128
    if isinstance(mask, Image.Image):
        mask = np.array(mask.convert("L"))
    if isinstance(mask, np.ndarray) and mask.ndim == 2 and mask.dtype in (np.uint8, np.bool_):
        return mask if mask.dtype == np.bool_ else mask >= 128
    raise MaskweaveError("a mask is a PIL image or a uint8 or bool array (height, width)")


def _convert(pixels: Pixels, output_type: str) -> Any:
    match output_type:
        case "pil":
            return Image.fromarray(pixels)
        case "pt":
            return torch.from_numpy(pixels).permute(2, 0, 1)
        case _:
            return pixels
