"""VQGANs of CompVis/taming-transformers, ``taming.models.vqgan.VQModel``."""

from pathlib import Path

from maskweave.convert.layers import Layers, assemble, level, usual
from maskweave.convert.weights import PREFIXES, State, has, numbered, read_state
from maskweave.errors import MaskweaveError
from maskweave.tokenizer.convolutional import ConvolutionalVQGAN


def tokenizer(file: Path, notes: list[str]) -> ConvolutionalVQGAN:
    """Read a checkpoint, of which the losses of its training are left out."""
    weights = read_state(file, notes, keep=_without_losses, without="weights of its losses")
    return to_tokenizer(weights)


def to_tokenizer(weights: State) -> ConvolutionalVQGAN:
    """Make a tokenizer of weights, as ``layers.assemble`` does.

    Raises
    ------
    MaskweaveError
        If they are of another model, one with Gumbel quantisation for instance.
    """
    if has(weights, "quantize.proj."):
        raise MaskweaveError(
            "is a VQGAN with Gumbel quantisation (GumbelVQ), whose encoder gives no codes to "
            "compare with: only VQModel is converted"
        )
    encoder: Layers = []
    for i in range(numbered(weights, "encoder.down.")):
        encoder += level(weights, f"encoder.down.{i}", "block")
    decoder: Layers = []
    for i in reversed(range(numbered(weights, "decoder.up."))):
        decoder += level(weights, f"decoder.up.{i}", "block")
    sides = (
        usual("encoder", encoder + _middle("encoder")),
        usual("decoder", _middle("decoder") + decoder),
    )
    return assemble(weights, *sides)


def _middle(side: str) -> Layers:
    return [
        ("residual", f"{side}.mid.block_1"),
        ("attention", f"{side}.mid.attn_1"),
        ("residual", f"{side}.mid.block_2"),
    ]


def _without_losses(name: str) -> str | None:
    short = PREFIXES.sub("", name, count=1)
    return None if short.startswith("loss.") else short
