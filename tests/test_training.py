"""Training: its parts, that both stages learn, and that the run folder is what the docs say."""

import json
from itertools import pairwise
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn

from conftest import batch_of
from maskweave.data.augment import flip_and_shift, view
from maskweave.data.sampler import Draw, StepSampler
from maskweave.maskgit import masked_loss
from maskweave.pipeline import InpaintPipeline
from maskweave.tokenizer.quantize import Codebook
from maskweave.tokenizer.vqgan import VQGAN
from maskweave.training import transformer_task
from maskweave.training.decoder_task import DecoderRecipe
from maskweave.training.loop import Course
from maskweave.training.optimiser import OptimiserConfig, adamw, averaged, set_learning_rate
from maskweave.training.overrides import override
from maskweave.training.tokenizer_task import TokenizerTask
from maskweave.training.train import train_decoder, train_tokenizer, train_transformer
from maskweave.transformer import BidirectionalTransformer
from tiny_training import RUN, TOKENIZER, TRANSFORMER, assert_same_weights, weights

pytestmark = pytest.mark.usefixtures("no_perceptual_weights")


def test_a_seed_decides_the_weights(photos: Path, tokenizer_run: Path, tmp_path: Path) -> None:
    train_tokenizer(TOKENIZER, photos, tmp_path / "again")
    assert_same_weights(
        weights(tokenizer_run, "tokenizer"), weights(tmp_path / "again", "tokenizer")
    )
    train_tokenizer(override(TOKENIZER, ["run.seed=1"]), photos, tmp_path / "other")
    other = weights(tmp_path / "other", "tokenizer")
    assert not torch.equal(
        weights(tokenizer_run, "tokenizer")["codebook.weight"], other["codebook.weight"]
    )


def test_a_transformer_run_is_a_model_that_the_pipeline_loads(
    photos: Path, tokenizer_run: Path, tmp_path: Path
) -> None:
    train_transformer(TRANSFORMER, photos, tokenizer_run / "tokenizer", tmp_path / "run")
    card = (tmp_path / "run" / "README.md").read_text()
    assert "# run\n" in card and "16x16" in card and "9 images, and 1 others" in card
    (tmp_path / "run" / "README.md").write_text("# Measured\n")
    train_transformer(TRANSFORMER, photos, tokenizer_run / "tokenizer", tmp_path / "run")
    assert (tmp_path / "run" / "README.md").read_text() == "# Measured\n"
    pipeline = InpaintPipeline.from_pretrained(tmp_path / "run")
    image = np.zeros((16, 16, 3), dtype=np.uint8)
    hole = np.zeros((16, 16), dtype=bool)
    hole[4:9] = True
    assert pipeline(image, hole, output_type="np").images[0].shape == (16, 16, 3)


def test_a_run_writes_its_recipe_logs_samples_and_the_last_checkpoints(tokenizer_run: Path) -> None:
    recipe = json.loads((tokenizer_run / "recipe.json").read_text())
    assert recipe["run"]["steps"] == 6 and recipe["loss"]["adversarial_start"] == 0.3
    assert list(tokenizer_run.glob("logs/**/events*"))
    assert sorted(p.name for p in (tokenizer_run / "samples").iterdir()) == [
        "tokenizer_00000003.png",
        "tokenizer_00000006.png",
    ]
    assert sorted(p.name for p in (tokenizer_run / "checkpoints").iterdir()) == [
        "step_00000003",
        "step_00000006",
    ]


