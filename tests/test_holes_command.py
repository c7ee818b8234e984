"""The command "holes": what it draws, for which images, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import fails, run
from maskweave.holes import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_holes_are_white_on_black_and_repeat_with_their_seed(kind: str, tmp_path: Path) -> None:
    for folder, seed in (("1", 4), ("2", 4), ("3", 5)):
        result = run(
            "holes", "--output", tmp_path / folder, "--kind", kind, "--number", 3,
            "--size", "40x24", "--seed", seed,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
    first, again, other = (
        [p.read_bytes() for p in sorted((tmp_path / folder).iterdir())] for folder in "123"
    )
    assert first == again != other
    pixels = np.array(Image.open(tmp_path / "1" / f"{kind}_0000.png"))
    assert pixels.shape[:2] == (24, 40)
    assert set(np.unique(pixels)) == {0, 255}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--kind", "star"), "unknown kind of hole 'star'"),
        (("--size", "big"), "size is a number"),
        (("--size", "4"), "at least 8x8"),
        (("--size", "99999x99999"), "more than"),
        (("--size", "99999x8"), "sides that differ at most"),
    ],
)
def test_holes_refuses(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    fails(run("holes", "--output", tmp_path / "out", *options), message)
    assert not (tmp_path / "out").exists()


def test_holes_for_images_have_their_sizes_and_names(tmp_path: Path) -> None:
    sizes = {"wide": (90, 40), "high": (33, 70), "square": (50, 50)}
    for name, size in sizes.items():
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", size).save(tmp_path / "photos" / f"{name}.jpg")
    for folder in ("one", "same"):
        assert run(
            "holes", "--output", tmp_path / folder, "--kind", "scratch",
            "--images", tmp_path / "photos", "--seed", 3,
        ).exit_code == 0  # fmt: skip
    for name, size in sizes.items():
        mask, same = (Image.open(tmp_path / f / f"{name}.png") for f in ("one", "same"))
        assert mask.size == size
        assert mask.tobytes() == same.tobytes()
        assert 0 < np.array(mask).mean() < 128


@pytest.mark.parametrize(
    ("folder", "message"), [("missing", "cannot read folder"), ("empty", "holds no image")]
)
def test_holes_for_no_images_are_refused(folder: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    fails(run("holes", "--output", tmp_path / "out", "--images", tmp_path / folder), message)
    assert not (tmp_path / "out").exists()


def test_no_hole_is_drawn_if_an_image_has_no_room_for_one(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name, size in (("a", 64), ("b", 1)):
        Image.new("RGB", (size, size)).save(tmp_path / "photos" / f"{name}.png")
    result = run("holes", "--output", tmp_path / "out", "--images", tmp_path / "photos")
    fails(result, "b.png: a hole needs at least 8x8 pixels")
    assert not (tmp_path / "out").exists()


def test_holes_are_not_overwritten(tmp_path: Path) -> None:
    assert run("holes", "--output", tmp_path, "--number", 1).exit_code == 0
    fails(run("holes", "--output", tmp_path, "--number", 2), "exists; --overwrite replaces it")
    assert run("holes", "--output", tmp_path, "--number", 2, "--overwrite").exit_code == 0
