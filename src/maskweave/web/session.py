"""What the page knows of one visitor: the photo, its mask and its fills."""

from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from secrets import token_hex
from tempfile import mkdtemp
from typing import Any

import cv2
import numpy as np
from PIL import Image

from maskweave.errors import MaskweaveError
from maskweave.images import Hole, Picture, as_picture
from maskweave.masks import as_mask
from maskweave.recall import Recipe
from maskweave.web import views
from maskweave.web.service import Service, Wanted, seeds_of
from maskweave.web.ticket import Filled, Ticket
from maskweave.web.wire import lossless, received
from maskweave.writing import write_picture

STEP_PIXELS = 48_000_000
"""Pixels of the pictures after all steps of all fills, beyond which only the last are kept."""

EARLIER = 6
"""Files that are kept of what the editor was shown."""

SAMPLE_SIZE = (451, 300)
"""Width and height of the photo that is there at first."""

SAMPLE_STROKE = ((60, 215), (150, 235), (230, 225))
"""Corners of the stroke on it."""

NO_MASK = "Nothing is marked yet: brush over what should go, or add a box by numbers."


@dataclass
class Request:
    """How a photo is to be filled, as the controls say it."""

    number: int
    """Fills, from 1 to 8."""
    model: str
    """One of the service's."""
    decoding: dict[str, Any]
    """Decode settings by name."""
    seed: int
    """As of the Python call."""
    soften: int = 0
    """Pixels over which the fill fades into the photo."""


@dataclass
class Result:
    """Fills of a photo and what they were made of."""

    source: Picture
    """The photo as it was filled."""
    hole: Hole
    """What of it was filled."""
    request: Request
    """How it was to be."""
    seeds: list[int]
    """The seed of each fill."""
    filled: Filled
    """The fills."""
    name: str
    """What the photo is called, without suffix."""

    @property
    def wanted(self) -> Wanted:
        """What was to be filled."""
        return Wanted(self.source, self.hole, self.seeds, soften=self.request.soften)

    def picture(self, fill: int) -> Picture:
        """Return one of the fills."""
        return self.filled.fills[fill][-1].image

    def recipe(self, fill: int, version: str) -> Recipe:
        """Return what repeats one of the fills."""
        seed, soften = self.request.seed, self.request.soften
        return self.filled.recipe(seed, self.seeds, fill, soften, version)


