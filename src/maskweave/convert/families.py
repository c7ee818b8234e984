"""Which families of checkpoints are known, and how their files are told apart by name."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from maskweave.convert import amused, google, halton, lab, llamagen, openmuse, taming
from maskweave.errors import MaskweaveError
from maskweave.maskgit import DecodeSettings
from maskweave.tokenizer.convolutional import ConvolutionalVQGAN
from maskweave.transformer import Transformer


class Options(NamedTuple):
    """What no file tells."""

    heads: int | None = None
    """Attention heads of the transformer, where its family does not fix them."""
    qkv_layout: lab.QkvLayout | None = None
    """Rows of a fused matrix, as in ``lab.to_transformer``."""
    image_size: int | None = None
    """Side of the tokenizer's images in pixels, where no transformer tells it."""
    codebook_size: int | None = None
    """Codes of the tokenizer that is converted beside a transformer."""


UNTOLD = Options()
"""Nothing but what the files tell."""

TokenizerReader = Callable[[Path, list[str]], ConvolutionalVQGAN]
TransformerReader = Callable[[Path, list[str], Options], Transformer]


@dataclass(frozen=True)
class Family:
    """Where checkpoints come from and what reads them."""

    project: str
    """Who published them."""
    licence: str
    """Under which terms, as the project states it."""
    domain: str
    """Which photos they are for."""
    tokenizer: TokenizerReader | None = None
    """Reads the file of a tokenizer and adds notes of what it leaves out."""
    transformer: TransformerReader | None = None
    """Reads the file of a transformer, likewise."""
    tokenizer_files: tuple[str, ...] = ()
    """Patterns of the names under which tokenizers are published."""
    transformer_files: tuple[str, ...] = ()
    """Patterns of the names under which transformers are published."""
    beside: tuple[str, ...] = ()
    """Patterns of what else is read of a folder."""
    defaults: DecodeSettings = DecodeSettings()
    """How a whole model decodes."""
    dilation: int = 2
    """Tokens around a hole that are masked with it: farther ones mostly are those of the whole
    image, as docs/checkpoints.md has it measured."""


def _lab_transformer(file: Path, notes: list[str], options: Options) -> Transformer:
    return lab.transformer(file, notes, options.heads or lab.HEADS, options.qkv_layout)


def _google_transformer(file: Path, notes: list[str], options: Options) -> Transformer:
    return google.transformer(file, notes, options.codebook_size)


def _halton_transformer(file: Path, notes: list[str], options: Options) -> Transformer:
    return halton.transformer(file, notes, options.heads)


def _amused_transformer(file: Path, notes: list[str], options: Options) -> Transformer:
    return amused.transformer(file, notes)


IMAGENET = "photos like ImageNet's"

FAMILIES: dict[str, Family] = {
    "lab": Family(
        project="the MaskGIT inpainting lab",
        licence="see its repository",
        domain="faces of cats",
        tokenizer=lab.tokenizer,
        transformer=_lab_transformer,
        defaults=lab.DECODING,
        dilation=0,  # as in its own script, whose holes are thin: little would be left known
    ),
    "google": Family(
        project="google-research/maskgit",
        licence="Apache-2.0",
        domain=IMAGENET,
        tokenizer=google.tokenizer,
        transformer=_google_transformer,
        tokenizer_files=("tokenizer_imagenet*_checkpoint",),
        transformer_files=("maskgit_imagenet*_checkpoint",),
        defaults=google.DECODING,
    ),
    "openmuse": Family(
        project="huggingface/open-muse, bytedance/1d-tokenizer",
        licence="Apache-2.0",
        domain=IMAGENET,
        tokenizer=openmuse.tokenizer,
        tokenizer_files=("maskgit-vqgan-imagenet-*.bin",),
    ),
    "taming": Family(
        project="CompVis/taming-transformers",
        licence="MIT",
        domain="what the file was trained on",
        tokenizer=taming.tokenizer,
        tokenizer_files=("last.ckpt",),
    ),
    "halton": Family(
        project="valeoai/Halton-MaskGIT; the tokenizer is FoundationVision/LlamaGen's",
        licence="MIT",
        domain=IMAGENET,
        tokenizer=llamagen.tokenizer,
        transformer=_halton_transformer,
        tokenizer_files=("vq_ds16_c2i.pt",),
        transformer_files=("ImageNet_*.pth",),
        defaults=halton.DECODING,
    ),
    "llamagen": Family(
        project="FoundationVision/LlamaGen",
        licence="MIT",
        domain=IMAGENET,
        tokenizer=llamagen.tokenizer,
        tokenizer_files=("vq_ds16_c2i.pt",),
    ),
    "amused": Family(
        project="huggingface/amused",
        licence="openrail++",
        domain="any photo",
        tokenizer=amused.tokenizer,
        transformer=_amused_transformer,
        tokenizer_files=("vqvae/diffusion_pytorch_model.safetensors",),
        transformer_files=("transformer/diffusion_pytorch_model.safetensors",),
        beside=("*/config.json", "text_encoder/model.safetensors", "tokenizer/*"),
        defaults=amused.DECODING,
        dilation=1,
    ),
}
"""Families by the name that the command line takes; of two that fit a folder, the later one."""

OLD_NAMES = {"reference": "lab"}
"""Names of earlier versions."""


class Found(NamedTuple):
    """Files of a family in a folder."""

    name: str
    """Name of the family."""
    tokenizer: str | None
    """Path of the tokenizer's file within the folder."""
    transformer: str | None
    """Path of the transformer's file within the folder."""


def family_named(name: str) -> tuple[str, Family]:
    """Return a family and its name of today.

    Raises
    ------
    MaskweaveError
        If there is no such family.
    """
    name = OLD_NAMES.get(name, name)
    if name not in FAMILIES:
        raise MaskweaveError(f"unknown family {name!r:.40}; known are {', '.join(FAMILIES)}")
    return name, FAMILIES[name]


def family_of(folder: Path) -> Found | None:
    """Tell of which family the files in a folder are, by their names; None if of none.

    The conversion then looks whether their content is what the names promise.

    Raises
    ------
    MaskweaveError
        If several files could be the same part.
    """
    # Projects nest no deeper, and a folder may hold millions of files below that.
    below = (file for pattern in ("*", "*/*") for file in folder.glob(pattern) if file.is_file())
    return found_among(file.relative_to(folder).as_posix() for file in below)


def found_among(files: Iterable[str]) -> Found | None:
    """Tell the family of files by their paths, as ``family_of`` does."""
    files = sorted(files)
    best: Found | None = None
    for name, family in FAMILIES.items():
        tokenizer = _only(files, family.tokenizer_files)
        transformer = _only(files, family.transformer_files)
        found = Found(name, tokenizer, transformer)
        if any(found[1:]) and (best is None or _parts(found) >= _parts(best)):
            best = found
    return best


def _parts(found: Found) -> int:
    return sum(part is not None for part in found[1:])


def _only(files: Iterable[str], patterns: tuple[str, ...]) -> str | None:
    found = [
        file
        for file in files
        if any(
            fnmatch(file, pattern) or fnmatch(PurePosixPath(file).name, pattern)
            for pattern in patterns
        )
    ]
    if len(found) > 1:
        raise MaskweaveError(
            f"holds {' and '.join(found[:4])}: say which one by maskweave convert FAMILY "
            "--tokenizer FILE --transformer FILE"
        )
    return found[0] if found else None
