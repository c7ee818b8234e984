"""Stage 2: the transformer, trained to predict the tokens under holes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from maskweave.errors import MaskweaveError
from maskweave.fill import fill_tokens
from maskweave.guide import interpolated
from maskweave.holes import known_patches
from maskweave.maskgit import MOST_CONTEXT, DecodeSettings, corrupt, masked_loss
from maskweave.pipeline import InpaintPipeline
from maskweave.schedules import named
from maskweave.settings import Natural, Share, Weight, settings
from maskweave.tokenizer.base import Tokenizer
from maskweave.training.examples import Example, ExamplesConfig
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


@settings
class MaskingConfig:
    """Which tokens are masked in training and what their prediction is worth."""

    schedule: str = "cosine"
    """Mask-ratio function gamma: each image's ratio is gamma(u), u uniform in [0, 1)."""
    ratio: tuple[Share, ...] = ()
    """Two bounds of a uniform ratio, instead of the schedule."""
    independent: bool = False
    """Mask each token on its own with the ratio's probability, instead of an exact count."""
    holed_tokens: bool = False
    """Show known tokens as encoded from the holed image, as in use; costs an encoding in each
    step, but of an encoder that sees patch by patch, to which it makes no difference."""
    unmasked_weight: Weight = 0.0
    """Loss weight of tokens that are not masked: 0 is MaskGIT, 1 the reference experiment."""
    label_smoothing: Share = 0.1
    """Label smoothing of the cross-entropy, as in MaskGIT."""
    views: Natural = 8
    """Versions of each image that are tokenised once, as it is, and mirrored and shifted ones; 0
    tokenises each example when it is drawn."""

    def __post_init__(self) -> None:
        """Refuse an unknown schedule and bounds that fall."""
        named(self.schedule)
        if self.ratio and not (len(self.ratio) == 2 and self.ratio[0] <= self.ratio[1]):
            raise MaskweaveError(f"ratio needs two rising bounds in [0, 1], got {self.ratio}")


