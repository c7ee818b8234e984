"""``maskweave models``: what can be used without a download, and for which photos."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from maskweave.cli.options import Json
from maskweave.errors import MaskweaveError


def models(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Models, components, or folders of these, instead of what is at hand.",
            metavar="[FOLDER]...",
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """List the models that come with the package, those in the cache, and methods without weights.

    In the cache are checkpoints of other projects that were converted when they were first used.
    Those that maskweave convert has written are listed where their folders are given.
    """
    from maskweave.files import user_cache
    from maskweave.models import CONVERTED, DOMAIN, METHODS, SHIPPED, shipped_models

    if folders:
        rows = [row for folder in folders for row in _rows_in(folder)]
        if not rows:
            raise MaskweaveError(f"no model in {', '.join(map(str, folders))}")
    else:
        rows = [_row(SHIPPED / name, name) for name in shipped_models()]
        kept = user_cache() / CONVERTED
        rows += list(_rows_in(kept)) if kept.is_dir() else []
        rows += [{"name": name, "domain": DOMAIN, "megabytes": 0} for name in METHODS]
    if json_:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        size = f"{row['megabytes']} MB  {row['card']}" if row["megabytes"] else "no weights"
        family = f"{row['family']} ({row['licence']}): {row['parts']}, " if "family" in row else ""
        typer.echo(f"{row['name']:<13}  {row['domain'] or 'unknown':<23}  {family}{size}")


def _rows_in(folder: Path) -> Iterator[dict[str, Any]]:
    """Describe a model or component, or else those in a folder."""
    if not folder.is_dir():
        raise MaskweaveError(f"{folder} is no folder")
    if (folder / "config.json").is_file():
        yield _row(folder, str(folder))
        return
    for each in sorted(folder.iterdir()):
        if not each.name.startswith(".") and (each / "config.json").is_file():
            yield _row(each, str(each))


def _row(folder: Path, name: str) -> dict[str, Any]:
    from maskweave.files import read_json
    from maskweave.models import ORIGIN

    config = read_json(folder / "config.json")
    weights = {*folder.glob("*/model.safetensors"), *folder.glob("model.safetensors")}
    tokenizer = folder / "tokenizer" / "config.json"
    sizes = read_json(tokenizer) if tokenizer.is_file() else config
    row: dict[str, Any] = {
        "name": name,
        "domain": _text(config.get("domain")),
        "image_size": sizes.get("image_size"),
        "megabytes": round(sum(file.stat().st_size for file in weights) / 1e6, 1),
        "defaults": config.get("defaults"),
        "card": str(folder / "README.md"),
    }
    if (folder / ORIGIN).is_file():
        origin = read_json(folder / ORIGIN)
        row |= {key: _text(origin.get(key)) for key in ("family", "project", "licence", "domain")}
        parts = [part for part in ("tokenizer", "transformer") if (folder / part).is_dir()]
        row["parts"] = " and ".join(parts) or _text(config.get("architecture"))
    return row


def _text(value: object) -> str | None:
    """Return what a file says, if it is a line of text."""
    return value if isinstance(value, str) and value.isprintable() else None
