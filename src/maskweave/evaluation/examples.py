"""True images and their holes: pairs of files with the same stem."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from maskweave.errors import MaskweaveError
from maskweave.evaluation.metrics import check_example
from maskweave.images import Hole, Pixels, list_images, read_image, read_mask

Item = TypeVar("Item")

BATCH = 32
"""Images that are read and scored at once."""


class Batch(NamedTuple):
    """Some of the examples, in memory."""

    stems: list[str]
    images: list[Pixels]
    """The truth."""
    holes: list[Hole]


@dataclass(frozen=True)
class Examples:
    """True images and their holes, paired by stem and read when they are needed."""

    truth: dict[str, Path]
    masks: dict[str, Path]
    invert_mask: bool = False

    def __len__(self) -> int:
        """Return their number."""
        return len(self.truth)

    @property
    def stems(self) -> list[str]:
        """Their names, in the order of all figures."""
        return sorted(self.truth)

    def read(self, stems: Sequence[str]) -> Batch:
        """Read some of the examples.

        Raises
        ------
        MaskweaveError
            If a file cannot be read, or an image and its mask differ in size or cannot be measured.
        """
        images = [read_rgb(self.truth[stem]) for stem in stems]
        holes = [read_mask(self.masks[stem], self.invert_mask) for stem in stems]
        for stem, image, hole in zip(stems, images, holes, strict=True):
            check_example(stem, image, image, hole)
        return Batch([*stems], images, holes)

    def batches(self) -> Iterator[Batch]:
        """Read ``BATCH`` examples at a time, in the order of their stems."""
        for start in range(0, len(self), BATCH):
            yield self.read(self.stems[start : start + BATCH])

    def subset(self, number: int) -> "Examples":
        """Return so many examples, spread evenly over all."""
        chosen = spread(self.stems, number)
        return Examples({name: self.truth[name] for name in chosen}, self.masks, self.invert_mask)


def spread(items: Sequence[Item], number: int) -> list[Item]:
    """Return so many items, or all if there are fewer, spread evenly over all."""
    number = min(number, len(items))
    return [items[index * len(items) // number] for index in range(number)]


def read_examples(truth: Path, masks: Path, invert_mask: bool = False) -> Examples:
    """Pair two folders by stem.

    Raises
    ------
    MaskweaveError
        If a folder cannot be read or has fewer than two images, or the stems differ.
    """
    images = by_stem(truth)
    holes = paired(masks, images)
    if len(images) < 2:
        raise MaskweaveError(f"{truth}: figures of a set need at least 2 images, got {len(images)}")
    return Examples(images, holes, invert_mask)


def by_stem(directory: Path) -> dict[str, Path]:
    """Return the images of a folder by their names without suffix."""
    return {file.stem: file for file in list_images(directory)}


def paired(directory: Path, truth: dict[str, Path]) -> dict[str, Path]:
    """Return the images of a folder by their stems, which must be those of the truth.

    Raises
    ------
    MaskweaveError
        If a stem is missing or one too many.
    """
    files = by_stem(directory)
    missing, extra = truth.keys() - files.keys(), files.keys() - truth.keys()
    for stems, fault in ((missing, "missing"), (extra, "too many")):
        if stems:
            names = ", ".join(sorted(stems)[:3]) + (", ..." if len(stems) > 3 else "")
            raise MaskweaveError(f"{directory}: {len(stems)} {fault}, by name: {names}")
    return files


def read_rgb(file: Path) -> Pixels:
    """Read an image whose channels are all compared.

    Raises
    ------
    MaskweaveError
        If the file cannot be read or has an alpha channel.
    """
    picture = read_image(file)
    if picture.transparent is not None:
        raise MaskweaveError(f"{file} has an alpha channel, which no figure compares; remove it")
    return picture.pixels
