"""``maskweave benchmark``: a model against floors and baselines, a sweep, and a report."""

import json
import warnings
from pathlib import Path
from typing import Annotated

import typer

from maskweave.cli.evaluate import (
    Features,
    InceptionFile,
    Lpips,
    Masks,
    Resize,
    Truth,
    load_meter,
    note_weights,
    print_table,
)
from maskweave.cli.options import Device, Dtype, InvertMask, Json, Model, load_pipeline
from maskweave.errors import MaskweaveError

Floats = Annotated[list[float] | None, typer.Option(help="Repeatable; else the model's default.")]


def benchmark(
    truth: Truth,
    masks: Masks,
    output: Annotated[Path, typer.Option(help="Folder for fills, figures and the report.")],
    model: Model = "cats64",
    invert_mask: InvertMask = False,
    schedule: Annotated[
        list[str] | None, typer.Option(help="Repeatable; else cosine, linear and square.")
    ] = None,
    steps: Annotated[list[int] | None, typer.Option(help="T, repeatable; else 15.")] = None,
    temperature: Floats = None,
    token_temperature: Floats = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0, 1, ... of fills and sweep.")] = 3,
    sweep_images: Annotated[int, typer.Option(min=2, help="Examples in the sweep.")] = 100,
    real: Annotated[
        Path | None, typer.Option(help="Folder of other real images, to compare FID and KID.")
    ] = None,
    logs: Annotated[
        list[Path] | None, typer.Option(help="Training run whose curves are drawn, repeatable.")
    ] = None,
    features: Features = 2048,
    resize: Resize = "torch-fidelity",
    inception: InceptionFile = None,
    lpips: Lpips = "squeeze",
    device: Device = "auto",
    dtype: Dtype = "float32",
    json_: Json = False,
) -> None:
    """Fill the holes of true images, measure the fills beside baselines, and write a report.

    The table has the model with its default settings and with the best ones of the sweep. The same
    command goes on where it was stopped.
    """
    from maskweave.evaluation.benchmark import Benchmark
    from maskweave.evaluation.examples import read_examples
    from maskweave.evaluation.pictures import read_scalars
    from maskweave.evaluation.sections import write_benchmark_report
    from maskweave.evaluation.sweep import Grid
    from maskweave.evaluation.tables import methods_table
    from maskweave.files import write_json

    examples = read_examples(truth, masks, invert_mask)
    runs = {run.resolve().name: run for run in logs or []}
    if len(runs) < len(logs or []):
        raise MaskweaveError("two --logs have folders of the same name: curves need different ones")
    training = {name: read_scalars(run) for name, run in runs.items()}
    pipeline = load_pipeline(model, device, dtype)
    grid = Grid(
        tuple(schedule or Grid.schedules),
        tuple(steps or Grid.steps),
        tuple(temperature or [pipeline.defaults.temperature]),
        tuple(token_temperature or [pipeline.defaults.token_temperature]),
        seeds,
        sweep_images,
    )
    grid.settings(pipeline.defaults)  # refuses what is out of range before any work
    meter = load_meter(features, resize, inception, lpips, device)
    name = Path(model).resolve().name
    benchmark = Benchmark(pipeline, examples, meter, output)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of large holes, which are meant here
        results = benchmark.run(name, grid, real)
        write_json(output / "results.json", results.as_json())
        write_benchmark_report(benchmark, results, name, training)
    if json_:
        typer.echo(json.dumps(results.as_json(), indent=2))
    else:
        rows = [(row.name, row.evaluation) for row in results.rows]
        print_table(methods_table(rows, ("fid", "kid", "lpips", "psnr_hole", "ssim_hole")))
        typer.echo(output / "report" / "index.html")
    note_weights(meter)
