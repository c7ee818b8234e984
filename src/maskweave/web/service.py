"""One model in memory and one fill at a time, for whoever asks: the page and the routes.

A fill is submitted, waits in a line of bounded length and runs in the service's one thread. Whoever
submitted it holds a ticket, which tells how far it is and cancels it within a step.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, RLock
from typing import Any

import torch

from maskweave.call import Photo, Pipeline
from maskweave.checkpoint import as_config, resolve, shipped_models
from maskweave.classical import METHODS
from maskweave.errors import MaskweaveError
from maskweave.files import read_json
from maskweave.images import Hole, Picture
from maskweave.legacy import read_defaults
from maskweave.maskgit import DecodeSettings, Step
from maskweave.masks import grown
from maskweave.pipeline import load_pipeline
from maskweave.recall import made_by
from maskweave.seeds import draw_seeds
from maskweave.soften import softened
from maskweave.web.ticket import Filled, Progress, Ticket

MOST_FILLS = 8
"""Fills of a photo that may be asked for at once."""

HIGHEST_SEED = 2**63 - 1
"""Largest that a generator takes."""

MAX_PIXELS = 25_000_000
"""Pixels of a photo, unless told otherwise."""

QUEUE = 8
"""Fills that may wait for the one that runs, unless told otherwise."""

SOFTEST = 256
"""Pixels over which a fill may fade into the photo."""


class BusyError(MaskweaveError):
    """As many fills wait as may."""

    def __init__(self, waiting: int, seconds: int) -> None:
        super().__init__(f"{waiting} fills are waiting already: try again in {seconds} s")
        self.seconds = seconds


class SizeError(MaskweaveError):
    """A photo has more pixels than it may."""

    def __init__(self, size: str, allowed: int) -> None:
        super().__init__(f"the image has {size} pixels, more than the {allowed} allowed")


@dataclass(frozen=True, eq=False)
class Wanted:
    """A photo to be filled, and how."""

    picture: Picture
    """The photo, in its own depth."""
    hole: Hole
    """True where it is to be filled; of the photo's size."""
    seeds: Sequence[int]
    """The seed of each fill, as ``seeds_of`` draws them."""
    model: str | None = None
    """One of ``Service.models``; None is the one that the service was started with."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Decode settings by name; what is missing or None takes the model's default."""
    keep_known: bool = True
    """Whether every pixel outside the hole stays as it is."""
    soften: int = 0
    """Pixels around the hole over which the fill fades into the photo, which changes these."""
    every_step: bool = False
    """Whether the picture after each step is wanted, not only the last."""


