"""Fill, then evaluate: floors, baselines, the tokenizer's limit and a model over seeds.

Everything that took time is on disk as soon as it is done, so that a benchmark that was stopped
goes on where it was: pictures in ``fills/``, features in ``cache/``.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from maskweave.checkpoint import identity
from maskweave.errors import MaskweaveError
from maskweave.evaluation.baselines import (
    Fill,
    biharmonic,
    by_model,
    frequency_selective,
    grey,
    navier_stokes,
    pasted,
    reconstruction,
    telea,
)
from maskweave.evaluation.evaluate import (
    Evaluation,
    Meter,
    score_run,
    set_figures,
    summarise,
    truth_features,
)
from maskweave.evaluation.examples import BATCH, Batch, Examples, paired, read_rgb, spread
from maskweave.evaluation.inception import Inception, real_features
from maskweave.files import read_json, write_json
from maskweave.formats import list_images
from maskweave.maskgit import DecodeSettings
from maskweave.pipeline import InpaintPipeline
from maskweave.progress import Advance, progress
from maskweave.writing import write_image

BIHARMONIC = "scikit-image biharmonic"

FLOOR = "grey"

BASELINES: dict[str, Fill] = {
    FLOOR: grey,
    "OpenCV Telea": telea,
    "OpenCV Navier-Stokes": navier_stokes,
    "OpenCV FSR fast": frequency_selective,
    BIHARMONIC: biharmonic,
}


class Method(NamedTuple):
    """A way to fill holes, as a line of the table."""

    name: str
    fills: dict[str, Fill]
    """Functions that fill, by the folder that their pictures go to: one for each seed."""
    repaints: bool = False
    """It paints whole images: what it makes of known pixels is measured in a line of its own."""


class Row(NamedTuple):
    """A line of the table: a method and its figures on all examples."""

    name: str
    folders: list[Path]
    """Folders of filled images, one for each seed, below the benchmark's folder."""
    evaluation: Evaluation
    lpips: Float[np.ndarray, "images"]
    """LPIPS of every image, in the order of the stems: the mean over the seeds."""


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
        Folder for all that is written. A benchmark on the same examples goes on; one of another
        model there uses the fills that need no model again.

    Raises
    ------
    MaskweaveError
        If the folder holds a benchmark on other examples or by another version.
    """

    def __init__(
        self, pipeline: InpaintPipeline, examples: Examples, meter: Meter, directory: Path
    ) -> None:
        self.pipeline, self.examples, self.meter = pipeline, examples, meter
        self.directory, self.cache = directory, directory / "cache"
        self.model_hash = identity(pipeline.tokenizer, pipeline.transformer)
        parts = (self.model_hash, str(pipeline.dtype), pipeline.framing)
        self.model_key = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:8]
        self.identity = {"examples": _examples_hash(examples), "maskweave": version("maskweave")}
        self.file = directory / "benchmark.json"
        found = read_json(self.file) if self.file.exists() else self.identity
        if any(found.get(name) != value for name, value in self.identity.items()):
            raise MaskweaveError(
                f"{directory} holds a benchmark of another version or set of images; name a new one"
            )

    @cached_property
    def of_model_size(self) -> bool:
        """Whether all images are of the model's size, so that it paints them as a whole."""
        sizes = {image.shape[:2] for batch in self.examples.batches() for image in batch.images}
        return sizes == {self.pipeline.tokenizer.image_size}

    def begin(self, real: Path | None = None) -> list[Row]:
        """Read every image once; only then is anything written.

        ``real`` is a folder of other real images: their row is returned. Without Inception they
        have no figures and no row.

        Raises
        ------
        MaskweaveError
            If an image cannot be read or measured, or there is but one other.
        """
        inception = self.meter.inception
        others = spread(list_images(real).files, len(self.examples)) if real and inception else []
        if len(others) == 1:
            raise MaskweaveError(f"{real}: other real images must be at least 2")
        rows: list[Row] = []
        with progress(len(self.examples) + len(others)) as advance:
            self.truth = truth_features(self.examples, self.meter, advance)
            if self.truth is None:
                for batch in self.examples.batches():
                    advance(len(batch.stems))
            elif inception and others:
                rows = [self._real(others, inception, self.truth, advance)]
        write_json(self.file, self.identity)
        return rows

    def baselines(self) -> list[Method]:
        """Return the floors, the classical methods and the tokenizer given the true tokens."""
        methods = [
            Method(name, {name.replace(" ", "-").lower(): fill}) for name, fill in BASELINES.items()
        ]
        if self.of_model_size:
            fills = {f"{self.model_key}-tokenizer": reconstruction(self.pipeline.tokenizer)}
            methods.append(Method("tokenizer, true tokens", fills, repaints=True))
        return methods

    def model(self, name: str, settings: DecodeSettings, seeds: int) -> Method:
        """Return the model with these settings as a method; if it draws nothing, with one seed."""
        return Method(
            f"{name} ({slug(settings)})",
            {
                f"{self.model_key}-{slug(settings)}-seed{seed}": by_model(
                    self.pipeline, settings, seed
                )
                for seed in range(1 if settings.paint == "expected" else seeds)
            },
            self.of_model_size,
        )

    def measure(self, methods: Sequence[Method]) -> list[Row]:
        """Fill all examples by each method and measure the pictures, after ``begin``."""
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

    def _real(
        self, files: Sequence[Path], inception: Inception, truth: np.ndarray, advance: Advance
    ) -> Row:
        """Measure other real images."""
        n = len(files)
        parts: list[np.ndarray] = []
        for start in range(0, n, BATCH):
            images = [read_rgb(file) for file in files[start : start + BATCH]]
            parts.append(real_features(images, inception))
            advance(len(images), "other real images")
        figures = set_figures([np.concatenate(parts)], truth, inception.source)
        evaluation = Evaluation(n, 1, figures, [], self.meter.notes(n))
        return Row(f"{n} other real images", [], evaluation, np.array([]))

    def _row(self, name: str, folders: list[Path], advance: Advance) -> Row:
        runs = [
            score_run(
                paired(folder, self.examples.truth), self.examples, self.meter, advance, self.cache
            )
            for folder in folders
        ]
        evaluation = summarise(runs, self.truth, self.meter)
        lpips = np.mean([run.figures["lpips"] for run in runs], axis=0)
        return Row(name, [f.relative_to(self.directory) for f in folders], evaluation, lpips)


