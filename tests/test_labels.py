"""Labels from folders: the transformer learns them, resumes exactly, and fills by them."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from maskweave.checkpoint import save_component
from maskweave.cli.main import app
from maskweave.data.labels import folder_labels, folder_names
from maskweave.errors import MaskweaveError
from maskweave.maskgit import masked_loss
from maskweave.pipeline import InpaintPipeline
from maskweave.tokenizer.vqgan import VQGAN, TokenizerConfig
from maskweave.training.examples import ExamplesConfig
from maskweave.training.loop import RunConfig
from maskweave.training.optimiser import OptimiserConfig
from maskweave.training.overrides import override
from maskweave.training.train import train_transformer
from maskweave.training.transformer_task import MaskingConfig, TransformerRecipe
from maskweave.transformer import TransformerConfig
from test_processes import assert_same_curves

RECIPE = TransformerRecipe(
    model=TransformerConfig(dim=32, depth=1, heads=2, mlp_dim=32, attention_dropout=0.0),
    examples=ExamplesConfig(shift=1, whole=0.5),
    masking=MaskingConfig(views=3, label_smoothing=0.0),
    optimiser=OptimiserConfig(warmup=2, ema=0.9, learning_rate=5e-3),
    run=RunConfig(steps=60, batch_size=8, precision="no", log_every=30, save_every=30),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images in two folders: dark ones and, some of them deeper, light ones."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for i in range(40):
        low, place = (20, "dark") if i % 2 else (200, f"light/{i % 4}")
        (folder / place).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(low, low + 30, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / place / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = TokenizerConfig(
        image_size=16, codebook_size=32, encoder_dim=16, channels=(8, 8, 16), decoder_blocks=1
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    save_component(VQGAN(config), folder)
    return folder


@pytest.fixture(scope="module")
def model(data: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "model"
    train_transformer(RECIPE, data, tokenizer, run, cache=run.parent / "cache", labels="folders")
    return run


def images_of(data: Path, name: str) -> torch.Tensor:
    files = sorted((data / name).rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1


def test_the_right_label_predicts_better_than_none_and_the_wrong_one_worse(
    model: Path, data: Path
) -> None:
    pipeline = InpaintPipeline.from_pretrained(model)
    transformer = pipeline.transformer
    assert transformer.class_names == ("dark", "light")
    for label, name in enumerate(transformer.class_names):
        tokens = pipeline.tokenizer.encode(images_of(data, name))
        masked = torch.ones_like(tokens, dtype=torch.bool)
        shown = torch.full_like(tokens, transformer.config.mask_token)
        with torch.inference_mode():
            right, none, wrong = (
                masked_loss(transformer(shown, condition=told), tokens, masked).item()
                for told in (torch.tensor([label]), None, torch.tensor([1 - label]))
            )
        assert right < none < wrong


def test_inpaint_fills_by_the_name_of_a_folder(model: Path, data: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 16, 3), 128, dtype=np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(np.full((16, 16), 255, dtype=np.uint8)).save(tmp_path / "mask.png")

    def filled(*told: str) -> torch.Tensor:
        output = tmp_path / "out.png"
        arguments = ["inpaint", str(tmp_path / "image.png"), "--mask", str(tmp_path / "mask.png")]
        arguments += ["--model", str(model), "--output", str(output), "--overwrite", *told]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        return torch.from_numpy(np.array(Image.open(output)))

    dark, light = filled("--label", "dark"), filled("--label", "light")
    assert torch.equal(light, filled("--label", "1"))
    assert not torch.equal(light, dark)
    assert not torch.equal(light, filled("--label", "light", "--guidance", "4"))


@pytest.mark.filterwarnings("ignore:100% of the image")
def test_a_label_decides_whose_tokens_fill_a_hole(model: Path, data: Path) -> None:
    pipeline = InpaintPipeline.from_pretrained(model)
    own = set(pipeline.tokenizer.encode(images_of(data, "light")).unique().tolist())
    own -= set(pipeline.tokenizer.encode(images_of(data, "dark")).unique().tolist())
    assert own

    def share(**settings: object) -> float:
        found: list[int] = []

        def keep(_p: object, _s: int, _t: int, tensors: dict[str, torch.Tensor]) -> None:
            if not tensors["masked"].any():
                found.extend(tensors["tokens"].flatten().tolist())

        image, mask = (Image.fromarray(np.full((16, 16), 255, dtype=np.uint8)) for _ in "im")
        pipeline(
            [image.convert("RGB")] * 16, [mask] * 16,
            generator=[torch.Generator().manual_seed(i) for i in range(16)],
            callback_on_step_end=keep, **settings,
        )  # fmt: skip
        return sum(token in own for token in found) / len(found)

    assert share(label="dark") < 0.1 < share() < 0.9 < share(label="light")


def test_a_resumed_run_ends_in_the_same_weights(
    model: Path, data: Path, tokenizer: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    shutil.copytree(model, half)
    shutil.rmtree(half / "checkpoints" / "step_00000060")
    (half / "transformer" / "model.safetensors").unlink()
    train_transformer(RECIPE, data, tokenizer, half, labels="folders")
    ours, theirs = (load_file(f / "transformer" / "model.safetensors") for f in (half, model))
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    assert "class_embedding.weight" in ours


SCRIPT = """
import sys
from maskweave.training.train import train_transformer
from test_labels import SHORT

