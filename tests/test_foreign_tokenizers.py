"""Tokenizers of other projects, held against what their own code put out, at every depth."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from skimage.data import chelsea
from torch import Tensor
from typer.testing import CliRunner

from maskweave.checkpoint import load_tokenizer
from maskweave.cli.main import app
from maskweave.convert.families import Options
from maskweave.convert.folder import convert
from maskweave.pipeline import InpaintPipeline
from maskweave.tokenizer.convolutional import ConvolutionalVQGAN
from maskweave.transformer import BidirectionalTransformer, TransformerConfig


class Golden(NamedTuple):
    family: str
    file: str
    """Below the folder of golden cases, where ``io.npz`` lies in the first folder."""
    grid: int
    """Rows of tokens."""
    mean: float
    std: float
    """What the project's code sees as 0 and 1, of pixels in [0, 1]."""
    prefix: str = ""
    channels_last: bool = False


GOLDENS = [
    Golden("lab", "reference_vqgan/VQGAN.pt", 16, 0, 0),  # it has a mean for each colour
    Golden("taming", "taming/checkpoints/last.ckpt", 16, 0.5, 0.5),
    Golden("llamagen", "llamagen_vq/vq_ds16_c2i.pt", 8, 0.5, 0.5),
    Golden("openmuse", "openmuse_maskgit_vqgan/maskgit-vqgan-imagenet-f16-256.bin", 8, 0, 1),
    Golden(
        "google", "google_maskgit/tokenizer_imagenet256_checkpoint", 8, 0, 1, "tokenizer_", True
    ),
    Golden("amused", "amused/vqvae/diffusion_pytorch_model.safetensors", 16, 0, 1),
]


@pytest.fixture(params=GOLDENS, ids=lambda golden: golden.family)
def golden(request: pytest.FixtureRequest) -> Golden:
    return request.param


