"""The page and the routes, in one application."""

from fastapi import FastAPI

from maskweave.web.page import mount_page
from maskweave.web.routes import make_routes
from maskweave.web.service import Service


def make_app(service: Service, version: str, local: bool = False) -> FastAPI:
    """Return an application over a service as ``make_routes`` does, with the page at its root."""
    return mount_page(make_routes(service, version, local), service, version)
