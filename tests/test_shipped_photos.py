"""The laws hold for the shipped photo model on photos of every size; smooth ones stay smooth."""

from pathlib import Path

import numpy as np
import pytest
from skimage.data import coffee

from conftest import check_law_3, fill_arrays
from maskweave.checkpoint import SHIPPED
from maskweave.classical import ClassicalPipeline
from maskweave.evaluation.examples import by_stem, read_rgb, spread
from maskweave.evaluation.lattice import Peaks, peaks_of, strongest
from maskweave.evaluation.metrics import lpips_distances
from maskweave.holes import PHOTO_KINDS, draw_hole
from maskweave.images import Hole, Pixels
from maskweave.levels import plan_levels
from maskweave.pipeline import InpaintPipeline
from maskweave.tokenizer.losses import perceptual_loss

SIZES = [(200, 150), (60, 300), (100, 90), (129, 128)]
"""Heights and widths: of several windows, smaller than one, and a pixel more than one."""


@pytest.fixture(scope="module")
def photos() -> InpaintPipeline:
    return InpaintPipeline.from_pretrained("photos")


def drawn(kind: str, image: Pixels, seed: int = 0) -> Hole:
    return draw_hole(kind, *image.shape[:2], np.random.default_rng(seed), (2, 4))


def filled(pipeline: InpaintPipeline, images: list[Pixels], holes: list[Hole]) -> list[Pixels]:
    seeds = [[i] for i in range(len(images))]
    return [s[-1].image for s in fill_arrays(pipeline, images, holes, seeds, pipeline.defaults)]


@pytest.mark.parametrize("kind", PHOTO_KINDS)
def test_laws_1_and_2(photos: InpaintPipeline, kind: str) -> None:
    height, width = SIZES[PHOTO_KINDS.index(kind) % len(SIZES)]
    image = coffee()[100 : 100 + height, 100 : 100 + width]
    hole = drawn(kind, image)
    noise = np.random.default_rng(1).integers(0, 256, image.shape, dtype=np.uint8)
    hidden = np.where(hole[:, :, None], noise, image)
    [first], [second] = (filled(photos, [each], [hole]) for each in (image, hidden))
    assert np.array_equal(first[~hole], image[~hole])
    assert np.array_equal(first, second)
    assert not np.array_equal(first[hole], image[hole])


def test_laws_1_2_and_4_in_a_hole_of_two_levels(photos: InpaintPipeline) -> None:
    image = coffee()[40:260, 100:330]
    hole = np.zeros(image.shape[:2], dtype=bool)
    hole[40:180, 40:190] = True
    assert len(plan_levels(hole, 128)) == 2
    hidden = np.where(hole[:, :, None], 255 - image, image)
    [first], [second] = (filled(photos, [each], [hole]) for each in (image, hidden))
    assert np.array_equal(first[~hole], image[~hole])
    assert np.array_equal(first, second)
    together, _ = filled(photos, [image, image[:150]], [hole, hole[:150]])
    assert abs(first.astype(int) - together).max() <= 2


@pytest.mark.parametrize("finer", [False, True])
def test_law_3(photos: InpaintPipeline, finer: bool) -> None:
    image = coffee()[100:228, 200:328]
    check_law_3(photos, image, drawn("thick", image), finer=finer)


def test_laws_4_and_7(photos: InpaintPipeline, tmp_path: Path) -> None:
    images = [coffee()[y : y + 140, 200:350] for y in (0, 60, 120)]
    holes = [drawn(kind, images[0]) for kind in ("thick", "scratch", "thin")]
    together = filled(photos, images, holes)
    photos.save_pretrained(tmp_path)
    again = filled(InpaintPipeline.from_pretrained(tmp_path), images, holes)
    assert all(map(np.array_equal, together, again))
    [alone] = filled(photos, images[:1], holes[:1])
    assert abs(together[0].astype(int) - alone).max() <= 2


def test_scratches_take_no_tokens(photos: InpaintPipeline) -> None:
    passes: list[int] = []
    hook = photos.transformer.register_forward_pre_hook(lambda *_: passes.append(1))
    image = coffee()[:256, :256]
    hole = np.zeros(image.shape[:2], dtype=bool)
    hole[100:104] = True
    filled(photos, [image], [hole])
    assert not passes
    hole[90:140, 90:140] = True
    filled(photos, [image], [hole])
    hook.remove()
    assert passes


