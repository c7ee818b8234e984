"""Shards that equal their folder, are read by several at once, and are refused when broken."""

import io
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from checked_photos import photo
from maskweave.data import folder, shards
from maskweave.data.folder import read_square, square
from maskweave.data.shards import ImageShards
from maskweave.errors import MaskweaveError
from maskweave.formats import find_images


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
