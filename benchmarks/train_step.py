"""Speed of training steps, against this machine's products and a plain step of stage 2.

    python benchmarks/train_step.py [--device cpu] [--steps 5]

The plain step is the reference experiment's: the VQGAN encodes the batch, the loss compares all
logits with one-hot targets, everything is float32. All figures of one run belong together. Steps of
stage 1 need LPIPS's weights, as training does.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import send_to_device
from rich.console import Console
from rich.table import Table
from torch import Tensor

from maskweave.checkpoint import load_tokenizer, resolve
from maskweave.data.augment import to_unit_range
from maskweave.data.sampler import StepSampler
from maskweave.presets import TOKENIZERS, TRANSFORMERS
from maskweave.tokenizer.convolutional import ConvolutionalConfig, ConvolutionalVQGAN
from maskweave.training.examples import Examples
from maskweave.training.loop import Course, accelerator_for
from maskweave.training.optimiser import adamw
from maskweave.training.speed import gemm_rate, seconds
from maskweave.training.tokenizer_task import TokenizerRecipe, TokenizerTask
from maskweave.training.transformer_task import TransformerRecipe, TransformerTask
from maskweave.transformer import BidirectionalTransformer

IMAGES = 64


class Noise:
    """Images of noise: speed does not depend on what they show."""

    key = "noise"
    digests = ("",) * IMAGES

    def __init__(self, size: int = 64) -> None:
        shape = (IMAGES, 3, size, size)
        self.pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def __len__(self) -> int:
        """Return the number of images."""
        return IMAGES

    def __getitem__(self, index: int) -> np.ndarray:
        """Return an image."""
        return self.pixels[index]


def reference_vqgan() -> ConvolutionalVQGAN:
    """Return a VQGAN of the reference's layers, at the base width of VQGAN's code, 128."""
    encoder = "residual " * 6 + "down " + "residual " * 4 + "down residual attention residual"
    decoder = (
        "residual attention residual "
        + "residual attention " * 3
        + "up "
        + "residual " * 6
        + "up "
        + "residual " * 6
    )
    layers = encoder.split(), decoder.split()
    widths = [(128,) * (len(part) + 1) for part in layers]
    return ConvolutionalVQGAN(
        ConvolutionalConfig(tuple(layers[0]), widths[0], tuple(layers[1]), widths[1])  # type: ignore[arg-type]
    )


def plain_step(
    tokenizer: ConvolutionalVQGAN,
    transformer: BidirectionalTransformer,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
) -> None:
    """Do what the reference's loop does with a batch."""
    with torch.no_grad():
        tokens = tokenizer.encode(images)
    masked = torch.rand(tokens.shape, device=tokens.device) < 0.5 * torch.rand(()).item()
    logits = transformer(tokens.masked_fill(masked, transformer.config.mask_token))
    targets = F.one_hot(tokens, logits.shape[-1]).float()
    optimiser.zero_grad()
    F.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1)).backward()
    optimiser.step()


def our_step(
    recipe: TransformerRecipe, device: torch.device, folder: Path
) -> tuple[TransformerTask, tuple[Any, ...]]:
    """Return a task and a batch drawn from tokens as the cache holds them."""
    tokenizer = load_tokenizer(resolve("cats64") / "tokenizer")
    run = replace(recipe.run, precision="bf16")
    accelerator = accelerator_for(run, folder)
    samples = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    recipe, course = replace(recipe, run=run), Course(1000, 100)
    task = TransformerTask(recipe, tokenizer, samples, accelerator, course)
    tokens = np.random.default_rng(0).integers(0, 1024, (IMAGES, 1, 256)).astype(np.uint16)
    examples = Examples(Noise(), range(IMAGES), 64, recipe.examples, tokens)
    draws = next(iter(StepSampler(IMAGES, run.batch_size, 0)))
    batch = torch.utils.data.default_collate([examples[draw] for draw in draws])
    return task, send_to_device(tuple(batch), device)


