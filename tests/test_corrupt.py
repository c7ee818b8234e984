"""What is masked in training, and the loss over it, by counting."""

import math

import pytest
import torch

from conftest import seeded
from maskweave.maskgit import corrupt, masked_loss
from maskweave.schedules import SCHEDULES, cosine, named

MASK = 10  # codes 0 .. 9


# --- corrupt


def test_corrupt_masks_the_ceiling_of_a_fixed_ratio_in_every_image() -> None:
    tokens = torch.randint(10, (50, 21))
    corrupted = corrupt(tokens, MASK, ratio=(0.5, 0.5))
    assert (corrupted.masked.sum(1) == 11).all()
    assert (corrupted.tokens[corrupted.masked] == MASK).all()
    assert torch.equal(corrupted.tokens[~corrupted.masked], tokens[~corrupted.masked])
    assert len({tuple(row.tolist()) for row in corrupted.masked}) > 40  # scattered differently


def test_corrupt_within_a_region_never_leaves_it_and_the_ratio_counts_its_tokens() -> None:
    tokens = torch.randint(10, (2, 100))
    region = torch.zeros(2, 100, dtype=torch.bool)
    region[0, 20:60] = True
    region[1, :10] = True
    corrupted = corrupt(tokens, MASK, ratio=(0.3, 0.3), region=region)
    assert not (corrupted.masked & ~region).any()
    assert corrupted.masked.sum(1).tolist() == [12, 3]
    everything = corrupt(tokens, MASK, ratio=(1.0, 1.0), region=region)
    assert torch.equal(everything.masked, region)


@pytest.mark.parametrize("name", SCHEDULES)
def test_corrupt_draws_ratios_whose_mean_is_the_integral_of_the_schedule(name: str) -> None:
    tokens = torch.zeros(4000, 100, dtype=torch.long)
    masked = corrupt(tokens, MASK, ratio=named(name), generators=seeded(*range(4000))).masked
    expected = {"linear": 1 / 2, "cosine": 2 / math.pi, "square": 2 / 3, "arccos": 2 / math.pi}
    # The ceiling adds half a token of a hundred.
    assert masked.float().mean().item() == pytest.approx(expected[name] + 0.005, abs=0.01)


def test_corrupt_independently_is_the_reference_experiment_uniform_in_zero_to_a_half() -> None:
    tokens = torch.zeros(4000, 100, dtype=torch.long)
    generators = seeded(*range(4000))
    masked = corrupt(tokens, MASK, ratio=(0.0, 0.5), generators=generators, independent=True).masked
    counts = masked.sum(1).float()
    assert counts.mean().item() == pytest.approx(25, abs=0.7)
    # Variance of a binomial with a ratio uniform in [0, 1/2]: n E[p (1 - p)] + n^2 Var[p].
    assert counts.var().item() == pytest.approx(100 / 6 + 1e4 / 48, rel=0.05)


def test_what_is_masked_of_an_image_depends_on_its_own_generator_alone() -> None:
    tokens = torch.randint(10, (4, 30))
    first = corrupt(tokens, MASK, ratio=cosine, generators=seeded(1, 2, 3, 4)).masked
    again = corrupt(tokens[2:3], MASK, ratio=cosine, generators=seeded(3)).masked
    assert torch.equal(first[2:3], again)
    assert not torch.equal(first[0], first[1])


def test_corrupt_masks_exactly_the_share_where_that_is_a_whole_number() -> None:
    for length in (5, 25, 64, 256, 1000, 4096):
        tokens = torch.zeros(1, length, dtype=torch.long)
        for count in {0, 1, 3, length * 3 // 5, length - 1, length}:
            ratio = count / length
            assert corrupt(tokens, MASK, ratio=(ratio, ratio)).masked.sum() == count


# --- masked_loss


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_masked_loss_is_the_weighted_mean_of_cross_entropies(
    weight: float, smoothing: float
) -> None:
    logits, tokens = torch.randn(3, 8, 10), torch.randint(10, (3, 8))
    masked = torch.rand(3, 8) < 0.5
    loss = masked_loss(logits, tokens, masked, unmasked_weight=weight, label_smoothing=smoothing)
    total = weights = 0.0
    for i in range(3):
        for j in range(8):
            logarithm = logits[i, j].log_softmax(0)
            one = -(1 - smoothing) * logarithm[tokens[i, j]] - smoothing * logarithm.mean()
            w = 1.0 if masked[i, j] else weight
            total, weights = total + w * one, weights + w
    torch.testing.assert_close(loss, total / weights)


def test_masked_loss_with_nothing_masked_is_zero_and_has_a_gradient() -> None:
    logits = torch.randn(1, 4, 10, requires_grad=True)
    loss = masked_loss(logits, torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4).bool())
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_masked_loss_of_known_tokens_has_no_gradient_at_weight_zero() -> None:
    logits = torch.randn(2, 6, 10, requires_grad=True)
    masked = torch.rand(2, 6) < 0.5
    masked_loss(logits, torch.randint(10, (2, 6)), masked).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad.abs().sum(-1) > 0, masked)
