"""Classical methods read nothing under the hole, change nothing outside it, and stay near it."""

import json
import re
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.data import astronaut
from skimage.restoration import inpaint_biharmonic
from typer.testing import CliRunner

import maskweave
from maskweave.call import Photo
from maskweave.classical import (
    METHODS,
    SIDE,
    ClassicalPipeline,
    biharmonic,
    fsr,
    navier_stokes,
    telea,
)
from maskweave.cli.main import app
from maskweave.errors import MaskweaveError
from maskweave.evaluation.metrics import psnr
from maskweave.holes import draw_hole
from maskweave.images import GREY, Hole, Pixels, as_picture, covered
from maskweave.models import DOMAIN

methods = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(scope="module")
def photo() -> Pixels:
    return astronaut()


def box(height: int, width: int, rows: slice, columns: slice) -> Hole:
    hole = np.zeros((height, width), bool)
    hole[rows, columns] = True
    return hole


def spoilt(photo: Pixels, hole: Hole) -> Pixels:
    noise = np.random.default_rng(7).integers(0, 256, photo.shape, dtype=np.uint8)
    return np.where(hole[..., None], noise, photo)


@methods
@pytest.mark.parametrize("kind", ["scratch", "thick"])
def test_laws_1_and_2_hold_over_windows_and_levels(name: str, kind: str, photo: Pixels) -> None:
    hole = draw_hole(kind, *photo.shape[:2], np.random.default_rng(3))
    before = photo.copy(), hole.copy()
    filled = METHODS[name](photo, hole)
    assert np.array_equal(filled[~hole], photo[~hole])
    assert np.array_equal(filled, METHODS[name](spoilt(photo, hole), hole))
    assert np.array_equal(photo, before[0]) and np.array_equal(hole, before[1])


