"""A table of fills, a row for each: what was filled, what has become of it, how to repeat it.

One machine writes it as lines of JSON (``.jsonl``) or as Parquet (``.parquet``), a cluster as a
folder of Parquet files. Parquet needs pyarrow, which the extra ``ray`` installs.
"""

import dataclasses
import hashlib
import json
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from maskweave.call import Pipeline
from maskweave.checkpoint import as_config
from maskweave.errors import MaskweaveError
from maskweave.files import unfinished
from maskweave.maskgit import DecodeSettings
from maskweave.recall import Recipe, made_by
from maskweave.settings import Natural, settings

if TYPE_CHECKING:
    import pyarrow

SUFFIXES = (".jsonl", ".parquet")
"""How manifests are called."""


@settings
class Row:
    """What has become of an image, and what repeats its fill."""

    id: int
    """``identifier`` of the name."""
    name: str
    """Name of the fill's file, without suffix; that of the image, with its number if it has
    several fills."""
    image: str
    """File of the image, or its place in a shard as ``tars`` names it."""
    mask: str | None
    """The same of the mask; null for transparent pixels."""
    output: str
    """Name of the fill's file, with its suffix."""
    status: Literal["done", "there", "failed"]
    """``there`` if a file of this name was there already and was left alone."""
    error: str | None
    """Why it has failed."""
    seed: int | None
    """The seed of this fill, from 0 to 2^63 - 1."""
    sha256: str | None
    """Hash of the fill's file, in hexadecimal digits."""
    seconds: float | None
    """From reading to writing; images that are filled together share this time."""
    invert: bool
    """Whether black is the hole."""
    threshold: int
    """What counts as white in the mask, of 255."""
    grow: Natural
    """Pixels by which the hole was widened."""
    quality: int | None
    """Of a JPEG file; null for the tables of a JPEG image."""
    recipe: str
    """JSON of a ``recall.Recipe`` but for ``seeds`` and ``fill``: the same for a whole run."""

    @property
    def recipe_of_fill(self) -> Recipe:
        """What repeats this fill alone.

        Raises
        ------
        MaskweaveError
            If fields are missing, unknown or out of range.
        """
        try:
            fields = dict(json.loads(self.recipe))
        except (ValueError, TypeError) as error:
            raise MaskweaveError(f"the recipe of {self.name} is no JSON object") from error
        fields |= {"seeds": [self.seed], "fill": 0}
        return as_config(Recipe, fields, Path(f"the recipe of {self.name}"))


def identifier(name: str) -> int:
    """Return a number for a name, the same on every machine and for ever.

    Returns
    -------
    int
        From 0 to 2^63 - 1: the first 63 bits of a SHA-256. Of ten million names two share theirs
        with a probability of 5e-6.
    """
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogatepass")).digest()[:8]) >> 1


def recipe_of(pipeline: Pipeline, model: str, seed: int, decoding: DecodeSettings) -> str:
    """Return what a row tells of how its whole run filled.

    Parameters
    ----------
    pipeline : Pipeline
        What fills.
    model : str
        How the user names it.
    seed : int
        The seed of the run.
    decoding : DecodeSettings
        How tokens are decoded.
    """
    recipe = Recipe(
        model=model,
        **made_by(pipeline)._asdict(),
        seed=seed,
        seeds=[0],
        fill=0,
        decoding=dataclasses.asdict(decoding),
        soften=0,
        version=version("maskweave"),
    )
    return shared(recipe)


def shared(recipe: Recipe) -> str:
    """Return what a row tells of a recipe: all but what the row has itself."""
    fields = dataclasses.asdict(recipe)
    return json.dumps({name: fields[name] for name in fields if name not in ("seeds", "fill")})


def is_manifest(file: Path) -> bool:
    """Return whether a name is that of a manifest."""
    return file.suffix.lower() in SUFFIXES


