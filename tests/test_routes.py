"""Three families of routes: what their clients send and get, and what is refused."""

import asyncio
import base64
import ctypes
import gc
import io
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from typer.testing import CliRunner

from maskweave import __version__
from maskweave.cli.main import app
from maskweave.domain import UNLIKE, Probe
from maskweave.images import Hole, Pixels, decode_image
from maskweave.maskgit import DecodeSettings
from maskweave.masks import grown
from maskweave.pipeline import InpaintPipeline
from test_service import SOON, Stepwise

pytest.importorskip("fastapi", reason="the extra web is not installed")
import httpx
import uvicorn
from fastapi.testclient import TestClient

from maskweave.web.bodies import WholeBodies
from maskweave.web.routes import make_routes
from maskweave.web.service import Service

DOCS = Path(__file__).parents[1] / "docs" / "http-api.md"
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
def client(tiny_model: Path) -> Iterator[TestClient]:
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


def image_of(answer: httpx.Response) -> bytes:
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"] == "application/json":
        return base64.b64decode(answer.json()["images"][0])
    return answer.content


def problem_of(answer: httpx.Response, status: int) -> str:
    """Return the line of an error, which every answer but a good one holds as JSON."""
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert told.keys() == {"error", "detail", "body", "errors"}
    assert told["detail"] == told["errors"] and "\n" not in told["detail"]
    return told["detail"]


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
@pytest.mark.parametrize("path", FILLING)
def test_all_families_give_the_bytes_of_the_python_call(
    client: TestClient, image: bytes, mask: bytes, filled: Any, path: str, prefix: str
) -> None:
    answer = client.post(path, json=request_for(path, prefix + text(image), prefix + text(mask)))
    np.testing.assert_array_equal(pixels_of(image_of(answer)), filled(7))


# Maskweave's own


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


# IOPaint's


def test_iopaint_draws_seeds_and_tells_them(
    client: TestClient, image: bytes, mask: bytes, filled: Any
) -> None:
    wanted = request_for("/api/v1/inpaint", text(image), text(mask), -1)
    first, second = (client.post("/api/v1/inpaint", json=wanted) for _ in range(2))
    seeds = [int(answer.headers["X-Seed"]) for answer in (first, second)]
    assert seeds[0] != seeds[1] and all(1 <= seed <= 99_999_999 for seed in seeds)
    np.testing.assert_array_equal(pixels_of(first.content), filled(seeds[0]))
    del wanted["sd_seed"]
    assert client.post("/api/v1/inpaint", json=wanted).headers["X-Seed"] == "42"


def test_iopaint_takes_all_that_its_page_sends(
    client: TestClient, image: bytes, mask: bytes, filled: Any
) -> None:
    wanted = request_for("/api/v1/inpaint", text(image), text(mask)) | {
        "ldm_steps": 30, "ldm_sampler": "ddim", "zits_wireframe": True, "cv2_flag": "INPAINT_NS",
        "cv2_radius": 5, "hd_strategy": "Crop", "hd_strategy_crop_triger_size": 640,
        "hd_strategy_crop_margin": 128, "hd_trategy_resize_imit": 2048, "prompt": "a cat",
        "negative_prompt": "", "use_croper": False, "croper_x": 0, "croper_y": 0,
        "croper_height": 512, "croper_width": 512, "use_extender": False, "extender_x": 0,
        "extender_y": 0, "extender_height": 640, "extender_width": 640, "sd_mask_blur": 12,
        "sd_strength": 1.0, "sd_steps": 5, "sd_guidance_scale": 7.5, "sd_sampler": "DPM++ 2M",
        "sd_match_histograms": False, "sd_lcm_lora": False,
        "paint_by_example_example_image": None, "p2p_image_guidance_scale": 1.5,
        "enable_controlnet": False, "controlnet_conditioning_scale": 0.4, "controlnet_method": "",
        "enable_brushnet": False, "brushnet_method": "", "brushnet_conditioning_scale": 1.0,
        "powerpaint_task": "text-guided",
    }  # fmt: skip
    answer = client.post("/api/v1/inpaint", json=wanted)
    np.testing.assert_array_equal(pixels_of(image_of(answer)), filled(7, num_inference_steps=5))


def test_iopaint_changes_what_is_around_only_where_it_may(
    client: TestClient, image: bytes, mask: bytes, hole: Hole, photo: Pixels, filled: Any
) -> None:
    wanted = request_for("/api/v1/inpaint", text(image), text(mask))
    wanted |= {"sd_keep_unmasked_area": False, "sd_mask_blur": 0}
    painted = pixels_of(image_of(client.post("/api/v1/inpaint", json=wanted)))
    np.testing.assert_array_equal(painted, filled(7, keep_known=False))
    answer = client.post("/api/v1/inpaint", json=wanted | {"sd_mask_blur": 3})
    faded = pixels_of(image_of(answer)) != photo
    assert not faded[~grown(hole, 3)].any() and faded[grown(hole, 3) & ~hole].any()


