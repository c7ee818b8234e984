"""``maskweave inpaint --replay``: fill again what a manifest tells of, and compare."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from maskweave.cli.fills import Asked, do, reported
from maskweave.cli.jobs import Job, check_names
from maskweave.cli.repeat import load_again, name_of
from maskweave.errors import MaskweaveError
from maskweave.files import DiskError, tried

if TYPE_CHECKING:
    from maskweave.manifest import Row


@dataclass(frozen=True)
class Replay:
    """A manifest that is repeated, and what is told of it beside."""

    manifest: Path
    """Whose rows are filled again."""
    output: Path
    """Folder of the new fills."""
    model: str | None
    """A model that takes the place of the manifest's, for instance its folder."""
    device: str
    """Where it runs."""
    batch_size: int
    """Crops or windows filled at once."""
    memory: int | None
    """Megabytes for photos that are being filled."""
    overwrite: bool
    """Whether fills that are there are replaced."""
    json: bool
    """Whether the report is JSON."""


def replay(again: Replay) -> None:
    """Fill every row of a manifest again and tell which files differ from what it says.

    Raises
    ------
    MaskweaveError
        If the manifest cannot be read, or the weights are not those of its rows.
    typer.Exit
        With 1 if a fill failed or differs.
    """
    from maskweave.manifest import read_manifest

    rows = [row for row in read_manifest(again.manifest) if row.status != "failed"]
    if not rows:
        raise MaskweaveError(f"{again.manifest} tells of no fill")
    jobs = [_job(row, again.output) for row in rows]
    pairs = sorted(zip(rows, jobs, strict=True), key=lambda pair: _how(pair[0]))
    groups = [list(group) for _, group in groupby(pairs, key=lambda pair: _how(pair[0]))]
    for group in groups:
        _check(group[0][0], again.model)
    read = {file.parent for job in jobs for file in (job.image, job.mask) if file}
    if again.output.resolve() in {folder.resolve() for folder in read}:
        raise MaskweaveError(f"output {again.output} holds what is read")
    with reported(jobs, again.json, goes_on=False), tried(again.output):
        check_names(jobs, again.overwrite, leave=False)
        for group in groups:
            _fill(again, *zip(*group, strict=True))


def _job(row: "Row", output: Path) -> Job:
    if row.output != Path(row.output).name or "\0" in row.output:
        raise MaskweaveError(f"{row.output!r:.60} is no name of a file")
    mask = Path(row.mask) if row.mask else None
    seeds = [] if row.seed is None else [row.seed]
    return Job(Path(row.image), mask, [output / row.output], seeds=seeds)


def _how(row: "Row") -> tuple[str, bool, int, int, int]:
    """Return what fills share that are made in one go."""
    return row.recipe, row.invert, row.threshold, row.grow, row.quality or 0


def _check(row: "Row", model: str | None) -> None:
    """Raise MaskweaveError if a row tells of a fill that cannot be repeated."""
    recipe = row.recipe_of_fill
    _ = recipe.decode_settings
    if recipe.soften:
        raise MaskweaveError(f"{row.output} was softened: --from repeats such a fill")
    name_of(recipe, row.output, model)


def _fill(again: Replay, rows: Sequence["Row"], jobs: Sequence[Job]) -> None:
    from maskweave.files import sha256

    first = rows[0]
    recipe = first.recipe_of_fill
    name = name_of(recipe, first.output, again.model)
    pipeline, notes = load_again(recipe, first.output, name, again.device)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    asked = Asked(
        *(recipe.seed, first.invert, first.threshold, first.grow, first.quality),
        *(again.batch_size, again.memory),
        replace=again.overwrite,
        leave=False,
    )
    try:
        do(jobs, pipeline, recipe.decode_settings, asked)
    except MaskweaveError as error:
        if len(jobs) > 1 or isinstance(error, DiskError):
            raise
        jobs[0].fail(str(error))
    for row, job in zip(rows, jobs, strict=True):
        if job.state == "done" and sha256(job.outputs[0]) != row.sha256:
            job.fail(f"{job.outputs[0]} differs from the fill that the manifest tells of")
