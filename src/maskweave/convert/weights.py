"""Names of other projects made ours, each used once or the conversion is refused."""

import math
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskweave.convert import safe_load
from maskweave.errors import MaskweaveError

State = dict[str, Tensor]

NESTS = ("model", "state_dict", "model_state_dict", "model_state")
"""Under these names training scripts keep the weights beside optimiser and epoch."""

PREFIXES = re.compile(r"(?:(?:module|model|_orig_mod)\.)*")
"""What wrappers for several devices and compilers put before names."""


@contextmanager
def about(file: Path) -> Generator[None]:
    """Say which file an error is about."""
    try:
        yield
    except MaskweaveError as error:
        raise MaskweaveError(f"{file}: {error}") from error


def read_state(
    file: Path,
    notes: list[str],
    nests: tuple[str, ...] = (),
    keep: Callable[[str], str | None] = lambda name: PREFIXES.sub("", name, count=1),
    without: str = "weights that are not needed",
) -> State:
    """Return the weights in a file of PyTorch in float32, and note what is left out.

    Parameters
    ----------
    file : Path
        What ``torch.save`` wrote, or safetensors.
    notes : list of str
        To which a note is added.
    nests : tuple of str
        Names under which the weights may lie, before the usual ones.
    keep : callable
        Returns a weight's name without prefixes, or None if it is to be left out.
    without : str
        What such weights are, in a note.

    Raises
    ------
    MaskweaveError
        If the file is refused by ``safe_load``, or its weights are no finite floats.
    """
    content = safe_load.read_torch(file)
    left_out: list[str] = []
    for _ in range(3):  # a broken file could nest without end
        found = [name for name in (*nests, *NESTS) if isinstance(content.get(name), dict)]
        if found:
            left_out += [str(name) for name in content if name != found[0]]
            content = content[found[0]]
    weights: dict[str, Any] = {}
    dropped = 0
    for name, value in content.items():
        short = keep(str(name))
        if short is None:
            dropped += 1
        elif short in weights:
            raise MaskweaveError(f"holds {plain(short)} twice")
        else:
            weights[short] = value
    if dropped:
        left_out.append(f"{dropped} {without}")
    if left_out:
        notes.append(f"{file}: left out {some(left_out)}")
    return checked(weights)


def checked(weights: dict[str, Any]) -> State:
    """Return weights in float32.

    Raises
    ------
    MaskweaveError
        If they are not plain, finite tensors of floats.
    """
    if len(weights) > safe_load.MOST_ENTRIES:
        raise MaskweaveError("holds more names than a known checkpoint can have")
    wrong = [
        str(name)
        for name, value in weights.items()
        if not isinstance(value, Tensor)
        or value.layout != torch.strided
        or value.device.type != "cpu"
        or not (value.is_floating_point() and value.ndim)
    ]
    if wrong or not weights:
        raise MaskweaveError(f"holds no state dict of weights: see {some(wrong) or 'its keys'}")
    # A tensor may repeat the same bytes, so the file's own size says little.
    if 4 * sum(value.numel() for value in weights.values()) > safe_load.LARGEST_FILE:
        raise MaskweaveError("holds more weights than a known checkpoint can have")
    state: State = {name: value.detach().float() for name, value in weights.items()}
    broken = [name for name, value in state.items() if not value.isfinite().all()]
    if broken:
        raise MaskweaveError(f"holds NaN or infinite weights in {some(broken)}")
    return state


def shape(weights: State, name: str, axes: int) -> tuple[int, ...]:
    """Return the shape of a weight that must be there, with so many axes."""
    if name not in weights or weights[name].ndim != axes:
        raise MaskweaveError(f"lacks {name} of {axes} axes")
    return tuple(weights[name].shape)


def square(length: int) -> tuple[int, int]:
    """Return the sides of a grid of so many tokens, as no file has them.

    Raises
    ------
    MaskweaveError
        If they fill no square.
    """
    side = math.isqrt(max(length, 0))
    if not side or side * side != length:
        raise MaskweaveError(f"has positions of {length} tokens, which are no square")
    return side, side


def has(weights: State, prefix: str) -> bool:
    """Say whether names begin so."""
    return any(name.startswith(prefix) for name in weights)


def numbered(weights: State, prefix: str) -> int:
    """Return how many parts there are that are numbered from 0 behind a prefix."""
    number = 0
    while has(weights, f"{prefix}{number}."):
        number += 1
    return number


def some(names: list[str]) -> str:
    """Return the first ten of some names, and how many more there are."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(plain, names[:10])) + more


def plain(name: str) -> str:
    """Return a stranger's name for a message: at most 100 characters, each one printable."""
    return "".join(c if c.isprintable() else "?" for c in name[:100])


def dotted(owner: str, name: str) -> str:
    """Return the name of a parameter as PyTorch has it."""
    return f"{owner}.{name}"


def fill(
    module: nn.Module,
    weights: State,
    names: dict[str, str],
    leaf: Callable[[str, str], str] = dotted,
) -> None:
    """Load a module.

    Parameters
    ----------
    module : nn.Module
        Without memory, as ``checkpoint.blank`` makes it.
    weights : dict
        As ``checked`` returns them; each must be of use.
    names : dict
        The file's name of each of the module's parts, or of a parameter that has no part.
    leaf : callable
        Returns the file's name of a parameter, given that of its part and its own.

    Raises
    ------
    MaskweaveError
        If weights are missing, left over or of other shapes than the module's.
    """
    theirs: dict[str, str] = {}
    for ours in module.state_dict():
        owner, _, name = ours.rpartition(".")
        theirs[ours] = leaf(names[owner], name) if owner else names[name]
    problems = {
        "lacks": [name for name in theirs.values() if name not in weights],
        "has left over": sorted(weights.keys() - set(theirs.values())),
        "has of another shape": [
            f"{name} {[*weights[name].shape]}"
            for ours, value in module.state_dict().items()
            if (name := theirs[ours]) in weights and weights[name].shape != value.shape
        ],
    }
    if any(problems.values()):
        found = "; ".join(f"{what} {some(which)}" for what, which in problems.items() if which)
        raise MaskweaveError(found)
    # Parts of one fused matrix, and tied weights, must not share memory.
    module.load_state_dict({o: weights[t].clone() for o, t in theirs.items()}, assign=True)
