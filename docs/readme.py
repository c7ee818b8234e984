"""Draw the README's picture from the folder that ``maskweave demo`` writes.

Usage: ``maskweave demo && python docs/readme.py maskweave-demo docs/readme.jpg``.
"""

import sys
from pathlib import Path

from PIL import Image

TASKS = ("scratches", "mast")

WIDTH, GAP = 480, 8


def main(demo: Path, output: Path) -> None:
    """Put photos before and after side by side."""
    rows = [[_shown(demo / f"{task}_{part}.png") for part in ("input", "result")] for task in TASKS]
    height = sum(before.height + GAP for before, _ in rows) - GAP
    sheet = Image.new("RGB", (2 * WIDTH + GAP, height), "white")
    top = 0
    for before, after in rows:
        sheet.paste(before, (0, top))
        sheet.paste(after, (WIDTH + GAP, top))
        top += before.height + GAP
    sheet.save(output, quality=85, optimize=True, progressive=True)


def _shown(file: Path) -> Image.Image:
    photo = Image.open(file).convert("RGB")
    size = (WIDTH, round(photo.height * WIDTH / photo.width))
    return photo.resize(size, Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
