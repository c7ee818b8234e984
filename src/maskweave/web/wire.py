"""Pictures as bytes, as they come and go over HTTP, and the fill between."""

import asyncio
import base64
import binascii
import warnings
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from fastapi import Request
from PIL import Image
from starlette.concurrency import run_in_threadpool

from maskweave.errors import MaskweaveError
from maskweave.formats import FORMATS, WRITTEN
from maskweave.images import Picture, decode_image
from maskweave.masks import Mask, as_mask
from maskweave.web.service import Service, SizeError, Wanted
from maskweave.web.ticket import CancelError, Filled
from maskweave.writing import check_writable, write_picture

POLL = 0.1
"""Seconds after which it is looked again whether a client is still there."""

MEDIA = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WEBP": "image/webp",
    "TIFF": "image/tiff",
    "BMP": "image/bmp",
    "PPM": "image/x-portable-pixmap",
}
"""The media type of each format that is written, by Pillow's name."""


class Received(NamedTuple):
    """A picture that came over HTTP."""

    picture: Picture
    """What is in it."""
    kind: str
    """Its format, by Pillow's name."""
    content: bytes
    """The file."""


def received(content: bytes, name: str, service: Service) -> Received:
    """Read a picture; one with more pixels than it may have is not decoded.

    Raises
    ------
    MaskweaveError
        If it is no picture or too large; the message calls it ``name``.
    """
    kind, size, bomb = "PNG", (0, 0), False
    with warnings.catch_warnings(), suppress(Exception):  # which decode_image tells of
        warnings.simplefilter("ignore")  # Pillow warns of large images at a limit of its own
        try:
            with Image.open(BytesIO(content), formats=FORMATS) as image:
                kind, size = str(image.format).replace("MPO", "JPEG"), image.size
        except Image.DecompressionBombError:
            bomb = True
    if bomb:
        raise SizeError("over a hundred million", service.max_pixels)
    service.check_size(*size)
    return Received(decode_image(BytesIO(content), name), kind, content)


def hole_of(
    mask: Picture | None,
    picture: Picture,
    *,
    invert: bool = False,
    threshold: int = 128,
    grow: int = 0,
) -> Mask:
    """Return the hole of a photo as ``masks.as_mask`` does.

    Raises
    ------
    MaskweaveError
        If there is neither a mask nor transparency, or the mask does not fit.
    """
    if mask is None and picture.transparent is None:
        raise MaskweaveError("there is no mask, and the image has no transparent pixels")
    return as_mask(mask, picture, invert=invert, threshold=threshold, grow=grow)


def from_base64(text: str, name: str) -> bytes:
    """Return the bytes of base64 or of a data URL.

    Raises
    ------
    MaskweaveError
        If it is neither.
    """
    text = text.partition(",")[2] if text.startswith("data:") else text
    letters = "".join(text.split())
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MaskweaveError(f"{name} is neither base64 nor a data URL") from error


def as_base64(content: bytes) -> str:
    """Return bytes as base64."""
    return base64.b64encode(content).decode()


def written(picture: Picture, kind: str, source: Received | None = None) -> bytes:
    """Return a picture as a file.

    Parameters
    ----------
    picture : Picture
        What is written.
    kind : str
        Its format, one of ``MEDIA``.
    source : Received, optional
        What it was made of: a JPEG keeps its tables, and its coefficients where they can be kept.

    Raises
    ------
    MaskweaveError
        If the format cannot hold it.
    """
    suffix = WRITTEN[kind].suffixes[0]
    with TemporaryDirectory(prefix="maskweave-") as folder:
        file, original = Path(folder) / f"fill{suffix}", None
        if source is not None and kind == "JPEG" == source.kind:
            original = Path(folder) / "source.jpg"
            original.write_bytes(source.content)
        write_picture(picture, file, source=original)
        return file.read_bytes()


def writable(picture: Picture, kind: str) -> bool:
    """Return whether a format is written and can hold a picture."""
    if kind not in MEDIA:
        return False
    with suppress(MaskweaveError):
        check_writable(picture, Path(f"fill{WRITTEN[kind].suffixes[0]}"))
        return True
    return False


def lossless(picture: Picture) -> tuple[str, str]:
    """Return a format, of ``MEDIA``, that holds a picture as it is, and its suffix."""
    return ("PNG", ".png") if writable(picture, "PNG") else ("TIFF", ".tif")


async def filled(request: Request, service: Service, read: Callable[[], Wanted]) -> Filled:
    """Wait in line and fill; whoever hangs up takes the fill along.

    Raises
    ------
    BusyError, CancelError, MaskweaveError
        As ``Service.submit`` and ``Ticket.result`` do.
    """
    wanted: list[Wanted] = []

    def noted() -> Wanted:
        wanted.append(read())
        return wanted[0]

    ticket = await run_in_threadpool(service.submit, noted)
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    # Not asyncio's own future: pictures would stay in a circle of references.
    ticket.future.add_done_callback(lambda _: loop.call_soon_threadsafe(done.set))
    try:
        while not done.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), POLL)
            if await request.is_disconnected():
                raise CancelError
        result = ticket.result()
    finally:
        ticket.cancel()
    if service.record is not None:
        for fill in range(len(result.fills)):
            await run_in_threadpool(service.record, wanted[0], result, fill)
    return result
