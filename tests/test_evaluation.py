"""Figures: known answers, agreement with the libraries, and refusal of what cannot be measured."""

import json
import math
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch_fidelity
from PIL import Image
from scipy.ndimage import distance_transform_cdt
from scipy.stats import ttest_1samp
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics.functional.image.lpips import _NoTrainLpips
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from typer.testing import CliRunner, Result

from maskweave.cli.main import app
from maskweave.errors import MaskweaveError
from maskweave.evaluation.baselines import pasted
from maskweave.evaluation.benchmark import BASELINES
from maskweave.evaluation.evaluate import (
    Evaluation,
    Meter,
    Scores,
    hole_shares,
    joined,
    measured,
    summarise,
    truth_features,
)
from maskweave.evaluation.examples import Batch, read_examples
from maskweave.evaluation.inception import (
    PUBLISHED,
    Inception,
    features_of,
    frechet_distance,
    kernel_distance,
    kid_subset,
)
from maskweave.evaluation.metrics import (
    BAND,
    EXACT,
    SMALLEST_SIDE,
    SOURCES,
    boundary,
    check_example,
    pixel_figures,
)
from maskweave.evaluation.tables import COLUMNS

SHAPE = (32, 40)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep features of the truth out of the user's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def torch_home(shared: Path) -> Path:
    if not (shared / "torch_home" / "hub" / "checkpoints" / PUBLISHED).exists():
        pytest.skip(f"no Inception weights in {shared / 'torch_home'}")
    return shared / "torch_home"


@pytest.fixture
def weights(torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Inception's weights, where torch looks for those of all networks."""
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    return torch_home / "hub" / "checkpoints" / PUBLISHED


@pytest.fixture(scope="module")
def meter(torch_home: Path) -> Meter:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(torch_home))
        return Meter(Inception(64, "torch-fidelity"))


@pytest.fixture
def folders(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Six true images, their masks in another format, and results that differ in the hole."""
    hole = np.zeros(SHAPE, np.uint8)
    hole[8:20, 6:26] = 255
    for name in ("truth", "masks", "results"):
        (tmp_path / name).mkdir()
    for index, stem in enumerate("abcdef"):
        low = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        image = np.array(Image.fromarray(low).resize(SHAPE[::-1], Image.Resampling.BICUBIC))
        Image.fromarray(image).save(tmp_path / "truth" / f"{stem}.png")
        image[hole > 0] = 30 * index
        Image.fromarray(image).save(tmp_path / "results" / f"{stem}.png")
        Image.fromarray(hole).save(tmp_path / "masks" / f"{stem}.bmp")
    return tmp_path


def evaluate(folder: Path, *more: object) -> Result:
    paths = ("--truth", folder / "truth", "--masks", folder / "masks")
    arguments = ("evaluate", folder / "results", *paths, "--features", 64, "--device", "cpu", *more)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def figures(result: Result) -> dict[str, float | None]:
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["figures"]
    return {name: figure["value"] for name, figure in found.items()}


def refuses(result: Result, message: str) -> None:
    """Expect an error in one line after whatever notes and bars were shown."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    *before, last = result.stderr.splitlines()
    assert last.startswith("error: ") and message in last
    assert not [line for line in before if line.startswith(("error", "Traceback"))]


def noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 256, (*(shape or SHAPE), 3), dtype=np.uint8)


