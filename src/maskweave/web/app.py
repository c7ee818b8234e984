"""The page and the three families of routes, in one application."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from maskweave.web.service import Service


def make_app(service: Service) -> FastAPI:
    """Return an application over a service, which it closes when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        yield
        service.close()

    return FastAPI(title="Maskweave", lifespan=lifespan, redoc_url=None)
