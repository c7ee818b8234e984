"""Validation curves of runs against the time that their steps take, for docs/.

    python benchmarks/curves.py --output docs/presets.svg RUN RUN ...

A curve is called what its run's folder is called.
"""

import argparse
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from maskweave.files import read_json

PANELS = {
    "validation/loss": "loss under the holes",
    "validation/masked_accuracy": "accuracy under the holes",
}


def read(run: Path, name: str) -> tuple[list[float], list[float]]:
    """Return minutes of training at the run's median speed, and the values of a scalar."""
    log = EventAccumulator(str(run / "logs" / "maskweave"), size_guidance={"scalars": 0})
    log.Reload()
    batch = read_json(run / "recipe.json")["run"]["batch_size"]
    speed = median(event.value for event in log.Scalars("speed/images_per_second"))
    events = log.Scalars(name)
    return [e.step * batch / speed / 60 for e in events], [e.value for e in events]


def main() -> None:
    """Draw one panel per scalar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    figure = Figure((9, 3.5), layout="constrained")
    for axes, (name, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for run in arguments.runs:
            axes.plot(*read(run, name), marker=".", label=run.name)
        axes.set(xlabel="minutes", ylabel=label)
        axes.grid(color="0.9")
        axes.legend()
    figure.savefig(arguments.output)


if __name__ == "__main__":
    main()
