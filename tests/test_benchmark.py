"""The benchmark: what it fills, what it measures, and that it goes on where it was stopped."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from typer.testing import CliRunner, Result

from conftest import tiny_pipeline
from maskweave.cli.main import app
from maskweave.errors import MaskweaveError
from maskweave.evaluation import benchmark as benchmark_module
from maskweave.evaluation import sweep
from maskweave.evaluation.baselines import Fill, biharmonic, grey, navier_stokes, telea
from maskweave.evaluation.benchmark import Benchmark, Results
from maskweave.evaluation.evaluate import Meter, truth_features
from maskweave.evaluation.examples import Examples, read_examples
from maskweave.evaluation.inception import Inception, frechet_distance
from maskweave.evaluation.sweep import SWEPT, Grid, slug, trajectory
from maskweave.images import read_image, read_mask
from maskweave.pipeline import InpaintPipeline

GRID = Grid(schedules=("cosine",), steps=(3,), temperatures=(0.0, 1.0), seeds=2, images=4)


@pytest.fixture(autouse=True)
def homes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shared: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    monkeypatch.setenv("TORCH_HOME", str(shared / "torch_home"))


@pytest.fixture(scope="module")
def meter(shared: Path) -> Meter:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(shared / "torch_home"))
        return Meter(Inception(64, "pytorch-fid"), "squeeze")


@pytest.fixture
def folders(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, Path]:
    """Six images and their masks, each with a hole of its own."""
    truth, masks = tmp_path / "truth", tmp_path / "masks"
    truth.mkdir()
    masks.mkdir()
    for index in range(6):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        hole = np.zeros((32, 32), dtype=np.uint8)
        hole[3 : 9 + index, 2:11] = 255
        Image.fromarray(pixels).save(truth / f"picture{index}.png")
        Image.fromarray(hole).save(masks / f"picture{index}.png")
    return truth, masks


@pytest.fixture
def examples(folders: tuple[Path, Path]) -> Examples:
    return read_examples(*folders)


@pytest.fixture
def model(tiny_model: Path) -> InpaintPipeline:
    return InpaintPipeline.from_pretrained(tiny_model)


def ignore(count: int = 1, text: str = "") -> None:
    """Advance no bar."""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def count_calls(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, stop_at: int | None = None
) -> list[int]:
    """Count the calls of a function in the list's one element; Ctrl+C at a call if asked."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = [0]

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == stop_at:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls


def figures_of(results: Results) -> str:
    """Return the results without the folders, in a form where NaN equals itself."""
    found = results.as_json()
    for row in found["rows"]:
        del row["folders"]
    return json.dumps(found)


def test_figures_at_every_step_are_those_of_decoding_that_stops_there(
    model: InpaintPipeline, examples: Examples, meter: Meter, tmp_path: Path
) -> None:
    settings = replace(model.defaults, steps=3, stop_after=3)
    truth = truth_features(examples, meter, ignore)
    found = trajectory(model, settings, 2, examples, truth, meter, tmp_path / "cache", ignore)
    [batch] = examples.batches()
    for seed in range(2):
        for t in range(1, 4):
            pictures = model(
                batch.images,
                batch.holes,
                generator=[torch.Generator().manual_seed(seed) for _ in batch.stems],
                output_type="np",
                **asdict(replace(settings, stop_after=t)),
            ).images
            scores = meter.score(pictures, batch)
            expected = {name: scores.figures[name].mean() for name in SWEPT}
            expected["fid"] = frechet_distance(scores.features, truth)
            for name, value in expected.items():
                got = found.figures[name][seed, t - 1]
                assert got == pytest.approx(value, rel=1e-6, nan_ok=True), (name, seed, t)
    assert found.figures.keys() == {"fid", *SWEPT}
    assert all(values.shape == (2, 3) for values in found.figures.values())
    assert len(np.unique(found.figures["fid"])) > 2  # seeds and steps do differ


