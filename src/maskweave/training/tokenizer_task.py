"""Stage 1: the tokenizer, trained to paint holes from their true tokens."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from maskweave.checkpoint import save_component
from maskweave.data.augment import check_shift, flip_and_shift, to_unit_range
from maskweave.errors import MaskweaveError
from maskweave.holes import KINDS, check_kinds, draw_holes
from maskweave.tokenizer.discriminator import PatchDiscriminator
from maskweave.tokenizer.losses import (
    adaptive_weight,
    hinge_discriminator_loss,
    perceptual_loss,
    pixel_loss,
)
from maskweave.tokenizer.vqgan import VQGAN, Reconstruction, TokenizerConfig
from maskweave.training.loop import RunConfig
from maskweave.training.optimiser import OptimiserConfig, adamw, averaged, set_learning_rate
from maskweave.training.sheet import sheet


@dataclass(frozen=True)
class TokenizerLoss:
    """Weights of the first stage's losses (VQGAN, section 3.1) and the holes it sees."""

    perceptual: float = 2.0
    """Weight of LPIPS beside the mean absolute error; 0 needs no LPIPS weights."""
    codebook: float = 0.5
    """Weight of the codebook and commitment losses."""
    known: float = 0.1
    """Weight of the pixel error outside the hole, beside 1 in it."""
    adversarial: float = 0.1
    """Weight of the adversarial loss, on top of the adaptive one; 0 trains no discriminator."""
    adversarial_start: float = 0.6
    """Share of the run after which the discriminator joins."""
    holes: tuple[str, ...] = KINDS
    """Kinds of holes that are drawn."""
    whole: float = 0.1
    """Share of images whose hole is everything: plain reconstruction from tokens."""
    shift: int = 4
    """Largest random shift, in pixels, less than the image size."""

    def __post_init__(self) -> None:
        """Refuse unknown holes, negative weights and shares beyond 1."""
        check_kinds(self.holes)
        weights = (self.perceptual, self.codebook, self.known, self.adversarial, self.shift)
        shares = (self.adversarial_start, self.whole)
        if not (all(w >= 0 for w in weights) and all(0 <= share <= 1 for share in shares)):
            raise MaskweaveError(f"loss settings out of range: {self}")


