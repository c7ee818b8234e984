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
    """What the sweep runs over: every combination, with every seed."""

    schedules: tuple[str, ...] = ("cosine", "linear", "square")
    """Mask schedules."""
    steps: tuple[int, ...] = (15,)
    """T; one trajectory of T steps gives the result of every t up to T."""
    temperatures: tuple[float, ...] = (1.0,)
    """Of the noise on the confidence."""
    token_temperatures: tuple[float, ...] = (1.0,)
    """Of sampling tokens."""
    seeds: int = 3
    """Seeds 0, 1, ..., for the sweep and for the table."""
    images: int = 100
    """So many of the examples, spread evenly over all."""

    def settings(self, defaults: DecodeSettings) -> list[DecodeSettings]:
        """Return all combinations; what the grid does not name is as in ``defaults``."""
        return [
            replace(
                defaults,
                schedule=schedule,
                steps=steps,
                stop_after=steps,
                temperature=temperature,
                token_temperature=token_temperature,
            )
            for schedule, steps, temperature, token_temperature in itertools.product(
                self.schedules, self.steps, self.temperatures, self.token_temperatures
            )
        ]


class Trajectory(NamedTuple):
    """One combination of the sweep."""

    settings: DecodeSettings
    n: int
    """Images behind each figure."""
    figures: dict[str, Float[np.ndarray, "seeds steps"]]
    """For t = 1 .. T: ``fid``, ``lpips``, ``psnr_hole`` and ``ssim_hole``."""

    @property
    def seeds(self) -> int:
        """Their number."""
        return len(self.figures["fid"])

    def best(self) -> tuple[int, float]:
        """Return the t with the lowest mean FID, and that FID."""
        means = self.figures["fid"].mean(axis=0)
        return int(means.argmin()) + 1, float(means.min())


def trajectory(
    pipeline: InpaintPipeline,
    settings: DecodeSettings,
    seeds: int,
    examples: Examples,
    truth: Float[np.ndarray, "images features"],
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
    truth : numpy.ndarray
        Inception features of the true images.
    meter : Meter
        The networks behind the figures.
    cache : Path
        Folder that keeps what was measured of each batch, for this pipeline and these examples.
    advance : callable
        Told of every picture measured: T for each image and seed.
    """
    figures: dict[str, list[np.ndarray]] = {name: [] for name in ("fid", *SWEPT)}
    for seed in range(seeds):
        parts: list[dict[str, np.ndarray]] = []
        for batch in examples.batches():
            parts.append(_decode(pipeline, settings, seed, batch, meter, cache))
            advance(len(batch.stems) * settings.steps, f"{slug(settings)}, seed {seed}")
        joined = {name: np.concatenate([p[name] for p in parts], axis=1) for name in parts[0]}
        fids = [frechet_distance(features, truth) for features in joined["features"]]
        figures["fid"].append(np.array(fids))
        for name in SWEPT:
            figures[name].append(joined[name].mean(axis=1))
    stacked = {name: np.stack(rows) for name, rows in figures.items()}
    return Trajectory(settings, len(examples), stacked)


def slug(settings: DecodeSettings) -> str:
    """Return what tells decode settings from others, as part of a file name."""
    stop_after = settings.stop_after or settings.steps
    parts = [
        settings.schedule,
        f"T{settings.steps}",
        f"t{stop_after}",
        f"temperature{settings.temperature}".removesuffix(".0"),
        f"token{settings.token_temperature}".removesuffix(".0"),
        *([f"top{settings.top_k}"] if settings.top_k else []),
        *([settings.confidence] if settings.confidence != "log_probability" else []),
    ]
    return "-".join(parts)


def best_of(trajectories: Sequence[Trajectory]) -> DecodeSettings:
    """Return the settings with the lowest FID, mean over the seeds, of all in the sweep."""
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
    output = pipeline(
        batch.images,
        batch.holes,
        generator=[torch.Generator().manual_seed(seed) for _ in batch.stems],
        output_type="np",
        output_steps=True,
        **asdict(settings),
    )
    by_step = zip(*(output.steps or []), strict=True)
    scores = [meter.score([one.image for one in step], batch) for step in by_step]
    result = {name: np.stack([score.figures[name] for score in scores]) for name in SWEPT}
    result["features"] = np.stack([score.features for score in scores])
    write_cached(file, {name: torch.from_numpy(array) for name, array in result.items()})
    return result
