"""The sweep: decode settings, every number of steps and seeds, each decoded once."""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from maskweave.evaluation.baselines import run_model
from maskweave.evaluation.benchmark import slug
from maskweave.evaluation.evaluate import Meter
from maskweave.evaluation.examples import Batch, Examples
from maskweave.evaluation.inception import frechet_distance, read_cached, write_cached
from maskweave.maskgit import DecodeSettings
from maskweave.pipeline import InpaintPipeline
from maskweave.progress import Advance

SWEPT = ("lpips", "psnr_hole", "ssim_hole")
"""Figures of single images that the sweep keeps."""


@dataclass(frozen=True)
class Grid:
    """What the sweep runs over: every combination."""

    schedules: tuple[str, ...] = ("cosine", "linear", "square")
    """Mask schedules."""
    steps: tuple[int, ...] = (15,)
    """T; one trajectory of T steps gives the result of every t up to T."""
    temperatures: tuple[float, ...] = (1.0,)
    """Scales of the noise in the order of decoding."""
    token_temperatures: tuple[float, ...] = (1.0,)
    """Temperatures at which tokens are sampled."""
    images: int = 100
    """Number of the examples that it is over, spread evenly over all."""

    def settings(self, defaults: DecodeSettings) -> list[DecodeSettings]:
        """Return all combinations, sampled; what the grid does not name is as in ``defaults``."""
        return [
            replace(
                defaults,
                schedule=schedule,
                steps=steps,
                stop_after=steps,
                temperature=temperature,
                token_temperature=token_temperature,
                paint="sampled",
            )
            for schedule, steps, temperature, token_temperature in itertools.product(
                self.schedules, self.steps, self.temperatures, self.token_temperatures
            )
        ]


class Trajectory(NamedTuple):
    """One combination of the sweep."""

    settings: DecodeSettings
    """How the model decodes, with ``stop_after`` equal to ``steps``."""
    n: int
    """Number of the images behind each figure."""
    figures: dict[str, Float[np.ndarray, "seeds steps"]]
    """Figures for t = 1 .. T: ``fid``, if there is Inception, and those of ``SWEPT``."""

    @property
    def seeds(self) -> int:
        """Number of the seeds."""
        return len(self.figures[self.merit])

    @property
    def merit(self) -> str:
        """The figure by which the best settings are chosen: FID, or LPIPS without it."""
        return "fid" if "fid" in self.figures else "lpips"

    def best(self) -> tuple[int, float]:
        """Return the t with the lowest mean of the figure of merit, and that mean."""
        means = self.figures[self.merit].mean(axis=0)
        return int(means.argmin()) + 1, float(means.min())


def trajectory(
    pipeline: InpaintPipeline,
    settings: DecodeSettings,
    seeds: int,
    examples: Examples,
    truth: Float[np.ndarray, "images features"] | None,
    meter: Meter,
    cache: Path,
    advance: Advance,
) -> Trajectory:
    """Measure the result of every t up to T, from one decoding for each image and seed.

    Parameters
    ----------
    pipeline : InpaintPipeline
        The model.
    settings : DecodeSettings
        How it decodes, with ``stop_after`` equal to ``steps``.
    seeds : int
        How many seeds, from 0.
    examples : Examples
        True images and holes.
    truth : numpy.ndarray, optional
        Inception features of the true images; without them there is no FID.
    meter : Meter
        The networks behind the figures.
    cache : Path
        Folder that keeps what was measured of each batch, for this pipeline and these examples.
    advance : callable
        Told of every picture measured: T for each image and seed.
    """
    names = ("fid", *SWEPT) if truth is not None else SWEPT
    figures: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for seed in range(seeds):
        parts: list[dict[str, np.ndarray]] = []
        for batch in examples.batches():
            parts.append(_decode(pipeline, settings, seed, batch, meter, cache))
            advance(len(batch.stems) * settings.steps, f"{slug(settings)}, seed {seed}")
        joined = {name: np.concatenate([p[name] for p in parts], axis=1) for name in parts[0]}
        if truth is not None:
            fids = [frechet_distance(features, truth) for features in joined["features"]]
            figures["fid"].append(np.array(fids))
        for name in SWEPT:
            figures[name].append(joined[name].mean(axis=1))
    stacked = {name: np.stack(rows) for name, rows in figures.items()}
    return Trajectory(settings, len(examples), stacked)


def best_of(trajectories: Sequence[Trajectory]) -> DecodeSettings:
    """Return the settings of the lowest figure of merit, mean over the seeds, of all the sweep."""
    best = min(trajectories, key=lambda trajectory: trajectory.best()[1])
    return replace(best.settings, stop_after=best.best()[0])


def _decode(
    pipeline: InpaintPipeline,
    settings: DecodeSettings,
    seed: int,
    batch: Batch,
    meter: Meter,
    cache: Path,
) -> dict[str, Float[np.ndarray, "steps images ..."]]:
    """Return figures and features of a batch after every step, from the cache if possible."""
    key = json.dumps([asdict(settings), seed, batch.stems, meter.identity])
    file = cache / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"
    if cached := read_cached(file):
        return {name: tensor.numpy() for name, tensor in cached.items()}
    output = run_model(pipeline, settings, seed, batch, output_steps=True)
    by_step = zip(*(output.steps or []), strict=True)
    scores = [meter.score([np.array(one.image) for one in step], batch) for step in by_step]
    result = {name: np.stack([score.figures[name] for score in scores]) for name in SWEPT}
    if meter.inception:
        features = [score.features for score in scores if score.features is not None]
        result["features"] = np.stack(features)
    write_cached(file, {name: torch.from_numpy(array) for name, array in result.items()})
    return result
