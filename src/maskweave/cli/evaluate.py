"""``maskweave evaluate``: figures of a folder of filled images against the truth."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from maskweave.cli.inpaint import Grow, Threshold
from maskweave.cli.options import Device, InvertMask, Json, choose_device, note_left_out, one_line

if TYPE_CHECKING:
    from maskweave.evaluation.evaluate import Meter
    from maskweave.report.tables import Table

Truth = Annotated[Path, typer.Option(help="Folder of the true images.")]
Masks = Annotated[Path, typer.Option(help="Folder of the masks, white in the hole.")]
Features = Annotated[int, typer.Option(help="Inception features: 64, 192, 768 or 2048.")]
Resize = Annotated[str, typer.Option(help="Before Inception: torch-fidelity or pytorch-fid.")]
InceptionFile = Annotated[
    Path | None, typer.Option("--inception", help="Inception weights; else from TORCH_HOME.")
]
NoFid = Annotated[
    bool, typer.Option("--no-fid", help="Leave out FID and KID: needs no Inception weights.")
]
Lpips = Annotated[str, typer.Option(help="Network of LPIPS: squeeze, alex or vgg.")]


def evaluate(
    results: Annotated[Path, typer.Argument(help="Folder of filled images, of any program.")],
    truth: Truth,
    masks: Masks,
    invert_mask: InvertMask = False,
    threshold: Threshold = 128,
    grow: Grow = 0,
    no_fid: NoFid = False,
    features: Features = 2048,
    resize: Resize = "torch-fidelity",
    inception: InceptionFile = None,
    lpips: Lpips = "squeeze",
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Measure filled images against the truth: FID, KID, LPIPS, PSNR, SSIM and known pixels.

    Results, true images and masks pair by their names without suffix. Of several samples of each
    image, named NAME_1, NAME_2, ..., the figures are means.
    """
    from maskweave.evaluation.evaluate import score_run, summarise, truth_features
    from maskweave.evaluation.examples import read_examples, read_runs
    from maskweave.progress import progress
    from maskweave.report.tables import evaluation_table, share_table

    examples = read_examples(truth, masks, invert_mask, threshold, grow)
    runs = read_runs(results, examples.truth)  # refuses other names before networks are loaded
    note_left_out(results, truth, masks)
    meter = load_meter(features, resize, inception, no_fid, lpips, device)
    with progress((len(runs) + bool(meter.inception)) * len(examples)) as advance:
        scores = [score_run(run, examples, meter, advance) for run in runs]
        known = truth_features(examples, meter, advance)
    evaluation = summarise(scores, known, meter, "samples")
    if json_:
        typer.echo(json.dumps(evaluation.as_json(), indent=2))
    else:
        print_table(evaluation_table(evaluation))
        print_table(share_table(evaluation))
        for text in evaluation.notes:
            typer.echo(f"note: {text}")
    note_weights(meter)


def load_meter(
    features: int, resize: str, inception: Path | None, no_fid: bool, lpips: str, device: str
) -> "Meter":
    """Load the networks behind the figures; tell if Inception's weights are missing."""
    from maskweave.evaluation.evaluate import Meter
    from maskweave.evaluation.inception import Inception, MissingWeightsError

    network = None
    try:
        network = None if no_fid else Inception(features, cast(Any, resize), inception)
    except MissingWeightsError as error:
        print(f"note: FID and KID are left out: {one_line(str(error))}", file=sys.stderr)
    return Meter(network, cast(Any, lpips), choose_device(device))


def note_weights(meter: "Meter") -> None:
    """Tell, on stderr, of Inception weights that are not the published ones."""
    from maskweave.evaluation.inception import PUBLISHED

    if meter.inception and not meter.inception.published:
        print(
            f"note: the Inception weights have SHA-256 {meter.inception.sha256[:8]}..., which is "
            f"not that of {PUBLISHED}: FID and KID compare only with figures from the same weights",
            file=sys.stderr,
        )


def print_table(table: "Table") -> None:
    """Print a table; what is no terminal gets lines of any length."""
    rich_table = RichTable(*table.head, box=SIMPLE)
    for row in table.rows:
        rich_table.add_row(*map(Text, row))  # names of models are no markup
    Console(width=None if sys.stdout.isatty() else 250).print(rich_table)
