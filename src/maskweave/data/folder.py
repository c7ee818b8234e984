"""Folders of images as square uint8 tensors, and the order in which training reads them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from maskweave.errors import MaskweaveError
from maskweave.images import SUFFIXES, read_image


class ImageFolder(Dataset[Tensor]):
    """Every image below a folder, cropped to its central square and resized.

    Parameters
    ----------
    directory : Path
        Searched recursively for files with one of ``SUFFIXES``, in sorted order.
    size : int
        Side of the returned images, in pixels.

    Raises
    ------
    MaskweaveError
        If the folder is missing or holds no image; on access, if a file cannot be read.
    """

    def __init__(self, directory: Path, size: int) -> None:
        if not directory.is_dir():
            raise MaskweaveError(f"{directory} is not a folder")
        self.size = size
        self.files = sorted(p for p in directory.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not self.files:
            raise MaskweaveError(f"{directory} holds no image ({', '.join(SUFFIXES)})")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 size size"]:
        """Read one image."""
        image = Image.fromarray(read_image(self.files[index]).pixels)
        if image.size != (self.size, self.size):
            image = ImageOps.fit(image, (self.size, self.size), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


class StepSampler(Sampler[list[int]]):
    """Batches without end; which images step k sees depends on the seed and on k alone.

    Every epoch is its own permutation and leaves out the images that do not fill a last batch.
    """

    def __init__(self, length: int, batch_size: int, seed: int, first_step: int = 0) -> None:
        if not 1 <= batch_size <= length:
            raise MaskweaveError(f"batch size {batch_size} does not fit a set of {length} images")
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.first_step = first_step
        self.drop_last = True

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of ``first_step``, ``first_step + 1``, ..."""
        epoch, batch = divmod(self.first_step, self.length // self.batch_size)
        while True:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.length)
            for start in range(
                batch * self.batch_size, self.length - self.batch_size + 1, self.batch_size
            ):
                yield order[start : start + self.batch_size].tolist()
            epoch, batch = epoch + 1, 0
