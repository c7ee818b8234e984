"""Do the ways of decoding differ on inpainting? Orders, steps, remasking and entropy bounds.

    python benchmarks/orders.py --model cats64 --truth DIR --images 96

All ways fill the same holes of the same images from the same seeds, and differ from the model's
defaults in nothing but what a row names. So each is compared with the defaults image by image: the
paired difference varies far less than the figures do.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from maskweave.call import Photo
from maskweave.evaluation.examples import by_stem, read_rgb, spread
from maskweave.evaluation.metrics import lpips_distances, psnr
from maskweave.holes import KINDS, draw_hole
from maskweave.images import Hole, Pixels, as_picture
from maskweave.maskgit import DecodeSettings, Step
from maskweave.orders import ORDERS
from maskweave.pipeline import InpaintPipeline
from maskweave.tokenizer.losses import perceptual_loss

STEPS = (2, 4, 8, 16)
BOUNDS = (1, 4, 16)
"""Entropies, in nats."""


class Scores(NamedTuple):
    """Figures of each image's fill."""

    lpips: Float[np.ndarray, "images"]
    psnr_hole: Float[np.ndarray, "images"]
    steps: Float[np.ndarray, "images"]
    """Steps until nothing was masked."""


def ways(pipeline: InpaintPipeline) -> dict[str, DecodeSettings]:
    """Return what is compared, by the names of the rows."""
    rows = {"any order, T = 1": pipeline.settings(steps=1)}  # all stay: nothing to order
    for order in ORDERS:
        for steps in STEPS:
            rows[f"{order}, T = {steps}"] = pipeline.settings(order=order, steps=steps)
    rows["confidence with remasking, T = 8"] = pipeline.settings(
        order="confidence", steps=8, remask=True
    )
    for bound in BOUNDS:
        rows[f"confidence, T = 16, entropy bound {bound}"] = pipeline.settings(
            order="confidence", steps=16, entropy_bound=float(bound)
        )
    rows["expected codes"] = pipeline.settings(paint="expected")
    return rows


def measure(
    pipeline: InpaintPipeline,
    network: torch.nn.Module,
    images: Sequence[Pixels],
    holes: Sequence[Hole],
    settings: DecodeSettings,
) -> Scores:
    """Fill each image once and return its figures."""
    steps: list[np.ndarray] = []

    def count(step: Step) -> None:
        """Add a step to the images that still need one."""
        if step.number == 0:
            steps.append(np.ones(len(step.masked)))
        steps[-1] += step.masked.any(1).cpu().numpy()

    photos = map(Photo, map(as_picture, images), holes, ([i] for i in range(len(images))))
    filled = dict(pipeline.fill(photos, settings, on_step=count))
    fills = [filled[i][0][-1].image.pixels for i in range(len(images))]
    in_holes = [
        psnr(fill[hole], image[hole])
        for fill, image, hole in zip(fills, images, holes, strict=True)
    ]
    return Scores(
        lpips_distances(fills, images, network), np.array(in_holes), np.concatenate(steps)
    )


def interval(values: Float[np.ndarray, "images"], form: str) -> str:
    """Return the mean and its 95 % interval over images."""
    half_width = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():{form}} ± {half_width:{form.lstrip('+')}}"


def main() -> None:
    """Print a table for each kind of hole with a row for each way of decoding."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="cats64")
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=("thin", "thick", "half"))
    parser.add_argument("--bfloat16", action="store_true", help="faster; the same in every row")
    arguments = parser.parse_args()
    dtype = torch.bfloat16 if arguments.bfloat16 else torch.float32
    pipeline = InpaintPipeline.from_pretrained(arguments.model, torch_dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    network = perceptual_loss()
    files = by_stem(arguments.truth)
    images = [read_rgb(files[stem]) for stem in spread(sorted(files), arguments.images)]
    rows = ways(pipeline)
    for kind in arguments.kinds:
        holes = [
            draw_hole(kind, *image.shape[:2], np.random.default_rng((0, i)))
            for i, image in enumerate(images)
        ]
        found = {
            settings: measure(pipeline, network, images, holes, settings)
            for settings in {pipeline.defaults, *rows.values()}
        }
        default = found[pipeline.defaults]
        print(f"| {kind} holes | steps taken | LPIPS | less the default's | PSNR in hole |")
        print("|---|---|---|---|---|")
        for name, settings in rows.items():
            scores = found[settings]
            less = interval(scores.lpips - default.lpips, "+.4f")
            print(
                f"| {name} | {scores.steps.mean():.1f} | {interval(scores.lpips, '.4f')} "
                f"| {'the default' if settings == pipeline.defaults else less} "
                f"| {interval(scores.psnr_hole, '.2f')} |"
            )
        print(flush=True)


if __name__ == "__main__":
    main()
