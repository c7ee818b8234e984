"""Validation: the same images and holes in every run, shared among the processes."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from maskweave.data.augment import to_unit_range
from maskweave.holes import draw_holes

PIXELS = 32 * 64 * 64
"""Pixels of the images that are looked at together: large images are few at a time."""


class Chunk(NamedTuple):
    """Some of the validation images, on the run's device."""

    numbers: range
    """Their places among all validation images."""
    images: Float[Tensor, "batch 3 height width"]
    """They are in [-1, 1]."""
    hole: Bool[Tensor, "batch height width"]
    """True in the hole of each."""

    @property
    def holed(self) -> Float[Tensor, "batch 3 height width"]:
        """The images, 0 in the hole."""
        return self.images.masked_fill(self.hole[:, None], 0.0)

    def first(self, number: int) -> "Chunk":
        """Return the first images alone."""
        return Chunk(self.numbers[:number], self.images[:number], self.hole[:number])

    def generators(self) -> list[torch.Generator]:
        """Return a generator for each image, seeded by its place."""
        return [torch.Generator().manual_seed(number) for number in self.numbers]


class Validation:
    """Fixed images with fixed holes of some kinds, of which each process sees a share in chunks."""

    def __init__(
        self,
        images: UInt8[Tensor, "batch 3 size size"],
        kinds: Sequence[str],
        accelerator: Accelerator,
    ) -> None:
        self.images, self.accelerator = images, accelerator
        self.processes = accelerator.num_processes
        size = images.shape[-1]
        self.holes = draw_holes(kinds, len(images), size, size, np.random.default_rng(0))
        self.at_once = max(1, PIXELS // size**2)

    def __iter__(self) -> Iterator[Chunk]:
        """Yield the chunks of this process, those of the main process being the first."""
        process, share = self.accelerator.process_index, len(self.images) / self.processes
        first, end = (math.ceil(share * i) for i in (process, process + 1))
        device = self.accelerator.device
        for start in range(first, end, self.at_once):
            numbers = range(start, min(start + self.at_once, end))
            rows = slice(numbers.start, numbers.stop)
            images = to_unit_range(self.images[rows].to(device))
            yield Chunk(numbers, images, self.holes[rows].to(device))


class Means:
    """Means of figures over the chunks of all processes."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[float, int]] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Count the values of some images or tokens."""
        total, number = self.sums.get(name, (0.0, 0))
        self.sums[name] = total + float(values.double().sum()), number + values.numel()

    def figures(self) -> dict[str, float]:
        """Return the means, named ``validation/...``; every process has to ask for them."""
        shares: list[dict[str, tuple[float, int]]] = gather_object([self.sums])
        names = {name: None for share in shares for name in share}  # in order
        sums = {n: np.sum([s[n] for s in shares if n in s], axis=0).tolist() for n in names}
        return {f"validation/{n}": total / max(1, number) for n, (total, number) in sums.items()}
