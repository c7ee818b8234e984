"""Small checkpoints as the reference experiment saves them, and their conversion."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from maskweave.convert.families import FAMILIES, Options
from maskweave.convert.folder import convert as convert_files
from maskweave.pipeline import InpaintPipeline

State = dict[str, Tensor]

SEPARATE = ("q_linear", "k_linear", "v_linear", "out_linear")
HEADS = 4


def linear(name: str, after: int, *before: int) -> State:
    return {f"{name}.weight": torch.randn(after, *before), f"{name}.bias": torch.randn(after)}


def residual(name: str, before: int, after: int) -> State:
    skip = {} if before == after else linear(f"{name}.channel_up", after, before, 1, 1)
    return skip | (
        linear(f"{name}.block.0.gn", before)
        | linear(f"{name}.block.2", after, before, 3, 3)
        | linear(f"{name}.block.3.gn", after)
        | linear(f"{name}.block.5", after, after, 3, 3)
    )


def attention(name: str, width: int) -> State:
    state = linear(f"{name}.norm.gn", width)
    for part in ("q", "k", "v", "proj_out"):
        state |= linear(f"{name}.{part}", width, width, 1, 1)
    return state


def small_vqgan() -> State:
    """Return weights for images of 16x16 pixels, 4x4 tokens and 16 codes."""
    torch.manual_seed(0)
    encoder = (
        linear("0", 32, 3, 3, 3)
        | residual("1", 32, 64)
        | linear("2.conv", 64, 64, 3, 3)
        | linear("3.conv", 64, 64, 3, 3)
        | attention("4", 64)
        | linear("5.gn", 64)
        | linear("7", 8, 64, 3, 3)
    )
    decoder = (
        linear("0", 64, 8, 3, 3)
        | attention("1", 64)
        | linear("2.conv", 64, 64, 3, 3)
        | residual("3", 64, 32)
        | linear("4.conv", 32, 32, 3, 3)
        | linear("5.gn", 32)
        | linear("6", 3, 32, 3, 3)
    )
    state = {f"encoder.model.{name}": value for name, value in encoder.items()}
    state |= {f"decoder.model.{name}": value for name, value in decoder.items()}
    state["codebook.embedding.weight"] = torch.randn(16, 8)
    return state | linear("quant_conv", 8, 8, 1, 1) | linear("post_quant_conv", 8, 8, 1, 1)


def small_transformer() -> State:
    torch.manual_seed(1)
    state = {"pos_emb": torch.randn(16, 16), "bias": torch.randn(16, 17)}
    state["tok_emb.weight"] = torch.randn(17, 16)
    for i in range(2):
        for name in SEPARATE:
            state |= linear(f"blocks.{i}.Attention.{name}", 16, 16)
        state |= linear(f"blocks.{i}.LayerNorm1", 16) | linear(f"blocks.{i}.LayerNorm2", 16)
        state |= linear(f"blocks.{i}.MLP.0", 24, 16) | linear(f"blocks.{i}.MLP.2", 16, 24)
    state |= linear("Token_Prediction.0", 16, 16) | linear("Token_Prediction.2", 16)
    return state | linear("LN", 16)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A VQGAN and a transformer that belong together, each in a file."""
    vqgan, transformer = tmp_path / "VQGAN.pt", tmp_path / "epoch_5.pt"
    torch.save(small_vqgan(), vqgan)
    torch.save(small_transformer(), transformer)
    return vqgan, transformer


def convert(
    tokenizer: Path, transformer: Path, heads: int = 16
) -> tuple[InpaintPipeline, list[str]]:
    found = convert_files("lab", tokenizer, transformer, Options(heads))
    assert found.tokenizer is not None and found.transformer is not None
    defaults = FAMILIES["lab"].defaults
    return InpaintPipeline(found.tokenizer, found.transformer, defaults), found.notes
