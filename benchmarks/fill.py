"""How long a model takes to fill holes with its default settings, pixels in and pixels out.

    python benchmarks/fill.py [--model cats64] [--batch 64] [--device cpu]

The images are noise of the model's own size, the holes random-walk.
"""

import argparse
from functools import partial

import numpy as np
import torch

from maskweave.holes import draw_hole
from maskweave.pipeline import InpaintPipeline
from maskweave.training.speed import seconds


def main() -> None:
    """Print the time of one fill and the fills a second of a batch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="cats64")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    pipeline = InpaintPipeline.from_pretrained(arguments.model).to(arguments.device)
    pipeline.set_progress_bar_config(disable=True)
    (height, width), rng = pipeline.tokenizer.image_size, np.random.default_rng(0)
    for number in (1, arguments.batch):
        images = list(rng.integers(0, 256, (number, height, width, 3), dtype=np.uint8))
        holes = [draw_hole("random-walk", height, width, rng) for _ in images]
        took = seconds(partial(pipeline, images, holes), torch.device(arguments.device), 5)
        print(f"{number}: {took:.3f} s, {number / took:.1f} images/s")


if __name__ == "__main__":
    main()
