"""The progress bar of long work and what is said beside it, on stderr."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Advance(Protocol):
    """Moves a progress bar."""

    def __call__(self, count: int = 1, text: str = "", total: int | None = None) -> None:
        """Add ``count``, show ``text`` beside the bar, and let it be of another total."""
        ...


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


@contextmanager
def progress(total: int, first: int = 0, shown: bool = True) -> Generator[Advance]:
    """Show a bar from ``first`` to ``total`` with rate and time left; yield what moves it.

    There is none where stderr is no terminal.
    """
    console = Console(stderr=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task("", total=total, completed=first)

        def advance(count: int = 1, text: str = "", total: int | None = None) -> None:
            bar.update(task, total=total, advance=count, description=text)

        yield advance


def note(text: str) -> None:
    """Tell how far long work is where there is no bar."""
    if not Console(stderr=True).is_terminal:
        print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Tell the user what does not stop the work."""
    print("warning:", text, file=sys.stderr)
