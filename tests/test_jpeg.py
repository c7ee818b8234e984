"""JPEG out: its tables, and the blocks that keep their coefficients."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin
from scipy.ndimage import gaussian_filter

from maskweave import jpeg
from maskweave.jpeg import save_jpeg

HOLE = (slice(30, 50), slice(40, 70))
CHANGED = "JPEG is lossy: known pixels change on disk"
KEPT = "JPEG is lossy: known pixels around the hole change on disk"


@pytest.fixture
def scene(rng: np.random.Generator) -> np.ndarray:
    """Return a smooth colour picture of a size that no block divides."""
    waves = gaussian_filter(rng.normal(size=(101, 139, 3)), (4, 4, 0))
    return (128 + 100 * waves / np.abs(waves).max()).astype(np.uint8)


def read(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.array(image)


def photo(scene: np.ndarray, file: Path, mode: str = "RGB", **options: Any) -> np.ndarray:
    """Write a JPEG and return it as read, filled with something else in the hole."""
    Image.fromarray(scene).convert(mode).save(file, **options)
    values = read(file)
    values[HOLE] = 255 - values[HOLE]
    return values


def test_what_was_no_jpeg_is_written_well_and_without_subsampling(
    scene: np.ndarray, tmp_path: Path
) -> None:
    png, expected, file = tmp_path / "x.png", tmp_path / "expected.jpg", tmp_path / "y.jpg"
    Image.fromarray(scene).save(png)
    Image.fromarray(scene).save(expected, quality=95, subsampling=0)
    for source in (None, png, tmp_path / "gone.jpg"):
        assert save_jpeg(scene, file, source=source) == CHANGED
        assert file.read_bytes() == expected.read_bytes()
    assert np.abs(read(file).astype(int) - scene).max() < 8


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_jpeg_keeps_its_tables_and_subsampling_unless_told_otherwise(
    subsampling: int, scene: np.ndarray, tmp_path: Path
) -> None:
    source, file = tmp_path / "x.jpg", tmp_path / "y.jpg"
    values = photo(scene, source, quality=83, subsampling=subsampling)
    save_jpeg(values, file, source=source)
    with Image.open(file) as new, Image.open(source) as old:
        assert new.quantization == old.quantization
        assert JpegImagePlugin.get_sampling(new) == subsampling
    assert save_jpeg(values, file, source=source, quality=60) == CHANGED
    Image.fromarray(values).save(tmp_path / "z.jpg", quality=60, subsampling=0)
    assert file.read_bytes() == (tmp_path / "z.jpg").read_bytes()


@pytest.mark.parametrize(
    ("mode", "options", "reach"),
    [
        ("RGB", {"subsampling": 0, "quality": 90}, 7),
        ("RGB", {"subsampling": 0, "quality": 50, "optimize": True}, 7),
        ("RGB", {"subsampling": 1, "quality": 85}, 17),
        ("RGB", {"subsampling": 2, "quality": 75}, 17),
        ("RGB", {"subsampling": 2, "quality": 75, "progressive": True}, 17),
        ("RGB", {"subsampling": 2, "quality": 75, "restart_marker_rows": 1}, 17),
        ("L", {"quality": 75}, 7),
    ],
)
def test_pixels_of_blocks_without_a_change_are_those_of_the_source(
    mode: str, options: dict[str, Any], reach: int, scene: np.ndarray, tmp_path: Path
) -> None:
    pytest.importorskip("jpegio")
    source, file = tmp_path / "x.jpg", tmp_path / "y.jpg"
    values = photo(scene, source, mode, **options)
    assert save_jpeg(values, file, source=source, comment=b"filled", dpi=(300, 300)) == KEPT
    before, after = read(source), read(file)
    near = np.zeros(before.shape[:2], dtype=bool)
    rows, columns = HOLE
    near[rows.start - reach : rows.stop + reach, columns.start - reach : columns.stop + reach] = 1
    assert np.array_equal(after[~near], before[~near])
    assert np.abs(after[HOLE].astype(int) - values[HOLE]).mean() < 6
    with Image.open(file) as image:
        assert image.info["comment"] == b"filled"
        assert image.info["dpi"] == (300, 300)
        assert image.info.get("progressive", 0) == options.get("progressive", 0)


def test_a_picture_without_a_change_is_the_same(scene: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("jpegio")
    source, file = tmp_path / "x.jpg", tmp_path / "y.jpg"
    photo(scene, source)
    assert save_jpeg(read(source), file, source=source) == KEPT
    assert np.array_equal(read(file), read(source))


def test_no_blocks_of_a_turned_photo_or_of_another_kind_are_kept(
    scene: np.ndarray, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    source, file = tmp_path / "x.jpg", tmp_path / "y.jpg"
    turned = photo(scene, source, exif=exif)[::-1, ::-1]
    assert save_jpeg(turned, file, source=source) == CHANGED
    assert np.abs(read(file).astype(int) - turned).mean() < 6
    values = photo(scene, source, keep_rgb=True)
    assert save_jpeg(values, file, source=source) == CHANGED
    assert np.abs(read(file).astype(int) - values).mean() < 6
    grey = photo(scene, source, "L")
    assert save_jpeg(np.dstack([grey] * 3), file, source=source) == CHANGED


def test_a_jpeg_is_whole_where_its_blocks_cannot_be_kept(
    scene: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jpegio = pytest.importorskip("jpegio")

    def stop(_: object, path: Path) -> None:
        path.write_bytes(b"half a file")
        raise RuntimeError("Bogus Huffman table definition")

    monkeypatch.setattr(jpegio, "write", stop)
    source, file = tmp_path / "x.jpg", tmp_path / "y.jpg"
    values = photo(scene, source)
    assert save_jpeg(values, file, source=source) == CHANGED
    assert np.abs(read(file).astype(int) - values).mean() < 6


def test_without_the_extra_the_note_names_it(
    scene: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jpeg, "find_spec", lambda _: None)
    values = photo(scene, tmp_path / "x.jpg")
    told = save_jpeg(values, tmp_path / "y.jpg", source=tmp_path / "x.jpg")
    assert "with maskweave[jpeg] installed, only those around the hole do" in told


def test_what_cannot_be_written_is_an_error_of_the_system(scene: np.ndarray) -> None:
    with pytest.raises(OSError, match="No space left"):
        save_jpeg(scene, Path("/dev/full"))
    with pytest.raises((OSError, ValueError)):
        save_jpeg(np.zeros((1, 70_000, 3), np.uint8), Path("/dev/null"))
