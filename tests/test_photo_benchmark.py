"""The benchmark of photos: sizes are mixed, holes are drawn, and figures stand beside the best."""

import json
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from conftest import tiny_guided, tiny_pipeline
from maskweave.cli.main import app
from maskweave.evaluation import examples as examples_module
from maskweave.evaluation import metrics
from maskweave.evaluation.benchmark import BASELINES
from maskweave.evaluation.evaluate import Evaluation, Measurement, Meter
from maskweave.evaluation.examples import Batch, read_examples
from maskweave.evaluation.metrics import lpips_distances, pixel_figures
from maskweave.images import read_image
from maskweave.report.tables import compared_table

SIZES = [(90, 70), (70, 90), (64, 101)]


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number, size in enumerate(SIZES):
        small = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 16x16 pixels that fills photos at native pixels."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    pipeline = tiny_guided()
    pipeline.framing = "texture"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def common(photos: Path, model: Path, weights: Path) -> list[object]:
    return ["--truth", photos, "--model", model, "--no-fid", "--seeds", 2, "--device", "cpu"]


def test_one_command_draws_the_holes_of_each_kind_and_prints_its_table(
    photos: Path, common: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = command("benchmark", *common, "--output", out, "--kind", "scratch", "--kind", "box")
    assert result.exit_code == 0, result.output
    scratch, _, box = result.stdout.partition("\nbox:\n")
    assert scratch.startswith("scratch:\n")
    for part in (scratch, box):
        lines = [line for line in part.splitlines() if " 3 " in line]
        names = [line.strip().partition("  ")[0] for line in lines]
        assert names[: len(BASELINES)] == [*BASELINES]
        assert names[len(BASELINES)].startswith("tiny, default settings (")
        assert names[len(BASELINES) + 1 :] == ["tiny, expected codes (expected)"]
        assert all(("(x" in line) == line.strip().startswith("tiny") for line in lines)
        assert "in brackets: " in part and "report/index.html" in part
    for kind in ("scratch", "box"):
        masks = tmp_path / f"{kind}-masks"
        drawn = command("holes", "--kind", kind, "--seed", 0, "--images", photos, "--output", masks)
        assert drawn.exit_code == 0, drawn.output
        files = sorted(masks.iterdir())
        assert [file.stem for file in files] == ["0", "1", "2"]
        for file in files:
            assert (out / kind / "masks" / file.name).read_bytes() == file.read_bytes()
        assert (out / kind / "report" / "index.html").exists()
        # The same as with the masks at hand.
        alone = tmp_path / f"{kind}-alone"
        options = ("--masks", masks, "--output", alone, "--no-sweep", "--json")
        given = command("benchmark", *common, *options)
        assert json.loads(given.stdout) == json.loads((out / kind / "results.json").read_text())
        for fill in alone.glob("fills/*/*.png"):
            there = out / kind / fill.relative_to(alone)
            assert there.read_bytes() == fill.read_bytes()
        for fill in alone.glob("fills/*/*.png"):
            truth = read_image(photos / f"{fill.stem}.jpg").pixels
            known = np.array(Image.open(masks / fill.name)) == 0
            assert np.array_equal(read_image(fill).pixels[known], truth[known])


def test_holes_that_take_no_tokens_have_no_steps_to_draw(
    photos: Path, common: list[object], tmp_path: Path
) -> None:
    pipeline = tiny_pipeline(guided=True, narrow=16)
    pipeline.framing = "texture"
    pipeline.save_pretrained(tmp_path / "narrow")
    arguments = ["--output", tmp_path / "out", "--kind", "scratch", "--model", tmp_path / "narrow"]
    result = command("benchmark", *common, *arguments)
    assert result.exit_code == 0, result.output
    report = tmp_path / "out" / "scratch" / "report"
    pictures = {file.stem for file in report.glob("*.png")}
    assert "fills-worst" in pictures and not {"confidence", "decoding-cosine"} & pictures


def test_json_has_all_kinds_and_a_second_run_fills_nothing(
    common: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["benchmark", *common, "--output", tmp_path, "--kind", "box", "--json"]
    first = command(*arguments)
    assert first.exit_code == 0, first.output
    found = json.loads(first.stdout)
    assert found == json.loads((tmp_path / "results.json").read_text())
    assert [*found] == ["box"] and found["box"]["sweep"] == []
    assert found["box"]["rows"][-1]["name"] == "tiny, expected codes (expected)"
    assert [row["runs"] for row in found["box"]["rows"][-2:]] == [2, 1]
    *rivals, ours = [row for row in found["box"]["rows"] if row["name"] != "grey"]
    rivals = [row for row in rivals if row["name"] in BASELINES]
    for name, relation in (("lpips", np.divide), ("psnr_hole", np.subtract)):
        values = [row["figures"][name]["value"] for row in rivals]
        best = min(values) if name == "lpips" else max(values)
        told = relation(ours["figures"][name]["value"], best)
        assert ours["beside_best_classical"][name] == pytest.approx(told)
    assert not any(row["beside_best_classical"] for row in rivals)

    def refuse(*_: object) -> None:
        raise AssertionError("filled again")

    monkeypatch.setattr("maskweave.evaluation.benchmark.write_image", refuse)
    monkeypatch.setattr("maskweave.cli.holes.draw", refuse)
    assert json.loads(command(*arguments).stdout) == found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "needs either --masks or --kind"),
        (["--kind", "box", "--masks", "somewhere"], "needs either --masks or --kind"),
        (["--kind", "star"], "star"),
        (["--kind", "box", "--steps", "3"], "--kind draws its own masks"),
        (["--kind", "box", "--invert-mask"], "--kind draws its own masks"),
        (["--kind", "box", "--grow", "3"], "--kind draws its own masks"),
        (["--kind", "box", "--truth", "nowhere"], "No such file"),
    ],
)
def test_what_is_wrong_is_one_line_and_found_before_any_work(
    options: list[str], message: str, common: list[object], tmp_path: Path
) -> None:
    result = command("benchmark", *common, "--output", tmp_path / "out", *options)
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ") and message in line
    assert not (tmp_path / "out").exists()


