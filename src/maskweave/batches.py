"""Pieces of photos in batches of the model's size: what a walk asks for, painted by networks."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from maskweave.fill import fill_batch
from maskweave.guide import interpolated
from maskweave.maskgit import DecodeSettings, Step
from maskweave.tokenizer.base import Tokenizer
from maskweave.transformer import Transformer
from maskweave.walk import Painting, Request


def paint_requests(
    tokenizer: Tokenizer,
    transformer: Transformer,
    settings: DecodeSettings,
    condition: Any,
    every_step: bool,
    on_step: Callable[[Step], None] | None,
    requests: Sequence[Request],
) -> list[list[Painting]]:
    """Paint a batch of pieces at once.

    Parameters
    ----------
    tokenizer, transformer
        A model; the batch is moved to its device.
    settings : DecodeSettings
        How tokens are decoded and painted.
    condition
        From ``transformer.condition``: what the photos show.
    every_step : bool
        Paint after each step, not only after the last.
    on_step : callable, optional
        Told of each step.
    requests : sequence of Request
        All of the model's size. Those without a guide start from an interpolation.

    Returns
    -------
    list
        For every request its paintings, on the CPU: one, or one for each step.
    """
    device = transformer.device
    known = torch.stack([request.known for request in requests]).to(device)
    hole = torch.stack([request.hole for request in requests]).to(device)
    seeds = [request.seed for request in requests]
    guide = None
    if any(request.guide is not None for request in requests):
        guide = interpolated(known, hole)
        for row, request in enumerate(requests):
            if request.guide is not None:
                guide.pixels[row] = request.guide.to(device)
                guide.finer[row] = True
    paintings: list[list[Painting]] = [[] for _ in requests]
    for step, images in fill_batch(
        *(tokenizer, transformer, known, hole, seeds, settings),
        guide=guide,
        condition=condition,
        every_step=every_step,
    ):
        if on_step is not None:
            on_step(step)
        if images is not None:
            grids = step.masked.unflatten(1, tokenizer.grid).cpu()
            for states, image, grid in zip(paintings, images.cpu(), grids, strict=True):
                states.append(Painting(image, grid))
    return paintings
