"""Seeds of single images: each draws its own noise, whatever it is filled beside."""

import hashlib

import torch


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