def test_our_figures_are_told_beside_the_best_of_the_rivals() -> None:
    def evaluation(**values: float) -> Evaluation:
        figures = {name: Measurement(v, None, "", 9, "") for name, v in values.items()}
        return Evaluation(9, 1, figures, [])

    rows = [
        ("floor", evaluation(lpips=0.01, psnr_hole=90, lattice=1)),
        ("one", evaluation(lpips=0.2, psnr_hole=20, lattice=1)),
        ("two", evaluation(lpips=0.1, psnr_hole=19, lattice=1)),
        ("ours", evaluation(lpips=0.08, psnr_hole=20.5, lattice=1.1)),
    ]
    names = ("fid", "lpips", "psnr_hole", "lattice")
    table = compared_table(rows, ["ours"], ["one", "two"], names)
    assert table.head == ("method", "n", "LPIPS", "PSNR in hole", "lattice")
    assert table.rows[-1] == ("ours", "9", "0.08 (x0.80)", "20.5 (+0.5)", "1.1")
    assert table.rows[1] == ("one", "9", "0.2", "20", "1")
    alone = compared_table(rows[-1:], ["ours"], [], names)
    assert alone.rows == (("ours", "9", "0.08", "20.5", "1.1"),)


def test_large_photos_are_read_a_few_at_a_time(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("holes", "--kind", "box", "--images", photos, "--output", tmp_path)
    examples = read_examples(photos, tmp_path)
    assert [batch.stems for batch in examples.batches()] == [["0", "1", "2"]]
    monkeypatch.setattr(examples_module, "HELD", 90 * 70)
    assert [batch.stems for batch in examples.batches()] == [["0", "1"], ["2"]]


def test_a_large_image_is_measured_in_parts_with_the_figures_of_the_whole(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    truth = np.array(Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC))
    hole = np.zeros((480, 640), dtype=bool)
    hole[100:300, 150:500] = True
    result = np.where(hole[..., None], rng.integers(0, 256, truth.shape, dtype=np.uint8), truth)
    [distance] = lpips_distances([result], [truth], meter.network)
    figures = pixel_figures(result, truth, hole)
    monkeypatch.setattr(metrics, "PIXELS", 1 << 16)
    monkeypatch.setattr(metrics, "TILE", 256)
    assert pixel_figures(result, truth, hole) == pytest.approx(figures, rel=1e-9)
    [in_tiles] = lpips_distances([result], [truth], meter.network)
    assert in_tiles == pytest.approx(distance, rel=0.1)  # borders weigh more in tiles so small
    assert lpips_distances([truth], [truth], meter.network) == [0]


def test_pixels_of_a_large_image_take_little_memory() -> None:
    truth = np.zeros((2000, 3000, 3), dtype=np.uint8)
    hole = np.zeros((2000, 3000), dtype=bool)
    hole[500:900, 500:900] = True
    tracemalloc.start()
    pixel_figures(truth.copy(), truth, hole)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * truth.nbytes  # 70 times as much with SSIM's map of the whole


@pytest.mark.parametrize("name", ["OpenCV Telea", "OpenCV Navier-Stokes"])
def test_classical_methods_are_measured_as_they_were_published(name: str) -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    photo = np.array(Image.fromarray(small).resize((400, 300), Image.Resampling.BICUBIC))
    hole = np.zeros((300, 400), dtype=bool)
    hole[80:220, 100:300] = True
    photo[hole] = 127
    kind = {"OpenCV Telea": cv2.INPAINT_TELEA, "OpenCV Navier-Stokes": cv2.INPAINT_NS}[name]
    [filled] = BASELINES[name](Batch(["photo"], [photo], [hole]))
    assert np.array_equal(filled, cv2.inpaint(photo, hole.astype(np.uint8), 3, kind))