def test_the_scalars_of_both_optimisers_are_logged(tokenizer_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = tokenizer_run.glob("logs/**/events*")
    log = EventAccumulator(str(events))
    log.Reload()
    parts = {"loss"} | {
        f"loss/{name}" for name in ("pixel", "perceptual", "codebook", "discriminator")
    }
    figures = {f"validation/{name}" for name in ("loss", "psnr_in_hole", "lpips", "codes_used")}
    others = {"adversarial_weight", "gradient_norm", "learning_rate", "codebook/perplexity"}
    speeds = {"speed/images_per_second", "speed/share_of_gemm_rate"}
    assert parts | figures | others | speeds <= set(log.Tags()["scalars"])
    assert "tokenizer" in log.Tags()["images"]


def test_the_transformer_is_shown_what_the_sampler_will_show_it_and_nothing_else(
    photos: Path, tokenizer_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = BidirectionalTransformer.forward
    calls: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def spy(
        model: BidirectionalTransformer,
        tokens: torch.Tensor,
        masked: torch.Tensor,
        known: torch.Tensor,
        condition: torch.Tensor | None = None,
    ) -> torch.Tensor:
        calls.append((tokens, masked, known))
        return forward(model, tokens, masked, known, condition)

    monkeypatch.setattr(BidirectionalTransformer, "forward", spy)
    recipe = override(TRANSFORMER, ["run.save_every=99", "run.batch_size=8"])
    train_transformer(recipe, photos, tokenizer_run / "tokenizer", tmp_path / "run")
    partly = 0
    # The first call counts operations.
    for tokens, counted, known in calls[1 : 1 + recipe.run.steps]:
        pixels, hole = known.unflatten(-1, (4, 16)).split([3, 1], dim=2)
        masked = tokens == TRANSFORMER.model.mask_token
        assert torch.equal(masked, counted)  # the loss is MaskGIT's
        assert hole.any(-1)[masked].all()  # only tokens under the hole are masked
        assert not pixels.masked_select(hole.bool()).any()  # whose pixels are not shown
        partly += int((~hole.bool().all(-1))[masked].sum())
    assert partly > 0  # but those beside it in the same patch are


def test_losses_get_the_weights_of_the_recipe(
    photos: Path, tokenizer_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, object] = {}

    def spy(logits: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        seen.update(options, tokens=len(logits))
        return masked_loss(logits, *arguments, **options)

    monkeypatch.setattr(transformer_task, "masked_loss", spy)
    recipe = override(
        TRANSFORMER,
        ["run.steps=1", "masking.unmasked_weight=0.5", "masking.label_smoothing=0.2"],
    )
    train_transformer(recipe, photos, tokenizer_run / "tokenizer", tmp_path / "run")
    assert seen == {"unmasked_weight": 0.5, "label_smoothing": 0.2, "tokens": 4 * 16}


def test_the_codebook_learns_by_its_own_loss_alone(photos: Path, tmp_path: Path) -> None:
    for weight in (0.0, 0.5):
        run = tmp_path / str(weight)
        train_tokenizer(override(TOKENIZER, [f"loss.codebook={weight}"]), photos, run)
        first, last = (
            load_file(run / f"checkpoints/step_0000000{step}/model.safetensors") for step in (3, 6)
        )
        still = torch.equal(first["codebook.weight"], last["codebook.weight"])
        assert still == (weight == 0.0)


def test_dead_codes_are_looked_for_at_every_step_but_the_last_ones(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revive = MagicMock(return_value=torch.zeros(16, dtype=torch.bool))
    monkeypatch.setattr(Codebook, "revive", revive)
    train_tokenizer(override(TOKENIZER, ["run.steps=40"]), photos, tmp_path)
    assert revive.call_count == 38
    latents, tokens, _ = revive.call_args.args
    assert (latents.shape, tokens.shape) == ((4, 16, 8), (4, 16))


def test_a_frozen_codebook_stays_where_it_began(photos: Path, tmp_path: Path) -> None:
    train_tokenizer(override(TOKENIZER, ["optimiser.frozen=codebook.weight"]), photos, tmp_path)
    torch.manual_seed(TOKENIZER.run.seed)
    first = VQGAN(TOKENIZER.model).codebook.weight
    assert torch.equal(weights(tmp_path, "tokenizer")["codebook.weight"], first)


def test_a_moved_code_has_no_past() -> None:
    recipe = override(TOKENIZER, ["loss.adversarial=0"])
    images = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8)
    task = TokenizerTask(recipe, images, Accelerator(cpu=True), Course(100, 2))
    hole = torch.zeros(8, 16, 16, dtype=torch.bool)
    hole[:, 4:9] = True
    for step in range(3):
        task.step(batch_of(images, hole), step)
    codebook, mean = task.learner.module.codebook, task.ema.module.codebook
    moments = task.learner.optimiser.state[codebook.weight]
    assert moments["exp_avg"].any(1).sum() > 3
    codebook.usage[3] = 0.0
    task.step(batch_of(images, hole), 3)
    assert codebook.usage[3] == mean.usage[3] == 1.0
    assert torch.equal(codebook.weight[3], mean.weight[3])
    assert not torch.equal(codebook.weight[4], mean.weight[4])
    for name in ("exp_avg", "exp_avg_sq"):
        assert not moments[name][3].any() and moments[name].any()


@pytest.mark.parametrize("stage", ["tokenizer", "transformer", "decoder"])
def test_all_stages_train_in_bfloat16(
    stage: str, photos: Path, tokenizer_run: Path, tiny_model: Path, tmp_path: Path
) -> None:
    half = ["run.precision=bf16"]
    if stage == "tokenizer":
        train_tokenizer(override(TOKENIZER, half), photos, tmp_path)
    elif stage == "transformer":
        tokenizer = tokenizer_run / "tokenizer"
        train_transformer(override(TRANSFORMER, half), photos, tokenizer, tmp_path)
    else:
        recipe = DecoderRecipe(loss=TOKENIZER.loss, optimiser=TOKENIZER.optimiser, run=RUN)
        train_decoder(override(recipe, half), photos, tiny_model, tmp_path)
    first, last = (
        load_file(tmp_path / f"checkpoints/step_0000000{step}/model.safetensors") for step in (3, 6)
    )
    assert all(value.dtype == torch.float32 for value in last.values())
    assert all(value.isfinite().all() for value in last.values())
    assert any(not torch.equal(first[name], last[name]) for name in last)


def test_averaged_weights_are_exported(tokenizer_run: Path) -> None:
    trained = load_file(tokenizer_run / "checkpoints/step_00000006/model.safetensors")
    exported = weights(tokenizer_run, "tokenizer")
    assert trained.keys() == exported.keys()
    difference = (trained["decoder.stem.weight"] - exported["decoder.stem.weight"]).abs().max()
    assert 0 < difference < 0.01


def test_the_numbers_of_codes_and_tokens_and_the_patch_are_the_tokenizers(
    photos: Path, tokenizer_run: Path, tmp_path: Path
) -> None:
    wrong = ["model.codebook_size=32", "model.grid=3,3", "run.steps=1"]
    for patch, expected in ((0, 0), (2, 4)):
        recipe = override(TRANSFORMER, [*wrong, f"model.patch_size={patch}"])
        train_transformer(recipe, photos, tokenizer_run / "tokenizer", tmp_path / str(patch))
        config = InpaintPipeline.from_pretrained(tmp_path / str(patch)).transformer.config
        assert (config.codebook_size, config.length, config.patch_size) == (16, 16, expected)


def test_paths_may_be_text(photos: Path, tmp_path: Path) -> None:
    recipe = override(TOKENIZER, ["run.steps=1"])
    train_tokenizer(recipe, str(photos), str(tmp_path / "run"), cache=str(tmp_path / "cache"))
    assert (tmp_path / "run" / "tokenizer" / "config.json").exists()
    assert list((tmp_path / "cache").glob("images-*"))


def test_a_sampler_started_later_continues_where_it_would_have_been() -> None:
    whole, late = StepSampler(10, 3, seed=1), StepSampler(10, 3, seed=1, first_step=4)
    batches = [batch for batch, _ in zip(whole, range(9), strict=False)]
    assert [batch for batch, _ in zip(late, range(5), strict=False)] == batches[4:]
    order = [[draw.image for draw in batch] for batch in batches]
    assert len({image for batch in order[:3] for image in batch}) == 9  # no repetition in an epoch
    assert order[:3] != order[3:6]
    seeds = [draw.seed for batch in batches for draw in batch]
    assert len(set(seeds)) == len(seeds)
    assert batches[4][1] == Draw(order[4][1], (1, 4, 1))


def test_flip_and_shift_moves_whole_images() -> None:
    ramp = np.broadcast_to(np.arange(8, dtype=np.uint8), (3, 8, 8))
    rng = np.random.default_rng(0)
    moved = [flip_and_shift(ramp, 0, rng) for _ in range(200)]
    flipped = [np.array_equal(image, ramp[:, :, ::-1]) for image in moved]
    assert all(f or np.array_equal(image, ramp) for f, image in zip(flipped, moved, strict=True))
    assert 0.35 < np.mean(flipped) < 0.65
    shifted = np.stack([flip_and_shift(ramp, 2, rng) for _ in range(200)])
    straight = shifted[shifted[:, 0, 0, 3] < shifted[:, 0, 0, 4]]
    assert {*straight[:, 0, 0, 3].tolist()} == {1, 2, 3, 4, 5}


def test_views_are_fixed_and_the_first_is_the_image_itself() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    assert np.array_equal(view(image, 7, 0, 3), image)
    versions = [view(image, 7, number, 3) for number in range(6)]
    assert all(np.array_equal(view(image, 7, n, 3), v) for n, v in enumerate(versions))
    assert len({v.tobytes() for v in versions}) > 4
    assert any(not np.array_equal(view(image, 8, n, 3), v) for n, v in enumerate(versions))


def test_only_linear_and_convolution_weights_decay() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.Linear(4, 4), nn.Embedding(5, 4)
    )
    decayed, rest = adamw(model, OptimiserConfig(weight_decay=0.1)).param_groups
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[2].weight)}
    assert decayed["weight_decay"] == 0.1 and rest["weight_decay"] == 0.0
    assert len(decayed["params"]) + len(rest["params"]) == len(list(model.parameters()))


