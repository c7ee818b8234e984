"""Classical ways to fill holes, which need no model and know no domain.

Each is a pure function of a photo and its hole: nothing under the hole is read, and nothing outside
it changes. They suit holes that are thin, in photos of anything.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol

import cv2
import numpy as np

from maskweave.call import Filled, Photo, Pipeline, StepPicture
from maskweave.errors import MaskweaveError
from maskweave.images import Hole, Pixels, covered
from maskweave.levels import enlarge_guide, shrink_photo
from maskweave.maskgit import DecodeSettings
from maskweave.models import METHODS as NAMES
from maskweave.windows import plan_windows

Fill = Callable[[Pixels, Hole], Pixels]
"""Fills the hole of a window; both are left as they are."""

OnWindows = Callable[[int, int], None]
"""Told how many windows were filled just now, and how many further ones are planned."""


def tell_nobody(_filled: int, _further: int) -> None:
    """Keep silent about windows."""


class Method(Protocol):
    """Fills the hole of a photo, in windows if it is large; both are left as they are."""

    def __call__(
        self, pixels: Pixels, hole: Hole, side: int = ..., on_windows: OnWindows = tell_nobody
    ) -> Pixels:
        """Return the filled photo, as ``telea`` does."""
        ...


RADIUS = 3
"""Pixels around each hole pixel that OpenCV looks at, as in its documentation's example."""

BLOCK = 16
"""Side of the blocks that OpenCV's FSR fills; what is left over at the right and at the bottom it
does not fill."""

SIDE = 256
"""Side of a window in pixels. A photo that fits in is filled in one go, and no method is ever given
more: memory and time of the biharmonic equations rise faster than the number of hole pixels."""

MARGIN = 32
"""Pixels around the part of a hole that a window fills, all that a method sees of the photo."""

DEEP = 32
"""Pixels from the nearest known one beyond which a hole is filled at half the resolution: it is
smooth there, and parts that thin hardly depend on what lies beyond the margin."""


def telea(
    pixels: Pixels, hole: Hole, side: int = SIDE, on_windows: OnWindows = tell_nobody
) -> Pixels:
    """Fill by fast marching (Telea 2004), with OpenCV.

    Parameters
    ----------
    pixels : numpy.ndarray
        A photo of any size, uint8, (height, width, 3). Nothing is read under the hole.
    hole : numpy.ndarray
        True in the hole, (height, width). A photo that is all hole becomes grey.
    side : int
        Longest side, in pixels, of a photo that is filled in one go, as the method was published.
    on_windows : callable
        Told of the windows. All are planned before the first is filled.

    Returns
    -------
    numpy.ndarray
        The filled photo, of which known pixels are as they were.
    """
    return _by_windows(partial(_opencv, cv2.INPAINT_TELEA), pixels, hole, side, on_windows)


def navier_stokes(
    pixels: Pixels, hole: Hole, side: int = SIDE, on_windows: OnWindows = tell_nobody
) -> Pixels:
    """Fill by fluid dynamics (Bertalmio et al. 2001), with OpenCV, as ``telea`` does."""
    return _by_windows(partial(_opencv, cv2.INPAINT_NS), pixels, hole, side, on_windows)


def biharmonic(
    pixels: Pixels, hole: Hole, side: int = SIDE, on_windows: OnWindows = tell_nobody
) -> Pixels:
    """Fill with a biharmonic function (Damelin and Hoang 2018), with scikit-image, as ``telea``."""
    return _by_windows(_biharmonic, pixels, hole, side, on_windows)


def fsr(
    pixels: Pixels, hole: Hole, side: int = SIDE, on_windows: OnWindows = tell_nobody
) -> Pixels:
    """Fill by frequency selective reconstruction, OpenCV contrib's fast profile, as ``telea`` does.

    Seiler et al. 2015 and Genser et al. 2018. It goes on with textures, and is the slowest.
    """
    return _by_windows(_fsr, pixels, hole, side, on_windows)


METHODS: dict[str, Method] = dict(zip(NAMES, (telea, navier_stokes, biharmonic, fsr), strict=True))
"""Every method by the name that users give."""


