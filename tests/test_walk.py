"""Photos of any size, filled in windows over levels: the laws, guides, and what shares a batch."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import fill_arrays, tiny_guided, tiny_pipeline
from maskweave.batches import paint_requests
from maskweave.call import Photo
from maskweave.errors import MaskweaveError
from maskweave.guide import interpolated
from maskweave.holes import PHOTO_KINDS, draw_hole
from maskweave.images import as_picture
from maskweave.levels import plan_levels, shrink_photo
from maskweave.maskgit import DecodeSettings, Step
from maskweave.pipeline import InpaintPipeline
from maskweave.seeds import seeded
from maskweave.walk import Crops, Filling, Painting, Piece, Request, Windows, drive

SIZES = [(9, 12), (61, 33), (128, 128), (300, 451), (40, 900)]
QUICK = DecodeSettings(steps=2)
MANY = 10**9
"""Pixels that are never reached."""


def textured(model: InpaintPipeline | None = None) -> InpaintPipeline:
    model = model or tiny_guided()
    return InpaintPipeline(model.tokenizer, model.transformer, framing="texture")


def guide_painter() -> InpaintPipeline:
    """Return a model that paints its guide: the decoder adds nothing to it."""
    pipeline = textured()
    torch.nn.init.zeros_(pipeline.tokenizer.decoder.output.weight)
    torch.nn.init.zeros_(pipeline.tokenizer.decoder.output.bias)
    return pipeline


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def box(height: int, width: int, rows: slice, columns: slice) -> np.ndarray:
    hole = np.zeros((height, width), dtype=bool)
    hole[rows, columns] = True
    return hole


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


def test_a_finer_level_starts_from_the_fill_of_the_coarser_one() -> None:
    """Whoever paints grey at the coarsest level and else its guide paints grey all over."""
    image, hole = picture(120, 130), box(120, 130, slice(20, 100), slice(20, 100))
    guided: list[bool] = []

    def paint(requests: list[Request]) -> list[list[Painting]]:
        guided.extend(request.guide is not None for request in requests)
        grey = torch.zeros(3, 16, 16)
        nothing = torch.zeros(4, 4, dtype=torch.bool)
        return [[Painting(grey if r.guide is None else r.guide, nothing)] for r in requests]

    filling, plan = Filling(0, image, hole, 0, True, 1), Windows(hole, 16)
    batches = drive([(filling, plan.walk(filling))], paint, 5, MANY)
    assert sum(count for count, _ in batches) == len(plan) == len(guided)
    assert guided == sorted(guided)
    assert 0 < sum(guided) < len(guided)
    inside = filling.canvases[0].pixels[45:75, 45:75].astype(int)
    assert abs(inside - 128).max() <= 1


def test_limited_to_native_pixels_every_window_has_something_to_go_on_with() -> None:
    image, hole = picture(230, 230), box(230, 230, slice(20, 210), slice(20, 210))
    guides: list[object] = []

    def paint(requests: list[Request]) -> list[list[Painting]]:
        guides.extend(request.guide for request in requests)
        assert not any(request.hole.all() for request in requests)
        nothing = torch.zeros(4, 4, dtype=torch.bool)
        return [[Painting(torch.zeros(3, 16, 16), nothing)] for _ in requests]

    for context in (0.1, 0.25, 0.4):
        filling = Filling(0, image, hole, 0, True, 1)
        plan = Windows(hole, 16, context=context, levels=0)
        batches = drive([(filling, plan.walk(filling))], paint, 50, MANY)
        assert sum(count for count, _ in batches) == len(plan)
        filled = filling.canvases[0].pixels
        assert (filled[hole] == 128).all() and np.array_equal(filled[~hole], image[~hole])
    assert set(guides) == {None}


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


def test_steps_show_what_is_still_masked_and_end_with_the_result() -> None:
    pipeline, image = textured(), picture(70, 60)
    hole = box(70, 60, slice(10, 50), slice(0, 45))
    [steps] = fill_arrays(
        pipeline, [image], [hole], [[0]], DecodeSettings(steps=3), every_step=True
    )
    [[plain]] = fill_arrays(pipeline, [image], [hole], [[0]], DecodeSettings(steps=3))
    shares = [step.masked.mean() for step in steps]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0 == shares[-1]
    assert np.array_equal(steps[-1].image, plain.image)
    for step in steps:
        assert not (step.masked & ~hole).any()
        assert np.array_equal(step.image[~hole], image[~hole])


def test_no_batch_is_larger_than_asked_for_and_fills_share_them() -> None:
    pipeline, image = textured(), picture(70, 60)
    hole = box(70, 60, slice(10, 50), slice(0, 45))
    counts: list[int] = []

    def note(step: Step) -> None:
        if step.number == 0:
            counts.append(len(step.tokens))

    pieces = len(Windows(hole, 16))
    fill_arrays(pipeline, [image] * 16, [hole] * 16, [[i] for i in range(16)], QUICK, on_step=note)
    assert sum(counts) == 16 * pieces
    assert max(counts) == 16
    assert len(counts) <= 1.5 * pieces


def test_windows_that_start_from_a_coarser_fill_have_half_of_the_context() -> None:
    hole = box(70, 60, slice(10, 50), slice(0, 45))
    [native, *coarser] = plan_levels(hole, 16)
    assert coarser and not native.thin.any()
    refined = len(Windows(hole, 16, levels=0, context=0.125))
    _, shrunk = shrink_photo(picture(70, 60), hole)
    assert len(Windows(hole, 16)) == len(Windows(shrunk, 16)) + refined
    assert refined < len(Windows(hole, 16, levels=0))


class Note:
    """A piece that writes down when it is asked for and when it is pasted."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def request(self) -> Request:
        self.log.append(f"cut {self.name}")
        return Request(torch.zeros(3, 1, 1), torch.ones(1, 1, dtype=torch.bool), None, 0)

    def paste(self, paintings: object) -> None:
        self.log.append(f"paste {self.name}")


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_a_round_begins_when_the_one_before_is_pasted(batch_size: int) -> None:
    log: list[str] = []
    rounds = [[3, 1, 2], [], [4], [1, 1, 1, 1]]

    def walk(photo: int) -> Iterator[list[Piece]]:
        for number, count in enumerate(rounds[photo]):
            before = [entry for entry in log if entry.startswith(f"paste {photo}.{number - 1}.")]
            assert len(before) == (rounds[photo][number - 1] if number else 0)
            yield [Note(f"{photo}.{number}.{i}", log) for i in range(count)]

    nothing = np.zeros((1, 1), dtype=bool)
    walks = [(Filling(i, nothing, nothing, 0, True, 1), walk(i)) for i in range(4)]
    driven = list(drive(walks, lambda requests: [[] for _ in requests], batch_size, MANY))
    batches = [count for count, _ in driven]
    assert sorted(filling.photo for _, finished in driven for filling in finished) == [0, 1, 2, 3]
    assert sum(batches) == sum(map(sum, rounds))
    assert max(batches) <= batch_size
    assert len(log) == 2 * len(set(log)) / 2 == 2 * sum(batches)


