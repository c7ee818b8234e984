"""``maskweave models``: what can be used without a download."""

import json

import typer

from maskweave.cli.options import Json


def models(json_: Json = False) -> None:
    """List the models that come with the package."""
    from maskweave.checkpoint import SHIPPED, shipped_models
    from maskweave.files import read_json

    rows = []
    for name in shipped_models():
        folder = SHIPPED / name
        tokenizer = read_json(folder / "tokenizer" / "config.json")
        weights = sum(file.stat().st_size for file in folder.glob("*/model.safetensors"))
        rows.append(
            {
                "name": name,
                "image_size": tokenizer["image_size"],
                "megabytes": round(weights / 1e6, 1),
                "defaults": read_json(folder / "config.json")["defaults"],
                "card": str(folder / "README.md"),
            }
        )
    if json_:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        size = row["image_size"]
        typer.echo(f"{row['name']}  {size}x{size}  {row['megabytes']} MB  {row['card']}")
