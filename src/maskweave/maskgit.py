"""MaskGIT (Chang et al. 2022) in one file: corrupt tokens, restore them, decode in parallel.

Three functions over plain tensors. Token grids are flattened row by row to (batch, length);
``masked`` says which tokens are unknown, and that one grid makes inpainting (a region is masked),
outpainting (the surroundings are) and generation (everything is) the same thing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from maskweave.errors import MaskweaveError
from maskweave.schedules import Schedule, cosine, masked_after, named

LogitsFn = Callable[
    [Int[Tensor, "batch length"], Bool[Tensor, "batch length"]], Float[Tensor, "masked codes"]
]
"""Logits at the masked positions, row by row, given all tokens and what is masked of them."""

MOST_STEPS = 10_000
"""Largest T: far more than there are tokens."""

HOTTEST = 1_000_000
"""Largest temperature: nothing but noise is left, and it is still finite."""


class Corrupted(NamedTuple):
    """Tokens as the transformer is shown them in training."""

    tokens: Tensor
    """Int, (batch, length): the mask token where ``masked``."""
    masked: Tensor
    """Bool, (batch, length)."""


class Step(NamedTuple):
    """What decoding knows after one step."""

    number: int
    """Of the step, from 0."""
    tokens: Tensor
    """Int, (batch, length): known tokens and, everywhere else, the latest prediction."""
    masked: Tensor
    """Bool, (batch, length): what stays masked for the next step."""
    confidence: Tensor
    """Float, (batch, length): of the tokens predicted in this step; infinite where none was."""


@dataclass(frozen=True)
class DecodeSettings:
    """How tokens are decoded, under the names that ``decode`` explains."""

    steps: int = 8
    """T, from 1 to ``MOST_STEPS``."""
    schedule: str = "cosine"
    """Name of the mask schedule."""
    stop_after: int | None = None
    """Run only the first t steps."""
    temperature: float = 1.0
    """Scale of the Gumbel noise on the confidence, from 0 to ``HOTTEST``."""
    token_temperature: float = 1.0
    """Temperature at which tokens are sampled; 0 takes the likeliest."""
    top_k: int | None = None
    """Sample among the k likeliest codes only."""
    confidence: Literal["log_probability", "probability"] = "log_probability"
    """What confidence is computed from."""

    def __post_init__(self) -> None:
        """Refuse unknown names and numbers out of range."""
        named(self.schedule)
        _check_settings(
            self.steps,
            self.stop_after,
            self.temperature,
            self.token_temperature,
            self.top_k,
            self.confidence,
        )


# Section 3.1, "MVTM in Training"
def corrupt(
    tokens: Int[Tensor, "batch length"],
    mask_token: int,
    *,
    ratio: Schedule | tuple[float, float],
    generators: Sequence[torch.Generator] | None = None,
    region: Bool[Tensor, "batch length"] | None = None,
    independent: bool = False,
) -> Corrupted:
    """Mask a random share of the tokens (masked visual token modelling).

    Parameters
    ----------
    tokens : Tensor
        Tokens of whole images.
    mask_token : int
        What masked tokens are replaced by.
    ratio : Schedule or (float, float)
        Where each image's share comes from: gamma(u) with u uniform in [0, 1), or uniform between
        two bounds.
    generators : sequence of torch.Generator, optional
        One for each image, on the CPU: what is masked of an image does not depend on its batch.
    region : Tensor, optional
        Only these tokens may be masked, and the ratio is a share of them: a hole, partly filled,
        which is what the transformer meets while decoding. By default the whole image: scattered
        tokens.
    independent : bool
        Mask every token on its own with the ratio's probability, as the reference experiment does,
        rather than ceil(ratio n) of the region's n tokens.
    """
    draws = [
        torch.rand(1 + tokens.shape[1], generator=generator)
        for generator in generators or [None] * len(tokens)
    ]
    draw = torch.stack(draws).to(tokens.device)  # (B, 1 + N)
    uniform, scores = draw[:, :1], draw[:, 1:]
    if callable(ratio):
        share = ratio(uniform)  # (B, 1)
    else:
        low, high = ratio
        share = low + (high - low) * uniform
    if region is None:
        region = torch.ones_like(tokens, dtype=torch.bool)
    if independent:
        masked = region & (scores < share)
    else:
        number = (share * region.sum(1, keepdim=True)).ceil()
        masked = _lowest(scores.masked_fill(~region, torch.inf), number) & region
    return Corrupted(tokens.masked_fill(masked, mask_token), masked)


# Equation 1, with the two variants that the reference experiment and BERT-like losses need
def masked_loss(
    logits: Float[Tensor, "*shape codes"],
    tokens: Int[Tensor, "*shape"],
    masked: Bool[Tensor, "*shape"],
    *,
    unmasked_weight: float = 0.0,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of the true tokens, with weight 1 where masked.

    ``unmasked_weight`` is the weight of all other tokens: 0 is MaskGIT's loss, 1 the reference
    experiment's. Without any token of positive weight the loss is 0.
    """
    losses = F.cross_entropy(
        logits.flatten(0, -2).float(),
        tokens.flatten(),
        label_smoothing=label_smoothing,
        reduction="none",
    )
    weights = torch.where(masked.flatten(), 1.0, unmasked_weight)
    return (losses * weights).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


