"""A batch at the model's size: guides, expected codes, steps and what cancels them."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
import torch.nn.functional as F

from conftest import tiny_guided, tiny_pipeline
from maskweave.errors import MaskweaveError
from maskweave.fill import decode_tokens, expected_codes, fill_batch, predictor
from maskweave.guide import Guide, interpolated
from maskweave.holes import token_mask
from maskweave.maskgit import DecodeSettings
from maskweave.pipeline import InpaintPipeline
from maskweave.tokenizer.vqgan import VQGAN


def batch(count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    hole = torch.zeros(count, 16, 16, dtype=torch.bool)
    hole[:, 3:12, 2:9] = True
    return images, hole


def parts(model: InpaintPipeline) -> tuple:
    return model.tokenizer, model.transformer


@pytest.fixture(params=["plain", "guided"])
def model(request: pytest.FixtureRequest) -> InpaintPipeline:
    return tiny_guided() if request.param == "guided" else tiny_pipeline()


@pytest.mark.parametrize("paint", ["sampled", "expected"])
def test_law_2_nothing_under_the_hole_is_read(model: InpaintPipeline, paint: str) -> None:
    images, hole = batch()
    hidden = torch.where(hole[:, None], -images, images)
    settings = DecodeSettings(steps=3, paint=paint)
    first, second = (
        list(fill_batch(*parts(model), i, hole, [0, 1, 2], settings))[-1].images
        for i in (images, hidden)
    )
    assert torch.equal(first, second)


def test_pictures_are_painted_where_they_are_wanted(model: InpaintPipeline) -> None:
    images, hole = batch()
    settings = DecodeSettings(steps=3)
    last = list(fill_batch(*parts(model), images, hole, [0, 1, 2], settings))
    every = list(fill_batch(*parts(model), images, hole, [0, 1, 2], settings, every_step=True))
    assert [fill.images is None for fill in last] == [True, True, False]
    assert all(fill.images is not None for fill in every)
    assert torch.equal(last[-1].images, every[-1].images)
    assert (last[-1].images.abs() <= 1).all()


def test_a_step_is_decoded_only_when_it_is_asked_for(model: InpaintPipeline) -> None:
    images, hole = batch()
    passes: list[int] = []
    model.transformer.register_forward_hook(lambda *_: passes.append(1))
    fills = fill_batch(*parts(model), images, hole, [0, 1, 2], DecodeSettings(steps=5))
    assert [fill.step.number for fill in islice(fills, 2)] == [0, 1]
    fills.close()
    assert len(passes) == 2


def test_expected_codes_are_the_mean_over_the_prediction() -> None:
    model = tiny_pipeline()
    images, hole = batch()
    known = images.masked_fill(hole[:, None], 0.0)
    step, codes = expected_codes(*parts(model), known, hole)
    masked = token_mask(hole, 4)
    tokens = model.tokenizer.encode(known)
    assert torch.equal(codes[~masked], model.tokenizer.codes[tokens[~masked]])
    assert torch.equal(step.tokens[~masked], tokens[~masked])
    predict = predictor(*parts(model), known, hole)
    logits = predict(tokens.masked_fill(masked, 32), masked, 0.0)
    wanted = sum(logits.softmax(-1)[:, k, None] * model.tokenizer.codes[k] for k in range(32))
    torch.testing.assert_close(codes[masked], wanted)
    assert torch.equal(step.tokens[masked], logits.argmax(-1))


def test_a_sure_prediction_is_painted_alike_expected_and_sampled() -> None:
    model = tiny_pipeline()
    with torch.no_grad():
        model.transformer.bias.copy_(1e4 * F.one_hot(torch.arange(16) % 32, 32))
    images, hole = batch(1)
    sampled, expected = (
        list(fill_batch(*parts(model), images, hole, [0], DecodeSettings(paint=p)))[-1]
        for p in ("sampled", "expected")
    )
    torch.testing.assert_close(sampled.images, expected.images)


def test_without_a_guide_the_known_pixels_are_interpolated() -> None:
    model = tiny_guided()
    images, hole = batch()
    settings = DecodeSettings(paint="expected")

    def filled(guide: Guide | None) -> torch.Tensor:
        return next(
            fill_batch(*parts(model), images, hole, [0, 1, 2], settings, guide=guide)
        ).images

    own = interpolated(images, hole)
    assert torch.equal(filled(None), filled(own))
    assert not torch.equal(filled(None), filled(own._replace(finer=~own.finer)))
    assert not torch.equal(filled(None), filled(own._replace(pixels=-own.pixels)))


def test_a_model_without_a_guide_pays_it_no_attention() -> None:
    model = tiny_pipeline()
    images, hole = batch()
    settings = DecodeSettings(steps=2)
    plain, guided = (
        list(fill_batch(*parts(model), images, hole, [0, 1, 2], settings, guide=guide))[-1].images
        for guide in (None, interpolated(images, hole))
    )
    assert torch.equal(plain, guided)


def test_an_untrained_guided_decoder_paints_around_its_guide() -> None:
    config = replace(tiny_guided().tokenizer.config, codebook_dim=4)
    tokenizer = VQGAN(config)
    images, hole = batch()
    guide = interpolated(images, hole)
    painted = tokenizer.decode(torch.zeros(3, 16, dtype=torch.long), images, hole, guide)
    assert torch.equal(painted, torch.where(hole[:, None], guide.pixels, images).clamp(-1, 1))


def test_law_3_known_tokens_stay_with_a_guide_too() -> None:
    model = tiny_guided()
    images, hole = batch()
    known = images.masked_fill(hole[:, None], 0.0)
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    steps = decode_tokens(*parts(model), known, hole, generators, DecodeSettings(steps=4))
    stays = ~token_mask(hole, 4)
    for step in steps:
        assert torch.equal(step.tokens[stays], model.tokenizer.encode(images)[stays])


def test_around_a_coarser_fill_all_tokens_are_decoded_in_one_step() -> None:
    images, hole = batch()
    finer = torch.tensor([True, False, True])
    for model, at_once in ((tiny_guided(), finer), (tiny_pipeline(), torch.zeros(3).bool())):
        guide = Guide(torch.zeros_like(images), finer)
        generators = [torch.Generator().manual_seed(i) for i in range(3)]
        steps = list(
            decode_tokens(*parts(model), images, hole, generators, DecodeSettings(steps=4), guide)
        )
        assert len(steps) == 4
        for step in steps[:-1]:
            assert torch.equal(~step.masked.any(1), at_once)
        assert torch.equal(steps[0].tokens[at_once], steps[-1].tokens[at_once])


@pytest.mark.parametrize("paint", ["sampled", "expected"])
def test_broken_weights_are_refused_however_is_painted(paint: str) -> None:
    model = tiny_pipeline()
    torch.nn.init.constant_(model.transformer.bias, float("nan"))
    images, hole = batch()
    with pytest.raises(MaskweaveError, match="its weights are broken"):
        list(fill_batch(*parts(model), images, hole, [0, 1, 2], DecodeSettings(paint=paint)))
