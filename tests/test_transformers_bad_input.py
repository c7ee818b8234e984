"""Transformers of strangers that go wrong: one line, exit code 2, nothing written, no code run."""

import builtins
import json
import math
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from maskweave.checkpoint import load_transformer
from maskweave.convert import google
from maskweave.convert.families import Options
from maskweave.convert.folder import convert
from maskweave.errors import MaskweaveError
from test_convert_bad_input import Refused, Trap

State = dict[str, Tensor]

FILES = {
    "google": "google_maskgit/maskgit_imagenet256_checkpoint",
    "halton": "halton_maskgit/ImageNet_256_tiny.pth",
    "amused": "transformer/diffusion_pytorch_model.safetensors",
}
TOKENIZERS = {
    "google": "google_maskgit/tokenizer_imagenet256_checkpoint",
    "halton": "llamagen_vq/vq_ds16_c2i.pt",
    "amused": "amused/vqvae/diffusion_pytorch_model.safetensors",
}
MATRIX = {
    "google": "TransformerLayer_1.Mlp_0.layer_output.kernel",
    "halton": "transformer.layers.1.ff.w2.weight",
    "amused": "transformer_layers.1.ff.net.2.weight",
}


class Case:
    """A transformer that can be changed and is then refused."""

    def __init__(self, family: str, file: Path, tokenizer: Path) -> None:
        self.family, self.file, self.tokenizer = family, file, tokenizer
        self.refused = Refused(file.parents[1] if family == "amused" else file.parent)

    def __call__(self) -> str:
        heads = ("--heads", 4) if self.family == "halton" else ()
        tokenizer = ("--tokenizer", self.tokenizer)
        return self.refused(self.family, self.file, *tokenizer, *heads, part="transformer")

    def state(self) -> State:
        if self.family == "google":
            return google.read_state(self.file, [])
        if self.family == "amused":
            return load_file(self.file)
        return dict(torch.load(self.file, weights_only=True)["model_state_dict"])

    def write(self, state: State) -> None:
        """Write weights as the project does."""
        if self.family == "google":
            nested: dict[str, Any] = {}
            for name, value in state.items():
                *maps, last = name.split(".")
                place = nested
                for each in maps:
                    place = place.setdefault(each, {})
                raw = value.contiguous().numpy().tobytes()
                packed = msgpack.packb((list(value.shape), "float32", raw))
                place[last] = msgpack.ExtType(1, packed)
            self.file.write_bytes(msgpack.packb({"params": nested}))
        elif self.family == "amused":
            save_file({name: value.contiguous() for name, value in state.items()}, self.file)
        else:
            torch.save({"iter": 1, "model_state_dict": state}, self.file)


@pytest.fixture(params=FILES)
def case(request: pytest.FixtureRequest, shared: Path, tmp_path: Path) -> Case:
    if request.param == "amused":
        file = request.getfixturevalue("amused_folder") / FILES["amused"]
    else:
        file = tmp_path / Path(FILES[request.param]).name
        shutil.copyfile(shared / "golden" / FILES[request.param], file)
    return Case(request.param, file, shared / "golden" / TOKENIZERS[request.param])


def test_a_file_that_was_cut_off(case: Case) -> None:
    whole = case.file.read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 1):
        case.file.write_bytes(whole[:length])
        assert str(case.file) in case()


def test_names_that_are_missing_or_left_over_are_told(case: Case) -> None:
    state, name = case.state(), MATRIX[case.family]
    case.write({("other.weight" if k == name else k): v for k, v in state.items()})
    message = case()
    assert f"lacks {name}" in message and "has left over other.weight" in message
    case.write({k: v for k, v in state.items() if not k.startswith(name.partition(".")[0])})
    message = case()
    assert "lacks" in message or "has left over" in message
    case.write({"layer.weight": torch.ones(2, 2)})
    assert "lacks" in case()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers(case: Case, value: float) -> None:
    state = case.state()
    state[MATRIX[case.family]][0, 0] = value
    case.write(state)
    assert f"NaN or infinite weights in {MATRIX[case.family]}" in case()


def test_weights_of_another_shape(case: Case) -> None:
    state = case.state()
    state[MATRIX[case.family]] = state[MATRIX[case.family]][:, :-1]
    case.write(state)
    assert f"has of another shape {MATRIX[case.family]}" in case()


