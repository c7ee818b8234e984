"""What the page says below Fill: how far a fill is, what went wrong, what there is to know."""

import html
from collections.abc import Sequence

from maskweave.errors import MaskweaveError
from maskweave.web.ticket import Ticket


def line(text: str) -> str:
    """Return a line for the status."""
    return f'<p role="status">{html.escape(text)}</p>'


def noted(notes: Sequence[str]) -> str:
    """Return notes for the status."""
    texts = (f"{note[:1].upper()}{note[1:].rstrip('.')}." for note in notes)
    return "".join(f'<p role="note">{html.escape(text)}</p>' for text in texts)


def failure(error: MaskweaveError) -> str:
    """Return an error for the status."""
    text = " ".join(str(error).split())
    first = text.partition(" ")[0]
    if first.isalpha():  # no name of a file
        text = first.capitalize() + text[len(first) :]
    return f'<p role="alert" class="error">{html.escape(text)}</p>'


def bar(ticket: Ticket) -> str:
    """Return a progress bar for the status, or how many fills come before."""
    if ticket.place:
        before = "1 fill comes" if ticket.place == 1 else f"{ticket.place} fills come"
        return line(f"Waiting: {before} before yours.")
    done = ticket.progress
    if not done.steps:
        return line("Starting ...")
    windows = f"window {min(done.windows + 1, done.planned)} of {done.planned}, "
    text = f"{windows if done.planned else ''}step {done.step} of {done.steps}"
    return (
        f'<progress max="1" value="{done.share:.3f}" aria-label="Progress"></progress>'
        f"{line(text[:1].upper() + text[1:])}"
    )
