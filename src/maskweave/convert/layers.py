"""Convolutional VQGANs of several projects, whose layers are alike but for their names."""

from collections.abc import Callable
from typing import NamedTuple

from maskweave.checkpoint import blank
from maskweave.convert.weights import State, dotted, fill, has, numbered, shape
from maskweave.tokenizer.convolutional import (
    ConvolutionalConfig,
    ConvolutionalVQGAN,
    Layer,
    Variant,
)

USUAL_SIZE = 256
"""Side in pixels of the images of the published tokenizers, which no shape tells."""

Layers = list[tuple[Layer, str]]
"""What a layer is and how its weights' names begin."""

Parts = dict[str, dict[str, str]]
"""Our names of the parts of each kind of layer, and those in a file."""

PARTS: Parts = {
    "residual": {
        "norm1": "norm1",
        "conv1": "conv1",
        "norm2": "norm2",
        "conv2": "conv2",
        "skip": "nin_shortcut",
    },
    "attention": {"norm": "norm", "query": "q", "key": "k", "value": "v", "output": "proj_out"},
    "down": {"conv": "conv"},
    "pool": {},
    "up": {"conv": "conv"},
}
"""What most projects have from VQGAN's code."""


class Side(NamedTuple):
    """The names of an encoder or a decoder."""

    layers: Layers
    """All between the first convolution and the last norm."""
    first: str
    """Name of the first convolution."""
    norm: str
    """Name of the last norm."""
    last: str
    """Name of the last convolution."""


def usual(side: str, layers: Layers) -> Side:
    """Return the names of an encoder or a decoder as they are in VQGAN's code."""
    return Side(layers, f"{side}.conv_in", f"{side}.norm_out", f"{side}.conv_out")


def level(weights: State, prefix: str, blocks: str) -> Layers:
    """Return the layers of one resolution, as VQGAN's code has them.

    Each residual block, numbered behind ``prefix.blocks``, may have an attention behind it, and all
    of them a change of size.
    """
    layers: Layers = []
    for i in range(numbered(weights, f"{prefix}.{blocks}.")):
        layers.append(("residual", f"{prefix}.{blocks}.{i}"))
        if has(weights, f"{prefix}.attn.{i}."):
            layers.append(("attention", f"{prefix}.attn.{i}"))
    if has(weights, f"{prefix}.downsample."):
        layers.append(("down", f"{prefix}.downsample"))
    if has(weights, f"{prefix}.upsample."):
        layers.append(("up", f"{prefix}.upsample"))
    return layers


def assemble(
    weights: State,
    encoder: Side,
    decoder: Side,
    *,
    image_size: int = USUAL_SIZE,
    parts: Parts = PARTS,
    codebook: str = "quantize.embedding.weight",
    projections: tuple[str, str] | None = ("quant_conv", "post_quant_conv"),
    leaf: Callable[[str, str], str] = dotted,
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
    std: tuple[float, float, float] = (0.5, 0.5, 0.5),
    unit_codes: bool = False,
    variant: Variant = "taming",
) -> ConvolutionalVQGAN:
    """Make a tokenizer of weights, given what their names mean.

    Parameters
    ----------
    weights : dict
        In float32, convolutions with the axes that PyTorch gives them; each must be of use.
    encoder, decoder : Side
        Names of their parts.
    image_size : int
        Side of the images, in pixels.
    parts : dict
        Names of the parts of each kind of layer.
    codebook : str
        Name of the codes.
    projections : tuple of str, optional
        Names of the convolutions before and behind the codes, where there are any.
    leaf : callable
        Returns the name of a parameter, given that of its part and ours.
    mean, std, unit_codes, variant
        As in ``ConvolutionalConfig``.

    Raises
    ------
    MaskweaveError
        If weights are missing, left over or of other shapes than the rest implies.
    """

    def width(convolution: str) -> int:
        return shape(weights, leaf(convolution, "weight"), 4)[0]

    def widths(side: Side) -> tuple[int, ...]:
        found = [width(side.first)]
        for kind, prefix in side.layers:
            block = f"{prefix}.{parts['residual']['conv1']}"
            found.append(width(block) if kind == "residual" else found[-1])
        return tuple(found)

    codebook_size, codebook_dim = shape(weights, codebook, 2)
    latent_dim = width(encoder.last)
    config = ConvolutionalConfig(
        encoder=tuple(kind for kind, _ in encoder.layers),
        encoder_channels=widths(encoder),
        decoder=tuple(kind for kind, _ in decoder.layers),
        decoder_channels=widths(decoder),
        image_size=image_size,
        codebook_size=codebook_size,
        codebook_dim=codebook_dim,
        mean=mean,
        std=std,
        latent_dim=None if latent_dim == codebook_dim else latent_dim,
        unit_codes=unit_codes,
        variant=variant,
    )
    names: dict[str, str] = {}
    if projections is not None:
        names["to_code"], names["from_code"] = projections
    for ours, side in (("encoder", encoder), ("decoder", decoder)):
        for i, (kind, prefix) in enumerate(side.layers):
            for part, theirs in parts[kind].items():
                names[f"{ours}.layers.{i}.{part}"] = f"{prefix}.{theirs}".rstrip(".")
        names |= {f"{ours}.first": side.first, f"{ours}.norm": side.norm, f"{ours}.last": side.last}
    names["codebook"] = "codebook"
    with blank():
        module = ConvolutionalVQGAN(config)

    def called(owner: str, name: str) -> str:
        return codebook if owner == "codebook" else leaf(owner, name)

    fill(module, weights, names, called)
    return module.eval()
