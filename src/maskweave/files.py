"""Files that appear under their names only when whole, and where to keep them."""

import errno
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from maskweave.errors import MaskweaveError

LARGEST_CONFIG = 1 << 20
"""Bytes beyond which a config.json is not read."""

LARGEST_TEXT = 1 << 24
"""Bytes beyond which no other text of a model is read."""

ABANDONED = 3600
"""Seconds after which an unfinished file that nobody wrote to is taken for left by a kill."""

SPARE = 1 << 28
"""Bytes that are left free on a disk."""

FAULTS_OF_THE_DISK = frozenset(
    (
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
        *(errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO, errno.ESTALE),
    )
)
"""Errors that the next file would meet as well: full, read-only, forbidden, broken or gone."""


class DiskError(MaskweaveError):
    """Nothing more should be written to a folder: its disk is at fault, or others write there."""


class TakenError(DiskError):
    """A file that was to be new has appeared meanwhile: others write there."""


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object of at most 1 MB.

    Raises
    ------
    MaskweaveError
        If the file is missing, too large or no JSON object.
    """
    try:
        if file.stat().st_size > LARGEST_CONFIG:
            raise MaskweaveError(f"{file} is larger than a config can be")
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise MaskweaveError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise MaskweaveError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise MaskweaveError(f"{file} does not hold a JSON object")
    return content


def read_small(file: Path) -> bytes:
    """Read a file of at most 16 MB.

    Raises
    ------
    MaskweaveError
        If the file is missing or too large.
    """
    try:
        if file.stat().st_size > LARGEST_TEXT:
            raise MaskweaveError(f"{file} is larger than {LARGEST_TEXT} bytes")
        return file.read_bytes()
    except OSError as error:
        raise MaskweaveError(f"cannot read {file}: {error.strerror}") from error


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a JSON object; the file appears under its name only when whole."""
    write_whole(file, (json.dumps(content, indent=2) + "\n").encode())


def write_whole(file: Path, content: bytes) -> None:
    """Write a file that appears under its name only when whole; make its folder if missing.

    Raises
    ------
    MaskweaveError
        If it cannot be written.
    """
    with unfinished(file) as path:
        path.write_bytes(content)


@contextmanager
def unfinished(file: Path, replace: bool = True) -> Generator[Path]:
    """Yield where to write a file that gets its name if all goes well; make its folder if missing.

    Without ``replace`` a file that is there by then stays.

    Raises
    ------
    DiskError
        If nothing can be written there.
    TakenError
        If there is such a file by then and it is to stay.
    MaskweaveError
        If this file cannot be written.
    """
    # Whoever makes the same file at once, on any machine, writes a file of their own. Its name is
    # short, as that of the file may be as long as a disk allows.
    path = file.with_name(f".{secrets.token_hex(8)}.unfinished")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(file.parent)
        yield path
        with path.open("r+b") as content:
            os.fsync(content.fileno())  # or the name could outlive a power cut without the content
        if not replace:
            _claim(file, path)
        path.replace(file)  # leaves the path where both are links to one file
    except OSError as error:
        raise _told(error, file) from error
    finally:
        with suppress(OSError):
            path.unlink()


def _claim(file: Path, path: Path) -> None:
    """Give a name to a file at once, or to an empty one where the disk knows no second names."""
    try:
        try:
            file.hardlink_to(path)
        except FileExistsError:
            raise
        except OSError:
            file.touch(exist_ok=False)
    except FileExistsError as error:
        raise TakenError(f"{file} was written by somebody else meanwhile") from error


def _told(error: OSError, file: Path) -> MaskweaveError:
    kind = DiskError if error.errno in FAULTS_OF_THE_DISK else MaskweaveError
    return kind(f"cannot write {file}: {error.strerror or error}")


@contextmanager
def tried(directory: Path) -> Generator[None]:
    """Make a folder and try to write there; if it was made and stays empty, remove it at the end.

    Raises
    ------
    DiskError
        If nothing can be written there.
    """
    missing: list[Path] = []
    try:
        try:
            missing += [each for each in (directory, *directory.parents) if not each.exists()]
            directory.mkdir(parents=True, exist_ok=True)
            path = directory / f".{secrets.token_hex(8)}.unfinished"
            try:
                with path.open("xb") as file:
                    file.write(bytes(1 << 12))
                    os.fsync(file.fileno())
            finally:
                path.unlink(missing_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise DiskError(f"cannot write to folder {directory}: {reason}") from error
        yield
    finally:
        for folder in missing:
            with suppress(OSError):  # it is not empty, as it should be
                folder.rmdir()


@cache
def _clear_abandoned(directory: Path) -> None:
    """Remove what kills have left, once in a process: a folder may hold millions of files."""
    for left in directory.glob(f".{'?' * 16}.unfinished"):
        with suppress(FileNotFoundError):  # another process may have finished or removed it
            if time.time() - left.stat().st_mtime <= ABANDONED:
                continue
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink()


def check_room(directory: Path, needed: int) -> None:
    """Raise MaskweaveError unless so many bytes fit on the disk of a folder, which is made."""
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    if free < needed + SPARE:
        raise MaskweaveError(
            f"{directory} needs {(needed + SPARE) / 1e9:.1f} GB, and its disk has "
            f"{free / 1e9:.1f} GB left"
        )


def sha256(file: Path) -> str:
    """Return the hash of a file's content in hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def user_cache() -> Path:
    """Return where files are kept from one command to the next."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "maskweave"
