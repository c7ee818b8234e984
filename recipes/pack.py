"""Packs photos, and the weights that LPIPS needs, for a machine that can download nothing.

    python recipes/pack.py PHOTOS OUT.zip --megabytes 45 --shorter-side 160

writes a zip of small WebP images, with a ``torch_home`` beside it.
"""

import io
import sys
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image
from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

from maskweave.data.folder import Photo, read_photo
from maskweave.errors import MaskweaveError
from maskweave.files import unfinished
from maskweave.formats import find_images
from maskweave.progress import warn

SMALLEST = 64
"""Shorter side below which a photo is left out, in pixels."""

SAMPLE = 250
"""Photos by which the quality is chosen."""

LISTED = 130
"""Bytes of a zip that tell of one of its files."""

BEST = 95
"""WebP's quality beyond which files grow and pictures do not improve."""


def pack(photos: Path, output: Path, megabytes: float, shorter_side: int) -> tuple[int, int]:
    """Write a folder of photos as a stored zip of WebP images; return their number and quality.

    The same photos give the same bytes. Names are numbers, in the order of the photos' paths.

    Parameters
    ----------
    photos : Path
        Searched recursively. Photos that cannot be read or are too small are left out.
    output : Path
        The zip.
    megabytes : float
        Largest size of the zip, in millions of bytes: the quality is the best one that fits.
    shorter_side : int
        Pixels to which the shorter side of larger photos is shrunk.

    Raises
    ------
    MaskweaveError
        If there is no photo, or no quality at which all fit.
    """
    files, room = find_images(photos).files, megabytes * 1e6
    read = partial(_read, shorter_side=shorter_side)
    with ThreadPoolExecutor() as pool:
        sample = [p for p in map(read, files[:: -(-len(files) // SAMPLE)]) if p is not None]
        share = room * len(sample) / len(files)
        quality = next((q for q in range(BEST, 0, -4) if _bytes(_encoded(sample, q)) <= share), 1)
        while quality > 0:
            pictures = [
                picture for picture in pool.map(partial(_small, read, quality), files) if picture
            ]
            if _bytes(pictures) <= room:
                break
            quality -= 1
        else:
            raise MaskweaveError(f"{len(files)} photos do not fit into {megabytes} MB")
    if not pictures:
        raise MaskweaveError(f"{photos} holds no photo that can be used")
    with unfinished(output) as path, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number, picture in enumerate(pictures):
            archive.writestr(zipfile.ZipInfo(f"{number:06d}.webp"), picture)
    return len(pictures), quality


def pack_weights(torch_home: Path) -> None:
    """Write torchvision's SqueezeNet in half precision where LPIPS looks for it in a TORCH_HOME.

    Its weights are loaded as torchvision does, from this machine's TORCH_HOME or by download.
    """
    model = squeezenet1_1(weights=SqueezeNet1_1_Weights.DEFAULT)
    weights = {name: value.half() for name, value in model.state_dict().items()}
    name = SqueezeNet1_1_Weights.DEFAULT.url.rpartition("/")[2]
    with unfinished(torch_home / "hub" / "checkpoints" / name) as path:
        torch.save(weights, path)


def _read(file: Path, shorter_side: int) -> Photo | None:
    try:
        return read_photo(file, shorter_side, SMALLEST)
    except MaskweaveError as error:
        warn(f"left out: {error}")
        return None


def _small(read: partial[Photo | None], quality: int, file: Path) -> bytes | None:
    photo = read(file)
    return None if photo is None else _encoded([photo], quality)[0]


def _encoded(photos: Iterable[Photo], quality: int) -> list[bytes]:
    pictures: list[bytes] = []
    for photo in photos:
        content = io.BytesIO()
        Image.fromarray(photo.transpose(1, 2, 0)).save(content, "WEBP", quality=quality)
        pictures.append(content.getvalue())
    return pictures


def _bytes(pictures: list[bytes]) -> int:
    return sum(LISTED + len(picture) for picture in pictures)


def main(
    photos: Annotated[Path, typer.Argument(help="Folder of photos, searched recursively.")],
    output: Annotated[Path, typer.Argument(help="The zip; torch_home is written beside it.")],
    megabytes: Annotated[float, typer.Option(help="Largest size of the zip.")] = 45,
    shorter_side: Annotated[int, typer.Option(help="Pixels of the photos' shorter side.")] = 160,
) -> None:
    """Pack photos into a zip, and LPIPS's weights into a folder beside it."""
    number, quality = pack(photos, output, megabytes, shorter_side)
    pack_weights(output.parent / "torch_home")
    print(f"{output}: {number} photos at quality {quality}, {output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    try:
        typer.run(main)
    except MaskweaveError as error:
        sys.exit(f"error: {error}")
