"""What each choice of stage 2 is worth: short runs that differ in one setting, of equal compute.

    python benchmarks/ablations.py --data DIR --validation DIR --tokenizer cats64 --output DIR

Every run sees the same images in the same order, for as many steps of as many images, with a
transformer of as many operations. A run that is stopped goes on when started again.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from maskweave.checkpoint import resolve
from maskweave.data.folder import find_images
from maskweave.evaluation.metrics import lpips_distances
from maskweave.holes import draw_hole
from maskweave.images import read_image
from maskweave.pipeline import InpaintPipeline
from maskweave.presets import TRANSFORMERS
from maskweave.tokenizer.losses import perceptual_loss
from maskweave.training.overrides import override
from maskweave.training.train import train_transformer

BASE = (
    "model.dim=192",
    "model.layers=4",
    "model.heads=4",
    "model.mlp_dim=576",
    "model.modern=false",
    "model.pre_norm=true",
    "masking.unmasked_weight=0",
    "optimiser.warmup=50",
    "run.batch_size=32",
)
"""The preset cats64, smaller and as it was before it took up what these runs recommend."""

VARIANTS: dict[str, tuple[str, ...]] = {
    "base": (),
    "scattered masks instead of regions": ("masking.whole=1",),
    "loss over all tokens": ("masking.unmasked_weight=1",),
    "unmasked tokens weigh 0.1": ("masking.unmasked_weight=0.1",),
    "tokens alone, no known pixels": ("model.patch=0",),
    "modern block, MLP of 2/3 the width": ("model.modern=true", "model.mlp_dim=384"),
    "post-norm, the reference block": ("model.pre_norm=false",),
    "no flips and shifts": ("masking.views=1",),
    "no EMA": ("optimiser.ema=0",),
    "label smoothing 0.1": ("masking.label_smoothing=0.1",),
    "ratio uniform in [0, 1]": ("masking.ratio=0,1",),
    "ratio arccos": ("masking.schedule=arccos",),
}

KINDS = ("random-walk", "thick", "box")


@torch.no_grad()
def lpips_of_fills(
    model: Path, images: list[np.ndarray], network: LearnedPerceptualImagePatchSimilarity
) -> tuple[float, float]:
    """Return mean LPIPS of fills of fixed holes and the half-width of its 95 % interval."""
    pipeline = InpaintPipeline.from_pretrained(model)
    rng = np.random.default_rng(0)
    size = pipeline.tokenizer.config.image_size
    holes = [draw_hole(KINDS[i % len(KINDS)], size, size, rng) for i in range(len(images))]
    filled = pipeline(
        images,
        holes,
        num_inference_steps=4,
        token_temperature=0.5,
        generator=[torch.Generator().manual_seed(i) for i in range(len(images))],
        output_type="np",
    ).images
    distances = lpips_distances(filled, images, network)
    spread = 1.96 * distances.std(ddof=1) / len(distances) ** 0.5
    return float(distances.mean()), float(spread)


def validation(run: Path) -> dict[str, float]:
    """Return the last validation figures of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    figures: dict[str, float] = {}
    for file in sorted(run.glob("logs/**/events*")):
        log = EventAccumulator(str(file))
        log.Reload()
        figures |= {name: log.Scalars(name)[-1].value for name in log.Tags()["scalars"]}
    return figures


def main() -> None:
    """Train what is not trained yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--tokenizer", default="cats64")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--images", type=int, default=120)
    arguments = parser.parse_args()
    images = [read_image(f).pixels for f in find_images(arguments.validation)[: arguments.images]]
    run = replace(
        TRANSFORMERS["cats64"].run, steps=arguments.steps, save_every=arguments.steps, seed=0
    )
    base = override(replace(TRANSFORMERS["cats64"], run=run), BASE)
    tokenizer = resolve(arguments.tokenizer) / "tokenizer"
    network = perceptual_loss()
    table = Table("", "validation loss", "accuracy", "LPIPS of fills")
    for name, settings in VARIANTS.items():
        output = arguments.output / name.replace(" ", "-").replace("/", "-")
        recipe = override(base, settings)
        train_transformer(recipe, arguments.data, tokenizer, output, arguments.validation)
        figures = validation(output)
        lpips, spread = lpips_of_fills(output, images, network)
        table.add_row(
            name,
            f"{figures['validation/loss']:.3f}",
            f"{figures['validation/masked_accuracy']:.3f}",
            f"{lpips:.4f} ± {spread:.4f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
