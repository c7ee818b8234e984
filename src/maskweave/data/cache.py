"""What is computed once for a set of images and kept on disk: square pixels, and tokens.

Each file is named by the content that it was made of, so that a stale one is never found, and gets
its name only when it is whole, so that a half-written one is never used.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import UInt8, UInt16

from maskweave.data.augment import view
from maskweave.data.folder import Square, find_images, read_square
from maskweave.errors import MaskweaveError
from maskweave.files import check_room, sha256, unfinished, write_whole
from maskweave.progress import progress

LARGEST_SKIPPED = 0.05
"""Share of unreadable images beyond which a folder is refused."""

VERSION = 1
"""Of how images become squares and views: a change there needs another number here."""

BATCH = 256
"""Images that are read or encoded at once."""


class Images(Protocol):
    """A set of square images, as training reads them."""

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

    def __getitem__(self, index: int, /) -> Square:
        """Return an image, uint8 (3, size, size)."""
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
    skipped: dict[str, str]
    """Why files were left out, by their path below the folder."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)

    def __getitem__(self, index: int) -> Square:
        """Return a copy of one image."""
        return np.array(self.pixels[index])


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
    files = find_images(directory)
    names = [str(file.relative_to(directory)) for file in files]
    digests = _digests(directory, files, cache)
    key = hashlib.sha256(f"{VERSION} {size} {' '.join(digests)}".encode()).hexdigest()
    listing, data = cache / f"images-{key}.json", cache / f"images-{key}.bin"
    reasons = _listed(listing, data, size)
    if reasons is None:
        reasons = _write_squares(directory, files, size, data)
        # Last, as its presence says that the data are whole.
        write_whole(listing, json.dumps(reasons).encode())
    kept = [digest for digest, reason in zip(digests, reasons, strict=True) if reason is None]
    pixels = np.memmap(data, np.uint8, mode="r", shape=(len(kept), 3, size, size))
    skipped = {name: reason for name, reason in zip(names, reasons, strict=True) if reason}
    return CachedImages(pixels, key, kept, skipped)


def cached_tokens(
    images: Images,
    encode: Callable[[UInt8[np.ndarray, "batch 3 size size"]], UInt16[np.ndarray, "batch length"]],
    tokenizer: str,
    *,
    views: int,
    shift: int,
    cache: Path,
) -> UInt16[np.ndarray, "images views length"]:
    """Tokenise every image in several views once; later from the cache, mapped into memory.

    Parameters
    ----------
    images : Images
        The set.
    encode : callable
        The tokenizer's encoder.
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
    identity = f"{VERSION} {images.key} {tokenizer} {views} {shift}"
    file = cache / f"tokens-{hashlib.sha256(identity.encode()).hexdigest()}.npy"
    # A file that was damaged later is made anew.
    with suppress(OSError, EOFError, ValueError):
        return np.load(file, mmap_mode="r", allow_pickle=False)
    length = encode(images[0][None]).shape[1]
    check_room(cache, 2 * len(images) * views * length)
    with (
        progress(len(images)) as advance,
        ThreadPoolExecutor() as pool,
        unfinished(file) as path,
    ):
        shape = (len(images), views, length)
        tokens = np.lib.format.open_memmap(path, "w+", np.uint16, shape)
        for start in range(0, len(images), step := max(1, BATCH // views)):
            chunk = range(start, min(start + step, len(images)))
            found = zip(chunk, pool.map(images.__getitem__, chunk), strict=True)
            squares = [view(image, i, v, shift) for i, image in found for v in range(views)]
            tokens[start : chunk.stop] = encode(np.stack(squares)).reshape(len(chunk), views, -1)
            advance(len(chunk), "tokenising")
        tokens.flush()
    return np.load(file, mmap_mode="r", allow_pickle=False)


def _listed(listing: Path, data: Path, size: int) -> list[str | None] | None:
    """Return why files are not among the cached squares, unless these are not there as written."""
    with suppress(OSError, ValueError):
        reasons: list[str | None] = json.loads(listing.read_text())
        if data.stat().st_size == 3 * size * size * reasons.count(None):
            return reasons
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


def _write_squares(
    directory: Path, files: Sequence[Path], size: int, data: Path
) -> list[str | None]:
    """Write all readable images behind one another; return for each file why it is not there."""
    check_room(data.parent, 3 * size * size * len(files))
    reasons: list[str | None] = []

    def read(file: Path) -> Square | str:
        try:
            return read_square(file, size)
        except MaskweaveError as error:
            return str(error)

    with (
        progress(len(files)) as advance,
        ThreadPoolExecutor() as pool,
        unfinished(data) as path,
        path.open("wb") as out,
    ):
        for start in range(0, len(files), BATCH):
            chunk = files[start : start + BATCH]
            for image in pool.map(read, chunk):
                if isinstance(image, str):
                    reasons.append(image)
                else:
                    reasons.append(None)
                    out.write(image.tobytes())
            advance(len(chunk), "reading images")
        broken = [reason for reason in reasons if reason]
        if len(broken) > LARGEST_SKIPPED * len(files):
            raise MaskweaveError(
                f"{len(broken)} of {len(files)} images in {directory} cannot be used: "
                + "; ".join(broken[:3])
            )
    return reasons