class ClassicalPipeline(Pipeline):
    """Fills holes in images of any size by a classical method."""

    def __init__(self, name: str) -> None:
        if name not in METHODS:
            raise MaskweaveError(f"method is one of {', '.join(METHODS)}, got {name!r}")
        self.name = name

    def settings(self, **overrides: Any) -> DecodeSettings:
        """Return settings that say that there is one answer, in one step.

        Raises
        ------
        MaskweaveError
            If there are overrides.
        """
        if given := [name for name, value in overrides.items() if value is not None]:
            raise MaskweaveError(f"{self.name} decodes nothing: it has no {', '.join(given)}")
        return DecodeSettings(paint="expected")

    def fill(
        self,
        photos: Iterable[Photo],
        settings: DecodeSettings,
        *,
        on_progress: Callable[[int, int], None] | None = None,
        **_: Any,
    ) -> Iterator[Filled]:
        """Fill photos as they come, one at a time, and yield each as soon as it is finished."""
        planned = 0

        def on_windows(filled: int, further: int) -> None:
            nonlocal planned
            planned += further
            if on_progress is not None:
                on_progress(filled, planned)

        for place, (picture, hole, seeds) in enumerate(photos):
            if len(seeds) > 1:
                raise MaskweaveError(f"{self.name} draws nothing: there is one fill, not several")
            painted = METHODS[self.name](picture.seen(hole), hole, on_windows=on_windows)
            filled = picture.filled(painted, hole)
            yield place, [[StepPicture(filled, np.zeros_like(hole))]]


def _by_windows(
    method: Fill, pixels: Pixels, hole: Hole, side: int, on_windows: OnWindows
) -> Pixels:
    """Fill a photo in windows that see what earlier ones filled, deep parts at half the size.

    A photo whose longest side is at most ``side`` gets exactly what the method makes of it.
    """
    if not hole.any() or hole.all():
        return covered(pixels, hole)
    if max(hole.shape) <= side:
        on_windows(0, 1)
        filled = method(pixels, hole)
        on_windows(1, 0)
        return filled
    left, top, width, height = cv2.boundingRect(hole.astype(np.uint8))
    box = (
        slice(max(top - SIDE, 0), top + height + SIDE),
        slice(max(left - SIDE, 0), left + width + SIDE),
    )
    filled = pixels.copy()
    near, unknown = filled[box], hole[box].copy()
    deep = (
        cv2.distanceTransform(unknown.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > DEEP
    )
    rounds = plan_windows(unknown & ~deep, SIDE, context=MARGIN / SIDE)
    on_windows(0, sum(map(len, rounds)))
    if deep.any():
        coarse = _by_windows(method, *shrink_photo(near, unknown), SIDE, on_windows)
        near[deep] = enlarge_guide(coarse, *deep.shape)[deep]
        unknown &= ~deep
    for window in itertools.chain(*rounds):
        core = (window.core_rows, window.core_columns)
        around = tuple(slice(max(side.start - MARGIN, 0), side.stop + MARGIN) for side in core)
        painted = method(near[around], unknown[around])
        part = np.zeros_like(unknown[around])
        inner = tuple(
            slice(side.start - seen.start, side.stop - seen.start)
            for side, seen in zip(core, around, strict=True)
        )
        part[inner] = unknown[core]
        near[around][part] = painted[part]
        unknown[core] = False
        on_windows(1, 0)
    return filled


def _opencv(kind: int, pixels: Pixels, hole: Hole) -> Pixels:
    # OpenCV reads under the hole where it meets the border of the image, and beyond the memory of
    # an image that is one pixel high or wide.
    height, width = hole.shape
    beyond = [(0, int(side == 1)) for side in hole.shape]
    shown = np.pad(covered(pixels, hole), [*beyond, (0, 0)], mode="edge")
    where = np.pad(hole, beyond, mode="edge").astype(np.uint8)
    return cv2.inpaint(shown, where, RADIUS, kind)[:height, :width]


def _biharmonic(pixels: Pixels, hole: Hole) -> Pixels:
    # It brings SciPy along, which takes longer to import than most fills.
    from skimage.restoration import inpaint_biharmonic

    filled = inpaint_biharmonic(covered(pixels, hole), hole, channel_axis=-1)
    return (filled * 255).round().clip(0, 255).astype(np.uint8)


def _fsr(pixels: Pixels, hole: Hole) -> Pixels:
    height, width = hole.shape
    beyond = [(0, -side % BLOCK) for side in hole.shape]
    shown = np.pad(covered(pixels, hole)[:, :, ::-1], [*beyond, (0, 0)], mode="symmetric")
    known = np.pad(~hole, beyond, mode="symmetric").astype(np.uint8)
    filled = np.zeros_like(shown)
    cv2.xphoto.inpaint(shown, known, filled, cv2.xphoto.INPAINT_FSR_FAST)
    # It rounds known pixels too, on the way to luminance and back.
    return np.where(hole[:, :, None], filled[:height, :width, ::-1], pixels)
