"""The cache of images and tokens: what it holds, when it is made anew, and what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskweave.data import cache as module
from maskweave.data.augment import view
from maskweave.data.cache import cached_images, cached_tokens
from maskweave.data.folder import read_square
from maskweave.errors import MaskweaveError


def write_photos(folder: Path, number: int, size: int = 16, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for i in range(number):
        pixels = rng.integers(0, 256, size=(size, size + i % 3, 3), dtype=np.uint8)
        (folder / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / str(i % 2) / f"{i:03d}.png")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", 30)


def sums(images: np.ndarray) -> np.ndarray:
    """Stands in for a tokenizer: every row's sum is a token."""
    return images.sum((1, 3), dtype=np.uint64).astype(np.uint16)


def test_images_are_read_once_and_come_square_and_in_order(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = cached_images(photos, 8, tmp_path / "cache")
    files = sorted(photos.rglob("*.png"))
    assert len(images) == len(images.digests) == 30 and images.skipped == {}
    for i, file in enumerate(files):
        assert np.array_equal(images[i], read_square(file, 8))
    assert images[0].flags.writeable  # a copy of what is mapped read-only

    def refuse(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(module, "read_square", refuse)
    again = cached_images(photos, 8, tmp_path / "cache")
    assert np.array_equal(again.pixels, images.pixels) and again.key == images.key


def test_another_size_or_content_is_another_entry_even_at_the_same_time_of_change(
    photos: Path, tmp_path: Path
) -> None:
    first = cached_images(photos, 8, tmp_path / "cache")
    assert cached_images(photos, 16, tmp_path / "cache").key != first.key
    file = photos / "0" / "000.png"
    state = file.stat()
    Image.new("RGB", (16, 16), "red").save(file)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    changed = cached_images(photos, 8, tmp_path / "cache")
    assert changed.key != first.key
    assert changed[0].reshape(3, -1).T.tolist() == [[255, 0, 0]] * 64


def test_broken_and_small_images_are_skipped_up_to_a_limit(photos: Path, tmp_path: Path) -> None:
    (photos / "1" / "broken.png").write_bytes(b"not an image")
    images = cached_images(photos, 16, tmp_path / "cache")
    assert len(images) == 30
    assert list(images.skipped) == ["1/broken.png"]
    Image.new("RGB", (9, 40)).save(photos / "0" / "small.png")
    with pytest.raises(MaskweaveError, match=r"2 of 32 images .* 9x40 is smaller than 16x16"):
        cached_images(photos, 16, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob(".*"))


@pytest.mark.parametrize("broken", ["all", "none", "missing", "small"])
def test_folders_without_images_to_train_on_are_refused(broken: str, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    if broken != "missing":
        folder.mkdir()
    if broken == "all":
        (folder / "a.jpg").write_bytes(b"x")
    if broken == "small":
        write_photos(folder, 3, size=8)
    message = {
        "all": "1 of 1 images", "none": "holds no image", "missing": "is not a folder",
        "small": "smaller than 16x16",
    }  # fmt: skip
    with pytest.raises(MaskweaveError, match=message[broken]):
        cached_images(folder, 16, tmp_path / "cache")


def test_tokens_are_those_of_every_view(photos: Path, tmp_path: Path) -> None:
    images = cached_images(photos, 16, tmp_path / "cache")
    tokens = cached_tokens(images, sums, "a", views=3, shift=2, cache=tmp_path / "cache")
    assert tokens.shape == (30, 3, 16) and tokens.dtype == np.uint16
    for i in (0, 7, 29):
        for v in range(3):
            assert np.array_equal(tokens[i, v], sums(view(images[i], i, v, 2)[None])[0])


def test_tokens_are_made_anew_for_another_tokenizer_augmentation_or_set_of_images(
    photos: Path, tmp_path: Path
) -> None:
    calls = 0

    def encode(images: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        return sums(images)

    def count(tokenizer: str = "a", views: int = 2, shift: int = 1) -> int:
        nonlocal calls
        calls = 0
        images = cached_images(photos, 16, tmp_path / "cache")
        cached_tokens(images, encode, tokenizer, views=views, shift=shift, cache=tmp_path / "cache")
        return calls

    assert count() > 0
    assert count() == 0
    assert min(count("b"), count(views=3), count(shift=2)) > 0
    write_photos(photos, 31)
    assert count() > 0


def test_a_half_written_cache_is_never_used(photos: Path, tmp_path: Path) -> None:
    images = cached_images(photos, 16, tmp_path / "cache")

    def killed(squares: np.ndarray) -> np.ndarray:
        if len(squares) > 1:  # after the call that tells the number of tokens
            raise KeyboardInterrupt
        return sums(squares)

    with pytest.raises(KeyboardInterrupt):
        cached_tokens(images, killed, "a", views=2, shift=1, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("tokens*"))
    tokens = cached_tokens(images, sums, "a", views=2, shift=1, cache=tmp_path / "cache")
    assert np.array_equal(tokens[0, 0], sums(images[0][None])[0])


def test_images_left_by_a_kill_before_their_listing_are_written_again(
    photos: Path, tmp_path: Path
) -> None:
    first = cached_images(photos, 8, tmp_path / "cache")
    expected = np.array(first.pixels)
    (listing,) = (tmp_path / "cache").glob("images-*.json")
    (data,) = (tmp_path / "cache").glob("images-*.bin")
    listing.unlink()
    data.write_bytes(b"half")
    assert np.array_equal(cached_images(photos, 8, tmp_path / "cache").pixels, expected)


def test_a_full_disk_is_found_before_anything_is_read(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maskweave.files.SPARE", 1 << 62)
    with pytest.raises(MaskweaveError, match="GB left"):
        cached_images(photos, 8, tmp_path / "cache")


@pytest.mark.parametrize("file", ["images-*.bin", "images-*.json", "tokens-*.npy"])
@pytest.mark.parametrize("left", [0, 0.5])
def test_a_damaged_cache_is_made_anew(file: str, left: float, photos: Path, tmp_path: Path) -> None:
    def everything() -> tuple[np.ndarray, np.ndarray]:
        images = cached_images(photos, 16, tmp_path / "cache")
        tokens = cached_tokens(images, sums, "a", views=2, shift=1, cache=tmp_path / "cache")
        return np.array(images.pixels), np.array(tokens)

    expected = everything()
    (damaged,) = (tmp_path / "cache").glob(file)
    damaged.write_bytes(damaged.read_bytes()[: int(left * damaged.stat().st_size)])
    for found, wanted in zip(everything(), expected, strict=True):
        assert np.array_equal(found, wanted)


def test_what_a_kill_left_half_written_is_removed_later(photos: Path, tmp_path: Path) -> None:
    cached_images(photos, 16, tmp_path / "cache")
    (data,) = (tmp_path / "cache").glob("images-*.bin")
    old, new = (data.with_name(f".{data.name}.{pid}.unfinished") for pid in (1, 2))
    for left in (old, new):
        left.write_bytes(b"half")
    os.utime(old, (0, 0))
    data.unlink()
    cached_images(photos, 16, tmp_path / "cache")
    assert not old.exists() and new.exists()  # the new one may be another process's
