"""What a GPU makes of it: parity with the CPU, passes, training steps and fills, in a few minutes.

    python benchmarks/gpu.py [--minutes 6] [--truth DIR --masks DIR]

Each result is printed as a line of JSON as soon as it is there, so that a run cut short is of use.
Rates are set against the products that the same card was measured to do in bfloat16. Without a GPU
it runs on the CPU, with small batches. Stage 1 needs LPIPS's weights and is left out without them.
"""

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from maskweave.errors import MaskweaveError
from maskweave.evaluation.examples import read_examples
from maskweave.holes import draw_hole
from maskweave.pipeline import InpaintPipeline
from maskweave.presets import TOKENIZERS, TRANSFORMERS
from maskweave.training.speed import gemm_rate, seconds
from maskweave.transformer import BidirectionalTransformer
from train_step import our_step, stage_1

COMPILED = {
    "eager": None,
    "compiled": "default",
    "CUDA graphs": "reduce-overhead",
}
"""Ways of running a transformer, and the mode of ``torch.compile``."""

Row = dict[str, Any]


def pictures(number: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return pictures of smooth noise, and holes in them."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 255, (number, 3, 8, 8)))
    images = torch.nn.functional.interpolate(coarse, size=64, mode="bicubic").clamp(0, 255)
    holes = [draw_hole("thick", 64, 64, rng) for _ in range(number)]
    return list(images.byte().permute(0, 2, 3, 1).numpy()), holes


def seeds(number: int) -> list[torch.Generator]:
    """Return a generator for each image."""
    return [torch.Generator().manual_seed(seed) for seed in range(number)]


def parity(device: torch.device) -> Iterator[Row]:
    """Compare tokens and fills of the shipped model with those of the CPU."""
    images, holes = pictures(32)
    cpu = InpaintPipeline.from_pretrained("cats64", backend="torch")
    known = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    tokens = cpu.tokenizer.encode(known)
    for dtype in (torch.float32, torch.bfloat16):
        other = InpaintPipeline.from_pretrained("cats64", backend="torch").to(device, dtype)
        same = other.tokenizer.encode(known.to(device)).cpu() == tokens
        yield {"part": "parity", "what": f"tokens, {dtype}", "equal": same.float().mean().item()}
        for paint in ("expected", "sampled"):
            ours, theirs = (
                np.stack(pipe(images, holes, generator=seeds(len(images)), paint=paint).images)
                for pipe in (cpu, other)
            )
            apart = np.abs(ours.astype(int) - theirs)[np.stack(holes)]
            yield {
                "part": "parity", "what": f"fills, {paint}, {dtype}",
                "mean difference of 255": apart.mean(), "largest": int(apart.max()),
            }  # fmt: skip


def timed(part: str, what: str, batch: int, flops: int, rate: float, spent: float) -> Row:
    """Return a row of how fast something is; ``flops`` are those of one image."""
    share = round(batch * flops / spent / rate, 3)
    speed = round(batch / spent, 1)
    return {"part": part, "what": what, "batch": batch, "images/s": speed, "share of GEMM": share}


@torch.no_grad()
def passes(device: torch.device, rate: float, batches: list[int], repeats: int) -> Iterator[Row]:
    """Time a pass of the transformer over tokens, as decoding makes one in each step."""
    for name in ("reference", "cats64"):
        config = TRANSFORMERS[name].model
        transformer = BidirectionalTransformer(config).to(device, torch.bfloat16).eval()
        for way, batch in ((way, batch) for way in COMPILED for batch in batches):
            if way == "CUDA graphs" and device.type != "cuda":
                continue
            tokens = torch.randint(config.codebook_size, (batch, config.length), device=device)
            known = None
            if config.patch_size:
                numbers = 4 * config.patch_size**2
                known = torch.rand(
                    batch, config.length, numbers, device=device, dtype=torch.bfloat16
                )
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                transformer(tokens[:1], known=known if known is None else known[:1])
            run: Callable[..., Tensor] = transformer
            if mode := COMPILED[way]:
                run = torch.compile(transformer, mode=mode, dynamic=False)
            spent = seconds(partial(run, tokens, known=known), device, repeats)
            flops = counter.get_total_flops()
            yield timed("pass", f"{name}, {way}", batch, flops, rate, spent)


def steps(device: torch.device, rate: float, batch: int, repeats: int) -> Iterator[Row]:
    """Time training steps of stage 2, and those of stage 1 with and without the discriminator."""
    for name in ("reference", "cats64"):
        for compiled in (False, True):
            recipe = TRANSFORMERS[name]
            recipe = replace(recipe, run=replace(recipe.run, batch_size=batch, compile=compiled))
            with tempfile.TemporaryDirectory() as folder:
                task, examples = our_step(recipe, device, Path(folder))
            spent = seconds(partial(task.step, examples, 500), device, repeats)
            what = f"stage 2, {name}, {'compiled' if compiled else 'eager'}"
            yield timed("training", what, batch, task.flops(), rate, spent)
    for name in ("cats64", "photos"):
        recipe = TOKENIZERS[name]
        recipe = replace(recipe, run=replace(recipe.run, batch_size=batch))
        with tempfile.TemporaryDirectory() as folder:
            try:
                painter, examples = stage_1(recipe, device, Path(folder))
            except MaskweaveError as error:
                yield {"part": "training", "what": f"stage 1, {name}", "left out": str(error)}
                continue
        for step, phase in ((100, "before"), (900, "with")):
            spent = seconds(partial(painter.step, examples, step), device, repeats)
            what = f"stage 1, {name}, {phase} the discriminator"
            yield timed("training", what, batch, painter.flops(), rate, spent)


def fills(device: torch.device, truth: Path, masks: Path, batch: int) -> Iterator[Row]:
    """Fill a set of test images with the shipped model by its default settings."""
    examples = read_examples(truth, masks, invert_mask=True)
    pipeline = InpaintPipeline.from_pretrained("cats64", backend="torch")
    pipeline.to(device, torch.bfloat16 if device.type == "cuda" else None)
    pipeline.set_progress_bar_config(disable=True)
    read = list(examples.batches())
    images, holes = ([one for part in read for one in part[i]] for i in (1, 2))
    start = time.perf_counter()
    for at in range(0, len(images), batch):
        pipeline(images[at : at + batch], holes[at : at + batch])
    spent = time.perf_counter() - start
    yield {
        "part": "fills", "images": len(images), "batch": batch,
        "images/s": round(len(images) / spent, 1), "seconds": round(spent, 1),
    }  # fmt: skip


def main() -> None:
    """Print the rows, in the order of their worth, until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--masks", type=Path)
    arguments = parser.parse_args()
    if (arguments.truth is None) != (arguments.masks is None):
        parser.error("--truth and --masks go together")
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    warnings.simplefilter("ignore")  # noise is unlike what the model is for
    end = time.monotonic() + 60 * arguments.minutes
    rates = {kind: gemm_rate(kind, device) for kind in (torch.float32, torch.bfloat16)}
    rate, repeats = rates[torch.bfloat16], 10 if gpu else 1
    name = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    row = {f"{kind} GFLOP/s": round(value / 1e9) for kind, value in rates.items()}
    print(json.dumps({"part": "device", "name": name, "torch": torch.__version__, **row}))
    parts = [
        parity(device),
        passes(device, rate, [16, 64, 256] if gpu else [2], repeats),
        steps(device, rate, 256 if gpu else 2, repeats),
    ]
    if arguments.truth:
        parts.append(fills(device, arguments.truth, arguments.masks, 128 if gpu else 16))
    for row in (row for part in parts for row in part):
        print(json.dumps(row), flush=True)
        if time.monotonic() > end:
            sys.exit("the time is up: the rest is left out")


if __name__ == "__main__":
    main()
