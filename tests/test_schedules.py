"""Law 6: a schedule starts at 1, ends at 0, never rises, and every step reveals something."""

import math

import pytest
import torch

from maskweave.errors import MaskweaveError
from maskweave.schedules import SCHEDULES, masked_after, named

names = pytest.mark.parametrize("name", SCHEDULES)


@names
def test_law_6_a_schedule_falls_from_one_to_zero(name: str) -> None:
    gamma = named(name)(torch.linspace(0, 1, 1001, dtype=torch.float64))
    assert gamma[0] == 1
    assert gamma[-1].abs() < 1e-15
    assert (gamma.diff() < 0).all()


@pytest.mark.parametrize(
    ("name", "progress", "ratio"),
    [
        ("linear", 0.25, 0.75),
        ("cosine", 2 / 3, 0.5),
        ("square", 0.5, 0.75),
        ("arccos", math.sqrt(0.5), 0.5),
    ],
)
def test_values_by_algebra(name: str, progress: float, ratio: float) -> None:
    value = named(name)(torch.tensor(progress, dtype=torch.float64))
    assert value.item() == pytest.approx(ratio, abs=1e-12)


def test_square_and_cosine_reveal_later_than_linear_and_arccos_reveals_earlier_near_the_end() -> (
    None
):
    progress = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    linear, cosine, square = (named(n)(progress) for n in ("linear", "cosine", "square"))
    assert (square > cosine).all()
    assert (cosine > linear).all()
    # arccos is the inverse function of cosine.
    torch.testing.assert_close(named("cosine")(named("arccos")(progress)), progress)


@names
def test_law_6_every_step_reveals_a_token_and_the_last_one_all(name: str) -> None:
    holes = torch.arange(1025)
    for steps in [*range(1, 65), 256]:
        left = masked_after(named(name), steps, holes)
        assert left.shape == (steps, len(holes))
        before = torch.cat([holes[None], left[:-1]])
        assert ((left < before) | (before == 0)).all()
        assert (left >= 0).all()
        assert (left[-1] == 0).all()


def test_ratios_of_whole_counts_are_exact() -> None:
    left = masked_after(named("linear"), 10, torch.tensor([10, 100]))
    assert left.tolist() == [[10 - k, 100 - 10 * k] for k in range(1, 11)]


def test_the_number_masked_is_the_floor_of_the_schedule() -> None:
    left = masked_after(named("cosine"), 15, torch.tensor([54]))[:, 0]
    assert left.tolist() == [int(math.cos(math.pi / 2 * k / 15) * 54) for k in range(1, 16)]


def test_an_unknown_schedule_is_refused_with_those_that_exist() -> None:
    with pytest.raises(MaskweaveError, match=r"'sine'.*linear, cosine, square, arccos"):
        named("sine")
