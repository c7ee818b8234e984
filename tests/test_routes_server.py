"""Routes over sockets: clients that hang up, twenty at once, and the examples of the docs."""

import base64
import ctypes
import gc
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskweave.images import Hole, Pixels
from maskweave.maskgit import DecodeSettings
from maskweave.pipeline import InpaintPipeline
from routes import FILLING, encoded, image_of, pixels_of, problem_of, request_for, text
from test_service import SOON, Stepwise

pytest.importorskip("fastapi", reason="the extra web is not installed")
import httpx
import uvicorn

from maskweave.web.routes import make_routes
from maskweave.web.service import Service

DOCS = Path(__file__).parents[1] / "docs" / "http-api.md"


class Served:
    """An application at a port of this machine."""

    def __init__(self, service: Service) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(make_routes(service, "0"), log_level="warning", lifespan="on")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True
        )

    def __enter__(self) -> "Served":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(SOON)
        self.listener.close()


def post_by_socket(port: int, path: str, body: bytes, sent: int) -> socket.socket:
    """Send a part of a request and return the connection."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=SOON)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:sent])
    return connection


def soon(condition: Any) -> bool:
    end = time.monotonic() + SOON
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("path", FILLING)
def test_who_hangs_up_takes_the_fill_along(path: str, image: bytes, mask: bytes) -> None:
    class Long(Stepwise):
        def settings(self, **_: Any) -> DecodeSettings:
            return DecodeSettings(steps=1000)

    stepwise = Long()
    service = Service("slow", load=lambda _: stepwise)

    def gone_within_a_step() -> bool:
        stepwise.allowed.release()
        return service.running is None

    with Served(service) as served:
        body = json.dumps(request_for(path, text(image), text(mask))).encode()
        connections = [post_by_socket(served.port, path, body, len(body)) for _ in range(3)]
        assert stepwise.begun.acquire(timeout=SOON)
        assert soon(lambda: service.waiting == 2)
        assert httpx.get(f"{served.address}/health").json()["waiting"] == 2
        for connection in connections:
            connection.close()
        assert soon(lambda: service.waiting == 0)
        assert soon(gone_within_a_step)
        assert stepwise.taken < 1000


def test_a_half_sent_body_leaves_the_server_as_it_was(
    tiny_model: Path, image: bytes, mask: bytes
) -> None:
    service = Service(str(tiny_model))
    with Served(service) as served:
        for path in FILLING:
            wanted = request_for(path, text(image), text(mask))
            body = json.dumps(wanted).encode()
            post_by_socket(served.port, path, body, len(body) // 2).close()
            assert httpx.post(served.address + path, json=wanted).status_code == 200
        assert service.running is None


def memory() -> int:
    """Return the resident bytes of this process, of which those that are free are given back."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
    if trim:
        trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_twenty_at_once_get_their_fills_or_are_told_to_come_back(tiny_model: Path) -> None:
    photo = np.zeros((1000, 1000, 3), dtype=np.uint8)  # large, and quickly packed
    photo[350:470, 450:580] = np.random.default_rng(5).integers(0, 256, (120, 130, 3))
    hole = np.zeros((1000, 1000), dtype=bool)
    hole[400:420, 500:530] = True
    pipeline = InpaintPipeline.from_pretrained(tiny_model)
    image, mask = text(encoded(photo)), text(encoded(hole))

    def ask(address: str, number: int) -> tuple[int, httpx.Response]:
        path = FILLING[number % 3]
        wanted = request_for(path, image, mask, number)
        return number, httpx.post(address + path, json=wanted, timeout=120)

    with Served(Service(str(tiny_model), queue=5)) as served, ThreadPoolExecutor(20) as threads:
        resident: list[int] = []
        # Pools that fill up grow the process in some rounds; six photos that are kept, of three
        # megabytes each, would do so in every one.
        while len(resident) < 2 or resident[-1] - resident[-2] > 9_000_000:
            assert len(resident) < 6, resident
            answers = list(threads.map(lambda number: ask(served.address, number), range(20)))
            good = [(number, each) for number, each in answers if each.status_code == 200]
            assert len(good) >= 6
            for number, each in good:
                generator = torch.Generator().manual_seed(number)
                expected = np.array(pipeline(photo, hole, generator=generator).images[0])
                np.testing.assert_array_equal(pixels_of(image_of(each)), expected)
            for _, each in answers:
                if each.status_code != 200:
                    assert "try again" in problem_of(each, 503)
                    assert int(each.headers["retry-after"]) >= 1
            del answers, good, each, expected
            resident.append(memory())


# The examples of docs/http-api.md


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(), re.DOTALL)


@pytest.fixture
def work(tmp_path: Path, image: bytes, mask: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "photo.png").write_bytes(image)
    (tmp_path / "mask.png").write_bytes(mask)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_examples_of_curl(work: Path, tiny_model: Path, filled: Any) -> None:
    if not shutil.which("curl"):
        pytest.skip("no curl on this machine")
    examples = [block for block in blocks("bash") if "curl" in block]
    assert len(examples) == 3
    with Served(Service(str(tiny_model))) as served:
        for example in examples:
            command = example.replace("http://127.0.0.1:7860", served.address)
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command], capture_output=True, check=False
            )
            assert done.returncode == 0, done.stderr.decode()
            if "filled.png" in example:
                content = (work / "filled.png").read_bytes()
                (work / "filled.png").unlink()
            else:
                answer = json.loads((work / "answer.json").read_text())
                assert done.stdout == b"7\n"
                content = base64.b64decode(answer["images"][0])
            np.testing.assert_array_equal(pixels_of(content), filled(7))


def test_examples_of_python(work: Path, tiny_model: Path, hole: Hole, photo: Pixels) -> None:
    examples = blocks("python")
    assert len(examples) == 3
    with Served(Service(str(tiny_model))) as served:
        for example, number in zip(examples, (3, 1, 2), strict=True):
            code = example.replace("http://127.0.0.1:7860", served.address)
            # Not closed, as in many a script: a process of its own does not mind.
            done = subprocess.run(["python", "-c", code], capture_output=True, check=False)
            assert done.returncode == 0, done.stderr.decode()
            fills = list(work.glob("filled*.png"))
            assert len(fills) == number
            for file in fills:
                pixels = pixels_of(file.read_bytes())
                np.testing.assert_array_equal(pixels[~hole], photo[~hole])
                assert (pixels != photo).any()
                file.unlink()
