"""Checkpoints of the reference experiment: parity, what varies between students, and refusal."""

import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner, Result

from maskweave.checkpoint import load_tokenizer
from maskweave.cli.main import app
from maskweave.convert import safe_load
from maskweave.convert.families import FAMILIES, Options
from maskweave.convert.folder import convert as convert_files
from maskweave.convert.lab import masked_accuracy, to_tokenizer, to_transformer
from maskweave.errors import MaskweaveError
from maskweave.images import read_image
from maskweave.maskgit import DecodeSettings
from maskweave.pipeline import InpaintPipeline
from maskweave.tokenizer.convolutional import ConvolutionalConfig, ConvolutionalVQGAN

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


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


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


def test_attention_without_biases_has_biases_of_zero() -> None:
    state = small_transformer()
    without = {k: v for k, v in state.items() if not k.endswith(("q_linear.bias", "k_linear.bias"))}
    for name in state.keys() - without.keys():
        state[name] = torch.zeros(16)
    assert same(to_transformer(without, HEADS), to_transformer(state, HEADS))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("blocks.0.Attention.rel_pos", torch.randn(3), "left over blocks.0.Attention.rel_pos"),
        ("mask_token", torch.randn(16), "has left over mask_token"),
        ("transformer.LN.bias", torch.randn(16), "holds LN.bias twice"),
        ("blocks.0.Attention.W_q.weight", torch.randn(16, 16), "query.weight twice, once as"),
        ("blocks.1.LayerNorm2.bias", None, "lacks blocks.1.LayerNorm2.bias"),
        ("blocks.1.Attention.k_linear.weight", None, "lacks blocks.1.Attention.key.weight"),
        ("blocks.1.Attention.k_linear.bias", None, "lacks blocks.1.Attention.key.bias"),
        ("tok_emb.weight", None, "lacks tok_emb.weight of 2 axes"),
        ("pos_emb", torch.randn(1, 16, 16), "lacks pos_emb of 2 axes"),
        ("pos_emb", torch.randn(15, 16), r"of another shape bias \[16, 17\]"),
        ("blocks.0.MLP.2.weight", torch.randn(16, 23), r"shape blocks.0.MLP.2.weight \[16, 23\]"),
        ("LN.weight", torch.full((16,), torch.nan), "NaN or infinite weights in LN.weight"),
        ("LN.weight", torch.full((16,), torch.inf), "NaN or infinite weights in LN.weight"),
        ("LN.weight", torch.ones(16, dtype=torch.int64), "no state dict of weights: see LN.weight"),
        ("LN.weight", torch.ones(16, device="meta"), "no state dict of weights: see LN.weight"),
        ("LN.weight", torch.ones(16).to_sparse(), "no state dict of weights: see LN.weight"),
        ("LN.weight", torch.tensor(1.0), "no state dict of weights: see LN.weight"),
        ("LN.weight", 3.0, "no state dict of weights: see LN.weight"),
        ("mask_token_tensor", torch.tensor(16), "no state dict of weights: see mask_token_tensor"),
        ("pos_emb", torch.zeros(1).expand(2**16, 2**16), "holds more weights than"),
    ],
)
def test_a_transformer_that_does_not_fit_is_refused_by_name(
    files: tuple[Path, Path], name: str, value: Any, message: str
) -> None:
    state = small_transformer() | {name: value}
    torch.save({k: v for k, v in state.items() if v is not None}, files[1])
    with pytest.raises(MaskweaveError, match=rf"epoch_5\.pt: .*{message}"):
        convert(*files, HEADS)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("discriminator.model.0.weight", torch.randn(4, 3), "left over discriminator.model.0"),
        ("encoder.model.9.weight", torch.randn(4, 3), "left over encoder.model.9.weight"),
        ("encoder.model.4.proj_out.bias", None, "lacks encoder.model.4.proj_out.bias"),
        ("encoder.model.3.conv.weight", None, "lacks encoder.model.3.conv.weight"),
        ("encoder.model.1.block.2.weight", None, "lacks encoder.model.1.block.2.weight"),
        ("encoder.model.4.q.bias", None, "lacks encoder.model.4.q.bias"),
        ("encoder.model.5.gn.weight", None, "lacks encoder.model.5.gn.weight"),
        ("encoder.model.8.bias", torch.randn(8), "left over encoder.model.8.bias"),
        ("decoder.model.6.bias", torch.randn(4), r"of another shape decoder.model.6.bias \[4\]"),
        ("decoder.model.0.weight", torch.randn(64), "lacks decoder.model.0.weight of 4 axes"),
        ("codebook.embedding.weight", None, "lacks codebook.embedding.weight of 2 axes"),
        (
            "encoder.model.0.weight",
            torch.randn(33, 3, 3, 3),
            "encoder_channels.* multiple of 32",
        ),
    ],
)
def test_a_vqgan_that_does_not_fit_is_refused_by_name(
    files: tuple[Path, Path], name: str, value: Tensor | None, message: str
) -> None:
    state = small_vqgan() | {name: value}
    torch.save({k: v for k, v in state.items() if v is not None}, files[0])
    with pytest.raises(MaskweaveError, match=rf"VQGAN\.pt: .*{message}"):
        convert(*files, HEADS)


