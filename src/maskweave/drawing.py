"""The shapes of holes, each drawn by one function from a generator."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool

Hole = Bool[np.ndarray, "height width"]

LAMA_SIZE = 256
"""The image size for which LaMa states its lengths, in pixels."""

BLOB_SIZE = 64
"""Shorter side of the grid on which a blob gets its outline."""

FONTS = tuple(range(cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_SCRIPT_COMPLEX + 1))

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Strokes:
    """LaMa's free-form strokes, in pixels of a 256-pixel image."""

    fewest: int
    """Smallest number of strokes."""
    most: int
    """Largest number of strokes: LaMa's generator draws up to one more than its ``max_times``."""
    width: int
    """Bound of the brush width, which is 5 pixels and less than so many more."""
    length: int
    """Bound of one segment's length, which is 10 pixels and less than so many more."""


@dataclass(frozen=True)
class Boxes:
    """LaMa's rectangles, in pixels of a 256-pixel image."""

    most: int
    """Largest number of rectangles; the smallest is 1."""
    smallest: int
    """Length of the shortest side."""
    largest: int
    """Length of the longest side."""
    margin: int
    """Distance from the image's border."""


def draw_strokes(kind: Strokes, height: int, width: int, rng: np.random.Generator) -> Hole:
    """Draw polylines of one to five segments (LaMa's ``make_random_irregular_mask``)."""
    scale = min(height, width) / LAMA_SIZE
    number = int(rng.integers(kind.fewest, kind.most + 1))
    starts = rng.integers((width, height), size=(number, 2)).tolist()
    segments = rng.integers(1, 6, size=number)
    total = int(segments.sum())
    angles = 0.01 + rng.integers(4, size=total)
    angles *= np.repeat(np.where(np.arange(number) % 2 == 0, -1, 1), segments)
    lengths = scale * (10 + rng.integers(kind.length, size=total))
    brushes = np.maximum(1, np.rint(scale * (5 + rng.integers(kind.width, size=total))))
    moves = zip(
        (lengths * np.sin(angles)).tolist(),
        (lengths * np.cos(angles)).tolist(),
        brushes.astype(int).tolist(),
        strict=True,
    )
    canvas = np.zeros((height, width), dtype=np.uint8)
    for (x, y), count in zip(starts, segments.tolist(), strict=True):
        here = (x, y)
        for _ in range(count):
            right, down, brush = next(moves)
            there = (
                min(max(int(here[0] + right), 0), width),
                min(max(int(here[1] + down), 0), height),
            )
            cv2.line(canvas, here, there, 1, brush)
            here = there
    return canvas.view(bool)


def draw_boxes(kind: Boxes, height: int, width: int, rng: np.random.Generator) -> Hole:
    """Draw upright rectangles (LaMa's ``make_random_rectangle_mask``)."""
    scale = min(height, width) / LAMA_SIZE
    margin = int(kind.margin * scale)
    hole = np.zeros((height, width), dtype=bool)
    for _ in range(rng.integers(1, kind.most + 1)):
        sides = rng.integers(kind.smallest, kind.largest + 1, size=2)
        h, w = (max(1, round(scale * side)) for side in sides)
        top = rng.integers(margin, height - margin - h + 1)
        left = rng.integers(margin, width - margin - w + 1)
        hole[top : top + h, left : left + w] = True
    return hole


def draw_random_walk(height: int, width: int, rng: np.random.Generator) -> Hole:
    """Walk in unit steps, reflected at the border, until 10 to 30 % of 64x64 cells are covered."""
    cell = max(1, round(min(height, width) / 64))
    rows, columns = math.ceil(height / cell), math.ceil(width / cell)
    target = max(1, round(rng.uniform(0.1, 0.3) * rows * columns))
    position = np.array([rng.integers(rows), rng.integers(columns)])
    steps = np.array([[0, 1], [0, -1], [1, 0], [-1, 0]])
    visited = np.zeros(rows * columns, dtype=bool)
    first = np.zeros(rows * columns, dtype=int)
    numbers = np.arange(256)
    while target > 0:
        stretch = position + np.cumsum(steps[rng.integers(4, size=256)], axis=0)
        row, column = _reflect(stretch[:, 0], rows), _reflect(stretch[:, 1], columns)
        cells = row * columns + column
        first[cells[::-1]] = numbers[::-1]  # of several visits the first remains
        fresh = cells[(first[cells] == numbers) & ~visited[cells]][:target]
        visited[fresh] = True
        target -= len(fresh)
        position = np.array([row[-1], column[-1]])
    hole = visited.reshape(rows, columns)
    return hole.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]


def _reflect(position: np.ndarray, size: int) -> np.ndarray:
    folded = position % (2 * size)
    return np.where(folded < size, folded, 2 * size - 1 - folded)


