"""Fill, then evaluate: floors, baselines, a model over seeds, and a sweep of decode settings.

Everything that took time is on disk as soon as it is done, so that a benchmark that was stopped
goes on where it was: pictures in ``fills/``, features and the sweep's figures in ``cache/``.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from maskweave.checkpoint import weights_hash
from maskweave.errors import MaskweaveError
from maskweave.evaluation.baselines import (
    Fill,
    biharmonic,
    by_model,
    grey,
    navier_stokes,
    pasted,
    reconstruction,
    telea,
)
from maskweave.evaluation.evaluate import (
    Evaluation,
    Meter,
    score_folder,
    set_figures,
    summarise,
    truth_features,
)
from maskweave.evaluation.examples import BATCH, Batch, Examples, read_rgb, spread
from maskweave.evaluation.inception import real_features
from maskweave.evaluation.sweep import Grid, Trajectory, best_of, slug, trajectory
from maskweave.files import read_json, write_json
from maskweave.images import list_images, write_image
from maskweave.maskgit import DecodeSettings
from maskweave.pipeline import InpaintPipeline
from maskweave.progress import Advance, progress

BIHARMONIC = "scikit-image biharmonic"

BASELINES = {
    "grey": grey,
    "OpenCV Telea": telea,
    "OpenCV Navier-Stokes": navier_stokes,
    BIHARMONIC: biharmonic,
}


class Method(NamedTuple):
    """A way to fill holes, as a line of the table."""

    name: str
    fills: dict[str, Fill]
    """By the folder that its pictures go to: one for each seed."""
    repaints: bool = False
    """It paints known pixels too: what it paints there is measured in a line of its own."""


class Row(NamedTuple):
    """A line of the table: a method and its figures on all examples."""

    name: str
    folders: list[Path]
    """Of filled images, one for each seed, below the benchmark's folder."""
    evaluation: Evaluation
    lpips: Float[np.ndarray, "images"]
    """Of every image, in the order of the stems: the mean over the seeds."""


class Results(NamedTuple):
    """What a benchmark found."""

    rows: list[Row]
    """On all examples: other real images if there are any, floors, baselines, the model."""
    default: Row
    """The one of them that is the model with its default settings."""
    trajectories: list[Trajectory]
    """On some of them: the sweep."""

    def as_json(self) -> dict[str, Any]:
        """Return it as plain types."""
        rows = [
            {
                "name": row.name,
                "folders": [folder.as_posix() for folder in row.folders],
                **row.evaluation.as_json(),
            }
            for row in self.rows
        ]
        sweep = [
            {
                "settings": asdict(each.settings),
                "n": each.n,
                "seeds": each.seeds,
                **{name: values.tolist() for name, values in each.figures.items()},
            }
            for each in self.trajectories
        ]
        return {"rows": rows, "sweep": sweep}


