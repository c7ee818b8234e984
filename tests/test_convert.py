"""Checkpoints of the reference experiment: parity, and what varies between students."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from commands import run
from lab_checkpoints import HEADS, SEPARATE, State, convert, small_transformer, small_vqgan
from maskweave.convert.lab import masked_accuracy, to_tokenizer, to_transformer
from maskweave.errors import MaskweaveError
from maskweave.pipeline import InpaintPipeline


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def close(found: Tensor, expected: np.ndarray, scale: float = 1.0) -> None:
    wanted = torch.from_numpy(expected) / scale
    torch.testing.assert_close(found / scale, wanted, atol=1e-5, rtol=0)


@torch.no_grad()
def test_against_the_reference_vqgan(shared: Path) -> None:
    folder = shared / "golden" / "reference_vqgan"
    weights = torch.load(folder / "VQGAN.pt", weights_only=True)
    golden = np.load(folder / "io.npz")
    model = to_tokenizer(weights)
    assert (model.config.image_size, model.config.patch_size) == (64, 4)

    def codes(tokens: Tensor) -> Tensor:
        return model.codebook(tokens).transpose(1, 2).unflatten(2, (16, 16))

    images, tokens = torch.from_numpy(golden["images"]), torch.from_numpy(golden["indices"])
    first = model.encoder.layers[0](model.encoder.first(images[:1]))[:, :8]
    close(first, golden["after_first_block"])
    close(model.to_code(model.encoder(images)), golden["z_before_quant"])
    close(codes(tokens), golden["z_q"])
    # Stored pictures, up to 4.3 in size, are themselves 1.2e-5 from those of float64 arithmetic.
    for given, picture in (("indices", "reconstruction"), ("decode_indices", "decode_image")):
        painted = model.decoder(model.from_code(codes(torch.from_numpy(golden[given]))))
        close(painted, golden[picture], np.abs(golden[picture]).max())

    mean, std = (np.array(c, "f")[:, None, None] for c in (model.config.mean, model.config.std))
    scaled = torch.from_numpy((golden["images"] * std + mean) * 2 - 1)
    assert torch.equal(model.encode(scaled), tokens)
    painted = (golden["decode_image"] * std + mean) * 2 - 1
    close(model.decode(torch.from_numpy(golden["decode_indices"])), painted.clip(-1, 1))


@torch.no_grad()
@pytest.mark.parametrize(("kind", "file"), [("separate", "epoch_5.pt"), ("fused", "ckpt_10.pt")])
def test_against_the_reference_transformer(shared: Path, kind: str, file: str) -> None:
    folder = shared / "golden" / f"reference_transformer_{kind}"
    golden = np.load(folder / "io.npz")
    model = to_transformer(torch.load(folder / file, weights_only=True), heads=16)
    tokens = torch.from_numpy(golden["ids"])
    x = model.embedding_norm(model.token_embedding(tokens) + model.position_embedding)
    close(x, golden["after_embed"])
    close(model.blocks[0](x, None), golden["after_block0"])
    close(model(tokens), golden["logits"], np.abs(golden["logits"]).max())


NESTINGS: dict[str, Callable[[State], dict[str, Any]]] = {
    "alone": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3, "loss": torch.tensor(0.5)},
    "state_dict": lambda state: {"state_dict": state},
    "two levels": lambda state: {"model": {"model_state_dict": state}},
    "module.": lambda state: {f"module.{name}": value for name, value in state.items()},
    "compiled": lambda state: {f"_orig_mod.model.{name}": v for name, v in state.items()},
    "half": lambda state: {name: value.half() for name, value in state.items()},
}


@pytest.mark.parametrize("nesting", NESTINGS)
def test_the_state_dict_is_found_wherever_training_scripts_put_it(
    files: tuple[Path, Path], nesting: str
) -> None:
    expected, notes = convert(*files, HEADS)
    assert notes == []
    for file in files:
        torch.save(NESTINGS[nesting](torch.load(file, weights_only=True)), file)
    found, notes = convert(*files, HEADS)
    assert [note.split(": ")[1] for note in notes] == (
        ["left out epoch, loss"] * 2 if nesting == "model" else []
    )
    if nesting == "half":
        expected.tokenizer.half().float()
        expected.transformer.half().float()
    assert same(found.tokenizer, expected.tokenizer)
    assert same(found.transformer, expected.transformer)


@pytest.mark.parametrize("nested", [False, True], ids=["prefixes", "dicts"])
def test_of_a_whole_model_each_part_is_taken_and_the_rest_said(
    files: tuple[Path, Path], tmp_path: Path, nested: bool
) -> None:
    expected, _ = convert(*files, HEADS)
    parts = {"vqgan": small_vqgan(), "transformer": small_transformer()}
    prefixed = {f"{p}.module.{k}": v for p, state in parts.items() for k, v in state.items()}
    whole = tmp_path / "whole.pt"
    torch.save(parts if nested else {"model_state": prefixed, "optimizer_state": {0: {}}}, whole)
    found, notes = convert(whole, whole, HEADS)
    assert same(found.tokenizer, expected.tokenizer)
    assert same(found.transformer, expected.transformer)
    assert [note.removeprefix(f"{whole}: left out ") for note in notes] == (
        ["transformer", "vqgan"]
        if nested
        else [
            "optimizer_state, 41 weights of the transformer",
            "optimizer_state, 65 weights of the vqgan",
        ]
    )


@pytest.mark.parametrize(
    "names",
    [
        ("query", "key", "value", "out"),
        ("query", "key", "value", "proj"),
        ("queries", "keys", "values", "fc_out"),
        ("query_layer", "key_layer", "value_layer", "output_layer"),
        ("to_q", "to_k", "to_v", "to_out.0"),
        ("q_proj", "k_proj", "v_proj", "out_proj"),
        ("W_q", "W_k", "W_v", "W_o"),
        ("w_q", "w_k", "w_v", "linear_proj"),
        ("Wq", "Wk", "Wv", "Wo"),
        ("linear_q", "linear_k", "linear_v", "linear"),
        ("fc_q", "fc_k", "fc_v", "fc"),
        ("q", "k", "v", "proj_out"),
    ],
)
def test_matrices_of_the_attention_are_known_by_their_usual_names(names: tuple[str, ...]) -> None:
    state = small_transformer()
    expected = to_transformer(state, HEADS)
    for old, new in zip(SEPARATE, names, strict=True):
        state = {name.replace(f".{old}.", f".{new}."): value for name, value in state.items()}
    assert same(to_transformer(state, HEADS), expected)


def fuse(state: State, name: str, layout: str) -> State:
    """Return the state with one matrix in each attention, whose output is called ``out_proj``."""
    state = {key.replace(".out_linear.", ".out_proj."): value for key, value in state.items()}
    for i in range(2):
        for leaf in ("weight", "bias"):
            parts = [state.pop(f"blocks.{i}.Attention.{part}.{leaf}") for part in SEPARATE[:3]]
            if layout == "heads":  # a head's query, key and value come one after the other
                heads = [third.chunk(HEADS) for third in parts]
                parts = [third[head] for head in range(HEADS) for third in heads]
            state[f"blocks.{i}.Attention.{name}.{leaf}"] = torch.cat(parts)
    return state


@pytest.mark.parametrize("fused", ["qkv", "qkv_proj", "to_qkv", "Wqkv"])
def test_fused_matrices_are_queries_keys_and_values_one_below_the_other(fused: str) -> None:
    state = small_transformer()
    expected = to_transformer(state, HEADS)
    assert same(to_transformer(fuse(state, fused, "roles"), HEADS), expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["qkv", "qkv_layer"])
def test_fused_matrices_of_both_layouts_give_the_same_output(name: str) -> None:
    state, tokens = small_transformer(), torch.arange(16)[None]
    expected = to_transformer(state, HEADS)(tokens)
    for told in ("roles", "heads"):
        for true in ("roles", "heads"):
            found = to_transformer(fuse(state, name, true), HEADS, told)(tokens)
            assert torch.equal(found, expected) == (told == true)


def test_the_layout_of_a_name_that_leaves_it_open_must_be_said(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    expected, _ = convert(*files, HEADS)
    torch.save(fuse(small_transformer(), "qkv_layer", "heads"), files[1])
    output = tmp_path / "model"
    command = ["convert", "reference", "--tokenizer", files[0], "--transformer", files[1]]
    command += ["--output", output, "--heads", HEADS]
    result = run(*command)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    for said in (f"error: {files[1]}: ", "qkv_layer", "--qkv-layout roles", "--qkv-layout heads"):
        assert said in result.stderr
    assert not output.exists()
    assert run(*command, "--qkv-layout", "heads").exit_code == 0
    assert same(InpaintPipeline.from_pretrained(output).transformer, expected.transformer)
    assert run(*command, "--qkv-layout", "columns", "--overwrite").exit_code == 2


def test_a_fused_matrix_that_heads_do_not_divide_is_refused_by_name() -> None:
    state = fuse(small_transformer(), "qkv", "roles")
    for layout in ("roles", "heads"):
        with pytest.raises(MaskweaveError, match=r"qkv\.weight of 48 rows is not of 3 x 5 heads"):
            to_transformer(state, 5, layout)


def test_attention_without_biases_has_biases_of_zero() -> None:
    state = small_transformer()
    without = {k: v for k, v in state.items() if not k.endswith(("q_linear.bias", "k_linear.bias"))}
    for name in state.keys() - without.keys():
        state[name] = torch.zeros(16)
    assert same(to_transformer(without, HEADS), to_transformer(state, HEADS))


def test_the_masked_accuracy_counts_the_tokens_that_are_predicted(
    files: tuple[Path, Path],
) -> None:
    pipeline, _ = convert(*files, HEADS)
    image = torch.rand(3, 16, 16) * 2 - 1
    [tokens] = pipeline.tokenizer.encode(image[None])
    accuracy = masked_accuracy(pipeline.tokenizer, pipeline.transformer, image)
    assert masked_accuracy(pipeline.tokenizer, pipeline.transformer, image) == accuracy
    # Biases beyond all else predict what they are of.
    for wrong, expected in ((0, 1.0), (1, 0.0)):
        bias = torch.zeros_like(pipeline.transformer.bias)
        bias[torch.arange(16), (tokens + wrong) % 16] = 1e6
        pipeline.transformer.bias.data = bias
        assert masked_accuracy(pipeline.tokenizer, pipeline.transformer, image) == expected
