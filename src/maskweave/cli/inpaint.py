"""``maskweave inpaint``: fill the holes of one image or of a folder of images."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from maskweave.cli.fills import Asked, do, reported
from maskweave.cli.jobs import Job, check_names, leave_finished, name_steps, plan
from maskweave.cli.options import (
    Device,
    Dtype,
    InvertMask,
    Json,
    ModelOrMethod,
    Overwrite,
    Seed,
    load_pipeline,
)
from maskweave.cli.repeat import Again, repeat
from maskweave.errors import MaskweaveError
from maskweave.files import tried

WITH_FROM = {"from_", "image", "output", "mask", "model", "device", "overwrite"}
"""Options that go with --from; the others are told by the file."""

Image = Annotated[Path, typer.Argument(help="An image, or a folder of images.")]
Output = Annotated[
    str,
    typer.Option(
        help="Image to write, or a folder: one that is there, ends in a slash, or has no suffix of "
        "an image.",
        metavar="PATH",
    ),
]
Mask = Annotated[
    Path | None,
    typer.Option(
        help="Mask image, white in the hole: one for all images, or a folder that has one of "
        "the same stem for each. Without it transparent pixels are the hole."
    ),
]
Steps = Annotated[int | None, typer.Option(help="Decoding steps T.")]
Schedule = Annotated[str | None, typer.Option(help="linear, cosine, square, arccos.")]
Order = Annotated[
    str | None, typer.Option(help="What is kept first: confidence, probability, random, halton.")
]
Paint = Annotated[
    str | None,
    typer.Option(
        help="sampled: lively, each fill is another. expected: one pass, one faithful answer."
    ),
]
Temperature = Annotated[float | None, typer.Option(help="Scale of the noise in the order.")]
TokenTemperature = Annotated[
    float | None,
    typer.Option(help="Tokens are sampled at this temperature; 0 takes the likeliest."),
]
StopAfter = Annotated[int | None, typer.Option(help="Run only t of the T steps.")]
Samples = Annotated[int, typer.Option(min=1, help="Different fills of each image.")]
Threshold = Annotated[
    int, typer.Option(min=1, max=255, help="What counts as white in a mask, of 255.")
]
Grow = Annotated[int, typer.Option(min=0, help="Pixels by which the hole is widened.")]
SaveSteps = Annotated[
    bool, typer.Option("--save-steps", help="Write a picture after each step as well.")
]
Format = Annotated[
    str | None, typer.Option("--format", help="Of files in a folder: png, tiff, webp, jpg, ...")
]
Quality = Annotated[
    int | None,
    typer.Option(min=1, max=100, help="Of JPEG files; without it as the image's own, or 95."),
]
SkipExisting = Annotated[
    bool, typer.Option("--skip-existing", help="Leave out images whose fills are there.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Crops or windows filled at once.")]
Memory = Annotated[
    int | None,
    typer.Option(min=1, help="Megabytes that photos may take at once; 500 if not given."),
]

From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="Repeat the fill of this PNG file, which the page has made: model, seeds and "
        "settings come from it.",
        metavar="FILE",
    ),
]


def inpaint(
    ctx: typer.Context,
    image: Image,
    output: Output,
    mask: Mask = None,
    from_: From = None,
    model: ModelOrMethod = "cats64",
    steps: Steps = None,
    schedule: Schedule = None,
    order: Order = None,
    paint: Paint = None,
    temperature: Temperature = None,
    token_temperature: TokenTemperature = None,
    stop_after: StopAfter = None,
    num_samples: Samples = 1,
    seed: Seed = 0,
    invert_mask: InvertMask = False,
    threshold: Threshold = 128,
    grow: Grow = 0,
    save_steps: SaveSteps = False,
    format_: Format = None,
    quality: Quality = None,
    batch_size: BatchSize = 16,
    memory: Memory = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    json_: Json = False,
) -> None:
    """Fill the holes of an image or of a folder of images; all other pixels stay as they are.

    Exit codes: 0 if all is done; 1 if images of a folder failed, which are reported at the end; 2
    if nothing can be done, or no more because the output cannot be written; 130 after Ctrl-C and
    143 after SIGTERM. What was written by then is whole, and --skip-existing goes on from there.
    """
    if from_ is not None:
        given = _given(ctx)
        if beside := sorted(given.keys() - WITH_FROM):
            raise MaskweaveError(f"--from tells {given[beside[0]]} itself")
        named = model if "model" in given else None
        repeat(Again(from_, image, mask, Path(output), named, device, overwrite))
        return
    if overwrite and skip_existing:
        raise MaskweaveError("--overwrite and --skip-existing exclude each other")
    jobs: list[Job] = []
    with reported(jobs, json_, goes_on=not overwrite):
        planned, notes = plan(image, mask, output, num_samples, format_, quality)
        jobs += planned
        if skip_existing:
            leave_finished(jobs)
        check_names(jobs, overwrite, skip_existing)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        if not any(job.state == "left" for job in jobs):
            return
        with tried(jobs[0].outputs[0].parent):
            pipeline = load_pipeline(model, device, dtype)
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
                name_steps(jobs, settings.last_step)
            check_names(jobs, overwrite, skip_existing)
            asked = Asked(
                *(seed, invert_mask, threshold, grow, quality, batch_size, memory),
                replace=overwrite,
                leave=skip_existing,
            )
            do(jobs, pipeline, settings, asked)


def _given(ctx: typer.Context) -> dict[str, str]:
    """Return which options were given, and how they are called."""
    found: dict[str, str] = {}
    for each in ctx.command.params:
        source = ctx.get_parameter_source(each.name or "")
        if each.name and source is not None and source.name == "COMMANDLINE":
            found[each.name] = each.opts[0]
    return found
