"""Checkpoints of a run: written whole, verified when read, the last ones and the best kept."""

import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError

from maskweave.errors import MaskweaveError
from maskweave.files import check_room, read_json, sha256, write_json
from maskweave.progress import warn

KEPT = 2
"""The newest checkpoints that are kept, beside the one with the lowest validation loss."""


def resume(directory: Path, accelerator: Accelerator) -> int:
    """Load the newest checkpoint that is whole, if any, and return how many steps it has seen.

    Raises
    ------
    MaskweaveError
        If there are checkpoints and none of them is whole.
    """
    checkpoint = newest(directory)
    if checkpoint is None:
        return 0
    accelerator.load_state(str(checkpoint))
    return steps_of(checkpoint)


def newest(directory: Path) -> Path | None:
    """Return the newest checkpoint that is whole, if any; warn of those that are passed over.

    Raises
    ------
    MaskweaveError
        If there are checkpoints and none of them is whole.
    """
    found = sorted(directory.glob("step_*"), reverse=True)
    for checkpoint in found:
        if broken := _damage(checkpoint):
            warn(f"{checkpoint} is passed over: {broken}")
        else:
            return checkpoint
    if found:
        raise MaskweaveError(f"no checkpoint in {directory} is whole; remove it to start anew")
    return None


def steps_of(checkpoint: Path) -> int:
    """Return how many steps a checkpoint has seen."""
    return int(read_json(checkpoint / "progress.json")["step"])


def save(
    directory: Path,
    step: int,
    validation_loss: float | None,
    export: Callable[[Path], None],
    accelerator: Accelerator,
) -> None:
    """Write a checkpoint, under its final name only once it is whole, and drop old ones.

    ``export`` writes the components that inference loads, so that each checkpoint is a model too.
    """
    unfinished = directory / "unfinished"
    final = directory / f"step_{step:08d}"
    if accelerator.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(unfinished))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        export(unfinished)
        files = {name: sha256(unfinished / name) for name in _names(unfinished)}
        progress = {"step": step, "validation_loss": validation_loss, "files": files}
        write_json(unfinished / "progress.json", progress)
        shutil.rmtree(final, ignore_errors=True)  # a damaged one
        unfinished.replace(final)
        _drop_old(directory)


@contextmanager
def writing(directory: Path) -> Generator[None]:
    """Name the last good checkpoint in the error of what cannot be written, as on a full disk."""
    try:
        yield
    # safetensors and torch report a full disk as errors of their own.
    except (OSError, RuntimeError, SafetensorError, MaskweaveError) as error:
        last = max(directory.glob("step_*"), default="none")
        raise MaskweaveError(
            f"cannot write the run: {error}; last good checkpoint: {last}"
        ) from error


def check_disk(directory: Path) -> None:
    """Raise MaskweaveError unless the disk has room for the checkpoints that are yet to come."""
    found = sorted(directory.glob("step_*"))
    newest = found[-1]
    size = sum((newest / name).stat().st_size for name in _names(newest))
    if newest.name == f"step_{0:08d}":  # AdamW's two moments are not in it
        size += 2 * sum(file.stat().st_size for file in newest.glob("model*.safetensors"))
    # Those that are kept, the best among them or not, and the next one while it is written.
    check_room(directory, max(1, KEPT + 2 - len(found)) * size)


def _drop_old(directory: Path) -> None:
    found = sorted(directory.glob("step_*"))
    best = min(found, key=_validation_loss)
    for old in found[:-KEPT]:
        if old != best:
            shutil.rmtree(old)


def _validation_loss(checkpoint: Path) -> float:
    with suppress(MaskweaveError):
        loss = read_json(checkpoint / "progress.json")["validation_loss"]
        return float("inf") if loss is None else float(loss)
    return float("inf")


def _damage(checkpoint: Path) -> str | None:
    """Say what is wrong with a checkpoint's files, if anything."""
    try:
        files: dict[str, Any] = read_json(checkpoint / "progress.json")["files"]
        changed = [name for name, digest in files.items() if sha256(checkpoint / name) != digest]
    except (KeyError, OSError, MaskweaveError) as error:
        return str(error)
    return f"{', '.join(changed)} not as written" if changed else None


def _names(directory: Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())
