"""Fills of many images on one machine or a cluster, by Ray Data.

A table of images is read, each worker holds the model and fills its share of the rows, writes a
file for each and returns a row of the manifest. Pixels never leave the worker that reads them:
rows hold names of files, or bytes where a remote store was read.
"""

import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from ray.data import ActorPoolStrategy, Dataset
from ray.data.checkpoint import CheckpointConfig
from ray.exceptions import RayError

from maskweave.call import MEMORY, Photo, Pipeline
from maskweave.errors import MaskweaveError
from maskweave.files import DiskError, TakenError, sha256
from maskweave.formats import is_image
from maskweave.images import Picture
from maskweave.manifest import identifier, recipe_of, schema
from maskweave.pipeline import load_pipeline
from maskweave.reading import Reading, Source, read_photo, seeds_of
from maskweave.writing import write_picture

OBJECT_STORE = 200_000_000
"""Bytes of the object store of a cluster of one machine: rows hold no pixels."""

MOST_BLOCKS = 10_000
"""Blocks of rows that a run is cut into at most; Ray keeps account of each."""

PATIENCE = 5
"""Seconds within which a cluster has to answer."""


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
        rows = [self._row(task, row.get("error")) for task, row in zip(tasks, given, strict=True)]
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

    def _row(self, task: Task, error: str | None) -> dict[str, Any]:
        """Return what of a row of the manifest is known before the image is filled."""
        source = task.source
        return {
            "id": identifier(task.name),
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


def fill_dataset(
    images: Dataset,
    output: str | Path | None,
    *,
    model: str = "cats64",
    load: Callable[[], Pipeline] | None = None,
    masks: str | Path | None = None,
    reading: Reading | None = None,
    seed: int = 0,
    quality: int | None = None,
    batch_size: int = 16,
    memory: int = MEMORY,
    workers: tuple[int, int] | None = None,
    num_gpus: float = 0,
    overwrite: bool = False,
    **decoding: Any,
) -> Dataset:
    """Fill the images of a dataset; return the rows of the manifest, lazily.

    End it with ``write_parquet``. The bytes are those of ``maskweave inpaint`` on one machine.

    Parameters
    ----------
    images : ray.data.Dataset
        Rows of ``image`` and perhaps ``mask``: files that every worker can open, or members of
        shards as ``tars`` names them. Or what ``read_binary_files(include_paths=True)`` gives, or
        ``read_webdataset(decoder=None)`` with an image and perhaps ``mask.png`` under each key.
        ``name``, ``output`` and ``seed`` are read if they are there. Names must differ.
    output : str or Path, optional
        Folder that every worker can write to. Without it no file is written, and each row has the
        content of the fill's file as ``content``.
    model, load
        A model by name, as in ``load_pipeline``, or a function that returns what fills.
    masks : str or Path, optional
        Mask of the rows that name none: one for all, or a folder that has one of the same stem.
    reading : Reading, optional
        How masks are read.
    seed : int
        With the name of an image what its fill depends on.
    quality : int, optional
        Of JPEG files, 1 to 100.
    batch_size : int
        Images given to a worker, and crops or windows filled, at once.
    memory : int
        Megabytes that photos may take in a worker.
    workers : (int, int), optional
        Fewest and most workers. By default up to one for each GPU if they need any, else one for
        each CPU but one, which reads and writes tables.
    num_gpus : float
        GPUs of each worker.
    overwrite : bool
        Whether files that are there are replaced rather than left alone.
    **decoding
        Fields of ``DecodeSettings``.
    """
    options = {
        "load": load or partial(load_pipeline, model),
        "model": model,
        "decoding": decoding,
        "output": None if output is None else Path(output).absolute(),
        "masks": None if masks is None else Path(masks).absolute(),
        "reading": reading or Reading(),
        "seed": seed,
        "quality": quality,
        "batch_size": batch_size,
        "memory": memory,
        "overwrite": overwrite,
    }
    fewest, most = workers or (1, _room(num_gpus))
    return images.map_batches(
        Filler,
        fn_constructor_kwargs=options,
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=fewest, max_size=most),
        num_cpus=1,
        num_gpus=num_gpus or None,
    )


