"""How far painted holes are from the truth, and a discriminator that learns beside the painter."""

from collections.abc import Callable
from dataclasses import replace

import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float
from torch import Tensor

from maskweave.errors import MaskweaveError
from maskweave.settings import Share, Weight, settings
from maskweave.tokenizer.discriminator import PatchDiscriminator
from maskweave.tokenizer.losses import (
    adaptive_weight,
    adversarial_loss,
    hinge_discriminator_loss,
    lattice_loss,
    mean_where,
    perceptual_loss,
    pixel_loss,
)
from maskweave.training.loop import Scalars
from maskweave.training.optimiser import Learner
from maskweave.training.speed import training_flops
from maskweave.training.validation import Chunk, Means

POOLED = 16
"""Pixels from one place to the next in the last features of LPIPS's networks."""


@settings
class PaintingLoss:
    """Weights of the losses of painted holes (VQGAN, section 3.1)."""

    perceptual: Weight = 2.0
    """Weight of LPIPS beside the mean absolute error; 0 needs no LPIPS weights."""
    codebook: Weight = 0.5
    """Weight of the codebook and commitment losses, where the codebook learns."""
    entropy: Weight = 0.0
    """Weight of the entropy loss of the codes, where the codebook learns. The loss is that of each
    part of a batch in each process: it alone depends on how many these are."""
    lattice: Weight = 0.0
    """Weight of ``lattice_loss``, against a pattern that comes again in each patch: some hundreds,
    as it is the square of a small number. Like the entropy loss, it is that of each part of a batch
    in each process."""
    known: Weight = 0.1
    """Weight of the mean pixel error outside the hole, beside 1 in it."""
    adversarial: Weight = 0.1
    """Weight of the adversarial loss, on top of the adaptive one; 0 trains no discriminator."""
    adversarial_start: Share = 0.6
    """Share of the run after which the discriminator joins."""


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
        scalars, painted = self._paint(images, hole, paint, adversarial, step)
        scalars |= {"gradient_norm": self.painter.update(), "learning_rate": rate}
        if adversarial:
            self.discriminator.begin(step)
            scalars |= self._judge(images, painted, hole)
        return scalars

    def _paint(
        self, images: Tensor, hole: Tensor, paint: Paint, adversarial: bool, step: int
    ) -> tuple[Scalars, Tensor]:
        """Add up the painter's gradients over the parts of a batch; return what it painted."""
        pictures: list[Tensor] = []
        sums: dict[str, Tensor] = {}
        for i in self.painter.parts(len(images)):
            whole, own = paint(i)
            # The slopes of the losses meet at the picture: the painter is gone back through once.
            picture = whole.detach().requires_grad_()
            painted = torch.where(hole[i][:, None], picture, images[i])
            total, parts = self._reconstruction(picture, painted, images[i], hole[i], step)
            (slope,) = torch.autograd.grad(total, picture, retain_graph=adversarial)
            if adversarial:
                fooled = adversarial_loss(self.judge(painted), self.judge.sees(hole[i]))
                (other,) = torch.autograd.grad(fooled, picture)
                weight = self._adversarial_weight(whole, slope, other)
                total, slope = total + weight * fooled, slope + weight * other
                parts |= {"loss/adversarial": fooled, "adversarial_weight": weight}
            parts["loss"] = total + own
            self.accelerator.backward(((whole * slope).sum() + own) / self.course.accumulate)
            pictures.append(painted.detach())
            for name, value in parts.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach()
        means: Scalars = {name: value / self.course.accumulate for name, value in sums.items()}
        return means, torch.cat(pictures)

    def _reconstruction(
        self, whole: Tensor, painted: Tensor, images: Tensor, hole: Tensor, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a part of a batch against its images, and what that consists of."""
        total = pixel_loss(whole, images, hole, self.weights.known)
        parts = {"loss/pixel": total}
        if self.perceptual is not None:
            with self.accelerator.autocast():
                distances = self.perceptual(*_rolled(step, painted.clamp(-1, 1), images))
            parts["loss/perceptual"] = distances.float().mean()
            total = total + self.weights.perceptual * parts["loss/perceptual"]
        if self.weights.lattice > 0:
            parts["loss/lattice"] = lattice_loss(painted, images, hole)
            total = total + self.weights.lattice * parts["loss/lattice"]
        return total, parts

    def _adversarial_weight(self, whole: Tensor, *slopes: Tensor) -> Tensor:
        """Return the weight of the adversarial loss, from both losses' slopes at the picture."""
        gradients = (
            torch.autograd.grad(whole, self.last, slope, retain_graph=True)[0] for slope in slopes
        )
        return self.weights.adversarial * adaptive_weight(
            *(self.accelerator.reduce(gradient, "mean") for gradient in gradients)  # type: ignore[arg-type]
        )

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


def _rolled(step: int, *images: Tensor) -> list[Tensor]:
    """Move images around their borders, alike in every process and by other pixels in each step.

    LPIPS pools at places of its own, every 2 to 16 pixels. If these always met the tokens' patches
    alike, a lattice of that period would be rewarded.
    """
    shift = torch.randint(POOLED, (2,), generator=torch.Generator().manual_seed(step)).tolist()
    return [image.roll(shift, dims=(2, 3)) for image in images]
