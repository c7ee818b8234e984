"""Pieces of photos in batches of the model's size: what a walk asks for, painted by networks."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from maskweave.fill import fill_batch, fill_narrow
from maskweave.guide import Guide, interpolated
from maskweave.holes import is_narrow
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
        Told of each step in which tokens are decoded.
    requests : sequence of Request
        All of the model's size. Those without a guide start from an interpolation.

    Returns
    -------
    list
        For every request its paintings, on the CPU: one, or one for each step. Narrow holes take
        no steps.
    """
    device = transformer.device
    known = torch.stack([request.known for request in requests]).to(device)
    hole = torch.stack([request.hole for request in requests]).to(device)
    paintings: list[list[Painting]] = [[] for _ in requests]
    narrow, others = _apart(tokenizer, requests, hole)
    if narrow:
        images = fill_narrow(tokenizer, transformer, known[narrow], hole[narrow])
        decided = torch.zeros(tokenizer.grid, dtype=torch.bool)
        for row, image in zip(narrow, images.cpu(), strict=True):
            paintings[row].append(Painting(image, decided))
    if not others:
        return paintings
    known, hole = known[others], hole[others]
    seeds = [requests[row].seed for row in others]
    guide = _guide([requests[row].guide for row in others], known, hole)
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
            for row, image, grid in zip(others, images.cpu(), grids, strict=True):
                paintings[row].append(Painting(image, grid))
    return paintings


def _guide(
    given: Sequence[Float[Tensor, "3 height width"] | None],
    known: Float[Tensor, "batch 3 height width"],
    hole: Bool[Tensor, "batch height width"],
) -> Guide | None:
    """Return the guides of a batch, interpolated where none is given; None if none is."""
    pixels = [each for each in given if each is not None]
    if not pixels:
        return None
    finer = torch.tensor([each is not None for each in given], device=known.device)
    guide = Guide(known.clone(), finer)
    guide.pixels[finer] = torch.stack(pixels).to(known.device)
    if len(pixels) < len(given):
        guide.pixels[~finer] = interpolated(known[~finer], hole[~finer]).pixels
    return guide


def _apart(
    tokenizer: Tokenizer, requests: Sequence[Request], hole: Bool[Tensor, "batch height width"]
) -> tuple[list[int], list[int]]:
    """Return the places of requests whose hole is narrow, which take no tokens, and of others."""
    narrow: list[int] = []
    others: list[int] = []
    widths = is_narrow(hole, tokenizer.narrow).tolist() if tokenizer.narrow else []
    for row, request in enumerate(requests):
        (narrow if widths and widths[row] and request.guide is None else others).append(row)
    return narrow, others
