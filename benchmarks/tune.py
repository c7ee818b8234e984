"""Figures of a model over decode settings, beside the classical methods, for holes of each kind.

    python benchmarks/tune.py --model DIR --truth DIR --steps 4 8 --token-temperature 0.5 1

Settings that are not named are the model's defaults.

The holes are drawn; run it on validation images, so that the test stays unseen. With ``--sheets``
a random few fills of each kind, whatever they are worth, are drawn beside the truth.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from maskweave.evaluation.baselines import Fill, by_model, pasted
from maskweave.evaluation.benchmark import BASELINES
from maskweave.evaluation.evaluate import Meter, joined, summarise
from maskweave.evaluation.examples import BATCH, Batch, by_stem, read_rgb, spread
from maskweave.evaluation.inception import Inception, real_features
from maskweave.holes import KINDS, draw_hole
from maskweave.images import covered
from maskweave.pipeline import InpaintPipeline
from maskweave.report.pictures import sheet

SHOWN = 8
"""Fills in a sheet."""

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
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--steps", type=int, nargs="+", default=[None])
    parser.add_argument("--temperature", type=float, nargs="+", default=[None])
    parser.add_argument("--token-temperature", type=float, nargs="+", default=[None])
    parser.add_argument("--sheets", type=Path, help="folder for pictures of fills")
    arguments = parser.parse_args()
    pipeline = InpaintPipeline.from_pretrained(arguments.model)
    pipeline.set_progress_bar_config(disable=True)
    inception = Inception(768, "pytorch-fid")
    meter = Meter(inception)

    ways: dict[str, Fill] = {name: fill for name, fill in BASELINES.items() if name != "grey"}
    for steps, temperature, tokens in itertools.product(
        arguments.steps, arguments.temperature, arguments.token_temperature
    ):
        settings = pipeline.settings(steps=steps, temperature=temperature, token_temperature=tokens)
        name = f"{settings.steps}, {settings.temperature:g}, {settings.token_temperature:g}"
        ways[name] = by_model(pipeline, settings, seed=0)
    expected = pipeline.settings(paint="expected")
    ways["expected codes"] = by_model(pipeline, expected, seed=0)
    table = Table("holes", "steps, temperature, of tokens", *FIGURES)
    for kind in arguments.kinds:
        batches = draw_batches(arguments.truth, kind, arguments.images)
        examples = zip(*(batch[:3] for batch in batches), strict=True)
        stems, images, holes = (list(itertools.chain(*part)) for part in examples)
        truth = np.concatenate([real_features(b.images, inception) for b in batches])
        shown = np.random.default_rng(0).permutation(len(stems))[:SHOWN].tolist()
        rows = [{"hole": covered(images[i], holes[i])} for i in shown]
        for name, fill in ways.items():
            painted = itertools.chain(*(fill(batch) for batch in batches))
            fills = [pasted(*one) for one in zip(painted, images, holes, strict=True)]
            parts = [meter.score(fills[i * BATCH :][:BATCH], b) for i, b in enumerate(batches)]
            found = summarise([joined(parts)], truth, meter).figures
            table.add_row(kind, name, *(f"{found[figure].value:.4f}" for figure in FIGURES))
            rows = [row | {name: fills[i]} for row, i in zip(rows, shown, strict=True)]
        if arguments.sheets:
            arguments.sheets.mkdir(parents=True, exist_ok=True)
            rows = [row | {"truth": images[i]} for row, i in zip(rows, shown, strict=True)]
            picture = sheet(rows, [stems[i] for i in shown])
            picture.savefig(arguments.sheets / f"{kind}.png")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
