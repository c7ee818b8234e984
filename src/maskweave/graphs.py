"""Exported graphs in the place of the networks: a tokenizer and a transformer that fill alike."""

import hashlib
import secrets
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor

from maskweave.backends import (
    SUFFIX,
    Graph,
    ONNXGraph,
    OpenVINOGraph,
    Runtime,
    check_dtype,
    needing,
    reason_of,
)
from maskweave.checkpoint import as_config, identity
from maskweave.domain import BLOCKS
from maskweave.errors import MaskweaveError
from maskweave.files import read_json, sha256, user_cache
from maskweave.guide import Guide, interpolated
from maskweave.settings import settings
from maskweave.tokenizer.base import Tokenizer
from maskweave.tracing import CODEBOOK, write_graphs
from maskweave.transformer import BidirectionalTransformer, Transformer, TransformerConfig

FOLDER = "graphs"
"""Where an exported model has its graphs, beside the configs of its components."""

Size = Annotated[int, Field(ge=1, le=2**16)]

FORM = 1
"""Raised when graphs are written in another way, so that kept ones are written anew."""


@settings
class GraphConfig:
    """What those who fill must know of an exported tokenizer, whatever its architecture."""

    grid: tuple[Size, Size]
    """Rows and columns of tokens."""
    patch_size: Size
    """Side of a token's patch, in pixels."""
    codebook_size: Size
    """Number of codes."""
    sees_known: bool
    """As in ``Tokenizer``."""
    patch_local: bool
    """As in ``Tokenizer``."""
    guided: bool
    """As in ``Tokenizer``."""
    dilation: int = 0
    """As in ``Tokenizer``."""
    narrow: int = 0
    """As in ``Tokenizer``."""
    architecture: Literal["graphs"] = "graphs"
    """Tells components apart on disk."""


def graph_config(tokenizer: Tokenizer) -> GraphConfig:
    """Return what those who fill must know of a tokenizer."""
    return GraphConfig(
        tokenizer.grid,
        tokenizer.patch_size,
        tokenizer.codebook_size,
        tokenizer.sees_known,
        tokenizer.patch_local,
        tokenizer.guided,
        tokenizer.dilation,
        tokenizer.narrow,
    )


class GraphTokenizer(Tokenizer):
    """A tokenizer whose encoder and decoder are graphs.

    Parameters
    ----------
    config : GraphConfig
        Of the tokenizer that was exported.
    codes : Tensor
        The vector of every code.
    encoder, decoder : Graph
        Its networks.
    narrow_decoder : Graph, optional
        Its decoder for narrow holes, if it has one.
    """

    vectors: Tensor

    def __init__(
        self,
        config: GraphConfig,
        codes: Tensor,
        encoder: Graph,
        decoder: Graph,
        narrow_decoder: Graph | None,
    ) -> None:
        super().__init__()
        self.config = config
        self.sees_known, self.patch_local = config.sees_known, config.patch_local
        self.guided = config.guided
        self.register_buffer("vectors", codes)
        self.encoder, self.decoder = encoder, decoder
        self.narrow_decoder = narrow_decoder

    @property
    def codes(self) -> Float[Tensor, "codebook_size codebook_dim"]:
        """The vector of every code."""
        return self.vectors

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.config.grid

    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Int[Tensor, "batch length"]:
        """Return the tokens of images in [-1, 1], row by row."""
        [tokens] = self.encoder.run(images=images)
        return tokens

    def paint(
        self,
        codes: Float[Tensor, "batch length codebook_dim"],
        known: Float[Tensor, "batch 3 height width"] | None = None,
        hole: Bool[Tensor, "batch height width"] | None = None,
        guide: Guide | None = None,
    ) -> Float[Tensor, "batch 3 height width"]:
        """Paint images, as every tokenizer does."""
        if (known is None) != (hole is None):
            raise MaskweaveError("known pixels and their hole go together: give both or neither")
        inputs = {"codes": codes}
        if self.sees_known:
            if known is None or hole is None:
                known = codes.new_zeros(len(codes), 3, *self.image_size)
                hole = torch.ones(len(codes), *self.image_size, dtype=torch.bool)
            inputs |= {"known": known, "hole": hole}
            if self.guided:
                guide = guide or interpolated(known, hole)
                inputs |= {"guide": guide.pixels, "finer": guide.finer}
        [images] = self.decoder.run(**inputs)
        return images

    def paint_narrow(
        self,
        known: Float[Tensor, "batch 3 height width"],
        hole: Bool[Tensor, "batch height width"],
        guide: Guide,
    ) -> Float[Tensor, "batch 3 height width"]:
        """Paint images with narrow holes, as every tokenizer with a decoder for them does."""
        if self.narrow_decoder is None:
            return super().paint_narrow(known, hole, guide)
        inputs = {"known": known, "hole": hole, "guide": guide.pixels, "finer": guide.finer}
        [images] = self.narrow_decoder.run(**inputs)
        return images


