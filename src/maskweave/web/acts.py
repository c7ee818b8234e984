"""What the page's controls do: from their values to a session and back."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from secrets import randbelow
from typing import Any

import gradio as gr
import numpy as np

from maskweave.errors import MaskweaveError
from maskweave.images import Hole
from maskweave.masks import grown, remarks
from maskweave.web import views
from maskweave.web.parts import Parts, brush
from maskweave.web.service import Service
from maskweave.web.session import Request, Result, Session
from maskweave.web.status import bar, failure, line, noted
from maskweave.web.ticket import CancelError, Ticket

POLL = 0.2
"""Seconds between two looks at how far a fill is."""

FRAME = 0.6
"""Seconds for which a step is shown when they are played."""


Updates = dict[Any, Any]


def told(act: Callable[..., Updates]) -> Callable[..., Updates]:
    """Let an act show what goes wrong in the page's status."""

    @wraps(act)
    def showing(self: "Acts", *values: Any) -> Updates:
        try:
            return act(self, *values)
        except MaskweaveError as error:
            return {self.parts.status: failure(error)}

    return showing


class Acts:
    """The visitors of a page and what they do."""

    def __init__(self, service: Service, version: str, parts: Parts, folder: Path) -> None:
        """Keep what acts work on.

        Parameters
        ----------
        service : Service
            What fills.
        version : str
            That of the package, which downloads tell.
        parts : Parts
            The page's controls.
        folder : Path
            Where Gradio keeps files of this page.
        """
        self.service, self.version, self.parts, self.folder = service, version, parts, folder
        self.sessions: dict[str, Session] = {}
        """Those whose page is open, by Gradio's name."""

    def session(self, request: gr.Request) -> Session:
        """Return the visitor's session.

        Raises
        ------
        MaskweaveError
            If there is none, as the server was started anew.
        """
        found = self.sessions.get(request.session_hash or "")
        if found is None:
            raise MaskweaveError("This page is of an earlier start: reload it.")
        return found

    def begin(self, request: gr.Request) -> Updates:
        """Show the sample photo with its mask."""
        self.folder.mkdir(exist_ok=True)
        session, hole = Session.sample(self.folder)
        self.sessions[request.session_hash or ""] = session
        return self._photo(session, hole)

    def end(self, request: gr.Request) -> None:
        """Forget a visitor whose page was closed, and their files."""
        session = self.sessions.pop(request.session_hash or "", None)
        if session is not None:
            if session.ticket is not None:
                session.ticket.cancel()
            shutil.rmtree(session.folder, ignore_errors=True)
        if not self.sessions:  # Gradio's own files do not say whose they are
            shutil.rmtree(self.folder, ignore_errors=True)

    @told
    def open_photo(self, request: gr.Request, file: str) -> Updates:
        """Show another photo, without the fills of the one before."""
        session = self.session(request)
        hole = session.open(taken(file), Path(file).name, self.service)
        hidden = {
            self.parts.empty: gr.HTML(visible=True),
            self.parts.results: gr.Column(visible=False),
        }
        return self._photo(session, hole) | hidden

    @told
    def open_mask(self, request: gr.Request, file: str) -> Updates:
        """Show the mask of a file on the photo."""
        session = self.session(request)
        hole, notes = session.opened_mask(taken(file), self.service)
        return self._editor(session, hole) | {self.parts.status: noted(notes)}

    def save_mask(self, request: gr.Request, marked: bytes | None) -> Updates:
        """Write the mask to a file that the browser then fetches."""

        def written() -> Path:
            session = self.session(request)
            return session.download_mask(session.hole(marked))

        return self._file(written)

    @told
    def add_box(self, request: gr.Request, marked: bytes | None, *box: float) -> Updates:
        """Add a box to the mask."""
        session = self.session(request)
        return self._editor(session, session.hole(marked) | session.box(*box))

    @told
    def cut_box(self, request: gr.Request, marked: bytes | None, *box: float) -> Updates:
        """Take a box from the mask."""
        session = self.session(request)
        return self._editor(session, session.hole(marked) & ~session.box(*box))

    @told
    def widen(self, request: gr.Request, marked: bytes | None, pixels: float) -> Updates:
        """Widen the mask."""
        session = self.session(request)
        return self._editor(session, grown(session.hole(marked), int(pixels)))

    @told
    def clear(self, request: gr.Request) -> Updates:
        """Take all of the mask away; the photo stays."""
        session = self.session(request)
        return self._editor(session, np.zeros(session.picture.shape, dtype=bool))

    @told
    def choose_model(self, model: str) -> Updates:
        """Show a model's own settings; those that it has no use for cannot be changed."""
        defaults, decodes = self.service.defaults(model), self.service.decodes(model)
        shown = {
            part: gr.update(value=getattr(defaults, name), interactive=decodes)
            for name, part in self.parts.decoding().items()
        }
        shown[self.parts.levels]["interactive"] = self.service.has_levels(model)
        return shown

    def dice(self) -> int:
        """Return another seed."""
        return randbelow(2**31)

    def cancel(self, request: gr.Request) -> None:
        """Stop the visitor's fill."""
        session = self.sessions.get(request.session_hash or "")
        if session is not None and session.ticket is not None:
            session.ticket.cancel()

    def fill(
        self,
        request: gr.Request,
        marked: bytes | None,
        number: float,
        model: str,
        seed: float | None,
        soften: float,
        *decoding: Any,
    ) -> Iterator[Updates]:
        """Fill the mask and tell how far it is; whoever closes the page cancels it."""
        status, started = self.parts.status, time.perf_counter()
        ticket: Ticket | None = None
        try:
            session = self.session(request)
            wanted = self._request(number, model, seed, soften, decoding)
            hole, source, name = session.hole(marked), session.picture, session.name
            ticket, seeds = session.submit(hole, wanted, self.service)
            yield {status: bar(ticket)} | self._busy(True)
            while not ticket.future.done():
                wait([ticket.future], POLL)
                yield {status: bar(ticket)}
            filled = ticket.result()
            if session.ticket is not ticket:  # there is another photo by now
                raise CancelError
        except MaskweaveError as error:
            yield {status: failure(error)} | self._busy(False)
            return
        except Exception:  # which Gradio tells of
            yield {status: ""} | self._busy(False)
            raise
        finally:
            if ticket is not None and not ticket.future.done():
                ticket.cancel()
        session.result = Result(source, hole, wanted, seeds, filled, name)
        session.chosen = 0
        seconds = time.perf_counter() - started
        fills = "1 fill" if len(seeds) == 1 else f"{len(seeds)} fills"
        text = line(f"{fills} in {seconds:.1f} s.") + noted((*remarks(hole), *filled.notes))
        yield self._results(session) | {status: text} | self._busy(False)

    @told
    def choose(self, request: gr.Request, event: gr.SelectData) -> Updates:
        """Look at another of the fills."""
        session = self.session(request)
        session.chosen = min(int(event.index), len(session.latest().filled.fills) - 1)
        return self._chosen(session)

    @told
    def show_step(self, request: gr.Request, number: float) -> Updates:
        """Show the photo after a step of decoding."""
        return self._step(self.session(request), int(number))

    def play(self, request: gr.Request) -> Iterator[Updates]:
        """Show one step after the other."""
        try:
            session = self.session(request)
            steps = len(session.latest().filled.fills[session.chosen])
            for number in range(1, steps + 1):
                yield self._step(session, number) | {self.parts.step: number}
                time.sleep(FRAME)
        except MaskweaveError as error:
            yield {self.parts.status: failure(error)}

    def save(self, request: gr.Request) -> Updates:
        """Write the fill to a file that the browser then fetches."""

        def written() -> Path:
            session = self.session(request)
            file, result = session.download(self.version), session.latest()
            if self.service.record is not None:
                self.service.record(result.wanted, result.filled, session.chosen)
            return file

        return self._file(written)

    @told
    def go_on(self, request: gr.Request) -> Updates:
        """Take the fill as the photo to paint on."""
        session = self.session(request)
        hole = session.go_on()
        text = "This fill is now the photo: brush over what else should go."
        return self._photo(session, hole) | {self.parts.status: line(text)}

    def _file(self, write: Callable[[], Path]) -> Updates:
        """Hand on a file; none if it cannot be written, so that no earlier one is fetched again."""
        try:
            return {self.parts.file: write(), self.parts.status: ""}
        except MaskweaveError as error:
            return {self.parts.file: None, self.parts.status: failure(error)}

    def _busy(self, busy: bool) -> Updates:
        """Offer to cancel while a fill waits or runs, to fill while none does."""
        parts = self.parts
        return {
            parts.fill: gr.Button(visible=not busy),
            parts.cancel: gr.Button(visible=busy),
            parts.again: gr.Button(interactive=not busy),
        }

    def _request(
        self, number: float, model: str, seed: float | None, soften: float, decoding: Sequence[Any]
    ) -> Request:
        settings = dict(zip(self.parts.decoding(), decoding, strict=True))
        if not self.service.decodes(model):
            settings = {}
        one = not settings or settings["paint"] == "expected"  # there is one answer
        drawn = self.dice() if seed is None else int(seed)
        return Request(1 if one else int(number), model, settings, drawn, int(soften))

    def _photo(self, session: Session, hole: Hole) -> Updates:
        """Show another photo, by a brush that suits its size."""
        height, width = session.picture.shape
        seen = min(max(height, width), views.LARGEST)
        size = min(max(seen // 25, 1), 100)
        by = {
            "label": f"{width} x {height}: {session.name}",  # a small screen shows its beginning
            "brush": asdict(brush(size)),
            "eraser": asdict(gr.Eraser(size)),
        }
        shown = self._editor(session, hole) | {self.parts.shown_by: by}
        return shown | {self.parts.shape: f"<style>:root {{ --aspect: {width / height} }}</style>"}

    def _editor(self, session: Session, hole: Hole) -> Updates:
        files = [str(file) for file in session.shown(hole)]
        return {self.parts.shown: files, self.parts.shown_by: None, self.parts.status: ""}

    def _results(self, session: Session) -> Updates:
        parts, result = self.parts, session.latest()
        last = [result.picture(i) for i in range(len(result.seeds))]
        titled = [(views.close(each, result.hole), str(i)) for i, each in enumerate(last, 1)]
        several = len(last) > 1
        spread = views.uncertainty(last, result.hole) if several else None
        why = "The brighter, the more the fills differ there: dark is sure, yellow is not."
        why = why if several else "It takes several fills: ask for two or more, paint 'sampled'."
        return self._chosen(session) | {
            parts.empty: gr.HTML(visible=False),
            parts.results: gr.Column(visible=True),
            parts.gallery: gr.Gallery(value=titled, selected_index=0, visible=several),
            parts.spread: gr.Image(value=spread, visible=several),
            parts.spread_note: why,
        }

    def _chosen(self, session: Session) -> Updates:
        result = session.latest()
        fill = result.picture(session.chosen)
        pair = views.shown(result.source, 2048), views.shown(fill, 2048)
        steps = len(result.filled.fills[session.chosen])
        step = gr.Slider(maximum=max(steps, 2), value=steps, interactive=steps > 1)
        # One half of the hole is seen before, the other after.
        middle = 100 * float(np.flatnonzero(result.hole.any(0)).mean()) / result.hole.shape[1]
        slider = gr.ImageSlider(value=pair, slider_position=middle)
        return {self.parts.slider: slider, self.parts.step: step} | self._step(session, steps)

    def _step(self, session: Session, number: int) -> Updates:
        result = session.latest()
        states = result.filled.fills[session.chosen]
        state = states[min(max(number, 1), len(states)) - 1]
        settled, predicted = views.step_pictures(state, result.hole)
        text = "Left: what is marked is predicted again. Right: all tokens as predicted by now."
        text = text if len(states) > 1 else "There is one step, or the photo is too large for all."
        parts = self.parts
        return {parts.settled: settled, parts.predicted: predicted, parts.step_note: text}


def taken(file: str) -> bytes:
    """Return what a visitor sent, of which no copy is left.

    Raises
    ------
    MaskweaveError
        If it is gone: another visitor sent the same, which lies in the same place.
    """
    try:
        content = Path(file).read_bytes()
    except FileNotFoundError as error:
        raise MaskweaveError("The file did not arrive: open it again.") from error
    Path(file).unlink(missing_ok=True)
    return content
