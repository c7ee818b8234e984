"""Training: resuming is exact, both stages learn, and the run folder is what the docs say."""

import io
import json
import shutil
import tarfile
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from conftest import batch_of
from maskweave.cli.main import app
from maskweave.data.augment import flip_and_shift, view
from maskweave.data.sampler import Draw, StepSampler
from maskweave.errors import MaskweaveError
from maskweave.maskgit import masked_loss
from maskweave.pipeline import InpaintPipeline
from maskweave.tokenizer.quantize import Codebook
from maskweave.tokenizer.vqgan import VQGAN, TokenizerConfig
from maskweave.training import painting, transformer_task
from maskweave.training.decoder_task import DecoderRecipe
from maskweave.training.examples import ExamplesConfig
from maskweave.training.loop import Course, RunConfig
from maskweave.training.optimiser import OptimiserConfig, adamw, averaged, set_learning_rate
from maskweave.training.overrides import override, pick
from maskweave.training.painting import PaintingLoss
from maskweave.training.tokenizer_task import TokenizerRecipe, TokenizerTask
from maskweave.training.train import train_decoder, train_tokenizer, train_transformer
from maskweave.training.transformer_task import MaskingConfig, TransformerRecipe
from maskweave.transformer import BidirectionalTransformer, TransformerConfig

RUN = RunConfig(steps=6, batch_size=4, precision="no", log_every=2, save_every=3)
TOKENIZER = TokenizerRecipe(
    model=TokenizerConfig(
        image_size=16, codebook_size=16, encoder_dim=16, channels=(8, 8, 16), decoder_blocks=1
    ),
    examples=ExamplesConfig(shift=1),
    loss=PaintingLoss(adversarial_start=0.3),
    optimiser=OptimiserConfig(warmup=2),
    run=RUN,
)
TRANSFORMER = TransformerRecipe(
    model=TransformerConfig(
        codebook_size=16,
        grid=(4, 4),
        dim=16,
        depth=1,
        heads=2,
        mlp_dim=16,
        dropout=0.1,
        patch_size=4,
    ),
    examples=ExamplesConfig(shift=1),
    optimiser=OptimiserConfig(warmup=2),
    run=RUN,
)


