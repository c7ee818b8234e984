"""Typed overrides of nested configs: ``optimiser.learning_rate=3e-4``."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from maskweave.errors import MaskweaveError

Config = TypeVar("Config")


def override(config: Config, assignments: Sequence[str]) -> Config:
    """Return a copy of a nested frozen dataclass with some fields replaced.

    Parameters
    ----------
    config : dataclass
        Its leaves are int, float, bool, str or a tuple of one of them.
    assignments : sequence of str
        Each ``field.of.field=value``. Booleans are ``true`` or ``false``; the items of a tuple are
        separated by commas, and nothing behind ``=`` is the empty tuple.

    Raises
    ------
    MaskweaveError
        If a field is unknown, a value does not have the field's type, or the config refuses it.
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise MaskweaveError(f"{assignment!r} is not of the form field=value")
        *parents, name = path.strip().split(".")
        holder, here = config, changes
        for parent in parents:
            holder, here = _field(holder, parent, assignment), here.setdefault(parent, {})
        if dataclasses.is_dataclass(_field(holder, name, assignment)):
            raise MaskweaveError(f"{assignment}: {name!r} holds fields, not a value")
        here[name] = _parse(text.strip(), get_type_hints(type(holder))[name], assignment)
    return _replace(config, changes)


def _field(config: Any, name: str, assignment: str) -> Any:
    if not dataclasses.is_dataclass(config):
        raise MaskweaveError(f"{assignment}: nothing holds a field {name!r}")
    names = [field.name for field in dataclasses.fields(config)]
    if name not in names:
        raise MaskweaveError(f"{assignment}: no field {name!r}; there are {', '.join(names)}")
    return getattr(config, name)


def _replace(config: Any, changes: dict[str, Any]) -> Any:
    """Replace all fields at once: a config checks them together."""
    values = {
        name: _replace(getattr(config, name), value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return dataclasses.replace(config, **values)


def _parse(text: str, kind: Any, assignment: str) -> Any:
    if get_origin(kind) is tuple:
        items = [item.strip() for item in text.split(",") if item.strip()]
        return tuple(_parse(item, get_args(kind)[0], assignment) for item in items)
    if kind is bool:
        if text not in ("true", "false"):
            raise MaskweaveError(f"{assignment}: {text!r} is neither true nor false")
        return text == "true"
    try:
        return kind(text)
    except ValueError as error:
        raise MaskweaveError(f"{assignment}: {text!r} is not of type {kind.__name__}") from error


def pick(presets: dict[str, Config], name: str) -> Config:
    """Return the preset of this name, or say which there are."""
    if name not in presets:
        raise MaskweaveError(f"unknown preset {name!r}; known are {', '.join(presets)}")
    return presets[name]
