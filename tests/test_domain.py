"""A model says what it is for, and a photo that it is not for is noted, by known pixels alone."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage.data import astronaut, chelsea, coffee
from typer.testing import CliRunner

from conftest import tiny_pipeline
from maskweave.cli.demo import FACE
from maskweave.cli.main import app
from maskweave.crops import as_floats, plan_crops, shrink
from maskweave.domain import FILE, Probe, load_probe, traits
from maskweave.errors import MaskweaveError
from maskweave.evaluation.examples import by_stem, read_rgb, spread
from maskweave.files import read_json, write_json
from maskweave.holes import draw_hole
from maskweave.images import Hole, Pixels
from maskweave.pipeline import InpaintPipeline

NOTE = "around the hole this looks unlike what the model is for (faces of cats, 64x64); the model"


@pytest.fixture(scope="module")
def cats64() -> InpaintPipeline:
    return InpaintPipeline.from_pretrained("cats64")


def cat() -> Pixels:
    return np.array(Image.fromarray(chelsea()).crop(FACE))


def plain() -> Pixels:
    return np.full((400, 600, 3), (40, 80, 200), np.uint8)


def middle(photo: Pixels) -> Hole:
    height, width, _ = photo.shape
    hole = np.zeros((height, width), bool)
    hole[height // 3 : height // 2, width // 3 : width // 2] = True
    return hole


def noted(pipeline: InpaintPipeline, *photos: Pixels) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipeline([*photos], [middle(photo) for photo in photos], paint="expected")
    return [str(each.message) for each in caught]


def always(pipeline: InpaintPipeline) -> Probe:
    return Probe(torch.zeros(2 * pipeline.transformer.config.dim), torch.tensor(1.0))


def test_photos_that_a_model_is_not_for_are_noted_once_each(cats64: InpaintPipeline) -> None:
    assert noted(cats64, cat()) == []
    notes = noted(cats64, astronaut(), cat(), plain())
    assert len(notes) == 2
    assert all(note.startswith(NOTE) and "navier-stokes" in note for note in notes)


def test_nothing_is_read_under_the_hole(pipeline: InpaintPipeline) -> None:
    rng = np.random.default_rng(0)
    images = torch.stack([as_floats(rng.integers(0, 256, (16, 16, 3), np.uint8)) for _ in "ab"])
    hole = torch.zeros(2, 16, 16, dtype=torch.bool)
    hole[:, 2:7, 3:14] = True
    other = torch.where(hole[:, None], torch.rand(2, 3, 16, 16), images)
    parts = pipeline.tokenizer, pipeline.transformer
    seen = traits(*parts, images, hole)
    assert seen.shape == (2, 2 * pipeline.transformer.config.dim)
    assert torch.equal(seen, traits(*parts, other, hole))
    assert torch.allclose(seen[1:], traits(*parts, images[1:], hole[1:]), atol=1e-5)


def test_models_without_a_probe_and_photos_without_a_known_pixel_have_no_note() -> None:
    pipeline = tiny_pipeline()
    photo = np.zeros((16, 16, 3), np.uint8)
    assert noted(pipeline, photo) == []
    pipeline.probe = always(pipeline)
    assert len(noted(pipeline, photo)) == 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipeline(photo, np.ones((16, 16), bool))
    assert not any("unlike" in str(each.message) for each in caught)


def test_domain_and_probe_are_saved_with_a_model(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path / "plain")
    assert InpaintPipeline.from_pretrained(tmp_path / "plain").domain is None
    pipeline.domain, pipeline.probe = "left shoes, 16x16", always(pipeline)
    pipeline.save_pretrained(tmp_path / "model", torch.float16)
    loaded = InpaintPipeline.from_pretrained(tmp_path / "model")
    assert loaded.domain == "left shoes, 16x16"
    assert loaded.probe is not None
    assert all(map(torch.equal, loaded.probe, pipeline.probe))


@pytest.mark.parametrize("domain", [3, ["cats"], "two\nlines"])
def test_a_domain_that_is_no_line_of_text_is_refused(domain: object, tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    write_json(file, read_json(file) | {"domain": domain})
    with pytest.raises(MaskweaveError, match="domain is a line of text"):
        InpaintPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "tensors",
    [
        {"weight": torch.zeros(8)},
        {"weight": torch.zeros(6), "bias": torch.zeros(())},
        {"weight": torch.full((8,), torch.nan), "bias": torch.zeros(())},
        {"weight": torch.zeros(8), "bias": torch.zeros(()), "more": torch.zeros(())},
    ],
)
def test_a_probe_that_does_not_fit_is_refused(
    tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    assert load_probe(tmp_path, 4) is None
    save_file(tensors, tmp_path / FILE)
    with pytest.raises(MaskweaveError, match="does not fit the model"):
        load_probe(tmp_path, 4)
    (tmp_path / FILE).write_bytes(b"broken")
    with pytest.raises(MaskweaveError, match="cannot read"):
        load_probe(tmp_path, 4)


def test_the_command_notes_it_and_fills_all_the_same(tmp_path: Path) -> None:
    for name, photo in {"cat": cat(), "cup": coffee()}.items():
        Image.fromarray(photo).save(tmp_path / f"{name}.png")
        Image.fromarray(middle(photo)).save(tmp_path / f"{name}_mask.png")
        files = [tmp_path / f"{name}{end}.png" for end in ("", "_mask", "_out")]
        command = ["inpaint", files[0], "--mask", files[1], "--output", files[2]]
        command += ["--model", "cats64", "--json"]
        result = CliRunner().invoke(app, [str(word) for word in command])
        assert result.exit_code == 0, result.output
        [job] = json.loads(result.stdout)["images"]
        notes = [note for note in job["notes"] if note.startswith(NOTE)]
        assert len(notes) == (name == "cup")
        assert result.stderr.count(NOTE) == len(notes)


@pytest.mark.slow
def test_most_other_photos_are_told_from_cats(cats64: InpaintPipeline, shared: Path) -> None:
    assert cats64.probe is not None
    shares: dict[str, float] = {}
    for name, folder in {"cats64": "val", "photos": "val"}.items():
        pieces = []
        for seed, file in enumerate(
            spread(list(by_stem(shared / "data" / name / folder).values()), 100)
        ):
            photo = read_rgb(file)
            hole = draw_hole(
                ("thin", "box", "thick")[seed % 3], *photo.shape[:2], np.random.default_rng(seed)
            )
            crop = plan_crops(hole, 64)[0]
            pieces.append(shrink(crop.window(photo), crop.window(hole), (64, 64)))
        known, hole = (torch.stack(each) for each in zip(*pieces, strict=True))
        seen = traits(cats64.tokenizer, cats64.transformer, known, hole)
        shares[name] = cats64.probe.foreign(seen).float().mean().item()
    assert shares["cats64"] <= 0.04 and shares["photos"] >= 0.7, shares
