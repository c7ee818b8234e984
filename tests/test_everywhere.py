"""How a hole is divided gives the same bytes in Python, by command, by HTTP, on the page."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from conftest import tiny_guided
from maskweave import seeded
from maskweave.cli.main import app
from maskweave.images import read_image
from maskweave.manifest import read_manifest
from maskweave.pipeline import InpaintPipeline

pytest.importorskip("fastapi", reason="the extra web is not installed")
pytest.importorskip("gradio", reason="the extra web is not installed")
import gradio as gr
from fastapi.testclient import TestClient

from maskweave.web.acts import Acts
from maskweave.web.parts import make_parts
from maskweave.web.routes import make_routes
from maskweave.web.service import Service
from maskweave.web.session import Session

GIVEN = [("whole object", {"context": 0.1}), ("texture", {"context": 0.1, "levels": 0})]


@pytest.fixture(params=GIVEN, ids=["crops", "windows"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """Return a folder with a model, a photo and a mask, and settings."""
    framing, given = request.param
    model = tiny_guided()
    InpaintPipeline(model.tokenizer, model.transformer, framing=framing).save_pretrained(
        tmp_path / "model"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    hole = np.zeros((60, 70), dtype=bool)
    hole[10:45, 8:50] = True
    Image.fromarray(hole).save(tmp_path / "mask.png")
    return tmp_path, given


def called(folder: Path, generator: torch.Generator, **given: Any) -> np.ndarray:
    """Return what the Python call fills."""
    pipeline = InpaintPipeline.from_pretrained(folder / "model")
    photo, mask = (Image.open(folder / f"{name}.png") for name in ("photo", "mask"))
    return np.array(pipeline(photo, mask, generator=generator, **given).images[0])


def run(folder: Path, *arguments: object) -> None:
    """Run ``maskweave inpaint`` with the case's model."""
    command = ("inpaint", *arguments, "--model", folder / "model")
    result = CliRunner().invoke(app, [str(each) for each in command])
    assert result.exit_code == 0, result.output


def test_the_command_and_what_repeats_it(case: tuple[Path, dict[str, Any]]) -> None:
    folder, given = case
    options = [part for name, value in given.items() for part in (f"--{name}", value)]
    out, manifest = folder / "out.png", folder / "fills.jsonl"
    photo = (folder / "photo.png", "--mask", folder / "mask.png", "--seed", 3)
    run(folder, *photo, *options, "--output", out, "--manifest", manifest)
    assert np.array_equal(read_image(out).values, called(folder, seeded(3, "photo"), **given))
    assert not np.array_equal(read_image(out).values, called(folder, seeded(3, "photo")))
    run(folder, "--replay", manifest, "--output", folder / "again")
    assert (folder / "again" / "out.png").read_bytes() == out.read_bytes()


def test_a_manifest_of_before_means_what_was_usual(case: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = case
    manifest = folder / "fills.jsonl"
    photo = (folder / "photo.png", "--mask", folder / "mask.png")
    run(folder, *photo, "--output", folder / "out.png", "--manifest", manifest)
    row = json.loads(manifest.read_text())
    recipe = json.loads(row["recipe"])
    for name in ("context", "levels"):
        del recipe["decoding"][name]
    manifest.write_text(json.dumps(row | {"recipe": json.dumps(recipe)}))
    [old] = read_manifest(manifest)
    assert old.recipe_of_fill.decode_settings.context == 0.25
    run(folder, "--replay", manifest, "--output", folder / "again")


def test_http_and_the_file_that_comes_from_it(case: tuple[Path, dict[str, Any]]) -> None:
    folder, given = case
    files = {part: (folder / f"{name}.png").read_bytes()
             for part, name in (("image", "photo"), ("mask", "mask"))}  # fmt: skip
    data = {"seed": "5"} | {name: str(value) for name, value in given.items()}
    with TestClient(make_routes(Service(str(folder / "model")), "1")) as client:
        answer = client.post("/v1/fill", files=files, data=data)
        refused = client.post("/v1/fill", files=files, data={"context": "0.46"})
    filled, again = folder / "filled.png", folder / "again.png"
    filled.write_bytes(answer.content)
    expected = called(folder, torch.Generator().manual_seed(5), **given)
    assert np.array_equal(read_image(filled).values, expected)
    assert refused.status_code == 400
    assert "context should be less than or equal to 0.45" in refused.json()["detail"]
    photo = (folder / "photo.png", "--mask", folder / "mask.png")
    run(folder, *photo, "--from", filled, "--output", again)
    assert again.read_bytes() == filled.read_bytes()


def test_the_page(case: tuple[Path, dict[str, Any]]) -> None:
    folder, given = case
    service = Service(str(folder / "model"))

    async def made() -> Acts:
        with gr.Blocks():
            return Acts(service, "1", make_parts(service), folder / "page")

    acts, visitor = asyncio.run(made()), SimpleNamespace(session_hash="visitor")
    request: Any = visitor
    acts.begin(request)
    session: Session = acts.session(request)
    session.open((folder / "photo.png").read_bytes(), "photo.png", service)
    _, mask = session.shown(np.array(Image.open(folder / "mask.png")))
    decoding = [given.get(name, part.value) for name, part in acts.parts.decoding().items()]
    for _ in acts.fill(request, mask.read_bytes(), 1, service.model, 5, 0, *decoding):
        pass
    expected = called(folder, torch.Generator().manual_seed(5), **given)
    assert np.array_equal(session.latest().picture(0).values, expected)
    shown = acts.choose_model("cats64")
    assert shown[acts.parts.context]["interactive"] and not shown[acts.parts.levels]["interactive"]
    own = acts.choose_model(service.model)[acts.parts.levels]
    assert own["interactive"] == acts.parts.levels.interactive == ("levels" in given)
