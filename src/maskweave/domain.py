"""Whether a model suits a photo: its transformer's view of the known pixels tells.

How far a fill of known pixels misses them does not: a model of cats misses other photos by as much
as cats. What differs is the state of the transformer, which a probe, a linear function of it, reads
(Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes").
"""

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from maskweave.errors import MaskweaveError
from maskweave.files import write_whole
from maskweave.guide import interpolated
from maskweave.holes import known_patches
from maskweave.tokenizer.base import Tokenizer
from maskweave.transformer import Transformer

BLOCKS = 2
"""Blocks of the transformer after which its states are read: there they told most."""

FILE = "domain.safetensors"
"""Where a model's folder has its probe."""

UNLIKE = "around the hole this looks unlike what the model is for"
"""How the note begins on a photo that a model is not for."""


class Probe(NamedTuple):
    """A linear function of ``traits`` that is above 0 for photos that a model was not made for."""

    weight: Float[Tensor, "traits"]
    """Weight of each trait."""
    bias: Float[Tensor, ""]
    """What is added."""

    def foreign(self, traits: Float[Tensor, "batch traits"]) -> Bool[Tensor, "batch"]:
        """Say which photos a model was not made for."""
        return traits @ self.weight + self.bias > 0

    def save(self, directory: Path) -> None:
        """Write it to a model's folder."""
        write_whole(directory / FILE, save({"weight": self.weight, "bias": self.bias}))


def load_probe(directory: Path, dim: int) -> Probe | None:
    """Load the probe of a model of a width, if its folder has one.

    Raises
    ------
    MaskweaveError
        If the file is broken or does not fit the model.
    """
    file = directory / FILE
    if not file.exists():
        return None
    try:
        found = {name: value.float() for name, value in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise MaskweaveError(f"cannot read {file}: {error}") from error
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    fits = shapes == {"weight": (2 * dim,), "bias": ()}
    if not (fits and all(value.isfinite().all() for value in found.values())):
        raise MaskweaveError(f"{file} does not fit the model")
    return Probe(**found)


@torch.inference_mode()
def traits(
    tokenizer: Tokenizer,
    transformer: Transformer,
    known: Float[Tensor, "batch 3 height width"],
    hole: Bool[Tensor, "batch height width"],
) -> Float[Tensor, "batch traits"]:
    """Return what the transformer makes of the known pixels of images of the model's size.

    These are the mean and the standard deviation of each number of its states after ``BLOCKS``
    blocks, over the known tokens. Nothing is read under the hole.

    Parameters
    ----------
    tokenizer, transformer
        A model, on the device of the images.
    known : Tensor
        Images in [-1, 1].
    hole : Tensor
        True in the hole; not all of an image.
    """
    known = known.masked_fill(hole[:, None], 0.0)
    masked = tokenizer.token_mask(hole)
    tokens = tokenizer.encode_known(known, hole)
    tokens = tokens.masked_fill(masked, transformer.config.mask_token)
    guide = interpolated(known, hole) if transformer.config.guided else None
    patches = known_patches(known, hole, tokenizer.patch_size, guide)
    patches = patches.to(transformer.dtype)
    states = transformer.states(tokens, patches, BLOCKS).float()  # (B, N, D)
    seen = (~masked)[:, :, None].float()
    number = seen.sum(1).clamp(min=1)
    mean = (states * seen).sum(1) / number
    variance = ((states - mean[:, None]).square() * seen).sum(1) / number
    return torch.cat([mean, variance.sqrt()], dim=1).cpu()
