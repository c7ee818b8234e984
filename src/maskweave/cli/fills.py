"""How ``maskweave inpaint`` does its jobs and tells what has become of them."""

import json
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import FrameType
from typing import TYPE_CHECKING

import typer

from maskweave.cli.jobs import Job, leave_finished
from maskweave.cli.options import one_line
from maskweave.errors import MaskweaveError
from maskweave.files import DiskError, TakenError

if TYPE_CHECKING:
    from maskweave.call import Photo, Pipeline, StepPicture
    from maskweave.maskgit import DecodeSettings
    from maskweave.progress import Advance

MANY_WINDOWS = 200
"""Crops or windows above which even who sees no bar is told how many there are."""

FIRST_WINDOWS = 16
"""Crops or windows whose time tells that of the others."""

FEW = 3
"""Images that get a note each; more with the same note are counted."""


class Stopped(KeyboardInterrupt):
    """The user, or who speaks for them, wants the work to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@dataclass(frozen=True)
class Asked:
    """How images are to be read, filled and written."""

    seed: int
    """With the name of an image what its fills depend on."""
    invert: bool
    """Whether black is the hole."""
    threshold: int
    """What counts as white, of 255."""
    grow: int
    """Pixels by which holes are widened."""
    quality: int | None
    """Quality of JPEG files; None takes the tables of a JPEG image."""
    batch_size: int
    """Crops or windows filled at once."""
    memory: int | None
    """Megabytes for photos that are being filled; None takes the default."""
    replace: bool
    """Whether files that are there are replaced."""
    leave: bool
    """Whether they are left alone, also if they have appeared since."""


@contextmanager
def _stoppable() -> Generator[None]:
    """Let SIGINT (Ctrl-C) and SIGTERM raise Stopped, unless they are ignored, as by nohup."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Stopped(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def reported(jobs: Sequence[Job], json_: bool, goes_on: bool) -> Generator[None]:
    """Print what has become of jobs, however their work ends.

    Parameters
    ----------
    jobs : sequence of Job
        They may be planned within the context.
    json_ : bool
        Whether the report is JSON.
    goes_on : bool
        Whether --skip-existing would go on from where the work is stopped.

    Raises
    ------
    DiskError
        If no more files can be written; it says how many jobs are done.
    typer.Exit
        With 1 if a job failed, 128 and the number of the signal if one stopped the work.
    """
    started = time.perf_counter()
    try:
        with _stoppable():
            yield
    except Stopped as stop:
        line = f"stopped: {_how_far(jobs)}"
        if goes_on and len(jobs) > 1:
            line += "; the same command with --skip-existing goes on from there"
        _print_files(jobs, json_, time.perf_counter() - started, line)
        print(line, file=sys.stderr)
        raise typer.Exit(128 + stop.number) from None
    except DiskError as error:
        if len(jobs) == 1:
            raise
        line = f"{error}; {_how_far(jobs)}"
        _print_files(jobs, json_, time.perf_counter() - started, line)
        raise DiskError(line) from error
    seconds = time.perf_counter() - started
    _print_files(jobs, json_, seconds)
    _print_remarks(jobs)
    numbers = Counter(job.state for job in jobs)
    if not json_:
        there = f", {numbers['there']} were there" if numbers["there"] else ""
        print(f"{numbers['done']} of {len(jobs)} in {seconds:.1f} s{there}", file=sys.stderr)
    if numbers["failed"]:
        raise typer.Exit(1)


def _how_far(jobs: Sequence[Job]) -> str:
    return f"{sum(job.state in ('done', 'there') for job in jobs)} of {len(jobs)} done"


def do(jobs: Sequence[Job], pipeline: "Pipeline", settings: "DecodeSettings", asked: Asked) -> None:
    """Do all jobs that are left; one that fails keeps its error if there are several.

    Raises
    ------
    DiskError
        If no more files can be written.
    MaskweaveError
        If the only job fails.
    """
    from maskweave.call import MEMORY
    from maskweave.pipeline import InpaintPipeline
    from maskweave.progress import progress

    alone = len(jobs) == 1
    since: list[float] = []
    left = [job for job in jobs if job.state == "left"]
    begun: list[Job] = []
    with progress(0 if alone else len(jobs), first=len(jobs) - len(left)) as advance:

        def photos() -> "Iterator[Photo]":
            for job in left:
                photo = None  # pixels of the last one are held as long as they are named
                started = time.perf_counter()
                if asked.leave:
                    leave_finished([job])  # another run may have come to it meanwhile
                if job.state == "left":
                    with _noted(job, alone):
                        photo = _read(job, asked)
                if photo is None:
                    advance()
                else:
                    if isinstance(pipeline, InpaintPipeline):
                        job.backend = pipeline.backend
                        job.dtype = str(pipeline.dtype).removeprefix("torch.")
                    begun.append(job)
                    since.append(started)
                    yield photo

        for place, fills in pipeline.fill(
            photos(),
            settings,
            batch_size=asked.batch_size,
            memory=asked.memory or MEMORY,
            every_step=bool(jobs[0].steps),
            on_progress=_windows(advance, alone),
            on_note=lambda place, note: begun[place].notes.append(note),
        ):
            with _noted(begun[place], alone):
                _write(begun[place], fills, asked)
                begun[place].state = "done" if begun[place].written else "there"
                begun[place].seconds = round(time.perf_counter() - since[place], 3)
            del fills
            if not alone:
                advance()


