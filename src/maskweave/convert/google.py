"""Checkpoints of google-research/maskgit, written by ``flax.serialization``."""

from pathlib import Path

from maskweave.convert.layers import USUAL_SIZE, Layers, Side, assemble
from maskweave.convert.safe_load import flat, read_flax
from maskweave.convert.weights import State, checked, numbered, some
from maskweave.errors import MaskweaveError
from maskweave.tokenizer.convolutional import ConvolutionalVQGAN

PARTS = {
    "residual": {
        "norm1": "GroupNorm_0",
        "conv1": "Conv_0",
        "norm2": "GroupNorm_1",
        "conv2": "Conv_1",
        "skip": "Conv_2",
    },
    "pool": {},
    "up": {"conv": ""},
}


def tokenizer(file: Path, notes: list[str]) -> ConvolutionalVQGAN:
    """Read a checkpoint of the tokenizer."""
    return to_tokenizer(read_state(file, notes))


def read_state(file: Path, notes: list[str]) -> State:
    """Return the weights in a file, named as ``encoder.Conv_0.kernel``.

    Raises
    ------
    MaskweaveError
        If the file is refused by ``safe_load``, or its weights are no finite floats.
    """
    content = read_flax(file)
    if isinstance(params := content.get("params"), dict):
        if left_out := [name for name in content if name != "params"]:
            notes.append(f"{file}: left out {some(left_out)}")
        content = params
    return checked(flat(content))


def to_tokenizer(weights: State, image_size: int = USUAL_SIZE) -> ConvolutionalVQGAN:
    """Make a tokenizer of weights, as ``layers.assemble`` does. Its images are in [0, 1].

    Averaging between the encoder's resolutions leaves no trace in the names, so how many there are
    is what the decoder has convolutions for.
    """
    levels = numbered(weights, "decoder.Conv_") - 1
    weights = {
        # Height, width, in, out become out, in, height, width.
        name: value.permute(3, 2, 0, 1) if value.ndim == 4 else value
        for name, value in weights.items()
    }
    encoder: Layers = []
    decoder: Layers = []
    blocks = {side: numbered(weights, f"{side}.ResBlock_") for side in ("encoder", "decoder")}
    for side, number in blocks.items():
        if levels < 1 or not number or number % (levels + 1):
            raise MaskweaveError(
                f"has {number} blocks in its {side}, which do not share {levels} resolutions"
            )
    for i in range(blocks["encoder"]):
        each = blocks["encoder"] // (levels + 1)
        if i % each == 0 and 0 < i // each < levels:
            encoder.append(("pool", ""))
        encoder.append(("residual", f"encoder.ResBlock_{i}"))
    for i in range(blocks["decoder"]):
        each = blocks["decoder"] // (levels + 1)
        decoder.append(("residual", f"decoder.ResBlock_{i}"))
        if (i + 1) % each == 0 and 0 < i // each < levels:
            decoder.append(("up", f"decoder.Conv_{i // each}"))
    return assemble(
        weights,
        Side(encoder, "encoder.Conv_0", "encoder.GroupNorm_0", "encoder.Conv_1"),
        Side(decoder, "decoder.Conv_0", "decoder.GroupNorm_0", f"decoder.Conv_{levels}"),
        image_size=image_size,
        parts=PARTS,
        codebook="quantizer.codebook",
        projections=None,
        leaf=_called,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        variant="maskgit",
    )


def _called(owner: str, name: str) -> str:
    if name == "weight":
        name = "scale" if "GroupNorm" in owner else "kernel"
    return f"{owner}.{name}"