def slug(settings: DecodeSettings) -> str:
    """Return what tells decode settings from others, as part of a file name."""
    usual = asdict(DecodeSettings())
    always = {
        "schedule": "",
        "steps": "T",
        "stop_after": "t",
        "temperature": "temperature",
        "token_temperature": "token",
    }
    values = asdict(replace(settings, stop_after=settings.stop_after or settings.steps))
    silent = {*always}
    if settings.paint == "expected":
        parts = ["expected"]
        silent |= {"order", "top_k", "remask", "entropy_bound", "paint"}  # as nothing is sampled
    else:
        parts = [f"{mark}{values[name]}".removesuffix(".0") for name, mark in always.items()]
    parts += [
        f"{name}-{value}"
        for name, value in values.items()
        if name not in silent and value != usual[name]
    ]
    return "-".join(parts)


def _fill(fill: Fill, batch: Batch, folders: Sequence[Path]) -> None:
    """Write a batch, pasted and then as painted, to as many folders, unless it is all there."""
    if all((folder / f"{stem}.png").exists() for folder in folders for stem in batch.stems):
        return
    painted = fill(batch)
    for stem, image, true, hole in zip(
        batch.stems, painted, batch.images, batch.holes, strict=True
    ):
        for folder, pixels in zip(folders, (pasted(image, true, hole), image), strict=False):
            write_image(pixels, folder / f"{stem}.png")


def _examples_hash(examples: Examples) -> str:
    way = (examples.invert_mask, examples.threshold, examples.grow)
    digest = hashlib.sha256(str(way).encode())
    for stem in examples.stems:
        for file in (examples.truth[stem], examples.masks[stem]):
            digest.update(stem.encode() + file.read_bytes())
    return digest.hexdigest()