def draw_half(height: int, width: int, rng: np.random.Generator) -> Hole:
    """Take the left, right, upper or lower half."""
    hole = np.zeros((height, width), dtype=bool)
    side = rng.integers(4)
    if side < 2:
        hole[:, : width // 2] = True
    else:
        hole[: height // 2] = True
    return hole if side % 2 == 0 else ~hole


def draw_scratches(
    numbers: tuple[int, int],
    widths: tuple[int, int],
    height: int,
    width: int,
    rng: np.random.Generator,
) -> Hole:
    """Draw slightly bent lines from border to border.

    ``numbers`` are the least and the largest number of lines, ``widths`` the least and the largest
    width in pixels, whatever the size of the image.
    """
    canvas = np.zeros((height, width), dtype=np.uint8)
    shorter = min(height, width)
    along = np.linspace(-1, 1, 33)[:, None] * math.hypot(height, width)
    for _ in range(rng.integers(numbers[0], numbers[1] + 1)):
        inside = rng.random(2) * (width - 1, height - 1)
        angle, bow = rng.uniform(0, math.pi), rng.uniform(-0.1, 0.1)
        direction = np.array([math.cos(angle), math.sin(angle)])
        normal = np.array([-direction[1], direction[0]])
        line = inside + along * direction + bow * along**2 / shorter * normal
        # Filled, since what OpenCV calls the thickness of a line differs from its width in pixels.
        aside = (rng.integers(widths[0], widths[1] + 1) - 1) / 2 * normal
        ribbon = np.concatenate([line - aside, (line + aside)[::-1]])
        cv2.fillPoly(canvas, [np.rint(ribbon * 256).astype(np.int32)], (1,), shift=8)
    return canvas.view(bool)


def draw_text(height: int, width: int, rng: np.random.Generator) -> Hole:
    """Write one to three lines of words or dates.

    Letters are 8 to 40 pixels high, whatever the size of the image, but no higher than half of it.
    """
    font = FONTS[rng.integers(len(FONTS))] | (cv2.FONT_ITALIC if rng.random() < 0.25 else 0)
    thickness = int(rng.integers(1, 5))
    lines = [_date(rng) if rng.random() < 0.4 else _words(rng) for _ in range(rng.integers(1, 4))]
    letters = rng.uniform(min(8, height / 2), min(40, height / 2))
    scale = letters / cv2.getTextSize("X", font, 1.0, thickness)[0][1]
    sizes = [cv2.getTextSize(line, font, scale, thickness)[0] for line in lines]
    left = int(rng.integers(max(1, width - max(size[0] for size in sizes))))
    bottom = int(rng.integers(math.ceil(letters), height + 1))
    canvas = np.zeros((height, width), dtype=np.uint8)
    for line in lines:
        cv2.putText(canvas, line, (left, bottom), font, scale, 255, thickness)
        bottom += math.ceil(1.5 * letters)
    return canvas > 0


def _words(rng: np.random.Generator) -> str:
    words = (
        "".join(LETTERS[i] for i in rng.integers(len(LETTERS), size=rng.integers(2, 10)))
        for _ in range(rng.integers(1, 4))
    )
    text = " ".join(words)
    return (text, text.title(), text.upper())[rng.integers(3)]


def _date(rng: np.random.Generator) -> str:
    day, month, hour, minute = rng.integers((1, 1, 0, 0), (32, 13, 24, 60)).tolist()
    year = int(rng.integers(1950, 2040))
    return (
        f"{day:02}.{month:02}.{year}",
        f"{year}/{month:02}/{day:02}",
        f"'{year % 100:02} {month} {day}",
        f"{year}-{month:02}-{day:02} {hour:02}:{minute:02}",
        f"{hour}:{minute:02}",
    )[rng.integers(5)]


def draw_blob(height: int, width: int, rng: np.random.Generator) -> Hole:
    """Draw something like an object: an ellipse, deformed by smooth noise, 5 to 30 % of the image.

    A border of the image may cut it and small pieces may lie beside it.
    """
    cell = max(1.0, min(height, width) / BLOB_SIZE)
    rows, columns = round(height / cell), round(width / cell)
    shorter = min(rows, columns)
    share, deformed = rng.uniform(0.05, 0.3), rng.uniform(0.2, 0.7)
    down = (np.arange(rows, dtype=np.float32)[:, None] - rows * rng.uniform(0.1, 0.9)) / shorter
    right = (np.arange(columns, dtype=np.float32) - columns * rng.uniform(0.1, 0.9)) / shorter
    angle, longer = rng.uniform(0, math.pi), rng.uniform(1, 2.5)
    u = math.cos(angle) * right + math.sin(angle) * down
    v = math.cos(angle) * down - math.sin(angle) * right
    radius = math.sqrt(share * rows * columns / math.pi) / shorter
    field = -np.sqrt(u**2 / longer + v**2 * longer) / radius
    for waves in (4, 9):  # of noise along the shorter side
        size = (math.ceil(waves * rows / shorter), math.ceil(waves * columns / shorter))
        noise = rng.standard_normal(size, dtype=np.float32)
        field += (
            deformed * 4 / waves * cv2.resize(noise, (columns, rows), interpolation=cv2.INTER_CUBIC)
        )
    outside = field.size - max(1, round(share * field.size))
    level = np.partition(field, outside, axis=None)[outside]
    return cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC) >= level
