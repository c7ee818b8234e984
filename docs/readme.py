"""Draw the README's picture from the folder that ``maskweave demo`` writes.

Usage: ``maskweave demo && python docs/readme.py maskweave-demo docs/readme.png``.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw

SIDE, GAP, LABEL = 256, 12, 26


def main(demo: Path, output: Path) -> None:
    """Put input, hole and fill side by side, each enlarged four times."""
    strip = Image.new("RGB", (3 * SIDE + 2 * GAP, SIDE + LABEL), "white")
    draw = ImageDraw.Draw(strip)
    for i, (name, label) in enumerate(
        [("input", "photo"), ("hole", "photo with its hole"), ("result", "filled by cats64")]
    ):
        left = i * (SIDE + GAP)
        picture = Image.open(demo / f"{name}.png").convert("RGB")
        strip.paste(picture.resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, 0))
        centre = left + SIDE // 2
        draw.text((centre, SIDE + LABEL // 2), label, "black", font_size=16, anchor="mm")
    strip.save(output, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