@dataclass(frozen=True)
class TokenizerRecipe:
    """Everything that decides a run of stage 1, except the images."""

    model: TokenizerConfig = TokenizerConfig()
    """Sizes of the tokenizer."""
    loss: TokenizerLoss = TokenizerLoss()
    """Weights of the losses, and the holes."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """Of the tokenizer and, alike, of the discriminator."""
    run: RunConfig = RunConfig()
    """Length, batch size, seed and intervals."""

    def __post_init__(self) -> None:
        """Refuse a shift that leaves nothing of an image."""
        check_shift(self.loss.shift, self.model.image_size)


class TokenizerTask:
    """Trains a VQGAN and its discriminator, each with its own optimiser."""

    def __init__(
        self, recipe: TokenizerRecipe, validation: Tensor, accelerator: Accelerator
    ) -> None:
        self.loss, self.config, self.steps = recipe.loss, recipe.optimiser, recipe.run.steps
        self.accelerator = accelerator
        device = accelerator.device
        vqgan, discriminator = VQGAN(recipe.model), PatchDiscriminator()
        vqgan, discriminator = (
            m.to(memory_format=torch.channels_last) for m in (vqgan, discriminator)
        )
        self.ema = averaged(vqgan, self.config.ema).to(device)
        self.vqgan, self.discriminator, self.optimiser, self.discriminator_optimiser = (
            accelerator.prepare(
                vqgan, discriminator, adamw(vqgan, self.config), adamw(discriminator, self.config)
            )
        )
        accelerator.register_for_checkpointing(self.ema)
        self.perceptual = perceptual_loss().to(device) if self.loss.perceptual > 0 else None
        self.validation = to_unit_range(validation).to(device)
        self.validation_holes = self._holes(len(validation), np.random.default_rng(0))

    def step(self, images: Tensor, step: int) -> dict[str, float]:
        """Update the tokenizer, then the discriminator, on one batch."""
        generator = torch.Generator().manual_seed(torch.initial_seed())
        rng = np.random.default_rng(torch.initial_seed())
        images = flip_and_shift(to_unit_range(images), self.loss.shift, generator)
        images = images.contiguous(memory_format=torch.channels_last)
        hole = self._holes(len(images), rng)
        adversarial = self.loss.adversarial > 0 and step >= self.loss.adversarial_start * self.steps

        output: Reconstruction = self.vqgan(images, hole)
        painted = torch.where(hole[:, None], output.images, images)
        total, metrics = self._loss(output, painted, images, hole, adversarial)
        rate = set_learning_rate(self.optimiser, self.config, step, self.steps)
        self._update(total, self.optimiser, self.vqgan)
        if adversarial:
            set_learning_rate(self.discriminator_optimiser, self.config, step, self.steps)
            real, fake = self.discriminator(images), self.discriminator(painted.detach())
            judged = hinge_discriminator_loss(real, fake)
            self._update(judged, self.discriminator_optimiser, self.discriminator)
            metrics["loss/discriminator"] = judged.detach()

        vqgan = self.accelerator.unwrap_model(self.vqgan)
        latents, tokens = self.accelerator.gather((output.latents.detach(), output.tokens))
        seed = torch.Generator().manual_seed(step)  # the same in every process
        metrics["revived"] = torch.tensor(vqgan.codebook.revive(latents, tokens, seed))
        self.ema.update_parameters(vqgan)
        return {name: float(value) for name, value in metrics.items()} | {"learning_rate": rate}

    def _loss(
        self,
        output: Reconstruction,
        painted: Tensor,
        images: Tensor,
        hole: Tensor,
        adversarial: bool,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the tokenizer's total loss and its parts."""
        pixel = pixel_loss(output.images, images, hole, self.loss.known)
        metrics = {"loss/pixel": pixel, "loss/codebook": output.codebook_loss}
        reconstruction = pixel
        # LPIPS refuses what is not finite in words of its own; the loop names the step.
        if self.perceptual is not None and pixel.isfinite():
            with self.accelerator.autocast():
                metrics["loss/perceptual"] = self.perceptual(painted.clamp(-1, 1), images)
            reconstruction = pixel + self.loss.perceptual * metrics["loss/perceptual"]
        total = reconstruction + self.loss.codebook * output.codebook_loss
        if adversarial:
            last = self.accelerator.unwrap_model(self.vqgan).decoder.output.weight
            fooled = -self.discriminator(painted).mean()
            weight = self.loss.adversarial * adaptive_weight(reconstruction, fooled, last)
            total = total + weight * fooled
            metrics |= {"loss/adversarial": fooled, "adversarial_weight": weight}
        return total, {name: value.detach() for name, value in metrics.items()}

    def _update(
        self, loss: Tensor, optimiser: torch.optim.Optimizer, model: torch.nn.Module
    ) -> None:
        optimiser.zero_grad()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(model.parameters(), self.config.clip)
        optimiser.step()

    def _holes(self, batch: int, rng: np.random.Generator) -> Tensor:
        size = self.accelerator.unwrap_model(self.vqgan).config.image_size
        hole = draw_holes(self.loss.holes, batch, size, size, rng, self.loss.whole)
        return hole.to(self.accelerator.device)

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Paint fixed images with the averaged weights: PSNR in the hole, LPIPS, codebook use."""
        images, hole = self.validation, self.validation_holes
        vqgan: VQGAN = self.ema.module  # type: ignore[assignment]
        tokens = vqgan.encode(images)
        painted = torch.where(hole[:, None], vqgan.decode(tokens, images, hole), images)
        error = ((painted - images) / 2).square().mean(1)[hole].mean()
        used = len(tokens.unique()) / vqgan.config.codebook_size
        figures = {
            "validation/psnr_in_hole": float(-10 * error.log10()),
            "validation/codes_used": used,
        }
        if self.perceptual is not None:
            figures["validation/loss/perceptual"] = float(self.perceptual(painted, images))
        holed = images.masked_fill(hole[:, None], 0.0)
        return figures, {"tokenizer": sheet([images, holed, painted, vqgan.decode(tokens)])}

    def export(self, directory: Path) -> None:
        """Write the averaged tokenizer to ``directory/tokenizer``."""
        save_component(self.ema.module, directory / "tokenizer")
