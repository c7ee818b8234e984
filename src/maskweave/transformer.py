"""The bidirectional transformer that predicts masked tokens."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from maskweave.errors import MaskweaveError
from maskweave.settings import Blocks, settings

Size = Annotated[int, Field(ge=1, le=2**20)]
Dropout = Annotated[float, Field(ge=0, lt=1)]


@settings
class TransformerConfig:
    """Sizes of the transformer; the defaults are those of the reference experiment."""

    codebook_size: Size = 1024
    """Number of codes K; the mask token is one more."""
    grid: tuple[Size, Size] = (16, 16)
    """Rows and columns of the token grid."""
    dim: Size = 768
    """Width."""
    depth: Blocks = 15
    """Number of blocks."""
    heads: Size = 16
    """Attention heads; they share the width evenly."""
    mlp_dim: Size = 1536
    """Hidden width of the feed-forward part."""
    pre_norm: bool = False
    """Normalise before each part of a block instead of after its residual sum."""
    rms_norm: bool = False
    """Normalise by RMSNorm (Zhang and Sennrich 2019) instead of LayerNorm."""
    swiglu: bool = False
    """Gate the feed-forward part (SwiGLU, Shazeer 2020) instead of a GELU."""
    rotary: bool = False
    """Turn queries and keys by their 2-D positions (Su et al. 2021), beside the learned ones. A
    head's width is then a multiple of 4."""
    qk_norm: bool = False
    """Normalise queries and keys (Dehghani et al. 2023, ViT-22B)."""
    dropout: Dropout = 0.0
    """Dropout on embeddings and on what each part of a block adds."""
    attention_dropout: Dropout = 0.1
    """Dropout on attention weights, after the softmax."""
    tied_output: bool = True
    """Predict with the token embedding itself instead of a matrix of its own."""
    mask_logit: bool = False
    """Score the mask token beside the codes, as the reference experiment does; decoding passes over
    it."""
    patch_size: Annotated[int, Field(ge=0, le=256)] = 0
    """Side of a token's patch in pixels: the known pixels of each patch are then added to its
    token's embedding, as a patch partly in the hole has no token. 0 sees tokens alone, as in the
    paper."""
    guided: bool = False
    """See a guide's pixels under the hole beside the known ones; ``patch_size`` is then not 0."""
    architecture: Literal["bidirectional_transformer"] = "bidirectional_transformer"
    """Tells components apart on disk."""

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        if self.length > 2**20:
            raise MaskweaveError(f"a grid has at most 2**20 tokens, got {self.grid}")
        if self.guided and not self.patch_size:
            raise MaskweaveError("a guided transformer sees pixels: patch_size must not be 0")
        if self.dim % self.heads:
            raise MaskweaveError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if self.rotary and self.dim // self.heads % 4:
            raise MaskweaveError(f"2-D rotary positions need heads of a multiple of 4: {self}")

    @property
    def length(self) -> int:
        """Number of tokens N of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def mask_token(self) -> int:
        """The token that stands for an unknown one."""
        return self.codebook_size


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, dim: int, heads: int, dropout: float, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(dim, dim)  # W^Q of all heads, side by side
        self.key = nn.Linear(dim, dim)  # W^K
        self.value = nn.Linear(dim, dim)  # W^V
        self.output = nn.Linear(dim, dim)  # W^O
        self.query_norm = nn.RMSNorm(dim // heads) if qk_norm else nn.Identity()
        self.key_norm = nn.RMSNorm(dim // heads) if qk_norm else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        rotation: Float[Tensor, "2 length half"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Return softmax(Q K^T / sqrt(d)) V, head by head, mixed by W^O."""
        query, key, value = (
            linear(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, d)
            for linear in (self.query, self.key, self.value)
        )
        with torch.autocast(x.device.type, enabled=False):  # it leaves norms and angles to us
            query = _turned(self.query_norm, query, rotation).to(value.dtype)
            key = _turned(self.key_norm, key, rotation).to(value.dtype)
        mixed = _attend(query, key, value, self.dropout if self.training else 0.0)
        return self.output(mixed.transpose(1, 2).flatten(2))  # (B, N, dim)


