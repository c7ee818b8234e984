"""Pairs of images and masks as nobody would choose them: filled, or refused in one line.

Two hundred by default; MASKWEAVE_FUZZ tells another number, from which on they are others as well.
"""

import io
import os
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from typer.testing import CliRunner, Result

from maskweave.cli.main import app
from maskweave.images import read_image
from maskweave.masks import grown, read_mask

NUMBER = int(os.environ.get("MASKWEAVE_FUZZ", "200"))
IN_ONE_TEST = 50

Image.init()
FORMATS = sorted(set(Image.SAVE) - {"EPS", "PDF", "PALM", "MPO", "WMF", "HDF5", "GRIB", "BUFR"})
COMMON = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
MODES = (
    "1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV",
    "I", "F", "I;16", "I;16B",
)  # fmt: skip
SHALLOW = ("1", "L", "LA", "P", "RGB", "RGBA")
LOSSLESS = (".png", ".tiff", ".tif", ".webp", ".bmp")
SUFFIX = {"JPEG": ".jpg", "JPEG2000": ".jp2", "TIFF": ".tif"}


class Pair:
    """A picture, a mask and options, all drawn from one number."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng = np.random.default_rng(seed)
        size = self.size()
        self.image = self.write(self.picture(size), folder / self.name("image", seed))
        self.mask = self.write(
            self.marks(size if self.often(0.95) else self.size()),
            folder / self.name("mask", seed),
            harm=0.05,
        )
        suffix = ".png" if self.often(0.6) else str(self.rng.choice([*LOSSLESS, ".jpg"]))
        self.output = folder / f"out{seed}{suffix}"
        self.invert = self.often(0.15)
        self.threshold = int(self.rng.choice([1, 64, 200, 255])) if self.often(0.2) else 128
        self.grow = int(self.rng.choice([1, 3, 50])) if self.often(0.2) else 0
        if self.often(0.05):
            self.mask = self.image
        if self.often(0.1):
            self.mask = None

    def often(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def size(self) -> tuple[int, int]:
        """Return sides from 1 to 300, mostly small ones."""
        width, height = (300 ** self.rng.random(2)).astype(int)
        return int(width), int(height)

    def name(self, kind: str, seed: int) -> str:
        odd = ("", " with spaces", ".v1.2", " ünï", "%20", "'\"", "-", "[1]")
        return f"{kind}{seed}{self.rng.choice(odd)}"

    def picture(self, size: tuple[int, int]) -> Image.Image:
        width, height = size
        pixels = self.rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
        if self.often(0.5):  # smooth rather than noise
            pixels = np.array(Image.fromarray(pixels[:3, :3]).resize(size))
        mode = str(self.rng.choice(MODES if self.often(0.6) else SHALLOW))
        return self.in_mode(Image.fromarray(pixels), mode)

    def in_mode(self, image: Image.Image, mode: str) -> Image.Image:
        if mode in ("I", "I;16", "I;16B"):
            values = np.array(image.convert("L")).astype(np.uint16) * 257
            return Image.fromarray(values).convert(mode)
        if mode == "F":
            return Image.fromarray(np.array(image.convert("L"), dtype=np.float32) / np.float32(255))
        for via in ("RGBA", "RGB", "L", "LA"):
            try:
                return image.convert(via).convert(mode)
            except ValueError:
                continue
        return image.convert("RGB")

    def marks(self, size: tuple[int, int]) -> Image.Image:
        width, height = size
        level = int(self.rng.choice([255, 255, 255, 255, 255, 255, 1, 76, 128]))
        marks = np.zeros((height, width), dtype=np.uint8)
        for _ in range(self.rng.integers(0, 5)):
            top, left = self.rng.integers(0, height), self.rng.integers(0, width)
            bottom, right = top + 1 + self.rng.integers(0, height), left + 1 + self.rng.integers(9)
            marks[top:bottom, left:right] = level
        if self.often(0.1):
            marks[:] = self.rng.choice([0, 128, 255])
        if self.often(0.1):
            marks = self.rng.integers(0, 256, marks.shape, dtype=np.uint8)
        if self.often(0.15):
            layer = np.full((*marks.shape, 4), 255, dtype=np.uint8)
            layer[:, :, :3] = self.rng.integers(0, 256, 3)
            layer[:, :, 3] = marks
            return Image.fromarray(layer)
        if self.often(0.1):
            red = np.zeros((*marks.shape, 3), dtype=np.uint8)
            red[:, :, 0] = marks
            return Image.fromarray(red)
        mode = str(self.rng.choice(MODES)) if self.often(0.4) else "L"
        return self.in_mode(Image.fromarray(marks), mode)

    def write(self, image: Image.Image, stem: Path, harm: float = 0.1) -> Path:
        """Write an image in a format that takes it, sometimes cut off or under a wrong name."""
        while True:
            form = str(self.rng.choice(COMMON if self.often(0.92) else FORMATS))
            options: dict[str, object] = {}
            if self.often(0.03) and form in ("PNG", "GIF", "WEBP", "TIFF", "AVIF"):
                options |= {"save_all": True, "append_images": [image.rotate(180)]}
            if self.often(0.1) and form in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF"):
                exif = Image.Exif()
                exif[0x0112] = int(self.rng.integers(0, 10))
                options["exif"] = exif
            buffer = io.BytesIO()
            try:
                with warnings.catch_warnings(action="ignore"):
                    image.save(buffer, form, **options)
                break
            except (OSError, ValueError, KeyError, SystemError, TypeError, AttributeError):
                if self.often(0.3):
                    image = Image.new("RGB", image.size, (10, 200, 90))
        content = buffer.getvalue()
        if self.often(harm):
            content = content[: len(content) * int(self.rng.integers(0, 10)) // 10]
        suffix = SUFFIX.get(form, f".{form.lower()}")
        if self.often(0.05):
            suffix = str(self.rng.choice(["", ".png", ".txt", ".tif"]))
        file = stem.with_name(stem.name + suffix)
        file.write_bytes(content)
        return file

    def run(self, model: Path) -> Result:
        command = [
            "inpaint", self.image, "--output", self.output, "--model", model,
            "--threshold", self.threshold, "--grow", self.grow,
            *(["--mask", self.mask] if self.mask else []),
            *(["--invert-mask"] if self.invert else []),
        ]  # fmt: skip
        return CliRunner().invoke(app, [str(part) for part in command])

    def hole(self) -> np.ndarray:
        """Return what the product takes for the hole: other tests tell what that is to be."""
        if self.mask is None:
            transparent = read_image(self.image).transparent
            assert transparent is not None
            return grown(transparent, self.grow)
        return read_mask(
            self.mask, invert=self.invert, threshold=self.threshold, grow=self.grow
        ).hole

    def check_fill(self) -> None:
        """Expect every known value as it was, by the product's own reader and by Pillow's."""
        before, after, known = read_image(self.image), read_image(self.output), ~self.hole()
        assert before.shape == after.shape
        if self.output.suffix not in LOSSLESS:
            return
        assert before.values.dtype == after.values.dtype
        values = before.values
        if values.ndim < after.values.ndim:  # WebP has no grey
            values = np.stack([values] * 3, axis=2)
        assert np.array_equal(values[known], after.values[known])
        with Image.open(self.image) as image, Image.open(self.output) as filled:
            if image.mode in SHALLOW and before.values.dtype == np.uint8:
                mode = "RGBA" if filled.has_transparency_data else "RGB"
                pixels = np.array(ImageOps.exif_transpose(image).convert(mode))
                assert np.array_equal(pixels[known], np.array(filled.convert(mode))[known])


@pytest.mark.parametrize("first", range(0, NUMBER, IN_ONE_TEST))
def test_a_pair_is_filled_or_refused_in_one_line(
    first: int, tmp_path: Path, tiny_model: Path
) -> None:
    codes = Counter[int]()
    for seed in range(first, min(first + IN_ONE_TEST, NUMBER)):
        pair = Pair(seed, tmp_path)
        result = pair.run(tiny_model)
        told = f"{seed}: {pair.image.name}, {pair.mask}, {pair.output.name}: {result.stderr}"
        codes[result.exit_code] += 1
        if not isinstance(result.exception, SystemExit | None):
            raise AssertionError(told) from result.exception
        *notes, last = result.stderr.splitlines()
        if result.exit_code == 0:
            assert all(n.startswith("note: ") or " windows to fill" in n for n in notes), told
            assert last.startswith("1 of 1 in "), told
            pair.check_fill()
        else:
            assert result.exit_code in (1, 2), told
            assert not notes, told
            assert last.startswith("error: "), told
            assert not pair.output.exists(), told
    assert min(codes.values()) > 5 or NUMBER % IN_ONE_TEST, codes
    assert not list(tmp_path.glob(".*.unfinished"))
