"""Files that went wrong with this program or others, through the command line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from typer.testing import CliRunner, Result

from maskweave.cli.main import app

OBJECT = (20, 200, 40)
"""Colour of what is to vanish from ``table.png``."""


@pytest.fixture(scope="session")
def cases(shared: Path) -> Path:
    if not (shared / "cases").is_dir():
        pytest.skip(f"no cases in {shared}")
    return shared / "cases"


def inpaint(image: Path, output: Path, model: Path, *options: object) -> Result:
    command = ("inpaint", image, "--output", output, "--model", model, *options)
    return CliRunner().invoke(app, [str(part) for part in command])


def array(file: Path, mode: str = "") -> np.ndarray:
    with Image.open(file) as image:
        return np.array(image.convert(mode) if mode else image)


def notes(result: Result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("note: ")]


def refused(result: Result, message: str) -> None:
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def filled(result: Result) -> None:
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("mask", "options", "hole"),
    [
        ("mask_ok.png", (), lambda mask: mask >= 128),
        ("mask_ok.png", ("--invert-mask",), lambda mask: mask < 128),
        ("mask_i16.png", (), lambda mask: mask >= 32768),
        ("mask_white_on_transparent.png", (), lambda mask: mask[:, :, 3] >= 128),
        ("mask_01.png", ("--threshold", 1), lambda mask: mask == 1),
        ("mask_red.png", ("--threshold", 64), lambda mask: mask[:, :, 0] == 255),
    ],
)
def test_masks_are_read_as_they_were_meant(
    cases: Path, tiny_model: Path, tmp_path: Path, mask: str, options: tuple[object, ...], hole
) -> None:
    photo, output = cases / "photo.png", tmp_path / "out.png"
    filled(inpaint(photo, output, tiny_model, "--mask", cases / mask, *options))
    before, after, marked = array(photo), array(output), hole(array(cases / mask))
    assert 0 < marked.mean() < 1
    changed = (before != after).any(axis=2)
    assert not changed[~marked].any()
    assert changed[marked].mean() > 0.9


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("mask_01.png", "its brightest pixel is 1 of 255"),
        ("mask_red.png", "its brightest pixel is 76 of 255"),
    ],
)
def test_marks_that_are_too_dark_are_refused(
    cases: Path, tiny_model: Path, tmp_path: Path, mask: str, message: str
) -> None:
    output = tmp_path / "out.png"
    refused(inpaint(cases / "photo.png", output, tiny_model, "--mask", cases / mask), message)
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "gone"), [((), False), (("--threshold", 16), True), (("--grow", 8), True)]
)
def test_a_soft_brush_is_noted_and_threshold_or_growth_takes_all_of_the_object(
    cases: Path, tiny_model: Path, tmp_path: Path, options: tuple[object, ...], gone: bool
) -> None:
    table, mask, output = cases / "table.png", cases / "table_soft_mask.png", tmp_path / "out.png"
    result = inpaint(table, output, tiny_model, "--mask", mask, *options)
    filled(result)
    [note] = notes(result)
    assert "neither near black nor near white" in note
    assert "--threshold" in note and "--grow" in note
    assert (array(table) == OBJECT).all(axis=2).sum() > 1000
    assert ((array(output) == OBJECT).all(axis=2).sum() == 0) == gone


def test_a_grey_photo_stays_grey(cases: Path, tiny_model: Path, tmp_path: Path) -> None:
    photo, mask, output = cases / "camera_grey.png", cases / "camera_mask.png", tmp_path / "out.png"
    filled(inpaint(photo, output, tiny_model, "--mask", mask))
    before, after, hole = array(photo), array(output), array(mask) >= 128
    assert after.shape == before.shape == (512, 512)
    assert np.array_equal(before[~hole], after[~hole])
    assert not np.array_equal(before[hole], after[hole])


def test_a_hidden_colour_never_shows(cases: Path, tiny_model: Path, tmp_path: Path) -> None:
    sticker = array(cases / "sticker.png")
    hidden = sticker[:, :, 3] == 0
    assert (sticker[hidden, :3] == (255, 0, 255)).all()
    other = sticker.copy()
    other[hidden, :3] = (3, 200, 10)
    (tmp_path / "other").mkdir()  # and the same name, on which its noise depends
    Image.fromarray(other).save(tmp_path / "other" / "sticker.png")
    filled(inpaint(cases / "sticker.png", tmp_path / "1.png", tiny_model))
    filled(inpaint(tmp_path / "other" / "sticker.png", tmp_path / "2.png", tiny_model))
    after = array(tmp_path / "1.png", "RGBA")
    assert np.array_equal(after, array(tmp_path / "2.png", "RGBA"))
    assert (after[:, :, 3] == 255).all()
    assert np.array_equal(after[~hidden], sticker[~hidden])
    assert not (after[:, :, :3] == (255, 0, 255)).all(axis=2).any()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_what_a_jpeg_says_goes_along(
    cases: Path, tiny_model: Path, tmp_path: Path, suffix: str
) -> None:
    output = tmp_path / f"out{suffix}"
    mask = cases / "mask_ok.png"
    filled(inpaint(cases / "meta.jpg", output, tiny_model, "--mask", mask))
    with Image.open(output) as image:
        exif = image.getexif()
        assert exif[ExifTags.Base.Copyright] == "(c) me"
        assert exif[ExifTags.Base.Make] == "Maker"
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)
        if suffix == ".jpg":
            assert image.info["comment"] == b"hello"


def test_what_a_png_says_goes_along(cases: Path, tiny_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.png"
    filled(inpaint(cases / "meta.png", output, tiny_model, "--mask", cases / "mask_ok.png"))
    with Image.open(output) as image:
        assert image.info["parameters"] == "steps 20"
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)


def test_a_folder_of_many_formats_is_filled_and_the_rest_is_counted(
    cases: Path, tiny_model: Path, tmp_path: Path
) -> None:
    result = inpaint(cases / "mixed", tmp_path / "out", tiny_model, "--mask", cases / "mask_ok.png")
    filled(result)
    assert sorted(file.stem for file in (tmp_path / "out").iterdir()) == list("abcdefg")
    [note] = notes(result)
    assert "1 .heic" in note
    hole = array(cases / "mask_ok.png") >= 128
    for file in (cases / "mixed").iterdir():
        if file.suffix != ".heic":
            after = array(tmp_path / "out" / f"{file.stem}.png", "RGB")
            assert np.array_equal(array(file, "RGB")[~hole], after[~hole]), file


def test_what_macos_leaves_beside_images_is_no_image(
    cases: Path, tiny_model: Path, tmp_path: Path
) -> None:
    result = inpaint(cases / "mac", tmp_path / "out", tiny_model, "--mask", cases / "macm")
    filled(result)
    assert not notes(result)
    assert sorted(file.stem for file in (tmp_path / "out").iterdir()) == [
        f"image_{i:03d}" for i in range(5)
    ]
