"""Several processes, and several parts of a batch, train as one process with the whole batch."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from maskweave.errors import MaskweaveError
from maskweave.holes import KINDS
from maskweave.tokenizer.vqgan import TokenizerConfig
from maskweave.training import loop
from maskweave.training.decoder_task import DecoderRecipe
from maskweave.training.examples import ExamplesConfig
from maskweave.training.loop import RunConfig, accelerator_for
from maskweave.training.optimiser import OptimiserConfig
from maskweave.training.overrides import override
from maskweave.training.painting import PaintingLoss
from maskweave.training.tokenizer_task import TokenizerRecipe
from maskweave.training.train import train_decoder, train_tokenizer, train_transformer
from maskweave.training.transformer_task import MaskingConfig, TransformerRecipe
from maskweave.training.validation import Chunk, Validation
from maskweave.transformer import TransformerConfig

RUN = RunConfig(steps=8, batch_size=8, precision="no", log_every=1, save_every=8)
TOKENIZER = TokenizerRecipe(
    model=TokenizerConfig(
        image_size=16, codebook_size=16, encoder_dim=16, channels=(8, 8, 16), decoder_blocks=1
    ),
    examples=ExamplesConfig(shift=1),
    loss=PaintingLoss(perceptual=0.0, adversarial_start=0.5),
    optimiser=OptimiserConfig(warmup=2, ema=0.9),
    run=RUN,
)
TRANSFORMER = TransformerRecipe(
    model=TransformerConfig(
        dim=16, depth=2, heads=2, mlp_dim=16, attention_dropout=0.0, patch_size=4
    ),
    examples=ExamplesConfig(shift=1, whole=0.2),
    masking=MaskingConfig(views=3, unmasked_weight=0.3),
    optimiser=OptimiserConfig(warmup=2, ema=0.9),
    run=RUN,
)
DECODER = DecoderRecipe(
    loss=TOKENIZER.loss, optimiser=TOKENIZER.optimiser, run=RUN, filled=0.5, blocks=1
)


@pytest.fixture(scope="module")
def single(noise: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages, trained by one process."""
    runs = tmp_path_factory.mktemp("single")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(runs / "cache"))
        for stage in ("tokenizer", "model", "painted"):
            train(stage, noise, runs, runs)
    return runs


def train(stage: str, noise: Path, runs: Path, single: Path, settings: Sequence[str] = ()) -> None:
    """Train a stage in ``runs``, on what ``single`` holds of the stages before."""
    if stage == "tokenizer":
        train_tokenizer(override(TOKENIZER, settings), noise, runs / stage)
    elif stage == "painted":
        train_decoder(override(DECODER, settings), noise, single / "model", runs / stage)
    else:
        tokenizer = single / "tokenizer" / "tokenizer"
        train_transformer(override(TRANSFORMER, settings), noise, tokenizer, runs / stage)


SCRIPT = """
import sys
from collections.abc import Sequence
from pathlib import Path
from test_processes import train

stage, *folders, settings = sys.argv[1:]
train(stage, *map(Path, folders), settings.split())
"""


def launch(python: str, stage: str, *folders: Path, settings: str = "") -> None:
    """Train a stage in processes of their own."""
    script = folders[1] / "script.py"
    script.write_text(SCRIPT)
    finished = subprocess.run(
        [sys.executable, *python.split(), str(script), stage, *map(str, folders), settings],
        env=os.environ
        | {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).parent),
            "ACCELERATE_USE_CPU": "true",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr


