"""Narrow holes: a decoder of their own, without tokens, in training and in fills."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conftest import fill_arrays, tiny_pipeline
from maskweave.batches import paint_requests
from maskweave.data.augment import native_crop
from maskweave.errors import MaskweaveError
from maskweave.guide import interpolated
from maskweave.holes import draw_hole, is_narrow
from maskweave.maskgit import DecodeSettings
from maskweave.pipeline import InpaintPipeline
from maskweave.tokenizer.vqgan import VQGAN, TokenizerConfig
from maskweave.training.examples import ExamplesConfig
from maskweave.training.loop import RunConfig
from maskweave.training.narrow_task import NarrowRecipe
from maskweave.training.optimiser import OptimiserConfig
from maskweave.training.overrides import override
from maskweave.training.painting import PaintingLoss
from maskweave.training.train import train_narrow
from maskweave.walk import Request

QUICK = DecodeSettings(steps=2, token_temperature=0.5)
WIDTH = 3

RECIPE = NarrowRecipe(
    width=WIDTH,
    examples=ExamplesConfig(holes=("scratch",), whole=0.0, crop=0.5, native=0.5),
    loss=PaintingLoss(perceptual=0.0, adversarial_start=0.5),
    optimiser=OptimiserConfig(learning_rate=1e-2, warmup=2),
    run=RunConfig(steps=6, batch_size=4, precision="no", log_every=2, save_every=3),
)


def tiny_narrow() -> InpaintPipeline:
    return tiny_pipeline(guided=True, narrow=WIDTH)


def line(width: int, side: int = 16) -> torch.Tensor:
    hole = torch.zeros(side, side, dtype=torch.bool)
    hole[:, 5 : 5 + width] = True
    return hole


@given(seed=st.integers(0, 10**6), width=st.integers(1, 12))
def test_a_hole_is_narrow_if_no_larger_square_fits_into_it(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    kind = ("scratch", "box", "blob", "text")[seed % 4]
    hole = draw_hole(kind, 24, int(rng.integers(16, 40)), rng)
    square = np.ones((width + 1, width + 1), np.uint8)
    anchored = cv2.erode(
        hole.astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=0
    )
    assert is_narrow(torch.from_numpy(hole)[None], width).item() == (not anchored.any())


def test_every_hole_is_narrow_beside_a_width_beyond_the_image() -> None:
    assert is_narrow(torch.ones(2, 8, 16, dtype=torch.bool), 8).tolist() == [True, True]
    assert is_narrow(torch.ones(2, 8, 16, dtype=torch.bool), 7).tolist() == [False, False]


def test_only_wider_holes_are_shown_to_the_transformer() -> None:
    pipeline = tiny_narrow()
    known = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    holes = [line(WIDTH), line(WIDTH + 1), line(1), line(8)]
    requests = [
        Request(known.masked_fill(h, 0.0), h, known if i == 2 else None, i)
        for i, h in enumerate(holes)
    ]
    seen: list[int] = []
    pipeline.transformer.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    parts = (pipeline.tokenizer, pipeline.transformer, QUICK, None, True, None)
    with torch.no_grad():
        together = paint_requests(*parts, requests)
        assert set(seen) == {3}  # of the narrow ones that with the fill of a coarser level
        assert [len(states) for states in together] == [1, 2, 2, 2]
        assert not together[0][0].masked.any()
        for request, states in zip(requests, together, strict=True):
            [alone] = paint_requests(*parts, [request])
            torch.testing.assert_close(alone[-1].image, states[-1].image)
        parts = known[None], holes[0][None]
        painted = pipeline.tokenizer.paint_narrow(*parts, interpolated(*parts))[0]
    torch.testing.assert_close(together[0][0].image, painted)


def test_laws_1_and_2_and_4_hold_for_narrow_holes(tmp_path: Path) -> None:
    pipeline = tiny_narrow()
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    hole = draw_hole("scratch", 40, 56, np.random.default_rng(1), (2, 3))
    hidden = np.where(hole[:, :, None], 255 - image, image)
    pipeline.framing = "texture"
    pipeline.save_pretrained(tmp_path)
    loaded = InpaintPipeline.from_pretrained(tmp_path)
    assert loaded.tokenizer.narrow == WIDTH
    fills = [
        fill_arrays(model, [pixels], [hole], [[seed]], QUICK, batch_size=batch)[0][-1].image
        for model, pixels, seed, batch in (
            (pipeline, image, 0, 16),
            (pipeline, hidden, 0, 16),
            (pipeline, image, 7, 16),  # nothing is sampled
            (loaded, image, 0, 16),
        )
    ]
    assert all(np.array_equal(fill, fills[0]) for fill in fills)
    assert np.array_equal(fills[0][~hole], image[~hole])
    assert not np.array_equal(fills[0][hole], image[hole])


def test_a_model_without_such_a_decoder_says_so() -> None:
    tokenizer = tiny_pipeline(guided=True).tokenizer
    assert tokenizer.narrow == 0
    parts = torch.zeros(1, 3, 16, 16), line(1)[None]
    guide = interpolated(*parts)
    with pytest.raises(MaskweaveError, match="no decoder for narrow holes"):
        tokenizer.paint_narrow(*parts, guide)
    with pytest.raises(MaskweaveError, match="for models with a guide"):
        TokenizerConfig(narrow=3)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(12):
        coarse = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((24 + i, 40 - i), Image.Resampling.BICUBIC).save(
            folder / f"{i}.png"
        )
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guided")
    tiny_pipeline(guided=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(photos: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "narrow"
    train_narrow(RECIPE, photos, model, output, cache=output.parent / "cache")
    return output


def weights(folder: Path) -> dict[str, torch.Tensor]:
    pipeline = InpaintPipeline.from_pretrained(folder)
    return {
        f"{part}.{name}": value
        for part in ("tokenizer", "transformer")
        for name, value in getattr(pipeline, part).state_dict().items()
    }


def test_training_adds_the_decoder_and_leaves_the_rest_of_the_model(run: Path, model: Path) -> None:
    before, after = weights(model), weights(run)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    added = after.keys() - before.keys()
    assert added and all(name.startswith("tokenizer.narrow_decoder.") for name in added)
    assert after["tokenizer.narrow_decoder.output.weight"].any()
    pipelines = (InpaintPipeline.from_pretrained(folder) for folder in (model, run))
    first, second = (
        (p.defaults, p.framing, replace(p.tokenizer.config, narrow=0)) for p in pipelines
    )
    assert first == second
    assert "maskweave train narrow" in (run / "README.md").read_text()


def test_law_5_a_resumed_run_ends_in_the_same_weights(
    run: Path, photos: Path, model: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "checkpoints" / "step_00000006")
    shutil.rmtree(tmp_path / "half" / "tokenizer")
    train_narrow(RECIPE, photos, model, tmp_path / "half", cache=tmp_path / "cache")
    whole, half = weights(run), weights(tmp_path / "half")
    assert [name for name in whole if not torch.equal(whole[name], half[name])] == []


def test_a_model_that_has_one_goes_on_from_it(run: Path, photos: Path, tmp_path: Path) -> None:
    recipe = override(RECIPE, ["optimiser.learning_rate=1e-12", "width=4"])
    train_narrow(recipe, photos, run, tmp_path / "on", cache=tmp_path / "cache")
    before, after = weights(run), weights(tmp_path / "on")
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value)
    assert InpaintPipeline.from_pretrained(tmp_path / "on").tokenizer.narrow == 4


def test_models_without_a_guide_are_refused(photos: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(MaskweaveError, match="for models with a guide"):
        train_narrow(RECIPE, photos, tiny_model, tmp_path / "run", cache=tmp_path / "cache")


def crops(height: int, width: int, size: int) -> Iterator[np.ndarray]:
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    photo, rng = np.stack([rows, columns, rows]), np.random.default_rng(0)
    for _ in range(200):
        yield native_crop(photo, size, rng)


def test_native_crops_keep_the_pixels_of_the_photo() -> None:
    places, mirrored = set(), 0
    for crop in crops(20, 30, 16):
        top, left, right = int(crop[0, 0, 0]), int(crop[1, 0, 0]), int(crop[1, 0, -1])
        assert np.array_equal(crop[0, :, 0], np.arange(top, top + 16))
        assert abs(right - left) == 15
        places.add((top, min(left, right)))
        mirrored += right < left
    assert {top for top, _ in places} == set(range(5))
    assert {left for _, left in places} == set(range(15))
    assert 70 < mirrored < 130


def test_a_native_crop_of_a_smaller_photo_is_its_largest_square() -> None:
    for crop in crops(12, 30, 16):
        assert crop.shape == (3, 16, 16)
        assert crop[0].max() == 11 and crop[0].min() == 0


def test_the_decoder_reads_no_codes() -> None:
    config = tiny_narrow().tokenizer.config
    names = [name for name in VQGAN(config).state_dict() if name.startswith("narrow_decoder.")]
    assert names and not any("embed" in name for name in names)
