"""Labels, prompts and guidance: through every seam to the transformer, and back from every file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from commands import run
from conftest import tiny_pipeline
from maskweave.errors import MaskweaveError
from maskweave.fill import fill_batch, guidance, guided
from maskweave.maskgit import DecodeSettings
from maskweave.pipeline import InpaintPipeline
from maskweave.recall import read_recipe
from maskweave.transformer import BidirectionalTransformer, TransformerConfig

NAMES = ("cat", "dog", "7")
CLASSES = TransformerConfig(
    codebook_size=32, grid=(4, 4), dim=16, depth=2, heads=2, mlp_dim=32, classes=3,
    class_names=NAMES,
)  # fmt: skip


def conditional() -> InpaintPipeline:
    """Return a model of 16x16 images of three classes, which decide a lot."""
    tokenizer = tiny_pipeline().tokenizer
    transformer = BidirectionalTransformer(CLASSES)
    for parameter in transformer.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.3)
    return InpaintPipeline(tokenizer, transformer)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conditional")
    conditional().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("photo"), np.random.default_rng(0)
    pixels = rng.integers(0, 256, (16, 16, 4), dtype=np.uint8)
    pixels[:, :, 3] = 255
    pixels[4:12, 4:12, 3] = 0
    Image.fromarray(pixels).save(folder / "photo.png")
    return folder / "photo.png"


def batch() -> tuple[Tensor, Tensor]:
    hole = torch.zeros(2, 16, 16, dtype=torch.bool)
    hole[:, 3:13, 4:12] = True
    return torch.rand(2, 3, 16, 16) * 2 - 1, hole


def fill(pipeline: InpaintPipeline, label: int | None, **settings: Any) -> Tensor:
    images, hole = batch()
    resolved = pipeline.settings(label=label, steps=3, **settings)
    condition = pipeline.transformer.condition(label, None)
    parts = (pipeline.tokenizer, pipeline.transformer, images * 0, hole, [0, 1], resolved)
    with torch.inference_mode():
        *_, last = fill_batch(*parts, condition=condition)
    assert last.images is not None
    return last.images


def test_a_label_stands_for_one_image_or_for_each_of_a_batch() -> None:
    transformer = conditional().transformer.eval()
    tokens = torch.randint(33, (3, 16))
    with torch.inference_mode():
        null = transformer(tokens)
        one = [transformer(tokens, condition=transformer.condition(i, None)) for i in range(3)]
        each = transformer(tokens, condition=torch.tensor([2, 3, 0]))
    torch.testing.assert_close(each, torch.stack([one[2][0], null[1], one[0][2]]))
    assert (one[0] - one[1]).abs().max() > 0.1
    assert (one[0] - null).abs().max() > 0.1


@pytest.mark.parametrize("paint", ["sampled", "expected"])
def test_guidance_is_null_and_further_than_the_condition(paint: str) -> None:
    pipeline = conditional()

    def filled(label: int | None, scale: float) -> Tensor:
        return fill(
            pipeline, label, paint=paint, guidance_scale=scale, guidance_schedule="constant"
        )

    plain = filled(1, 1.0)
    assert torch.equal(filled(1, 0.0), filled(None, 1.0))
    assert torch.equal(filled(None, 9.0), filled(None, 1.0))
    assert not torch.equal(plain, filled(None, 1.0))
    assert not torch.equal(plain, filled(1, 9.0))


def test_without_guidance_there_is_one_pass_and_with_it_there_are_two() -> None:
    pipeline, passes = conditional(), []
    pipeline.transformer.register_forward_hook(lambda *_: passes.append(1))
    for label, scale, expected in ((1, 1.0, 3), (None, 4.0, 3), (1, 4.0, 6)):
        passes.clear()
        fill(pipeline, label, guidance_scale=scale)
        assert len(passes) == expected


def test_the_scale_rises_to_its_value_in_the_last_step() -> None:
    settings = DecodeSettings(steps=4, guidance_scale=5.0)
    scales = [guidance(settings, k / 4) for k in range(4)]
    assert scales == [2.0, 3.0, 4.0, 5.0]
    constant = DecodeSettings(steps=4, guidance_scale=5.0, guidance_schedule="constant")
    assert [guidance(constant, k / 4) for k in range(4)] == [5.0] * 4
    assert guidance(DecodeSettings(steps=1, guidance_scale=5.0), 0.0) == 5.0


def test_codes_that_are_banned_stay_so_under_guidance() -> None:
    def predicts(*logits: float) -> Callable[..., Tensor]:
        return lambda *_: torch.tensor([logits])

    banned = float("-inf")
    predict = guided(predicts(1.0, 2.0, banned), predicts(0.0, 3.0, banned), lambda _: 2.0)
    tokens = torch.zeros(1, 1, dtype=torch.long)
    assert torch.equal(predict(tokens, tokens > 0, 0.0), torch.tensor([[2.0, 1.0, banned]]))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"label": 3}, "label 3 is not in 0 to 2"),
        ({"label": "3"}, "label 3 is not in 0 to 2"),
        ({"label": "horse"}, "unknown label 'horse': there are cat, dog, 7"),
        ({"label": -1}, "label should be greater than or equal to 0, got -1"),
        ({"label": "-1"}, "unknown label '-1': there are cat, dog, 7"),
        ({"label": 1.5}, "label should be a valid integer, got 1.5"),
        ({"prompt": "a cat"}, "this model takes no prompt"),
        ({"guidance_scale": -1.0}, "guidance_scale should be greater than or equal to 0, got -1.0"),
        ({"guidance_scale": 1e9}, "guidance_scale should be less than or equal to 1000"),
        ({"guidance_schedule": "falling"}, "guidance_schedule should be 'rising' or 'constant'"),
    ],
)
def test_what_the_model_does_not_take_is_one_line(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(MaskweaveError) as caught:
        conditional().settings(**settings)
    assert str(caught.value).startswith(line)


def test_a_label_is_a_name_or_a_number() -> None:
    pipeline = conditional()
    given = [pipeline.settings(label=label).label for label in ("dog", "1", 1, "7", "0", None)]
    assert given == [1, 1, 1, 2, 0, None]


def test_class_names_are_as_many_as_classes() -> None:
    with pytest.raises(MaskweaveError, match="2 class_names for 3 classes"):
        TransformerConfig(classes=3, class_names=("a", "b"))


@pytest.mark.parametrize("model_of", ["no classes", "a method"])
@pytest.mark.parametrize("option", ["--label", "--prompt"])
def test_a_model_that_takes_no_condition_says_so(
    tiny_model: Path, photo: Path, tmp_path: Path, model_of: str, option: str
) -> None:
    model = tiny_model if model_of == "no classes" else "telea"
    result = run("inpaint", photo, "--model", model, option, "0", "--output", tmp_path / "out.png")
    assert result.exit_code == 2 and result.stdout == "" and result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ") and option[2:] in result.stderr
    assert not (tmp_path / "out.png").exists()


def test_python_command_line_and_replay_give_the_same_bytes(
    model: Path, photo: Path, tmp_path: Path
) -> None:
    out, rows = tmp_path / "out", tmp_path / "rows.jsonl"
    told = ("--label", "dog", "--guidance", 3, "--steps", 4)
    result = run(
        "inpaint", photo, "--model", model, *told, "--output", f"{out}/", "--manifest", rows
    )
    assert result.exit_code == 0, result.output
    row = json.loads(rows.read_text())
    decoding = json.loads(row["recipe"])["decoding"]
    assert (decoding["label"], decoding["guidance_scale"]) == (1, 3.0)
    again = run("inpaint", "--replay", rows, "--model", model, "--output", tmp_path / "again/")
    assert again.exit_code == 0, again.output
    filled = np.asarray(Image.open(out / "photo.png"))
    assert np.array_equal(filled, np.asarray(Image.open(tmp_path / "again" / "photo.png")))
    pipeline, seed = InpaintPipeline.from_pretrained(model), row["seed"]

    def call(**settings: Any) -> np.ndarray:
        generator = torch.Generator().manual_seed(0)
        return np.asarray(
            pipeline(
                Image.open(photo), generator=generator, num_inference_steps=4, **settings
            ).images[0]
        )

    assert seed is not None
    assert np.array_equal(call(label=1, guidance_scale=3), call(label="dog", guidance_scale=3.0))
    assert not np.array_equal(call(label=1, guidance_scale=3), call())


def test_http_carries_them_into_the_file_that_repeats_the_fill(
    model: Path, photo: Path, tmp_path: Path
) -> None:
    pytest.importorskip("fastapi", reason="the extra web is not installed")
    from fastapi.testclient import TestClient

    from maskweave.web.routes import make_routes
    from maskweave.web.service import Service

    fields = {"seed": "5", "label": "dog", "guidance_scale": "2.5", "steps": "3"}
    with TestClient(make_routes(Service(str(model)), "0")) as client:

        def post(**fields: str) -> Any:
            return client.post("/v1/fill", data=fields, files={"image": photo.read_bytes()})

        answer, by_number = post(**fields), post(**fields | {"label": "1"})
        other = post(**fields | {"label": "0"})
        wrong = post(label="horse")
    assert answer.status_code == 200 and answer.content == by_number.content
    assert answer.content != other.content
    assert wrong.status_code == 400 and "unknown label 'horse'" in wrong.json()["detail"]
    file, again = tmp_path / "filled.png", tmp_path / "again.png"
    file.write_bytes(answer.content)
    assert read_recipe(file).decode_settings.label == 1
    result = run("inpaint", photo, "--from", file, "--model", model, "--output", again)
    assert result.exit_code == 0, result.output
    assert np.array_equal(np.asarray(Image.open(file)), np.asarray(Image.open(again)))
    assert read_recipe(file) == read_recipe(again)


def test_settings_of_before_are_read_as_before() -> None:
    """Recipes and models that were written without further settings have the usual ones."""
    old = DecodeSettings()
    assert (old.label, old.prompt, old.guidance_scale) == (None, None, 1.0)
    assert (old.context, old.levels) == (0.25, None)
