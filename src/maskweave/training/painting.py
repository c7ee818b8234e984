"""How far painted holes are from the truth, and a discriminator that learns beside the painter."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.utils.data import Dataset

from maskweave.data.augment import flip_and_shift
from maskweave.data.cache import Images
from maskweave.data.sampler import Draw
from maskweave.errors import MaskweaveError
from maskweave.holes import KINDS, check_kinds, draw_holes
from maskweave.tokenizer.discriminator import PatchDiscriminator
from maskweave.tokenizer.losses import (
    adaptive_weight,
    hinge_discriminator_loss,
    mean_where,
    perceptual_loss,
    pixel_loss,
)
from maskweave.training.loop import Scalars
from maskweave.training.optimiser import OptimiserConfig, adamw, set_learning_rate
from maskweave.training.speed import training_flops


@dataclass(frozen=True)
class PaintingLoss:
    """Weights of the losses of painted holes (VQGAN, section 3.1), and which holes these are."""

    perceptual: float = 2.0
    """Weight of LPIPS beside the mean absolute error; 0 needs no LPIPS weights."""
    codebook: float = 0.5
    """Weight of the codebook and commitment losses, where the codebook learns."""
    known: float = 0.1
    """Weight of the mean pixel error outside the hole, beside 1 in it."""
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
        if not (
            all(0 <= w < math.inf for w in weights) and all(0 <= share <= 1 for share in shares)
        ):
            raise MaskweaveError(f"loss settings out of range: {self}")


class HoledExample(NamedTuple):
    """An image as a painter sees it, or a batch of them."""

    image: UInt8[np.ndarray, "3 size size"] | UInt8[Tensor, "batch 3 size size"]
    hole: Bool[np.ndarray, "size size"] | Bool[Tensor, "batch size size"]
    seed: int | Int[Tensor, "batch"]
    """Of what is sampled for the hole."""


class HoledExamples(Dataset[HoledExample]):
    """Images, mirrored and shifted at random, each with a hole."""

    def __init__(self, images: Images, indices: Sequence[int], loss: PaintingLoss) -> None:
        self.images, self.indices, self.loss = images, indices, loss

    def __getitem__(self, draw: Draw) -> HoledExample:
        """Return one example."""
        rng = draw.rng()
        image = flip_and_shift(self.images[self.indices[draw.image]], self.loss.shift, rng)
        size = image.shape[1]
        (hole,) = draw_holes(self.loss.holes, 1, size, size, rng, self.loss.whole).numpy()
        return HoledExample(image, hole, int(rng.integers(2**62)))


Paint = Callable[[Tensor], tuple[Float[Tensor, "batch 3 height width"], Tensor | float]]
"""Maps rows of a batch to painted images and a loss of the painter's own."""


