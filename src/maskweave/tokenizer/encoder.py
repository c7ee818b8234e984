"""The patch encoder: each token is computed from its own patch of pixels and from nothing else."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ResidualMLP(nn.Module):
    """A residual two-layer perceptron over the channels of each position."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.hidden = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to (..., dim)."""
        return x + self.output(F.gelu(self.hidden(self.norm(x))))


class PatchEncoder(nn.Module):
    """Encode an image patch by patch.

    No position sees its neighbours, so the tokens of whole known patches are the same whether or
    not there is a hole beside them: the encoder cannot peek, and the known tokens of clean images,
    which training shows, are those that the sampler meets.
    """

    def __init__(self, patch: int, dim: int, blocks: int, codebook_dim: int) -> None:
        super().__init__()
        self.patch_size = patch
        self.embed = nn.Linear(3 * patch * patch, dim)
        self.blocks = nn.Sequential(*(ResidualMLP(dim) for _ in range(blocks)))
        self.norm = nn.LayerNorm(dim)
        self.output = nn.Linear(dim, codebook_dim)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch length codebook_dim"]:
        """Return the latent of every patch, row by row."""
        patches = F.pixel_unshuffle(images, self.patch_size)  # (B, 3 p p, h, w)
        # Rounded latents would have other tokens than those that the model is used with.
        with torch.autocast(images.device.type, enabled=False):
            x = patches.flatten(2).transpose(1, 2).to(self.output.weight.dtype)
            x = self.embed(x)  # (B, h w, dim)
            return self.output(self.norm(self.blocks(x)))
