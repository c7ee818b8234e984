"""What a training step sees: pictures, holes in them, and guides under the holes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from maskweave.data.augment import (
    check_shift,
    coarse_fill,
    flip_and_shift,
    native_crop,
    out_of_focus,
    random_crop,
    to_unit_range,
    view,
)
from maskweave.data.cache import Images
from maskweave.data.sampler import Draw
from maskweave.errors import MaskweaveError
from maskweave.guide import Guide, interpolated
from maskweave.holes import KINDS, PHOTO_KINDS, check_kinds, draw_holes
from maskweave.settings import Share, settings


@settings
class ExamplesConfig:
    """Which pictures are made of the images, and the holes in them."""

    holes: tuple[str, ...] = KINDS
    """Kinds of holes that are drawn."""
    whole: Share = 0.1
    """Share of examples whose hole is everything."""
    crop: Share = 0.0
    """Least side of a random crop of a photo, as a share of the photo's shorter side; 0 takes whole
    images, cropped to their central square."""
    native: Share = 0.0
    """Share of random crops that keep the pixels of the photo, as fills at native pixels do."""
    soft: Share = 0.0
    """Share of random crops that are out of focus, so that smooth holes stay smooth."""
    shift: int = 4
    """Largest random shift of whole images, in pixels, less than the image size."""
    finer: Share = 0.0
    """Share of examples whose guide is the fill of a coarser level, for models with a guide."""

    def __post_init__(self) -> None:
        """Refuse unknown holes."""
        check_kinds(self.holes)

    @property
    def validated(self) -> tuple[str, ...]:
        """Kinds of holes of validation: the same ones for all runs on squares or on photos."""
        return PHOTO_KINDS if self.crop else KINDS

    def check(self, size: int, guided: bool) -> None:
        """Raise MaskweaveError unless a model of this image size can be trained so."""
        check_shift(self.shift, size)
        if self.finer and not guided:
            raise MaskweaveError("examples.finer is for models with a guide: model.guided=true")


class Example(NamedTuple):
    """A picture with a hole, or a batch of them."""

    image: UInt8[np.ndarray, "3 size size"] | UInt8[Tensor, "batch 3 size size"]
    hole: Bool[np.ndarray, "size size"] | Bool[Tensor, "batch size size"]
    coarse: UInt8[np.ndarray, "3 size size"] | UInt8[Tensor, "batch 3 size size"]
    """The fill of a coarser level; empty where no example of the run has one."""
    finer: bool | Bool[Tensor, "batch"]
    """Whether the coarse fill is the guide."""
    tokens: Int[np.ndarray, "length"] | Int[Tensor, "batch length"]
    """The image's tokens where they are cached, else empty."""
    seed: str | Sequence[str]
    """Seed of what is sampled for the hole, in digits: a number would be sent to a GPU, and reading
    it there waits for all that the GPU has yet to do."""
    label: int | Int[Tensor, "batch"]
    """What the image shows; 0 where no example of the run has a label."""

    def unit_range(self) -> Float[Tensor, "batch 3 size size"]:
        """Return the images of a batch in [-1, 1]."""
        return to_unit_range(torch.as_tensor(self.image)).contiguous(
            memory_format=torch.channels_last
        )

    def guide(self, images: Float[Tensor, "batch 3 size size"]) -> Guide:
        """Return the guide of a batch, whose ``unit_range`` these images are."""
        guide = interpolated(images, torch.as_tensor(self.hole))
        coarse, finer = torch.as_tensor(self.coarse), torch.as_tensor(self.finer)
        if coarse.numel() == 0:
            return guide
        chosen = torch.where(finer[:, None, None, None], to_unit_range(coarse), guide.pixels)
        return Guide(chosen, finer)

    def generators(self) -> list[torch.Generator]:
        """Return a generator for each image of a batch."""
        return [torch.Generator().manual_seed(int(seed)) for seed in self.seed]


class Examples(Dataset[Example]):
    """Examples drawn from a set of images.

    Parameters
    ----------
    images : Images
        The whole set: squares, or photos where random crops are wanted.
    indices : sequence of int
        Places of those that are drawn.
    size : int
        Side of the examples, in pixels.
    config : ExamplesConfig
        How they are made.
    tokens : numpy.ndarray, optional
        The tokens of the whole set in several views, of which one is drawn, instead of a crop or a
        shift at random.
    labels : sequence of int
        The label of every image of the whole set; empty if they have none.
    """

    def __init__(
        self,
        images: Images,
        indices: Sequence[int],
        size: int,
        config: ExamplesConfig,
        tokens: UInt[np.ndarray, "images views length"] | None = None,
        labels: Sequence[int] = (),
    ) -> None:
        self.images, self.indices, self.size = images, indices, size
        self.config, self.tokens, self.labels = config, tokens, labels

    def __getitem__(self, draw: Draw) -> Example:
        """Return one example."""
        config, rng, index = self.config, draw.rng(), self.indices[draw.image]
        image, tokens = self.images[index], np.empty(0, dtype=np.int64)
        if self.tokens is not None:
            number = int(rng.integers(self.tokens.shape[1]))
            image = view(image, index, number, config.shift)
            tokens = self.tokens[index, number].astype(np.int64)
        elif config.crop:
            if config.native and rng.random() < config.native:
                image = native_crop(image, self.size, rng)
            else:
                image = random_crop(image, self.size, config.crop, rng)
            if config.soft and rng.random() < config.soft:
                image = out_of_focus(image, rng)
        else:
            image = flip_and_shift(image, config.shift, rng)
        (hole,) = draw_holes(config.holes, 1, self.size, self.size, rng, config.whole).numpy()
        finer = rng.random() < config.finer
        coarse = np.zeros_like(image) if config.finer else np.empty((3, 0, 0), dtype=np.uint8)
        if finer:
            coarse = coarse_fill(image, rng)
        label = self.labels[index] if self.labels else 0
        return Example(image, hole, coarse, finer, tokens, str(rng.integers(2**62)), label)
