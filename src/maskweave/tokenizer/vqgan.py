"""VQGAN (Esser et al. 2021): an image to a grid of tokens, and tokens to an image."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskweave.errors import MaskweaveError
from maskweave.tokenizer.decoder import Decoder, identity_block
from maskweave.tokenizer.encoder import PatchEncoder
from maskweave.tokenizer.quantize import Codebook


@dataclass(frozen=True)
class TokenizerConfig:
    """Sizes of a tokenizer; the defaults are those of 64x64 images at f = 4."""

    image_size: int = 64
    """Side of the square images, in pixels."""
    patch: int = 4
    """Side of a token's patch, in pixels: the factor f, a power of two dividing the image size."""
    codebook_size: int = 1024
    """Number of codes."""
    code_dim: int = 8
    """Length of a code."""
    encoder_dim: int = 256
    """Width of the patch encoder."""
    encoder_blocks: int = 3
    """Residual blocks of the patch encoder."""
    channels: tuple[int, ...] = (32, 64, 192)
    """Decoder widths from pixels down to the token grid: log2(patch) + 1 multiples of 8."""
    decoder_blocks: int = 3
    """Residual blocks of the decoder at the token grid."""

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        sizes = (self.codebook_size, self.code_dim, self.encoder_dim)
        blocks = (self.encoder_blocks, self.decoder_blocks)
        if not (all(1 <= n <= 2**16 for n in sizes) and all(0 <= n <= 1000 for n in blocks)):
            raise MaskweaveError(f"sizes out of range: {self}")
        if self.patch != 2 ** (len(self.channels) - 1):
            raise MaskweaveError(
                f"patch {self.patch} needs log2(patch) + 1 channel widths, got {self.channels}"
            )
        if not self.patch <= self.image_size <= 2**12 or self.image_size % self.patch:
            raise MaskweaveError(
                f"image_size {self.image_size} is not a multiple of patch {self.patch} up to 4096"
            )
        if any(width % 8 or not 8 <= width <= 2**12 for width in self.channels):
            raise MaskweaveError(f"channel widths are multiples of 8 to 4096, got {self.channels}")

    @property
    def grid(self) -> int:
        """Tokens along one side."""
        return self.image_size // self.patch

    @property
    def length(self) -> int:
        """Tokens of one image."""
        return self.grid**2


class Reconstruction(NamedTuple):
    """What training needs of one pass."""

    images: Tensor
    """Float, (batch, 3, height, width)."""
    latents: Tensor
    """Float, (batch, length, code_dim): encoder outputs before quantisation."""
    tokens: Tensor
    """Int, (batch, length)."""
    codebook_loss: Tensor
    """Scalar."""


class VQGAN(nn.Module):
    """A patch encoder, a codebook, and a decoder that also sees the known pixels and the hole."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = PatchEncoder(
            config.patch, config.encoder_dim, config.encoder_blocks, config.code_dim
        )
        self.codebook = Codebook(config.codebook_size, config.code_dim)
        self.decoder = Decoder(config.channels, config.decoder_blocks, config.code_dim)

    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Int[Tensor, "batch length"]:
        """Return the tokens of images in [-1, 1], row by row."""
        return self.codebook.nearest(self.encoder(images))

    def codes(
        self, tokens: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch code_dim rows columns"]:
        """Return the code of each token, at its place, as the decoder takes them."""
        return self._on_grid(self.codebook.lookup(tokens))

    def decode(
        self,
        tokens: Int[Tensor, "batch length"],
        known: Float[Tensor, "batch 3 height width"] | None = None,
        hole: Bool[Tensor, "batch height width"] | None = None,
    ) -> Float[Tensor, "batch 3 height width"]:
        """Paint the image of these tokens.

        Parameters
        ----------
        tokens : Tensor
            Every token of the image, those under the hole included.
        known : Tensor, optional
            Image in [-1, 1]; what lies under the hole is never read.
        hole : Tensor, optional
            True in the hole. Without ``known`` and ``hole`` everything is hole: a plain decoder.

        Returns
        -------
        Tensor
            The whole image in [-1, 1]; its known pixels are close to, not equal to, ``known``.

        Raises
        ------
        MaskweaveError
            If only one of ``known`` and ``hole`` is given.
        """
        if (known is None) != (hole is None):
            raise MaskweaveError("known pixels and their hole go together: give both or neither")
        codes = self.codes(tokens)
        if known is None or hole is None:
            size = self.config.image_size
            known = codes.new_zeros(len(tokens), 3, size, size)
            hole = torch.ones(len(tokens), size, size, dtype=torch.bool, device=tokens.device)
        return self.decoder(codes, known, hole).clamp(-1, 1)

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        hole: Bool[Tensor, "batch height width"],
    ) -> Reconstruction:
        """Reconstruct images from their true tokens and what is known outside the hole."""
        latents = self.encoder(images)
        quantized = self.codebook(latents)
        painted = self.decoder(self._on_grid(quantized.codes), images, hole)
        return Reconstruction(painted, latents, quantized.tokens, quantized.loss)

    def deepen(self, blocks: int) -> None:
        """Add residual blocks to the decoder at the token grid, which at first change nothing."""
        self.config = replace(self.config, decoder_blocks=self.config.decoder_blocks + blocks)
        self.decoder.middle.extend(identity_block(self.config.channels[-1]) for _ in range(blocks))

    def _on_grid(
        self, codes: Float[Tensor, "batch length code_dim"]
    ) -> Float[Tensor, "batch code_dim rows columns"]:
        return codes.transpose(1, 2).unflatten(2, (self.config.grid, self.config.grid))
