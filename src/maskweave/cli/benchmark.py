"""``maskweave benchmark``: a model against floors and baselines, a sweep, and a report."""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskweave.cli.evaluate import (
    Features,
    InceptionFile,
    Lpips,
    Masks,
    NoFid,
    Resize,
    Truth,
    load_meter,
    note_weights,
    print_table,
)
from maskweave.cli.options import Device, Dtype, InvertMask, Json, Model, load_pipeline
from maskweave.errors import MaskweaveError

if TYPE_CHECKING:
    from maskweave.maskgit import DecodeSettings
    from maskweave.report.results import Results
    from maskweave.report.sections import Losses
    from maskweave.report.sweep import Grid

Schedules = Annotated[
    list[str] | None, typer.Option(help="Repeatable; else cosine, linear and square.")
]
NoSweep = Annotated[
    bool, typer.Option("--no-sweep", help="Only the table, with the default settings.")
]
Floats = Annotated[list[float] | None, typer.Option(help="Repeatable; else the model's default.")]


def benchmark(
    truth: Truth,
    masks: Masks,
    output: Annotated[Path, typer.Option(help="Folder for fills, figures and the report.")],
    model: Model = "cats64",
    invert_mask: InvertMask = False,
    schedule: Schedules = None,
    steps: Annotated[list[int] | None, typer.Option(help="T, repeatable; else 15.")] = None,
    temperature: Floats = None,
    token_temperature: Floats = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0, 1, ... of fills and sweep.")] = 3,
    no_sweep: NoSweep = False,
    sweep_images: Annotated[int, typer.Option(min=2, help="Examples in the sweep.")] = 100,
    real: Annotated[
        Path | None, typer.Option(help="Folder of other real images, to compare FID and KID.")
    ] = None,
    logs: Annotated[
        list[Path] | None, typer.Option(help="Training run whose curves are drawn, repeatable.")
    ] = None,
    no_fid: NoFid = False,
    features: Features = 2048,
    resize: Resize = "torch-fidelity",
    inception: InceptionFile = None,
    lpips: Lpips = "squeeze",
    device: Device = "auto",
    dtype: Dtype = "float32",
    json_: Json = False,
) -> None:
    """Fill the holes of true images, measure the fills beside baselines, and write a report.

    The table has the model with its default settings, with expected codes instead of sampled
    tokens, and with the best settings of the sweep. The same command goes on where it was stopped.
    """
    from maskweave.evaluation.benchmark import Benchmark
    from maskweave.evaluation.examples import read_examples
    from maskweave.files import write_json
    from maskweave.report.results import run
    from maskweave.report.sections import write_benchmark_report

    if no_fid and real:
        raise MaskweaveError("--real serves FID and KID alone, which --no-fid leaves out")
    examples = read_examples(truth, masks, invert_mask)
    training = _losses(logs or [])
    pipeline = load_pipeline(model, device, dtype)
    pipeline.set_progress_bar_config(disable=True)  # the benchmark has bars of its own
    grid = _grid(pipeline.defaults, schedule, steps, temperature, token_temperature, sweep_images)
    meter = load_meter(features, resize, inception, no_fid, lpips, device)
    name = Path(model).resolve().name
    benchmark = Benchmark(pipeline, examples, meter, output)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of large holes, which are meant here
        results = run(benchmark, name, seeds, None if no_sweep else grid, real)
        write_json(output / "results.json", results.as_json())
        write_benchmark_report(benchmark, results, name, training)
    if json_:
        typer.echo(json.dumps(results.as_json(), indent=2))
    else:
        _print(results)
        typer.echo(output / "report" / "index.html")
    note_weights(meter)


def _losses(logs: list[Path]) -> "Losses":
    """Read the curves of training runs."""
    from maskweave.report.pictures import read_scalars

    runs = {run.resolve().name: run for run in logs}
    if len(runs) < len(logs):
        raise MaskweaveError("two --logs have folders of the same name: curves need different ones")
    return {name: read_scalars(run) for name, run in runs.items()}


def _grid(
    defaults: "DecodeSettings",
    schedules: list[str] | None,
    steps: list[int] | None,
    temperatures: list[float] | None,
    token_temperatures: list[float] | None,
    images: int,
) -> "Grid":
    """Return what the sweep runs over, if all of it is in range."""
    from maskweave.report.sweep import Grid

    grid = Grid(
        tuple(schedules or Grid.schedules),
        tuple(steps or Grid.steps),
        tuple(temperatures or [defaults.temperature]),
        tuple(token_temperatures or [defaults.token_temperature]),
        images,
    )
    grid.settings(defaults)  # refuses what is out of range before any work
    return grid


def _print(results: "Results") -> None:
    from maskweave.report.tables import methods_table

    rows = [(row.name, row.evaluation) for row in results.rows]
    print_table(methods_table(rows, ("fid", "kid", "lpips", "psnr_hole", "ssim_hole")))
    for text in results.default.evaluation.notes:
        typer.echo(f"note: {text}")
