"""Convolutional VQGANs, whose layers many projects share, for weights that were trained elsewhere.

The layers are those of VQGAN (Esser et al. 2021, appendix, table 7), after Ho et al. 2020.
"""

from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from maskweave.errors import MaskweaveError
from maskweave.guide import Guide
from maskweave.settings import settings
from maskweave.tokenizer.base import Tokenizer

Layer = Literal["residual", "attention", "down", "pool", "up"]
"""Two convolutions around a skip; self-attention over all positions; half the size, by a
convolution or by means of 2x2; double the size."""

Variant = Literal["taming", "maskgit", "lab"]

Size = Annotated[int, Field(ge=1, le=2**16)]
Width = Annotated[int, Field(ge=32, le=2**12, multiple_of=32)]
Colour = Annotated[float, Field(gt=0)]


@settings
class ConvolutionalConfig:
    """Layers and sizes of a convolutional VQGAN."""

    encoder: tuple[Layer, ...]
    """Layers between the encoder's first convolution and its last norm."""
    encoder_channels: tuple[Width, ...]
    """Widths, multiples of 32: of the first convolution and of what each layer puts out."""
    decoder: tuple[Layer, ...]
    """Layers of the decoder, likewise, which double the size as often as ``encoder`` halves it."""
    decoder_channels: tuple[Width, ...]
    """Widths of the decoder, as in ``encoder_channels``."""
    image_size: Annotated[int, Field(ge=1, le=2**12)] = 64
    """Side of the square images, in pixels."""
    codebook_size: Size = 1024
    """Number of codes."""
    codebook_dim: Size = 256
    """Length of a code."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """What the networks see as 0 of red, green and blue, in [0, 1]."""
    std: tuple[Colour, Colour, Colour] = (0.5, 0.5, 0.5)
    """What they see as 1, less the mean."""
    latent_dim: Size | None = None
    """Channels that the encoder puts out and the decoder takes, if not as many as a code has."""
    unit_codes: bool = False
    """Bring codes to length 1 before latents are compared with them and before they are painted."""
    variant: Variant = "taming"
    """How a project's code departs from VQGAN's. ``maskgit``: no biases in the residual blocks and
    the encoder's first convolution; blocks that change the width project what they put out rather
    than what they take in; the encoder ends in a 1x1 convolution, and none stands before or behind
    the codes. ``lab``: no activation before the decoder's last convolution."""
    dilation: Annotated[int, Field(ge=0, le=2**8)] = 0
    """Tokens around a hole that are masked with it, as in ``Tokenizer``."""
    architecture: Literal["convolutional_vqgan"] = "convolutional_vqgan"
    """Tells components apart on disk."""

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        _check_layers(self.encoder, self.encoder_channels, without={"up"})
        _check_layers(self.decoder, self.decoder_channels, without={"down", "pool"})
        if self.patch_size != 2 ** self.decoder.count("up"):
            raise MaskweaveError("the decoder does not end at the size that the encoder starts at")
        if self.image_size % self.patch_size:
            raise MaskweaveError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        if self.variant == "maskgit" and self.latent_dim not in (None, self.codebook_dim):
            raise MaskweaveError(f"codes of {self.codebook_dim} numbers, latents of others")

    @property
    def patch_size(self) -> int:
        """Side of a token in pixels."""
        return 2 ** (self.encoder.count("down") + self.encoder.count("pool"))


class Residual(nn.Module):
    """Two 3x3 convolutions with group norm, around a skip."""

    def __init__(self, before: int, after: int, maskgit: bool = False) -> None:
        super().__init__()
        self.norm1 = _norm(before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=not maskgit)
        self.norm2 = _norm(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=not maskgit)
        self.projects = before != after
        self.maskgit = maskgit
        projected = after if maskgit else before
        self.skip = (
            nn.Conv2d(projected, after, 1, bias=not maskgit) if self.projects else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, before, height, width) to (batch, after, height, width)."""
        hidden = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        # MaskGIT's own code calls its projection on the wrong variable, and its weights rely on it.
        return self.skip(hidden if self.projects and self.maskgit else x) + hidden


class Attention(nn.Module):
    """Self-attention of one head over all positions, around a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.output = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to the same shape."""
        normed = self.norm(x)
        query, key, value = (
            convolution(normed).flatten(2).transpose(1, 2)[:, None]  # (B, 1, h w, C)
            for convolution in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)[:, 0]
        return x + self.output(mixed.transpose(1, 2).unflatten(2, x.shape[2:]))


class Resize(nn.Module):
    """Half or double the size, with a 3x3 convolution."""

    def __init__(self, channels: int, kind: Literal["down", "up"]) -> None:
        super().__init__()
        self.kind = kind
        self.conv = (
            nn.Conv2d(channels, channels, 3, stride=2)
            if kind == "down"
            else nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to half or double the height and width."""
        if self.kind == "down":
            return self.conv(F.pad(x, (0, 1, 0, 1)))
        return self.conv(F.interpolate(x, scale_factor=2.0))


