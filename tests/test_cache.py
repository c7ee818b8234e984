"""The cache of images and tokens: what it holds, when it is made anew, and what is refused."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.random import Generator, Philox
from PIL import Image

from maskweave.data import cache as module
from maskweave.data.augment import random_crop, view
from maskweave.data.cache import cached_images, cached_photos, cached_tokens
from maskweave.data.folder import read_square
from maskweave.errors import MaskweaveError
from maskweave.files import SPARE


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


def test_tokens_of_large_codebooks_are_kept(photos: Path, tmp_path: Path) -> None:
    images = cached_images(photos, 16, tmp_path / "cache")

    def encode(squares: np.ndarray) -> np.ndarray:
        return sums(squares).astype(np.uint32) + 65_536

    for _ in range(2):
        tokens = cached_tokens(images, encode, "large", views=2, shift=1, cache=tmp_path / "cache")
        assert tokens.dtype == np.uint32
        assert np.array_equal(tokens[3, 0], encode(images[3][None])[0])


def test_tokens_are_made_anew_if_numpy_draws_other_numbers(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = cached_images(photos, 16, tmp_path / "cache")

    def tokens() -> np.ndarray:
        return cached_tokens(images, sums, "a", views=2, shift=2, cache=tmp_path / "cache")

    before = np.array(tokens())
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Generator(Philox(seed)))
    assert not np.array_equal(tokens()[:, 1], before[:, 1])
    assert np.array_equal(tokens()[:, 0], before[:, 0])


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


def test_a_full_disk_is_found_before_anything_is_written(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ", 7)
    images = cached_images(photos, 8, tmp_path / "cache")
    for file in (tmp_path / "cache").iterdir():
        file.unlink()
    disk = shutil.disk_usage(tmp_path)
    needed = images.pixels.nbytes + SPARE
    for free in (needed, needed - 1):  # as the first few images tell
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: disk._replace(free=free))
        if free < needed:
            (listing,) = (tmp_path / "cache").glob("images-*.json")
            listing.unlink()
            with pytest.raises(MaskweaveError, match="GB left"):
                cached_images(photos, 8, tmp_path / "cache")
        else:
            assert np.array_equal(
                cached_images(photos, 8, tmp_path / "cache").pixels, images.pixels
            )


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


# Photos


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """Photos of many shapes, by name: height, width and, if other than RGB, the mode."""
    folder = tmp_path / "shapes"
    folder.mkdir()
    sizes = ((96, 64), (200, 100), (64, 64), (70, 3500), (1001, 90), (129, 257), (90, 100))
    for seed, (height, width) in enumerate(sizes):
        Image.fromarray(smooth(height, width, seed)).save(folder / f"{height}x{width}.png")
    Image.fromarray(smooth(120, 80)).convert("L").save(folder / "grey.png")
    return folder


def test_photos_keep_their_shape_and_are_shrunk_never_enlarged(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = cached_photos(shapes, 80, tmp_path / "cache")
    names = [file.name for file in sorted(shapes.iterdir())]
    found = {name: photos[i] for i, name in enumerate(names)}
    assert {name: photo.shape for name, photo in found.items()} == {
        "1001x90.png": (3, 320, 80),
        "129x257.png": (3, 80, 159),
        "200x100.png": (3, 160, 80),
        "64x64.png": (3, 64, 64),
        "70x3500.png": (3, 70, 280),
        "90x100.png": (3, 80, 89),
        "96x64.png": (3, 96, 64),
        "grey.png": (3, 120, 80),
    }
    assert len(photos) == len(photos.digests) == 8 and photos.skipped == {}
    assert np.array_equal(found["96x64.png"], smooth(96, 64, 0).transpose(2, 0, 1))
    assert np.array_equal(
        found["70x3500.png"], smooth(70, 3500, 3)[:, 1610:1890].transpose(2, 0, 1)
    )
    assert (found["grey.png"][0] == found["grey.png"][2]).all()
    shrunk = smooth(200, 100, 1).reshape(40, 5, 20, 5, 3).mean((1, 3)).transpose(2, 0, 1)
    again = found["200x100.png"].reshape(3, 40, 4, 20, 4).mean((2, 4))
    assert abs(shrunk - again).max() < 2
    assert np.array_equal(photos[-1], photos[7]) and photos[0].flags.writeable
    with pytest.raises(IndexError):
        photos[8]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(module, "read_photo", refuse)
    later = cached_photos(shapes, 80, tmp_path / "cache")
    assert later.key == photos.key and isinstance(later.pixels, np.memmap)
    assert not later.pixels.flags.writeable
    assert all(np.array_equal(later[i], photos[i]) for i in range(8))


def test_photos_of_other_sizes_are_other_entries(shapes: Path, tmp_path: Path) -> None:
    keys = {
        cached_photos(shapes, side, tmp_path / "cache", smallest).key
        for side, smallest in ((80, 64), (81, 64), (80, 63))
    } | {cached_images(shapes, 64, tmp_path / "cache").key}
    assert len(keys) == 4


def test_small_and_broken_photos_are_left_out_with_a_reason(shapes: Path, tmp_path: Path) -> None:
    for i in range(40):
        Image.fromarray(smooth(64, 70, i)).save(shapes / f"more{i}.png")
    Image.new("RGB", (63, 900)).save(shapes / "small.png")
    (shapes / "broken.png").write_bytes(b"x")
    photos = cached_photos(shapes, 80, tmp_path / "cache")
    assert len(photos) == len(photos.digests) == 48
    assert sorted(photos.skipped) == ["broken.png", "small.png"]
    assert photos.skipped["small.png"].endswith("small.png: 63x900 has a side below 64")
    with pytest.raises(MaskweaveError, match=r"cannot be used: .* has a side below 71"):
        cached_photos(shapes, 80, tmp_path / "cache", smallest=71)


def test_a_damaged_cache_of_photos_is_made_anew(shapes: Path, tmp_path: Path) -> None:
    expected = np.array(cached_photos(shapes, 80, tmp_path / "cache").pixels)
    for pattern in ("photos-*.bin", "photos-*.json"):
        (file,) = (tmp_path / "cache").glob(pattern)
        file.write_bytes(file.read_bytes()[:100])
        assert np.array_equal(cached_photos(shapes, 80, tmp_path / "cache").pixels, expected)


# Crops


def places(height: int, width: int) -> np.ndarray:
    """Return a photo whose first channel tells the row and whose second tells the column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, rows * 0]).astype(np.uint8)


