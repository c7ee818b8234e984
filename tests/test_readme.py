"""What the README shows is run, and what the pages point to is there."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from maskweave.cli.main import app
from maskweave.images import read_image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EVALUATION = (ROOT / "docs" / "evaluation.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
MEASURING = ("evaluate", "benchmark")
# One step on two images, without LPIPS, shows that a command of training is right. Accelerate
# allows one precision in a process, and other tests train in full precision.
SHORTENED = {
    "train tokenizer": "--set run.steps=1 --set run.batch_size=2 --set run.precision=no "
    "--set loss.perceptual=0",
    "train transformer": "--set run.steps=1 --set run.batch_size=2 --set run.precision=no",
    "evaluate": "--features 64",
    "benchmark": "--features 64 --steps 2 --seeds 1 --sweep-images 2",
}


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def work(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the snippets talk about."""
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "masks"):
        Path(folder).mkdir()
    hole = np.zeros((64, 64), dtype=np.uint8)
    hole[20:40, 10:50] = 255
    for number in (1, 2, 3):
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{number}.png")
        Image.fromarray(hole).save(f"masks/{number}.png")
    Image.fromarray(pixels).save("photo.png")
    Image.fromarray(hole).save("mask.png")
    return tmp_path


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("maskweave ")]


def run(command: list[str]) -> None:
    key = " ".join(command[:2]) if command[0] == "train" else command[0]
    result = CliRunner().invoke(app, command + shlex.split(SHORTENED.get(key, "")))
    assert result.exit_code == 0, f"{command}: {result.output}"


def test_commands(work: Path) -> None:
    selected = [command for command in commands() if command[0] not in MEASURING]
    assert len(selected) >= 9
    for command in selected:
        run(command)
    assert len(list((work / "filled").iterdir())) == 3 * 3


@pytest.mark.usefixtures("weights")
def test_measuring_commands(work: Path) -> None:
    selected = [c for c in commands() if c[0] in MEASURING or c[-2:] == ["--output", "fills"]]
    assert [command[0] for command in selected] == ["inpaint", "evaluate", "benchmark"]
    for command in selected:
        run(command)
    assert (work / "benchmark" / "report" / "index.html").exists()


@pytest.mark.usefixtures("weights")
def test_python_of_the_page_on_evaluation(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [drawing] = re.findall(r"^maskweave (holes .*)", EVALUATION, re.MULTILINE)
    run([*shlex.split(drawing), "--overwrite"])
    run(["inpaint", "photos", "--mask", "masks", "--output", "fills", "--overwrite"])
    [measuring] = blocks("python", EVALUATION)
    exec(compile(measuring, "evaluation.md", "exec"), {})
    assert "fid " in capsys.readouterr().out


def test_python(work: Path) -> None:
    [code] = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    pixels = read_image(work / "filled.png").pixels
    assert pixels.shape == (64, 64, 3)
    again = ["inpaint", "photo.png", "--mask", "mask.png", "--output", "again.png", "--seed", "7"]
    run(again)
    np.testing.assert_array_equal(read_image(work / "again.png").pixels, pixels)


def test_both_set_up_commands_stand_in_the_first_screen() -> None:
    first_screen = "\n".join(README.splitlines()[:25])
    assert "\npip install . && maskweave demo\n" in first_screen
    assert "\npip install -e '.[test]' && pytest\n" in first_screen


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_points_to_is_there(page: Path) -> None:
    text = page.read_text()
    links = [page.parent / link for link in re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", text)]
    tests = [ROOT / name for name in re.findall(r"`(tests/\w+\.py)`", text)]
    assert [str(path) for path in [*links, *tests] if not path.exists()] == []
