"""What recipes promise: the reference to the letter, validation apart, figures that are means."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor

from conftest import batch_of
from maskweave.checkpoint import save_component
from maskweave.data.cache import cached_images
from maskweave.data.split import is_validation
from maskweave.errors import MaskweaveError
from maskweave.holes import token_mask
from maskweave.presets import TOKENIZERS, TRANSFORMERS
from maskweave.tokenizer.convolutional import ConvolutionalConfig, ConvolutionalVQGAN
from maskweave.tokenizer.vqgan import VQGAN, TokenizerConfig
from maskweave.training import loop, sets
from maskweave.training.examples import Examples, ExamplesConfig
from maskweave.training.loop import Course, RunConfig, Window, course_of
from maskweave.training.optimiser import OptimiserConfig, adamw, set_learning_rate
from maskweave.training.overrides import override
from maskweave.training.train import train_transformer
from maskweave.training.transformer_task import TransformerRecipe, TransformerTask
from maskweave.transformer import BidirectionalTransformer, TransformerConfig

RUN = RunConfig(steps=4, batch_size=4, precision="no", log_every=2, save_every=4)
SMALL = ["model.dim=16", "model.depth=2", "model.heads=2", "model.mlp_dim=16", "run.batch_size=4"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tokenizer")
    config = TokenizerConfig(
        image_size=16, codebook_size=16, encoder_dim=16, channels=(8, 8, 16), decoder_blocks=1
    )
    save_component(VQGAN(config), folder)
    return folder


def peeking_tokenizer() -> ConvolutionalVQGAN:
    torch.manual_seed(0)
    down: tuple = ("down", "attention", "down")
    up: tuple = ("up", "attention", "up")
    config = ConvolutionalConfig(
        down, (32,) * 4, up, (32,) * 4, 16, codebook_size=16, codebook_dim=8
    )
    return ConvolutionalVQGAN(config).eval()


def test_the_reference_trains_as_the_reference_experiment_does() -> None:
    recipe = TRANSFORMERS["reference"]
    model, masking, optimiser = recipe.model, recipe.masking, recipe.optimiser
    assert (model.dim, model.depth, model.heads, model.mlp_dim) == (768, 15, 16, 1536)
    assert not model.pre_norm and not model.swiglu and not model.patch_size and model.tied_output
    assert (masking.ratio, masking.independent, recipe.examples.whole) == ((0.0, 0.5), True, 1.0)
    assert (model.dropout, model.attention_dropout, model.mask_logit) == (0.1, 0.1, True)
    assert (masking.unmasked_weight, masking.label_smoothing, masking.views) == (1.0, 0.0, 1)
    assert (optimiser.learning_rate, optimiser.betas) == (5e-4, (0.9, 0.95))
    assert (optimiser.weight_decay, optimiser.clip, optimiser.ema) == (0.01, 0.0, 0.0)
    assert optimiser.frozen == ("position_embedding",) and recipe.run.precision == "no"
    assert recipe.run.batch_size == 16
    assert course_of(recipe.run, 7548) == Course(steps=100 * 471, epoch=471)


def test_the_rate_of_the_reference_rises_by_the_epoch_and_then_stays() -> None:
    config, parameter = TRANSFORMERS["reference"].optimiser, torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.AdamW([parameter])
    rates = [set_learning_rate(optimiser, config, step, Course(1000, 10)) for step in range(1000)]
    assert rates[:10] == [pytest.approx(5e-4 / 50)] * 10
    assert rates[10] == pytest.approx(2 * 5e-4 / 50)
    assert rates[489] < rates[490] == pytest.approx(5e-4) and rates[490:] == [rates[490]] * 510


def test_a_tokenizer_of_another_config_has_other_tokens(
    noise: Path, cache: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tokenizer"
    save_component(peeking_tokenizer(), folder)
    recipe = override(TransformerRecipe(run=RUN), [*SMALL, "masking.views=1", "run.steps=1"])
    train_transformer(recipe, noise, folder, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config["mean"] = [0.1, 0.5, 0.9]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(MaskweaveError, match="not the same tokenizer"):
        train_transformer(recipe, noise, folder, tmp_path / "run")
    train_transformer(recipe, noise, folder, tmp_path / "other")
    one, other = (np.load(file) for file in cache.rglob("tokens-*.npy"))
    assert not np.array_equal(one, other)


def test_frozen_parameters_keep_their_values_and_an_unknown_name_is_refused(
    noise: Path, tokenizer: Path, tmp_path: Path
) -> None:
    recipe = override(TRANSFORMERS["reference"], [*SMALL, "run.epochs=0", "run.steps=4"])
    train_transformer(recipe, noise, tokenizer, tmp_path)
    first, last = (
        load_file(tmp_path / f"checkpoints/step_0000000{step}/model.safetensors") for step in (0, 4)
    )
    same = {name for name in first if torch.equal(first[name], last[name])}
    assert same == {"position_embedding"}
    model = BidirectionalTransformer(TransformerConfig(16, (4, 4), 16, 1, 2, 16))
    with pytest.raises(MaskweaveError, match="no parameter 'positions'"):
        adamw(model, OptimiserConfig(frozen=("positions",)))


def test_without_averaging_the_trained_weights_are_exported(
    noise: Path, tokenizer: Path, tmp_path: Path
) -> None:
    recipe = override(TransformerRecipe(run=RUN), [*SMALL, "optimiser.ema=0"])
    train_transformer(recipe, noise, tokenizer, tmp_path)
    trained = load_file(tmp_path / "checkpoints/step_00000004/model.safetensors")
    exported = load_file(tmp_path / "transformer/model.safetensors")
    assert all(torch.equal(trained[name], exported[name]) for name in trained)


@pytest.mark.parametrize("preset", [p for p in TRANSFORMERS if p != "reference"])
def test_both_stages_of_a_preset_fit_each_other(preset: str) -> None:
    tokenizer, transformer = TOKENIZERS[preset].model, TRANSFORMERS[preset].model
    assert (transformer.grid, transformer.codebook_size, transformer.patch_size) == (
        VQGAN(tokenizer).grid, tokenizer.codebook_size, tokenizer.patch_size,
    )  # fmt: skip


# --- what the transformer is shown


def task_on(tokenizer: ConvolutionalVQGAN | VQGAN, settings: list[str]) -> TransformerTask:
    model = TransformerConfig(tokenizer.codebook_size, tokenizer.grid, 16, 2, 2, 16)
    recipe = override(TransformerRecipe(model=model, run=RUN), ["examples.shift=0", *settings])
    samples = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    return TransformerTask(recipe, tokenizer, samples, Accelerator(cpu=True), Course(4, 4))


@pytest.mark.parametrize("holed", [False, True])
def test_known_tokens_can_be_those_of_the_holed_image(
    holed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = peeking_tokenizer()
    task = task_on(tokenizer, [f"masking.holed_tokens={str(holed).lower()}"])
    images = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)
    hole = torch.zeros(4, 16, 16, dtype=torch.bool)
    hole[:, :6, :9] = True
    pixels = images.float() / 127.5 - 1
    clean, seen = tokenizer.encode(pixels), tokenizer.encode_known(pixels, hole)
    region = token_mask(hole, 4)
    assert not torch.equal(clean[~region], seen[~region])  # it peeks
    shown: list[Tensor] = []
    forward = BidirectionalTransformer.forward

    def spy(model: BidirectionalTransformer, tokens: Tensor, *rest: Tensor) -> Tensor:
        shown.append(tokens)
        return forward(model, tokens, *rest)

    monkeypatch.setattr(BidirectionalTransformer, "forward", spy)
    task.step(batch_of(images, hole, clean), 0)
    known = shown[0] != 16
    expected = torch.where(region, clean, seen if holed else clean)
    assert torch.equal(shown[0][known], expected[known])
    assert known[~region].all()


def test_a_patch_by_patch_encoder_makes_holed_tokens_the_cached_ones(tokenizer: Path) -> None:
    from maskweave.checkpoint import load_tokenizer

    task = task_on(load_tokenizer(tokenizer), [])  # type: ignore[arg-type]
    images = torch.rand(8, 3, 16, 16) * 2 - 1
    hole = torch.rand(8, 16, 16) < 0.05
    clean = task.tokenizer.encode(images)
    assert torch.equal(task._seen(images, clean, hole), clean)


def test_an_example_depends_on_its_draw_alone(noise: Path, tmp_path: Path) -> None:
    from maskweave.data.sampler import Draw

    images = cached_images(noise, 16, tmp_path)
    tokens = np.arange(40 * 3 * 16, dtype=np.uint16).reshape(40, 3, 16)
    examples = Examples(images, [5, 9], 16, ExamplesConfig(), tokens)
    one, again = examples[Draw(1, (0, 3, 2))], examples[Draw(1, (0, 3, 2))]
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert one.tokens[0] // 48 == 9
    views = {int(examples[Draw(0, (0, step, 0))].tokens[0] % 48 // 16) for step in range(30)}
    assert views == {0, 1, 2}


# --- what is held out


def test_a_share_is_held_out_by_the_content_of_each_file(
    noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sets, "VALIDATION_SHARE", 0.3)
    accelerator = Accelerator(cpu=True)
    found = sets.read_sets(noise, None, 16, ExamplesConfig(), tmp_path, accelerator)
    images = found.images
    expected = [i for i, digest in enumerate(images.digests) if is_validation(digest, 0.3)]
    assert 4 < len(expected) < 20
    assert found.indices == [i for i in range(40) if i not in expected]
    assert [*found.validation.numpy().reshape(len(expected), -1)[:, 0]] == [
        images[i].flat[0] for i in sorted(expected, key=images.digests.__getitem__)
    ]


def test_something_is_held_out_of_a_small_set_too_and_copies_are_warned_of(
    noise: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for i in range(3):
        (few / f"{i}.png").write_bytes((noise / f"{i}.png").read_bytes())
    accelerator = Accelerator(cpu=True)
    found = sets.read_sets(few, None, 16, ExamplesConfig(), tmp_path / "cache", accelerator)
    assert (len(found.indices), len(found.validation)) == (2, 1)
    assert "copies" not in capsys.readouterr().err
    found = sets.read_sets(noise, few, 16, ExamplesConfig(), tmp_path / "cache", accelerator)
    assert (len(found.indices), len(found.validation)) == (40, 3)
    assert "3 images" in capsys.readouterr().err


# --- figures


def test_a_window_gives_means_and_names_the_step_that_is_not_finite(tmp_path: Path) -> None:
    window = Window(10**6, RUN, Accelerator(cpu=True))
    window.add({"loss": torch.tensor(1.0), "rate": 0.5})
    window.add({"loss": torch.tensor(3.0), "rate": 0.5, "late": 7.0})
    figures = window.close(12, tmp_path)
    assert {name: figures[name] for name in ("loss", "rate", "late")} == {
        "loss": 2.0, "rate": 0.5, "late": 7.0,
    }  # fmt: skip
    assert figures["speed/images_per_second"] > 0
    window.open()
    for value in (1.0, float("nan"), float("inf"), 1.0):
        window.add({"loss": torch.tensor(value)})
    with pytest.raises(MaskweaveError, match=r"step 10: .*last good checkpoint: none"):
        window.close(12, tmp_path)


def test_validation_does_not_depend_on_how_a_run_trains(
    noise: Path, tokenizer: Path, tmp_path: Path
) -> None:
    base = override(TransformerRecipe(run=RUN), [*SMALL, "optimiser.learning_rate=1e-30"])
    losses = []
    for i, other in enumerate(["run.seed=0", "examples.whole=1", "masking.unmasked_weight=1"]):
        train_transformer(override(base, [other]), noise, tokenizer, tmp_path / str(i))
        progress = tmp_path / str(i) / "checkpoints/step_00000004/progress.json"
        losses.append(json.loads(progress.read_text())["validation_loss"])
    assert losses[0] == losses[1] == losses[2]


def test_weights_and_biases_has_to_be_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "is_wandb_available", lambda: False)
    with pytest.raises(MaskweaveError, match="wandb"):
        loop.accelerator_for(RunConfig(wandb=True, precision="no"), tmp_path)
