"""The recipe for a GPU that can be had for minutes: photos packed, stages timed, models split."""

import json
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from maskweave.errors import MaskweaveError
from maskweave.pipeline import InpaintPipeline

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

import gpu
import pack
import shards

TINY = (
    "tokenizer.model.image_size=16", "tokenizer.model.patch_size=4",
    "tokenizer.model.channels=8,8,8", "tokenizer.model.encoder_dim=16",
    "tokenizer.model.decoder_blocks=1",
    "tokenizer.model.codebook_size=16", "tokenizer.loss.perceptual=0",
    "transformer.model.dim=16", "transformer.model.depth=1", "transformer.model.heads=2",
    "transformer.model.mlp_dim=16", "decoder.loss.perceptual=0",
    "narrow.loss.perceptual=0",
)  # fmt: skip


def session(noise: Path, output: Path) -> gpu.Session:
    return gpu.Session(noise, noise, output, batch_size=4, settings=TINY)


# --- stages


def test_each_stage_is_timed_and_goes_on_from_the_one_before(noise: Path, tmp_path: Path) -> None:
    runs, model = session(noise, tmp_path / "runs"), None
    for stage in gpu.STAGES:
        report = runs.train(stage, model, seconds=0.0)
        assert report["steps"] == gpu.FEWEST and report["images_per_second"] > 0
        assert np.isfinite(report["validation/loss"])
        model = tmp_path / "runs" / stage
    assert {path.name for path in runs.output.iterdir()} == {*gpu.STAGES, "cache"}
    shards.split(model, tmp_path / "out")
    shards.join(tmp_path / "out", tmp_path / "joined")
    # It is a model, of which all stages go on as well.
    pipeline = InpaintPipeline.from_pretrained(tmp_path / "joined")
    assert pipeline.framing == InpaintPipeline.from_pretrained(model).framing
    again = session(noise, tmp_path / "again")
    for stage in ("tokenizer", "transformer"):
        recipe = again.recipe(stage, tmp_path / "joined")
        again.run(stage, gpu._lasting(recipe, 1, 1), tmp_path / "joined", tmp_path / stage)
        first = load_file(tmp_path / stage / "checkpoints/step_00000000/model.safetensors")
        given = load_file(tmp_path / "joined" / stage / "model.safetensors")
        assert all(torch.equal(first[name], value.float()) for name, value in given.items())


def test_half_the_cost_of_a_step_comes_with_the_discriminator() -> None:
    recipe = gpu._lasting(gpu.Session(Path(), Path(), Path()).recipe("tokenizer", None), 20, 4)
    assert recipe.loss.adversarial_start == 0.6
    each, other = gpu._cost(recipe, [1.0, 256.0, 256.0, 128.0, 128.0], took=100.0)
    assert each == pytest.approx(0.6 * 1 + 0.4 * 2)
    assert other == pytest.approx(100 - 4 * (1 + 1 + 1 + 2 + 2))


def test_the_rate_grows_with_the_fourth_root_of_the_batch() -> None:
    runs = gpu.Session(Path(), Path(), Path(), batch_size=256)
    for stage in gpu.STAGES:
        presets = {"tokenizer": gpu.TOKENIZERS, "transformer": gpu.TRANSFORMERS}
        presets |= {"decoder": gpu.DECODERS, "narrow": gpu.NARROWS}
        preset: Any = presets[stage]["photos"]
        rate = runs.recipe(stage, None).optimiser.learning_rate
        usual, more = preset.optimiser.learning_rate, 256 / preset.run.batch_size
        assert more in (16, 32) and rate == pytest.approx(usual * more**0.25)


def test_a_decoder_that_has_its_blocks_gets_no_more(tmp_path: Path) -> None:
    runs = gpu.Session(Path(), Path(), Path(), preset="cats64")
    assert runs.recipe("decoder", None).blocks == 3
    shipped = Path(gpu.__file__).parents[1] / "src/maskweave/models/cats64"
    assert runs.recipe("decoder", shipped).blocks == 0
    assert runs.recipe("tokenizer", shipped).model.decoder_blocks == 6


