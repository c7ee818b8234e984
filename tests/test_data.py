"""Splits by content, copies that are found and not found, and shards that equal their folder."""

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from typer.testing import CliRunner, Result

from maskweave.cli.main import app
from maskweave.data import check, folder, shards
from maskweave.data.augment import coarse_fill
from maskweave.data.check import find_near_copies, find_splits, read_entries, summarise
from maskweave.data.folder import read_square, square
from maskweave.data.shards import ImageShards
from maskweave.data.split import is_validation
from maskweave.errors import MaskweaveError
from maskweave.formats import find_images


def still(count: int = 1, text: str = "") -> None:
    """Move no progress bar."""


def photo(seed: int, width: int = 48, height: int = 48) -> Image.Image:
    """Draw what is smooth, as photos are, and like no other seed's."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def save(image: Image.Image, file: Path, **options: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, **options)
    return file


def report(directory: Path, size: int = 0, share: float = 0.05) -> check.Report:
    return summarise(*read_entries(find_splits(directory), share, still), size, still)


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


# Copies


def test_changed_copies_are_found_across_splits_and_other_images_are_not(tmp_path: Path) -> None:
    for seed in range(30):
        save(photo(seed), tmp_path / "train" / f"{seed}.png")
        save(photo(100 + seed), tmp_path / "val" / f"{seed}.png")
    noise = np.random.default_rng(0).integers(-6, 7, (48, 48, 3))
    mirrored = np.clip(np.array(photo(3))[:, ::-1] + noise, 0, 255).astype(np.uint8)
    save(Image.fromarray(mirrored), tmp_path / "test" / "mirrored.png")
    save(photo(4).resize((40, 40)), tmp_path / "test" / "encoded.jpg", quality=50)
    save(photo(105).convert("L"), tmp_path / "test" / "grey.png")
    found = report(tmp_path)
    pairs = [{Path(s).name: [Path(f).name for f in g[s]] for s in g} for g in found.near_copies]
    assert pairs == [
        {"train": ["3.png"], "test": ["mirrored.png"]},
        {"train": ["4.png"], "test": ["encoded.jpg"]},
        {"val": ["5.png"], "test": ["grey.png"]},
    ]
    assert found.byte_copies == []
    assert not found.clean


def test_byte_copies_stay_together_in_a_split_by_content(tmp_path: Path) -> None:
    for seed in range(10):
        file = save(photo(seed), tmp_path / f"{seed}.png")
        (tmp_path / f"copy{seed}.png").write_bytes(file.read_bytes())
    found = report(tmp_path, share=0.5)
    assert set(found.splits) == {"train", "validation"}
    assert len(found.byte_copies) == 10
    assert found.near_copies == []  # these are of different bytes
    assert found.clean


def test_byte_copies_across_splits_and_of_a_near_copy_are_listed(tmp_path: Path) -> None:
    one = save(photo(0), tmp_path / "train" / "a.png")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "b.png").write_bytes(one.read_bytes())
    save(photo(0), tmp_path / "train" / "c.jpg")
    found = report(tmp_path)
    train, test = str(tmp_path / "train"), str(tmp_path / "test")
    assert found.byte_copies == [{train: [f"{train}/a.png"], test: [f"{test}/b.png"]}]
    near = {train: [f"{train}/a.png", f"{train}/c.jpg"], test: [f"{test}/b.png"]}
    assert found.near_copies == [near]
    assert not found.clean


def turned(degrees: float) -> np.ndarray:
    """Return a thumbnail whose correlation with that of 0 degrees is the angle's cosine."""
    first, second = np.random.default_rng(0).permutation(256) % 4 // np.array([[1], [2]]) % 2
    angle = np.deg2rad(degrees)
    values = np.cos(angle) * (2 * first - 1) + np.sin(angle) * (2 * second - 1)
    return (128 + 80 * values).round().astype(np.uint8).reshape(16, 16)


@pytest.mark.parametrize("tile", [1, 2, 2048])
def test_groups_are_transitive(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "TILE", tile)
    thumbnails = np.array([turned(degrees) for degrees in (34, 90, 0, 17)])
    a, other, b, between = find_near_copies(thumbnails, still)
    assert a == b == between != other
    a, other, b = find_near_copies(thumbnails[:3], still)
    assert len({a, other, b}) == 3


def test_a_mirror_image_has_to_be_nearer() -> None:
    def alike(degrees: float, mirror: bool) -> bool:
        other = turned(degrees)[:, ::-1] if mirror else turned(degrees)
        first, second = find_near_copies(np.array([turned(0), other]), still)
        return first == second

    below, between, above = 19, 16, 13  # cosines 0.946, 0.961 and 0.974
    assert [alike(degrees, mirror=False) for degrees in (below, between, above)] == [0, 1, 1]
    assert [alike(degrees, mirror=True) for degrees in (below, between, above)] == [0, 0, 1]


