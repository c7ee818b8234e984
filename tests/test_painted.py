"""Stage 3 around another project's tokenizer: its encoder and codes stay, our decoder learns."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from maskweave.checkpoint import load_tokenizer
from maskweave.convert.families import Options
from maskweave.convert.folder import convert
from maskweave.errors import MaskweaveError
from maskweave.pipeline import InpaintPipeline
from maskweave.tokenizer.convolutional import ConvolutionalConfig, ConvolutionalVQGAN
from maskweave.tokenizer.painted import PaintedConfig, PaintedVQGAN
from maskweave.training.decoder_task import DecoderRecipe
from maskweave.training.examples import ExamplesConfig
from maskweave.training.loop import RunConfig
from maskweave.training.optimiser import OptimiserConfig
from maskweave.training.overrides import override
from maskweave.training.painting import PaintingLoss
from maskweave.training.train import train_decoder, train_transformer
from maskweave.training.transformer_task import MaskingConfig, TransformerRecipe
from maskweave.transformer import TransformerConfig

RUN = RunConfig(steps=4, batch_size=4, precision="no", log_every=2, save_every=2)
TRANSFORMER = TransformerRecipe(
    model=TransformerConfig(dim=16, depth=1, heads=2, mlp_dim=16),
    examples=ExamplesConfig(shift=1),
    masking=MaskingConfig(views=1, holed_tokens=True),
    run=RUN,
)
DECODER = DecoderRecipe(
    channels=(8, 8, 16),
    examples=ExamplesConfig(shift=1),
    loss=PaintingLoss(perceptual=0.0, adversarial_start=0.5),
    optimiser=OptimiserConfig(warmup=1, learning_rate=2e-3),
    run=RUN,
    blocks=1,
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve smooth images of 64x64 pixels."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(12):
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def runs(shared: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with taming's tokenizer, a transformer on it, and both with our decoder."""
    folder = tmp_path_factory.mktemp("runs")
    file = shared / "golden" / "taming" / "checkpoints" / "last.ckpt"
    convert("taming", file, options=Options(image_size=64)).save(folder / "taming")
    common = {"cache": folder / "cache"}
    train_transformer(TRANSFORMER, photos, folder / "taming", folder / "model", **common)
    train_decoder(DECODER, photos, folder / "model", folder / "painted", **common)
    return folder


def weights(component: Path) -> dict[str, Tensor]:
    return load_file(component / "model.safetensors")


def test_only_the_new_decoder_learns(runs: Path) -> None:
    before, after = weights(runs / "model" / "tokenizer"), weights(runs / "painted" / "tokenizer")
    kept = {name: value for name, value in after.items() if name.startswith("source.")}
    assert all(
        torch.equal(value, before[name.removeprefix("source.")]) for name, value in kept.items()
    )
    gone = before.keys() - {name.removeprefix("source.") for name in kept}
    assert {name.split(".")[0] for name in gone} == {"decoder", "from_code"}
    first = weights(runs / "painted" / "checkpoints" / "step_00000002" / "tokenizer")
    moved = {name for name in after if not torch.equal(after[name], first[name])}
    assert moved and all(name.startswith("decoder.") for name in moved)
    same = (weights(runs / name / "transformer") for name in ("model", "painted"))
    assert all(torch.equal(*pair) for pair in zip(*(each.values() for each in same), strict=True))


def test_its_tokens_are_those_of_the_foreign_tokenizer(runs: Path) -> None:
    foreign, painted = load_tokenizer(runs / "taming"), load_tokenizer(runs / "painted/tokenizer")
    assert isinstance(painted, PaintedVQGAN) and painted.sees_known and not painted.patch_local
    assert painted.dilation == foreign.dilation
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.inference_mode():
        assert torch.equal(painted.encode(images), foreign.encode(images))
        assert torch.equal(painted.codes, foreign.codes)


