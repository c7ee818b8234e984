"""What transformers of other projects have in common."""

from typing import Annotated

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from maskweave.errors import MaskweaveError
from maskweave.settings import settings
from maskweave.transformer import Transformer

Size = Annotated[int, Field(ge=1, le=2**20)]


@settings
class ForeignConfig:
    """Sizes that those who fill ask for."""

    codebook_size: Size
    """Number of codes."""
    grid: tuple[Size, Size]
    """Rows and columns of the token grid."""
    dim: Size
    """Width."""

    @property
    def length(self) -> int:
        """Number of tokens of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def mask_token(self) -> int:
        """The token that stands for an unknown one, whatever row its embedding has."""
        return self.codebook_size

    @property
    def patch_size(self) -> int:
        """0, as none of them sees pixels."""
        return 0

    @property
    def guided(self) -> bool:
        """Whether it sees a guide's pixels: none does."""
        return False


class ForeignTransformer(Transformer):
    """A transformer that sees tokens and, where a project has conditions, those."""

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device


class LabelledTransformer(ForeignTransformer):
    """A transformer that can be told a class, as a number; its config has ``classes``."""

    def condition(self, label: int | None, prompt: str | None) -> Int[Tensor, "1"] | None:
        """Return the label as ``forward`` takes it."""
        super().condition(None, prompt)
        if label is None:
            return None
        if not 0 <= label < self.config.classes:
            raise MaskweaveError(f"label {label} is not in 0 to {self.config.classes - 1}")
        return torch.tensor([label], device=self.device)