@settings
class TransformerRecipe:
    """Everything that decides a run of stage 2, except the images and the tokenizer."""

    model: TransformerConfig = TransformerConfig()
    """Sizes of the transformer; the numbers of codes and tokens are the tokenizer's, the classes
    those of the images' labels."""
    examples: ExamplesConfig = ExamplesConfig(whole=0.2)
    """Pictures, and holes under which tokens are masked; where everything is hole, the masked
    tokens lie scattered."""
    masking: MaskingConfig = MaskingConfig()
    """Which tokens are masked, and the loss."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """Settings of the optimiser of the transformer."""
    run: RunConfig = RunConfig()
    """Length, batch size, seed and intervals."""
    label_dropout: Share = 0.1
    """Share of examples that are shown without their label, so that the transformer learns to do
    without it too, as guidance needs (Ho and Salimans 2022, section 3.2)."""

    def __post_init__(self) -> None:
        """Refuse crops at random whose tokens would have to be known before."""
        if self.examples.crop and self.masking.views:
            raise MaskweaveError("random crops are tokenised when drawn: masking.views=0")


class TransformerTask:
    """Trains a bidirectional transformer on the tokens of a frozen tokenizer.

    ``start`` is a transformer to go on with; else the weights are random at first. ``labels`` are
    those of the validation images, where the transformer has classes.
    """

    def __init__(
        self,
        recipe: TransformerRecipe,
        tokenizer: Tokenizer,
        validation: UInt8[Tensor, "batch 3 size size"],
        accelerator: Accelerator,
        course: Course,
        start: BidirectionalTransformer | None = None,
        labels: Sequence[int] = (),
    ) -> None:
        self.model, self.masking, self.accelerator = recipe.model, recipe.masking, accelerator
        self.crops = recipe.examples.crop > 0
        self.tokenizer = tokenizer.to(accelerator.device).eval().requires_grad_(False)
        transformer = (start or BidirectionalTransformer(self.model)).train()
        self.ema = averaged(transformer, recipe.optimiser.ema, accelerator)
        if recipe.run.compile:
            transformer.compile()
        self.learner = Learner(transformer, recipe.optimiser, course, accelerator)
        self.mask_token, self.patch_size = self.model.mask_token, tokenizer.patch_size
        self.validation = Validation(validation, recipe.examples.validated, accelerator)
        self.label_dropout = recipe.label_dropout
        self.validation_labels = torch.tensor(labels, dtype=torch.long, device=accelerator.device)

    def step(self, batch: Sequence[Any], step: int) -> Scalars:
        """Update the transformer on one batch."""
        example = Example(*batch)
        images, hole = example.unit_range(), torch.as_tensor(example.hole)
        tokens = torch.as_tensor(example.tokens)
        if tokens.numel() == 0:
            with torch.no_grad():
                tokens = self.tokenizer.encode(images)
        holed = self.masking.holed_tokens and not self.tokenizer.patch_local
        seen = self._seen(images, tokens, hole) if holed else tokens
        low_high, generators = self.masking.ratio, example.generators()
        inputs, masked = corrupt(
            seen,
            self.mask_token,
            ratio=(low_high[0], low_high[1]) if low_high else named(self.masking.schedule),
            generators=generators,
            region=self.tokenizer.token_mask(hole),
            independent=self.masking.independent,
        )
        guide = example.guide(images) if self.model.guided else None
        known = known_patches(images, hole, self.patch_size, guide)
        rate = self.learner.begin(step)
        labels = self._labels(example, generators)
        scalars = self._backward(inputs, masked, tokens, known, labels)
        scalars |= {"gradient_norm": self.learner.update(), "learning_rate": rate}
        self.ema.update_parameters(self.learner.module)
        return scalars

    def _seen(
        self, images: Tensor, tokens: Tensor, hole: Bool[Tensor, "batch height width"]
    ) -> Int[Tensor, "batch length"]:
        """Return tokens as decoding meets them: known ones of the holed image, true ones in it."""
        with torch.no_grad():
            seen = self.tokenizer.encode_known(images, hole)
        return torch.where(self.tokenizer.token_mask(hole), tokens, seen)

    def _labels(
        self, example: Example, generators: Sequence[torch.Generator]
    ) -> Int[Tensor, "batch"] | None:
        """Return labels, some replaced by the null class; None where there are no classes."""
        if not self.model.classes:
            return None
        labels = torch.as_tensor(example.label)
        draws = torch.stack([torch.rand((), generator=generator) for generator in generators])
        dropped = (draws < self.label_dropout).to(labels.device)
        return labels.masked_fill(dropped, self.model.classes)

    def _told(self, chunk: Chunk) -> Int[Tensor, "batch"] | None:
        """Return the labels of validation images."""
        if not self.model.classes:
            return None
        return self.validation_labels[chunk.numbers.start : chunk.numbers.stop]

    def _backward(
        self, inputs: Tensor, masked: Tensor, truth: Tensor, known: Tensor, labels: Tensor | None
    ) -> Scalars:
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
            told = None if labels is None else labels[i]
            logits = self.learner.model(inputs[i], counted[i], known[i], told)  # (M, K)
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
            region=self.tokenizer.token_mask(chunk.hole),
        )
        guide = interpolated(chunk.images, chunk.hole) if self.model.guided else None
        known = known_patches(chunk.images, chunk.hole, self.patch_size, guide)
        with self.accelerator.autocast():
            logits = model(inputs, None, known, self._told(chunk))
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
            parts = (self.tokenizer, model, chunk.holed, hole, chunk.generators())
            filled = fill_tokens(*parts, DecodeSettings(), condition=self._told(chunk))
        painted = [
            torch.where(hole[:, None], self.tokenizer.decode(tokens, chunk.holed, hole), images)
            for tokens in (filled, truth)
        ]
        return [images, chunk.holed, *painted]

    def export(self, directory: Path) -> None:
        """Write a whole model: the averaged transformer and the tokenizer it was trained on."""
        model: BidirectionalTransformer = self.ema.module  # type: ignore[assignment]
        # What learnt from crops of photos has seen textures, what learnt from whole images objects.
        framing = "texture" if self.crops and self.tokenizer.guided else "whole object"
        defaults = DecodeSettings() if self.crops else DecodeSettings(context=MOST_CONTEXT)
        pipeline = InpaintPipeline(self.tokenizer, model, defaults, framing)
        pipeline.save_pretrained(directory)

    def flops(self) -> int:
        """Return the operations of one image's forward and backward passes, half of it masked."""
        device, size = self.accelerator.device, self.tokenizer.image_size[0]
        transformer = BidirectionalTransformer(self.model).to(device)
        length = self.model.length
        tokens = torch.zeros(1, length, dtype=torch.long, device=device)
        half = torch.arange(length, device=device)[None] % 2 == 0
        counted = half if self.masking.unmasked_weight == 0 else torch.ones_like(half)
        hole = torch.zeros(1, size, size, dtype=torch.bool, device=device)
        images = torch.zeros(1, 3, size, size, device=device)
        guide = interpolated(images, hole) if self.model.guided else None
        known = known_patches(images, hole, self.patch_size, guide)
        return training_flops(lambda: transformer(tokens, counted, known).sum())
