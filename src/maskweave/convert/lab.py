"""Checkpoints of the reference experiment, a course lab, whose students name attentions freely."""

import math
import re
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from maskweave.checkpoint import blank
from maskweave.convert.layers import PARTS, Layers, Side, assemble
from maskweave.convert.weights import State, fill, read_state, shape
from maskweave.errors import MaskweaveError
from maskweave.maskgit import DecodeSettings, corrupt
from maskweave.tokenizer.base import Tokenizer
from maskweave.tokenizer.convolutional import ConvolutionalVQGAN
from maskweave.transformer import BidirectionalTransformer, TransformerConfig

IMAGE_SIZE = 64
"""Side of the lab's images, in pixels."""

MEAN, STD = (0.4868, 0.4341, 0.3844), (0.2620, 0.2527, 0.2543)
"""Means and standard deviations of the red, green and blue of the lab's images, in [0, 1]."""

HEADS = 16
"""Attention heads of the lab's transformer, which no shape tells."""

DECODING = DecodeSettings(
    steps=15, order="probability", stop_after=3, temperature=4.5, token_temperature=0.0
)
"""How the reference experiment decodes."""

QkvLayout = Literal["roles", "heads"]

# In a file of the whole model a part's weights are named so.
PREFIXES = re.compile(r"(?:(?:module|model|_orig_mod|vqgan|transformer)\.)*")

VQGAN_PARTS = PARTS | {
    "residual": {
        "norm1": "block.0.gn",
        "conv1": "block.2",
        "norm2": "block.3.gn",
        "conv2": "block.5",
        "skip": "channel_up",
    },
    "attention": PARTS["attention"] | {"norm": "norm.gn"},
}

BLOCK_NAMES = {
    "attention.query": "Attention.query",
    "attention.key": "Attention.key",
    "attention.value": "Attention.value",
    "attention.output": "Attention.output",
    "attention_norm": "LayerNorm1",
    "mlp.0": "MLP.0",
    "mlp.2": "MLP.2",
    "mlp_norm": "LayerNorm2",
}

ROLES = {"q": "query", "k": "key", "v": "value", "o": "output"}
# Every student names the matrices of the attention differently.
ATTENTION = re.compile(r"(blocks\.\d+\.Attention\.)([\w.]+)\.(weight|bias)")
ROLE = re.compile(
    r"(?:(?:to|w|linear|lin|fc|proj)_?)?"
    r"(?P<role>qkv|q|k|v|o|query|key|value|queries|keys|values|out|output)"
    r"(?:_?(?:linear|proj|projection|layer|fc))?(?:\.0)?",
    re.IGNORECASE,
)
OUTPUT = re.compile(r"(?:linear_|fc_)?(?:proj|projection|linear|fc)", re.IGNORECASE)
AMBIGUOUS = "qkv_layer"
"""A fused matrix of this name is laid out either way, by student; of any other, by roles."""


def tokenizer(file: Path, notes: list[str]) -> ConvolutionalVQGAN:
    """Read the VQGAN in a file of its own or of the whole model."""
    return to_tokenizer(_read(file, "vqgan", notes))


def transformer(
    file: Path, notes: list[str], heads: int = HEADS, qkv_layout: QkvLayout | None = None
) -> BidirectionalTransformer:
    """Read the transformer in a file of its own or of the whole model."""
    return to_transformer(_read(file, "transformer", notes), heads, qkv_layout)


@torch.no_grad()
def masked_accuracy(
    tokenizer: Tokenizer,
    transformer: BidirectionalTransformer,
    image: Float[Tensor, "3 height width"],
) -> float:
    """Return the share of an image's tokens that the transformer predicts where they are masked.

    A random half of the tokens is masked, the same one in every call, and all are predicted at
    once. The image is in [-1, 1] and of the model's size; the transformer sees tokens alone.
    """
    tokens = tokenizer.encode(image[None])
    mask_token = transformer.config.mask_token
    generator = torch.Generator().manual_seed(0)
    given = corrupt(tokens, mask_token, ratio=(0.5, 0.5), generators=[generator])
    logits = transformer(given.tokens, given.masked)[:, :mask_token]
    return (logits.argmax(-1) == tokens[given.masked]).float().mean().item()


def to_tokenizer(weights: State, image_size: int = IMAGE_SIZE) -> ConvolutionalVQGAN:
    """Make a tokenizer of weights, as ``layers.assemble`` does."""
    encoder, decoder = (
        _layers(weights, "encoder", "down"),
        _layers(weights, "decoder", "up"),
    )
    return assemble(
        weights,
        _side("encoder", encoder, 3),
        _side("decoder", decoder, 2),
        image_size=image_size,
        parts=VQGAN_PARTS,
        codebook="codebook.embedding.weight",
        mean=MEAN,
        std=STD,
        variant="lab",
    )


