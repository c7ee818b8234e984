"""Windows of one size laid over a hole, in rounds of such as may be filled at once.

Pure geometry, on holes and arrays alone: ``levels`` says which hole, at which resolution.
"""

import itertools
import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Int, Shaped

from maskweave.errors import MaskweaveError


class Window(NamedTuple):
    """A square of a photo and the core of it whose hole pixels are filled from it.

    It reaches beyond the photo, down or to the right, only where a side of that is shorter.
    """

    rows: slice
    """Vertical extent of the window in the photo, in pixels."""
    columns: slice
    """Horizontal extent of the window in the photo, in pixels."""
    core_rows: slice
    """Vertical extent of the core in the photo, in pixels."""
    core_columns: slice
    """Horizontal extent of the core in the photo, in pixels."""

    def part(self, hole: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "side side"]:
        """Return the pixels of the window that it fills, of the hole that it was planned for."""
        side = self.rows.stop - self.rows.start
        inside = np.zeros((side, side), dtype=bool)
        inside[self._core()] = hole[self.core_rows, self.core_columns]
        return inside

    def cut(
        self, array: Shaped[np.ndarray, "height width *channels"], outside: float | None
    ) -> Shaped[np.ndarray, "side side *channels"]:
        """Return what lies in the window; beyond the photo ``outside``, or with None its border.

        A view, if the window lies within the photo. Cut a hole with True: nothing is known outside.
        """
        cut = array[self.rows, self.columns]
        side = self.rows.stop - self.rows.start
        below, beside = side - cut.shape[0], side - cut.shape[1]
        around = [(0, below), (0, beside), *[(0, 0)] * (cut.ndim - 2)]
        if not (below or beside):
            return cut
        if outside is None:
            return np.pad(cut, around, mode="edge")
        return np.pad(cut, around, constant_values=outside)

    def paste(
        self,
        canvas: Shaped[np.ndarray, "height width *channels"],
        picture: Shaped[np.ndarray, "side side *channels"],
        hole: Bool[np.ndarray, "height width"],
    ) -> None:
        """Copy the window's part of the hole from a picture of the window into the photo."""
        part = hole[self.core_rows, self.core_columns]
        canvas[self.core_rows, self.core_columns][part] = picture[self._core()][part]

    def _core(self) -> tuple[slice, slice]:
        """Return the core in the window's own coordinates."""
        top, left = self.rows.start, self.columns.start
        return (
            slice(self.core_rows.start - top, self.core_rows.stop - top),
            slice(self.core_columns.start - left, self.core_columns.stop - left),
        )


def plan_windows(
    hole: Bool[np.ndarray, "height width"], window: int, *, context: float = 0.25
) -> list[list[Window]]:
    """Cover a hole by few windows, each with known or painted context around what it fills.

    Parameters
    ----------
    hole : numpy.ndarray
        True where pixels are to be filled: ``thin`` or ``thick`` of a level.
    window : int
        Side of the windows in pixels.
    context : float
        From 0 to below 0.5: share of a window that lies on each side of its core, wherever the
        photo has it. Along a side of the photo that fits into a window a core may be of any length.

    Returns
    -------
    list of list of Window
        Rounds. Windows of one round share no pixel, so they may be filled at once and in any order;
        those of a later round see what earlier ones filled. The windows with the least hole come
        first. Every hole pixel lies in the core of exactly one window.

    Raises
    ------
    MaskweaveError
        If the window or its core has no pixel.
    """
    margin = math.ceil(context * window)
    if context < 0 or window - 2 * margin < 1:
        raise MaskweaveError(f"a window of {window} pixels has no core within context {context}")
    height, width = (side if side <= window else window - 2 * margin for side in hole.shape)
    windows: list[Window] = []
    for cluster, top, left in _clusters(hole, height, width):
        for core in _cores(cluster, height, width, top, left):
            rows, columns = (_around(*axis, window) for axis in zip(core, hole.shape, strict=True))
            windows.append(Window(rows, columns, *core))
    windows.sort(key=lambda one: (one.core_rows.start, one.core_columns.start))
    windows.sort(key=lambda one: np.count_nonzero(hole[one.rows, one.columns]))
    return _rounds(windows, window)


