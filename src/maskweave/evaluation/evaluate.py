"""Any folder of filled images against the truth: what is measured, and how it is summed up."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student_t

from maskweave.checkpoint import identity
from maskweave.errors import MaskweaveError
from maskweave.evaluation.examples import Batch, Examples, read_rgb, told
from maskweave.evaluation.inception import (
    KID_SUBSETS,
    Inception,
    features_of,
    frechet_distance,
    kernel_distance,
    kid_subset,
    real_features,
)
from maskweave.evaluation.lattice import SOURCE as LATTICE
from maskweave.evaluation.lattice import Peaks, peaks_of, strongest
from maskweave.evaluation.metrics import (
    GREATEST,
    SOURCES,
    check_example,
    lpips_distances,
    pixel_figures,
)
from maskweave.images import Pixels
from maskweave.progress import Advance
from maskweave.tokenizer.losses import LPIPSNet, perceptual_loss

BUCKETS = 10
"""Equal ranges of the hole's share of the image."""


class Scores(NamedTuple):
    """What was measured of each image."""

    figures: dict[str, Float[np.ndarray, "images"]]
    """Figures by name: ``lpips`` and those of ``metrics.SOURCES``; NaN where undefined."""
    features: Float[np.ndarray, "images features"] | None
    """Inception features of the results; None without Inception."""
    hole_shares: Float[np.ndarray, "images"]
    """Share of each image that is hole."""
    peaks: Peaks
    """Peaks of a lattice in the holes."""
    notes: Sequence[tuple[str, str]] = ()
    """What there is to say of masks, each with the name of its image."""


@dataclass(frozen=True)
class Measurement:
    """A figure with what is needed to repeat and to trust it."""

    value: float
    spread: float | None
    """Half-width of ``spread_of``; None where there is one value only."""
    spread_of: str
    """What ``spread`` is; empty without one."""
    n: int
    """Number of the images behind it."""
    source: str
    """Library, version, settings and hash of the weights."""


class Bucket(NamedTuple):
    """Images whose hole covers a share of them within a range."""

    low: float
    """Least share."""
    high: float
    """Share that is not reached, unless it is 1."""
    n: int
    """Number of the images."""
    means: dict[str, float]
    """Means of the figures over these images; of the greatest changes the greatest."""


@dataclass(frozen=True)
class Evaluation:
    """All figures of a set of results."""

    n: int
    """Number of the images."""
    runs: int
    """How often each was filled: with so many seeds, or so many samples."""
    figures: dict[str, Measurement]
    """Figures by name, FID and KID first; without Inception there are none of these."""
    buckets: list[Bucket]
    """Means by the hole's share of the image."""
    notes: tuple[str, ...] = ()
    """What has to be known before the figures are compared with others."""

    def as_json(self) -> dict[str, Any]:
        """Return it as plain types, None for what is undefined."""
        figures = {
            name: asdict(figure) | {"value": _or_none(figure.value)}
            for name, figure in self.figures.items()
        }
        buckets = [
            bucket._asdict() | {"means": {k: _or_none(v) for k, v in bucket.means.items()}}
            for bucket in self.buckets
        ]
        return {
            "n": self.n,
            "runs": self.runs,
            "figures": figures,
            "by_hole_share": buckets,
            "notes": [*self.notes],
        }