def window(crop: np.ndarray) -> tuple[float, float, float, bool]:
    """Return side, top and left of a crop of ``places``, and whether it is mirrored."""
    size = crop.shape[1]
    rows, columns = crop[0].mean(axis=1), crop[1].mean(axis=0)
    across = columns[size // 2 + size // 4] - columns[size // 2 - size // 4]
    side = (rows[size // 2 + size // 4] - rows[size // 2 - size // 4]) / (size // 4 * 2) * size
    return side, rows.mean() - side / 2 + 0.5, columns.mean() - side / 2 + 0.5, across < 0


def test_the_same_generator_cuts_the_same_crop() -> None:
    photo = smooth(120, 200).transpose(2, 0, 1)
    one, again, other = (
        random_crop(photo, 64, 0.5, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert one.shape == (3, 64, 64) and one.dtype == np.uint8 and one.flags.c_contiguous
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_crops_are_of_uniform_side_and_place_and_half_are_mirrored() -> None:
    photo, rng = places(160, 240), np.random.default_rng(0)
    windows = [window(random_crop(photo, 64, 0.5, rng)) for _ in range(3000)]
    sides, tops, lefts, mirrored = map(np.array, zip(*windows, strict=True))
    assert 79 < sides.min() < 83 and 157 < sides.max() < 161
    assert np.quantile(sides, [0.25, 0.5, 0.75]) == pytest.approx([100, 120, 140], abs=3)
    room = sides < 150
    for first, length in ((tops, 160), (lefts, 240)):
        share = first[room] / (length - sides[room])
        assert -0.1 < share.min() < 0.05 and 0.95 < share.max() < 1.1
        assert np.quantile(share, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.05)
    assert 0.46 < mirrored.mean() < 0.54


@pytest.mark.parametrize(
    ("height", "width", "least", "sides"),
    [
        (100, 150, 0.01, (48, 100)),  # enlarged 1.34 times at most
        (50, 150, 0.01, (48, 50)),
        (30, 40, 0.5, (30, 30)),  # all there is
        (40, 160, 1.0, (40, 40)),
        (200, 200, 0.99, (198, 200)),
    ],
)
def test_sides_of_crops_are_bounded(
    height: int, width: int, least: float, sides: tuple[int, int]
) -> None:
    photo, rng = places(height, width), np.random.default_rng(0)
    found = [window(random_crop(photo, 64, least, rng))[0] for _ in range(400)]
    assert min(found) == pytest.approx(sides[0], abs=2)
    assert max(found) == pytest.approx(sides[1], abs=2)


def test_a_crop_of_its_own_size_is_the_photo_or_its_mirror_image() -> None:
    photo, rng = smooth(64, 64).transpose(2, 0, 1), np.random.default_rng(0)
    crops = [random_crop(photo, 64, 1.0, rng) for _ in range(20)]
    same = [np.array_equal(crop, photo) for crop in crops]
    mirrored = [np.array_equal(crop, photo[:, :, ::-1]) for crop in crops]
    assert any(same) and any(mirrored) and all(map(np.logical_or, same, mirrored))


@pytest.mark.parametrize("least", [0.0, 1.01])
def test_crops_of_no_side_are_refused(least: float) -> None:
    with pytest.raises(MaskweaveError, match="share in"):
        random_crop(places(64, 64), 32, least, np.random.default_rng(0))
