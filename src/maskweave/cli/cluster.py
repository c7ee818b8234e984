"""``maskweave inpaint --ray``: the jobs of a folder, done by Ray Data."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from maskweave.cli.fills import Asked
from maskweave.cli.jobs import Job
from maskweave.errors import MaskweaveError

if TYPE_CHECKING:
    from maskweave.call import Pipeline

ADDRESS = re.compile(r"local|auto|(ray://)?[^/\s]+:\d+")


class OptionalAddress(TyperCommand):
    """Takes ``--ray`` without an address, which Typer knows no way to say, as ``--ray local``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Add the address where it is left out."""
        told = []
        for each, following in zip(args, [*args[1:], ""], strict=True):
            told.append(each)
            if each == "--ray" and not ADDRESS.fullmatch(following):
                told.append("local")
        return super().parse_args(ctx, told)


@dataclass(frozen=True)
class Cluster:
    """Where and by what jobs are done."""

    address: str
    """As ``ray.connected`` takes it."""
    model: str
    """How the user names the model."""
    load: "Callable[[], Pipeline]"
    """Returns what fills, on a worker."""
    device: str
    """Where a worker fills."""
    decoding: Mapping[str, Any]
    """Fields of ``DecodeSettings`` that are given; None takes the model's."""
    manifest: Path
    """Folder of the manifest."""


def do_on_cluster(jobs: Sequence[Job], cluster: Cluster, asked: Asked) -> None:
    """Do all jobs that are left; the manifest tells what has become of them.

    Raises
    ------
    MaskweaveError
        If Ray is not installed, the cluster does not answer, or no more can be done.
    """
    # Read as Ray is imported: what it finds remarkable of itself is no matter of the user's.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        from maskweave.ray import connected, fill_table, gpus_of, kept_by
    except ImportError as error:
        raise MaskweaveError(f"--ray needs more: pip install 'maskweave[ray]' ({error})") from error
    from maskweave.call import MEMORY
    from maskweave.manifest import identifier
    from maskweave.reading import Reading

    manifest = cluster.manifest
    resumed = asked.leave and kept_by(manifest).exists()
    known = set() if asked.replace else _known(manifest, asked)
    rows = [
        _row(job, number, asked)
        for job in jobs
        for number, output in enumerate(job.outputs)
        # Ray itself leaves out what a run that was killed has told of.
        if resumed or job.state != "there" or identifier(output.stem) not in known
    ]
    try:
        if rows:
            # Ray prints warnings of its cluster on stdout, which is for the names of outputs.
            with redirect_stdout(sys.stderr), connected(cluster.address):
                if asked.replace:
                    _forget(manifest)
                fill_table(
                    rows,
                    manifest,
                    jobs[0].outputs[0].parent,
                    model=cluster.model,
                    load=cluster.load,
                    reading=Reading(asked.invert, asked.threshold, asked.grow),
                    seed=asked.seed,
                    quality=asked.quality,
                    batch_size=asked.batch_size,
                    memory=asked.memory or MEMORY,
                    num_gpus=gpus_of(cluster.device),
                    overwrite=asked.replace,
                    **cluster.decoding,
                )
    finally:
        _tell(jobs, manifest, known)


def _forget(manifest: Path) -> None:
    """Remove a manifest and what is kept beside one that is not finished."""
    from maskweave.ray import kept_by

    shutil.rmtree(kept_by(manifest), ignore_errors=True)
    for part in manifest.glob("*.parquet"):  # and nothing else: the user names the folder
        part.unlink()


def _known(manifest: Path, asked: Asked) -> set[int]:
    """Return the fills that a manifest tells of, if there is one.

    Raises
    ------
    MaskweaveError
        If there is one, but it is not to be gone on with.
    """
    from maskweave.manifest import read_manifest

    if not manifest.exists():
        return set()
    if not asked.leave:
        raise MaskweaveError(
            f"{manifest} exists; --overwrite replaces it, --skip-existing goes on with it"
        )
    return {row.id for row in read_manifest(manifest) if row.status != "failed"}


def _row(job: Job, number: int, asked: Asked) -> dict[str, Any]:
    from maskweave.reading import seeds_of

    seeds = job.seeds or seeds_of(asked.seed, job.image, len(job.outputs))
    return {
        "name": job.outputs[number].stem,
        "image": str(job.image.absolute()),
        "mask": str(job.mask.absolute()) if job.mask else None,
        "output": job.outputs[number].name,
        "seed": seeds[number],
        "error": job.error,
    }


def _tell(jobs: Sequence[Job], manifest: Path, known: set[int]) -> None:
    """Note on jobs what the manifest says of them."""
    from maskweave.manifest import identifier, read_manifest

    if not manifest.exists():
        return
    rows = {row.id: row for row in read_manifest(manifest)}
    for job in jobs:
        names = {identifier(output.stem): output for output in job.outputs}
        own = [rows[each] for each in names if each in rows]
        job.written = [names[row.id] for row in own if row.status == "done" and row.id not in known]
        if broken := [row for row in own if row.status == "failed"]:
            job.fail(broken[0].error or "")
        elif job.state == "left" and len(own) == len(names):
            job.state = "done" if job.written else "there"
            job.seconds = sum(row.seconds or 0 for row in own)
