"""What a model of whole objects makes of small holes in larger photos, by how much it sees of them.

    python benchmarks/framing.py --truth cats64/val --images 60 --context 0.25 0.45

Images are enlarged and one square hole is cut into each, at a place that its number decides.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from maskweave import load_pipeline, seeded
from maskweave.evaluation.examples import by_stem, read_rgb, spread
from maskweave.evaluation.metrics import lpips_distances
from maskweave.images import Hole
from maskweave.tokenizer.losses import perceptual_loss


def square(size: int, side: int, rng: np.random.Generator) -> Hole:
    """Return a hole of this side somewhere in an image of this size."""
    top, left = rng.integers(size - side + 1, size=2)
    hole = np.zeros((size, size), dtype=bool)
    hole[top : top + side, left : left + side] = True
    return hole


def main() -> None:
    """Print a row of LPIPS for each way of filling and each size of hole."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="cats64")
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--size", type=int, default=256, help="to which images are enlarged")
    parser.add_argument("--holes", type=int, nargs="+", default=[24, 48], help="their sides")
    parser.add_argument("--context", type=float, nargs="+", default=[0.25, 0.45])
    arguments = parser.parse_args()
    files = by_stem(arguments.truth)
    size = (arguments.size, arguments.size)
    stems = spread(sorted(files), arguments.images)
    truths = [
        np.array(Image.fromarray(read_rgb(files[stem])).resize(size, Image.Resampling.BICUBIC))
        for stem in stems
    ]
    network = perceptual_loss()
    ways = [
        (arguments.model, {"context": context, "paint": paint})
        for context in arguments.context
        for paint in ("sampled", "expected")
    ]
    for name, settings in [("navier-stokes", {}), *ways]:
        pipeline = load_pipeline(name)
        pipeline.set_progress_bar_config(disable=True)
        for side in arguments.holes:
            holes = [square(size[0], side, np.random.default_rng(i)) for i in range(len(truths))]
            fills = [
                np.asarray(pipeline(truth, hole, generator=seeded(0, stem), **settings).images[0])
                for truth, hole, stem in zip(truths, holes, stems, strict=True)
            ]
            distances = lpips_distances(fills, truths, network)
            way = ", ".join([name, *(f"{key} {value}" for key, value in settings.items())])
            print(f"{way}: {side} pixels, LPIPS {np.mean(distances):.4f}", flush=True)


if __name__ == "__main__":
    main()
