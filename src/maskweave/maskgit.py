"""MaskGIT (Chang et al. 2022) in one file: corrupt tokens, restore them, decode in parallel.

Plain functions over plain tensors. Token grids are flattened row by row to (batch, length);
``masked`` says which tokens are unknown, and that one grid makes inpainting (a region is masked),
outpainting (the surroundings are) and generation (everything is) the same thing.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from maskweave.errors import MaskweaveError
from maskweave.orders import ORDERS, Prediction
from maskweave.schedules import Schedule, masked_after, named
from maskweave.settings import Natural, Positive, Weight, settings

Predict = Callable[
    [Int[Tensor, "batch length"], Bool[Tensor, "batch length"], float],
    Float[Tensor, "wanted codes"],
]
"""Maps all tokens, where logits are wanted, and the progress in [0, 1) to these logits, row by row.

It may be a transformer, an exported graph, or guidance around either.
"""

MOST_STEPS = 10_000
"""Largest T: far more than there are tokens."""

HOTTEST = 1_000_000
"""Largest temperature: nothing but noise is left, and it is still finite."""

LONGEST_PROMPT = 10_000
"""Letters of a prompt."""

MOST_GUIDANCE = 1_000
"""Largest guidance scale: the likeliest tokens of far less are those of any."""

MOST_CONTEXT = 0.45
"""Largest share of a window on each side of what is filled from it: a tenth is left to fill."""

Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]
Temperature = Annotated[float, Field(ge=0, le=HOTTEST)]

BROKEN = "the transformer's logits are not finite: its weights are broken"

Paint = Literal["sampled", "expected"]
"""What the decoder paints a hole from: tokens that are decoded, or the mean of all codes, weighted
by their probabilities in one pass."""


class Corrupted(NamedTuple):
    """Tokens as the transformer is shown them in training."""

    tokens: Tensor
    """Int, (batch, length): the mask token where ``masked``."""
    masked: Tensor
    """Bool, (batch, length)."""


class Step(NamedTuple):
    """What decoding knows after one step."""

    number: int
    """Number of the step, from 0."""
    tokens: Tensor
    """Int, (batch, length): known tokens and, everywhere else, the latest prediction."""
    masked: Tensor
    """Bool, (batch, length): what stays masked for the next step."""
    confidence: Tensor
    """Float, (batch, length): log-probability of the tokens predicted in this step, 0 elsewhere."""


@settings
class DecodeSettings:
    """How a hole is divided, and its tokens are decoded and painted."""

    steps: Steps = 8
    """T, from 1 to ``MOST_STEPS``. Windows that start from the fill of a coarser level take one."""
    schedule: str = "cosine"
    """Mask schedule gamma by name: gamma(k / T) of the tokens stay masked after k of T steps."""
    order: str = "confidence"
    """Which predictions stay, by the name of a function in ``orders``."""
    stop_after: Positive | None = None
    """Run only the first t of the T steps; what is masked then takes its latest prediction."""
    temperature: Temperature = 1.0
    """Scale of the Gumbel noise in the order, from 0 to ``HOTTEST``: 0 reveals the likeliest tokens
    first, more makes the order, and so the images, more varied."""
    token_temperature: Temperature = 1.0
    """Temperature at which tokens are sampled, from 0 to ``HOTTEST``; 0 takes the likeliest."""
    top_k: Positive | None = None
    """Sample among the k likeliest codes only."""
    remask: bool = False
    """Whether tokens revealed in earlier steps may be masked again; known ones never are."""
    entropy_bound: Weight | None = None
    """Reveal more tokens than the schedule asks for as long as their entropies but the largest sum
    up to at most this (Ben-Hamu et al. 2025, EB-Sampler): easy holes then take fewer steps."""
    paint: Paint = "sampled"
    """What the decoder paints from: with ``expected`` nothing is sampled, so that there is one
    answer, in one pass."""
    context: Annotated[float, Field(ge=0, le=MOST_CONTEXT)] = 0.25
    """Share of a window, or of a crop around a whole object, that lies on each side of what is
    filled from it, wherever the photo has it; from 0 to ``MOST_CONTEXT``. Windows that start from
    the fill of a coarser level have half of it."""
    levels: Natural | None = None
    """At how many coarser levels a thick hole is filled at most, by models framed ``texture``: 0
    takes native pixels alone, None as many levels as the hole's thickness asks for."""
    label: Natural | None = None
    """What the image shows, as a number of the model's; None tells it nothing."""
    prompt: Annotated[str, Field(max_length=LONGEST_PROMPT)] | None = None
    """What the image shows, in words, for a model that reads them."""
    guidance_scale: Annotated[float, Field(ge=0, le=MOST_GUIDANCE)] = 1.0
    """How much more than the model itself a label or a prompt decides, from 0, nothing, to
    ``MOST_GUIDANCE`` (classifier-free guidance); 1 leaves it to the model, in half the time."""
    guidance_schedule: Literal["rising", "constant"] = "rising"
    """Whether the scale rises from 1 to its value with the steps, or has it in all of them."""

    def __post_init__(self) -> None:
        """Refuse unknown names and a stop after the last step."""
        named(self.schedule)
        if self.order not in ORDERS:
            raise MaskweaveError(f"order is one of {', '.join(ORDERS)}, got {self.order!r}")
        if (self.stop_after or 0) > self.steps:
            raise MaskweaveError(f"stop_after {self.stop_after} is more than steps {self.steps}")

    @property
    def last_step(self) -> int:
        """How many of the T steps are run at most."""
        return 1 if self.paint == "expected" else self.stop_after or self.steps


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
        # Float32 misses a whole product by less than a thousandth up to 8,192 tokens.
        number = (share * region.sum(1, keepdim=True) - 1e-3).ceil().clamp(min=1) * (share > 0)
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
    predict: Predict,
    tokens: Int[Tensor, "batch length"],
    masked: Bool[Tensor, "batch length"],
    settings: DecodeSettings,
    *,
    grid: tuple[int, int],
    codebook_size: int,
    mask_token: int,
    generators: Sequence[torch.Generator],
    at_once: Bool[Tensor, "batch"] | None = None,
) -> Iterator[Step]:
    """Fill the masked tokens in a few parallel steps; yield a ``Step`` after each.

    The last step's tokens are the result; known tokens are in it as they were. Whoever stops
    iterating cancels the rest.

    Parameters
    ----------
    predict : callable
        Predicts tokens; logits beyond ``codebook_size``, as of the mask token, are passed over.
    tokens : Tensor
        Known tokens; what stands at masked positions is never read.
    masked : Tensor
        The tokens to fill.
    settings : DecodeSettings
        All but ``paint``, ``context`` and ``levels``, and what is told to ``predict`` or guides it.
    grid : (int, int)
        Rows and columns of the tokens.
    codebook_size : int
        Number of codes.
    mask_token : int
        What ``predict`` is shown at masked positions.
    generators : sequence of torch.Generator
        One for each image, on the CPU: an image's noise does not depend on its batch.
    at_once : Tensor, optional
        Images of which all tokens are revealed in the first step, whatever the schedule says.

    Raises
    ------
    MaskweaveError
        If shapes or counts do not match, or a token has logits that are NaN, infinite or all -inf
        (a single code may be banned by -inf).
    """
    _check(tokens, masked, grid, generators)
    order, schedule = ORDERS[settings.order], named(settings.schedule)
    hole, left = masked, masked_after(schedule, settings.steps, masked.sum(1))  # (T, B)
    if at_once is not None:
        left = left.masked_fill(at_once.to(left.device), 0)
    tokens = tokens.masked_fill(masked, mask_token)
    if not masked.any():
        yield Step(0, tokens, masked, torch.zeros(tokens.shape, device=tokens.device))
        return
    sound = torch.ones((), dtype=torch.bool, device=tokens.device)
    for k in range(1, settings.last_step + 1):
        wanted = hole if settings.remask else masked
        noise = _noise(generators, tokens)  # (2, B, N), uniform in (0, 1)
        logits = predict(tokens, wanted, (k - 1) / settings.steps)[:, :codebook_size].float()
        sound &= are_sound(logits)
        chosen = _sample(logits, noise[0][wanted], settings.token_temperature, settings.top_k)
        chosen = torch.where(masked[wanted], chosen, tokens[wanted])  # (M,)
        log_probabilities = logits.log_softmax(-1)  # (M, K)
        log_probability = log_probabilities.gather(1, chosen[:, None])[:, 0]
        prediction = Prediction(
            log_probability=log_probability,
            uniform=noise[1][wanted],
            position=wanted.nonzero()[:, 1],
            grid=grid,
            progress=k / settings.steps,
            ratio=float(schedule(torch.tensor(k / settings.steps, dtype=torch.float64))),
            temperature=settings.temperature,
        )
        scores = _place(torch.inf, wanted, order(prediction))
        number = left[k - 1].to(tokens.device)
        if settings.entropy_bound is not None:
            entropies = _place(0.0, wanted, torch.special.entr(log_probabilities.exp()).sum(-1))
            number = torch.minimum(number, _hard(scores, entropies, wanted, settings.entropy_bound))
        masked = _lowest(scores, number[:, None]) & wanted
        tokens = tokens.masked_scatter(wanted, chosen)
        # With a bound only the device knows whether anything is left.
        over = not (masked.any() if settings.entropy_bound is not None else left[k - 1].any())
        if (over or k == settings.last_step) and not sound:
            raise MaskweaveError(BROKEN)
        yield Step(k - 1, tokens, masked, _place(0.0, wanted, log_probability))
        if over:
            return
        tokens = tokens.masked_fill(masked, mask_token)


