"""Seeds of single images: each draws its own noise, whatever it is filled beside."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from maskweave.errors import MaskweaveError


def seed_of(seed: int, name: str) -> int:
    """Return the seed of one image, the same on every machine and for ever.

    Parameters
    ----------
    seed : int
        The seed of a whole run.
    name : str
        What tells the image from the others of the run: the name of its file without suffix.

    Returns
    -------
    int
        From 0 to 2^63 - 1: the first 63 bits of a SHA-256.
    """
    # Names of files may hold bytes that are no text: Python keeps them as surrogates.
    text = f"{seed}/{name}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:8]) >> 1


def seeded(seed: int, name: str) -> torch.Generator:
    """Return a generator on the CPU that starts from ``seed_of(seed, name)``."""
    return torch.Generator().manual_seed(seed_of(seed, name))


def draw_seeds(
    generator: torch.Generator | Sequence[torch.Generator] | None, images: int, samples: int
) -> list[list[int]]:
    """Draw the seeds of all fills of every image, before any decoding.

    Parameters
    ----------
    generator : torch.Generator or a sequence of them
        One for all, or one for each image or for each fill, image by image. Without it the seeds
        are random.
    images, samples : int
        Number of images, and of fills of each.

    Raises
    ------
    MaskweaveError
        If there are as many generators as neither images nor fills.
    """
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    every: list[Any] = list(generator) if isinstance(generator, Sequence) else [generator]
    if not all(isinstance(one, torch.Generator) for one in every):
        raise MaskweaveError("generator is a torch.Generator or a list of them")
    if isinstance(generator, torch.Generator):
        generators = [generator] * (images * samples)
    elif len(generator) in (images, images * samples):
        repeats = images * samples // len(generator) if len(generator) else 1
        generators = [one for one in generator for _ in range(repeats)]
    else:
        raise MaskweaveError(
            f"{images} images need as many generators, or one for each of {images * samples} "
            f"fills, got {len(generator)}"
        )
    drawn = [int(torch.randint(2**62, (), generator=g, device=g.device)) for g in generators]
    return [drawn[i : i + samples] for i in range(0, len(drawn), samples)]
