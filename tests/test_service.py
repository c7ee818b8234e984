"""One model, one fill at a time, a line of bounded length, and cancelling within a step."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskweave.call import Filled, Photo, Pipeline, StepPicture
from maskweave.domain import UNLIKE, Probe
from maskweave.errors import MaskweaveError
from maskweave.images import Hole, Picture, as_picture
from maskweave.maskgit import DecodeSettings, Step
from maskweave.masks import grown
from maskweave.pipeline import InpaintPipeline, load_pipeline
from maskweave.web.service import (
    BusyError,
    Service,
    SizeError,
    Wanted,
    seeds_of,
)
from maskweave.web.ticket import CancelError

SOON = 20.0
"""Seconds after which a test gives up."""


class Stepwise(Pipeline):
    """Takes a step of decoding each time it is allowed to."""

    def __init__(self) -> None:
        self.allowed = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.taken = 0

    def settings(self, **overrides: Any) -> DecodeSettings:
        return DecodeSettings(**{k: v for k, v in overrides.items() if v is not None})

    def fill(
        self,
        photos: Iterable[Photo],
        settings: DecodeSettings,
        *,
        on_step: Callable[[Step], None] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        **_: Any,
    ) -> Iterator[Filled]:
        assert on_step and on_progress
        for place, photo in enumerate(photos):
            self.begun.release()
            for number in range(settings.steps):
                assert self.allowed.acquire(timeout=SOON)
                nothing = torch.zeros(2, 4)
                on_step(Step(number, nothing.long(), nothing.bool(), nothing))
                self.taken += 1
            on_progress(2, 4)
            yield place, [[StepPicture(photo.picture, photo.hole)] for _ in photo.seeds]


@pytest.fixture
def hole() -> Hole:
    hole = np.zeros((20, 30), dtype=bool)
    hole[5:12, 8:20] = True
    return hole


@pytest.fixture
def picture(rng: np.random.Generator) -> Picture:
    return as_picture(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))


@pytest.fixture
def wanted(picture: Picture, hole: Hole) -> Wanted:
    return Wanted(picture, hole, seeds_of(7, 1), settings={"steps": 3})


@pytest.fixture
def stepwise() -> Stepwise:
    return Stepwise()


@pytest.fixture
def slow(stepwise: Stepwise) -> Iterator[Service]:
    service = Service("slow", load=lambda _: stepwise, queue=2)
    yield service
    stepwise.allowed.release(1000)
    service.close()


@pytest.fixture
def service(tiny_model: Path) -> Iterator[Service]:
    service = Service(str(tiny_model), max_pixels=1000)
    yield service
    service.close()


def test_a_seed_gives_the_bytes_of_the_python_call(
    service: Service, tiny_model: Path, picture: Picture, hole: Hole
) -> None:
    wanted = Wanted(picture, hole, seeds_of(7, 2), settings={"order": "random"}, every_step=True)
    result = service.submit(lambda: wanted).result(SOON)
    called = InpaintPipeline.from_pretrained(tiny_model)(
        picture,
        hole,
        generator=torch.Generator().manual_seed(7),
        num_images_per_prompt=2,
        order="random",
        output_steps=True,
    )
    assert called.steps is not None
    for fill, steps in zip(result.fills, called.steps, strict=True):
        assert len(fill) == len(steps)
        for mine, its in zip(fill, steps, strict=True):
            np.testing.assert_array_equal(mine.image.values, np.array(its.image))
            np.testing.assert_array_equal(mine.masked, its.masked)
    assert result.settings.order == "random"


def test_what_the_model_says_of_a_photo_is_told(
    tiny_model: Path, picture: Picture, hole: Hole
) -> None:
    def load(name: str) -> Pipeline:
        pipeline = InpaintPipeline.from_pretrained(name)
        width = 2 * pipeline.transformer.config.dim
        pipeline.probe = Probe(torch.zeros(width), torch.tensor(1.0))
        return pipeline

    service = Service(str(tiny_model), load=load)
    [note] = service.submit(lambda: Wanted(picture, hole, [1, 2])).result(SOON).notes
    assert note.startswith(UNLIKE)
    service.close()


def test_fills_wait_in_a_line_whose_end_is_told(
    slow: Service, stepwise: Stepwise, wanted: Wanted
) -> None:
    tickets = [slow.submit(lambda: wanted) for _ in range(3)]
    assert [ticket.place for ticket in tickets] == [0, 1, 2]
    assert slow.waiting == 2

    def never() -> Wanted:
        raise AssertionError("a photo was read for which there is no place")

    with pytest.raises(BusyError, match="2 fills are waiting already: try again in 1 s"):
        slow.submit(never)
    stepwise.allowed.release(3)
    tickets[0].result(SOON)
    assert [ticket.place for ticket in tickets] == [0, 0, 1]
    tickets.append(slow.submit(lambda: wanted))
    assert tickets[-1].place == 2
    stepwise.allowed.release(9)
    for ticket in tickets:
        ticket.result(SOON)
    assert slow.waiting == 0 and slow.running is None


def test_a_fill_that_runs_is_cancelled_within_a_step(
    slow: Service, stepwise: Stepwise, wanted: Wanted
) -> None:
    ticket = slow.submit(lambda: wanted)
    stepwise.begun.acquire(timeout=SOON)
    ticket.cancel()
    stepwise.allowed.release(1)
    with pytest.raises(CancelError, match="the fill was cancelled"):
        ticket.result(SOON)
    assert stepwise.taken == 0
    stepwise.allowed.release(3)
    slow.submit(lambda: wanted).result(SOON)


def test_a_fill_that_waits_is_cancelled_at_once(
    slow: Service, stepwise: Stepwise, wanted: Wanted
) -> None:
    first, second, third = (slow.submit(lambda: wanted) for _ in range(3))
    second.cancel()
    with pytest.raises(CancelError):
        second.result(SOON)
    assert (third.place, slow.waiting) == (1, 1)
    stepwise.allowed.release(6)
    first.result(SOON)
    third.result(SOON)
    assert stepwise.taken == 6


def test_progress_counts_windows_and_steps(
    slow: Service, stepwise: Stepwise, wanted: Wanted
) -> None:
    ticket = slow.submit(lambda: wanted)
    stepwise.begun.acquire(timeout=SOON)
    assert ticket.progress == (0, 0, 0, 0, 3)
    assert ticket.progress.share == 0
    stepwise.allowed.release(3)
    ticket.result(SOON)
    assert ticket.progress == (2, 4, 0, 0, 3)
    assert ticket.progress.share == 0.5


def test_closing_cancels_all(slow: Service, stepwise: Stepwise, wanted: Wanted) -> None:
    tickets = [slow.submit(lambda: wanted) for _ in range(3)]
    stepwise.begun.acquire(timeout=SOON)
    threading.Timer(0.1, stepwise.allowed.release).start()
    slow.close()
    for ticket in tickets:
        with pytest.raises(CancelError):
            ticket.result(0)


def test_one_model_is_in_memory_and_others_are_known_by_their_names(
    tiny_model: Path, picture: Picture, hole: Hole
) -> None:
    loaded: list[weakref.ref[Pipeline]] = []

    def load(name: str) -> Pipeline:
        gc.collect()
        assert all(each() is None for each in loaded), "two models at once"
        pipeline = load_pipeline(name)
        loaded.append(weakref.ref(pipeline))
        return pipeline

    service = Service(str(tiny_model), load=load)
    assert service.models[0] == service.model == tiny_model.name
    assert "cats64" in service.models and "telea" in service.models
    assert service.decodes() and service.decodes("cats64") and not service.decodes("telea")
    names = [None, "telea", tiny_model.name, tiny_model.name]
    for name in names:
        wanted = Wanted(picture, hole, seeds_of(0, 1), model=name)
        assert service.submit(lambda: wanted).result(SOON).model == (name or tiny_model.name)  # noqa: B023
    assert len(loaded) == 3
    service.close()


@pytest.mark.parametrize("name", ["/etc", "../model", "owner/model", ""])
def test_no_other_model_is_loaded(
    service: Service, picture: Picture, hole: Hole, name: str
) -> None:
    wanted = Wanted(picture, hole, seeds_of(0, 1), model=name or "unknown")
    with pytest.raises(MaskweaveError, match="unknown model"):
        service.submit(lambda: wanted)


def test_a_model_that_fails_to_load_does_not_end_the_service(
    tiny_model: Path, picture: Picture, hole: Hole
) -> None:
    def load(name: str) -> Pipeline:
        if name == "fsr":
            raise MaskweaveError("broken")
        return load_pipeline(name)

    service = Service(str(tiny_model), load=load)
    with pytest.raises(MaskweaveError, match="broken"):
        service.submit(lambda: Wanted(picture, hole, [1], model="fsr")).result(SOON)
    service.submit(lambda: Wanted(picture, hole, [1])).result(SOON)
    service.close()


def test_what_does_not_fit_is_refused_and_takes_no_place(
    service: Service, picture: Picture, hole: Hole
) -> None:
    large = as_picture(np.zeros((40, 30, 3), dtype=np.uint8))
    with pytest.raises(SizeError, match="30x40 pixels, more than the 1000 allowed"):
        service.submit(lambda: Wanted(large, np.ones((40, 30), dtype=bool), [1]))
    with pytest.raises(MaskweaveError, match="1 to 8 fills at once, not 9"):
        service.submit(lambda: Wanted(picture, hole, seeds_of(0, 9)))
    with pytest.raises(MaskweaveError, match="soften is from 0 to 256 pixels"):
        service.submit(lambda: Wanted(picture, hole, [1], soften=257))
    with pytest.raises(MaskweaveError, match="unknown decode settings"):
        service.submit(lambda: Wanted(picture, hole, [1], settings={"speed": 1})).result(SOON)
    assert service.running is None
    service.submit(lambda: Wanted(picture, hole, [1])).result(SOON)


def test_a_soft_fill_fades_into_the_photo_around_the_hole(
    service: Service, picture: Picture, hole: Hole
) -> None:
    wider = grown(hole, 4)
    hard = service.submit(lambda: Wanted(picture, wider, [1])).result(SOON).fills[0][-1].image
    soft = service.submit(lambda: Wanted(picture, hole, [1], soften=4)).result(SOON)
    values = soft.fills[0][-1].image.values.astype(int)
    np.testing.assert_array_equal(values[~wider], picture.values[~wider])
    np.testing.assert_array_equal(values[hole], hard.values[hole])
    low, high = np.minimum(picture.values, hard.values), np.maximum(picture.values, hard.values)
    assert (values >= low).all() and (values <= high).all()
    near, far = grown(hole, 1) & ~hole, wider & ~grown(hole, 3)
    share = np.abs(values - picture.values) / np.maximum(np.abs(high.astype(int) - low), 1)
    assert share[near].mean() > 0.7 and share[far].mean() < 0.3
