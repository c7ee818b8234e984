"""The sweep: every step of every setting of a grid, a folder for each, and the best of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskweave.evaluation import examples as examples_module
from maskweave.evaluation.baselines import run_model
from maskweave.evaluation.benchmark import Benchmark, slug
from maskweave.evaluation.evaluate import Meter, truth_features
from maskweave.evaluation.examples import Examples
from maskweave.evaluation.inception import frechet_distance
from maskweave.maskgit import DecodeSettings
from maskweave.pipeline import InpaintPipeline
from maskweave.report.results import run
from maskweave.report.sweep import SWEPT, Grid, Trajectory, best_of, trajectory
from tiny_benchmark import GRID, model_of, quick_meter, read, write_examples


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read five examples in three batches."""
    monkeypatch.setattr(examples_module, "BATCH", 2)


@pytest.fixture(scope="module")
def meter(torch_home: Path) -> Meter:
    return quick_meter(torch_home)


@pytest.fixture(scope="module")
def model() -> InpaintPipeline:
    return model_of(0)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return read(write_examples(tmp_path_factory.mktemp("examples")))


def ignore(count: int = 1, text: str = "") -> None:
    """Advance no bar."""


def test_every_step_is_the_result_of_decoding_that_stops_there(
    model: InpaintPipeline, examples: Examples, meter: Meter, tmp_path: Path
) -> None:
    settings = replace(model.defaults, steps=3, stop_after=3)
    truth = truth_features(examples, meter, ignore)
    found = trajectory(model, settings, 2, examples, truth, meter, tmp_path / "cache", ignore)

    everything = examples.read(examples.stems)
    for seed in range(2):
        for t in range(1, 4):
            stopped = replace(settings, stop_after=t)
            output = run_model(model, stopped, seed, everything)
            scores = meter.score([np.array(image) for image in output.images], everything)
            expected = {name: scores.figures[name].mean() for name in SWEPT}
            expected["fid"] = frechet_distance(scores.features, truth)
            for name, value in expected.items():
                assert found.figures[name][seed, t - 1] == pytest.approx(value, rel=1e-3), name
    assert found.figures.keys() == {"fid", *SWEPT}
    assert all(values.shape == (2, 3) for values in found.figures.values())
    assert len(np.unique(found.figures["fid"])) == 6  # seeds and steps do differ


def test_without_inception_the_sweep_goes_by_lpips(
    model: InpaintPipeline,
    examples: Examples,
    torch_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    found = run(Benchmark(model, examples, Meter(None), tmp_path / "out"), "tiny", 1, GRID)
    lowest = min(each.figures["lpips"].min() for each in found.trajectories)
    best = best_of(found.trajectories)
    [chosen] = [e for e in found.trajectories if e.settings == replace(best, stop_after=3)]
    assert chosen.figures["lpips"][0, best.stop_after - 1] == lowest


def test_a_grid_is_every_combination_on_top_of_the_defaults() -> None:
    defaults = DecodeSettings(steps=5, stop_after=2, top_k=7, order="halton", paint="expected")
    found = Grid(("linear", "cosine"), (4, 9), (0.5, 2.0), (0.0, 1.5)).settings(defaults)
    assert len(set(found)) == 16
    assert all(each.stop_after == each.steps for each in found)
    assert {(each.top_k, each.order, each.paint) for each in found} == {(7, "halton", "sampled")}
    assert {each.token_temperature for each in found} == {0.0, 1.5}


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 9},
        {"schedule": "linear"},
        {"stop_after": 3},
        {"temperature": 2.5},
        {"token_temperature": 0.25},
        {"top_k": 4},
        {"order": "random"},
        {"remask": True},
        {"entropy_bound": 0.5},
        {"paint": "expected"},
        {"context": 0.1},
        {"levels": 0},
    ],
)
def test_settings_that_differ_have_folders_that_differ(change: dict[str, Any]) -> None:
    settings = DecodeSettings()
    assert slug(replace(settings, **change)) != slug(settings)
    assert slug(replace(settings, stop_after=settings.steps)) == slug(settings)  # they are the same


def test_where_nothing_is_sampled_only_what_still_counts_is_told() -> None:
    expected = DecodeSettings(paint="expected")
    assert slug(replace(expected, steps=9, order="random", temperature=2.0)) == "expected"
    assert slug(replace(expected, context=0.1, levels=0)) == "expected-context-0.1-levels-0"


def test_the_best_of_a_sweep_has_the_lowest_mean_fid_of_all_steps() -> None:
    one, other = DecodeSettings(steps=3, stop_after=3), DecodeSettings(steps=4, stop_after=4)
    trajectories = [
        Trajectory(one, 9, {"fid": np.array([[5.0, 4.0, 9.0], [5.0, 4.0, 1.0]])}),
        Trajectory(other, 9, {"fid": np.array([[8.0, 0.5, 6.0, 8.0], [8.0, 6.5, 6.0, 8.0]])}),
    ]
    assert [each.best() for each in trajectories] == [(2, 4.0), (2, 3.5)]
    assert best_of(trajectories) == replace(other, stop_after=2)


@pytest.mark.parametrize("number", [1, 2, 3, 7, 20, 99])
def test_a_subset_is_spread_evenly(number: int) -> None:
    files = {f"{index:02d}": Path(f"{index:02d}.png") for index in range(20)}
    chosen = [int(stem) for stem in Examples(files, files).subset(number).truth]
    assert len(chosen) == min(number, 20)
    gaps = np.diff([*chosen, 20])
    assert chosen[0] == 0 and gaps.min() >= 1 and gaps.max() - gaps.min() <= 1


def test_settings_that_differ_a_little_have_folders_of_their_own() -> None:
    grid = Grid(temperatures=(1.0, 1.0000001), token_temperatures=(0.5, 0.50000001))
    settings = grid.settings(DecodeSettings())
    assert len({slug(each) for each in settings}) == len(settings)
