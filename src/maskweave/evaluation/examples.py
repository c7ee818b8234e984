"""True images and their holes: pairs of files with the same stem."""

import re
from collections.abc import Generator, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeVar

from maskweave.errors import MaskweaveError
from maskweave.evaluation.metrics import check_example
from maskweave.formats import list_images
from maskweave.images import Hole, Picture, Pixels, read_image
from maskweave.masks import check_fit, read_mask

Item = TypeVar("Item")

BATCH = 32
"""Images that are read and scored at once, at most."""

HELD = 1 << 24
"""Pixels beyond which no more are read at once."""


class Batch(NamedTuple):
    """Some of the examples, in memory."""

    stems: list[str]
    """Names of the images without suffix."""
    images: list[Pixels]
    """True images."""
    holes: list[Hole]
    """Their holes."""
    notes: Sequence[tuple[str, str]] = ()
    """What there is to say of masks, each with the name of its image."""


@dataclass(frozen=True)
class Examples:
    """True images and their holes, paired by stem and read when they are needed."""

    truth: dict[str, Path]
    """True images by their stems."""
    masks: dict[str, Path]
    """Masks by the same stems, and perhaps others."""
    invert_mask: bool = False
    """Whether black is the hole."""
    threshold: int = 128
    """What counts as white in a mask, from 1 to 255."""
    grow: int = 0
    """Pixels by which holes are widened."""

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
        return _together([self._read(stem) for stem in stems])

    def _read(self, stem: str) -> Batch:
        picture, image = _read_opaque(self.truth[stem])
        mask = read_mask(
            self.masks[stem], invert=self.invert_mask, threshold=self.threshold, grow=self.grow
        )
        with _named(stem):
            notes = [*mask.notes, *check_fit(mask, picture)]
        check_example(stem, image, image, mask.hole)
        return Batch([stem], [image], [mask.hole], [(stem, note) for note in notes])

    def batches(self) -> Iterator[Batch]:
        """Read some examples at a time, as memory allows, in the order of their stems."""
        held: list[Batch] = []
        for stem in self.stems:
            held.append(self._read(stem))
            if len(held) == BATCH or sum(one.holes[0].size for one in held) > HELD:
                yield _together(held)
                held = []
        if held:
            yield _together(held)

    def subset(self, number: int) -> "Examples":
        """Return so many examples, spread evenly over all."""
        chosen = spread(self.stems, number)
        return replace(self, truth={name: self.truth[name] for name in chosen})


def _together(batches: Sequence[Batch]) -> Batch:
    return Batch(*(list(chain(*parts)) for parts in zip(*batches, strict=True)))  # type: ignore[arg-type]


