"""How good the guide of a first level is, beside classical methods, on photos at their own size.

    python benchmarks/guide.py --photos photos/val --limit 40

Prints LPIPS-squeeze of the whole picture and PSNR in the hole, by kind of hole, the mean error of
smoothly shaded pictures in levels of 255, and the time of one photo on the processor.
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
from maskweave.guide import bend, interpolated, push_pull
from maskweave.holes import draw_hole
from maskweave.tokenizer.losses import perceptual_loss

Method = Callable[[np.ndarray, np.ndarray], np.ndarray]


def pushed(steps: int, pixels: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fill by push-pull and so many steps of bending."""
    known, holes = as_batch(pixels), torch.from_numpy(hole)[None]
    return as_pixels(bend(push_pull(known, holes), holes, steps))


def guided(pixels: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fill by the guide as networks see it."""
    return as_pixels(interpolated(as_batch(pixels), torch.from_numpy(hole)[None]).pixels)


def as_batch(pixels: np.ndarray) -> torch.Tensor:
    """Return a batch of one image in [-1, 1]."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1


def as_pixels(images: torch.Tensor) -> np.ndarray:
    """Return the one image of a batch."""
    filled = images[0].permute(1, 2, 0)
    return ((filled + 1) * 127.5).round().clamp(0, 255).byte().numpy()


def shaded() -> list[np.ndarray]:
    """Return a ramp, a ramp that bends, and a sky that is bright around a point above it."""
    rows, columns = np.mgrid[:256, :256] / 255
    shades = (
        60 + 120 * columns + 40 * rows,
        60 + 120 * columns**2 + 40 * rows,
        200 - 80 * np.hypot(columns - 0.3, rows + 0.5),
    )
    return [np.repeat(shade[..., None].round().astype(np.uint8), 3, axis=2) for shade in shades]


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
    methods["the same by 12, of what is beside a surface: the guide"] = guided
    files = sorted(arguments.photos.iterdir())
    files = files[:: max(1, len(files) // arguments.limit)][: arguments.limit]
    perceptual = perceptual_loss()
    photos = [np.array(Image.open(file).convert("RGB")) for file in files]
    seeded_shades = [(seed, shade) for seed in range(4) for shade in shaded()]
    for kind in ("scratch", "thin", "thick", "box", "half"):
        print(f"\n| {kind} | LPIPS | PSNR in hole | shaded | ms |\n|---|---|---|---|---|")
        for name, method in methods.items():
            rows = [measured(photo, i, kind, method, perceptual) for i, photo in enumerate(photos)]
            lpips, psnr, _, seconds = np.mean(rows, axis=0)
            smooth = [measured(each, i, kind, method, perceptual)[2] for i, each in seeded_shades]
            print(
                f"| {name} | {lpips:.4f} | {psnr:.2f} | {np.mean(smooth):.1f} | "
                f"{1000 * seconds:.0f} |",
                flush=True,
            )


@torch.inference_mode()
def measured(
    pixels: np.ndarray,
    seed: int,
    kind: str,
    method: Method,
    perceptual: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> tuple[float, float, float, float]:
    """Return LPIPS, PSNR and mean error in the hole, and seconds of one photo."""
    hole = draw_hole(kind, *pixels.shape[:2], np.random.default_rng((0, seed)), (2, 4))
    start = time.process_time()
    filled = method(pixels, hole)
    seconds = time.process_time() - start
    error = filled[hole].astype(float) - pixels[hole]
    psnr = -10 * np.log10(max(np.square(error).mean() / 255**2, 1e-6))
    lpips = float(perceptual(as_batch(filled), as_batch(pixels)))
    return lpips, psnr, abs(error).mean(), seconds


if __name__ == "__main__":
    main()