@dataclass
class Session:
    """One visitor's photo and fills, kept while the page is open."""

    picture: Picture
    """The photo that is painted on, as it came: in its own depth."""
    name: str
    """What it is called, without suffix."""
    folder: Path
    """Where downloads lie, and what the editor shows."""
    editable: tuple[int, int] = (0, 0)
    """Width and height of the photo as the editor shows it."""
    files: list[Path] = field(default_factory=list)
    """Photos and masks that the editor has been shown of late."""
    result: Result | None = None
    """The latest fills."""
    chosen: int = 0
    """Which of them is looked at."""
    ticket: Ticket | None = None
    """The fill that waits or runs."""

    @classmethod
    def sample(cls, folder: Path) -> tuple["Session", Hole]:
        """Return a session with a photo that comes with scikit-image, and a mask on it.

        Its downloads will lie in a folder of its own in ``folder``.
        """
        from skimage.data import chelsea

        photo = chelsea()
        strokes = np.zeros(photo.shape[:2], dtype=np.uint8)
        cv2.polylines(strokes, [np.array(SAMPLE_STROKE, dtype=np.int32)], False, (1,), 12)
        return cls(as_picture(photo), "chelsea", Path(mkdtemp(dir=folder))), strokes > 0

    def open(self, content: bytes, name: str, service: Service) -> Hole:
        """Take another photo; what is transparent in it is returned as its mask.

        Fills of the photo before are let go of, and one that waits or runs is cancelled.

        Raises
        ------
        MaskweaveError
            If it is no picture, or too large.
        """
        with service.reading:
            picture = received(content, name, service).picture
        self.picture, self.name = picture, Path(name).stem
        if self.ticket is not None:
            self.ticket.cancel()
        self.result = self.ticket = None
        clear = picture.transparent
        return np.zeros(picture.shape, dtype=bool) if clear is None else clear

    def shown(self, hole: Hole) -> list[Path]:
        """Return the files of the photo and of a mask on it that the editor shows.

        There is a layer even if nothing is marked: only then does the editor begin its history
        anew, without a step back to the photo that was there before. Files have other names each
        time, as it keeps what it shows for a file that it knows; it may still fetch earlier ones.
        """
        photo = Image.fromarray(views.shown(self.picture))
        layer = views.layer_of(hole, photo.size)
        files = [self.folder / f"shown-{part}-{token_hex(8)}.png" for part in ("photo", "mask")]
        for image, file in zip((photo, layer), files, strict=True):
            image.save(file, compress_level=1)
        self.editable = photo.size
        self.files += files
        for file in self.files[:-EARLIER]:
            file.unlink(missing_ok=True)
        self.files = self.files[-EARLIER:]
        return files

    def hole(self, marked: bytes | None) -> Hole:
        """Return what is marked in the editor, of which it sends a PNG file, or none.

        Raises
        ------
        MaskweaveError
            If the editor shows another photo still, or the file is none.
        """
        if marked is None:
            return np.zeros(self.picture.shape, dtype=bool)
        try:
            with Image.open(BytesIO(marked), formats=["PNG"]) as image:
                layer = image.convert("RGBA") if image.size == self.editable else None
        except (OSError, SyntaxError, ValueError) as error:  # by what is broken
            raise MaskweaveError("The mask did not arrive: try again.") from error
        if layer is None:
            raise MaskweaveError("The photo is not shown yet: try again in a moment.")
        return views.painted(layer, self.picture.shape)

    def opened_mask(self, content: bytes, service: Service) -> tuple[Hole, tuple[str, ...]]:
        """Return the mask in a file, and what there is to say of it.

        Raises
        ------
        MaskweaveError
            If it is no mask of the photo's size.
        """
        with service.reading:
            mask = as_mask(received(content, "the mask", service).picture, self.picture)
        return mask.hole, mask.notes

    def box(self, left: float, top: float, width: float, height: float) -> Hole:
        """Return a box as a hole, from pixel counts, of which the part in the photo counts.

        Raises
        ------
        MaskweaveError
            If none of it is in the photo.
        """
        hole = np.zeros(self.picture.shape, dtype=bool)
        x, y, w, h = (int(each or 0) for each in (left, top, width, height))
        hole[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = True
        if not hole.any():
            rows, columns = hole.shape
            raise MaskweaveError(
                f"a box needs a width and a height and lies in the photo ({columns} x {rows})"
            )
        return hole

    def submit(self, hole: Hole, request: Request, service: Service) -> tuple[Ticket, list[int]]:
        """Put a fill into the service's line; return its ticket and the seeds of the fills.

        Raises
        ------
        MaskweaveError
            If nothing is marked, the line is full or the service refuses it.
        """
        if not hole.any():
            raise MaskweaveError(NO_MASK)
        seeds = seeds_of(request.seed, request.number)
        settings = service.defaults(request.model)
        steps = request.decoding.get("steps") or settings.steps
        kept = hole.size * steps * request.number <= STEP_PIXELS
        wanted = Wanted(
            picture=self.picture,
            hole=hole,
            seeds=seeds,
            model=request.model,
            settings=request.decoding,
            soften=request.soften,
            every_step=kept,
        )
        self.ticket = service.submit(lambda: wanted)
        return self.ticket, seeds

    def go_on(self) -> Hole:
        """Take the chosen fill as the photo to paint on; nothing is marked on it.

        Raises
        ------
        MaskweaveError
            If there is none.
        """
        result = self.latest()
        self.picture, self.name = result.picture(self.chosen), result.name
        return np.zeros(self.picture.shape, dtype=bool)

    def latest(self) -> Result:
        """Return the latest fills.

        Raises
        ------
        MaskweaveError
            If there are none.
        """
        if self.result is None:
            raise MaskweaveError("There is no fill yet: press Fill.")
        return self.result

    def download(self, version: str) -> Path:
        """Write the chosen fill as PNG, with its recipe, or as TIFF where PNG cannot hold it."""
        result = self.latest()
        picture = result.recipe(self.chosen, version).noted(result.picture(self.chosen))
        file = self.folder / f"{result.name}-filled-{self.chosen + 1}{lossless(picture)[1]}"
        write_picture(picture, file)
        return file

    def download_mask(self, hole: Hole) -> Path:
        """Write a mask as PNG: white is the hole.

        Raises
        ------
        MaskweaveError
            If nothing is marked.
        """
        if not hole.any():
            raise MaskweaveError(NO_MASK)
        file = self.folder / f"{self.name}-mask.png"
        write_picture(Picture(hole.astype(np.uint8) * np.uint8(255)), file)
        return file
