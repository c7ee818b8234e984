"""Steps at a hole's border and between windows in fills, beside those of the truth there.

    python benchmarks/seams.py --truth photos/test --kind box --images 100
    python benchmarks/seams.py --truth cats64/val --size 256 --kind box --images 60

A step is the mean difference of grey pixels side by side, in levels of 255. Between windows are
pixels of the hole that different windows painted.
"""

import argparse
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image

from maskweave import InpaintPipeline, seeded
from maskweave.evaluation.examples import by_stem, read_rgb, spread
from maskweave.holes import draw_hole
from maskweave.images import Hole, Pixels
from maskweave.walk import Windows


def owners(hole: Hole, side: int, context: float) -> Int[np.ndarray, "height width"]:
    """Return the number of the window that paints each pixel at last, 0 where none does."""
    native = Windows(hole, side, context=context).plans[0]
    owner = np.zeros(hole.shape, dtype=np.int64)
    number = 0
    for part, rounds in ((native.level.thin, native.thin), (native.level.thick, native.thick)):
        for window in chain(*rounds):
            number += 1
            window.paste(owner, np.full((side, side), number), part)
    return owner


def step(image: Pixels, where: list[Bool[np.ndarray, "rows columns"]]) -> float:
    """Return the mean difference down and across where it is asked for; NaN if nowhere."""
    grey = image.astype(float).mean(2)
    steps = np.concatenate([abs(np.diff(grey, axis=axis))[where[axis]] for axis in (0, 1)])
    return float(steps.mean()) if len(steps) else float("nan")


def edges(owner: Int[np.ndarray, "height width"]) -> dict[str, list[np.ndarray]]:
    """Return where pixels side by side lie on both sides of the border, and of two windows."""
    near = [(owner[:-1], owner[1:]), (owner[:, :-1], owner[:, 1:])]
    return {
        "border": [(a > 0) != (b > 0) for a, b in near],
        "between windows": [(a != b) & (a > 0) & (b > 0) for a, b in near],
    }


def main() -> None:
    """Print a row for each place: steps of fills and truth, and their difference with interval."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="photos")
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--kind", default="box")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--size", type=int, help="to which images are enlarged; by default none is")
    arguments = parser.parse_args()
    files = by_stem(arguments.truth)
    pipeline = InpaintPipeline.from_pretrained(arguments.model)
    pipeline.set_progress_bar_config(disable=True)
    found: dict[str, list[tuple[float, float]]] = {}
    for number, stem in enumerate(spread(sorted(files), arguments.images)):
        truth = read_rgb(files[stem])
        if arguments.size:
            size = (arguments.size, arguments.size)
            truth = np.array(Image.fromarray(truth).resize(size, Image.Resampling.BICUBIC))
        hole = draw_hole(arguments.kind, *truth.shape[:2], np.random.default_rng(number), (2, 4))
        fill = np.asarray(pipeline(truth, hole, generator=seeded(0, stem)).images[0])
        owner = owners(hole, pipeline.tokenizer.image_size[0], pipeline.defaults.context)
        for place, where in edges(owner).items():
            found.setdefault(place, []).append((step(fill, where), step(truth, where)))
    for place, pairs in found.items():
        ours, theirs = np.array([pair for pair in pairs if not np.isnan(pair).any()]).T
        more = ours - theirs
        interval = 1.96 * more.std() / len(more) ** 0.5
        print(
            f"{place}: {len(more)} images, fills {ours.mean():.2f}, truth {theirs.mean():.2f}, "
            f"difference {more.mean():+.2f} ± {interval:.2f}"
        )


if __name__ == "__main__":
    main()
