"""Weights on disk: a folder per component with ``config.json`` and ``model.safetensors``.

A model is a folder with the components ``tokenizer`` and ``transformer``, a ``config.json`` with
the default decode settings and a model card, ``README.md``. Nothing is ever unpickled.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Generator
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
from maskweave.files import read_small, write_json, write_whole
from maskweave.foreign.amused import MERGES, VOCABULARY, AmusedConfig, AmusedTransformer
from maskweave.foreign.google import GoogleConfig, GoogleTransformer
from maskweave.foreign.halton import HaltonConfig, HaltonTransformer
from maskweave.legacy import read_config
from maskweave.models import SHIPPED, shipped_models
from maskweave.settings import readable
from maskweave.tokenizer.base import Tokenizer
from maskweave.tokenizer.convolutional import ConvolutionalConfig, ConvolutionalVQGAN
from maskweave.tokenizer.painted import PaintedConfig, PaintedVQGAN
from maskweave.tokenizer.vqgan import VQGAN, TokenizerConfig
from maskweave.transformer import BidirectionalTransformer, Transformer, TransformerConfig

GRAPHS = ("graphs/*.xml", "graphs/*.bin", "graphs/*.onnx")
"""Files of exported models, which hold graphs and weights and no code of Python."""

ADDED = ("classes", "class_names", "dilation", "narrow")
"""Fields of configs that came after models whose identity is written down in their runs."""

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
    for name, content in further_files(module).items():
        write_whole(directory / name, content)
    config = dataclasses.asdict(module.config)  # type: ignore[call-overload]
    write_json(directory / "config.json", config)


def further_files(module: nn.Module) -> dict[str, bytes]:
    """Return what a component has beside config and weights, as the vocabulary of its prompts."""
    return getattr(module, "files", {})


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """Load a tokenizer component, in float32 and evaluation mode.

    Raises
    ------
    MaskweaveError
        If files are missing or broken, or the weights hold NaN or do not fit the config.
    """
    return _load(blank_tokenizer(directory), Path(directory))


def blank_tokenizer(directory: str | Path) -> Tokenizer:
    """Make the tokenizer of a component without its weights.

    Raises
    ------
    MaskweaveError
        If its config is missing, broken or of an unknown architecture.
    """
    file = Path(directory) / "config.json"
    fields = read_config(file)
    with blank():
        match fields.get("architecture", "patch_vqgan"):
            case "patch_vqgan":
                return VQGAN(as_config(TokenizerConfig, fields, file))
            case "convolutional_vqgan":
                return ConvolutionalVQGAN(as_config(ConvolutionalConfig, fields, file))
            case "painted_vqgan":
                return PaintedVQGAN(as_config(PaintedConfig, fields, file))
            case other:
                raise MaskweaveError(f"{file}: unknown architecture {other!r:.40} of a tokenizer")


def load_transformer(directory: str | Path) -> Transformer:
    """Load a transformer component, as ``load_tokenizer`` does."""
    return _load(_blank_transformer(Path(directory)), Path(directory))


def _blank_transformer(directory: Path) -> Transformer:
    """Make the transformer of a component without its weights, as ``blank_tokenizer`` does."""
    file = directory / "config.json"
    fields = read_config(file)
    with blank():
        match fields.get("architecture", "bidirectional_transformer"):
            case "bidirectional_transformer":
                return BidirectionalTransformer(as_config(TransformerConfig, fields, file))
            case "google_transformer":
                return GoogleTransformer(as_config(GoogleConfig, fields, file))
            case "halton_transformer":
                return HaltonTransformer(as_config(HaltonConfig, fields, file))
            case "amused_transformer":
                config = as_config(AmusedConfig, fields, file)
                files = {name: read_small(directory / name) for name in (VOCABULARY, MERGES)}
                try:
                    return AmusedTransformer(config, files)
                except MaskweaveError as error:
                    raise MaskweaveError(f"{directory}: {error}") from error
            case other:
                raise MaskweaveError(f"{file}: unknown architecture {other!r:.40} of a transformer")


def resolve(name: str | Path, **hub: Any) -> Path:
    """Return the folder of a model.

    Parameters
    ----------
    name : str or Path
        The name of a shipped model, a folder, or an id on the Hugging Face hub such as
        ``owner/model``, of which the JSON, safetensors and Markdown files are downloaded, and
            exported graphs.
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
    with _hub(f"model {str(name)!r} is no folder and not on the hub (shipped are {shipped})"):
        patterns = ["*.json", "*.safetensors", "*.md", f"*{MERGES}", *GRAPHS]
        return _downloaded(str(name), patterns, **hub)


def is_hub_id(name: str | Path) -> bool:
    """Say whether ``resolve`` looks for a model on the hub."""
    here = str(name) in shipped_models() or Path(name).is_dir()
    return not here and HUB_ID.fullmatch(str(name)) is not None


def files_on_hub(name: str, **hub: Any) -> list[str]:
    """Return the paths of all files of a repository, none if the hub is not to be asked.

    Raises
    ------
    MaskweaveError
        If there is no such repository or the hub cannot be reached.
    """
    if hub.get("local_files_only"):
        return []
    import huggingface_hub

    with _hub(f"cannot list the files of {name!r}"):
        api = huggingface_hub.HfApi(token=hub.get("token"))
        return api.list_repo_files(name, revision=hub.get("revision"))


def download(name: str, files: list[str], **hub: Any) -> Path:
    """Download some files of a repository on the hub; return its folder.

    Raises
    ------
    MaskweaveError
        If the hub cannot be reached.
    """
    with _hub(f"cannot download {name!r}"):
        return _downloaded(name, files, **hub)


def _downloaded(name: str, patterns: list[str], **hub: Any) -> Path:
    import huggingface_hub

    return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns, **hub))


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
    What later versions can add to a model counts only where it is there.
    """
    digest = hashlib.sha256()
    for module in modules:
        if (config := getattr(module, "config", None)) is not None:
            fields = dataclasses.asdict(config)
            told = {name: fields[name] for name in fields if fields[name] or name not in ADDED}
            digest.update(json.dumps(told, sort_keys=True).encode())
        for name, content in further_files(module).items():
            digest.update(name.encode() + content)
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


Module = TypeVar("Module", bound=nn.Module)


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


def _load(module: Module, directory: Path) -> Module:
    file = directory / "model.safetensors"
    try:
        weights = {name: value.float() for name, value in load_file(file).items()}
        module.load_state_dict(weights, assign=True)
    except (OSError, SafetensorError) as error:
        raise MaskweaveError(f"cannot read {file}: {error}") from error
    except RuntimeError as error:
        raise MaskweaveError(f"{file} does not fit its config.json: {error}") from error
    broken = [
        name
        for name, value in weights.items()
        # A sum that is finite tells enough, and is quick.
        if not (value.sum().isfinite() or value.isfinite().all())
    ]
    if broken:
        raise MaskweaveError(f"{file} holds NaN or infinite weights in {', '.join(broken[:3])}")
    return module.eval()
