"""The training loop: steps, logs, validation and checkpoints. It knows no model."""

import time
from datetime import timedelta
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import (
    DataLoaderConfiguration,
    InitProcessGroupKwargs,
    gather_object,
    is_wandb_available,
    set_seed,
)
from PIL import Image
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from maskweave.backends import fast_dtype
from maskweave.data.sampler import StepSampler
from maskweave.errors import MaskweaveError
from maskweave.files import unfinished
from maskweave.progress import note, progress
from maskweave.settings import Natural, Positive, settings
from maskweave.training.checkpoints import check_disk, resume, save, writing
from maskweave.training.speed import gemm_rate

Scalars = dict[str, Tensor | float]


@settings
class RunConfig:
    """How long to train, on how much at once, and what to write on the way."""

    steps: Natural = 10_000
    """Optimiser steps of the whole run; 0 where it is given in epochs."""
    epochs: Natural = 0
    """Passes over the images, where the run is not given in steps."""
    batch_size: Positive = 64
    """Images per step, of all processes together."""
    accumulate: Positive = 1
    """Parts in which each process takes its share of a batch, to need less memory."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of everything random in the run."""
    precision: Literal["auto", "no", "bf16"] = "auto"
    """Accelerate's mixed precision: no, bf16, or auto, which is bf16 on devices made for it."""
    compile: bool = False
    """Compile the transformer with ``torch.compile``. The tokenizer is not compiled: it was no
    faster, and its adaptive weight goes through one graph several times."""
    workers: Natural = 0
    """Processes that prepare batches; 0 prepares them in the training process."""
    log_every: Positive = 10
    """Steps over which logged figures are averaged."""
    save_every: Positive = 500
    """Steps between checkpoints, each with validation figures and sample pictures."""
    wandb: bool = False
    """Log to Weights & Biases too."""

    def __post_init__(self) -> None:
        """Refuse a run of no length or of two."""
        if (self.steps == 0) == (self.epochs == 0):
            raise MaskweaveError(
                f"a run has either steps or epochs, the other is 0; got {self.steps} steps and "
                f"{self.epochs} epochs"
            )


class Task(Protocol):
    """What the loop trains."""

    def step(self, batch: Any, step: int) -> Scalars:
        """Update the weights on one batch; return what to log."""
        ...

    def validate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Return figures and sample sheets, each uint8 (height, width, 3), on fixed images.

        ``validation/loss`` is the figure by which the best checkpoint is kept.
        """
        ...

    def export(self, directory: Path) -> None:
        """Write the components that inference loads."""
        ...

    def flops(self) -> int:
        """Return the operations of one image's forward and backward passes."""
        ...


def accelerator_for(run: RunConfig, directory: Path) -> Accelerator:
    """Return the Accelerator of a run: device, processes and precision; TensorBoard in RUN/logs.

    Raises
    ------
    MaskweaveError
        If the processes can't share a batch evenly or Weights & Biases is not installed.
    """
    if run.wandb and not is_wandb_available():
        raise MaskweaveError("run.wandb needs Weights & Biases: pip install wandb")
    accelerator = Accelerator(
        mixed_precision=_fast_precision() if run.precision == "auto" else run.precision,
        log_with=["tensorboard", "wandb"] if run.wandb else "tensorboard",
        project_dir=directory / "logs",
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        # Others wait while one process fills the cache.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=2))],
    )
    parts = accelerator.num_processes * run.accumulate
    if run.batch_size % parts:
        raise MaskweaveError(
            f"batch_size {run.batch_size} is no multiple of {accelerator.num_processes} processes "
            f"times accumulate {run.accumulate}"
        )
    return accelerator


