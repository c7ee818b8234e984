"""Self-attention over the tokens of an image, and positions that turn queries and keys."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


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
