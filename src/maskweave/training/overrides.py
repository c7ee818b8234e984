"""Typed overrides of nested configs: ``optimiser.learning_rate=3e-4``."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter

from maskweave.errors import MaskweaveError
from maskweave.settings import readable

Config = TypeVar("Config")


def override(config: Config, assignments: Sequence[str]) -> Config:
    """Return a copy of nested settings with some fields replaced.

    Parameters
    ----------
    config
        Settings, whose leaves are int, float, bool, str or a tuple of one of them.
    assignments : sequence of str
        Each ``field.of.field=value``. Booleans are ``true`` or ``false``; the items of a tuple are
        separated by commas, and nothing behind ``=`` is the empty tuple.

    Raises
    ------
    MaskweaveError
        If a field is unknown, a value does not have the field's type, or the config refuses it.
    """
    values = dataclasses.asdict(cast(Any, config))
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise MaskweaveError(f"{assignment!r} is not of the form field=value")
        *parents, name = path.strip().split(".")
        holder = values
        for parent in parents:
            holder = _field(holder, parent, assignment)
        old = _field(holder, name, assignment)
        if isinstance(old, dict):
            raise MaskweaveError(f"{assignment}: {name!r} holds fields, not a value")
        items = tuple(item.strip() for item in text.split(",") if item.strip())
        holder[name] = items if isinstance(old, tuple) else text.strip()
    with readable():
        return TypeAdapter(type(config)).validate_python(values, strict=False)


def _field(holder: Any, name: str, assignment: str) -> Any:
    if not isinstance(holder, dict):
        raise MaskweaveError(f"{assignment}: nothing holds a field {name!r}")
    if name not in holder:
        raise MaskweaveError(f"{assignment}: no field {name!r}; there are {', '.join(holder)}")
    return holder[name]


def pick(presets: dict[str, Config], name: str) -> Config:
    """Return the preset of this name, or say which there are."""
    if name not in presets:
        raise MaskweaveError(f"unknown preset {name!r}; known are {', '.join(presets)}")
    return presets[name]
