"""The loss against patterns that come again in each patch: it sees these and nothing else."""

import pytest
import torch

from maskweave.tokenizer.losses import PERIOD, lattice_loss


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 3, 64, 72, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def hole() -> torch.Tensor:
    hole = torch.zeros(4, 64, 72, dtype=torch.bool)
    hole[:, 4:60, 8:50] = True
    return hole


def waves(period: float) -> torch.Tensor:
    return torch.sin(2 * torch.pi * torch.arange(72) / period).expand(4, 3, 64, 72)


@pytest.mark.parametrize("period", [PERIOD, PERIOD / 2, PERIOD / 3])
def test_it_is_the_power_of_a_pattern(
    images: torch.Tensor, hole: torch.Tensor, period: float
) -> None:
    loss = lattice_loss(images + 0.1 * waves(period), images, hole)
    assert float(loss) == pytest.approx(0.005, rel=0.02)


def test_it_is_not_moved_by_other_errors(images: torch.Tensor, hole: torch.Tensor) -> None:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    assert float(lattice_loss(images, images, hole)) == 0
    assert float(lattice_loss(images + 0.1, images, hole)) < 1e-12
    assert float(lattice_loss(images + 0.1 * waves(7), images, hole)) < 1e-3
    assert float(lattice_loss(images + 0.1 * noise, images, hole)) < 1e-4
    outside = (~hole)[:, None] * waves(PERIOD)
    assert float(lattice_loss(images + outside, images, hole)) == 0


def test_it_takes_images_of_any_size_and_without_holes() -> None:
    images = torch.zeros(1, 3, 21, 5)
    hole = torch.ones(1, 21, 5, dtype=torch.bool)
    assert lattice_loss(images, images, hole).isfinite()
    assert float(lattice_loss(images + waves(PERIOD)[:1, :, :21, :5], images, ~hole)) == 0