def test_iopaint_answers_in_the_format_that_came(
    client: TestClient, photo: Pixels, mask: bytes, hole: Hole
) -> None:
    alpha = np.full(photo.shape[:2], 77, dtype=np.uint8)
    images = {
        "JPEG": encoded(photo, "JPEG"),
        "WEBP": encoded(photo, "WEBP", lossless=True),
        "PNG": encoded(np.dstack([photo, alpha])),
        "GIF": encoded(photo[:, :, 0], "GIF"),
    }
    for kind, image in images.items():
        wanted = request_for("/api/v1/inpaint", text(image), text(mask))
        answer = client.post("/api/v1/inpaint", json=wanted)
        written = kind if kind != "GIF" else "PNG"
        assert answer.headers["content-type"] == f"image/{written.lower()}"
        assert Image.open(io.BytesIO(answer.content)).format == written
        if kind == "PNG":
            picture = decode_image(io.BytesIO(answer.content), "it")
            assert picture.alpha is not None
            assert (picture.alpha[~hole] == 77).all() and (picture.alpha[hole] == 255).all()
        if kind != "JPEG":
            np.testing.assert_array_equal(pixels_of(answer.content)[~hole], pixels_of(image)[~hole])


def test_iopaint_refuses_masks_of_another_size_and_takes_127_as_known(
    client: TestClient, image: bytes, hole: Hole, filled: Any
) -> None:
    levels = np.where(hole, np.uint8(128), np.uint8(127))
    wanted = request_for("/api/v1/inpaint", text(image), text(encoded(levels)))
    np.testing.assert_array_equal(
        pixels_of(image_of(client.post("/api/v1/inpaint", json=wanted))), filled(7)
    )
    small = request_for("/api/v1/inpaint", text(image), text(encoded(levels[1:])))
    line = problem_of(client.post("/api/v1/inpaint", json=small), 400)
    assert line == "the mask is 36x23 pixels, the image 36x24"


def test_iopaint_tells_of_the_model_and_of_no_plugins(client: TestClient) -> None:
    model = client.get("/api/v1/model").json()
    config = client.get("/api/v1/server-config").json()
    assert config["modelInfos"] == [model] and config["plugins"] == []
    assert model["model_type"] == "inpaint" and model["need_prompt"] is False
    assert "/" not in model["path"]
    samplers = client.get("/api/v1/samplers").json()
    assert samplers == config["samplers"] == client.post("/api/v1/samplers").json()
    assert "confidence" in samplers


def test_iopaint_adjusts_masks(client: TestClient, mask: bytes, hole: Hole) -> None:
    expected = {"expand": grown(hole, 2), "shrink": ~grown(~hole, 2), "reverse": ~hole}
    for operate, wanted in expected.items():
        asked = {"mask": text(mask), "operate": operate, "kernel_size": 2}
        answer = client.post("/api/v1/adjust_mask", json=asked)
        assert answer.headers["content-type"] == "image/png"
        painted = decode_image(io.BytesIO(answer.content), "it")
        np.testing.assert_array_equal(painted.transparent, ~wanted)
    refused = client.post("/api/v1/adjust_mask", json={"mask": text(mask), "operate": "melt"})
    assert "operate" in problem_of(refused, 422)


def test_iopaint_s_flag_chooses_between_the_methods_of_opencv(image: bytes, mask: bytes) -> None:
    with TestClient(make_routes(Service("telea"), "0")) as client:
        wanted = request_for("/api/v1/inpaint", text(image), text(mask)) | {"sd_steps": 50}
        fills = [
            image_of(client.post("/api/v1/inpaint", json=wanted | flag))
            for flag in ({}, {"cv2_flag": "INPAINT_TELEA"}, {"cv2_flag": "INPAINT_NS"})
        ]
        assert fills[0] == fills[1] != fills[2]


# AUTOMATIC1111's


def test_automatic1111_gives_seeds_that_follow_each_other(
    client: TestClient, image: bytes, mask: bytes, filled: Any
) -> None:
    wanted = request_for("/sdapi/v1/img2img", text(image), text(mask))
    wanted |= {"batch_size": 2, "n_iter": 2, "prompt": "a cat", "steps": 20, "width": 512,
               "height": 512, "sampler_name": "Euler a", "inpaint_full_res": True,
               "inpaint_full_res_padding": 32, "script_args": []}  # fmt: skip
    answer = client.post("/sdapi/v1/img2img", json=wanted).json()
    info = json.loads(answer["info"])
    assert answer.keys() == {"images", "parameters", "info"}
    assert info["seed"] == 7 and info["all_seeds"] == [7, 8, 9, 10]
    assert (info["width"], info["height"]) == (36, 24)
    assert any("prompt is ignored" in note for note in info["notes"])
    assert "init_images" not in answer["parameters"] and answer["parameters"]["batch_size"] == 2
    for seed, each in zip(info["all_seeds"], answer["images"], strict=True):
        np.testing.assert_array_equal(pixels_of(base64.b64decode(each)), filled(seed))


