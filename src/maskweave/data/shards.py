"""Images in the tar shards of WebDataset, read in any order and without unpacking them."""

import hashlib
import io
import os
import tarfile
import threading
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
from torch.utils.data import Dataset

from maskweave.data.folder import Photo
from maskweave.errors import MaskweaveError
from maskweave.formats import is_image, left_out
from maskweave.images import Pixels, decode_image

LARGEST_MEMBER = 1 << 28
"""Bytes beyond which an image is refused."""

OPEN_SHARDS = 200
"""Files that a process keeps open at most; many systems allow it 256."""

# Arrays, since every worker process comes to own a copy of the Python objects that it uses.
_MEMBER = np.dtype([("first", "i8"), ("length", "i8"), ("time", "i8"), ("digest", "u8")])
"""First byte, length in bytes, time of the last change, hash of key and length."""


class ImageShards(Dataset[Photo]):
    """Every image in a set of shards, made what training takes of it.

    Every start reads the headers of all members once and keeps 32 bytes of memory for each image.
    Members that are no regular files or no images by ``formats.is_image`` are left out.

    Parameters
    ----------
    directory : Path
        Folder with uncompressed tar files called ``*.tar`` directly in it, which are sorted.
    convert : callable
        Makes an image, uint8 (3, height, width), of pixels, uint8 (height, width, 3): a square, for
        instance.
    name : str
        What tells this conversion from others, for ``key``.

    Raises
    ------
    MaskweaveError
        If there is no shard or no image, a shard is broken, or two of its images share a key; on
        access, if an image cannot be read or ``convert`` refuses it.
    """

    def __init__(self, directory: Path, convert: Callable[[Pixels], Photo], name: str) -> None:
        self.shards = sorted(directory.glob("*.tar"))
        self.convert, self.name = convert, name
        if not self.shards:
            raise MaskweaveError(f"{directory} holds no shard (*.tar)")
        others: Counter[str] = Counter()
        members = [_index(shard, others) for shard in self.shards]
        self.notes = left_out(others.elements())
        self._members = np.concatenate(members)
        self._ends = np.cumsum([len(found) for found in members])
        if not len(self):
            raise MaskweaveError(f"{directory}: the shards hold no image")
        _open.cache_clear()  # files of these names may have been replaced

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._members)

    @property
    def key(self) -> str:
        """Hash of what the headers say of the images, and of the conversion."""
        return hashlib.sha256(self._members.tobytes() + self.name.encode()).hexdigest()

    @property
    def digests(self) -> list[str]:
        """Hash of each image's key and length, which stand for its content in a split."""
        return [f"{digest:016x}" for digest in self._members["digest"].tolist()]

    def __getitem__(self, index: int) -> Photo:
        """Read one image."""
        content = io.BytesIO(self._read(index))
        try:
            return self.convert(decode_image(content, "the file").pixels)
        except MaskweaveError as error:
            raise MaskweaveError(f"{self._name(index)}: {error}") from error

    def _find(self, index: int) -> tuple[Path, int, int]:
        """Return the shard of an image, its first byte and its length."""
        index = range(len(self))[index]
        first, length, *_ = self._members[index].tolist()
        return self.shards[np.searchsorted(self._ends, index, side="right")], first, length

    def _read(self, index: int) -> bytes:
        shard, first, length = self._find(index)
        try:
            # Threads and forked workers would share the place in a file that they share.
            file = _open(shard, os.getpid(), threading.get_ident()).content
            file.seek(first)
            return file.read(length)
        except OSError as error:
            raise MaskweaveError(f"cannot read {shard}: {error.strerror}") from error

    def _name(self, index: int) -> str:
        shard, first, _ = self._find(index)
        with tarfile.open(shard, "r:") as archive:
            [name] = [member.name for member in archive if member.offset_data == first]
        return f"{shard}: {name}"


def _index(shard: Path, others: Counter[str]) -> np.ndarray:
    """Return the ``_MEMBER`` of every image in a shard; count the suffixes of other files."""
    members: dict[PurePosixPath, tuple[int, int, int, int]] = {}
    try:
        with shard.open("rb") as content, tarfile.open(fileobj=content, mode="r:") as archive:
            for member in archive:
                if archive.offset <= member.offset:  # would be read again and again
                    raise tarfile.ReadError(f"{member.name} has a negative size")
                path = PurePosixPath(member.name)
                if not member.isreg() or member.issparse() or not is_image(path.name):
                    if member.isreg() and not path.name.startswith("."):
                        others[path.suffix] += 1
                    continue
                # webdataset's base_plus_ext
                key = path.with_name(path.name.partition(".")[0])
                if key in members:
                    raise MaskweaveError(f"{shard}: several images have the key {key}")
                if not 0 <= member.size <= LARGEST_MEMBER:
                    raise MaskweaveError(f"{shard}: {path} is larger than {LARGEST_MEMBER} bytes")
                digest = hashlib.sha256(os.fsencode(f"{key} {member.size}")).digest()
                number = int.from_bytes(digest[:8])
                members[key] = (member.offset_data, member.size, int(member.mtime), number)
            # tarfile takes whatever is no header for the end.
            content.seek(archive.offset)
            if content.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("unexpected end of data")
        return np.array(list(members.values()), dtype=_MEMBER)
    except MaskweaveError:
        raise
    # The library raises whatever it stumbles over in a broken header.
    except Exception as error:
        raise MaskweaveError(f"{shard} is not a readable shard: {error}") from error


class _OpenFile:
    """Closes a file when nobody uses it any more."""

    def __init__(self, content: BinaryIO) -> None:
        self.content = content

    def __del__(self) -> None:
        self.content.close()


@lru_cache(OPEN_SHARDS)
def _open(shard: Path, _process: int, _thread: int) -> _OpenFile:
    """Open a file of one thread's own."""
    return _OpenFile(shard.open("rb"))
