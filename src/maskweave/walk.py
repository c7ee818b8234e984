"""How one photo is filled: rounds of pieces that are cut from it, painted and pasted back.

No network: whoever paints is handed in. A model's framing says what the pieces are: crops around
whole objects, or windows at native pixels and coarser levels.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from maskweave.crops import (
    Crop,
    as_bytes,
    as_floats,
    enlarge,
    enlarge_mask,
    luminance,
    plan_crops,
    shrink,
)
from maskweave.errors import MaskweaveError
from maskweave.images import Hole, Pixels
from maskweave.levels import Level, enlarge_guide, plan_levels, shrink_photo
from maskweave.seeds import seed_of
from maskweave.windows import Window, plan_windows

Framing = Literal["whole object", "texture"]
"""What a model was trained to see: the largest square around a hole, shrunk to its size, or native
pixels with context."""


class Request(NamedTuple):
    """A piece of a photo at the model's size, to be painted."""

    known: Float[Tensor, "3 rows columns"]
    """Pixels in [-1, 1], 0 in the hole."""
    hole: Bool[Tensor, "rows columns"]
    """True where nothing is known."""
    guide: Float[Tensor, "3 rows columns"] | None
    """The fill of a coarser level; None where there is none."""
    seed: int
    """What its noise depends on."""


class Painting(NamedTuple):
    """A piece after a step of decoding."""

    image: Float[Tensor, "3 rows columns"]
    """Pixels in [-1, 1]."""
    masked: Bool[Tensor, "token_rows token_columns"]
    """Tokens that are predicted again in the next step."""


class Piece(Protocol):
    """A part of a photo that is painted in one go."""

    def request(self) -> Request:
        """Cut it from the photo, as far as that is filled by now."""
        ...

    def paste(self, paintings: Sequence[Painting]) -> None:
        """Copy what was painted to the photo; the last painting is the result."""
        ...


Walk = Iterator[list[Piece]]
"""Rounds of pieces. Those of one round may be painted in any order; the next is asked for when all
of them are pasted."""


class Canvas(NamedTuple):
    """What a photo looks like after a step of decoding, while it is filled piece by piece."""

    pixels: Pixels
    """The photo, of which more and more is filled."""
    masked: Hole
    """Hole pixels whose tokens are predicted again in the next step."""


@dataclass(frozen=True)
class Filling:
    """One fill of a photo."""

    photo: int
    """Place of the photo among all."""
    pixels: Pixels
    """The photo, of which nothing is read under the hole."""
    hole: Hole
    """True in the hole."""
    seed: int
    """The seed from which those of its pieces come."""
    keep_known: bool
    """Whether pixels outside the hole stay as they are, or become those of its pieces."""
    steps: int
    """How many steps are shown: all, or only the last."""

    @cached_property
    def canvases(self) -> list[Canvas]:
        """One for each step that is shown, at first the photo itself; the last is the result."""
        return [Canvas(self.pixels.copy(), np.zeros_like(self.hole)) for _ in range(self.steps)]

    @cached_property
    def grey(self) -> bool:
        """Whether all that is known is grey, so that the fill is to be as well."""
        red, green, blue = np.moveaxis(self.pixels, 2, 0)
        colourless = (red == green) & (green == blue)
        return bool(not self.hole.all() and (colourless | self.hole).all())

    def toned(self, paintings: Sequence[Painting]) -> Sequence[Painting]:
        """Return paintings without their colours if the photo has none."""
        if not self.grey:
            return paintings
        return [each._replace(image=luminance(each.image)) for each in paintings]

    def shown(self, paintings: Sequence[Painting]) -> Iterator[tuple[Canvas, Painting]]:
        """Yield every canvas with the painting for it: decoding ends early if nothing is masked."""
        last = paintings[-1]
        return zip(self.canvases, itertools.chain(paintings, itertools.repeat(last)), strict=False)


class Crops:
    """A plan for models of whole objects: crops that do not depend on each other."""

    def __init__(self, hole: Hole, size: tuple[int, int], *, context: float = 0.25) -> None:
        self._size = size
        self._crops = plan_crops(hole, max(size), context=context)

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self._crops)

    def walk(self, filling: Filling) -> Walk:
        """Yield all crops of a photo at once."""
        yield [_CropPiece(crop, self._size, filling) for crop in self._crops]


