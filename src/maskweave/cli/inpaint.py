"""``maskweave inpaint``: fill the holes of one image or of a folder of images."""

import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskweave.cli.options import (
    Device,
    Dtype,
    InvertMask,
    Json,
    Model,
    Overwrite,
    Seed,
    load_pipeline,
    one_line,
)
from maskweave.errors import MaskweaveError

if TYPE_CHECKING:
    from maskweave.images import Hole, Pixels
    from maskweave.maskgit import DecodeSettings
    from maskweave.pipeline import InpaintPipeline


@dataclass
class Job:
    """One image, its mask, the files that come of it, and what there is to say about it."""

    image: Path
    mask: Path | None
    outputs: list[Path]
    steps: list[list[Path]] = field(default_factory=list)
    """For each output the pictures after each step, if they are wanted."""
    profile: bytes | None = field(default=None, repr=False)
    hole_share: float | None = None
    note: str | None = None
    error: str | None = None

    def files(self) -> list[Path]:
        """Return everything that is written."""
        return self.outputs + [file for steps in self.steps for file in steps]


def inpaint(
    image: Annotated[Path, typer.Argument(help="An image, or a folder of images.")],
    output: Annotated[Path, typer.Option(help="Image to write, or a folder (no suffix).")],
    mask: Annotated[
        Path | None,
        typer.Option(
            help="Mask image, white in the hole: one for all images, or a folder that has one of "
            "the same stem for each. Without it transparent pixels are the hole."
        ),
    ] = None,
    model: Model = "cats64",
    steps: Annotated[int | None, typer.Option(help="Decoding steps T.")] = None,
    schedule: Annotated[str | None, typer.Option(help="linear, cosine, square, arccos.")] = None,
    order: Annotated[
        str | None,
        typer.Option(help="What is kept first: confidence, probability, random, halton."),
    ] = None,
    paint: Annotated[
        str | None,
        typer.Option(
            help="sampled: lively, each fill is another. expected: one pass, one faithful answer."
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Scale of the noise in the order.")
    ] = None,
    token_temperature: Annotated[
        float | None,
        typer.Option(help="Tokens are sampled at this temperature; 0 takes the likeliest."),
    ] = None,
    stop_after: Annotated[int | None, typer.Option(help="Run only t of the T steps.")] = None,
    num_samples: Annotated[int, typer.Option(min=1, help="Different fills of each image.")] = 1,
    seed: Seed = 0,
    invert_mask: InvertMask = False,
    save_steps: Annotated[
        bool, typer.Option("--save-steps", help="Write a picture after each step as well.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Crops or windows filled at once.")] = 16,
    device: Device = "auto",
    dtype: Dtype = "float32",
    overwrite: Overwrite = False,
    json_: Json = False,
) -> None:
    """Fill the holes of an image or of a folder of images; all other pixels stay as they are.

    In a folder a bad image is reported at the end, the rest is done, and the exit code is 1.
    """
    from maskweave.images import refuse_existing
    from maskweave.progress import progress

    jobs = _plan(image, mask, output, num_samples)
    pipeline = load_pipeline(model, device, dtype)
    pipeline.set_progress_bar_config(disable=image.is_dir())  # a folder has a bar of its own
    settings = pipeline.settings(
        steps=steps,
        schedule=schedule,
        order=order,
        paint=paint,
        temperature=temperature,
        token_temperature=token_temperature,
        stop_after=stop_after,
    )
    if save_steps:
        _name_steps(jobs, settings.last_step)
    files = [file for job in jobs for file in job.files()]
    twice = [file for file, number in Counter(files).items() if number > 1]
    if twice:
        raise MaskweaveError(f"{twice[0]} would be written twice")
    refuse_existing(files, overwrite)
    if not image.is_dir() and (folders := [file for file in files if file.is_dir()]):
        raise MaskweaveError(f"{folders[0]} is a folder")

    started = time.perf_counter()
    with progress(len(jobs), shown=image.is_dir()) as advance:
        for start in range(0, len(jobs), batch_size):
            batch = jobs[start : start + batch_size]
            _fill(pipeline, batch, settings, seed, batch_size, invert_mask, skip_bad=image.is_dir())
            advance(len(batch))
    _report(jobs, json_, time.perf_counter() - started)


def _plan(image: Path, mask: Path | None, output: Path, samples: int) -> list[Job]:
    """Pair images, masks and outputs by name; nothing is read yet but the folders."""
    from maskweave.images import SUFFIXES, list_images

    many = image.is_dir()
    images = list_images(image) if many else [image]
    masks = {file.stem: file for file in list_images(mask)} if mask and mask.is_dir() else None
    to_folder = output.is_dir() or not output.suffix
    if not to_folder and (many or output.suffix.lower() not in SUFFIXES):
        wanted = "a folder" if many else f"a folder or an image ({', '.join(SUFFIXES)})"
        raise MaskweaveError(f"output {output} must be {wanted}")
    if to_folder and output.exists() and not output.is_dir():
        raise MaskweaveError(f"output {output} is a file, not a folder")
    if many and output.resolve() in [folder.resolve() for folder in (image, mask) if folder]:
        raise MaskweaveError(f"output {output} holds what is read: fills would be taken for it")
    jobs = []
    for file in images:
        first = output / f"{file.stem}.png" if to_folder else output
        numbers = range(1, samples + 1)
        outputs = (
            [first.with_stem(f"{first.stem}_{i}") for i in numbers] if samples > 1 else [first]
        )
        jobs.append(Job(file, mask if masks is None else masks.get(file.stem), outputs))
        if masks is not None and file.stem not in masks:
            jobs[-1].error = f"{mask} holds no mask called {file.stem}"
    return jobs


def _name_steps(jobs: list[Job], steps: int) -> None:
    for job in jobs:
        job.steps = [
            [file.with_name(f"{file.stem}_step_{k:02d}.png") for k in range(1, steps + 1)]
            for file in job.outputs
        ]


def _fill(
    pipeline: "InpaintPipeline",
    jobs: list[Job],
    settings: "DecodeSettings",
    seed: int,
    batch_size: int,
    invert_mask: bool,
    skip_bad: bool,
) -> None:
    """Read, fill and write one batch."""
    import numpy as np

    from maskweave.images import write_image
    from maskweave.seeds import seeded

    ready = list(_read(jobs, invert_mask, skip_bad))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the jobs carry the same remarks
        filled = pipeline(
            [pixels for _, pixels, _ in ready],
            [hole for _, _, hole in ready],
            num_images_per_prompt=len(jobs[0].outputs),
            generator=[seeded(seed, job.image.stem) for job, _, _ in ready],
            batch_size=batch_size,
            output_steps=bool(jobs[0].steps),
            **asdict(settings),
        )
    for index, picture in enumerate(filled.images):
        sample = index % len(jobs[0].outputs)
        job = ready[index // len(jobs[0].outputs)][0]
        pictures = {job.outputs[sample]: np.array(picture)}
        if filled.steps:
            steps = [np.array(step.image) for step in filled.steps[index]]
            pictures |= dict(zip(job.steps[sample], steps, strict=True))
        with _noted(job, skip_bad):
            for file, pixels in pictures.items():
                write_image(pixels, file, job.profile)


@contextmanager
def _noted(job: Job, skip_bad: bool) -> Generator[None]:
    """Keep an error for the report at the end, in a folder run."""
    try:
        yield
    except MaskweaveError as error:
        if not skip_bad:
            raise
        job.error = one_line(str(error))


def _read(
    jobs: list[Job], invert_mask: bool, skip_bad: bool
) -> "Iterator[tuple[Job, Pixels, Hole]]":
    """Yield each image with its hole; note on its job what is remarkable or wrong."""
    for job in jobs:
        with _noted(job, skip_bad):
            if job.error:
                raise MaskweaveError(job.error)
            yield job, *_read_pair(job, invert_mask)


def _read_pair(job: Job, invert_mask: bool) -> "tuple[Pixels, Hole]":
    from maskweave.holes import remark
    from maskweave.images import check_sizes, read_image, read_mask

    picture = read_image(job.image)
    hole = read_mask(job.mask, invert_mask) if job.mask else picture.transparent
    if hole is None:
        raise MaskweaveError(f"{job.image} has no transparency: name a --mask")
    check_sizes(picture.pixels, hole)
    job.hole_share, job.note, job.profile = float(hole.mean()), remark(hole), picture.profile
    return picture.pixels, hole


def _report(jobs: list[Job], json_: bool, seconds: float) -> None:
    """Print the files and, on stderr, notes and errors; exit with 1 if an image failed."""
    failed = [job for job in jobs if job.error]
    for job in jobs:
        if job.note:
            print(f"note: {job.image}: {job.note}", file=sys.stderr)
        if any(file.suffix.lower() in (".jpg", ".jpeg") for file in job.outputs):
            print("note: JPEG is lossy: known pixels change on disk", file=sys.stderr)
    for job in failed:
        named = str(job.error).startswith(str(job.image))
        print(f"error: {job.error if named else f'{job.image}: {job.error}'}", file=sys.stderr)
    if json_:
        images = [{k: v for k, v in asdict(job).items() if k != "profile"} for job in jobs]
        report = {"seconds": round(seconds, 3), "images": images}
        typer.echo(json.dumps(report, indent=2, default=str))
    else:
        for job in jobs:
            for file in [] if job.error else job.files():
                typer.echo(file)
        print(f"{len(jobs) - len(failed)} of {len(jobs)} in {seconds:.1f} s", file=sys.stderr)
    if failed:
        raise typer.Exit(1)
