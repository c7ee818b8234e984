"""Photos of any size, filled in windows over levels: the laws, guides, steps and settings."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import box, fill_arrays, picture, textured, tiny_guided, tiny_pipeline
from maskweave.batches import paint_requests
from maskweave.errors import MaskweaveError
from maskweave.guide import interpolated
from maskweave.holes import PHOTO_KINDS, draw_hole
from maskweave.maskgit import DecodeSettings
from maskweave.pipeline import InpaintPipeline
from maskweave.seeds import seeded
from maskweave.walk import Request

SIZES = [(9, 12), (61, 33), (128, 128), (300, 451), (40, 900)]
QUICK = DecodeSettings(steps=2)


def guide_painter() -> InpaintPipeline:
    """Return a model that paints its guide: the decoder adds nothing to it."""
    pipeline = textured()
    torch.nn.init.zeros_(pipeline.tokenizer.decoder.output.weight)
    torch.nn.init.zeros_(pipeline.tokenizer.decoder.output.bias)
    return pipeline


def fill(
    pipeline: InpaintPipeline, image: np.ndarray, hole: np.ndarray, seed: int = 0, **options: object
) -> np.ndarray:
    [[*_, last]] = fill_arrays(pipeline, [image], [hole], [[seed]], QUICK, **options)
    return last.image


@pytest.mark.parametrize("kind", PHOTO_KINDS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_laws_1_and_2_known_pixels_stay_and_every_hidden_one_is_filled(
    kind: str, height: int, width: int
) -> None:
    pipeline, image = textured(), picture(height, width)
    hole = draw_hole(kind, height, width, np.random.default_rng(1))
    hidden = np.where(hole[:, :, None], 255 - image, image)  # differs in every hole pixel
    first, second = (fill(pipeline, i, hole, batch_size=64) for i in (image, hidden))
    assert np.array_equal(first[~hole], image[~hole])
    assert np.array_equal(first, second)


def test_law_4_batches_and_order_change_nothing() -> None:
    pipeline = textured()
    images = [picture(*size, seed=i) for i, size in enumerate([(40, 60), (9, 12), (64, 64)])]
    holes = [draw_hole("box", *image.shape[:2], np.random.default_rng(2)) for image in images]
    seeds = [[1, 2], [3, 4], [5, 6]]

    def filled(order: list[int], batch_size: int) -> dict[int, np.ndarray]:
        chosen = ([values[i] for i in order] for values in (images, holes, seeds))
        states = fill_arrays(pipeline, *chosen, QUICK, batch_size=batch_size)
        fills = [last.image.astype(int) for [*_, last] in states]
        return dict(zip((seed for i in order for seed in seeds[i]), fills, strict=True))

    together = filled([0, 1, 2], 16)
    ways = [filled([2, 1, 0], 3), filled([0, 1, 2], 1), *(filled([i], 16) for i in range(3))]
    for way in ways:
        for seed, one in way.items():
            assert abs(one - together[seed]).max() <= 1
    assert not np.array_equal(together[1], together[2])


def test_law_7_a_model_saved_and_loaded_keeps_its_framing(tmp_path: Path) -> None:
    pipeline, image = textured(), picture(50, 70)
    hole = draw_hole("blob", 50, 70, np.random.default_rng(0))
    pipeline.save_pretrained(tmp_path)
    again = InpaintPipeline.from_pretrained(tmp_path)
    assert again.framing == "texture"
    assert np.array_equal(fill(pipeline, image, hole), fill(again, image, hole))


def test_the_framing_is_whole_object_unless_the_model_says_otherwise(tmp_path: Path) -> None:
    model = tiny_guided()
    assert model.framing == "whole object"
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    del config["framing"]
    file.write_text(json.dumps(config))
    assert InpaintPipeline.from_pretrained(tmp_path).framing == "whole object"
    for unknown in ("wallpaper", ["texture"]):
        file.write_text(json.dumps(config | {"framing": unknown}))
        with pytest.raises(MaskweaveError, match="framing is 'whole object' or 'texture', got"):
            InpaintPipeline.from_pretrained(tmp_path)
    with pytest.raises(MaskweaveError, match="needs a guided tokenizer"):
        textured(tiny_pipeline())


def test_an_empty_mask_copies_and_a_full_one_generates() -> None:
    pipeline, image = textured(), picture(40, 70)
    assert np.array_equal(fill(pipeline, image, np.zeros((40, 70), dtype=bool)), image)
    full = np.ones((40, 70), dtype=bool)
    one, other = (fill(pipeline, i, full, seed) for i, seed in ((image, 0), (255 - image, 0)))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, fill(pipeline, image, full, seed=1))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (5, 3), (16, 16)])
def test_photos_smaller_than_a_window(size: tuple[int, int]) -> None:
    pipeline, image = guide_painter(), np.full((*size, 3), 200, dtype=np.uint8)
    hole = np.zeros(size, dtype=bool)
    hole[:, size[1] // 2 :] = True
    filled = fill(pipeline, np.where(hole[:, :, None], 3, image).astype(np.uint8), hole)
    if hole.all():
        assert np.ptp(filled) == 0
    else:
        assert abs(filled.astype(int) - 200).max() <= 1


def holes_of_every_thickness(height: int, width: int) -> Iterator[np.ndarray]:
    yield box(height, width, slice(30, 32), slice(0, width))
    yield box(height, width, slice(20, 60), slice(15, 70))
    yield box(height, width, slice(0, 50), slice(0, 40))
    yield box(height, width, slice(20, 60), slice(15, 70)) | box(
        height, width, slice(30, 33), slice(0, width)
    )


def test_around_its_guide_a_uniform_photo_stays_uniform() -> None:
    pipeline = guide_painter()
    for hole in holes_of_every_thickness(81, 95):
        image = np.full((81, 95, 3), (40, 130, 220), dtype=np.uint8)
        filled = fill(pipeline, np.where(hole[:, :, None], 0, image).astype(np.uint8), hole)
        assert abs(filled.astype(int) - image).max() <= 1


def test_around_its_guide_a_ramp_stays_nearly_a_ramp() -> None:
    pipeline = guide_painter()
    rows, columns = np.mgrid[:81, :95]
    image = np.stack([30 + 2 * rows, 30 + 2 * columns, rows + columns], axis=2).astype(np.uint8)
    thin = box(81, 95, slice(30, 32), slice(0, 95))
    thick = box(81, 95, slice(20, 60), slice(25, 70))
    for hole, far in ((thin, 3), (thick, 16)):
        error = abs(fill(pipeline, image, hole).astype(int) - image)[hole]
        assert error.mean() <= far / 3
        assert error.max() <= far


def test_context_and_levels_change_the_fill_and_no_known_pixel() -> None:
    pipeline, image = textured(), picture(70, 60)
    hole = box(70, 60, slice(10, 50), slice(0, 45))
    ways = ({}, {"context": 0.1}, {"levels": 0}, {"levels": 1})
    fills = [
        np.array(pipeline(image, hole, generator=seeded(0, ""), **way).images[0]) for way in ways
    ]
    assert len({each.tobytes() for each in fills}) == len(ways)
    assert all(np.array_equal(each[~hole], image[~hole]) for each in fills)
    same = pipeline(image, hole, generator=seeded(0, ""), context=0.25, levels=9).images[0]
    assert np.array_equal(np.array(same), fills[0])


@pytest.mark.parametrize(
    ("framing", "given", "message"),
    [
        ("texture", {"context": 0.46}, "context should be less than or equal to 0.45, got 0.46"),
        ("texture", {"context": -0.1}, "context should be greater than or equal to 0, got -0.1"),
        ("texture", {"levels": -1}, "levels should be greater than or equal to 0, got -1"),
        ("whole object", {"levels": 0}, "takes no levels: it fills crops around whole objects"),
    ],
)
def test_contexts_and_levels_that_there_are_not(
    framing: str, given: dict[str, float], message: str
) -> None:
    pipeline = textured() if framing == "texture" else tiny_pipeline()
    with pytest.raises(MaskweaveError, match=message):
        pipeline.settings(**given)


def test_a_batch_of_windows_with_and_without_a_coarser_level_is_painted_as_each_alone() -> None:
    pipeline = guide_painter()
    rng = torch.Generator().manual_seed(0)
    hole = torch.zeros(16, 16, dtype=torch.bool)
    hole[4:12, 4:12] = True
    known = (torch.rand(3, 16, 16, generator=rng) - 0.5).masked_fill(hole, 0.0)
    guide = torch.rand(3, 16, 16, generator=rng) - 0.5
    requests = [Request(known, hole, None, 1), Request(known, hole, guide, 2)]
    plain, guided = (
        states[-1].image
        for states in paint_requests(
            pipeline.tokenizer, pipeline.transformer, QUICK, None, False, None, requests
        )
    )
    assert torch.equal(guided, torch.where(hole, guide, known))
    assert torch.equal(plain, interpolated(known[None], hole[None]).pixels[0])


def test_painted_surroundings_are_shown_on_request_and_do_not_change_the_fill() -> None:
    pipeline, image = textured(), picture(70, 60)
    for hole in holes_of_every_thickness(70, 60):
        kept, painted = (fill(pipeline, image, hole, keep_known=keep) for keep in (True, False))
        assert np.array_equal(kept[hole], painted[hole])
        assert np.array_equal(painted[~hole], image[~hole]) == np.array_equal(kept, painted)
        assert np.array_equal(kept[~hole], image[~hole])


@pytest.mark.parametrize("levels", [0, None])
def test_steps_show_what_is_still_masked_and_end_with_the_result(levels: int | None) -> None:
    pipeline, image = textured(), picture(70, 60)
    hole = box(70, 60, slice(10, 50), slice(0, 45))
    settings = DecodeSettings(steps=3, levels=levels)
    [steps] = fill_arrays(pipeline, [image], [hole], [[0]], settings, every_step=True)
    [[plain]] = fill_arrays(pipeline, [image], [hole], [[0]], settings)
    shares = [step.masked.mean() for step in steps]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 0
    assert (shares[0] > 0) == (levels == 0)  # one step decodes what starts from a coarser level
    assert np.array_equal(steps[-1].image, plain.image)
    for step in steps:
        assert not (step.masked & ~hole).any()
        assert np.array_equal(step.image[~hole], image[~hole])


@pytest.mark.parametrize("framing", ["texture", "whole object"])
def test_where_all_known_pixels_are_grey_the_fill_is_grey(framing: str) -> None:
    pipeline = textured() if framing == "texture" else tiny_pipeline()
    grey = np.repeat(picture(70, 60)[:, :, :1], 3, 2)
    hole = box(70, 60, slice(10, 50), slice(0, 45))
    coloured = np.where(hole[:, :, None], picture(70, 60), grey)  # under the hole nothing counts
    tinted = grey.copy()
    tinted[69, 59] = 1, 2, 3
    for image, expected in ((grey, True), (coloured, True), (tinted, False)):
        filled = fill(pipeline, image, hole)[hole]
        assert (filled == filled[:, :1]).all() == expected
