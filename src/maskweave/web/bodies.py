"""Bodies of requests come whole and within limits, or the application never sees them."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maskweave.web.errors import problem

PATIENCE = 30.0
"""Seconds that a client may be silent in the middle of a body."""


class WholeBodies:
    """Middleware that hands a body on when all of it is there."""

    def __init__(self, app: ASGIApp, most_bytes: int, patience: float = PATIENCE) -> None:
        self.app = app
        self.most_bytes = most_bytes
        self.patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request: with 413 if its body is too large, with 408 if it does not end."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        close = {"Connection": "close"}
        large = problem(413, f"the request has more than {self.most_bytes} bytes", close)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.most_bytes:
            await large(scope, receive, send)
            return
        chunks, size, more = list[bytes](), 0, True
        while more:
            try:
                message = await asyncio.wait_for(receive(), self.patience)
            except TimeoutError:
                late = problem(408, "the rest of the request did not come", close)
                await late(scope, receive, send)
                return
            if message["type"] == "http.disconnect":
                return
            chunks.append(message.get("body", b""))
            size, more = size + len(chunks[-1]), message.get("more_body", False)
            if size > self.most_bytes:
                await large(scope, receive, send)
                return
        await self.app(scope, _replayed(chunks, receive), send)


def _replayed(chunks: list[bytes], receive: Receive) -> Receive:
    """Return what gives a body first, which is then let go of, and later what comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        body = b"".join(chunks)
        chunks.clear()
        return {"type": "http.request", "body": body, "more_body": False}

    return again
