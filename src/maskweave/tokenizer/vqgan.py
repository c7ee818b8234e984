"""VQGAN (Esser et al. 2021): an image to a grid of tokens, and tokens to an image."""

from dataclasses import replace
from typing import Annotated, Literal, NamedTuple

from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from maskweave.errors import MaskweaveError
from maskweave.guide import Guide
from maskweave.holes import token_mask
from maskweave.settings import Blocks, settings
from maskweave.tokenizer.decoder import Decoder
from maskweave.tokenizer.encoder import PatchEncoder
from maskweave.tokenizer.painted import PaintingTokenizer, Width
from maskweave.tokenizer.quantize import Codebook

Size = Annotated[int, Field(ge=1, le=2**16)]

NARROW_BLOCKS = 1
"""Residual blocks at the token grid of a decoder for narrow holes, which need no wide view."""


@settings
class TokenizerConfig:
    """Sizes of a tokenizer; the defaults are those of 64x64 images at f = 4."""

    image_size: Annotated[int, Field(ge=1, le=2**12)] = 64
    """Side of the square images, in pixels."""
    patch_size: int = 4
    """Side of a token's patch, in pixels: the factor f, a power of two dividing the image size."""
    codebook_size: Size = 1024
    """Number of codes."""
    codebook_dim: Size = 8
    """Length of a code."""
    encoder_dim: Size = 256
    """Width of the patch encoder."""
    encoder_blocks: Blocks = 3
    """Residual blocks of the patch encoder."""
    channels: tuple[Width, ...] = (32, 64, 192)
    """Decoder widths from pixels down to the token grid: log2(patch_size) + 1 multiples of 8."""
    decoder_blocks: Blocks = 3
    """Residual blocks of the decoder at the token grid."""
    guided: bool = False
    """Paint the difference from a guide under the hole, rather than the picture itself."""
    narrow: Annotated[int, Field(ge=0, le=2**12)] = 0
    """Width in pixels of the widest holes that a second, smaller decoder paints from the known
    pixels alone, for models with a guide; 0 has none."""
    architecture: Literal["patch_vqgan"] = "patch_vqgan"
    """Tells components apart on disk."""

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        if self.patch_size != 2 ** (len(self.channels) - 1):
            raise MaskweaveError(
                f"patch_size {self.patch_size} needs log2(patch_size) + 1 channel widths, "
                f"got {self.channels}"
            )
        if self.image_size % self.patch_size:
            raise MaskweaveError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        if self.narrow and not self.guided:
            raise MaskweaveError("a decoder for narrow holes is for models with a guide")


class Reconstruction(NamedTuple):
    """What training needs of one pass."""

    images: Tensor
    """Float, (batch, 3, height, width)."""
    latents: Tensor
    """Float, (batch, length, codebook_dim): encoder outputs before quantisation."""
    tokens: Tensor
    """Int, (batch, length)."""
    codebook_loss: Tensor
    """Scalar."""


class VQGAN(PaintingTokenizer):
    """A patch encoder, a codebook, and a decoder that also sees the known pixels and the hole."""

    patch_local = True

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = PatchEncoder(
            config.patch_size, config.encoder_dim, config.encoder_blocks, config.codebook_dim
        )
        self.codebook = Codebook(config.codebook_size, config.codebook_dim)
        self.guided = config.guided
        self.decoder = Decoder(
            config.channels,
            config.decoder_blocks,
            config.codebook_dim,
            guided=config.guided,
        )
        self.narrow_decoder: Decoder | None = None
        if config.narrow:
            self.add_narrow(config.narrow)

    def add_narrow(self, width: int) -> None:
        """Add a decoder for holes up to a width in pixels, which at first paints the guide."""
        self.config = replace(self.config, narrow=width)
        self.narrow_decoder = Decoder(self.config.channels, NARROW_BLOCKS, 0, guided=True)

    def paint_narrow(
        self,
        known: Float[Tensor, "batch 3 height width"],
        hole: Bool[Tensor, "batch height width"],
        guide: Guide,
    ) -> Float[Tensor, "batch 3 height width"]:
        """Paint images with narrow holes, without codes."""
        if self.narrow_decoder is None:
            return super().paint_narrow(known, hole, guide)
        return self.narrow_decoder(None, known, hole, guide).clamp(-1, 1)

    @property
    def codes(self) -> Float[Tensor, "codebook_size codebook_dim"]:
        """The unit-length vector of every code."""
        return self.codebook.codes

    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Int[Tensor, "batch length"]:
        """Return the tokens of images in [-1, 1], row by row."""
        return self.codebook.nearest(self.encoder(images))

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        hole: Bool[Tensor, "batch height width"],
        guide: Guide | None = None,
        unknown: Bool[Tensor, "batch"] | None = None,
    ) -> Reconstruction:
        """Reconstruct images from their true tokens and what is known outside the hole.

        Where ``unknown``, the tokens under an image's hole are kept from the decoder: their codes
        are zero, the mean of a codebook of which nothing is likelier than the rest.
        """
        latents = self.encoder(images)
        quantized = self.codebook(latents)
        codes = quantized.codes
        if unknown is not None:
            codes = self.hidden(codes, hole, unknown)
        painted = self.decoder(self.on_grid(codes), images, hole, guide)
        return Reconstruction(painted, latents, quantized.tokens, quantized.loss)

    def hidden(
        self,
        codes: Float[Tensor, "batch length codebook_dim"],
        hole: Bool[Tensor, "batch height width"],
        unknown: Bool[Tensor, "batch"],
    ) -> Float[Tensor, "batch length codebook_dim"]:
        """Return codes without those under the holes of the images that are ``unknown``."""
        where = token_mask(hole, self.patch_size) & unknown[:, None]
        return codes.masked_fill(where[..., None], 0.0)