def test_when_time_is_up_the_model_so_far_is_there(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stage(runs: gpu.Session, name: str, model: Path | None, seconds: float) -> dict[str, Any]:
        if name == "transformer":
            time.sleep(60)
        tokenizer = tmp_path / "runs" / name / "tokenizer"
        tokenizer.mkdir(parents=True)
        for file in (tiny_model / "tokenizer").iterdir():
            (tokenizer / file.name).write_bytes(file.read_bytes())
        return {"steps": 3}

    monkeypatch.setattr(gpu.Session, "train", stage)
    runs, out = session(tmp_path, tmp_path / "runs"), tmp_path / "out"
    shares = {"tokenizer": 0.5, "transformer": 0.5}
    report = gpu.train(runs, gpu.LEFT + 1, shares, None, out)
    assert report == {"tokenizer": {"steps": 3}, "stopped_in": "transformer"}
    assert json.loads((out / "report.json").read_text()) == report
    shards.join(out, tmp_path / "joined")
    assert [path.name for path in (tmp_path / "joined").iterdir()] == ["tokenizer"]


def test_a_later_stage_needs_a_model_and_a_setting_a_stage(noise: Path, tmp_path: Path) -> None:
    with pytest.raises(MaskweaveError, match="the decoder needs a model"):
        session(noise, tmp_path).train("decoder", None, 0.0)
    with pytest.raises(MaskweaveError, match=r"run\.steps=3 does not begin with"):
        gpu.Session(noise, noise, tmp_path, settings=("run.steps=3",))


def test_the_command_trains_as_many_steps_as_fit_and_prints_what_came_of_them(
    noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "_cost", lambda *_: (150.0, 600.0))  # seconds of a step, of the rest
    app = typer.Typer()
    app.command()(gpu.main)
    folders = ("--photos", noise, "--validation", noise, "--output", tmp_path / "runs")
    settings = [part for setting in TINY for part in ("--set", setting)]
    size = ("--batch", 4, "--workers", 0, "--stages", "tokenizer")
    command = [60, *folders, *settings, *size, "--out", tmp_path / "out"]
    result = CliRunner().invoke(app, [str(part) for part in command])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [*report] == ["device", "tokenizer"]
    assert report["tokenizer"]["steps"] == 18  # of 19 at most, as some time is spared
    files = [path.name for path in (tmp_path / "out").iterdir()]
    assert sorted(files) == ["model.json", "report.json", "weights-0.safetensors"]


# --- files


def test_a_split_model_is_joined_to_the_same_model_in_half_precision(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "LARGEST", 12_000)
    shards.split(tiny_model, tmp_path / "out")
    files = [*(tmp_path / "out").iterdir()]
    assert 3 < len(files) <= 8 and all(file.stat().st_size < 20_000 for file in files)
    shards.join(tmp_path / "out", tmp_path / "joined")
    for component in ("tokenizer", "transformer"):
        ours, theirs = (
            load_file(model / component / "model.safetensors")
            for model in (tmp_path / "joined", tiny_model)
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name].half()) for name in ours)
    InpaintPipeline.from_pretrained(tmp_path / "joined")
    (tmp_path / "out/weights-1.safetensors").unlink()
    with pytest.raises(MaskweaveError, match=r"weights-1\.safetensors is missing"):
        shards.join(tmp_path / "out", tmp_path / "other")


def test_a_smaller_model_replaces_a_larger_one(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shards, "LARGEST", 12_000)
        shards.split(tiny_model, tmp_path)
    shards.split(tiny_model, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.json", "weights-0.safetensors"}


@pytest.mark.parametrize(("largest", "message"), [(5000, "more than 6"), (10, "in one file")])
def test_a_model_too_large_is_refused(
    largest: int, message: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "LARGEST", largest)
    with pytest.raises(MaskweaveError, match=message):
        shards.split(tiny_model, tmp_path / "out")


# --- photos


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for number in range(6):
        pixels = rng.integers(0, 256, (100 + number, 150, 3), dtype=np.uint8)
        folder = tmp_path / "photos" / ("more" if number % 2 else ".")
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photos"


def test_photos_are_packed_as_well_as_they_fit_and_always_alike(
    photos: Path, tmp_path: Path
) -> None:
    number, quality = pack.pack(photos, tmp_path / "a.zip", 0.03, shorter_side=80)
    assert number == 6 and (tmp_path / "a.zip").stat().st_size <= 30_000
    pack.pack(photos, tmp_path / "b.zip", 0.03, shorter_side=80)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert pack.pack(photos, tmp_path / "c.zip", 0.05, shorter_side=80)[1] > quality
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == [f"{i:06d}.webp" for i in range(6)]
        assert all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
        with archive.open("000000.webp") as file:
            assert Image.open(file).size == (120, 80)


def test_photos_that_cannot_be_used_are_left_out_and_too_many_are_refused(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "3.png").write_bytes(b"no image")
    Image.new("RGB", (50, 50)).save(photos / "small.png")
    assert pack.pack(photos, tmp_path / "a.zip", 1.0, shorter_side=80)[0] == 6
    assert "3.png" in capsys.readouterr().err
    with pytest.raises(MaskweaveError, match=r"do not fit into 0\.001 MB"):
        pack.pack(photos, tmp_path / "a.zip", 0.001, shorter_side=80)


def test_lpips_finds_the_packed_weights(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maskweave.tokenizer.losses import perceptual_loss

    images = torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    monkeypatch.setenv("TORCH_HOME", str(shared / "torch_home"))
    expected = perceptual_loss()(*images)
    pack.pack_weights(tmp_path)
    size = sum(file.stat().st_size for file in tmp_path.rglob("*.pth"))
    assert 2_000_000 < size < 3_000_000
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.testing.assert_close(perceptual_loss()(*images), expected, rtol=0.01, atol=0)


@pytest.mark.parametrize(
    "description",
    [
        {"files": "x", "configs": {}},
        {"files": 0, "configs": {"../escaped.json": {}}},
        {"files": 0, "configs": {"tokenizer/../../escaped.json": {}}},
        {"configs": {}},
    ],
)
def test_what_split_has_not_written_is_not_joined(
    description: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.json").write_text(json.dumps(description))
    with pytest.raises(MaskweaveError, match=r"model\.json does not describe a model"):
        shards.join(tmp_path / "out", tmp_path / "deep" / "model")
    assert [*tmp_path.iterdir()] == [tmp_path / "out"]


@pytest.mark.parametrize("shares", ["1,2,3", "0,0,0,0", "a,b,c,d", "1,nan,1,1"])
def test_shares_that_share_nothing_are_refused(shares: str, tmp_path: Path) -> None:
    with pytest.raises(MaskweaveError, match=r"^shares are"):
        gpu.main(1, tmp_path, tmp_path, tmp_path, shares=shares)
