"""The order in which training reads images, and the randomness that goes with each."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class Draw(NamedTuple):
    """An image of a training step and the seed of everything random about it.

    The seed belongs to the image's place in the whole batch, so that neither the process that draws
    it nor how many there are makes a difference.
    """

    image: int
    """Its index in the set."""
    seed: tuple[int, int, int]
    """Of the run, the step, and the place in the batch."""

    def rng(self) -> np.random.Generator:
        """Return a generator in the state that belongs to this draw."""
        return np.random.default_rng(self.seed)


class StepSampler(Sampler[list[Draw]]):
    """Batches without end; which images step k sees depends on the seed and on k alone.

    Every epoch is its own permutation and leaves out the images that do not fill a last batch.

    Parameters
    ----------
    length : int
        Images of the set.
    batch_size : int
        Images of a step, from 1 to ``length``.
    seed : int
        Of the run.
    first_step : int
        Where to begin.
    """

    def __init__(self, length: int, batch_size: int, seed: int, first_step: int = 0) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.first_step = first_step
        self.drop_last = True  # read by Accelerate

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield the batches of ``first_step``, ``first_step + 1``, ..."""
        step = self.first_step
        epoch, batch = divmod(step, self.length // self.batch_size)
        while True:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.length)
            for start in range(
                batch * self.batch_size, self.length - self.batch_size + 1, self.batch_size
            ):
                chosen = order[start : start + self.batch_size].tolist()
                yield [Draw(image, (self.seed, step, row)) for row, image in enumerate(chosen)]
                step += 1
            epoch, batch = epoch + 1, 0
