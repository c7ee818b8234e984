"""Checkpoints become a folder: a whole model of both parts, or a component of one."""

import dataclasses
import hashlib
import json
import secrets
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from maskweave.checkpoint import (
    download,
    files_on_hub,
    further_files,
    is_hub_id,
    resolve,
    save_component,
)
from maskweave.convert.families import (
    FAMILIES,
    UNTOLD,
    Family,
    Found,
    Options,
    family_named,
    family_of,
    found_among,
)
from maskweave.convert.weights import about
from maskweave.errors import MaskweaveError
from maskweave.files import sha256, user_cache, write_json, write_whole
from maskweave.models import CONVERTED, ORIGIN
from maskweave.tokenizer.base import Tokenizer
from maskweave.transformer import Transformer

VERSION = 2
"""Raised when the same files become other folders, so that kept ones are made anew."""

CARD = """\
# {name}

Converted by `maskweave convert {family}` from checkpoints of {project}, whose licence for them is:
{licence}.

| part | file | SHA-256 |
|---|---|---|
{rows}

- **Sizes**: {sizes}.
- **Limits**: the decoder does not see the known pixels, so seams can show at the hole's border.
  The encoder sees beyond a token's patch, so the tokens around a hole are not those of whole
  images, on which transformers are trained: those nearest to it are masked with it.
"""