class Benchmark:
    """All that fills and figures of one benchmark rest on.

    Parameters
    ----------
    pipeline : InpaintPipeline
        The model.
    examples : Examples
        True images and holes.
    meter : Meter
        The networks behind the figures.
    directory : Path
        Where everything is written. A benchmark of the same model on the same examples goes on.

    Raises
    ------
    MaskweaveError
        If the folder holds a benchmark of another model or of other examples.
    """

    def __init__(
        self, pipeline: InpaintPipeline, examples: Examples, meter: Meter, directory: Path
    ) -> None:
        self.pipeline, self.examples, self.meter = pipeline, examples, meter
        self.directory, self.cache = directory, directory / "cache"
        self.identity = {
            "model": weights_hash(pipeline.tokenizer, pipeline.transformer),
            "tokenizer": repr(pipeline.tokenizer.config),
            "transformer": repr(pipeline.transformer.config),
            "dtype": str(pipeline.dtype),
            "examples": _examples_hash(examples),
            "maskweave": version("maskweave"),
        }
        self.file = directory / "benchmark.json"
        if self.file.exists() and read_json(self.file) != self.identity:
            raise MaskweaveError(
                f"{directory} holds a benchmark of another model, dtype, version or set of images; "
                "name a new one"
            )

    def run(self, name: str, grid: Grid, real: Path | None = None) -> Results:
        """Measure floors, baselines, the model called ``name`` and a grid of its settings.

        ``real`` is a folder of other real images. Progress bars show what is left.
        """
        examples, seeds = self.examples, grid.seeds
        others = spread(list_images(real), len(examples)) if real else []
        if len(others) == 1:
            raise MaskweaveError(f"{real}: other real images must be at least 2")
        with progress(len(examples) + len(others)) as advance:
            self.truth = truth_features(examples, self.meter, advance)
            rows = [self._real(others, advance)] if others else []
        write_json(self.file, self.identity)  # now that every image could be read
        default = self._model(f"{name}, default settings", self.pipeline.defaults, seeds)
        rows += self._rows([*self._baselines(), default])
        default_row = next(row for row in rows if row.name == default.name)

        some = examples.subset(grid.images)
        known = dict(zip(examples.stems, self.truth, strict=True))
        truth = np.stack([known[stem] for stem in some.stems])
        swept = grid.settings(self.pipeline.defaults)
        with progress(sum(len(some) * seeds * each.steps for each in swept)) as advance:
            trajectories = [
                trajectory(self.pipeline, each, seeds, some, truth, self.meter, self.cache, advance)
                for each in swept
            ]
        best = self._model(f"{name}, best of the sweep", best_of(trajectories), seeds)
        return Results(rows + self._rows([best]), default_row, trajectories)

    def _baselines(self) -> list[Method]:
        """Return the floors, the classical methods and the tokenizer given the true tokens."""
        methods = [
            Method(name, {name.replace(" ", "-").lower(): fill}) for name, fill in BASELINES.items()
        ]
        size = self.pipeline.tokenizer.config.image_size
        sizes = {image.shape[:2] for batch in self.examples.batches() for image in batch.images}
        if sizes == {(size, size)}:
            fill = reconstruction(self.pipeline.tokenizer)
            methods.append(Method("tokenizer, true tokens", {"tokenizer": fill}, repaints=True))
        return methods

    def _model(self, name: str, settings: DecodeSettings, seeds: int) -> Method:
        """Return the model with these settings as a method."""
        return Method(
            f"{name} ({slug(settings)})",
            {
                f"{slug(settings)}-seed{seed}": by_model(self.pipeline, settings, seed)
                for seed in range(seeds)
            },
            repaints=True,
        )

    def _rows(self, methods: Sequence[Method]) -> list[Row]:
        """Fill all examples by each method and measure the pictures."""
        passes = sum(len(each.fills) * (3 if each.repaints else 2) for each in methods)
        rows: list[Row] = []
        with progress(passes * len(self.examples)) as advance:
            for method in methods:
                kept, painted = (
                    [self.directory / "fills" / f"{folder}{end}" for folder in method.fills]
                    for end in ("", "-as-painted")
                )
                for fill, *folders in zip(method.fills.values(), kept, painted, strict=True):
                    for batch in self.examples.batches():
                        _fill(fill, batch, folders if method.repaints else folders[:1])
                        advance(len(batch.stems), method.name)
                rows.append(self._row(method.name, kept, advance))
                if method.repaints:
                    rows.append(self._row(f"{method.name}, as painted", painted, advance))
        return rows

    def _real(self, files: Sequence[Path], advance: Advance) -> Row:
        """Measure other real images."""
        n = len(files)
        parts: list[np.ndarray] = []
        for start in range(0, n, BATCH):
            images = [read_rgb(file) for file in files[start : start + BATCH]]
            parts.append(real_features(images, self.meter.inception))
            advance(len(images), "other real images")
        figures = set_figures([np.concatenate(parts)], self.truth, self.meter.inception.source)
        return Row(f"{n} other real images", [], Evaluation(n, figures, []), np.array([]))

    def _row(self, name: str, folders: list[Path], advance: Advance) -> Row:
        runs = [
            score_folder(folder, self.examples, self.meter, advance, self.cache)
            for folder in folders
        ]
        evaluation = summarise(runs, self.truth, self.meter)
        lpips = np.mean([run.figures["lpips"] for run in runs], axis=0)
        return Row(name, [f.relative_to(self.directory) for f in folders], evaluation, lpips)


def _fill(fill: Fill, batch: Batch, folders: Sequence[Path]) -> None:
    """Write a batch, pasted and then as painted, to as many folders, unless it is all there."""
    if all((folder / f"{stem}.png").exists() for folder in folders for stem in batch.stems):
        return
    painted = fill(batch.images, batch.holes)
    for stem, image, true, hole in zip(batch.stems, painted, *batch[1:], strict=True):
        for folder, pixels in zip(folders, (pasted(image, true, hole), image), strict=False):
            write_image(pixels, folder / f"{stem}.png")


def _examples_hash(examples: Examples) -> str:
    digest = hashlib.sha256(str(examples.invert_mask).encode())
    for stem in examples.stems:
        for file in (examples.truth[stem], examples.masks[stem]):
            digest.update(stem.encode() + file.read_bytes())
    return digest.hexdigest()