def _attend(
    query: Float[Tensor, "batch heads length size"],
    key: Float[Tensor, "batch heads length size"],
    value: Float[Tensor, "batch heads length size"],
    dropout: float,
) -> Float[Tensor, "batch heads length size"]:
    """Return softmax(Q K^T / sqrt(d)) V (Vaswani et al. 2017, eq. 1)."""
    # The fused kernel's gradients are slow there: a step of training takes a fifth longer.
    if query.requires_grad and query.device.type == "cpu" and query.dtype == torch.bfloat16:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
        return F.dropout(scores.softmax(-1), dropout) @ value
    return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)


def _turned(
    norm: nn.Module, x: Float[Tensor, "batch heads length width"], rotation: Tensor | None
) -> Float[Tensor, "batch heads length width"]:
    """Normalise queries or keys in their norm's precision and turn them in float32."""
    if isinstance(norm, nn.RMSNorm):
        x = norm(x.to(norm.weight.dtype))
    return x if rotation is None else rotate(x.float(), rotation)


# Su et al. 2021, section 3.2.2, with half of the pairs for rows and half for columns
def rotation_2d(grid: tuple[int, int], width: int) -> Float[Tensor, "2 length half"]:
    """Return cosine and sine of the angles by which each pair of a head's numbers is turned.

    ``grid`` has the rows and columns of tokens; ``width`` is a head's, a multiple of 4.
    """
    rows, columns = (torch.arange(side, device="cpu")[:, None] for side in grid)
    frequencies = 100.0 ** -(
        torch.arange(width // 4, device="cpu") / (width // 4)
    )  # grids are short
    by_row = (rows * frequencies).repeat_interleave(grid[1], dim=0)  # (N, d / 4)
    by_column = (columns * frequencies).repeat(grid[0], 1)
    turned = torch.cat([by_row, by_column], dim=1)  # (N, d / 2)
    return torch.stack([turned.cos(), turned.sin()])


def rotate(
    x: Float[Tensor, "batch heads length width"], rotation: Float[Tensor, "2 length half"]
) -> Float[Tensor, "batch heads length width"]:
    """Turn the pairs (x_i, x_{i + d/2}): products of turned vectors see relative positions only."""
    cosine, sine = rotation
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)


