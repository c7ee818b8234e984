"""How fast models fill by each backend, and how near the reference transformer comes to the GEMMs.

python benchmarks/speed.py --calibration PHOTOS prints two tables as JSON lines: fills by models,
and single passes of the reference transformer. Times are processor seconds of one thread, which
other work on the machine disturbs little, or with --threads 2 and more the seconds of a machine
that must be idle; backends take turns, and the least of all turns counts.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from maskweave.call import Photo
from maskweave.checkpoint import resolve
from maskweave.export import write_model
from maskweave.formats import list_images
from maskweave.graphs import OpenVINOGraph
from maskweave.images import as_picture
from maskweave.pipeline import InpaintPipeline
from maskweave.presets import TOKENIZERS, TRANSFORMERS
from maskweave.tokenizer.vqgan import VQGAN
from maskweave.tracing import write_graphs
from maskweave.transformer import BidirectionalTransformer

WAYS = {
    "torch float32": ("", "float32"),
    "torch bfloat16": ("", "bfloat16"),
    "OpenVINO float32": ("openvino", "float32"),
    "OpenVINO bfloat16": ("openvino", "bfloat16"),
    "OpenVINO int8": ("openvino-int8", "auto"),
    "ONNX Runtime float32": ("onnx", "float32"),
    "ONNX Runtime int8": ("onnx-int8", "float32"),
}
"""The export that a backend fills by, torch by the model itself, and the dtype."""


def export_all(model: Path, calibration: Path, work: Path, ways: list[str]) -> dict[str, Path]:
    """Return the folder of each way of running a model, written unless it is there."""
    found = {"": model}
    for name, _ in (WAYS[way] for way in ways):
        found.setdefault(name, work / name)
        if not found[name].exists():
            runtime, _, int8 = cast(Any, name.partition("-"))
            files = list_images(calibration).files[:32] if int8 else None
            write_model(model, runtime, found[name], files)
    return found


def load(folder: Path, dtype: str) -> InpaintPipeline:
    """Load a model as it is measured."""
    known = "auto" if dtype == "auto" else getattr(torch, dtype)
    return InpaintPipeline.from_pretrained(folder, torch_dtype=known)


def batch(pipeline: InpaintPipeline, count: int) -> list[Photo]:
    """Return images of the model's size whose middle, a quarter of each, is a hole."""
    height, width = pipeline.tokenizer.image_size
    hole = np.zeros((height, width), dtype=bool)
    hole[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = True
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, height // 8, width // 8, 3), dtype=np.uint8)
    return [
        Photo(as_picture(image.repeat(8, 0).repeat(8, 1)), hole, [number])
        for number, image in enumerate(images)
    ]


def fill(pipeline: InpaintPipeline, photos: list[Photo]) -> None:
    """Fill all photos in one batch."""
    for _ in pipeline.fill(photos, pipeline.defaults, batch_size=len(photos)):
        pass


def clock() -> float:
    """Return seconds: those of the processor if one thread works, else those that pass."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def seconds(work: Callable[[], Any]) -> float:
    """Return the seconds of some work."""
    started = clock()
    work()
    return clock() - started


def turns(works: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the least seconds of each work; they take turns."""
    least = dict.fromkeys(works, float("inf"))
    for _ in range(repeats):
        for name, work in works.items():
            least[name] = min(least[name], seconds(work))
    return least


def cold(folder: Path, dtype: str) -> dict[str, float]:
    """Return seconds to load and to fill first, and memory, in a process of its own."""
    threads = str(torch.get_num_threads())
    command = [sys.executable, __file__, "--threads", threads, "--cold", str(folder), dtype]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def tell_cold(folder: Path, dtype: str) -> None:
    """Print what ``cold`` returns."""
    started = clock()
    pipeline = load(folder, dtype)
    loading = clock() - started
    photos = batch(pipeline, 16)
    first = seconds(partial(fill, pipeline, photos[:1]))
    fill(pipeline, photos)
    # What getrusage tells of a child begins with the memory of its parent.
    [peak] = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    print(json.dumps({"load": loading, "first": first, "megabytes": int(peak) // 1024}))


def fills(name: str, calibration: Path, work: Path, repeats: int, ways: list[str]) -> None:
    """Print a row for each way of running a model."""
    model = resolve(name)
    folders = export_all(model, calibration, work / model.name, ways)
    loaded = {way: load(folders[WAYS[way][0]], WAYS[way][1]) for way in ways}
    rows: dict[str, dict[str, float]] = {way: {} for way in ways}
    for count in (1, 16, 64):
        photos = batch(loaded[ways[0]], count)
        works = {way: partial(fill, pipeline, photos) for way, pipeline in loaded.items()}
        turns(works, 1 if count == 1 else 0)  # warm
        for way, least in turns(works, max(1, int(repeats / count**0.5))).items():
            rows[way][f"seconds of {count}"] = round(least, 4)
    for way in ways:
        export, dtype = WAYS[way]
        told = {key: round(value, 2) for key, value in cold(folders[export], dtype).items()}
        size = sum(f.stat().st_size for f in folders[export].rglob("*") if f.is_file())
        print(json.dumps({"model": name, "way": way} | rows[way] | told | {"file_mb": size / 1e6}))


def passes(work: Path, repeats: int) -> None:
    """Print the share of the rate of bfloat16 GEMMs that the reference transformer reaches."""
    config = TRANSFORMERS["reference"].model
    torch.manual_seed(0)
    transformer = BidirectionalTransformer(config).eval()
    folder = work / "reference"
    if not folder.exists():
        folder.mkdir(parents=True)
        write_graphs(VQGAN(TOKENIZERS["cats64"].model).eval(), transformer, folder, "openvino")
    graphs = {
        dtype: OpenVINOGraph(folder / "transformer.xml", dtype)
        for dtype in (torch.float32, torch.bfloat16)
    }
    rounded = BidirectionalTransformer(config).eval().bfloat16()
    count, length, dim = 16, config.length, config.dim
    tokens = torch.randint(0, config.codebook_size, (count, length))
    wanted = torch.arange(0, count * length, 2)
    masked = torch.zeros(count * length, dtype=torch.bool)
    masked[wanted] = True
    masked = masked.view(count, length)
    sizes = [(4096, 4096, 4096), (count * length, dim, dim), (count * length, dim, config.mlp_dim)]
    products = {
        f"GEMM {m}x{k}x{n}": (torch.randn(m, k).bfloat16(), torch.randn(k, n).bfloat16())
        for m, k, n in sizes
    }
    per_token = 2 * (4 * dim**2 + 2 * dim * config.mlp_dim + 2 * length * dim)
    flops = count * length * config.depth * per_token
    flops += 2 * len(wanted) * (dim**2 + dim * config.codebook_size)
    works: dict[str, Callable[[], Any]] = {
        **{name: partial(torch.mm, *factors) for name, factors in products.items()},
        "torch float32": lambda: transformer(tokens, masked),
        "torch bfloat16": lambda: rounded(tokens, masked),
        "OpenVINO float32": lambda: graphs[torch.float32].run(tokens=tokens, wanted=wanted),
        "OpenVINO bfloat16": lambda: graphs[torch.bfloat16].run(tokens=tokens, wanted=wanted),
    }
    with torch.inference_mode():
        turns(works, 1)  # warm
        least = turns(works, repeats)
    rates = {
        name: 2 * m * k * n / least.pop(name)
        for name, (m, k, n) in zip(products, sizes, strict=True)
    }
    rate = max(rates.values())
    for way, time_ in least.items():
        share = round(flops / time_ / rate, 3)
        times = round(least["torch float32"] / time_, 2)
        print(json.dumps({"way": way, "seconds": round(time_, 3), "share": share, "times": times}))
    print(json.dumps({name: f"{each / 1e9:.0f} GFLOP/s" for name, each in rates.items()}))


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calibration", type=Path, help="folder of images for int8")
    parser.add_argument("--work", type=Path, help="folder that keeps exports")
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ways", choices=WAYS, default=list(WAYS), nargs="*")
    parser.add_argument("--models", default=["cats64"], nargs="*", help="names or folders")
    parser.add_argument("--no-passes", action="store_true")
    parser.add_argument("--cold", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.cold:
        tell_cold(Path(options.cold[0]), options.cold[1])
        return
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        if not options.no_passes:
            passes(work, options.repeats)
        for name in options.models:
            fills(name, options.calibration, work, options.repeats, options.ways)


if __name__ == "__main__":
    main()
