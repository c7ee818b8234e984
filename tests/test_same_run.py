"""A run goes on under another length, and a shipped model on one's own images, in all stages."""

import json
import re
import shlex
import shutil
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from maskweave.cli.main import app
from maskweave.errors import MaskweaveError
from maskweave.pipeline import InpaintPipeline
from maskweave.training.overrides import override
from maskweave.training.train import train_decoder, train_tokenizer
from test_decoder_stage import RECIPE as DECODER
from test_resume import TINY

# Nothing in it depends on the length of the run, but when it ends.
EVEN = override(TINY, ["optimiser.decay=0", "loss.adversarial=0", "run.steps=4"])


@pytest.fixture(scope="module")
def finished(noise: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished") / "run"
    train_tokenizer(EVEN, noise, output, cache=output.parent / "cache")
    return output


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def recipe_of(run: Path) -> dict:
    return json.loads((run / "recipe.json").read_text())


def differing(one: Path, other: Path, file: str = "tokenizer/model.safetensors") -> list[str]:
    ours, theirs = (load_file(path / file) for path in (one, other))
    assert ours.keys() == theirs.keys()
    return [name for name in ours if not torch.equal(ours[name], theirs[name])]


def test_a_finished_run_is_made_longer_and_ends_as_one_that_was_so_long_from_the_start(
    run: Path, noise: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = override(EVEN, ["run.steps=8"])
    train_tokenizer(longer, noise, run)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(told) == 1 and "the run of 4 steps goes on from step 4 to 8: " in told[0]
    train_tokenizer(longer, noise, tmp_path / "at once")
    assert differing(run, tmp_path / "at once") == []
    assert recipe_of(run) == recipe_of(tmp_path / "at once") | {"lengths": {"0": 4, "4": 8}}
    train_tokenizer(longer, noise, run)  # done: nothing is left to do or to tell
    assert "goes on" not in capsys.readouterr().err
    assert recipe_of(run)["lengths"] == {"0": 4, "4": 8}


def test_what_is_a_share_of_the_run_follows_the_new_length(run: Path, noise: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shutil.rmtree(run)
    settings = ["optimiser.decay=0.5", "run.log_every=1", "loss.adversarial_start=0.5"]
    falling = override(TINY, [*settings, "run.steps=4"])
    train_tokenizer(falling, noise, run)
    train_tokenizer(override(falling, ["run.steps=8"]), noise, run)
    log = EventAccumulator(str(run / "logs/maskweave"))
    log.Reload()
    rates = [event.value / 5e-4 for event in log.Scalars("learning_rate")]
    assert rates == pytest.approx([0.5, 1, 1, 0.5, 1, 0.75, 0.5, 0.25])
    assert [event.step for event in log.Scalars("loss/discriminator")] == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("steps", [6, 16])
def test_a_run_that_was_stopped_is_made_shorter_or_longer(
    steps: int, run: Path, noise: Path, tmp_path: Path
) -> None:
    long = override(EVEN, ["run.steps=8"])
    train_tokenizer(long, noise, tmp_path / "stopped")
    for after in ("step_00000006", "step_00000008"):
        shutil.rmtree(tmp_path / "stopped/checkpoints" / after)
    shutil.copytree(
        run / "checkpoints/step_00000004",
        tmp_path / "stopped/checkpoints/step_00000004",
        dirs_exist_ok=True,
    )
    other = override(long, [f"run.steps={steps}"])
    train_tokenizer(other, noise, tmp_path / "stopped")
    train_tokenizer(other, noise, tmp_path / "whole")
    assert differing(tmp_path / "stopped", tmp_path / "whole") == []
    assert recipe_of(tmp_path / "stopped")["lengths"] == {"0": 8, "4": steps}


def test_a_run_in_epochs_is_made_longer_in_epochs_or_in_steps(noise: Path, tmp_path: Path) -> None:
    epochs = override(EVEN, ["run.steps=0", "run.epochs=1", "run.batch_size=10"])
    train_tokenizer(epochs, noise, tmp_path / "run")
    assert (tmp_path / "run/checkpoints/step_00000003").is_dir()  # of 38 images
    train_tokenizer(override(epochs, ["run.epochs=2"]), noise, tmp_path / "run")
    train_tokenizer(override(epochs, ["run.epochs=0", "run.steps=7"]), noise, tmp_path / "run")
    assert recipe_of(tmp_path / "run")["lengths"] == {"0": 3, "3": 6, "6": 7}
    whole = override(epochs, ["run.epochs=0", "run.steps=7"])
    train_tokenizer(whole, noise, tmp_path / "whole")
    assert differing(tmp_path / "run", tmp_path / "whole") == []


def test_a_run_is_not_made_shorter_than_it_is(run: Path, noise: Path) -> None:
    before = (run / "recipe.json").read_text()
    with pytest.raises(MaskweaveError, match=r"\A.* has done 4 of 4 steps, .* end after 3\Z"):
        train_tokenizer(override(EVEN, ["run.steps=3"]), noise, run)
    assert (run / "recipe.json").read_text() == before


def test_all_else_in_a_longer_run_must_be_as_before(run: Path, noise: Path) -> None:
    message = r"another recipe \(.*not the same optimiser.learning_rate, run.seed\)"
    other = override(EVEN, ["run.steps=8", "run.seed=1", "optimiser.learning_rate=1e-3"])
    with pytest.raises(MaskweaveError, match=message):
        train_tokenizer(other, noise, run)


def test_a_run_that_has_not_begun_takes_any_length(run: Path, noise: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    train_tokenizer(override(EVEN, ["run.steps=2"]), noise, run)
    assert "lengths" not in recipe_of(run) and recipe_of(run)["run"]["steps"] == 2


def test_the_card_of_a_longer_run_tells_its_steps_and_keeps_what_was_added(
    noise: Path, tiny_model: Path, tmp_path: Path
) -> None:
    train_decoder(DECODER, noise, tiny_model, tmp_path / "run")
    card = tmp_path / "run/README.md"
    card.write_bytes(card.read_bytes() + b"\r\nMeasured: \xff\n")
    steps = DECODER.run.steps
    assert f"- **Recipe**: {steps} steps".encode() in card.read_bytes()
    before = card.read_bytes()
    train_decoder(DECODER, noise, tiny_model, tmp_path / "run")
    assert card.read_bytes() == before
    longer = override(DECODER, [f"run.steps={steps + 1}"])
    train_decoder(longer, noise, tiny_model, tmp_path / "run")
    assert f"- **Recipe**: {steps + 1} steps".encode() in card.read_bytes()
    assert card.read_bytes().endswith(b"\r\nMeasured: \xff\n")


@pytest.mark.parametrize("left_out", [(), ("tokenizer",), ("tokenizer", "transformer")])
def test_a_shipped_model_goes_on_with_ones_own_images_in_all_stages_as_documented(
    left_out: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Path("photos").mkdir()
    for number in range(8):
        pixels = rng.integers(0, 256, (70, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{number}.png")
    page = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
    section = page.partition("\n## Your own cats\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    commands = [shlex.split(line)[1:] for line in block.replace("\\\n", " ").splitlines()]
    assert [command[1] for command in commands] == ["tokenizer", "transformer", "decoder"]
    runs = {"tokenizer": "runs/tokenizer", "transformer": "runs/model", "decoder": "runs/painted"}
    shipped = [runs[stage] for stage in left_out]
    short = shlex.split("--set run.steps=1 --set run.batch_size=2 --set run.precision=no")
    for command in commands:
        if command[1] not in left_out:
            words = ["cats64" if word in shipped else word for word in command]
            lpips = [] if command[1] == "transformer" else ["--set", "loss.perceptual=0"]
            result = CliRunner().invoke(app, [*words, *short, *lpips])
            assert result.exit_code == 0, result.output
    before = InpaintPipeline.from_pretrained("cats64")
    after = InpaintPipeline.from_pretrained("runs/painted")
    learnt = {"tokenizer.encoder", "transformer", "tokenizer.decoder"}
    if left_out:
        learnt.remove("tokenizer.encoder")
    if "transformer" in left_out:
        learnt.remove("transformer")
    assert {name for name in learnt | {"transformer"} if changed(before, after, name)} == learnt
    assert (after.defaults, after.framing) == (before.defaults, before.framing)


def changed(one: InpaintPipeline, other: InpaintPipeline, name: str) -> bool:
    ours, theirs = (attrgetter(name)(each).state_dict() for each in (one, other))
    assert ours.keys() == theirs.keys()
    # One step moves weights by about the rate of the first step of the warm-up.
    assert all(torch.allclose(ours[key], theirs[key], atol=1e-4) for key in ours)
    return any(not torch.equal(ours[key], theirs[key]) for key in ours)
