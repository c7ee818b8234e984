"""``maskweave web``: where it listens, what it says, and what keeps it from it."""

import base64
import importlib.abc
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from maskweave.cli.main import app

pytest.importorskip("fastapi", reason="the extra web is not installed")
import httpx
from fastapi.testclient import TestClient

from maskweave.cli import web
from maskweave.web import service as service_module
from maskweave.web.app import make_app
from maskweave.web.service import Service


def refused(*arguments: str) -> str:
    """Return the one line by which a command is refused."""
    result: Result = CliRunner().invoke(app, ["web", "--no-browser", *arguments])
    assert result.exit_code == 2
    assert result.stdout == "" and result.stderr.count("\n") == 1
    return result.stderr


def test_a_wrong_port() -> None:
    assert "port" in refused("--port", "65536")
    assert "port" in refused("--port", "http")


def test_a_busy_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        line = refused("--port", str(port))
    assert line == f"error: cannot listen at 127.0.0.1, port {port}: Address already in use\n"


def test_an_address_that_is_none() -> None:
    assert "cannot listen at 300.0.0.1, port 7860" in refused("--host", "300.0.0.1")


def test_a_model_that_is_none(tmp_path: Path) -> None:
    assert "unknown model" in refused("--port", "0", "--model", str(tmp_path / "none"))


def test_a_manifest_that_cannot_be_added_to(tmp_path: Path) -> None:
    assert "called .jsonl" in refused("--manifest", str(tmp_path / "fills.parquet"))


def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> None:
            if name == "uvicorn":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for name in [each for each in sys.modules if each.split(".")[0] == "uvicorn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "maskweave.web.server", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    assert refused() == (
        "error: no module uvicorn: pip install 'maskweave[web]' installs what this needs\n"
    )


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.7", False),
        ("example.org", False),
    ],
)
def test_which_addresses_are_those_of_this_machine_alone(host: str, local: bool) -> None:
    assert web.is_local(host) is local


def start(model: Path, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "maskweave", "web", "--port", "0", "--no-browser"]
    return subprocess.Popen(
        [*command, "--model", str(model), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )


def test_the_page_gives_no_files_and_fetches_none(tiny_model: Path) -> None:
    service = Service(str(tiny_model))
    with TestClient(make_app(service, "1", local=True), base_url="http://localhost") as client:
        for file in ("/etc/passwd", "../" * 12 + "etc/passwd", service_module.__file__):
            for path in ("gradio_api/file=", "static/", "assets/", "svelte/"):
                assert client.get(f"/{path}{quote(file, safe='')}").status_code == 403
        for path in ("file=http://localhost/health", "file=HTTPS://example.org", "proxy=https://a"):
            answer = client.get(f"/gradio_api/{path}")
            assert answer.status_code == 403
            assert answer.json()["detail"] == "nothing is fetched from other hosts"


@pytest.mark.parametrize(
    "path", ["photo.png", "http://localhost/x.png", "https://example.org/x.png"]
)
@pytest.mark.parametrize("button", ["open_photo", "save_mask"])
def test_the_page_takes_no_file_that_was_not_uploaded(
    tiny_model: Path, tmp_path: Path, button: str, path: str
) -> None:
    Image.new("RGB", (7, 5)).save(tmp_path / "photo.png")
    path = path if "//" in path else str(tmp_path / path)
    service = Service(str(tiny_model))
    with TestClient(make_app(service, "1"), base_url="http://localhost") as client:
        acts = client.get("/config").json()["dependencies"]
        names = {act["api_name"]: act["id"] for act in acts}

        def act(name: str, *data: object) -> dict[str, Any]:
            wanted = {"fn_index": names[name], "data": data, "session_hash": "visitor"}
            assert client.post("/gradio_api/queue/join", json=wanted).status_code == 200
            told = client.get("/gradio_api/queue/data", params={"session_hash": "visitor"}).text
            said = [json.loads(line[6:]) for line in told.splitlines() if line.startswith("data: ")]
            return next(each for each in said if each["msg"] == "process_completed")

        assert act("begin")["success"]
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        answer = act(button, file)
        assert not answer["success"]
        assert re.search("not uploaded|nothing is fetched", answer["output"]["error"])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_and_leaves_nothing_when_it_ends(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with start(tiny_model, "--max-pixels", "123", "--queue", "0") as process:
        assert process.stdout and process.stderr
        line = process.stdout.readline()
        [address] = re.findall(r"http://127\.0\.0\.1:\d+", line)
        health = httpx.get(f"{address}/health").json()
        assert (health["max_pixels"], health["queue"]) == (123, 0)
        assert health["models"][0] == tiny_model.name
        assert list(tmp_path.glob("maskweave-web-*"))
        with httpx.stream("GET", f"{address}/gradio_api/heartbeat/page", timeout=30) as page:
            lines = page.iter_lines()
            assert next(lines) == "data: ALIVE"  # a page is open, and stays so
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, "", "")
    assert not list(tmp_path.glob("maskweave-web-*"))


@pytest.mark.slow
def test_it_warns_when_others_may_come(tiny_model: Path) -> None:
    with start(tiny_model, "--host", "0.0.0.0") as process:
        assert process.stdout and process.stderr
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert err.startswith("warning: 0.0.0.0 is not only this machine") and "\n" in err


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is told by Linux")
def test_memory_of_large_photos_goes_back(tiny_model: Path) -> None:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG", quality=95)
    wanted = {"image": base64.b64encode(file.getvalue()).decode()}  # without a mask: refused
    with start(tiny_model) as process:
        assert process.stdout
        [address] = re.findall(r"http://[\d.:]+", process.stdout.readline())

        def ask(_: int) -> int:
            return httpx.post(f"{address}/v1/fill", json=wanted, timeout=300).status_code

        def resident() -> float:
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

        assert ask(0) == 400
        before, end = resident(), time.monotonic() + 60
        with ThreadPoolExecutor(16) as threads:
            assert set(threads.map(ask, range(32))) == {400}
        while resident() > before + 60 and time.monotonic() < end:
            time.sleep(1)
        after = resident()
        process.send_signal(signal.SIGINT)
    assert after < before + 60, (before, after)