def spread(items: Sequence[Item], number: int) -> list[Item]:
    """Return so many items, or all if there are fewer, spread evenly over all."""
    number = min(number, len(items))
    return [items[index * len(items) // number] for index in range(number)]


def told(notes: Sequence[tuple[str, str]], n: int) -> tuple[str, ...]:
    """Return what is said of n images, each note once: those that differ in numbers are counted."""
    alike: dict[str, list[tuple[str, str]]] = {}
    for stem, note in notes:
        alike.setdefault(re.sub(r"\d+", "#", note), []).append((stem, note))
    return tuple(
        f"{len(each)} of {n} images, first {each[0][0]}: {each[0][1]}" for each in alike.values()
    )


def read_examples(
    truth: str | Path,
    masks: str | Path,
    invert_mask: bool = False,
    threshold: int = 128,
    grow: int = 0,
) -> Examples:
    """Pair two folders by stem; masks are read as ``masks.read_mask`` reads them.

    Raises
    ------
    MaskweaveError
        If a folder cannot be read or has fewer than two images, or the stems differ.
    """
    images = true_images(Path(truth))
    return Examples(images, paired(Path(masks), images), invert_mask, threshold, grow)


def true_images(directory: Path) -> dict[str, Path]:
    """Return the images of a folder by their names without suffix.

    Raises
    ------
    MaskweaveError
        If it cannot be read or has fewer than two.
    """
    images = by_stem(directory)
    if len(images) < 2:
        raise MaskweaveError(
            f"{directory}: figures of a set need at least 2 images, got {len(images)}"
        )
    return images


def by_stem(directory: Path) -> dict[str, Path]:
    """Return the images of a folder by their names without suffix."""
    return {file.stem: file for file in list_images(directory).files}


def paired(directory: Path, truth: dict[str, Path]) -> dict[str, Path]:
    """Return the images of a folder by their stems, which must be those of the truth.

    Raises
    ------
    MaskweaveError
        If a stem is missing or there is one without a true image.
    """
    files = by_stem(directory)
    missing, extra = truth.keys() - files.keys(), files.keys() - truth.keys()
    for stems, fault in ((missing, "missing"), (extra, "without a true image")):
        if stems:
            raise MaskweaveError(f"{directory}: {len(stems)} {fault}, by name: {_some(stems)}")
    return files


def read_runs(directory: Path, truth: dict[str, Path]) -> list[dict[str, Path]]:
    """Pair the results of a folder with the truth, all first samples in the first run, and so on.

    Parameters
    ----------
    directory : Path
        Folder with one result for each true image, of the same stem, or samples 1 to N of each,
        named ``STEM_1`` to ``STEM_N`` as ``maskweave inpaint --num-samples N`` writes them.
    truth : dict
        True images by their stems.

    Raises
    ------
    MaskweaveError
        If a result is missing or has no true image, or samples are mixed with results.
    """
    files = by_stem(directory)
    samples = _samples(files.keys() - truth.keys(), truth)
    if not samples:
        return [paired(directory, truth)]
    numbers = range(1, len(samples) + 1)
    expected = {f"{stem}_{number}" for stem in truth for number in numbers}
    missing, extra = expected - files.keys(), files.keys() - expected
    if whole := extra & truth.keys():
        raise MaskweaveError(
            f"{directory} mixes results of their image's name, such as {_some(whole)}, with "
            f"numbered samples, such as {_some(files.keys() - truth.keys())}"
        )
    if samples != {*numbers}:
        found = ", ".join(map(str, sorted(samples)))
        raise MaskweaveError(f"{directory}: samples are numbered from 1, without gaps, not {found}")
    for stems, fault in ((missing, "missing"), (extra, "without a true image")):
        if stems:
            raise MaskweaveError(
                f"{directory}: of samples 1 to {len(samples)} of each image {len(stems)} {fault}, "
                f"by name: {_some(stems)}"
            )
    return [{stem: files[f"{stem}_{number}"] for stem in truth} for number in numbers]


def _samples(stems: Set[str], truth: dict[str, Path]) -> set[int]:
    """Return the numbers that samples of the true images have among these stems."""
    parts = [stem.rpartition("_") for stem in stems]
    return {
        int(number)
        for stem, _, number in parts
        if stem in truth and re.fullmatch("[1-9][0-9]{0,8}", number)
    }


def _some(stems: Set[str]) -> str:
    return ", ".join(sorted(stems)[:3]) + (", ..." if len(stems) > 3 else "")


def read_rgb(file: Path) -> Pixels:
    """Read an image whose channels are all compared.

    Raises
    ------
    MaskweaveError
        If the file cannot be read, has an alpha channel or values beyond 0 to 1.
    """
    return _read_opaque(file)[1]


def _read_opaque(file: Path) -> tuple[Picture, Pixels]:
    picture = read_image(file)
    if picture.transparent is not None:
        raise MaskweaveError(f"{file} has an alpha channel, which no figure compares; remove it")
    with _named(str(file)):
        return picture, picture.pixels


@contextmanager
def _named(name: str) -> Generator[None]:
    """Say in errors what they are about."""
    try:
        yield
    except MaskweaveError as error:
        raise MaskweaveError(f"{name}: {error}") from error