# Section 3.2, "Iterative Decoding"
@torch.no_grad()
def decode(
    logits_fn: LogitsFn,
    tokens: Int[Tensor, "batch length"],
    masked: Bool[Tensor, "batch length"],
    *,
    mask_token: int,
    generators: Sequence[torch.Generator],
    schedule: Schedule = cosine,
    steps: int = 8,
    stop_after: int | None = None,
    temperature: float = 1.0,
    token_temperature: float = 1.0,
    top_k: int | None = None,
    confidence: Literal["log_probability", "probability"] = "log_probability",
    on_step: Callable[[Step], None] | None = None,
) -> Int[Tensor, "batch length"]:
    """Fill the masked tokens in a few parallel steps, the most confident ones first.

    Parameters
    ----------
    logits_fn : callable
        Predicts the masked tokens; a ``BidirectionalTransformer`` that sees tokens alone is one.
    tokens : Tensor
        Known tokens; what stands at masked positions is never read.
    masked : Tensor
        The tokens to fill. All others are returned as they are.
    mask_token : int
        What ``logits_fn`` is shown at masked positions.
    generators : sequence of torch.Generator
        One for each image, on the CPU: an image's noise does not depend on its batch.
    schedule : Schedule
        gamma: the share of the tokens that stays masked after k of T steps is gamma(k / T).
    steps : int
        T, from 1 to ``MOST_STEPS``.
    stop_after : int, optional
        Run only the first t of the T steps; what is masked then takes its latest prediction.
    temperature : float
        Scale of the Gumbel noise on the confidence, from 0 to ``HOTTEST``: 0 reveals the likeliest
        tokens first, more makes the order, and so the images, more varied.
    token_temperature : float
        Temperature at which tokens are sampled; 0 takes the likeliest token.
    top_k : int, optional
        Sample among the k likeliest codes only.
    confidence : {"log_probability", "probability"}
        ``log_probability``: log p(token) + temperature (1 - k / T) Gumbel, as in the paper's code,
        where the noise fades out. ``probability``: p(token) + temperature (1 - gamma(k / T))
        Gumbel, as in the reference experiment.
    on_step : callable, optional
        Called with a ``Step`` after each step.

    Raises
    ------
    MaskweaveError
        If an argument is out of range or the logits are not finite.
    """
    last = steps if stop_after is None else stop_after
    _check(tokens, masked, generators)
    _check_settings(steps, stop_after, temperature, token_temperature, top_k, confidence)
    tokens = tokens.masked_fill(masked, mask_token)
    left = masked_after(schedule, steps, masked.sum(1))  # (T, B)
    for k in range(1, last + 1):
        if not masked.any():
            break
        noise = _noise(generators, tokens)  # (2, B, N), uniform in (0, 1)
        # Some transformers score the mask token too, behind the codes.
        logits = logits_fn(tokens, masked)[:, :mask_token].float()  # (M, K)
        if not logits.isfinite().all():
            raise MaskweaveError("the transformer's logits are not finite: its weights are broken")
        chosen = _sample(logits, noise[0][masked], token_temperature, top_k)  # (M,)
        log_probability = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
        gumbel = -torch.log(-torch.log(noise[1][masked]))
        if confidence == "log_probability":
            score = log_probability + temperature * (1 - k / steps) * gumbel
        else:
            gamma = schedule(torch.tensor(k / steps, dtype=torch.float64)).item()
            score = log_probability.exp() + temperature * (1 - gamma) * gumbel

        predicted = tokens.masked_scatter(masked, chosen)
        scores = torch.full(tokens.shape, torch.inf, device=tokens.device)
        scores = scores.masked_scatter(masked, score)
        masked = _lowest(scores, left[k - 1][:, None]) & masked
        if on_step is not None:
            on_step(Step(k - 1, predicted, masked, scores))
        tokens = predicted if k == last else predicted.masked_fill(masked, mask_token)
    return tokens


