"""Stage 3: the decoder, trained to paint holes from the tokens that the transformer fills in."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from maskweave.data.augment import to_unit_range
from maskweave.errors import MaskweaveError
from maskweave.maskgit import DecodeSettings
from maskweave.pipeline import InpaintPipeline
from maskweave.tokenizer.vqgan import VQGAN
from maskweave.training.loop import Course, RunConfig, Scalars
from maskweave.training.optimiser import Learner, OptimiserConfig, averaged
from maskweave.training.painting import Painting, PaintingLoss
from maskweave.training.sheet import Sheet
from maskweave.training.validation import Means, Validation


@dataclass(frozen=True)
class DecoderRecipe:
    """Everything that decides a run of stage 3, except the images and the model."""

    filled: float = 0.75
    """Share of images whose tokens under the hole are the transformer's, not the true ones."""
    fill_steps: int = 4
    """Steps in which the transformer fills a hole, from now on a default of the model."""
    token_temperature: float = 0.5
    """Temperature at which it samples tokens, likewise."""
    blocks: int = 0
    """Residual blocks added to the decoder at the token grid, for a wider view of the known."""
    loss: PaintingLoss = PaintingLoss()
    """Weights of the losses, and the holes."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """Settings of the optimisers of the decoder and, alike, of the discriminator."""
    run: RunConfig = RunConfig()
    """Length, batch size, seed and intervals."""

    def __post_init__(self) -> None:
        """Refuse a share beyond 1, settings that fill nothing and blocks beyond reason."""
        if not 0 <= self.filled <= 1:
            raise MaskweaveError(f"filled is a share from 0 to 1, got {self.filled}")
        DecodeSettings(steps=self.fill_steps, token_temperature=self.token_temperature)
        if not 0 <= self.blocks <= 100:
            raise MaskweaveError(f"blocks to add are 0 to 100, got {self.blocks}")


class DecoderTask:
    """Trains the decoder of a model whose encoder, codebook and transformer stay as they are.

    The transformer's tokens differ from the true ones, from which stage 1 learnt to paint: here the
    decoder learns to make the best of them beside the known pixels. The model's tokenizer is a
    ``VQGAN``.
    """

    def __init__(
        self,
        recipe: DecoderRecipe,
        model: InpaintPipeline,
        validation: UInt8[Tensor, "batch 3 size size"],
        accelerator: Accelerator,
        course: Course,
    ) -> None:
        self.share, self.accelerator = recipe.filled, accelerator
        self.model = model.to(accelerator.device)
        self.tokenizer: VQGAN = model.tokenizer  # type: ignore[assignment]
        model.transformer.requires_grad_(False)
        self.tokenizer.requires_grad_(False)
        self.tokenizer.deepen(recipe.blocks)
        model.defaults = replace(
            model.defaults,
            steps=recipe.fill_steps,
            stop_after=None,
            token_temperature=recipe.token_temperature,
        )
        decoder = self.tokenizer.decoder.requires_grad_(True)
        decoder = decoder.to(memory_format=torch.channels_last)
        self.ema = averaged(decoder, recipe.optimiser.ema, accelerator)
        self.learner = Learner(decoder, recipe.optimiser, course, accelerator)
        self.painting = Painting(recipe.loss, self.learner, decoder.output.weight, accelerator)
        self.validation = Validation(validation, accelerator)
        self.validation_codes: dict[range, Tensor] = {}

    def step(self, batch: Sequence[Any], step: int) -> Scalars:
        """Update the decoder, then the discriminator, on one batch."""
        pixels, hole, seeds = batch
        images = to_unit_range(pixels).contiguous(memory_format=torch.channels_last)
        codes = self._codes(images, hole, seeds)

        def paint(rows: slice) -> tuple[Tensor, float]:
            return self.learner.model(codes[rows], images[rows], hole[rows]), 0.0

        scalars = self.painting.step(images, hole, paint, step)
        self.ema.update_parameters(self.learner.module)
        return scalars

    def _codes(
        self,
        images: Float[Tensor, "batch 3 size size"],
        hole: Bool[Tensor, "batch size size"],
        seeds: Sequence[str],
    ) -> Float[Tensor, "batch codebook_dim rows columns"]:
        """Return true codes or, of a share of the images, those of the transformer's fill."""
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        filled = [i for i, g in enumerate(generators) if torch.rand((), generator=g) < self.share]
        tokens = self.tokenizer.encode(images)
        if filled:
            chosen = [generators[i] for i in filled]
            tokens[filled] = self._fill(images[filled], hole[filled], chosen)
        return self._on_grid(tokens)

    def _on_grid(
        self, tokens: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch codebook_dim rows columns"]:
        return self.tokenizer.on_grid(self.tokenizer.codes[tokens])

    @torch.no_grad()
    def _fill(
        self,
        images: Float[Tensor, "batch 3 size size"],
        hole: Bool[Tensor, "batch size size"],
        generators: Sequence[torch.Generator],
    ) -> Int[Tensor, "batch length"]:
        with self.accelerator.autocast():
            holed = images.masked_fill(hole[:, None], 0.0)
            return self.model.fill_tokens(holed, hole, generators)

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Paint fixed fills of fixed holes with the averaged weights."""
        means, sheet = Means(), Sheet()
        for chunk in self.validation:
            _, images, hole = chunk
            if chunk.numbers not in self.validation_codes:  # the transformer does not change
                tokens = self._fill(images, hole, chunk.generators())
                self.validation_codes[chunk.numbers] = self._on_grid(tokens)
            whole = self.ema(self.validation_codes[chunk.numbers], images, hole)
            sheet.add(images, chunk.holed, self.painting.measure(means, chunk, whole))
        return means.figures(), sheet.pictures("decoder")

    def export(self, directory: Path) -> None:
        """Write the whole model with the averaged decoder."""
        trained = self.tokenizer.decoder
        self.tokenizer.decoder = self.ema.module  # type: ignore[assignment]
        self.model.save_pretrained(directory)
        self.tokenizer.decoder = trained

    def flops(self) -> int:
        """Return the operations of one image's passes through the decoder and LPIPS."""
        config, decoder = self.tokenizer.config, deepcopy(self.ema.module)
        tokens = torch.zeros(
            1, self.tokenizer.length, dtype=torch.long, device=self.accelerator.device
        )
        codes = self._on_grid(tokens)
        return self.painting.flops(
            lambda images, hole: decoder(codes, images, hole), config.image_size
        )
