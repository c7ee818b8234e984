"""Figures of a model over decode settings, beside the classical methods, for holes of each kind.

    python benchmarks/tune.py --model DIR --truth DIR --steps 4 8 --token-temperature 0.5 1

The holes are drawn; run it on validation images, so that the test stays unseen.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from maskweave.evaluation.baselines import Fill, biharmonic, by_model, navier_stokes, pasted
from maskweave.evaluation.evaluate import Meter, joined, summarise
from maskweave.evaluation.examples import BATCH, Batch, by_stem, read_rgb, spread
from maskweave.evaluation.inception import Inception, real_features
from maskweave.holes import KINDS, draw_hole
from maskweave.pipeline import InpaintPipeline

FIGURES = ("fid", "lpips", "psnr_hole", "ssim_hole")


def draw_batches(truth: Path, kind: str, number: int) -> list[Batch]:
    """Return images, spread evenly over the folder, each with a hole of its own."""
    files = by_stem(truth)
    stems = spread(sorted(files), number)
    images = [read_rgb(files[stem]) for stem in stems]
    holes = [
        draw_hole(kind, *image.shape[:2], np.random.default_rng((0, i)))
        for i, image in enumerate(images)
    ]
    return [
        Batch(stems[i : i + BATCH], images[i : i + BATCH], holes[i : i + BATCH])
        for i in range(0, len(stems), BATCH)
    ]


def main() -> None:
    """Print a table with a row for each kind of hole and each setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="cats64")
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", default=KINDS)
    parser.add_argument("--steps", type=int, nargs="+", default=[4])
    parser.add_argument("--temperature", type=float, nargs="+", default=[1.0])
    parser.add_argument("--token-temperature", type=float, nargs="+", default=[0.5])
    arguments = parser.parse_args()
    pipeline = InpaintPipeline.from_pretrained(arguments.model)
    meter = Meter(Inception(768, "pytorch-fid"))

    ways: dict[str, Fill] = {"Navier-Stokes": navier_stokes, "biharmonic": biharmonic}
    for setting in itertools.product(
        arguments.steps, arguments.temperature, arguments.token_temperature
    ):
        steps, temperature, tokens = setting
        settings = pipeline.settings(steps=steps, temperature=temperature, token_temperature=tokens)
        name = f"{steps} steps, temperature {temperature}, of tokens {tokens}"
        ways[name] = by_model(pipeline, settings, seed=0)
    table = Table("holes", "", *FIGURES)
    for kind in arguments.kinds:
        batches = draw_batches(arguments.truth, kind, arguments.images)
        truth = np.concatenate([real_features(b.images, meter.inception) for b in batches])
        for name, fill in ways.items():
            parts = []
            for batch in batches:
                pairs = zip(fill(batch.images, batch.holes), batch.images, batch.holes, strict=True)
                parts.append(meter.score([pasted(*one) for one in pairs], batch))
            scores = joined(parts)
            found = summarise([scores], truth, meter).figures
            table.add_row(kind, name, *(f"{found[figure].value:.4f}" for figure in FIGURES))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
