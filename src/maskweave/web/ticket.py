"""A fill that was submitted: how far it is, what has become of it, and how it is cancelled."""

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import asdict
from threading import Event
from typing import NamedTuple

from maskweave.call import StepPicture
from maskweave.errors import MaskweaveError
from maskweave.maskgit import DecodeSettings
from maskweave.recall import Made, Recipe


class CancelError(MaskweaveError):
    """Whoever wanted the fill wants it no more."""

    def __init__(self) -> None:
        super().__init__("the fill was cancelled")


class Progress(NamedTuple):
    """How far a fill is."""

    windows: int = 0
    """Crops or windows that are filled."""
    planned: int = 0
    """How many there are of all fills together; 0 until the first batch is filled."""
    batch: int = 0
    """Crops or windows that are being filled."""
    step: int = 0
    """Steps of decoding that are done of these."""
    steps: int = 0
    """How many steps there are at most; 0 while nothing runs."""

    @property
    def share(self) -> float:
        """How much is done, from 0 to 1, as far as is known."""
        done = self.windows + self.batch * self.step / max(self.steps, 1)
        return done / max(self.planned, self.windows + self.batch, 1)


class Filled(NamedTuple):
    """What has become of a photo."""

    fills: list[list[StepPicture]]
    """For each seed the picture after each step, or only the last."""
    model: str
    """The model that filled it."""
    settings: DecodeSettings
    """How it was decoded, with the model's defaults."""
    notes: tuple[str, ...]
    """What a user should be told."""
    made: Made
    """What else the bytes of the fills depend on."""

    def recipe(
        self, seed: int, seeds: Sequence[int], fill: int, soften: int, version: str
    ) -> Recipe:
        """Return what repeats one of the fills.

        Parameters
        ----------
        seed : int
            That of the user.
        seeds : sequence of int
            Those of the fills, drawn from it.
        fill : int
            Which of them it is, from 0.
        soften : int
            Pixels around the hole over which it fades into the photo.
        version : str
            That of the package.
        """
        return Recipe(
            model=self.model,
            **self.made._asdict(),
            seed=seed,
            seeds=list(seeds),
            fill=fill,
            decoding=asdict(self.settings),
            soften=soften,
            version=version,
        )


class Ticket:
    """A fill that waits, runs or has ended."""

    future: Future[Filled]

    def __init__(self, leave: Callable[["Ticket"], None]) -> None:
        self.place = 0
        """How many are before it in the line: 0 if it runs or has ended."""
        self.progress = Progress()
        """How far it is."""
        self._unwanted, self._leave = Event(), leave

    def cancel(self) -> None:
        """Take it out of the line, or stop it within a step."""
        self._unwanted.set()
        if self.future.cancel():
            self._leave(self)

    def check(self) -> None:
        """Raise CancelError if it was cancelled."""
        if self._unwanted.is_set():
            raise CancelError

    def result(self, timeout: float | None = None) -> Filled:
        """Wait for the fill and return it.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most.

        Raises
        ------
        TimeoutError
            If it is not done by then; it goes on.
        CancelError
            If it was cancelled.
        MaskweaveError
            If settings are out of range or do not fit the model.
        """
        try:
            return self.future.result(timeout)
        except CancelledError:
            raise CancelError from None