def box(shape: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
    hole = np.zeros(shape, dtype=bool)
    hole[rows, columns] = True
    return hole


def ignore(count: int = 1, text: str = "") -> None:
    """Advance no bar."""


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which every call of Inception adds its number of images."""
    seen: list[int] = []
    forward = Inception.forward

    def count(self: Inception, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Inception, "forward", count)
    return seen


@pytest.mark.parametrize("offset", [1, 10, 200])
def test_a_constant_offset_in_the_hole_has_the_psnr_of_its_definition(offset: int) -> None:
    truth, hole = np.full((*SHAPE, 3), 40, np.uint8), box(SHAPE, slice(8, 20), slice(6, 26))
    result = truth.copy()
    result[hole] += np.uint8(offset)
    found = pixel_figures(result, truth, hole)
    assert found["psnr_hole"] == pytest.approx(20 * math.log10(255 / offset))
    share = hole.mean()
    assert found["psnr"] == pytest.approx(found["psnr_hole"] - 10 * math.log10(share))
    assert found["known_change_mean"] == found["known_change_max"] == 0
    assert 0 < found["ssim_hole"] < found["ssim"] < 1


def test_an_exact_image_has_the_best_figures(rng: np.random.Generator) -> None:
    image, hole = noise(rng), box(SHAPE, slice(8, 20), slice(6, 26))
    found = pixel_figures(image, image.copy(), hole)
    assert found.pop("psnr") == found.pop("psnr_hole") == EXACT == 100
    assert found.pop("ssim") == found.pop("ssim_hole") == pytest.approx(1)
    assert set(found.values()) == {0}


def test_changes_of_known_pixels_are_measured_outside_the_hole_alone(
    rng: np.random.Generator,
) -> None:
    truth, hole = np.zeros((*SHAPE, 3), np.uint8), box(SHAPE, slice(0, 20), slice(6, 26))
    result = truth.copy()
    result[hole] = noise(rng)[hole]
    result[30, 1, 2], result[31, 39, 0] = 255, 45  # 255 would be 1 if 8 bits wrapped around
    found = pixel_figures(result, truth, hole)
    assert found["known_change_max"] == 255
    assert found["known_change_mean"] == pytest.approx(300 / (3 * (32 * 40 - 20 * 20)))
    assert found["psnr_hole"] == pixel_figures(result * hole[..., None], truth, hole)["psnr_hole"]


@pytest.mark.parametrize(
    ("hole", "outer", "inner"),
    [
        (np.s_[10:30, 8:28], np.s_[6:34, 4:32], np.s_[14:26, 12:24]),
        (np.s_[20:21, 20:21], np.s_[16:25, 16:25], np.s_[:0, :0]),
        (np.s_[0:20, :], np.s_[0:24, :], np.s_[0:16, :]),  # the image's own border is none
        (np.s_[:, :], np.s_[:0, :0], np.s_[:0, :0]),
    ],
)
def test_the_band_along_the_border_of_a_box(
    hole: tuple[slice, slice], outer: tuple[slice, slice], inner: tuple[slice, slice]
) -> None:
    band = box((40, 40), *outer) & ~box((40, 40), *inner)
    assert np.array_equal(boundary(box((40, 40), *hole)), band)


def test_the_band_is_what_is_near_the_other_side(rng: np.random.Generator) -> None:
    for share in (0.001, 0.01, 0.99):
        hole = rng.random((60, 50)) < share
        near = [distance_transform_cdt(side, "chessboard") <= BAND for side in (hole, ~hole)]
        assert np.array_equal(boundary(hole), near[0] & near[1])


def test_the_boundary_error_is_the_mean_over_the_band() -> None:
    hole = box((40, 40), slice(10, 30), slice(8, 28))
    truth, result = np.zeros((2, 40, 40, 3), np.uint8)
    result[hole, 1] = 30
    # Of the 28^2 - 12^2 pixels of the band 20^2 - 12^2 are in the hole; one channel of three.
    assert pixel_figures(result, truth, hole)["boundary_error"] == pytest.approx(10 * 256 / 640)


def test_without_known_pixels_their_figures_are_undefined(rng: np.random.Generator) -> None:
    found = pixel_figures(noise(rng), noise(rng), np.ones(SHAPE, bool))
    assert {name for name, value in found.items() if math.isnan(value)} >= {
        "boundary_error",
        "known_change_mean",
    }
    assert found["psnr_hole"] == found["psnr"]
    assert found["ssim_hole"] == pytest.approx(found["ssim"])


def test_against_scikit_image(rng: np.random.Generator) -> None:
    truth, hole = noise(rng), rng.random(SHAPE) < 0.3
    result = np.where(rng.random((*SHAPE, 1)) < 0.5, truth, noise(rng))
    found = pixel_figures(result, truth, hole)
    for name, where in (("psnr", np.ones(SHAPE, bool)), ("psnr_hole", hole)):
        expected = peak_signal_noise_ratio(truth[where], result[where], data_range=255)
        assert found[name] == pytest.approx(expected)
    maps = [
        structural_similarity(truth[..., c], result[..., c], data_range=255, full=True)[1]
        for c in range(3)
    ]
    assert found["ssim"] == pytest.approx(np.mean(maps))
    assert found["ssim_hole"] == pytest.approx(np.mean([one[hole] for one in maps]))


def test_against_torchmetrics(meter: Meter, weights: Path, rng: np.random.Generator) -> None:
    shapes = [(32, 40), (32, 40), (48, 33), (32, 40)]
    truth, results = ([noise(rng, *shape) for shape in shapes] for _ in range(2))
    results[1] = truth[1]
    stems, holes = ["a", "b", "c", "d"], [np.ones(shape, bool) for shape in shapes]
    library = LearnedPerceptualImagePatchSimilarity(net_type="squeeze", normalize=True)
    expected = []
    for one in zip(results, truth, strict=True):
        pair = [torch.from_numpy(image).permute(2, 0, 1)[None] / 255 for image in one]
        expected.append(library(*pair).item())
        library.reset()
    scores = meter.score(results, Batch(stems, truth, holes))
    np.testing.assert_allclose(scores.figures["lpips"], expected, rtol=1e-4, atol=1e-6)
    assert scores.figures["lpips"][1] == 0


@pytest.mark.parametrize("net", ["squeeze", "alex", "vgg"])
def test_lpips_sees_images_of_the_smallest_size(net: str) -> None:
    with torch.device("meta"):  # shapes alone: most machines lack the weights of two of them
        network = _NoTrainLpips(net=net, pretrained=False, pnet_rand=True, use_dropout=False)
        image = torch.zeros(1, 3, SMALLEST_SIDE, SMALLEST_SIDE)
        network.net.to("meta")(image)


@pytest.mark.parametrize("features", [64, 192])
def test_against_torch_fidelity(features: int, folders: Path, weights: Path) -> None:
    theirs = torch_fidelity.calculate_metrics(
        input1=str(folders / "results"), input2=str(folders / "truth"), fid=True, kid=True,
        feature_layer_fid=str(features), feature_layer_kid=str(features), kid_subset_size=3,
        feature_extractor_weights_path=str(weights), samples_find_ext="png", cuda=False,
        save_cpu_ram=True, verbose=False, cache=False,
    )  # fmt: skip
    ours = figures(evaluate(folders, "--features", features, "--json"))
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)


@pytest.mark.parametrize("features", [64, 192])
def test_against_the_recipe_of_pytorch_fid(
    features: int, weights: Path, rng: np.random.Generator
) -> None:
    images = [noise(rng) for _ in range(3)]
    network = FeatureExtractorInceptionV3("inception", ["2048"], str(weights))
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    x = 2 * F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False) - 1
    x = network.Conv2d_2b_3x3(network.Conv2d_2a_3x3(network.Conv2d_1a_3x3(x)))
    x = F.max_pool2d(x, kernel_size=3, stride=2)
    if features == 192:
        x = network.Conv2d_4a_3x3(network.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, kernel_size=3, stride=2)
    expected = F.adaptive_avg_pool2d(x, (1, 1)).flatten(1).numpy()
    ours = features_of(images, Inception(features, "pytorch-fid", weights))
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
    other = features_of(images, Inception(features, "torch-fidelity", weights))
    assert np.abs(other - expected).max() > 1e-3


@pytest.mark.parametrize("features", [64, 768])
def test_a_set_has_no_distance_to_itself(
    features: int, weights: Path, rng: np.random.Generator
) -> None:
    images = [noise(rng) for _ in range(6)]
    found = features_of(images, Inception(features, "torch-fidelity", weights))
    assert found.shape == (6, features)
    assert 0 <= frechet_distance(found, found) < 1e-6


def test_a_shift_of_all_features_is_its_square_apart(rng: np.random.Generator) -> None:
    features = rng.random((50, 8))
    shifted = rng.permutation(features) + 0.5
    assert frechet_distance(features, shifted) == pytest.approx(8 * 0.5**2)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_kid_takes_any_set_of_two(n: int, rng: np.random.Generator) -> None:
    one, other = rng.random((2, n, 8))
    assert np.isfinite(kernel_distance(one, other)).all()
    assert kernel_distance(one, other + 1)[0] > kernel_distance(one, one)[0]


def test_a_subset_of_kid_never_exceeds_the_set() -> None:
    sizes = [kid_subset(n) for n in range(2, 5001)]
    assert all(2 <= size <= n for n, size in enumerate(sizes, 2))
    assert sizes == sorted(sizes) and sizes[-1] == 1000


def test_features_do_not_depend_on_the_company_of_other_sizes(
    meter: Meter, rng: np.random.Generator
) -> None:
    images = [noise(rng, *shape) for shape in [(32, 32), (40, 32), (40, 32), (32, 32)]]
    alone = np.concatenate([features_of([image], meter.inception) for image in images])
    np.testing.assert_allclose(features_of(images, meter.inception), alone, rtol=1e-5, atol=1e-6)


def test_an_interval_is_that_of_students_t(rng: np.random.Generator) -> None:
    values = rng.normal(3, 2, 20)
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    found = measured(np.append(values, [np.nan, np.inf]), "95 % over images", "a library")
    assert (found.value - found.spread, found.value + found.spread) == pytest.approx((low, high))
    assert (found.n, found.spread_of, found.source) == (20, "95 % over images", "a library")
    assert measured(np.array([1.5]), "", "").spread is None
    assert math.isnan(measured(np.array([np.nan]), "", "").value)


def summary(runs: int, meter: Meter) -> tuple[list[Scores], np.ndarray, Evaluation]:
    """Return made-up scores of 12 images, features of their truth, and what is summed up."""
    rng = np.random.default_rng(1)
    names = ("lpips", *SOURCES)
    scores = [
        Scores({name: rng.random(12) for name in names}, rng.random((12, 8))) for _ in range(runs)
    ]
    for one in scores:
        one.figures["known_change_mean"][:2] = np.nan
    truth = rng.random((12, 8))
    return scores, truth, summarise(scores, truth, np.linspace(0.05, 1, 12), meter)


def test_one_run_has_an_interval_over_images_but_none_of_fid(meter: Meter) -> None:
    [scores], truth, found = summary(1, meter)
    assert found.figures["fid"].spread is None
    mean, deviation = kernel_distance(scores.features, truth)
    kid = found.figures["kid"]
    assert (kid.value, kid.spread, kid.spread_of) == (mean, deviation, "deviation over subsets")
    expected = measured(scores.figures["lpips"], "95 % over images", meter.sources["lpips"])
    assert found.figures["lpips"] == expected
    assert {figure.n for figure in found.figures.values()} == {10, 12}  # 10 with known pixels


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
    [scores], _, found = summary(1, meter)
    assert sum(bucket.n for bucket in found.buckets) == 12
    mean = sum(bucket.n * bucket.means["lpips"] for bucket in found.buckets) / 12
    assert mean == pytest.approx(scores.figures["lpips"].mean())
    assert all(bucket.high == pytest.approx(bucket.low + 0.1) for bucket in found.buckets)
    assert found.buckets[-1].high == 1  # a full hole is in the last


def test_exact_results_have_the_best_figures_and_every_figure_its_source(
    folders: Path, weights: Path
) -> None:
    for file in (folders / "truth").iterdir():
        (folders / "results" / file.name).write_bytes(file.read_bytes())
    result = evaluate(folders, "--json")
    found = figures(result)
    assert found.keys() == COLUMNS.keys()
    assert (found["lpips"], found["psnr"], found["psnr_hole"]) == (0, EXACT, EXACT)
    assert found["ssim"] == found["ssim_hole"] == pytest.approx(1)
    assert found["boundary_error"] == found["known_change_mean"] == found["known_change_max"] == 0
    assert 0 <= found["fid"] < 1e-6
    assert "note: the Inception weights have SHA-256" in result.stderr
    digest = Inception(64, "torch-fidelity").sha256[:8]
    for name, figure in json.loads(result.stdout)["figures"].items():
        assert figure["n"] == 6 and figure["source"]
        assert (digest in figure["source"]) == (name in ("fid", "kid"))


def test_tables_show_every_figure(folders: Path, weights: Path) -> None:
    result = evaluate(folders)
    assert result.exit_code == 0, result.output
    for name in COLUMNS.values():
        assert name in result.stdout


def test_inverted_masks_are_the_same_as_their_opposites(folders: Path, weights: Path) -> None:
    before = evaluate(folders, "--json").stdout
    for file in (folders / "masks").iterdir():
        Image.fromarray(255 - np.array(Image.open(file))).save(file)
    assert evaluate(folders, "--json", "--invert-mask").stdout == before
    assert evaluate(folders, "--json").stdout != before


def test_what_is_undefined_is_null(folders: Path, weights: Path) -> None:
    for file in (folders / "masks").iterdir():
        Image.new("L", SHAPE[::-1], 255).save(file)
    found = figures(evaluate(folders, "--json"))
    assert found["known_change_mean"] is None and found["boundary_error"] is None


def test_features_of_the_truth_are_computed_once_on_a_machine(
    folders: Path, weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = counted(monkeypatch)
    first = evaluate(folders, "--json")
    assert (first.exit_code, sum(seen)) == (0, 12)
    second = evaluate(folders, "--json")
    assert sum(seen) == 18  # the results alone
    assert second.stdout == first.stdout
    [file] = cache.rglob("*.safetensors")
    whole = file.read_bytes()
    for broken in (whole[: len(whole) // 2], b""):
        file.write_bytes(broken)
        seen.clear()
        assert evaluate(folders, "--json").stdout == first.stdout
        assert sum(seen) == 12
        assert file.read_bytes() == whole


@pytest.mark.parametrize("change", ["pixel", "features", "resize", "weights"])
def test_features_of_other_images_and_networks_are_others(
    change: str, meter: Meter, weights: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    images, inception, kept = [noise(rng) for _ in range(2)], meter.inception, tmp_path / "kept"
    first = features_of(images, inception, kept)
    match change:
        case "pixel":
            images[1][5, 5, 1] ^= 1
        case "features":
            inception = Inception(192, "torch-fidelity", weights)
        case "resize":
            inception = Inception(64, "pytorch-fid", weights)
        case _:
            other = torch.load(weights, weights_only=True)
            other["Conv2d_1a_3x3.bn.bias"] = other["Conv2d_1a_3x3.bn.bias"] + 1
            torch.save(other, tmp_path / "other.pth")
            inception = Inception(64, "torch-fidelity", tmp_path / "other.pth")
    again = features_of(images, inception, kept)
    assert not np.array_equal(again, first)
    assert np.array_equal(again, features_of(images, inception))
    assert len([*kept.iterdir()]) == 2


@pytest.mark.parametrize(
    ("result", "truth", "hole", "message"),
    [
        (np.zeros((32, 32, 4), np.uint8), None, None, "uint8 (height, width, 3), got"),
        (np.zeros((32, 32, 2), np.uint8), None, None, "uint8 (height, width, 3), got"),
        (np.zeros((32, 32), np.uint8), None, None, "uint8 (height, width, 3), got"),
        (np.zeros((32, 32, 3)), None, None, "got float64"),
        (None, np.zeros((32, 32, 3), np.int16), None, "got int16"),
        (np.zeros((40, 32, 3), np.uint8), None, None, "result 32x40, truth 32x32, mask 32x32"),
        (None, None, np.ones((32, 40), bool), "mask 40x32"),
        (None, None, np.zeros((32, 32), bool), "the mask is empty"),
        (np.zeros((32, 8, 3), np.uint8),) * 2 + (np.ones((32, 8), bool), "less than"),
    ],
)
def test_odd_arrays_are_refused_by_name(
    result: np.ndarray | None, truth: np.ndarray | None, hole: np.ndarray | None, message: str
) -> None:
    good = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(MaskweaveError) as error:
        check_example(
            "photo",
            good if result is None else result,
            good if truth is None else truth,
            np.ones((32, 32), bool) if hole is None else hole,
        )
    assert message in str(error.value)
    assert str(error.value).startswith("photo: ")


def new(where: str, mode: str, size: tuple[int, int] = SHAPE[::-1]) -> Callable[[Path], None]:
    return lambda folder: Image.new(mode, size).save(folder / where)


def emptied(folder: Path) -> None:
    for file in (folder / "results").iterdir():
        file.unlink()


def alone(folder: Path) -> None:
    for file in [*folder.rglob("*.png"), *folder.rglob("*.bmp")]:
        if file.stem != "a":
            file.unlink()


def palette(folder: Path) -> None:
    Image.new("P", SHAPE[::-1]).save(folder / "results/b.png", transparency=0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "results/b.png").rename(f / "results/x.png"), "1 missing, by name: b"),
        (new("results/x.png", "RGB"), "the truth: 1 missing, by name: x"),
        (lambda f: (f / "masks/b.bmp").unlink(), "masks: 1 missing, by name: b"),
        (lambda f: (f / "truth/b.png").unlink(), "truth: 1 missing, by name: b"),
        (new("results/b.bmp", "RGB"), "several images are called b"),
        (new("results/b.png", "RGB", (32, 32)), "b: result 32x32, truth 40x32, mask 40x32"),
        (new("masks/b.bmp", "L", (32, 32)), "mask 32x32"),
        (new("masks/b.bmp", "L"), "b: the mask is empty"),
        (new("results/b.png", "RGBA"), "results/b.png has an alpha channel"),
        (new("truth/b.png", "LA"), "truth/b.png has an alpha channel"),
        (palette, "results/b.png has an alpha channel"),
        (new("results/b.png", "I;16"), "not supported"),
        (lambda f: (f / "results/b.png").write_bytes(b"broken"), "not a readable image"),
        (emptied, "holds no image"),
        (lambda f: (f / "results").rename(f / "elsewhere"), "No such file"),
        (alone, "at least 2 images, got 1"),
    ],
)
def test_what_cannot_be_measured_is_an_error_and_no_number(
    folders: Path, weights: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(folders)
    refuses(evaluate(folders, "--json"), message)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--features", 100, "features must be one of [64, 192, 768, 2048], got 100"),
        ("--resize", "bicubic", "resize is torch-fidelity or pytorch-fid, got 'bicubic'"),
        ("--lpips", "resnet", "squeeze, alex, vgg, got 'resnet'"),
        ("--device", "abacus", "no device 'abacus'"),
        ("--inception", "none.pth", "No such file"),
        ("--inception", "truth", "holds no readable Inception weights"),
        ("--truth", "none", "No such file"),
    ],
)
def test_bad_options_are_errors(
    folders: Path, weights: Path, option: str, value: object, message: str
) -> None:
    is_path = option in ("--inception", "--truth")
    refuses(evaluate(folders, option, folders / str(value) if is_path else value), message)


def test_features_that_are_no_numbers_are_an_error(
    folders: Path, weights: Path, tmp_path: Path
) -> None:
    broken = torch.load(weights, weights_only=True)
    broken["Conv2d_2b_3x3.bn.bias"].fill_(torch.nan)
    torch.save(broken, tmp_path / "nan.pth")
    result = evaluate(folders, "--inception", tmp_path / "nan.pth")
    refuses(result, "the 64 features are not finite: the Inception weights are broken")


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_weights_that_hold_code_are_refused_and_not_run(
    folders: Path, weights: Path, tmp_path: Path, kind: str
) -> None:
    file, trace = tmp_path / "bomb.pth", tmp_path / "trace"
    if kind == "pickle":
        file.write_bytes(pickle.dumps(Bomb(trace)))
    else:
        torch.save({"Conv2d_1a_3x3.conv.weight": Bomb(trace)}, file)
    refuses(evaluate(folders, "--inception", file), "holds no readable Inception weights")
    assert not trace.exists()
    with suppress(RuntimeError):  # of torch, which finds a pickle strange once it has run
        torch.load(file, weights_only=False)
    assert trace.exists()


@pytest.mark.parametrize(
    "content", [{}, {"layer": torch.zeros(1)}, [1], b"", b"garbage", b"PK\x03\x04garbage"]
)
def test_weights_that_are_none_are_refused(
    folders: Path, weights: Path, tmp_path: Path, content: object
) -> None:
    file = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    refuses(evaluate(folders, "--inception", file), "holds no readable Inception weights")


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_fill_an_image_that_is_all_hole(name: str, rng: np.random.Generator) -> None:
    [filled] = BASELINES[name]([noise(rng)], [np.ones(SHAPE, bool)])
    assert filled.shape == (*SHAPE, 3) and filled.dtype == np.uint8


def test_pasting_takes_the_hole_of_one_and_the_rest_of_the_other(rng: np.random.Generator) -> None:
    painted, image, hole = noise(rng), noise(rng), rng.random(SHAPE) < 0.5
    result = pasted(painted, image, hole)
    assert np.array_equal(result[hole], painted[hole])
    assert np.array_equal(result[~hole], image[~hole])


FIGURES_TO_BEAT = {
    "grey": (0.470, 0.1745, 12.16, 0.263),
    "OpenCV Telea": (0.169, 0.0512, 20.44, 0.635),
    "OpenCV Navier-Stokes": (0.145, 0.0478, 20.64, 0.650),
    "scikit-image biharmonic": (0.132, 0.0528, 21.34, 0.686),
}
"""FID, LPIPS, PSNR and SSIM in the hole, as the table in DESIGN.md has them."""


@pytest.mark.slow
def test_the_table_of_figures_to_beat(shared: Path, weights: Path) -> None:
    folder = shared / "data" / "cats64" / "test"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        examples = read_examples(folder / "truth", folder / "masks", invert_mask=True)
        meter = Meter(Inception(768, "pytorch-fid"))
        truth, shares = truth_features(examples, meter, ignore), hole_shares(examples)
        for name, table in FIGURES_TO_BEAT.items():
            fill = BASELINES[name]
            parts = [meter.score(fill(b.images, b.holes), b) for b in examples.batches()]
            found = summarise([joined(parts)], truth, shares, meter).figures
            digits = (0.0005, 0.00005, 0.005, 0.0005)
            for figure, expected, digit in zip(
                ("fid", "lpips", "psnr_hole", "ssim_hole"), table, digits, strict=True
            ):
                tolerance = 0.01 * expected + digit
                assert found[figure].value == pytest.approx(expected, abs=tolerance), (name, figure)
    finally:
        torch.set_num_threads(threads)
