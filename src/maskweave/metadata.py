"""What a file says of its picture, and what goes along when the picture is filled.

Kept are EXIF, resolution, XMP, colour profile, comment, and the text and colour chunks of PNG. Left
behind is what would show the picture as it was or turn it again: thumbnails, and the notes of
camera makers, which hold previews; orientations are set to 1.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, BinaryIO

from PIL import ExifTags, Image
from tifffile import TiffPage

from maskweave.png import chunks

LARGEST_RESOLUTION = 54_000_000
"""Pixels per inch that PNG can hold, as 31 bits of them per metre; atoms are hardly smaller."""

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

_LEFT = (
    *(ExifTags.IFD.MakerNote, ExifTags.IFD.Interop),
    *(ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight),  # as it was before turning
)
"""Tags of the other directories that stay behind."""

_XMP, _PROFILE = 700, 34675
_OF_BIGTIFF = (ExifTags.Base.Orientation, _XMP, _PROFILE)
_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"tEXt", b"zTXt", b"iTXt")
RECIPE = "maskweave"
"""Keyword of the text in a PNG file that tells how it was filled: see ``recall``."""

_ELSEWHERE = (b"Raw profile type ", b"XML:com.adobe.xmp", RECIPE.encode() + b"\0")
"""How texts of PNG begin that hold EXIF, XMP or previews, which are kept as what they are, or how
the picture was filled, which is no longer true once it is filled again."""

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
    return about(image.format or "", image.mode, exif_of(image), image.info)


def exif_of(image: Image.Image) -> Image.Exif:
    """Return the EXIF of Pillow's image, as far as it can be read."""
    with suppress(Exception):
        return image.getexif()
    return image.getexif()  # Pillow gives what it has read by then, or tells what else is broken


def about(form: str, mode: str, exif: Image.Exif, info: Mapping[Any, Any]) -> About:
    """Return what is said in EXIF and in a dict like ``Image.info``."""
    comment, profile = info.get("comment"), info.get("icc_profile")
    dpi = None if form == "TIFF" else info.get("dpi")  # which Pillow invents where it is missing
    return About(
        format=form,
        mode=mode,
        orientation=orientation(exif),
        exif=_clean_exif(exif),
        xmp=_clean_xmp(info.get("xmp")),
        profile=profile if isinstance(profile, bytes) and profile else None,
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
        with suppress(Exception):
            exif.load_from_fp(file)
    info = {"xmp": _value(exif, _XMP), "icc_profile": _value(exif, _PROFILE)}
    return about("TIFF", mode, exif, info)


def orientation(exif: Image.Exif) -> int:
    """Return the EXIF orientation, 1 where it is missing or none that there is."""
    found = _value(exif, ExifTags.Base.Orientation)
    return int(found) if found in range(1, 9) else UPRIGHT


def png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield names and contents of a PNG file's chunks that go along and are kept nowhere else.

    Pillow has read the file before: it refuses texts that are too large.
    """
    for name, chunk in chunks(file):
        if name in _CHUNKS and not chunk.startswith(_ELSEWHERE, 8):
            yield name, chunk[8:-4]


def _clean_exif(exif: Image.Exif) -> bytes | None:
    """Return EXIF without its thumbnail, which shows what was removed, and right way up."""
    with suppress(Exception):  # what is broken or of an unknown kind cannot be written
        new = Image.Exif()
        for tag in _EXIF:
            if tag in exif:
                new[tag] = exif[tag]
        for directory in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            found = dict(exif.get_ifd(directory))
            for dropped in _LEFT:
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


def _value(exif: Image.Exif, tag: int) -> Any:
    """Return what a tag says; None where it is missing or cannot be read."""
    with suppress(Exception):
        return exif.get(tag)
    return None


def _resolution_in(exif: Image.Exif) -> tuple[float, float] | None:
    tags = (ExifTags.Base.XResolution, ExifTags.Base.YResolution, ExifTags.Base.ResolutionUnit)
    across, down, unit = (_value(exif, tag) for tag in tags)
    per_inch = {None: 1.0, 2: 1.0, 3: 2.54}.get(unit, 0.0)
    with suppress(TypeError, ValueError, ZeroDivisionError):
        return _resolution((float(across) * per_inch, float(down) * per_inch))
    return None


def _resolution(dpi: Any) -> tuple[float, float] | None:
    with suppress(TypeError, ValueError, ZeroDivisionError):
        across, down = (float(each) for each in dpi)
        if all(0 < each <= LARGEST_RESOLUTION for each in (across, down)):
            return across, down
    return None