def _windows(advance: "Advance", alone: bool) -> Callable[[int, int], None]:
    """Return what shows how many windows are filled: of one image by the bar, else beside it."""
    started = time.perf_counter()
    filled = 0
    told = False

    def moved(count: int, total: int) -> None:
        nonlocal started, filled, told
        filled += count
        if not alone:
            advance(0, f"{filled} windows")
            return
        advance(count, total=total)
        if not filled:
            started = time.perf_counter()  # reading and planning are done
        if total > MANY_WINDOWS and filled >= FIRST_WINDOWS and not told:
            seconds = (time.perf_counter() - started) * (total - filled) / filled
            print(f"{total} windows to fill, about {_duration(seconds)}", file=sys.stderr)
            told = True

    return moved


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


@contextmanager
def _noted(job: Job, alone: bool) -> Generator[None]:
    """Keep the error of one of several jobs for the report at the end."""
    try:
        yield
    except MaskweaveError as error:
        if alone or isinstance(error, DiskError):
            raise
        job.fail(one_line(str(error)))


def _read(job: Job, asked: Asked) -> "Photo":
    """Read an image and its mask; note on its job what is remarkable."""
    from maskweave.reading import Reading, Source, read_photo, seeds_of

    job.seeds = job.seeds or seeds_of(asked.seed, job.image, len(job.outputs))
    how = Reading(asked.invert, asked.threshold, asked.grow)
    photo, notes = read_photo(Source(job.image, job.mask), job.seeds, job.outputs[0], how)
    job.notes += notes
    job.hole_share = float(photo.hole.mean())
    return photo


def _write(job: Job, fills: "Sequence[Sequence[StepPicture]]", asked: Asked) -> None:
    """Write what is not there; of each fill the steps come first."""
    from maskweave.writing import write_picture

    for sample, states in enumerate(fills):
        files = [*job.steps[sample], job.outputs[sample]] if job.steps else [job.outputs[sample]]
        pictures = [state.image for state in (*states, states[-1])][-len(files) :]
        for file, picture in zip(files, pictures, strict=True):
            if asked.leave and os.path.lexists(file):
                continue
            if not file.parent.is_dir():  # it has been there: what was written is gone with it
                raise DiskError(f"cannot write {file}: its folder is gone")
            try:
                notes = write_picture(
                    picture,
                    file,
                    replace=asked.replace,
                    source=job.image if job.image.is_file() else None,  # it may lie in a shard
                    quality=asked.quality,
                )
            except TakenError:
                if asked.leave:
                    continue
                raise
            job.written.append(file)
            job.notes += [note for note in notes if note not in job.notes]


def _print_files(
    jobs: Sequence[Job], json_: bool, seconds: float, stopped: str | None = None
) -> None:
    """Print what was written, or all there is to say about the jobs in JSON."""
    if json_:
        images = [asdict(job) for job in jobs]
        report = {"seconds": round(seconds, 3), "stopped": stopped, "images": images}
        typer.echo(json.dumps(report, indent=2, default=str))
        return
    for job in jobs:
        for file in job.written:
            typer.echo(file)


def _print_remarks(jobs: Sequence[Job]) -> None:
    """Print notes and errors on stderr; notes that differ only in numbers are counted."""
    alike: dict[str, list[tuple[Job, str]]] = {}
    for job in jobs:
        for note in job.notes:
            alike.setdefault(re.sub(r"\d+", "#", note), []).append((job, note))
    for notes in alike.values():
        if len(notes) > FEW:
            job, note = notes[0]
            print(f"note: {len(notes)} images, first {job.image}: {note}", file=sys.stderr)
        else:
            for job, note in notes:
                print(f"note: {job.image}: {note}", file=sys.stderr)
    for job in jobs:
        if job.error:
            named = job.error.startswith(str(job.image))
            error = job.error if named else f"{job.image}: {job.error}"
            print(f"error: {error}", file=sys.stderr)
