"""The page and the routes, in one application."""

from fastapi import FastAPI

from maskweave.web.page import mount_page
from maskweave.web.routes import make_routes
from maskweave.web.service import Service


def make_app(service: Service, version: str) -> FastAPI:
    """Return an application over a service, which it closes when it ends."""
    return mount_page(make_routes(service, version), service, version)
