"""``maskweave inpaint``: fill the holes of one image or of a folder of images."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from maskweave.cli.cluster import Cluster, do_on_cluster
from maskweave.cli.fills import Asked, do, reported
from maskweave.cli.jobs import Job, check_names, leave_finished, name_steps, plan
from maskweave.cli.options import (
    Backend,
    Device,
    Dtype,
    InvertMask,
    Json,
    ModelOrMethod,
    Overwrite,
    Seed,
    load_pipeline,
)
from maskweave.cli.records import check_manifest, recorded
from maskweave.cli.repeat import Again, repeat
from maskweave.cli.replay import Replay, replay
from maskweave.errors import MaskweaveError
from maskweave.files import tried
from maskweave.models import DEFAULT_MODEL, shipped_models

WITH_FROM = {"from_", "image", "output", "mask", "model", "device", "overwrite"}
"""Options that go with --from; the others are told by the file."""

WITH_REPLAY = {"replay_", "output", "model", "device", "batch_size", "memory", "overwrite", "json_"}
"""Options that go with --replay."""

Image = Annotated[
    Path | None,
    typer.Argument(
        help="An image; a folder of images; shards: one, a folder of them, or "
        "'photos-{000..003}.tar'; or a table (.parquet, .jsonl) with a column image.",
        show_default=False,
    ),
]
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
Context = Annotated[
    float | None,
    typer.Option(
        help="Share of a window or crop on each side of what is filled from it, 0 to 0.45."
    ),
]
Levels = Annotated[
    int | None,
    typer.Option(help="Coarser levels at most, for thick holes; 0: native pixels alone."),
]
Temperature = Annotated[float | None, typer.Option(help="Scale of the noise in the order.")]
TokenTemperature = Annotated[
    float | None,
    typer.Option(help="Tokens are sampled at this temperature; 0 takes the likeliest."),
]
StopAfter = Annotated[int | None, typer.Option(help="Run only t of the T steps.")]
Label = Annotated[
    str | None,
    typer.Option(help="What the image shows: a name or a number of the model's labels."),
]
Prompt = Annotated[
    str | None, typer.Option(help="What the image shows, in words, for models of text.")
]
Guidance = Annotated[
    float | None,
    typer.Option(help="How much more than the model itself --label or --prompt decide; 1 is none."),
]
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

Manifest = Annotated[
    Path | None,
    typer.Option(
        help="Table to write, a row for each fill: .jsonl, or .parquet with the extra ray.",
        metavar="FILE",
    ),
]
ReplayOf = Annotated[
    Path | None,
    typer.Option(
        "--replay",
        help="Repeat all fills of a manifest and tell which differ; needs no image.",
        metavar="MANIFEST",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        help="Fill with Ray Data: on this machine, or on the cluster at an address (auto, "
        "host:port).",
        metavar="[ADDRESS]",
    ),
]


def inpaint(
    ctx: typer.Context,
    output: Output,
    image: Image = None,
    mask: Mask = None,
    from_: From = None,
    manifest: Manifest = None,
    replay_: ReplayOf = None,
    ray: Ray = None,
    model: ModelOrMethod = DEFAULT_MODEL,
    steps: Steps = None,
    schedule: Schedule = None,
    order: Order = None,
    paint: Paint = None,
    context: Context = None,
    levels: Levels = None,
    temperature: Temperature = None,
    token_temperature: TokenTemperature = None,
    stop_after: StopAfter = None,
    label: Label = None,
    prompt: Prompt = None,
    guidance: Guidance = None,
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
    backend: Backend = None,
    overwrite: Overwrite = False,
    skip_existing: SkipExisting = False,
    json_: Json = False,
) -> None:
    """Fill the holes of an image or of a folder of images; all other pixels stay as they are.

    Exit codes: 0 if all is done; 1 if images of a folder failed, which are reported at the end; 2
    if nothing can be done, or no more because the output cannot be written; 130 after Ctrl-C and
    143 after SIGTERM. What was written by then is whole, and --skip-existing goes on from there.
    """
    given = _given(ctx)
    named = model if "model" in given else None
    if replay_ is not None:
        _refuse_beside(given, WITH_REPLAY, "--replay")
        parts = (named, device, batch_size, memory, overwrite, json_)
        replay(Replay(replay_, Path(output), *parts))
        return
    if image is None:
        raise MaskweaveError("name an image, or a folder of images")
    if from_ is not None:
        _refuse_beside(given, WITH_FROM, "--from")
        repeat(Again(from_, image, mask, Path(output), named, device, overwrite))
        return
    if overwrite and skip_existing:
        raise MaskweaveError("--overwrite and --skip-existing exclude each other")
    if ray is not None and save_steps:
        raise MaskweaveError("--ray writes no pictures of steps")
    if manifest is not None:
        check_manifest(manifest, overwrite or skip_existing, ray is not None)
    jobs: list[Job] = []
    with reported(jobs, json_, goes_on=not overwrite):
        planned, notes = plan(image, mask, output, num_samples, format_, quality)
        jobs += planned
        if skip_existing:
            leave_finished(jobs)
        check_names(jobs, overwrite, skip_existing)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        if ray is manifest is None and not any(job.state == "left" for job in jobs):
            return
        with tried(jobs[0].outputs[0].parent):
            pipeline = load_pipeline(model, device if ray is None else "cpu", dtype, backend)
            decoding = {
                "steps": steps,
                "schedule": schedule,
                "order": order,
                "paint": paint,
                "context": context,
                "levels": levels,
                "temperature": temperature,
                "token_temperature": token_temperature,
                "stop_after": stop_after,
                "label": label,
                "prompt": prompt,
                "guidance_scale": guidance,
            }
            settings = pipeline.settings(**decoding)
            if save_steps:
                name_steps(jobs, settings.last_step)
            check_names(jobs, overwrite, skip_existing)
            asked = Asked(
                *(seed, invert_mask, threshold, grow, quality, batch_size, memory),
                replace=overwrite,
                leave=skip_existing,
            )
            if ray is not None:
                load = partial(load_pipeline, _absolute(model), device, dtype, backend)
                table = manifest or jobs[0].outputs[0].parent / "manifest.parquet"
                do_on_cluster(jobs, Cluster(ray, model, load, device, decoding, table), asked)
                return
            with recorded(manifest, jobs, pipeline, model, settings, asked):
                do(jobs, pipeline, settings, asked)


def _refuse_beside(given: dict[str, str], may: set[str], option: str) -> None:
    """Raise MaskweaveError if an option is given that another tells."""
    if beside := sorted(given.keys() - may):
        raise MaskweaveError(f"{option} tells {given[beside[0]]} itself")


def _absolute(model: str) -> str:
    """Return a model's name as it is known elsewhere: folders from the root."""
    folder = model not in shipped_models() and Path(model).is_dir()
    return str(Path(model).absolute()) if folder else model


def _given(ctx: typer.Context) -> dict[str, str]:
    """Return which options were given, and how they are called."""
    found: dict[str, str] = {}
    for each in ctx.command.params:
        source = ctx.get_parameter_source(each.name or "")
        if each.name and source is not None and source.name == "COMMANDLINE":
            found[each.name] = each.opts[0]
    return found
