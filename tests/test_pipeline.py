"""The pipeline's laws, on images of any size, and the conventions of its call."""

import io
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from PIL import Image

from maskweave.crops import plan_crops
from maskweave.errors import MaskweaveError
from maskweave.fill import fill_tokens
from maskweave.holes import KINDS, draw_hole
from maskweave.maskgit import DecodeSettings
from maskweave.pipeline import InpaintPipeline

SIZES = [(16, 16), (16, 40), (61, 33), (9, 12)]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def bytes_of(array: np.ndarray) -> np.ndarray:
    """Return floats in [0, 1] as the bytes that they stand for."""
    return (array * 255).round().astype(np.uint8)


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


def test_the_output_has_the_type_that_was_asked_for(pipeline: InpaintPipeline) -> None:
    image, mask = Image.fromarray(picture(20, 18)), Image.new("L", (18, 20), 0)
    mask.paste(255, (3, 3, 9, 9))
    pil = pipeline(image, mask, generator=seeded(0)).images[0]
    array = pipeline(image, mask, generator=seeded(0), output_type="np").images[0]
    tensor = pipeline(image, mask, generator=seeded(0), output_type="pt").images[0]
    assert pil.size == image.size
    assert np.array_equal(np.array(pil), bytes_of(array))
    assert (array.dtype, tensor.dtype) == (np.float32, torch.float32)
    assert np.array_equal(tensor.permute(1, 2, 0).numpy(), array)


def test_transparent_pixels_are_the_hole_only_without_a_mask(pipeline: InpaintPipeline) -> None:
    image = picture(16, 16)
    transparent = np.zeros((16, 16), dtype=bool)
    transparent[4:8, 4:8] = True
    alpha = Image.fromarray(image)
    alpha.putalpha(Image.fromarray(np.where(transparent, 0, 255).astype(np.uint8)))
    by_alpha = pipeline(alpha, generator=seeded(0), output_type="np").images[0]
    by_mask = pipeline(image, transparent, generator=seeded(0), output_type="np").images[0]
    assert np.array_equal(by_alpha[:, :, :3], by_mask) and (by_alpha[:, :, 3] == 1).all()
    other = np.zeros((16, 16), dtype=bool)
    other[0, 0] = True
    masked = pipeline(alpha, other, generator=seeded(0), output_type="np").images[0]
    assert np.array_equal(bytes_of(masked)[:, :, :3][transparent], image[transparent])


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


def test_uncertainty_takes_several_fills(pipeline: InpaintPipeline) -> None:
    assert (
        pipeline([], [], generator=[], num_images_per_prompt=2, uncertainty=True).uncertainty == []
    )
    assert pipeline(picture(16, 16), MASK).uncertainty is None
    with pytest.raises(MaskweaveError, match="num_images_per_prompt=2"):
        pipeline(picture(16, 16), MASK, uncertainty=True)


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


def test_every_type_of_input_gives_the_same_fill(pipeline: InpaintPipeline) -> None:
    image, hole = picture(16, 24), draw_hole("box", 16, 24, np.random.default_rng(0))
    white = np.where(hole, 255, 0).astype(np.uint8)
    floats = image.astype(np.float32) / 255
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    expected = np.array(pipeline(image, hole, generator=seeded(0)).images[0])
    for one, mask in (
        (Image.fromarray(image), Image.fromarray(white)),
        (floats, hole.astype(np.float32)),
        (tensor, torch.from_numpy(hole)),
        (tensor.float() / 255, torch.from_numpy(hole)[None].float()),
        (tensor, torch.from_numpy(hole).bfloat16()),
        (floats[None], white[None]),
        (tensor[None], torch.from_numpy(white)[None]),
        ([image], [hole]),
    ):
        [filled] = pipeline(one, mask, generator=seeded(0)).images
        assert np.array_equal(np.array(filled), expected)


def test_a_list_in_is_a_list_out_even_when_empty(pipeline: InpaintPipeline) -> None:
    assert pipeline([], []).images == []
    assert pipeline([], [], output_steps=True, generator=[]).steps == []


def test_each_fill_may_have_a_generator_of_its_own(pipeline: InpaintPipeline) -> None:
    image, hole = picture(16, 16), draw_hole("half", 16, 16, np.random.default_rng(0))
    apart = [pipeline(image, hole, generator=seeded(s)).images[0].tobytes() for s in (4, 5)]
    together = pipeline(image, hole, num_images_per_prompt=2, generator=seeded(4, 5)).images
    assert [one.tobytes() for one in together] == apart


def test_equal_holes_at_different_places_get_different_fills(pipeline: InpaintPipeline) -> None:
    image, hole = np.full((16, 96, 3), 90, dtype=np.uint8), np.zeros((16, 96), dtype=bool)
    hole[2:14, 2:14] = hole[2:14, 82:94] = True
    filled = np.array(pipeline(image, hole, generator=seeded(0), token_temperature=2.0).images[0])
    assert not np.array_equal(filled[2:14, 2:14], filled[2:14, 82:94])


def test_to_follows_torch(pipeline: InpaintPipeline, tmp_path: Path) -> None:
    for arguments in ((torch.bfloat16,), ("cpu", torch.bfloat16)):
        assert pipeline.to(*arguments).dtype == torch.bfloat16
        assert pipeline.to("cpu").dtype == torch.bfloat16  # what is not given stays
        assert pipeline.to(dtype=torch.float32).dtype == torch.float32
    pipeline.save_pretrained(str(tmp_path))
    again = InpaintPipeline.from_pretrained(str(tmp_path), torch_dtype=torch.bfloat16)
    assert again.dtype == torch.bfloat16


