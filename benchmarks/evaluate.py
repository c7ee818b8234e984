"""Speed of measuring filled images, part by part, and what the cache of the truth saves.

    python benchmarks/evaluate.py --truth DIR --masks DIR [--invert-mask] [--features 768]

The results that are measured are the truth with grey holes.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from maskweave.evaluation.baselines import grey
from maskweave.evaluation.evaluate import Meter, hole_shares, joined, summarise, truth_features
from maskweave.evaluation.examples import read_examples
from maskweave.evaluation.inception import Inception, features_of
from maskweave.evaluation.metrics import lpips_distances, pixel_figures


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what the work returns and the seconds that it took."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def main() -> None:
    """Print a table with a row for each part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--masks", type=Path, required=True)
    parser.add_argument("--invert-mask", action="store_true")
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--inception", type=Path)
    arguments = parser.parse_args()

    examples = read_examples(arguments.truth, arguments.masks, arguments.invert_mask)
    meter = Meter(Inception(arguments.features, "pytorch-fid", arguments.inception))
    batches, reading = timed(lambda: list(examples.batches()))
    results = [grey(batch.images, batch.holes) for batch in batches]
    pairs = list(zip(results, batches, strict=True))

    def scores() -> list[Any]:
        return [meter.score(filled, batch) for filled, batch in pairs]

    def truth() -> Any:
        return truth_features(examples, meter, lambda count=1, text="": None)

    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        parts = {
            "reading": reading,
            "Inception": timed(
                lambda: [features_of(filled, meter.inception) for filled, _ in pairs]
            )[1],
            "LPIPS": timed(lambda: [lpips_distances(f, b.images, meter.network) for f, b in pairs])[
                1
            ],
            "PSNR, SSIM, border, known pixels": timed(
                lambda: [
                    pixel_figures(*one)
                    for filled, batch in pairs
                    for one in zip(filled, batch.images, batch.holes, strict=True)
                ]
            )[1],
        }
        measured, parts["all figures of the images together"] = timed(scores)
        _, parts["features of the truth, the first time"] = timed(truth)
        known, parts["features of the truth, from the cache"] = timed(truth)
        shares = hole_shares(examples)
        scored = joined(measured)
        _, parts["FID, KID, means, intervals"] = timed(
            lambda: summarise([scored], known, shares, meter)
        )

    table = Table(
        f"{len(examples)} images, {torch.get_num_threads()} threads", "seconds", "images/s"
    )
    for name, seconds in parts.items():
        table.add_row(name, f"{seconds:.1f}", f"{len(examples) / seconds:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