class PixelDistance(nn.Module):
    """Stands in for LPIPS, whose weights a test machine need not have."""

    def forward(self, painted: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return (painted - images).square().mean((1, 2, 3), keepdim=True)


@pytest.fixture(autouse=True)
def no_perceptual_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(painting, "perceptual_loss", PixelDistance)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(10):
        pixels = rng.integers(0, 256, size=(16, 16 + i, 3), dtype=np.uint8)
        (folder / str(i % 2)).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / str(i % 2) / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def tokenizer_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "tokenizer"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(painting, "perceptual_loss", PixelDistance)
        train_tokenizer(TOKENIZER, photos, output)
    return output


def weights(run: Path, component: str) -> dict[str, torch.Tensor]:
    return load_file(run / component / "model.safetensors")


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def stop_at_half(run: Path, half: Path) -> None:
    """Copy a run as it was when its first checkpoint had just been written."""
    shutil.copytree(run, half)
    shutil.rmtree(half / "checkpoints" / "step_00000006")


def test_a_resumed_tokenizer_run_ends_in_the_same_weights(
    photos: Path, tokenizer_run: Path, tmp_path: Path
) -> None:
    stop_at_half(tokenizer_run, tmp_path / "half")
    (tmp_path / "half" / "tokenizer" / "model.safetensors").unlink()
    train_tokenizer(TOKENIZER, photos, tmp_path / "half")
    assert_same_weights(
        weights(tokenizer_run, "tokenizer"), weights(tmp_path / "half", "tokenizer")
    )


def test_a_resumed_transformer_run_ends_in_the_same_weights(
    photos: Path, tokenizer_run: Path, tmp_path: Path
) -> None:
    tokenizer = tokenizer_run / "tokenizer"
    train_transformer(TRANSFORMER, photos, tokenizer, tmp_path / "whole")
    stop_at_half(tmp_path / "whole", tmp_path / "half")
    (tmp_path / "half" / "transformer" / "model.safetensors").unlink()
    train_transformer(TRANSFORMER, photos, tokenizer, tmp_path / "half")
    assert_same_weights(
        weights(tmp_path / "whole", "transformer"), weights(tmp_path / "half", "transformer")
    )


def test_a_run_killed_while_it_writes_its_last_checkpoint_ends_in_the_same_weights(
    photos: Path, tokenizer_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Accelerator.save_state

    def killed(accelerator: Accelerator, folder: str) -> None:
        write(accelerator, folder)
        if (tmp_path / "run/checkpoints/step_00000003").exists():
            (Path(folder) / "model.safetensors").write_bytes(b"half of it")
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Accelerator, "save_state", killed)
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer(TOKENIZER, photos, tmp_path / "run")
    found = {path.name for path in (tmp_path / "run/checkpoints").iterdir()}
    assert found == {"step_00000000", "step_00000003", "unfinished"}
    train_tokenizer(TOKENIZER, photos, tmp_path / "run")
    assert_same_weights(weights(tokenizer_run, "tokenizer"), weights(tmp_path / "run", "tokenizer"))


def test_a_finished_run_has_been_exported_when_its_checkpoint_appears(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Accelerator.save_state

    def killed(accelerator: Accelerator, folder: str) -> None:
        if (tmp_path / "checkpoints/step_00000000").exists():
            raise KeyboardInterrupt
        write(accelerator, folder)

    monkeypatch.setattr(Accelerator, "save_state", killed)
    with pytest.raises(KeyboardInterrupt):
        train_tokenizer(override(TOKENIZER, ["run.save_every=6"]), photos, tmp_path)
    assert weights(tmp_path, "tokenizer")


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


def test_a_run_of_another_recipe_is_not_continued(photos: Path, tokenizer_run: Path) -> None:
    with pytest.raises(MaskweaveError, match="another recipe"):
        train_tokenizer(override(TOKENIZER, ["run.batch_size=2"]), photos, tokenizer_run)


def test_the_field_that_differs_is_named_before_any_image_is_read(
    tokenizer_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(MaskweaveError, match=r"not the same run\.seed\)"):
        train_tokenizer(override(TOKENIZER, ["run.seed=3"]), tmp_path / "missing", tokenizer_run)


def test_a_folder_that_holds_a_model_but_no_run_is_refused(
    photos: Path, tiny_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    with pytest.raises(MaskweaveError, match="holds a model; name a new folder"):
        train_tokenizer(TOKENIZER, photos, model)


def test_a_run_among_its_own_images_is_refused(photos: Path, tmp_path: Path) -> None:
    for validation in (None, tmp_path):
        with pytest.raises(MaskweaveError, match="its pictures would join those"):
            train_tokenizer(TOKENIZER, photos, (validation or photos) / "run", validation)


def test_a_frozen_last_layer_is_refused_where_the_discriminator_needs_it(
    photos: Path, tmp_path: Path
) -> None:
    frozen = override(TOKENIZER, ["optimiser.frozen=decoder.output.weight", "run.steps=1"])
    with pytest.raises(MaskweaveError, match=r"last layer is frozen: .* loss.adversarial=0"):
        train_tokenizer(frozen, photos, tmp_path / "run")
    train_tokenizer(override(frozen, ["loss.adversarial=0"]), photos, tmp_path / "run")


def test_a_first_try_that_failed_does_not_block_the_folder(photos: Path, tmp_path: Path) -> None:
    short = override(TOKENIZER, ["run.steps=1"])
    with pytest.raises(MaskweaveError, match="no parameter 'foo'"):
        train_tokenizer(override(short, ["optimiser.frozen=foo"]), photos, tmp_path / "run")
    train_tokenizer(override(short, ["optimiser.frozen=codebook.weight"]), photos, tmp_path / "run")


def test_a_single_image_cannot_be_held_out_and_trained_on(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    shutil.copy(next(photos.rglob("*.png")), tmp_path / "one")
    with pytest.raises(MaskweaveError, match="all 1 images are held out"):
        train_tokenizer(TOKENIZER, tmp_path / "one", tmp_path / "run")


def test_shards_among_images_are_refused(photos: Path, tmp_path: Path) -> None:
    both = shutil.copytree(photos, tmp_path / "both")
    (both / "a.tar").write_bytes(b"")
    with pytest.raises(MaskweaveError, match="both shards"):
        train_tokenizer(TOKENIZER, both, tmp_path / "run")


# Later versions of Python warn of forks in processes with threads.
@pytest.mark.filterwarnings("ignore:.*fork")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_in_a_shard_is_named_in_one_line(workers: int, tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "a.tar", "w") as archive:
        for i in range(40):
            picture = io.BytesIO()
            Image.new("RGB", (16, 16), (i, i, i)).save(picture, "PNG")
            member = tarfile.TarInfo(f"{i}.png")
            content = picture.getvalue() if i % 4 else b"broken"
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    recipe = override(TOKENIZER, [f"run.workers={workers}"])
    whole = tmp_path / "whole"
    whole.mkdir()
    Image.new("RGB", (16, 16)).save(whole / "a.png")
    with pytest.raises(MaskweaveError, match=r"\A[^\n]*a\.tar: \d+\.png: [^\n]*\Z"):
        train_tokenizer(recipe, tmp_path / "tars", tmp_path / "run", whole)


def test_splits_that_are_trained_on_together_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, name in enumerate(("train", "test")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for j in range(5):
            color = (i, j, 0)
            Image.new("RGB", (16, 16), color).save(tmp_path / "data" / name / f"{j}.png")
    train_tokenizer(override(TOKENIZER, ["run.steps=1"]), tmp_path / "data", tmp_path / "run")
    assert "holds the splits train, test" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 10, "epochs": 1}, {"steps": 0, "epochs": 0}, {"steps": -4}, {"batch_size": 0},
        {"seed": -1}, {"seed": 2**63}, {"workers": -1}, {"precision": "fp8"},
    ],
)  # fmt: skip
def test_runs_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(MaskweaveError):
        RunConfig(**settings)


def test_a_warm_up_has_one_length() -> None:
    with pytest.raises(MaskweaveError, match="either steps or epochs"):
        OptimiserConfig(warmup=1, warmup_epochs=1)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_weights_of_losses_are_finite(weight: float) -> None:
    with pytest.raises(MaskweaveError, match="perceptual should be"):
        PaintingLoss(perceptual=weight)
    with pytest.raises(MaskweaveError, match="unmasked_weight should be"):
        MaskingConfig(unmasked_weight=weight)


def test_a_transformer_run_does_not_go_on_with_another_tokenizer(
    photos: Path, tokenizer_run: Path, tmp_path: Path
) -> None:
    tokenizer = shutil.copytree(tokenizer_run / "tokenizer", tmp_path / "tokenizer")
    short = override(TRANSFORMER, ["run.steps=1"])
    train_transformer(short, photos, tokenizer, tmp_path / "run")
    changed = load_file(tokenizer / "model.safetensors")
    changed["codebook.weight"] += 1
    save_file(changed, tokenizer / "model.safetensors")
    with pytest.raises(MaskweaveError, match="another recipe"):
        train_transformer(short, photos, tokenizer, tmp_path / "run")


# --- runs that start from a model's weights


def parameters(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / f"checkpoints/step_{step:08d}/model.safetensors")


def test_a_tokenizer_run_starts_from_the_weights_it_is_given_and_moves_no_code(
    photos: Path, tokenizer_run: Path, tmp_path: Path
) -> None:
    still = override(TOKENIZER, ["run.steps=1", "optimiser.learning_rate=1e-12", "run.seed=7"])
    given, run = weights(tokenizer_run, "tokenizer"), tmp_path / "run"
    train_tokenizer(still, photos, run, init=tokenizer_run / "tokenizer")
    assert_same_weights(given, parameters(run, 0))
    exported = load_file(run / "checkpoints/step_00000000/tokenizer/model.safetensors")
    assert_same_weights(given, exported)  # the averaged ones
    for name, after in weights(run, "tokenizer").items():
        if "usage" not in name:
            torch.testing.assert_close(after, given[name], atol=1e-6, rtol=0)


def test_a_transformer_run_starts_from_the_weights_it_is_given(
    photos: Path, tokenizer_run: Path, tmp_path: Path
) -> None:
    tokenizer, first = tokenizer_run / "tokenizer", tmp_path / "first"
    train_transformer(override(TRANSFORMER, ["run.steps=1"]), photos, tokenizer, first)
    run, given = tmp_path / "run", weights(first, "transformer")
    seeded = override(TRANSFORMER, ["run.seed=7", "run.save_every=6"])
    train_transformer(seeded, photos, tokenizer, run, init=first / "transformer")
    assert_same_weights(given, parameters(run, 0))
    exported = load_file(run / "checkpoints/step_00000000/transformer/model.safetensors")
    assert_same_weights(given, exported)
    assert not torch.equal(given["position_embedding"], parameters(run, 6)["position_embedding"])


@pytest.mark.parametrize("stage", ["tokenizer", "transformer"])
def test_a_run_from_given_weights_is_resumed_exactly_and_from_no_others(
    stage: str, photos: Path, tokenizer_run: Path, tmp_path: Path
) -> None:
    def train(run: Path, init: Path | None, seed: int = 0) -> None:
        settings = [f"run.seed={seed}"]
        if stage == "tokenizer":
            train_tokenizer(override(TOKENIZER, settings), photos, run, init=init)
        else:
            recipe = override(TRANSFORMER, settings)
            train_transformer(recipe, photos, tokenizer_run / "tokenizer", run, init=init)

    whole, half = tmp_path / "whole", tmp_path / "half"
    train(tmp_path / "a", None, seed=1)
    train(tmp_path / "b", None, seed=2)
    train(whole, tmp_path / "a" / stage)
    stop_at_half(whole, half)
    for other in (None, tmp_path / "b" / stage):
        with pytest.raises(MaskweaveError, match=r"another recipe .*not the same init\)"):
            train(half, other)
    train(half, tmp_path / "a" / stage)
    assert_same_weights(weights(whole, stage), weights(half, stage))
    assert "init" not in json.loads((tmp_path / "a/recipe.json").read_text())
    with pytest.raises(MaskweaveError, match=r"another recipe .*not the same init\)"):
        train(tmp_path / "a", tmp_path / "b" / stage, seed=1)


def test_weights_of_other_sizes_are_refused_in_one_line_that_says_what_would_fit(
    photos: Path, tokenizer_run: Path, tmp_path: Path
) -> None:
    wider = override(TOKENIZER, ["model.channels=8,8,24", "model.guided=true"])
    its_own = r"\A[^\n]*would with model\.channels=8,8,16, model\.guided=false\Z"
    with pytest.raises(MaskweaveError, match=its_own):
        train_tokenizer(wider, photos, tmp_path / "run", init=tokenizer_run / "tokenizer")
    tokenizer, first = tokenizer_run / "tokenizer", tmp_path / "first"
    short = override(TRANSFORMER, ["run.steps=1"])
    train_transformer(short, photos, tokenizer, first)
    deeper = override(short, ["model.depth=2"])
    with pytest.raises(MaskweaveError, match=r"would with model\.depth=1\Z"):
        train_transformer(deeper, photos, tokenizer, tmp_path / "run", init=first / "transformer")
    assert not (tmp_path / "run").exists()


def test_the_command_starts_from_the_component_of_a_model(photos: Path, tmp_path: Path) -> None:
    command = ["train", "tokenizer", "--data", str(photos), "--output", str(tmp_path / "run")]
    result = CliRunner().invoke(app, [*command, "--init", "cats64"])
    assert "cats64/tokenizer does not fit the recipe" in result.stderr
    assert "would with model.decoder_blocks=6" in result.stderr  # stage 3 added three


@pytest.mark.parametrize(
    "wrong",
    [
        "examples.holes=", "examples.holes=star", "examples.shift=16", "examples.whole=2",
        "examples.crop=2", "examples.finer=0.5", "unknown=2", "loss.perceptual=-1",
        "optimiser.learning_rate=nan", "optimiser.betas=2,3", "optimiser.warmup=-5",
        "optimiser.clip=-1", "optimiser.weight_decay=-1", "run.seed=-1", "run.precision=fp8",
        "model.codebook_size=0",
    ],
)  # fmt: skip
def test_a_recipe_out_of_range_is_refused(wrong: str) -> None:
    with pytest.raises(MaskweaveError):
        override(TOKENIZER, [wrong])


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


def test_nan_stops_the_run_and_names_the_step(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(painting, "pixel_loss", lambda painted, *_: painted.mean() * float("nan"))
    with pytest.raises(MaskweaveError, match="step 1: "):
        train_tokenizer(TOKENIZER, photos, tmp_path / "run")
    assert not (tmp_path / "run" / "tokenizer").exists()


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


def test_too_few_images_and_missing_folders_are_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(MaskweaveError, match="fewer than a batch"):
        train_tokenizer(override(TOKENIZER, ["run.batch_size=11"]), photos, tmp_path / "run")
    with pytest.raises(MaskweaveError, match="not a folder"):
        train_tokenizer(TOKENIZER, tmp_path / "missing", tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MaskweaveError, match="no image"):
        train_tokenizer(TOKENIZER, tmp_path / "empty", tmp_path / "run")
    assert not (tmp_path / "run").exists()


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


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("run.steps.x.y=1", "nothing holds a field 'x'"),
        ("run.steps.x=1", "nothing holds a field 'x'"),
        ("run.stepz=3", "no field 'stepz'; there are steps, epochs, "),
        ("steps=3", "no field 'steps'; there are model, examples, "),
        ("run=3", "'run' holds fields, not a value"),
        ("run.steps", "not of the form field=value"),
        ("run.steps=0", "either steps or epochs"),
        ("run.steps=many", "^run.steps should be a valid integer, .*, got 'many'$"),
        ("run.batch_size=0", "^run.batch_size should be greater than or equal to 1, got '0'$"),
        ("run.compile=maybe", "^run.compile should be a valid boolean"),
        ("model.channels=8,9,8", "^model.channels.1 should be a multiple of 8, got '9'$"),
    ],
)
def test_wrong_overrides_are_refused(assignment: str, message: str) -> None:
    with pytest.raises(MaskweaveError, match=message):
        override(TOKENIZER, [assignment])


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(MaskweaveError, match="small, large"):
        pick({"small": 1, "large": 2}, "medium")
