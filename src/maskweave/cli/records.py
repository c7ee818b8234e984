"""``maskweave inpaint --manifest``: a table of what has become of every image."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from maskweave.cli.fills import Asked
from maskweave.cli.jobs import Job
from maskweave.errors import MaskweaveError
from maskweave.files import tried

if TYPE_CHECKING:
    from maskweave.call import Pipeline
    from maskweave.manifest import Row
    from maskweave.maskgit import DecodeSettings


@contextmanager
def recorded(
    file: Path | None,
    jobs: Sequence[Job],
    pipeline: "Pipeline",
    model: str,
    settings: "DecodeSettings",
    asked: Asked,
) -> Generator[None]:
    """Write a manifest of jobs, however their work ends, but for those that are left.

    Parameters
    ----------
    file : Path, optional
        What to write; nothing without it. If files that are there are left alone, the rows of a
        manifest that is there are kept.
    jobs : sequence of Job
        What is done within the context.
    pipeline, model, settings
        What fills, how the user names it, and how it decodes.
    asked : Asked
        How images are read, filled and written.

    Raises
    ------
    MaskweaveError
        If the manifest cannot be read or written.
    """
    if file is None:
        yield
        return
    from maskweave.manifest import merged, read_manifest, recipe_of, write_manifest

    recipe = recipe_of(pipeline, model, asked.seed, settings)
    old = read_manifest(file) if asked.leave and file.exists() else []
    try:
        yield
    finally:
        new = [row for job in jobs for row in rows_of(job, recipe, asked)]
        write_manifest(file, merged(old, new))


def check_manifest(file: Path, may_exist: bool, by_ray: bool) -> None:
    """Find out early whether a manifest can be written.

    Raises
    ------
    MaskweaveError
        If it is called otherwise, is there and may not be, or needs a package; or nothing can be
        written there.
    """
    from maskweave.manifest import check_name

    check_name(file)
    if by_ray:  # which looks at what is there itself
        if file.suffix.lower() != ".parquet" or file.is_file():
            raise MaskweaveError(f"with --ray a manifest is a folder called .parquet, got {file}")
        return
    if file.is_dir():
        raise MaskweaveError(f"{file} is a folder: a manifest of --ray, without it one is a file")
    with tried(file.parent):
        pass
    if file.exists() and not may_exist:
        raise MaskweaveError(
            f"{file} exists; --overwrite replaces it, --skip-existing goes on with it"
        )


def rows_of(job: Job, recipe: str, asked: Asked) -> "Iterator[Row]":
    """Yield a row for each fill of a job; none of one that is left."""
    from maskweave.files import sha256
    from maskweave.manifest import Row, identifier
    from maskweave.reading import seeds_of

    if job.state == "left":
        return
    failed = job.state == "failed"
    seeds = job.seeds or seeds_of(asked.seed, job.image, len(job.outputs))
    for output, seed in zip(job.outputs, seeds, strict=True):
        there = not failed and output not in job.written
        yield Row(
            id=identifier(output.stem),
            name=output.stem,
            image=str(job.image.absolute()),
            mask=str(job.mask.absolute()) if job.mask else None,
            output=output.name,
            status="failed" if failed else "there" if there else "done",
            error=job.error,
            seed=seed,
            sha256=None if failed else sha256(output),
            seconds=job.seconds,
            invert=asked.invert,
            threshold=asked.threshold,
            grow=asked.grow,
            quality=asked.quality,
            recipe=recipe,
        )
