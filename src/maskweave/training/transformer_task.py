"""Stage 2: the transformer, trained to predict the tokens under holes."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from maskweave.data.augment import check_shift, to_unit_range, view
from maskweave.data.cache import Images
from maskweave.data.sampler import Draw
from maskweave.errors import MaskweaveError
from maskweave.holes import KINDS, check_kinds, draw_holes, known_patches, token_mask
from maskweave.maskgit import corrupt, masked_loss
from maskweave.pipeline import InpaintPipeline
from maskweave.schedules import named
from maskweave.tokenizer.base import Tokenizer
from maskweave.training.loop import RunConfig, Scalars
from maskweave.training.optimiser import OptimiserConfig, adamw, averaged, set_learning_rate
from maskweave.training.sheet import COLUMNS, sheet
from maskweave.training.speed import training_flops
from maskweave.transformer import BidirectionalTransformer, TransformerConfig

VALIDATION_RATIOS = (0.25, 0.5, 0.75)
"""Shares of the tokens under a hole that are masked for the accuracies by ratio, beside all."""

CHUNK = 32
"""Validation images that are looked at together; the accuracies by ratio are of the first ones."""


@dataclass(frozen=True)
class MaskingConfig:
    """Which tokens are masked in training and what their prediction is worth."""

    schedule: str = "cosine"
    """Mask-ratio function gamma: each image's ratio is gamma(u), u uniform in [0, 1)."""
    ratio: tuple[float, ...] = ()
    """Two bounds of a uniform ratio, instead of the schedule."""
    independent: bool = False
    """Mask each token on its own with the ratio's probability, instead of an exact count."""
    holes: tuple[str, ...] = KINDS
    """Kinds of pixel holes under which tokens are masked."""
    whole: float = 0.2
    """Share of images whose hole is everything: their masked tokens lie scattered all over."""
    holed_tokens: bool = False
    """Show known tokens as encoded from the holed image, as in use; costs an encoding in each step
    and makes no difference to an encoder that sees patch by patch."""
    unmasked_weight: float = 0.0
    """Loss weight of tokens that are not masked: 0 is MaskGIT, 1 the reference experiment."""
    label_smoothing: float = 0.1
    """Label smoothing of the cross-entropy, as in MaskGIT."""
    views: int = 8
    """Versions of each image that are tokenised: as it is, and mirrored and shifted ones."""
    shift: int = 4
    """Largest shift of a version, in pixels, less than the image size."""

    def __post_init__(self) -> None:
        """Refuse unknown names and numbers out of range."""
        named(self.schedule)
        check_kinds(self.holes)
        shares = (self.whole, self.label_smoothing)
        if not (all(0 <= s <= 1 for s in shares) and 0 <= self.unmasked_weight < math.inf):
            raise MaskweaveError(f"masking settings out of range: {self}")
        if self.views < 1 or self.shift < 0:
            raise MaskweaveError(f"views must be at least 1 and shift at least 0: {self}")
        if self.ratio and not (len(self.ratio) == 2 and 0 <= self.ratio[0] <= self.ratio[1] <= 1):
            raise MaskweaveError(f"ratio needs two rising bounds in [0, 1], got {self.ratio}")


