"""What the page shows of photos and fills, as pictures of 8 bits; downloads are made elsewhere."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from maskweave.call import StepPicture, deviation
from maskweave.images import Hole, Picture, Pixels

MARK = (229, 0, 125)
"""Colour of the mask on a photo."""

OPACITY = 153
"""Opacity of the mask on a photo, of 255."""

LARGEST = 4096
"""Longer side in pixels up to which a photo is painted on and shown at its own size: textures of
browsers end at a few times that."""

CLOSE = 384
"""Shorter side in pixels to which the surroundings of a small hole are enlarged."""

THUMB = 640
"""Longer side in pixels of a fill among others."""


def shown(picture: Picture, largest: int = LARGEST) -> Pixels:
    """Return a photo as it is shown: in 8 bits, and shrunk if a side is longer than ``largest``."""
    return fitted(picture.seen(np.zeros(picture.shape, dtype=bool)), largest)


def fitted(pixels: Pixels, largest: int) -> Pixels:
    """Return pixels, shrunk if a side is longer than ``largest``."""
    height, width = pixels.shape[:2]
    if max(height, width) <= largest:
        return pixels
    scale = largest / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def layer_of(hole: Hole, size: tuple[int, int]) -> Image.Image:
    """Return a hole as a layer to be painted on, of a size (width, height)."""
    alpha = np.where(hole, np.uint8(OPACITY), np.uint8(0))
    if (hole.shape[1], hole.shape[0]) != size:
        # A hole that is thinner than a pixel of the layer has to stay one.
        alpha = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
        alpha = np.where(alpha > 0, np.uint8(OPACITY), np.uint8(0))
    colour = np.empty((*alpha.shape, 3), dtype=np.uint8)
    colour[:] = MARK
    return Image.fromarray(np.dstack([colour, alpha]))


def painted(layer: Image.Image, shape: tuple[int, int]) -> Hole:
    """Return what is painted on a layer, as a hole of a photo's size.

    Painted is what has at least half of the brush's opacity: its smooth edge is cut in the middle.
    """
    alpha = np.array(layer.getchannel("A"))
    if alpha.shape != shape:
        alpha = cv2.resize(alpha, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return alpha >= OPACITY / 2


def around(hole: Hole) -> tuple[slice, slice]:
    """Return rows and columns of a hole and of as much beside it."""
    left, top, width, height = cv2.boundingRect(hole.astype(np.uint8))
    margin = max(16, max(width, height) // 3)
    rows = slice(max(top - margin, 0), top + height + margin)
    return rows, slice(max(left - margin, 0), left + width + margin)


def close(fill: Picture, hole: Hole) -> Pixels:
    """Return a fill as it is shown among others: the hole and what is around it."""
    return fitted(_enlarged(fill.seen(np.zeros_like(hole))[around(hole)]), THUMB)


def step_pictures(step: StepPicture, hole: Hole) -> tuple[Pixels, Pixels]:
    """Return what of a hole is settled after a step, and what the photo would look like.

    Tokens that are predicted again are marked, in the colour of the mask, on the first.
    """
    place = around(hole)
    pixels = step.image.seen(np.zeros_like(hole))[place]
    return _enlarged(_marked(pixels, step.masked[place])), _enlarged(pixels)


def uncertainty(fills: Sequence[Picture], hole: Hole) -> Pixels:
    """Return how much fills differ, from dark to bright, over the photo in grey.

    The standard deviation over the fills of each pixel, mean over colours; yellow is the largest.
    """
    place = around(hole)
    pixels, inside = fills[0].seen(np.zeros_like(hole))[place], hole[place]
    spread = deviation(fills)[place]
    largest = max(float(spread[inside].max(initial=0)), 1 / 255)
    heat = (spread / largest * 255).clip(0, 255).astype(np.uint8)
    coloured = cv2.applyColorMap(heat, cv2.COLORMAP_INFERNO)[:, :, ::-1]
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[:, :, None].repeat(3, axis=2)
    return _enlarged(np.where(inside[:, :, None], coloured, grey // 2 + 64))


def _marked(pixels: Pixels, where: Hole) -> Pixels:
    mark = np.array(MARK, dtype=np.uint16)
    share = OPACITY / 255
    mixed = (pixels * (1 - share) + mark * share).astype(np.uint8)
    return np.where(where[:, :, None], mixed, pixels)


def _enlarged(pixels: Pixels) -> Pixels:
    """Return pixels as squares if they are few, so that they can be told apart."""
    times = CLOSE // min(pixels.shape[:2])
    if times > 1:
        return pixels.repeat(times, axis=0).repeat(times, axis=1)
    return fitted(pixels, 1600)
