"""What training sees of photos: crops, holes, guides; and the three stages of a guided model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import default_collate

from maskweave.data.augment import coarse_fill
from maskweave.data.cache import cached_photos
from maskweave.data.sampler import Draw
from maskweave.errors import MaskweaveError
from maskweave.guide import interpolated
from maskweave.pipeline import InpaintPipeline
from maskweave.tokenizer.vqgan import TokenizerConfig
from maskweave.training import painting
from maskweave.training.decoder_task import DecoderRecipe
from maskweave.training.examples import Example, Examples, ExamplesConfig
from maskweave.training.loop import RunConfig
from maskweave.training.optimiser import OptimiserConfig
from maskweave.training.painting import PaintingLoss
from maskweave.training.tokenizer_task import TokenizerRecipe
from maskweave.training.train import train_decoder, train_tokenizer, train_transformer
from maskweave.training.transformer_task import MaskingConfig, TransformerRecipe
from maskweave.transformer import TransformerConfig

RUN = RunConfig(steps=4, batch_size=4, precision="bf16", log_every=2, save_every=2)
CROPS = ExamplesConfig(holes=("box", "scratch", "blob"), crop=0.4, finer=0.5)
COMMON = {
    "examples": CROPS,
    "optimiser": OptimiserConfig(warmup=2),
    "run": RUN,
}
LOSS = PaintingLoss(perceptual=0.0, adversarial_start=0.5)
TOKENIZER = TokenizerRecipe(
    model=TokenizerConfig(
        image_size=16,
        codebook_size=16,
        encoder_dim=16,
        channels=(8, 8, 16),
        decoder_blocks=1,
        guided=True,
    ),
    unknown=0.5,
    loss=LOSS,
    **COMMON,
)
TRANSFORMER = TransformerRecipe(
    model=TransformerConfig(
        dim=16, depth=1, heads=2, mlp_dim=16, attention_dropout=0.0, patch_size=4
    ),
    masking=MaskingConfig(views=0),
    **COMMON,
)
DECODER = DecoderRecipe(loss=LOSS, **COMMON)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(12):
        size = (20 + 4 * i, 60 - 3 * i, 3)
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def models(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all three stages, one after the other."""
    runs = tmp_path_factory.mktemp("runs")
    cache = runs / "cache"
    train_tokenizer(TOKENIZER, photos, runs / "1", cache=cache)
    train_transformer(TRANSFORMER, photos, runs / "1" / "tokenizer", runs / "2", cache=cache)
    train_decoder(DECODER, photos, runs / "2", runs / "3", cache=cache)
    return runs


def draws(config: ExamplesConfig, photos: Path, tmp_path: Path, count: int = 40) -> list[Example]:
    images = cached_photos(photos, 32, tmp_path / "cache", 16)
    examples = Examples(images, range(len(images)), 16, config)
    return [examples[Draw(i % len(images), (0, i, 0))] for i in range(count)]


def test_examples_of_photos_are_crops_with_holes_and_some_coarse_fills(
    photos: Path, tmp_path: Path
) -> None:
    examples = draws(CROPS, photos, tmp_path)
    for example in examples:
        assert example.image.shape == example.coarse.shape == (3, 16, 16)
        assert 0 < example.hole.mean() <= 1
        assert example.coarse.any() == example.finer
    assert 10 < sum(example.finer for example in examples) < 30
    assert len({example.image.tobytes() for example in examples}) == 40
    again = draws(CROPS, photos, tmp_path)
    for one, same in zip(examples, again, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))


def test_a_share_of_crops_is_out_of_focus(photos: Path, tmp_path: Path) -> None:
    examples = draws(replace(CROPS, soft=0.5), photos, tmp_path)
    steps = [abs(np.diff(example.image.astype(float))).mean() for example in examples]
    sharp = min(abs(np.diff(e.image.astype(float))).mean() for e in draws(CROPS, photos, tmp_path))
    assert 10 < sum(step < sharp / 2 for step in steps) < 30
    again = draws(replace(CROPS, soft=0.5), photos, tmp_path)
    for one, same in zip(examples, again, strict=True):
        assert np.array_equal(one.image, same.image)


def test_the_guide_is_the_coarse_fill_where_there_is_one(photos: Path, tmp_path: Path) -> None:
    batch = Example(*default_collate(draws(CROPS, photos, tmp_path)))
    images = batch.unit_range()
    guide = batch.guide(images)
    finer = batch.finer
    coarse = torch.as_tensor(batch.coarse).float() / 127.5 - 1
    assert torch.equal(guide.finer, finer)
    assert torch.equal(guide.pixels[finer], coarse[finer])
    expected = interpolated(images, batch.hole).pixels
    torch.testing.assert_close(guide.pixels[~finer], expected[~finer])
    alone = Example(*default_collate(draws(replace(CROPS, finer=0.0), photos, tmp_path)))
    torch.testing.assert_close(
        alone.guide(alone.unit_range()).pixels, interpolated(images, alone.hole).pixels
    )


