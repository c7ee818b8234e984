"""Images and masks in the tar shards of WebDataset, each read where it lies.

A shard holds an image and its mask under one key: ``0001.png`` and ``0001.mask.png``. A member is
named as if the shard were a folder: ``photos-000.tar/0001.png``.
"""

import re
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

from maskweave.errors import MaskweaveError
from maskweave.formats import is_image

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")

LARGEST_MEMBER = 1 << 28
"""Bytes beyond which an image is refused."""


def shards(named: Path) -> list[Path]:
    """Return the shards that a name means, sorted; none if it means something else.

    Parameters
    ----------
    named : Path
        A shard, a folder that holds some (``*.tar``), or a pattern as users of webdataset write it:
        ``photos-{000..003}.tar``.

    Raises
    ------
    MaskweaveError
        If one of a pattern's shards is missing.
    """
    if named.is_dir():
        return sorted(named.glob("*.tar"))
    if named.suffix != ".tar":
        return []
    found: list[Path] = []
    for shard in map(Path, _expanded(str(named))):
        if not shard.is_file():
            raise MaskweaveError(f"shard {shard} does not exist")
        found.append(shard)
    return found


def pairs(shard: Path) -> list[tuple[Path, Path | None]]:
    """Return every image of a shard, and its mask if there is one, by key.

    Raises
    ------
    MaskweaveError
        If the shard is broken or two images, or two masks, share a key.
    """
    images: dict[PurePosixPath, Path] = {}
    masks: dict[PurePosixPath, Path] = {}
    for name in _members(shard):
        path = PurePosixPath(name)
        if not is_image(path.name):
            continue
        stem, _, extension = path.name.partition(".")  # webdataset's base_plus_ext
        found = masks if extension.startswith("mask.") else images
        if (key := path.with_name(stem)) in found:
            raise MaskweaveError(f"{shard}: several images have the key {key}")
        found[key] = shard / name
    return [(image, masks.get(key)) for key, image in images.items()]


def is_member(file: Path) -> bool:
    """Return whether a name is that of a file in a shard."""
    return _shard_of(file) is not None


def read_member(file: Path) -> bytes:
    """Read a file in a shard.

    Raises
    ------
    MaskweaveError
        If there is none, it is too large or it cannot be read.
    """
    shard = _shard_of(file)
    if shard is None:
        raise MaskweaveError(f"{file} does not exist")
    try:
        first, length = _members(shard)[file.relative_to(shard).as_posix()]
    except KeyError as error:
        raise MaskweaveError(f"{file} does not exist") from error
    if length > LARGEST_MEMBER:
        raise MaskweaveError(f"{file} is larger than {LARGEST_MEMBER} bytes")
    try:
        with shard.open("rb") as content:
            content.seek(first)
            return content.read(length)
    except OSError as error:
        raise MaskweaveError(f"cannot read {shard}: {error.strerror}") from error


def _expanded(pattern: str) -> Iterator[str]:
    """Yield the names that a pattern with ranges means, as a shell does."""
    if not (found := RANGE.search(pattern)):
        yield pattern
        return
    first, last = found.groups()
    for number in range(int(first), int(last) + 1):
        digits = f"{number:0{len(first)}d}"
        yield from _expanded(f"{pattern[: found.start()]}{digits}{pattern[found.end() :]}")


def _shard_of(file: Path) -> Path | None:
    return next((each for each in file.parents if each.suffix == ".tar" and each.is_file()), None)


@lru_cache(200)
def _members(shard: Path) -> dict[str, tuple[int, int]]:
    """Return first byte and length of every regular file in a shard, by its name."""
    try:
        with tarfile.open(shard, "r:") as archive:
            return {
                # Others call it ./0001.png, and a name from the root would lead out of the shard.
                PurePosixPath(member.name.lstrip("/")).as_posix(): (member.offset_data, member.size)
                for member in archive
                if member.isreg()
            }
    # The library raises whatever it stumbles over in a broken header.
    except Exception as error:
        raise MaskweaveError(f"{shard} is not a readable shard: {error}") from error
