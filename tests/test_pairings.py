"""Whole models of other projects fill a cat, and every law holds for them."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import chelsea

from commands import run
from maskweave.checkpoint import identity
from maskweave.cli.demo import FACE
from maskweave.convert.halton import HEADS
from maskweave.errors import MaskweaveError
from maskweave.export import write_model
from maskweave.pipeline import InpaintPipeline


class Pairing(NamedTuple):
    family: str
    files: dict[str, str]
    """Files of the parts below the golden cases; none where the whole folder is given."""
    told: tuple[dict[str, Any], dict[str, Any]]
    """Two conditions."""
    refused: dict[str, Any]
    """A condition that the model does not take."""
    message: str


PAIRINGS = [
    Pairing(
        "google",
        {
            "tokenizer": "google_maskgit/tokenizer_imagenet256_checkpoint",
            "transformer": "google_maskgit/maskgit_imagenet256_checkpoint",
        },
        ({"label": 3}, {"label": 7}),
        {"label": 10},
        "label 10 is not in 0 to 9",
    ),
    Pairing(
        "halton",
        {
            "tokenizer": "llamagen_vq/vq_ds16_c2i.pt",
            "transformer": "halton_maskgit/ImageNet_256_tiny.pth",
        },
        ({"label": 3}, {"label": 7}),
        {"prompt": "a cat"},
        "this model takes no prompt",
    ),
    Pairing(
        "amused",
        {},
        ({"prompt": "a cat"}, {"prompt": "a dog in the snow"}),
        {"label": 3},
        "this model takes no label",
    ),
]


@pytest.fixture(params=PAIRINGS, ids=lambda pairing: pairing.family)
def pairing(request: pytest.FixtureRequest) -> Pairing:
    return request.param


@pytest.fixture
def model(pairing: Pairing, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return the folder that the command makes of a pairing."""
    output = tmp_path / "model"
    if pairing.files:
        golden = request.getfixturevalue("shared") / "golden"
        given = [x for part, file in pairing.files.items() for x in (f"--{part}", golden / file)]
        heads = ("--heads", 4) if pairing.family == "halton" else ()
        result = run("convert", pairing.family, *given, *heads, "--output", output)
    else:
        result = run("convert", "--model", request.getfixturevalue("amused_folder"), "--output",
                     output)  # fmt: skip
    assert result.exit_code == 0, (result.output, result.exception)
    return output


def cat(pipeline: InpaintPipeline) -> tuple[np.ndarray, np.ndarray]:
    """Return a cat's face at the model's size and a hole of two tokens by one, off the patches."""
    height, width = pipeline.tokenizer.image_size
    face = Image.fromarray(chelsea()).crop(FACE).resize((width, height))
    hole = np.zeros((height, width), bool)
    patch = pipeline.tokenizer.patch_size
    hole[1 : 2 * patch, 1:patch] = True
    return np.array(face), hole


def fill(pipeline: InpaintPipeline, photo: np.ndarray, hole: np.ndarray, **more: Any) -> np.ndarray:
    seed = torch.Generator().manual_seed(more.pop("seed", 0))
    options = {"num_inference_steps": 4} | more
    return np.array(pipeline(photo, hole, generator=seed, **options).images[0])


def test_known_pixels_stay_and_hidden_ones_change_nothing(
    pairing: Pairing, model: Path, rng: np.random.Generator
) -> None:
    pipeline = InpaintPipeline.from_pretrained(model)
    photo, hole = cat(pipeline)
    other = np.where(hole[..., None], rng.integers(0, 256, photo.shape, np.uint8), photo)
    for told in ({}, *pairing.told):
        filled = fill(pipeline, photo, hole, **told)
        assert np.array_equal(filled[~hole], photo[~hole])
        assert not np.array_equal(filled[hole], photo[hole])
        assert np.array_equal(fill(pipeline, other, hole, **told), filled)


def test_known_tokens_stay(pairing: Pairing, model: Path) -> None:
    pipeline = InpaintPipeline.from_pretrained(model)
    photo, hole = cat(pipeline)
    where = torch.from_numpy(hole)[None]
    known = torch.from_numpy(photo).permute(2, 0, 1)[None] / 127.5 - 1
    tokens = pipeline.tokenizer.encode_known(known, where)
    masked = pipeline.tokenizer.token_mask(where)
    assert pipeline.tokenizer.dilation and 0 < (~masked).sum() < masked.numel() - 2
    steps: list[torch.Tensor] = []

    def keep(_pipeline: InpaintPipeline, _number: int, _left: int, tensors: dict[str, Any]) -> None:
        steps.append(tensors["tokens"])

    for order in ("confidence", "halton", "random"):
        fill(pipeline, photo, hole, **pairing.told[0], order=order, callback_on_step_end=keep)
    assert len(steps) == 12
    for step in steps:
        assert torch.equal(step[~masked], tokens[~masked])
        assert ((step[masked] >= 0) & (step[masked] <= pipeline.tokenizer.codebook_size)).all()


