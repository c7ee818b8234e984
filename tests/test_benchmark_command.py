"""The command "benchmark": its table, JSON and report, and the options that it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from typer.testing import CliRunner

from maskweave.cli.main import app
from maskweave.evaluation import examples as examples_module
from maskweave.evaluation.inception import Inception
from maskweave.progress import progress
from tiny_benchmark import SIDE, command, count_calls, model_of, write_examples


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read five examples in three batches."""
    monkeypatch.setattr(examples_module, "BATCH", 2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model_of(0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_examples(tmp_path_factory.mktemp("examples"))


def test_the_command_prints_only_json_and_writes_a_report(
    saved: Path, torch_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    logs, out = tmp_path / "stage", tmp_path / "out"
    write_examples(tmp_path)
    truth, masks = tmp_path / "truth", tmp_path / "masks"
    Image.new("L", (SIDE, SIDE), "white").save(masks / "picture4.png")  # nobody is warned
    with SummaryWriter(str(logs)) as writer:
        for step in range(5):
            writer.add_scalar("loss", 1 / (step + 1), step)
    data = ("--truth", truth, "--masks", masks, "--features", 64, "--json", "--device", "cpu")
    result = command(
        "benchmark", *data, "--output", out, "--model", saved, "--steps", 3, "--seeds", 2,
        "--sweep-images", 4, "--schedule", "linear", "--schedule", "cosine",
        "--temperature", 0, "--temperature", 1, "--real", truth, "--logs", logs,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed == json.loads((out / "results.json").read_text())
    settings = [each["settings"] for each in printed["sweep"]]
    assert [(one["schedule"], one["temperature"]) for one in settings] == [
        ("linear", 0), ("linear", 1), ("cosine", 0), ("cosine", 1),
    ]  # fmt: skip
    assert {np.shape(each["fid"]) for each in printed["sweep"]} == {(2, 3)}
    assert {(each["n"], each["seeds"]) for each in printed["sweep"]} == {(4, 2)}
    assert all((out / folder).is_dir() for row in printed["rows"] for folder in row["folders"])
    real, floor, *_ = printed["rows"]
    assert (real["name"], real["figures"]["fid"]["n"]) == ("5 other real images", 5)
    assert real["figures"]["fid"]["value"] == pytest.approx(0, abs=1e-6)

    report = (out / "report" / "report.md").read_text()
    for words in ("best of the sweep", "5 other real images", "From the runs'", "over 4 images"):
        assert words in report
    pictures = {file.stem for file in (out / "report").glob("*.png")}
    assert {"losses", "decoding-linear", "decoding-cosine", "fills-worst"} < pictures
    assert (out / "report" / "index.html").exists()

    alone = command("evaluate", out / "fills" / "grey", *data)
    assert floor["name"] == "grey" and json.loads(alone.stdout)["figures"] == floor["figures"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"--schedule": "sideways"}, "unknown schedule 'sideways'"),
        ({"--steps": 0}, "steps should be greater than or equal to 1"),
        ({"--temperature": -1}, "temperature should be greater"),
        ({"--token-temperature": 1e9}, "temperature should be less"),
        ({"--seeds": 0}, "'--seeds'"),
        ({"--sweep-images": 1}, "'--sweep-images'"),
        ({"--features": 65}, "features must be one of"),
        ({"--dtype": "int8"}, "dtype is"),
        ({"--truth": "nowhere"}, "No such file"),
        ({"--masks": "nowhere"}, "No such file"),
        ({"--logs": "nowhere"}, "holds no TensorBoard log"),
        ({"--model": "nowhere"}, "unknown model"),
        ({"--real": "nowhere"}, "No such file"),
        ({"--real": "few"}, "other real images must be at least 2"),
        ({"--real": "few", "--no-fid": None}, "--real serves FID and KID alone"),
        ({"--truth": "few", "--masks": "few"}, "at least 2 images"),
    ],
)
def test_what_is_wrong_is_one_line_exit_2_and_found_before_any_work(
    folder: Path,
    saved: Path,
    torch_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, object],
    message: str,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    (tmp_path / "few").mkdir()
    Image.new("RGB", (SIDE, SIDE), "white").save(tmp_path / "few" / "one.png")
    for name, value in options.items():
        if value in ("few", "nowhere"):
            options = options | {name: tmp_path / str(value)}
    given: dict[str, object] = {
        "--truth": folder / "truth", "--masks": folder / "masks", "--output": tmp_path / "out",
        "--model": saved, "--features": 64, "--device": "cpu",
    } | options  # fmt: skip
    asked = count_calls(monkeypatch, Inception, "forward")
    arguments = [part for pair in given.items() for part in pair if part is not None]
    result = command("benchmark", *arguments)
    assert result.exit_code == 2, result.output
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ") and message in line
    assert not result.stdout
    assert asked == [0]
    assert not (tmp_path / "out").exists()


def test_without_inception_and_sweep_there_is_the_table_alone(
    saved: Path, torch_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    asked = count_calls(monkeypatch, Inception, "forward")
    write_examples(tmp_path)
    result = command(
        "benchmark", "--truth", tmp_path / "truth", "--masks", tmp_path / "masks", "--model", saved,
        "--output", tmp_path / "out", "--no-fid", "--no-sweep", "--seeds", 1, "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "FID" not in result.stdout and "expected codes" in result.stdout
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["sweep"] == [] and asked == [0]
    assert not any("fid" in row["figures"] for row in found["rows"])
    report = (tmp_path / "out" / "report" / "report.md").read_text()
    assert "FID and KID were not measured" in report and "sweep" not in report
    assert {"decoding-cosine", "confidence", "fills-worst"} < {
        file.stem for file in (tmp_path / "out" / "report").glob("*.png")
    }


def test_logs_of_the_same_name_are_refused(tmp_path: Path) -> None:
    for name in ("truth", "masks"):
        (tmp_path / name).mkdir()
        for stem in "ab":
            Image.new("RGB", (32, 32), "white").save(tmp_path / name / f"{stem}.png")
    options = [f"--{name}={tmp_path / name}" for name in ("truth", "masks", "output")]
    options += [f"--logs={tmp_path / parent / 'run'}" for parent in ("one", "two")]
    result = CliRunner().invoke(app, ["benchmark", *options])
    assert result.exit_code == 2
    assert "folders of the same name" in result.stderr


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_is_on_terminals_alone_and_its_text_no_markup(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1" if terminal else "")
    with progress(1) as advance:
        advance(1, "my[/v2]cats")
    assert ("my[/v2]cats" in capsys.readouterr().err) == terminal
