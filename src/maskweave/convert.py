"""Checkpoint files of the reference experiment, read without unpickling objects, as our modules."""

import math
import re
import warnings
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskweave.checkpoint import blank
from maskweave.errors import MaskweaveError
from maskweave.maskgit import DecodeSettings, corrupt
from maskweave.pipeline import InpaintPipeline
from maskweave.tokenizer.reference import Layer, ReferenceConfig, ReferenceVQGAN
from maskweave.transformer import BidirectionalTransformer, TransformerConfig

LARGEST_FILE = 1 << 32
"""Bytes of a file, unpacked, and of its weights in float32 beyond which it is refused."""

DECODING = DecodeSettings(
    steps=15, order="probability", stop_after=3, temperature=4.5, token_temperature=0.0
)
"""How the reference experiment decodes."""

State = dict[str, Tensor]
QkvLayout = Literal["roles", "heads"]

# Under these names training scripts keep the state dict beside optimiser and epoch.
NESTS = ("model", "state_dict", "model_state_dict", "model_state")
PREFIXES = re.compile(r"(?:(?:module|model|_orig_mod|vqgan|transformer)\.)*")

VQGAN_NAMES = {
    "residual": {
        "norm1": "block.0.gn",
        "conv1": "block.2",
        "norm2": "block.3.gn",
        "conv2": "block.5",
        "skip": "channel_up",
    },
    "attention": {"norm": "norm.gn", "query": "q", "key": "k", "value": "v", "output": "proj_out"},
    "down": {"conv": "conv"},
    "up": {"conv": "conv"},
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


def convert(
    tokenizer: Path, transformer: Path, heads: int = 16, qkv_layout: QkvLayout | None = None
) -> tuple[InpaintPipeline, list[str]]:
    """Make a model of two files that ``torch.save`` wrote.

    Parameters
    ----------
    tokenizer, transformer : Path
        Each holds a state dict, alone or in a dict beside other things, of one part or of the whole
        model, whose names start with ``vqgan.`` and ``transformer.``.
    heads : int
        Attention heads of the transformer, which no shape tells.
    qkv_layout : {"roles", "heads"}, optional
        What the rows of a fused matrix of queries, keys and values are: (3, heads, width of a head)
        or (heads, 3, width of a head). Without it ``roles``, unless the matrix's name leaves it
        open.

    Returns
    -------
    pipeline : InpaintPipeline
        With the decode settings of the reference experiment.
    notes : list of str
        What else the files hold.

    Raises
    ------
    MaskweaveError
        If a file is missing, too large or broken, if its state dict holds anything but finite
        tensors, if weights are missing, left over or of other shapes than the rest implies, or if
        ``qkv_layout`` must be said. Objects are never unpickled.
    """
    notes: list[str] = []
    with _about(transformer):
        second = to_transformer(_read(transformer, "transformer", notes), heads, qkv_layout)
    with _about(tokenizer):
        first = to_tokenizer(_read(tokenizer, "vqgan", notes), second.config.length)
    return InpaintPipeline(first, second, DECODING), notes


@torch.no_grad()
def masked_accuracy(pipeline: InpaintPipeline, image: Float[Tensor, "3 height width"]) -> float:
    """Return the share of an image's tokens that the transformer predicts where they are masked.

    A random half of the tokens is masked, the same one in every call, and all are predicted at
    once. The image is in [-1, 1] and of the model's size; the transformer sees tokens alone.
    """
    tokens = pipeline.tokenizer.encode(image[None])
    mask_token = pipeline.transformer.config.mask_token
    generator = torch.Generator().manual_seed(0)
    given = corrupt(tokens, mask_token, ratio=(0.5, 0.5), generators=[generator])
    logits = pipeline.transformer(given.tokens, given.masked)[:, :mask_token]
    return (logits.argmax(-1) == tokens[given.masked]).float().mean().item()


def to_tokenizer(weights: State, length: int) -> ReferenceVQGAN:
    """Make a tokenizer of the weights of a VQGAN.

    Parameters
    ----------
    weights : dict
        In float32 and named as in the reference; each must be of use.
    length : int
        Tokens of an image, which only the transformer's weights tell.

    Raises
    ------
    MaskweaveError
        If weights are missing, left over or of other shapes than the rest implies.
    """
    encoder, encoder_channels = _layers(weights, "encoder", "down")
    decoder, decoder_channels = _layers(weights, "decoder", "up")
    codebook_size, codebook_dim = _shape(weights, "codebook.embedding.weight", 2)
    config = ReferenceConfig(
        encoder=encoder,
        encoder_channels=encoder_channels,
        decoder=decoder,
        decoder_channels=decoder_channels,
        image_size=math.isqrt(length) * 2 ** encoder.count("down"),
        codebook_size=codebook_size,
        codebook_dim=codebook_dim,
    )
    names = {
        "codebook": "codebook.embedding",
        "to_code": "quant_conv",
        "from_code": "post_quant_conv",
    }
    for side, layers, last in (("encoder", encoder, 3), ("decoder", decoder, 2)):
        names[f"{side}.first"] = f"{side}.model.0"
        for i, kind in enumerate(layers):
            for ours, theirs in VQGAN_NAMES[kind].items():
                names[f"{side}.layers.{i}.{ours}"] = f"{side}.model.{i + 1}.{theirs}"
        names[f"{side}.norm"] = f"{side}.model.{len(layers) + 1}.gn"
        names[f"{side}.last"] = f"{side}.model.{len(layers) + last}"
    with blank():
        module = ReferenceVQGAN(config)
    _fill(module, weights, names)
    return module.eval()


def to_transformer(
    weights: State, heads: int, qkv_layout: QkvLayout | None = None
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
        As for ``convert``.

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
    rows, dim = _shape(weights, "tok_emb.weight", 2)
    length, _ = _shape(weights, "pos_emb", 2)
    side = math.isqrt(length)
    config = TransformerConfig(
        codebook_size=rows - 1,
        grid=(side, length // side),
        dim=dim,
        depth=layers,
        heads=heads,
        mlp_dim=_shape(weights, "blocks.0.MLP.0.weight", 2)[0],
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
    _fill(module, weights, names)
    return module.eval()


@contextmanager
def _about(file: Path) -> Generator[None]:
    """Say which file an error is about."""
    try:
        yield
    except MaskweaveError as error:
        raise MaskweaveError(f"{file}: {error}") from error


def _read(file: Path, part: Literal["vqgan", "transformer"], notes: list[str]) -> State:
    """Return the weights of one part in float32, without prefixes; note what is left out."""
    content = _load(file)
    left_out: list[str] = []
    for _ in range(3):  # a broken file could nest without end
        nests = [name for name in (part, *NESTS) if isinstance(content.get(name), dict)]
        if nests:
            left_out += [str(name) for name in content if name != nests[0]]
            content = content[nests[0]]
    other = "vqgan" if part == "transformer" else "transformer"
    weights: dict[str, Any] = {}
    others = 0
    for name, value in content.items():
        short = PREFIXES.sub("", str(name), count=1)
        if f"{other}." in str(name).removesuffix(short):
            others += 1
        elif short in weights:
            raise MaskweaveError(f"holds {short} twice")
        else:
            weights[short] = value
    if others:
        left_out.append(f"{others} weights of the {other}")
    if left_out:
        notes.append(f"{file}: left out {', '.join(left_out)}")
    _check(weights)
    return {name: value.detach().float() for name, value in weights.items()}


def _load(file: Path) -> dict[Any, Any]:
    """Read what is surely harmless and of a bounded size."""
    if not file.is_file():
        raise MaskweaveError("is no file" if file.exists() else "does not exist")
    try:
        size = file.stat().st_size
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                size = max(size, sum(member.file_size for member in archive.infolist()))
        if size > LARGEST_FILE:
            raise MaskweaveError("is larger than a checkpoint of the reference experiment can be")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is odd in old files
            content = torch.load(file, map_location="cpu", weights_only=True)
    except MaskweaveError:
        raise
    # Broken pickles raise whatever torch stumbles over, with advice to unpickle them all the same.
    except Exception as error:
        raise MaskweaveError(
            "is broken or holds objects, which are never unpickled; "
            "save the weights alone: torch.save(model.state_dict(), file)"
        ) from error
    if not isinstance(content, dict):
        raise MaskweaveError("holds no state dict")
    return content


def _check(weights: dict[str, Any]) -> None:
    """Refuse what is no dict of plain, finite tensors."""
    wrong = [
        name
        for name, value in weights.items()
        if not isinstance(value, Tensor)
        or value.layout != torch.strided
        or value.device.type != "cpu"
        or not (value.is_floating_point() and value.ndim)
    ]
    if wrong or not weights:
        raise MaskweaveError(f"holds no state dict of weights: see {_some(wrong) or 'its keys'}")
    # A tensor may repeat the same bytes, so the file's own size says little.
    if 4 * sum(value.numel() for value in weights.values()) > LARGEST_FILE:
        raise MaskweaveError("holds more weights than the reference experiment can have")
    broken = [name for name, value in weights.items() if not value.isfinite().all()]
    if broken:
        raise MaskweaveError(f"holds NaN or infinite weights in {_some(broken)}")


def _layers(
    weights: State, side: str, resize: Literal["down", "up"]
) -> tuple[tuple[Layer, ...], tuple[int, ...]]:
    """Read the layers of encoder or decoder and their widths from names and shapes."""
    layers: list[Layer] = []
    channels = [_shape(weights, f"{side}.model.0.weight", 4)[0]]
    while True:
        prefix = f"{side}.model.{len(layers) + 1}."
        parts = {name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)}
        if "gn" in parts:  # the last norm
            return tuple(layers), tuple(channels)
        if "block" in parts:
            layers.append("residual")
            channels.append(_shape(weights, f"{prefix}block.2.weight", 4)[0])
        elif parts & {"norm", "conv"}:
            layers.append("attention" if "norm" in parts else resize)
            channels.append(channels[-1])
        else:
            raise MaskweaveError(f"lacks {prefix}*")


def _shape(weights: State, name: str, axes: int) -> tuple[int, ...]:
    if name not in weights or weights[name].ndim != axes:
        raise MaskweaveError(f"lacks {name} of {axes} axes")
    return tuple(weights[name].shape)


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


def _fill(module: nn.Module, weights: State, names: dict[str, str]) -> None:
    """Load a module; ``names`` has the reference's name of each of its parts or parameters."""
    theirs: dict[str, str] = {}
    for ours in module.state_dict():
        owner, _, leaf = ours.rpartition(".")
        theirs[ours] = f"{names[owner]}.{leaf}" if owner else names[leaf]
    problems = {
        "lacks": [name for name in theirs.values() if name not in weights],
        "has left over": sorted(weights.keys() - set(theirs.values())),
        "has of another shape": [
            f"{name} {[*weights[name].shape]}"
            for ours, value in module.state_dict().items()
            if (name := theirs[ours]) in weights and weights[name].shape != value.shape
        ],
    }
    if any(problems.values()):
        found = "; ".join(f"{what} {_some(which)}" for what, which in problems.items() if which)
        raise MaskweaveError(found)
    # Parts of one fused matrix, and tied weights, must not share memory.
    module.load_state_dict({o: weights[t].clone() for o, t in theirs.items()}, assign=True)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more
