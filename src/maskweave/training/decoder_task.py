"""Stage 3: the decoder, trained to paint holes from the tokens that the transformer fills in."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float, UInt8
from pydantic import Field
from torch import Tensor

from maskweave.fill import expected_codes, fill_tokens
from maskweave.guide import Guide, interpolated
from maskweave.maskgit import Steps, Temperature
from maskweave.pipeline import InpaintPipeline
from maskweave.settings import Share, settings
from maskweave.tokenizer.painted import PaintingTokenizer, Width
from maskweave.training.examples import Example, ExamplesConfig
from maskweave.training.loop import Course, RunConfig, Scalars
from maskweave.training.optimiser import Learner, OptimiserConfig, averaged
from maskweave.training.painting import Painting, PaintingLoss
from maskweave.training.sheet import Sheet
from maskweave.training.validation import Means, Validation


@settings
class DecoderRecipe:
    """Everything that decides a run of stage 3, except the images and the model."""

    filled: Share = 0.75
    """Share of images whose tokens under the hole are the transformer's, not the true ones."""
    expected: Share = 0.5
    """Share of these images in which the hole has the expected codes, not those of sampled tokens:
    softmax(logits) @ codes, from one pass with all tokens under the hole masked."""
    fill_steps: Steps = 4
    """Steps in which the transformer fills a hole, from now on a default of the model."""
    token_temperature: Temperature = 0.5
    """Temperature at which it samples tokens, likewise."""
    blocks: Annotated[int, Field(ge=0, le=100)] = 0
    """Residual blocks added to the decoder at the token grid, for a wider view of the known."""
    channels: tuple[Width, ...] = ()
    """Widths, from pixels down to the token grid, of the decoder that a tokenizer of another
    project gets in the place of its own; by default those of ``PaintedVQGAN.around``."""
    examples: ExamplesConfig = ExamplesConfig()
    """Pictures and holes."""
    loss: PaintingLoss = PaintingLoss()
    """Weights of the losses."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """Settings of the optimisers of the decoder and, alike, of the discriminator."""
    run: RunConfig = RunConfig()
    """Length, batch size, seed and intervals."""


class DecoderTask:
    """Trains the decoder of a model whose encoder, codebook and transformer stay as they are.

    The transformer's tokens differ from the true ones, from which stage 1 learnt to paint: here the
    decoder learns to make the best of them beside the known pixels. The model's tokenizer is a
    ``PaintingTokenizer``.
    """

    def __init__(
        self,
        recipe: DecoderRecipe,
        model: InpaintPipeline,
        validation: UInt8[Tensor, "batch 3 size size"],
        accelerator: Accelerator,
        course: Course,
    ) -> None:
        self.recipe, self.accelerator = recipe, accelerator
        self.model = model.to(accelerator.device)
        self.tokenizer: PaintingTokenizer = model.tokenizer  # type: ignore[assignment]
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
        self.validation = Validation(validation, recipe.examples.validated, accelerator)
        self.validation_codes: dict[range, list[Tensor]] = {}

    def step(self, batch: Sequence[Any], step: int) -> Scalars:
        """Update the decoder, then the discriminator, on one batch."""
        example = Example(*batch)
        images, hole = example.unit_range(), torch.as_tensor(example.hole)
        guide = example.guide(images) if self.tokenizer.guided else None
        codes = self._codes(images, hole, guide, example.generators())

        def paint(rows: slice) -> tuple[Tensor, float]:
            part = guide and guide.rows(rows)
            return self.learner.model(codes[rows], images[rows], hole[rows], part), 0.0

        scalars = self.painting.step(images, hole, paint, step)
        self.ema.update_parameters(self.learner.module)
        return scalars

    def _codes(
        self,
        images: Float[Tensor, "batch 3 size size"],
        hole: Bool[Tensor, "batch size size"],
        guide: Guide | None,
        generators: Sequence[torch.Generator],
    ) -> Float[Tensor, "batch codebook_dim rows columns"]:
        """Return true codes or, of a share of the images, those of the transformer's fill."""
        draws = torch.stack([torch.rand(2, generator=generator) for generator in generators])
        filled, expected = draws[:, 0] < self.recipe.filled, draws[:, 1] < self.recipe.expected
        tokens = self.tokenizer.encode(images)
        if not self.tokenizer.patch_local:  # known tokens that have seen nothing under the hole
            seen = self.tokenizer.encode_known(images, hole)
            tokens = torch.where(self.tokenizer.token_mask(hole), tokens, seen)
        codes = self.tokenizer.codes[tokens]
        for fill, chosen in (
            (self._expected, filled & expected),
            (self._sampled, filled & ~expected),
        ):
            if rows := chosen.nonzero()[:, 0].tolist():
                chosen_guide = guide and guide.rows(rows)
                own = [generators[row] for row in rows]
                codes[rows] = fill(images[rows], hole[rows], chosen_guide, own)
        return self.tokenizer.on_grid(codes)

    @torch.no_grad()
    def _sampled(
        self,
        images: Tensor,
        hole: Tensor,
        guide: Guide | None,
        generators: Sequence[torch.Generator],
    ) -> Float[Tensor, "batch length codebook_dim"]:
        """Return the codes of tokens as the transformer samples them."""
        model, holed = self.model, images.masked_fill(hole[:, None], 0.0)
        parts = (model.tokenizer, model.transformer, holed, hole, generators, model.defaults, guide)
        with self.accelerator.autocast():
            return self.tokenizer.codes[fill_tokens(*parts)]

    def _expected(
        self, images: Tensor, hole: Tensor, guide: Guide | None, _: Sequence[torch.Generator]
    ) -> Float[Tensor, "batch length codebook_dim"]:
        """Return the mean codes of the transformer's first prediction."""
        model, holed = self.model, images.masked_fill(hole[:, None], 0.0)
        with self.accelerator.autocast():
            return expected_codes(model.tokenizer, model.transformer, holed, hole, guide)[1]

    def _guide(self, images: Tensor, hole: Tensor) -> Guide | None:
        return interpolated(images, hole) if self.tokenizer.guided else None

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Paint fixed holes with the averaged weights, from sampled tokens and expected codes."""
        means, sheet = Means(), Sheet()
        for chunk in self.validation:
            numbers, images, hole = chunk
            guide = self._guide(images, hole)
            if numbers not in self.validation_codes:  # the transformer does not change
                self.validation_codes[numbers] = [
                    self.tokenizer.on_grid(fill(images, hole, guide, chunk.generators()))
                    for fill in (self._sampled, self._expected)
                ]
            painted = [
                self.painting.measure(means, chunk, self.ema(codes, images, hole, guide), ending)
                for codes, ending in zip(
                    self.validation_codes[numbers], ("", "_expected"), strict=True
                )
            ]
            sheet.add(images, chunk.holed, *painted)
        return means.figures(), sheet.pictures("decoder")

    def export(self, directory: Path) -> None:
        """Write the whole model with the averaged decoder."""
        trained = self.tokenizer.decoder
        self.tokenizer.decoder = self.ema.module  # type: ignore[assignment]
        self.model.save_pretrained(directory)
        self.tokenizer.decoder = trained

    def flops(self) -> int:
        """Return the operations of one image's passes through the decoder and LPIPS."""
        decoder = deepcopy(self.ema.module)
        codes = self.tokenizer.on_grid(
            self.tokenizer.codes[:1].expand(self.tokenizer.length, -1)[None]
        )
        return self.painting.flops(
            lambda images, hole: decoder(codes, images, hole, self._guide(images, hole)),
            self.tokenizer.image_size[0],
        )
