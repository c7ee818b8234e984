"""Whatever goes wrong is told as one JSON object with one readable line."""

import json
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from maskweave.errors import MaskweaveError
from maskweave.web.service import BusyError, SizeError
from maskweave.web.ticket import CancelError

LONGEST_LINE = 500
"""Characters that are told of an error: it may quote what was sent."""


def problem(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as JSON.

    ``error`` and ``detail`` are what clients of most services look for, ``errors`` what IOPaint's
    does.
    """
    line = " ".join(text.split())[:LONGEST_LINE]
    told = {"error": HTTPStatus(status).phrase, "detail": line, "body": "", "errors": line}
    # In ASCII: what was sent may hold what is no text.
    return Response(json.dumps(told), status, headers, "application/json")


def add_handlers(app: FastAPI) -> None:
    """Let an application answer errors as ``problem`` tells them."""
    # The types of handlers name no class of errors that is narrower than Exception.
    app.add_exception_handler(BusyError, _busy)
    app.add_exception_handler(CancelError, _told(503))
    app.add_exception_handler(SizeError, _told(413))
    app.add_exception_handler(MaskweaveError, _told(400))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unknown)


def _told(status: int):  # noqa: ANN202
    def handler(_: Request, error: Exception) -> Response:
        return problem(status, str(error))

    return handler


def _busy(_: Request, error: Exception) -> Response:
    assert isinstance(error, BusyError)
    return problem(503, str(error), {"Retry-After": str(error.seconds)})


def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    lines: list[str] = []
    for found in error.errors():
        if found["type"] == "json_invalid":  # its place is a number of characters
            return problem(400, "the body is no valid JSON")
        place = ".".join(str(each) for each in found["loc"] if each != "body")
        if not place:
            return problem(422, "the body is to be a JSON object, sent as application/json")
        lines.append(f"{place}: {found['msg']}")
    return problem(422, "; ".join(lines))


def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), error.headers)


def _unknown(_: Request, error: Exception) -> Response:
    return problem(500, f"a fault of the server: {type(error).__name__}")
