"""Law 5 and the checkpoints: a run that is killed, or meets a full disk or a damaged file."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from maskweave.errors import MaskweaveError
from maskweave.tokenizer.vqgan import TokenizerConfig
from maskweave.training import checkpoints
from maskweave.training.checkpoints import resume
from maskweave.training.examples import ExamplesConfig
from maskweave.training.loop import RunConfig
from maskweave.training.optimiser import OptimiserConfig
from maskweave.training.overrides import override
from maskweave.training.painting import PaintingLoss
from maskweave.training.tokenizer_task import TokenizerRecipe
from maskweave.training.train import train_tokenizer

TINY = TokenizerRecipe(
    model=TokenizerConfig(
        image_size=16, codebook_size=16, encoder_dim=16, channels=(8, 8, 16), decoder_blocks=1
    ),
    examples=ExamplesConfig(shift=1),
    loss=PaintingLoss(perceptual=0.0, adversarial_start=0.3),
    optimiser=OptimiserConfig(warmup=2),
    run=RunConfig(steps=8, batch_size=4, precision="no", log_every=2, save_every=2),
)


@pytest.fixture(scope="module")
def whole(noise: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole") / "run"
    train_tokenizer(TINY, noise, output, cache=output.parent / "cache")
    return output


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be damaged."""
    return shutil.copytree(whole, tmp_path / "run")


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def assert_ends_alike(run: Path, whole: Path) -> None:
    ours, theirs = (load_file(path / "tokenizer/model.safetensors") for path in (run, whole))
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    last = "checkpoints/step_00000008"
    ours, theirs = (load_file(path / last / "model.safetensors") for path in (run, whole))
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


TRAIN = """
import dataclasses, sys
from pathlib import Path
from test_resume import TINY
from maskweave.training import loop
from maskweave.training.train import train_tokenizer

class Slow(loop.Window):
    def add(self, scalars):
        super().add(scalars)
        print("step", flush=True)

loop.Window = Slow
train_tokenizer(TINY, Path(sys.argv[1]), Path(sys.argv[2]), cache=Path(sys.argv[3]))
"""


def started(noise: Path, run: Path, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(noise), str(run), str(cache)],
        cwd=Path(__file__).parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def steps_of(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    yield from process.stdout


def test_a_run_killed_again_and_again_ends_in_the_same_weights(
    noise: Path, whole: Path, tmp_path: Path
) -> None:
    seen = 0
    for delay in (0.0, 0.03, 0.3):  # while it steps, validates or writes
        process = started(noise, tmp_path / "run", tmp_path / "cache")
        for _ in zip(range(3), steps_of(process), strict=False):
            seen += 1
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = started(noise, tmp_path / "run", tmp_path / "cache")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert seen >= 3
    assert_ends_alike(tmp_path / "run", whole)


def test_the_last_checkpoints_and_the_best_are_kept(run: Path) -> None:
    losses = {
        name: json.loads((run / "checkpoints" / name / "progress.json").read_text())
        for name in names(run)
    }
    assert names(run)[-2:] == ["step_00000006", "step_00000008"]
    best = min(losses, key=lambda name: losses[name]["validation_loss"] or float("inf"))
    assert set(names(run)) == {best, "step_00000006", "step_00000008"}


def test_a_worse_later_checkpoint_does_not_drop_the_best(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    for step, loss in enumerate([None, 3.0, 1.0, 2.0, 4.0, 5.0]):
        checkpoints.save(tmp_path, step, loss, lambda _: None, accelerator)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["step_00000002", "step_00000004", "step_00000005"]


@pytest.mark.parametrize(
    "damage",
    ["model.safetensors", "optimizer.bin", "progress.json", "custom_checkpoint_0.pkl"],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    damage: str, noise: Path, whole: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run / "checkpoints/step_00000008" / damage
    file.write_bytes(file.read_bytes()[:-7])
    train_tokenizer(TINY, noise, run)
    assert "step_00000008 is passed over" in capsys.readouterr().err
    assert_ends_alike(run, whole)


def test_steps_that_are_taken_again_are_logged_once(noise: Path, run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shutil.rmtree(run / "checkpoints/step_00000008")
    train_tokenizer(TINY, noise, run)
    log = EventAccumulator(str(run / "logs/maskweave"))
    log.Reload()
    assert [event.step for event in log.Scalars("loss")] == [2, 4, 6, 8]


def test_without_a_whole_checkpoint_the_run_stops(noise: Path, run: Path) -> None:
    for file in run.glob("checkpoints/*/model.safetensors"):
        file.unlink()
    with pytest.raises(MaskweaveError, match=r"no checkpoint in .* is whole"):
        train_tokenizer(TINY, noise, run)


@pytest.mark.parametrize("full", [OSError(28, "No space left on device"), RuntimeError("writer")])
def test_a_full_disk_names_the_last_good_checkpoint(
    full: Exception, noise: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Accelerator.save_state

    def until_full(accelerator: Accelerator, folder: str) -> None:
        if (tmp_path / "run/checkpoints/step_00000004").exists():
            raise full
        write(accelerator, folder)

    with monkeypatch.context() as patch:
        patch.setattr(Accelerator, "save_state", until_full)
        with pytest.raises(MaskweaveError, match=r"last good checkpoint: .*step_00000004"):
            train_tokenizer(TINY, noise, tmp_path / "run")
    train_tokenizer(TINY, noise, tmp_path / "run")
    assert_ends_alike(tmp_path / "run", whole)


def test_a_disk_too_small_is_found_before_the_first_step(
    noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def usage(_: object) -> shutil._ntuple_diskusage:
        return shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(MaskweaveError, match=r"its disk has 0.0 GB left"):
        train_tokenizer(TINY, noise, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_disk_must_have_room_for_the_checkpoints_that_are_missing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def checkpoint(step: int, weights: int, moments: int) -> None:
        folder = tmp_path / f"step_{step:08d}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes(weights))
        (folder / "optimizer.bin").write_bytes(bytes(moments))

    needed: list[int] = []
    monkeypatch.setattr(checkpoints, "check_room", lambda _, size: needed.append(size))
    checkpoint(0, 100, 1)  # AdamW has no moments yet
    checkpoints.check_disk(tmp_path)
    for step in (10, 20, 30):
        checkpoint(step, 100, 201)
        checkpoints.check_disk(tmp_path)
    assert needed == [3 * 301, 2 * 301, 301, 301]


def test_a_disk_that_fills_up_while_pictures_are_written_names_the_last_good_checkpoint(
    noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", full)
    message = r"No space left on device; last good checkpoint: .*step_00000000"
    cache = tmp_path / "cache"
    with pytest.raises(MaskweaveError, match=message):
        train_tokenizer(TINY, noise, tmp_path / "run", cache=cache)
    assert not list((tmp_path / "run/samples").iterdir())


def test_a_checkpoint_is_a_model_component_too(run: Path) -> None:
    (last,) = run.glob("checkpoints/step_00000008/tokenizer/model.safetensors")
    assert last.read_bytes() == (run / "tokenizer/model.safetensors").read_bytes()


def test_a_run_goes_on_with_other_workers_and_intervals(
    noise: Path, whole: Path, run: Path
) -> None:
    shutil.rmtree(run / "checkpoints/step_00000008")
    changed = ["run.workers=1", "run.log_every=3", "run.save_every=8"]
    train_tokenizer(override(TINY, changed), noise, run)
    assert_ends_alike(run, whole)


def test_nothing_to_resume_starts_at_the_beginning(tmp_path: Path) -> None:
    assert resume(tmp_path, Accelerator(cpu=True)) == 0
