"""What ``maskweave inpaint`` is to do: which image with which mask makes which files."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from maskweave.errors import MaskweaveError


@dataclass
class Job:
    """One image, its mask, the files that come of it, and what there is to say about it."""

    image: Path
    mask: Path | None
    outputs: list[Path]
    steps: list[list[Path]] = field(default_factory=list)
    """For each output the pictures after each step, if they are wanted."""
    state: Literal["left", "done", "there", "failed"] = "left"
    """Whether it is still to be done; ``there`` if others have done it, and it is left alone."""
    written: list[Path] = field(default_factory=list)
    """What this run has written of it."""
    seeds: list[int] = field(default_factory=list)
    """The seed of each fill."""
    backend: str | None = None
    """What computed the networks, if any did: with the dtype it decides the bytes of a fill."""
    dtype: str | None = None
    """Precision of the networks."""
    seconds: float | None = None
    """From reading to writing; images that are filled together share this time."""
    hole_share: float | None = None
    notes: list[str] = field(default_factory=list)
    error: str | None = None

    def files(self) -> list[Path]:
        """Return everything that is written."""
        return self.outputs + [file for steps in self.steps for file in steps]

    def fail(self, error: str) -> None:
        """Keep why nothing comes of it."""
        self.state, self.error = "failed", error


def plan(
    image: Path,
    mask: Path | None,
    output: str,
    samples: int,
    format_: str | None,
    quality: int | None,
) -> tuple[list[Job], list[str]]:
    """Pair images, masks and outputs by name; nothing is read yet but the folders.

    Parameters
    ----------
    image, mask
        Files or folders; the image may be shards, as ``tars.shards`` takes them, or a table, as
        ``_tabled`` does.
    output : str
        A file or a folder, as ``_is_folder`` tells.
    samples : int
        Files of each image, numbered if there are several.
    format_ : str, optional
        Suffix of the files in a folder, without its dot.
    quality : int, optional
        That of JPEG files, if they are such.

    Returns
    -------
    (list of Job, list of str)
        What is to be done, and what there is to say about the folders.

    Raises
    ------
    MaskweaveError
        If a folder cannot be read, or the output is none that fits.
    """
    from maskweave import tars
    from maskweave.formats import list_images
    from maskweave.manifest import is_manifest

    shards = tars.shards(image)
    many = image.is_dir() or bool(shards) or is_manifest(image)
    notes: list[str] = []

    def listed(folder: Path) -> list[Path]:
        files, left_out = list_images(folder)
        notes.extend(f"{folder}: {note}" for note in left_out)
        return files

    if shards:
        pairs = [pair for shard in shards for pair in tars.pairs(shard)]
    elif is_manifest(image):
        pairs = _tabled(image)
    else:
        pairs = [(file, None) for file in (listed(image) if many else [image])]
    if not pairs:
        raise MaskweaveError(f"{image} holds no image")
    masks = {file.stem: file for file in listed(mask)} if mask and mask.is_dir() else None
    to_folder, target = _is_folder(output, many), Path(output)
    if many and target.resolve() in [folder.resolve() for folder in (image, mask) if folder]:
        raise MaskweaveError(f"output {output} holds what is read: fills would be taken for it")
    suffix = _suffix_of(format_, quality, None if to_folder else target)
    jobs: list[Job] = []
    for file, its_own in pairs:
        first = target / f"{file.stem}{suffix}" if to_folder else target
        its_mask = (mask or its_own) if masks is None else masks.get(file.stem)
        jobs.append(Job(file, its_mask, _numbered(first, samples)))
        if masks is not None and file.stem not in masks:
            jobs[-1].fail(f"{mask} holds no mask called {file.stem}")
    return jobs, notes


def _tabled(file: Path) -> list[tuple[Path, Path | None]]:
    """Return the images and masks that the columns ``image`` and ``mask`` of a table name.

    Raises
    ------
    MaskweaveError
        If it cannot be read, has no column ``image``, or one of them holds something else.
    """
    from maskweave.manifest import read_rows

    rows = read_rows(file)
    if not all(isinstance(row.get("image"), str) for row in rows):
        raise MaskweaveError(f"{file} has no column image with names of files")
    if not all(isinstance(row.get("mask"), str | None) for row in rows):
        raise MaskweaveError(f"the column mask of {file} holds what is no name of a file")
    return [(Path(row["image"]), Path(row["mask"]) if row.get("mask") else None) for row in rows]


def _numbered(file: Path, samples: int) -> list[Path]:
    """Return the name of each fill; one alone has no number."""
    if samples == 1:
        return [file]
    return [file.with_name(f"{file.stem}_{i}{file.suffix}") for i in range(1, samples + 1)]


def name_steps(jobs: Iterable[Job], steps: int) -> None:
    """Name a picture for each step of each fill."""
    for job in jobs:
        job.steps = [
            [file.with_name(f"{file.stem}_step_{k:02d}{file.suffix}") for k in range(1, steps + 1)]
            for file in job.outputs
        ]


def leave_finished(jobs: Iterable[Job]) -> None:
    """Mark jobs whose fills are all there by now; those of a sample come after its steps.

    Where a folder has the name of a file, its job fails.
    """
    for job in jobs:
        if folders := [file for file in job.files() if file.is_dir()]:
            job.fail(f"{folders[0]} is a folder")
        elif all(map(os.path.lexists, job.outputs)):
            job.state, job.error = "there", None


def check_names(jobs: Sequence[Job], replace: bool, leave: bool) -> None:
    """Check that what is to be written has names that are free, or may be.

    Parameters
    ----------
    jobs : sequence of Job
        What is to be written.
    replace, leave
        Whether files that are there may be replaced, or else be left alone.

    Raises
    ------
    MaskweaveError
        If there are such files but neither is allowed, one is a folder, or two would be the same.
    """
    files = [file for job in jobs for file in job.files()]
    twice = [file for file, number in Counter(files).items() if number > 1]
    if twice:
        raise MaskweaveError(f"{twice[0]} would be written twice")
    there = list(filter(os.path.lexists, files))
    if there and not (replace or leave):
        raise MaskweaveError(
            f"{there[0]} exists; --overwrite replaces it, --skip-existing leaves it alone"
        )
    if len(jobs) == 1 and (folders := [file for file in there if file.is_dir()]):
        raise MaskweaveError(f"{folders[0]} is a folder")


def _is_folder(output: str, many: bool) -> bool:
    """Tell whether a name is that of a folder: it is one, ends in a slash, or in no image's suffix.

    Raises
    ------
    MaskweaveError
        If it can be neither.
    """
    from PIL.Image import registered_extensions

    from maskweave.formats import SUFFIXES

    if "\0" in output:
        raise MaskweaveError(f"output {output!r} holds a NUL byte, which no name of a file can")
    path = Path(output)
    suffix = path.suffix.lower()
    slash = output.endswith(tuple(filter(None, (os.sep, os.altsep))))
    if path.is_dir() or slash or suffix not in registered_extensions():
        if path.exists() and not path.is_dir():
            raise MaskweaveError(f"output {output} is a file, not a folder")
        return True
    if many or suffix not in SUFFIXES:
        wanted = "a folder" if many else f"a folder or an image ({', '.join(SUFFIXES)})"
        raise MaskweaveError(f"output {output} must be {wanted}")
    return False


def _suffix_of(format_: str | None, quality: int | None, file: Path | None) -> str:
    """Return the suffix of files in a folder, or of one that is named, which has to fit."""
    from PIL.Image import registered_extensions

    from maskweave.formats import SUFFIXES

    suffix = f".{format_.lower().removeprefix('.')}" if format_ else ".png"
    if suffix not in SUFFIXES:
        names = ", ".join(each.removeprefix(".") for each in SUFFIXES)
        raise MaskweaveError(f"format is one of {names}, got {format_!r}")
    kinds = registered_extensions()
    if format_ and file and kinds[suffix] != kinds[file.suffix.lower()]:
        raise MaskweaveError(f"format {format_} does not fit the output's name {file.name}")
    if file:
        suffix = file.suffix.lower()
    if quality and kinds[suffix] != "JPEG":
        raise MaskweaveError(f"quality is that of JPEG files, and the output is {kinds[suffix]}")
    return suffix
