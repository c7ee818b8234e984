"""The three families of routes in one application, without the page."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import NoReturn

from fastapi import FastAPI, HTTPException, Request
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse
from starlette.routing import Match

from maskweave.web.automatic1111 import automatic1111_routes
from maskweave.web.bodies import WholeBodies
from maskweave.web.errors import add_handlers
from maskweave.web.fill import fill_routes
from maskweave.web.guard import SAME_MACHINE, OwnPages
from maskweave.web.iopaint import iopaint_routes
from maskweave.web.reference import reference
from maskweave.web.service import Service

BYTES_PER_PIXEL = 4
"""Bytes of a request for each pixel that a photo may have: RGB, not compressed, in base64."""

SPARE = 1_000_000
"""Bytes of a request beside those."""

LARGEST_AT_ONCE = 4
"""How many of the largest requests may be in memory at once."""

FAMILIES = ("/v1/{rest:path}", "/api/{rest:path}", "/sdapi/{rest:path}", "/health")
"""Paths that are none of the page's."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


def make_routes(service: Service, version: str, local: bool = False) -> FastAPI:
    """Return an application over a service, which it closes when it ends.

    Parameters
    ----------
    service : Service
        What fills.
    version : str
        That of the package, which answers and downloads tell.
    local : bool
        Whether it answers by no name but those of this machine.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        yield
        service.close()

    app = FastAPI(
        title="Maskweave",
        version=version,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        """Show what the routes are."""
        return HTMLResponse(reference(app.openapi()))

    add_handlers(app)
    app.include_router(fill_routes(service))
    app.include_router(iopaint_routes(service))
    app.include_router(automatic1111_routes(service))
    _refuse_others(app)
    most_bytes = BYTES_PER_PIXEL * service.max_pixels + SPARE
    at_once = LARGEST_AT_ONCE * most_bytes
    app.add_middleware(WholeBodies, most_bytes=most_bytes, at_once=at_once)
    app.add_middleware(OwnPages, local=local)
    # Without credentials, and not for every page of the web.
    app.add_middleware(
        CORSMiddleware,
        allow_origin_regex=SAME_MACHINE,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["X-Seed", "Retry-After"],
    )
    return app


def _refuse_others(app: FastAPI) -> None:
    """Answer what no route does. The page at the root would do so in its own way."""
    routes = list(app.routes)

    def refuse(request: Request) -> NoReturn:
        def answered(method: str) -> bool:
            scope = dict(request.scope) | {"method": method}
            return any(route.matches(scope)[0] is Match.FULL for route in routes)

        if allowed := list(filter(answered, METHODS)):
            raise HTTPException(405, headers={"Allow": ", ".join(allowed)})
        raise HTTPException(404)

    for path in FAMILIES:
        app.add_route(path, refuse, list(METHODS), include_in_schema=False)
