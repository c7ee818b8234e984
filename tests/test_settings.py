"""Settings: what they refuse, in which words, and that they stay dataclasses."""

import copy
import dataclasses
import pickle

import pytest

from maskweave.errors import MaskweaveError
from maskweave.settings import Positive, Share, settings


@settings
class Inner:
    share: Share = 0.5
    sizes: tuple[Positive, ...] = (1,)

    def __post_init__(self) -> None:
        if self.share > 0.9:
            raise MaskweaveError("share and sizes do not fit")


@settings
class Outer:
    name: str
    inner: Inner = Inner()
    steps: Positive | None = None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": "3"}, r"^steps should be a valid integer, got '3'$"),
        ({"steps": 2.5}, r"^steps should be a valid integer, got 2\.5$"),
        ({"steps": True}, r"^steps should be a valid integer, got True$"),
        ({"steps": 0}, r"^steps should be greater than or equal to 1, got 0$"),
        ({"name": 1}, r"^name should be a valid string, got 1$"),
        ({"name": 1, "steps": 0}, r"^name should be .*; steps should be .*$"),
        ({"inner": {"share": 0.1}}, r"^inner should be an instance of Inner"),
    ],
)
def test_fields_that_do_not_fit_are_named_in_one_line(
    fields: dict[str, object], message: str
) -> None:
    with pytest.raises(MaskweaveError, match=message):
        Outer(**{"name": "a"} | fields)


def test_fields_without_a_name_are_named_too() -> None:
    with pytest.raises(MaskweaveError, match=r"^steps should be a valid integer, got 'x'$"):
        Outer("a", Inner(), "x")


def test_a_long_value_is_told_in_short() -> None:
    with pytest.raises(MaskweaveError) as caught:
        Outer(name="a", steps="x\n" * 10_000)
    assert len(str(caught.value)) < 100 and "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [float("nan"), float("inf"), -0.1, 1.1])
def test_numbers_are_in_range_and_finite(share: float) -> None:
    with pytest.raises(MaskweaveError, match=r"^share should be"):
        Inner(share)


def test_what_a_config_says_of_its_fields_together_is_all_that_is_said() -> None:
    with pytest.raises(MaskweaveError, match=r"^share and sizes do not fit$"):
        Inner(share=1)
    with pytest.raises(MaskweaveError, match=r"^share and sizes do not fit$"):
        dataclasses.replace(Inner(), share=0.95)


def test_a_whole_number_is_a_float() -> None:
    assert type(Inner(share=0).share) is float


def test_settings_are_frozen_dataclasses() -> None:
    outer = Outer("a", Inner(sizes=(2, 3)))
    assert pickle.loads(pickle.dumps(outer)) == copy.deepcopy(outer) == outer
    assert hash(outer) == hash(copy.deepcopy(outer))
    inner = {"share": 0.5, "sizes": (2, 3)}
    assert dataclasses.asdict(outer) == {"name": "a", "inner": inner, "steps": None}
    assert dataclasses.replace(outer, steps=3) == Outer("a", outer.inner, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        outer.steps = 3