def test_a_seed_is_a_promise_that_a_model_saved_and_loaded_keeps(
    pairing: Pairing, model: Path, tmp_path: Path
) -> None:
    pipeline = InpaintPipeline.from_pretrained(model)
    photo, hole = cat(pipeline)
    filled = fill(pipeline, photo, hole, **pairing.told[0])
    assert np.array_equal(fill(pipeline, photo, hole, **pairing.told[0]), filled)
    others = [fill(pipeline, photo, hole, seed=seed, **pairing.told[0]) for seed in (1, 2)]
    assert not all(np.array_equal(other, filled) for other in others)
    pipeline.save_pretrained(tmp_path / "saved")
    again = InpaintPipeline.from_pretrained(tmp_path / "saved")
    assert np.array_equal(fill(again, photo, hole, **pairing.told[0]), filled)
    parts = [(each.tokenizer, each.transformer) for each in (pipeline, again)]
    assert identity(*parts[0]) == identity(*parts[1])


def test_what_is_told_and_how_much_it_guides_matters(pairing: Pairing, model: Path) -> None:
    pipeline = InpaintPipeline.from_pretrained(model)
    photo, hole = cat(pipeline)
    fills = [
        fill(pipeline, photo, hole, **told, guidance_scale=scale, token_temperature=0)
        for told, scale in (
            ({}, 1),
            (pairing.told[0], 1),
            (pairing.told[1], 1),
            (pairing.told[0], 20),
        )
    ]
    assert len({each.tobytes() for each in fills}) == 4
    with pytest.raises(MaskweaveError, match=pairing.message):
        fill(pipeline, photo, hole, **pairing.refused)


def test_the_command_fills(pairing: Pairing, model: Path, tmp_path: Path) -> None:
    pipeline = InpaintPipeline.from_pretrained(model)
    photo, hole = cat(pipeline)
    Image.fromarray(photo).save(tmp_path / "cat.png")
    Image.fromarray(hole).save(tmp_path / "hole.png")
    told = [x for name, value in pairing.told[0].items() for x in (f"--{name}", value)]
    result = run(
        *("inpaint", tmp_path / "cat.png", "--mask", tmp_path / "hole.png", "--model", model),
        *("--output", tmp_path / "filled.png", "--steps", 2, *told),
    )
    assert result.exit_code == 0, (result.output, result.exception)
    filled = np.array(Image.open(tmp_path / "filled.png"))
    assert np.array_equal(filled[~hole], photo[~hole])


def test_graphs_of_them_are_refused_by_name(pairing: Pairing, model: Path, tmp_path: Path) -> None:
    name = json.loads((model / "transformer" / "config.json").read_text())["architecture"]
    with pytest.raises(MaskweaveError, match=f"{name} is not exported"):
        write_model(model, "onnx", tmp_path / "graphs")
    with pytest.raises(MaskweaveError, match=f"{name} runs by torch alone"):
        InpaintPipeline.from_pretrained(model, backend="onnx")
    assert not (tmp_path / "graphs").exists()


def test_a_folder_as_published_fills_at_once(
    pairing: Pairing,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(HEADS, (64, 3), 4)  # as if the case were a size that the project names
    if pairing.files:
        folder = tmp_path / "published"
        folder.mkdir()
        for file in pairing.files.values():
            shutil.copy(request.getfixturevalue("shared") / "golden" / file, folder)
    else:
        folder = request.getfixturevalue("amused_folder")
    pipeline = InpaintPipeline.from_pretrained(folder)
    photo, hole = cat(pipeline)
    filled = fill(pipeline, photo, hole, **pairing.told[0])
    assert np.array_equal(filled[~hole], photo[~hole])


def test_models_tells_family_and_licence(pairing: Pairing, model: Path) -> None:
    [row] = json.loads(run("models", model, "--json").stdout)
    assert (row["family"], row["parts"]) == (pairing.family, "tokenizer and transformer")
    assert row["licence"] and row["domain"] and row["megabytes"] > 0 and row["image_size"]
