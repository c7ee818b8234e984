"""Copies of images, byte for byte or nearly: which are found, and which are not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from checked_photos import photo, report, save, still
from maskweave.data import check
from maskweave.data.check import find_near_copies, find_splits, read_entries, summarise


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