class Meter:
    """The networks behind the figures.

    Parameters
    ----------
    inception : Inception, optional
        Network of FID and KID, which are left out without it.
    lpips : {"squeeze", "alex", "vgg"}
        Network of LPIPS.
    device : str
        Device on which the networks run.
    """

    def __init__(
        self, inception: Inception | None, lpips: LPIPSNet = "squeeze", device: str = "cpu"
    ) -> None:
        self.inception = inception.to(device).eval() if inception else None
        self.network = perceptual_loss(lpips).to(device)
        self.lpips_source = (
            f"torchmetrics {version('torchmetrics')}, {lpips}, whole images, "
            f"weights {identity(self.network)[:8]}"
        )

    @property
    def identity(self) -> list[str]:
        """What a stored figure has to be stored under."""
        network = [self.inception.source, self.inception.sha256] if self.inception else []
        return [*network, *self.sources.values()]

    @property
    def sources(self) -> dict[str, str]:
        """What is behind each figure of single images."""
        return {"lpips": self.lpips_source, **SOURCES}

    def score(self, results: Sequence[Pixels], batch: Batch, cache: Path | None = None) -> Scores:
        """Measure results of any sizes; ``cache`` keeps their Inception features.

        Raises
        ------
        MaskweaveError
            If a result does not fit its truth or its hole, or a hole is empty.
        """
        rows: list[dict[str, float]] = []
        for stem, *one in zip(batch.stems, results, batch.images, batch.holes, strict=True):
            check_example(stem, *one)
            rows.append(pixel_figures(*one))
        figures = {"lpips": lpips_distances(results, batch.images, self.network)}
        figures |= {name: np.array([row[name] for row in rows]) for name in SOURCES}
        shares = np.array([hole.mean() for hole in batch.holes])
        features = features_of(results, self.inception, cache) if self.inception else None
        found = [peaks_of(*one) for one in zip(results, batch.images, batch.holes, strict=True)]
        peaks = Peaks(*map(np.array, zip(*found, strict=True)))
        return Scores(figures, features, shares, peaks, batch.notes)

    def notes(self, n: int) -> tuple[str, ...]:
        """Return what has to be known of figures of so many images."""
        if not self.inception or n >= self.inception.features:
            return ()
        return (
            f"FID and KID of {n} images, fewer than the {self.inception.features} features: FID is "
            "far too high and KID uncertain; compare them at this number of images only",
        )


def score_run(
    results: dict[str, Path],
    examples: Examples,
    meter: Meter,
    advance: Advance,
    cache: Path | None = None,
) -> Scores:
    """Measure one result for each of the examples.

    Parameters
    ----------
    results : dict
        Filled images by the stems of the examples, as ``examples.read_runs`` finds them.
    examples : Examples
        The truth and the holes.
    meter : Meter
        The networks.
    advance : callable
        Told of every image that is done.
    cache : Path, optional
        Folder that keeps the Inception features of the results.

    Raises
    ------
    MaskweaveError
        If a file is odd or broken, or does not fit its truth.
    """
    parts: list[Scores] = []
    for batch in examples.batches():
        images = [read_rgb(results[stem]) for stem in batch.stems]
        parts.append(meter.score(images, batch, cache))
        advance(len(batch.stems))
    return joined(parts)


def joined(parts: Sequence[Scores]) -> Scores:
    """Join the scores of batches."""
    figures = {
        name: np.concatenate([part.figures[name] for part in parts]) for name in parts[0].figures
    }
    features = [part.features for part in parts if part.features is not None]
    return Scores(
        figures,
        np.concatenate(features) if features else None,
        np.concatenate([part.hole_shares for part in parts]),
        Peaks(*map(np.concatenate, zip(*(part.peaks for part in parts), strict=True))),
        [note for part in parts for note in part.notes],
    )


def truth_features(
    examples: Examples, meter: Meter, advance: Advance
) -> Float[np.ndarray, "images features"] | None:
    """Return the features of the true images, which are computed only once on a machine.

    Without Inception there are none.
    """
    if meter.inception is None:
        return None
    parts: list[np.ndarray] = []
    for batch in examples.batches():
        parts.append(real_features(batch.images, meter.inception))
        advance(len(batch.stems))
    return np.concatenate(parts)


