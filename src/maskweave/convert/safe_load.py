"""Weights in files of strangers, read so that no code of theirs runs and no size is believed."""

import json
import math
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from maskweave.errors import MaskweaveError

LARGEST_FILE = 1 << 33
"""Bytes of a file, and of its weights in float32, beyond which it is refused."""

DEEPEST = 32
"""Maps within maps beyond which a flax file is refused."""

MOST_ENTRIES = 1 << 14
"""Names in a file beyond which it is refused."""

ARRAY = 1
"""Extension type of an array (``flax.serialization``)."""

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}

OBJECTS = (
    "is broken or holds objects{which}, which are never unpickled; if you trust the file, save its "
    'weights alone, where what it needs is installed: python -c "import torch; c = torch.load('
    "'{file}', map_location='cpu', weights_only=False); "
    "torch.save(c.get('state_dict', c), 'weights.pt')\""
)


def read_torch(file: Path) -> dict[Any, Any]:
    """Read what ``torch.save`` wrote, or a safetensors file.

    Raises
    ------
    MaskweaveError
        If the file is missing, too large, broken, no dict or holds anything that would have to be
        unpickled.
    """
    _check_file(file)
    if file.suffix == ".safetensors":
        return read_safetensors(file)
    _refuse_bomb(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is odd in old files
            content = torch.load(file, map_location="cpu", weights_only=True)
    # Broken pickles raise whatever torch stumbles over, with advice to unpickle them all the same.
    except Exception as error:
        found = re.search(r"GLOBAL ([\w.]{1,200})", str(error))
        raise _holds_objects(file, f" ({found[1]})" if found else "") from error
    if not isinstance(content, dict):
        raise MaskweaveError("holds no state dict")
    return content


def read_safetensors(file: Path) -> dict[Any, Any]:
    """Read a safetensors file.

    Raises
    ------
    MaskweaveError
        If the file is missing, too large or broken.
    """
    _check_file(file)
    try:
        return dict(load_file(file))
    except (OSError, SafetensorError) as error:
        raise MaskweaveError(f"is no whole safetensors file: {error}") from error


def read_flax(file: Path) -> dict[str, Any]:
    """Read what ``flax.serialization.to_bytes`` wrote: maps within maps, and arrays.

    Raises
    ------
    MaskweaveError
        If the file is missing, too large or broken, holds anything but maps and arrays of floats,
        or an array is not of the size that it says it has.
    """
    _check_file(file)
    content = _unpacked(file.read_bytes())
    if not isinstance(content, dict):
        raise MaskweaveError("holds no map of weights")
    return content


def flat(content: dict[str, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Return what maps within maps hold, with dots in its names.

    Raises
    ------
    MaskweaveError
        If there are too many maps within one another.
    """
    if depth > DEEPEST:
        raise MaskweaveError(f"holds more than {DEEPEST} maps within one another")
    result: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{name}.", depth + 1)
        else:
            result[f"{prefix}{name}"] = value
    return result


def _check_file(file: Path) -> None:
    if not file.is_file():
        raise MaskweaveError("is no file" if file.exists() else "does not exist")
    if file.stat().st_size > LARGEST_FILE:
        raise MaskweaveError(f"is larger than {LARGEST_FILE} bytes, as no known checkpoint is")


def _refuse_bomb(file: Path) -> None:
    """Refuse an archive that unpacks to more than itself: ``torch.save`` compresses nothing."""
    size = file.stat().st_size
    try:
        if not zipfile.is_zipfile(file):
            return
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _holds_objects(file) from error
    if unpacked > size:
        raise MaskweaveError(f"unpacks to {unpacked} bytes from {size}, as no checkpoint does")


def _holds_objects(file: Path, which: str = "") -> MaskweaveError:
    # Names are a stranger's choice, and the command is for copying.
    name = file.name if re.fullmatch(r"[\w.-]+", file.name) else "FILE"
    return MaskweaveError(OBJECTS.format(which=which, file=name))


def _unpacked(content: bytes) -> Any:
    entries = 0

    def pairs(found: list[tuple[Any, Any]]) -> dict[str, Any]:
        nonlocal entries
        entries += len(found)
        result = dict(found)
        if entries > MOST_ENTRIES or len(result) < len(found):
            raise MaskweaveError("holds too many names, or one twice")
        return result

    import msgpack

    try:
        return msgpack.unpackb(
            content,
            ext_hook=_array,
            object_pairs_hook=pairs,
            raw=False,
            strict_map_key=True,
            max_array_len=0,
            max_map_len=MOST_ENTRIES,
            max_str_len=1 << 12,
            max_bin_len=0,
        )
    except MaskweaveError:
        raise
    # msgpack raises errors of several kinds, ValueError and RecursionError among them.
    except Exception as error:
        reason = str(error).partition("\n")[0][:80] or type(error).__name__
        raise MaskweaveError(f"is no whole file of flax: {reason}") from error


def _array(code: int, packed: bytes) -> Tensor:
    """Make an array of (shape, name of the type of its numbers, bytes)."""

    def refuse(what: str) -> NoReturn:
        raise MaskweaveError(f"holds an array {what}")

    import msgpack

    if code != ARRAY:
        refuse(f"of extension type {code}, not of {ARRAY}")
    parts = msgpack.unpackb(packed, raw=False, max_array_len=8, max_map_len=0, max_ext_len=0)
    if not (isinstance(parts, list) and len(parts) == 3):
        refuse("without shape, type and bytes")
    shape, name, raw = parts
    if not (isinstance(shape, list) and all(type(side) is int and side > 0 for side in shape)):
        refuse(f"of shape {json.dumps(shape, default=str)[:80]}")
    if not (isinstance(name, str) and name in DTYPES):
        refuse(f"of {str(name)[:40]!r}, which are no floats")
    if not isinstance(raw, bytes) or math.prod(shape) * DTYPES[name].itemsize != len(raw):
        size = len(raw) if isinstance(raw, bytes) else 0
        refuse(f"of shape {shape} of {name} in {size} bytes")
    return torch.frombuffer(bytearray(raw), dtype=DTYPES[name]).reshape(shape)