def test_the_learning_rate_rises_stays_and_falls() -> None:
    config = OptimiserConfig(learning_rate=1.0, warmup=10, decay=0.5)
    optimiser = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1.0)
    rates = [
        set_learning_rate(optimiser, config, step, Course(100, epoch=9)) for step in range(100)
    ]
    assert rates[0] == pytest.approx(0.1) and rates[9:51] == [1.0] * 42
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[50:]))
    assert 0 < rates[-1] < 0.05 and optimiser.param_groups[0]["lr"] == rates[-1]


def test_averaged_weights_follow_and_then_smooth() -> None:
    model = nn.Linear(1, 1)
    mean = averaged(model, 0.9, Accelerator(cpu=True))
    values = []
    for step in range(200):
        nn.init.constant_(model.weight, float(step % 2))
        mean.update_parameters(model)
        values.append(mean.module.weight.item())
    assert all(abs(value - 0.5) < 0.06 for value in values[100:])


def test_overrides_are_typed() -> None:
    changed = override(
        TOKENIZER,
        ["run.steps=9", "optimiser.betas=0.8,0.9", "examples.holes=box", "model.channels=8,8,8"],
    )
    assert changed.run.steps == 9
    assert changed.optimiser.betas == (0.8, 0.9)
    assert changed.examples.holes == ("box",)
    assert override(TRANSFORMER, ["model.pre_norm=true"]).model.pre_norm is True
    for together in (
        ["model.patch_size=8", "model.channels=8,8,8,8"],
        ["model.dim=6", "model.heads=3"],
    ):
        recipe = TOKENIZER if "patch" in together[0] else TRANSFORMER
        assert override(recipe, together) == override(recipe, together[::-1])
    assert TOKENIZER.run.steps == 6
