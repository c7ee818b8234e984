"""The three families of routes in one application, without the page."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse

from maskweave.web.automatic1111 import automatic1111_routes
from maskweave.web.bodies import WholeBodies
from maskweave.web.errors import add_handlers
from maskweave.web.fill import fill_routes
from maskweave.web.iopaint import iopaint_routes
from maskweave.web.reference import reference
from maskweave.web.service import Service

SAME_MACHINE = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"
"""Pages that may read what the routes answer: those of the machine that shows them."""

BYTES_PER_PIXEL = 4
"""Bytes of a request for each pixel that a photo may have: RGB, not compressed, in base64."""

SPARE = 1_000_000
"""Bytes of a request beside those."""


def make_routes(service: Service, version: str) -> FastAPI:
    """Return an application over a service, which it closes when it ends."""

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
    most_bytes = BYTES_PER_PIXEL * service.max_pixels + SPARE
    app.add_middleware(WholeBodies, most_bytes=most_bytes)
    # Without credentials, and not for every page of the web.
    app.add_middleware(
        CORSMiddleware,
        allow_origin_regex=SAME_MACHINE,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["X-Seed", "Retry-After"],
    )
    return app
