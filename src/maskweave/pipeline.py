"""Fills by a tokenizer and a transformer, of photos of any size."""

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from maskweave.backends import choose_backend, fast_dtype
from maskweave.batches import paint_requests
from maskweave.call import MEMORY, Filled, Photo, Pipeline, StepPicture
from maskweave.checkpoint import (
    as_config,
    load_tokenizer,
    load_transformer,
    save_component,
    upload,
)
from maskweave.classical import METHODS, ClassicalPipeline
from maskweave.convert.folder import prepared
from maskweave.domain import UNLIKE, Probe, load_probe, traits
from maskweave.errors import MaskweaveError
from maskweave.files import read_json, write_json
from maskweave.graphs import converted, load_exported
from maskweave.images import Hole
from maskweave.legacy import read_defaults
from maskweave.maskgit import DecodeSettings, Step
from maskweave.tokenizer.base import Tokenizer
from maskweave.transformer import Transformer
from maskweave.walk import Crops, Filling, Walk, Windows, check_framing, drive

BYTES = 12
"""What a pixel of a photo takes while that is filled: the photo, its hole, its fill."""


class InpaintPipeline(Pipeline):
    """Fills holes in images of any size with a tokenizer and a transformer, framed as they need."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        transformer: Transformer,
        defaults: DecodeSettings | None = None,
        framing: str = "whole object",
        domain: str | None = None,
        probe: Probe | None = None,
    ) -> None:
        config = transformer.config
        if (tokenizer.codebook_size, tokenizer.grid) != (config.codebook_size, config.grid):
            raise MaskweaveError("tokenizer and transformer differ in their codebook or grid size")
        if config.patch_size not in (0, tokenizer.patch_size):
            raise MaskweaveError("tokenizer and transformer differ in their patch size")
        # On CPUs wide convolutions take two thirds of the time with channels side by side.
        self.tokenizer = tokenizer.eval().to(memory_format=torch.channels_last)
        self.transformer = transformer.eval()
        self.defaults = defaults or DecodeSettings()
        self.framing = check_framing(framing, tokenizer.guided, tokenizer.image_size)
        self.domain, self.probe = domain, probe

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        torch_dtype: torch.dtype | Literal["auto"] = torch.float32,
        backend: str | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> "InpaintPipeline":
        """Load a model by its shipped name, its folder or its hub id.

        Parameters
        ----------
        name : str or Path
            Shipped are those that ``maskweave models`` lists. Checkpoints of a family that
            ``maskweave convert`` knows, as their project publishes them, are converted on the first
            use, into the user's cache.
        torch_dtype : torch.dtype or "auto"
            Precision of the transformer and of painting, as in ``to``; ``auto`` is bfloat16 where
            the CPU has instructions for it, else float32. The bytes of a fill depend on it.
        backend : {"auto", "torch", "openvino", "onnx"}, optional
            What computes. By default what the model's files are for: torch, unless it was exported.
            The others run on the CPU; torch weights are then made into graphs once, which are kept
            in the user's cache. ``auto`` takes OpenVINO where it is installed. The bytes of a fill
            depend on it, if only by rounding.
        revision, cache_dir, token, local_files_only
            As in ``huggingface_hub.snapshot_download``; read only of a hub id.

        Raises
        ------
        MaskweaveError
            If there is no such model, its files are broken, or the backend is not installed or
            does not fit the files or the precision.
        """
        if name in METHODS:
            raise MaskweaveError(f"{name} is no model: maskweave.load_pipeline({name!r}) has it")
        directory = prepared(
            name,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
        file = directory / "config.json"
        if (directory / "tokenizer").is_dir() and not (directory / "transformer").is_dir():
            raise MaskweaveError(f"{name} holds a tokenizer alone: train a transformer on it")
        if (directory / "model.safetensors").is_file():
            raise MaskweaveError(f"{name} holds one part alone, a tokenizer or a transformer")
        defaults = as_config(DecodeSettings, read_defaults(file), file)
        config = read_json(file)
        framing, domain = config.get("framing", "whole object"), config.get("domain")
        if domain is not None and not (isinstance(domain, str) and domain.isprintable()):
            raise MaskweaveError(f"{file}: domain is a line of text, got {domain!r:.40}")
        written = config.get("graphs")
        backend = choose_backend(backend, written, directory)
        dtype = fast_dtype(backend) if torch_dtype == "auto" else torch_dtype
        if written is not None:
            tokenizer, transformer = load_exported(directory, backend, dtype)
        else:
            tokenizer = load_tokenizer(directory / "tokenizer")
            transformer = load_transformer(directory / "transformer")
            if backend != "torch":
                tokenizer, transformer = converted(tokenizer, transformer, backend, dtype)
        probe = load_probe(directory, transformer.config.dim)
        return cls(tokenizer, transformer, defaults, framing, domain, probe).to(dtype)

    def save_pretrained(self, directory: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the model to a folder, its floating-point weights as ``dtype`` if given.

        Raises
        ------
        MaskweaveError
            If the model runs as graphs, which have no weights to save.
        """
        if self.backend != "torch":
            raise MaskweaveError(
                f"a model that runs by {self.backend} has no weights to save: copy its folder"
            )
        directory = Path(directory)
        save_component(self.tokenizer, directory / "tokenizer", dtype)
        save_component(self.transformer, directory / "transformer", dtype)
        defaults = dataclasses.asdict(self.defaults)
        config = {"framing": self.framing, "domain": self.domain, "defaults": defaults}
        write_json(directory / "config.json", config)
        if self.probe is not None:
            self.probe.save(directory)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload model",
    ) -> str:
        """Upload the model to the Hugging Face hub; return the address of the commit.

        Raises
        ------
        MaskweaveError
            If the hub refuses or cannot be reached.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload(Path(folder), repo_id, private, token, commit_message)

    def to(
        self,
        device: str | torch.device | torch.dtype | None = None,
        dtype: torch.dtype | None = None,
    ) -> "InpaintPipeline":
        """Move to a device, round the transformer's weights to a dtype, or both, as modules do.

        What is not given stays as it is. The tokenizer keeps float32 weights: it encodes in float32
        and paints in mixed precision.

        Raises
        ------
        MaskweaveError
            If the model runs as graphs, which stay on the CPU and in the precision they have.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if self.backend != "torch":
            stays = device is None or torch.device(device).type == "cpu"
            if not stays or dtype not in (None, self.dtype):
                raise MaskweaveError(
                    f"by {self.backend} a model runs on the CPU, in the precision it is loaded in"
                )
            return self
        self.tokenizer.to(device)
        self.transformer.to(device, dtype)
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.transformer.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the transformer."""
        return self.transformer.dtype

    @property
    def backend(self) -> str:
        """What computes: torch, openvino or onnx."""
        return self.transformer.backend

    def settings(self, **overrides: Any) -> DecodeSettings:
        """Return the model's defaults with those overrides that are not None.

        A label may also be given as one of the model's names for them.

        Raises
        ------
        MaskweaveError
            If a setting is unknown or out of range, or the model takes no label, no prompt or no
            levels.
        """
        given = {name: value for name, value in overrides.items() if value is not None}
        unknown = given.keys() - {field.name for field in dataclasses.fields(DecodeSettings)}
        if unknown:
            raise MaskweaveError(f"unknown decode settings {', '.join(sorted(unknown))}")
        if isinstance(label := given.get("label"), str):
            given["label"] = self._label(label)
        settings = dataclasses.replace(self.defaults, **given)
        if settings.levels is not None and self.framing != "texture":
            raise MaskweaveError("this model takes no levels: it fills crops around whole objects")
        self.transformer.condition(settings.label, settings.prompt)
        return settings

    def _label(self, given: str) -> int:
        """Return the number of a label that is given by its name or as digits."""
        names = self.transformer.class_names
        if given in names:
            return names.index(given)
        if given.isascii() and given.isdigit():
            return int(given)
        there = f"there are {', '.join(names)}"[:200] if names else "its labels are numbers"
        raise MaskweaveError(f"unknown label {given!r:.60}: {there}")

    @torch.inference_mode()
    def fill(
        self,
        photos: Iterable[Photo],
        settings: DecodeSettings,
        *,
        batch_size: int = 16,
        memory: int = MEMORY,
        keep_known: bool = True,
        every_step: bool = False,
        on_step: Callable[[Step], None] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        on_note: Callable[[int, str], None] | None = None,
    ) -> Iterator[Filled]:
        """Fill photos as they come and yield each as soon as it is finished."""
        shown = settings.last_step if every_step else 1
        begun: dict[int, tuple[Photo, list[Filling]]] = {}
        planned = 0

        def fillings() -> Iterator[tuple[Filling, Walk]]:
            nonlocal planned
            for place, photo in enumerate(photos):
                if settings.paint == "expected" and len(photo.seeds) > 1:
                    raise MaskweaveError(
                        "paint 'expected' has one fill: for several ask for paint 'sampled'"
                    )
                pixels, hole = photo.picture.seen(photo.hole), photo.hole
                plan = self._plan(hole, settings)
                planned += len(plan) * len(photo.seeds)
                each = [Filling(place, pixels, hole, s, keep_known, shown) for s in photo.seeds]
                begun[place] = photo, list(each)
                if on_note is not None and (note := self._remark(plan.walk(each[0]))):
                    on_note(place, note)
                yield from ((filling, plan.walk(filling)) for filling in each)

        condition = self.transformer.condition(settings.label, settings.prompt)
        parts = (self.tokenizer, self.transformer, settings, condition)
        paint = partial(paint_requests, *parts, every_step, on_step)
        most_pixels = memory * 1_000_000 // (BYTES + 4 * (shown - 1))
        left: Counter[int] = Counter()
        for count, finished in drive(fillings(), paint, batch_size, most_pixels):
            if on_progress is not None:
                on_progress(count, planned)
            for filling in finished:
                left[filling.photo] += 1
                if left[filling.photo] == len(begun[filling.photo][1]):
                    yield filling.photo, _finished(*begun.pop(filling.photo), keep_known)

    def _plan(self, hole: Hole, settings: DecodeSettings) -> Crops | Windows:
        """Return how a photo is divided, as the model's framing asks for."""
        size, context = self.tokenizer.image_size, settings.context
        if self.framing == "texture":
            return Windows(hole, size[0], context=context, levels=settings.levels)
        return Crops(hole, size, context=context)

    def _remark(self, walk: Walk) -> str | None:
        """Return what is to be said if the first piece of a photo is not what the model is for."""
        if self.probe is None or not (pieces := next(walk, [])):
            return None
        request = pieces[0].request()
        if request.hole.all():
            return None
        known, hole = request.known[None].to(self.device), request.hole[None].to(self.device)
        if not self.probe.foreign(traits(self.tokenizer, self.transformer, known, hole)).item():
            return None
        named = f" ({self.domain})" if self.domain else ""
        return f"{UNLIKE}{named}; the model navier-stokes fills thin holes of any photo"


def load_pipeline(name: str | Path, **options: Any) -> Pipeline:
    """Load whatever fills holes.

    Parameters
    ----------
    name : str or Path
        A model, as in ``InpaintPipeline.from_pretrained``, or a classical method: telea,
        navier-stokes, biharmonic or fsr.
    **options
        Further ones of ``InpaintPipeline.from_pretrained``.

    Raises
    ------
    MaskweaveError
        If there is no such model, its files are broken, or a classical method is given options.
    """
    if name not in METHODS:
        return InpaintPipeline.from_pretrained(name, **options)
    if options:
        raise MaskweaveError(f"{name} has no weights: it takes no {', '.join(options)}")
    return ClassicalPipeline(str(name))


def _finished(
    photo: Photo, fillings: Iterable[Filling], keep_known: bool
) -> list[list[StepPicture]]:
    """Return the fills of a photo after each step that is shown, in the photo's own depth."""
    picture, hole = photo.picture, photo.hole
    return [
        [
            StepPicture(picture.filled(canvas.pixels, hole, keep_known), canvas.masked)
            for canvas in filling.canvases
        ]
        for filling in fillings
    ]