class Service:
    """Fills photos by one model at a time, one after the other."""

    def __init__(
        self,
        model: str,
        *,
        load: Callable[[str], Pipeline] = load_pipeline,
        max_pixels: int = MAX_PIXELS,
        queue: int = QUEUE,
        record: Callable[[Wanted, Filled, int], None] | None = None,
    ) -> None:
        """Load the model.

        Parameters
        ----------
        model : str
            A shipped model, a model's folder, a hub id or a classical method.
        load : callable
            Loads one of these, onto a device.
        max_pixels : int
            Pixels that a photo may have.
        queue : int
            Fills that may wait for the one that runs, at least 0.
        record : callable, optional
            Told of each fill that is handed out, by its place among those that were made together.

        Raises
        ------
        MaskweaveError
            If there is no such model.
        """
        # The name of a folder is enough for those who must not choose another.
        self.model = Path(model).resolve().name if Path(model).is_dir() else model
        self.models = tuple(dict.fromkeys((self.model, *shipped_models(), *METHODS)))
        """Names of the models to choose from; the first is the default."""
        self.max_pixels = max_pixels
        self.queue, self.record = queue, record
        self._sources, self._load = {self.model: model}, load
        self._loaded: tuple[str, Pipeline] | None = self.model, load(model)
        self._line: list[Ticket] = []  # the first of them runs
        self._seconds = 1.0  # that the latest fill took
        self._line_changes = RLock()
        self.reading = Lock()
        """Held while pictures are read, of which no more than one is then half in memory."""
        self._thread = ThreadPoolExecutor(1, "fill")

    @property
    def running(self) -> Ticket | None:
        """The fill that runs, if any."""
        return next(iter(self._line), None)

    @property
    def waiting(self) -> int:
        """How many fills wait for the one that runs."""
        return max(len(self._line) - 1, 0)

    def submit(self, read: Callable[[], Wanted]) -> Ticket:
        """Put a fill into the line.

        Parameters
        ----------
        read : callable
            Returns what is wanted. It is called at once, by one caller at a time, and not at all if
            the line is full: no more photos are in memory than there are places.

        Raises
        ------
        BusyError
            If the line is full.
        MaskweaveError
            If ``read`` raises it, the model is unknown, the photo too large or the number of fills
            out of range.
        """
        with self.reading:
            if len(self._line) > self.queue:
                raise BusyError(self.waiting, math.ceil(self._seconds))
            wanted = read()
            self._check(wanted)
            ticket = Ticket(self._leave)
            with self._line_changes:
                ticket.place = len(self._line)
                self._line.append(ticket)
                ticket.future = self._thread.submit(self._run, ticket, wanted)
            return ticket

    def check_size(self, width: int, height: int) -> None:
        """Raise SizeError if a photo has more pixels than it may."""
        if width * height > self.max_pixels:
            raise SizeError(f"{width}x{height}", self.max_pixels)

    def decodes(self, model: str | None = None) -> bool:
        """Return whether a model has decode settings: classical methods have none."""
        name = model or self.model
        return self._sources.get(name, name) not in METHODS

    def defaults(self, model: str | None = None) -> DecodeSettings:
        """Return how a model decodes unless told otherwise; it is not loaded for that.

        Raises
        ------
        MaskweaveError
            If its files cannot be read.
        """
        if not self.decodes(model):
            return DecodeSettings(paint="expected")
        file = self._config(model)
        return as_config(DecodeSettings, read_defaults(file), file)

    def has_levels(self, model: str | None = None) -> bool:
        """Return whether a model fills thick holes at coarser levels first; it is not loaded."""
        return self.decodes(model) and read_json(self._config(model)).get("framing") == "texture"

    def close(self) -> None:
        """Cancel all fills and wait until they have ended."""
        for ticket in tuple(self._line):
            ticket.cancel()
        self._thread.shutdown()

    def _config(self, model: str | None) -> Path:
        name = model or self.model
        return resolve(self._sources.get(name, name)) / "config.json"

    def _check(self, wanted: Wanted) -> None:
        height, width = wanted.picture.shape
        self.check_size(width, height)
        if not 1 <= len(wanted.seeds) <= MOST_FILLS:
            raise MaskweaveError(f"1 to {MOST_FILLS} fills at once, not {len(wanted.seeds)}")
        if not 0 <= wanted.soften <= SOFTEST:
            raise MaskweaveError(f"soften is from 0 to {SOFTEST} pixels, got {wanted.soften}")
        if (wanted.model or self.model) not in self.models:
            raise MaskweaveError(
                f"unknown model {str(wanted.model)[:60]!r}: there are {', '.join(self.models)}"
            )

    def _leave(self, ticket: Ticket) -> None:
        with self._line_changes:
            self._line = [each for each in self._line if each is not ticket]
            for place, each in enumerate(self._line):
                each.place = place

    def _pipeline(self, name: str) -> Pipeline:
        """Return a model, which takes the place of the one in memory."""
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None  # before there are two
            self._loaded = name, self._load(self._sources.get(name, name))
        return self._loaded[1]

    def _run(self, ticket: Ticket, wanted: Wanted) -> Filled:
        try:
            return self._fill(ticket, wanted)
        finally:
            self._leave(ticket)  # before anybody is told that it is done

    def _fill(self, ticket: Ticket, wanted: Wanted) -> Filled:
        started = time.perf_counter()
        ticket.check()
        name = wanted.model or self.model
        pipeline = self._pipeline(name)
        settings = pipeline.settings(**wanted.settings)
        steps = settings.last_step
        ticket.progress = Progress(steps=steps)
        notes: list[str] = []

        def on_step(step: Step) -> None:
            ticket.check()
            batch, number = len(step.tokens), step.number + 1
            ticket.progress = ticket.progress._replace(batch=batch, step=number)

        def on_progress(count: int, planned: int) -> None:
            ticket.check()
            windows = ticket.progress.windows + count
            ticket.progress = Progress(windows, planned, steps=steps)

        picture, hole, soften = wanted.picture, wanted.hole, wanted.soften
        [(_, fills)] = pipeline.fill(
            [Photo(picture, grown(hole, soften), wanted.seeds)],
            settings,
            keep_known=wanted.keep_known,
            every_step=wanted.every_step,
            on_step=on_step,
            on_progress=on_progress,
            on_note=lambda _, note: notes.append(note),
        )
        if soften:
            fills = [
                [s._replace(image=softened(picture, s.image, hole, soften)) for s in steps]
                for steps in fills
            ]
        self._seconds = time.perf_counter() - started
        return Filled(fills, name, settings, tuple(notes), made_by(pipeline))


def seeds_of(seed: int, number: int) -> list[int]:
    """Return the seeds of the fills of one photo.

    Parameters
    ----------
    seed : int
        That of the Python call with ``generator=torch.Generator().manual_seed(seed)``, which gives
        the same fills.
    number : int
        How many fills there are.
    """
    return draw_seeds(torch.Generator().manual_seed(seed), 1, number)[0]