train_transformer(SHORT, *sys.argv[1:], labels="folders")
"""

HERE = {
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "true",
    "PYTHONPATH": str(Path(__file__).parent),
}

SHORT = override(RECIPE, ["run.steps=6", "run.save_every=6", "run.log_every=1"])


def test_two_processes_train_as_one(data: Path, tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    train_transformer(SHORT, data, tokenizer, tmp_path / "one", labels="folders")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = map(str, (tmp_path / "script.py", data, tokenizer, tmp_path / "two"))
    finished = subprocess.run(
        [sys.executable, *launcher, *arguments],
        env=os.environ | HERE, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert_same_curves(tmp_path / "two", tmp_path / "one")


def test_labels_are_part_of_what_a_run_is(
    model: Path, data: Path, tokenizer: Path, tmp_path: Path
) -> None:
    run, moved = tmp_path / "run", tmp_path / "data"
    shutil.copytree(model, run)
    with pytest.raises(MaskweaveError, match=r"not the same model\.classes, model\.class_names"):
        train_transformer(RECIPE, data, tokenizer, run)
    shutil.copytree(data, moved)
    (moved / "dark" / "1.png").rename(moved / "light" / "1.png")
    with pytest.raises(MaskweaveError, match="not the same images"):
        train_transformer(RECIPE, moved, tokenizer, run, labels="folders")


def test_a_run_of_before_labels_goes_on(data: Path, tokenizer: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, run=replace(RECIPE.run, steps=2, save_every=1))
    train_transformer(recipe, data, tokenizer, tmp_path / "run")
    file = tmp_path / "run" / "recipe.json"
    written = json.loads(file.read_text())
    del written["label_dropout"], written["model"]["classes"], written["model"]["class_names"]
    file.write_text(json.dumps(written))
    train_transformer(recipe, data, tokenizer, tmp_path / "run")


def test_names_of_folders(tmp_path: Path) -> None:
    for name in ("b", "a", "c/deep", ".hidden"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").touch()
    names = folder_names(tmp_path)
    assert names == ("a", "b", "c")
    assert folder_labels(["c/deep/1.png", "a/2.png"], names, None) == [2, 0]
    assert folder_labels(["x/1.png", "2.png", "b/3.png"], names, 3) == [3, 3, 1]
    with pytest.raises(MaskweaveError, match=r"2\.png lies in no folder"):
        folder_labels(["a/1.png", "2.png"], names, None)
    with pytest.raises(MaskweaveError, match="holds no folders"):
        folder_names(tmp_path / "a")


def test_labels_want_folders(noise: Path, tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(MaskweaveError, match="holds no folders, whose names would be the labels"):
        train_transformer(RECIPE, noise, tokenizer, tmp_path / "run", labels="folders")
    assert not (tmp_path / "run").exists()
