"""Painting with the LPIPS network itself: nothing piles up, nothing is waited for, NaN passes."""

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import batch_of
from maskweave.holes import draw_holes
from maskweave.tokenizer.vqgan import TokenizerConfig
from maskweave.training.examples import Example
from maskweave.training.loop import Course, RunConfig
from maskweave.training.overrides import override
from maskweave.training.painting import PaintingLoss
from maskweave.training.tokenizer_task import TokenizerRecipe, TokenizerTask

RECIPE = TokenizerRecipe(
    model=TokenizerConfig(
        image_size=32, codebook_size=16, encoder_dim=16, channels=(8, 8, 16), decoder_blocks=1
    ),
    loss=PaintingLoss(adversarial_start=0.0),
    run=RunConfig(precision="no"),
)


@pytest.fixture
def batch() -> Example:
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    return batch_of(images, draw_holes(("box",), 4, 32, 32, np.random.default_rng(0)))


def task_on(batch: Example, *settings: str, precision: str = "no") -> TokenizerTask:
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    return TokenizerTask(override(RECIPE, settings), batch[0], accelerator, Course(100, 10))


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_no_state_grows_in_a_step(weights: Path, batch: Example, precision: str) -> None:
    task = task_on(batch, precision=precision)
    for step in range(2):
        scalars = task.step(batch, step)
        task.validate()
    assert 0 < scalars["loss/perceptual"] < 2
    before = live_tensors()
    for step in range(2, 5):
        scalars = task.step(batch, step)
        task.validate()
    assert live_tensors() == before


def test_lpips_lets_nan_pass_for_the_loop_to_find(weights: Path, batch: Example) -> None:
    task = task_on(batch)
    with torch.no_grad():
        task.learner.module.decoder.output.bias.fill_(torch.nan)
    assert not torch.as_tensor(task.step(batch, 0)["loss"]).isfinite()


class Waits(TorchDispatchMode):
    """Collects the calls for which a GPU would have to be waited for."""

    NAMES = ("_local_scalar_dense", "nonzero", "bincount", "masked_select", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        by_mask = "aten.index" in str(function) and any(
            one is not None and one.dtype == torch.bool
            for many in arguments
            if isinstance(many, list | tuple)
            for one in many
        )
        if by_mask or any(f"aten.{name}." in str(function) for name in self.NAMES):
            self.found.append(arguments[0])
        return function(*arguments, **(options or {}))


def test_a_step_waits_for_no_value(
    weights: Path, batch: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_on(batch)
    for step in range(2):
        task.step(batch, step)
    # It looks at its own count, which is on the CPU wherever the weights are.
    monkeypatch.setattr(task.ema, "update_parameters", lambda _: None)
    with Waits() as waits:
        task.step(batch, 2)
    # And so are AdamW's, unless it is fused.
    learners = (task.learner, task.painting.discriminator)
    states = [one for learner in learners for one in learner.optimiser.state.values()]
    counts = {state["step"].data_ptr() for state in states}
    assert [one for one in waits.found if one.data_ptr() not in counts] == []