def arrays(golden: Golden, shared: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a case, images and latents with their channels first."""
    file = shared / "golden" / golden.file.split("/", maxsplit=1)[0] / "io.npz"
    found = {k.removeprefix(golden.prefix): v for k, v in np.load(file).items()}
    if golden.channels_last:
        found = {k: v.transpose(0, 3, 1, 2) if v.ndim == 4 else v for k, v in found.items()}
    return found


def loaded(golden: Golden, shared: Path, folder: Path) -> ConvolutionalVQGAN:
    """Convert a case into a component and load that."""
    patch = {"llamagen": 2, "google": 4, "openmuse": 4, "amused": 2}.get(golden.family, 4)
    options = Options(image_size=golden.grid * patch)
    convert(golden.family, shared / "golden" / golden.file, options=options).save(folder)
    tokenizer = load_tokenizer(folder)
    assert isinstance(tokenizer, ConvolutionalVQGAN)
    assert (tokenizer.sees_known, tokenizer.patch_local) == (False, False)
    assert tokenizer.grid == (golden.grid, golden.grid)
    return tokenizer


def close(found: Tensor, expected: np.ndarray) -> None:
    """Compare to 1e-5 of the largest value."""
    scale = float(np.abs(expected).max())
    wanted = torch.from_numpy(np.ascontiguousarray(expected)) / scale
    torch.testing.assert_close(found / scale, wanted, atol=1e-5, rtol=0)


@torch.no_grad()
def test_against_the_projects_own_code(golden: Golden, shared: Path, tmp_path: Path) -> None:
    case, model = arrays(golden, shared), loaded(golden, shared, tmp_path / "component")
    mean, std = (np.full((3, 1, 1), each, "f") for each in (golden.mean, golden.std))
    if golden.family == "lab":
        mean, std = (np.array(each, "f")[:, None, None] for each in (
            (0.4868, 0.4341, 0.3844), (0.2620, 0.2527, 0.2543)
        ))  # fmt: skip

    def ours(images: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray((images * std + mean) * 2 - 1)

    seen = torch.from_numpy(np.ascontiguousarray(case["images"]))
    if (first := case.get("after_first_block")) is not None:
        block = model.encoder.layers[0](model.encoder.first(seen[:1]))
        close(block[:, : first.shape[1]], first)
    close(model.to_code(model.encoder(seen)), case["z_before_quant"])
    tokens = model.encode(torch.from_numpy(ours(case["images"])))
    assert torch.equal(tokens, torch.from_numpy(case["indices"]).long().flatten(1))
    close(model.on_grid(model.codes[tokens]), case["z_q"])
    for given, picture in (("indices", "reconstruction"), ("decode_indices", "decode_image")):
        codes = model.codes[torch.from_numpy(case[given]).long().flatten(1)]
        close(model.decoder(model.from_code(model.on_grid(codes))), case[picture])
        close(model.paint(codes), ours(case[picture]).clip(-1, 1))


def test_a_component_tells_where_it_comes_from(
    golden: Golden, shared: Path, tmp_path: Path
) -> None:
    loaded(golden, shared, tmp_path / "component")
    written = {file.name for file in (tmp_path / "component").iterdir()}
    assert written == {"README.md", "config.json", "model.safetensors", "origin.json"}
    origin = json.loads((tmp_path / "component" / "origin.json").read_text())
    assert origin["family"] == golden.family
    assert origin["files"]["tokenizer"]["name"] == Path(golden.file).name
    card = (tmp_path / "component" / "README.md").read_text()
    assert origin["licence"] in card and origin["project"] in card


def test_what_training_alone_needed_is_left_out_and_said(shared: Path) -> None:
    file = shared / "golden" / "taming" / "checkpoints" / "last.ckpt"
    [note] = convert("taming", file).notes
    assert "callbacks" in note and "55 weights of its losses" in note
    file = shared / "golden" / "llamagen_vq" / "vq_ds16_c2i.pt"
    [note] = convert("llamagen", file).notes
    assert note.endswith("left out 1 record of codes in use")


@torch.no_grad()
def test_codes_are_painted_with_length_1_whatever_length_is_stored(shared: Path) -> None:
    model = convert("llamagen", shared / "golden" / "llamagen_vq" / "vq_ds16_c2i.pt").tokenizer
    assert isinstance(model, ConvolutionalVQGAN)
    lengths = model.codebook.weight.norm(dim=1)
    assert lengths.max() / lengths.min() > 1.5
    torch.testing.assert_close(model.codes.norm(dim=1), torch.ones(64))


def test_a_tokenizer_fills_with_a_transformer_of_ours(
    golden: Golden, shared: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Laws 1, 2, 4 and 7."""
    tokenizer = loaded(golden, shared, tmp_path / "component")
    torch.manual_seed(0)
    transformer = BidirectionalTransformer(
        TransformerConfig(tokenizer.codebook_size, tokenizer.grid, 16, 2, 2, 32)
    )
    side = tokenizer.image_size[0]
    InpaintPipeline(tokenizer, transformer).save_pretrained(tmp_path / "model")
    pipeline = InpaintPipeline.from_pretrained(tmp_path / "model")
    image, other = rng.integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    hole = np.zeros((side, side), dtype=bool)
    hole[3:11, 5:12] = True

    def fill(photo: np.ndarray) -> np.ndarray:
        generator = torch.Generator().manual_seed(0)
        return np.array(pipeline(photo, hole, generator=generator).images[0])

    filled = fill(image)
    assert np.array_equal(filled[~hole], image[~hole])
    assert not np.array_equal(filled[hole], image[hole])
    assert np.array_equal(fill(np.where(hole[..., None], other, image)), filled)


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_makes_a_component(golden: Golden, shared: Path, tmp_path: Path) -> None:
    file, output = shared / "golden" / golden.file, tmp_path / "component"
    command = ["convert", golden.family, "--tokenizer", file, "--output", output]
    code, out, err = run(*command)
    assert (code, out) == (0, f"{output}\n"), err
    tokenizer = load_tokenizer(output)
    assert tokenizer.image_size == ((64, 64) if golden.family == "lab" else (256, 256))
    code, _, err = run(*command)
    assert code == 2 and "exists; --overwrite replaces it" in err
    assert run(*command, "--image-size", 128, "--overwrite")[0] == 0
    assert load_tokenizer(output).image_size == (128, 128)


@torch.no_grad()
def test_tokens_beside_a_hole_are_more_like_those_of_the_whole_image_than_beside_a_blank(
    golden: Golden, shared: Path, tmp_path: Path
) -> None:
    """Law 2 for encoders that see across tokens, and what its price is."""
    model = loaded(golden, shared, tmp_path / "component")
    patch, side = model.patch_size, 16 * model.patch_size
    photo = torch.from_numpy(chelsea()[:side, 160 : 160 + side]).permute(2, 0, 1)[None] / 127.5 - 1
    hole = torch.zeros(1, side, side, dtype=torch.bool)
    hole[:, 6 * patch : 10 * patch, 6 * patch : 10 * patch] = True
    other = torch.where(hole[:, None], torch.rand_like(photo), photo)
    known = model.encode_known(photo, hole)
    assert torch.equal(model.encode_known(other, hole), known)
    whole, blank = model.encode(photo), model.encode(photo.masked_fill(hole[:, None], 0.0))
    masked = model.token_mask(hole)
    assert masked.sum() == (4 + 2 * model.config.dilation) ** 2
    assert (known != whole)[~masked].sum() < 0.8 * (blank != whole)[~masked].sum()
