"""Trains the stages of a preset within some minutes, on a machine that can be had for no longer.

    python recipes/gpu.py MINUTES --photos FOLDER --validation FOLDER --output DIR

A short run of each stage measures how fast it is, then the real one gets as many steps as fit its
share of the time. After each stage the model is in ``--out``, see ``shards.py``. Batches are larger
than the preset's and the learning rate grows with their fourth root: 16 times the batch, twice the
rate. ``recipes/gpu.sh`` prepares all this on a machine without network.
"""

import gc
import json
import os
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from maskweave.checkpoint import load_tokenizer, load_transformer, resolve
from maskweave.errors import MaskweaveError
from maskweave.files import write_json
from maskweave.presets import DECODERS, NARROWS, TOKENIZERS, TRANSFORMERS
from maskweave.progress import note
from maskweave.training.overrides import override, pick
from maskweave.training.train import (
    train_decoder,
    train_narrow,
    train_tokenizer,
    train_transformer,
)
from shards import join, split

STAGES = ("tokenizer", "transformer", "decoder", "narrow")

WINDOWS = 3
"""Windows of steps in the short run, the first of which warms up."""

SPARED = 0.06
"""Share of a stage's time that is left for what the short run has not shown."""

FEWEST = 8
"""Steps of a run for which there is no time left."""

LEFT = 10.0
"""Seconds before the end at which training is broken off, so that the model can be written."""


class TimeIsUp(BaseException):
    """Ends a training, wherever it is."""