class GraphTransformer(Transformer):
    """A transformer that is a graph.

    Parameters
    ----------
    config : TransformerConfig
        Of the transformer that was exported.
    graph : Graph
        Its network.
    backend : str
        What runs the graph.
    dtype : torch.dtype
        Precision in which that computes.
    digest : str
        SHA-256, in hexadecimal digits, of what decides what the graphs compute.
    """

    config: TransformerConfig

    def __init__(
        self, config: TransformerConfig, graph: Graph, backend: str, dtype: torch.dtype, digest: str
    ) -> None:
        super().__init__()
        self.config = config
        self.graph, self.backend, self.precision = graph, backend, dtype
        # Among what a module's state is, so that models are told apart by it as by weights.
        self.register_buffer("digest", torch.tensor(list(bytes.fromhex(digest))).byte())

    @property
    def dtype(self) -> torch.dtype:
        """Precision in which the graph is computed."""
        return self.precision

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def forward(
        self,
        tokens: Int[Tensor, "batch length"],
        masked: Bool[Tensor, "batch length"] | None = None,
        known: Float[Tensor, "batch length numbers"] | None = None,
        condition: None = None,
    ) -> Float[Tensor, "batch length codes"] | Float[Tensor, "masked codes"]:
        """Predict tokens, as every ``Transformer`` does."""
        everywhere = torch.ones_like(tokens, dtype=torch.bool)
        where = everywhere if masked is None else masked
        logits, _ = self._run(tokens, where.flatten().nonzero()[:, 0], known)
        return logits.unflatten(0, tokens.shape) if masked is None else logits

    def states(
        self,
        tokens: Int[Tensor, "batch length"],
        known: Float[Tensor, "batch length numbers"] | None = None,
        blocks: int | None = None,
        condition: None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Return the states that a probe reads, after ``domain.BLOCKS`` blocks: no others."""
        if blocks != BLOCKS:
            raise MaskweaveError(f"an exported transformer tells its states after {BLOCKS} blocks")
        _, states = self._run(tokens, torch.zeros(1, dtype=torch.long), known)
        return states

    def _run(self, tokens: Tensor, wanted: Tensor, known: Tensor | None) -> Sequence[Tensor]:
        inputs = {"tokens": tokens, "wanted": wanted}
        if self.config.patch_size:
            if known is None:
                raise MaskweaveError("this transformer needs the known pixels beside the tokens")
            inputs["patches"] = known.float()
        return self.graph.run(**inputs)


def load_exported(
    directory: Path, backend: str, dtype: torch.dtype
) -> tuple[GraphTokenizer, GraphTransformer]:
    """Load what ``maskweave export`` has written.

    Raises
    ------
    MaskweaveError
        If files are missing or broken, or what runs them is not installed.
    """
    check_dtype(backend, dtype)
    file = directory / "tokenizer" / "config.json"
    tokenizer = as_config(GraphConfig, read_json(file), file)
    file = directory / "transformer" / "config.json"
    transformer = as_config(TransformerConfig, read_json(file), file)
    folder = directory / FOLDER
    names = sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []
    hashes = "".join(f"{name} {sha256(folder / name)}\n" for name in names)
    digest = hashlib.sha256(hashes.encode()).hexdigest()
    return _load(folder, tokenizer, transformer, backend, dtype, digest)


def converted(
    tokenizer: Tokenizer, transformer: Transformer, backend: str, dtype: torch.dtype
) -> tuple[GraphTokenizer, GraphTransformer]:
    """Return a model as graphs, which are made once and kept in the user's cache.

    Parameters
    ----------
    tokenizer, transformer
        A model, on the CPU, in float32 and evaluation mode.
    backend : {"openvino", "onnx"}
        What will run the graphs.
    dtype : torch.dtype
        Precision of transformer and decoder.

    Raises
    ------
    MaskweaveError
        If what writes or runs them is not installed, or knows no such precision, or the transformer
        is another project's.
    """
    if not isinstance(transformer, BidirectionalTransformer):
        name = transformer.config.architecture
        raise MaskweaveError(f"{name} runs by torch alone: its graph is not known to {backend}")
    check_dtype(backend, dtype)
    digest = identity(tokenizer, transformer)
    kept = user_cache() / FOLDER / f"{digest[:32]}-{backend}-{FORM}"
    config = graph_config(tokenizer)
    if kept.is_dir():
        return _load(kept, config, transformer.config, backend, dtype, digest)
    with needing(backend):  # before anything is told
        import_module("openvino" if backend == "openvino" else "onnxruntime")
    print(f"note: {backend} needs graphs: made once, and kept in {kept}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch)
        write_graphs(tokenizer, transformer, written, cast(Runtime, backend))
        _keep(written, kept)
        return _load(written, config, transformer.config, backend, dtype, digest)


def _keep(written: Path, kept: Path) -> None:
    """Copy graphs into the cache, whole or not at all: without one all is as well, but slower."""
    copy = kept.with_name(f".{secrets.token_hex(8)}.unfinished")
    with suppress(OSError):
        try:
            shutil.copytree(written, copy)
            copy.rename(kept)
        finally:
            shutil.rmtree(copy, ignore_errors=True)


def _load(
    folder: Path,
    tokenizer: GraphConfig,
    transformer: TransformerConfig,
    backend: str,
    dtype: torch.dtype,
    digest: str,
) -> tuple[GraphTokenizer, GraphTransformer]:
    def graph(name: str, dtype: torch.dtype = dtype) -> Graph:
        file = folder / f"{name}{SUFFIX[backend]}"
        return OpenVINOGraph(file, dtype) if backend == "openvino" else ONNXGraph(file)

    with needing(backend):
        try:
            codes = load_file(folder / CODEBOOK)["codes"]
            # Rounded latents would have other tokens than those that the model is used with.
            encoder = graph("encoder", torch.float32)
            decoder, predictor = graph("decoder"), graph("transformer")
            narrow = graph("narrow") if tokenizer.narrow else None
        except ModuleNotFoundError:
            raise
        # Each runtime raises errors of kinds of its own for files that it cannot read.
        except Exception as error:
            raise MaskweaveError(
                f"cannot read the graphs in {folder}: {reason_of(error)}"
            ) from error
    paints = GraphTokenizer(tokenizer, codes, encoder, decoder, narrow)
    fit = (
        len(codes) == tokenizer.codebook_size == transformer.codebook_size
        and encoder.inputs.get("images") == (3, *paints.image_size)
        and decoder.inputs.get("codes") == (paints.length, codes.shape[1])
        and predictor.inputs.get("tokens") == (transformer.length,)
        and (narrow is None or narrow.inputs.get("known") == (3, *paints.image_size))
    )
    if not fit:
        raise MaskweaveError(f"the graphs in {folder} are not those of the configs beside them")
    return paints, GraphTransformer(transformer, predictor, backend, dtype, digest)
