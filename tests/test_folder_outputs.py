"""How outputs are named, which formats and options they have, and what is said of many."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import fails, run
from folder_runs import arguments, eight_photos, names


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Eight photos with a mask for all."""
    return eight_photos(tmp_path, rng)


@pytest.mark.parametrize(
    ("output", "file"),
    [
        ("run_2024.05.01", "run_2024.05.01/a.png"),
        ("new.v2/", "new.v2/a.png"),
        ("new.png/", "new.png/a.png"),
        ("there.png", "there.png/a.png"),
        ("plain", "plain/a.png"),
        ("v1.2/file.webp", "v1.2/file.webp"),
    ],
)
def test_what_ends_in_no_suffix_of_an_image_is_a_folder(
    photos: Path, tiny_model: Path, output: str, file: str
) -> None:
    (photos / "there.png").mkdir()
    result = run(
        "inpaint", photos / "images/a.png", "--mask", photos / "mask.png", "--model", tiny_model,
        "--output", f"{photos}/{output}",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [str(photos / file)]
    assert (photos / file).is_file()


@pytest.mark.parametrize("output", ["run_2024.05.01", "new.v2/", "new.png/"])
def test_a_folder_of_images_goes_to_such_a_folder(
    photos: Path, tiny_model: Path, output: str
) -> None:
    assert run(*arguments(photos, tiny_model, f"{photos}/{output}")).exit_code == 0
    assert names(photos / output) == [f"{name}.png" for name in "abcdefgh"]


@pytest.mark.parametrize(
    ("output", "more", "message"),
    [
        ("mask.png/", (), "is a file, not a folder"),
        ("a\0b", (), "holds a NUL byte"),
        ("a\0b.png", (), "holds a NUL byte"),
        ("out.png", ("--grow", 10**30), "all of it is hole"),
        ("out.png", ("--format", "webp"), "format webp does not fit the output's name out.png"),
        ("out.pdf", (), "must be a folder or an image"),
        ("out", ("--format", "gif"), "format is one of png, jpg, jpeg"),
        ("out", ("--threshold", 0), "'--threshold'"),
        ("out", ("--threshold", 256), "'--threshold'"),
        ("out", ("--grow", -1), "'--grow'"),
        ("out", ("--quality", 101), "'--quality'"),
        ("out", ("--memory", 0), "'--memory'"),
        ("out", ("--quality", 90), "quality is that of JPEG files, and the output is PNG"),
        ("out.webp", ("--quality", 90), "and the output is WEBP"),
    ],
)
def test_names_and_options_that_fit_nothing_are_refused(
    photos: Path, tiny_model: Path, output: str, more: tuple[object, ...], message: str
) -> None:
    result = run(
        "inpaint", photos / "images/a.png", "--mask", photos / "mask.png", "--model", tiny_model,
        "--output", f"{photos}/{output}", *more,
    )  # fmt: skip
    fails(result, message)
    assert names(photos) == ["images", "mask.png"]


@pytest.mark.parametrize("format_", ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff"])
def test_files_of_a_folder_have_the_format_that_was_asked_for(
    photos: Path, tiny_model: Path, format_: str
) -> None:
    command = arguments(photos, tiny_model, None, "--format", format_, "--memory", 1)
    assert run(*command).exit_code == 0
    assert names(photos / "out") == [f"{name}.{format_}" for name in "abcdefgh"]
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(format_, format_.upper())
    with Image.open(photos / "out" / f"a.{format_}") as image:
        assert image.format == kind


def test_threshold_and_growth_of_masks(photos: Path, tiny_model: Path) -> None:
    hole = np.array(Image.open(photos / "mask.png"))
    Image.fromarray(hole // 4).save(photos / "dark.png")
    shares = []
    for name, *more in (("mask", ""), ("dark", "--threshold", 60), ("mask", "--grow", 1)):
        result = run(
            "inpaint", photos / "images/a.png", "--mask", photos / f"{name}.png",
            "--model", tiny_model, "--output", photos / "a.png", "--json", "--overwrite",
            *filter(None, more),
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        shares.append(json.loads(result.stdout)["images"][0]["hole_share"] * 1600)
    assert shares == pytest.approx([48, 48, 48 + 28])


def test_notes_that_are_alike_are_counted(photos: Path, tiny_model: Path) -> None:
    (photos / "masks").mkdir()
    for row, name in enumerate("abcdefgh"):
        hole = np.zeros((40, 40), dtype=np.uint8)
        hole[: 30 if name < "h" else 0, : 36 + row % 3] = 255
        Image.fromarray(hole).save(photos / "masks" / f"{name}.png")
    result = run(*arguments(photos, tiny_model, None, "--mask", photos / "masks"))
    assert result.exit_code == 0
    inverted, empty, _ = result.stderr.splitlines()
    assert inverted.startswith(f"note: 7 images, first {photos / 'images/a.png'}: 68%")
    assert empty.startswith(f"note: {photos / 'images/h.png'}: the mask is empty")


def test_many_windows_are_told_before_they_are_filled(tmp_path: Path, tiny_model: Path) -> None:
    hole = np.zeros((600, 600), dtype=np.uint8)
    hole[20::40, 20::40] = 255
    for name, mask in (("many", hole), ("few", np.where(np.indices(hole.shape)[0] < 300, hole, 0))):
        Image.new("RGB", (600, 600), (200, 30, 90)).save(tmp_path / f"{name}.png")
        Image.fromarray(mask.astype(np.uint8)).save(tmp_path / f"{name}_mask.png")
        result = run(
            "inpaint", tmp_path / f"{name}.png", "--mask", tmp_path / f"{name}_mask.png",
            "--model", tiny_model, "--output", tmp_path / "out" / name,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        assert ("225 windows to fill, about " in result.stderr) == (name == "many")
        assert result.stderr.count("\n") == 1 + (name == "many")


def test_what_a_format_cannot_hold_is_said_before_anything_is_filled(
    photos: Path, tiny_model: Path
) -> None:
    values = np.random.default_rng(0).random((40, 40), dtype=np.float32)
    Image.fromarray(values).save(photos / "images" / "d.tif")
    (photos / "images" / "d.png").unlink()
    result = run(*arguments(photos, tiny_model, None, "--json"))
    assert result.exit_code == 1
    job = json.loads(result.stdout)["images"][3]
    assert job["state"] == "failed"
    assert "out/d.png: PNG holds no floating-point numbers, but TIFF can; --format" in job["error"]
    assert names(photos / "out") == [f"{name}.png" for name in "abcefgh"]
    command = arguments(photos, tiny_model, photos / "deep", "--format", "tiff")
    assert run(*command).exit_code == 0
    known = np.array(Image.open(photos / "mask.png")) == 0
    with Image.open(photos / "deep" / "d.tiff") as image:
        assert np.array_equal(np.array(image)[known], values[known])


def test_a_jpeg_has_the_quality_that_was_asked_for_or_that_of_the_photo(
    photos: Path, tiny_model: Path
) -> None:
    with Image.open(photos / "images" / "a.png") as image:
        image.save(photos / "a.jpg", quality=40)
    tables = {}
    for name, more in (("own", ()), ("low", ("--quality", 10)), ("high", ("--quality", 100))):
        result = run(
            "inpaint", photos / "a.jpg", "--mask", photos / "mask.png", "--model", tiny_model,
            "--output", photos / f"{name}.jpg", "--num-samples", 2, *more,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        assert result.stderr.count("JPEG is lossy") == 1
        with Image.open(photos / f"{name}_1.jpg") as image:
            tables[name] = image.quantization
    with Image.open(photos / "a.jpg") as image:
        assert tables["own"] == image.quantization
    assert tables["low"][0][0] > tables["own"][0][0] > tables["high"][0][0] == 1
