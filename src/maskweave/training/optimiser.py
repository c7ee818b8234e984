"""Optimiser, learning rate and averaged weights, shared by all stages."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from maskweave.errors import MaskweaveError


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW with a linear warm-up, a constant rate and a linear decay to zero."""

    learning_rate: float = 5e-4
    """Peak learning rate."""
    betas: tuple[float, ...] = (0.9, 0.95)
    """Decay rates of AdamW's two moments."""
    weight_decay: float = 0.01
    """Decoupled weight decay of linear and convolution weights."""
    warmup: int = 100
    """Steps over which the rate rises from zero."""
    warmup_epochs: int = 0
    """Warm-up in passes over the images, the rate constant within each, instead of in steps."""
    decay: float = 0.3
    """Share of the run, at its end, over which the rate falls to zero."""
    clip: float = 1.0
    """Largest gradient norm; 0 clips nothing."""
    ema: float = 0.999
    """Decay of the averaged weights, less at the start; 0 averages nothing."""
    frozen: tuple[str, ...] = ()
    """Names of parameters that keep their initial values."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        if not (0 < self.learning_rate < math.inf and 0 <= self.weight_decay < math.inf):
            raise MaskweaveError(f"learning_rate and weight_decay must be positive: {self}")
        if min(self.warmup, self.warmup_epochs) < 0 or not 0 <= self.clip < math.inf:
            raise MaskweaveError(f"optimiser settings out of range: {self}")
        if self.warmup and self.warmup_epochs:
            raise MaskweaveError(
                f"a warm-up has either steps or epochs, and 0 of the others; got {self.warmup} "
                f"steps and {self.warmup_epochs} epochs"
            )
        if not (0 <= self.decay <= 1 and 0 <= self.ema < 1):
            raise MaskweaveError(f"optimiser settings out of range: {self}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise MaskweaveError(f"betas are two numbers in [0, 1), got {self.betas}")


def adamw(model: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    """Return AdamW with minGPT's split: only linear and convolution weights decay.

    Raises
    ------
    MaskweaveError
        If the model has no parameter of a name that is to be frozen.
    """
    for name in config.frozen:
        try:
            model.get_parameter(name).requires_grad_(False)
        except AttributeError as error:
            raise MaskweaveError(f"optimiser.frozen: no parameter {name!r}") from error
    decayed = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)
    }
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in parameters if id(p) in decayed],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]
    first, second = config.betas
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(first, second))


def set_learning_rate(
    optimiser: torch.optim.Optimizer, config: OptimiserConfig, step: int, steps: int, epoch: int
) -> float:
    """Set and return the rate of ``step`` (from 0) of ``steps``, which depends on nothing else.

    ``epoch`` is the number of steps of a pass over the images.
    """
    if config.warmup_epochs:
        rise = min(1.0, (step // epoch + 1) / config.warmup_epochs)
    else:
        rise = min(1.0, (step + 1) / max(1, config.warmup))
    fall = min(1.0, (steps - step) / max(1.0, config.decay * steps))
    rate = config.learning_rate * rise * fall
    for group in optimiser.param_groups:
        group["lr"] = rate
    return rate


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of the weights, quick at the start and slower later."""

    def average(mean: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        count = torch.as_tensor(count)  # stays on its device: a GPU need not be waited for
        rate = ((1 + count) / (10 + count)).clamp(max=decay)
        return mean.lerp(current, 1 - rate)

    return AveragedModel(model, avg_fn=average, use_buffers=True)
