"""How a picture was filled, kept in its PNG file, so that the same fill can be made again."""

import dataclasses
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from maskweave.call import Pipeline
from maskweave.checkpoint import as_config
from maskweave.errors import MaskweaveError
from maskweave.images import Picture
from maskweave.maskgit import DecodeSettings
from maskweave.metadata import RECIPE
from maskweave.pipeline import InpaintPipeline
from maskweave.settings import Natural, settings

_weights: WeakKeyDictionary[Pipeline, str] = WeakKeyDictionary()


class Made(NamedTuple):
    """What, beside the settings, the bytes of a fill depend on."""

    weights: str
    """First half of a SHA-256 of the model's weights; empty for classical methods."""
    dtype: str
    """Precision of the transformer, as ``--dtype`` names it."""
    device: str
    """Kind of the device: cpu, cuda, ..."""
    backend: str = "torch"
    """What computed the networks, as ``--backend`` names it."""


@settings
class Recipe:
    """What repeats a fill, given its photo and its mask."""

    model: str
    """Name of the model or of the classical method."""
    weights: str
    """As in ``Made``."""
    dtype: str
    """As in ``Made``."""
    device: str
    """As in ``Made``."""
    seed: int
    """The seed that the user gave, from which ``seeds`` were drawn."""
    seeds: list[int]
    """The seed of each of the fills that were made together."""
    fill: Natural
    """Which of them this is, from 0."""
    decoding: dict[str, Any]
    """Every field of ``DecodeSettings``."""
    soften: Natural
    """Pixels around the hole over which the fill fades into the photo."""
    version: str
    """Version of this package."""
    backend: str = "torch"
    """As in ``Made``; earlier versions had none but torch."""

    def __post_init__(self) -> None:
        """Refuse a fill that is none of those that were made."""
        if self.fill >= len(self.seeds):
            raise MaskweaveError(f"fill {self.fill} is none of {len(self.seeds)}")

    @property
    def decode_settings(self) -> DecodeSettings:
        """How tokens are decoded.

        Raises
        ------
        MaskweaveError
            If fields are unknown or out of range.
        """
        return as_config(DecodeSettings, self.decoding, Path("the recipe"))

    def noted(self, picture: Picture) -> Picture:
        """Return a picture with the recipe among what goes along with it into a PNG file."""
        text = json.dumps(dataclasses.asdict(self))
        about = picture.about
        chunks = (*about.chunks, (b"tEXt", f"{RECIPE}\0{text}".encode("ascii")))
        return replace(picture, about=replace(about, chunks=chunks))


def made_by(pipeline: Pipeline) -> Made:
    """Return what the bytes of a pipeline's fills depend on."""
    if not isinstance(pipeline, InpaintPipeline):
        return Made("", "float32", "cpu")
    dtype = str(pipeline.dtype).removeprefix("torch.")
    if pipeline not in _weights:
        _weights[pipeline] = _digest(pipeline)
    return Made(_weights[pipeline], dtype, pipeline.device.type, pipeline.backend)


def read_recipe(file: Path) -> Recipe:
    """Read how a PNG file was filled.

    Raises
    ------
    MaskweaveError
        If the file cannot be read or does not tell it.
    """
    try:
        with Image.open(file, formats=["PNG"]) as image:
            text = image.info.get(RECIPE)
    except FileNotFoundError as error:
        raise MaskweaveError(f"{file} does not exist") from error
    except Exception as error:  # of many kinds, as decoders stumble over broken files
        raise MaskweaveError(f"{file} is no PNG file that can be read") from error
    if not isinstance(text, str):
        raise MaskweaveError(f"{file} does not tell how it was filled")
    try:
        return TypeAdapter(Recipe).validate_json(text)
    except (ValidationError, ValueError) as error:
        raise MaskweaveError(
            f"{file} tells how it was filled in a way that is not known"
        ) from error


def _digest(pipeline: InpaintPipeline) -> str:
    digest = hashlib.sha256()
    for part in (pipeline.tokenizer, pipeline.transformer):
        for name, value in sorted(part.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]
