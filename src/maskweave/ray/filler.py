"""What a worker of Ray Data does: it fills batches of rows."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa

from maskweave.call import Photo, Pipeline
from maskweave.errors import MaskweaveError
from maskweave.files import DiskError, TakenError, sha256
from maskweave.formats import is_image
from maskweave.images import Picture
from maskweave.manifest import identifier, recipe_of, schema
from maskweave.reading import Reading, Source, read_photo, seeds_of
from maskweave.writing import write_picture


class Task(NamedTuple):
    """A row of the table of images, whoever has read it."""

    source: Source
    """Where the image and its mask come from."""
    name: str
    """Name of the fill's file, without suffix."""
    output: str
    """The same with its suffix."""
    seed: int
    """The seed of the fill."""


class Filler:
    """Fills batches of rows in one worker, which loads the model once.

    Parameters
    ----------
    load : callable
        Returns what fills.
    model : str
        What the manifest calls it.
    decoding : mapping
        Overrides of the model's decode settings.
    output : Path, optional
        Folder of the fills. Without it each row gets the content of the fill's file.
    masks : Path, optional
        Mask of the rows that name none: one for all, or a folder that has one of the same stem.
    reading : Reading
        How masks are read.
    seed : int
        The seed of the run.
    quality : int, optional
        Of JPEG files.
    batch_size, memory : int
        Crops or windows filled at once, and megabytes that their photos may take.
    overwrite : bool
        Whether files that are there are replaced. Otherwise they are left alone, also those that a
        worker wrote which then died.
    """

    def __init__(
        self,
        load: Callable[[], Pipeline],
        model: str,
        decoding: Mapping[str, Any],
        output: Path | None,
        masks: Path | None,
        reading: Reading,
        seed: int,
        quality: int | None,
        batch_size: int,
        memory: int,
        overwrite: bool,
    ) -> None:
        self.pipeline = load()
        self.settings = self.pipeline.settings(**decoding)
        self.recipe = recipe_of(self.pipeline, model, seed, self.settings)
        self.output, self.reading, self.seed, self.quality = output, reading, seed, quality
        self.batch_size, self.memory, self.overwrite = batch_size, memory, overwrite
        several = masks is not None and masks.is_dir()
        self.masks = {file.stem: file for file in masks.iterdir()} if masks and several else masks

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Fill a batch of rows; return those of the manifest."""
        started = time.perf_counter()
        given = batch.to_pylist()
        tasks = [self._task(row) for row in given]
        rows = [self._row(task, row) for task, row in zip(tasks, given, strict=True)]
        with tempfile.TemporaryDirectory() as folder:
            where = self.output or Path(folder)
            begun: list[int] = []
            photos = self._photos(tasks, rows, where, begun)
            for place, fills in self.pipeline.fill(
                photos, self.settings, batch_size=self.batch_size, memory=self.memory
            ):
                number = begun[place]
                self._write(tasks[number], rows[number], fills[0][-1].image, where)
        seconds = (time.perf_counter() - started) / max(len(begun), 1)
        for number in begun:
            rows[number]["seconds"] = round(seconds, 3)
        return self._table(rows)

    def _photos(
        self, tasks: list[Task], rows: list[dict[str, Any]], where: Path, begun: list[int]
    ) -> Iterator[Photo]:
        """Yield the photos that are to be filled; of others their rows tell why they are not."""
        for number, (task, row) in enumerate(zip(tasks, rows, strict=True)):
            file = where / task.output
            if row["error"]:
                continue
            if not self.overwrite and os.path.lexists(file):
                self._found(row, file)
                continue
            try:
                photo, _ = read_photo(task.source, [task.seed], file, self.reading)
            except MaskweaveError as error:
                row |= {"status": "failed", "error": " ".join(str(error).split())}
            else:
                begun.append(number)
                yield photo

    def _found(self, row: dict[str, Any], file: Path) -> None:
        if file.is_dir():
            row |= {"status": "failed", "error": f"{file} is a folder"}
        else:
            row |= {"status": "there", "sha256": sha256(file)}

    def _write(self, task: Task, row: dict[str, Any], picture: Picture, where: Path) -> None:
        file, source = where / task.output, task.source.image
        try:
            write_picture(
                picture,
                file,
                replace=self.overwrite,
                source=source if source.is_file() else None,
                quality=self.quality,
            )
        except TakenError:
            self._found(row, file)
        except DiskError:
            raise  # the next would meet it as well
        except MaskweaveError as error:
            row |= {"status": "failed", "error": " ".join(str(error).split())}
        else:
            row |= {"status": "done", "sha256": sha256(file)}
            if self.output is None:
                row["content"] = file.read_bytes()

    def _task(self, row: Mapping[str, Any]) -> Task:
        source = _source(row)
        mask = source.mask
        if mask is None and source.mask_content is None and self.masks is not None:
            stem = source.image.stem
            mask = self.masks.get(stem) if isinstance(self.masks, dict) else self.masks
            source = source._replace(mask=mask)
        name = row.get("name") or source.image.stem
        seed = row.get("seed")
        if seed is None:
            [seed] = seeds_of(self.seed, source.image, 1)
        return Task(source, name, row.get("output") or f"{name}.png", seed)

    def _row(self, task: Task, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what of a row of the manifest is known before the image is filled."""
        source, error = task.source, given.get("error")
        return {
            "id": identifier(task.name) if given.get("id") is None else given["id"],
            "name": task.name,
            "image": str(source.image),
            "mask": str(source.mask) if source.mask else None,
            "output": task.output,
            "status": "failed" if error else None,
            "error": error,
            "seed": task.seed,
            "invert": self.reading.invert,
            "threshold": self.reading.threshold,
            "grow": self.reading.grow,
            "quality": self.quality,
            "recipe": self.recipe,
        }

    def _table(self, rows: list[dict[str, Any]]) -> pa.Table:
        columns = schema()
        if self.output is None:
            columns = columns.append(pa.field("content", pa.binary()))
        return pa.Table.from_pylist(rows, columns)


def _source(row: Mapping[str, Any]) -> Source:
    """Return where an image and its mask come from, whichever reader made the row."""
    if row.get("image"):
        mask = row.get("mask")
        return Source(Path(row["image"]), Path(mask) if mask else None)
    if "path" in row and "bytes" in row:
        return Source(Path(row["path"]), None, row["bytes"])
    if "__key__" in row:
        key = PurePosixPath(row["__key__"])
        filled = {name: each for name, each in row.items() if isinstance(each, bytes)}
        images = [name for name in filled if is_image(f"{key.name}.{name}")]
        masks = [name for name in images if name.startswith("mask.")]
        images = [name for name in images if name not in masks]
        if len(images) == 1:
            image = Path(f"{key}.{images[0]}")
            mask = Path(f"{key}.{masks[0]}") if masks else None
            return Source(image, mask, filled[images[0]], filled[masks[0]] if masks else None)
    raise MaskweaveError(f"a row holds no image: it has {', '.join(row)}")
