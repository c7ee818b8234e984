"""What a call of the pipeline takes, in which types, what it returns, and what it refuses."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import bytes_of, picture, seeded
from maskweave.errors import MaskweaveError
from maskweave.holes import draw_hole
from maskweave.pipeline import InpaintPipeline

IMAGE, MASK = np.zeros((16, 16, 3), dtype=np.uint8), np.eye(16, dtype=bool)


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


def test_uncertainty_takes_several_fills(pipeline: InpaintPipeline) -> None:
    assert (
        pipeline([], [], generator=[], num_images_per_prompt=2, uncertainty=True).uncertainty == []
    )
    assert pipeline(picture(16, 16), MASK).uncertainty is None
    with pytest.raises(MaskweaveError, match="num_images_per_prompt=2"):
        pipeline(picture(16, 16), MASK, uncertainty=True)


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