def test_parts_that_do_not_belong_together_are_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(MaskweaveError, match="dim 16 is not a multiple of heads 3"):
        convert(*files, heads=3)
    with pytest.raises(MaskweaveError, match=r"epoch_5\.pt: lacks encoder.model.1"):
        convert(files[1], files[0])
    state = small_vqgan() | {"codebook.embedding.weight": torch.randn(17, 8)}
    torch.save(state, files[0])
    with pytest.raises(MaskweaveError, match="differ in their codebook: 17 codes and 16"):
        convert(*files, HEADS)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.file,)


def test_an_object_is_refused_without_being_unpickled(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    sprung = tmp_path / "sprung"
    for content in (Trap(sprung), {"model": small_transformer(), "args": Trap(sprung)}):
        torch.save(content, files[1])
        with pytest.raises(MaskweaveError, match=r"holds objects.*, which are never unpickled"):
            convert(*files, HEADS)
        files[1].write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(MaskweaveError, match=r"holds objects.*, which are never unpickled"):
            convert(*files, HEADS)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()


def test_files_that_are_broken_too_large_or_hold_something_else_are_refused(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(message: str) -> None:
        with pytest.raises(MaskweaveError, match=rf"epoch_5\.pt: .*{message}"):
            convert_files("lab", transformer=files[1], options=Options(HEADS))

    whole = files[1].read_bytes()
    for part in (b"", whole[:100], whole[: len(whole) // 2], whole[:-30]):
        files[1].write_bytes(part)
        refused("is broken")
    for content in ([torch.ones(3)], torch.ones(3), {}, {"model": 3}, {"model": {}}):
        torch.save(content, files[1])
        refused("holds no")
    circle: dict[str, Any] = {}
    circle["model"] = circle
    torch.save(circle, files[1])
    refused("no state dict of weights: see model")
    files[1].unlink()
    refused("does not exist")
    files[1].mkdir()
    refused("is no file")
    files[1].rmdir()
    files[1].write_bytes(whole)
    monkeypatch.setattr(safe_load, "LARGEST_FILE", len(whole) - 1)
    refused("is larger than")
    with zipfile.ZipFile(files[1], "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data.pkl", bytes(len(whole)))
    assert files[1].stat().st_size < len(whole) / 10
    refused(rf"unpacks to {len(whole)} bytes from \d+, as no checkpoint does")


def fill(pipeline: InpaintPipeline, image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    return np.array(pipeline(image, hole, generator=generator).images[0])


@pytest.mark.parametrize("size", [(16, 16), (20, 30)])
def test_laws_1_2_and_7_hold_for_a_converted_model(
    files: tuple[Path, Path], tmp_path: Path, rng: np.random.Generator, size: tuple[int, int]
) -> None:
    pipeline, _ = convert(*files, HEADS)
    pipeline.save_pretrained(tmp_path / "model")
    loaded = InpaintPipeline.from_pretrained(tmp_path / "model")
    assert isinstance(loaded.tokenizer, ConvolutionalVQGAN)
    assert loaded.tokenizer.config == pipeline.tokenizer.config
    assert loaded.transformer.config == pipeline.transformer.config
    assert loaded.defaults == pipeline.defaults

    image, other = rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)
    hole = np.zeros(size, dtype=bool)
    hole[3:11, 5:12] = True
    other = np.where(hole[:, :, None], other, image)
    filled = fill(pipeline, image, hole)
    assert np.array_equal(filled[~hole], image[~hole])
    assert not np.array_equal(filled[hole], image[hole])
    assert np.array_equal(fill(pipeline, other, hole), filled)
    assert np.array_equal(fill(loaded, image, hole), filled)


def test_the_decoder_does_not_look_at_known_pixels_and_the_encoder_sees_beyond_a_patch() -> None:
    model = to_tokenizer(small_vqgan(), image_size=16)
    tokens, images = torch.arange(16)[None], torch.rand(2, 3, 16, 16) * 2 - 1
    hole = torch.ones(2, 16, 16, dtype=torch.bool)
    painted = model.decode(tokens)
    assert torch.equal(model.decode(tokens, images, hole), painted)
    assert painted.abs().max() <= 1
    images[1] = images[0]
    images[1, :, :4, :4] = 1.0
    before, after = model.encode(images)
    assert not torch.equal(before[1:], after[1:])


def test_the_command_makes_a_model_that_inpaint_takes(
    files: tuple[Path, Path], tmp_path: Path, rng: np.random.Generator
) -> None:
    whole = {f"transformer.{name}": value for name, value in small_transformer().items()}
    torch.save(whole | {"vqgan.quant_conv.bias": torch.ones(8)}, files[1])
    output, photo, mask = tmp_path / "model", tmp_path / "photo.png", tmp_path / "mask.png"
    command = ["convert", "reference", "--tokenizer", files[0], "--transformer", files[1]]
    command += ["--output", output, "--heads", HEADS]
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{output}\n"
    note, check = result.stderr.splitlines()
    assert note == f"note: {files[1]}: left out 1 weights of the vqgan"
    assert re.match(r"check: predicts \d+\.\d% of .*; chance is 6\.2% \(one of 16 codes\)", check)
    written = {file.relative_to(output).as_posix() for file in output.rglob("*") if file.is_file()}
    assert written == {"README.md", "config.json", "origin.json"} | {
        f"{part}/{name}"
        for part in ("tokenizer", "transformer")
        for name in ("config.json", "model.safetensors")
    }
    card = (output / "README.md").read_text()
    for said in ("# model\n", "VQGAN.pt", "epoch_5.pt", "16x16 pixels, 4x4 tokens, 16 codes"):
        assert said in card
    defaults = json.loads((output / "config.json").read_text())["defaults"]
    assert DecodeSettings(**defaults) == DecodeSettings(
        15, "cosine", "probability", stop_after=3, temperature=4.5, token_temperature=0
    )

    again = run(*command)
    assert again.exit_code == 2
    assert "exists; --overwrite replaces it" in again.stderr
    before = {file: file.read_bytes() for file in output.rglob("*") if file.is_file()}
    assert run(*command, "--overwrite").exit_code == 0
    assert {file: file.read_bytes() for file in before} == before

    pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    hole = np.zeros((16, 16), dtype=np.uint8)
    hole[4:9, 4:9] = 255
    Image.fromarray(pixels).save(photo)
    Image.fromarray(hole).save(mask)
    filled = tmp_path / "filled.png"
    result = run("inpaint", photo, "--mask", mask, "--output", filled, "--model", output)
    assert result.exit_code == 0, result.output
    after = read_image(filled).pixels
    assert np.array_equal(after[hole == 0], pixels[hole == 0])
    assert not np.array_equal(after, pixels)


def test_a_failed_conversion_is_one_line_and_nothing_written(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    files[0].write_bytes(b"no checkpoint")
    output = tmp_path / "model"
    result = run(
        "convert", "reference", "--tokenizer", files[0], "--transformer", files[1],
        "--output", output, "--heads", HEADS,
    )  # fmt: skip
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"error: {files[0]}: is broken")
    assert not output.exists()


@torch.no_grad()
def test_a_folder_of_an_earlier_version_loads_as_before(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    pipeline, _ = convert(*files, HEADS)
    pipeline.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer" / "config.json"
    fields = json.loads(file.read_text())
    for new in ("latent_dim", "unit_codes", "variant"):
        del fields[new]
    file.write_text(json.dumps(fields | {"architecture": "reference"}))
    loaded = load_tokenizer(file.parent)
    assert loaded.config == pipeline.tokenizer.config
    tokens = torch.arange(16)[None]
    assert torch.equal(loaded.decode(tokens), pipeline.tokenizer.decode(tokens))


def test_help_names_every_family() -> None:
    said = " ".join(run("convert", "--help").stdout.replace("\u2502", " ").split())
    for family in FAMILIES:
        assert re.search(rf"\b{family}\b", said)


SIZES: dict[str, Any] = {
    "encoder": ("residual", "down"), "encoder_channels": (32, 64, 64),
    "decoder": ("attention", "up"), "decoder_channels": (64, 64, 64),
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codebook_size": 10**13}, "codebook_size should be less"),
        ({"codebook_dim": 0}, "codebook_dim should be greater"),
        ({"encoder": ("down",) * 2000, "encoder_channels": (32,) * 2001}, "no stack of layers"),
        ({"encoder_channels": (32, 64)}, "no stack of layers"),
        ({"encoder": ("residual", "up")}, "no stack of layers"),
        (
            {"encoder_channels": (32, 2**13, 2**13)},
            "encoder_channels.1 should be less .* 4096",
        ),
        ({"encoder_channels": (32, 64, 32)}, "down cannot change the width from 64 to 32"),
        ({"decoder": ("attention", "residual")}, "does not end at the size"),
        ({"encoder": ("residual", "residual")}, "does not end at the size"),
        ({"encoder": ("residual", "pool"), "decoder": ("pool", "up")}, "no stack of layers"),
        ({"variant": "maskgit", "latent_dim": 8}, "codes of 256 numbers, latents of others"),
        ({"variant": "other"}, "variant should be 'taming', 'maskgit' or 'lab'"),
        ({"image_size": 2**13}, "image_size should be less"),
        ({"image_size": 63}, "image_size 63 is not a multiple"),
        ({"mean": (0.5, 0.5)}, "mean.2: Field required"),
        ({"std": (0.5, 0.5, float("nan"))}, "std.2 should be a finite number"),
        ({"std": (0.5, 0.5, 0.0)}, "std.2 should be greater than 0"),
    ],
)
def test_configs_of_layers_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    ConvolutionalConfig(**SIZES)
    with pytest.raises(MaskweaveError, match=message):
        ConvolutionalConfig(**SIZES | change)


def test_broken_configs_of_a_converted_model_are_refused(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    pipeline, _ = convert(*files, HEADS)
    pipeline.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer" / "config.json"
    fields = json.loads(file.read_text())
    for name, value, message in (
        (
            "decoder",
            ["sideways"],
            "describe ConvolutionalConfig: decoder.0 should be 'residual'",
        ),
        (
            "architecture",
            "other",
            "unknown architecture 'other' of a tokenizer",
        ),
        ("encoder", None, "does not describe ConvolutionalConfig: encoder: Field required"),
    ):
        changed = {k: v for k, v in (fields | {name: value}).items() if v is not None}
        file.write_text(json.dumps(changed))
        with pytest.raises(MaskweaveError, match=message):
            load_tokenizer(tmp_path / "tokenizer")
