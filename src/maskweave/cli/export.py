"""``maskweave export``: a model as graphs that OpenVINO or ONNX Runtime run."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from maskweave.cli.options import note_left_out
from maskweave.errors import MaskweaveError

To = Annotated[Literal["openvino", "onnx"], typer.Option(help="What is to run the graphs.")]
Int8 = Annotated[
    bool, typer.Option("--int8", help="Compute in 8 bits: smaller, faster, less exact.")
]
Calibration = Annotated[
    Path | None,
    typer.Option(help="Folder of images of the model's kind, whose fills tell --int8 the ranges."),
]


def export(
    model: Annotated[str, typer.Argument(help="Shipped model, model folder or hub id.")],
    to: To,
    output: Annotated[Path, typer.Option(help="New folder for the exported model.")],
    int8: Int8 = False,
    calibration: Calibration = None,
) -> None:
    """Write a model as graphs, a folder that --model takes like any other.

    It fills by OpenVINO or ONNX Runtime, on the CPU, by the same rules and with the same seeds.
    docs/speed.md tells how fast and how alike.
    """
    from maskweave.export import check_empty, write_model
    from maskweave.formats import list_images

    if int8 != (calibration is not None):
        raise MaskweaveError("--int8 and --calibration go together: give both or neither")
    check_empty(output)
    note_left_out(calibration)
    write_model(model, to, output, list_images(calibration).files if calibration else None)
    typer.echo(output)
