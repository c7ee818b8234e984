"""Draw the pictures of docs/photos.md: what the model photos makes of holes, good and bad.

Usage: ``python docs/photos.py`` writes docs/photos-good.jpg and docs/photos-bad.jpg. All photos
come with scikit-image, and each is filled whole; shown is a part of it at native pixels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from skimage.data import astronaut, camera, chelsea, coffee, rocket

from maskweave import load_pipeline, seeded
from maskweave.cli.demo import MAST
from maskweave.holes import draw_hole

WIDTH, GAP, LABEL = 293, 10, 22
"""Of each picture, between them, and of the line above them, in pixels."""

MARK = (255, 0, 200)
"""Colour that marks a hole; 0.6 of what is seen there."""

FILLS = {
    "--paint expected": ("photos", {"paint": "expected"}),
    "--paint sampled": ("photos", {"paint": "sampled"}),
    "--model photos": ("photos", {}),
    "--model navier-stokes": ("navier-stokes", {}),
}
"""By its options, what fills: a model, and settings."""

PAINTS, MODELS = tuple(FILLS)[:2], tuple(FILLS)[2:]


class Row(NamedTuple):
    """A photo with a hole, how it is filled, and where the part that is shown begins."""

    label: str
    photo: np.ndarray
    hole: np.ndarray
    fills: tuple[str, str]
    left: int
    top: int
    height: int = 200


def main() -> None:
    """Write a sheet of good fills and one of bad ones beside this file."""
    models = {name: load_pipeline(name) for name in ("photos", "navier-stokes")}
    for name, rows in {"good": _good(), "bad": _bad()}.items():
        sheet = Image.new("RGB", (3 * WIDTH + 2 * GAP, _bottom(rows) - GAP), "white")
        for number, row in enumerate(rows):
            top = _bottom(rows[:number])
            for column, (label, picture) in enumerate(_pictures(row, models).items()):
                left = column * (WIDTH + GAP)
                ImageDraw.Draw(sheet).text((left, top), label, fill="black", font_size=15)
                box = (row.left, row.top, row.left + WIDTH, row.top + row.height)
                sheet.paste(picture.crop(box), (left, top + LABEL))
        file = Path(__file__).with_name(f"photos-{name}.jpg")
        sheet.save(file, quality=78, optimize=True, progressive=True)


def _good() -> list[Row]:
    cat, cup, launch, man = chelsea(), coffee(), rocket(), np.stack([camera()] * 3, axis=2)
    scratches = draw_hole("scratches", *cat.shape[:2], np.random.default_rng(3))
    date = _drawn(cup, lambda pen: pen.text((410, 355), "24.12.1999", fill=1, font_size=30))
    mast = _drawn(launch, lambda pen: pen.polygon(MAST, fill=1))
    tower = _drawn(man, lambda pen: pen.rectangle((400, 110, 440, 200), fill=1))
    strip = ((0, 0), (0, 24))
    wider = np.pad(cup, (*strip, (0, 0)))
    edge = np.pad(np.zeros(cup.shape[:2], dtype=bool), strip, constant_values=True)
    return [
        Row("scratches", cat, scratches, MODELS, 60, 80),
        Row("a date", cup, date, MODELS, 307, 200),
        Row("a mast and its lamps", launch, mast, PAINTS, 320, 100, 327),
        Row("a tower", man, tower, PAINTS, 219, 60),
        Row("a strip along the border", wider, edge, PAINTS, 331, 100),
    ]


def _bad() -> list[Row]:
    woman, cup = astronaut(), coffee()
    face = _drawn(woman, lambda pen: pen.ellipse((178, 60, 278, 195), fill=1))
    box = _drawn(cup, lambda pen: pen.rectangle((160, 30, 330, 230), fill=1))
    return [
        Row("a face", woman, face, PAINTS, 90, 10, 250),
        Row("half of a cup", cup, box, PAINTS, 100, 10, 250),
    ]


def _drawn(photo: np.ndarray, draw: Callable[[ImageDraw.ImageDraw], None]) -> np.ndarray:
    hole = Image.new("1", photo.shape[1::-1])
    draw(ImageDraw.Draw(hole))
    return np.array(hole)


def _pictures(row: Row, models: dict) -> dict[str, Image.Image]:
    marked = np.where(row.hole[:, :, None], 0.4 * row.photo + 0.6 * np.array(MARK), row.photo)
    pictures = {row.label: Image.fromarray(marked.astype(np.uint8))}
    photo = Image.fromarray(row.photo)
    for label in row.fills:
        model, settings = FILLS[label]
        noise = seeded(0, row.label)
        filled = models[model](image=photo, mask_image=row.hole, generator=noise, **settings)
        pictures[label] = filled.images[0]
    return pictures


def _bottom(rows: list[Row]) -> int:
    return sum(LABEL + row.height + GAP for row in rows)


if __name__ == "__main__":
    main()
