"""Frozen dataclasses of settings, whose fields pydantic checks: types, ranges, unknown names."""

import inspect
import reprlib
from collections.abc import Generator
from contextlib import contextmanager
from functools import wraps
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from maskweave.errors import MaskweaveError

Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Blocks = Annotated[int, Field(ge=0, le=1000)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]

Kind = TypeVar("Kind")


@dataclass_transform(frozen_default=True)
def settings(kind: type[Kind]) -> type[Kind]:
    """Make a frozen dataclass that raises MaskweaveError for fields that do not fit their types.

    An int is taken for a float, and nothing else is converted; floats are finite.
    """
    strict = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    checked: Any = dataclass(frozen=True, config=strict)(kind)
    make, signature = checked.__init__, inspect.signature(checked)

    @wraps(make)
    def init(self: Any, *values: Any, **named: Any) -> None:
        with readable():  # which names fields, so that pydantic has to know their names
            make(self, **signature.bind(*values, **named).arguments)

    checked.__init__ = init
    return checked


@contextmanager
def readable(before: str = "") -> Generator[None]:
    """Turn what pydantic finds into one line of MaskweaveError, with some words before it."""
    try:
        yield
    except ValidationError as error:
        found = "; ".join(map(_finding, error.errors(include_url=False)))
        raise MaskweaveError(before + found) from error


def _finding(found: ErrorDetails) -> str:
    if found["type"] == "value_error":  # how fields fit together, in a config's own words
        return str(found.get("ctx", {})["error"])
    name = ".".join(map(str, found["loc"]))
    if not found["msg"].startswith("Input "):
        return f"{name}: {found['msg']}"
    return f"{name}{found['msg'].removeprefix('Input')}, got {reprlib.repr(found['input'])}"
