"""Runs that go on: after a stop, exactly, and from the weights of a model; but from no others."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from maskweave.checkpoint import load_transformer
from maskweave.cli.main import app
from maskweave.errors import MaskweaveError
from maskweave.training.overrides import override
from maskweave.training.train import train_tokenizer, train_transformer
from tiny_training import TOKENIZER, TRANSFORMER, assert_same_weights, stop_at_half, weights

pytestmark = pytest.mark.usefixtures("no_perceptual_weights")


def test_a_resumed_tokenizer_run_ends_in_the_same_weights(
    photos: Path, tokenizer_run: Path, tmp_path: Path
) -> None:
    stop_at_half(tokenizer_run, tmp_path / "half")
    (tmp_path / "half" / "tokenizer" / "model.safetensors").unlink()
    train_tokenizer(TOKENIZER, photos, tmp_path / "half")
    assert_same_weights(
        weights(tokenizer_run, "tokenizer"), weights(tmp_path / "half", "tokenizer")
    )


def test_a_resumed_transformer_run_ends_in_the_same_weights(
    photos: Path, tokenizer_run: Path, tmp_path: Path
) -> None:
    tokenizer = tokenizer_run / "tokenizer"
    train_transformer(TRANSFORMER, photos, tokenizer, tmp_path / "whole")
    stop_at_half(tmp_path / "whole", tmp_path / "half")
    (tmp_path / "half" / "transformer" / "model.safetensors").unlink()
    train_transformer(TRANSFORMER, photos, tokenizer, tmp_path / "half")
    assert_same_weights(
        weights(tmp_path / "whole", "transformer"), weights(tmp_path / "half", "transformer")
    )


def test_a_run_killed_while_it_writes_its_last_checkpoint_ends_in_the_same_weights(
    photos: Path, tokenizer_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Accelerator.save_state

    def killed(accelerator: Accelerator, folder: str) -> None:
        write(accelerator, folder)
        if (tmp_path / "run/checkpoints/step_00000003").exists():
            (Path(folder) / "model.safetensors").write_bytes(b"half of it")
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Accelerator, "save_state", killed)
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer(TOKENIZER, photos, tmp_path / "run")
    found = {path.name for path in (tmp_path / "run/checkpoints").iterdir()}
    assert found == {"step_00000000", "step_00000003", "unfinished"}
    train_tokenizer(TOKENIZER, photos, tmp_path / "run")
    assert_same_weights(weights(tokenizer_run, "tokenizer"), weights(tmp_path / "run", "tokenizer"))


def test_a_finished_run_has_been_exported_when_its_checkpoint_appears(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Accelerator.save_state

    def killed(accelerator: Accelerator, folder: str) -> None:
        if (tmp_path / "checkpoints/step_00000000").exists():
            raise KeyboardInterrupt
        write(accelerator, folder)

    monkeypatch.setattr(Accelerator, "save_state", killed)
    with pytest.raises(KeyboardInterrupt):
        train_tokenizer(override(TOKENIZER, ["run.save_every=6"]), photos, tmp_path)
    assert weights(tmp_path, "tokenizer")


def test_a_run_of_another_recipe_is_not_continued(photos: Path, tokenizer_run: Path) -> None:
    with pytest.raises(MaskweaveError, match="another recipe"):
        train_tokenizer(override(TOKENIZER, ["run.batch_size=2"]), photos, tokenizer_run)


def test_the_field_that_differs_is_named_before_any_image_is_read(
    tokenizer_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(MaskweaveError, match=r"not the same run\.seed\)"):
        train_tokenizer(override(TOKENIZER, ["run.seed=3"]), tmp_path / "missing", tokenizer_run)


def test_a_transformer_run_does_not_go_on_with_another_tokenizer(
    photos: Path, tokenizer_run: Path, tmp_path: Path
) -> None:
    tokenizer = shutil.copytree(tokenizer_run / "tokenizer", tmp_path / "tokenizer")
    short = override(TRANSFORMER, ["run.steps=1"])
    train_transformer(short, photos, tokenizer, tmp_path / "run")
    changed = load_file(tokenizer / "model.safetensors")
    changed["codebook.weight"] += 1
    save_file(changed, tokenizer / "model.safetensors")
    with pytest.raises(MaskweaveError, match="another recipe"):
        train_transformer(short, photos, tokenizer, tmp_path / "run")


def parameters(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / f"checkpoints/step_{step:08d}/model.safetensors")


def test_a_tokenizer_run_starts_from_the_weights_it_is_given_and_moves_no_code(
    photos: Path, tokenizer_run: Path, tmp_path: Path
) -> None:
    still = override(TOKENIZER, ["run.steps=1", "optimiser.learning_rate=1e-12", "run.seed=7"])
    given, run = weights(tokenizer_run, "tokenizer"), tmp_path / "run"
    train_tokenizer(still, photos, run, init=tokenizer_run / "tokenizer")
    assert_same_weights(given, parameters(run, 0))
    exported = load_file(run / "checkpoints/step_00000000/tokenizer/model.safetensors")
    assert_same_weights(given, exported)  # the averaged ones
    for name, after in weights(run, "tokenizer").items():
        if "usage" not in name:
            torch.testing.assert_close(after, given[name], atol=1e-6, rtol=0)


def test_a_transformer_run_starts_from_the_weights_it_is_given(
    photos: Path, tokenizer_run: Path, tmp_path: Path
) -> None:
    tokenizer, first = tokenizer_run / "tokenizer", tmp_path / "first"
    train_transformer(override(TRANSFORMER, ["run.steps=1"]), photos, tokenizer, first)
    run, given = tmp_path / "run", weights(first, "transformer")
    seeded = override(TRANSFORMER, ["run.seed=7", "run.save_every=6"])
    train_transformer(seeded, photos, tokenizer, run, init=first / "transformer")
    assert_same_weights(given, parameters(run, 0))
    exported = load_file(run / "checkpoints/step_00000000/transformer/model.safetensors")
    assert_same_weights(given, exported)
    assert not torch.equal(given["position_embedding"], parameters(run, 6)["position_embedding"])


def test_a_transformer_that_saw_no_guide_is_trained_on_beside_a_tokenizer_with_one(
    photos: Path, tokenizer_run: Path, tmp_path: Path
) -> None:
    known = override(TRANSFORMER, ["run.steps=1", "model.patch_size=4"])
    train_transformer(known, photos, tokenizer_run / "tokenizer", tmp_path / "first")
    guided = override(TOKENIZER, ["run.steps=1", "model.guided=true"])
    train_tokenizer(guided, photos, tmp_path / "guided")
    tokenizer = tmp_path / "guided" / "tokenizer"
    train_transformer(known, photos, tokenizer, tmp_path / "new")
    assert load_transformer(tmp_path / "new" / "transformer").config.guided
    train_transformer(
        known, photos, tokenizer, tmp_path / "run", init=tmp_path / "first" / "transformer"
    )
    assert not load_transformer(tmp_path / "run" / "transformer").config.guided


@pytest.mark.parametrize("stage", ["tokenizer", "transformer"])
def test_a_run_from_given_weights_is_resumed_exactly_and_from_no_others(
    stage: str, photos: Path, tokenizer_run: Path, tmp_path: Path
) -> None:
    def train(run: Path, init: Path | None, seed: int = 0) -> None:
        settings = [f"run.seed={seed}"]
        if stage == "tokenizer":
            train_tokenizer(override(TOKENIZER, settings), photos, run, init=init)
        else:
            recipe = override(TRANSFORMER, settings)
            train_transformer(recipe, photos, tokenizer_run / "tokenizer", run, init=init)

    whole, half = tmp_path / "whole", tmp_path / "half"
    train(tmp_path / "a", None, seed=1)
    train(tmp_path / "b", None, seed=2)
    train(whole, tmp_path / "a" / stage)
    stop_at_half(whole, half)
    for other in (None, tmp_path / "b" / stage):
        with pytest.raises(MaskweaveError, match=r"another recipe .*not the same init\)"):
            train(half, other)
    train(half, tmp_path / "a" / stage)
    assert_same_weights(weights(whole, stage), weights(half, stage))
    assert "init" not in json.loads((tmp_path / "a/recipe.json").read_text())
    with pytest.raises(MaskweaveError, match=r"another recipe .*not the same init\)"):
        train(tmp_path / "a", tmp_path / "b" / stage, seed=1)


def test_weights_of_other_sizes_are_refused_in_one_line_that_says_what_would_fit(
    photos: Path, tokenizer_run: Path, tmp_path: Path
) -> None:
    wider = override(TOKENIZER, ["model.channels=8,8,24", "model.guided=true"])
    its_own = r"\A[^\n]*would with model\.channels=8,8,16, model\.guided=false\Z"
    with pytest.raises(MaskweaveError, match=its_own):
        train_tokenizer(wider, photos, tmp_path / "run", init=tokenizer_run / "tokenizer")
    tokenizer, first = tokenizer_run / "tokenizer", tmp_path / "first"
    short = override(TRANSFORMER, ["run.steps=1"])
    train_transformer(short, photos, tokenizer, first)
    deeper = override(short, ["model.depth=2"])
    with pytest.raises(MaskweaveError, match=r"would with model\.depth=1\Z"):
        train_transformer(deeper, photos, tokenizer, tmp_path / "run", init=first / "transformer")
    assert not (tmp_path / "run").exists()


def test_the_command_starts_from_the_component_of_a_model(photos: Path, tmp_path: Path) -> None:
    command = ["train", "tokenizer", "--data", str(photos), "--output", str(tmp_path / "run")]
    result = CliRunner().invoke(app, [*command, "--init", "cats64"])
    assert "cats64/tokenizer does not fit the recipe" in result.stderr
    assert "would with model.decoder_blocks=6" in result.stderr  # stage 3 added three
