"""Rounds of windows and crops: what each starts from, what shares a batch, and their memory."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from conftest import box, fill_arrays, picture, textured
from maskweave.call import Photo
from maskweave.images import as_picture
from maskweave.levels import plan_levels, shrink_photo
from maskweave.maskgit import DecodeSettings, Step
from maskweave.walk import Crops, Filling, Painting, Piece, Request, Windows, drive

QUICK = DecodeSettings(steps=2)
MANY = 10**9
"""Pixels that are never reached."""


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
