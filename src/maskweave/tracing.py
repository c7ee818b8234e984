"""Networks as graphs on disk, which OpenVINO or ONNX Runtime run without torch's modules.

A tokenizer and a transformer become three or four graphs and a codebook. The number of images is
free, and so is how many tokens are wanted; everything else about their shapes is fixed.
"""

import warnings
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn

from maskweave.backends import SUFFIX, Runtime, needing, reason_of
from maskweave.domain import BLOCKS
from maskweave.errors import MaskweaveError
from maskweave.guide import Guide
from maskweave.tokenizer.base import Tokenizer
from maskweave.transformer import BidirectionalTransformer

CODEBOOK = "codebook.safetensors"
"""File with the vector of every code, which fills read between the graphs."""


class Encoding(nn.Module):
    """Images to tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Int[Tensor, "batch length"]:
        """Return the tokens of images."""
        return self.tokenizer.encode(images)


class Predicting(nn.Module):
    """Tokens to logits where these are wanted, and to the states that a probe reads."""

    def __init__(self, transformer: BidirectionalTransformer) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self,
        tokens: Int[Tensor, "batch length"],
        wanted: Int[Tensor, "wanted"],
        patches: Float[Tensor, "batch length numbers"] | None = None,
    ) -> tuple[Float[Tensor, "wanted codes"], Float[Tensor, "batch length dim"]]:
        """Return logits and early states; ``wanted`` counts tokens through the whole batch."""
        transformer = self.transformer
        early = x = transformer.states(tokens, patches, BLOCKS)
        for block in transformer.blocks[BLOCKS:]:
            x = block(x, transformer.rotation)
        bias = transformer.bias[wanted % transformer.config.length]
        return transformer.scores(x.flatten(0, 1)[wanted], bias), early


class Painting(nn.Module):
    """Codes to images, beside what is known of these."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(
        self,
        codes: Float[Tensor, "batch length codebook_dim"],
        known: Float[Tensor, "batch 3 height width"] | None = None,
        hole: Bool[Tensor, "batch height width"] | None = None,
        guide: Float[Tensor, "batch 3 height width"] | None = None,
        finer: Bool[Tensor, "batch"] | None = None,
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return painted images."""
        both = None if guide is None or finer is None else Guide(guide, finer)
        return self.tokenizer.paint(codes, known, hole, both)


class PaintingNarrow(nn.Module):
    """Images with narrow holes to painted ones."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(
        self,
        known: Float[Tensor, "batch 3 height width"],
        hole: Bool[Tensor, "batch height width"],
        guide: Float[Tensor, "batch 3 height width"],
        finer: Bool[Tensor, "batch"],
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return painted images."""
        return self.tokenizer.paint_narrow(known, hole, Guide(guide, finer))


class Traced(NamedTuple):
    """A network with an example of its inputs."""

    name: str
    """Name of its file, without suffix."""
    network: nn.Module
    """Called with the inputs in their order."""
    inputs: dict[str, Tensor]
    """Examples by name; their first axis is free."""
    outputs: tuple[str, ...]
    """Names of what it returns."""


def parts(tokenizer: Tokenizer, transformer: BidirectionalTransformer) -> tuple[Traced, ...]:
    """Return the three or four networks of a model, with examples of two images."""
    codes = tokenizer.codes.detach()
    images = torch.zeros(2, 3, *tokenizer.image_size)
    hole = torch.zeros(2, *tokenizer.image_size, dtype=torch.bool)
    tokens = torch.zeros(2, tokenizer.length, dtype=torch.long)
    predicting = {"tokens": tokens, "wanted": torch.arange(3)}
    if patch := transformer.config.patch_size:
        planes = 5 if transformer.config.guided else 4
        predicting["patches"] = torch.zeros(2, tokenizer.length, planes * patch**2)
    painting = {"codes": codes[tokens]}
    if tokenizer.sees_known:
        painting |= {"known": images, "hole": hole}
    if tokenizer.guided:
        painting |= {"guide": images, "finer": hole[:, 0, 0]}
    traced = (
        Traced("encoder", Encoding(tokenizer), {"images": images}, ("tokens",)),
        Traced("transformer", Predicting(transformer), predicting, ("logits", "states")),
        Traced("decoder", Painting(tokenizer), painting, ("images",)),
    )
    if not tokenizer.narrow:
        return traced
    inputs = {"known": images, "hole": hole, "guide": images, "finer": hole[:, 0, 0]}
    return (*traced, Traced("narrow", PaintingNarrow(tokenizer), inputs, ("images",)))


@torch.no_grad()
def write_graphs(
    tokenizer: Tokenizer, transformer: BidirectionalTransformer, folder: Path, runtime: Runtime
) -> None:
    """Write a model's graphs and its codebook.

    Parameters
    ----------
    tokenizer, transformer
        A model, on the CPU, in float32 and evaluation mode.
    folder : Path
        An empty folder.
    runtime : {"openvino", "onnx"}
        What will run the graphs.

    Raises
    ------
    MaskweaveError
        If what writes them is not installed, does not know an operation of the model, or cannot
        write.
    """
    write = _write_openvino if runtime == "openvino" else _write_onnx
    for part in parts(tokenizer, transformer):
        with needing(runtime), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracers tell of branches that sizes alone decide
            try:
                write(part, folder / f"{part.name}{SUFFIX[runtime]}")
            except ModuleNotFoundError:
                raise
            except Exception as error:  # of kinds of their own
                raise MaskweaveError(
                    f"cannot write the {part.name} for {runtime}: {reason_of(error)}"
                ) from error
    save_file({"codes": tokenizer.codes.detach().float().contiguous()}, folder / CODEBOOK)


def _write_openvino(part: Traced, file: Path) -> None:
    import openvino

    shapes = [openvino.PartialShape([-1, *value.shape[1:]]) for value in part.inputs.values()]
    model = openvino.convert_model(
        part.network, example_input=tuple(part.inputs.values()), input=shapes
    )
    for port, name in zip(model.inputs, part.inputs, strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(model.outputs, part.outputs, strict=True):
        port.get_tensor().set_names({name})
    openvino.save_model(model, file, compress_to_fp16=False)


def _write_onnx(part: Traced, file: Path) -> None:
    from torch.export import Dim

    import_module("onnxscript")  # torch's exporter has other words for its lack

    batch, wanted = Dim("batch", max=1 << 16), Dim("wanted", max=1 << 26)
    torch.onnx.export(
        part.network,
        tuple(part.inputs.values()),
        file,
        input_names=list(part.inputs),
        output_names=list(part.outputs),
        dynamic_shapes=tuple({0: wanted if name == "wanted" else batch} for name in part.inputs),
        external_data=False,
        verbose=False,
    )
