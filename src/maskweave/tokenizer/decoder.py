"""The decoder: a U-Net that paints the hole from tokens while it looks at the known pixels."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from maskweave.guide import Guide, planes
from maskweave.tokenizer.norm import GroupNorm


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group norm, around a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = GroupNorm(8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to the same shape."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(hidden)))


class Decoder(nn.Module):
    """Paint an image from the codes of its tokens, the known pixels and the hole.

    The known pixels come down through the left side of the U-Net and meet the codes at the token
    grid; skips carry them to the right side, so that the fill joins them without a seam.

    Parameters
    ----------
    channels : sequence of int
        Widths from full resolution down to the token grid, each level half the size of the one
        before. Narrow where pixels are many and wide where they are few, for speed on a CPU.
    blocks : int
        Residual blocks at the token grid.
    codebook_dim : int
        Length of a code; 0 for a decoder that paints from the known pixels alone.
    guided : bool
        Paint the difference from a guide.
    """

    def __init__(
        self,
        channels: Sequence[int],
        blocks: int,
        codebook_dim: int,
        *,
        guided: bool = False,
    ) -> None:
        super().__init__()
        steps, self.widest = list(pairwise(channels)), channels[-1]
        self.stem = nn.Conv2d(5 if guided else 4, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(ResidualBlock(fine) for fine, _ in steps)
        self.downs = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in steps)
        self.embed = nn.Conv2d(codebook_dim, channels[-1], 1) if codebook_dim else None
        # What comes down from a whole picture, known or guessed, would drown the codes.
        self.meet = GroupNorm(8, channels[-1]) if guided else nn.Identity()
        self.middle = nn.Sequential(*(ResidualBlock(channels[-1]) for _ in range(blocks)))
        self.ups = nn.ModuleList(
            nn.Conv2d(coarse, fine, 3, padding=1) for fine, coarse in reversed(steps)
        )
        self.up_blocks = nn.ModuleList(ResidualBlock(fine) for fine, _ in reversed(steps))
        self.norm = GroupNorm(8, channels[0])
        self.output = nn.Conv2d(channels[0], 3, 3, padding=1)
        if guided:  # at first the guide itself is painted
            nn.init.zeros_(self.output.weight)
            nn.init.zeros_(self.output.bias)  # type: ignore[arg-type]
            if self.embed is not None:
                nn.init.normal_(self.embed.weight)  # of codes of length 1

    def deepen(self, blocks: int) -> None:
        """Add residual blocks at the token grid, which change nothing until they are trained."""
        for _ in range(blocks):
            block = ResidualBlock(self.widest)
            nn.init.zeros_(block.conv2.weight)
            nn.init.zeros_(block.conv2.bias)  # type: ignore[arg-type]
            self.middle.append(block)

    def forward(
        self,
        codes: Float[Tensor, "batch codebook_dim rows columns"] | None,
        known: Float[Tensor, "batch 3 height width"],
        hole: Bool[Tensor, "batch height width"],
        guide: Guide | None = None,
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return the whole image; nothing of ``known`` under the hole is read."""
        seen = planes(known, hole, guide)
        x = self.stem(seen)
        skips: list[Tensor] = []
        for block, down in zip(self.down_blocks, self.downs, strict=True):
            x = block(x)
            skips.append(x)
            x = down(x)
        x = self.meet(x)
        if self.embed is not None:
            x = x + self.embed(codes)
        x = self.middle(x)
        for up, block in zip(self.ups, self.up_blocks, strict=True):
            x = block(up(F.interpolate(x, scale_factor=2.0)) + skips.pop())
        painted = self.output(F.silu(self.norm(x)))
        return painted if guide is None else seen[:, :3] + painted
