"""The images of a run: those that are trained on, and those held out for validation."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import UInt8
from torch import Tensor

from maskweave.data.cache import CachedImages, CachedPhotos, Images, cached_images, cached_photos
from maskweave.data.check import SPLITS
from maskweave.data.folder import photo, square
from maskweave.data.labels import folder_labels
from maskweave.data.shards import ImageShards
from maskweave.data.split import is_validation
from maskweave.errors import MaskweaveError
from maskweave.formats import is_image
from maskweave.progress import warn
from maskweave.training.examples import ExamplesConfig

VALIDATION_IMAGES = 256
"""Images of which validation figures are made, at most."""

VALIDATION_SHARE = 0.05
"""Share of the images that is held out where no folder for validation is named."""

CROPPED_FROM = 2
"""Shorter side of the photos that random crops are taken from, in sides of a crop."""


class Sets(NamedTuple):
    """The images of a run."""

    images: Images
    """All images of the folder that is trained on."""
    indices: list[int]
    """Places of those that are trained on."""
    validation: UInt8[Tensor, "batch 3 size size"]
    """Squares for figures and sample pictures."""
    labels: list[int]
    """Label of each image of the folder; empty where none are wanted."""
    validation_labels: list[int]
    """Labels of the squares."""


def read_sets(
    data: Path,
    validation: Path | None,
    size: int,
    examples: ExamplesConfig,
    cache: Path,
    accelerator: Accelerator,
    classes: Sequence[str] = (),
) -> Sets:
    """Read the images of a run, in one process of a machine before the others.

    Parameters
    ----------
    data : Path
        Folder of images, searched recursively, or of tar shards.
    validation : Path or None
        Folder of images for validation; without it a share of ``data`` is held out, chosen by the
        hash of each file.
    size : int
        Side of the squares that the model takes, in pixels.
    examples : ExamplesConfig
        Random crops are taken from photos, all other examples from squares.
    cache : Path
        Where images are kept ready for training.
    accelerator : Accelerator
        From ``accelerator_for``.
    classes : sequence of str
        Names of the folders in ``data`` that are the labels of the images in them. Images for
        validation that lie in no such folder have none.

    Raises
    ------
    MaskweaveError
        If a folder has no images, or too many that cannot be used, or all are held out, or an image
        lies in no folder that labels it.
    """
    with accelerator.local_main_process_first():
        told = accelerator.is_main_process
        images = _open(data, size, examples.crop > 0, cache, told)
        watched = _open(validation, size, False, cache, told) if validation else images
    splits = [name for name in SPLITS if (data / name).is_dir()]
    if len(splits) > 1 and told:
        warn(f"{data} holds the splits {', '.join(splits)}, and all of them are trained on")
    if validation:
        held_out, indices = range(len(watched)), list(range(len(images)))
        copies = len(set(watched.digests) & set(images.digests))
        if copies and told:
            warn(f"{copies} images of {validation} are copies of images of {data}")
    else:
        held_out = [i for i, d in enumerate(images.digests) if is_validation(d, VALIDATION_SHARE)]
        # Of a small set too, something is held out.
        held_out = held_out or [min(range(len(images)), key=images.digests.__getitem__)]
        indices = sorted(set(range(len(images))) - set(held_out))
        if not indices:
            raise MaskweaveError(f"{data}: all {len(images)} images are held out; name others")
    # By their hashes, so that none of a folder's parts is preferred.
    chosen = sorted(held_out, key=watched.digests.__getitem__)[:VALIDATION_IMAGES]
    squares = [square(watched[i].transpose(1, 2, 0), size) for i in chosen]
    labels, watched_labels = list[int](), list[int]()
    if classes:
        labels = folder_labels(_names(data, images), classes, None)
        shown = [_names(validation or data, watched)[i] for i in chosen]
        watched_labels = folder_labels(shown, classes, len(classes))
    return Sets(images, indices, torch.from_numpy(np.stack(squares)), labels, watched_labels)


def _names(directory: Path, images: Images) -> Sequence[str]:
    if isinstance(images, CachedImages | CachedPhotos):
        return images.names
    raise MaskweaveError(f"{directory} holds shards: labels are names of folders of images")


def _open(directory: Path, size: int, photos: bool, cache: Path, told: bool) -> Images:
    """Return a set of photos that are large enough for crops, or of squares."""
    larger = CROPPED_FROM * size
    if any(directory.glob("*.tar")):
        if loose := next((f for f in directory.rglob("*") if is_image(f.name)), None):
            raise MaskweaveError(f"{directory} holds both shards (*.tar) and images, as {loose}")
        if photos:
            convert = partial(photo, shorter_side=larger, smallest=size)
            shards = ImageShards(directory, convert, f"photos {larger} {size}")
        else:
            shards = ImageShards(directory, partial(square, size=size), str(size))
        _tell(directory, shards.notes, told)
        return shards
    if photos:
        images = cached_photos(directory, larger, cache, size)
    else:
        images = cached_images(directory, size, cache)
    broken = [f"{name} is left out: {reason}" for name, reason in images.skipped.items()]
    _tell(directory, [*images.notes, *broken], told)
    return images


def _tell(directory: Path, notes: Iterable[str], told: bool) -> None:
    for note in notes if told else ():
        warn(f"{directory}: {note}")
