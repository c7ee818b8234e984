"""Stage 1: the tokenizer, trained to paint holes from their true tokens."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Bool, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from maskweave.checkpoint import save_component
from maskweave.data.augment import check_shift, flip_and_shift, to_unit_range
from maskweave.data.cache import Images
from maskweave.data.sampler import Draw
from maskweave.errors import MaskweaveError
from maskweave.holes import KINDS, check_kinds, draw_holes
from maskweave.progress import warn
from maskweave.tokenizer.discriminator import PatchDiscriminator
from maskweave.tokenizer.losses import (
    adaptive_weight,
    hinge_discriminator_loss,
    perceptual_loss,
    pixel_loss,
    pixel_weight,
)
from maskweave.tokenizer.vqgan import VQGAN, Reconstruction, TokenizerConfig
from maskweave.training.loop import RunConfig, Scalars
from maskweave.training.optimiser import OptimiserConfig, adamw, averaged, set_learning_rate
from maskweave.training.sheet import COLUMNS, sheet
from maskweave.training.speed import training_flops

COLLAPSED = 0.2
"""Share of the codes below which the perplexity of validation tokens calls for a warning."""


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


class HoledExamples(Dataset[tuple[np.ndarray, np.ndarray]]):
    """Images, mirrored and shifted at random, each with a hole."""

    def __init__(self, images: Images, indices: Sequence[int], loss: TokenizerLoss) -> None:
        self.images, self.indices, self.loss = images, indices, loss

    def __getitem__(
        self, draw: Draw
    ) -> tuple[UInt8[np.ndarray, "3 size size"], Bool[np.ndarray, "size size"]]:
        """Return an image and its hole."""
        rng = draw.rng()
        image = flip_and_shift(self.images[self.indices[draw.image]], self.loss.shift, rng)
        size = image.shape[1]
        (hole,) = draw_holes(self.loss.holes, 1, size, size, rng, self.loss.whole).numpy()
        return image, hole


class TokenizerTask:
    """Trains a VQGAN and its discriminator, each with its own optimiser.

    ``steps`` and ``epoch`` are those of the run and of a pass over the images.
    """

    def __init__(
        self,
        recipe: TokenizerRecipe,
        validation: UInt8[Tensor, "batch 3 size size"],
        accelerator: Accelerator,
        steps: int,
        epoch: int,
    ) -> None:
        self.model, self.loss, self.config = recipe.model, recipe.loss, recipe.optimiser
        self.run, self.steps, self.epoch = recipe.run, steps, epoch
        self.accelerator = accelerator
        device = accelerator.device
        vqgan, discriminator = VQGAN(recipe.model), PatchDiscriminator()
        vqgan, discriminator = (
            m.to(memory_format=torch.channels_last) for m in (vqgan, discriminator)
        )
        optimisers = adamw(vqgan, self.config), adamw(discriminator, self.config)
        self.ema = averaged(vqgan, self.config.ema).to(device)
        self.vqgan, self.discriminator, self.optimiser, self.discriminator_optimiser = (
            accelerator.prepare(vqgan, discriminator, *optimisers)
        )
        accelerator.register_for_checkpointing(self.ema)
        self.perceptual = perceptual_loss().to(device) if self.loss.perceptual > 0 else None
        self.validation = validation

    def step(self, batch: Sequence[Tensor], step: int) -> Scalars:
        """Update the tokenizer, then the discriminator, on one batch."""
        images, hole = to_unit_range(batch[0]), batch[1]
        images = images.contiguous(memory_format=torch.channels_last)
        vqgan: VQGAN = self.accelerator.unwrap_model(self.vqgan)
        seed = torch.Generator().manual_seed(step)  # the same in every process
        if step == 0:
            with torch.no_grad():
                latents = self.accelerator.gather(vqgan.encoder(images))
            vqgan.codebook.revive_all(latents, seed)  # type: ignore[arg-type]
        adversarial = self.loss.adversarial > 0 and step >= self.loss.adversarial_start * self.steps

        rate = set_learning_rate(self.optimiser, self.config, step, self.steps, self.epoch)
        scalars, outputs, painted = self._paint(images, hole, adversarial)
        scalars |= {"gradient_norm": self._update(self.optimiser, self.vqgan)}
        if adversarial:
            set_learning_rate(
                self.discriminator_optimiser, self.config, step, self.steps, self.epoch
            )
            scalars |= self._judge(images, painted)

        latents, tokens = (
            self.accelerator.gather(torch.cat(parts))
            for parts in ([o.latents.detach() for o in outputs], [o.tokens for o in outputs])
        )
        revived = vqgan.codebook.revive(latents, tokens, seed)  # type: ignore[arg-type]
        self.ema.update_parameters(vqgan)
        used, perplexity = _usage(tokens, self.model.codebook_size)  # type: ignore[arg-type]
        return scalars | {
            "learning_rate": rate,
            "codebook/used": used,
            "codebook/perplexity": perplexity,
            "codebook/revived": revived,
        }

    def _paint(
        self, images: Tensor, hole: Tensor, adversarial: bool
    ) -> tuple[Scalars, list[Reconstruction], Tensor]:
        """Add up the tokenizer's gradients over the parts of a batch."""
        outputs: list[Reconstruction] = []
        pictures: list[Tensor] = []
        sums: dict[str, Tensor] = {}
        weights = pixel_weight(hole, self.loss.known).sum((1, 2))  # (B)
        mean: Tensor = self.accelerator.reduce(weights.mean(), "mean")  # type: ignore[assignment]
        self.optimiser.zero_grad()
        for i, last in self._parts(len(images)):
            with self._accumulating(self.vqgan, last):
                output: Reconstruction = self.vqgan(images[i], hole[i])
                painted = torch.where(hole[i][:, None], output.images, images[i])
                # Weighted as in the whole batch, wherever it lies.
                pixel = pixel_loss(output.images, images[i], hole[i], self.loss.known)
                pixel = pixel * (weights[i].mean() / mean)
                total, parts = self._loss(pixel, output, painted, images[i], adversarial)
                self.accelerator.backward(total / self.run.accumulate)
            outputs.append(output)
            pictures.append(painted.detach())
            for name, value in parts.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach()
        scalars: Scalars = {name: value / self.run.accumulate for name, value in sums.items()}
        return scalars, outputs, torch.cat(pictures)

    def _loss(
        self,
        pixel: Tensor,
        output: Reconstruction,
        painted: Tensor,
        images: Tensor,
        adversarial: bool,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the tokenizer's total loss and its parts."""
        parts = {"loss/pixel": pixel, "loss/codebook": output.codebook_loss}
        reconstruction = pixel
        # LPIPS refuses what is not finite in words of its own; the loop names the step.
        if self.perceptual is not None and pixel.isfinite():
            with self.accelerator.autocast():
                parts["loss/perceptual"] = self.perceptual(painted.clamp(-1, 1), images)
            reconstruction = pixel + self.loss.perceptual * parts["loss/perceptual"]
        total = reconstruction + self.loss.codebook * output.codebook_loss
        if adversarial:
            last = self.accelerator.unwrap_model(self.vqgan).decoder.output.weight
            fooled = -self.discriminator(painted).mean()
            gradients = (
                torch.autograd.grad(loss, last, retain_graph=True)[0]
                for loss in (reconstruction, fooled)
            )
            weight = self.loss.adversarial * adaptive_weight(
                *(self.accelerator.reduce(gradient, "mean") for gradient in gradients)  # type: ignore[arg-type]
            )
            total = total + weight * fooled
            parts |= {"loss/adversarial": fooled, "adversarial_weight": weight}
        return total, parts

    def _judge(self, images: Tensor, painted: Tensor) -> Scalars:
        """Update the discriminator."""
        self.discriminator_optimiser.zero_grad()
        total = torch.zeros((), device=images.device)
        for i, last in self._parts(len(images)):
            with self._accumulating(self.discriminator, last):
                real, fake = self.discriminator(images[i]), self.discriminator(painted[i])
                loss = hinge_discriminator_loss(real, fake) / self.run.accumulate
                self.accelerator.backward(loss)
            total += loss.detach()
        norm = self._update(self.discriminator_optimiser, self.discriminator)
        return {"loss/discriminator": total, "discriminator_gradient_norm": norm}

    def _parts(self, batch: int) -> list[tuple[Tensor, bool]]:
        """Return the rows of each part of a batch, and whether it is the last part."""
        rows = torch.arange(batch).chunk(self.run.accumulate)
        return [(i, i is rows[-1]) for i in rows]

    def _accumulating(self, model: torch.nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Return a context in which processes exchange gradients only after the last part."""
        return nullcontext() if last else self.accelerator.no_sync(model)

    def _update(self, optimiser: torch.optim.Optimizer, model: torch.nn.Module) -> Tensor:
        limit = self.config.clip or math.inf
        norm = self.accelerator.clip_grad_norm_(model.parameters(), limit)
        optimiser.step()
        return norm  # type: ignore[return-value]

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Paint fixed holes of fixed images with the averaged weights, from their true tokens.

        The loss is the pixel loss in the holes plus LPIPS with its weight.
        """
        size, rng = self.model.image_size, np.random.default_rng(0)
        holes = draw_holes(KINDS, len(self.validation), size, size, rng)
        vqgan: VQGAN = self.ema.module  # type: ignore[assignment]
        tokens: list[Tensor] = []
        rows: list[Tensor] = []
        sums: dict[str, float] = {}
        for start in range(0, len(holes), 32):
            images = to_unit_range(self.validation[start : start + 32].to(self.accelerator.device))
            hole = holes[start : start + 32].to(images.device)
            tokens.append(vqgan.encode(images))
            painted = torch.where(hole[:, None], vqgan.decode(tokens[-1], images, hole), images)
            for name, value in self._errors(painted, images, hole).items():
                sums[name] = sums.get(name, 0.0) + value
            if start == 0:
                holed = images.masked_fill(hole[:, None], 0.0)
                rows = [images, holed, painted, vqgan.decode(tokens[0])]
        pixels = 3 * float(holes.sum())
        used, perplexity = _usage(torch.cat(tokens), self.model.codebook_size)
        if perplexity < COLLAPSED * self.model.codebook_size:
            warn(
                f"the codebook collapses: perplexity {perplexity:.0f} of {self.model.codebook_size}"
            )
        figures = {
            "loss": sums["absolute"] / pixels,
            "psnr_in_hole": -10 * math.log10(max(sums["squared"] / 4 / pixels, 1e-10)),
            "codes_used": used,
            "codebook_perplexity": perplexity,
        }
        if self.perceptual is not None:
            figures["lpips"] = sums["lpips"] / len(holes)
            figures["loss"] += self.loss.perceptual * figures["lpips"]
        return {f"validation/{name}": float(value) for name, value in figures.items()}, {
            "tokenizer": sheet([row[:COLUMNS] for row in rows])
        }

    def _errors(self, painted: Tensor, images: Tensor, hole: Tensor) -> dict[str, float]:
        """Return sums over the pixels of holes, and of LPIPS over images."""
        error = (painted - images).permute(0, 2, 3, 1)[hole]
        sums = {"absolute": float(error.abs().sum()), "squared": float(error.square().sum())}
        if self.perceptual is not None:
            sums["lpips"] = float(self.perceptual(painted, images)) * len(images)
        return sums

    def export(self, directory: Path) -> None:
        """Write the averaged tokenizer to ``directory/tokenizer``."""
        save_component(self.ema.module, directory / "tokenizer")

    def flops(self) -> int:
        """Return the operations of one image's passes through the tokenizer and LPIPS."""
        size, device = self.model.image_size, self.accelerator.device
        vqgan = VQGAN(self.model).to(device)
        images = torch.zeros(1, 3, size, size, device=device)
        hole = torch.ones(1, size, size, dtype=torch.bool, device=device)

        def loss() -> Tensor:
            painted = vqgan(images, hole).images.clamp(-1, 1)
            return painted.sum() if self.perceptual is None else self.perceptual(painted, images)

        return training_flops(loss)


def _usage(tokens: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the share of codes in use and their perplexity, the exponential of the entropy."""
    counts = torch.bincount(tokens.flatten(), minlength=size).float()
    shares = counts / counts.sum()
    entropy = torch.special.entr(shares).sum()
    return (counts > 0).float().mean(), entropy.exp()
