"""The command line: what it writes, what it prints, and how it refuses."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from commands import fails, run
from maskweave import __version__
from maskweave.images import read_image
from maskweave.masks import read_mask


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Three photos of different sizes with masks of the same stems."""
    (tmp_path / "masks").mkdir()
    (tmp_path / "images").mkdir()
    for name, (height, width) in {"a": (16, 16), "b": (20, 30), "c": (16, 16)}.items():
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        hole = np.zeros((height, width), dtype=np.uint8)
        hole[4:12, 3:9] = 255
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(hole).save(tmp_path / "masks" / f"{name}.png")
    return tmp_path


def test_one_image_is_filled_and_only_in_its_hole(photos: Path, tiny_model: Path) -> None:
    image, mask, output = photos / "images/b.png", photos / "masks/b.png", photos / "new/out.png"
    result = run("inpaint", image, "--mask", mask, "--output", output, "--model", tiny_model)
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [str(output)]
    before, after, hole = read_image(image).pixels, read_image(output).pixels, read_mask(mask).hole
    assert np.array_equal(before[~hole], after[~hole])
    assert not np.array_equal(before[hole], after[hole])


def test_the_same_seed_writes_the_same_bytes_in_a_folder_and_alone(
    photos: Path, tiny_model: Path
) -> None:
    common = ("--model", tiny_model, "--seed", 3)
    folder = run(
        "inpaint", photos / "images", "--mask", photos / "masks", "--output", photos / "all",
        "--batch-size", 2, *common,
    )  # fmt: skip
    assert folder.exit_code == 0, folder.output
    assert sorted(p.name for p in (photos / "all").iterdir()) == ["a.png", "b.png", "c.png"]
    for name in "abc":
        image, mask = photos / "images" / f"{name}.png", photos / "masks" / f"{name}.png"
        alone = photos / f"{name}.png"
        assert run("inpaint", image, "--mask", mask, "--output", alone, *common).exit_code == 0
        assert alone.read_bytes() == (photos / "all" / f"{name}.png").read_bytes()


