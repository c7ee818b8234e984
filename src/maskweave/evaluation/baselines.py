"""Ways to fill holes that need no training, and the limit that the tokenizer sets."""

from collections.abc import Callable, Sequence
from dataclasses import asdict

import cv2
import numpy as np
import torch
from skimage.restoration import inpaint_biharmonic

from maskweave.data.augment import to_unit_range
from maskweave.images import Hole, Pixels, covered
from maskweave.maskgit import DecodeSettings
from maskweave.pipeline import InpaintPipeline
from maskweave.tokenizer.base import Tokenizer

Fill = Callable[[Sequence[Pixels], Sequence[Hole]], Sequence[Pixels]]
"""Fills images; pixels outside the hole may come back changed, and are then as the method paints
them."""

RADIUS = 3
"""Pixels around each hole pixel that OpenCV looks at, as in its documentation's example."""


def grey(images: Sequence[Pixels], holes: Sequence[Hole]) -> list[Pixels]:
    """Fill with mid-grey: the floor of every figure."""
    return [covered(image, hole) for image, hole in zip(images, holes, strict=True)]


def telea(images: Sequence[Pixels], holes: Sequence[Hole]) -> list[Pixels]:
    """Fill by fast marching (Telea 2004), with OpenCV."""
    return _opencv(images, holes, cv2.INPAINT_TELEA)


def navier_stokes(images: Sequence[Pixels], holes: Sequence[Hole]) -> list[Pixels]:
    """Fill by fluid dynamics (Bertalmio et al. 2001), with OpenCV."""
    return _opencv(images, holes, cv2.INPAINT_NS)


def biharmonic(images: Sequence[Pixels], holes: Sequence[Hole]) -> list[Pixels]:
    """Fill with a biharmonic function (Damelin and Hoang 2018), with scikit-image.

    An image that is all hole becomes grey.
    """

    def fill(image: Pixels, hole: Hole) -> Pixels:
        if hole.all():
            return covered(image, hole)
        filled = inpaint_biharmonic(image, hole, channel_axis=-1)
        return (filled * 255).round().clip(0, 255).astype(np.uint8)

    return [fill(image, hole) for image, hole in zip(images, holes, strict=True)]


def reconstruction(tokenizer: Tokenizer) -> Fill:
    """Return the fill with the true tokens, for images of the tokenizer's size."""

    @torch.inference_mode()
    def fill(images: Sequence[Pixels], holes: Sequence[Hole]) -> Sequence[Pixels]:
        device = tokenizer.codes.device
        truth = to_unit_range(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(device))
        hole = torch.from_numpy(np.stack(holes)).to(device)
        painted = tokenizer.decode(tokenizer.encode(truth), truth, hole)
        levels = ((painted + 1) * 127.5).round().byte()
        return list(levels.permute(0, 2, 3, 1).cpu().numpy())

    return fill


def by_model(pipeline: InpaintPipeline, settings: DecodeSettings, seed: int) -> Fill:
    """Return the fill by a model; ``maskweave inpaint --seed`` pastes the same into the image."""

    def fill(images: Sequence[Pixels], holes: Sequence[Hole]) -> Sequence[Pixels]:
        return pipeline(
            list(images),
            list(holes),
            generator=[torch.Generator().manual_seed(seed) for _ in images],
            keep_known=False,
            output_type="np",
            **asdict(settings),
        ).images

    return fill


def pasted(painted: Pixels, image: Pixels, hole: Hole) -> Pixels:
    """Return the painted pixels in the hole and the image's own outside it."""
    return np.where(hole[:, :, None], painted, image)


def _opencv(images: Sequence[Pixels], holes: Sequence[Hole], method: int) -> list[Pixels]:
    return [
        # OpenCV reads under the hole where it meets the border of the image.
        cv2.inpaint(covered(image, hole), hole.astype(np.uint8), RADIUS, method)
        for image, hole in zip(images, holes, strict=True)
    ]