def test_against_numpy_corrcoef(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "TILE", 7)
    base = rng.integers(40, 216, (12, 16, 16))
    noisy = base[rng.integers(12, size=60)] + rng.normal(0, 11, (60, 16, 16))
    noisy[::3] = noisy[::3, :, ::-1]
    thumbnails = noisy.clip(0, 255).astype(np.uint8)
    flat, mirrored = thumbnails.reshape(60, -1), thumbnails[:, :, ::-1].reshape(60, -1)
    correlation = np.corrcoef(np.concatenate([flat, mirrored]).astype(float))
    joined = (correlation[:60, :60] >= 0.95) | (correlation[60:, :60] >= 0.97)
    assert 0.02 < joined.mean() < 0.5
    for _ in range(6):  # paths of up to 64 steps
        joined = joined.astype(int) @ joined > 0
    groups = find_near_copies(thumbnails, still)
    assert np.array_equal(groups[:, None] == groups, joined)


def test_flat_images_are_near_copies_of_one_another_only(tmp_path: Path) -> None:
    for grey in (0, 100, 255):
        save(Image.new("L", (20, 20), grey), tmp_path / f"{grey}.png")
    save(photo(0), tmp_path / "photo.png")
    [group] = report(tmp_path).near_copies
    names = sorted(Path(file).name for files in group.values() for file in files)
    assert names == ["0.png", "100.png", "255.png"]


def test_no_copies_across_the_splits_of_cats64(shared: Path) -> None:
    cats = shared / "data" / "cats64"
    splits = find_splits(cats / "val", [cats / "test" / "truth"])
    found = summarise(*read_entries(splits, 0, still), 64, still)
    assert list(found.splits.values()) == [500, 747]
    assert len(found.byte_copies) == 14
    assert found.clean


# The rest of the report


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


# Shards


