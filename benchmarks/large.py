"""How long a photo of 12 megapixels takes, and how much memory: command line, start-up and files.

    python benchmarks/large.py [--model photos] [--threads 2]

The photo is scikit-image's cup of coffee, enlarged to 4000x3000 pixels; the holes are a scratch of
6 pixels from side to side and an ellipse of 600x600 pixels.
"""

import argparse
import os
import subprocess
import sys
import tempfile

from startup import measure

DRAW = """
from PIL import Image, ImageDraw
from skimage.data import coffee
size = 4000, 3000
Image.fromarray(coffee()).resize(size, Image.Resampling.BICUBIC).save("photo.jpg")
scratch, thing = Image.new("L", size), Image.new("L", size)
ImageDraw.Draw(scratch).line((0, 400, 3999, 2600), fill=255, width=6)
ImageDraw.Draw(thing).ellipse((1700, 1200, 2299, 1799), fill=255)
scratch.save("scratch.png")
thing.save("object.png")
"""
"""Makes what is filled, in a process of its own: one begins with the memory of its parent."""

HOLES = ("scratch", "object")

FILL = ["-m", "maskweave", "inpaint", "photo.jpg", "--output", "filled.png", "--overwrite"]


def main() -> None:
    """Print seconds and memory of a command for each hole."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="photos")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        subprocess.run([sys.executable, "-c", DRAW], check=True)
        for hole in HOLES:
            run = measure([*FILL, "--mask", f"{hole}.png", "--model", arguments.model], None)
            print(f"{hole}: {run.seconds:.1f} s, {run.megabytes:.0f} MiB")


if __name__ == "__main__":
    main()