def are_sound(logits: Float[Tensor, "wanted codes"]) -> Bool[Tensor, ""]:
    """Say whether every token has a likeliest code; single codes may be banned by -inf."""
    return logits.amax(-1).isfinite().all()


def _place(
    elsewhere: float, where: Bool[Tensor, "batch length"], values: Float[Tensor, "wanted"]
) -> Float[Tensor, "batch length"]:
    full = torch.full(where.shape, elsewhere, device=where.device)
    return full.masked_scatter(where, values)


def _lowest(
    scores: Float[Tensor, "batch length"], number: Float[Tensor, "batch 1"]
) -> Bool[Tensor, "batch length"]:
    """Mark the ``number`` lowest scores of each row; ties go to the earlier position."""
    rank = scores.argsort(dim=1, stable=True).argsort(dim=1)
    return rank < number


def _hard(
    scores: Float[Tensor, "batch length"],
    entropies: Float[Tensor, "batch length"],
    wanted: Bool[Tensor, "batch length"],
    bound: float,
) -> Int[Tensor, "batch"]:
    """Return how many tokens of each image must stay masked for the rest to keep to the bound.

    From the highest score down, tokens are easy while the sum of their entropies, less the largest
    of these, is within the bound: their joint prediction is then nearly that of one after another
    (Ben-Hamu et al. 2025, eq. 9).
    """
    best_first = scores.masked_fill(~wanted, -torch.inf).argsort(
        dim=1, descending=True, stable=True
    )
    ranked = entropies.gather(1, best_first)
    excess = ranked.cumsum(1) - ranked.cummax(1).values
    easy = (excess <= bound) & wanted.gather(1, best_first)
    return wanted.sum(1) - easy.cumprod(1).sum(1)


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
    logits: Float[Tensor, "wanted codes"],
    uniform: Float[Tensor, "wanted"],
    temperature: float,
    top_k: int | None,
) -> Int[Tensor, "wanted"]:
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


def _check(
    tokens: Tensor,
    masked: Tensor,
    grid: tuple[int, int],
    generators: Sequence[torch.Generator],
) -> None:
    if tokens.shape != masked.shape or tokens.ndim != 2 or tokens.shape[1] != grid[0] * grid[1]:
        raise MaskweaveError(
            f"tokens and masked are (batch, length) of a grid {grid[0]}x{grid[1]}, got "
            f"{[*tokens.shape]} and {[*masked.shape]}"
        )
    if len(generators) != len(tokens):
        raise MaskweaveError(f"{len(tokens)} images need as many generators, got {len(generators)}")