def _lowest(
    scores: Float[Tensor, "batch length"], number: Float[Tensor, "batch 1"]
) -> Bool[Tensor, "batch length"]:
    """Mark the ``number`` lowest scores of each row; ties go to the earlier position."""
    rank = scores.argsort(dim=1, stable=True).argsort(dim=1)
    return rank < number


def _noise(
    generators: Sequence[torch.Generator], tokens: Int[Tensor, "batch length"]
) -> Float[Tensor, "2 batch length"]:
    """Draw two uniform numbers for every position of every image from the image's own generator.

    Drawn for all positions and on the CPU, so that neither the device nor the batch matters.
    """
    draws = [torch.rand(2, tokens.shape[1], generator=generator) for generator in generators]
    # 0 and 1 would give infinite Gumbel noise.
    return torch.stack(draws, dim=1).clamp(1e-7, 1 - 1e-7).to(tokens.device)


def _sample(
    logits: Float[Tensor, "masked codes"],
    uniform: Float[Tensor, "masked"],
    temperature: float,
    top_k: int | None,
) -> Int[Tensor, "masked"]:
    """Draw a code for each row by inverting the cumulative distribution: one number per token."""
    if temperature == 0:
        return logits.argmax(-1)
    if top_k is not None and top_k < logits.shape[1]:
        logits, codes = logits.topk(top_k, dim=-1)
    else:
        codes = None
    cumulative = (logits / temperature).softmax(-1).cumsum(-1)
    # Scaling by the last sum keeps rounding from selecting beyond the last code that has a chance.
    target = uniform[:, None] * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, target, right=True)
    reached = (cumulative < cumulative[:, -1:]).sum(-1, keepdim=True)
    index = torch.minimum(index, reached)
    return (index if codes is None else codes.gather(1, index))[:, 0]


def _check_settings(
    steps: int,
    stop_after: int | None,
    temperature: float,
    token_temperature: float,
    top_k: int | None,
    confidence: str,
) -> None:
    if not 1 <= steps <= MOST_STEPS:
        raise MaskweaveError(f"steps must be from 1 to {MOST_STEPS}, got {steps}")
    if stop_after is not None and not 1 <= stop_after <= steps:
        raise MaskweaveError(f"stop_after must be from 1 to {steps} (steps), got {stop_after}")
    for value in (temperature, token_temperature):
        if not 0 <= value <= HOTTEST:
            raise MaskweaveError(f"temperatures must be from 0 to {HOTTEST}, got {value}")
    if top_k is not None and top_k < 1:
        raise MaskweaveError(f"top_k must be at least 1, got {top_k}")
    if confidence not in ("log_probability", "probability"):
        raise MaskweaveError(f"confidence is log_probability or probability, got {confidence!r}")


def _check(tokens: Tensor, masked: Tensor, generators: Sequence[torch.Generator]) -> None:
    if tokens.shape != masked.shape or tokens.ndim != 2:
        raise MaskweaveError(
            f"tokens and masked are (batch, length), got {[*tokens.shape]} and {[*masked.shape]}"
        )
    if len(generators) != len(tokens):
        raise MaskweaveError(f"{len(tokens)} images need as many generators, got {len(generators)}")
