"""Bodies, images, forms, paths and pages that the routes refuse, each in one line of JSON."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskweave import __version__
from routes import FILLING, encoded, problem_of, request_for, text
from test_service import SOON

pytest.importorskip("fastapi", reason="the extra web is not installed")
from fastapi.testclient import TestClient
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from maskweave.web.bodies import WholeBodies
from maskweave.web.routes import make_routes
from maskweave.web.service import Service


@pytest.mark.parametrize("path", FILLING)
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 100_000, 400),
        (b'{"image": ' * 5_000, 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"", 400),
        (b"[]", 422),
        (b'{"image": 1e999, "seed": NaN, "init_images": 3}', 422),
        (b'{"image": null, "init_images": []}', 422),
    ],
)
def test_bodies_that_nobody_can_have_meant(
    client: TestClient, path: str, body: bytes, status: int
) -> None:
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    if body == b"":
        assert answer.status_code in (400, 422)
        status = answer.status_code
    problem_of(answer, status)


@pytest.mark.parametrize("path", FILLING)
def test_a_number_without_end_is_told_in_words_of_this_server(
    client: TestClient, path: str
) -> None:
    body = b'{"image": "", "init_images": [""], "seed": ' + b"9" * 6000 + b"}"
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert "int" not in problem_of(answer, 400)


@pytest.mark.parametrize("path", FILLING)
@pytest.mark.parametrize("image", ["\ud800", "data:", "", "http://localhost/x.png", "file:///x"])
def test_texts_that_are_no_image(client: TestClient, path: str, image: str) -> None:
    body = json.dumps(request_for(path, image, None))
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert "image" in problem_of(answer, 400)


@pytest.mark.parametrize("path", FILLING)
def test_pictures_that_are_none(client: TestClient, image: bytes, mask: bytes, path: str) -> None:
    bomb = encoded(np.zeros((200, 200), dtype=bool))
    worse = encoded(np.zeros((20_000, 20_000), dtype=bool))
    for broken, status, line in (
        (b"text renamed .png", 400, "the image is not a readable image: unknown format"),
        (image[:60], 400, "the image"),
        (bomb, 413, "200x200 pixels, more than the 10000 allowed"),
        (worse, 413, "over a hundred million pixels, more than the 10000 allowed"),
    ):
        answer = client.post(path, json=request_for(path, text(broken), text(mask)))
        assert line in problem_of(answer, status)
    answer = client.post(path, json=request_for(path, text(image), text(b"text")))
    assert "the mask is not a readable image" in problem_of(answer, 400)
    answer = client.post(path, json=request_for(path, text(image), None))
    line = "there is no mask, and the image has no transparent pixels"
    assert problem_of(answer, 400) == line


def test_forms_that_are_none(
    client: TestClient, image: bytes, mask: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    files = [("image", image), ("mask", mask), ("mask", mask)]
    problem_of(client.post("/v1/fill", files=files), 400)
    problem_of(client.post("/v1/fill", files={"mask": mask}), 422)
    problem_of(client.post("/v1/fill", data={"image": "x"}), 415)
    kind = {"content-type": "multipart/form-data"}
    problem_of(client.post("/v1/fill", content=b"--x", headers=kind), 400)
    kind = {"content-type": "multipart/form-data; boundary=x"}
    problem_of(client.post("/v1/fill", content=b"junk", headers=kind), 400)
    assert not caplog.records, "the server's terminal is not for what clients do wrong"
    files = {"image": image, "mask": mask}
    line = problem_of(client.post("/v1/fill", files=files, data={"colour": "red"}), 422)
    assert line == "colour: Extra inputs are not permitted"
    line = problem_of(client.post("/v1/fill", files=files, data={"order": "backwards"}), 400)
    assert "order is one of" in line
    line = problem_of(client.post("/v1/fill", files=files, data={"num_samples": "9"}), 422)
    assert "num_samples" in line


def test_bodies_beyond_the_limit(client: TestClient) -> None:
    large = b" " * 1_100_000  # 4 bytes for each of 10,000 pixels and 1 MB are allowed
    for path in FILLING:
        assert "1040000 bytes" in problem_of(client.post(path, content=large), 413)
        chunks = (large[i : i + 10_000] for i in range(0, len(large), 10_000))
        assert "1040000 bytes" in problem_of(client.post(path, content=chunks), 413)


def test_other_paths_and_methods_are_errors_in_json(client: TestClient) -> None:
    problem_of(client.get("/v1/nothing"), 404)
    problem_of(client.get("/v1/../../etc/passwd"), 404)
    problem_of(client.get("/v1/fill"), 405)


def test_the_page_at_the_root_leaves_such_errors_to_the_routes(tiny_model: Path) -> None:
    pytest.importorskip("gradio", reason="the extra web is not installed")
    from maskweave.web.app import make_app

    with TestClient(make_app(Service(str(tiny_model)), __version__)) as client:
        for path in FILLING:
            answer = client.get(path)
            problem_of(answer, 405)
            assert answer.headers["allow"] == "POST"
        problem_of(client.put("/sdapi/v1/options"), 405)
        problem_of(client.post("/health"), 405)
        problem_of(client.post("/sdapi/v1/txt2img", json={}), 404)
        assert client.get("/sdapi/v1/options").status_code == client.get("/").status_code == 200


@pytest.mark.parametrize("path", FILLING)
def test_a_body_that_is_not_sent_as_json_is_told_so(
    client: TestClient, image: bytes, mask: bytes, path: str
) -> None:
    body = json.dumps(request_for(path, text(image), text(mask)))
    kind = {"content-type": "application/x-www-form-urlencoded"}  # curl's own
    status = 415 if path == "/v1/fill" else 422
    assert "application/json" in problem_of(client.post(path, content=body, headers=kind), status)
    line = problem_of(client.post(path, json=[]), 422)
    assert line == "the body is to be a JSON object, sent as application/json"


async def sent_in(
    middleware: WholeBodies, chunks: list[bytes], pause: float = 0.0, ends: bool = True
) -> int:
    """Send a body in chunks and return the status of the answer."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        await asyncio.sleep(pause if chunks else SOON)
        chunk = chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunks) or not ends}

    await middleware({"type": "http", "headers": []}, receive, send)
    return sent[0]["status"]


