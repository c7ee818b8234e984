"""Requests to the three families of routes, a small model behind them, and what they answer."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from maskweave import __version__
from maskweave.images import Hole, Pixels, decode_image
from maskweave.pipeline import InpaintPipeline

if TYPE_CHECKING:
    import httpx
    from fastapi.testclient import TestClient


FILLING = ("/v1/fill", "/api/v1/inpaint", "/sdapi/v1/img2img")


def encoded(values: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind, **options)
    return file.getvalue()


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def pixels_of(content: bytes) -> np.ndarray:
    return decode_image(io.BytesIO(content), "the answer").values


@pytest.fixture(scope="module")
def photo() -> Pixels:
    return np.random.default_rng(3).integers(0, 256, (24, 36, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def hole() -> Hole:
    hole = np.zeros((24, 36), dtype=bool)
    hole[6:14, 10:25] = True
    return hole


@pytest.fixture(scope="module")
def image(photo: Pixels) -> bytes:
    return encoded(photo)


@pytest.fixture(scope="module")
def mask(hole: Hole) -> bytes:
    return encoded(hole.astype(np.uint8) * 255)


@pytest.fixture(scope="module")
def client(tiny_model: Path) -> "Iterator[TestClient]":
    from fastapi.testclient import TestClient

    from maskweave.web.routes import make_routes
    from maskweave.web.service import Service

    with TestClient(
        make_routes(Service(str(tiny_model), max_pixels=10_000), __version__)
    ) as client:
        yield client


@pytest.fixture(scope="module")
def filled(tiny_model: Path, photo: Pixels, hole: Hole) -> Any:
    """Return what the Python call gives for a seed and settings."""
    pipeline = InpaintPipeline.from_pretrained(tiny_model)

    def call(seed: int, **settings: Any) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        return np.array(pipeline(photo, hole, generator=generator, **settings).images[0])

    return call


def request_for(path: str, image: str, mask: str | None, seed: int = 7) -> dict[str, Any]:
    if path == "/v1/fill":
        return {"image": image, "mask": mask, "seed": seed}
    if path == "/api/v1/inpaint":
        return {"image": image, "mask": mask, "sd_seed": seed}
    return {"init_images": [image], "mask": mask, "seed": seed}


def image_of(answer: "httpx.Response") -> bytes:
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"] == "application/json":
        return base64.b64decode(answer.json()["images"][0])
    return answer.content


def problem_of(answer: "httpx.Response", status: int) -> str:
    """Return the line of an error, which every answer but a good one holds as JSON."""
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert told.keys() == {"error", "detail", "body", "errors"}
    assert told["detail"] == told["errors"] and "\n" not in told["detail"]
    return told["detail"]
