"""Tiny recipes of both stages, photos to train on, and a run of the first stage."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from maskweave.tokenizer.vqgan import TokenizerConfig
from maskweave.training import painting
from maskweave.training.examples import ExamplesConfig
from maskweave.training.loop import RunConfig
from maskweave.training.optimiser import OptimiserConfig
from maskweave.training.painting import PaintingLoss
from maskweave.training.tokenizer_task import TokenizerRecipe
from maskweave.training.train import train_tokenizer
from maskweave.training.transformer_task import TransformerRecipe
from maskweave.transformer import TransformerConfig

RUN = RunConfig(steps=6, batch_size=4, precision="no", log_every=2, save_every=3)
TOKENIZER = TokenizerRecipe(
    model=TokenizerConfig(
        image_size=16, codebook_size=16, encoder_dim=16, channels=(8, 8, 16), decoder_blocks=1
    ),
    examples=ExamplesConfig(shift=1),
    loss=PaintingLoss(adversarial_start=0.3),
    optimiser=OptimiserConfig(warmup=2),
    run=RUN,
)
TRANSFORMER = TransformerRecipe(
    model=TransformerConfig(
        codebook_size=16,
        grid=(4, 4),
        dim=16,
        depth=1,
        heads=2,
        mlp_dim=16,
        dropout=0.1,
        patch_size=4,
    ),
    examples=ExamplesConfig(shift=1),
    optimiser=OptimiserConfig(warmup=2),
    run=RUN,
)


class PixelDistance(nn.Module):
    """Stands in for LPIPS, whose weights a test machine need not have."""

    def forward(self, painted: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return (painted - images).square().mean((1, 2, 3), keepdim=True)


@pytest.fixture
def no_perceptual_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train without LPIPS; files of tests ask for this with a mark."""
    monkeypatch.setattr(painting, "perceptual_loss", PixelDistance)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten photos of several widths, in two folders."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(10):
        pixels = rng.integers(0, 256, size=(16, 16 + i, 3), dtype=np.uint8)
        (folder / str(i % 2)).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / str(i % 2) / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def tokenizer_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the first stage, which no test may change."""
    output = tmp_path_factory.mktemp("runs") / "tokenizer"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(painting, "perceptual_loss", PixelDistance)
        train_tokenizer(TOKENIZER, photos, output, cache=output.parent / "cache")
    return output


def weights(run: Path, component: str) -> dict[str, torch.Tensor]:
    return load_file(run / component / "model.safetensors")


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def stop_at_half(run: Path, half: Path) -> None:
    """Copy a run as it was when its first checkpoint had just been written."""
    shutil.copytree(run, half)
    shutil.rmtree(half / "checkpoints" / "step_00000006")