def test_the_decoder_sees_the_known_pixels_and_nothing_under_the_hole(runs: Path) -> None:
    painted = load_tokenizer(runs / "painted" / "tokenizer")
    hole = torch.zeros(1, 64, 64, dtype=torch.bool)
    hole[:, 20:40, 10:50] = True
    images, others = torch.rand(2, 1, 3, 64, 64) * 2 - 1
    hidden = torch.where(hole[:, None], others, images)
    tokens = torch.zeros(1, 256, dtype=torch.long)
    with torch.inference_mode():
        one, same, other = (painted.decode(tokens, x, hole) for x in (images, hidden, others))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def fill(pipeline: InpaintPipeline, pixels: np.ndarray, hole: np.ndarray, seed: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    return np.asarray(pipeline(Image.fromarray(pixels), hole, generator=generator).images[0])


def test_fills_keep_the_laws(runs: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    hole = np.zeros((64, 64), dtype=bool)
    hole[25:40, 10:30] = True
    pipeline = InpaintPipeline.from_pretrained(runs / "painted")
    filled = fill(pipeline, pixels, hole, 3)
    assert np.array_equal(filled[~hole], pixels[~hole])
    hidden = np.where(hole[:, :, None], 255 - pixels, pixels)
    assert np.array_equal(fill(pipeline, hidden, hole, 3), filled)
    assert not np.array_equal(fill(pipeline, pixels, hole, 4), filled)
    known: list[Tensor] = []
    pipeline(
        Image.fromarray(pixels),
        hole,
        callback_on_step_end=lambda _p, _s, _t, tensors: known.append(tensors["tokens"]),
    )
    mask = pipeline.tokenizer.token_mask(torch.from_numpy(hole)[None])
    assert len(known) > 1
    assert all(torch.equal(tokens[~mask], known[0][~mask]) for tokens in known)
    pipeline.save_pretrained(tmp_path / "copy")
    assert np.array_equal(
        fill(InpaintPipeline.from_pretrained(tmp_path / "copy"), pixels, hole, 3), filled
    )


def test_a_resumed_run_ends_in_the_same_weights(runs: Path, photos: Path, tmp_path: Path) -> None:
    half = shutil.copytree(runs / "painted", tmp_path / "half")
    shutil.rmtree(half / "checkpoints" / "step_00000004")
    shutil.rmtree(half / "tokenizer")
    train_decoder(DECODER, photos, runs / "model", half)
    whole, ours = weights(runs / "painted" / "tokenizer"), weights(half / "tokenizer")
    assert [name for name in whole if not torch.equal(whole[name], ours[name])] == []


def test_a_painted_model_is_trained_further_and_takes_a_new_transformer(
    runs: Path, photos: Path, tmp_path: Path
) -> None:
    short = override(DECODER, ["run.steps=1", "run.save_every=1", "blocks=0"])
    train_decoder(short, photos, runs / "painted", tmp_path / "further")
    tokenizer = load_tokenizer(tmp_path / "further" / "tokenizer")
    assert tokenizer.config == load_tokenizer(runs / "painted" / "tokenizer").config
    one = override(TRANSFORMER, ["run.steps=1", "run.save_every=1"])
    train_transformer(one, photos, runs / "painted" / "tokenizer", tmp_path / "other")
    InpaintPipeline.from_pretrained(tmp_path / "other")


def source(patch_size: int) -> ConvolutionalConfig:
    depth = patch_size.bit_length() - 1
    down, up, widths = ("down",) * depth, ("up",) * depth, (32,) * (depth + 1)
    return ConvolutionalConfig(down, widths, up, widths, 64, codebook_size=8, codebook_dim=4)


def test_widths_double_from_the_pixels_to_the_grid() -> None:
    tokenizer = PaintedVQGAN.around(ConvolutionalVQGAN(source(16)))
    assert tokenizer.config.channels == (32, 64, 128, 256, 256)
    assert PaintedVQGAN.around(ConvolutionalVQGAN(source(4))).config.channels == (32, 64, 128)


def test_widths_that_do_not_fit_the_patches_are_refused() -> None:
    with pytest.raises(MaskweaveError, match=r"patch_size 8 needs log2\(patch_size\) \+ 1"):
        PaintedConfig(source(8), (8, 16))