class Windows:
    """A plan for models of textures: windows over the levels of a photo, and what each fills."""

    def __init__(
        self, hole: Hole, side: int, *, context: float = 0.25, levels: int | None = None
    ) -> None:
        # A guide tells what is around: half the context paints as well, in fewer windows.
        self.plans = [
            LevelPlan(
                level,
                plan_windows(level.thin, side, context=context),
                plan_windows(level.thick, side, context=context / 2),
            )
            for level in plan_levels(hole, side, levels)
        ]

    def __len__(self) -> int:
        """Return the number of pieces."""
        rounds = itertools.chain(*(each.thin + each.thick for each in self.plans))
        return sum(len(windows) for windows in rounds)

    def walk(self, filling: Filling) -> Walk:
        """Yield windows over thin parts of the hole on the way down, over thick ones back up."""
        pixels = filling.canvases[-1].pixels if filling.keep_known else filling.pixels.copy()
        unknown = filling.hole.copy()
        above: list[_Scale] = []
        for plan in self.plans:
            if above:
                pixels, unknown = shrink_photo(pixels, unknown)
            above.append(_Scale(plan.level.exponent, pixels, unknown, None))
            for windows in _seeing(plan.thin, unknown):
                yield [_WindowPiece(one, plan.level.thin, above[-1], filling) for one in windows]
        coarse = above.pop()
        for plan in self.plans[-2::-1]:
            fine = above.pop()
            guide = enlarge_guide(coarse.pixels, *fine.unknown.shape)
            coarse = _Scale(fine.exponent, fine.pixels, fine.unknown, guide)
            for windows in plan.thick:
                yield [_WindowPiece(one, plan.level.thick, coarse, filling) for one in windows]


def drive(
    fillings: Iterable[tuple[Filling, Walk]],
    paint: Callable[[list[Request]], Sequence[Sequence[Painting]]],
    batch_size: int,
    most_pixels: int,
) -> Iterator[tuple[int, list[Filling]]]:
    """Go many walks side by side, their pieces painted in batches.

    Parameters
    ----------
    fillings : iterable of (Filling, Walk)
        Each is asked for when a batch has room for it and enough of the others are finished.
    paint : callable
        Paints a batch of requests: of each the paintings after its steps, or only the last.
    batch_size : int
        Pieces that are painted at once. No more than these are held at the model's size.
    most_pixels : int
        Pixels of unfinished photos, beyond which no further one is begun.

    Yields
    ------
    (int, list of Filling)
        After each batch its size, and what it has finished.
    """
    waiting = iter(fillings)
    going: deque[tuple[Filling, Walk, list[Piece]]] = deque()  # with what is left of their rounds
    while True:
        batch: list[Piece] = []
        visited: list[tuple[Filling, Walk, list[Piece]]] = []
        held = sum(filling.hole.size for filling, _, _ in going)
        while len(batch) < batch_size:
            if not going:
                begun = next(waiting, None) if held < most_pixels or not visited else None
                if begun is None:
                    break
                filling, walk = begun
                held += filling.hole.size
                going.append((filling, walk, next(walk, [])))
            filling, walk, pieces = going.popleft()
            room = batch_size - len(batch)
            batch += pieces[:room]
            visited.append((filling, walk, pieces[room:]))
        if not visited:
            return
        paintings = paint([piece.request() for piece in batch]) if batch else []
        for piece, states in zip(batch, paintings, strict=True):
            piece.paste(states)
        on = [(filling, walk, pieces or next(walk, [])) for filling, walk, pieces in visited]
        going.extendleft(each for each in reversed(on) if each[2])
        yield len(batch), [filling for filling, _, pieces in on if not pieces]