@dataclass(frozen=True)
class TransformerRecipe:
    """Everything that decides a run of stage 2, except the images and the tokenizer."""

    model: TransformerConfig = TransformerConfig()
    """Sizes of the transformer; the numbers of codes and tokens are the tokenizer's."""
    masking: MaskingConfig = MaskingConfig()
    """Which tokens are masked, and the loss."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """Of the transformer."""
    run: RunConfig = RunConfig()
    """Length, batch size, seed and intervals."""


class Example(NamedTuple):
    """An image as stage 2 sees it, or a batch of them."""

    image: UInt8[np.ndarray, "3 size size"] | UInt8[Tensor, "batch 3 size size"]
    tokens: Int[np.ndarray, "length"] | Int[Tensor, "batch length"]
    hole: Bool[np.ndarray, "size size"] | Bool[Tensor, "batch size size"]
    seed: int | Int[Tensor, "batch"]
    """Of what is masked under the hole."""


class MaskedExamples(Dataset[Example]):
    """Images with cached tokens, drawn in one of their views with a hole.

    Parameters
    ----------
    images : Images
        The whole set.
    indices : sequence of int
        Those that are drawn.
    tokens : numpy.ndarray
        uint16, (images, views, length), of the whole set.
    masking : MaskingConfig
        Kinds of holes and the views' largest shift.
    """

    def __init__(
        self,
        images: Images,
        indices: Sequence[int],
        tokens: np.ndarray,
        masking: MaskingConfig,
    ) -> None:
        self.images, self.indices = images, indices
        self.tokens, self.masking = tokens, masking

    def __getitem__(self, draw: Draw) -> Example:
        """Return one example."""
        rng, index = draw.rng(), self.indices[draw.image]
        number = int(rng.integers(self.tokens.shape[1]))
        image = view(self.images[index], index, number, self.masking.shift)
        tokens = self.tokens[index, number].astype(np.int64)
        size = image.shape[1]
        (hole,) = draw_holes(self.masking.holes, 1, size, size, rng, self.masking.whole).numpy()
        return Example(image, tokens, hole, int(rng.integers(2**62)))


class TransformerTask:
    """Trains a bidirectional transformer on the tokens of a frozen tokenizer.

    ``steps`` and ``epoch`` are those of the run and of a pass over the images.
    """

    def __init__(
        self,
        recipe: TransformerRecipe,
        tokenizer: Tokenizer,
        validation: UInt8[Tensor, "batch 3 size size"],
        accelerator: Accelerator,
        steps: int,
        epoch: int,
    ) -> None:
        self.model = model = recipe.model
        self.masking, self.config, self.run = recipe.masking, recipe.optimiser, recipe.run
        self.steps, self.epoch, self.accelerator = steps, epoch, accelerator
        check_shift(self.masking.shift, tokenizer.config.image_size)
        self.tokenizer = tokenizer.to(accelerator.device).eval().requires_grad_(False)
        transformer = BidirectionalTransformer(model)
        self.mask_token, self.patch_size = model.mask_token, tokenizer.patch_size
        optimiser = adamw(transformer, self.config)
        self.ema = averaged(transformer, self.config.ema).to(accelerator.device)
        if self.run.compile:
            transformer.compile()
        self.transformer, self.optimiser = accelerator.prepare(transformer, optimiser)
        accelerator.register_for_checkpointing(self.ema)
        self.validation = validation

    def step(self, batch: Sequence[Tensor], step: int) -> Scalars:
        """Update the transformer on one batch."""
        images, tokens, hole, seeds = batch
        images = to_unit_range(images)
        seen = self._seen(images, tokens, hole) if self.masking.holed_tokens else tokens
        low_high = self.masking.ratio
        inputs, masked = corrupt(
            seen,
            self.mask_token,
            ratio=(low_high[0], low_high[1]) if low_high else named(self.masking.schedule),
            generators=[torch.Generator().manual_seed(seed) for seed in seeds.tolist()],
            region=token_mask(hole, self.patch_size),
            independent=self.masking.independent,
        )
        known = known_patches(images, hole, self.patch_size)
        rate = set_learning_rate(self.optimiser, self.config, step, self.steps, self.epoch)
        self.optimiser.zero_grad()
        parts = self._backward(inputs, masked, tokens, known)
        norm = self.accelerator.clip_grad_norm_(
            self.transformer.parameters(), self.config.clip or math.inf
        )
        self.optimiser.step()
        self.ema.update_parameters(self.accelerator.unwrap_model(self.transformer))
        return parts | {"gradient_norm": norm, "learning_rate": rate}  # type: ignore[dict-item]

    def _seen(
        self, images: Tensor, tokens: Tensor, hole: Bool[Tensor, "batch height width"]
    ) -> Int[Tensor, "batch length"]:
        """Return tokens as decoding meets them: known ones of the holed image, true ones in it."""
        with torch.no_grad():
            seen = self.tokenizer.encode(images.masked_fill(hole[:, None], 0.0))
        return torch.where(token_mask(hole, self.patch_size), tokens, seen)

    def _backward(self, inputs: Tensor, masked: Tensor, truth: Tensor, known: Tensor) -> Scalars:
        """Add up the gradients of the loss over the parts of a batch; return what to log.

        All weights are divided by their sum over the whole batch, wherever it lies, so that the
        number of parts and of processes makes no difference.
        """
        outside = self.masking.unmasked_weight
        weights = torch.where(masked, 1.0, outside).sum(1)  # (B)
        mean = self.accelerator.reduce(weights.sum(), "mean").clamp(min=1e-9)  # type: ignore[union-attr]
        rows = torch.arange(len(inputs)).chunk(self.run.accumulate)
        total, right = torch.zeros_like(mean), torch.zeros(2, 2, device=inputs.device)
        for i in rows:
            last = i is rows[-1]
            with nullcontext() if last else self.accelerator.no_sync(self.transformer):
                counted = masked[i] if outside == 0 else torch.ones_like(masked[i])
                logits = self.transformer(inputs[i], counted, known[i])  # (M, K)
                loss = masked_loss(
                    logits,
                    truth[i][counted],
                    masked[i][counted],
                    unmasked_weight=outside,
                    label_smoothing=self.masking.label_smoothing,
                )
                loss = loss * (weights[i].sum() / mean)
                self.accelerator.backward(loss)
            total += loss.detach()
            hits, inside = logits.argmax(-1) == truth[i][counted], masked[i][counted]
            for row, chosen in enumerate((inside, ~inside)):
                right[row] += torch.stack([(hits & chosen).sum(), chosen.sum()])
        right: Tensor = self.accelerator.reduce(right, "sum")  # type: ignore[assignment]
        accuracies = right[:, 0] / right[:, 1].clamp(min=1)
        scalars: Scalars = {"loss": total, "masked_accuracy": accuracies[0]}
        return scalars | ({"unmasked_accuracy": accuracies[1]} if outside else {})

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Predict and fill fixed holes of fixed images with the averaged weights.

        The loss is the plain cross-entropy of all tokens under the holes at once, without label
        smoothing, so that it compares between runs; so does the accuracy when only a share of these
        tokens, drawn with fixed seeds, is masked. Unmasked tokens are those outside the holes.
        """
        model: BidirectionalTransformer = self.ema.module  # type: ignore[assignment]
        training = model.training
        model.eval()
        sums: dict[str, Tensor] = {}
        pictures: list[Tensor] = []
        holes = self._validation_holes()
        for start in range(0, len(self.validation), CHUNK):
            chunk = slice(start, start + CHUNK)
            images = to_unit_range(self.validation[chunk].to(self.accelerator.device))
            hole = holes[chunk].to(images.device)
            truth = self.tokenizer.encode(images)
            seen = self._seen(images, truth, hole)
            known = known_patches(images, hole, self.patch_size)
            ratios = (*VALIDATION_RATIOS, 1.0) if start == 0 else (1.0,)
            for name, figure in self._figures(model, truth, seen, hole, known, ratios).items():
                sums[name] = sums.get(name, torch.zeros_like(figure)) + figure
            if start == 0:
                pictures = self._fill(model, *(x[:COLUMNS] for x in (images, hole, truth)))
        model.train(training)
        figures = {f"validation/{name}": (a / b).item() for name, (a, b) in sums.items()}
        return figures, {"transformer": sheet(pictures)}

    def _figures(
        self,
        model: BidirectionalTransformer,
        truth: Tensor,
        seen: Tensor,
        hole: Tensor,
        known: Tensor,
        ratios: Sequence[float],
    ) -> dict[str, Float[Tensor, "sum_and_number"]]:
        """Return sums over tokens and how many these are, by name."""
        region = token_mask(hole, self.patch_size)
        figures: dict[str, Tensor] = {}

        def add(name: str, values: Tensor) -> None:
            figures[name] = torch.stack([values.sum(), values.new_tensor(values.numel())])

        for ratio in ratios:
            generators = [torch.Generator().manual_seed(i) for i in range(len(truth))]
            inputs, masked = corrupt(
                seen, self.mask_token, ratio=(ratio, ratio), generators=generators, region=region
            )
            with self.accelerator.autocast():
                logits = model(inputs, None, known)
            hits = (logits.argmax(-1) == truth).float()
            if ratio < 1:
                add(f"accuracy_by_ratio/{ratio:.2f}", hits[masked])
            else:
                codes = logits[masked][:, : self.mask_token].float()
                add("loss", F.cross_entropy(codes, truth[masked], reduction="none"))
                add("masked_accuracy", hits[masked])
                add("unmasked_accuracy", hits[~masked])
        return figures

    def _fill(
        self, model: BidirectionalTransformer, images: Tensor, hole: Tensor, truth: Tensor
    ) -> list[Tensor]:
        """Return images, their holes, fills, and what the true tokens would have given."""
        holed = images.masked_fill(hole[:, None], 0.0)
        generators = [torch.Generator().manual_seed(i) for i in range(len(images))]
        with self.accelerator.autocast():
            filled = InpaintPipeline(self.tokenizer, model).fill_tokens(holed, hole, generators)
        painted = [
            torch.where(hole[:, None], self.tokenizer.decode(tokens, holed, hole), holed)
            for tokens in (filled, truth)
        ]
        return [images, holed, *painted]

    def _validation_holes(self) -> Bool[Tensor, "batch height width"]:
        """Return the same holes of all kinds for every run, whatever it trains on."""
        size, rng = self.tokenizer.config.image_size, np.random.default_rng(0)
        return draw_holes(KINDS, len(self.validation), size, size, rng)

    def export(self, directory: Path) -> None:
        """Write a whole model: the averaged transformer and the tokenizer it was trained on."""
        model: BidirectionalTransformer = self.ema.module  # type: ignore[assignment]
        InpaintPipeline(self.tokenizer, model).save_pretrained(directory)

    def flops(self) -> int:
        """Return the operations of one image's forward and backward passes, half of it masked."""
        device, size = self.accelerator.device, self.tokenizer.config.image_size
        transformer = BidirectionalTransformer(self.model).to(device)
        length = self.model.length
        tokens = torch.zeros(1, length, dtype=torch.long, device=device)
        half = torch.arange(length, device=device)[None] % 2 == 0
        counted = half if self.masking.unmasked_weight == 0 else torch.ones_like(half)
        hole = torch.zeros(1, size, size, dtype=torch.bool, device=device)
        known = known_patches(torch.zeros(1, 3, size, size, device=device), hole, self.patch_size)
        return training_flops(lambda: transformer(tokens, counted, known).sum())