def to_transformer(
    weights: State, heads: int = HEADS, qkv_layout: QkvLayout | None = None
) -> BidirectionalTransformer:
    """Make a transformer of the reference's weights.

    Queries, keys and values may be matrices of their own, under any of the usual names, or one.
    Without biases of the attention these are zero.

    Parameters
    ----------
    weights : dict
        In float32 and named as in the reference; each must be of use.
    heads : int
        Attention heads.
    qkv_layout : {"roles", "heads"}, optional
        What the rows of a fused matrix of queries, keys and values are: (3, heads, width of a head)
        or (heads, 3, width of a head). Without it ``roles``, unless the matrix's name leaves it
        open.

    Raises
    ------
    MaskweaveError
        If weights are missing, left over or of other shapes than the rest implies, or if
        ``qkv_layout`` must be said.
    """
    weights = _uniform_attention(weights, heads, qkv_layout)
    layers = 0
    while f"blocks.{layers}.LayerNorm1.weight" in weights:
        layers += 1
    rows, dim = shape(weights, "tok_emb.weight", 2)
    length, _ = shape(weights, "pos_emb", 2)
    side = math.isqrt(length)
    config = TransformerConfig(
        codebook_size=rows - 1,
        grid=(side, length // side),
        dim=dim,
        depth=layers,
        heads=heads,
        mlp_dim=shape(weights, "blocks.0.MLP.0.weight", 2)[0],
        mask_logit=True,
    )
    for role in ROLES.values():
        biases = [f"blocks.{i}.Attention.{role}.bias" for i in range(layers)]
        if not any(name in weights for name in biases):
            weights |= {name: torch.zeros(dim) for name in biases}
    names = {
        "position_embedding": "pos_emb",
        "bias": "bias",
        "token_embedding": "tok_emb",
        "embedding_norm": "LN",
        "head.0": "Token_Prediction.0",
        "head.2": "Token_Prediction.2",
    }
    for i in range(layers):
        for ours, theirs in BLOCK_NAMES.items():
            names[f"blocks.{i}.{ours}"] = f"blocks.{i}.{theirs}"
    with blank():
        module = BidirectionalTransformer(config)
    fill(module, weights, names)
    return module.eval()


def _read(file: Path, part: Literal["vqgan", "transformer"], notes: list[str]) -> State:
    """Return the weights of one part, without prefixes."""
    other = "vqgan" if part == "transformer" else "transformer"

    def keep(name: str) -> str | None:
        short = PREFIXES.sub("", name, count=1)
        return None if f"{other}." in name.removesuffix(short) else short

    return read_state(file, notes, (part,), keep, f"weights of the {other}")


def _layers(weights: State, side: str, resize: Literal["down", "up"]) -> Layers:
    """Read the layers of encoder or decoder from the names of their parts."""
    layers: Layers = []
    while True:
        layer = f"{side}.model.{len(layers) + 1}"
        parts = {
            name.removeprefix(f"{layer}.").split(".")[0]
            for name in weights
            if name.startswith(f"{layer}.")
        }
        if "gn" in parts:  # the last norm
            return layers
        if "block" in parts:
            layers.append(("residual", layer))
        elif parts & {"norm", "conv"}:
            layers.append(("attention" if "norm" in parts else resize, layer))
        else:
            raise MaskweaveError(f"lacks {layer}.*")


def _side(side: str, layers: Layers, last: int) -> Side:
    """Name the ends; ``last`` is how far behind the layers the last convolution comes."""
    number = len(layers)
    return Side(
        layers,
        f"{side}.model.0",
        f"{side}.model.{number + 1}.gn",
        f"{side}.model.{number + last}",
    )


def _uniform_attention(weights: State, heads: int, qkv_layout: QkvLayout | None) -> State:
    """Call the matrices of every attention query, key, value and output; split fused ones."""
    result: State = {}
    for name, value in weights.items():
        renamed = {name: value}
        if found := ATTENTION.fullmatch(name):
            start, matrix, leaf = found.groups()
            role = ROLE.fullmatch(matrix)
            letter = role["role"][0].lower() if role else "o"
            if role and role["role"].lower() == "qkv":
                if matrix == AMBIGUOUS and qkv_layout is None:
                    raise MaskweaveError(
                        f"{name} does not tell how its rows are laid out: say --qkv-layout roles "
                        "(3, heads, width: all queries, all keys, all values) or "
                        "--qkv-layout heads (heads, 3, width: head by head)"
                    )
                thirds = zip("qkv", _thirds(name, value, heads, qkv_layout), strict=True)
                renamed = {f"{start}{ROLES[letter]}.{leaf}": third for letter, third in thirds}
            elif role or OUTPUT.fullmatch(matrix):
                renamed = {f"{start}{ROLES[letter]}.{leaf}": value}
        if twice := renamed.keys() & result.keys():
            raise MaskweaveError(f"holds {min(twice)} twice, once as {name}")
        result |= renamed
    return result


def _thirds(name: str, fused: Tensor, heads: int, layout: QkvLayout | None) -> list[Tensor]:
    """Return queries, keys and values of a fused matrix or bias, each head by head."""
    if len(fused) % (3 * heads):
        raise MaskweaveError(f"{name} of {len(fused)} rows is not of 3 x {heads} heads")
    if layout == "heads":
        return [third.flatten(0, 1) for third in fused.unflatten(0, (heads, 3, -1)).unbind(1)]
    return list(fused.chunk(3))