def schema() -> "pyarrow.Schema":
    """Return the columns as Parquet has them."""
    pyarrow = _pyarrow()
    kinds = {"id": "int64", "seed": "int64", "threshold": "int64", "grow": "int64"}
    kinds |= {"quality": "int64", "seconds": "float64", "invert": "bool"}
    return pyarrow.schema(
        [
            (field.name, pyarrow.type_for_alias(kinds.get(field.name, "string")))
            for field in dataclasses.fields(Row)  # type: ignore[arg-type]
        ]
    )


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Read the rows of any table as they are.

    Parameters
    ----------
    file : Path
        Lines of JSON, a Parquet file, or a folder of them, of which later ones come last.

    Raises
    ------
    MaskweaveError
        If it cannot be read.
    """
    try:
        if file.suffix.lower() == ".jsonl":
            rows = [json.loads(line) for line in file.read_bytes().splitlines() if line.strip()]
            if not all(isinstance(row, dict) for row in rows):
                raise MaskweaveError(f"{file} is no table: a line of it is no JSON object")
            return rows
        parquet = _parquet()
        parts = sorted(file.glob("*.parquet"), key=lambda part: part.stat().st_mtime_ns)
        tables = parts if file.is_dir() else [file]
        return [row for part in tables for row in parquet.ParquetFile(part).read().to_pylist()]
    except MaskweaveError:
        raise
    except OSError as error:
        raise MaskweaveError(f"cannot read {file}: {error.strerror or error}") from error
    except Exception as error:  # pyarrow has its own for broken files
        raise MaskweaveError(f"{file} is no table that can be read: {error}") from error


def read_manifest(file: Path) -> list[Row]:
    """Read a manifest: the latest row of each fill, in the order of the first ones.

    Raises
    ------
    MaskweaveError
        If it cannot be read or is none.
    """
    rows: dict[int, Row] = {}
    try:
        for fields in read_rows(file):
            row = Row(**fields)
            rows[row.id] = row
    except TypeError as error:  # a column is missing or unknown
        raise MaskweaveError(f"{file} is no manifest: {error}") from error
    return list(rows.values())


def write_manifest(file: Path, rows: Iterable[Row]) -> None:
    """Write a manifest, which appears under its name only when whole.

    Raises
    ------
    MaskweaveError
        If it is called neither .jsonl nor .parquet, or cannot be written.
    """
    check_name(file)
    fields = [dataclasses.asdict(row) for row in rows]  # type: ignore[arg-type]
    with unfinished(file) as path:
        if file.suffix.lower() == ".parquet":
            try:
                table = _pyarrow().Table.from_pylist(fields, schema())
            except UnicodeError as error:
                raise MaskweaveError(
                    f"{file}: names of files hold bytes that are no text, which .jsonl can keep"
                ) from error
            _parquet().write_table(table, path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in fields), encoding="ascii")


def check_name(file: Path) -> None:
    """Raise MaskweaveError unless a manifest of this name can be written here."""
    if not is_manifest(file):
        raise MaskweaveError(f"a manifest is called {' or '.join(SUFFIXES)}, got {file}")
    if file.suffix.lower() == ".parquet":
        _parquet()


def merged(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Return rows of two runs.

    Of what the later one only found, what the earlier one has told of the same file stays.
    """
    rows = {row.id: row for row in old}
    for row in new:
        known = rows.get(row.id)
        if row.status != "there" or known is None or known.sha256 != row.sha256:
            rows[row.id] = row
    return list(rows.values())


@contextmanager
def _installed() -> Generator[None]:
    try:
        yield
    except ImportError as error:
        raise MaskweaveError(
            "Parquet needs pyarrow: pip install 'maskweave[ray]'; .jsonl needs nothing"
        ) from error


def _pyarrow() -> Any:
    with _installed():
        import pyarrow
    return pyarrow


def _parquet() -> Any:
    with _installed():
        import pyarrow.parquet
    return pyarrow.parquet