@dataclass(frozen=True)
class Session:
    """What all stages of a call share."""

    photos: Path
    """Folder of training images."""
    validation: Path
    """Folder of images for figures."""
    output: Path
    """Where the runs are."""
    preset: str = "photos"
    """Name of the recipes."""
    batch_size: int = 256
    """Images per step."""
    workers: int = 0
    """Processes that prepare batches."""
    compiled: bool = False
    """Whether the transformer is compiled."""
    settings: tuple[str, ...] = ()
    """Overrides, each with the stage before it: ``tokenizer.loss.entropy=0.2``."""

    def __post_init__(self) -> None:
        """Refuse overrides of no stage."""
        for setting in self.settings:
            if setting.partition(".")[0] not in STAGES:
                raise MaskweaveError(f"{setting} does not begin with one of {', '.join(STAGES)}")

    def recipe(self, stage: str, start: Path | None) -> Any:
        """Return a stage's recipe, its model that of ``start`` where there is one."""
        presets: dict[str, Any] = {
            "tokenizer": TOKENIZERS,
            "transformer": TRANSFORMERS,
            "decoder": DECODERS,
            "narrow": NARROWS,
        }[stage]
        recipe = pick(presets, self.preset)
        rate = (self.batch_size / recipe.run.batch_size) ** 0.25 * recipe.optimiser.learning_rate
        changes = [
            f"optimiser.learning_rate={rate}",
            f"run.batch_size={self.batch_size}",
            f"run.workers={self.workers}",
        ]
        if stage == "transformer" and self.compiled:
            changes.append("run.compile=true")
        if stage == "decoder":
            changes.append(f"blocks={self._blocks(start)}")
        elif stage != "narrow" and start and (start / stage).is_dir():
            load = load_tokenizer if stage == "tokenizer" else load_transformer
            recipe = replace(recipe, model=load(start / stage).config)
        own = [s.partition(".")[2] for s in self.settings if s.startswith(f"{stage}.")]
        return override(recipe, [*changes, *own])

    def _blocks(self, model: Path | None) -> int:
        """Return how many blocks the decoder of a model lacks: one that is trained on has them."""
        first = self.recipe("tokenizer", None).model.decoder_blocks
        found = load_tokenizer(model / "tokenizer").config.decoder_blocks if model else first
        return max(0, first + pick(DECODERS, self.preset).blocks - found)

    def run(self, stage: str, recipe: Any, model: Path | None, output: Path) -> None:
        """Train a stage on the model so far."""
        cache = self.output / "cache"
        common = (output, self.validation, cache)
        start = model / stage if model and (model / stage).is_dir() else None
        if stage == "tokenizer":
            train_tokenizer(recipe, self.photos, *common, start)
        elif model is None:
            raise MaskweaveError(f"the {stage} needs a model to start from: --init MODEL")
        elif stage == "transformer":
            train_transformer(recipe, self.photos, model / "tokenizer", *common, start)
        elif stage == "decoder":
            train_decoder(recipe, self.photos, model, *common)
        else:
            train_narrow(recipe, self.photos, model, *common)
        gc.collect()
        torch.cuda.empty_cache()

    def train(self, stage: str, model: Path | None, seconds: float) -> dict[str, Any]:
        """Train a stage for so long, in ``output/STAGE``; return what to report of it."""
        began = time.monotonic()
        recipe = self.recipe(stage, model)
        window = _window(self.workers)
        short = _lasting(recipe, WINDOWS * window, window, looks=1)
        probe = self.output / f"probe-{stage}"
        shutil.rmtree(probe, ignore_errors=True)
        self.run(stage, short, model, probe)
        took = time.monotonic() - began
        speeds = _scalars(probe)["speed/images_per_second"]
        shutil.rmtree(probe)
        each, other = _cost(recipe, speeds, took)
        steps = max(FEWEST, int(((1 - SPARED) * (seconds - took) - other) / each))
        note(f"{stage}: {steps} steps of {each:.3f} s, and {other:.0f} s for the rest")
        recipe = _lasting(recipe, steps, max(window, steps // 50))
        self.run(stage, recipe, model, self.output / stage)
        figures = _scalars(self.output / stage)
        speeds = figures["speed/images_per_second"]
        return {
            "steps": steps,
            "batch_size": recipe.run.batch_size,
            "learning_rate": recipe.optimiser.learning_rate,
            "images_per_second": round(statistics.median(speeds[1:] or speeds), 1),
            "seconds": round(time.monotonic() - began, 1),
            **{name: values[-1] for name, values in figures.items() if "validation/" in name},
        }


def _window(workers: int) -> int:
    """Return the steps of a window: the batches of all processes come at once at first."""
    return max(4, workers)


def _lasting(recipe: Any, steps: int, window: int, looks: int = 2) -> Any:
    """Return a recipe of so many steps with some validations, logged window by window."""
    warmup = min(recipe.optimiser.warmup, max(1, steps // 20))
    return override(
        recipe,
        [
            f"run.steps={steps}",
            f"run.save_every={-(-steps // looks)}",
            f"run.log_every={window}",
            f"optimiser.warmup={warmup}",
        ],
    )


def _cost(recipe: Any, speeds: list[float], took: float) -> tuple[float, float]:
    """Return the seconds of one step of a run, and those of all but its steps.

    Where the discriminator joins late, the second window of the short run has hardly any of it; the
    last one has it.
    """
    loss, batch = getattr(recipe, "loss", None), recipe.run.batch_size
    without = loss.adversarial_start if loss and loss.adversarial else 0.0
    early, late = batch / speeds[1], batch / speeds[-1]
    steps = _window(recipe.run.workers) * (early + sum(batch / speed for speed in speeds[1:]))
    return without * early + (1 - without) * late, max(0.0, took - steps)


def _scalars(run: Path) -> dict[str, list[float]]:
    """Return the figures that a run has logged."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(run / "logs" / "maskweave"))
    log.Reload()
    return {name: [e.value for e in log.Scalars(name)] for name in log.Tags()["scalars"]}  # type: ignore[union-attr]


@contextmanager
def time_limit(seconds: float) -> Generator[None]:
    """Raise TimeIsUp in what is done within, once so many seconds have passed."""

    def up(*_: object) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def train(
    session: Session, seconds: float, shares: dict[str, float], init: Path | None, out: Path
) -> dict[str, Any]:
    """Train stages one after the other within so many seconds; return what to report of each.

    Parameters
    ----------
    session : Session
        What they share.
    seconds : float
        Time for all. What a stage leaves of its share, the later ones have.
    shares : dict of str to float
        Shares of the time by the names of the stages, in their order.
    init : Path, optional
        The folder of a model to start from.
    out : Path
        Where the model so far is written after each stage, with ``report.json``.
    """
    end, stage, model = time.monotonic() + seconds - LEFT, "", init
    report: dict[str, Any] = {}
    try:
        with time_limit(end - time.monotonic()):
            for stage, share in shares.items():
                later = sum([*shares.values()][len(report) :])
                own = (end - time.monotonic()) * share / later
                report[stage] = session.train(stage, model, own)
                model = session.output / stage
                split(model, out)
                write_json(out / "report.json", report)
    except TimeIsUp:
        report["stopped_in"] = stage
        here = session.output / stage
        if (here / "tokenizer").is_dir():  # from its checkpoint half-way
            split(here, out)
        write_json(out / "report.json", report)
    return report


def main(
    minutes: Annotated[float, typer.Argument(help="Time for all stages together.")],
    photos: Annotated[Path, typer.Option(help="Folder of training images.")],
    validation: Annotated[Path, typer.Option(help="Folder of images for figures.")],
    output: Annotated[Path, typer.Option(help="Folder of the runs.")],
    preset: Annotated[str, typer.Option(help="Name of the recipes.")] = "photos",
    init: Annotated[str | None, typer.Option(help="Model, or its files, to start from.")] = None,
    stages: Annotated[str, typer.Option(help="Which of them, by commas.")] = ",".join(STAGES),
    shares: Annotated[str, typer.Option(help="Of the time, for each stage.")] = "0.35,0.3,0.25,0.1",
    batch: Annotated[int, typer.Option(help="Images per step.")] = 256,
    workers: Annotated[int, typer.Option(help="Processes that prepare batches.")] = -1,
    out: Annotated[Path, typer.Option(help="Where the small files go.")] = Path("out"),
    set_: Annotated[list[str] | None, typer.Option("--set", help="STAGE.FIELD=VALUE.")] = None,
) -> None:
    """Train the stages of a preset within some minutes; print what each came to as JSON."""
    try:
        given = dict(zip(STAGES, map(float, shares.split(",")), strict=True))
    except ValueError as error:
        raise MaskweaveError(f"shares are {len(STAGES)} numbers, got {shares!r}") from error
    if not all(0 < share < float("inf") for share in given.values()):
        raise MaskweaveError(f"shares are above 0, got {shares!r}")
    if unknown := set(stages.split(",")) - given.keys():
        raise MaskweaveError(f"no stage is called {', '.join(sorted(unknown))}")
    torch.set_float32_matmul_precision("high")
    gpu = torch.cuda.is_available()
    session = Session(
        photos, validation, output, preset, batch,
        len(os.sched_getaffinity(0)) if workers < 0 else workers, gpu, tuple(set_ or ()),
    )  # fmt: skip
    start = resolve(init) if init else None
    if start and (start / "model.json").exists():
        join(start, output / "init")
        start = output / "init"
    if preset not in NARROWS:
        del given["narrow"]
    chosen = {stage: share for stage, share in given.items() if stage in stages.split(",")}
    report = train(session, 60 * minutes, chosen, start, out)
    device = torch.cuda.get_device_name() if gpu else "cpu"
    print(json.dumps({"device": device, **report}, indent=1))


if __name__ == "__main__":
    try:
        typer.run(main)
    except MaskweaveError as error:
        sys.exit(f"error: {error}")
