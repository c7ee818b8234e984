"""What an image file is: one rule for files that are named, for folders and for shards.

Read is every format that Pillow decodes without losing depth and that has a signature of its own:
what a file is called decides which files of a folder are images, what is in it decides the rest.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image, features

from maskweave.errors import MaskweaveError

Image.init()
_OPTIONAL = {"WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}

FORMATS = tuple(
    name
    for name in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "QOI")
    if name in Image.OPEN and (name not in _OPTIONAL or features.check(_OPTIONAL[name]))
)
"""What Pillow may take a file for, whatever its name."""

READ = frozenset(
    suffix
    for suffix, name in Image.registered_extensions().items()
    if name in (*FORMATS, "MPO") and suffix != ".pfm"  # floating-point numbers
)
"""Suffixes of the files that count as images, in lower case."""


LARGEST_IMAGE = 100_000_000
"""Pixels beyond which a file is taken for a decompression bomb."""


class Holds(NamedTuple):
    """What a format can hold of a picture."""

    depths: tuple[str, ...]
    """Types of values."""
    alpha: bool
    """Whether it has an alpha channel."""
    side: int
    """Longest side in pixels."""
    about: frozenset[str]
    """Fields of ``metadata.About`` that it can hold."""
    suffixes: tuple[str, ...]
    """How its files are called."""


WRITTEN = {
    "PNG": Holds(
        ("uint8", "uint16"),
        True,
        2**31 - 1,
        frozenset(("exif", "xmp", "profile", "dpi", "comment", "chunks")),
        (".png",),
    ),
    "JPEG": Holds(
        ("uint8",),
        False,
        65_500,
        frozenset(("exif", "xmp", "profile", "dpi", "comment")),
        (".jpg", ".jpeg", ".jpe", ".jfif"),
    ),
    "WEBP": Holds(("uint8",), True, 16_383, frozenset(("exif", "xmp", "profile")), (".webp",)),
    "TIFF": Holds(
        ("uint8", "uint16", "float32"),
        True,
        2**31 - 1,
        frozenset(("exif", "xmp", "profile", "dpi")),
        (".tif", ".tiff"),
    ),
    "BMP": Holds(("uint8",), False, 2**31 - 1, frozenset(("dpi",)), (".bmp",)),
    "PPM": Holds(("uint8", "uint16"), False, 2**31 - 1, frozenset(), (".ppm", ".pgm", ".pnm")),
}
"""What is written, by Pillow's names."""

SUFFIXES = tuple(suffix for holds in WRITTEN.values() for suffix in holds.suffixes)
"""Suffixes of the images that can be written."""


class Listing(NamedTuple):
    """The images of a folder."""

    files: list[Path]
    """The images, sorted."""
    notes: tuple[str, ...]
    """What a user should be told of files that were left out."""


def check_limits(width: int, height: int, pages: int) -> None:
    """Raise MaskweaveError if an image is too large, or one of several in its file."""
    if width * height > LARGEST_IMAGE:
        raise MaskweaveError(f"{width}x{height} is more than {LARGEST_IMAGE} pixels")
    if pages > 1:
        raise MaskweaveError("animations and files of several pages are not supported")


def is_image(name: str) -> bool:
    """Return whether a file of this name counts as an image.

    Hidden files do not: macOS leaves one beside each image on foreign disks, ``._photo.png``.
    """
    return not name.startswith(".") and Path(name).suffix.lower() in READ


def list_images(directory: Path) -> Listing:
    """Return the images directly in a folder, no two of which have the same stem.

    Raises
    ------
    MaskweaveError
        If the folder cannot be read, holds no image, or two images differ in their suffix only.
    """
    listing = _listed(directory, deep=False)
    twins = [s for s, number in Counter(f.stem for f in listing.files).items() if number > 1]
    if twins:
        raise MaskweaveError(f"{directory}: several images are called {', '.join(twins[:3])}")
    return listing


def find_images(directory: Path) -> Listing:
    """Return the images in a folder and in all below it.

    Links to folders are followed, each folder once. Hidden folders are left out.

    Raises
    ------
    MaskweaveError
        If the folder cannot be read or holds no image.
    """
    if not directory.is_dir():
        raise MaskweaveError(f"{directory} is not a folder")
    return _listed(directory, deep=True)


def left_out(suffixes: Iterable[str], links: Iterable[Path] = ()) -> tuple[str, ...]:
    """Return the note, if there is need of one, on what is no image.

    Parameters
    ----------
    suffixes : iterable of str
        Those of the files, possibly empty.
    links : iterable of Path
        Links that lead nowhere, or to a folder that is not searched.
    """
    counts = Counter(suffix.lower() or "without suffix" for suffix in suffixes)
    parts = []
    if counts:
        kinds = ", ".join(f"{number} {suffix}" for suffix, number in sorted(counts.items()))
        number = counts.total()
        parts.append(f"{number} {'file was' if number == 1 else 'files were'} left: {kinds}")
    if names := [str(link) for link in links]:
        more = ", ..." if len(names) > 3 else ""
        parts.append(f"links that lead to no file: {', '.join(names[:3])}{more}")
    return ("; ".join(parts),) if parts else ()


def _listed(directory: Path, deep: bool) -> Listing:
    files, suffixes, links = list[Path](), list[str](), list[Path]()
    try:
        for path in _entries(directory, set()) if deep else _visible(directory):
            if path.is_dir():
                # Folders below are another matter, but a link looks like a file in many a window.
                links += [path] if path.is_symlink() else []
            elif not path.exists():
                links.append(path)
            elif path.is_file() and is_image(path.name):
                files.append(path)
            else:
                suffixes.append(path.suffix)
    except OSError as error:
        raise MaskweaveError(f"cannot read folder {directory}: {error.strerror}") from error
    notes = left_out(suffixes, links)
    if not files:
        kinds = notes[0] if notes else f"their names end in {', '.join(sorted(READ))}"
        raise MaskweaveError(f"{directory} holds no image ({kinds})")
    return Listing(sorted(files), notes)


def _visible(directory: Path) -> list[Path]:
    return [path for path in sorted(directory.iterdir()) if not path.name.startswith(".")]


def _entries(directory: Path, visited: set[tuple[int, int]]) -> Iterator[Path]:
    """Yield what is no folder below a folder, which is searched only once however it is reached."""
    state = directory.stat()
    if (state.st_dev, state.st_ino) in visited:
        return
    visited.add((state.st_dev, state.st_ino))
    for path in _visible(directory):
        if path.is_dir():
            yield from _entries(path, visited)
        else:
            yield path
