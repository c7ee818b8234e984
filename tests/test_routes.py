"""Three families of routes: all fill as Python does, and what Maskweave's own take and tell."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from maskweave import __version__
from maskweave.cli.main import app
from maskweave.domain import UNLIKE, Probe
from maskweave.images import Hole, Pixels
from maskweave.masks import grown
from maskweave.pipeline import InpaintPipeline
from routes import FILLING, encoded, image_of, pixels_of, problem_of, request_for, text

pytest.importorskip("fastapi", reason="the extra web is not installed")
from fastapi.testclient import TestClient

from maskweave.web.routes import make_routes
from maskweave.web.service import Service


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
@pytest.mark.parametrize("path", FILLING)
def test_all_families_give_the_bytes_of_the_python_call(
    client: TestClient, image: bytes, mask: bytes, filled: Any, path: str, prefix: str
) -> None:
    answer = client.post(path, json=request_for(path, prefix + text(image), prefix + text(mask)))
    np.testing.assert_array_equal(pixels_of(image_of(answer)), filled(7))


def test_a_form_is_what_json_is(client: TestClient, image: bytes, mask: bytes, filled: Any) -> None:
    files = {"image": ("../../../etc/passwd", image), "mask": ("..\\mask", mask)}
    data = {"seed": "3", "steps": "2", "keep_known": "false"}
    answer = client.post("/v1/fill", files=files, data=data)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-seed"] == "3"
    expected = filled(3, num_inference_steps=2, keep_known=False)
    np.testing.assert_array_equal(pixels_of(answer.content), expected)


def test_several_fills_are_json_and_say_how_to_repeat_them(
    client: TestClient, image: bytes, mask: bytes, hole: Hole, photo: Pixels
) -> None:
    wanted = request_for("/v1/fill", text(image), text(mask)) | {"num_samples": 3, "steps": 4}
    del wanted["seed"]
    first = client.post("/v1/fill", json=wanted).json()
    again = client.post("/v1/fill", json=wanted | {"seed": first["seed"]}).json()
    assert again["images"] == first["images"] and len(set(first["images"])) == 3
    assert len(first["seeds"]) == 3 and first["settings"]["steps"] == 4
    for each in first["images"]:
        pixels = pixels_of(base64.b64decode(each))
        np.testing.assert_array_equal(pixels[~hole], photo[~hole])
    refused = client.post("/v1/fill", json=wanted, headers={"accept": "image/png"})
    assert "several fills are application/json" in problem_of(refused, 406)


@pytest.mark.parametrize(
    ("accept", "media", "kind"),
    [
        ("*/*", "image/png", "PNG"),
        ("image/*", "image/png", "PNG"),
        ("image/webp", "image/webp", "WEBP"),
        ("text/html, image/tiff;q=0.5, image/jpeg;q=0.4", "image/tiff", "TIFF"),
        ("image/png;q=0, image/bmp", "image/bmp", "BMP"),
        ("application/json, image/png;q=0.9", "application/json", None),
    ],
)
def test_an_answer_is_what_accept_asks_for(
    client: TestClient,
    image: bytes,
    mask: bytes,
    filled: Any,
    accept: str,
    media: str,
    kind: str | None,
) -> None:
    wanted = request_for("/v1/fill", text(image), text(mask))
    answer = client.post("/v1/fill", json=wanted, headers={"accept": accept})
    assert answer.headers["content-type"] == media
    if kind:
        assert Image.open(io.BytesIO(answer.content)).format == kind
    np.testing.assert_array_equal(pixels_of(image_of(answer)), filled(7))


def test_nothing_that_is_accepted_is_an_error(
    client: TestClient, image: bytes, mask: bytes
) -> None:
    wanted = request_for("/v1/fill", text(image), text(mask))
    for accept in (b"text/html", b"image/png;q=0", "image/png;q=²".encode("latin-1")):
        answer = client.post("/v1/fill", json=wanted, headers={"accept": accept})
        assert "image/png" in problem_of(answer, 406)


def test_options_of_masks_and_notes(client: TestClient, image: bytes, hole: Hole) -> None:
    turned = encoded(np.where(hole, np.uint8(0), np.uint8(90)))
    wanted = request_for("/v1/fill", text(image), text(turned))
    options = {"invert_mask": True, "threshold": 60, "grow": 1}
    answer = client.post("/v1/fill", json=wanted | options, headers={"accept": "application/json"})
    changed = pixels_of(image_of(answer)) != pixels_of(image)
    assert not changed[~grown(hole, 1)].any() and changed[hole].any()
    empty = request_for("/v1/fill", text(image), text(encoded(np.zeros_like(hole))))
    answer = client.post("/v1/fill", json=empty, headers={"accept": "application/json"})
    assert answer.json()["notes"] == ["the mask is empty: nothing to fill"]


def test_a_png_says_how_it_is_made_again(
    client: TestClient, tiny_model: Path, image: bytes, mask: bytes, tmp_path: Path
) -> None:
    wanted = request_for("/v1/fill", text(image), text(mask)) | {"num_samples": 2, "soften": 2}
    fills = client.post("/v1/fill", json=wanted).json()["images"]
    (tmp_path / "photo.png").write_bytes(image)
    (tmp_path / "mask.png").write_bytes(mask)
    (tmp_path / "fill.png").write_bytes(base64.b64decode(fills[1]))
    names = [str(tmp_path / f"{name}.png") for name in ("photo", "mask", "again", "fill")]
    photo, hole, again, fill = names
    command = ["inpaint", photo, "--mask", hole, "--output", again, "--from", fill]
    result = CliRunner().invoke(app, [*command, "--model", str(tiny_model)])
    assert result.exit_code == 0, result.stderr
    assert Path(again).read_bytes() == Path(fill).read_bytes()
    for options in ({"keep_known": False}, {"grow": 1}):  # which the command does not repeat
        one = wanted | {"num_samples": 1}
        assert b"tEXt" in client.post("/v1/fill", json=one).content
        assert b"tEXt" not in client.post("/v1/fill", json=one | options).content


def test_what_the_model_says_of_a_photo_is_told_wherever_there_is_room_for_it(
    tiny_model: Path, image: bytes, mask: bytes, tmp_path: Path
) -> None:
    pipeline = InpaintPipeline.from_pretrained(tiny_model)
    width = 2 * pipeline.transformer.config.dim
    pipeline.probe = Probe(torch.zeros(width), torch.tensor(1.0))
    model = tmp_path / "model"
    pipeline.save_pretrained(model)
    wanted = request_for("/v1/fill", text(image), text(mask))
    with TestClient(make_routes(Service(str(model)), "0")) as client:
        answer = client.post("/v1/fill", json=wanted, headers={"accept": "application/json"})
        [note] = answer.json()["notes"]
        assert note.startswith(UNLIKE)
        other = request_for("/sdapi/v1/img2img", text(image), text(mask))
        info = json.loads(client.post("/sdapi/v1/img2img", json=other).json()["info"])
        assert info["notes"] == [note]
    files = {"photo": image, "mask": mask, "fill": image_of(answer)}
    for name, content in files.items():
        (tmp_path / name).with_suffix(".png").write_bytes(content)
    photo, hole, fill, again = (str(tmp_path / f"{name}.png") for name in (*files, "again"))
    command = ["inpaint", photo, "--mask", hole, "--output", again, "--from", fill]
    result = CliRunner().invoke(app, [*command, "--model", str(model)])
    assert result.exit_code == 0 and result.stderr == f"note: {note}\n"


def test_another_model_fills_when_it_is_named(
    client: TestClient, image: bytes, mask: bytes
) -> None:
    wanted = request_for("/v1/fill", text(image), text(mask)) | {"model": "telea"}
    answer = client.post("/v1/fill", json=wanted, headers={"accept": "application/json"})
    assert answer.json()["model"] == "telea"
    for name in ("../../etc", "/tmp", "owner/model", ""):
        answer = client.post("/v1/fill", json=wanted | {"model": name or " "})
        assert "unknown model" in problem_of(answer, 400)


def test_health_and_the_page_on_routes_need_no_other_host(client: TestClient) -> None:
    health = client.get("/health").json()
    assert health["status"] == "ok" and health["version"] == __version__
    assert health["models"][0] not in ("cats64", "") and "cats64" in health["models"]
    assert (health["waiting"], health["queue"], health["max_pixels"]) == (0, 8, 10_000)
    page = client.get("/docs").text
    assert "//" not in page and "<script" not in page
    described = client.get("/openapi.json").json()["paths"]
    assert all(f"POST {path}" in page and path in described for path in FILLING)
    assert "num_samples" in page and "sd_keep_unmasked_area" in page
