"""Stage 3: only the decoder learns, from the transformer's own fills, and resumes exactly."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from conftest import batch_of, tiny_pipeline
from maskweave.data.augment import to_unit_range
from maskweave.errors import MaskweaveError
from maskweave.holes import draw_holes, known_patches, token_mask
from maskweave.pipeline import InpaintPipeline
from maskweave.tokenizer.vqgan import VQGAN
from maskweave.training import decoder_task
from maskweave.training.decoder_task import DecoderRecipe, DecoderTask
from maskweave.training.examples import Example, ExamplesConfig
from maskweave.training.loop import Course, RunConfig
from maskweave.training.optimiser import OptimiserConfig
from maskweave.training.overrides import override
from maskweave.training.painting import PaintingLoss
from maskweave.training.train import train_decoder

RECIPE = DecoderRecipe(
    examples=ExamplesConfig(shift=1),
    loss=PaintingLoss(perceptual=0.0, adversarial_start=0.3),
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


def shown(task: DecoderTask, batch: Example) -> torch.Tensor:
    """Return the codes that a step shows to the decoder, (batch, length, codebook_dim)."""
    seen: list[torch.Tensor] = []
    task.learner.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    task.step(batch, 0)
    return seen[0].flatten(2).transpose(1, 2)


def true_codes(task: DecoderTask, batch: Example) -> torch.Tensor:
    return task.tokenizer.codes[task.tokenizer.encode(to_unit_range(batch[0]))]


@pytest.mark.parametrize(("share", "filled"), [(0.0, 0), (0.5, 2), (1.0, 8)])
def test_a_share_of_the_images_is_filled_by_the_transformer(
    share: float, filled: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, batch = task_and_batch(override(RECIPE, [f"filled={share}", "expected=0"]))

    def sevens(*parts: torch.Tensor) -> torch.Tensor:
        return torch.full((len(parts[2]), 16), 7)

    monkeypatch.setattr(decoder_task, "fill_tokens", sevens)
    codes = shown(task, batch)
    painted = (codes == task.tokenizer.codes[7]).all(2).all(1)
    assert painted.sum() == filled
    assert torch.equal(codes[~painted], true_codes(task, batch)[~painted])


def test_expected_codes_are_the_mean_of_one_prediction_and_known_ones_stay() -> None:
    task, batch = task_and_batch(override(RECIPE, ["filled=1", "expected=1"]))
    images, hole = to_unit_range(batch[0]), batch[1]
    tokens, masked = task.tokenizer.encode(images), token_mask(hole, 4)
    transformer = task.model.transformer
    logits = transformer(
        tokens.masked_fill(masked, transformer.config.mask_token),
        masked,
        known_patches(images, hole, 4),
    )
    codes = shown(task, batch)
    expected = logits.softmax(-1) @ task.tokenizer.codes
    torch.testing.assert_close(codes[masked], expected)
    assert torch.equal(codes[~masked], true_codes(task, batch)[~masked])


@pytest.mark.parametrize(("share", "number"), [(0.0, 0), (0.5, 5), (1.0, 8)])
def test_a_share_of_the_fills_is_expected_whatever_the_batch(share: float, number: int) -> None:
    task, batch = task_and_batch(override(RECIPE, ["filled=1", f"expected={share}"]))
    codes = shown(task, batch)
    near = (codes[:, :, None] - task.tokenizer.codes).norm(dim=-1).amin(-1) < 1e-4
    assert (~near.all(1)).sum() == number  # means are no codes
    other, _ = task_and_batch(override(RECIPE, ["filled=1", f"expected={share}"]))
    half = shown(other, Example(*(part[4:] for part in batch)))
    torch.testing.assert_close(half, codes[4:])


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_validation_tells_both_ways_and_the_mean_of_their_losses(precision: str) -> None:
    task, _ = task_and_batch(RECIPE, precision)
    figures, sheets = task.validate()
    names = {"loss", "psnr_in_hole", "psnr_in_hole_expected"}
    assert figures.keys() == {f"validation/{name}" for name in names}
    assert figures["validation/psnr_in_hole"] != figures["validation/psnr_in_hole_expected"]
    assert sheets["decoder"].shape == (4 * 16, 8 * 16, 3)
    # Painted from the same codes both ways lose alike.
    (numbers, (sampled, expected)) = task.validation_codes.popitem()
    losses = []
    for codes in ([sampled, sampled], [expected, expected]):
        task.validation_codes[numbers] = codes
        losses.append(task.validate()[0]["validation/loss"])
    assert figures["validation/loss"] == pytest.approx(sum(losses) / 2)


def test_a_batch_is_learnt_by_heart() -> None:
    task, batch = task_and_batch(override(RECIPE, ["filled=1", "optimiser.learning_rate=0.01"]))
    losses = [float(task.step(batch, 1)["loss/pixel"]) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_added_blocks_change_nothing_at_first_and_are_learnt_and_saved(
    noise: Path, tiny_model: Path, tmp_path: Path
) -> None:
    task, (images, hole, *_) = task_and_batch(override(RECIPE, ["blocks=2"]))
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


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("filled=1.5", "filled should be less than or equal to 1"),
        ("expected=-0.5", "expected should be greater than or equal to 0"),
        ("blocks=-1", "blocks should be"),
        ("blocks=101", "blocks should be"),
        ("fill_steps=0", "steps"),
    ],
)
def test_settings_out_of_range_are_refused(setting: str, message: str) -> None:
    with pytest.raises(MaskweaveError, match=message):
        override(RECIPE, [setting])


def task_and_batch(recipe: DecoderRecipe, precision: str = "no") -> tuple[DecoderTask, Example]:
    images = torch.randint(0, 256, (8, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    images = images.to(torch.uint8)
    recipe = override(recipe, ["loss.adversarial=0"])
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    task = DecoderTask(recipe, tiny_pipeline(), images, accelerator, Course(100, 10))
    hole = draw_holes(("box",), 8, 16, 16, np.random.default_rng(0))
    return task, batch_of(images, hole)
