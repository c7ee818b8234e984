"""Splits by content, and the report on a folder: what it counts, lists and refuses."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from checked_photos import photo, report, save, still
from maskweave.cli.main import app
from maskweave.data.check import find_splits, read_entries
from maskweave.data.split import is_validation


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", "check", *map(str, arguments)])


# Splits


def test_the_share_of_validation_images_is_the_one_asked_for() -> None:
    digests = [hashlib.sha256(bytes([i % 256, i // 256])).hexdigest() for i in range(2000)]
    for share in (0.05, 0.2, 0.5):
        found = np.mean([is_validation(digest, share) for digest in digests])
        assert found == pytest.approx(share, abs=4 * (share * (1 - share) / 2000) ** 0.5)
    assert not any(is_validation(digest, 0) for digest in [*digests, "0" * 64])
    assert all(is_validation(digest, 1) for digest in [*digests, "f" * 64])


def test_added_images_move_no_other_and_a_larger_share_only_adds(tmp_path: Path) -> None:
    def splits(share: float = 0.4) -> dict[str, str]:
        entries, _ = read_entries(find_splits(tmp_path), share, still)
        return {entry.file: entry.split for entry in entries}

    for seed in range(20, 40):
        save(photo(seed), tmp_path / f"{seed}.png")
    before = splits()
    assert set(before.values()) == {"train", "validation"}
    for seed in range(20):
        save(photo(seed), tmp_path / "more" / f"{seed}.png")
    after = splits()
    assert len(after) == 40
    assert before.items() <= after.items()
    larger = splits(0.6)
    assert all(larger[file] == "validation" for file, s in after.items() if s == "validation")


# The report


def test_sizes_modes_and_formats_are_counted(tmp_path: Path) -> None:
    save(photo(0, 30, 90), tmp_path / "a.png")
    save(photo(1, 200, 20).convert("L"), tmp_path / "b.jpg")
    save(photo(2, 40, 41).convert("RGBA"), tmp_path / "deep" / "er" / "c.png")
    save(photo(3, 70, 60).convert("P"), tmp_path / "d.png")
    found = report(tmp_path, size=40)
    assert found.sizes == {"smallest": (200, 20), "median": (40, 41), "largest": (70, 60)}
    assert found.smaller == 2
    assert found.modes == {"RGB": 1, "L": 1, "P": 1, "RGBA": 1}
    assert found.formats == {"PNG": 3, "JPEG": 1}
    assert found.clean


def test_an_image_that_is_turned_keeps_its_format(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save(photo(0, 30, 20), tmp_path / "a.jpg", exif=exif)
    found = report(tmp_path)
    assert (found.formats, found.sizes["median"]) == ({"JPEG": 1}, (20, 30))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed in range(6):
        save(photo(seed), tmp_path / "photos" / f"{seed}.png")
    return tmp_path / "photos"


def test_json_is_all_there_is_on_stdout(photos: Path) -> None:
    result = run(photos, "--json", "--size", 50)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["clean"] is True
    assert sum(found["splits"].values()) == found["smaller"] == 6
    assert found["sizes"]["smallest"] == [48, 48]


def test_bad_files_are_listed_and_the_exit_code_is_1(photos: Path) -> None:
    (photos / "bad.png").write_bytes(b"broken")
    result = run(photos)
    assert result.exit_code == 1
    assert f"unreadable: {photos / 'bad.png'} is not a readable image" in result.stdout
    assert "images        6 (" in result.stdout
    (photos / "bad.png").unlink()
    Image.fromarray(np.full((48, 48), 2, dtype=np.float32)).save(photos / "bad.tiff")
    assert f"unreadable: {photos / 'bad.tiff'}: values beyond 0 to 1" in run(photos).stdout
    (photos / "bad.tiff").write_bytes(b"broken")
    for file in photos.glob("?.png"):
        file.write_bytes(b"broken")
    result = run(photos, "--json")
    assert result.exit_code == 1
    assert len(json.loads(result.stdout)["unreadable"]) == 7


def test_copies_in_another_folder_are_listed_and_the_exit_code_is_1(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maskweave.cli.data.SHOWN", 1)
    other = tmp_path / "other"
    assert run(photos).exit_code == 0
    for seed in (1, 2, 9):
        save(photo(seed), other / f"{seed}.jpg")
    result = run(photos, "--against", other)
    assert result.exit_code == 1
    assert "near copies   2 groups, 2 of them across splits" in result.stdout
    assert f"{photos / '1.png'}\n" in result.stdout
    assert f"{other / '1.jpg'}\n" in result.stdout
    assert "and 1 more groups" in result.stdout
    assert run(photos, "--against", other, "--exclude", "[12].jpg").exit_code == 0


def test_folders_of_splits_are_compared_and_excluded_folders_are_not(tmp_path: Path) -> None:
    save(photo(1), tmp_path / "train" / "a.png")
    save(photo(2), tmp_path / "test" / "truth" / "b.png")
    save(photo(1), tmp_path / "test" / "masked" / "b.jpg")
    assert run(tmp_path).exit_code == 1
    assert run(tmp_path, "--exclude", "mask*").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "none is not a folder"),
        (["empty"], "empty holds no image"),
        (["photos", "--against", "empty"], "empty holds no image"),
        (["photos", "--exclude", "*.png"], "every image in photos is excluded"),
        (["photos", "--validation-share", "2"], "--validation-share"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    photos: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(photos.parent)
    Path("empty").mkdir()
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


@pytest.mark.slow
def test_names_that_the_terminal_cannot_show_are_escaped(tmp_path: Path) -> None:
    save(photo(0), tmp_path / "photos" / "\u5199\u771f.png")
    (tmp_path / "photos" / "\u732b.png").write_bytes(b"broken")
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}

    def check(*arguments: object) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "maskweave", "data", "check", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, check=False)

    result = check(tmp_path / "photos")
    assert (result.returncode, result.stderr) == (1, b"")
    assert b"\\u732b.png is not a readable image" in result.stdout
    result = check(tmp_path / "\u732b")
    assert result.returncode == 2
    assert b"\\u732b is not a folder" in result.stderr
