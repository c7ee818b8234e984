"""One image filled step by step, in arrays that can be drawn."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float

from maskweave.evaluation.baselines import run_model
from maskweave.evaluation.benchmark import Benchmark
from maskweave.evaluation.examples import Batch
from maskweave.holes import is_narrow
from maskweave.images import Hole, Pixels
from maskweave.maskgit import DecodeSettings, Step
from maskweave.pipeline import InpaintPipeline

TokenGrid = Bool[np.ndarray, "rows columns"]


def model_size(benchmark: Benchmark, stem: str) -> Batch:
    """Return an example at the model's size, where tokens are squares of it."""
    example = benchmark.examples.read([stem])
    [image], [hole] = example.images, example.holes
    height, width = benchmark.pipeline.tokenizer.image_size
    if hole.shape == (height, width):
        return example
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    share = cv2.resize(hole.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return Batch([stem], [image], [share > 0])


def takes_tokens(pipeline: InpaintPipeline, example: Batch) -> bool:
    """Say whether a hole is too wide to be filled without tokens, so that there are steps."""
    hole = torch.from_numpy(example.holes[0])[None]
    return not is_narrow(hole, pipeline.tokenizer.narrow).item()


def decoded(
    pipeline: InpaintPipeline, example: Batch, settings: DecodeSettings
) -> tuple[list[Step], list[Pixels]]:
    """Fill one image of the model's size with seed 0; return every step and every picture."""
    steps: list[Step] = []

    def keep(_pipeline: InpaintPipeline, number: int, _left: int, tensors: dict[str, Any]) -> None:
        steps.append(Step(number, **tensors))

    output = run_model(pipeline, settings, 0, example, output_steps=True, callback_on_step_end=keep)
    [pictures] = output.steps or []
    return steps, [np.array(picture.image) for picture in pictures]


def token_grid(pipeline: InpaintPipeline, masked: Hole | torch.Tensor) -> TokenGrid:
    """Return the tokens that a hole hides, or those that a step leaves masked, as a grid."""
    if isinstance(masked, np.ndarray):
        masked = pipeline.tokenizer.token_mask(torch.from_numpy(masked)[None])
    return masked.view(pipeline.tokenizer.grid).cpu().numpy()


def kept_when(
    steps: Sequence[Step], masked: TokenGrid
) -> tuple[Float[np.ndarray, "rows columns"], Float[np.ndarray, "rows columns"]]:
    """Return the probability each masked token had when it was kept, and the step, from 1.

    Known tokens are NaN in both. The last step keeps whatever it predicted.
    """
    probability = np.full(masked.shape, np.nan)
    when = probability.copy()
    for step in steps:
        after = step.masked.view(masked.shape).cpu().numpy() & (step is not steps[-1])
        kept = masked & ~after
        probability[kept] = np.exp(step.confidence.view(masked.shape).cpu().numpy())[kept]
        when[kept] = step.number + 1
        masked = after
    return probability, when