def test_samples_and_steps_are_numbered(photos: Path, tiny_model: Path) -> None:
    result = run(
        "inpaint", photos / "images/a.png", "--mask", photos / "masks", "--output", photos / "out",
        "--model", tiny_model, "--num-samples", 2, "--steps", 3, "--stop-after", 2, "--save-steps",
        "--schedule", "linear", "--temperature", 2.5, "--token-temperature", 0, "--device", "cpu",
        "--dtype", "bfloat16",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    names = [f"a_{i}{end}.png" for i in (1, 2) for end in ("", "_step_01", "_step_02")]
    assert sorted(p.name for p in (photos / "out").iterdir()) == sorted(names)
    assert sorted(result.stdout.split()) == sorted(str(photos / "out" / name) for name in names)
    last, step = (read_image(photos / "out" / f"a_1{end}.png") for end in ("", "_step_02"))
    assert np.array_equal(last.pixels, step.pixels)


def test_an_inverted_mask_is_the_same_as_its_opposite(photos: Path, tiny_model: Path) -> None:
    opposite = 255 - np.array(Image.open(photos / "masks/a.png"))
    Image.fromarray(opposite).save(photos / "opposite.png")
    for mask, output, more in (("masks/a", "1", ()), ("opposite", "2", ("--invert-mask",))):
        result = run(
            "inpaint", photos / "images/a.png", "--mask", photos / f"{mask}.png",
            "--output", photos / f"{output}.png", "--model", tiny_model, *more,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
    assert (photos / "1.png").read_bytes() == (photos / "2.png").read_bytes()


def test_json_is_all_there_is_on_stdout(photos: Path, tiny_model: Path) -> None:
    result = run(
        "inpaint", photos / "images/a.png", "--mask", photos / "masks/a.png",
        "--output", photos / "out.png", "--model", tiny_model, "--json",
    )  # fmt: skip
    [image] = json.loads(result.stdout)["images"]
    assert image["outputs"] == [str(photos / "out.png")]
    assert image["hole_share"] == pytest.approx(48 / 256)
    assert image["error"] is None


@pytest.mark.parametrize(("value", "note"), [(0, "mask is empty"), (255, "is the mask inverted?")])
def test_empty_and_full_masks_are_noted(
    photos: Path, tiny_model: Path, value: int, note: str
) -> None:
    Image.new("L", (16, 16), value).save(photos / "mask.png")
    result = run(
        "inpaint", photos / "images/a.png", "--mask", photos / "mask.png",
        "--output", photos / "out.png", "--model", tiny_model,
    )  # fmt: skip
    assert result.exit_code == 0
    assert note in result.stderr
    same = np.array_equal(
        read_image(photos / "out.png").pixels, read_image(photos / "images/a.png").pixels
    )
    assert same == (value == 0)


def test_jpeg_output_is_noted_as_lossy(photos: Path, tiny_model: Path) -> None:
    result = run(
        "inpaint", photos / "images/a.png", "--mask", photos / "masks/a.png",
        "--output", photos / "out.jpg", "--model", tiny_model,
    )  # fmt: skip
    assert result.exit_code == 0
    assert "JPEG is lossy" in result.stderr


def test_in_a_folder_bad_images_are_reported_and_the_rest_is_done(
    photos: Path, tiny_model: Path
) -> None:
    (photos / "images/a.png").write_bytes(b"broken")
    (photos / "masks/c.png").unlink()
    Image.new("L", (5, 5)).save(photos / "images/d.png")
    Image.new("L", (6, 5)).save(photos / "masks/d.png")
    result = run(
        "inpaint", photos / "images", "--mask", photos / "masks", "--output", photos / "out",
        "--model", tiny_model, "--json",
    )  # fmt: skip
    assert result.exit_code == 1
    assert [p.name for p in (photos / "out").iterdir()] == ["b.png"]
    errors = {Path(i["image"]).stem: i["error"] for i in json.loads(result.stdout)["images"]}
    assert "not a readable image" in errors["a"]
    assert errors["b"] is None
    assert "no mask called c" in errors["c"]
    assert "the mask is 6x5 pixels, the image 5x5" in errors["d"]
    for name in "acd":
        assert result.stderr.count(f"error: {photos / 'images' / name}.png") == 1


def test_in_a_folder_a_result_that_cannot_be_written_is_reported_and_the_rest_is_done(
    photos: Path, tiny_model: Path
) -> None:
    (photos / "out/a.png").mkdir(parents=True)
    result = run(
        "inpaint", photos / "images", "--mask", photos / "masks", "--output", photos / "out",
        "--model", tiny_model, "--overwrite",
    )  # fmt: skip
    assert result.exit_code == 1
    [error] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert error.endswith("out/a.png: Is a directory")
    assert sorted(p.name for p in (photos / "out").iterdir()) == ["a.png", "b.png", "c.png"]


def test_results_that_would_replace_each_other_are_refused(photos: Path, tiny_model: Path) -> None:
    for folder in ("images", "masks"):
        shutil.copy(photos / folder / "a.png", photos / folder / "b_step_01.png")
    result = run(
        "inpaint", photos / "images", "--mask", photos / "masks", "--output", photos / "out",
        "--model", tiny_model, "--save-steps",
    )  # fmt: skip
    fails(result, "b_step_01.png would be written twice")
    assert not (photos / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "none.png"}, "does not exist"),
        ({"image": "nothing"}, "holds no image"),
        ({"--mask": "none.png"}, "does not exist"),
        ({"--mask": None}, "has no transparency: name a --mask"),
        ({"--mask": "images/b.png"}, "the mask is 30x20 pixels, the image 16x16"),
        ({"--model": ""}, "unknown model ''"),
        ({"--model": "no-such-model"}, "unknown model 'no-such-model'"),
        ({"--output": "out.gif"}, "must be a folder or an image"),
        ({"--output": "masks/a.png"}, "exists; --overwrite replaces it"),
        ({"image": "images", "--output": "out.png"}, "must be a folder"),
        ({"image": "images", "--output": "images"}, "holds what is read"),
        ({"image": "images", "--mask": "masks", "--output": "masks"}, "holds what is read"),
        ({"image": "images", "--output": "file"}, "is a file, not a folder"),
        ({"--schedule": "sine"}, "unknown schedule 'sine'"),
        ({"--steps": 0}, "steps should be greater than or equal to 1, got 0"),
        ({"--steps": 10**12}, "steps should be less than or equal to 10000"),
        ({"--steps": "abc"}, "'--steps'"),
        ({"--num-samples": 0}, "'--num-samples'"),
        ({"--seed": 10**30}, "'--seed'"),
        ({"--colour": "red"}, "--colour"),
        ({"--device": "meta"}, "no device 'meta'"),
        ({"image": "x" * 300 + ".png"}, "File name too long"),
        ({"--stop-after": 99}, "stop_after 99 is more than steps"),
        ({"--temperature": -1}, "temperature should be greater than or equal to 0"),
        ({"--token-temperature": -2}, "token_temperature should be greater"),
        ({"--order": "spiral"}, "order is one of confidence, probability, random, halton"),
        ({"--paint": "blurred"}, "paint should be 'sampled' or 'expected'"),
        ({"--context": 0.5}, "context should be less than or equal to 0.45, got 0.5"),
        ({"--levels": -1}, "levels should be greater than or equal to 0, got -1"),
        ({"--levels": 0}, "this model takes no levels: it fills crops around whole objects"),
        ({"--levels": 0, "--model": "telea"}, "telea decodes nothing: it has no levels"),
        ({"--paint": "expected", "--num-samples": 2}, "has one fill: for several ask for paint"),
        ({"--dtype": "int8"}, "dtype is auto, float32, bfloat16 or float16"),
        ({"--device": "abacus"}, "no device 'abacus'"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_nothing_written(
    photos: Path, tiny_model: Path, change: dict[str, object], message: str
) -> None:
    (photos / "nothing").mkdir()
    (photos / "file").touch()
    before = {p: p.stat().st_mtime_ns for p in photos.rglob("*")}
    options = {
        "image": "images/a.png", "--mask": "masks/a.png", "--output": "out.png",
        "--model": tiny_model,
    } | change  # fmt: skip
    for name in ("image", "--mask", "--output"):
        options[name] = options[name] and photos / str(options[name])
    image = options.pop("image")
    flags = [part for pair in options.items() if pair[1] is not None for part in pair]
    fails(run("inpaint", image, *flags), message)
    assert {p: p.stat().st_mtime_ns for p in photos.rglob("*")} == before


def test_no_fill_is_written_if_a_folder_has_the_name_of_one(photos: Path, tiny_model: Path) -> None:
    (photos / "out_2.png").mkdir()
    result = run(
        "inpaint", photos / "images/a.png", "--mask", photos / "masks/a.png", "--num-samples", 2,
        "--output", photos / "out.png", "--model", tiny_model, "--overwrite",
    )  # fmt: skip
    fails(result, "out_2.png is a folder")
    assert not (photos / "out_1.png").exists()


def test_photos_fills_unless_another_model_is_named(photos: Path) -> None:
    image, mask = photos / "images/a.png", photos / "masks/a.png"
    files = [photos / f"{name}.png" for name in ("unnamed", "named")]
    for file, more in zip(files, [(), ("--model", "photos")], strict=True):
        assert run("inpaint", image, "--mask", mask, "--output", file, *more).exit_code == 0
    assert files[0].read_bytes() == files[1].read_bytes()


def test_models_lists_what_ships() -> None:
    assert {"cats64", "photos"} <= set(run("models").stdout.split())
    [cats] = [row for row in json.loads(run("models", "--json").stdout) if row["name"] == "cats64"]
    assert cats["image_size"] == 64
    assert 0 < cats["megabytes"] <= 32


def test_the_demo_repairs_photos_and_fills_a_cat_step_by_step(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    result = run("demo", "--output", folder)
    assert result.exit_code == 0, result.output
    files = [Path(line) for line in result.stdout.splitlines()]
    assert set(files) == set(folder.iterdir())
    for task in ("scratches", "date", "mast", "cat"):
        before, hole, after = (
            read_image(folder / f"{task}_{part}.png").pixels for part in ("input", "hole", "result")
        )
        marked = (hole != before).any(axis=2)
        assert 0.005 < marked.mean() < 0.35
        assert np.array_equal(after[~marked], before[~marked])
        assert (after[marked] != before[marked]).any(axis=1).mean() > 0.9
    assert after.shape == (64, 64, 3)
    assert {"cat_step_01.png", "cat_step_02.png", "sheet.png"} <= {file.name for file in files}
    fails(run("demo", "--output", folder), "exists; --overwrite replaces it")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tokenizer", "--preset", "dogs"), "unknown preset 'dogs'"),
        (("tokenizer", "--set", "run.stepz=1"), "no field 'stepz'"),
        (("tokenizer", "--set", "run.steps=many"), "run.steps should be a valid integer"),
        (("tokenizer",), "holds no image"),
        (("tokenizer", "--set", "examples.holes=star"), "unknown kind of hole 'star'"),
        (("tokenizer", "--set", "examples.shift=64"), "less than the size"),
        (("transformer", "--tokenizer", "cats64", "--set", "examples.whole=7"), "should be less"),
        (("transformer", "--tokenizer", "no-such-model"), "unknown model"),
    ],
)
def test_training_refuses(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    result = run("train", *arguments, "--data", tmp_path / "data", "--output", tmp_path / "run")
    fails(result, message)
    assert not (tmp_path / "run").exists()


def test_both_stages_are_trained_and_the_model_is_used(photos: Path) -> None:
    stage_1 = [
        "model.image_size=16", "model.codebook_size=16", "model.encoder_dim=16",
        "model.channels=8,8,8", "model.decoder_blocks=1", "loss.perceptual=0",
    ]  # fmt: skip
    stage_2 = ["model.heads=2", "model.dim=16", "model.depth=1", "model.mlp_dim=16"]
    common = ["run.steps=2", "run.batch_size=2", "run.precision=no", "run.save_every=1"]

    def train(stage: str, overrides: list[str], *more: object) -> Result:
        flags = [part for one in overrides + common for part in ("--set", one)]
        return run(
            "train", stage, "--data", photos / "images", "--output", photos / stage, *flags, *more
        )

    result = train("tokenizer", stage_1)
    assert result.exit_code == 0, result.output
    result = train("transformer", stage_2, "--tokenizer", photos / "tokenizer")
    assert result.exit_code == 0, result.output
    result = run(
        "inpaint", photos / "images", "--mask", photos / "masks", "--output", photos / "out",
        "--model", photos / "transformer",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len(list((photos / "out").iterdir())) == 3


@pytest.mark.slow
def test_a_real_process(photos: Path, tiny_model: Path) -> None:
    command = [sys.executable, "-m", "maskweave"]

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *map(str, arguments)], capture_output=True, text=True, check=False
        )

    assert call("--version").stdout.strip() == __version__
    good = call(
        "inpaint", photos / "images/a.png", "--mask", photos / "masks/a.png",
        "--output", photos / "out.png", "--model", tiny_model, "--json",
    )  # fmt: skip
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["images"][0]["outputs"] == [str(photos / "out.png")]
    bad = call("inpaint", photos / "none.png", "--output", photos / "x.png", "--model", tiny_model)
    assert bad.returncode == 2
    assert bad.stdout == ""
    assert bad.stderr.count("\n") == 1
    assert bad.stderr.startswith("error: ")


def test_help_does_not_import_torch() -> None:
    code = "import sys; from maskweave.cli.main import app; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
