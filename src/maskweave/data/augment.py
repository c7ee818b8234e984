"""Augmentations that keep a photo a photo: mirror images and shifts of a few pixels."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from maskweave.errors import MaskweaveError


def to_unit_range(
    images: UInt8[Tensor, "batch 3 height width"],
) -> Float[Tensor, "batch 3 height width"]:
    """Scale bytes to [-1, 1]."""
    return images.float() / 127.5 - 1


def check_shift(largest: int, size: int) -> None:
    """Raise MaskweaveError if ``flip_and_shift`` cannot shift images of this size that far."""
    if not 0 <= largest < size:
        raise MaskweaveError(f"shift {largest} must be at least 0 and less than the size {size}")


def flip_and_shift(
    images: Float[Tensor, "batch 3 height width"], largest: int, generator: torch.Generator
) -> Float[Tensor, "batch 3 height width"]:
    """Mirror half of the images and shift each by up to ``largest`` pixels, reflecting the border.

    The generator is on the CPU.
    """
    batch, _, height, width = images.shape
    flip = torch.rand(batch, generator=generator) < 0.5
    offsets = torch.randint(2 * largest + 1, (batch, 2), generator=generator).tolist()
    padded = F.pad(images, (largest,) * 4, mode="reflect")
    shifted = torch.stack(
        [padded[i, :, y : y + height, x : x + width] for i, (y, x) in enumerate(offsets)]
    )
    return torch.where(flip.to(images.device)[:, None, None, None], shifted.flip(-1), shifted)
