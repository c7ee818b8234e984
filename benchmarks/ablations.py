"""What each choice of a stage is worth: short runs that differ in one setting.

    python benchmarks/ablations.py tokenizer --data DIR --validation DIR --output DIR
    python benchmarks/ablations.py photos --data ...
    python benchmarks/ablations.py transformer --model cats64 --data ...
    python benchmarks/ablations.py decoder --model DIR --data ...

Every run sees the same images in the same order, for as many steps of as many images. A run that is
stopped goes on when started again. The transformer is trained on the tokenizer of the model, the
decoder on all of it: name a model that has not been through stage 3, as ``cats64`` has.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from maskweave.checkpoint import resolve
from maskweave.evaluation.metrics import lpips_distances
from maskweave.formats import find_images
from maskweave.holes import draw_hole
from maskweave.images import read_image
from maskweave.pipeline import InpaintPipeline
from maskweave.presets import DECODERS, TOKENIZERS, TRANSFORMERS
from maskweave.tokenizer.losses import perceptual_loss
from maskweave.training.overrides import override
from maskweave.training.train import train_decoder, train_tokenizer, train_transformer

RECIPES = {
    "tokenizer": TOKENIZERS["cats64"],
    "photos": TOKENIZERS["photos"],
    "transformer": TRANSFORMERS["cats64"],
    "decoder": DECODERS["cats64"],
}

Settings = tuple[str, ...]

MODERN = ("rms_norm", "swiglu", "rotary", "qk_norm")
"""The choices of the modern block, all pre-norm."""

BASES: dict[str, Settings] = {
    "tokenizer": ("run.batch_size=16", "loss.adversarial_start=0.4"),
    # Small, and as the preset was before it took up what these runs recommend.
    "photos": (
        "model.image_size=64",
        "examples.holes=random-walk,thin,medium,thick,box,half,scratch,text,blob",
        "examples.whole=0.15",
        "examples.finer=0.35",
        "loss.perceptual=2",
        "loss.adversarial=0",
    ),
    # Smaller than the preset, and as it was before it took up what these runs recommend.
    "transformer": (
        "model.dim=192",
        "model.depth=4",
        "model.heads=4",
        "model.mlp_dim=576",
        "model.pre_norm=true",
        *(f"model.{name}=false" for name in MODERN),
        "masking.unmasked_weight=0",
        "optimiser.warmup=50",
        "run.batch_size=32",
    ),
    "decoder": (),
}

NARROWER = ("model.channels=32,48,96,192", "model.decoder_blocks=4")
THIN_ONLY = (
    *NARROWER,
    "examples.holes=thin,scratch",
    "examples.whole=0",
    "examples.finer=0",
)

VARIANTS: dict[str, dict[str, Settings]] = {
    "tokenizer": {
        "base": (),
        "codes of 4 numbers": ("model.codebook_dim=4",),
        "codes of 64 numbers": ("model.codebook_dim=64",),
        "4,096 codes": ("model.codebook_size=4096",),
        "no discriminator": ("loss.adversarial=0",),
        "LPIPS weighs 0.2 instead of 2": ("loss.perceptual=0.2",),
        "a third of the decoder's width at the tokens": ("model.channels=32,64,64",),
        "random-walk holes only": ("examples.holes=random-walk",),
    },
    "photos": {
        "base": (),
        "narrower at the tokens": NARROWER,
        "the same, thin holes only": THIN_ONLY,
        "the same, LPIPS weighs 0.2 instead of 2": (*THIN_ONLY, "loss.perceptual=0.2"),
    },
    "transformer": {
        "base": (),
        "scattered masks instead of regions": ("examples.whole=1",),
        "loss over all tokens": ("masking.unmasked_weight=1",),
        "unmasked tokens weigh 0.1": ("masking.unmasked_weight=0.1",),
        "tokens alone, no known pixels": ("model.patch_size=0",),
        "modern block, MLP of 2/3 the width": (
            *(f"model.{name}=true" for name in MODERN),
            "model.mlp_dim=384",
        ),
        "post-norm, the reference block": ("model.pre_norm=false",),
        "no flips and shifts": ("masking.views=1",),
        "no EMA": ("optimiser.ema=0",),
        "label smoothing 0.1": ("masking.label_smoothing=0.1",),
        "ratio uniform in [0, 1]": ("masking.ratio=0,1",),
        "ratio arccos": ("masking.schedule=arccos",),
    },
    "decoder": {
        "base": (),
        "true tokens only": ("filled=0",),
        "the transformer's tokens only": ("filled=1",),
        "no added blocks": ("blocks=0",),
        "no discriminator": ("loss.adversarial=0",),
        "LPIPS weighs 0.2 instead of 2": ("loss.perceptual=0.2",),
        "random-walk holes only": ("examples.holes=random-walk",),
        "no EMA": ("optimiser.ema=0",),
    },
}

FIGURES = {
    "tokenizer": ("psnr_in_hole", "lpips", "codes_used"),
    "photos": ("psnr_in_hole", "lpips", "psnr_in_hole_unknown", "lpips_unknown"),
    "transformer": ("loss", "masked_accuracy"),
    "decoder": ("psnr_in_hole", "lpips"),
}
"""Of validation, by stage."""

KINDS = ("random-walk", "thick", "box")

FILLS = 120
"""Validation images that a transformer fills."""


@torch.no_grad()
def lpips_of_fills(model: Path, validation: Path) -> tuple[float, float]:
    """Return mean LPIPS of fills of fixed holes and the half-width of its 95 % interval."""
    pipeline = InpaintPipeline.from_pretrained(model)
    images = [read_image(file).pixels for file in find_images(validation).files[:FILLS]]
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
    distances = lpips_distances(filled, images, perceptual_loss())
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
    parser.add_argument("stage", choices=RECIPES)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=700)
    arguments = parser.parse_args()
    if arguments.stage in ("transformer", "decoder") and not arguments.model:
        parser.error(f"a {arguments.stage} is trained on a --model")
    train = train_tokenizer
    if arguments.stage == "transformer":
        train = partial(train_transformer, tokenizer=resolve(arguments.model) / "tokenizer")
    elif arguments.stage == "decoder":
        train = partial(train_decoder, model=resolve(arguments.model))
    recipe = RECIPES[arguments.stage]
    run = replace(recipe.run, steps=arguments.steps, save_every=arguments.steps)
    base = override(replace(recipe, run=run), BASES[arguments.stage])
    fills = arguments.stage == "transformer"
    table = Table("", *FIGURES[arguments.stage], *(["LPIPS of fills"] if fills else []))
    for name, settings in VARIANTS[arguments.stage].items():
        output = arguments.output / name.replace(" ", "-").replace("/", "-")
        train(
            override(base, settings),
            data=arguments.data,
            output=output,
            validation=arguments.validation,
        )
        found = validation(output)
        row = [f"{found[f'validation/{figure}']:.4f}" for figure in FIGURES[arguments.stage]]
        if fills:
            lpips, spread = lpips_of_fills(output, arguments.validation)
            row.append(f"{lpips:.4f} ± {spread:.4f}")
        table.add_row(name, *row)
    Console().print(table)


if __name__ == "__main__":
    main()
