"""The VQ-VAE of aMUSEd, ``diffusers.VQModel``."""

from pathlib import Path

from maskweave.convert.layers import PARTS, USUAL_SIZE, Layers, Side, assemble
from maskweave.convert.weights import State, has, numbered, read_state
from maskweave.tokenizer.convolutional import ConvolutionalVQGAN


def tokenizer(file: Path, notes: list[str]) -> ConvolutionalVQGAN:
    """Read ``vqvae/diffusion_pytorch_model.safetensors``."""
    return to_tokenizer(read_state(file, notes))


def to_tokenizer(weights: State, image_size: int = USUAL_SIZE) -> ConvolutionalVQGAN:
    """Make a tokenizer of weights, as ``layers.assemble`` does. Its images are in [0, 1]."""
    sides: list[Side] = []
    for side, way in (("encoder", "down"), ("decoder", "up")):
        layers: Layers = []
        for i in range(numbered(weights, f"{side}.{way}_blocks.")):
            block = f"{side}.{way}_blocks.{i}"
            layers += _blocks(weights, block)
            if has(weights, f"{block}.{way}samplers."):
                layers.append(("down" if way == "down" else "up", f"{block}.{way}samplers.0"))
        middle = _blocks(weights, f"{side}.mid_block")
        layers = layers + middle if way == "down" else middle + layers
        ends = f"{side}.conv_in", f"{side}.conv_norm_out", f"{side}.conv_out"
        sides.append(Side(layers, *ends))
    return assemble(
        weights,
        *sides,
        image_size=image_size,
        parts=PARTS | {"residual": PARTS["residual"] | {"skip": "conv_shortcut"}},
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )


def _blocks(weights: State, prefix: str) -> Layers:
    return [
        ("residual", f"{prefix}.resnets.{i}")
        for i in range(numbered(weights, f"{prefix}.resnets."))
    ]
