"""aMUSEd, a folder of diffusers: VQ-VAE, U-ViT, and a text encoder with its vocabulary."""

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from maskweave.checkpoint import as_config, blank
from maskweave.convert.layers import PARTS, Layers, Side, assemble
from maskweave.convert.weights import State, about, fill, has, numbered, read_state
from maskweave.errors import MaskweaveError
from maskweave.files import read_json, read_small
from maskweave.foreign.amused import (
    END,
    MERGES,
    VOCABULARY,
    AmusedConfig,
    AmusedTransformer,
    TextConfig,
)
from maskweave.maskgit import DecodeSettings
from maskweave.tokenizer.convolutional import ConvolutionalVQGAN

DECODING = DecodeSettings(
    steps=12, temperature=2.0, guidance_scale=10.0, guidance_schedule="constant"
)
"""How ``diffusers.AmusedPipeline`` samples."""

POSITIONS = "text_model.embeddings.position_ids"
"""Numbers from 0 that older versions of transformers stored."""


def tokenizer(file: Path, notes: list[str]) -> ConvolutionalVQGAN:
    """Read ``vqvae/diffusion_pytorch_model.safetensors``."""
    return to_tokenizer(read_state(file, notes))


def transformer(file: Path, notes: list[str]) -> AmusedTransformer:
    """Read ``transformer/diffusion_pytorch_model.safetensors`` and what lies beside its folder.

    That is ``text_encoder``, ``tokenizer`` with the vocabulary of texts, and ``vqvae``, whose
    config tells how many pixels a token has.

    Raises
    ------
    MaskweaveError
        If any of it is missing or broken, if weights are missing, left over or of other shapes than
        the configs say, or if diffusers or transformers are not installed.
    """
    folder = file.parent.parent
    words = folder / "tokenizer"
    texts = folder / "text_encoder" / "model.safetensors"
    files = {name: read_small(words / name) for name in (VOCABULARY, MERGES)}
    config = _config(file.with_name("config.json"), folder)
    weights = read_state(file, notes)
    with about(texts):
        text_weights = read_state(texts, notes, keep=_without_positions)
    with blank():
        module = AmusedTransformer(config, files)
    fill(module.unet, weights, _same(module.unet))
    with about(texts):
        fill(module.text_encoder, text_weights, _same(module.text_encoder))
    return module.eval()


def _config(file: Path, folder: Path) -> AmusedConfig:
    """Return the sizes that a folder's configs tell."""
    unet, text_file = read_json(file), folder / "text_encoder" / "config.json"
    text, pictures = read_json(text_file), read_json(folder / "vqvae" / "config.json")
    unet = {name: value for name, value in unet.items() if not name.startswith("_")}
    for name in ("hidden_dropout", "attention_dropout"):
        unet.pop(name, None)  # of use in training alone
    known = {field.name for field in dataclasses.fields(TextConfig)}
    side, levels = unet.pop("sample_size", None), pictures.get("block_out_channels")
    if type(side) is not int or not isinstance(levels, list) or not 0 < len(levels) < 10:
        raise MaskweaveError(f"{file} or that of vqvae does not tell the size of pictures")
    pixels = side * 2 ** (len(levels) - 1)
    fields = {
        "codebook_size": unet.pop("codebook_size", None),
        "dim": unet.pop("hidden_size", None),
        "grid": [side, side],
        "pixels": [pixels, pixels],
        "unet": unet,
        "text": {name: value for name, value in text.items() if name in known},
        "pad_token": _pad_token(folder / "tokenizer"),
    }
    return as_config(AmusedConfig, fields, file)


def _pad_token(folder: Path) -> Any:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file() and (token := read_json(folder / name).get("pad_token")):
            return token.get("content") if isinstance(token, dict) else token
    return END


def _without_positions(name: str) -> str | None:
    return None if name == POSITIONS else name


def _same(module: nn.Module) -> dict[str, str]:
    """Return the names of a module's parts, as the library that made it wrote the file as well."""
    owners = {name.rpartition(".")[0] for name in module.state_dict()}
    return {owner: owner for owner in owners}


def to_tokenizer(weights: State) -> ConvolutionalVQGAN:
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
        parts=PARTS | {"residual": PARTS["residual"] | {"skip": "conv_shortcut"}},
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )


def _blocks(weights: State, prefix: str) -> Layers:
    return [
        ("residual", f"{prefix}.resnets.{i}")
        for i in range(numbered(weights, f"{prefix}.resnets."))
    ]
