"""How far figures spread: over images, over seeds, and over samples of each image."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import ttest_1samp

from evaluations import evaluate, figures, refuses
from maskweave.evaluation.evaluate import (
    Evaluation,
    Meter,
    Scores,
    measured,
    set_figures,
    summarise,
)
from maskweave.evaluation.examples import read_runs
from maskweave.evaluation.inception import frechet_distance, kernel_distance
from maskweave.evaluation.lattice import Peaks
from maskweave.evaluation.metrics import SOURCES


def test_an_interval_is_that_of_students_t(rng: np.random.Generator) -> None:
    values = rng.normal(3, 2, 20)
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    found = measured(np.append(values, [np.nan, np.inf]), "95 % over images", "a library")
    assert (found.value - found.spread, found.value + found.spread) == pytest.approx((low, high))
    assert (found.n, found.spread_of, found.source) == (20, "95 % over images", "a library")
    alone = measured(np.array([1.5]), "95 % over images", "")
    assert (alone.spread, alone.spread_of) == (None, "")
    assert math.isnan(measured(np.array([np.nan]), "", "").value)


def summary(runs: int, meter: Meter) -> tuple[list[Scores], np.ndarray, Evaluation]:
    """Return made-up scores of 12 images, features of their truth, and what is summed up."""
    rng = np.random.default_rng(1)
    names = ("lpips", *SOURCES)
    scores = [
        Scores(
            {name: rng.random(12) for name in names},
            rng.random((12, 8)),
            np.linspace(0.05, 1, 12),
            Peaks(rng.normal(size=(12, 4)), np.full(12, 9)),
        )
        for _ in range(runs)
    ]
    for one in scores:
        one.figures["known_change_mean"][:2] = np.nan
    truth = rng.random((12, 8))
    return scores, truth, summarise(scores, truth, meter)


def test_one_run_has_an_interval_over_images_but_none_of_fid(meter: Meter) -> None:
    [scores], truth, found = summary(1, meter)
    fid = found.as_json()["figures"]["fid"]
    assert (fid["spread"], fid["spread_of"]) == (None, "")
    mean, deviation = kernel_distance(scores.features, truth)
    kid = found.figures["kid"]
    assert (kid.value, kid.spread, kid.spread_of) == (mean, deviation, "deviation over subsets")
    expected = measured(scores.figures["lpips"], "95 % over images", meter.sources["lpips"])
    assert found.figures["lpips"] == expected
    assert {figure.n for figure in found.figures.values()} == {10, 12}  # 10 with known pixels


def test_kid_of_two_images_has_no_deviation(rng: np.random.Generator) -> None:
    for n, has_spread in ((2, False), (3, True)):
        kid = set_figures([rng.random((n, 8))], rng.random((n, 8)), "")["kid"]
        assert (kid.spread is not None) == bool(kid.spread_of) == has_spread


def test_runs_give_fid_an_interval_and_every_image_its_mean(meter: Meter) -> None:
    scores, truth, found = summary(3, meter)
    distances = np.array([frechet_distance(one.features, truth) for one in scores])
    expected = measured(distances, "", "")
    fid = found.figures["fid"]
    assert (fid.value, fid.spread, fid.n) == (expected.value, expected.spread, 12)
    assert fid.spread_of == found.figures["kid"].spread_of == "95 % over seeds"
    lpips = measured(np.mean([one.figures["lpips"] for one in scores], axis=0), "", "")
    assert (found.figures["lpips"].value, found.figures["lpips"].spread) == (
        lpips.value,
        lpips.spread,
    )
    greatest = found.figures["known_change_max"]
    assert greatest.value == max(one.figures["known_change_max"].max() for one in scores)
    assert greatest.spread is None


def test_by_size_of_the_hole_every_image_counts_once(meter: Meter) -> None:
    _, _, several = summary(3, meter)
    greatest = max(bucket.means["known_change_max"] for bucket in several.buckets)
    assert greatest == several.figures["known_change_max"].value
    [scores], _, found = summary(1, meter)
    assert sum(bucket.n for bucket in found.buckets) == 12
    mean = sum(bucket.n * bucket.means["lpips"] for bucket in found.buckets) / 12
    assert mean == pytest.approx(scores.figures["lpips"].mean())
    assert all(bucket.high == pytest.approx(bucket.low + 0.1) for bucket in found.buckets)
    assert found.buckets[-1].high == 1  # a full hole is in the last


def sampled(folders: Path, samples: int) -> None:
    """Make samples of every result, each but the first a little darker than the one before."""
    for file in [*(folders / "results").iterdir()]:
        pixels = np.array(Image.open(file))
        for number in range(1, samples + 1):
            Image.fromarray(pixels).save(file.with_stem(f"{file.stem}_{number}"))
            pixels = pixels - pixels // 8
        file.unlink()


def test_samples_are_runs_whose_mean_and_spread_are_told(folders: Path, weights: Path) -> None:
    sampled(folders, 3)
    result = evaluate(folders, "--json")
    found, details = figures(result), json.loads(result.stdout)
    assert (details["n"], details["runs"]) == (6, 3)
    values = []
    for number in (1, 2, 3):
        run = folders / f"run{number}"
        run.mkdir()
        for file in (folders / "results").glob(f"*_{number}.png"):
            file.rename(run / f"{file.stem.removesuffix(f'_{number}')}.png")
        (folders / "results").rename(folders / "samples")
        run.rename(folders / "results")
        alone = evaluate(folders, "--json")
        values.append(figures(alone))
        assert json.loads(alone.stdout)["figures"]["fid"]["spread_of"] == ""
        (folders / "results").rename(run)
        (folders / "samples").rename(folders / "results")
    for name in ("fid", "kid", "lpips", "psnr_hole", "ssim"):
        assert found[name] == pytest.approx(np.mean([one[name] for one in values]), abs=1e-5), name
    fid = details["figures"]["fid"]
    expected = measured(np.array([one["fid"] for one in values]), "95 % over samples", "")
    assert fid["spread"] == pytest.approx(expected.spread, abs=1e-5)
    assert fid["spread_of"] == "95 % over samples"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "b_2.png").unlink(), "of samples 1 to 2 of each image 1 missing, by name"),
        (lambda f: (f / "b_2.png").rename(f / "b_4.png"), "numbered from 1, without gaps"),
        (lambda f: (f / "b_2.png").rename(f / "b.png"), "mixes results of their image's name"),
        (lambda f: (f / "b_2.png").rename(f / "x_2.png"), "1 missing, by name: b_2"),
        (lambda f: Image.new("RGB", (9, 9)).save(f / "x_1.png"), "1 without a true image"),
    ],
)
def test_samples_that_are_not_complete_are_refused(
    folders: Path, change: Callable[[Path], None], message: str
) -> None:
    sampled(folders, 2)
    change(folders / "results")
    refuses(evaluate(folders, "--inception", folders / "none.pth"), message)


def test_images_whose_names_look_like_samples_are_results(tmp_path: Path) -> None:
    for stem in ("a", "a_1", "b_7"):
        Image.new("RGB", (9, 9)).save(tmp_path / f"{stem}.png")
    truth = {stem: tmp_path / f"{stem}.png" for stem in ("a", "a_1", "b_7")}
    assert read_runs(tmp_path, truth) == [truth]
    for stem in ("a", "b_7"):
        (tmp_path / f"{stem}.png").unlink()
    for stem in truth:
        for number in (1, 2):
            Image.new("RGB", (9, 9)).save(tmp_path / f"{stem}_{number}.png")
    runs = [{stem: file.name for stem, file in run.items()} for run in read_runs(tmp_path, truth)]
    assert runs == [
        {"a": f"a_{n}.png", "a_1": f"a_1_{n}.png", "b_7": f"b_7_{n}.png"} for n in (1, 2)
    ]
