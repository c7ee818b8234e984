"""What to know of images before training on them: broken files, sizes, and copies across splits."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float32, Int, UInt8
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from maskweave.data.split import is_validation
from maskweave.errors import MaskweaveError
from maskweave.files import sha256
from maskweave.formats import find_images
from maskweave.images import read_image
from maskweave.progress import Advance

SPLITS = ("train", "val", "valid", "validation", "test")
"""Folders that are splits where several of them lie side by side."""

SIDE = 16
"""Of a thumbnail, in pixels."""

ALIKE, MIRRORED = 0.95, 0.97
"""Correlation from which a thumbnail and another, or the other's mirror image, are near copies."""

TILE = 2048
"""Images that are compared at once with as many others."""

Thumbnails = UInt8[np.ndarray, "images side side"]
Item = TypeVar("Item")
Group = dict[str, list[str]]
"""Files that are copies of one another, by split."""


class Entry(NamedTuple):
    """What is kept of an image."""

    file: str
    split: str
    digest: str
    """SHA-256 of the file in hexadecimal digits."""
    size: tuple[int, int]
    """Width and height in pixels."""
    format: str
    mode: str
    thumbnail: UInt8[np.ndarray, "side side"]


@dataclass(frozen=True)
class Report:
    """What there is to say about a set of images."""

    splits: dict[str, int]
    """Number of readable images by split."""
    unreadable: dict[str, str]
    """Why files cannot be read."""
    sizes: dict[str, tuple[int, int]]
    """Width and height of the images whose shorter side is smallest, median and largest."""
    smaller: int
    """Images whose shorter side is below the size that was asked about."""
    formats: dict[str, int]
    """Number of images by Pillow's name: JPEG, PNG, ..."""
    modes: dict[str, int]
    """Number of images by Pillow's name: RGB, L, P, ..."""
    byte_copies: list[Group]
    """Files of the same bytes."""
    near_copies: list[Group]
    """Files of different bytes that look alike, and the byte copies of these."""

    @property
    def clean(self) -> bool:
        """Whether all files can be read and no copy lies in another split."""
        return not (self.unreadable or any(map(crosses, self.byte_copies + self.near_copies)))


def crosses(group: Group) -> bool:
    """Return whether the files of a group lie in several splits."""
    return len(group) > 1


def find_splits(
    directory: Path, against: Sequence[Path] = (), exclude: Sequence[str] = ()
) -> dict[str, list[Path]]:
    """Return the images of each split; those of "" are to be split by their content.

    Parameters
    ----------
    directory : Path
        If several folders directly in it are called as ``SPLITS``, these are the splits and
        everything beside them is left out.
    against : sequence of Path
        Folders that are further splits.
    exclude : sequence of str
        Patterns, as in ``mask*``, of the names of files and folders that are left out.

    Raises
    ------
    MaskweaveError
        If a folder is missing or nothing is left of it.
    """
    named = [directory / name for name in SPLITS if (directory / name).is_dir()]
    folders = [*(named if len(named) > 1 else [directory]), *against]
    splits: dict[str, list[Path]] = {}
    for folder in folders:
        files = [
            file
            for file in find_images(folder).files
            if not any(
                fnmatch(part, pattern)
                for part in file.relative_to(folder).parts
                for pattern in exclude
            )
        ]
        if not files:
            raise MaskweaveError(f"every image in {folder} is excluded")
        splits[str(folder) if len(folders) > 1 else ""] = files
    return splits


def read_entries(
    splits: Mapping[str, Iterable[Path]], validation_share: float, advance: Advance
) -> tuple[list[Entry], dict[str, str]]:
    """Read all images of ``find_splits``; return them, and for each bad file the reason."""
    entries: list[Entry] = []
    unreadable: dict[str, str] = {}
    for split, files in splits.items():
        for file in files:
            try:
                entries.append(_read(file, split, validation_share))
            except MaskweaveError as error:
                unreadable[str(file)] = str(error)
            advance(1, "reading")
    return entries, unreadable


def summarise(
    entries: Sequence[Entry], unreadable: dict[str, str], size: int, advance: Advance
) -> Report:
    """Look for copies and sum up; ``size`` is the least length of a side, in pixels."""
    same = _grouped(entries, [entry.digest for entry in entries])
    advance(len(entries) - len(same), "comparing")
    thumbnails = np.array([copies[0].thumbnail for copies in same]).reshape(-1, SIDE, SIDE)
    alike = _grouped(same, find_near_copies(thumbnails, advance).tolist())
    sizes = sorted((entry.size for entry in entries), key=min)
    places = {"smallest": 0, "median": len(sizes) // 2, "largest": -1}
    return Report(
        splits=dict(Counter(entry.split for entry in entries)),
        unreadable=unreadable,
        sizes={name: sizes[place] for name, place in places.items()} if sizes else {},
        smaller=sum(min(one) < size for one in sizes),
        formats=dict(Counter(entry.format for entry in entries)),
        modes=dict(Counter(entry.mode for entry in entries)),
        byte_copies=[_by_split(copies) for copies in same if len(copies) > 1],
        near_copies=[_by_split(chain(*near)) for near in alike if len(near) > 1],
    )


def find_near_copies(thumbnails: Thumbnails, advance: Advance) -> Int[np.ndarray, "images"]:
    """Return a number for each image, which near copies, and near copies of these, share.

    Time grows with the square of the number of images, memory in proportion to it.

    Parameters
    ----------
    thumbnails : numpy.ndarray
        uint8, (images, side, side), grey. Flat ones are near copies of one another only.
    advance : Advance
        Told of every image that has been compared.
    """
    number = len(thumbnails)
    groups = np.arange(number)
    for first in range(0, number, TILE):
        tile = thumbnails[first : first + TILE]
        rows, mirrored = _normalised(tile), _normalised(tile[:, :, ::-1])
        for second in range(first, number, TILE):
            columns = _normalised(thumbnails[second : second + TILE]).T
            i, j = np.nonzero((rows @ columns >= ALIKE) | (mirrored @ columns >= MIRRORED))
            pairs = (groups[first + i], groups[second + j])
            edges = coo_array((np.ones(len(i)), pairs), shape=(number, number))
            groups = connected_components(edges, directed=False)[1][groups]
        advance(len(tile), "comparing")
    return groups


def _normalised(thumbnails: Thumbnails) -> Float32[np.ndarray, "images vector"]:
    """Return vectors whose products are correlations; those of flat thumbnails count as 1."""
    vectors = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    vectors -= vectors.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    flat = lengths == 0
    return np.hstack([vectors / np.where(flat, 1, lengths), flat.astype(np.float32)])


def _read(file: Path, split: str, validation_share: float) -> Entry:
    picture = read_image(file)
    digest = sha256(file)
    split = split or ("validation" if is_validation(digest, validation_share) else "train")
    try:
        image = Image.fromarray(picture.pixels)
    except MaskweaveError as error:
        raise MaskweaveError(f"{file}: {error}") from error
    thumbnail = np.array(image.resize((SIDE, SIDE), Image.Resampling.BOX).convert("L"))
    said = picture.about
    return Entry(str(file), split, digest, image.size, said.format, said.mode, thumbnail)


def _grouped(items: Sequence[Item], keys: Iterable[object]) -> list[list[Item]]:
    groups: dict[object, list[Item]] = {}
    for item, key in zip(items, keys, strict=True):
        groups.setdefault(key, []).append(item)
    return list(groups.values())


def _by_split(entries: Iterable[Entry]) -> Group:
    group: Group = {}
    for entry in entries:
        group.setdefault(entry.split, []).append(entry.file)
    return group
