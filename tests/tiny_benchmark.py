"""A benchmark in small: five images, a model of their size, a quick meter, and the command."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from maskweave.cli.main import app
from maskweave.evaluation.evaluate import Meter
from maskweave.evaluation.examples import Examples, read_examples
from maskweave.evaluation.inception import Inception
from maskweave.pipeline import InpaintPipeline
from maskweave.report.sweep import Grid
from maskweave.tokenizer.vqgan import VQGAN, TokenizerConfig
from maskweave.transformer import BidirectionalTransformer, TransformerConfig

GRID = Grid(schedules=("cosine",), steps=(3,), temperatures=(0.0, 1.0), images=3)
SIDE = 32


def quick_meter(torch_home: Path) -> Meter:
    """Return a meter with a quick stand-in for Inception's features."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(torch_home))
        meter = Meter(Inception(64, "pytorch-fid"))
    meter.inception.forward = lambda images: (images / 255)[:, :, 8:16, 4:12].flatten(2).std(2)
    return meter


def model_of(seed: int, heads: int = 2) -> InpaintPipeline:
    """Return a model for images of the smallest size that is measured."""
    torch.manual_seed(seed)
    config = TokenizerConfig(
        image_size=SIDE, codebook_size=32, encoder_dim=16, channels=(8, 8, 16), decoder_blocks=1
    )
    transformer = BidirectionalTransformer(
        TransformerConfig(codebook_size=32, grid=(8, 8), dim=16, depth=2, heads=heads, mlp_dim=32)
    )
    for parameter in transformer.parameters():  # far from uniform predictions
        parameter.data.add_(torch.randn_like(parameter) * 0.3)
    return InpaintPipeline(VQGAN(config), transformer)


def write_examples(folder: Path, shape: tuple[int, int] = (SIDE, SIDE)) -> Path:
    """Write five images and masks with holes of their own, the first of a single pixel."""
    rng = np.random.default_rng(0)
    for name in ("truth", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(5):
        pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        hole = np.zeros(shape, dtype=np.uint8)
        hole[3 : 4 + 4 * index, 2 : 3 + 6 * index] = 255
        Image.fromarray(pixels).save(folder / "truth" / f"picture{index}.png")
        Image.fromarray(hole).save(folder / "masks" / f"picture{index}.png")
    return folder


def read(folder: Path) -> Examples:
    return read_examples(folder / "truth", folder / "masks")


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def count_calls(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, stop_at: int | None = None
) -> list[int]:
    """Count the calls of a function in the list's one element; Ctrl+C at a call if asked."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = [0]

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == stop_at:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls
