"""Folders as other projects publish them: told by their files, converted on the first use."""

import json
import os
import re
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from commands import run
from maskweave.checkpoint import load_tokenizer
from maskweave.convert.families import Found, family_of, found_among
from maskweave.convert.folder import component, prepared
from maskweave.errors import MaskweaveError
from maskweave.pipeline import InpaintPipeline
from maskweave.tokenizer.convolutional import ConvolutionalVQGAN

PUBLISHED = {
    "taming": ("taming/checkpoints/last.ckpt", "checkpoints/last.ckpt"),
    "llamagen": ("llamagen_vq/vq_ds16_c2i.pt", "vq_ds16_c2i.pt"),
    "openmuse": (
        "openmuse_maskgit_vqgan/maskgit-vqgan-imagenet-f16-256.bin",
        "maskgit-vqgan-imagenet-f16-256.bin",
    ),
    "google": (
        "google_maskgit/tokenizer_imagenet256_checkpoint",
        "tokenizer_imagenet256_checkpoint",
    ),
    "amused": (
        "amused/vqvae/diffusion_pytorch_model.safetensors",
        "vqvae/diffusion_pytorch_model.safetensors",
    ),
}


@pytest.fixture(params=PUBLISHED)
def published(request: pytest.FixtureRequest, shared: Path, tmp_path: Path) -> Path:
    """Return a folder of a family, called as the family is, as its project publishes it."""
    golden, name = PUBLISHED[request.param]
    folder = tmp_path / request.param
    (folder / name).parent.mkdir(parents=True)
    shutil.copyfile(shared / "golden" / golden, folder / name)
    (folder / "README.md").write_text("of the project")
    return folder


def files_in(folder: Path) -> set[Path]:
    return {file for file in folder.rglob("*") if file.is_file()}


def test_a_family_is_told_by_its_files_and_converted_once_into_the_cache(
    published: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = PUBLISHED[published.name][1]
    assert family_of(published) == Found(published.name, name, None)
    before = files_in(published)
    kept = component(published, "tokenizer")
    assert files_in(published) == before
    assert kept.is_relative_to(cache / "maskweave" / "converted")
    assert f"{published}: of {published.name}, converted into {kept}" in capsys.readouterr().err
    tokenizer = load_tokenizer(kept)
    assert isinstance(tokenizer, ConvolutionalVQGAN)
    times = {file: file.stat().st_mtime_ns for file in files_in(kept)}
    assert component(published, "tokenizer") == kept
    assert {file: file.stat().st_mtime_ns for file in files_in(kept)} == times
    assert capsys.readouterr().err == ""
    (published / name).touch()  # another file, for all that anybody knows
    assert component(published, "tokenizer") != kept


@pytest.mark.parametrize(
    "changed", ["text_encoder/model.safetensors", "tokenizer/merges.txt", "vqvae/config.json"]
)
def test_what_lies_beside_the_weights_counts_as_well(changed: str, amused_folder: Path) -> None:
    kept = prepared(amused_folder)
    assert prepared(amused_folder) == kept
    file = amused_folder / changed
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert prepared(amused_folder) != kept


def test_a_tokenizer_alone_does_not_fill(published: Path) -> None:
    with pytest.raises(MaskweaveError, match=f"^{re.escape(str(published))} holds one part alone"):
        InpaintPipeline.from_pretrained(published)


@pytest.mark.parametrize("stage", ["tokenizer", "transformer"])
def test_networks_of_other_projects_are_no_start_of_ours(
    stage: str, shared: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    for file in (shared / "golden" / "google_maskgit").glob("*_checkpoint"):
        shutil.copyfile(file, folder / file.name)
    tokenizer = ("--tokenizer", folder) if stage == "transformer" else ()
    output = tmp_path / "run"
    result = run("train", stage, "--data", folder, *tokenizer, "--init", folder, "--output", output)
    assert result.exit_code == 2 and not output.exists()
    architecture = {"tokenizer": "convolutional_vqgan", "transformer": "google_transformer"}[stage]
    assert f"is {architecture}, which is not trained here\n" in result.stderr


def test_a_broken_file_leaves_nothing_in_the_cache(published: Path, cache: Path) -> None:
    file = published / PUBLISHED[published.name][1]
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(MaskweaveError, match=file.name):
        InpaintPipeline.from_pretrained(published)
    assert not (cache / "maskweave" / "converted").exists()


def test_the_command_takes_a_folder(published: Path, tmp_path: Path) -> None:
    output = tmp_path / "component"
    result = run("convert", "--model", published, "--output", output)
    assert result.exit_code == 0, result.output
    assert json.loads((output / "origin.json").read_text())["family"] == published.name
    result = run("convert", "lab", "--model", published, "--output", tmp_path / "other")
    assert result.exit_code == 2 and "holds no files named as those of lab" in result.stderr
    result = run("convert", "none", "--model", published, "--output", tmp_path / "other")
    assert result.exit_code == 2 and result.stderr.startswith("error: unknown family 'none'; known")
    result = run("convert", "--model", tmp_path / "none", "--output", tmp_path / "other")
    assert result.exit_code == 2 and "is no folder" in result.stderr


def test_of_several_files_none_is_guessed() -> None:
    names = ["tokenizer_imagenet256_checkpoint", "tokenizer_imagenet512_checkpoint"]
    with pytest.raises(MaskweaveError, match=r"holds tokenizer_imagenet256.* and .*say which one"):
        found_among(names)
    assert found_among(["model.bin", "README.md"]) is None
    assert found_among([]) is None


def test_our_own_folders_are_left_as_they_are(tiny_model: Path, cache: Path) -> None:
    assert prepared(tiny_model) == tiny_model
    assert component(tiny_model, "tokenizer") == tiny_model / "tokenizer"
    assert not cache.exists()


def test_a_repository_on_the_hub_is_asked_for_what_its_family_needs(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden, name = PUBLISHED["llamagen"]
    asked: list[tuple[list[str], dict[str, Any]]] = []

    def snapshot_download(repo: str, allow_patterns: list[str], **options: Any) -> str:
        asked.append((allow_patterns, options))
        folder = tmp_path / "snapshot"
        folder.mkdir(exist_ok=True)
        if name in allow_patterns:
            shutil.copyfile(shared / "golden" / golden, folder / name)
        return str(folder)

    class Api:
        def __init__(self, token: str | None) -> None:
            assert token == "secret"

        def list_repo_files(self, repo: str, revision: str | None) -> list[str]:
            assert (repo, revision) == ("FoundationVision/LlamaGen", "main")
            return ["README.md", "c2i_B_256.pt", "vq_ds8_c2i.pt", name]

    hub = types.SimpleNamespace(snapshot_download=snapshot_download, HfApi=Api)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    options = {"revision": "main", "token": "secret"}
    kept = component("FoundationVision/LlamaGen", "tokenizer", **options)
    assert asked[-1] == ([name], options)
    assert load_tokenizer(kept).codebook_size == 64
    # Without asking the hub, what was downloaded before is found.
    kept_again = component("FoundationVision/LlamaGen", "tokenizer", local_files_only=True)
    assert kept_again == kept


def test_models_lists_folders_with_family_licence_size_and_domain(
    published: Path, tmp_path: Path, tiny_model: Path
) -> None:
    components = tmp_path / "components"
    output = components / "one"
    assert run("convert", "--model", published, "--output", output).exit_code == 0
    shutil.copytree(tiny_model, components / "two")
    one, two = json.loads(run("models", components, "--json").stdout)
    assert (one["family"], one["name"], one["image_size"]) == (published.name, str(output), 256)
    assert one["licence"] and one["domain"] and one["project"] and one["megabytes"] > 0
    assert two["name"] == str(components / "two") and "family" not in two
    line, _ = run("models", components).stdout.splitlines()
    for said in (str(output), one["domain"], published.name, one["licence"], " MB "):
        assert said in line
    assert json.loads(run("models", output, "--json").stdout) == [one]
    # What the first use has put into the cache is at hand.
    kept = component(published, "tokenizer")
    assert str(kept) in [row["name"] for row in json.loads(run("models", "--json").stdout)]
    (tmp_path / "empty").mkdir()
    result = run("models", tmp_path / "empty")
    assert result.exit_code == 2 and "no model in" in result.stderr


def test_a_transformer_is_trained_on_a_tokenizer_of_another_project(
    published: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    photos, model = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(photos / f"{i}.png")
    tokenizer = tmp_path / "component"
    result = run("convert", "--model", published, "--output", tokenizer, "--image-size", 32)
    assert result.exit_code == 0, result.output
    settings = (
        *("run.steps=2", "run.batch_size=2", "run.save_every=2", "masking.holed_tokens=true"),
        *("model.dim=16", "model.depth=1", "model.heads=2", "model.mlp_dim=16", "masking.views=1"),
        "examples.shift=0",
    )
    arguments = [each for setting in settings for each in ("--set", setting)]
    result = run(
        *("train", "transformer", "--data", photos, "--validation", photos, "--output", model),
        *("--tokenizer", tokenizer, "--cache", tmp_path / "prepared"),
        *arguments,
    )
    assert result.exit_code == 0, (result.output, result.exception)
    pipeline = InpaintPipeline.from_pretrained(model)
    assert pipeline.tokenizer.config == load_tokenizer(tokenizer).config
    weights = load_tokenizer(tokenizer).state_dict()
    for name, value in pipeline.tokenizer.state_dict().items():
        assert torch.equal(value, weights[name])  # it is frozen
    photo = rng.integers(0, 256, (32, 32, 3), np.uint8)
    hole = np.zeros((32, 32), bool)
    hole[8:20, 8:20] = True
    filled = np.array(pipeline(photo, hole).images[0])
    assert np.array_equal(filled[~hole], photo[~hole])
