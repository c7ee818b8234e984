"""How far painted holes are from the truth, and a discriminator that learns beside the painter."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from maskweave.data.augment import flip_and_shift
from maskweave.data.cache import Images
from maskweave.data.sampler import Draw
from maskweave.errors import MaskweaveError
from maskweave.holes import KINDS, check_kinds, draw_holes
from maskweave.tokenizer.discriminator import PatchDiscriminator
from maskweave.tokenizer.losses import (
    adaptive_weight,
    adversarial_loss,
    hinge_discriminator_loss,
    mean_where,
    perceptual_loss,
    pixel_loss,
)
from maskweave.training.loop import Scalars
from maskweave.training.optimiser import Learner
from maskweave.training.speed import training_flops
from maskweave.training.validation import Chunk, Means


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
    seed: str | Sequence[str]
    """Seed of what is sampled for the hole, in digits: a number would be sent to a GPU, and reading
    it there waits for all that the GPU has yet to do."""


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
        return HoledExample(image, hole, str(rng.integers(2**62)))


Paint = Callable[[slice], tuple[Float[Tensor, "batch 3 height width"], Tensor | float]]
"""Maps rows of a batch to painted images and a loss of the painter's own."""


class Painting:
    """Updates a painter on a batch, and a discriminator on what it painted.

    Parameters
    ----------
    loss : PaintingLoss
        Weights of the losses.
    painter : Learner
        What paints; the discriminator learns by the same settings.
    last : Tensor
        The weight of the painter's last layer.
    accelerator : Accelerator
        From ``accelerator_for``.

    Raises
    ------
    MaskweaveError
        If there is an adversarial loss to weigh by the last layer's gradients and it is frozen.
    """

    def __init__(
        self, loss: PaintingLoss, painter: Learner, last: Tensor, accelerator: Accelerator
    ) -> None:
        if loss.adversarial > 0 and not last.requires_grad:
            raise MaskweaveError("the last layer is frozen: train with loss.adversarial=0")
        self.weights, self.painter, self.last = loss, painter, last
        self.accelerator, self.course = accelerator, painter.course
        self.judge = PatchDiscriminator()
        self.discriminator = Learner(
            self.judge.to(memory_format=torch.channels_last),
            replace(painter.config, frozen=()),
            self.course,
            accelerator,
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
        start = self.weights.adversarial_start * self.course.steps
        adversarial = self.weights.adversarial > 0 and step >= start
        rate = self.painter.begin(step)
        scalars, painted = self._paint(images, hole, paint, adversarial)
        scalars |= {"gradient_norm": self.painter.update(), "learning_rate": rate}
        if adversarial:
            self.discriminator.begin(step)
            scalars |= self._judge(images, painted, hole)
        return scalars

    def _paint(
        self, images: Tensor, hole: Tensor, paint: Paint, adversarial: bool
    ) -> tuple[Scalars, Tensor]:
        """Add up the painter's gradients over the parts of a batch; return what it painted."""
        pictures: list[Tensor] = []
        sums: dict[str, Tensor] = {}
        for i in self.painter.parts(len(images)):
            whole, own = paint(i)
            painted = torch.where(hole[i][:, None], whole, images[i])
            pixel = pixel_loss(whole, images[i], hole[i], self.weights.known)
            total, parts = self._loss(pixel, painted, images[i], hole[i] if adversarial else None)
            parts["loss"] = total + own
            self.accelerator.backward(parts["loss"] / self.course.accumulate)
            pictures.append(painted.detach())
            for name, value in parts.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach()
        means: Scalars = {name: value / self.course.accumulate for name, value in sums.items()}
        return means, torch.cat(pictures)

    def _loss(
        self, pixel: Tensor, painted: Tensor, images: Tensor, hole: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total loss of a part of a batch, and the losses that it consists of.

        There is an adversarial one where the hole is given.
        """
        parts = {"loss/pixel": pixel}
        total = pixel
        if self.perceptual is not None:
            with self.accelerator.autocast():
                distances = self.perceptual(painted.clamp(-1, 1), images)
            parts["loss/perceptual"] = distances.float().mean()
            total = pixel + self.weights.perceptual * parts["loss/perceptual"]
        if hole is not None:
            logits = self.discriminator.model(painted)
            fooled = adversarial_loss(logits, self.judge.sees(hole))
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

    def _judge(self, images: Tensor, painted: Tensor, hole: Tensor) -> Scalars:
        """Update the discriminator."""
        total = torch.zeros((), device=images.device)
        for i in self.discriminator.parts(len(images)):
            real, fake = (self.discriminator.model(part[i]) for part in (images, painted))
            loss = hinge_discriminator_loss(real, fake, self.judge.sees(hole[i]))
            loss = loss / self.course.accumulate
            self.accelerator.backward(loss)
            total += loss.detach()
        norm = self.discriminator.update()
        return {"loss/discriminator": total, "discriminator_gradient_norm": norm}

    def measure(
        self,
        means: Means,
        chunk: Chunk,
        whole: Float[Tensor, "batch 3 height width"],
        ending: str = "",
    ) -> Float[Tensor, "batch 3 height width"]:
        """Count the figures of painted validation images; return these with their known pixels.

        The loss is the pixel loss in the holes plus LPIPS with its weight. Where holes are painted
        in several ways, an ``ending`` tells the names of the other figures apart.
        """
        painted = torch.where(chunk.hole[:, None], whole.clamp(-1, 1), chunk.images)
        difference = painted - chunk.images
        losses = mean_where(chunk.hole, difference.abs().mean(1))
        squared = mean_where(chunk.hole, difference.square().mean(1)) / 4  # of [-1, 1]
        means.add(f"psnr_in_hole{ending}", -10 * squared.clamp(min=1e-10).log10())
        if self.perceptual is not None:
            distances = self.perceptual(painted, chunk.images).flatten()
            means.add(f"lpips{ending}", distances)
            losses = losses + self.weights.perceptual * distances
        means.add("loss", losses)
        return painted

    def flops(self, paint: Callable[[Tensor, Tensor], Tensor], size: int) -> int:
        """Return the operations of one image's passes through a painter and LPIPS.

        ``paint`` maps an image and its hole to the painted image.
        """
        images = torch.zeros(1, 3, size, size, device=self.accelerator.device)
        hole = torch.ones(1, size, size, dtype=torch.bool, device=images.device)

        def loss() -> Tensor:
            painted = paint(images, hole).clamp(-1, 1)
            if self.perceptual is None:
                return painted.sum()
            return self.perceptual(painted, images).sum()

        return training_flops(loss)
