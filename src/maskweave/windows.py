"""Where photos of any size are filled: levels from coarse to fine, windows laid over the hole.

Pure geometry, on holes and arrays alone. A photo is filled on a way down and up again through
``plan_levels``: down, from native pixels on, windows over ``thin``, then ``shrink_photo``; up,
windows over ``thick``, guided by the level below, enlarged by ``enlarge_guide``. So thin holes
never take the detour, and the level below always is a whole picture.
"""

import itertools
import math
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from maskweave.errors import MaskweaveError


class Level(NamedTuple):
    """A photo at one resolution, and what of it is filled there."""

    exponent: int
    """k: the photo is shrunk k times by 2."""
    thin: Bool[np.ndarray, "height width"]
    """Hole pixels that are filled from their surroundings alone, before the photo is shrunk."""
    thick: Bool[np.ndarray, "height width"]
    """Hole pixels that are filled at the next level first, which is then their guide."""


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
        self, array: Shaped[np.ndarray, "height width *channels"], outside: float
    ) -> Shaped[np.ndarray, "side side *channels"]:
        """Return what lies in the window, with ``outside`` beyond the photo.

        A view, if the window lies within the photo. Cut a hole with True: nothing is known outside.
        """
        return self._padded(array[self.rows, self.columns], outside)

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

    def _padded(self, cut: np.ndarray, outside: float) -> np.ndarray:
        below = self.rows.stop - self.rows.start - cut.shape[0]
        beside = self.columns.stop - self.columns.start - cut.shape[1]
        around = [(0, below), (0, beside), *[(0, 0)] * (cut.ndim - 2)]
        return np.pad(cut, around, constant_values=outside) if below or beside else cut


def thickness(hole: Bool[np.ndarray, "height width"]) -> float:
    """Return twice the largest distance from a hole pixel to a known one, in pixels.

    A scratch is as thick as it is wide, however long. Nothing is known beyond the photo, so a hole
    along its border is twice as thick as it is wide: it is filled from one side alone. A photo
    without a known pixel is as thick as its longer side is long.
    """
    if hole.all():
        return float(max(hole.shape))
    return 2 * float(_distance(hole).max())


def plan_levels(hole: Bool[np.ndarray, "height width"], window: int) -> list[Level]:
    """Say at which resolutions a photo is filled, from native pixels to the coarsest.

    A pixel is filled from its surroundings alone at the first level at which the hole around it is
    at most half a window thick. Thickness is local: of a blob with a long tail the tail stays at
    native pixels. A level that fits into a window is not shrunk further. The coarsest level is the
    one without ``thick``.

    Parameters
    ----------
    hole : numpy.ndarray
        True in the hole of the photo.
    window : int
        Side of a window in pixels.

    Returns
    -------
    list of Level
        With exponents 0, 1, 2, ...; ``thin`` and ``thick`` share no pixel, and both together are
        the hole at level 0 and ``thick``, shrunk, at the next.
    """
    levels: list[Level] = []
    while True:
        thick = _thick(hole, window)
        levels.append(Level(len(levels), hole & ~thick, thick))
        if not thick.any():
            return levels
        hole = _shrink_hole(thick)


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


def shrink_photo(
    pixels: Shaped[np.ndarray, "height width channels"], hole: Bool[np.ndarray, "height width"]
) -> tuple[
    Shaped[np.ndarray, "half_height half_width channels"],
    Bool[np.ndarray, "half_height half_width"],
]:
    """Shrink a photo by 2, each pixel the mean of what is known of its four finer ones.

    A coarse pixel is known if at least half of its finer ones are: so the hole keeps its place and
    area from level to level, where any stricter or laxer rule lets it grow or wither. Sides are
    rounded up.

    Returns
    -------
    pixels : numpy.ndarray
        The smaller photo, of the same kind of numbers, 0 in the hole. Of ``pixels`` nothing is read
        under the hole.
    hole : numpy.ndarray
        The smaller hole, as in ``plan_levels``.
    """
    small = _shrink_hole(hole)
    total = np.zeros((*small.shape, pixels.shape[2]), dtype=np.float32)
    known = np.zeros((*small.shape, 1), dtype=np.float32)
    for row, column in itertools.product((0, 1), repeat=2):
        keep = ~hole[row::2, column::2, None]
        here = tuple(slice(side) for side in keep.shape[:2])  # odd photos lack the last ones
        total[here] += np.where(keep, pixels[row::2, column::2], 0)
        known[here] += keep
    mean = total / np.maximum(known, 1)
    mean[small] = 0
    if np.issubdtype(pixels.dtype, np.integer):
        mean = np.rint(mean)
    return mean.astype(pixels.dtype), small


def enlarge_guide(
    coarse: Shaped[np.ndarray, "half_height half_width channels"], height: int, width: int
) -> Shaped[np.ndarray, "height width channels"]:
    """Enlarge a filled photo by 2, undoing ``shrink_photo``: bilinear, which keeps ramps.

    ``height`` and ``width`` are those of the finer level, twice the coarse ones or one less.
    """
    rows, columns = coarse.shape[:2]
    fine = cv2.resize(coarse, (2 * columns, 2 * rows), interpolation=cv2.INTER_LINEAR)
    return fine.reshape(2 * rows, 2 * columns, -1)[:height, :width]


def _thick(hole: Bool[np.ndarray, "height width"], window: int) -> Bool[np.ndarray, "height width"]:
    """Return the hole pixels near those that are more than a quarter of a window deep.

    Near is within half a window: in a corner, a blob's pixels are sqrt(2) quarters from the deep.
    """
    thick = np.zeros_like(hole)
    if max(hole.shape) <= window:
        return thick
    # A disc holds a square, and squares are quick to find: most photos are done with here, and of
    # others only the part that matters is measured.
    square = np.ones((2 * int(window / 4 / math.sqrt(2)) + 1,) * 2, dtype=np.uint8)
    candidates = cv2.erode(hole.astype(np.uint8), square)
    left, top, width, height = cv2.boundingRect(candidates)
    if not width:
        return thick
    rows = slice(max(top - window, 0), top + height + window)
    box = (rows, slice(max(left - window, 0), left + width + window))
    deep = (_distance(hole[box]) > window / 4) & (candidates[box] > 0)
    if deep.any():
        thick[box] = hole[box] & (_distance(~deep) <= window / 2)
    return thick


def _distance(hole: Bool[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    """Return the distance of every hole pixel to the nearest that is none; huge without one."""
    return cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _shrink_hole(
    hole: Bool[np.ndarray, "height width"],
) -> Bool[np.ndarray, "half_height half_width"]:
    """Return which coarse pixels are hole: those of which less than half is known."""
    balance = np.where(hole, np.int8(1), np.int8(-1))
    for axis, side in enumerate(hole.shape):
        balance = np.add.reduceat(balance, np.arange(0, side, 2), axis=axis, dtype=np.int8)
    return balance > 0


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
    starts = np.array([(one.rows.start, one.columns.start) for one in windows]).reshape(-1, 2).T
    taken = np.zeros(len(windows), dtype=int)
    rounds: list[list[Window]] = []
    for i, window in enumerate(windows):
        meets = (np.abs(starts[:, :i] - starts[:, i, None]) < side).all(axis=0)
        used = set(taken[:i][meets].tolist())
        taken[i] = next(number for number in itertools.count() if number not in used)
        if taken[i] == len(rounds):
            rounds.append([])
        rounds[taken[i]].append(window)
    return rounds
