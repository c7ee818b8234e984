"""What a file says of its picture, and what goes along when the picture is filled.

Kept are EXIF, resolution, XMP, colour profile, comment, and the text and colour chunks of PNG. Left
behind is what would show the picture as it was or turn it again: thumbnails, and the notes of
camera makers, which hold previews; orientations are set to 1.
"""

import math
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, BinaryIO

from PIL import ExifTags, Image
from tifffile import TiffPage

UPRIGHT = 1
"""EXIF orientation of a picture that is not to be turned."""

SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""

_EXIF = (
    *(ExifTags.Base.DocumentName, ExifTags.Base.ImageDescription, ExifTags.Base.Make),
    *(ExifTags.Base.Model, ExifTags.Base.Software, ExifTags.Base.DateTime, ExifTags.Base.Artist),
    *(ExifTags.Base.HostComputer, ExifTags.Base.Copyright, ExifTags.Base.Rating),
    *(ExifTags.Base.RatingPercent, ExifTags.Base.XPTitle, ExifTags.Base.XPComment),
    *(ExifTags.Base.XPAuthor, ExifTags.Base.XPKeywords, ExifTags.Base.XPSubject),
    *(33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113),  # places on the earth: GeoTIFF
)
"""Tags of the main directory that say something of the picture, not of how it is stored.

The resolution is kept beside them, as many formats have a place of their own for it.
"""

_XMP, _PROFILE = 700, 34675
_OF_BIGTIFF = (ExifTags.Base.Orientation, _XMP, _PROFILE)
_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"tEXt", b"zTXt", b"iTXt")
_ELSEWHERE = (b"Raw profile type ", b"XML:com.adobe.xmp")
"""How texts of PNG begin that hold EXIF, XMP or previews: these are kept as what they are."""

NAMES = {
    "exif": "EXIF",
    "xmp": "XMP",
    "profile": "the colour profile",
    "dpi": "the resolution",
    "comment": "the comment",
    "chunks": "PNG's text and gamma",
}
"""What can go along, by the fields of ``About``, in words."""


@dataclass(frozen=True)
class About:
    """What is known of a picture beside its values; all of it is empty for arrays."""

    format: str = ""
    """Pillow's name of the file's format: PNG, JPEG, ..."""
    mode: str = ""
    """Pillow's name of the file's mode: RGB, L, P, ..."""
    orientation: int = UPRIGHT
    """EXIF orientation of the file, from 1 to 8, which was applied: values are the right way up."""
    exif: bytes | None = field(default=None, repr=False)
    """EXIF as it is to be written, with no orientation but 1."""
    xmp: bytes | None = field(default=None, repr=False)
    """XMP as it is to be written."""
    profile: bytes | None = field(default=None, repr=False)
    """ICC colour profile."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch, across and down."""
    comment: bytes | None = None
    """Comment of a JPEG or GIF file."""
    chunks: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)
    """Names and contents of the chunks that only PNG has."""

    def only(self, kept: frozenset[str]) -> "About":
        """Return what is said in fields of these names."""
        values = {name: getattr(self, name) for name in kept}
        return About(self.format, self.mode, self.orientation, **values)

    def said(self) -> frozenset[str]:
        """Return the names of the fields that go along and are not empty."""
        return frozenset(f.name for f in fields(self) if f.name in NAMES and getattr(self, f.name))


def about_image(image: Image.Image) -> About:
    """Return what Pillow's image, not yet turned, says of itself."""
    return about(image.format or "", image.mode, image.getexif(), image.info)


def about(form: str, mode: str, exif: Image.Exif, info: Mapping[Any, Any]) -> About:
    """Return what is said in EXIF and in a dict like ``Image.info``."""
    comment = info.get("comment")
    dpi = None if form == "TIFF" else info.get("dpi")  # which Pillow invents where it is missing
    return About(
        format=form,
        mode=mode,
        orientation=orientation(exif),
        exif=_clean_exif(exif),
        xmp=_clean_xmp(info.get("xmp")),
        profile=info.get("icc_profile") or None,
        dpi=_resolution(dpi) or _resolution_in(exif),
        comment=comment if isinstance(comment, bytes) and form in ("JPEG", "MPO", "GIF") else None,
    )


def about_tiff(page: TiffPage, file: BinaryIO, mode: str) -> About:
    """Return what a TIFF file says of its only page, which Pillow may not be able to open."""
    exif = Image.Exif()
    if page.parent.is_bigtiff:  # of which Pillow reads no EXIF
        exif.update({tag: page.tags.valueof(tag) for tag in _OF_BIGTIFF if tag in page.tags})
    else:
        file.seek(0)
        exif.load_from_fp(file)
    info = {"xmp": exif.get(_XMP), "icc_profile": exif.get(_PROFILE)}
    return about("TIFF", mode, exif, info)


def orientation(exif: Image.Exif) -> int:
    """Return the EXIF orientation, 1 where it is missing or none that there is."""
    found = exif.get(ExifTags.Base.Orientation, UPRIGHT)
    return found if found in range(1, 9) else UPRIGHT


def png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield names and contents of a PNG file's chunks that go along and are kept nowhere else.

    Pillow has read the file before: it refuses texts that are too large.
    """
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        length, name = struct.unpack(">I4s", head)
        content = file.read(length) if name in _CHUNKS else None
        if content is not None and not content.startswith(_ELSEWHERE):
            yield name, content
        file.seek(4 if content is not None else length + 4, 1)


def _clean_exif(exif: Image.Exif) -> bytes | None:
    """Return EXIF without its thumbnail, which shows what was removed, and right way up."""
    with suppress(Exception):  # what is broken or of an unknown kind cannot be written
        new = Image.Exif()
        for tag in _EXIF:
            if tag in exif:
                new[tag] = exif[tag]
        for directory in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            found = dict(exif.get_ifd(directory))
            for dropped in (ExifTags.IFD.MakerNote, ExifTags.IFD.Interop):
                found.pop(dropped, None)
            if found:
                new[directory] = found
        if len(new) and ExifTags.Base.Orientation in exif:
            new[ExifTags.Base.Orientation] = UPRIGHT
        return new.tobytes() if len(new) else None
    return None


def _clean_xmp(xmp: Any) -> bytes | None:
    """Return XMP without thumbnails and with no orientation but 1."""
    if isinstance(xmp, str):
        xmp = xmp.encode()
    if not isinstance(xmp, bytes) or not xmp:
        return None
    xmp = re.sub(rb"<(xmp|xap):Thumbnails\b.*?</\1:Thumbnails>", b"", xmp, flags=re.DOTALL)
    return re.sub(rb"""(tiff:Orientation(?:\s*=\s*["']|>)\s*)\d""", rb"\g<1>1", xmp)


def _resolution_in(exif: Image.Exif) -> tuple[float, float] | None:
    per_inch = {2: 1.0, 3: 2.54}.get(exif.get(ExifTags.Base.ResolutionUnit, 2), 0.0)
    found = [exif.get(tag) for tag in (ExifTags.Base.XResolution, ExifTags.Base.YResolution)]
    with suppress(TypeError, ValueError, ZeroDivisionError):
        return _resolution([float(each) * per_inch for each in found if each is not None])
    return None


def _resolution(dpi: Any) -> tuple[float, float] | None:
    with suppress(TypeError, ValueError, ZeroDivisionError):
        across, down = (float(each) for each in dpi)
        if all(math.isfinite(each) and each > 0 for each in (across, down)):
            return across, down
    return None
