"""``maskweave``, the command line. A command imports torch only when it runs."""

import io
import sys
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from maskweave import __version__
from maskweave.cli.benchmark import benchmark
from maskweave.cli.cluster import OptionalAddress
from maskweave.cli.convert import convert
from maskweave.cli.data import data_app
from maskweave.cli.demo import demo
from maskweave.cli.evaluate import evaluate
from maskweave.cli.export import export
from maskweave.cli.holes import holes
from maskweave.cli.inpaint import inpaint
from maskweave.cli.models import models
from maskweave.cli.options import one_line
from maskweave.cli.train import train_app
from maskweave.cli.web import web
from maskweave.errors import MaskweaveError

# What Typer finds wrong with options; it has no public name for it.
UsageError = cast(type[Exception], typer.BadParameter.__base__)


class Commands(TyperGroup):
    """Turns a mistake in the input into one line on stderr and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (MaskweaveError, OSError) as error:
            message = str(error)
        except UsageError as error:
            message = cast(typer.BadParameter, error).format_message()
        print("error:", one_line(message), file=sys.stderr)
        raise typer.Exit(2)


app = typer.Typer(
    cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False
)
app.command(cls=OptionalAddress)(inpaint)
app.command()(demo)
app.command()(holes)
app.command()(models)
app.command()(web)
app.command()(evaluate)
app.command()(benchmark)
app.command()(export)
app.command()(convert)
app.add_typer(train_app, name="train")
app.add_typer(data_app, name="data")


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def maskweave(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fill holes in images with a masked generative transformer."""


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names of files may hold what the terminal has no letters for.
            stream.reconfigure(errors="backslashreplace")
    app()