async def never(*_: Any) -> None:
    raise AssertionError


def test_bodies_that_do_not_end_or_come_too_slowly_are_answered_after_a_while() -> None:
    middleware = WholeBodies(never, most_bytes=1000, at_once=1000, patience=0.05)
    assert asyncio.run(sent_in(middleware, [b"{"], ends=False)) == 408
    assert asyncio.run(sent_in(middleware, [b"{"] * 100, pause=0.02)) == 408


def test_bodies_that_are_too_much_together_are_told_to_come_back() -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        await asyncio.sleep(0.1)
        await Response(body)(scope, receive, send)

    middleware = WholeBodies(answer, most_bytes=10, at_once=25)

    async def all_at_once(number: int) -> list[int]:
        bodies = (sent_in(middleware, [b"12345", b"67890"], 0.01) for _ in range(number))
        return sorted(await asyncio.gather(*bodies))

    assert asyncio.run(all_at_once(2)) == [200, 200]
    assert asyncio.run(all_at_once(4)).count(200) == 2
    assert asyncio.run(all_at_once(2)) == [200, 200]  # nothing is counted that is gone


HOSTS = ("localhost", "LOCALHOST:7860", "127.0.0.1:7860", "127.8.0.1", "[::1]:7860")
OTHERS = ("example.org", "localhost.example.org:7860", "127.0.0.1.example.org", "192.168.0.7")


def test_a_server_of_this_machine_answers_by_no_other_name(tiny_model: Path) -> None:
    with TestClient(make_routes(Service(str(tiny_model)), "0", local=True)) as client:
        for host in HOSTS:
            assert client.get("/health", headers={"host": host}).status_code == 200
        for host in OTHERS:
            line = problem_of(client.get("/health", headers={"host": host}), 403)
            assert line == f"this server is localhost, not {host}; --host lets others in"


@pytest.mark.parametrize("path", [*FILLING, "/api/v1/adjust_mask", "/gradio_api/upload"])
def test_pages_of_other_hosts_change_nothing(client: TestClient, path: str) -> None:
    for headers in (
        {"origin": "https://example.org"},
        {"origin": "https://example.org", "sec-fetch-site": "cross-site"},
        {"origin": "http://localhost.example.org"},
        {"origin": "null"},  # a frame without an origin, which any page may have
    ):
        line = problem_of(client.post(path, headers=headers), 403)
        assert line == f"pages of {headers['origin']} may not use this server"
    for headers in (
        {},
        {"origin": "http://testserver"},
        {"origin": "http://localhost:3000"},
        {"origin": "https://example.org", "sec-fetch-site": "same-origin"},  # behind a proxy
        {"origin": "https://example.org", "x-forwarded-host": "example.org"},
        {"origin": "chrome-extension://abc"},
    ):
        assert client.post(path, headers=headers).status_code != 403


def test_pages_of_other_hosts_read_nothing(client: TestClient) -> None:
    for origin, allowed in (
        ("https://example.org", None),
        ("http://localhost.example.org", None),
        ("http://localhost:3000", "http://localhost:3000"),
    ):
        headers = {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type",
        }
        preflight = client.options("/api/v1/inpaint", headers=headers)
        answer = client.get("/api/v1/model", headers={"origin": origin})
        for each in (preflight, answer):
            assert each.headers.get("access-control-allow-origin") == allowed
            assert "access-control-allow-credentials" not in each.headers
        assert (preflight.status_code == 200) == (allowed is not None)
