"""``maskweave data``: look at images before training on them."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskweave.cli.options import Json, note_left_out, one_line

if TYPE_CHECKING:
    from maskweave.data.check import Report

SHOWN = 20
"""Groups of copies that are printed."""

data_app = typer.Typer(help="Look at images before training on them.")


@data_app.command()
def check(
    directory: Annotated[
        Path,
        typer.Argument(
            help="Folder of images, searched recursively. Its folders train, val and test, if it "
            "has several such, are its splits."
        ),
    ],
    against: Annotated[
        list[Path] | None, typer.Option(help="Folder that is a further split; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Name of files or folders to leave out, as in 'mask*'; repeatable."),
    ] = None,
    validation_share: Annotated[
        float,
        typer.Option(min=0, max=1, help="Split by content, if there are no folders to compare."),
    ] = 0.05,
    size: Annotated[int, typer.Option(min=0, help="Count images with a side below it.")] = 0,
    json_: Json = False,
) -> None:
    """Report broken files, sizes, byte copies and near copies, above all those across splits.

    The exit code is 1 if a file cannot be read or copies lie in different splits.
    """
    from maskweave.data.check import find_splits, read_entries, summarise
    from maskweave.progress import progress

    splits = find_splits(directory, against or [], exclude or [])
    note_left_out(directory, *(against or []), deep=True)
    with progress(sum(map(len, splits.values()))) as advance:
        entries, unreadable = read_entries(splits, validation_share, advance)
    with progress(len(entries)) as advance:
        report = summarise(entries, unreadable, size, advance)
    if json_:
        typer.echo(json.dumps({"clean": report.clean, **asdict(report)}, indent=2))
    else:
        _print(report, size)
    if not report.clean:
        raise typer.Exit(1)


def _print(report: "Report", size: int) -> None:
    from maskweave.data.check import crosses

    def counts(numbers: dict[str, int]) -> str:
        return ", ".join(f"{name} {number}" for name, number in numbers.items())

    sizes = [f"{name} {width}x{height}" for name, (width, height) in report.sizes.items()]
    kinds = {"byte copies": report.byte_copies, "near copies": report.near_copies}
    crossing = {kind: [g for g in groups if crosses(g)] for kind, groups in kinds.items()}
    lines = {
        "images": f"{sum(report.splits.values())} ({counts(report.splits)})",
        "unreadable": str(len(report.unreadable)),
        "shorter side": ", ".join(sizes) + (f"; {report.smaller} below {size}" if size else ""),
        "formats": counts(report.formats),
        "modes": counts(report.modes),
    }
    for kind, groups in kinds.items():
        lines[kind] = f"{len(groups)} groups, {len(crossing[kind])} of them across splits"
    for name, line in lines.items():
        typer.echo(f"{name:<14}{line}")
    for reason in report.unreadable.values():
        typer.echo(f"\nunreadable: {one_line(reason)}")
    for kind, groups in crossing.items():
        for group in groups[:SHOWN]:
            typer.echo(f"\n{kind} across splits:")
            for split, files in group.items():
                for file in files:
                    typer.echo(f"  {split}  {file}")
        if len(groups) > SHOWN:
            typer.echo(f"\n... and {len(groups) - SHOWN} more groups; --json lists all")
