"""A model in a few small files, for machines that give no others back, and made whole again.

    python recipes/shards.py FOLDER MODEL

joins the files of a folder to a model.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import typer
from safetensors.torch import load_file, save

from maskweave.errors import MaskweaveError
from maskweave.files import read_json, write_json, write_whole

COMPONENTS = ("tokenizer", "transformer")

LARGEST = 15 << 20
"""Bytes of the tensors in a file, which has a header besides and is to stay below 16 MiB."""

MOST = 6
"""Files of weights, beside ``model.json`` and a report."""


def split(model: Path, folder: Path) -> None:
    """Write a model, or a tokenizer alone, as ``model.json`` and at most ``MOST`` files of weights.

    Parameters
    ----------
    model : Path
        A model's folder, or that of a run of stage 1.
    folder : Path
        Made if missing; an earlier model in it is replaced. Floating-point weights are written in
        half precision.

    Raises
    ------
    MaskweaveError
        If the weights do not fit, or a file cannot be read or written.
    """
    configs: dict[str, Any] = {}
    shards: list[dict[str, torch.Tensor]] = []
    room = 0
    for component in (name for name in COMPONENTS if (model / name).is_dir()):
        configs[f"{component}/config.json"] = read_json(model / component / "config.json")
        for name, value in load_file(model / component / "model.safetensors").items():
            half = value.half() if value.is_floating_point() else value
            if half.nbytes > room:
                shards.append({})
                room = LARGEST
            room -= half.nbytes
            shards[-1][f"{component}.{name}"] = half
            if room < 0:
                raise MaskweaveError(f"{name} of {half.nbytes} bytes does not fit in one file")
    if len(shards) > MOST:
        raise MaskweaveError(f"{model} needs {len(shards)} files of weights, more than {MOST}")
    if (model / "config.json").exists():
        configs["config.json"] = read_json(model / "config.json")
    for number, tensors in enumerate(shards):
        write_whole(folder / f"weights-{number}.safetensors", save(tensors))
    write_json(folder / "model.json", {"files": len(shards), "configs": configs})
    for file in folder.glob("weights-*.safetensors"):
        if int(file.stem.partition("-")[2]) >= len(shards):  # of a larger model before
            file.unlink()


def join(folder: Path, model: Path) -> None:
    """Write the model that ``split`` has put into a folder to a folder of its own.

    Raises
    ------
    MaskweaveError
        If a file is missing, is not what ``split`` writes, or cannot be written.
    """
    description = read_json(folder / "model.json")
    weights: dict[str, dict[str, torch.Tensor]] = {name: {} for name in COMPONENTS}
    allowed = {"config.json", *(f"{component}/config.json" for component in COMPONENTS)}
    files, configs = description.get("files"), description.get("configs")
    if not (isinstance(files, int) and isinstance(configs, dict) and allowed >= configs.keys()):
        raise MaskweaveError(f"{folder / 'model.json'} does not describe a model")
    for number in range(files):
        file = folder / f"weights-{number}.safetensors"
        if not file.exists():
            raise MaskweaveError(f"{file} is missing")
        for path, value in load_file(file).items():
            component, _, name = path.partition(".")
            if component not in weights:
                raise MaskweaveError(f"{file} holds {path}, which is of no component")
            weights[component][name] = value
    for component, tensors in weights.items():
        if tensors:
            write_whole(model / component / "model.safetensors", save(tensors))
    for name, config in configs.items():
        write_json(model / name, config)


if __name__ == "__main__":
    try:
        typer.run(join)
    except MaskweaveError as error:
        sys.exit(f"error: {error}")
