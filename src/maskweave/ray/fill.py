"""A dataset of images becomes a dataset of rows of the manifest."""

import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
from ray.data import ActorPoolStrategy, Dataset
from ray.data.checkpoint import CheckpointConfig
from ray.exceptions import RayError

from maskweave.call import MEMORY, Pipeline
from maskweave.errors import MaskweaveError
from maskweave.manifest import identifier
from maskweave.models import DEFAULT_MODEL
from maskweave.pipeline import load_pipeline
from maskweave.ray.cluster import check_room, room_for
from maskweave.ray.filler import Filler
from maskweave.reading import Reading

MOST_BLOCKS = 10_000
"""Blocks of rows that a run is cut into at most; Ray keeps account of each."""

INPUT = pa.schema(
    [
        *(("id", pa.int64()), ("name", pa.string()), ("image", pa.string())),
        *(("mask", pa.string()), ("output", pa.string()), ("seed", pa.int64())),
        ("error", pa.string()),
    ]
)
"""Columns of the table of images."""


def fill_dataset(
    images: Dataset,
    output: str | Path | None,
    *,
    model: str = DEFAULT_MODEL,
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
        ``id``, ``name``, ``output`` and ``seed`` are read if they are there. Names must differ.
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
        each CPU but two, which read and write tables.
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
    fewest, most = workers or (1, room_for(num_gpus))
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
        If a name is no text, the cluster is too small, or no more can be filled or written.
    """
    check_room()
    unfinished = kept_by(manifest)
    try:
        given = [{"id": identifier(row["name"]), **row} for row in rows]
        table = pa.Table.from_pylist(given, INPUT)
    except UnicodeError as error:
        raise MaskweaveError("names of files hold bytes that are no text, as Ray wants") from error
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
        filled.write_parquet(str(manifest.absolute()))
    (unfinished / "images.parquet").unlink()
    unfinished.rmdir()


def kept_by(manifest: Path) -> Path:
    """Return the folder that is there while a run is not finished."""
    return manifest.with_name(f".{manifest.name}.unfinished").absolute()


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
        line = str(error).strip().splitlines()[-1].rpartition("MaskweaveError: ")[2]
        raise MaskweaveError(f"the cluster stopped: {line}") from error