def test_fills_are_those_of_inpaint_and_keep_known_pixels(
    model: InpaintPipeline,
    examples: Examples,
    folders: tuple[Path, Path],
    meter: Meter,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    Benchmark(model, examples, meter, tmp_path / "out").run("tiny", GRID)
    fills = tmp_path / "out" / "fills"
    common = ("--model", tiny_model, "--batch-size", 32, "--device", "cpu")
    truth, masks = folders
    inpainted = tmp_path / "inpainted"
    result = run("inpaint", truth, "--mask", masks, "--output", inpainted, "--seed", 1, *common)
    assert result.exit_code == 0, result.output
    for stem in examples.truth:
        ours = read_image(fills / f"{slug(model.defaults)}-seed1" / f"{stem}.png").pixels
        other = read_image(fills / f"{slug(model.defaults)}-seed0" / f"{stem}.png").pixels
        assert np.array_equal(ours, read_image(inpainted / f"{stem}.png").pixels)
        assert not np.array_equal(ours, other)

    kept = [folder for folder in fills.iterdir() if not folder.name.endswith("-as-painted")]
    assert {"grey", "opencv-telea"} < {folder.name for folder in kept}
    for folder in kept:
        assert {file.stem for file in folder.iterdir()} == examples.truth.keys()
        for stem, file in examples.truth.items():
            known = ~read_mask(examples.masks[stem])
            filled = read_image(folder / f"{stem}.png").pixels
            assert np.array_equal(filled[known], read_image(file).pixels[known]), folder


@pytest.mark.parametrize(
    ("owner", "name", "stop_at"),
    [
        (InpaintPipeline, "__call__", 2),  # the second seed of the table
        (InpaintPipeline, "__call__", 5),  # the sweep
        (InpaintPipeline, "__call__", 8),  # its best settings
        (sweep, "frechet_distance", 4),
        (benchmark_module, "write_image", 10),  # half a folder
        (benchmark_module, "summarise", 3),
    ],
)
def test_stopped_and_run_again_it_finds_the_same(
    model: InpaintPipeline,
    examples: Examples,
    meter: Meter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    stop_at: int,
) -> None:
    whole = Benchmark(model, examples, meter, tmp_path / "whole").run("tiny", GRID)
    with monkeypatch.context() as patch:
        calls = count_calls(patch, owner, name, stop_at)
        with pytest.raises(KeyboardInterrupt):
            Benchmark(model, examples, meter, tmp_path / "stopped").run("tiny", GRID)
        assert calls == [stop_at]
    again = Benchmark(model, examples, meter, tmp_path / "stopped").run("tiny", GRID)
    assert figures_of(again) == figures_of(whole)
    files = [
        {str(f.relative_to(tmp_path / d)): f.read_bytes() for f in (tmp_path / d).rglob("*.png")}
        for d in ("whole", "stopped")
    ]
    assert files[0] == files[1]


def test_a_complete_benchmark_decodes_nothing_again(
    model: InpaintPipeline,
    examples: Examples,
    meter: Meter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = count_calls(monkeypatch, InpaintPipeline, "__call__")
    first = Benchmark(model, examples, meter, tmp_path / "out").run("tiny", GRID)
    assert calls[0] >= 2 + 2 * 2  # seeds of the table, settings and seeds of the sweep
    calls[0] = 0
    second = Benchmark(model, examples, meter, tmp_path / "out").run("tiny", GRID)
    assert calls == [0]
    assert json.dumps(second.as_json()) == json.dumps(first.as_json())


def test_a_folder_of_another_model_or_of_other_images_is_refused(
    model: InpaintPipeline, examples: Examples, meter: Meter, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    Benchmark(model, examples, meter, out)
    Benchmark(model, examples, meter, out)
    inverted = replace(examples, invert_mask=True)
    for other, images in [
        (tiny_pipeline(seed=1), examples),
        (model, examples.subset(4)),
        (model, inverted),
    ]:
        with pytest.raises(MaskweaveError, match="another model or of other images"):
            Benchmark(other, images, meter, out)
    changed = examples.truth["picture0"]
    Image.fromarray(255 - read_image(changed).pixels).save(changed)
    with pytest.raises(MaskweaveError, match="another model or of other images"):
        Benchmark(model, examples, meter, out)


def test_the_command_prints_only_json_and_writes_a_report(
    folders: tuple[Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    logs, out = tmp_path / "run", tmp_path / "out"
    with SummaryWriter(str(logs)) as writer:
        for step in range(5):
            writer.add_scalar("loss", 1 / (step + 1), step)
    truth, masks = folders
    result = run(
        *("benchmark", "--truth", truth, "--masks", masks, "--output", out, "--model", tiny_model),
        *("--json", "--features", 64, "--steps", 3, "--seeds", 2, "--sweep-images", 4),
        *(
            "--temperature",
            0,
            "--temperature",
            1,
            "--real",
            truth,
            "--logs",
            logs,
            "--lpips",
            "squeeze",
        ),
        *("--device", "cpu"),
    )
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed == json.loads((out / "results.json").read_text())
    assert len(printed["sweep"]) == 3 * 2  # schedules and temperatures
    assert {each["settings"]["temperature"] for each in printed["sweep"]} == {0, 1}
    assert printed["rows"][0]["name"] == "6 other real images"
    assert printed["rows"][0]["figures"]["fid"]["value"] == pytest.approx(0, abs=1e-3)
    for name in ("index.html", "report.md"):
        assert (out / "report" / name).stat().st_size
    assert [*(out / "report").rglob("losses.png")]


@pytest.mark.parametrize(
    ("option", "value"),
    [("--schedule", "sideways"), ("--steps", 0), ("--truth", "nowhere"), ("--real", "nowhere")],
)
def test_wrong_options_end_in_one_line_and_code_2(
    folders: tuple[Path, Path], tiny_model: Path, tmp_path: Path, option: str, value: object
) -> None:
    options: dict[str, object] = {
        "--truth": folders[0],
        "--masks": folders[1],
        "--output": tmp_path / "out",
        "--model": tiny_model,
        "--features": 64,
        "--device": "cpu",
        option: tmp_path / str(value) if value == "nowhere" else value,
    }
    result = run("benchmark", *(part for pair in options.items() for part in pair))
    assert result.exit_code == 2, result.output
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert not result.stdout


@pytest.mark.parametrize("fill", [grey, telea, navier_stokes, biharmonic])
def test_baselines_keep_known_pixels_and_do_not_read_under_the_hole(
    fill: Fill, examples: Examples, rng: np.random.Generator
) -> None:
    [batch] = examples.batches()
    others = [image.copy() for image in batch.images]
    for other, hole in zip(others, batch.holes, strict=True):
        other[hole] = rng.integers(0, 256, (int(hole.sum()), 3), dtype=np.uint8)
    before = [image.copy() for image in batch.images]
    filled = fill(batch.images, batch.holes)
    for image, unread, true, old, hole in zip(
        filled, fill(others, batch.holes), batch.images, before, batch.holes, strict=True
    ):
        assert image.dtype == np.uint8 and image.shape == true.shape
        assert np.array_equal(image[~hole], true[~hole])
        assert np.array_equal(image, unread)
        assert np.array_equal(true, old)  # the input itself is left alone
