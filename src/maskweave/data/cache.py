"""What is computed once for a set of images and kept on disk: pixels, and tokens.

Each file is named by the content that it was made of, so that a stale one is never found, and gets
its name only when it is whole, so that a half-written one is never used.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int64, UInt, UInt8

from maskweave.data.augment import stream, view
from maskweave.data.folder import Photo, read_photo, read_square
from maskweave.errors import MaskweaveError
from maskweave.files import check_room, sha256, unfinished, write_whole
from maskweave.formats import find_images
from maskweave.progress import progress

LARGEST_SKIPPED = 0.05
"""Share of unreadable images beyond which a folder is refused."""

VERSION = 2
"""Of how images become squares, photos and views: a change there needs another number here."""

SMALLEST = 64
"""Shorter side below which a photo is left out, in pixels."""

READ, ENCODED = 64, 256
"""Images that are read or encoded at once."""


class Images(Protocol):
    """A set of images as training reads them: squares of one size, or photos."""

    @property
    def key(self) -> str:
        """Hash of their content."""
        ...

    @property
    def digests(self) -> Sequence[str]:
        """For each image, a hash in hexadecimal digits that decides its split."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, index: int, /) -> Photo:
        """Return an image, uint8 (3, height, width)."""
        ...


@dataclass(frozen=True)
class CachedImages:
    """The readable images of a folder as squares, mapped into memory."""

    pixels: UInt8[np.ndarray, "images 3 size size"]
    """Read-only."""
    key: str
    """Hash of the files' content and of the size."""
    digests: list[str]
    """SHA-256 of each image's file."""
    names: list[str]
    """Path of each image below the folder."""
    skipped: dict[str, str]
    """Why files were left out, by their path below the folder."""
    notes: tuple[str, ...]
    """What there is to say of files that are no images."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)

    def __getitem__(self, index: int) -> Photo:
        """Return a copy of one image."""
        return np.array(self.pixels[index])


@dataclass(frozen=True)
class CachedPhotos:
    """The readable images of a folder, each in its own shape, mapped into memory."""

    pixels: UInt8[np.ndarray, "bytes"]
    """Of all photos, one behind the other; read-only."""
    starts: Int64[np.ndarray, "images"]
    """Where the pixels of each begin."""
    sizes: Int64[np.ndarray, "images 2"]
    """Height and width of each."""
    key: str
    """Hash of the files' content and of what they are shrunk to."""
    digests: list[str]
    """SHA-256 of each image's file."""
    names: list[str]
    """Path of each image below the folder."""
    skipped: dict[str, str]
    """Why files were left out, by their path below the folder."""
    notes: tuple[str, ...]
    """What there is to say of files that are no images."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.sizes)

    def __getitem__(self, index: int) -> Photo:
        """Return a copy of one image."""
        height, width = self.sizes[index].tolist()
        start = int(self.starts[index])
        return np.array(self.pixels[start : start + 3 * height * width]).reshape(3, height, width)


def cached_images(directory: Path, size: int, cache: Path) -> CachedImages:
    """Read a folder of images once, recursively; later from the cache.

    Parameters
    ----------
    directory : Path
        Folder of images, of which each is cropped to its central square and resized.
    size : int
        Side of the squares in pixels. Smaller images are not enlarged but left out.
    cache : Path
        Folder of the cache; it is made if missing.

    Raises
    ------
    MaskweaveError
        If more than ``LARGEST_SKIPPED`` of the images cannot be used, of which some are named, or
        the disk has no room.
    """
    stored = _stored(directory, "images", str(size), partial(read_square, size=size), cache)
    pixels = stored.pixels.reshape(-1, 3, size, size)
    _, _, key, digests, names, skipped, notes = stored
    return CachedImages(pixels, key, digests, names, skipped, notes)


def cached_photos(
    directory: Path, shorter_side: int, cache: Path, smallest: int = SMALLEST
) -> CachedPhotos:
    """Read a folder of photos of any shape once, recursively; later from the cache.

    Parameters
    ----------
    directory : Path
        Folder of images. Those longer than four times their shorter side are cropped to that.
    shorter_side : int
        Pixels to which the shorter side of larger images is shrunk; smaller ones stay as they are.
    cache : Path
        Folder of the cache; it is made if missing.
    smallest : int
        Images with a side of less pixels are left out.

    Raises
    ------
    MaskweaveError
        If more than ``LARGEST_SKIPPED`` of the images cannot be used, of which some are named, or
        the disk has no room.
    """
    read = partial(read_photo, shorter_side=shorter_side, smallest=smallest)
    stored = _stored(directory, "photos", f"photos {shorter_side} {smallest}", read, cache)
    ends = np.cumsum(3 * stored.sizes.prod(axis=1))
    starts = np.concatenate([[0], ends[:-1]])
    pixels, sizes, key, digests, names, skipped, notes = stored
    return CachedPhotos(pixels, starts, sizes, key, digests, names, skipped, notes)


def cached_tokens(
    images: Images,
    encode: Callable[[UInt8[np.ndarray, "batch 3 size size"]], UInt[np.ndarray, "batch length"]],
    tokenizer: str,
    *,
    views: int,
    shift: int,
    cache: Path,
) -> UInt[np.ndarray, "images views length"]:
    """Tokenise every image in several views once; later from the cache, mapped into memory.

    Parameters
    ----------
    images : Images
        The set, of squares.
    encode : callable
        The tokenizer's encoder, whose type of numbers the tokens keep.
    tokenizer : str
        Hash of its weights.
    views : int
        Versions of each image, as ``augment.view`` makes them.
    shift : int
        Their largest shift, in pixels.
    cache : Path
        Folder of the cache; it is made if missing.

    Raises
    ------
    MaskweaveError
        If the disk has no room.
    """
    identity = f"{VERSION} {images.key} {tokenizer} {views} {shift} {stream()}"
    file = cache / f"tokens-{hashlib.sha256(identity.encode()).hexdigest()}.npy"
    # A file that was damaged later is made anew.
    with suppress(OSError, EOFError, ValueError):
        return np.load(file, mmap_mode="r", allow_pickle=False)
    first = encode(images[0][None])
    check_room(cache, len(images) * views * first.nbytes)
    with (
        progress(len(images)) as advance,
        ThreadPoolExecutor() as pool,
        unfinished(file) as path,
    ):
        shape = (len(images), views, first.shape[1])
        tokens = np.lib.format.open_memmap(path, "w+", first.dtype, shape)
        for start in range(0, len(images), step := max(1, ENCODED // views)):
            chunk = range(start, min(start + step, len(images)))
            found = zip(chunk, pool.map(images.__getitem__, chunk), strict=True)
            squares = [view(image, i, v, shift) for i, image in found for v in range(views)]
            tokens[start : chunk.stop] = encode(np.stack(squares)).reshape(len(chunk), views, -1)
            advance(len(chunk), "tokenising")
        tokens.flush()
        del tokens  # Windows renames no file that is mapped
    return np.load(file, mmap_mode="r", allow_pickle=False)


class _Stored(NamedTuple):
    """What became of a folder's images."""

    pixels: UInt8[np.ndarray, "bytes"]
    sizes: Int64[np.ndarray, "images 2"]
    key: str
    digests: list[str]
    names: list[str]
    skipped: dict[str, str]
    notes: tuple[str, ...]


