"""Stage 2: the transformer, trained to predict the tokens under holes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
from maskweave.training.loop import Course, RunConfig, Scalars
from maskweave.training.optimiser import Learner, OptimiserConfig, averaged
from maskweave.training.sheet import Sheet
from maskweave.training.speed import training_flops
from maskweave.training.validation import Chunk, Means, Validation
from maskweave.transformer import BidirectionalTransformer, TransformerConfig

VALIDATION_RATIOS = (0.25, 0.5, 0.75)
"""Shares of the tokens under a hole that are masked for the accuracies by ratio, beside all."""

RATIO_IMAGES = 32
"""Validation images, the first ones, of which these accuracies are."""


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
    """Settings of the optimiser of the transformer."""
    run: RunConfig = RunConfig()
    """Length, batch size, seed and intervals."""


class Example(NamedTuple):
    """An image as stage 2 sees it, or a batch of them."""

    image: UInt8[np.ndarray, "3 size size"] | UInt8[Tensor, "batch 3 size size"]
    tokens: Int[np.ndarray, "length"] | Int[Tensor, "batch length"]
    hole: Bool[np.ndarray, "size size"] | Bool[Tensor, "batch size size"]
    seed: str | Sequence[str]
    """Seed of what is masked under the hole, in digits, which stay off the GPU."""


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
        return Example(image, tokens, hole, str(rng.integers(2**62)))


class TransformerTask:
    """Trains a bidirectional transformer on the tokens of a frozen tokenizer."""

    def __init__(
        self,
        recipe: TransformerRecipe,
        tokenizer: Tokenizer,
        validation: UInt8[Tensor, "batch 3 size size"],
        accelerator: Accelerator,
        course: Course,
    ) -> None:
        self.model, self.masking, self.accelerator = recipe.model, recipe.masking, accelerator
        check_shift(self.masking.shift, tokenizer.config.image_size)
        self.tokenizer = tokenizer.to(accelerator.device).eval().requires_grad_(False)
        transformer = BidirectionalTransformer(self.model)
        self.ema = averaged(transformer, recipe.optimiser.ema, accelerator)
        if recipe.run.compile:
            transformer.compile()
        self.learner = Learner(transformer, recipe.optimiser, course, accelerator)
        self.mask_token, self.patch_size = self.model.mask_token, tokenizer.patch_size
        self.validation = Validation(validation, accelerator)

    def step(self, batch: Sequence[Any], step: int) -> Scalars:
        """Update the transformer on one batch."""
        images, tokens, hole, seeds = batch
        images = to_unit_range(images)
        seen = self._seen(images, tokens, hole) if self.masking.holed_tokens else tokens
        low_high = self.masking.ratio
        inputs, masked = corrupt(
            seen,
            self.mask_token,
            ratio=(low_high[0], low_high[1]) if low_high else named(self.masking.schedule),
            generators=[torch.Generator().manual_seed(int(seed)) for seed in seeds],
            region=token_mask(hole, self.patch_size),
            independent=self.masking.independent,
        )
        known = known_patches(images, hole, self.patch_size)
        rate = self.learner.begin(step)
        scalars = self._backward(inputs, masked, tokens, known)
        scalars |= {"gradient_norm": self.learner.update(), "learning_rate": rate}
        self.ema.update_parameters(self.learner.module)
        return scalars

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
        counted = masked if outside == 0 else torch.ones_like(masked)
        weights = torch.where(masked, 1.0, outside).sum(1)  # (B)
        mean = self.accelerator.reduce(weights.sum(), "mean").clamp(min=1e-9)  # type: ignore[union-attr]
        losses: list[Tensor] = []
        hits = torch.zeros_like(masked)
        for i in self.learner.parts(len(inputs)):
            logits = self.learner.model(inputs[i], counted[i], known[i])  # (M, K)
            loss = masked_loss(
                logits,
                truth[i][counted[i]],
                masked[i][counted[i]],
                unmasked_weight=outside,
                label_smoothing=self.masking.label_smoothing,
            )
            loss = loss * (weights[i].sum() / mean)
            self.accelerator.backward(loss)
            losses.append(loss.detach())
            hits[i] = hits[i].masked_scatter(counted[i], logits.argmax(-1) == truth[i][counted[i]])
        scalars: Scalars = {"loss": torch.stack(losses).sum()}
        scalars["masked_accuracy"] = self._share(hits, masked)
        return scalars | ({"unmasked_accuracy": self._share(hits, ~masked)} if outside else {})

    def _share(self, hits: Tensor, among: Tensor) -> Float[Tensor, ""]:
        """Return the share of tokens, of all processes, that were predicted right."""
        counts = torch.stack([(hits & among).sum(), among.sum()]).float()
        right, number = self.accelerator.reduce(counts, "sum")
        return right / number.clamp(min=1)

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
        means, sheet = Means(), Sheet()
        for chunk in self.validation:
            truth = self.tokenizer.encode(chunk.images)
            self._measure(means, chunk, truth, 1.0)
            if (first := RATIO_IMAGES - chunk.numbers.start) > 0:
                for ratio in VALIDATION_RATIOS:
                    self._measure(means, chunk.first(first), truth[:first], ratio)
            if sheet.room:
                sheet.add(*self._fill(chunk.first(sheet.room), truth[: sheet.room]))
        model.train(training)
        return means.figures(), sheet.pictures("transformer")

    def _measure(self, means: Means, chunk: Chunk, truth: Tensor, ratio: float) -> None:
        """Count the figures of predictions where a share of the tokens under holes is masked."""
        model: BidirectionalTransformer = self.ema.module  # type: ignore[assignment]
        inputs, masked = corrupt(
            self._seen(chunk.images, truth, chunk.hole),
            self.mask_token,
            ratio=(ratio, ratio),
            generators=chunk.generators(),
            region=token_mask(chunk.hole, self.patch_size),
        )
        known = known_patches(chunk.images, chunk.hole, self.patch_size)
        with self.accelerator.autocast():
            logits = model(inputs, None, known)
        hits = logits.argmax(-1) == truth
        if ratio < 1:
            means.add(f"accuracy_by_ratio/{ratio:.2f}", hits[masked])
        else:
            codes = logits[masked][:, : self.mask_token].float()
            means.add("loss", F.cross_entropy(codes, truth[masked], reduction="none"))
            means.add("masked_accuracy", hits[masked])
            means.add("unmasked_accuracy", hits[~masked])

    def _fill(self, chunk: Chunk, truth: Tensor) -> list[Tensor]:
        """Return images, their holes, fills, and what the true tokens would have given."""
        model: BidirectionalTransformer = self.ema.module  # type: ignore[assignment]
        _, images, hole = chunk
        with self.accelerator.autocast():
            pipeline = InpaintPipeline(self.tokenizer, model)
            filled = pipeline.fill_tokens(chunk.holed, hole, chunk.generators())
        painted = [
            torch.where(hole[:, None], self.tokenizer.decode(tokens, chunk.holed, hole), images)
            for tokens in (filled, truth)
        ]
        return [images, chunk.holed, *painted]

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
