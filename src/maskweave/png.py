"""Chunks of which a PNG file is made: PNG specification, 5.2 and 5.3."""

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

_START, _END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"


def chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield names and whole chunks, which begin with 8 bytes and end with 4 beside their content.

    Raises
    ------
    ValueError
        If pixels have another checksum than the file tells, which Pillow reads without a word.
    """
    file.seek(len(_START))
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        length, name = struct.unpack(">I4s", head)
        chunk = head + file.read(length + 4)
        if name == b"IDAT" and zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:]):
            raise ValueError("the checksum of its pixels is wrong")
        yield name, chunk


def pixels_alone(file: BinaryIO) -> bytes:
    """Return a PNG file of the same pixels with nothing beside them, of which libpng might warn."""
    needed = [chunk for name, chunk in chunks(file) if name in (b"IHDR", b"IDAT")]
    return b"".join([_START, *needed, _END])
