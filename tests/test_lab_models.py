"""Models made of the reference experiment's checkpoints: the laws, the command, their configs."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from commands import run
from lab_checkpoints import HEADS, convert, small_transformer, small_vqgan
from maskweave.checkpoint import load_tokenizer
from maskweave.convert.families import FAMILIES
from maskweave.convert.lab import to_tokenizer
from maskweave.errors import MaskweaveError
from maskweave.images import read_image
from maskweave.maskgit import DecodeSettings
from maskweave.pipeline import InpaintPipeline
from maskweave.tokenizer.convolutional import ConvolutionalConfig, ConvolutionalVQGAN


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
    loaded = InpaintPipeline.from_pretrained(tmp_path).tokenizer
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