@dataclass(frozen=True)
class Converted:
    """What became of checkpoints."""

    family: str
    """Name of their family."""
    tokenizer: Tokenizer | None
    """The first part, if its file was given."""
    transformer: Transformer | None
    """The second part, if its file was given."""
    files: dict[str, Path]
    """The files, by part."""
    notes: list[str]
    """What else they hold."""

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The parts that there are, by name."""
        both = {"tokenizer": self.tokenizer, "transformer": self.transformer}
        return {name: part for name, part in both.items() if part is not None}

    def paths(self) -> list[str]:
        """Return the files that ``save`` writes, relative to the folder."""
        components = [
            f"{name}/{file}" if len(self.parts) > 1 else file
            for name, part in self.parts.items()
            for file in ("config.json", "model.safetensors", *further_files(part))
        ]
        return ["README.md", ORIGIN, *(["config.json"] if len(self.parts) > 1 else []), *components]

    def save(self, output: Path) -> None:
        """Write a folder: a model, or a component if only one part is there.

        It appears whole or not at all; where the folder is there, files take the place of others
        when all are written.
        """
        family = FAMILIES[self.family]
        with _whole(output) as folder:
            for name, part in self.parts.items():
                save_component(part, folder / name if len(self.parts) > 1 else folder)
            if len(self.parts) > 1:
                defaults = dataclasses.asdict(family.defaults)
                config = {"framing": "whole object", "domain": family.domain, "defaults": defaults}
                write_json(folder / "config.json", config)
            hashes = {part: sha256(file) for part, file in self.files.items()}
            write_json(folder / ORIGIN, self._origin(family, hashes))
            rows = (f"| {part} | {self.files[part].name} | {h} |" for part, h in hashes.items())
            card = CARD.format(
                name=output.resolve().name,
                family=self.family,
                project=family.project,
                licence=family.licence,
                rows="\n".join(rows),
                sizes=", ".join(self._sizes()),
            )
            write_whole(folder / "README.md", card.encode())

    def _origin(self, family: Family, hashes: dict[str, str]) -> dict[str, Any]:
        return {
            "family": self.family,
            "project": family.project,
            "licence": family.licence,
            "domain": family.domain,
            "files": {
                part: {"name": self.files[part].name, "sha256": found}
                for part, found in hashes.items()
            },
        }

    def _sizes(self) -> Generator[str]:
        if self.tokenizer is not None:
            (height, width), (rows, columns) = self.tokenizer.image_size, self.tokenizer.grid
            yield f"{width}x{height} pixels"
            yield f"{columns}x{rows} tokens"
            yield f"{self.tokenizer.codebook_size} codes"
        for name, part in self.parts.items():
            yield f"{sum(p.numel() for p in part.parameters()) / 1e6:.1f} M weights of {name}"


def convert(
    family: str,
    tokenizer: Path | None = None,
    transformer: Path | None = None,
    options: Options = UNTOLD,
) -> Converted:
    """Make our components of the files of a family.

    Parameters
    ----------
    family : str
        A name in ``families.FAMILIES``, or one of an earlier version.
    tokenizer, transformer : Path, optional
        Files, at least one, as the project publishes them.
    options : Options
        What no file tells.

    Raises
    ------
    MaskweaveError
        If the family is unknown or has no such part, if a file is missing, too large, broken or
        holds anything but finite tensors, if weights are missing, left over or of other shapes than
        the rest implies, or if the parts do not fit each other. Nothing is ever unpickled.
    """
    name, known = family_named(family)
    notes: list[str] = []
    first, second = None, None
    if tokenizer is None and transformer is None:
        raise MaskweaveError("nothing to convert: give a tokenizer, a transformer or both")
    if tokenizer is not None:
        if known.tokenizer is None:
            raise MaskweaveError(f"{name} has no tokenizer that is converted")
        with about(tokenizer):
            first = known.tokenizer(tokenizer, notes)
        options = options._replace(codebook_size=first.codebook_size)
    if transformer is not None:
        if known.transformer is None:
            raise MaskweaveError(f"{name} has no transformer that is converted")
        with about(transformer):
            second = known.transformer(transformer, notes, options)
    if first is not None:
        size = _image_size(first, second, options)
        first.config = replace(first.config, image_size=size, dilation=known.dilation)
    files = {"tokenizer": tokenizer, "transformer": transformer}
    given = {part: file for part, file in files.items() if file is not None}
    return Converted(name, first, second, given, notes)


def _image_size(tokenizer: Tokenizer, transformer: Transformer | None, options: Options) -> int:
    """Return the side of the images that both parts are for.

    Raises
    ------
    MaskweaveError
        If the parts are of different codebooks or do not agree with the size that was asked for.
    """
    asked = options.image_size
    if transformer is None:
        return asked or tokenizer.config.image_size
    config, patch = transformer.config, tokenizer.patch_size
    if config.codebook_size != tokenizer.codebook_size:
        raise MaskweaveError(
            f"tokenizer and transformer differ in their codebook: {tokenizer.codebook_size} codes "
            f"and {config.codebook_size}"
        )
    rows, columns = config.grid
    if rows != columns:
        raise MaskweaveError(f"the transformer has {rows * columns} tokens, which are no square")
    if asked not in (None, rows * patch):
        raise MaskweaveError(
            f"tokenizer and transformer differ in their grid: {asked} pixels are "
            f"{asked // patch}x{asked // patch} tokens, not {rows}x{columns}"
        )
    return rows * patch


def prepared(name: str | Path, **hub: Any) -> Path:
    """Return the folder of a model or a component, converted once if it is another project's.

    Parameters
    ----------
    name : str or Path
        As for ``checkpoint.resolve``; a folder or a repository on the hub may hold files of a
        family as its project publishes them. What becomes of them is kept in the user's cache.
    **hub
        Arguments of ``huggingface_hub.snapshot_download``.

    Raises
    ------
    MaskweaveError
        If there is no such model, or a conversion fails.
    """
    folder = resolve(name, **hub)
    if is_ours(folder):
        return folder
    with about(folder):
        found = family_of(folder)
    if found is None and is_hub_id(name):
        with about(Path(name)):
            found = found_among(files_on_hub(str(name), **hub))
        if found is not None:
            folder = download(str(name), [part for part in found[1:] if part], **hub)
    return folder if found is None else converted(folder, found)


def component(name: str | Path, part: str, **hub: Any) -> Path:
    """Return the folder of a part of a model, or of a component that is that part.

    ``part`` is ``tokenizer`` or ``transformer``; the rest is as in ``prepared``.
    """
    folder = prepared(name, **hub)
    return folder if (folder / "model.safetensors").is_file() else folder / part


def is_ours(folder: Path) -> bool:
    """Say whether a folder is a model or a component as this package writes them."""
    if (folder / "tokenizer" / "config.json").is_file():
        return True
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and bool({"architecture", "defaults"} & config.keys())


def converted(folder: Path, found: Found) -> Path:
    """Return where the files of a family are kept as a model or a component; convert them once."""
    first, second = (folder / part if part else None for part in found[1:])
    read = [part for part in (first, second) if part]
    for pattern in FAMILIES[found.name].beside:
        read += sorted(folder.glob(pattern))
    state = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in read]
    made_of = json.dumps([VERSION, found.name, state])
    digest = hashlib.sha256(made_of.encode()).hexdigest()[:16]
    kept = user_cache() / CONVERTED / f"{found.name}-{digest}"
    if not kept.is_dir():
        result = convert(found.name, first, second)
        result.save(kept)
        for note in [*result.notes, f"{folder}: of {found.name}, converted into {kept}"]:
            print(f"note: {note}", file=sys.stderr)
    return kept


@contextmanager
def _whole(output: Path) -> Generator[Path]:
    """Yield a folder beside another, whose content goes there if all goes well."""
    scratch = output.resolve().with_name(f".{secrets.token_hex(8)}.unfinished")
    try:
        scratch.mkdir(parents=True)
        yield scratch
        try:
            scratch.rename(output)
        except OSError:  # it is there
            for file in [file for file in scratch.rglob("*") if file.is_file()]:
                place = output / file.relative_to(scratch)
                place.parent.mkdir(parents=True, exist_ok=True)
                file.replace(place)
    except OSError as error:
        raise MaskweaveError(f"cannot write {output}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
