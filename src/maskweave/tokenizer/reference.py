"""The VQGAN of the reference experiment, for weights that were trained with it."""

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

Layer = Literal["residual", "attention", "down", "up"]
"""Two convolutions around a skip, self-attention over all positions, half or double the size."""

Size = Annotated[int, Field(ge=1, le=2**16)]
Width = Annotated[int, Field(ge=32, le=2**12, multiple_of=32)]
Colour = Annotated[float, Field(gt=0)]


@settings
class ReferenceConfig:
    """Layers and sizes of a reference VQGAN."""

    encoder: tuple[Layer, ...]
    """Layers between the encoder's first convolution and its last norm."""
    encoder_channels: tuple[Width, ...]
    """Widths, multiples of 32: of the first convolution and of what each layer puts out."""
    decoder: tuple[Layer, ...]
    """Layers of the decoder, likewise, with as many ``up`` as there are ``down`` in ``encoder``."""
    decoder_channels: tuple[Width, ...]
    """Widths of the decoder, as in ``encoder_channels``."""
    image_size: Annotated[int, Field(ge=1, le=2**12)] = 64
    """Side of the square images, in pixels."""
    codebook_size: Size = 1024
    """Number of codes."""
    codebook_dim: Size = 256
    """Length of a code."""
    mean: tuple[float, float, float] = (0.4868, 0.4341, 0.3844)
    """Means of the red, green and blue of the images it was trained on, in [0, 1]."""
    std: tuple[Colour, Colour, Colour] = (0.2620, 0.2527, 0.2543)
    """Their standard deviations."""
    architecture: Literal["reference"] = "reference"
    """Tells this config from a ``TokenizerConfig`` on disk."""

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        _check_layers(self.encoder, self.encoder_channels, without="up")
        _check_layers(self.decoder, self.decoder_channels, without="down")
        if self.encoder.count("down") != self.decoder.count("up"):
            raise MaskweaveError("the decoder does not end at the size that the encoder starts at")
        if self.image_size % self.patch_size:
            raise MaskweaveError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )

    @property
    def patch_size(self) -> int:
        """Side of a token in pixels."""
        return 2 ** self.encoder.count("down")


class Residual(nn.Module):
    """Two 3x3 convolutions with group norm, around a skip."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1 = _norm(before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.norm2 = _norm(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, before, height, width) to (batch, after, height, width)."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(hidden)))


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
            convolution(normed).flatten(2).transpose(1, 2)  # (B, h w, C)
            for convolution in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
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
    layers, channels
        As in ``ReferenceConfig``.
    activation : nn.Module
        Between the last norm and the last convolution.
    """

    def __init__(
        self,
        before: int,
        layers: tuple[Layer, ...],
        channels: tuple[int, ...],
        activation: nn.Module,
        after: int,
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, channels[0], 3, padding=1)
        self.layers = nn.Sequential(
            *(_layer(kind, *sizes) for kind, sizes in zip(layers, pairwise(channels), strict=True))
        )
        self.norm = _norm(channels[-1])
        self.activation = activation
        self.last = nn.Conv2d(channels[-1], after, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, before, height, width) to (batch, after, height', width')."""
        return self.last(self.activation(self.norm(self.layers(self.first(x)))))


class ReferenceVQGAN(Tokenizer):
    """A convolutional encoder, a codebook, and a decoder that sees nothing but the codes.

    Every token sees far beyond its patch, so ``encode`` must be given images whose hole is blank:
    ``InpaintPipeline`` makes it 0, mid-grey, as it is in the reference's test images.
    """

    sees_known = False
    patch_local = False

    def __init__(self, config: ReferenceConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.codebook_dim
        self.encoder = Stack(3, config.encoder, config.encoder_channels, nn.SiLU(), dim)
        self.to_code = nn.Conv2d(dim, dim, 1)
        self.codebook = nn.Embedding(config.codebook_size, dim)
        self.from_code = nn.Conv2d(dim, dim, 1)
        # The reference's decoder has no activation there.
        self.decoder = Stack(dim, config.decoder, config.decoder_channels, nn.Identity(), 3)

    @property
    def codes(self) -> Float[Tensor, "codebook_size codebook_dim"]:
        """The vector of every code."""
        return self.codebook.weight

    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Int[Tensor, "batch length"]:
        """Return the tokens of images in [-1, 1], row by row."""
        mean, std = self._colours(images.device)
        latents = self.to_code(self.encoder(((images + 1) / 2 - mean) / std))
        latents = latents.flatten(2).transpose(1, 2)  # (B, N, D)
        # Squared distances without the term that all codes share.
        codes = self.codebook.weight
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


def _layer(kind: Layer, before: int, after: int) -> nn.Module:
    if kind == "residual":
        return Residual(before, after)
    return Attention(before) if kind == "attention" else Resize(before, kind)


def _check_layers(layers: tuple[Layer, ...], channels: tuple[int, ...], without: Layer) -> None:
    if len(layers) > 1000 or len(channels) != len(layers) + 1 or without in layers:
        raise MaskweaveError(f"no stack of layers: {layers} of widths {channels}")
    for kind, (before, after) in zip(layers, pairwise(channels), strict=True):
        if kind != "residual" and before != after:
            raise MaskweaveError(f"{kind} cannot change the width from {before} to {after}")
