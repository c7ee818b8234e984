"""Figures of arrays: known answers, and agreement with the libraries."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_cdt
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchvision.models import get_model

from maskweave.errors import MaskweaveError
from maskweave.evaluation import metrics
from maskweave.evaluation.baselines import frequency_selective, navier_stokes, pasted
from maskweave.evaluation.benchmark import BASELINES
from maskweave.evaluation.evaluate import Meter
from maskweave.evaluation.examples import Batch
from maskweave.evaluation.inception import (
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
    boundary,
    check_example,
    pixel_figures,
    psnr,
)
from maskweave.tokenizer import losses

SHAPE = (32, 40)


def noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 256, (*(shape or SHAPE), 3), dtype=np.uint8)


def box(shape: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
    hole = np.zeros(shape, dtype=bool)
    hole[rows, columns] = True
    return hole


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


@pytest.mark.parametrize("net", ["squeezenet1_1", "alexnet", "vgg16"])
def test_every_network_of_lpips_sees_images_of_the_smallest_size(net: str) -> None:
    with torch.device("meta"):  # shapes alone: most machines lack the weights of two of them
        image = torch.zeros(1, 3, SMALLEST_SIDE, SMALLEST_SIDE)
        layers = get_model(net).features[:-1]  # LPIPS takes none after the last pooling
        assert layers(image).numel() > 0


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


@pytest.mark.parametrize("change", ["pixel", "features", "resize", "weights"])
def test_features_of_other_images_and_networks_are_others(
    change: str, meter: Meter, weights: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    images, inception, kept = [noise(rng) for _ in range(2)], meter.inception, tmp_path / "kept"
    before = [image.copy() for image in images]
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
    assert np.array_equal(first, features_of(before, meter.inception, kept))


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


@pytest.mark.parametrize("rows", [20, 32], ids=["from border to border", "all"])
@pytest.mark.parametrize("name", BASELINES)
def test_baselines_do_not_read_under_a_hole_at_the_border(
    name: str, rows: int, rng: np.random.Generator
) -> None:
    image, hole = noise(rng), box(SHAPE, slice(rows), slice(None))
    other = np.where(hole[..., None], noise(rng), image)
    filled, unread = BASELINES[name](Batch(["a", "b"], [image, other], [hole, hole]))
    assert filled.shape == (*SHAPE, 3) and filled.dtype == np.uint8
    assert np.array_equal(filled, unread)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (15, 33), (17, 16), (8, 64), (40, 50)])
def test_fsr_fills_plain_images_of_any_size_with_their_colour(shape: tuple[int, int]) -> None:
    hole = np.zeros(shape, bool)
    hole[shape[0] // 2 :, shape[1] // 2 :] = True
    for value in (30, 128, 200):
        plain = np.full((*shape, 3), value, np.uint8)
        [filled] = frequency_selective(Batch(["a"], [plain], [hole]))
        assert abs(filled.astype(int) - (128 if hole.all() else value)).max() <= 1


def test_fsr_sees_the_pattern_around_a_hole() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::4] = stripes[:, 1::4] = 200
    hole = box((64, 64), slice(24, 40), slice(24, 40))
    [filled], [smooth] = (
        fill(Batch(["a"], [stripes], [hole])) for fill in (frequency_selective, navier_stokes)
    )
    assert psnr(filled[hole], stripes[hole]) > psnr(smooth[hole], stripes[hole]) + 6
    assert np.array_equal(filled[~hole], stripes[~hole])


def test_a_broken_download_of_lpips_is_an_error_and_nothing_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def download(net_type: str) -> None:
        print("Downloading", net_type)
        raise RuntimeError("invalid hash value")

    monkeypatch.setattr(losses, "LearnedPerceptualImagePatchSimilarity", download)
    with pytest.raises(MaskweaveError, match=r"LPIPS needs .*invalid hash value"):
        losses.perceptual_loss("squeeze")
    assert capsys.readouterr().out == ""


def test_a_broken_download_of_inception_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(url: str, file: str, digits: str) -> None:
        raise RuntimeError("invalid hash value")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(MaskweaveError, match=r"FID needs .*invalid hash value"):
        Inception(64, "torch-fidelity")


def test_pasting_takes_the_hole_of_one_and_the_rest_of_the_other(rng: np.random.Generator) -> None:
    painted, image, hole = noise(rng), noise(rng), rng.random(SHAPE) < 0.5
    result = pasted(painted, image, hole)
    assert np.array_equal(result[hole], painted[hole])
    assert np.array_equal(result[~hole], image[~hole])


def test_lpips_looks_at_fewer_large_images_together(rng: np.random.Generator) -> None:
    looked_at: list[tuple[int, int]] = []

    class Distance(torch.nn.Linear):
        def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            looked_at.append((len(one), one[:, 0].numel()))
            return (one - other).abs().mean((1, 2, 3))

    sizes = [(64, 64)] * 5 + [(1024, 700)] * 3 + [(64, 64)]
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    distances = metrics.lpips_distances(
        images, images[:4] + images[3:4] + images[5:], Distance(1, 1)
    )
    assert [number for number, _ in looked_at] == [5, 1, 1, 1, 1]
    assert max(pixels for _, pixels in looked_at) <= metrics.PIXELS
    assert (distances > 0).tolist() == [False] * 4 + [True] + [False] * 4
