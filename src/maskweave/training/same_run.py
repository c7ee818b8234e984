"""Whether the run in a folder is the one that is asked for, and how far a longer one has come."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from maskweave.errors import MaskweaveError
from maskweave.files import read_json
from maskweave.training.checkpoints import newest, steps_of
from maskweave.training.loop import RunConfig, course_of

HARMLESS = ("workers", "log_every", "save_every", "wandb")
"""Settings of a run that change none of its weights: it may go on with others."""

LENGTH = ("steps", "epochs")
"""Settings with which a run may go on as well, from its last checkpoint, under the new length."""


class Lengths(NamedTuple):
    """How long a run was meant to be, from its first step on."""

    steps: dict[str, int]
    """Steps of the whole run by the step, as JSON has it, from which on that length held."""
    note: str
    """What to tell the user, where the length changes now; else empty."""


def refuse_other(output: Path, recipe: dict[str, Any], usual: dict[str, Any]) -> None:
    """Refuse a folder that holds a model or a run of another recipe, whatever its length.

    ``usual`` is what earlier versions did without settings that they did not have.

    Raises
    ------
    MaskweaveError
        If it does; the message names what differs.
    """
    file = output / "recipe.json"
    if file.exists():
        found = read_json(file)
        free = {name: recipe["run"][name] for name in HARMLESS + LENGTH}
        found["run"] = found.get("run", {}) | free
        # Through JSON and back, so that tuples compare equal to the lists of the file.
        wanted, usual = json.loads(json.dumps([{"init": None} | recipe, usual]))
        if names := differing(found, wanted, usual):
            raise MaskweaveError(
                f"{output} holds a run of another recipe ({file}: not the same "
                f"{', '.join(names)}); name a new folder"
            )
    elif any((output / name).exists() for name in ("config.json", "tokenizer", "transformer")):
        raise MaskweaveError(f"{output} holds a model; name a new folder")


def lengths(output: Path, run: RunConfig, images: int) -> Lengths:
    """Return how long the run in a folder was meant to be, and is from now on.

    Parameters
    ----------
    output : Path
        The run's folder, which need not exist.
    run : RunConfig
        Settings of the run that is asked for, the same but for its length.
    images : int
        How many there are to draw from.

    Raises
    ------
    MaskweaveError
        If the run has done more steps than it is to have.
    """
    file, wanted = output / "recipe.json", course_of(run, images).steps
    if not file.exists():
        return Lengths({"0": wanted}, "")
    found = read_json(file)
    usual = {name: found["run"].get(name, getattr(run, name)) for name in LENGTH}
    before = course_of(replace(run, **usual), images).steps
    so_far: dict[str, int] = found.get("lengths", {"0": before})
    last = newest(output / "checkpoints") if before != wanted else None
    if last is None:
        return Lengths(so_far if before == wanted else {"0": wanted}, "")
    if (done := steps_of(last)) > wanted:
        raise MaskweaveError(
            f"{output} has done {done} of {before} steps, so the run cannot end after {wanted}"
        )
    kept = {start: steps for start, steps in so_far.items() if int(start) < done}
    note = (
        f"the run of {before} steps goes on from step {done} to {wanted}: what is set as a share "
        "of the run, as the decay of the learning rate, follows the new length"
    )
    return Lengths(kept | {str(done): wanted}, note if done else "")


def differing(
    found: dict[str, Any], wanted: dict[str, Any], usual: dict[str, Any] | None = None
) -> list[str]:
    """Return the dotted names of what is not as wanted; what is not found is as usual."""
    names: list[str] = []
    for name, value in wanted.items():
        there = found.get(name, (usual or {}).get(name))
        if isinstance(value, dict) and isinstance(there, dict):
            inner = differing(there, value, (usual or {}).get(name))
            names += [f"{name}.{each}" for each in inner]
        elif there != value:
            names.append(name)
    return names