Entry = str | list[int]
"""Why a file is not there, or else the height and the width of its image."""


def _stored(
    directory: Path, kind: str, shape: str, read: Callable[[Path], Photo], cache: Path
) -> _Stored:
    """Return the pixels of a folder's images one behind the other, read now or earlier.

    ``shape`` says all that ``read`` depends on besides the file.
    """
    files, notes = find_images(directory)
    names = [str(file.relative_to(directory)) for file in files]
    digests = _digests(directory, files, cache)
    key = hashlib.sha256(f"{VERSION} {shape} {' '.join(digests)}".encode()).hexdigest()
    listing, data = cache / f"{kind}-{key}.json", cache / f"{kind}-{key}.bin"
    entries = _listed(listing, data)
    if entries is None:
        entries = _write(directory, files, read, data)
        # Last, as its presence says that the data are whole.
        write_whole(listing, json.dumps(entries).encode())
    sizes = np.array([entry for entry in entries if not isinstance(entry, str)], dtype=np.int64)
    skipped = {n: entry for n, entry in zip(names, entries, strict=True) if isinstance(entry, str)}
    kept = [d for d, name in zip(digests, names, strict=True) if name not in skipped]
    there = [name for name in names if name not in skipped]
    return _Stored(np.memmap(data, np.uint8, mode="r"), sizes, key, kept, there, skipped, notes)


def _listed(listing: Path, data: Path) -> list[Entry] | None:
    """Return what became of each file, unless the pixels are not there as written."""
    with suppress(OSError, ValueError, TypeError):  # of damage or another version
        entries: list[Entry] = json.loads(listing.read_text())
        sizes = [entry for entry in entries if not isinstance(entry, str)]
        if data.stat().st_size == sum(3 * height * width for height, width in sizes):
            return entries
    return None


def _digests(directory: Path, files: Sequence[Path], cache: Path) -> list[str]:
    """Return the SHA-256 of every file, computed again only where size or time have changed."""
    folder = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()
    index = cache / f"index-{folder}.json"
    known: dict[str, list[int | str]] = {}
    with suppress(OSError, ValueError):
        known = json.loads(index.read_text())

    def entry(file: Path) -> list[int | str]:
        state = file.stat()
        found = known.get(str(file), [])
        if found[:2] == [state.st_size, state.st_mtime_ns]:
            return found
        return [state.st_size, state.st_mtime_ns, sha256(file)]

    with ThreadPoolExecutor() as pool:
        entries = dict(zip(map(str, files), pool.map(entry, files), strict=True))
    if entries != known:
        write_whole(index, json.dumps(entries).encode())
    return [str(digest) for *_, digest in entries.values()]


def _write(
    directory: Path, files: Sequence[Path], read: Callable[[Path], Photo], data: Path
) -> list[Entry]:
    """Write all readable images behind one another; return what became of each file."""
    entries: list[Entry] = []

    def read_or_reason(file: Path) -> Photo | str:
        try:
            return read(file)
        except MaskweaveError as error:
            return str(error)

    with (
        progress(len(files)) as advance,
        ThreadPoolExecutor() as pool,
        unfinished(data) as path,
        path.open("wb") as out,
    ):
        for start in range(0, len(files), READ):
            found = list(pool.map(read_or_reason, files[start : start + READ]))
            images = [image for image in found if not isinstance(image, str)]
            # The rest will be about as large as what there is.
            done, written = start + len(found), out.tell() + sum(image.nbytes for image in images)
            check_room(data.parent, written * len(files) // done - out.tell())
            for image in images:
                out.write(image.tobytes())
            entries += [im if isinstance(im, str) else list(im.shape[1:]) for im in found]
            advance(len(found), "reading images")
        broken = [entry for entry in entries if isinstance(entry, str)]
        if len(broken) > LARGEST_SKIPPED * len(files):
            raise MaskweaveError(
                f"{len(broken)} of {len(files)} images in {directory} cannot be used: "
                + "; ".join(broken[:3])
            )
    return entries
