"""Stage 2: the transformer, trained to predict the tokens under holes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float
from torch import Tensor

from maskweave.data.augment import check_shift, flip_and_shift, to_unit_range
from maskweave.errors import MaskweaveError
from maskweave.holes import KINDS, check_kinds, draw_holes, known_patches, token_mask
from maskweave.maskgit import Corrupted, corrupt, decode, masked_loss
from maskweave.pipeline import InpaintPipeline
from maskweave.schedules import named
from maskweave.tokenizer.vqgan import VQGAN
from maskweave.training.loop import RunConfig
from maskweave.training.optimiser import OptimiserConfig, adamw, averaged, set_learning_rate
from maskweave.training.sheet import sheet
from maskweave.transformer import BidirectionalTransformer, TransformerConfig


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
    unmasked_weight: float = 0.0
    """Loss weight of tokens that are not masked: 0 is MaskGIT, 1 the reference experiment."""
    label_smoothing: float = 0.1
    """Label smoothing of the cross-entropy, as in MaskGIT."""
    shift: int = 4
    """Largest random shift of an image, in pixels, less than its size."""

    def __post_init__(self) -> None:
        """Refuse unknown names and numbers out of range."""
        named(self.schedule)
        check_kinds(self.holes)
        shares = (self.whole, self.label_smoothing)
        if not all(0 <= share <= 1 for share in shares) or self.unmasked_weight < 0:
            raise MaskweaveError(f"masking settings out of range: {self}")
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


class TransformerTask:
    """Trains a bidirectional transformer on the tokens of a frozen tokenizer."""

    def __init__(
        self,
        recipe: TransformerRecipe,
        tokenizer: VQGAN,
        validation: Tensor,
        accelerator: Accelerator,
    ) -> None:
        model = recipe.model
        self.masking, self.config, self.steps = recipe.masking, recipe.optimiser, recipe.run.steps
        self.accelerator = accelerator
        check_shift(self.masking.shift, tokenizer.config.image_size)
        device = accelerator.device
        self.tokenizer = tokenizer.to(device).eval().requires_grad_(False)
        transformer = BidirectionalTransformer(model)
        self.mask_token, self.patch = model.mask_token, tokenizer.config.patch
        self.ema = averaged(transformer, self.config.ema).to(device)
        self.transformer, self.optimiser = accelerator.prepare(
            transformer, adamw(transformer, self.config)
        )
        accelerator.register_for_checkpointing(self.ema)
        self.validation = to_unit_range(validation).to(device)
        self.validation_holes = self._holes(len(validation), np.random.default_rng(0), whole=0.0)

    def step(self, images: Tensor, step: int) -> dict[str, float]:
        """Update the transformer on one batch."""
        generator = torch.Generator().manual_seed(torch.initial_seed())
        rng = np.random.default_rng(torch.initial_seed())
        images = flip_and_shift(to_unit_range(images), self.masking.shift, generator)
        with torch.no_grad():
            tokens = self.tokenizer.encode(images)
        hole = self._holes(len(tokens), rng, self.masking.whole)
        corrupted = self._corrupt(tokens, hole, generator)
        weight = self.masking.unmasked_weight
        counted = corrupted.masked if weight == 0 else torch.ones_like(corrupted.masked)
        known = known_patches(images, hole, self.patch)
        logits = self.transformer(corrupted.tokens, counted, known)  # (M, K)
        truth, masked = tokens[counted], corrupted.masked[counted]  # (M)
        loss = masked_loss(
            logits,
            truth,
            masked,
            unmasked_weight=weight,
            label_smoothing=self.masking.label_smoothing,
        )
        rate = set_learning_rate(self.optimiser, self.config, step, self.steps)
        self.optimiser.zero_grad()
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.transformer.parameters(), self.config.clip)
        self.optimiser.step()
        self.ema.update_parameters(self.accelerator.unwrap_model(self.transformer))
        right = ((logits.argmax(-1) == truth) & masked).sum() / masked.sum().clamp(min=1)
        return {
            "loss": loss.item(),
            "masked_accuracy": right.item(),
            "gradient_norm": float(norm or 0.0),
            "learning_rate": rate,
        }

    def _corrupt(
        self,
        tokens: Tensor,
        hole: Bool[Tensor, "batch height width"],
        generator: torch.Generator,
    ) -> Corrupted:
        """Mask part of the tokens under each hole."""
        low_high = self.masking.ratio
        return corrupt(
            tokens,
            self.mask_token,
            ratio=(low_high[0], low_high[1]) if low_high else named(self.masking.schedule),
            generator=generator,
            region=token_mask(hole, self.patch),
            independent=self.masking.independent,
        )

    def _holes(
        self, batch: int, rng: np.random.Generator, whole: float
    ) -> Bool[Tensor, "batch height width"]:
        size = self.tokenizer.config.image_size
        hole = draw_holes(self.masking.holes, batch, size, size, rng, whole)
        return hole.to(self.accelerator.device)

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Predict and fill fixed holes of fixed images with the averaged weights.

        The loss is the plain cross-entropy of all tokens under the holes at once, without label
        smoothing, so that it compares between runs.
        """
        images, hole = self.validation, self.validation_holes
        model: BidirectionalTransformer = self.ema.module  # type: ignore[assignment]
        training = model.training
        model.eval()
        tokens = self.tokenizer.encode(images)
        masked = token_mask(hole, self.patch)
        known = known_patches(images, hole, self.patch)
        logits = model(tokens.masked_fill(masked, self.mask_token), masked, known)
        truth = tokens[masked]
        figures = {
            "validation/loss": torch.nn.functional.cross_entropy(logits, truth).item(),
            "validation/masked_accuracy": (logits.argmax(-1) == truth).float().mean().item(),
        }
        generators = [torch.Generator().manual_seed(i) for i in range(len(tokens))]
        filled = decode(
            lambda tokens, masked: model(tokens, masked, known),
            tokens,
            masked,
            mask_token=self.mask_token,
            generators=generators,
        )
        model.train(training)
        holed = images.masked_fill(hole[:, None], 0.0)
        rows = [images, holed, self._paint(filled, holed, hole), self._paint(tokens, holed, hole)]
        return figures, {"transformer": sheet(rows)}

    def _paint(
        self, tokens: Tensor, holed: Tensor, hole: Tensor
    ) -> Float[Tensor, "batch 3 height width"]:
        return torch.where(hole[:, None], self.tokenizer.decode(tokens, holed, hole), holed)

    def export(self, directory: Path) -> None:
        """Write a whole model: the averaged transformer and the tokenizer it was trained on."""
        model: BidirectionalTransformer = self.ema.module  # type: ignore[assignment]
        InpaintPipeline(self.tokenizer, model).save_pretrained(directory)
