"""Transformers of other projects, held against what their own code put out, at every depth."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskweave.checkpoint import load_transformer
from maskweave.convert.families import Options
from maskweave.convert.folder import convert
from maskweave.foreign.amused import AmusedTransformer, Told
from maskweave.foreign.google import GoogleTransformer
from maskweave.foreign.halton import HaltonTransformer

GOOGLE = "google_maskgit/maskgit_imagenet256_checkpoint"
HALTON = "halton_maskgit/ImageNet_256_tiny.pth"


def loaded(family: str, file: Path, folder: Path, **options: int) -> Any:
    """Convert a transformer into a component and load that."""
    convert(family, transformer=file, options=Options(**options)).save(folder)
    return load_transformer(folder)


def close(found: Tensor, expected: np.ndarray) -> None:
    """Compare to 1e-4 of the largest value."""
    scale = float(np.abs(expected).max())
    wanted = torch.from_numpy(np.ascontiguousarray(expected)) / scale
    torch.testing.assert_close(found / scale, wanted, atol=1e-4, rtol=0)


@pytest.fixture
def google(shared: Path, tmp_path: Path) -> GoogleTransformer:
    return loaded("google", shared / "golden" / GOOGLE, tmp_path / "google", codebook_size=64)


@pytest.fixture
def halton(shared: Path, tmp_path: Path) -> HaltonTransformer:
    return loaded("halton", shared / "golden" / HALTON, tmp_path / "halton", heads=4)


@pytest.fixture
def amused(amused_folder: Path, tmp_path: Path) -> AmusedTransformer:
    file = amused_folder / "transformer" / "diffusion_pytorch_model.safetensors"
    return loaded("amused", file, tmp_path / "amused")


@torch.no_grad()
def test_against_googles_own_code(google: GoogleTransformer, shared: Path) -> None:
    found = np.load((shared / "golden" / GOOGLE).with_name("io.npz"))
    case = {name.removeprefix("transformer_"): value for name, value in found.items()}
    ids = torch.from_numpy(case["ids"]).long()
    labels, tokens = ids[:, 0] - 64, ids[:, 1:]
    tokens = tokens.masked_fill(tokens == -1, google.config.mask_token)
    assert (google.config.grid, google.config.classes) == ((8, 8), 10)
    close(google.embed(tokens, labels), case["after_embed"])
    close(google.states(tokens, blocks=1, condition=labels), case["after_block0"][:, 1:])
    close(google.states(tokens, condition=labels), case["after_blocks"][:, 1:])
    close(google(tokens, condition=labels), case["logits"][:, 1:, :64])


@torch.no_grad()
def test_against_valeoais_own_code(halton: HaltonTransformer, shared: Path) -> None:
    case = np.load((shared / "golden" / HALTON).with_name("io.npz"))
    tokens = torch.from_numpy(case["ids"]).flatten(1)
    labels = torch.from_numpy(np.where(case["drop_label"], 10, case["labels"]))
    assert (halton.config.grid, halton.config.classes) == ((8, 8), 10)
    # The last of each is a register.
    close(halton.states(tokens, blocks=0, condition=labels), case["after_embed"][:, :64])
    close(halton.states(tokens, blocks=1, condition=labels), case["after_block0"][:, :64])
    close(halton.states(tokens, condition=labels), case["after_blocks"][:, :64])
    logits = halton(tokens, condition=labels)
    close(logits, case["logits"][..., :64])
    # Without a label it is told what one that was dropped is.
    [dropped] = case["drop_label"].nonzero()[0]
    close(halton(tokens)[dropped], case["logits"][dropped, :, :64])


@torch.no_grad()
def test_against_diffusers_own_code(
    amused: AmusedTransformer, shared: Path, tmp_path: Path
) -> None:
    file = tmp_path / "amused" / "config.json"
    config = json.loads(file.read_text())
    assert config["pixels"] == [16, 16]
    file.write_text(json.dumps(config | {"pixels": [32, 32]}))  # as the case was told
    amused = load_transformer(tmp_path / "amused")  # type: ignore[assignment]
    case = np.load(shared / "golden" / "amused" / "io.npz")
    told = amused.read(torch.from_numpy(case["text_ids"]))
    close(told.summary, case["pooled_text_emb"])
    close(told.states, case["encoder_hidden_states"])
    seen: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda _module, _inputs, out: seen.__setitem__(name, out))

    keep("cond_embed", amused.unet.cond_embed)
    keep("after_embed", amused.unet.embed)
    keep("after_down_block", amused.unet.down_block)
    keep("after_block0", amused.unet.transformer_layers[0])
    keep("logits", amused.unet)
    ids = torch.from_numpy(case["ids"]).flatten(1)
    tokens = ids.masked_fill(ids == 71, amused.config.mask_token)
    whole = [0, 2]  # the other is a crop, which the project's pipeline for pictures never tells
    logits = amused(tokens[whole], condition=Told(told.summary[whole], told.states[whole]))
    for name in ("cond_embed", "after_embed", "after_down_block", "after_block0", "logits"):
        close(seen[name], case[name][whole])
    close(logits, case["logits"][whole].reshape(2, 64, 64).transpose(0, 2, 1))
    states = amused.states(tokens[whole], blocks=1, condition=Told(*(x[whole] for x in told)))
    close(states, case["after_block0"][whole])


def test_a_prompt_is_read_once_and_anew_in_another_precision(amused: AmusedTransformer) -> None:
    read: list[nn.Module] = []
    amused.text_encoder.register_forward_hook(lambda module, *_: read.append(module))
    first = amused.condition(None, "a cat")
    assert amused.condition(None, "a cat") is first and len(read) == 1
    other = amused.condition(None, "a dog")
    assert other is not None and first is not None and len(read) == 2
    assert not torch.equal(other.summary, first.summary)
    rounded = amused.to(torch.bfloat16).condition(None, "a dog")
    assert rounded is not None and rounded.summary.dtype == torch.bfloat16 and len(read) == 3
