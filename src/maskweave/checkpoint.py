"""Weights on disk: a folder per component with ``config.json`` and ``model.safetensors``.

A model is a folder with the components ``tokenizer`` and ``transformer``, a ``config.json`` with
the default decode settings and a model card, ``README.md``. Nothing is ever unpickled.
"""

import dataclasses
import hashlib
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from maskweave.errors import MaskweaveError
from maskweave.files import read_json, write_json, write_whole
from maskweave.tokenizer.base import Tokenizer
from maskweave.tokenizer.reference import ReferenceConfig, ReferenceVQGAN
from maskweave.tokenizer.vqgan import VQGAN, TokenizerConfig
from maskweave.transformer import BidirectionalTransformer, TransformerConfig

SHIPPED = Path(__file__).parent / "models"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

Config = TypeVar("Config")


def save_component(module: nn.Module, directory: Path, dtype: torch.dtype | None = None) -> None:
    """Write a tokenizer or a transformer; files appear under their names only when whole.

    Parameters
    ----------
    module : nn.Module
        Has a dataclass ``config``.
    directory : Path
        Made if missing.
    dtype : torch.dtype, optional
        Store floating-point weights as this type, for instance ``torch.float16``.
    """
    weights = {
        name: value.detach().cpu().to(dtype if value.is_floating_point() else None).contiguous()
        for name, value in module.state_dict().items()
    }
    write_whole(directory / "model.safetensors", save(weights))
    config = dataclasses.asdict(module.config)  # type: ignore[call-overload]
    write_json(directory / "config.json", config)


def load_tokenizer(directory: Path) -> Tokenizer:
    """Load a tokenizer component, in float32 and evaluation mode.

    Raises
    ------
    MaskweaveError
        If files are missing or broken, or the weights hold NaN or do not fit the config.
    """
    if _fields(directory / "config.json").get("architecture") == "reference":
        return _load(ReferenceVQGAN, ReferenceConfig, directory)
    return _load(VQGAN, TokenizerConfig, directory)


def load_transformer(directory: Path) -> BidirectionalTransformer:
    """Load a transformer component, as ``load_tokenizer`` does."""
    return _load(BidirectionalTransformer, TransformerConfig, directory)


def shipped_models() -> list[str]:
    """Return the names of the models that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/config.json"))


def resolve(name: str | Path) -> Path:
    """Return the folder of a model.

    Parameters
    ----------
    name : str or Path
        The name of a shipped model, a folder, or an id on the Hugging Face hub such as
        ``owner/model``, of which the JSON, safetensors and Markdown files are downloaded.

    Raises
    ------
    MaskweaveError
        If there is no such model or the hub cannot be reached.
    """
    if str(name) in shipped_models():
        return SHIPPED / str(name)
    if Path(name).is_dir():
        return Path(name)
    shipped = ", ".join(shipped_models()) or "none"
    if not HUB_ID.fullmatch(str(name)):
        raise MaskweaveError(f"unknown model {str(name)!r}: no folder, and shipped are {shipped}")
    import huggingface_hub

    try:
        found = huggingface_hub.snapshot_download(
            str(name), allow_patterns=["*.json", "*.safetensors", "*.md"]
        )
    # The hub client raises errors of its HTTP library, whichever it is, beside its own.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MaskweaveError(
            f"model {str(name)!r} is no folder and not on the hub (shipped are {shipped}): {reason}"
        ) from error
    return Path(found)


def weights_hash(*modules: nn.Module) -> str:
    """Return the SHA-256 of the names and values of all weights, in float32."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(name.encode() + tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def as_config(kind: type[Config], fields: dict[str, Any], file: Path) -> Config:
    """Make a config dataclass of what a JSON file holds.

    Raises
    ------
    MaskweaveError
        If a field is unknown, has another type or is out of range; the message names the file.
    """
    hints = get_type_hints(kind)
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    wrong = [name for name, v in values.items() if name not in hints or not _fits(v, hints[name])]
    if wrong:
        raise MaskweaveError(f"{file} does not describe {kind.__name__}: see {', '.join(wrong)}")
    try:
        return kind(**values)
    except MaskweaveError as error:
        raise MaskweaveError(f"{file}: {error}") from error
    except TypeError as error:  # a field that has no default
        raise MaskweaveError(f"{file} does not describe {kind.__name__}: {error}") from error


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from JSON has the type of a config's field."""
    parts = get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(item, parts[0]) for item in value)
    if get_origin(hint) is Literal:
        return value in parts
    if parts:  # a union
        return any(_fits(value, part) for part in parts)
    return type(value) is hint or (hint is float and type(value) is int)


def _fields(file: Path) -> dict[str, Any]:
    """Read a component's config; one of version 0.1 gets the names of today."""
    fields = read_json(file)
    if fields.get("architecture", "reference") != "reference":
        return fields
    names = {"patch": "patch_size", "code_dim": "codebook_dim", "layers": "depth"}
    fields = {names.get(name, name): value for name, value in fields.items()}
    if isinstance(length := fields.pop("length", None), int) and length > 0:
        side = math.isqrt(length)
        fields["grid"] = [side, length // side]
    if fields.pop("modern", False):
        modern = ("pre_norm", "rms_norm", "swiglu", "rotary", "qk_norm")
        fields |= dict.fromkeys(modern, True)
    return fields


Module = TypeVar("Module", VQGAN, ReferenceVQGAN, BidirectionalTransformer)


def _load(kind: Callable[[Config], Module], config: type[Config], directory: Path) -> Module:
    settings = directory / "config.json"
    file = directory / "model.safetensors"
    with torch.device("meta"):  # without memory, which a broken config could ask too much of
        module = kind(as_config(config, _fields(settings), settings))
    try:
        weights = {name: value.float() for name, value in load_file(file).items()}
        module.load_state_dict(weights, assign=True)
    except (OSError, SafetensorError) as error:
        raise MaskweaveError(f"cannot read {file}: {error}") from error
    except RuntimeError as error:
        raise MaskweaveError(f"{file} does not fit its config.json: {error}") from error
    broken = [name for name, value in weights.items() if not value.isfinite().all()]
    if broken:
        raise MaskweaveError(f"{file} holds NaN or infinite weights in {', '.join(broken[:3])}")
    return module.eval()