def pack(shard: Path, files: dict[str, bytes]) -> Path:
    shard.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(shard, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return shard


def encoded(seed: int, kind: str = "PNG", width: int = 48, height: int = 40) -> bytes:
    buffer = io.BytesIO()
    photo(seed, width, height).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Seven images in a folder; ``tmp_path / "tars"`` holds the same in three shards."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(7):
        kind, suffix = ("PNG", "png") if i % 2 else ("JPEG", "JPG")
        (folder / f"{i:06}.{suffix}").write_bytes(encoded(i, kind, 32 + 8 * (i % 3), 32 + i))
    found = find_images(folder).files
    for number, few in enumerate((found[:3], [], found[3:])):
        pack(tmp_path / "tars" / f"{number}.tar", {f"./{f.name}": f.read_bytes() for f in few})
    return found


def squares(directory: Path, size: int) -> ImageShards:
    return ImageShards(directory, partial(square, size=size), str(size))


def test_shards_may_hold_photos_of_any_shape(files: list[Path], tmp_path: Path) -> None:
    convert = partial(folder.photo, shorter_side=32, smallest=8)
    images = ImageShards(tmp_path / "tars", convert, "photos")
    assert images.key != squares(tmp_path / "tars", 32).key
    for image, file in zip(images, files, strict=True):
        assert np.array_equal(image, folder.read_photo(file, 32, 8))


def test_shards_equal_the_folder(files: list[Path], tmp_path: Path) -> None:
    images = squares(tmp_path / "tars", 32)
    assert len(images) == 7
    for i, file in enumerate(files):
        assert np.array_equal(images[i], read_square(file, 32))
    assert np.array_equal(images[-1], images[6])
    with pytest.raises(IndexError):
        images[7]
    assert len(set(images.digests)) == 7
    assert images.key == squares(tmp_path / "tars", 32).key
    assert images.key != squares(tmp_path / "tars", 31).key
    (tmp_path / "tars" / "0.tar").unlink()
    some = squares(tmp_path / "tars", 32)
    assert np.array_equal(some[0], images[3])
    assert len(some) == 4
    assert some.digests == images.digests[3:]
    assert some.key != images.key


# Later versions of Python warn of forks in processes with threads, torch of too few cores.
@pytest.mark.filterwarnings("ignore:.*fork", "ignore:This DataLoader will create 2 worker")
def test_worker_processes_read_shards(files: list[Path], tmp_path: Path) -> None:
    images = squares(tmp_path / "tars", 32)
    wanted = torch.stack([torch.from_numpy(image) for image in images])  # opens all shards
    for _ in range(3):
        batches = list(DataLoader(images, batch_size=2, num_workers=2))
        assert torch.equal(torch.cat(batches), wanted)
    assert np.array_equal(pickle.loads(pickle.dumps(images))[5], wanted[5])


def test_threads_read_shards_at_once(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pread")  # Windows has none
    images = squares(tmp_path / "tars", 32)
    wanted = [read_square(file, 32) for file in files]
    with ThreadPoolExecutor(8) as pool:
        order = np.random.default_rng(0).permutation(np.arange(7).repeat(60)).tolist()
        for i, image in zip(order, pool.map(images.__getitem__, order), strict=True):
            assert np.array_equal(image, wanted[i])


def test_rewritten_shards_are_read_anew(tmp_path: Path) -> None:
    for seed in (1, 2):
        shard = tmp_path / "a.tar"
        shard.unlink(missing_ok=True)
        pack(shard, {"x.png": encoded(seed)})
        assert np.array_equal(squares(tmp_path, 40)[0], square(np.array(photo(seed, 48, 40)), 40))


def test_what_is_no_image_is_left_out(tmp_path: Path) -> None:
    shard = tmp_path / "a.tar"
    with tarfile.open(shard, "w") as archive:
        for name, kind in {
            "folder.png": tarfile.DIRTYPE,
            "link.png": tarfile.SYMTYPE,
            "hard.png": tarfile.LNKTYPE,
            "device.png": tarfile.CHRTYPE,
        }.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        for name in ("1.json", "1.cls", "._1.png", "a/1.png", "b/1.png", "../1.png", "/1.png"):
            member = tarfile.TarInfo(name)
            member.size = len(encoded(0))
            archive.addfile(member, io.BytesIO(encoded(0)))
    images = squares(tmp_path, 40)
    assert len(images) == 4
    assert all(np.array_equal(image, images[0]) for image in images)


def test_truncated_shards_are_refused(tmp_path: Path) -> None:
    one = pack(tmp_path / "cut.tar", {"1.png": b"1" * 700, "2.png": b"2" * 700}).read_bytes()
    assert one[3072:].count(0) == len(one) - 3072
    for length in (0, 100, 600, 1300, 1536, 1600, 2100, 3000, 3072, 3100):
        (tmp_path / "cut.tar").write_bytes(one[:length])
        with pytest.raises(MaskweaveError, match=r"cut\.tar is not a readable shard"):
            squares(tmp_path, 32)


def test_broken_shards_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(message: str) -> None:
        with pytest.raises(MaskweaveError, match=message):
            squares(tmp_path, 32)
        for shard in tmp_path.glob("*.tar"):
            shard.unlink()

    refuses("holds no shard")
    pack(tmp_path / "text.tar", {"a.txt": b"text"})
    refuses("the shards hold no image")
    (tmp_path / "none.tar").symlink_to(tmp_path / "nowhere")
    refuses(r"none\.tar is not a readable shard: .*No such file")
    (tmp_path / "text.tar").write_text("no tar at all" * 100)
    refuses(r"text\.tar is not a readable shard")
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    refuses(r"packed\.tar is not a readable shard")
    pack(tmp_path / "twins.tar", {"a/1.png": b"1", "a/1.mask.png": b"2"})
    refuses(r"twins\.tar: several images have the key a/1")
    member = tarfile.TarInfo("back.png")
    member.size = -512
    (tmp_path / "back.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    refuses(r"back\.tar .*back\.png has a negative size")
    monkeypatch.setattr(shards, "LARGEST_MEMBER", 10)
    pack(tmp_path / "large.tar", {"a.png": bytes(11)})
    refuses(r"large\.tar: a\.png is larger than 10 bytes")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no image", "the file is not a readable image: unknown format"),
        (encoded(0)[:-50], "the file is not a readable image"),
        (encoded(0, width=90, height=20), "90x20 is smaller than 32x32"),
    ],
)
def test_broken_images_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    shard = pack(tmp_path / "a.tar", {"x.png": encoded(1), "deep/bad.png": content})
    images = squares(tmp_path, 32)
    assert images[0].shape == (3, 32, 32)
    with pytest.raises(MaskweaveError, match=rf"a\.tar: deep/bad\.png: {message}"):
        images[1]
    images = squares(tmp_path, 32)
    shard.unlink()
    with pytest.raises(MaskweaveError, match=r"cannot read .*a\.tar: No such file"):
        images[0]


# --- coarse fills


def test_a_coarse_fill_is_blurred_and_wrong_but_not_another_picture() -> None:
    ramp = np.linspace(40, 210, 64, dtype=np.float32)
    checks = np.where(np.indices((64, 64)).sum(0) % 2, 12, -12)
    image = np.repeat((ramp[None, None] + checks[None]).round(), 3, axis=0).astype(np.uint8)
    errors, rough = [], []
    for seed in range(50):
        coarse = coarse_fill(image, np.random.default_rng(seed)).astype(float)
        assert coarse.shape == image.shape
        errors.append(abs(coarse - ramp).mean())
        rough.append(abs(np.diff(coarse[:, 8:-8, 8:-8], axis=2)).mean())
    assert 1 < np.mean(errors) < 12
    assert max(errors) - min(errors) > 3  # from nearly right to rather wrong
    assert max(rough) < 12  # the checks, of 24 from pixel to pixel, are gone


def test_a_coarse_fill_follows_its_generator() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    one, same, other = (coarse_fill(image, np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
