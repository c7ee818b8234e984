"""Bodies of requests come whole and within limits, or the application never sees them."""

import asyncio
import time
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maskweave.web.errors import problem

PATIENCE = 30.0
"""Seconds that a client may be silent in the middle of a body."""

SLOWEST = 20_000
"""Bytes a second that a client sends at least, beside the seconds that it may be silent."""

RETRY = "5"
"""Seconds after which a client may come again where too much is sent at once."""


@dataclass
class _Body:
    """What came of a body."""

    # In one piece, whose memory goes back to the system, unlike that of many small ones.
    content: bytearray = field(default_factory=bytearray)
    size: int = 0


class WholeBodies:
    """Middleware that hands a body on when all of it is there."""

    def __init__(
        self, app: ASGIApp, most_bytes: int, at_once: int, patience: float = PATIENCE
    ) -> None:
        """Stand before an application.

        Parameters
        ----------
        app : ASGIApp
            What gets whole bodies.
        most_bytes : int
            Bytes that a body may have.
        at_once : int
            Bytes that all bodies may have which come or whose requests are being answered.
        patience : float
            Seconds that a client may be silent.
        """
        self.app = app
        self.most_bytes, self.at_once, self.patience = most_bytes, at_once, patience
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request: with 413, 408 or 503 if its body is too large, late or too much."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body()
        try:
            refused = await self._receive(body, scope, receive)
            if refused is not None:
                await refused(scope, receive, send)
                return
            await self.app(scope, _replayed(body.content, receive), send)
        finally:
            self._held -= body.size

    async def _receive(self, body: _Body, scope: Scope, receive: Receive) -> Response | None:
        """Receive a body and return None, or what is answered instead."""
        close = {"Connection": "close"}
        late = problem(408, "the rest of the request did not come", close)
        large = problem(413, f"the request has more than {self.most_bytes} bytes", close)
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > self.most_bytes:
            return large
        end, more = time.monotonic() + self.patience, True
        while more:
            left = end + body.size / SLOWEST - time.monotonic()
            try:
                message = await asyncio.wait_for(receive(), min(left, self.patience))
            except TimeoutError:
                return late
            if message["type"] == "http.disconnect":
                return late  # which nobody hears
            chunk, more = message.get("body", b""), message.get("more_body", False)
            body.size, self._held = body.size + len(chunk), self._held + len(chunk)
            if body.size > self.most_bytes:
                return large
            if self._held > self.at_once:
                again = close | {"Retry-After": RETRY}
                return problem(503, f"too much is sent at once: try again in {RETRY} s", again)
            body.content += chunk
        return None


def _replayed(content: bytearray, receive: Receive) -> Receive:
    """Return what gives a body first, which is then let go of, and later what comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        body = bytes(content)
        content.clear()
        return {"type": "http.request", "body": body, "more_body": False}

    return again
