"""How long a photo of 12 megapixels takes, and how much memory: command line, start-up and files.

    python benchmarks/large.py [--model photos] [--threads 2]

The photo is scikit-image's cup of coffee, enlarged to 4000x3000 pixels; the holes are a scratch of
6 pixels from side to side and an ellipse of 600x600 pixels.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image, ImageDraw
from skimage import data

SIZE = 4000, 3000


def draw(folder: Path) -> list[Path]:
    """Write the photo and its masks; return the masks."""
    Image.fromarray(data.coffee()).resize(SIZE, Image.Resampling.BICUBIC).save(folder / "photo.jpg")
    scratch, thing = Image.new("L", SIZE), Image.new("L", SIZE)
    ImageDraw.Draw(scratch).line((0, 400, 3999, 2600), fill=255, width=6)
    ImageDraw.Draw(thing).ellipse((1700, 1200, 2299, 1799), fill=255)
    masks = [folder / "scratch.png", folder / "object.png"]
    for mask, file in zip((scratch, thing), masks, strict=True):
        mask.save(file)
    return masks


def main() -> None:
    """Print seconds and megabytes of a command for each hole."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="photos")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
    with tempfile.TemporaryDirectory() as name:
        folder, peak = Path(name), 0
        for mask in draw(folder):
            command = [sys.executable, "-m", "maskweave", "inpaint", folder / "photo.jpg"]
            command += ["--mask", mask, "--output", folder / "filled.png", "--overwrite"]
            started = time.perf_counter()
            subprocess.run([*command, "--model", arguments.model], env=environment, check=True)
            took = time.perf_counter() - started
            peak = max(peak, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1000)
            print(f"{mask.stem}: {took:.1f} s, at most {peak} MB until now")


if __name__ == "__main__":
    main()
