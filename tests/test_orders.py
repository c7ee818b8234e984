"""Orders of decoding: noise as the papers say, positions as Halton's sequence visits them."""

import math

import pytest
import torch

from maskweave.orders import Prediction, confidence, gumbel, halton, probability, random


def prediction(count: int, **change: object) -> Prediction:
    made = Prediction(
        log_probability=torch.full((count,), math.log(0.5)),
        uniform=torch.rand(count, generator=torch.Generator().manual_seed(0)).clamp(1e-7),
        position=torch.arange(count),
        grid=(1, count),
        progress=0.25,
        ratio=0.6,
        temperature=2.0,
    )
    return made._replace(**change)


def test_gumbel_noise_has_the_moments_of_a_gumbel_variable() -> None:
    noise = gumbel(prediction(200_000).uniform)
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)  # Euler's constant
    assert noise.std().item() == pytest.approx(math.pi / math.sqrt(6), abs=0.02)


def test_confidence_is_the_log_probability_with_noise_that_fades_out() -> None:
    for progress, scale in ((0.25, 1.5), (0.5, 1.0), (1.0, 0.0)):
        made = prediction(50, progress=progress)
        expected = math.log(0.5) + scale * gumbel(made.uniform)
        torch.testing.assert_close(confidence(made), expected)


def test_probability_is_the_references_whose_noise_grows() -> None:
    for ratio, scale in ((0.6, 0.8), (0.0, 2.0)):
        made = prediction(50, ratio=ratio)
        torch.testing.assert_close(probability(made), 0.5 + scale * gumbel(made.uniform))


def test_random_ignores_what_was_predicted() -> None:
    made = prediction(50)
    other = made._replace(log_probability=torch.randn(50))
    assert torch.equal(random(made), random(other))


def test_halton_visits_cells_as_the_sequence_in_bases_2_and_3_does() -> None:
    scores = halton(prediction(16, grid=(4, 4)))
    # (1/2, 1/3), (1/4, 2/3), (3/4, 1/9), (1/8, 4/9), (5/8, 7/9), ...
    first = scores.argsort(descending=True)[:5].tolist()
    assert first == [2 * 4 + 1, 1 * 4 + 2, 3 * 4 + 0, 0 * 4 + 1, 2 * 4 + 3]
    assert scores.unique().numel() == 16


def test_halton_takes_only_the_positions_it_is_asked_for() -> None:
    whole = halton(prediction(16, grid=(4, 4)))
    some = prediction(3, grid=(4, 4), position=torch.tensor([9, 2, 15]))
    assert torch.equal(halton(some), whole[[9, 2, 15]])
