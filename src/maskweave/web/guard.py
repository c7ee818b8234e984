"""Requests that a page of another host lets a browser send are refused.

Such a page cannot read the answer, but fills would run and files would be kept all the same. It
could read it under a name of its own that leads to this machine (DNS rebinding).
"""

import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from maskweave.web.errors import problem

THIS_MACHINE = r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?"
"""What this machine is called by itself alone, with a port."""

SAME_MACHINE = rf"https?://{THIS_MACHINE}"
"""Pages that may send and read: those of the machine that shows them."""

SAFE = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""

OUTWARD = re.compile(r"/gradio_api/(file=(https?|ftp):|proxy=)", re.IGNORECASE)
"""Where Gradio fetches what other hosts have: the page never asks for it."""


class OwnPages:
    """Middleware that lets through what programs and this server's own pages send."""

    def __init__(self, app: ASGIApp, local: bool) -> None:
        """Guard an application.

        Parameters
        ----------
        app : ASGIApp
            What is guarded.
        local : bool
            Whether this machine alone is answered, and so by no other name.
        """
        self.app = app
        self.local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request: with 403 if it was not meant."""
        refused = self._refusal(scope) if scope["type"] == "http" else None
        app = self.app if refused is None else problem(403, refused)
        await app(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.local and host and not re.fullmatch(THIS_MACHINE, host, re.IGNORECASE):
            return f"this server is localhost, not {host}; --host lets others in"
        if OUTWARD.match(scope["path"]):
            return "nothing is fetched from other hosts"
        if scope["method"] not in SAFE and not _own(headers, host):
            return f"pages of {headers['origin']} may not use this server"
        return None


def _own(headers: Headers, host: str) -> bool:
    """Return whether a request comes from a page of this server or machine, or from no page."""
    origin = headers.get("origin")
    if origin is None or re.fullmatch(SAME_MACHINE, origin):
        return True
    if origin != "null" and not origin.startswith(("http:", "https:")):
        return True  # an extension or a program, which somebody has installed
    if headers.get("sec-fetch-site") == "same-origin":  # as the browser sees it, before any proxy
        return True
    return urlsplit(origin).netloc in (host, headers.get("x-forwarded-host"))
