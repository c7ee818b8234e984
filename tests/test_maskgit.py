"""Decoding: against scripted predictions, by laws 2, 3, 4 and 6, and what it refuses."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import seeded
from maskweave.errors import MaskweaveError
from maskweave.maskgit import HOTTEST, MOST_STEPS, DecodeSettings, Step, decode
from maskweave.orders import ORDERS
from maskweave.schedules import SCHEDULES, masked_after, named

MASK = 10  # codes 0 .. 9


def steps_of(
    predict: Callable[[Tensor, Tensor, float], Tensor],
    tokens: Tensor,
    masked: Tensor,
    generators: list[torch.Generator],
    *,
    codebook_size: int = 10,
    **settings: object,
) -> list[Step]:
    return list(
        decode(
            predict,
            tokens,
            masked,
            DecodeSettings(**settings),
            grid=(1, tokens.shape[1]),
            codebook_size=codebook_size,
            mask_token=codebook_size,
            generators=generators,
        )
    )


def scripted(logits: Tensor) -> Callable[[Tensor, Tensor, float], Tensor]:
    """Predict the same logits (length, codes) in every step, whatever is known."""
    return lambda tokens, wanted, _: logits.expand(len(tokens), -1, -1)[wanted]


def test_scripted_logits_are_revealed_in_order_of_confidence() -> None:
    # Position i predicts code i, with a probability that falls from left to right.
    logits = torch.full((6, 10), 0.0)
    for i in range(6):
        logits[i, i] = 8.0 - i
    steps = steps_of(
        scripted(logits),
        torch.full((1, 6), 3),
        torch.ones(1, 6, dtype=torch.bool),
        seeded(0),
        schedule="linear",
        steps=3,
        temperature=0.0,
        token_temperature=0.0,
    )
    assert steps[-1].tokens.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert [step.masked[0].int().tolist() for step in steps] == [
        [0, 0, 1, 1, 1, 1],
        [0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 0, 0],
    ]
    assert [step.number for step in steps] == [0, 1, 2]
    expected = logits.log_softmax(-1).amax(-1)
    torch.testing.assert_close(steps[0].confidence[0], expected)
    assert (steps[1].confidence[0, :2] == 0).all()  # nothing was predicted there


def test_each_step_sees_what_the_steps_before_revealed_and_how_far_it_is() -> None:
    seen: list[list[int]] = []
    progress: list[float] = []

    def counting(tokens: Tensor, wanted: Tensor, done: float) -> Tensor:
        """Predict, everywhere, the number of tokens known so far."""
        seen.append(tokens[0].tolist())
        progress.append(done)
        known = (tokens[0] != MASK).sum()
        return F.one_hot(known, 10).float().mul(50).expand(int(wanted.sum()), -1)

    steps = steps_of(
        counting,
        torch.zeros(1, 4, dtype=torch.long),
        torch.ones(1, 4, dtype=torch.bool),
        seeded(0),
        schedule="linear",
        steps=4,
        temperature=0.0,
    )
    # Equal confidences: ties are broken from the right, one token a step.
    assert seen == [[10, 10, 10, 10], [10, 10, 10, 0], [10, 10, 1, 0], [10, 2, 1, 0]]
    assert progress == [0.0, 0.25, 0.5, 0.75]
    assert steps[-1].tokens.tolist() == [[3, 2, 1, 0]]


def test_whoever_stops_iterating_cancels_the_rest() -> None:
    calls: list[float] = []

    def predict(tokens: Tensor, wanted: Tensor, progress: float) -> Tensor:
        calls.append(progress)
        return torch.zeros(int(wanted.sum()), 10)

    settings = DecodeSettings(steps=8)
    steps = decode(
        predict, torch.zeros(1, 8, dtype=torch.long), torch.ones(1, 8, dtype=torch.bool), settings,
        grid=(2, 4), codebook_size=10, mask_token=MASK, generators=seeded(0),
    )  # fmt: skip
    assert [next(steps).number, next(steps).number] == [0, 1]
    steps.close()
    assert len(calls) == 2


def test_without_a_masked_token_there_is_one_step_and_no_prediction() -> None:
    tokens = torch.randint(10, (2, 4))
    [step] = steps_of(pytest.fail, tokens, torch.zeros(2, 4, dtype=torch.bool), seeded(0, 1))
    assert torch.equal(step.tokens, tokens)


def test_stop_after_returns_the_latest_prediction_of_what_is_still_masked() -> None:
    logits = torch.randn(8, 10) * 3
    everything = torch.ones(2, 8, dtype=torch.bool)
    start = torch.zeros(2, 8, dtype=torch.long)
    steps = steps_of(scripted(logits), start, everything, seeded(1, 2), steps=5)
    for t in range(1, 6):
        stopped = steps_of(
            scripted(logits), start, everything, seeded(1, 2), steps=5, stop_after=t
        )[-1]
        assert torch.equal(stopped.tokens, steps[t - 1].tokens)  # one run holds every t's result


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("token_temperature", [0.0, 1.0])
@pytest.mark.parametrize("top_k", [None, 3])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("remask", [False, True])
def test_laws_3_and_6_known_tokens_stay_and_the_masked_follow_the_schedule(
    order: str, token_temperature: float, top_k: int | None, schedule: str, remask: bool
) -> None:
    tokens = torch.randint(10, (4, 30))
    masked = torch.rand(4, 30) < torch.tensor([[0.0], [0.1], [0.6], [1.1]])
    steps = steps_of(
        lambda tokens, wanted, _: torch.randn(int(wanted.sum()), 10),
        tokens,
        masked,
        seeded(0, 1, 2, 3),
        schedule=schedule,
        steps=6,
        token_temperature=token_temperature,
        top_k=top_k,
        order=order,
        remask=remask,
    )
    filled = steps[-1].tokens
    assert torch.equal(filled[~masked], tokens[~masked])
    assert (filled < MASK).all()
    left = masked_after(named(schedule), 6, masked.sum(1))
    before = masked
    for k, step in enumerate(steps):
        assert torch.equal(step.masked.sum(1), left[k])
        assert not (step.masked & ~(masked if remask else before)).any()
        assert torch.equal(step.tokens[~masked], tokens[~masked])
        before = step.masked
    assert not before.any()


def test_revealed_tokens_are_masked_again_only_where_that_is_wanted() -> None:
    # What is revealed first turns out to be unlikely once its neighbours are known.
    def predict(tokens: Tensor, wanted: Tensor, progress: float) -> Tensor:
        logits = torch.zeros(1, 4, 10)
        logits[0, :, 1] = torch.tensor([9.0, 3.0, 3.0, 3.0])
        if progress > 0:
            logits[0, 0, 2] = 20.0
        return logits[wanted]

    def run(remask: bool) -> list[Step]:
        return steps_of(
            predict, torch.zeros(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.bool),
            seeded(0), steps=3, temperature=0.0, token_temperature=0.0, remask=remask,
        )  # fmt: skip

    assert not run(remask=False)[0].masked[0, 0]
    assert run(remask=False)[-1].tokens[0, 0] == 1
    assert run(remask=True)[1].masked[0, 0]
    assert run(remask=True)[-1].tokens[0, 0] == 2


def test_an_entropy_bound_ends_early_where_the_hole_is_easy_and_not_where_it_is_hard() -> None:
    sure, unsure = torch.zeros(8, 10), torch.zeros(8, 10)
    sure[:, 3] = 30.0
    start, everything = torch.zeros(1, 8, dtype=torch.long), torch.ones(1, 8, dtype=torch.bool)
    for logits, bound, expected in (
        (sure, None, 8), (sure, 0.1, 1), (unsure, 0.1, 8), (unsure, math.log(10) * 1.01, 4),
    ):  # fmt: skip
        steps = steps_of(
            scripted(logits), start, everything, seeded(0), steps=8, schedule="linear",
            entropy_bound=bound,
        )  # fmt: skip
        assert len(steps) == expected
        assert not steps[-1].masked.any()


def test_law_2_what_stands_at_masked_positions_is_never_read() -> None:
    masked = torch.rand(2, 12) < 0.5
    tokens = torch.randint(10, (2, 12))
    other = torch.where(masked, (tokens + 5) % 10, tokens)

    def predict(tokens: Tensor, wanted: Tensor, _: float) -> Tensor:
        return F.one_hot((tokens.sum(1, keepdim=True) + torch.arange(12)) % 10, 10)[wanted] * 2.0

    first, second = (steps_of(predict, t, masked, seeded(0, 1))[-1].tokens for t in (tokens, other))
    assert torch.equal(first, second)


def test_law_4_an_image_is_decoded_alike_alone_and_in_any_batch() -> None:
    logits = torch.randn(12, 10, dtype=torch.float64)
    tokens, masked = torch.randint(10, (3, 12)), torch.rand(3, 12) < 0.7

    def run(rows: slice | list[int], *seeds: int) -> Tensor:
        return steps_of(scripted(logits), tokens[rows], masked[rows], seeded(*seeds))[-1].tokens

    together = run([0, 1, 2], 7, 8, 9)
    assert torch.equal(together, run([2, 1, 0], 9, 8, 7).flip(0))
    for i in range(3):
        assert torch.equal(run([i], 7 + i)[0], together[i])


def frequencies(logits: Tensor, **settings: float) -> Tensor:
    """Sample one token a thousand times over."""
    length = 20_000
    [step] = steps_of(
        scripted(logits.expand(length, -1)),
        torch.zeros(1, length, dtype=torch.long),
        torch.ones(1, length, dtype=torch.bool),
        seeded(0),
        codebook_size=len(logits),
        steps=1,
        **settings,
    )
    return torch.bincount(step.tokens[0], minlength=len(logits)) / length


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_sampled_from_the_softmax_at_their_temperature(temperature: float) -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, float("-30")])
    expected = (logits / temperature).softmax(0)
    measured = frequencies(logits, token_temperature=temperature)
    torch.testing.assert_close(measured, expected, atol=0.012, rtol=0)


def test_top_k_samples_the_likeliest_codes_only_and_in_proportion() -> None:
    logits = torch.tensor([0.0, 3.0, -1.0, 2.0, 1.0])
    measured = frequencies(logits, top_k=2)
    torch.testing.assert_close(measured[[1, 3]], logits[[1, 3]].softmax(0), atol=0.012, rtol=0)
    assert measured[[0, 2, 4]].sum() == 0
    torch.testing.assert_close(frequencies(logits, top_k=99), logits.softmax(0), atol=0.012, rtol=0)
    assert frequencies(logits, token_temperature=0.0).tolist() == [0, 1, 0, 0, 0]


def test_a_code_banned_by_minus_infinity_is_never_chosen_and_breaks_nothing() -> None:
    logits = torch.tensor([0.0, float("-inf"), 1.0])
    measured = frequencies(logits)
    torch.testing.assert_close(measured, logits.softmax(0), atol=0.012, rtol=0)


def test_logits_beyond_the_codes_are_passed_over() -> None:
    logits = torch.zeros(4, 11)
    logits[:, 10] = 50.0  # of the mask token
    [step] = steps_of(
        scripted(logits), torch.zeros(1, 4, dtype=torch.long), torch.ones(1, 4).bool(), seeded(0),
        steps=1,
    )  # fmt: skip
    assert (step.tokens < 10).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "^steps should be greater than or equal to 1, got 0$"),
        ({"steps": 2.5}, "steps should be a valid integer"),
        ({"steps": MOST_STEPS + 1}, "steps should be less"),
        ({"stop_after": 0}, "stop_after should be greater"),
        ({"stop_after": 9}, "stop_after 9 is more than steps 8"),
        ({"temperature": -1.0}, "temperature should be greater"),
        ({"temperature": float("nan")}, "temperature should be a finite number"),
        ({"token_temperature": float("inf")}, "token_temperature should be a finite number"),
        ({"temperature": 2.0 * HOTTEST}, "temperature should be less"),
        ({"top_k": 0}, "top_k"),
        ({"order": "entropy"}, "order is one of confidence, probability, random, halton"),
        ({"paint": "blurred"}, "paint should be 'sampled' or 'expected'"),
        ({"entropy_bound": -0.1}, "entropy_bound"),
        ({"schedule": "sine"}, "unknown schedule"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(MaskweaveError, match=message):
        DecodeSettings(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generators": []}, "1 images need as many generators, got 0"),
        ({"masked": torch.ones(1, 3).bool()}, r"got \[1, 4\] and \[1, 3\]"),
        ({"grid": (2, 3)}, "of a grid 2x3"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    arguments = {
        "predict": scripted(torch.zeros(4, 10)),
        "tokens": torch.zeros(1, 4, dtype=torch.long),
        "masked": torch.ones(1, 4, dtype=torch.bool),
        "settings": DecodeSettings(),
        "grid": (2, 2),
        "codebook_size": 10,
        "mask_token": MASK,
        "generators": seeded(0),
    }
    with pytest.raises(MaskweaveError, match=message):
        next(decode(**(arguments | change)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), [float("-inf")] * 10])
def test_logits_that_are_broken_are_an_error(bad: float | list[float]) -> None:
    logits = torch.zeros(4, 10)
    logits[2, 3:4] = bad if isinstance(bad, float) else 0.0
    if isinstance(bad, list):
        logits[2] = torch.tensor(bad)
    with pytest.raises(MaskweaveError, match="not finite"):
        steps_of(
            scripted(logits),
            torch.zeros(1, 4, dtype=torch.long),
            torch.ones(1, 4, dtype=torch.bool),
            seeded(0),
        )
