"""The command line in this process: a run of it, and the one line of its refusal."""

from typer.testing import CliRunner, Result

from maskweave.cli.main import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def fails(result: Result, message: str, code: int = 2) -> None:
    """Expect one line on stderr that says what is wrong."""
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