@pytest.mark.parametrize("kind", ["scratch", "thin", "box"])
def test_a_plain_photo_stays_plain(photos: InpaintPipeline, kind: str) -> None:
    """The mean error is under 1 of 255 levels."""
    image = np.full((200, 260, 3), (70, 120, 200), dtype=np.uint8)
    hole = drawn(kind, image, 3)
    [fill] = filled(photos, [image], [hole])
    assert abs(fill.astype(float) - image)[hole].mean() < 1


@pytest.mark.parametrize("kind", ["scratch", "thin", "thick", "box"])
def test_shades_go_on_under_holes(photos: InpaintPipeline, kind: str) -> None:
    rows, columns = np.mgrid[:200, :260]
    planes = [40 + rows // 2, 200 - columns // 3, 90 + (rows + columns) // 6]
    image = np.stack(planes, axis=2).astype(np.uint8)
    hole = drawn(kind, image, 3)
    [fill] = filled(photos, [image], [hole])
    assert abs(fill.astype(float) - image)[hole].mean() < 1


def test_the_weights_take_60_mb_at_most() -> None:
    files = [*(SHIPPED / "photos").rglob("*.safetensors")]
    assert 0 < sum(file.stat().st_size for file in files) <= 60e6
    assert max(file.stat().st_size for file in files) < 48e6


@pytest.fixture(scope="module")
def truth(shared: Path) -> list[Pixels]:
    files = by_stem(shared / "data" / "photos" / "val")
    return [read_rgb(files[stem]) for stem in spread(sorted(files), 6)]


@pytest.mark.slow
@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("kind", ["scratch", "thick"])
def test_fills_are_nearer_the_truth_than_classical_ones(
    photos: InpaintPipeline, truth: list[Pixels], kind: str
) -> None:
    holes = [drawn(kind, image, seed) for seed, image in enumerate(truth)]
    ways = {"photos": filled(photos, truth, holes)}
    for name in ("navier-stokes", "fsr"):
        method = ClassicalPipeline(name)
        seeds = [[0]] * len(truth)
        ways[name] = [
            s[-1].image for s in fill_arrays(method, truth, holes, seeds, method.settings())
        ]
    network = perceptual_loss()
    lpips = {
        name: np.mean(
            [lpips_distances([f], [t], network) for f, t in zip(fills, truth, strict=True)]
        )
        for name, fills in ways.items()
    }
    assert min(lpips, key=lpips.__getitem__) == "photos", lpips


@pytest.mark.slow
def test_fills_of_thick_holes_have_no_lattice_and_no_seam(
    photos: InpaintPipeline, truth: list[Pixels]
) -> None:
    """Peaks at a patch's period are below 1.2 of the truth's, steps at the border no larger."""
    holes = [drawn("box", image, seed) for seed, image in enumerate(truth)]
    fills = filled(photos, truth, holes)
    found = [peaks_of(*each) for each in zip(fills, truth, holes, strict=True)]
    ratios, strips = map(np.array, zip(*found, strict=True))
    assert strongest(Peaks(ratios, strips))[0] < 1.2
    steps = [
        [_step(picture, hole) for picture in each]
        for *each, hole in zip(fills, truth, holes, strict=True)
    ]
    ours, theirs = np.mean(steps, axis=0)
    assert ours <= theirs


def _step(image: Pixels, hole: Hole) -> float:
    """Return the mean difference of pixels side by side of which one is in the hole."""
    grey = image.astype(float).mean(2)
    across = [abs(np.diff(grey, axis=axis))[np.diff(hole, axis=axis)] for axis in (0, 1)]
    return float(np.concatenate(across).mean())


def test_a_photo_without_colours_stays_without(photos: InpaintPipeline) -> None:
    image = np.repeat(coffee()[:140, :140].mean(2, keepdims=True).astype(np.uint8), 3, axis=2)
    hole = drawn("blob", image)
    [fill] = filled(photos, [image], [hole])
    assert np.ptp(fill.astype(int), axis=2).max() == 0


def test_several_fills_differ_where_there_are_tokens(photos: InpaintPipeline) -> None:
    image = coffee()[:140, :140]
    hole = drawn("box", image)
    fills = photos(image, hole, num_images_per_prompt=2, output_type="np").images
    assert not np.array_equal(*fills)
