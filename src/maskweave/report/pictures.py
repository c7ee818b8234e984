"""The pictures of the evaluation report: functions from arrays to matplotlib figures.

All of them can be read in grey: colours differ in lightness, lines in their style and marker too.
Text that may come from users is never read as mathematics.
"""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from maskweave.errors import MaskweaveError
from maskweave.images import Hole, Pixels, covered

DPI = 110
"""Dots per inch at which the figures are meant to be saved."""

TILE = 128 / DPI
"""Side of a small picture in inches: 64 pixels are enlarged exactly twice."""

GAP = 8 / DPI
LINE = 14 / DPI
TEXT = 8.5
"""Size of labels in points."""

COLUMNS = 8
"""Small pictures side by side."""

TOKENS = {"known": 1.0, "kept": 0.72, "masked": 0.15}
"""Lightness of the kinds of tokens."""

LINES = (("-", "o"), ("--", "s"), ("-.", "^"), (":", "D"), ((0, (6, 1)), "v"), ((0, (2, 1)), "P"))
"""Line styles and markers."""


def decoding_panel(
    image: Pixels,
    hole: Hole,
    masked: Bool[np.ndarray, "grid grid"],
    steps: Sequence[tuple[Pixels, Bool[np.ndarray, "grid grid"]]],
    title: str,
) -> Figure:
    """Draw iterative decoding step by step: the masked tokens above the decoded image.

    Parameters
    ----------
    image : numpy.ndarray
        The input; what lies under its hole is not drawn.
    hole : numpy.ndarray
        True in the hole.
    masked : numpy.ndarray
        The tokens masked before the first step.
    steps : Sequence
        After each of the T steps: the decoded image and the tokens still masked.
    title : str
        Heading of the figure.
    """
    columns = min(COLUMNS, len(steps) + 1)
    blocks = -(-(len(steps) + 1) // columns)
    figure, axes = _tiles([2.5, 0] * blocks, columns, top=3 * LINE)
    shown = [(covered(image, hole), masked), *steps]
    for k, (picture, left) in enumerate(shown):
        block, column = divmod(k, columns)
        share = left.sum() / max(1, masked.sum())
        name = f"{k} / {len(steps)}" if k else "input"
        shades = np.select([left, masked], [TOKENS["masked"], TOKENS["kept"]], TOKENS["known"])
        _show(axes[2 * block, column], shades, f"{name}\n{share:.0%} masked")
        _show(axes[2 * block + 1, column], picture)
    _heading(figure, title)
    figure.legend(
        handles=[Patch(fc=str(shade), ec="grey", label=k) for k, shade in TOKENS.items()],
        loc="upper left",
        bbox_to_anchor=(0, 1 - 1.7 * LINE / figure.get_figheight()),
        ncols=3,
        frameon=False,
        fontsize=TEXT,
        handlelength=1.2,
        columnspacing=1.2,
        borderpad=0,
        borderaxespad=0.5,
    )
    return figure


def curves(
    values: Mapping[str, Float[np.ndarray, "seeds steps"]],
    ylabel: str,
    best: tuple[str, int] | None = None,
) -> Figure:
    """Draw a figure of merit against the number of steps: mean and range over the seeds.

    Parameters
    ----------
    values : Mapping
        The figure for every seed at t = 1 .. T, by the name of the schedule.
    ylabel : str
        Name of the figure of merit.
    best : tuple, optional
        Schedule and t that get a mark.
    """
    figure = Figure((8, 4.5), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for (name, table), style in zip(values.items(), _styles(len(values)), strict=True):
        t = np.arange(1, table.shape[1] + 1)
        lowest, highest = table.min(axis=0), table.max(axis=0)
        axes.fill_between(t, lowest, highest, color=style["color"], alpha=0.2, linewidth=0)
        axes.plot(t, table.mean(axis=0), label=name, **style)
    if best is not None:
        name, t = best
        mean = values[name][:, t - 1].mean()
        label = f"best: {name}, t = {t}: {mean:.4g}"
        axes.plot(t, mean, "o", ms=15, mfc="none", mec="black", mew=1.5, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(16, integer=True))
    axes.set(xlabel="t, steps that are run", ylabel=ylabel)
    axes.grid(color="0.9")
    counts = sorted({len(table) for table in values.values()})
    number = " or ".join(map(str, counts))
    seeds = "seed" if counts == [1] else "seeds"
    axes.legend(title=f"mean and range of {number} {seeds}", fontsize=TEXT, title_fontsize=TEXT)
    return figure


def sheet(rows: Sequence[Mapping[str, Pixels]], captions: Sequence[str]) -> Figure:
    """Arrange rows of pictures, each under its name, with a caption at the left of each row.

    Names are not repeated below a row that has the same ones.
    """
    captions = [textwrap.fill(caption, 20) for caption in captions]
    longest = max(len(line) for caption in captions for line in caption.split("\n"))
    names = [list(row) for row in rows]
    labelled = [i == 0 or names[i] != names[i - 1] for i in range(len(rows))]
    left = 2 * GAP + longest * TEXT * 0.6 / 72
    figure, axes = _tiles([int(label) for label in labelled], max(map(len, rows)), left)
    for i, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        for axis, (name, picture) in zip(axes[i], row.items(), strict=False):
            _show(axis, picture, name if labelled[i] else "")
        box = axes[i, 0].get_position()
        x, y = GAP / figure.get_figwidth(), (box.y0 + box.y1) / 2
        figure.text(x, y, caption, va="center", fontsize=TEXT, parse_math=False)
    return figure


def fills(image: Pixels, samples: Sequence[Pixels], truth: Pixels) -> Figure:
    """Draw the input, several fills of its hole, and the truth."""
    names = ["input", *(f"fill {k}" for k in range(1, len(samples) + 1)), "truth"]
    pictures = [image, *samples, truth]
    columns = min(COLUMNS, len(pictures))
    figure, axes = _tiles([1] * -(-len(pictures) // columns), columns)
    for axis, name, picture in zip(axes.flat, names, pictures, strict=False):
        _show(axis, picture, name)
    return figure


def confidence_map(
    image: Pixels,
    probability: Float[np.ndarray, "grid grid"],
    step: Float[np.ndarray, "grid grid"],
) -> Figure:
    """Draw how sure the model was of each token, and when it kept it, beside the filled image.

    Parameters
    ----------
    image : numpy.ndarray
        The filled image.
    probability : numpy.ndarray
        Probability that each token had when it was kept, in [0, 1]; NaN where the token was known.
    step : numpy.ndarray
        Step in which each token was kept, from 1; NaN where the token was known.
    """
    last = int(np.nanmax(step, initial=1))
    figure = Figure((10, 3.05), dpi=DPI, layout="constrained")
    first, second, third = figure.subplots(1, 3)
    _show(first, image, "filled image")
    _map(second, probability, "probability when kept", colormaps["viridis"], (0, 1))
    steps = colormaps["cividis"].resampled(last)
    _map(third, step, "step in which it was kept", steps, (0.5, last + 0.5))
    return figure


def losses(runs: Mapping[str, Mapping[str, Float[np.ndarray, "points 2"]]]) -> Figure:
    """Draw training and validation losses against the step, one diagram for each run.

    Parameters
    ----------
    runs : Mapping
        Curves of each run by tag, as ``read_scalars`` returns them. All but those whose tag
        begins with "validation" are noisy: they are drawn pale, behind their running mean.
    """
    columns = min(2, len(runs))
    rows = -(-len(runs) // columns)
    figure = Figure((5 * columns, 3.4 * rows), dpi=DPI, layout="constrained")
    diagrams: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in diagrams[len(runs) :]:
        axes.remove()
    for axes, (run, scalars) in zip(diagrams, runs.items(), strict=False):
        for (tag, points), style in zip(scalars.items(), _styles(len(scalars)), strict=True):
            if tag.startswith("validation"):
                axes.plot(*points.T, label=tag, **style)
            else:
                axes.plot(*points.T, color=style["color"], alpha=0.25, linewidth=0.8)
                axes.plot(
                    *_running_mean(points).T, label=tag, markevery=max(1, len(points) // 8), **style
                )
        axes.set_title(run, fontsize=10, parse_math=False)
        axes.set(xlabel="step", ylabel="loss")
        axes.grid(color="0.9")
        axes.legend(fontsize=TEXT)
    return figure


def read_scalars(logs: Path) -> dict[str, Float[np.ndarray, "points 2"]]:
    """Read the losses of a run from its TensorBoard logs.

    Parameters
    ----------
    logs : Path
        Folder of event files, searched recursively. A resumed run has several; where a step was
        logged more than once, the value written last counts.

    Returns
    -------
    dict
        For every tag with "loss" in it, step and value, by rising step.

    Raises
    ------
    MaskweaveError
        If there is no event file, or no loss in any.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = sorted(logs.rglob("events.out.tfevents.*"))
    if not files:
        raise MaskweaveError(f"{logs} holds no TensorBoard log")
    found: dict[str, list[Any]] = {}
    for file in files:
        # By default it keeps a random selection of the events.
        log = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        tags: list[str] = log.Tags()["scalars"]  # type: ignore[assignment]
        for tag in tags:
            if "loss" in tag:
                found.setdefault(tag, []).extend(log.Scalars(tag))
    if not found:
        raise MaskweaveError(f"the TensorBoard log in {logs} holds no loss")
    return {tag: _by_step(events) for tag, events in sorted(found.items())}


def _by_step(events: list[Any]) -> Float[np.ndarray, "points 2"]:
    last = {e.step: e.value for e in sorted(events, key=lambda event: event.wall_time)}
    return np.array(sorted(last.items()), dtype=np.float64)


def _running_mean(points: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "means 2"]:
    """Average over a thirtieth of the curve; the ends, where the window does not fit, are left."""
    window = max(1, len(points) // 30)
    return np.lib.stride_tricks.sliding_window_view(points, window, axis=0).mean(axis=-1)


def _styles(number: int) -> list[dict[str, Any]]:
    """Return how to draw each of several lines; they differ in lightness, style and marker."""
    colours = colormaps["viridis"](np.linspace(0, 0.8, number))
    return [
        {"color": colour, "linestyle": style, "marker": marker, "markersize": 4.5}
        for colour, (style, marker) in zip(colours, itertools.cycle(LINES), strict=False)
    ]


def _tiles(
    lines: Sequence[float], columns: int, left: float = GAP, top: float = 0.0
) -> tuple[Figure, Any]:
    """Return a figure of empty square tiles, to scale, and their axes as an array.

    ``lines`` tells how many lines of text stand above each row; margins are in inches.
    """
    heights = [number * LINE + GAP + TILE for number in lines]
    width, height = left + columns * (TILE + GAP), top + sum(heights) + GAP
    figure = Figure((width, height), dpi=DPI)
    axes = np.empty((len(lines), columns), dtype=object)
    for i, bottom in enumerate(height - top - np.cumsum(heights)):
        for j in range(columns):
            x = left + j * (TILE + GAP)
            box = (x / width, bottom / height, TILE / width, TILE / height)
            axes[i, j] = figure.add_axes(box)
            axes[i, j].axis("off")
    return figure, axes


def _show(axes: Axes, picture: np.ndarray, label: str = "") -> None:
    """Draw an image, or shades of grey in [0, 1], with crisp pixels if they are enlarged."""
    interpolation = "nearest" if len(picture) <= TILE * DPI else "antialiased"
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation=interpolation)
    _frame(axes)
    axes.set_title(label, fontsize=TEXT, pad=3, parse_math=False)


def _map(
    axes: Axes, grid: np.ndarray, label: str, colours: Colormap, limits: tuple[float, float]
) -> None:
    """Draw numbers with a colour bar; NaN is hatched, as grey alone looks like a bright colour."""
    low, high = limits
    colours = colours.with_extremes(bad="none")
    drawn = axes.imshow(grid, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
    _frame(axes)
    axes.patch.set(facecolor="0.9", edgecolor="0.7", hatch="////")
    axes.set_title(label, fontsize=TEXT, pad=3)
    axes.set_xlabel("hatched: known tokens", fontsize=TEXT)
    bar = axes.figure.colorbar(drawn, ax=axes)
    if high > 1:
        bar.locator = MaxNLocator(integer=True)
    bar.ax.tick_params(labelsize=TEXT)


def _frame(axes: Axes) -> None:
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color="0.6", linewidth=0.6)


def _heading(figure: Figure, title: str) -> None:
    x, y = GAP / figure.get_figwidth(), 1 - GAP / figure.get_figheight()
    figure.text(x, y, title, va="top", fontsize=10, weight="bold", parse_math=False)
