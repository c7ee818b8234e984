"""Seeds of single images: stable, and different for every seed and name."""

import itertools

import pytest
import torch

from maskweave.seeds import seed_of, seeded


@pytest.mark.parametrize(
    ("seed", "name", "expected"),
    [
        (0, "cat", 6973268482108136687),
        (7, "cat", 6410921920917563292),
        (0, "Käse 🧀", 8655444918965652183),
    ],
)
def test_a_seed_never_changes(seed: int, name: str, expected: int) -> None:
    assert seed_of(seed, name) == expected


def test_every_seed_and_name_have_a_seed_of_their_own() -> None:
    names = ["", "1", "11", "cat", "cat_1", "0/cat", "\udcff"]
    seeds = [seed_of(*one) for one in itertools.product([0, 1, 11, 2**63 - 1], names)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generators_of_one_image_draw_the_same() -> None:
    one, again, other = (torch.rand(4, generator=seeded(3, name)) for name in ("a", "a", "b"))
    assert torch.equal(one, again) and not torch.equal(one, other)
