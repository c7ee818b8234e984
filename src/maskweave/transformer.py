"""The bidirectional transformer that predicts masked tokens."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from maskweave.attention import Attention, rotation_2d
from maskweave.errors import MaskweaveError
from maskweave.settings import settings

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
    depth: Annotated[int, Field(ge=1, le=1000)] = 15
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
    classes: Annotated[int, Field(ge=0, le=2**20)] = 0
    """Labels that an image may have, each with an embedding that is added to every token, as is one
    more for images without a label (Ho and Salimans 2022); 0 takes no labels."""
    class_names: tuple[str, ...] = ()
    """Names of the labels in their order, where they have any."""
    architecture: Literal["bidirectional_transformer"] = "bidirectional_transformer"
    """Tells components apart on disk."""

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        if self.length > 2**20:
            raise MaskweaveError(f"a grid has at most 2**20 tokens, got {self.grid}")
        if self.guided and not self.patch_size:
            raise MaskweaveError("a guided transformer sees pixels: patch_size must not be 0")
        if self.class_names and len(self.class_names) != self.classes:
            raise MaskweaveError(f"{len(self.class_names)} class_names for {self.classes} classes")
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


class SwiGLU(nn.Module):
    """The feed-forward part W_3 (silu(W_1 x) * W_2 x) (Shazeer 2020, eq. 6)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden)
        self.value = nn.Linear(dim, hidden)
        self.output = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
        """Map states to such of the same shape."""
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
        wanted: Int[Tensor, "wanted"] | None = None,
    ) -> Float[Tensor, "batch length dim"] | Float[Tensor, "wanted dim"]:
        """Return the new states, of all tokens or only of those wanted.

        ``wanted`` counts tokens through the whole batch. All are attended to; those that are not
        wanted are spared the feed-forward part.
        """
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.attention_norm(x), rotation))
            x = x if wanted is None else x.flatten(0, 1)[wanted]
            return x + self.dropout(self.mlp(self.mlp_norm(x)))
        x = self.attention_norm(x + self.dropout(self.attention(x, rotation)))
        x = x if wanted is None else x.flatten(0, 1)[wanted]
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class Transformer(nn.Module, ABC):
    """What predicts tokens; those who fill know no more of one."""

    config: Any
    """A frozen dataclass with an ``architecture``, from which ``checkpoint`` makes it again. It
    tells codebook_size, grid, length, dim, mask_token, patch_size and guided."""
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
        condition: Any = None,
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
        condition : optional
            From ``condition``: what the images show, alike for all of them or, with a leading axis
            of the batch, of each. None is the null condition: nothing is told.

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
        condition: Any = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Return the hidden states after so many blocks, by default after all, as ``forward``."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the labels in their order, where they have any."""
        return ()

    def condition(self, label: int | None, prompt: str | None) -> Any:
        """Return what ``forward`` takes for a label or a prompt; None where neither is given.

        Raises
        ------
        MaskweaveError
            If the transformer takes no such thing or the label is out of range.
        """
        for name, given in (("label", label), ("prompt", prompt)):
            if given is not None:
                raise MaskweaveError(f"this model takes no {name}")
        return None


class BidirectionalTransformer(Transformer):
    """Logits over the codes for the tokens of an image, each seeing all others."""

    config: TransformerConfig
    rotation: Tensor | None

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.codebook_size + 1, config.dim)
        self.position_embedding = nn.Parameter(torch.empty(config.length, config.dim))
        if config.patch_size:
            planes = 5 if config.guided else 4
            self.patch_embedding = nn.Linear(planes * config.patch_size**2, config.dim)
        if config.classes:
            self.class_embedding = nn.Embedding(config.classes + 1, config.dim)  # one: the null
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
        condition: Int[Tensor, "labels"] | None = None,
    ) -> Float[Tensor, "batch length codes"] | Float[Tensor, "masked codes"]:
        """Predict tokens, as every ``Transformer`` does."""
        if masked is None:
            return self.scores(self.states(tokens, known, condition=condition), self.bias)
        wanted = masked.flatten().nonzero()[:, 0]
        x = self.states(tokens, known, self.config.depth - 1, condition)
        x = self.blocks[-1](x, self.rotation, wanted)
        return self.scores(x, self.bias[wanted % self.config.length])

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
        condition: Int[Tensor, "labels"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Return the hidden states after so many blocks, by default after all, as ``forward``."""
        x = self.token_embedding(tokens) + self.position_embedding
        if self.config.classes:
            null = torch.full((1,), self.config.classes, device=x.device)
            x = x + self.class_embedding(null if condition is None else condition)[:, None]
        if self.config.patch_size:
            if known is None:
                raise MaskweaveError("this transformer needs the known pixels beside the tokens")
            x = x + self.patch_embedding(known)
        x = self.dropout(self.embedding_norm(x))
        for block in self.blocks[:blocks]:
            x = block(x, self.rotation)
        return x

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the labels in their order, where they have any."""
        return self.config.class_names

    def condition(self, label: int | None, prompt: str | None) -> Int[Tensor, "1"] | None:
        """Return the label as ``forward`` takes it."""
        classes = self.config.classes
        if label is None or not classes:
            return super().condition(label, prompt)
        if label >= classes:
            raise MaskweaveError(f"label {label} is not in 0 to {classes - 1}")
        super().condition(None, prompt)
        return torch.tensor([label], device=self.device)

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
