"""JPEG files that lose as little as the format allows.

A picture that was a JPEG is written with the file's own quantisation tables and subsampling, so
that it is rounded as it was before. Where jpegio is installed (the extra ``jpeg``), blocks of 8x8
pixels in which nothing has changed keep the file's own coefficients, as with ``-drop`` of jpegtran.
Where colour is stored in fewer pixels it is interpolated across the border of changed blocks, so
that a known pixel or two change there as well.
"""

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, JpegImagePlugin

from maskweave.metadata import UPRIGHT, exif_of, orientation

QUALITY = 95
"""Quality, of 100, of what was no JPEG before."""

BLOCK = 8
"""Side of a block of coefficients."""


def save_jpeg(
    values: np.ndarray,
    path: Path,
    *,
    source: Path | None = None,
    quality: int | None = None,
    **metadata: Any,
) -> str:
    """Write a JPEG and return what a user should be told of it.

    Parameters
    ----------
    values : numpy.ndarray
        uint8, (height, width, 3) or, for grey, (height, width).
    path : Path
        Where to write, under any name; what is there is replaced.
    source : Path, optional
        File that the picture comes from. If it is a JPEG, its tables and subsampling are taken and
        its coefficients are kept where they can be.
    quality : int, optional
        From 1 to 100: quality without subsampling, instead of what the source has.
    **metadata
        Further options of Pillow, such as ``exif``, ``icc_profile``, ``dpi``, ``comment`` and
        ``xmp``. None of these is taken from the source.

    Raises
    ------
    OSError
        If it cannot be written.
    ValueError
        If the picture or its metadata are larger than JPEG can hold.
    """
    original = _read_original(source) if source and not quality else None
    options: dict[str, Any] = {"quality": quality or QUALITY, "subsampling": 0}
    if original:  # -1 is a subsampling that Pillow reads and cannot write
        options = {"qtables": original.tables, "subsampling": max(original.sampling, 0)}
    Image.fromarray(values).save(path, "JPEG", **options, **metadata)
    told = "JPEG is lossy: known pixels change on disk"
    if source is None or original is None or original.values.shape != values.shape:
        return told
    if not find_spec("jpegio"):
        return f"{told}; with maskweave[jpeg] installed, only those around the hole do"
    differs = original.values != values
    if _keep_blocks(path, source, differs if differs.ndim == 2 else np.any(differs, axis=2)):
        return "JPEG is lossy: known pixels around the hole change on disk"
    return told


class _Original(NamedTuple):
    """What a JPEG was made with, and its pixels as they lie in the file."""

    values: np.ndarray
    tables: dict[int, list[int]]
    sampling: int


def _read_original(source: Path) -> _Original | None:
    """Read a JPEG that was read before; None for files of other formats, or that are gone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warned of what is odd when it was read
        try:
            with Image.open(source, formats=("JPEG",)) as image:
                assert isinstance(image, JpegImagePlugin.JpegImageFile)
                # Turned pixels would meet those of other places.
                turned = orientation(exif_of(image)) != UPRIGHT
                values = np.empty(0, np.uint8) if turned else np.array(image)
                return _Original(values, image.quantization, JpegImagePlugin.get_sampling(image))
        except OSError:
            return None


def _keep_blocks(path: Path, source: Path, changed: np.ndarray) -> bool:
    """Give a JPEG the coefficients of its source where no pixel has changed, if both are alike."""
    import jpegio

    content = path.read_bytes()
    try:
        new, old = jpegio.read(path), jpegio.read(source)
        if _kind(new) != _kind(old):
            return False
        for info, mine, its in zip(new.comp_info, new.coef_arrays, old.coef_arrays, strict=True):
            kept = ~_any_of(changed, *_area(new, info))
            np.copyto(mine, its, where=kept.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1))
        new.progressive_mode, new.optimize_coding = old.progressive_mode, True
        jpegio.write(new, path)
    except (
        RuntimeError,
        ValueError,
        LookupError,
    ):  # of broken tables that Pillow's decoder did not need
        path.write_bytes(content)
        return False
    return True


def _kind(jpeg: Any) -> Any:
    """Return what must be alike in two JPEGs for them to exchange coefficients."""
    return jpeg.jpeg_color_space, [
        (coefficients.shape, _area(jpeg, info), jpeg.quant_tables[info.quant_tbl_no].tolist())
        for info, coefficients in zip(jpeg.comp_info, jpeg.coef_arrays, strict=True)
    ]


def _area(jpeg: Any, info: Any) -> tuple[int, int]:
    """Return the height and width in pixels of what a block of a component covers."""
    rows, columns = (
        jpeg.max_v_samp_factor / info.v_samp_factor,
        jpeg.max_h_samp_factor / info.h_samp_factor,
    )
    if not (rows.is_integer() and columns.is_integer()):
        raise ValueError
    return int(rows) * BLOCK, int(columns) * BLOCK


def _any_of(marked: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return which areas of so many pixels hold a marked one; the last of them may be cut off."""
    height, width = marked.shape
    padded = np.pad(marked, ((0, -height % rows), (0, -width % columns)))
    return np.any(padded.reshape(len(padded) // rows, rows, -1, columns), axis=(1, 3))
