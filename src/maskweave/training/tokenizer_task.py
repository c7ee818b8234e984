"""Stage 1: the tokenizer, trained to paint holes from their true tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float, UInt8
from torch import Tensor

from maskweave.checkpoint import save_component
from maskweave.progress import warn
from maskweave.settings import Share, settings
from maskweave.tokenizer.quantize import Codebook, token_counts
from maskweave.tokenizer.vqgan import VQGAN, Reconstruction, TokenizerConfig
from maskweave.training.examples import Example, ExamplesConfig
from maskweave.training.loop import Course, RunConfig, Scalars
from maskweave.training.optimiser import Learner, OptimiserConfig, averaged
from maskweave.training.painting import Painting, PaintingLoss
from maskweave.training.sheet import Sheet
from maskweave.training.validation import Means, Validation

COLLAPSED = 0.2
"""Share of the codes below which the perplexity of validation tokens calls for a warning."""

SETTLED = 0.05
"""Share of the run, at its end, in which no code is moved."""


@settings
class TokenizerRecipe:
    """Everything that decides a run of stage 1, except the images."""

    model: TokenizerConfig = TokenizerConfig()
    """Sizes of the tokenizer."""
    examples: ExamplesConfig = ExamplesConfig()
    """Pictures and holes."""
    unknown: Share = 0.0
    """Share of examples whose tokens under the hole are kept from the decoder."""
    loss: PaintingLoss = PaintingLoss()
    """Weights of the losses."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """Settings of the optimisers of the tokenizer and, alike, of the discriminator."""
    run: RunConfig = RunConfig()
    """Length, batch size, seed and intervals."""

    def __post_init__(self) -> None:
        """Refuse examples that the model cannot be trained on."""
        self.examples.check(self.model.image_size, self.model.guided)


class TokenizerTask:
    """Trains a VQGAN and its discriminator, each with its own optimiser.

    ``start`` is a VQGAN to go on with, whose codes stay where they are; else all begins at random.
    """

    def __init__(
        self,
        recipe: TokenizerRecipe,
        validation: UInt8[Tensor, "batch 3 size size"],
        accelerator: Accelerator,
        course: Course,
        start: VQGAN | None = None,
    ) -> None:
        self.recipe, self.model, self.accelerator = recipe, recipe.model, accelerator
        self.at_random = start is None
        vqgan = (start or VQGAN(recipe.model)).train().to(memory_format=torch.channels_last)
        self.ema = averaged(vqgan, recipe.optimiser.ema, accelerator)
        self.learner = Learner(vqgan, recipe.optimiser, course, accelerator)
        self.painting = Painting(
            recipe.loss, self.learner, vqgan.decoder.output.weight, accelerator
        )
        self.validation = Validation(validation, recipe.examples.validated, accelerator)
        # Codes that are moved at the very end would be used before they have learnt.
        learns = vqgan.codebook.weight.requires_grad
        self.revived = (1 - SETTLED) * course.steps if learns else 0

    def step(self, batch: Sequence[Any], step: int) -> Scalars:
        """Update the tokenizer, then the discriminator, on one batch."""
        example = Example(*batch)
        images, hole = example.unit_range(), torch.as_tensor(example.hole)
        guide = example.guide(images) if self.model.guided else None
        draws = torch.stack([torch.rand((), generator=g) for g in example.generators()])
        unknown = (draws < self.recipe.unknown).to(images.device)
        vqgan: VQGAN = self.learner.module  # type: ignore[assignment]
        seed = torch.Generator().manual_seed(step)  # the same in every process
        if self.at_random and step == 0 < self.revived:
            with torch.no_grad():
                latents = self.accelerator.gather(vqgan.encoder(images))
            vqgan.codebook.revive_all(latents, seed)  # type: ignore[arg-type]
        outputs: list[Reconstruction] = []

        def paint(rows: slice) -> tuple[Tensor, Tensor]:
            part = guide and guide.rows(rows)
            output: Reconstruction = self.learner.model(
                images[rows], hole[rows], part, unknown[rows]
            )
            outputs.append(output)
            own = self.recipe.loss.codebook * output.codebook_loss
            if self.recipe.loss.entropy and self.revived:  # a frozen codebook needs none
                own = own + self.recipe.loss.entropy * vqgan.codebook.entropy_loss(output.latents)
            return output.images, own

        scalars = self.painting.step(images, hole, paint, step)
        self.ema.update_parameters(vqgan)
        latents, tokens = (
            self.accelerator.gather(torch.cat(parts))
            for parts in ([o.latents.detach() for o in outputs], [o.tokens for o in outputs])
        )
        if step < self.revived:
            scalars["codebook/revived"] = self._revive(latents, tokens, seed)  # type: ignore[arg-type]
        used, perplexity = _usage(token_counts(tokens, self.model.codebook_size))  # type: ignore[arg-type]
        return scalars | {
            "loss/codebook": torch.stack([o.codebook_loss.detach() for o in outputs]).mean(),
            "codebook/used": used,
            "codebook/perplexity": perplexity,
        }

    @torch.no_grad()
    def _revive(self, latents: Tensor, tokens: Tensor, seed: torch.Generator) -> Tensor:
        """Move dead codes, with all that is kept of their weights; return how many."""
        codebook: Codebook = self.learner.module.codebook  # type: ignore[assignment]
        mean: Codebook = self.ema.module.codebook  # type: ignore[assignment]
        moved = codebook.revive(latents, tokens, seed)
        self.learner.forget(codebook.weight, moved)
        mean.weight.copy_(torch.where(moved[:, None], codebook.weight, mean.weight))
        mean.usage.copy_(torch.where(moved, codebook.usage, mean.usage))
        return moved.sum()

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Paint fixed holes of fixed images with the averaged weights, from their true tokens."""
        vqgan: VQGAN = self.ema.module  # type: ignore[assignment]
        means, sheet = Means(), Sheet()
        counts = torch.zeros(self.model.codebook_size, device=self.accelerator.device)
        for chunk in self.validation:
            tokens = vqgan.encode(chunk.images)
            whole = vqgan.decode(tokens, chunk.images, chunk.hole)
            painted = self.painting.measure(means, chunk, whole)
            if self.recipe.unknown:
                blank = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
                codes = vqgan.hidden(vqgan.codes[tokens], chunk.hole, blank)
                whole = vqgan.paint(codes, chunk.images, chunk.hole)
                self.painting.measure(means, chunk, whole, "_unknown")
            counts += token_counts(tokens, len(counts))
            if sheet.room:
                alone = vqgan.decode(tokens[: sheet.room])
                sheet.add(chunk.images, chunk.holed, painted, alone)
        counts: Tensor = self.accelerator.reduce(counts, "sum")  # type: ignore[assignment]
        used, perplexity = _usage(counts)
        possible = min(len(counts), int(counts.sum()))
        if perplexity < COLLAPSED * possible and self.accelerator.is_main_process:
            warn(f"the codebook collapses: perplexity {perplexity:.0f} of {possible}")
        figures = means.figures() | {
            "validation/codes_used": float(used),
            "validation/codebook_perplexity": float(perplexity),
        }
        return figures, sheet.pictures("tokenizer")

    def export(self, directory: Path) -> None:
        """Write the averaged tokenizer to ``directory/tokenizer``."""
        save_component(self.ema.module, directory / "tokenizer")

    def flops(self) -> int:
        """Return the operations of one image's passes through the tokenizer and LPIPS."""
        vqgan = VQGAN(self.model).to(self.accelerator.device)
        return self.painting.flops(
            lambda images, hole: vqgan.decode(vqgan.encode(images), images, hole),
            self.model.image_size,
        )


def _usage(counts: Float[Tensor, "codes"]) -> tuple[Tensor, Tensor]:
    """Return the share of codes in use and their perplexity, the exponential of the entropy."""
    entropy = torch.special.entr(counts / counts.sum()).sum()
    return (counts > 0).float().mean(), entropy.exp()
