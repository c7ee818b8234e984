"""The transformer of valeoai/Halton-MaskGIT (Besnier et al. 2025), after DiT."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from maskweave.errors import MaskweaveError
from maskweave.foreign.base import ForeignConfig, LabelledTransformer, Size
from maskweave.settings import Blocks, settings

EPS = 1e-5
"""What keeps its norms from dividing by 0."""


@settings
class HaltonConfig(ForeignConfig):
    """Sizes of the transformer."""

    depth: Blocks
    """Number of blocks."""
    heads: Size
    """Attention heads; each is as wide as its share of the width, rounded down."""
    mlp_dim: Size
    """Hidden width of the feed-forward part."""
    classes: Size
    """Labels; one more stands for none."""
    registers: Annotated[int, Field(ge=0, le=2**10)] = 1
    """Tokens behind the image's that stand for nothing in it (Darcet et al. 2024)."""
    architecture: Literal["halton_transformer"] = "halton_transformer"
    """Tells components apart on disk."""

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        if self.heads > self.dim:
            raise MaskweaveError(f"dim {self.dim} is too little for {self.heads} heads")

    @property
    def attention_dim(self) -> int:
        """Width of all heads."""
        return self.dim // self.heads * self.heads


class HaltonAttention(nn.Module):
    """Self-attention without biases whose queries and keys are normalised over all heads."""

    def __init__(self, config: HaltonConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.dim, config.attention_dim, bias=False)
        self.key = nn.Linear(config.dim, config.attention_dim, bias=False)
        self.value = nn.Linear(config.dim, config.attention_dim, bias=False)
        self.output = nn.Linear(config.attention_dim, config.dim, bias=False)

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        """Return softmax(Q K^T / sqrt(d)) V, head by head, mixed by the output."""
        width = (self.query.out_features,)
        query, key = (F.rms_norm(each(x), width, eps=EPS) for each in (self.query, self.key))
        query, key, value = (
            each.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, d)
            for each in (query, key, self.value(x))
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.output(mixed.transpose(1, 2).flatten(2))  # (B, N, dim)


class HaltonMLP(nn.Module):
    """The feed-forward part, a SwiGLU without biases."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.value = nn.Linear(dim, hidden, bias=False)
        self.output = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        """Map (batch, length, dim) to the same shape."""
        return self.output(F.silu(self.gate(x)) * self.value(x))


# Peebles and Xie 2023, section 3.2, "adaLN-Zero block", with RMSNorm
class HaltonBlock(nn.Module):
    """Attention and a feed-forward part, whose norms and sums a class scales and shifts."""

    def __init__(self, config: HaltonConfig) -> None:
        super().__init__()
        self.modulation = nn.Linear(config.dim, 6 * config.dim)
        self.attention_norm = nn.RMSNorm(config.dim, eps=EPS)
        self.attention = HaltonAttention(config)
        self.mlp_norm = nn.RMSNorm(config.dim, eps=EPS)
        self.mlp = HaltonMLP(config.dim, config.mlp_dim)

    def forward(
        self, x: Float[Tensor, "batch length dim"], labels: Float[Tensor, "batch 1 dim"]
    ) -> Float[Tensor, "batch length dim"]:
        """Map (batch, length, dim) to the same shape, given the embeddings of the classes."""
        modulation = self.modulation(F.silu(labels))  # (B, 1, 6 dim)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation.chunk(6, dim=-1)
        x = x + gate * self.attention(self.attention_norm(x) * (1 + scale) + shift)
        return x + mlp_gate * self.mlp(self.mlp_norm(x) * (1 + mlp_scale) + mlp_shift)


class HaltonTransformer(LabelledTransformer):
    """Logits over the codes for the tokens of an image, each block told its class."""

    config: HaltonConfig

    def __init__(self, config: HaltonConfig) -> None:
        super().__init__()
        self.config = config
        self.class_embedding = nn.Embedding(config.classes + 1, config.dim)  # the last: no class
        self.token_embedding = nn.Embedding(config.codebook_size + 1, config.dim)
        self.position_embedding = nn.Parameter(torch.empty(config.length, config.dim))
        if config.registers:
            self.registers = nn.Parameter(torch.empty(config.registers, config.dim))
        self.blocks = nn.ModuleList(HaltonBlock(config) for _ in range(config.depth))
        self.final_norm = nn.RMSNorm(config.dim, eps=EPS)
        self.final_bias = nn.Parameter(torch.empty(config.dim))
        self.final_modulation = nn.Linear(config.dim, 2 * config.dim)
        self.bias = nn.Parameter(torch.empty(config.codebook_size + 1))

    def forward(
        self,
        tokens: Int[Tensor, "batch length"],
        masked: Bool[Tensor, "batch length"] | None = None,
        known: Float[Tensor, "batch length numbers"] | None = None,
        condition: Int[Tensor, "labels"] | None = None,
    ) -> Float[Tensor, "batch length codes"] | Float[Tensor, "masked codes"]:
        """Predict tokens, as every ``Transformer`` does."""
        x = self.final_norm(self.states(tokens, condition=condition)) + self.final_bias
        labels = F.silu(self._embedded(condition))
        shift, scale = self.final_modulation(labels).chunk(2, dim=-1)
        x = x * (1 + scale) + shift
        codes = self.config.codebook_size
        x = x if masked is None else x[masked]
        return F.linear(x, self.token_embedding.weight[:codes], self.bias[:codes])

    def states(
        self,
        tokens: Int[Tensor, "batch length"],
        known: Float[Tensor, "batch length numbers"] | None = None,
        blocks: int | None = None,
        condition: Int[Tensor, "labels"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Return the hidden states of the image's tokens, as every ``Transformer`` does."""
        x = self.token_embedding(tokens) + self.position_embedding
        if self.config.registers:
            x = torch.cat([x, self.registers.expand(len(x), -1, -1)], dim=1)
        labels = self._embedded(condition)
        for block in self.blocks[:blocks]:
            x = block(x, labels)
        return x[:, : self.config.length]

    def _embedded(self, condition: Int[Tensor, "labels"] | None) -> Float[Tensor, "labels 1 dim"]:
        """Return the embeddings of classes, for all images that of none without a condition."""
        if condition is None:
            condition = torch.full((1,), self.config.classes, device=self.device)
        return self.class_embedding(condition)[:, None]
