"""The stage for narrow holes: a small decoder that paints them from the known pixels alone."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

import torch
from accelerate import Accelerator
from jaxtyping import UInt8
from pydantic import Field
from torch import Tensor

from maskweave.errors import MaskweaveError
from maskweave.guide import interpolated
from maskweave.pipeline import InpaintPipeline
from maskweave.settings import settings
from maskweave.tokenizer.vqgan import VQGAN
from maskweave.training.examples import Example, ExamplesConfig
from maskweave.training.loop import Course, RunConfig, Scalars
from maskweave.training.optimiser import Learner, OptimiserConfig, averaged
from maskweave.training.painting import Painting, PaintingLoss
from maskweave.training.sheet import Sheet
from maskweave.training.validation import Means, Validation


@settings
class NarrowRecipe:
    """Everything that decides a run for narrow holes, except the images and the model."""

    width: Annotated[int, Field(ge=1, le=2**12)] = 8
    """Width in pixels of the widest holes that the model then fills by this decoder."""
    examples: ExamplesConfig = ExamplesConfig()
    """Pictures and holes, of validation as well."""
    loss: PaintingLoss = PaintingLoss()
    """Weights of the losses."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """Settings of the optimisers of the decoder and, alike, of the discriminator."""
    run: RunConfig = RunConfig()
    """Length, batch size, seed and intervals."""


class NarrowTask:
    """Trains the decoder for narrow holes of a model, of which all else stays as it is.

    A model without one gets it; one that has it goes on from there.
    """

    def __init__(
        self,
        recipe: NarrowRecipe,
        model: InpaintPipeline,
        validation: UInt8[Tensor, "batch 3 size size"],
        accelerator: Accelerator,
        course: Course,
    ) -> None:
        if not isinstance(tokenizer := model.tokenizer, VQGAN) or not tokenizer.guided:
            raise MaskweaveError("a decoder for narrow holes is for models with a guide")
        self.model, self.tokenizer = model, tokenizer
        started = tokenizer.narrow_decoder
        tokenizer.add_narrow(recipe.width)
        decoder = tokenizer.narrow_decoder = started or tokenizer.narrow_decoder
        assert decoder is not None
        decoder = decoder.train().to(memory_format=torch.channels_last)
        self.ema = averaged(decoder, recipe.optimiser.ema, accelerator)
        self.learner = Learner(decoder, recipe.optimiser, course, accelerator)
        self.painting = Painting(recipe.loss, self.learner, decoder.output.weight, accelerator)
        self.validation = Validation(validation, recipe.examples.holes, accelerator)

    def step(self, batch: Sequence[Any], step: int) -> Scalars:
        """Update the decoder, then the discriminator, on one batch."""
        example = Example(*batch)
        images, hole = example.unit_range(), torch.as_tensor(example.hole)
        guide = example.guide(images)

        def paint(rows: slice) -> tuple[Tensor, float]:
            return self.learner.model(None, images[rows], hole[rows], guide.rows(rows)), 0.0

        scalars = self.painting.step(images, hole, paint, step)
        self.ema.update_parameters(self.learner.module)
        return scalars

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Paint fixed holes of fixed images with the averaged weights."""
        means, sheet = Means(), Sheet()
        for chunk in self.validation:
            guide = interpolated(chunk.images, chunk.hole)
            whole = self.ema(None, chunk.images, chunk.hole, guide)
            sheet.add(chunk.images, chunk.holed, self.painting.measure(means, chunk, whole))
        return means.figures(), sheet.pictures("narrow")

    def export(self, directory: Path) -> None:
        """Write the whole model with the averaged decoder."""
        trained = self.tokenizer.narrow_decoder
        self.tokenizer.narrow_decoder = self.ema.module  # type: ignore[assignment]
        self.model.save_pretrained(directory)
        self.tokenizer.narrow_decoder = trained

    def flops(self) -> int:
        """Return the operations of one image's passes through the decoder and LPIPS."""
        decoder = deepcopy(self.ema.module)
        return self.painting.flops(
            lambda images, hole: decoder(None, images, hole, interpolated(images, hole)),
            self.tokenizer.image_size[0],
        )
