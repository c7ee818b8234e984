"""VQGANs of FoundationVision/LlamaGen, ``tokenizer_image.vq_model.VQModel``."""

from pathlib import Path

from maskweave.convert.layers import Layers, assemble, level, usual
from maskweave.convert.weights import PREFIXES, State, numbered, read_state
from maskweave.tokenizer.convolutional import ConvolutionalVQGAN


def tokenizer(file: Path, notes: list[str]) -> ConvolutionalVQGAN:
    """Read a checkpoint, of which the record of codes in use is left out."""
    weights = read_state(file, notes, keep=_without_record, without="record of codes in use")
    return to_tokenizer(weights)


def to_tokenizer(weights: State) -> ConvolutionalVQGAN:
    """Make a tokenizer of weights, as ``layers.assemble`` does.

    Its codes are compared and painted with length 1, whatever lengths are stored.
    """
    sides = []
    for side in ("encoder", "decoder"):
        layers: Layers = []
        for i in range(numbered(weights, f"{side}.conv_blocks.")):
            layers += level(weights, f"{side}.conv_blocks.{i}", "res")
        middle: Layers = [
            ("residual", f"{side}.mid.0"),
            ("attention", f"{side}.mid.1"),
            ("residual", f"{side}.mid.2"),
        ]
        sides.append(usual(side, layers + middle if side == "encoder" else middle + layers))
    return assemble(weights, *sides, unit_codes=True)


def _without_record(name: str) -> str | None:
    short = PREFIXES.sub("", name, count=1)
    return None if short == "quantize.codebook_used" else short