def _clusters(
    hole: Bool[np.ndarray, "height width"], height: int, width: int
) -> list[tuple[Bool[np.ndarray, "rows columns"], int, int]]:
    """Split a hole where it leaves cells of a core's size empty, so that no core joins two parts.

    Each comes with the top and left of its box.
    """
    tops, lefts = (
        np.arange(0, side, step) for side, step in zip(hole.shape, (height, width), strict=True)
    )
    cells = np.logical_or.reduceat(np.logical_or.reduceat(hole, tops, axis=0), lefts, axis=1)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(cells.astype(np.uint8), connectivity=8)
    clusters: list[tuple[np.ndarray, int, int]] = []
    for label, (left, top, columns, rows, _) in enumerate(stats[1:].tolist(), start=1):
        box = labels[top : top + rows, left : left + columns]
        y, x = top * height, left * width
        cluster = hole[y : y + rows * height, x : x + columns * width]
        if ((box != 0) & (box != label)).any():
            own = (box == label).repeat(height, axis=0).repeat(width, axis=1)
            cluster = cluster & own[: cluster.shape[0], : cluster.shape[1]]
        clusters.append((cluster, y, x))
    return clusters


def _cores(
    cluster: Bool[np.ndarray, "rows columns"], height: int, width: int, top: int, left: int
) -> list[tuple[slice, slice]]:
    """Cover a cluster by cores of at most height x width, each shrunk to the hole in it.

    Strips of rows or strips of columns, whichever takes fewer: one follows a scratch along its
    length. ``top`` and ``left`` say where the cluster lies in the photo.
    """
    by_rows = _strips(cluster, height, width)
    by_columns = [(rows, columns) for columns, rows in _strips(cluster.T, width, height)]
    cores: list[tuple[slice, slice]] = []
    for box in min(by_rows, by_columns, key=len):
        rows, columns = (np.flatnonzero(cluster[box].any(axis)).tolist() for axis in (1, 0))
        y, x = top + box[0].start, left + box[1].start
        across = slice(x + columns[0], x + columns[-1] + 1)
        cores.append((slice(y + rows[0], y + rows[-1] + 1), across))
    return cores


# Gonzalez 1991, "Covering a set of points in multidimensional space", with strips that may be lower
def _strips(
    cluster: Bool[np.ndarray, "rows columns"], height: int, width: int
) -> list[tuple[slice, slice]]:
    """Return boxes that cover a cluster, strip by strip of at most ``height`` rows.

    Every strip starts at a hole pixel not covered yet, and every box of the strip likewise. Of
    four heights the strip has that with the most hole in a box: a diagonal scratch leaves a strip
    as high as a box is wide at its side.
    """
    boxes: list[tuple[slice, slice]] = []
    rows = np.flatnonzero(cluster.any(axis=1))
    while len(rows):
        best, most = [], 0.0
        for eighths in (8, 7, 6, 5):
            strip = slice(int(rows[0]), int(rows[0]) + max(height * eighths // 8, 1))
            lefts = _greedy(np.flatnonzero(cluster[strip].any(axis=0)), width)
            filled = np.count_nonzero(cluster[strip]) / len(lefts)
            if filled > most:
                most, best = filled, [(strip, slice(left, left + width)) for left in lefts]
        boxes += best
        rows = rows[np.searchsorted(rows, best[0][0].stop) :]
    return boxes


def _greedy(positions: Int[np.ndarray, "count"], reach: int) -> list[int]:
    """Return where the fewest intervals of a length start that cover rising positions."""
    starts: list[int] = []
    while len(positions):
        starts.append(int(positions[0]))
        positions = positions[np.searchsorted(positions, positions[0] + reach) :]
    return starts


def _around(core: slice, side: int, window: int) -> slice:
    """Center a window on a core, moved to lie within the photo; a short side it covers whole."""
    start = min(max((core.start + core.stop - window) // 2, 0), max(side - window, 0))
    return slice(start, start + window)


def _rounds(windows: list[Window], side: int) -> list[list[Window]]:
    """Put each window into the first round in which it meets no other."""
    cells: dict[tuple[int, int], list[tuple[int, int, int]]] = {}  # so that few are compared
    rounds: list[list[Window]] = []
    for window in windows:
        top, left = window.rows.start, window.columns.start
        row, column = top // side, left // side
        used = {
            number
            for cell in itertools.product(range(row - 1, row + 2), range(column - 1, column + 2))
            for y, x, number in cells.get(cell, ())
            if abs(y - top) < side and abs(x - left) < side
        }
        number = next(number for number in itertools.count() if number not in used)
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(window)
        cells.setdefault((row, column), []).append((top, left, number))
    return rounds
