"""The training loop: steps, logs, sample pictures and checkpoints. It knows no model."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from maskweave.data.folder import StepSampler
from maskweave.errors import MaskweaveError
from maskweave.progress import progress

CHECKPOINTS_KEPT = 2


@dataclass(frozen=True)
class RunConfig:
    """How long to train, on how much at once, and what to write on the way."""

    steps: int = 10_000
    """Optimiser steps of the whole run."""
    batch_size: int = 64
    """Images per step, of all processes together."""
    seed: int = 0
    """Seed of everything random in the run."""
    precision: str = "bf16"
    """Accelerate's mixed precision: no or bf16."""
    workers: int = 0
    """Processes that read images; 0 reads them in the training process."""
    log_every: int = 10
    """Steps between TensorBoard scalars."""
    sample_every: int = 500
    """Steps between validation figures and sample pictures."""
    save_every: int = 500
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        """Refuse counts that cannot run."""
        counts = (self.steps, self.batch_size, self.log_every, self.sample_every, self.save_every)
        if min(counts) < 1 or self.workers < 0:
            raise MaskweaveError(f"counts of steps and images must be positive: {self}")
        if self.seed < 0:
            raise MaskweaveError(f"seed must be at least 0, got {self.seed}")
        if self.precision not in ("no", "bf16"):
            raise MaskweaveError(f"precision is no or bf16, got {self.precision!r}")


class Task(Protocol):
    """What the loop trains."""

    def step(self, images: Tensor, step: int) -> dict[str, float]:
        """Update the weights on one batch, uint8 (batch, 3, height, width); return what to log."""
        ...

    def validate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Return figures and sample sheets, each uint8 (height, width, 3), on fixed images."""
        ...

    def export(self, directory: Path) -> None:
        """Write the components that inference loads."""
        ...


def accelerator_for(run: RunConfig, directory: Path) -> Accelerator:
    """Return the Accelerator of a run: device, processes and precision; TensorBoard in RUN/logs.

    Raises
    ------
    MaskweaveError
        If the processes can't share a batch evenly.
    """
    accelerator = Accelerator(
        mixed_precision=run.precision,
        log_with="tensorboard",
        project_dir=directory / "logs",
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )
    if run.batch_size % accelerator.num_processes:
        raise MaskweaveError(
            f"batch_size {run.batch_size} is no multiple of {accelerator.num_processes} processes"
        )
    return accelerator


def fit(
    task: Task, dataset: Dataset[Tensor], run: RunConfig, directory: Path, accelerator: Accelerator
) -> None:
    """Train a task to the end of its run, from the newest checkpoint if there is one.

    Randomness is seeded again before every step from (seed, process, step), so that a resumed run
    and an uninterrupted one see the same numbers (as in EDM2's training loop).

    Parameters
    ----------
    task : Task
        Holds the models and optimisers, prepared by ``accelerator``.
    dataset : Dataset
        Of uint8 images (3, size, size).
    run : RunConfig
        Length, batch size, seed and intervals.
    directory : Path
        The run's folder: ``checkpoints/``, ``logs/``, ``samples/`` and the exported components.
    accelerator : Accelerator
        From ``accelerator_for``.

    Raises
    ------
    MaskweaveError
        If a loss is not finite; the message names the step and the last good checkpoint.
    """
    checkpoints = directory / "checkpoints"
    first = resume(checkpoints, accelerator)
    sampler = StepSampler(len(dataset), run.batch_size, run.seed, first)  # type: ignore[arg-type]
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=run.workers)
    batches = iter(accelerator.prepare(loader))
    accelerator.init_trackers("tensorboard")
    with progress(run.steps, first, accelerator.is_main_process) as advance:
        for step in range(first, run.steps):
            images = next(batches)
            _seed(run.seed, accelerator.process_index, step)
            metrics = task.step(images, step)
            if not np.isfinite(list(metrics.values())).all():
                newest = max(checkpoints.glob("step_*"), default="none")
                raise MaskweaveError(f"step {step}: {metrics}; last good checkpoint: {newest}")
            done = step + 1
            advance(text=" ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
            if done % run.log_every == 0:
                accelerator.log(metrics, step=done)
            if done % run.sample_every == 0 or done == run.steps:
                _seed(run.seed, accelerator.process_index, 0)
                _sample(task, done, directory, accelerator)
            if done % run.save_every == 0 or done == run.steps:
                # In this order: a run whose last checkpoint exists has been exported.
                if accelerator.is_main_process:
                    task.export(directory)
                save(checkpoints, done, accelerator)
    accelerator.end_training()


def resume(checkpoints: Path, accelerator: Accelerator) -> int:
    """Load the newest checkpoint, if any, and return how many steps it has seen."""
    newest = max(checkpoints.glob("step_*"), default=None)
    if newest is None:
        return 0
    accelerator.load_state(str(newest))
    return int(json.loads((newest / "progress.json").read_text())["step"])


def save(checkpoints: Path, step: int, accelerator: Accelerator) -> None:
    """Write a checkpoint, under its final name only once it is whole; drop all but the newest."""
    unfinished = checkpoints / "unfinished"
    if accelerator.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(unfinished))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (unfinished / "progress.json").write_text(json.dumps({"step": step}))
        unfinished.replace(checkpoints / f"step_{step:08d}")
        for old in sorted(checkpoints.glob("step_*"))[:-CHECKPOINTS_KEPT]:
            shutil.rmtree(old)


def _seed(seed: int, process: int, step: int) -> None:
    state = np.random.SeedSequence((seed, process, step)).generate_state(1)
    set_seed(int(state[0]))


def _sample(task: Task, step: int, directory: Path, accelerator: Accelerator) -> None:
    figures, sheets = task.validate()
    accelerator.log(figures, step=step)
    if not accelerator.is_main_process:
        return
    (directory / "samples").mkdir(exist_ok=True)
    for name, sheet in sheets.items():
        array = sheet.cpu().numpy()
        Image.fromarray(array).save(directory / "samples" / f"{name}_{step:08d}.png")
        for tracker in accelerator.trackers:
            tracker.log_images({name: array[None]}, step=step, dataformats="NHWC")