def _fast_precision() -> str:
    """Return bf16 if this machine has instructions for it, as emulated it is many times slower."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if fast_dtype("torch") == torch.bfloat16 else "no"


class Course(NamedTuple):
    """How a run goes through its images."""

    steps: int
    """Steps of the whole run."""
    epoch: int
    """Steps of a pass over the images."""
    accumulate: int = 1
    """Parts in which each process takes its share of a batch."""


def course_of(run: RunConfig, images: int) -> Course:
    """Return how a run goes through a set of so many images.

    Raises
    ------
    MaskweaveError
        If they are fewer than a batch.
    """
    if images < run.batch_size:
        raise MaskweaveError(f"{images} training images are fewer than a batch of {run.batch_size}")
    epoch = images // run.batch_size
    return Course(run.epochs * epoch or run.steps, epoch, run.accumulate)


def fit(
    task: Task,
    dataset: Dataset[Any],
    images: int,
    run: RunConfig,
    directory: Path,
    accelerator: Accelerator,
) -> None:
    """Train a task to the end of its run, from the newest checkpoint if there is one.

    Randomness is seeded again before every step from (seed, process, step), so that a resumed run
    and an uninterrupted one see the same numbers (as in EDM2's training loop).

    Parameters
    ----------
    task : Task
        Holds the models and optimisers, prepared by ``accelerator``.
    dataset : Dataset
        Is asked for the ``Draw`` of every image of a batch.
    images : int
        How many there are to draw from.
    run : RunConfig
        Length, batch size, seed and intervals.
    directory : Path
        The run's folder: ``checkpoints/``, ``logs/``, ``samples/`` and the exported components.
    accelerator : Accelerator
        From ``accelerator_for``.

    Raises
    ------
    MaskweaveError
        If a figure is not finite or the run cannot be written, for instance on a full disk; the
        message names the last good checkpoint. If an image of a shard cannot be read.
    """
    checkpoints, steps = directory / "checkpoints", course_of(run, images).steps
    first = resume(checkpoints, accelerator)
    if not any(checkpoints.glob("step_*")):
        with writing(checkpoints):
            save(checkpoints, 0, None, task.export, accelerator)
    if accelerator.is_main_process:
        check_disk(checkpoints)
    sampler = StepSampler(images, run.batch_size, run.seed, first)
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=run.workers)
    batches = iter(accelerator.prepare(loader))
    trackers = {
        "tensorboard": {"purge_step": first + 1},  # what a stopped run logged beyond its checkpoint
        "wandb": {"dir": str(directory / "logs")},
    }
    accelerator.init_trackers("maskweave", init_kwargs=trackers)
    window = Window(task.flops(), run, accelerator)
    text = ""
    with progress(steps, first, accelerator.is_main_process) as advance:
        for step in range(first, steps):
            try:
                batch = next(batches)
            except MaskweaveError as error:  # which worker processes wrap in their traceback
                reason = str(error).rpartition("MaskweaveError: ")[2].strip()
                raise MaskweaveError(reason) from error
            _seed(run.seed, accelerator.process_index, step)
            window.add(task.step(batch, step))
            done = step + 1
            checkpoint_due = done % run.save_every == 0 or done == steps
            if done % run.log_every == 0 or checkpoint_due:
                figures = window.close(done, checkpoints)
                accelerator.log(figures, step=done)
                text = " ".join(f"{k} {v:.4g}" for k, v in figures.items() if "loss" in k)
                window.open()
            advance(text=text)
            if checkpoint_due:
                _seed(run.seed, accelerator.process_index, 0)
                figures, sheets = task.validate()
                loss = figures["validation/loss"]
                with writing(checkpoints):
                    _report(figures, sheets, done, directory, accelerator)
                    # In this order: a run whose last checkpoint exists has been exported.
                    if accelerator.is_main_process:
                        task.export(directory)
                    save(checkpoints, done, loss, task.export, accelerator)
                if accelerator.is_main_process:
                    note(f"step {done} of {steps}: {text} validation/loss {loss:.4g}")
                window.open()
    accelerator.end_training()
    if accelerator.is_main_process:
        note(f"done: {directory}")


class Window:
    """The steps over which logged figures are averaged, so that the device is rarely waited for."""

    def __init__(self, flops: int, run: RunConfig, accelerator: Accelerator) -> None:
        dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
        self.rate = gemm_rate(dtype, accelerator.device) * accelerator.num_processes
        self.flops, self.batch_size, self.accelerator = flops, run.batch_size, accelerator
        self.open()

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.steps)

    def open(self) -> None:
        """Begin anew."""
        self.steps: list[Scalars] = []
        self.began = time.perf_counter()

    def add(self, scalars: Scalars) -> None:
        """Keep what a step returned."""
        self.steps.append(scalars)

    def close(self, done: int, checkpoints: Path) -> dict[str, float]:
        """Return the means over the steps and all processes, with the speed of the window.

        Raises
        ------
        MaskweaveError
            If a figure of a step is not finite.
        """
        names = sorted({name for scalars in self.steps for name in scalars})
        columns = [[scalars[n] for scalars in self.steps if n in scalars] for n in names]
        local = torch.stack([*map(self._mean, columns)])
        means: list[float] = self.accelerator.reduce(local, "mean").tolist()  # type: ignore[union-attr]
        if not np.isfinite(means).all():
            last = max(checkpoints.glob("step_*"), default="none")
            broken = self._broken(done - len(self) + 1)
            raise MaskweaveError(f"{broken}; last good checkpoint: {last}")
        images_per_second = len(self) * self.batch_size / (time.perf_counter() - self.began)
        return dict(zip(names, means, strict=True)) | {
            "speed/images_per_second": images_per_second,
            "speed/share_of_gemm_rate": images_per_second * self.flops / self.rate,
        }

    def _mean(self, values: list[Tensor | float]) -> Tensor:
        device = self.accelerator.device
        return torch.stack([torch.as_tensor(v, device=device).float() for v in values]).mean()

    def _broken(self, first: int) -> str:
        """Say in which step a figure of any process was not finite for the first time."""
        found: list[tuple[int, dict[str, float]]] = []
        for step, scalars in enumerate(self.steps, start=first):
            figures = {name: float(value) for name, value in scalars.items()}
            if not np.isfinite([*figures.values()]).all():
                found.append((step, figures))
        everywhere: list[tuple[int, dict[str, float]]] = gather_object(found[:1])
        step, figures = min(everywhere, key=itemgetter(0))
        return f"step {step}: {figures}"


def _seed(seed: int, process: int, step: int) -> None:
    state = np.random.SeedSequence((seed, process, step)).generate_state(1)
    set_seed(int(state[0]))


def _report(
    figures: dict[str, float],
    sheets: dict[str, Tensor],
    step: int,
    directory: Path,
    accelerator: Accelerator,
) -> None:
    """Log validation figures and sample pictures, and write these to ``directory/samples``."""
    accelerator.log(figures, step=step)
    if accelerator.is_main_process:
        for name, sheet in sheets.items():
            array = sheet.cpu().numpy()
            with unfinished(directory / "samples" / f"{name}_{step:08d}.png") as path:
                Image.fromarray(array).save(path, "PNG")
            for tracker in accelerator.trackers:
                options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({name: array[None]}, step=step, **options)
