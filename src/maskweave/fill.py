"""A batch of holes at the model's size: encode once, decode tokens step by step, paint.

This file knows no geometry: images of any size become such batches in ``batches``.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskweave.errors import MaskweaveError
from maskweave.guide import Guide, interpolated, plain_kept_plain
from maskweave.holes import known_patches
from maskweave.maskgit import BROKEN, DecodeSettings, Predict, Step, are_sound, decode
from maskweave.tokenizer.base import Tokenizer
from maskweave.transformer import Transformer


class Fill(NamedTuple):
    """A batch after a step of decoding."""

    step: Step
    """Tokens, and which of them stay masked."""
    images: Float[Tensor, "batch 3 height width"] | None
    """Pictures from all tokens as predicted so far, in [-1, 1]; None where none are wanted."""


def fill_batch(
    tokenizer: Tokenizer,
    transformer: Transformer,
    known: Float[Tensor, "batch 3 height width"],
    hole: Bool[Tensor, "batch height width"],
    seeds: Sequence[int],
    settings: DecodeSettings,
    *,
    guide: Guide | None = None,
    condition: Any = None,
    every_step: bool = False,
) -> Iterator[Fill]:
    """Fill holes of images of the model's size; yield after each step of decoding.

    The last fill is the result and is always painted. Whoever stops iterating cancels the rest.

    Parameters
    ----------
    tokenizer, transformer
        A model, on the device of the images.
    known : Tensor
        Images in [-1, 1]; what lies under the hole is never read.
    hole : Tensor
        True in the hole.
    seeds : sequence of int
        One for each image, whose noise depends on nothing else.
    settings : DecodeSettings
        How tokens are decoded and painted.
    guide : Guide, optional
        What a guided model starts from; by default the known pixels are interpolated.
    condition : optional
        From ``transformer.condition``: what the images show.
    every_step : bool
        Paint after every step, not only after the last.

    Raises
    ------
    MaskweaveError
        If the transformer's weights are broken.
    """
    known = known.masked_fill(hole[:, None], 0.0)
    if guide is None and (tokenizer.guided or transformer.config.guided):
        guide = interpolated(known, hole)
    if settings.paint == "expected":
        parts = (tokenizer, transformer, known, hole, guide, condition, settings)
        step, codes = expected_codes(*parts)
        yield Fill(step, _paint(tokenizer, transformer, codes, known, hole, guide))
        return
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    parts = (tokenizer, transformer, known, hole, generators, settings, guide, condition)
    for step in decode_tokens(*parts):
        last = step.number + 1 == settings.last_step or not step.masked.any()
        images = None
        if last or every_step:
            codes = tokenizer.codes[step.tokens]
            images = _paint(tokenizer, transformer, codes, known, hole, guide)
        yield Fill(step, images)


def fill_narrow(
    tokenizer: Tokenizer,
    transformer: Transformer,
    known: Float[Tensor, "batch 3 height width"],
    hole: Bool[Tensor, "batch height width"],
) -> Float[Tensor, "batch 3 height width"]:
    """Return images with their holes filled, all of which are ``tokenizer.narrow``.

    No tokens are decoded and nothing is sampled; the rest is as in ``fill_batch``.
    """
    known = known.masked_fill(hole[:, None], 0.0)
    guide = interpolated(known, hole)
    with _painting(transformer.dtype, known.device):
        painted = tokenizer.paint_narrow(known, hole, guide).float()
    return plain_kept_plain(painted, known, hole, guide)


def decode_tokens(
    tokenizer: Tokenizer,
    transformer: Transformer,
    known: Float[Tensor, "batch 3 height width"],
    hole: Bool[Tensor, "batch height width"],
    generators: Sequence[torch.Generator],
    settings: DecodeSettings,
    guide: Guide | None = None,
    condition: Any = None,
) -> Iterator[Step]:
    """Yield the steps of decoding the tokens under the holes, as ``maskgit.decode`` does.

    ``known`` is 0 in the hole; each image draws from its generator, which is on the CPU. Where a
    coarser fill tells the transformer what is there, one step decodes all.
    """
    finer = guide.finer if guide is not None and transformer.config.guided else None
    return decode(
        predictor(tokenizer, transformer, known, hole, guide, condition, settings),
        _encode(tokenizer, known, hole),
        tokenizer.token_mask(hole),
        settings,
        grid=tokenizer.grid,
        codebook_size=tokenizer.codebook_size,
        mask_token=transformer.config.mask_token,
        generators=generators,
        at_once=finer,
    )


def fill_tokens(
    tokenizer: Tokenizer,
    transformer: Transformer,
    known: Float[Tensor, "batch 3 height width"],
    hole: Bool[Tensor, "batch height width"],
    generators: Sequence[torch.Generator],
    settings: DecodeSettings,
    guide: Guide | None = None,
    condition: Any = None,
) -> Int[Tensor, "batch length"]:
    """Return the tokens after the last step of ``decode_tokens``."""
    parts = (tokenizer, transformer, known, hole, generators, settings, guide, condition)
    *_, last = decode_tokens(*parts)
    return last.tokens


# Not in the paper: the mean of the decoder's input over the first step's prediction
@torch.no_grad()
def expected_codes(
    tokenizer: Tokenizer,
    transformer: Transformer,
    known: Float[Tensor, "batch 3 height width"],
    hole: Bool[Tensor, "batch height width"],
    guide: Guide | None = None,
    condition: Any = None,
    settings: DecodeSettings | None = None,
) -> tuple[Step, Float[Tensor, "batch length codebook_dim"]]:
    """Return the mean code of every token under the holes, and the likeliest tokens.

    One pass of the transformer with all tokens under the hole masked: softmax(logits) weighs the
    codes. Known tokens have their own code. ``known`` is 0 in the hole.

    Raises
    ------
    MaskweaveError
        If the transformer's weights are broken.
    """
    masked = tokenizer.token_mask(hole)
    tokens = _encode(tokenizer, known, hole)
    codes = tokenizer.codes[tokens]  # (B, N, D)
    shown = tokens.masked_fill(masked, transformer.config.mask_token)
    once = replace(settings or DecodeSettings(), steps=1, stop_after=None)
    predict = predictor(tokenizer, transformer, known, hole, guide, condition, once)
    logits = predict(shown, masked, 0.0)[:, : tokenizer.codebook_size].float()  # (M, K)
    if not are_sound(logits):
        raise MaskweaveError(BROKEN)
    probabilities = logits.softmax(-1)
    with torch.autocast(known.device.type, enabled=False):
        mean = probabilities @ tokenizer.codes.float()
    codes = codes.masked_scatter(masked[..., None], mean)
    best, chosen = probabilities.max(-1)
    confidence = torch.zeros(masked.shape, device=masked.device)
    step = Step(
        0,
        tokens.masked_scatter(masked, chosen),
        torch.zeros_like(masked),
        confidence.masked_scatter(masked, best.log()),
    )
    return step, codes


def predictor(
    tokenizer: Tokenizer,
    transformer: Transformer,
    known: Float[Tensor, "batch 3 height width"],
    hole: Bool[Tensor, "batch height width"],
    guide: Guide | None = None,
    condition: Any = None,
    settings: DecodeSettings | None = None,
) -> Predict:
    """Return the transformer as ``maskgit.decode`` takes it, beside what it is told.

    That is the known pixels and, if given, a condition, by which it is guided as settings say:
    without settings not at all.
    """
    guide = (guide or interpolated(known, hole)) if transformer.config.guided else None
    patches = known_patches(known, hole, tokenizer.patch_size, guide)
    patches = patches.to(transformer.dtype)

    def told(what: Any) -> Predict:
        return lambda tokens, wanted, _progress: transformer(tokens, wanted, patches, what)

    if condition is None or settings is None or settings.guidance_scale == 1:
        return told(condition)
    return guided(told(condition), told(None), partial(guidance, settings))


def guidance(settings: DecodeSettings, progress: float) -> float:
    """Return the guidance scale of a step that begins at some progress in [0, 1).

    A rising one is first near 1 and ``settings.guidance_scale`` in the last step: early tokens may
    be any, later ones fit what is told (Muse, Chang et al. 2023, section 2.7).
    """
    if settings.guidance_schedule == "constant":
        return settings.guidance_scale
    return 1 + (settings.guidance_scale - 1) * (progress + 1 / settings.steps)


# Ho and Salimans 2022, eq. 6, as a sum of null + scale * (conditioned - null); Muse, section 2.7
def guided(conditioned: Predict, null: Predict, scale: Callable[[float], float]) -> Predict:
    """Return what goes further than one prediction from another, by a scale over the progress."""

    def predict(tokens: Tensor, wanted: Tensor, progress: float) -> Tensor:
        with_it = conditioned(tokens, wanted, progress).float()
        without = null(tokens, wanted, progress).float()
        further = without + scale(progress) * (with_it - without)
        # Of codes that are banned by -inf there is no difference.
        return torch.where(with_it == without, without, further)

    return predict


def _encode(tokenizer: Tokenizer, known: Tensor, hole: Tensor) -> Int[Tensor, "batch length"]:
    with torch.autocast(known.device.type, enabled=False):  # a caller's would change tokens
        return tokenizer.encode_known(known, hole)


def _paint(
    tokenizer: Tokenizer,
    transformer: Transformer,
    codes: Tensor,
    known: Tensor,
    hole: Tensor,
    guide: Guide | None,
) -> Float[Tensor, "batch 3 height width"]:
    with _painting(transformer.dtype, known.device):
        painted = tokenizer.paint(codes, known, hole, guide).float()
    return painted if guide is None else plain_kept_plain(painted, known, hole, guide)


@contextmanager
def _painting(dtype: torch.dtype, device: torch.device) -> Generator[None]:
    """Paint in the transformer's precision: the tokenizer's weights stay in float32."""
    with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        yield
