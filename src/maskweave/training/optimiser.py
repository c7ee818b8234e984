"""Optimiser, learning rate and averaged weights, shared by all stages."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Annotated

import torch
from accelerate import Accelerator
from jaxtyping import Bool
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn

from maskweave.errors import MaskweaveError
from maskweave.settings import Natural, Share, Weight, settings
from maskweave.training.loop import Course

Decay = Annotated[float, Field(ge=0, lt=1)]


@settings
class OptimiserConfig:
    """AdamW with a linear warm-up, a constant rate and a linear decay to zero."""

    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    """Peak learning rate."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """Decay rates of AdamW's two moments."""
    weight_decay: Weight = 0.01
    """Decoupled weight decay of linear and convolution weights."""
    warmup: Natural = 100
    """Steps over which the rate rises from zero."""
    warmup_epochs: Natural = 0
    """Warm-up in passes over the images, the rate constant within each, instead of in steps."""
    decay: Share = 0.3
    """Share of the run, at its end, over which the rate falls to zero."""
    clip: Weight = 1.0
    """Largest gradient norm; 0 clips nothing."""
    ema: Decay = 0.999
    """Decay of the averaged weights, less at the start; 0 averages nothing."""
    frozen: tuple[str, ...] = ()
    """Names of parameters that keep their initial values."""

    def __post_init__(self) -> None:
        """Refuse a warm-up of two lengths."""
        if self.warmup and self.warmup_epochs:
            raise MaskweaveError(
                f"a warm-up has either steps or epochs, and 0 of the others; got {self.warmup} "
                f"steps and {self.warmup_epochs} epochs"
            )


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
    fused = all(parameter.is_cuda for parameter in parameters)
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(first, second), fused=fused or None
    )


def set_learning_rate(
    optimiser: torch.optim.Optimizer, config: OptimiserConfig, step: int, course: Course
) -> float:
    """Set and return the rate of ``step`` (from 0) of a run, which depends on nothing else."""
    if config.warmup_epochs:
        rise = min(1.0, (step // course.epoch + 1) / config.warmup_epochs)
    else:
        rise = min(1.0, (step + 1) / max(1, config.warmup))
    fall = min(1.0, (course.steps - step) / max(1.0, config.decay * course.steps))
    rate = config.learning_rate * rise * fall
    for group in optimiser.param_groups:
        group["lr"] = rate
    return rate


def averaged(model: nn.Module, decay: float, accelerator: Accelerator) -> AveragedModel:
    """Return an exponential moving average of the weights, quick at the start and slower later.

    It is a copy on the run's device and part of the run's checkpoints. Make it before the model is
    prepared or compiled.
    """

    def average(means: PARAM_LIST, weights: PARAM_LIST, _: Tensor | int) -> None:
        count = int(mean.n_averaged)
        rate = min(decay, (1 + count) / (10 + count))
        get_ema_multi_avg_fn(rate)(means, weights, count)

    mean = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    mean.module.to(accelerator.device)  # the count stays on the CPU, where it is looked at
    accelerator.register_for_checkpointing(mean)
    return mean


class Learner:
    """A module in training and its optimiser.

    Parameters
    ----------
    module : nn.Module
        What learns.
    config : OptimiserConfig
        Settings of the optimiser.
    course : Course
        Length of the run, and the parts in which a batch is taken.
    accelerator : Accelerator
        From ``accelerator_for``.

    Raises
    ------
    MaskweaveError
        If the module has no parameter of a name that is to be frozen.
    """

    def __init__(
        self,
        module: nn.Module,
        config: OptimiserConfig,
        course: Course,
        accelerator: Accelerator,
    ) -> None:
        self.config, self.course, self.accelerator = config, course, accelerator
        module.to(accelerator.device)  # before AdamW looks where the weights are
        self.model, self.optimiser = accelerator.prepare(module, adamw(module, config))

    @property
    def module(self) -> nn.Module:
        """The module without what exchanges its gradients between processes."""
        return self.accelerator.unwrap_model(self.model)

    def begin(self, step: int) -> float:
        """Forget the gradients of the step before; set and return the learning rate of this one."""
        self.optimiser.zero_grad()
        return set_learning_rate(self.optimiser, self.config, step, self.course)

    def parts(self, batch: int) -> Iterator[slice]:
        """Yield the rows of each part of a batch, whose gradients add up.

        Processes exchange gradients only after the last.
        """
        size = batch // self.course.accumulate
        for start in range(0, batch, size):
            last = start + size == batch
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                yield slice(start, start + size)

    def update(self) -> Tensor:
        """Take the optimiser's step; return the gradient's norm before it was clipped."""
        norm = self.accelerator.clip_grad_norm_(
            self.model.parameters(), self.config.clip or math.inf
        )
        self.optimiser.step()
        return norm  # type: ignore[return-value]

    def forget(self, weight: nn.Parameter, rows: Bool[Tensor, "rows"]) -> None:
        """Clear AdamW's moments of rows of a weight that were set to something else."""
        for moment in self.optimiser.state[weight].values():
            if moment.shape == weight.shape:
                moment.masked_fill_(rows[:, None], 0.0)