def check_framing(framing: str, guided: bool, image_size: tuple[int, int]) -> Framing:
    """Return the framing of a model if there is such a one and the model fits it.

    Raises
    ------
    MaskweaveError
        If it does not: finer levels start from a guide, and windows are squares.
    """
    if framing == "whole object":
        return framing
    if framing != "texture":
        raise MaskweaveError(f"framing is 'whole object' or 'texture', got {framing!r}")
    if not guided or image_size[0] != image_size[1]:
        raise MaskweaveError("framing 'texture' needs a guided tokenizer of square images")
    return framing


class LevelPlan(NamedTuple):
    """A level and the rounds of windows over both its parts."""

    level: Level
    thin: list[list[Window]]
    thick: list[list[Window]]


class _Scale(NamedTuple):
    """A photo at one level, filled as far as nothing is unknown, and its guide if there is one."""

    exponent: int
    pixels: Pixels
    unknown: Hole
    guide: Pixels | None


def _seeing(rounds: Iterable[list[Window]], unknown: Hole) -> Iterator[list[Window]]:
    """Yield rounds, but windows in which nothing is known yet at the end, one after the other.

    There are such in the depth of a thick hole where levels are limited: what is filled around them
    shows them what to go on with.
    """

    def sees(window: Window) -> bool:
        return not unknown[window.rows, window.columns].all()

    blind: list[Window] = []
    for windows in rounds:
        seeing = [one for one in windows if sees(one)]
        blind += [one for one in windows if not sees(one)]
        if seeing:
            yield seeing
    while blind:
        first = next(filter(sees, blind), blind[0])
        blind.remove(first)
        yield [first]


@dataclass(frozen=True)
class _CropPiece:
    crop: Crop
    size: tuple[int, int]
    filling: Filling

    def request(self) -> Request:
        known, hole = shrink(*self._around(), self.size)
        place = f"0/{self.crop.rows.start}/{self.crop.columns.start}"
        return Request(known, hole, None, seed_of(self.filling.seed, place))

    def paste(self, paintings: Sequence[Painting]) -> None:
        """Copy the crop's part of the hole and, if wanted, known pixels; the rest is of others."""
        crop, (pixels, hole) = self.crop, self._around()
        part = crop.part if self.filling.keep_known else crop.part | ~hole
        for canvas, painting in self.filling.shown(self.filling.toned(paintings)):
            crop.window(canvas.pixels)[part] = enlarge(painting.image, pixels, hole)[part]
            masked = enlarge_mask(painting.masked, crop.part)
            crop.window(canvas.masked)[crop.part] = masked[crop.part]

    def _around(self) -> tuple[Pixels, Hole]:
        return self.crop.window(self.filling.pixels), self.crop.window(self.filling.hole)


@dataclass(frozen=True)
class _WindowPiece:
    window: Window
    part: Hole
    scale: _Scale
    filling: Filling

    def request(self) -> Request:
        window, scale = self.window, self.scale
        hole = torch.tensor(window.cut(scale.unknown, True))  # a copy: pasting changes it
        known = as_floats(window.cut(scale.pixels, 0)).masked_fill(hole, 0.0)
        guide = None if scale.guide is None else as_floats(window.cut(scale.guide, None))
        place = f"{scale.exponent}/{window.rows.start}/{window.columns.start}"
        return Request(known, hole, guide, seed_of(self.filling.seed, place))

    def paste(self, paintings: Sequence[Painting]) -> None:
        paintings = self.filling.toned(paintings)
        picture = as_bytes(paintings[-1].image)
        self.window.paste(self.scale.pixels, picture, self.part)
        self.window.paste(self.scale.unknown, np.zeros(picture.shape[:2], dtype=bool), self.part)
        if self.scale.exponent == 0:
            for canvas, painting in self.filling.shown(paintings):
                self._show(canvas, painting)

    def _show(self, canvas: Canvas, painting: Painting) -> None:
        """Copy what was painted at native pixels; of known pixels the last window's are shown."""
        window, picture = self.window, as_bytes(painting.image)
        window.paste(canvas.pixels, picture, self.part)
        window.paste(
            canvas.masked, enlarge_mask(painting.masked, window.part(self.part)), self.part
        )
        if not self.filling.keep_known:
            known = ~self.filling.hole[window.rows, window.columns]
            height, width = known.shape
            canvas.pixels[window.rows, window.columns][known] = picture[:height, :width][known]
