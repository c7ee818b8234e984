"""Throughput of Ray Data on this machine against the plain loop, by number of workers.

What is timed is one and the same class, ``maskweave.ray.Filler``: called in a loop, and by workers.
Wall time tells of a machine that has a core for each worker and nothing else to do. CPU time, of
this process and of all that Ray starts, tells also elsewhere what Ray takes beside the fills.
Starting the cluster and loading the model in each worker is timed by itself: counted is from when a
tenth of the images is written.
"""

import argparse
import json
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import ray
import torch
from PIL import Image

from maskweave.call import MEMORY
from maskweave.pipeline import load_pipeline
from maskweave.ray import Filler, fill_table
from maskweave.ray.cluster import BESIDE
from maskweave.ray.fill import INPUT
from maskweave.reading import Reading


def images(folder: Path, number: int, size: int) -> list[dict[str, Any]]:
    """Write noise and one square hole; return the rows of the table."""
    rng = np.random.default_rng(0)
    hole = np.zeros((size, size), dtype=np.uint8)
    hole[size // 4 : size // 2, size // 4 : size // 2] = 255
    Image.fromarray(hole).save(folder / "mask.png")
    rows = []
    for place in range(number):
        file = folder / f"{place:05}.png"
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(file)
        rows.append({"image": str(file), "mask": str(folder / "mask.png"), "name": file.stem})
    return rows


def look(seen: dict[tuple[int, float], float]) -> None:
    """Note the processor seconds of this process and all below it; what has ended keeps its own."""
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        try:
            seen[process.pid, process.create_time()] = sum(process.cpu_times()[:2])
        except psutil.Error:
            continue  # it has just ended


class Watch(threading.Thread):
    """Notes wall and processor time when a tenth of the files is there, and when all are."""

    def __init__(self, folder: Path, number: int) -> None:
        super().__init__(daemon=True)
        self.folder, self.goals = folder, [max(number // 10, 1), number]
        self.seen: list[tuple[int, float, float]] = []
        self.used: dict[tuple[int, float], float] = {}

    def run(self) -> None:
        """Look ten times a second."""
        while len(self.seen) < len(self.goals):
            found = sum(1 for _ in self.folder.glob("*.png"))
            look(self.used)
            if found >= self.goals[len(self.seen)]:
                self.seen.append((found, time.perf_counter(), sum(self.used.values())))
            time.sleep(0.1)

    def rates(self) -> dict[str, float]:
        """Return images per second, and milliseconds of processor time for each."""
        (first, began, used_before), (last, ended, used) = self.seen
        count = last - first
        return {
            "images_per_second": round(count / (ended - began), 2),
            "cpu_ms_per_image": round(1000 * (used - used_before) / count, 2),
        }


def plain(rows: list[dict[str, Any]], output: Path, model: str, batch: int) -> dict[str, float]:
    """Time the loop without Ray."""
    started = time.perf_counter()
    load = partial(load_pipeline, model)
    filler = Filler(
        load=load, model=model, decoding={}, output=output, masks=None, reading=Reading(), seed=0,
        quality=None, batch_size=batch, memory=MEMORY, overwrite=False,
    )  # fmt: skip
    watch = Watch(output, len(rows))
    watch.start()
    for first in range(0, len(rows), batch):
        part = [{**row, "output": None} for row in rows[first : first + batch]]
        filler(pa.Table.from_pylist(part, INPUT))
    watch.join()
    return {"workers": 0, **watch.rates(), "start_s": round(watch.seen[0][1] - started, 1)}


def on_cluster(
    rows: list[dict[str, Any]], folder: Path, model: str, batch: int, workers: int
) -> dict[str, float]:
    """Time a cluster of this machine with so many workers."""
    started = time.perf_counter()
    ray.init("local", num_cpus=workers + BESIDE, include_dashboard=False, log_to_driver=False)
    watch = Watch(folder / "out", len(rows))
    watch.start()
    fill_table(
        rows, folder / "fills.parquet", folder / "out", model=model, batch_size=batch,
        workers=(workers, workers),
    )  # fmt: skip
    watch.join()
    ended = time.perf_counter()
    ray.shutdown()
    whole = {"start_s": round(watch.seen[0][1] - started, 1), "whole_s": round(ended - started, 1)}
    return {"workers": workers, **watch.rates(), **whole}


def main() -> None:
    """Print a line of JSON for each number of workers, 0 being the plain loop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="cats64")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as in a worker, which has one CPU
    results = []
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        rows = images(folder, arguments.images, arguments.size)
        options = (arguments.model, arguments.batch_size)
        results.append(plain(rows, folder / "plain", *options))
        for workers in arguments.workers:
            (folder / f"{workers}").mkdir()
            results.append(on_cluster(rows, folder / f"{workers}", *options, workers))
        results.append(plain(rows, folder / "plain_again", *options))
    for each in results:
        print(json.dumps(each))


if __name__ == "__main__":
    main()
