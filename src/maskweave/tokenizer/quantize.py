"""The codebook: vector quantisation with straight-through gradients."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

TEMPERATURE = 0.01
"""Temperature at which squared distances to the codes become probabilities."""


class Quantized(NamedTuple):
    """What quantisation returns."""

    codes: Tensor
    """Float, (batch, length, codebook_dim): the nearest codes; gradients pass straight through."""
    tokens: Tensor
    """Int, (batch, length): their indices."""
    loss: Tensor
    """Scalar: codebook loss plus commitment loss."""


class Codebook(nn.Module):
    """Few-dimensional codes on the unit sphere (ViT-VQGAN, Yu et al. 2022, 3.2).

    Codes that fall out of use are seeded again from encoder outputs by ``revive``.
    """

    usage: Tensor

    def __init__(self, size: int, codebook_dim: int, commitment: float = 0.25) -> None:
        super().__init__()
        weight = nn.init.normal_(torch.empty(size, codebook_dim))
        self.weight = nn.Parameter(F.normalize(weight, dim=-1))
        self.commitment = commitment
        # Running share of tokens per code, in units of an even share: 1 means used like the others.
        self.register_buffer("usage", torch.ones(size))

    def forward(self, latents: Float[Tensor, "batch length codebook_dim"]) -> Quantized:
        """Replace latents by their nearest codes (VQ-VAE, van den Oord et al. 2017, eq. 2, 3)."""
        tokens = self.nearest(latents)
        latents = F.normalize(latents.float(), dim=-1)
        codes = self.codes[tokens]
        loss = (codes - latents.detach()).square().sum(-1).mean() + self.commitment * (
            latents - codes.detach()
        ).square().sum(-1).mean()
        return Quantized(latents + (codes - latents).detach(), tokens, loss)

    def nearest(
        self, latents: Float[Tensor, "batch length codebook_dim"]
    ) -> Int[Tensor, "batch length"]:
        """Return the index of the code with the largest cosine similarity, in float32."""
        latents = F.normalize(latents.float(), dim=-1)
        with torch.autocast(latents.device.type, enabled=False):
            return (latents @ F.normalize(self.weight.float(), dim=-1).T).argmax(-1)

    # Chang et al. 2022, the tokenizer of MaskGIT's code; Yu et al. 2024 (MAGVIT-v2), section 3.1
    def entropy_loss(
        self, latents: Float[Tensor, "batch length codebook_dim"]
    ) -> Float[Tensor, ""]:
        """Return how unsure latents are of their codes, less how evenly these use all codes.

        Latents that are all alike would cost the other losses nothing: this keeps them apart.
        """
        latents = F.normalize(latents.float(), dim=-1).flatten(0, 1)
        with torch.autocast(latents.device.type, enabled=False):
            similarity = latents @ F.normalize(self.weight.float(), dim=-1).T  # (B N, K)
            logarithms = (2 * similarity / TEMPERATURE).log_softmax(-1)
        probabilities = logarithms.exp()
        own = -(probabilities * logarithms).sum(-1).mean()
        # The slope of the entropy is infinite at 0, where codes are far from all latents.
        return own - torch.special.entr(probabilities.mean(0).clamp(min=1e-30)).sum()

    @property
    def codes(self) -> Float[Tensor, "size codebook_dim"]:
        """The codes, of unit length."""
        return F.normalize(self.weight, dim=-1)

    @torch.no_grad()
    def revive(
        self,
        latents: Float[Tensor, "batch length codebook_dim"],
        tokens: Int[Tensor, "batch length"],
        generator: torch.Generator,
        decay: float = 0.99,
        dead_below: float = 0.05,
    ) -> Bool[Tensor, "size"]:
        """Record which codes are in use and move the dead ones onto latents of this batch.

        Parameters
        ----------
        latents, tokens : Tensor
            Encoder outputs and their tokens, of all processes together.
        generator : torch.Generator
            Source of randomness, on the CPU, in the same state in every process.
        decay : float
            Decay of the running usage, in [0, 1).
        dead_below : float
            A code used less than this share of the even usage is dead.

        Returns
        -------
        Tensor
            The codes that were moved: whatever else is known of their weights is out of date.
        """
        counts = token_counts(tokens, len(self.weight))
        self.usage.lerp_(counts * (len(self.weight) / tokens.numel()), 1 - decay)
        return self._place(self.usage < dead_below, latents, generator)

    @torch.no_grad()
    def revive_all(
        self, latents: Float[Tensor, "batch length codebook_dim"], generator: torch.Generator
    ) -> Bool[Tensor, "size"]:
        """Move all codes onto latents, so that a training begins with every code in use."""
        return self._place(torch.ones_like(self.usage, dtype=torch.bool), latents, generator)

    def _place(self, codes: Tensor, latents: Tensor, generator: torch.Generator) -> Tensor:
        """Move codes, each onto a latent of its own, as far as these go; return those moved."""
        candidates = F.normalize(latents.float().flatten(0, 1), dim=-1)
        order = torch.randperm(len(candidates), generator=generator).to(candidates.device)
        # Without a look at how many there are, so that a GPU need not be waited for.
        rank = codes.cumsum(0) - 1
        moved = codes & (rank < len(candidates))
        chosen = candidates[order[rank.clamp(0, len(candidates) - 1)]]
        self.weight.copy_(torch.where(moved[:, None], chosen, self.weight))
        self.usage.masked_fill_(moved, 1.0)
        return moved


def token_counts(tokens: Int[Tensor, "*shape"], size: int) -> Float[Tensor, "size"]:
    """Count how often each code occurs; unlike ``bincount`` without waiting for a GPU."""
    flat = tokens.flatten()
    return torch.zeros(size, device=flat.device).index_add_(
        0, flat, torch.ones_like(flat, dtype=torch.float32)
    )