def test_a_guided_model_is_trained_in_three_stages_and_fills(models: Path) -> None:
    pipeline = InpaintPipeline.from_pretrained(models / "3")
    assert pipeline.tokenizer.guided and pipeline.transformer.config.guided
    assert pipeline.framing == "texture"
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    hole = np.zeros((16, 16), dtype=bool)
    hole[4:12, 4:12] = True
    for paint in ("sampled", "expected"):
        filled = np.array(pipeline(image, hole, paint=paint).images[0])
        assert np.array_equal(filled[~hole], image[~hole])
    before = InpaintPipeline.from_pretrained(models / "2").tokenizer.state_dict()
    after = pipeline.tokenizer.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)


def test_law_5_stages_of_photos_resume_exactly(
    models: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = models / "cache"
    runs = {
        "1": lambda out: train_tokenizer(TOKENIZER, photos, out, cache=cache),
        "2": lambda out: train_transformer(
            TRANSFORMER, photos, models / "1" / "tokenizer", out, cache=cache
        ),
        "3": lambda out: train_decoder(DECODER, photos, models / "2", out, cache=cache),
    }
    draw = Examples.__getitem__

    def killed(examples: Examples, place: Draw) -> Example:
        if place.seed[1] == 3:  # after the checkpoint of two steps
            raise KeyboardInterrupt
        return draw(examples, place)

    for stage, run in runs.items():
        monkeypatch.setattr(Examples, "__getitem__", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / stage)
        monkeypatch.setattr(Examples, "__getitem__", draw)
        assert not (tmp_path / stage / "checkpoints" / "step_00000004").exists()
        run(tmp_path / stage)
        whole, half = (
            load_file(folder / stage / "checkpoints" / "step_00000004" / "model.safetensors")
            for folder in (models, tmp_path)
        )
        assert all(torch.equal(whole[name], half[name]) for name in whole)


def test_codes_that_are_kept_from_the_decoder_are_zero_under_the_hole_only(models: Path) -> None:
    vqgan = InpaintPipeline.from_pretrained(models / "2").tokenizer
    codes = torch.rand(2, 16, 8) + 1
    hole = torch.zeros(2, 16, 16, dtype=torch.bool)
    hole[:, :5] = True
    hidden = vqgan.hidden(codes, hole, torch.tensor([True, False]))
    assert (hidden[0, :8] == 0).all()
    assert torch.equal(hidden[0, 8:], codes[0, 8:])
    assert torch.equal(hidden[1], codes[1])


def test_lpips_meets_the_patches_at_other_places_in_each_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = torch.arange(64.0).view(1, 1, 8, 8).expand(1, 3, 8, 8)
    places = set()
    for step in range(60):
        one, other = painting._rolled(step, image, image + 1)
        assert torch.equal(one + 1, other)  # alike
        assert one.unique().numel() == 64  # nothing is lost
        places.add(int(one[0, 0, 0, 0]))
    assert len(places) > 30


def test_crops_at_random_and_coarse_fills_are_refused_where_they_make_no_sense() -> None:
    with pytest.raises(MaskweaveError, match=r"masking\.views=0"):
        replace(TRANSFORMER, masking=MaskingConfig(views=8))
    with pytest.raises(MaskweaveError, match=r"model\.guided=true"):
        replace(TOKENIZER, model=replace(TOKENIZER.model, guided=False))


def test_a_coarse_fill_is_blurred_and_wrong_but_not_another_picture() -> None:
    ramp = np.linspace(40, 210, 64, dtype=np.float32)
    checks = np.where(np.indices((64, 64)).sum(0) % 2, 12, -12)
    image = np.repeat((ramp[None, None] + checks[None]).round(), 3, axis=0).astype(np.uint8)
    errors, rough = [], []
    for seed in range(50):
        coarse = coarse_fill(image, np.random.default_rng(seed)).astype(float)
        assert coarse.shape == image.shape
        errors.append(abs(coarse - ramp).mean())
        rough.append(abs(np.diff(coarse[:, 8:-8, 8:-8], axis=2)).mean())
    assert 1 < np.mean(errors) < 12
    assert max(errors) - min(errors) > 3  # from nearly right to rather wrong
    assert max(rough) < 12  # the checks, of 24 from pixel to pixel, are gone


def test_a_coarse_fill_follows_its_generator() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    one, same, other = (coarse_fill(image, np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
