"""Labels of images: which of some folders each lies in."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePath

from maskweave.errors import MaskweaveError


def folder_names(directory: Path) -> tuple[str, ...]:
    """Return the names of the folders in a folder, sorted; hidden ones are left out.

    Raises
    ------
    MaskweaveError
        If there are none, as of a folder of shards.
    """
    try:
        with os.scandir(directory) as entries:
            found = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
    except OSError as error:
        raise MaskweaveError(f"cannot read {directory}: {error.strerror}") from error
    if not found:
        raise MaskweaveError(f"{directory} holds no folders, whose names would be the labels")
    return tuple(sorted(found))


def folder_labels(names: Sequence[str], classes: Sequence[str], null: int | None) -> list[int]:
    """Return the label of each image: the place of its topmost folder among the classes.

    Parameters
    ----------
    names : sequence of str
        Paths of the images below the folder that is read.
    classes : sequence of str
        From ``folder_names``.
    null : int or None
        Label of an image that lies in none of these folders; None refuses it.

    Raises
    ------
    MaskweaveError
        If an image is refused.
    """
    places = {name: place for place, name in enumerate(classes)}
    labels: list[int] = []
    for name in names:
        folder, *below = PurePath(name).parts
        label = places.get(folder, null) if below else null
        if label is None:
            raise MaskweaveError(f"{name} lies in no folder whose name would be its label")
        labels.append(label)
    return labels
