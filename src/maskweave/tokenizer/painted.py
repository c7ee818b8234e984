"""Tokenizers with Maskweave's decoder: what they share, and the one around foreign encoders."""

from dataclasses import replace
from typing import Annotated, Any, Literal, Self

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from maskweave.errors import MaskweaveError
from maskweave.guide import Guide, interpolated
from maskweave.settings import Blocks, settings
from maskweave.tokenizer.base import Tokenizer
from maskweave.tokenizer.convolutional import ConvolutionalConfig, ConvolutionalVQGAN
from maskweave.tokenizer.decoder import Decoder

Width = Annotated[int, Field(ge=8, le=2**12, multiple_of=8)]

WIDTHS = (32, 256)
"""Widths of a decoder at the pixels and, at most, at the token grid, unless told otherwise."""


class PaintingTokenizer(Tokenizer):
    """A tokenizer whose decoder looks at the known pixels and the hole."""

    config: Any
    """It has a field ``decoder_blocks``."""
    decoder: Decoder
    sees_known = True

    def paint(
        self,
        codes: Float[Tensor, "batch length codebook_dim"],
        known: Float[Tensor, "batch 3 height width"] | None = None,
        hole: Bool[Tensor, "batch height width"] | None = None,
        guide: Guide | None = None,
    ) -> Float[Tensor, "batch 3 height width"]:
        """Paint images that join the known pixels."""
        if (known is None) != (hole is None):
            raise MaskweaveError("known pixels and their hole go together: give both or neither")
        if known is None or hole is None:
            known = codes.new_zeros(len(codes), 3, *self.image_size)
            hole = torch.ones(len(codes), *self.image_size, dtype=torch.bool, device=codes.device)
        guide = (guide or interpolated(known, hole)) if self.guided else None
        return self.decoder(self.on_grid(codes), known, hole, guide).clamp(-1, 1)

    def deepen(self, blocks: int) -> None:
        """Add residual blocks to the decoder at the token grid, which at first change nothing."""
        self.config = replace(self.config, decoder_blocks=self.config.decoder_blocks + blocks)
        self.decoder.deepen(blocks)


@settings
class PaintedConfig:
    """A foreign tokenizer's config, and sizes of the decoder that takes the place of its own."""

    source: ConvolutionalConfig
    """The foreign tokenizer, of whose decoder nothing is left."""
    channels: tuple[Width, ...]
    """Decoder widths from pixels down to the token grid: log2(patch_size) + 1 multiples of 8."""
    decoder_blocks: Blocks = 3
    """Residual blocks of the decoder at the token grid."""
    architecture: Literal["painted_vqgan"] = "painted_vqgan"
    """Tells components apart on disk."""

    def __post_init__(self) -> None:
        """Refuse a decoder that does not end at the size of the images."""
        if self.patch_size != 2 ** (len(self.channels) - 1):
            raise MaskweaveError(
                f"patch_size {self.patch_size} needs log2(patch_size) + 1 channel widths, "
                f"got {self.channels}"
            )

    @property
    def image_size(self) -> int:
        """Side of the square images, in pixels."""
        return self.source.image_size

    @property
    def patch_size(self) -> int:
        """Side of a token in pixels."""
        return self.source.patch_size

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return self.source.codebook_size

    @property
    def dilation(self) -> int:
        """Tokens around a hole that are masked with it."""
        return self.source.dilation


class PaintedVQGAN(PaintingTokenizer):
    """A foreign encoder and codebook, with a decoder that also sees the known pixels."""

    patch_local = False

    def __init__(self, config: PaintedConfig) -> None:
        super().__init__()
        self.config = config
        self.source = ConvolutionalVQGAN(config.source)
        del self.source.decoder, self.source.from_code
        dim = config.source.codebook_dim
        self.decoder = Decoder(config.channels, config.decoder_blocks, dim)

    @classmethod
    def around(cls, source: ConvolutionalVQGAN, channels: tuple[int, ...] = ()) -> Self:
        """Return a tokenizer with the encoder and the codes of another, and a decoder to train.

        Parameters
        ----------
        source : ConvolutionalVQGAN
            It stays as it is, and its weights are shared.
        channels : tuple of int
            As in ``PaintedConfig``; by default they double from one of ``WIDTHS`` to the other.

        Raises
        ------
        MaskweaveError
            If there are not as many channels as the patches need.
        """
        least, most = WIDTHS
        levels = range(source.patch_size.bit_length())
        usual = tuple(min(least << level, most) for level in levels)
        made = cls(PaintedConfig(source.config, channels or usual))
        made.source.load_state_dict(source.state_dict(), strict=False, assign=True)
        return made

    @property
    def codes(self) -> Float[Tensor, "codebook_size codebook_dim"]:
        """The vector of every code."""
        return self.source.codes

    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Int[Tensor, "batch length"]:
        """Return the tokens of images in [-1, 1], row by row."""
        return self.source.encode(images)

    def on_grid(
        self, codes: Float[Tensor, "batch length codebook_dim"]
    ) -> Float[Tensor, "batch codebook_dim rows columns"]:
        """Return codes at their places, scaled to numbers around 1, as a decoder learns best."""
        return super().on_grid(codes) / self.codes.square().mean().sqrt()
