"""The pipeline's laws, on images of any size, and what steps, settings and seeds change."""

from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from conftest import bytes_of, picture, seeded
from maskweave.crops import plan_crops
from maskweave.errors import MaskweaveError
from maskweave.fill import fill_tokens
from maskweave.holes import KINDS, draw_hole
from maskweave.maskgit import DecodeSettings
from maskweave.pipeline import InpaintPipeline

SIZES = [(16, 16), (16, 40), (61, 33), (9, 12)]
MASK = np.eye(16, dtype=bool)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_laws_1_and_2_known_pixels_stay_and_hidden_ones_do_not_matter(
    pipeline: InpaintPipeline, kind: str, height: int, width: int
) -> None:
    image = picture(height, width)
    hole = draw_hole(kind, height, width, np.random.default_rng(1))
    hidden = np.where(hole[:, :, None], picture(height, width, seed=9), image)
    first, second = (
        bytes_of(pipeline(i, hole, generator=seeded(0), output_type="np").images[0])
        for i in (image, hidden)
    )
    assert first.shape == image.shape
    assert np.array_equal(first[~hole], image[~hole])
    assert np.array_equal(first, second)
    assert not np.array_equal(first[hole], image[hole])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_an_empty_mask_copies_and_a_full_mask_generates(
    pipeline: InpaintPipeline, share: float
) -> None:
    image = picture(16, 16)
    with pytest.warns(UserWarning, match="mask is empty" if share == 0 else "mask inverted"):
        output = pipeline(
            image, np.full((16, 16), share > 0), output_type="np", generator=seeded(0)
        )
    assert np.array_equal(bytes_of(output.images[0]), image) == (share == 0)


def test_law_4_a_seed_is_a_promise(pipeline: InpaintPipeline) -> None:
    images = [picture(16, 16, seed) for seed in range(3)] + [picture(50, 30)]
    holes = [draw_hole("box", *image.shape[:2], np.random.default_rng(2)) for image in images]
    together = pipeline(
        images, holes, generator=seeded(5, 6, 7, 8), output_type="np", num_images_per_prompt=2
    ).images
    backwards = pipeline(
        images[::-1],
        holes[::-1],
        generator=seeded(8, 7, 6, 5),
        output_type="np",
        num_images_per_prompt=2,
        batch_size=3,
    ).images
    for i in range(4):
        alone = pipeline(
            images[i], holes[i], generator=seeded(5 + i), output_type="np", num_images_per_prompt=2
        ).images
        for sample in range(2):
            expected = together[2 * i + sample]
            assert abs(expected - alone[sample]).max() * 255 < 1.01
            assert abs(expected - backwards[2 * (3 - i) + sample]).max() * 255 < 1.01
        assert not np.array_equal(alone[0], alone[1])


def test_without_a_generator_every_call_differs(pipeline: InpaintPipeline) -> None:
    image, hole = picture(16, 16), draw_hole("half", 16, 16, np.random.default_rng(0))
    fills = [pipeline(image, hole, output_type="np").images[0].tobytes() for _ in range(5)]
    assert len(set(fills)) > 1


