"""MaskGIT's VQGAN in PyTorch, as huggingface/open-muse and bytedance/1d-tokenizer have it."""

from pathlib import Path

from maskweave.convert.layers import PARTS, Layers, assemble, level, usual
from maskweave.convert.weights import State, numbered, read_state
from maskweave.tokenizer.convolutional import ConvolutionalVQGAN


def tokenizer(file: Path, notes: list[str]) -> ConvolutionalVQGAN:
    """Read a checkpoint."""
    return to_tokenizer(read_state(file, notes))


def to_tokenizer(weights: State) -> ConvolutionalVQGAN:
    """Make a tokenizer of weights, as ``layers.assemble`` does. Its images are in [0, 1]."""
    encoder: Layers = []
    for i in range(numbered(weights, "encoder.down.")):
        if i:
            encoder.append(("pool", ""))
        encoder += level(weights, f"encoder.down.{i}", "block")
    decoder: Layers = []
    for i in reversed(range(numbered(weights, "decoder.up."))):
        decoder += level(weights, f"decoder.up.{i}", "block")
        if i:
            decoder.append(("up", f"decoder.up.{i}.upsample_conv"))
    return assemble(
        weights,
        usual("encoder", encoder + _middle(weights, "encoder")),
        usual("decoder", _middle(weights, "decoder") + decoder),
        parts=PARTS | {"up": {"conv": ""}},
        projections=None,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        variant="maskgit",
    )


def _middle(weights: State, side: str) -> Layers:
    return [("residual", f"{side}.mid.{i}") for i in range(numbered(weights, f"{side}.mid."))]
