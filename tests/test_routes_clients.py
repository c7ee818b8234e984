"""Routes of IOPaint and AUTOMATIC1111: what their clients send and get."""

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskweave.images import Hole, Pixels, decode_image
from maskweave.masks import grown
from routes import encoded, image_of, pixels_of, problem_of, request_for, text

pytest.importorskip("fastapi", reason="the extra web is not installed")
from fastapi.testclient import TestClient

from maskweave.web.routes import make_routes
from maskweave.web.service import Service

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
