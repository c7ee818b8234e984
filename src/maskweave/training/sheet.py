"""Sample pictures of training."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

COLUMNS = 12
"""Images of a sheet, side by side."""


class Sheet:
    """The first validation images, and below each what was made of it."""

    def __init__(self) -> None:
        self.images: list[Float[Tensor, "3 column_height width"]] = []

    @property
    def room(self) -> int:
        """How many images may yet come."""
        return COLUMNS - len(self.images)

    def add(self, *rows: Float[Tensor, "batch 3 height width"]) -> None:
        """Put images in [-1, 1] at the right end, each above those of the next row."""
        self.images += torch.cat([row[: self.room] for row in rows], dim=2).unbind()

    def pictures(self, name: str) -> dict[str, UInt8[Tensor, "height width 3"]]:
        """Return the sheet under its name; nothing in a process that has no image."""
        if not self.images:
            return {}
        picture = torch.cat(self.images, dim=2).clamp(-1, 1)
        picture = ((picture + 1) * 127.5).round().byte().permute(1, 2, 0)
        return {name: picture.contiguous()}
