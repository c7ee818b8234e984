"""Checkpoints of google-research/maskgit, written by ``flax.serialization``."""

from pathlib import Path

from torch import Tensor

from maskweave.checkpoint import blank
from maskweave.convert.layers import Layers, Side, assemble
from maskweave.convert.safe_load import flat, read_flax
from maskweave.convert.weights import State, checked, fill, numbered, shape, some, square
from maskweave.errors import MaskweaveError
from maskweave.foreign.google import GoogleConfig, GoogleTransformer
from maskweave.maskgit import DecodeSettings
from maskweave.tokenizer.convolutional import ConvolutionalVQGAN

CODES = 1024
"""Codes of the published tokenizers, where none is converted beside a transformer."""

DECODING = DecodeSettings(steps=12, temperature=4.5)
"""How the project edits images."""

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

BLOCK_NAMES = {
    "attention.query": "Attention_0.self_attention.query",
    "attention.key": "Attention_0.self_attention.key",
    "attention.value": "Attention_0.self_attention.value",
    "attention.output": "Attention_0.self_attention.out",
    "attention_norm": "Attention_0.attention_output_ln",
    "mlp.0": "Mlp_0.intermediate_output",
    "mlp.2": "Mlp_0.layer_output",
    "mlp_norm": "Mlp_0.layer_output_ln",
}


def tokenizer(file: Path, notes: list[str]) -> ConvolutionalVQGAN:
    """Read a checkpoint of the tokenizer."""
    return to_tokenizer(read_state(file, notes))


def transformer(
    file: Path, notes: list[str], codebook_size: int | None = None
) -> GoogleTransformer:
    """Read a checkpoint of the transformer, whose codes are those of the tokenizer beside it."""
    return to_transformer(read_state(file, notes), codebook_size or CODES)


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


def to_tokenizer(weights: State) -> ConvolutionalVQGAN:
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
        parts=PARTS,
        codebook="quantizer.codebook",
        projections=None,
        leaf=_called,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        variant="maskgit",
    )


def to_transformer(weights: State, codebook_size: int) -> GoogleTransformer:
    """Make a transformer of weights, whose embedding has codes, classes and the mask in a row.

    Raises
    ------
    MaskweaveError
        If weights are missing, left over or of other shapes than the rest implies, or if there are
        no more rows than codes.
    """
    words, places = "Embed_0.word_embeddings.embedding", "Embed_0.position_embeddings.embedding"
    rows, dim = shape(weights, words, 2)
    if rows < codebook_size + 2:
        raise MaskweaveError(
            f"has {rows} rows of codes, classes and a mask, too few for {codebook_size} codes: "
            "give its own tokenizer beside it"
        )
    first = "TransformerLayer_0"
    _, heads, width = shape(weights, f"{first}.Attention_0.self_attention.query.kernel", 3)
    if heads * width != dim:
        raise MaskweaveError(f"has {heads} heads of {width} numbers in a width of {dim}")
    config = GoogleConfig(
        codebook_size=codebook_size,
        grid=square(shape(weights, places, 2)[0] - 1),
        dim=dim,
        depth=numbered(weights, "TransformerLayer_"),
        heads=heads,
        mlp_dim=shape(weights, f"{first}.Mlp_0.intermediate_output.kernel", 2)[1],
        classes=rows - codebook_size - 1,
    )
    names = {
        "token_embedding": words.removesuffix(".embedding"),
        "position_embedding": places,
        "embedding_norm": "Embed_0.embeddings_ln",
        "head.0": "MlmLayer_0.mlm_dense",
        "head.2": "MlmLayer_0.mlm_ln",
        "bias": "MlmLayer_0.mlm_bias.bias",
    }
    for i in range(config.depth):
        for ours, theirs in BLOCK_NAMES.items():
            names[f"blocks.{i}.{ours}"] = f"TransformerLayer_{i}.{theirs}"
    with blank():
        module = GoogleTransformer(config)
    fill(module, {name: _matrix(name, value) for name, value in weights.items()}, names, _called)
    return module.eval()


def _matrix(name: str, value: Tensor) -> Tensor:
    """Return a weight with the axes that PyTorch gives it: heads side by side, and out by in."""
    if name.endswith(".self_attention.out.kernel"):
        value = value.flatten(0, -2)  # (heads, d, out)
    elif ".self_attention." in name and value.ndim > 1:
        value = value.flatten(-2)  # (in, heads, d) or (heads, d)
    return value.T if name.endswith(".kernel") and value.ndim == 2 else value


def _called(owner: str, name: str) -> str:
    if name == "weight":
        norm = "GroupNorm" in owner or owner.endswith("_ln")
        name = "scale" if norm else "embedding" if owner.endswith("_embeddings") else "kernel"
    return f"{owner}.{name}"