def curves(run: Path) -> dict[str, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = run.glob("logs/**/events*")
    log = EventAccumulator(str(file))
    log.Reload()
    scalars = log.Tags()["scalars"]
    return {n: [s.value for s in log.Scalars(n)] for n in scalars if not n.startswith("speed/")}


def assert_same_curves(run: Path, single: Path, tolerance: float = 1e-5) -> None:
    ours, theirs = curves(run), curves(single)
    assert ours.keys() == theirs.keys() and "validation/loss" in theirs
    # The gradient of the discriminator's last bias is 0 at first but for its rounding, of which
    # AdamW makes whole steps.
    adversarial = any("discriminator" in name for name in theirs)
    for name in theirs:
        rounded = adversarial and re.search("adversarial|discriminator|^gradient|^loss$", name)
        limit = 1e-3 if rounded else tolerance
        np.testing.assert_allclose(ours[name], theirs[name], atol=limit, rtol=limit, err_msg=name)


@pytest.mark.parametrize("stage", ["tokenizer", "model", "painted"])
def test_two_processes_train_as_one(stage: str, noise: Path, single: Path, tmp_path: Path) -> None:
    two = "-m torch.distributed.run --standalone --nproc_per_node 2"
    launch(two, stage, noise, tmp_path, single)
    # One process alone would agree as well.
    assert list(tmp_path.glob(f"{stage}/checkpoints/step_00000008/random_states_1.pkl"))
    assert_same_curves(tmp_path / stage, single / stage)


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_each_validation_image_is_seen_by_one_process_in_the_same_hole(processes: int) -> None:
    images = torch.arange(5).to(torch.uint8)[:, None, None, None].expand(5, 3, 16, 16)

    def chunks(process: int, processes: int) -> list[Chunk]:
        accelerator = SimpleNamespace(
            process_index=process, num_processes=processes, device=torch.device("cpu")
        )
        return list(Validation(images, KINDS, accelerator))  # type: ignore[arg-type]

    (whole,) = chunks(0, 1)
    shares = [chunks(process, processes) for process in range(processes)]
    assert shares[0][0].numbers.start == 0  # the main process has pictures to show
    parts = [part for share in shares for part in share]
    assert [number for part in parts for number in part.numbers] == [*range(5)]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(torch.cat([part.hole for part in parts]), whole.hole)
    seeds = [g.initial_seed() for part in parts for g in part.generators()]
    assert seeds == [*range(5)]


@pytest.mark.parametrize(("size", "at_once"), [(64, 32), (128, 8), (256, 2), (512, 1)])
def test_few_large_images_are_looked_at_together(size: int, at_once: int) -> None:
    images = torch.zeros(33, 3, size, size, dtype=torch.uint8)
    validation = Validation(images, KINDS, Accelerator(cpu=True))
    assert max(len(chunk.images) for chunk in validation) == at_once


def test_a_batch_in_parts_trains_as_a_whole(noise: Path, single: Path, tmp_path: Path) -> None:
    parts = ["run.accumulate=4"]
    whole = override(TOKENIZER, ["loss.adversarial=0"])  # whose weight each part finds for itself
    train_tokenizer(override(whole, parts), noise, tmp_path / "parts")
    train_tokenizer(whole, noise, tmp_path / "whole")
    assert_same_curves(tmp_path / "parts", tmp_path / "whole")
    tokenizer = single / "tokenizer" / "tokenizer"
    train_transformer(override(TRANSFORMER, parts), noise, tokenizer, tmp_path / "model")
    assert_same_curves(tmp_path / "model", single / "model")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_transformer_trains_as_a_plain_one(
    noise: Path, single: Path, tmp_path: Path
) -> None:
    launch("", "model", noise, tmp_path, single, settings="run.compile=true")
    assert_same_curves(tmp_path / "model", single / "model", tolerance=1e-4)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # of too few cores
def test_workers_change_nothing(noise: Path, single: Path, tmp_path: Path) -> None:
    tokenizer = single / "tokenizer" / "tokenizer"
    recipe = override(TRANSFORMER, ["run.workers=2"])
    train_transformer(recipe, noise, tokenizer, tmp_path / "model")
    ours, theirs = (
        load_file(run / "model/transformer/model.safetensors") for run in (tmp_path, single)
    )
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


def test_a_batch_that_cannot_be_shared_evenly_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MaskweaveError, match="no multiple of 1 processes times accumulate 3"):
        accelerator_for(RunConfig(batch_size=8, accumulate=3, precision="no"), tmp_path)


@pytest.mark.parametrize(("fast", "precision"), [(torch.bfloat16, "bf16"), (torch.float32, "no")])
def test_the_precision_is_what_the_cpu_is_made_for(
    fast: torch.dtype, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(loop, "fast_dtype", lambda _: fast)
    assert accelerator_for(RunConfig(), tmp_path).mixed_precision == precision