@pytest.mark.parametrize("photos_at_once", [1, 2, 5])
def test_photos_are_asked_for_when_there_is_room_and_given_back_when_finished(
    photos_at_once: int,
) -> None:
    pipeline = textured()
    hole = box(300, 300, slice(10, 20), slice(0, 45))
    asked: list[int] = []
    given: list[int] = []

    def photos() -> Iterator[Photo]:
        for place in range(7):
            asked.append(place)
            assert len(asked) - len(given) <= photos_at_once
            yield Photo(as_picture(picture(300, 300, place)), hole, [place])

    # Each takes a little more than a megabyte; the next is begun while less is held than allowed.
    for place, [steps] in pipeline.fill(photos(), QUICK, batch_size=100, memory=photos_at_once):
        given.append(place)
        assert np.array_equal(steps[-1].image.pixels[~hole], picture(300, 300, place)[~hole])
    assert sorted(given) == [*range(7)]


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


def test_crops_are_one_round_with_places_of_their_own_in_the_seed() -> None:
    image, hole = picture(64, 200), np.zeros((64, 200), dtype=bool)
    hole[20:40, 20:40] = hole[20:40, 160:180] = True
    [pieces] = Crops(hole, (16, 16)).walk(Filling(0, image, hole, 0, True, 1))
    requests = [piece.request() for piece in pieces]
    assert len({request.seed for request in requests}) == len(pieces) == 2
    assert all(request.guide is None for request in requests)


def test_memory_is_bounded_by_the_photo_and_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    height, width = 1500, 2000
    hole = np.zeros((height, width), dtype=bool)
    hole[300:900, 400:1000] = True
    hole[1200:1206] = True
    photo = np.full((height, width, 3), 120, dtype=np.uint8)
    filling = Filling(0, photo, hole, 0, True, 1)
    blank = torch.zeros(3, 64, 64)
    masked = torch.zeros(8, 8, dtype=torch.bool)
    most = 0

    def paint(requests: list[Request]) -> list[list[Painting]]:
        nonlocal most
        most = max(most, len(requests))
        return [[Painting(blank, masked)] for _ in requests]

    tracemalloc.start()
    try:
        for _ in drive([(filling, Windows(hole, 64).walk(filling))], paint, 4, MANY):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most == 4
    assert peak < 6 * photo.nbytes