def fill_table(
    rows: Iterable[Mapping[str, Any]], manifest: Path, output: Path, **options: Any
) -> None:
    """Fill the images of a table and write the manifest, a folder of Parquet files.

    A run that was killed goes on where it was: rows whose part of the manifest is written are not
    looked at again. What it needs for that lies beside the manifest until all is done.

    Parameters
    ----------
    rows : iterable of mapping
        ``image`` and ``mask``, absolute, ``name``, ``output`` and ``seed`` of each fill, and
        ``error`` if it is known to fail.
    manifest : Path
        Folder that every worker can write to.
    output, **options
        As in ``fill_dataset``.

    Raises
    ------
    MaskweaveError
        If no more can be filled or written.
    """
    unfinished = kept_by(manifest)
    table = pa.Table.from_pylist([{"id": identifier(row["name"]), **row} for row in rows], INPUT)
    (unfinished / "checkpoint").mkdir(parents=True, exist_ok=True)
    pq.write_table(table, unfinished / "images.parquet")
    size = options.get("batch_size", 16)
    block = max(size, -(-table.num_rows // MOST_BLOCKS))
    with _readable():
        images = ray.data.read_parquet(str(unfinished / "images.parquet"))
        images = images.repartition(target_num_rows_per_block=block)
        filled = fill_dataset(images, output, **options)
        filled.context.enable_progress_bars = sys.stderr.isatty()
        filled.context.checkpoint_config = CheckpointConfig(
            "id", str(unfinished / "checkpoint"), delete_checkpoint_on_success=True
        )
        filled.write_parquet(str(manifest))
    (unfinished / "images.parquet").unlink()
    unfinished.rmdir()


INPUT = pa.schema(
    [
        *(("id", pa.int64()), ("name", pa.string()), ("image", pa.string())),
        *(("mask", pa.string()), ("output", pa.string()), ("seed", pa.int64())),
        ("error", pa.string()),
    ]
)
"""Columns of the table of images."""


def kept_by(manifest: Path) -> Path:
    """Return the folder that is there while a run is not finished."""
    return manifest.with_name(f".{manifest.name}.unfinished")


@contextmanager
def cluster(address: str) -> Generator[None]:
    """Connect to a cluster, or start one of this machine, and leave it at the end.

    Parameters
    ----------
    address : str
        ``local`` starts one; ``auto`` is the one that runs on this machine, ``host:port`` another.
        A process that has connected to one already stays with it.

    Raises
    ------
    MaskweaveError
        If it does not answer.
    """
    _check_answer(address)
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        cores = len(os.sched_getaffinity(0))
        options |= {"num_cpus": cores + 1, "include_dashboard": False}  # one to read and write
        options |= {"object_store_memory": OBJECT_STORE}
    try:
        ray.init(address, **options)
    except Exception as error:  # of many kinds
        raise MaskweaveError(f"no Ray cluster answers at {address}: {error}") from error
    logging.disable(logging.ERROR)  # Ray Data sets levels of its own whenever it starts
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        ray.shutdown()


def _check_answer(address: str) -> None:
    """Find out at once whether anybody listens: Ray tries for minutes and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:
        if address not in ("local", "auto"):
            raise MaskweaveError(f"a Ray cluster is local, auto or host:port, got {address!r}")
        return
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except (OSError, ValueError) as error:
        raise MaskweaveError(f"no Ray cluster answers at {address}: {error}") from error


def gpus_of(device: str) -> int:
    """Return how many GPUs a worker needs that fills on a device, as ``--device`` names it."""
    automatic = device == "auto" and ray.cluster_resources().get("GPU", 0) >= 1
    return int(automatic or device.startswith("cuda"))


def _room(num_gpus: float) -> int:
    """Return how many workers fit on the cluster, at least one."""
    has = ray.cluster_resources()
    room = has.get("GPU", 0) / num_gpus if num_gpus else has.get("CPU", 1) - 1
    return max(1, int(room))


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


@contextmanager
def _readable() -> Generator[None]:
    """Turn what Ray wraps around the error of a worker into that error, or into one line."""
    try:
        yield
    except RayError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, MaskweaveError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if isinstance(cause, MaskweaveError):
            raise cause from error
        line = str(error).strip().splitlines()[-1]
        raise MaskweaveError(f"the cluster stopped: {line}") from error
