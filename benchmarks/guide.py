"""How good the guide of a first level is, beside classical methods, on photos at their own size.

    python benchmarks/guide.py --photos photos/val --limit 40

Prints LPIPS-squeeze of the whole picture and PSNR in the hole, by kind of hole, and the time of one
photo on the processor.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from maskweave.classical import biharmonic, fsr, navier_stokes
from maskweave.guide import bend, push_pull
from maskweave.holes import draw_hole
from maskweave.tokenizer.losses import perceptual_loss

Method = Callable[[np.ndarray, np.ndarray], np.ndarray]


def pushed(steps: int, pixels: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fill by push-pull and so many steps of bending."""
    known = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    holes = torch.from_numpy(hole)[None]
    filled = bend(push_pull(known, holes), holes, steps)[0].permute(1, 2, 0)
    return ((filled + 1) * 127.5).round().clamp(0, 255).byte().numpy()


def main() -> None:
    """Print one table for each kind of hole."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    methods: dict[str, Method] = {
        "Navier-Stokes": navier_stokes,
        "biharmonic": biharmonic,
        "FSR_FAST": fsr,
        "push-pull": partial(pushed, 0),
    }
    methods |= {f"push-pull, bent {steps} times": partial(pushed, steps) for steps in (6, 12, 24)}
    files = sorted(arguments.photos.iterdir())
    files = files[:: max(1, len(files) // arguments.limit)][: arguments.limit]
    perceptual = perceptual_loss()
    for kind in ("scratch", "thin", "thick", "box"):
        print(f"\n| {kind} | LPIPS | PSNR in hole | ms |\n|---|---|---|---|")
        for name, method in methods.items():
            rows = [measured(file, i, kind, method, perceptual) for i, file in enumerate(files)]
            lpips, psnr, seconds = np.mean(rows, axis=0)
            print(f"| {name} | {lpips:.4f} | {psnr:.2f} | {1000 * seconds:.0f} |", flush=True)


@torch.inference_mode()
def measured(
    file: Path,
    number: int,
    kind: str,
    method: Method,
    perceptual: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> tuple[float, float, float]:
    """Return LPIPS, PSNR in the hole and seconds of one photo."""
    pixels = np.array(Image.open(file).convert("RGB"))
    hole = draw_hole(kind, *pixels.shape[:2], np.random.default_rng((0, number)), (2, 4))
    start = time.process_time()
    filled = method(pixels, hole)
    seconds = time.process_time() - start
    error = np.square(filled[hole].astype(float) - pixels[hole]).mean() / 255**2
    a, b = (
        torch.from_numpy(x).permute(2, 0, 1)[None].float() / 127.5 - 1 for x in (filled, pixels)
    )
    return float(perceptual(a, b)), -10 * np.log10(max(error, 1e-6)), seconds


if __name__ == "__main__":
    main()