class SwiGLU(nn.Module):
    """The feed-forward part W_3 (silu(W_1 x) * W_2 x) (Shazeer 2020, eq. 6)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden)
        self.value = nn.Linear(dim, hidden)
        self.output = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        """Map (batch, length, dim) to the same shape."""
        return self.output(F.silu(self.gate(x)) * self.value(x))


class Block(nn.Module):
    """Attention and a feed-forward part, each with a residual sum and a norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.attention = Attention(
            config.dim, config.heads, config.attention_dropout, config.qk_norm
        )
        self.attention_norm = _norm(config)
        if config.swiglu:
            self.mlp = SwiGLU(config.dim, config.mlp_dim)
        else:
            self.mlp = nn.Sequential(
                nn.Linear(config.dim, config.mlp_dim),
                nn.GELU(),
                nn.Linear(config.mlp_dim, config.dim),
            )
        self.mlp_norm = _norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        rotation: Float[Tensor, "2 length half"] | None,
    ) -> Float[Tensor, "batch length dim"]:
        """Map (batch, length, dim) to the same shape."""
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.attention_norm(x), rotation))
            return x + self.dropout(self.mlp(self.mlp_norm(x)))
        x = self.attention_norm(x + self.dropout(self.attention(x, rotation)))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class Transformer(nn.Module, ABC):
    """What predicts tokens; those who fill know no more of one."""

    config: TransformerConfig
    """Sizes, whatever it runs on."""
    backend: str = "torch"
    """What computes: torch, or the runtime of an exported graph."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Precision in which it computes."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where it computes."""

    @abstractmethod
    def forward(
        self,
        tokens: Int[Tensor, "batch length"],
        masked: Bool[Tensor, "batch length"] | None = None,
        known: Float[Tensor, "batch length numbers"] | None = None,
    ) -> Float[Tensor, "batch length codes"] | Float[Tensor, "masked codes"]:
        """Predict tokens.

        Parameters
        ----------
        tokens : Tensor
            Tokens in [0, codebook_size], the mask token included.
        masked : Tensor, optional
            Return logits at these positions only, row by row, and spare the rest of the work.
        known : Tensor, optional
            From ``holes.known_patches``; read only if the config has a ``patch_size``.

        Raises
        ------
        MaskweaveError
            If such a transformer is not given the known pixels.
        """

    @abstractmethod
    def states(
        self,
        tokens: Int[Tensor, "batch length"],
        known: Float[Tensor, "batch length numbers"] | None = None,
        blocks: int | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Return the hidden states after so many blocks, by default after all, as ``forward``."""


class BidirectionalTransformer(Transformer):
    """Logits over the codes for the tokens of an image, each seeing all others."""

    rotation: Tensor | None

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.codebook_size + 1, config.dim)
        self.position_embedding = nn.Parameter(torch.empty(config.length, config.dim))
        if config.patch_size:
            planes = 5 if config.guided else 4
            self.patch_embedding = nn.Linear(planes * config.patch_size**2, config.dim)
        self.embedding_norm = nn.LayerNorm(config.dim, eps=1e-12)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        # Post-norm blocks end in a norm of their own.
        self.final_norm = _norm(config) if config.pre_norm else nn.Identity()
        self.head = nn.Sequential(
            nn.Linear(config.dim, config.dim), nn.GELU(), nn.LayerNorm(config.dim, eps=1e-12)
        )
        scored = config.codebook_size + config.mask_logit
        if not config.tied_output:
            self.output = nn.Linear(config.dim, scored, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.length, scored))
        rotation = rotation_2d(config.grid, config.dim // config.heads) if config.rotary else None
        self.register_buffer("rotation", rotation, persistent=False)
        nn.init.normal_(self.position_embedding, std=0.02)
        self.apply(_initialise)

    def forward(
        self,
        tokens: Int[Tensor, "batch length"],
        masked: Bool[Tensor, "batch length"] | None = None,
        known: Float[Tensor, "batch length numbers"] | None = None,
    ) -> Float[Tensor, "batch length codes"] | Float[Tensor, "masked codes"]:
        """Predict tokens, as every ``Transformer`` does."""
        x = self.states(tokens, known)
        bias = self.bias
        if masked is not None:
            x, bias = x[masked], bias[masked.nonzero()[:, 1]]
        return self.scores(x, bias)

    def scores(
        self, states: Float[Tensor, "*shape dim"], bias: Float[Tensor, "*shape codes"]
    ) -> Float[Tensor, "*shape codes"]:
        """Return the logits of hidden states after all blocks, given the bias of their places."""
        return F.linear(self.head(self.final_norm(states)), self._codes()) + bias

    def states(
        self,
        tokens: Int[Tensor, "batch length"],
        known: Float[Tensor, "batch length numbers"] | None = None,
        blocks: int | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Return the hidden states after so many blocks, by default after all, as ``forward``."""
        x = self.token_embedding(tokens) + self.position_embedding
        if self.config.patch_size:
            if known is None:
                raise MaskweaveError("this transformer needs the known pixels beside the tokens")
            x = x + self.patch_embedding(known)
        x = self.dropout(self.embedding_norm(x))
        for block in self.blocks[:blocks]:
            x = block(x, self.rotation)
        return x

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.position_embedding.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.position_embedding.device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or round the weights, as ``to`` asks; angles are never rounded."""
        rotation = self.rotation
        super()._apply(fn, recurse)
        if rotation is not None:
            self.rotation = rotation.to(self.position_embedding.device)
        return self

    def _codes(self) -> Float[Tensor, "codes dim"]:
        """Return the rows that the last hidden state is compared with."""
        if self.config.tied_output:
            return self.token_embedding.weight[: self.bias.shape[1]]
        return self.output.weight


def _norm(config: TransformerConfig) -> nn.Module:
    return nn.RMSNorm(config.dim) if config.rms_norm else nn.LayerNorm(config.dim, eps=1e-12)


def _initialise(module: nn.Module) -> None:
    """Draw weights as minGPT does: a normal of width 0.02, biases zero."""
    if isinstance(module, nn.Linear | nn.Embedding):
        for name, parameter in module.named_parameters(recurse=False):
            if name == "weight":
                nn.init.normal_(parameter, std=0.02)
            else:
                nn.init.zeros_(parameter)
