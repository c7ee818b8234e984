"""Images, options and weights with which nothing can be measured are refused in one line."""

import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluations import SHAPE, evaluate, refuses


def test_a_mask_of_a_photo_before_it_was_turned_is_refused_with_the_reason(
    folders: Path, weights: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = folders / "truth" / "b.png"
    Image.open(file).save(file, exif=exif)
    refuses(
        evaluate(folders, "--no-fid"),
        "b: the mask is 40x32 pixels, the image 32x40: its EXIF orientation (6) turns the image",
    )


def test_a_file_of_values_without_8_bits_is_named(folders: Path, weights: Path) -> None:
    (folders / "results" / "b.png").unlink()
    values = np.full(SHAPE, 2, dtype=np.float32)
    Image.fromarray(values).save(folders / "results" / "b.tiff")
    refuses(evaluate(folders, "--no-fid"), "results/b.tiff: values beyond 0 to 1 have no 8 bits")


def test_names_are_checked_before_networks_are_loaded(folders: Path) -> None:
    (folders / "results/b.png").unlink()
    refuses(evaluate(folders, "--inception", folders / "none.pth"), "1 missing, by name: b")


def new(where: str, mode: str, size: tuple[int, int] = SHAPE[::-1]) -> Callable[[Path], None]:
    return lambda folder: Image.new(mode, size).save(folder / where)


def emptied(folder: Path) -> None:
    for file in (folder / "results").iterdir():
        file.unlink()


def alone(folder: Path) -> None:
    for file in [*folder.rglob("*.png"), *folder.rglob("*.bmp")]:
        if file.stem != "a":
            file.unlink()


def palette(folder: Path) -> None:
    Image.new("P", SHAPE[::-1]).save(folder / "results/b.png", transparency=0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "results/b.png").rename(f / "results/x.png"), "1 missing, by name: b"),
        (new("results/x.png", "RGB"), "results: 1 without a true image, by name: x"),
        (lambda f: (f / "masks/b.bmp").unlink(), "masks: 1 missing, by name: b"),
        (lambda f: (f / "truth/b.png").unlink(), "masks: 1 without a true image, by name: b"),
        (new("results/b.bmp", "RGB"), "several images are called b"),
        (new("results/b.png", "RGB", (32, 32)), "b: result 32x32, truth 40x32, mask 40x32"),
        (new("masks/b.bmp", "L", (32, 32)), "b: the mask is 32x32 pixels, the image 40x32"),
        (new("masks/b.bmp", "L"), "b: the mask is empty"),
        (new("results/b.png", "RGBA"), "results/b.png has an alpha channel"),
        (new("truth/b.png", "LA"), "truth/b.png has an alpha channel"),
        (palette, "results/b.png has an alpha channel"),
        (lambda f: (f / "results/b.png").write_bytes(b"broken"), "not a readable image"),
        (emptied, "holds no image"),
        (lambda f: (f / "results").rename(f / "elsewhere"), "No such file"),
        (alone, "at least 2 images, got 1"),
    ],
)
def test_what_cannot_be_measured_is_an_error_and_no_number(
    folders: Path, weights: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(folders)
    refuses(evaluate(folders, "--json"), message)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--features", 100, "features must be one of [64, 192, 768, 2048], got 100"),
        ("--resize", "bicubic", "resize is torch-fidelity or pytorch-fid, got 'bicubic'"),
        ("--lpips", "resnet", "squeeze, alex, vgg, got 'resnet'"),
        ("--device", "abacus", "no device 'abacus'"),
        ("--inception", "none.pth", "No such file"),
        ("--inception", "truth", "holds no readable Inception weights"),
        ("--truth", "none", "No such file"),
    ],
)
def test_bad_options_are_errors(
    folders: Path, weights: Path, option: str, value: object, message: str
) -> None:
    is_path = option in ("--inception", "--truth")
    refuses(evaluate(folders, option, folders / str(value) if is_path else value), message)


def test_features_that_are_no_numbers_are_an_error(
    folders: Path, weights: Path, tmp_path: Path
) -> None:
    broken = torch.load(weights, weights_only=True)
    broken["Conv2d_2b_3x3.bn.bias"].fill_(torch.nan)
    torch.save(broken, tmp_path / "nan.pth")
    result = evaluate(folders, "--inception", tmp_path / "nan.pth")
    refuses(result, "the 64 features are not finite: the Inception weights are broken")


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_weights_that_hold_code_are_refused_and_not_run(
    folders: Path, weights: Path, tmp_path: Path, kind: str
) -> None:
    file, trace = tmp_path / "bomb.pth", tmp_path / "trace"
    if kind == "pickle":
        file.write_bytes(pickle.dumps(Bomb(trace)))
    else:
        torch.save({"Conv2d_1a_3x3.conv.weight": Bomb(trace)}, file)
    result = evaluate(folders, "--inception", file)
    refuses(result, "holds no readable Inception weights")
    assert "trusted source" not in result.stderr  # torch tells how to run it all the same
    assert not trace.exists()
    with suppress(RuntimeError):  # of torch, which finds a pickle strange once it has run
        torch.load(file, weights_only=False)
    assert trace.exists()


@pytest.mark.parametrize(
    "content", [{}, {"layer": torch.zeros(1)}, [1], b"", b"garbage", b"PK\x03\x04garbage"]
)
def test_weights_that_are_none_are_refused(
    folders: Path, weights: Path, tmp_path: Path, content: object
) -> None:
    file = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    refuses(evaluate(folders, "--inception", file), "holds no readable Inception weights")
