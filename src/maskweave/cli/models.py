"""``maskweave models``: what can be used without a download, and for which photos."""

import json

import typer

from maskweave.cli.options import Json


def models(json_: Json = False) -> None:
    """List the models that come with the package and the methods that need none."""
    from maskweave.files import read_json
    from maskweave.models import DOMAIN, METHODS, SHIPPED, shipped_models

    rows = []
    for name in shipped_models():
        folder = SHIPPED / name
        config = read_json(folder / "config.json")
        tokenizer = read_json(folder / "tokenizer" / "config.json")
        weights = sum(file.stat().st_size for file in folder.glob("*/model.safetensors"))
        rows.append(
            {
                "name": name,
                "domain": config["domain"],
                "image_size": tokenizer["image_size"],
                "megabytes": round(weights / 1e6, 1),
                "defaults": config["defaults"],
                "card": str(folder / "README.md"),
            }
        )
    rows += [{"name": name, "domain": DOMAIN, "megabytes": 0} for name in METHODS]
    if json_:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        size = f"{row['megabytes']} MB  {row['card']}" if row["megabytes"] else "no weights"
        typer.echo(f"{row['name']:<13}  {row['domain']:<23}  {size}")