def summarise(
    runs: Sequence[Scores],
    truth: Float[np.ndarray, "images features"] | None,
    meter: Meter,
    over: Literal["seeds", "samples"] = "seeds",
) -> Evaluation:
    """Sum up the scores of the same images, filled once or with several seeds.

    FID and KID are means over the runs, with a 95 % interval over them. The others are means over
    the images, each of which counts with its own mean over the runs, with a 95 % interval over the
    images; but of the greatest changes the greatest is taken, and the lattice is that of all
    images together.

    Parameters
    ----------
    runs : sequence of Scores
        One for each seed or sample.
    truth : numpy.ndarray, optional
        Inception features of the true images; without them there is no FID and no KID.
    meter : Meter
        What the scores were measured with.
    over : {"seeds", "samples"}
        What tells the runs apart.

    Raises
    ------
    MaskweaveError
        If there are fewer than two images.
    """
    n = len(runs[0].hole_shares)
    if n < 2:
        raise MaskweaveError(f"figures of a set need at least 2 images, got {n}")
    features = [run.features for run in runs if run.features is not None]
    figures: dict[str, Measurement] = {}
    if truth is not None and meter.inception:
        figures = set_figures(features, truth, meter.inception.source, over)
    by_image = {
        name: (np.max if name == GREATEST else np.mean)([run.figures[name] for run in runs], axis=0)
        for name in runs[0].figures
    }
    for name, values in by_image.items():
        figures[name] = _over_images(name, values, meter.sources[name])
    figures |= _lattice([run.peaks for run in runs])
    buckets = _buckets(by_image, runs[0].hole_shares)
    notes = meter.notes(n) + told(runs[0].notes, n)
    return Evaluation(n, len(runs), figures, buckets, notes)


def set_figures(
    runs: Sequence[Float[np.ndarray, "n features"]],
    truth: Float[np.ndarray, "m features"],
    source: str,
    over: str = "seeds",
) -> dict[str, Measurement]:
    """Return FID and KID of sets of images against the truth, as means over the sets."""
    n = min(len(truth), len(runs[0]))
    kid_source = f"{source}, {KID_SUBSETS} subsets of {kid_subset(n)}"
    fids = np.array([frechet_distance(run, truth) for run in runs])
    kids, deviations = np.array([kernel_distance(run, truth) for run in runs]).T
    fid = measured(fids, f"95 % over {over}", source)
    kid = measured(kids, f"95 % over {over}", kid_source)
    if len(runs) == 1 and kid_subset(n) < n:
        kid = replace(kid, spread=float(deviations[0]), spread_of="deviation over subsets")
    return {"fid": replace(fid, n=n), "kid": replace(kid, n=n)}


def measured(values: Float[np.ndarray, "n"], spread_of: str, source: str) -> Measurement:
    """Return the mean of the finite values with Student's 95 % interval."""
    values = values[np.isfinite(values)]
    n = len(values)
    mean = float(values.mean()) if n else math.nan
    if n < 2:
        return Measurement(mean, None, "", n, source)
    spread = float(student_t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return Measurement(mean, spread, spread_of, n, source)


def _over_images(name: str, values: Float[np.ndarray, "images"], source: str) -> Measurement:
    """Return the mean of a figure; of the greatest changes the greatest."""
    figure = measured(values, "95 % over images", source)
    if name == GREATEST and figure.n:
        return replace(figure, value=float(np.nanmax(values)), spread=None, spread_of="")
    return figure


def _lattice(runs: Sequence[Peaks]) -> dict[str, Measurement]:
    """Return the strongest peak of a lattice; nothing where no hole has room for a strip."""
    ratios = np.mean([run.ratios for run in runs], axis=0)
    value, spread, n = strongest(Peaks(ratios, runs[0].strips))
    over = "95 % over images, bootstrap" if spread is not None else ""
    return {"lattice": Measurement(value, spread, over, n, LATTICE)} if n else {}


def _buckets(
    by_image: dict[str, Float[np.ndarray, "images"]], shares: Float[np.ndarray, "images"]
) -> list[Bucket]:
    """Sum up by the hole's share of the image; empty ranges are left out."""
    index = np.minimum((shares * BUCKETS).astype(int), BUCKETS - 1)
    return [
        Bucket(
            int(bucket) / BUCKETS,
            (int(bucket) + 1) / BUCKETS,
            int((index == bucket).sum()),
            {
                name: _over_images(name, values[index == bucket], "").value
                for name, values in by_image.items()
            },
        )
        for bucket in np.unique(index)
    ]


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