def test_automatic1111_draws_seeds_and_repeats_what_was_sent(
    client: TestClient, image: bytes, mask: bytes, filled: Any
) -> None:
    wanted = request_for("/sdapi/v1/img2img", text(image), text(mask), -1)
    answer = client.post("/sdapi/v1/img2img", json=wanted | {"include_init_images": True})
    seed = json.loads(answer.json()["info"])["seed"]
    assert answer.json()["parameters"]["init_images"] == [text(image)]
    np.testing.assert_array_equal(pixels_of(image_of(answer)), filled(seed))
    answer = client.post("/sdapi/v1/img2img", json=wanted | {"send_images": False})
    assert answer.json()["images"] == []


def test_automatic1111_masks_may_be_inverted_soft_and_of_another_size(
    client: TestClient, image: bytes, hole: Hole, photo: Pixels, filled: Any
) -> None:
    double = encoded((hole.astype(np.uint8) * 255).repeat(2, axis=0).repeat(2, axis=1))
    wanted = request_for("/sdapi/v1/img2img", text(image), text(double))
    answer = client.post("/sdapi/v1/img2img", json=wanted)
    np.testing.assert_array_equal(pixels_of(image_of(answer)), filled(7))
    turned = request_for("/sdapi/v1/img2img", text(image), text(encoded(~hole)))
    answer = client.post("/sdapi/v1/img2img", json=turned | {"inpainting_mask_invert": 1})
    np.testing.assert_array_equal(pixels_of(image_of(answer)), filled(7))
    soft = client.post("/sdapi/v1/img2img", json=wanted | {"mask_blur": 2})
    changed = pixels_of(image_of(soft)) != photo
    assert changed[grown(hole, 2) & ~hole].any() and not changed[~grown(hole, 2)].any()


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_automatic1111_gives_the_size_that_is_asked_for(
    client: TestClient, image: bytes, mask: bytes, filled: Any, mode: int
) -> None:
    wanted = request_for("/sdapi/v1/img2img", text(image), text(mask))
    wanted |= {"inpaint_full_res": False, "resize_mode": mode, "width": 48, "height": 24}
    answer = client.post("/sdapi/v1/img2img", json=wanted)
    pixels = pixels_of(image_of(answer))
    assert pixels.shape == (24, 48, 3)
    assert json.loads(answer.json()["info"])["width"] == 48
    if mode == 2:  # the photo is as high as is asked for
        np.testing.assert_array_equal(pixels[:, 6:42], filled(7))
        np.testing.assert_array_equal(pixels[:, 0], filled(7)[:, 0])
    large = client.post("/sdapi/v1/img2img", json=wanted | {"width": 10**6})
    assert "more than the 10000 allowed" in problem_of(large, 413)


def test_automatic1111_answers_what_clients_ask_for_at_their_start(client: TestClient) -> None:
    models = client.get("/sdapi/v1/sd-models").json()
    model = client.get("/sdapi/v1/options").json()["sd_model_checkpoint"]
    assert models[0]["title"] == model
    assert {"title", "model_name", "hash", "sha256", "filename", "config"} == models[0].keys()
    assert client.get("/sdapi/v1/samplers").json()[0].keys() == {"name", "aliases", "options"}
    progress = client.get("/sdapi/v1/progress").json()
    assert progress["progress"] == 0 and progress["state"]["job_count"] == 0
    assert client.get("/sdapi/v1/scripts").json()["txt2img"] == []
    for name in ("upscalers", "loras", "sd-vae"):
        assert client.get(f"/sdapi/v1/{name}").json() == []
    kept = client.post("/sdapi/v1/options", json={"sd_model_checkpoint": model, "other": 1})
    assert kept.status_code == 200 and kept.json() is None
    refused = client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "telea"})
    assert "override_settings" in problem_of(refused, 400)


def test_automatic1111_chooses_a_model_for_a_request(
    client: TestClient, image: bytes, mask: bytes
) -> None:
    wanted = request_for("/sdapi/v1/img2img", text(image), text(mask))
    chosen = wanted | {"override_settings": {"sd_model_checkpoint": "telea"}}
    info = json.loads(client.post("/sdapi/v1/img2img", json=chosen).json()["info"])
    assert info["sd_model_name"] == "telea"
    for name, status in (("../secret", 400), (["telea"], 422), ({"a": 1}, 422)):
        chosen = wanted | {"override_settings": {"sd_model_checkpoint": name}}
        answer = client.post("/sdapi/v1/img2img", json=chosen)
        assert "model" in problem_of(answer, status)


def test_automatic1111_takes_nulls_and_settings_that_mean_nothing_here(
    client: TestClient, image: bytes, mask: bytes, filled: Any
) -> None:
    deep: dict[str, Any] = {}
    for _ in range(300):
        deep = {"a": deep}
    wanted = request_for("/sdapi/v1/img2img", text(image), text(mask))
    wanted |= dict.fromkeys(["batch_size", "n_iter", "width", "inpaint_full_res", "resize_mode"])
    for settings in (None, {"CLIP_stop_at_last_layers": 2}, {"deep": deep}):
        answer = client.post("/sdapi/v1/img2img", json=wanted | {"override_settings": settings})
        np.testing.assert_array_equal(pixels_of(image_of(answer)), filled(7))


# What is refused


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


# A server, over sockets


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


# The page that tells of all this


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
