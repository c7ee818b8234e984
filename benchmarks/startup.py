"""Time from the start of a process to its end, its memory, and which imports take it.

    python benchmarks/startup.py [--repeats 10] [--before SRC]

Files have been read before, as by who uses it daily. Of several runs the fastest is told, as other
work only delays; its processor time tells more where there is much of that. ``--before`` is the
``src`` folder of another version, which is measured in turn with this one.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

DRAW = """
from PIL import Image
from skimage.data import chelsea
from maskweave.cli.demo import FACE
Image.fromarray(chelsea()).crop(FACE).resize((64, 64)).save("cat.png")
mask = Image.new("L", (64, 64))
mask.paste(255, (20, 24, 44, 40))
mask.save("mask.png")
"""
"""Makes what is filled, in a process of its own: one begins with the memory of its parent."""

FILL = ["-m", "maskweave", "inpaint", "cat.png", "--mask", "mask.png", "--output", "filled.png"]

COMMANDS = {
    "import maskweave": ["-c", "import maskweave"],
    "maskweave --help": ["-m", "maskweave", "--help"],
    "maskweave models": ["-m", "maskweave", "models"],
    "import torch": ["-c", "import torch"],
    "from maskweave import InpaintPipeline": ["-c", "from maskweave import InpaintPipeline"],
    "maskweave inpaint --model telea": [*FILL, "--overwrite", "--model", "telea"],
    "maskweave inpaint --model cats64": [*FILL, "--overwrite", "--model", "cats64"],
}


class Run(NamedTuple):
    """What a process took."""

    seconds: float
    processor: float
    megabytes: float


def measure(arguments: list[str], source: Path | None) -> Run:
    """Run Python once, with the package from a ``src`` folder or as it is installed."""
    path = {"PYTHONPATH": str(source)} if source else {}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=os.environ | path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"python {' '.join(arguments)} fails")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def heaviest(arguments: list[str], count: int = 5) -> str:
    """Return which packages take longest to import, each without those that it brings along."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True
    )
    spent: Counter[str] = Counter()
    for line in run.stderr.splitlines():
        if line.startswith("import time:") and "[us]" not in line:
            own, _, name = line.removeprefix("import time:").split("|")
            spent[name.strip().split(".")[0]] += int(own)
    return ", ".join(f"{name} {own / 1e6:.2f}" for name, own in spent.most_common(count))


def figures(command: list[str], sources: list[Path | None], repeats: int) -> list[str]:
    """Return the least seconds, processor seconds and megabytes, of each version in turn."""
    rounds = [[measure(command, source) for source in sources] for _ in range(repeats)]
    least = [Run(*map(min, zip(*runs, strict=True))) for runs in zip(*rounds, strict=True)]
    return [
        " / ".join(f"{run.seconds:.2f}" for run in least),
        " / ".join(f"{run.processor:.2f}" for run in least),
        " / ".join(f"{run.megabytes:.0f}" for run in least),
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--before", type=lambda name: Path(name).resolve())
    arguments = parser.parse_args()
    sources = [*filter(None, [arguments.before]), None]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        subprocess.run([sys.executable, "-c", DRAW], check=True)
        print("|", "before / now" if arguments.before else "", end=" ")
        print("| seconds | of the processor | MB | seconds of imports |\n|---|---|---|---|---|")
        for name, command in COMMANDS.items():
            row = [f"`{name}`", *figures(command, sources, arguments.repeats), heaviest(command)]
            print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