def stage_1(
    recipe: TokenizerRecipe, device: torch.device, folder: Path
) -> tuple[TokenizerTask, tuple[Any, ...]]:
    """Return a task and a batch of crops."""
    accelerator, size = accelerator_for(recipe.run, folder), recipe.model.image_size
    samples = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    task = TokenizerTask(recipe, samples, accelerator, Course(1000, 100))
    examples = Examples(Noise(size), range(IMAGES), size, recipe.examples)
    draws = next(iter(StepSampler(IMAGES, recipe.run.batch_size, 0)))
    batch = torch.utils.data.default_collate([examples[draw] for draw in draws])
    return task, send_to_device(tuple(batch), device)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    device, steps = arguments.device, arguments.steps
    rates = {kind: gemm_rate(kind, device) for kind in (torch.float32, torch.bfloat16)}
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {device}, {threads} threads")
    print("GEMM: " + ", ".join(f"{kind} {rate / 1e9:.0f} GFLOP/s" for kind, rate in rates.items()))

    table = Table("step", "batch", "images/s", "share of GEMM rate", "against plain")
    noise = to_unit_range(torch.from_numpy(Noise().pixels)).to(device)
    vqgan = reference_vqgan().to(device).eval()
    transformer = BidirectionalTransformer(TRANSFORMERS["reference"].model).to(device)
    optimiser = adamw(transformer, TRANSFORMERS["reference"].optimiser)
    spent = seconds(lambda: plain_step(vqgan, transformer, optimiser, noise[:16]), device, steps)
    plain = 16 / spent
    table.add_row("plain, reference, float32", "16", f"{plain:.2f}", "", "1")
    reference = TRANSFORMERS["reference"]
    fused = replace(reference.model, attention_dropout=0.0)
    recipes = {
        "reference": reference,
        "reference, no dropout on attention's weights": replace(reference, model=fused),
        "reference, no dropout": replace(reference, model=replace(fused, dropout=0.0)),
        "cats64": TRANSFORMERS["cats64"],
    }
    for name, recipe in recipes.items():
        with tempfile.TemporaryDirectory() as folder:
            task, batch = our_step(recipe, device, Path(folder))
        flops = task.flops()
        spent = seconds(lambda: task.step(batch, 500), device, steps)  # noqa: B023
        rate = recipe.run.batch_size / spent
        share = rate * flops / rates[torch.bfloat16]
        table.add_row(
            f"{name}, bfloat16, from the cache", str(recipe.run.batch_size), f"{rate:.2f}",
            f"{share:.0%}", f"{rate / plain:.2f}",
        )  # fmt: skip
    for name in ("cats64", "photos"):
        recipe = TOKENIZERS[name]
        with tempfile.TemporaryDirectory() as folder:
            task, batch = stage_1(recipe, device, Path(folder))
        flops, batch_size = task.flops(), recipe.run.batch_size
        for step, what in ((100, "before"), (900, "with")):
            rate = batch_size / seconds(lambda: task.step(batch, step), device, steps)  # noqa: B023
            share = f"{rate * flops / rates[torch.bfloat16]:.0%}" if step == 100 else ""
            row = f"stage 1, {name}, {what} the discriminator"
            table.add_row(row, str(batch_size), f"{rate:.2f}", share, "")
    Console().print(table)

    table = Table("tokens of 16 images", "ms")
    ours = load_tokenizer(resolve("cats64") / "tokenizer").to(device)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        file = Path(folder) / "tokens.npy"
        np.save(file, np.zeros((IMAGES, 8, 256), np.uint16))
        cached = np.load(file, mmap_mode="r")
        ways = {
            "read from the cache": lambda: torch.from_numpy(cached[:16, 3].astype(np.int64)),
            "encoded by the tokenizer of cats64": lambda: ours.encode(noise[:16]),
            "encoded by the reference's VQGAN": lambda: vqgan.encode(noise[:16]),
        }
        for name, work in ways.items():
            table.add_row(name, f"{1e3 * seconds(work, device, steps):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