def test_steps_show_the_picture_and_what_is_still_masked(pipeline: InpaintPipeline) -> None:
    image, hole = picture(32, 40), np.zeros((32, 40), dtype=bool)
    hole[8:24, 10:30] = True
    output = pipeline(
        image, hole, num_inference_steps=4, generator=seeded(0), output_type="np", output_steps=True
    )
    plain = pipeline(image, hole, num_inference_steps=4, generator=seeded(0), output_type="np")
    assert output.steps is not None
    [steps] = output.steps
    assert len(steps) == 4
    shares = [step.masked.mean() for step in steps]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0 == shares[-1]
    for step in steps:
        assert not (step.masked & ~hole).any()
        assert np.array_equal(bytes_of(step.image)[~hole], image[~hole])
    assert np.array_equal(steps[-1].image, output.images[0])
    assert np.array_equal(plain.images[0], output.images[0])
    assert plain.steps is None


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_uncertainty_is_the_deviation_of_the_fills_of_each_image(
    pipeline: InpaintPipeline, depth: type
) -> None:
    images = [picture(16, 24).astype(depth) * (np.iinfo(depth).max // 255) for _ in range(2)]
    images[1] = images[1][:, :, 0]  # grey
    holes = [np.zeros((16, 24), dtype=bool) for _ in images]
    holes[0][3:9, 4:20] = holes[1][8:, :8] = True
    output = pipeline(
        images, holes, num_images_per_prompt=3, generator=seeded(0, 1), uncertainty=True,
        output_type="np",
    )  # fmt: skip
    assert output.uncertainty is not None
    for i, (spread, hole) in enumerate(zip(output.uncertainty, holes, strict=True)):
        assert spread.dtype == np.float32 and spread.shape == hole.shape
        assert spread[hole].mean() > 0.003 and not spread[~hole].any()
        expected = np.stack(output.images[3 * i : 3 * i + 3]).std(axis=0, ddof=1)
        if expected.ndim == 3:
            expected = expected.mean(axis=2)
        np.testing.assert_allclose(spread, expected, atol=1e-5)


def test_stopping_after_t_steps_is_the_picture_of_step_t(pipeline: InpaintPipeline) -> None:
    image, hole = picture(16, 16), draw_hole("half", 16, 16, np.random.default_rng(0))
    arguments = {"num_inference_steps": 5, "output_type": "np"}
    steps = pipeline(image, hole, generator=seeded(0), output_steps=True, **arguments).steps
    assert steps is not None
    for t in range(1, 6):
        stopped = pipeline(image, hole, generator=seeded(0), stop_after=t, **arguments)
        assert np.array_equal(stopped.images[0], steps[0][t - 1].image)


def test_the_callback_sees_every_step_of_every_batch_as_in_diffusers(
    pipeline: InpaintPipeline,
) -> None:
    calls: list[tuple[int, int, int]] = []

    def note(
        pipe: InpaintPipeline, step: int, timestep: int, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        assert pipe is pipeline
        assert tensors["tokens"].shape == tensors["masked"].shape == tensors["confidence"].shape
        calls.append((step, timestep, len(tensors["tokens"])))
        return tensors

    half = np.repeat([[255, 0]], 8, axis=1).repeat(16, axis=0).astype(np.uint8)
    pipeline(
        [picture(16, 16, seed) for seed in range(3)],
        [half] * 3,
        num_inference_steps=2,
        batch_size=2,
        callback_on_step_end=note,
    )
    assert calls == [(0, 1, 2), (1, 0, 2), (0, 1, 1), (1, 0, 1)]


def test_painted_surroundings_are_returned_only_on_request(pipeline: InpaintPipeline) -> None:
    image, hole = picture(16, 16), draw_hole("box", 16, 16, np.random.default_rng(0))
    kept, painted = (
        pipeline(image, hole, generator=seeded(0), output_type="np", keep_known=k).images[0]
        for k in (True, False)
    )
    assert np.array_equal(kept[hole], painted[hole])
    assert not np.array_equal(kept[~hole], painted[~hole])


def test_painted_surroundings_do_not_cover_what_another_crop_filled(
    pipeline: InpaintPipeline,
) -> None:
    image, hole = picture(33, 64), np.zeros((33, 64), dtype=bool)
    hole[2:14, 4:16] = hole[18:30, 12:26] = hole[4:9, 30:50] = True
    assert len(plan_crops(hole, 16)) > 1
    kept, painted = (
        pipeline(
            image, hole, generator=seeded(0), output_type="np", keep_known=k, output_steps=True
        )
        for k in (True, False)
    )
    assert np.array_equal(kept.images[0][hole], painted.images[0][hole])
    assert painted.steps is not None
    assert not any((step.masked & ~hole).any() for step in painted.steps[0])


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "arccos"}, {"order": "random"}, {"order": "halton"}, {"stop_after": 1},
        {"temperature": 50.0}, {"token_temperature": 0.0}, {"top_k": 1}, {"paint": "expected"},
        {"num_inference_steps": 1}, {"entropy_bound": 1000.0},
    ],
)  # fmt: skip
def test_every_setting_changes_the_fill(
    pipeline: InpaintPipeline, settings: dict[str, object]
) -> None:
    image, hole = picture(64, 64), np.ones((64, 64), dtype=bool)
    hole[:26] = False
    plain, other = (
        pipeline(
            image, hole, generator=seeded(3), output_type="np",
            **({"num_inference_steps": 6} | chosen),
        ).images[0]
        for chosen in ({}, settings)
    )  # fmt: skip
    assert not np.array_equal(plain, other)


def test_expected_codes_give_one_answer_whatever_the_seed(pipeline: InpaintPipeline) -> None:
    image, hole = picture(16, 16), draw_hole("box", 16, 16, np.random.default_rng(0))
    one, other = (
        pipeline(image, hole, paint="expected", generator=seeded(s), output_type="np").images[0]
        for s in (0, 1)
    )
    assert np.array_equal(one, other)
    with pytest.raises(MaskweaveError, match="has one fill"):
        pipeline(image, hole, paint="expected", num_images_per_prompt=2)


def test_equal_holes_at_different_places_get_different_fills(pipeline: InpaintPipeline) -> None:
    image, hole = np.full((16, 96, 3), 90, dtype=np.uint8), np.zeros((16, 96), dtype=bool)
    hole[2:14, 2:14] = hole[2:14, 82:94] = True
    filled = np.array(pipeline(image, hole, generator=seeded(0), token_temperature=2.0).images[0])
    assert not np.array_equal(filled[2:14, 2:14], filled[2:14, 82:94])


def test_encoder_and_decoder_run_once_unless_steps_are_asked_for(
    pipeline: InpaintPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    for output_steps, expected in ((False, 1), (True, 4)):
        encode, paint = (
            MagicMock(wraps=work) for work in (pipeline.tokenizer.encode, pipeline.tokenizer.paint)
        )
        with monkeypatch.context() as patch:
            patch.setattr(pipeline.tokenizer, "encode", encode)
            patch.setattr(pipeline.tokenizer, "paint", paint)
            pipeline(picture(16, 16), MASK, num_inference_steps=4, output_steps=output_steps)
        assert (encode.call_count, paint.call_count) == (1, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_lower_precision_changes_neither_laws_nor_types(
    pipeline: InpaintPipeline, dtype: torch.dtype
) -> None:
    image, hole = picture(16, 16), draw_hole("box", 16, 16, np.random.default_rng(0))
    output = pipeline.to("cpu", dtype)(image, hole, generator=seeded(0), output_type="np")
    assert np.array_equal(bytes_of(output.images[0])[~hole], image[~hole])


def test_known_tokens_are_encoded_in_full_precision_whatever_a_caller_computes_in(
    pipeline: InpaintPipeline,
) -> None:
    known = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    hole = torch.zeros(4, 16, 16, dtype=torch.bool)
    hole[:, :4] = True
    known = known.masked_fill(hole[:, None], 0.0)
    seen: list[torch.dtype] = []
    pipeline.tokenizer.encoder.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = fill_tokens(
            pipeline.tokenizer,
            pipeline.transformer,
            known,
            hole,
            seeded(0, 1, 2, 3),
            DecodeSettings(),
        )
    assert seen == [torch.float32]
    assert torch.equal(tokens[:, 4:], pipeline.tokenizer.encode(known)[:, 4:])
