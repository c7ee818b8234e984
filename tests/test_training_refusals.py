"""What training refuses or warns of: settings, recipes, folders, images, and a loss of NaN."""

import io
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from maskweave.errors import MaskweaveError
from maskweave.training import painting
from maskweave.training.loop import RunConfig
from maskweave.training.optimiser import OptimiserConfig
from maskweave.training.overrides import override, pick
from maskweave.training.painting import PaintingLoss
from maskweave.training.train import train_tokenizer
from maskweave.training.transformer_task import MaskingConfig
from tiny_training import TOKENIZER

pytestmark = pytest.mark.usefixtures("no_perceptual_weights")


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 10, "epochs": 1}, {"steps": 0, "epochs": 0}, {"steps": -4}, {"batch_size": 0},
        {"seed": -1}, {"seed": 2**63}, {"workers": -1}, {"precision": "fp8"},
    ],
)  # fmt: skip
def test_runs_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(MaskweaveError):
        RunConfig(**settings)


def test_a_warm_up_has_one_length() -> None:
    with pytest.raises(MaskweaveError, match="either steps or epochs"):
        OptimiserConfig(warmup=1, warmup_epochs=1)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_weights_of_losses_are_finite(weight: float) -> None:
    with pytest.raises(MaskweaveError, match="perceptual should be"):
        PaintingLoss(perceptual=weight)
    with pytest.raises(MaskweaveError, match="unmasked_weight should be"):
        MaskingConfig(unmasked_weight=weight)


@pytest.mark.parametrize(
    "wrong",
    [
        "examples.holes=", "examples.holes=star", "examples.shift=16", "examples.whole=2",
        "examples.crop=2", "examples.finer=0.5", "unknown=2", "loss.perceptual=-1",
        "optimiser.learning_rate=nan", "optimiser.betas=2,3", "optimiser.warmup=-5",
        "optimiser.clip=-1", "optimiser.weight_decay=-1", "run.seed=-1", "run.precision=fp8",
        "model.codebook_size=0",
    ],
)  # fmt: skip
def test_a_recipe_out_of_range_is_refused(wrong: str) -> None:
    with pytest.raises(MaskweaveError):
        override(TOKENIZER, [wrong])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("run.steps.x.y=1", "nothing holds a field 'x'"),
        ("run.steps.x=1", "nothing holds a field 'x'"),
        ("run.stepz=3", "no field 'stepz'; there are steps, epochs, "),
        ("steps=3", "no field 'steps'; there are model, examples, "),
        ("run=3", "'run' holds fields, not a value"),
        ("run.steps", "not of the form field=value"),
        ("run.steps=0", "either steps or epochs"),
        ("run.steps=many", "^run.steps should be a valid integer, .*, got 'many'$"),
        ("run.batch_size=0", "^run.batch_size should be greater than or equal to 1, got '0'$"),
        ("run.compile=maybe", "^run.compile should be a valid boolean"),
        ("model.channels=8,9,8", "^model.channels.1 should be a multiple of 8, got '9'$"),
    ],
)
def test_wrong_overrides_are_refused(assignment: str, message: str) -> None:
    with pytest.raises(MaskweaveError, match=message):
        override(TOKENIZER, [assignment])


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(MaskweaveError, match="small, large"):
        pick({"small": 1, "large": 2}, "medium")


def test_a_folder_that_holds_a_model_but_no_run_is_refused(
    photos: Path, tiny_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    with pytest.raises(MaskweaveError, match="holds a model; name a new folder"):
        train_tokenizer(TOKENIZER, photos, model)


def test_a_run_among_its_own_images_is_refused(photos: Path, tmp_path: Path) -> None:
    for validation in (None, tmp_path):
        with pytest.raises(MaskweaveError, match="its pictures would join those"):
            train_tokenizer(TOKENIZER, photos, (validation or photos) / "run", validation)


def test_a_frozen_last_layer_is_refused_where_the_discriminator_needs_it(
    photos: Path, tmp_path: Path
) -> None:
    frozen = override(TOKENIZER, ["optimiser.frozen=decoder.output.weight", "run.steps=1"])
    with pytest.raises(MaskweaveError, match=r"last layer is frozen: .* loss.adversarial=0"):
        train_tokenizer(frozen, photos, tmp_path / "run")
    train_tokenizer(override(frozen, ["loss.adversarial=0"]), photos, tmp_path / "run")


def test_a_first_try_that_failed_does_not_block_the_folder(photos: Path, tmp_path: Path) -> None:
    short = override(TOKENIZER, ["run.steps=1"])
    with pytest.raises(MaskweaveError, match="no parameter 'foo'"):
        train_tokenizer(override(short, ["optimiser.frozen=foo"]), photos, tmp_path / "run")
    train_tokenizer(override(short, ["optimiser.frozen=codebook.weight"]), photos, tmp_path / "run")


def test_nan_stops_the_run_and_names_the_step(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(painting, "pixel_loss", lambda painted, *_: painted.mean() * float("nan"))
    with pytest.raises(MaskweaveError, match="step 1: "):
        train_tokenizer(TOKENIZER, photos, tmp_path / "run")
    assert not (tmp_path / "run" / "tokenizer").exists()


def test_a_single_image_cannot_be_held_out_and_trained_on(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    shutil.copy(next(photos.rglob("*.png")), tmp_path / "one")
    with pytest.raises(MaskweaveError, match="all 1 images are held out"):
        train_tokenizer(TOKENIZER, tmp_path / "one", tmp_path / "run")


def test_too_few_images_and_missing_folders_are_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(MaskweaveError, match="fewer than a batch"):
        train_tokenizer(override(TOKENIZER, ["run.batch_size=11"]), photos, tmp_path / "run")
    with pytest.raises(MaskweaveError, match="not a folder"):
        train_tokenizer(TOKENIZER, tmp_path / "missing", tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MaskweaveError, match="no image"):
        train_tokenizer(TOKENIZER, tmp_path / "empty", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_shards_among_images_are_refused(photos: Path, tmp_path: Path) -> None:
    both = shutil.copytree(photos, tmp_path / "both")
    (both / "a.tar").write_bytes(b"")
    with pytest.raises(MaskweaveError, match="both shards"):
        train_tokenizer(TOKENIZER, both, tmp_path / "run")


# Later versions of Python warn of forks in processes with threads.
@pytest.mark.filterwarnings("ignore:.*fork")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_in_a_shard_is_named_in_one_line(workers: int, tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "a.tar", "w") as archive:
        for i in range(40):
            picture = io.BytesIO()
            Image.new("RGB", (16, 16), (i, i, i)).save(picture, "PNG")
            member = tarfile.TarInfo(f"{i}.png")
            content = picture.getvalue() if i % 4 else b"broken"
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    recipe = override(TOKENIZER, [f"run.workers={workers}"])
    whole = tmp_path / "whole"
    whole.mkdir()
    Image.new("RGB", (16, 16)).save(whole / "a.png")
    with pytest.raises(MaskweaveError, match=r"\A[^\n]*a\.tar: \d+\.png: [^\n]*\Z"):
        train_tokenizer(recipe, tmp_path / "tars", tmp_path / "run", whole)


def test_splits_that_are_trained_on_together_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, name in enumerate(("train", "test")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for j in range(5):
            color = (i, j, 0)
            Image.new("RGB", (16, 16), color).save(tmp_path / "data" / name / f"{j}.png")
    train_tokenizer(override(TOKENIZER, ["run.steps=1"]), tmp_path / "data", tmp_path / "run")
    assert "holds the splits train, test" in capsys.readouterr().err
