"""Orders of decoding: plain functions that score a step's predictions; the highest stay.

All get the same ``Prediction`` and return a score for each of its rows. The known tokens are in
none of them: no order can change these.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Prediction(NamedTuple):
    """The tokens predicted in a step, row by row."""

    log_probability: Float[Tensor, "wanted"]
    """Log-probability of the token that was chosen, at temperature 1."""
    uniform: Float[Tensor, "wanted"]
    """Noise in (0, 1), drawn for this position of this image in this step."""
    position: Int[Tensor, "wanted"]
    """Place in the flattened grid."""
    grid: tuple[int, int]
    """Rows and columns of the grid."""
    progress: float
    """k / T after the k-th of T steps, in (0, 1]."""
    ratio: float
    """gamma(k / T): the share of the tokens that stays masked."""
    temperature: float
    """Scale of the noise."""


Order = Callable[[Prediction], Float[Tensor, "wanted"]]


def confidence(prediction: Prediction) -> Float[Tensor, "wanted"]:
    """Return log p + temperature (1 - k / T) Gumbel, as MaskGIT's code does: noise fades out."""
    scale = prediction.temperature * (1 - prediction.progress)
    return prediction.log_probability + scale * gumbel(prediction.uniform)


def probability(prediction: Prediction) -> Float[Tensor, "wanted"]:
    """Return p + temperature (1 - gamma(k / T)) Gumbel, as the reference experiment does."""
    scale = prediction.temperature * (1 - prediction.ratio)
    return prediction.log_probability.exp() + scale * gumbel(prediction.uniform)


def random(prediction: Prediction) -> Float[Tensor, "wanted"]:
    """Return noise alone."""
    return prediction.uniform


# Besnier et al. 2025 (arXiv 2503.17076), section 4; there without known tokens
def halton(prediction: Prediction) -> Float[Tensor, "wanted"]:
    """Return how early a Halton sequence visits each position: revealed tokens lie far apart."""
    visits = torch.tensor(_halton_visits(*prediction.grid), device=prediction.position.device)
    return -visits[prediction.position].float()


ORDERS: dict[str, Order] = {
    "confidence": confidence,
    "probability": probability,
    "random": random,
    "halton": halton,
}


def gumbel(uniform: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return standard Gumbel noise from uniform numbers in (0, 1)."""
    return -torch.log(-torch.log(uniform))


@lru_cache
def _halton_visits(rows: int, columns: int) -> tuple[int, ...]:
    """Return for each position when the Halton sequence in bases 2 and 3 first comes to it."""
    visits: dict[int, int] = {}
    index = 0
    while len(visits) < rows * columns:
        index += 1
        row, column = (
            int(rows * _radical_inverse(index, 2)),
            int(columns * _radical_inverse(index, 3)),
        )
        visits.setdefault(row * columns + column, len(visits))
    return tuple(visits[position] for position in range(rows * columns))


def _radical_inverse(index: int, base: int) -> float:
    """Return the digits of ``index`` in a base, mirrored behind the point."""
    value, scale = 0.0, 1.0
    while index:
        index, digit = divmod(index, base)
        scale /= base
        value += digit * scale
    return value
