"""Ways to fill holes: those that need no training, the tokenizer's limit, and a model."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from maskweave import classical
from maskweave.call import InpaintOutput
from maskweave.data.augment import to_unit_range
from maskweave.domain import UNLIKE
from maskweave.evaluation.examples import Batch
from maskweave.images import Hole, Pixels, covered
from maskweave.maskgit import DecodeSettings
from maskweave.pipeline import InpaintPipeline
from maskweave.seeds import seeded
from maskweave.tokenizer.base import Tokenizer

Fill = Callable[[Batch], Sequence[Pixels]]
"""Fills the images of a batch; pixels outside the hole may come back changed, and are then as the
method paints them."""

WHOLE = 1024
"""Longest side, in pixels, of a photo that classical methods fill in one go, as others measure
them. In windows, as larger ones are, LPIPS of large holes is up to 9 % higher."""


def grey(batch: Batch) -> list[Pixels]:
    """Fill with mid-grey: the floor of every figure."""
    return [covered(image, hole) for image, hole in zip(batch.images, batch.holes, strict=True)]


def telea(batch: Batch) -> list[Pixels]:
    """Fill by fast marching (Telea 2004)."""
    return _each(classical.telea, batch)


def navier_stokes(batch: Batch) -> list[Pixels]:
    """Fill by fluid dynamics (Bertalmio et al. 2001)."""
    return _each(classical.navier_stokes, batch)


def biharmonic(batch: Batch) -> list[Pixels]:
    """Fill with a biharmonic function (Damelin and Hoang 2018)."""
    return _each(classical.biharmonic, batch)


def frequency_selective(batch: Batch) -> list[Pixels]:
    """Fill by frequency selective reconstruction (Seiler et al. 2015, Genser et al. 2018)."""
    return _each(classical.fsr, batch)


def reconstruction(tokenizer: Tokenizer) -> Fill:
    """Return the fill with the true tokens, for images of the tokenizer's size."""

    @torch.inference_mode()
    def fill(batch: Batch) -> Sequence[Pixels]:
        device = tokenizer.codes.device
        pixels = torch.from_numpy(np.stack(batch.images)).permute(0, 3, 1, 2)
        truth = to_unit_range(pixels.to(device))
        hole = torch.from_numpy(np.stack(batch.holes)).to(device)
        painted = tokenizer.decode(tokenizer.encode(truth), truth, hole)
        levels = ((painted + 1) * 127.5).round().byte()
        return list(levels.permute(0, 2, 3, 1).cpu().numpy())

    return fill


def by_model(pipeline: InpaintPipeline, settings: DecodeSettings, seed: int) -> Fill:
    """Return the fill by a model; ``maskweave inpaint --seed`` pastes the same into the image."""

    def fill(batch: Batch) -> list[Pixels]:
        output = run_model(pipeline, settings, seed, batch, keep_known=False)
        return [np.array(image) for image in output.images]

    return fill


def run_model(
    pipeline: InpaintPipeline, settings: DecodeSettings, seed: int, batch: Batch, **options: Any
) -> InpaintOutput:
    """Fill a batch, each image with noise of its own, drawn from the seed and the image's name.

    ``options`` are further ones of the pipeline. Pictures come as PIL images.
    """
    with warnings.catch_warnings():
        # Who measures a model on photos that it is not for means to.
        warnings.filterwarnings("ignore", message=UNLIKE)
        return pipeline(
            batch.images,
            batch.holes,
            generator=[seeded(seed, stem) for stem in batch.stems],
            output_type="pil",
            **asdict(settings),
            **options,
        )


def pasted(painted: Pixels, image: Pixels, hole: Hole) -> Pixels:
    """Return the painted pixels in the hole and the image's own outside it."""
    return np.where(hole[:, :, None], painted, image)


def _each(method: Callable[[Pixels, Hole, int], Pixels], batch: Batch) -> list[Pixels]:
    pairs = zip(batch.images, batch.holes, strict=True)
    return [method(image, hole, WHOLE) for image, hole in pairs]
