"""A whole benchmark: the table on all examples, and the sweep on some of them."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskweave.evaluation.benchmark import BASELINES, FLOOR, Benchmark, Row
from maskweave.progress import progress
from maskweave.report.sweep import Grid, Trajectory, best_of, trajectory
from maskweave.report.tables import HIGH, LOW, beside_best


class Results(NamedTuple):
    """What a benchmark found."""

    rows: list[Row]
    """Lines of the table: other real images if there are any, floors, baselines and the model."""
    default: Row
    """The one of them that is the model with its default settings."""
    trajectories: list[Trajectory]
    """The sweep, on some of the examples; empty without one."""

    @property
    def classical(self) -> list[Row]:
        """The lines of methods that need no model, but for the floor."""
        return [row for row in self.rows if row.name in BASELINES and row.name != FLOOR]

    @property
    def ours(self) -> list[Row]:
        """The lines of the model."""
        return [row for row in self.rows if row.folders and row.name not in BASELINES]

    def as_json(self) -> dict[str, Any]:
        """Return it as plain types."""
        rows = [
            {
                "name": row.name,
                "folders": [folder.as_posix() for folder in row.folders],
                **row.evaluation.as_json(),
                "beside_best_classical": self._beside_classical(row),
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

    def _beside_classical(self, row: Row) -> dict[str, float]:
        """Return what is printed in brackets: nothing of lines that are not the model's."""
        if row.name not in [own.name for own in self.ours]:
            return {}
        rivals = [each.evaluation for each in self.classical]
        figures = {name: beside_best(name, row.evaluation, rivals) for name in LOW + HIGH}
        return {name: value for name, value in figures.items() if value is not None}


def run(
    benchmark: Benchmark, name: str, seeds: int, grid: Grid | None, real: Path | None = None
) -> Results:
    """Measure floors, baselines, the model and a grid of its settings.

    Progress bars show what is left.

    Parameters
    ----------
    benchmark : Benchmark
        The model and the examples.
    name : str
        Name of the model.
    seeds : int
        How many seeds, from 0, of the table and of the sweep.
    grid : Grid, optional
        What the sweep runs over; without it there is none.
    real : Path, optional
        Folder of other real images.

    Raises
    ------
    MaskweaveError
        If an image cannot be read or measured.
    """
    defaults = benchmark.pipeline.defaults
    rows = benchmark.begin(real)
    default = benchmark.model(f"{name}, default settings", defaults, seeds)
    methods = [*benchmark.baselines(), default]
    if defaults.paint != "expected":
        expected = replace(defaults, paint="expected")
        methods.append(benchmark.model(f"{name}, expected codes", expected, seeds))
    rows += benchmark.measure(methods)
    default_row = next(row for row in rows if row.name == default.name)
    if grid is None:
        return Results(rows, default_row, [])
    trajectories = _swept(benchmark, seeds, grid)
    best = benchmark.model(f"{name}, best of the sweep", best_of(trajectories), seeds)
    return Results(rows + benchmark.measure([best]), default_row, trajectories)


def _swept(benchmark: Benchmark, seeds: int, grid: Grid) -> list[Trajectory]:
    pipeline, examples = benchmark.pipeline, benchmark.examples
    some, truth = examples.subset(grid.images), None
    if benchmark.truth is not None:
        known = dict(zip(examples.stems, benchmark.truth, strict=True))
        truth = np.stack([known[stem] for stem in some.stems])
    swept = grid.settings(pipeline.defaults)
    cache = benchmark.cache / benchmark.model_key
    with progress(sum(len(some) * seeds * each.steps for each in swept)) as advance:
        return [
            trajectory(pipeline, each, seeds, some, truth, benchmark.meter, cache, advance)
            for each in swept
        ]
