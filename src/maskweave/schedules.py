"""Mask schedules: which share of the tokens is masked, given how far decoding has come.

MaskGIT (Chang et al. 2022), section 3.3: gamma maps progress in [0, 1] to a ratio in [0, 1],
starts at 1, ends at 0 and never rises.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from maskweave.errors import MaskweaveError

ROUNDING = 1e-9
"""What a float64 product of a ratio and a count may miss a whole number by."""

Schedule = Callable[[Float[Tensor, "*shape"]], Float[Tensor, "*shape"]]


def linear(progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return 1 - r."""
    return 1 - progress


def cosine(progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return cos(pi r / 2), the paper's choice: few tokens first, many last."""
    return torch.cos(progress * (math.pi / 2))


def square(progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return 1 - r^2."""
    return 1 - progress.square()


def arccos(progress: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return 2 arccos(r) / pi: nearly linear at first, then ever quicker."""
    return torch.arccos(progress) * (2 / math.pi)


SCHEDULES: dict[str, Schedule] = {
    "linear": linear,
    "cosine": cosine,
    "square": square,
    "arccos": arccos,
}


def named(name: str) -> Schedule:
    """Return the schedule of this name.

    Raises
    ------
    MaskweaveError
        If there is none; the message lists those that there are.
    """
    if name not in SCHEDULES:
        raise MaskweaveError(f"unknown schedule {name!r}; known are {', '.join(SCHEDULES)}")
    return SCHEDULES[name]


def masked_after(
    schedule: Schedule, steps: int, holes: Int[Tensor, "batch"]
) -> Int[Tensor, "steps batch"]:
    """Return how many tokens of each image are still masked after each step.

    That is floor(gamma(k / T) n) for k = 1 .. T and n masked tokens at first, except that every
    step reveals at least one token (while there is one) and the last step reveals all.

    Parameters
    ----------
    schedule : Schedule
        gamma.
    steps : int
        T, at least 1.
    holes : Tensor
        n for every image, on any device.

    Returns
    -------
    Tensor
        On the CPU: not every device has float64, and whoever decodes counts on these numbers.
    """
    holes = holes.cpu()
    progress = torch.arange(1, steps + 1, dtype=torch.float64)[:, None] / steps  # (T, 1)
    wanted = (schedule(progress) * holes + ROUNDING).floor().long()  # (T, B)
    left: list[Tensor] = []
    for row in wanted:
        left.append(torch.minimum(row, (left[-1] if left else holes) - 1).clamp(min=0))
    left[-1] = torch.zeros_like(holes)
    return torch.stack(left)
