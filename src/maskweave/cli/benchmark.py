"""``maskweave benchmark``: a model against floors and baselines, a sweep, and a report."""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskweave.cli.evaluate import (
    Features,
    InceptionFile,
    Lpips,
    NoFid,
    Resize,
    Truth,
    load_meter,
    note_weights,
    print_table,
)
from maskweave.cli.inpaint import Grow, Threshold
from maskweave.cli.options import (
    Backend,
    Device,
    Dtype,
    InvertMask,
    Json,
    Model,
    load_model,
    note_left_out,
)
from maskweave.errors import MaskweaveError
from maskweave.models import DEFAULT_MODEL

if TYPE_CHECKING:
    from maskweave.cli.holes import Wanted
    from maskweave.maskgit import DecodeSettings
    from maskweave.report.results import Results
    from maskweave.report.sections import Losses
    from maskweave.report.sweep import Grid

SHOWN = ("fid", "kid", "lpips", "psnr_hole", "ssim_hole", "lattice")
"""Figures that are printed; the report has all."""

Schedules = Annotated[
    list[str] | None, typer.Option(help="Repeatable; else cosine, linear and square.")
]
NoSweep = Annotated[
    bool, typer.Option("--no-sweep", help="Only the table, with the default settings.")
]
Floats = Annotated[list[float] | None, typer.Option(help="Repeatable; else the model's default.")]


def benchmark(
    truth: Truth,
    output: Annotated[Path, typer.Option(help="Folder for fills, figures and the report.")],
    masks: Annotated[Path | None, typer.Option(help="Folder of the masks.")] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Draw such holes, as `maskweave holes` does, instead; repeatable."),
    ] = None,
    model: Model = DEFAULT_MODEL,
    invert_mask: InvertMask = False,
    threshold: Threshold = 128,
    grow: Grow = 0,
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
    backend: Backend = None,
    json_: Json = False,
) -> None:
    """Fill the holes of true images, measure the fills beside baselines, and write a report.

    The table has the model with its default settings, with expected codes instead of sampled
    tokens, and with the best settings of the sweep. The same command goes on where it was stopped,
    and for another model it fills by that model alone. Each --kind has a table and a folder of its
    own, without a sweep.
    """
    from maskweave.evaluation.benchmark import Benchmark
    from maskweave.evaluation.examples import read_examples
    from maskweave.files import write_json
    from maskweave.report.results import run
    from maskweave.report.sections import write_benchmark_report

    if no_fid and real:
        raise MaskweaveError("--real serves FID and KID alone, which --no-fid leaves out")
    masks_read = (invert_mask, threshold, grow)
    swept = schedule or steps or temperature or token_temperature
    if kind and (masks_read != (False, 128, 0) or swept):
        raise MaskweaveError("--kind draws its own masks and sweeps over no settings")
    places, wanted = _places(truth, masks, kind or [], output)
    note_left_out(truth, masks, real)
    training = _losses(logs or [])
    pipeline = load_model(model, device, dtype, backend)
    pipeline.set_progress_bar_config(disable=True)  # the benchmark has bars of its own
    grid = _grid(pipeline.defaults, schedule, steps, temperature, token_temperature, sweep_images)
    meter = load_meter(features, resize, inception, no_fid, lpips, device)
    name = Path(model).resolve().name
    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of large holes, which are meant here
        for drawn, folder in places.items():
            if drawn:
                _draw(wanted, drawn, folder / "masks")
            examples = read_examples(truth, masks or folder / "masks", *masks_read)
            benchmark = Benchmark(pipeline, examples, meter, folder)
            results = run(benchmark, name, seeds, None if no_sweep or drawn else grid, real)
            found[drawn] = results.as_json()
            write_json(folder / "results.json", found[drawn])
            write_benchmark_report(benchmark, results, name, training)
            if not json_:
                _print(results, drawn)
                typer.echo(folder / "report" / "index.html")
    if kind:
        write_json(output / "results.json", found)
    if json_:
        typer.echo(json.dumps(found if kind else found[""], indent=2))
    note_weights(meter)


def _places(
    truth: Path, masks: Path | None, kinds: list[str], output: Path
) -> "tuple[dict[str, Path], list[Wanted]]":
    """Return the folder of each kind of holes, of given masks that of "", and what is to be drawn.

    What is wrong with the files is found here, before a model is loaded.
    """
    from maskweave.cli.holes import sizes_of
    from maskweave.evaluation.examples import read_examples, true_images
    from maskweave.holes import check_kinds

    if bool(kinds) == bool(masks):
        raise MaskweaveError("a benchmark needs either --masks or --kind, the holes to draw")
    if masks:
        read_examples(truth, masks)
        return {"": output}, []
    check_kinds(kinds)
    true_images(truth)
    return {kind: output / kind for kind in kinds}, sizes_of(truth)


def _draw(wanted: "list[Wanted]", kind: str, output: Path) -> None:
    """Draw the masks that ``maskweave holes --seed 0`` draws, unless they are all there."""
    from maskweave.cli.holes import draw

    if not all((output / f"{each.stem}.png").exists() for each in wanted):
        draw(wanted, kind, 0, output)


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


def _print(results: "Results", kind: str) -> None:
    """Print the table of given masks, or of a kind of holes."""
    from maskweave.report.tables import compared_table

    if kind:
        typer.echo(f"{kind}:")
    rows = [(row.name, row.evaluation) for row in results.rows]
    ours, classical = ([row.name for row in each] for each in (results.ours, results.classical))
    print_table(compared_table(rows, ours, classical, SHOWN))
    typer.echo("in brackets: beside the best classical method, as a share (x) or a difference")
    for text in results.default.evaluation.notes:
        typer.echo(f"note: {text}")