def test_a_warning_points_at_the_line_that_called_the_pipeline(pipeline: InpaintPipeline) -> None:
    with pytest.warns(UserWarning, match="mask is empty") as caught:
        pipeline(IMAGE, np.zeros((16, 16), dtype=bool))
    assert caught[0].filename == __file__


def test_a_float_is_rounded_to_the_nearest_of_256_levels(pipeline: InpaintPipeline) -> None:
    image = np.full((16, 16, 3), 0.7, dtype=np.float64)
    filled = np.array(pipeline(image, MASK).images[0])
    assert (filled[~MASK] == 178).all()  # 178.5 rounds to even


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


def test_pil_images_are_refused_and_turned_as_files_are(pipeline: InpaintPipeline) -> None:
    deep = Image.fromarray(np.full((16, 16), 60_000, dtype=np.uint16))
    with pytest.raises(MaskweaveError, match="CMYK images are not supported"):
        pipeline(Image.new("CMYK", (16, 16)), MASK)
    assert (np.array(pipeline(deep, MASK).images[0]) == 60_000).all()
    turned = Image.fromarray(picture(16, 20))
    turned.getexif()[0x0112] = 6
    assert pipeline(turned, np.eye(20, 16, dtype=bool)).images[0].size == (16, 20)


def test_arrays_may_be_views_that_cannot_be_written(pipeline: InpaintPipeline) -> None:
    mirrored = picture(16, 16)[:, ::-1]
    mirrored.flags.writeable = False
    filled = pipeline(mirrored, MASK, output_type="np").images[0]
    assert np.array_equal(bytes_of(filled)[~MASK], mirrored[~MASK])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_lower_precision_changes_neither_laws_nor_types(
    pipeline: InpaintPipeline, dtype: torch.dtype
) -> None:
    image, hole = picture(16, 16), draw_hole("box", 16, 16, np.random.default_rng(0))
    output = pipeline.to("cpu", dtype)(image, hole, generator=seeded(0), output_type="np")
    assert np.array_equal(bytes_of(output.images[0])[~hole], image[~hole])


def test_masks_may_have_an_axis_of_one_channel(pipeline: InpaintPipeline) -> None:
    image, hole = picture(16, 16), draw_hole("box", 16, 16, np.random.default_rng(0))
    [expected] = pipeline(image, hole, generator=seeded(0), output_type="np").images
    for mask in (hole[:, :, None], hole[None], torch.from_numpy(hole)[None, None]):
        [filled] = pipeline(image, mask, generator=seeded(0), output_type="np").images
        assert np.array_equal(filled, expected)
    images, masks = np.stack([image] * 2), np.stack([hole] * 2)
    expected = pipeline(images, masks, generator=seeded(0, 1), output_type="np").images
    for batch in (masks[:, None], masks[..., None]):
        filled = pipeline(images, batch, generator=seeded(0, 1), output_type="np").images
        assert np.array_equal(filled, expected)


IMAGE, MASK = np.zeros((16, 16, 3), dtype=np.uint8), np.eye(16, dtype=bool)


def truncated() -> Image.Image:
    content = io.BytesIO()
    Image.fromarray(picture(16, 16)).save(content, "PNG")
    return Image.open(io.BytesIO(content.getvalue()[:300]))


TRUNCATED = truncated()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_image": np.zeros((16, 17), dtype=bool)}, "mask is 17x16 pixels, the image 16x16"),
        ({"mask_image": [MASK, MASK]}, "1 images but 2 masks"),
        ({"mask_image": np.stack([MASK] * 3, 2)}, r"a mask is .* got the shape \(16, 16, 3\)"),
        ({"mask_image": None}, "needs a mask_image"),
        ({"mask_image": np.full((16, 16), 2.0)}, "a mask is"),
        ({"image": np.full((16, 16, 3), 2.0)}, "an image is"),
        ({"image": np.zeros((16, 16), dtype=np.int16)}, "an image is"),
        ({"image": np.zeros((16, 16, 3), np.uint16)}, "ask for output_type 'np'"),
        ({"generator": seeded(0, 1)}, "1 images need as many generators, .*got 2"),
        ({"generator": 3}, "generator is a torch.Generator or a list"),
        ({"generator": [None]}, "generator is a torch.Generator or a list"),
        ({"image": TRUNCATED}, "the image is not a readable image"),
        ({"mask_image": TRUNCATED}, "the mask is not a readable image"),
        ({"num_images_per_prompt": 0}, "of at least 1"),
        ({"num_images_per_prompt": 1.5}, "of at least 1"),
        ({"batch_size": 0}, "of at least 1"),
        ({"batch_size": None}, "of at least 1"),
        ({"output_type": "jpeg"}, "output_type is pil, np or pt"),
        ({"num_inference_steps": 0}, "steps should be greater than or equal to 1"),
        ({"schedule": "sine"}, "unknown schedule"),
        ({"noise": 1}, "unknown decode settings noise"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(
    pipeline: InpaintPipeline, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(MaskweaveError, match=message):
        pipeline(**({"image": IMAGE, "mask_image": MASK} | arguments))


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