class Stack(nn.Module):
    """The encoder or the decoder: a convolution, layers, a norm and a convolution.

    Parameters
    ----------
    before, after : int
        Widths of what comes in and goes out.
    layers, channels, variant
        As in ``ConvolutionalConfig``.
    decodes : bool
        Whether this is the decoder.
    """

    def __init__(
        self,
        before: int,
        layers: tuple[Layer, ...],
        channels: tuple[int, ...],
        after: int,
        variant: Variant,
        decodes: bool,
    ) -> None:
        super().__init__()
        maskgit = variant == "maskgit"
        self.first = nn.Conv2d(before, channels[0], 3, padding=1, bias=decodes or not maskgit)
        self.layers = nn.Sequential(
            *(
                _layer(kind, *sizes, maskgit)
                for kind, sizes in zip(layers, pairwise(channels), strict=True)
            )
        )
        self.norm = _norm(channels[-1])
        self.activation = nn.Identity() if decodes and variant == "lab" else nn.SiLU()
        kernel = 1 if maskgit and not decodes else 3
        self.last = nn.Conv2d(channels[-1], after, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, before, height, width) to (batch, after, height', width')."""
        return self.last(self.activation(self.norm(self.layers(self.first(x)))))


class ConvolutionalVQGAN(Tokenizer):
    """A convolutional encoder, a codebook, and a decoder that sees nothing but the codes.

    Every token sees far beyond its patch, by the group norms all of the image: of images with a
    hole ``encode_known`` has tokens that depend on no pixel in it.
    """

    sees_known = False
    patch_local = False

    def __init__(self, config: ConvolutionalConfig) -> None:
        super().__init__()
        self.config = config
        code, latent = config.codebook_dim, config.latent_dim or config.codebook_dim
        self.encoder = Stack(
            3, config.encoder, config.encoder_channels, latent, config.variant, False
        )
        self.codebook = nn.Embedding(config.codebook_size, code)
        self.to_code, self.from_code = nn.Identity(), nn.Identity()
        if config.variant != "maskgit":
            self.to_code = nn.Conv2d(latent, code, 1)
            self.from_code = nn.Conv2d(code, latent, 1)
        self.decoder = Stack(
            latent, config.decoder, config.decoder_channels, 3, config.variant, True
        )

    @property
    def codes(self) -> Float[Tensor, "codebook_size codebook_dim"]:
        """The vector of every code."""
        weight = self.codebook.weight
        return F.normalize(weight, dim=-1) if self.config.unit_codes else weight

    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Int[Tensor, "batch length"]:
        """Return the tokens of images in [-1, 1], row by row."""
        mean, std = self._colours(images.device)
        # Rounded latents would have other tokens than those that the model is used with.
        with torch.autocast(images.device.type, enabled=False):
            seen = ((images + 1) / 2 - mean) / std
            latents = self.to_code(self.encoder(seen.to(self.codebook.weight.dtype)))
            latents = latents.flatten(2).transpose(1, 2)  # (B, N, D)
            # Squared distances without the term that all codes share.
            codes = self.codes
            return (codes.square().sum(1) - 2 * latents @ codes.T).argmin(-1)

    def paint(
        self,
        codes: Float[Tensor, "batch length codebook_dim"],
        known: Float[Tensor, "batch 3 height width"] | None = None,
        hole: Bool[Tensor, "batch height width"] | None = None,
        guide: Guide | None = None,
    ) -> Float[Tensor, "batch 3 height width"]:
        """Paint images from their codes alone."""
        mean, std = self._colours(codes.device)
        painted = self.decoder(self.from_code(self.on_grid(codes))) * std + mean
        return (painted * 2 - 1).clamp(-1, 1)

    def _colours(self, device: torch.device) -> Float[Tensor, "2 3 1 1"]:
        colours = torch.tensor([self.config.mean, self.config.std], device=device)
        return colours[:, :, None, None]


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


def _layer(kind: Layer, before: int, after: int, maskgit: bool) -> nn.Module:
    if kind == "residual":
        return Residual(before, after, maskgit)
    if kind == "attention":
        return Attention(before)
    return nn.AvgPool2d(2) if kind == "pool" else Resize(before, kind)


def _check_layers(
    layers: tuple[Layer, ...], channels: tuple[int, ...], without: set[Layer]
) -> None:
    if len(layers) > 1000 or len(channels) != len(layers) + 1 or without & set(layers):
        raise MaskweaveError(f"no stack of layers: {layers} of widths {channels}")
    for kind, (before, after) in zip(layers, pairwise(channels), strict=True):
        if kind != "residual" and before != after:
            raise MaskweaveError(f"{kind} cannot change the width from {before} to {after}")