def test_code_in_a_pickle_is_not_run(case: Case, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    torch.save({"model_state_dict": {"a": Trap(sprung)}}, case.file)
    case()
    case.file.write_bytes(pickle.dumps({"model": Trap(sprung)}))
    case()
    assert not sprung.exists()


def test_a_tokenizer_of_other_codes_or_another_grid(case: Case, shared: Path) -> None:
    message = Refused.__call__(
        case.refused, case.family, case.file, "--tokenizer", case.tokenizer, "--image-size", 128,
        *(("--heads", 4) if case.family == "halton" else ()), part="transformer",
    )  # fmt: skip
    assert "differ in their grid: 128 pixels" in message
    if case.family == "google":  # whose file does not tell codes from classes
        file = shared / "golden" / FILES["google"]
        with pytest.raises(MaskweaveError, match=r"has 75 rows .* too few for 1024 codes"):
            convert("google", transformer=file)
        return
    state = case.state()
    for name in ("tok_emb.weight", "head.weight", "head.bias"):
        if case.family == "halton":
            state[name] = state[name][:-4]
    if case.family == "amused":
        config = json.loads(case.file.with_name("config.json").read_text())
        case.file.with_name("config.json").write_text(json.dumps(config | {"codebook_size": 60}))
        state["mlm_layer.conv2.weight"] = state["mlm_layer.conv2.weight"][:60]
    case.write(state)
    assert "differ in their codebook: 64 codes and 60" in case()


def test_what_only_halton_can_have(shared: Path, tmp_path: Path) -> None:
    file = tmp_path / "ImageNet_256_tiny.pth"
    shutil.copyfile(shared / "golden" / FILES["halton"], file)
    refused = Refused(tmp_path)
    case = Case("halton", file, shared / "golden" / TOKENIZERS["halton"])
    assert "width of 64 and 3 blocks: say --heads" in refused("halton", file, part="transformer")
    state = case.state()
    case.write(state | {"head.weight": state["head.weight"] + 1})
    assert "head.weight that is not tok_emb.weight" in case()
    case.write(state | {"in_proj.weight": torch.ones(1, 1, 2, 2)})
    assert "patches of tokens (proj 2) are not known" in case()
    case.write(state | {"pos_emb.weight": state["pos_emb.weight"][:60]})
    assert "positions of 60 tokens, which are no square" in case()
    prefixed = {f"module._orig_mod.{name}": value for name, value in state.items()}
    del prefixed["module._orig_mod.head.weight"]
    case.write(prefixed)
    assert convert("halton", transformer=file, options=Options(heads=4)).transformer is not None


AMUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no vocabulary": (lambda f: (f / "tokenizer" / "vocab.json").unlink(), "vocab.json: No such"),
    "no merges": (lambda f: (f / "tokenizer" / "merges.txt").unlink(), "merges.txt: No such"),
    "no text encoder": (
        lambda f: shutil.rmtree(f / "text_encoder"), "text_encoder/config.json: No such"
    ),
    "no weights of it": (
        lambda f: (f / "text_encoder" / "model.safetensors").unlink(), "does not exist"
    ),
    "a vocabulary that is none": (
        lambda f: (f / "tokenizer" / "vocab.json").write_text("[1, 2]"), "vocabulary of prompts"
    ),
    "words beyond the embedding": (
        lambda f: (f / "tokenizer" / "vocab.json").write_text(
            json.dumps({"<|startoftext|>": 1, "<|endoftext|>": 120})
        ),
        "is not of 120 words",
    ),
    "no end of a text": (
        lambda f: (f / "tokenizer" / "vocab.json").write_text('{"a": 1}'), "lacks <|endoftext|>"
    ),
    "merges of nothing": (
        lambda f: (f / "tokenizer" / "merges.txt").write_text("x y z\nq\n"), "vocabulary of prompts"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", AMUSED)
def test_a_folder_of_amused_that_is_not_whole(fault: str, amused_folder: Path) -> None:
    spoil, message = AMUSED[fault]
    spoil(amused_folder)
    refused = Refused(amused_folder)
    assert message in refused("amused", amused_folder / FILES["amused"], part="transformer")


def test_sizes_of_amused_that_cannot_be(amused_folder: Path) -> None:
    refused, file = Refused(amused_folder), amused_folder / "transformer" / "config.json"
    config = json.loads(file.read_text())
    for field, value, said in (
        ("num_hidden_layers", 10**9, "num_hidden_layers"),
        ("hidden_size", 10**12, "dim"),
        ("hidden_size", 65, "has of another shape"),
        ("block_num_heads", 64, "refuse its sizes"),
        ("cond_embed_dim", 8, "cond_embed_dim is projection_dim"),
        ("vocab_size", 64, "vocab_size is more than codebook_size"),
        ("sample_size", "8", "does not tell the size of pictures"),
        ("extra", 1, "extra"),
    ):
        file.write_text(json.dumps(config | {field: value}))
        message = refused("amused", amused_folder / FILES["amused"], part="transformer")
        assert said in message, message


def test_without_the_extra_it_is_said_what_to_install(
    amused_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = amused_folder / FILES["amused"]
    convert("amused", transformer=file).save(tmp_path / "component")
    whole = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name.partition(".")[0] == "diffusers":
            raise ModuleNotFoundError("No module named 'diffusers'", name="diffusers")
        return whole(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    message = Refused(amused_folder)("amused", file, part="transformer")
    assert "no module diffusers: pip install 'maskweave[amused]'" in message
    with pytest.raises(MaskweaveError, match=r"pip install 'maskweave\[amused\]'"):
        load_transformer(tmp_path / "component")


def test_components_whose_config_is_wrong(case: Case, tmp_path: Path) -> None:
    options = Options(heads=4, codebook_size=64)
    folder = tmp_path / "component"
    convert(case.family, transformer=case.file, options=options).save(folder)
    config = json.loads((folder / "config.json").read_text())
    rng = np.random.default_rng(0)
    for field in config:
        for value in (None, -1, 10**30, "none", [], int(rng.integers(1, 9))):
            (folder / "config.json").write_text(json.dumps(config | {field: value}))
            if config[field] == value:
                continue
            with pytest.raises(MaskweaveError) as raised:
                load_transformer(folder)
            assert "config.json" in str(raised.value) or str(folder) in str(raised.value)
