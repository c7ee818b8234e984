"""Quality of fills on a folder of true images and their masks, beside OpenCV's classical methods.

    python benchmarks/fill.py --truth DIR --masks DIR [--invert-mask] [--model cats64]

LPIPS is torchmetrics' with SqueezeNet on whole images; PSNR is over the pixels of the hole, a mean
of the images' own. All results keep the known pixels.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from maskweave.images import Hole, Pixels, list_images, read_image, read_mask
from maskweave.pipeline import InpaintPipeline
from maskweave.progress import progress

Fill = Callable[[Sequence[Pixels], Sequence[Hole]], Sequence[Pixels]]


def classical(method: int) -> Fill:
    """Return OpenCV's inpainting with a radius of 3 pixels."""
    return lambda images, holes: [
        cv2.inpaint(image, hole.astype(np.uint8), 3, method)
        for image, hole in zip(images, holes, strict=True)
    ]


def grey(images: Sequence[Pixels], holes: Sequence[Hole]) -> Sequence[Pixels]:
    """Fill with mid-grey."""
    return [
        np.where(hole[:, :, None], np.uint8(128), image)
        for image, hole in zip(images, holes, strict=True)
    ]


def ours(model: str, dtype: str, seed: int, steps: int | None) -> Fill:
    """Return the fill by a model, every image with the same seed."""
    pipeline = InpaintPipeline.from_pretrained(model).to("cpu", getattr(torch, dtype))
    print(pipeline.settings(steps=steps))

    def fill(images: Sequence[Pixels], holes: Sequence[Hole]) -> Sequence[Pixels]:
        generators = [torch.Generator().manual_seed(seed) for _ in images]
        return pipeline(
            list(images),
            list(holes),
            generator=generators,
            num_inference_steps=steps,
            output_type="np",
        ).images

    return fill


def score(
    filled: Sequence[Pixels],
    truth: Sequence[Pixels],
    holes: Sequence[Hole],
    lpips: LearnedPerceptualImagePatchSimilarity,
) -> np.ndarray:
    """Return LPIPS and PSNR in the hole of every image: (n, 2)."""

    def tensor(images: Sequence[Pixels]) -> torch.Tensor:
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1

    distances = [
        lpips(one[None], other[None]).item()
        for one, other in zip(tensor(filled), tensor(truth), strict=True)
    ]
    ratios = []
    for image, true, hole in zip(filled, truth, holes, strict=True):
        error = np.square((image.astype(float) - true) / 255)[hole].mean()
        ratios.append(-10 * np.log10(max(error, 1e-10)))
    return np.stack([distances, ratios], axis=1)


def main() -> None:
    """Print a table with a row for each method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--masks", type=Path, required=True)
    parser.add_argument("--invert-mask", action="store_true")
    parser.add_argument("--model", default="cats64")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    arguments = parser.parse_args()

    masks = {file.stem: file for file in list_images(arguments.masks)}
    files = list_images(arguments.truth)
    truth = [read_image(file).pixels for file in files]
    holes = [read_mask(masks[file.stem], arguments.invert_mask) for file in files]
    methods = {
        "grey": grey,
        "Telea": classical(cv2.INPAINT_TELEA),
        "Navier-Stokes": classical(cv2.INPAINT_NS),
        arguments.model: ours(arguments.model, arguments.dtype, arguments.seed, arguments.steps),
    }
    lpips = LearnedPerceptualImagePatchSimilarity(net_type="squeeze")
    table = Table("n = " + str(len(files)), "LPIPS-squeeze", "PSNR in hole", "seconds")
    for name, fill in methods.items():
        scores, seconds = [], 0.0
        with progress(len(files)) as advance:
            for start in range(0, len(files), 16):
                batch = slice(start, start + 16)
                began = time.perf_counter()
                filled = fill(truth[batch], holes[batch])
                seconds += time.perf_counter() - began
                scores.append(score(filled, truth[batch], holes[batch], lpips))
                advance(len(truth[batch]))
        scores = np.concatenate(scores)
        error = 1.96 * scores.std(axis=0, ddof=1) / len(scores) ** 0.5
        cells = [f"{m:.4f} ± {e:.4f}" for m, e in zip(scores.mean(axis=0), error, strict=True)]
        table.add_row(name, *cells, f"{seconds:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
