"""Speed of measuring filled images, part by part, and what the cache of the truth saves.

    python benchmarks/evaluate.py --truth DIR --masks DIR [--invert-mask] [--features 768]

The results that are measured are the truth with grey holes.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from maskweave.errors import MaskweaveError
from maskweave.evaluation.baselines import grey
from maskweave.evaluation.evaluate import Meter, joined, summarise, truth_features
from maskweave.evaluation.examples import read_examples
from maskweave.evaluation.inception import Inception, features_of
from maskweave.evaluation.metrics import lpips_distances, pixel_figures


def seconds(work: Callable[[], Any]) -> float:
    """Return how long the work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


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
    inception = Inception(arguments.features, "pytorch-fid", arguments.inception)
    meter = Meter(inception)
    batches = list(examples.batches())
    pairs = [(grey(batch), batch) for batch in batches]

    def lpips() -> None:
        for filled, batch in pairs:
            lpips_distances(filled, batch.images, meter.network)

    def pixels() -> None:
        for filled, batch in pairs:
            for one in zip(filled, batch.images, batch.holes, strict=True):
                pixel_figures(*one)

    def truth() -> Any:
        return truth_features(examples, meter, lambda count=1, text="": None)

    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        parts = {
            "reading": seconds(lambda: list(examples.batches())),
            "Inception": seconds(lambda: [features_of(f, inception) for f, _ in pairs]),
            "LPIPS": seconds(lpips),
            "PSNR, SSIM, border, known pixels": seconds(pixels),
            "features of the truth, the first time": seconds(truth),
            "features of the truth, from the cache": seconds(truth),
        }
        scores = joined([meter.score(filled, batch) for filled, batch in pairs])
        known = truth()
        parts["FID, KID, means, intervals"] = seconds(lambda: summarise([scores], known, meter))

    table = Table(
        f"{len(examples)} images, {torch.get_num_threads()} threads", "seconds", "images/s"
    )
    for name, took in parts.items():
        table.add_row(name, f"{took:.1f}", f"{len(examples) / took:.0f}")
    Console().print(table)


if __name__ == "__main__":
    try:
        main()
    except (MaskweaveError, OSError) as error:
        sys.exit(f"error: {error}")