class Painting:
    """Updates a painter on a batch, and a discriminator on what it painted.

    Parameters
    ----------
    loss : PaintingLoss
        Weights of the losses.
    config : OptimiserConfig
        Of the painter and, alike, of the discriminator.
    painter : nn.Module
        What paints, prepared by ``accelerator``.
    last : Tensor
        The weight of its last layer.
    optimiser : AcceleratedOptimizer
        Of the painter.
    parts : int
        In which a batch is taken.
    steps, epoch : int
        Of the run and of a pass over the images.
    accelerator : Accelerator
        From ``accelerator_for``.

    Raises
    ------
    MaskweaveError
        If there is an adversarial loss to weigh by the last layer's gradients and it is frozen.
    """

    def __init__(
        self,
        loss: PaintingLoss,
        config: OptimiserConfig,
        painter: nn.Module,
        last: Tensor,
        optimiser: AcceleratedOptimizer,
        parts: int,
        steps: int,
        epoch: int,
        accelerator: Accelerator,
    ) -> None:
        if loss.adversarial > 0 and not last.requires_grad:
            raise MaskweaveError("the last layer is frozen: train with loss.adversarial=0")
        self.weights, self.config, self.parts = loss, config, parts
        self.painter, self.last, self.optimiser = painter, last, optimiser
        self.steps, self.epoch, self.accelerator = steps, epoch, accelerator
        discriminator = PatchDiscriminator().to(memory_format=torch.channels_last)
        self.discriminator, self.discriminator_optimiser = accelerator.prepare(
            discriminator, adamw(discriminator, replace(config, frozen=()))
        )
        network = perceptual_loss().to(accelerator.device) if loss.perceptual > 0 else None
        self.perceptual = network

    def step(
        self,
        images: Float[Tensor, "batch 3 height width"],
        hole: Bool[Tensor, "batch height width"],
        paint: Paint,
        step: int,
    ) -> Scalars:
        """Update the painter, then the discriminator; return what to log."""
        adversarial = (
            self.weights.adversarial > 0 and step >= self.weights.adversarial_start * self.steps
        )
        rate = set_learning_rate(self.optimiser, self.config, step, self.steps, self.epoch)
        scalars, painted = self._paint(images, hole, paint, adversarial)
        scalars["gradient_norm"] = self._update(self.optimiser, self.painter)
        scalars["learning_rate"] = rate
        if adversarial:
            set_learning_rate(
                self.discriminator_optimiser, self.config, step, self.steps, self.epoch
            )
            scalars |= self._judge(images, painted)
        return scalars

    def _paint(
        self, images: Tensor, hole: Tensor, paint: Paint, adversarial: bool
    ) -> tuple[Scalars, Tensor]:
        """Add up the painter's gradients over the parts of a batch; return what it painted."""
        pictures: list[Tensor] = []
        sums: dict[str, Tensor] = {}
        self.optimiser.zero_grad()
        for i, last in self._parts(len(images)):
            with self._accumulating(self.painter, last):
                whole, own = paint(i)
                painted = torch.where(hole[i][:, None], whole, images[i])
                pixel = pixel_loss(whole, images[i], hole[i], self.weights.known)
                total, parts = self._loss(pixel, painted, images[i], adversarial)
                parts["loss"] = total + own
                self.accelerator.backward(parts["loss"] / self.parts)
            pictures.append(painted.detach())
            for name, value in parts.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach()
        return {name: value / self.parts for name, value in sums.items()}, torch.cat(pictures)

    def _loss(
        self, pixel: Tensor, painted: Tensor, images: Tensor, adversarial: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total loss of a part of a batch, and the losses that it consists of."""
        parts = {"loss/pixel": pixel}
        total = pixel
        # LPIPS refuses what is not finite in words of its own; the loop names the step.
        if self.perceptual is not None and pixel.isfinite():
            with self.accelerator.autocast():
                parts["loss/perceptual"] = self.perceptual(painted.clamp(-1, 1), images)
            total = pixel + self.weights.perceptual * parts["loss/perceptual"]
        if adversarial:
            fooled = -self.discriminator(painted).mean()
            gradients = (
                torch.autograd.grad(loss, self.last, retain_graph=True)[0]
                for loss in (total, fooled)
            )
            weight = self.weights.adversarial * adaptive_weight(
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
                loss = hinge_discriminator_loss(real, fake) / self.parts
                self.accelerator.backward(loss)
            total += loss.detach()
        norm = self._update(self.discriminator_optimiser, self.discriminator)
        return {"loss/discriminator": total, "discriminator_gradient_norm": norm}

    def _parts(self, batch: int) -> list[tuple[Tensor, bool]]:
        """Return the rows of each part of a batch, and whether it is the last part."""
        rows = torch.arange(batch).chunk(self.parts)
        return [(i, i is rows[-1]) for i in rows]

    def _accumulating(self, model: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Return a context in which processes exchange gradients only after the last part."""
        return nullcontext() if last else self.accelerator.no_sync(model)

    def _update(self, optimiser: torch.optim.Optimizer, model: nn.Module) -> Tensor:
        limit = self.config.clip or math.inf
        norm = self.accelerator.clip_grad_norm_(model.parameters(), limit)
        optimiser.step()
        return norm  # type: ignore[return-value]

    def figures(self, batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> dict[str, float]:
        """Return validation figures of painted images, their truth and their holes.

        All are means over the images. The loss is the pixel loss in the holes plus LPIPS with its
        weight.
        """
        images = pixel = psnr = distance = 0.0
        for painted, truth, hole in batches:
            images += len(truth)
            pixel += float(pixel_loss(painted, truth, hole, 0.0)) * len(truth)
            squared = mean_where(hole, (painted - truth).square().mean(1)) / 4  # of [-1, 1]
            psnr += float(-10 * squared.clamp(min=1e-10).log10().sum())
            if self.perceptual is not None:
                distance += float(self.perceptual(painted, truth)) * len(truth)
        figures = {
            "validation/loss": (pixel + self.weights.perceptual * distance) / images,
            "validation/psnr_in_hole": psnr / images,
        }
        if self.perceptual is not None:
            figures["validation/lpips"] = distance / images
        return figures

    def flops(self, paint: Callable[[Tensor, Tensor], Tensor], size: int) -> int:
        """Return the operations of one image's passes through a painter and LPIPS.

        ``paint`` maps an image and its hole to the painted image.
        """
        images = torch.zeros(1, 3, size, size, device=self.accelerator.device)
        hole = torch.ones(1, size, size, dtype=torch.bool, device=images.device)

        def loss() -> Tensor:
            painted = paint(images, hole).clamp(-1, 1)
            return painted.sum() if self.perceptual is None else self.perceptual(painted, images)

        return training_flops(loss)
