"""Figures: known answers, agreement with the libraries, and refusal of what cannot be measured."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from typer.testing import CliRunner

from maskweave.cli.main import app
from maskweave.errors import MaskweaveError
from maskweave.evaluation.evaluate import Meter, score_folder, summarise, truth_features
from maskweave.evaluation.examples import read_examples
from maskweave.evaluation.inception import Inception, features_of, frechet_distance, kid_subset
from maskweave.evaluation.metrics import EXACT, boundary, check_example, pixel_figures
from maskweave.progress import progress


@pytest.fixture(autouse=True)
def homes(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(shared / "torch_home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folders(tmp_path: Path, rng: np.random.Generator) -> Path:
    hole = np.zeros((32, 32), np.uint8)
    hole[8:20, 8:20] = 255
    for name in ("truth", "masks", "results"):
        (tmp_path / name).mkdir()
    for stem in "abcdef":
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "truth" / f"{stem}.png")
        pixels[hole > 0] = 128
        Image.fromarray(pixels).save(tmp_path / "results" / f"{stem}.png")
        Image.fromarray(hole).save(tmp_path / "masks" / f"{stem}.png")
    return tmp_path


def command(folder: Path, *more: str) -> list[str]:
    paths = [f"--truth={folder / 'truth'}", f"--masks={folder / 'masks'}"]
    return ["evaluate", str(folder / "results"), *paths, "--features=64", *more]


def test_known_answers() -> None:
    truth = np.full((32, 32, 3), 100, np.uint8)
    hole = np.zeros((32, 32), bool)
    hole[10:20, 10:20] = True
    result = truth.copy()
    result[hole] += 10
    result[0, 0] += 7
    figures = pixel_figures(result, truth, hole)
    assert figures["psnr_hole"] == pytest.approx(20 * math.log10(255 / 10))
    assert figures["psnr"] == pytest.approx(peak_signal_noise_ratio(truth, result, data_range=255))
    assert figures["known_change_mean"] == pytest.approx(7 / (32 * 32 - 100))
    assert figures["known_change_max"] == 7
    band = np.zeros_like(hole)
    band[6:24, 6:24] = True
    band[14:16, 14:16] = False
    assert np.array_equal(boundary(hole), band)
    assert figures["boundary_error"] == pytest.approx(10 * 96 / band.sum())
    exact = pixel_figures(truth, truth, hole)
    assert (exact["psnr"], exact["ssim_hole"], exact["boundary_error"]) == (EXACT, 1, 0)


def test_against_torch_fidelity(folders: Path, shared: Path) -> None:
    weights = next((shared / "torch_home").rglob("weights-inception*.pth"))
    theirs = torch_fidelity.calculate_metrics(
        input1=str(folders / "results"), input2=str(folders / "truth"), fid=True,
        feature_layer_fid="64", feature_extractor_weights_path=str(weights), cuda=False,
        save_cpu_ram=True, verbose=False, cache=False,
    )  # fmt: skip
    examples = read_examples(folders / "truth", folders / "masks")
    meter = Meter(Inception(64, "torch-fidelity"))
    with progress(12, shown=False) as advance:
        scores = score_folder(folders / "results", examples, meter, advance)
        truth = truth_features(examples, meter, advance)
    ours = summarise([scores], truth, np.full(6, 0.1), meter).figures["fid"].value
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert frechet_distance(truth, truth) == pytest.approx(0, abs=1e-6)


def test_features_are_computed_once(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    inception = Inception(64, "pytorch-fid")
    image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    first = features_of([image], inception, tmp_path / "kept")
    calls: list[torch.Tensor] = []
    forward = Inception.forward
    monkeypatch.setattr(Inception, "forward", lambda *a: (calls.append(a[1]), forward(*a))[1])
    assert np.array_equal(features_of([image], inception, tmp_path / "kept"), first)
    assert not calls
    (file,) = (tmp_path / "kept").iterdir()
    file.write_bytes(file.read_bytes()[:20])
    assert np.array_equal(features_of([image], inception, tmp_path / "kept"), first)
    assert len(calls) == 1


def test_a_subset_of_kid_never_exceeds_the_set() -> None:
    assert all(2 <= kid_subset(n) <= n for n in range(2, 5000))


@pytest.mark.parametrize("shape", [(32, 32, 4), (32, 32, 2), (32, 32)])
def test_odd_channels_are_refused(shape: tuple[int, ...]) -> None:
    image = np.zeros(shape, np.uint8)
    with pytest.raises(MaskweaveError, match="uint8"):
        check_example("a", image, image, np.ones((32, 32), bool))


def fail_size(folder: Path) -> None:
    Image.new("RGB", (40, 32)).save(folder / "results" / "b.png")


def fail_alpha(folder: Path) -> None:
    Image.new("RGBA", (32, 32)).save(folder / "results" / "b.png")


def fail_shuffled(folder: Path) -> None:
    (folder / "results" / "b.png").rename(folder / "results" / "x.png")


def fail_missing(folder: Path) -> None:
    (folder / "masks" / "b.png").unlink()


def fail_empty(folder: Path) -> None:
    Image.new("L", (32, 32)).save(folder / "masks" / "b.png")


def fail_single(folder: Path) -> None:
    for name in ("truth", "masks", "results"):
        for stem in "bcdef":
            (folder / name / f"{stem}.png").unlink()


@pytest.mark.parametrize(
    "spoil", [fail_size, fail_alpha, fail_shuffled, fail_missing, fail_empty, fail_single]
)
def test_what_cannot_be_measured_is_an_error(folders: Path, spoil: object) -> None:
    spoil(folders)  # type: ignore[operator]
    result = CliRunner().invoke(app, command(folders))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("option", ["--features=65", "--resize=x", "--lpips=x", "--inception=no"])
def test_unknown_options_are_errors(folders: Path, option: str) -> None:
    assert CliRunner().invoke(app, command(folders, option)).exit_code == 2
