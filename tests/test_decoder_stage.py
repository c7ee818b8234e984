"""Stage 3: only the decoder learns, from the transformer's own fills, and resumes exactly."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from conftest import tiny_pipeline
from maskweave.checkpoint import save_component
from maskweave.data.augment import to_unit_range
from maskweave.errors import MaskweaveError
from maskweave.holes import draw_holes
from maskweave.pipeline import InpaintPipeline
from maskweave.tokenizer.reference import ReferenceConfig, ReferenceVQGAN
from maskweave.tokenizer.vqgan import VQGAN
from maskweave.training.decoder_task import DecoderRecipe, DecoderTask
from maskweave.training.loop import Course, RunConfig
from maskweave.training.optimiser import OptimiserConfig
from maskweave.training.overrides import override
from maskweave.training.painting import PaintingLoss
from maskweave.training.train import train_decoder

RECIPE = DecoderRecipe(
    loss=PaintingLoss(perceptual=0.0, adversarial_start=0.3, shift=1),
    optimiser=OptimiserConfig(warmup=2),
    run=RunConfig(steps=6, batch_size=4, precision="no", log_every=2, save_every=3),
    blocks=1,
)


def weights(run: Path) -> dict[str, torch.Tensor]:
    parts = ("tokenizer", "transformer")
    files = {part: load_file(run / part / "model.safetensors") for part in parts}
    return {f"{part}.{n}": value for part, file in files.items() for n, value in file.items()}


@pytest.fixture(scope="module")
def run(noise: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "decoder"
    train_decoder(RECIPE, noise, tiny_model, output, cache=output.parent / "cache")
    return output


def test_only_the_decoder_learns(run: Path, tiny_model: Path) -> None:
    before, after = weights(tiny_model), weights(run)
    changed = {n for n in after if n not in before or not torch.equal(before[n], after[n])}
    assert changed == {name for name in after if name.startswith("tokenizer.decoder.")}


def test_a_run_is_a_model_whose_defaults_are_what_it_was_trained_on(
    run: Path, tiny_model: Path
) -> None:
    before, after = (InpaintPipeline.from_pretrained(folder) for folder in (tiny_model, run))
    assert after.defaults == before.settings(steps=4, token_temperature=0.5) != before.defaults
    assert "maskweave train decoder" in (run / "README.md").read_text()


def test_a_resumed_run_ends_in_the_same_weights(
    run: Path, noise: Path, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "checkpoints" / "step_00000006")
    shutil.rmtree(tmp_path / "half" / "tokenizer")
    train_decoder(RECIPE, noise, tiny_model, tmp_path / "half")
    whole, half = weights(run), weights(tmp_path / "half")
    assert [name for name in whole if not torch.equal(whole[name], half[name])] == []


@pytest.mark.parametrize(("share", "filled"), [(0.0, 0), (0.5, 2), (1.0, 8)])
def test_a_share_of_the_images_is_filled_by_the_transformer(
    share: float, filled: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, batch = task_and_batch(override(RECIPE, [f"filled={share}"]))
    seen: list[torch.Tensor] = []

    def sevens(model: InpaintPipeline, known: torch.Tensor, *_: object) -> torch.Tensor:
        return torch.full((len(known), 16), 7)

    monkeypatch.setattr(InpaintPipeline, "fill_tokens", sevens)
    task.learner.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    task.step(batch, 0)
    codes = seen[0].flatten(2).transpose(1, 2)  # (8, 16, codebook_dim)
    painted = (codes == task.tokenizer.codes[7]).all(2).all(1)
    assert painted.sum() == filled
    true = task.tokenizer.codes[task.tokenizer.encode(to_unit_range(batch[0]))]
    assert torch.equal(codes[~painted], true[~painted])


def test_a_batch_is_learnt_by_heart() -> None:
    task, batch = task_and_batch(override(RECIPE, ["filled=1", "optimiser.learning_rate=0.01"]))
    losses = [float(task.step(batch, 1)["loss/pixel"]) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_added_blocks_change_nothing_at_first_and_are_learnt_and_saved(
    noise: Path, tiny_model: Path, tmp_path: Path
) -> None:
    task, (images, hole, _) = task_and_batch(override(RECIPE, ["blocks=2"]))
    known, tokens = to_unit_range(images), torch.arange(8 * 16).view(8, 16) % 32
    before = tiny_pipeline().tokenizer
    torch.testing.assert_close(*(m.decode(tokens, known, hole) for m in (task.tokenizer, before)))
    train_decoder(override(RECIPE, ["blocks=2"]), noise, tiny_model, tmp_path)
    after = InpaintPipeline.from_pretrained(tmp_path).tokenizer
    assert isinstance(after, VQGAN)
    assert after.config.decoder_blocks == before.config.decoder_blocks + 2
    assert after.decoder.middle[-1].get_parameter("conv2.weight").any()


def test_a_run_on_another_model_is_refused(run: Path, noise: Path, tmp_path: Path) -> None:
    tiny_pipeline(seed=1).save_pretrained(tmp_path / "other")
    with pytest.raises(MaskweaveError, match="not the same model"):
        train_decoder(RECIPE, noise, tmp_path / "other", run)


def test_the_reference_vqgan_is_refused(noise: Path, tmp_path: Path) -> None:
    tiny_pipeline(patch_size=0).save_pretrained(tmp_path)
    down: tuple = ("down", "down")
    up: tuple = ("up", "up")
    config = ReferenceConfig(down, (32,) * 3, up, (32,) * 3, 16, codebook_size=32, codebook_dim=8)
    save_component(ReferenceVQGAN(config), tmp_path / "tokenizer")
    with pytest.raises(MaskweaveError, match="reference VQGAN does not see known pixels"):
        train_decoder(RECIPE, noise, tmp_path, tmp_path / "run")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("filled=1.5", "filled is a share"),
        ("blocks=-1", "blocks to add"),
        ("blocks=101", "blocks to add"),
        ("fill_steps=0", "steps"),
    ],
)
def test_settings_out_of_range_are_refused(setting: str, message: str) -> None:
    with pytest.raises(MaskweaveError, match=message):
        override(RECIPE, [setting])


def task_and_batch(recipe: DecoderRecipe) -> tuple[DecoderTask, tuple[Any, ...]]:
    images = torch.randint(0, 256, (8, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    images = images.to(torch.uint8)
    recipe = override(recipe, ["loss.adversarial=0"])
    task = DecoderTask(recipe, tiny_pipeline(), images, Accelerator(cpu=True), Course(100, 10))
    hole = draw_holes(("box",), 8, 16, 16, np.random.default_rng(0))
    return task, (images, hole, [str(seed) for seed in range(8)])
