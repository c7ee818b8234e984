"""The transformer of google-research/maskgit (Chang et al. 2022), after BERT."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskweave.errors import MaskweaveError
from maskweave.foreign.base import ForeignConfig, LabelledTransformer, Size
from maskweave.settings import Blocks, settings
from maskweave.transformer import Block, TransformerConfig


@settings
class GoogleConfig(ForeignConfig):
    """Sizes of the transformer."""

    depth: Blocks
    """Number of blocks."""
    heads: Size
    """Attention heads; they share the width evenly."""
    mlp_dim: Size
    """Hidden width of the feed-forward part."""
    classes: Size
    """Labels, whose embeddings come behind those of the codes; that of the mask is the last."""
    architecture: Literal["google_transformer"] = "google_transformer"
    """Tells components apart on disk."""

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        if self.dim % self.heads:
            raise MaskweaveError(f"dim {self.dim} is not a multiple of heads {self.heads}")


class GoogleTransformer(LabelledTransformer):
    """Logits over the codes for the tokens of an image, before which stands that of its class.

    The project has no null class: without a label the mask stands in its place.
    """

    config: GoogleConfig

    def __init__(self, config: GoogleConfig) -> None:
        super().__init__()
        self.config = config
        rows = config.codebook_size + config.classes + 1
        self.token_embedding = nn.Embedding(rows, config.dim)
        self.position_embedding = nn.Parameter(torch.empty(1 + config.length, config.dim))
        self.embedding_norm = nn.LayerNorm(config.dim, eps=1e-12)
        self.blocks = nn.ModuleList(_block(config) for _ in range(config.depth))
        self.head = nn.Sequential(
            nn.Linear(config.dim, config.dim),
            nn.GELU(approximate="tanh"),
            nn.LayerNorm(config.dim, eps=1e-12),
        )
        self.bias = nn.Parameter(torch.empty(rows))

    def forward(
        self,
        tokens: Int[Tensor, "batch length"],
        masked: Bool[Tensor, "batch length"] | None = None,
        known: Float[Tensor, "batch length numbers"] | None = None,
        condition: Int[Tensor, "labels"] | None = None,
    ) -> Float[Tensor, "batch length codes"] | Float[Tensor, "masked codes"]:
        """Predict tokens, as every ``Transformer`` does."""
        x = self.states(tokens, condition=condition)
        codes = self.config.codebook_size
        x = self.head(x if masked is None else x[masked])
        return F.linear(x, self.token_embedding.weight[:codes], self.bias[:codes])

    def states(
        self,
        tokens: Int[Tensor, "batch length"],
        known: Float[Tensor, "batch length numbers"] | None = None,
        blocks: int | None = None,
        condition: Int[Tensor, "labels"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Return the hidden states of the image's tokens, as every ``Transformer`` does."""
        x = self.embed(tokens, condition)
        for block in self.blocks[:blocks]:
            x = block(x, None)
        return x[:, 1:]

    def embed(
        self, tokens: Int[Tensor, "batch length"], condition: Int[Tensor, "labels"] | None
    ) -> Float[Tensor, "batch length+1 dim"]:
        """Return what the first block sees: the class, then the tokens."""
        mask = self.token_embedding.num_embeddings - 1
        if condition is None:
            first = torch.full((1,), mask, device=tokens.device)
        else:
            first = condition + self.config.codebook_size
        first = first.expand(len(tokens))[:, None]
        rows = tokens.masked_fill(tokens == self.config.mask_token, mask)
        x = self.token_embedding(torch.cat([first, rows], dim=1)) + self.position_embedding
        return self.embedding_norm(x)


def _block(config: GoogleConfig) -> Block:
    ours = TransformerConfig(
        dim=config.dim, heads=config.heads, mlp_dim=config.mlp_dim, attention_dropout=0.0
    )
    block = Block(ours)
    block.mlp[1] = nn.GELU(approximate="tanh")  # type: ignore[index]
    return block
