"""Stage 1: the tokenizer, trained to paint holes from their true tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import UInt8
from torch import Tensor

from maskweave.checkpoint import save_component
from maskweave.data.augment import check_shift, to_unit_range
from maskweave.holes import KINDS, draw_holes
from maskweave.progress import warn
from maskweave.tokenizer.vqgan import VQGAN, Reconstruction, TokenizerConfig
from maskweave.training.loop import RunConfig, Scalars
from maskweave.training.optimiser import OptimiserConfig, adamw, averaged
from maskweave.training.painting import Painting, PaintingLoss
from maskweave.training.sheet import sheet

COLLAPSED = 0.2
"""Share of the codes below which the perplexity of validation tokens calls for a warning."""


@dataclass(frozen=True)
class TokenizerRecipe:
    """Everything that decides a run of stage 1, except the images."""

    model: TokenizerConfig = TokenizerConfig()
    """Sizes of the tokenizer."""
    loss: PaintingLoss = PaintingLoss()
    """Weights of the losses, and the holes."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """Of the tokenizer and, alike, of the discriminator."""
    run: RunConfig = RunConfig()
    """Length, batch size, seed and intervals."""

    def __post_init__(self) -> None:
        """Refuse a shift that leaves nothing of an image."""
        check_shift(self.loss.shift, self.model.image_size)


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
        self.model, self.loss, self.accelerator = recipe.model, recipe.loss, accelerator
        vqgan = VQGAN(recipe.model).to(memory_format=torch.channels_last)
        optimiser = adamw(vqgan, recipe.optimiser)
        self.ema = averaged(vqgan, recipe.optimiser.ema).to(accelerator.device)
        self.vqgan, optimiser = accelerator.prepare(vqgan, optimiser)
        accelerator.register_for_checkpointing(self.ema)
        self.painting = Painting(
            recipe.loss,
            recipe.optimiser,
            self.vqgan,
            vqgan.decoder.output.weight,
            optimiser,
            recipe.run.accumulate,
            steps,
            epoch,
            accelerator,
        )
        self.validation = validation

    def step(self, batch: Sequence[Tensor], step: int) -> Scalars:
        """Update the tokenizer, then the discriminator, on one batch."""
        pixels, hole, _ = batch
        images = to_unit_range(pixels).contiguous(memory_format=torch.channels_last)
        vqgan: VQGAN = self.accelerator.unwrap_model(self.vqgan)
        seed = torch.Generator().manual_seed(step)  # the same in every process
        if step == 0:
            with torch.no_grad():
                latents = self.accelerator.gather(vqgan.encoder(images))
            vqgan.codebook.revive_all(latents, seed)  # type: ignore[arg-type]
        outputs: list[Reconstruction] = []

        def paint(rows: Tensor) -> tuple[Tensor, Tensor]:
            output: Reconstruction = self.vqgan(images[rows], hole[rows])
            outputs.append(output)
            return output.images, self.loss.codebook * output.codebook_loss

        scalars = self.painting.step(images, hole, paint, step)
        latents, tokens = (
            self.accelerator.gather(torch.cat(parts))
            for parts in ([o.latents.detach() for o in outputs], [o.tokens for o in outputs])
        )
        revived = vqgan.codebook.revive(latents, tokens, seed)  # type: ignore[arg-type]
        self.ema.update_parameters(vqgan)
        used, perplexity = _usage(tokens, self.model.codebook_size)  # type: ignore[arg-type]
        return scalars | {
            "loss/codebook": torch.stack([o.codebook_loss.detach() for o in outputs]).mean(),
            "codebook/used": used,
            "codebook/perplexity": perplexity,
            "codebook/revived": revived,
        }

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Paint fixed holes of fixed images with the averaged weights, from their true tokens."""
        size, rng = self.model.image_size, np.random.default_rng(0)
        holes = draw_holes(KINDS, len(self.validation), size, size, rng)
        vqgan: VQGAN = self.ema.module  # type: ignore[assignment]
        tokens: list[Tensor] = []
        batches: list[tuple[Tensor, Tensor, Tensor]] = []
        for start in range(0, len(holes), 32):
            images = to_unit_range(self.validation[start : start + 32].to(self.accelerator.device))
            hole = holes[start : start + 32].to(images.device)
            tokens.append(vqgan.encode(images))
            painted = torch.where(hole[:, None], vqgan.decode(tokens[-1], images, hole), images)
            batches.append((painted, images, hole))
        used, perplexity = _usage(torch.cat(tokens), self.model.codebook_size)
        possible = min(self.model.codebook_size, sum(map(Tensor.numel, tokens)))
        if perplexity < COLLAPSED * possible and self.accelerator.is_main_process:
            warn(f"the codebook collapses: perplexity {perplexity:.0f} of {possible}")
        figures = self.painting.figures(batches) | {
            "validation/codes_used": float(used),
            "validation/codebook_perplexity": float(perplexity),
        }
        painted, images, hole = batches[0]
        holed = images.masked_fill(hole[:, None], 0.0)
        rows = [images, holed, painted, vqgan.decode(tokens[0])]
        return figures, {"tokenizer": sheet(rows)}

    def export(self, directory: Path) -> None:
        """Write the averaged tokenizer to ``directory/tokenizer``."""
        save_component(self.ema.module, directory / "tokenizer")

    def flops(self) -> int:
        """Return the operations of one image's passes through the tokenizer and LPIPS."""
        vqgan = VQGAN(self.model).to(self.accelerator.device)
        return self.painting.flops(
            lambda images, hole: vqgan(images, hole).images, self.model.image_size
        )


def _usage(tokens: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the share of codes in use and their perplexity, the exponential of the entropy."""
    counts = torch.bincount(tokens.flatten(), minlength=size).float()
    shares = counts / counts.sum()
    entropy = torch.special.entr(shares).sum()
    return (counts > 0).float().mean(), entropy.exp()
