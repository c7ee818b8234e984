"""Weights on disk: a folder per component with ``config.json`` and ``model.safetensors``.

A model is a folder with the components ``tokenizer`` and ``transformer``, a ``config.json`` with
the default decode settings and a model card, ``README.md``. Nothing is ever unpickled.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn
from torch.overrides import TorchFunctionMode

from maskweave.errors import MaskweaveError
from maskweave.files import write_json, write_whole
from maskweave.legacy import read_config
from maskweave.models import SHIPPED, shipped_models
from maskweave.settings import readable
from maskweave.tokenizer.base import Tokenizer
from maskweave.tokenizer.reference import ReferenceConfig, ReferenceVQGAN
from maskweave.tokenizer.vqgan import VQGAN, TokenizerConfig
from maskweave.transformer import BidirectionalTransformer, TransformerConfig

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

Config = TypeVar("Config")


def save_component(
    module: nn.Module, directory: str | Path, dtype: torch.dtype | None = None
) -> None:
    """Write a tokenizer or a transformer; files appear under their names only when whole.

    Parameters
    ----------
    module : nn.Module
        Has a dataclass ``config``.
    directory : str or Path
        Made if missing.
    dtype : torch.dtype, optional
        Store floating-point weights as this type, for instance ``torch.float16``.
    """
    directory = Path(directory)
    weights = {
        name: value.detach().cpu().to(dtype if value.is_floating_point() else None).contiguous()
        for name, value in module.state_dict().items()
    }
    write_whole(directory / "model.safetensors", save(weights))
    config = dataclasses.asdict(module.config)  # type: ignore[call-overload]
    write_json(directory / "config.json", config)


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """Load a tokenizer component, in float32 and evaluation mode.

    Raises
    ------
    MaskweaveError
        If files are missing or broken, or the weights hold NaN or do not fit the config.
    """
    directory = Path(directory)
    if read_config(directory / "config.json").get("architecture") == "reference":
        return _load(ReferenceVQGAN, ReferenceConfig, directory)
    return _load(VQGAN, TokenizerConfig, directory)


def load_transformer(directory: str | Path) -> BidirectionalTransformer:
    """Load a transformer component, as ``load_tokenizer`` does."""
    return _load(BidirectionalTransformer, TransformerConfig, Path(directory))


def resolve(name: str | Path, **hub: Any) -> Path:
    """Return the folder of a model.

    Parameters
    ----------
    name : str or Path
        The name of a shipped model, a folder, or an id on the Hugging Face hub such as
        ``owner/model``, of which the JSON, safetensors and Markdown files are downloaded.
    **hub
        Arguments of ``huggingface_hub.snapshot_download``, as ``revision`` or ``cache_dir``.

    Raises
    ------
    MaskweaveError
        If there is no such model or the hub cannot be reached.
    """
    if str(name) in shipped_models():
        return SHIPPED / str(name)
    if str(name) and Path(name).is_dir():
        return Path(name)
    shipped = ", ".join(shipped_models()) or "none"
    if not HUB_ID.fullmatch(str(name)):
        raise MaskweaveError(f"unknown model {str(name)!r}: no folder, and shipped are {shipped}")
    import huggingface_hub

    with _hub(f"model {str(name)!r} is no folder and not on the hub (shipped are {shipped})"):
        found = huggingface_hub.snapshot_download(
            str(name), allow_patterns=["*.json", "*.safetensors", "*.md"], **hub
        )
    return Path(found)


def upload(
    directory: Path, name: str, private: bool | None, token: str | bool | None, message: str
) -> str:
    """Upload a model's folder to the Hugging Face hub; return the address of the commit.

    Raises
    ------
    MaskweaveError
        If the hub refuses or cannot be reached.
    """
    import huggingface_hub

    with _hub(f"cannot upload to {name!r}"):
        api = huggingface_hub.HfApi(token=token)
        api.create_repo(name, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=name, folder_path=directory, commit_message=message)
    return str(commit)


@contextmanager
def _hub(problem: str) -> Generator[None]:
    """Turn whatever the hub's client raises into one line."""
    try:
        yield
    # It raises errors of its HTTP library, whichever it is, beside its own.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MaskweaveError(f"{problem}: {reason}") from error


def identity(*modules: nn.Module) -> str:
    """Return the SHA-256 of all that decides what networks compute.

    These are the config, where there is one, and the names and values of the weights, in float32.
    """
    digest = hashlib.sha256()
    for module in modules:
        if (config := getattr(module, "config", None)) is not None:
            digest.update(json.dumps(dataclasses.asdict(config), sort_keys=True).encode())
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
    with readable(f"{file} does not describe {kind.__name__}: "):
        return TypeAdapter(kind).validate_json(json.dumps(fields))


Module = TypeVar("Module", VQGAN, ReferenceVQGAN, BidirectionalTransformer)


class _Unset(TorchFunctionMode):
    """Leaves out initial values: on ``meta`` torch imports its compiler for them, for seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, or return the tensor that it would give values."""
        named = kwargs or {}
        if func in (nn.init.normal_, F.normalize):
            return named.get("tensor", *args)
        return func(*args, **named)


@contextmanager
def blank() -> Generator[None]:
    """Make networks without memory, which a broken config could ask too much of, and values."""
    with torch.device("meta"), _Unset():
        yield


def _load(kind: Callable[[Config], Module], config: type[Config], directory: Path) -> Module:
    settings = directory / "config.json"
    file = directory / "model.safetensors"
    with blank():
        module = kind(as_config(config, read_config(settings), settings))
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