@methods
@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_hole_of_a_small_photo_is_filled(
    name: str, height: int, width: int, share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    photo = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    hole = rng.random((height, width)) < share
    filled = METHODS[name](photo, hole)
    assert filled.dtype == np.uint8
    assert np.array_equal(filled[~hole], photo[~hole])
    assert np.array_equal(filled, METHODS[name](spoilt(photo, hole), hole))


@pytest.mark.parametrize("name", ["telea", "navier-stokes"])
def test_a_photo_that_is_one_pixel_high_gets_the_same_fill_each_time(name: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        photo = rng.integers(0, 256, (1, 5, 3), dtype=np.uint8)
        hole = rng.random((1, 5)) < 0.5
        assert len({METHODS[name](photo, hole).tobytes() for _ in range(4)}) == 1


@methods
@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (600, 300)])
def test_a_photo_that_is_all_hole_becomes_grey(name: str, shape: tuple[int, int]) -> None:
    photo = np.full((*shape, 3), 9, np.uint8)
    assert (METHODS[name](photo, np.ones(shape, bool)) == GREY).all()
    assert (METHODS[name](photo, np.zeros(shape, bool)) == 9).all()


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"telea"}))  # which drifts by some levels
@pytest.mark.parametrize("shape", [(1, 700), (3, 600), (600, 2), (1000, 400)])
def test_a_plain_photo_of_any_shape_stays_plain(name: str, shape: tuple[int, int]) -> None:
    plain = np.full((*shape, 3), (30, 128, 200), np.uint8)
    hole = np.zeros(shape, bool)
    rows, columns = (slice(side // 4, side - side // 4) for side in shape)
    hole[rows, columns] = True
    assert abs(METHODS[name](plain, hole).astype(int) - plain).max() <= 1


@pytest.mark.parametrize("kind", ["thin", "box", "half"])
def test_against_the_libraries_on_photos_of_one_window(kind: str, photo: Pixels) -> None:
    small = photo[100 : 100 + SIDE, 100 : 100 + SIDE]
    hole = draw_hole(kind, SIDE, SIDE, np.random.default_rng(1))
    shown, where = covered(small, hole), hole.astype(np.uint8)
    smooth = (inpaint_biharmonic(shown, hole, channel_axis=-1) * 255).round().clip(0, 255)
    assert np.array_equal(biharmonic(small, hole), smooth.astype(np.uint8))
    assert np.array_equal(telea(small, hole), cv2.inpaint(shown, where, 3, cv2.INPAINT_TELEA))
    assert np.array_equal(navier_stokes(small, hole), cv2.inpaint(shown, where, 3, cv2.INPAINT_NS))
    if kind == "box":
        textured = np.zeros_like(small)
        cv2.xphoto.inpaint(
            np.ascontiguousarray(shown[..., ::-1]), 1 - where, textured, cv2.xphoto.INPAINT_FSR_FAST
        )
        assert np.array_equal(fsr(small, hole)[hole], textured[..., ::-1][hole])


@pytest.mark.parametrize("name", ["telea", "navier-stokes"])
def test_a_small_hole_in_a_large_photo_is_filled_as_in_one_window(name: str, photo: Pixels) -> None:
    hole = box(512, 512, slice(240, 300), slice(200, 290))
    part = np.s_[140:390, 120:370]
    assert np.array_equal(METHODS[name](photo, hole)[part], METHODS[name](photo[part], hole[part]))


@pytest.mark.parametrize("name", ["telea", "navier-stokes", "biharmonic"])
@pytest.mark.parametrize("kind", ["scratch", "thin", "thick"])
def test_windows_and_levels_are_as_near_the_truth_as_the_whole_photo_in_one_go(
    name: str, kind: str, photo: Pixels
) -> None:
    hole = draw_hole(kind, *photo.shape[:2], np.random.default_rng(3))
    shown, where = covered(photo, hole), hole.astype(np.uint8)
    if name == "biharmonic":
        whole = (inpaint_biharmonic(shown, hole, channel_axis=-1) * 255).round().astype(np.uint8)
    else:
        whole = cv2.inpaint(
            shown, where, 3, cv2.INPAINT_TELEA if name == "telea" else cv2.INPAINT_NS
        )
    filled = METHODS[name](photo, hole)
    assert psnr(filled[hole], photo[hole]) > psnr(whole[hole], photo[hole]) - 0.2


def test_levels_meet_without_a_seam() -> None:
    rows, columns = np.mgrid[:700, :900] / 900
    smooth = np.stack([rows, columns, (rows + columns) / 2], -1) * 255
    photo = smooth.round().astype(np.uint8)
    hole = box(700, 900, slice(150, 550), slice(200, 700))
    error = np.where(hole[..., None], biharmonic(photo, hole) - smooth, 0)
    assert max(abs(np.diff(error, axis=axis)).max() for axis in (0, 1)) < 2


@methods
def test_memory_beside_the_photo_is_that_of_windows(name: str) -> None:
    photo = np.full((3000, 4000, 3), 90, np.uint8)
    hole = np.zeros((3000, 4000), np.uint8)
    cv2.line(hole, (1500, 1200), (1700, 1400), 1, 5)
    tracemalloc.start()
    try:
        METHODS[name](photo, hole > 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * photo.nbytes


@methods
def test_a_grey_photo_gets_a_grey_fill(name: str, photo: Pixels) -> None:
    grey = np.repeat(photo[:128, :128, :1], 3, axis=2)
    filled = METHODS[name](grey, box(128, 128, slice(50, 60), slice(None)))
    assert np.ptp(filled, axis=2).max() == 0


@methods
def test_the_call_gives_the_same_as_the_function(name: str, photo: Pixels) -> None:
    small, hole = photo[:60, :90], box(60, 90, slice(20, 30), slice(5, 80))
    pipeline = maskweave.load_pipeline(name)
    assert isinstance(pipeline, ClassicalPipeline)
    expected = METHODS[name](small, hole)
    images = pipeline([small, Image.fromarray(small)], [hole, hole]).images
    assert [np.array_equal(image, expected) for image in images] == [True, True]
    steps = pipeline(small, hole, output_steps=True).steps
    assert steps is not None and np.array_equal(steps[0][-1].image, expected)
    deep = (small[..., 0] * np.uint16(257)).astype(np.uint16)
    [filled] = pipeline(Image.fromarray(deep), hole).images
    assert np.array_equal(np.array(filled)[~hole], deep[~hole])


@methods
def test_windows_are_told_as_they_are_filled(name: str, photo: Pixels) -> None:
    thin, thick = box(512, 512, slice(20, 24), slice(500)), box(512, 512, slice(200, 310), slice(9))
    thick[200:310, 200:310] = True  # deep enough for a coarser level
    told: list[tuple[int, int]] = []
    pipeline = ClassicalPipeline(name)
    photos = [Photo(as_picture(photo), hole, [0]) for hole in (thin | thick, thin)]
    places = [
        (place, sum(count for count, _ in told))
        for place, _ in pipeline.fill(
            photos, pipeline.settings(), on_progress=lambda *each: told.append(each)
        )
    ]
    first = next(total for count, total in told if count)  # before the second photo is begun
    assert places == [(0, first), (1, told[-1][1])]
    assert 5 < first < told[-1][1]
    assert max(count for count, _ in told) == 1


def test_the_command_tells_of_many_windows(tmp_path: Path) -> None:
    hole = np.zeros((3000, 3000), np.uint8)
    hole[20::40, 20::40] = 255
    Image.new("RGB", (3000, 3000), (200, 30, 90)).save(tmp_path / "photo.bmp")
    Image.fromarray(hole).save(tmp_path / "mask.png")
    files = [str(tmp_path / name) for name in ("photo.bmp", "mask.png", "out.bmp")]
    command = ["inpaint", files[0], "--mask", files[1], "--model", "telea", "--output", files[2]]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert re.match(r"\d{3} windows to fill, about \d+ s\n1 of 1 in", result.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_inference_steps": 8}, "telea decodes nothing: it has no steps"),
        ({"paint": "sampled", "order": "halton"}, "telea decodes nothing: it has no paint, order"),
        ({"num_images_per_prompt": 2}, "telea draws nothing: there is one fill, not several"),
    ],
)
def test_what_a_method_has_no_use_for_is_refused(
    arguments: dict[str, object], message: str
) -> None:
    photo, hole = np.zeros((8, 8, 3), np.uint8), box(8, 8, slice(4), slice(4))
    with pytest.raises(MaskweaveError) as error:
        maskweave.load_pipeline("telea")(photo, hole, **arguments)
    assert str(error.value) == message


def test_methods_are_no_models() -> None:
    with pytest.raises(MaskweaveError, match=r"telea is no model: maskweave.load_pipeline"):
        maskweave.InpaintPipeline.from_pretrained("telea")
    with pytest.raises(MaskweaveError, match="telea has no weights: it takes no torch_dtype"):
        maskweave.load_pipeline("telea", torch_dtype=torch.float32)
    assert isinstance(maskweave.load_pipeline("cats64"), maskweave.InpaintPipeline)


@methods
def test_the_command_fills_as_the_function_does(name: str, photo: Pixels, tmp_path: Path) -> None:
    small, hole = photo[200:260, 200:290], box(60, 90, slice(20, 30), slice(5, 80))
    Image.fromarray(small).save(tmp_path / "photo.png")
    Image.fromarray(hole).save(tmp_path / "mask.png")
    command = ["inpaint", "photo.png", "--mask", "mask.png", "--model", name, "--output", "out.png"]
    files = [str(tmp_path / word) if word.endswith(".png") else word for word in command]
    result = CliRunner().invoke(app, files)
    assert result.exit_code == 0, result.output
    assert np.array_equal(Image.open(tmp_path / "out.png"), METHODS[name](small, hole))
    for option in (["--steps", "8"], ["--device", "cuda"], ["--num-samples", "2"]):
        refused = CliRunner().invoke(app, [*files, "--overwrite", *option])
        assert refused.exit_code == 2
        [line] = refused.stderr.splitlines()
        assert line.startswith(f"error: {name} ")


def test_the_list_of_models_has_the_methods_and_all_domains() -> None:
    rows = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    domains = {row["name"]: row["domain"] for row in rows}
    assert domains["cats64"].startswith("faces of cats")
    assert {name: domains[name] for name in METHODS} == dict.fromkeys(METHODS, DOMAIN)
    listed = CliRunner().invoke(app, ["models"]).stdout
    assert all(f"{name} " in listed and domain in listed for name, domain in domains.items())
