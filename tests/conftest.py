"""Small models with random weights, what they fill, and the data that only some machines have."""

import ctypes
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from maskweave.call import Photo, StepPicture
from maskweave.evaluation.evaluate import Meter
from maskweave.evaluation.inception import PUBLISHED, Inception
from maskweave.fill import fill_tokens
from maskweave.guide import Guide
from maskweave.images import Hole, Pixels, as_picture
from maskweave.maskgit import DecodeSettings
from maskweave.pipeline import InpaintPipeline
from maskweave.tokenizer.vqgan import VQGAN, TokenizerConfig
from maskweave.training.examples import Example
from maskweave.transformer import BidirectionalTransformer, TransformerConfig

# Modules of fixtures and helpers beside this one.
pytest_plugins = (
    "commands",
    "evaluations",
    "lab_checkpoints",
    "routes",
    "tiny_exports",
    "tiny_training",
)

torch.set_num_threads(1)  # tiny models: threads would wait for each other

if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
    # Layers of large networks take memory anew at each pass, and a third of their time with it,
    # unless GNU's C library keeps what they leave.
    for setting in (-3, -1):  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of mallopt(3)
        ctypes.CDLL(None).mallopt(setting, 1 << 30)


def tiny_pipeline(seed: int = 0, patch_size: int = 4, **guided: int) -> InpaintPipeline:
    """Return a model of 16x16 images; ``guided`` are further fields of the tokenizer's config."""
    torch.manual_seed(seed)
    tokenizer = VQGAN(
        TokenizerConfig(
            image_size=16,
            codebook_size=32,
            encoder_dim=16,
            channels=(8, 8, 16),
            decoder_blocks=1,
            **guided,
        )
    )
    transformer = BidirectionalTransformer(
        TransformerConfig(
            codebook_size=32,
            grid=(4, 4),
            dim=16,
            depth=2,
            heads=2,
            mlp_dim=32,
            patch_size=patch_size,
            guided="guided" in guided,
        )
    )
    if "guided" in guided:  # untrained decoders paint their guide
        for decoder in filter(None, (tokenizer.decoder, tokenizer.narrow_decoder)):
            torch.nn.init.normal_(decoder.output.weight, std=0.1)
    for parameter in transformer.parameters():  # far from uniform predictions
        parameter.data.add_(torch.randn_like(parameter) * 0.3)
    return InpaintPipeline(tokenizer, transformer)


def fill_arrays(
    pipeline: InpaintPipeline,
    images: Sequence[Pixels],
    holes: Sequence[Hole],
    seeds: Sequence[Sequence[int]],
    settings: DecodeSettings,
    **options: Any,
) -> list[list[StepPicture]]:
    """Return every fill, image by image, with the pixels of its steps."""
    pictures = [as_picture(image) for image in images]
    filled = dict(pipeline.fill(map(Photo, pictures, holes, seeds), settings, **options))
    return [
        [StepPicture(step.image.pixels, step.masked) for step in steps]
        for place in range(len(images))
        for steps in filled[place]
    ]


def tiny_guided() -> InpaintPipeline:
    return tiny_pipeline(guided=True)


def textured(model: InpaintPipeline | None = None) -> InpaintPipeline:
    model = model or tiny_guided()
    return InpaintPipeline(model.tokenizer, model.transformer, framing="texture")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def box(height: int, width: int, rows: slice, columns: slice) -> np.ndarray:
    hole = np.zeros((height, width), dtype=bool)
    hole[rows, columns] = True
    return hole


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def check_law_3(
    model: InpaintPipeline, image: np.ndarray, hole: np.ndarray, finer: bool = False
) -> None:
    """Decode an image of the model's size; ``finer`` tells a guided one of a coarser fill."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    holes = torch.from_numpy(hole)[None]
    known = pixels.masked_fill(holes[:, None], 0.0)
    tokens = fill_tokens(
        model.tokenizer,
        model.transformer,
        known,
        holes,
        [torch.Generator().manual_seed(0)],
        model.defaults,
        Guide(known, torch.tensor([finer])),
    )
    stays = ~model.tokenizer.token_mask(holes)
    assert stays.any() and not stays.all()
    assert torch.equal(tokens[stays], model.tokenizer.encode(pixels)[stays])


def bytes_of(array: np.ndarray) -> np.ndarray:
    """Return floats in [0, 1] as the bytes that they stand for."""
    return (array * 255).round().astype(np.uint8)


@pytest.fixture(params=[0, 4], ids=["tokens alone", "tokens and known pixels"])
def pipeline(request: pytest.FixtureRequest) -> InpaintPipeline:
    return tiny_pipeline(patch_size=request.param)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images of 16x16 pixels to train tiny models on."""
    folder, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for i in range(40):
        pixels = rng.integers(0, 256, size=(16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """Images and golden files beside the checkout, or where MASKWEAVE_SHARED says."""
    here = os.environ.get("MASKWEAVE_SHARED", Path(__file__).parents[2] / "shared")
    if not Path(here).is_dir():
        pytest.skip(f"no shared data at {here}; MASKWEAVE_SHARED names another folder")
    return Path(here)


@pytest.fixture(scope="session")
def torch_home(shared: Path) -> Path:
    if not (shared / "torch_home" / "hub" / "checkpoints" / PUBLISHED).exists():
        pytest.skip(f"no Inception weights in {shared / 'torch_home'}")
    return shared / "torch_home"


@pytest.fixture
def weights(torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Inception's weights, where torch looks for those of all networks."""
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    return torch_home / "hub" / "checkpoints" / PUBLISHED


@pytest.fixture(scope="session")
def meter(torch_home: Path) -> Meter:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(torch_home))
        return Meter(Inception(64, "torch-fidelity"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep features of the truth out of the user's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """Forget the precision of a training: Accelerate allows one in a process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def batch_of(
    images: torch.Tensor, hole: torch.Tensor, tokens: torch.Tensor | None = None
) -> Example:
    """Return a batch as training draws it, each image with its place as its seed."""
    return Example(
        image=images,
        hole=hole,
        coarse=torch.zeros(len(images), 3, 0, 0, dtype=torch.uint8),
        finer=torch.zeros(len(images), dtype=torch.bool),
        tokens=torch.zeros(len(images), 0, dtype=torch.long) if tokens is None else tokens,
        seed=[str(i) for i in range(len(images))],
        label=torch.zeros(len(images), dtype=torch.long),
    )


@pytest.fixture
def amused_folder(shared: Path, tmp_path: Path) -> Path:
    """Return a repository of aMUSEd as diffusers lays it out, with a vocabulary of letters."""
    for name in ("diffusers", "transformers"):
        pytest.importorskip(name, reason="the extra amused is not installed")
    folder = tmp_path / "amused-256"
    shutil.copytree(shared / "golden" / "amused", folder, copy_function=shutil.copyfile)
    for each in (folder, *folder.rglob("*")):
        each.chmod(0o755)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "ca", "cat</w>"]
    words += [f"unused{i}" for i in range(118 - len(words))]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "tokenizer").mkdir()
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    return folder
