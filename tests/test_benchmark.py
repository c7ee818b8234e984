"""The benchmark: what it fills, what it measures, and that it goes on where it was stopped."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from maskweave.data.augment import to_unit_range
from maskweave.errors import MaskweaveError
from maskweave.evaluation import benchmark as benchmark_module
from maskweave.evaluation import examples as examples_module
from maskweave.evaluation.baselines import by_model, reconstruction
from maskweave.evaluation.benchmark import BASELINES, Benchmark, slug
from maskweave.evaluation.evaluate import Meter
from maskweave.evaluation.examples import Batch, Examples
from maskweave.images import read_image
from maskweave.masks import read_mask
from maskweave.pipeline import InpaintPipeline
from maskweave.report import sweep
from maskweave.report.results import Results, run
from maskweave.report.sweep import best_of
from tiny_benchmark import GRID, command, count_calls, model_of, quick_meter, read, write_examples

SEEDS = 2


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read five examples in three batches."""
    monkeypatch.setattr(examples_module, "BATCH", 2)


@pytest.fixture(scope="module")
def meter(torch_home: Path) -> Meter:
    return quick_meter(torch_home)


@pytest.fixture(scope="module")
def model() -> InpaintPipeline:
    return model_of(0)


@pytest.fixture(scope="module")
def saved(model: InpaintPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_examples(tmp_path_factory.mktemp("examples"))


@pytest.fixture(scope="module")
def examples(folder: Path) -> Examples:
    return read(folder)


class Whole(NamedTuple):
    """A benchmark that was never stopped."""

    directory: Path
    user_cache: Path
    results: Results
    calls: int
    """Of the pipeline."""


@pytest.fixture(scope="module")
def whole(
    model: InpaintPipeline,
    examples: Examples,
    meter: Meter,
    tmp_path_factory: pytest.TempPathFactory,
) -> Whole:
    directory = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(directory / "user-cache"))
        patch.setattr(examples_module, "BATCH", 2)
        calls = count_calls(patch, InpaintPipeline, "__call__")
        benchmark = Benchmark(model, examples, meter, directory / "out")
        results = run(benchmark, "tiny", SEEDS, GRID)
    return Whole(directory / "out", directory / "user-cache", results, calls[0])


def figures_of(results: Results) -> str:
    """Return the results without the folders, in a form where NaN equals itself."""
    found = results.as_json()
    for row in found["rows"]:
        del row["folders"]
    return json.dumps(found)


def contents(directory: Path) -> dict[str, bytes]:
    files = [file for file in directory.rglob("*") if file.is_file()]
    return {str(file.relative_to(directory)): file.read_bytes() for file in files}


def test_fills_are_those_of_inpaint(
    whole: Whole, model: InpaintPipeline, folder: Path, saved: Path, tmp_path: Path
) -> None:
    common = ("--mask", folder / "masks", "--model", saved, "--batch-size", 2, "--device", "cpu")
    found = []
    for seed in (0, 1):
        output = tmp_path / str(seed)
        result = command("inpaint", folder / "truth", "--output", output, "--seed", seed, *common)
        assert result.exit_code == 0, result.output
        [fills] = whole.directory.glob(f"fills/*-{slug(model.defaults)}-seed{seed}")
        found.append({file.name: read_image(file).pixels.tobytes() for file in fills.iterdir()})
        assert found[-1] == {
            file.name: read_image(file).pixels.tobytes() for file in output.iterdir()
        }
    assert found[0] != found[1]


def test_fills_keep_known_pixels_but_those_as_painted(whole: Whole, examples: Examples) -> None:
    assert {name.replace(" ", "-").lower() for name in BASELINES} < {
        fills.name for fills in (whole.directory / "fills").iterdir()
    }
    for fills in (whole.directory / "fills").iterdir():
        assert {file.name for file in fills.iterdir()} == {f"{s}.png" for s in examples.truth}
        same = []
        for stem, file in examples.truth.items():
            known = ~read_mask(examples.masks[stem]).hole
            filled = read_image(fills / f"{stem}.png").pixels
            same.append(np.array_equal(filled[known], read_image(file).pixels[known]))
        assert any(same) == all(same) == (not fills.name.endswith("-as-painted")), fills


def test_the_table_has_floors_baselines_limits_and_the_model(
    whole: Whole, model: InpaintPipeline
) -> None:
    names = [row.name for row in whole.results.rows]
    default, best = slug(model.defaults), slug(best_of(whole.results.trajectories))
    expected = slug(replace(model.defaults, paint="expected"))
    assert names == [
        *BASELINES, "tokenizer, true tokens", "tokenizer, true tokens, as painted",
        f"tiny, default settings ({default})", f"tiny, default settings ({default}), as painted",
        f"tiny, expected codes ({expected})", f"tiny, expected codes ({expected}), as painted",
        f"tiny, best of the sweep ({best})", f"tiny, best of the sweep ({best}), as painted",
    ]  # fmt: skip
    assert whole.results.default.name == f"tiny, default settings ({default})"
    for row in whole.results.rows:
        figures = row.evaluation.figures
        drawn = row.name.startswith("tiny") and "expected codes" not in row.name
        seeds = SEEDS if drawn else 1
        assert (row.evaluation.n, row.evaluation.runs) == (5, seeds)
        assert len(row.folders) == seeds
        assert (figures["fid"].spread is None) == (seeds == 1)
        assert (figures["known_change_max"].value > 0) == row.name.endswith("as painted")


@pytest.mark.parametrize(
    ("owner", "name", "stop_at"),
    [
        (InpaintPipeline, "__call__", 5),  # the table
        (InpaintPipeline, "__call__", 13),  # the sweep
        (InpaintPipeline, "__call__", 19),  # its best settings
        (sweep, "frechet_distance", 4),
        (benchmark_module, "write_image", 42),  # half a batch of the model
        (benchmark_module, "summarise", 3),
    ],
)
def test_stopped_and_run_again_it_finds_the_same_and_repeats_no_batch(
    whole: Whole,
    model: InpaintPipeline,
    examples: Examples,
    meter: Meter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    stop_at: int,
) -> None:
    decoded = count_calls(monkeypatch, InpaintPipeline, "__call__")
    with monkeypatch.context() as patch:
        count_calls(patch, owner, name, stop_at)
        with pytest.raises(KeyboardInterrupt):
            run(Benchmark(model, examples, meter, tmp_path / "stopped"), "tiny", SEEDS, GRID)
    again = run(Benchmark(model, examples, meter, tmp_path / "stopped"), "tiny", SEEDS, GRID)
    assert whole.calls <= decoded[0] <= whole.calls + 1  # the batch that was stopped, half written
    assert figures_of(again) == figures_of(whole.results)
    assert contents(tmp_path / "stopped" / "fills") == contents(whole.directory / "fills")


def test_a_complete_benchmark_decodes_nothing_and_asks_inception_nothing_again(
    whole: Whole,
    model: InpaintPipeline,
    examples: Examples,
    meter: Meter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(whole.directory, tmp_path / "out")
    monkeypatch.setenv("XDG_CACHE_HOME", str(whole.user_cache))
    decoded = count_calls(monkeypatch, InpaintPipeline, "__call__")
    asked = count_calls(monkeypatch, meter.inception, "forward")
    again = run(Benchmark(model, examples, meter, tmp_path / "out"), "tiny", SEEDS, GRID)
    assert decoded == asked == [0]
    assert figures_of(again) == figures_of(whole.results)


def test_a_folder_of_other_images_is_refused_and_left_alone(
    whole: Whole, model: InpaintPipeline, meter: Meter, tmp_path: Path
) -> None:
    examples = read(write_examples(tmp_path / "same"))
    Benchmark(model, examples, meter, whole.directory)  # other files with the same content
    before = contents(whole.directory)
    ways = ({"invert_mask": True}, {"threshold": 1}, {"grow": 1})
    otherwise = [replace(examples, **options) for options in ways]
    for images in (examples.subset(4), *otherwise):
        with pytest.raises(MaskweaveError, match="another version or set of images"):
            Benchmark(model, images, meter, whole.directory)
    for changed in (examples.truth["picture3"], examples.masks["picture4"]):
        pixels = np.array(Image.open(changed))
        pixels[4, 4] ^= 255
        Image.fromarray(pixels).save(changed)
        with pytest.raises(MaskweaveError, match="another version or set of images"):
            Benchmark(model, examples, meter, whole.directory)
        pixels[4, 4] ^= 255
        Image.fromarray(pixels).save(changed)
    assert contents(whole.directory) == before


def test_another_model_in_the_folder_fills_by_itself_and_leaves_the_rest(
    whole: Whole,
    examples: Examples,
    meter: Meter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(whole.directory, tmp_path / "out")
    before = contents(tmp_path / "out" / "fills")
    half = model_of(0).to("cpu", torch.bfloat16)
    shared = {f"{name.replace(' ', '-').lower()}/{stem}.png" for name in BASELINES
              for stem in examples.stems}  # fmt: skip
    for other in (model_of(1), model_of(0, heads=4), half):  # the second has the same weights
        decoded = count_calls(monkeypatch, InpaintPipeline, "__call__")
        found = run(Benchmark(other, examples, meter, tmp_path / "out"), "other", 1, GRID)
        alone = run(Benchmark(other, examples, meter, tmp_path / "alone"), "other", 1, GRID)
        assert decoded[0] > 0
        assert figures_of(found) == figures_of(alone) != figures_of(whole.results)
        ours = contents(tmp_path / "alone" / "fills")
        assert contents(tmp_path / "out" / "fills") == before | ours
        before |= ours
        assert {name for name in ours if name in shared} == shared
        shutil.rmtree(tmp_path / "alone")


@pytest.mark.parametrize("broken", ["truth", "masks", "real"])
def test_a_broken_image_does_not_lock_the_folder(
    broken: str, model: InpaintPipeline, meter: Meter, tmp_path: Path
) -> None:
    write_examples(tmp_path)
    shutil.copytree(tmp_path / "truth", tmp_path / "real")
    file = tmp_path / broken / "picture4.png"
    file.write_bytes(file.read_bytes()[:60])
    benchmark = Benchmark(model, read(tmp_path), meter, tmp_path / "out")
    with pytest.raises(MaskweaveError, match=r"picture4\.png"):
        run(benchmark, "tiny", SEEDS, GRID, tmp_path / "real")
    assert not (tmp_path / "out").exists()


def test_images_of_another_size_are_filled_but_the_tokenizer_alone_is_not_measured(
    model: InpaintPipeline, meter: Meter, tmp_path: Path
) -> None:
    examples = read(write_examples(tmp_path, (40, 48))).subset(2)
    found = run(Benchmark(model, examples, meter, tmp_path / "out"), "tiny", 1, None)
    assert not [row.name for row in found.rows if row.name.startswith("tokenizer")]
    assert found.default.name.startswith("tiny, default settings")
    assert found.default.evaluation.figures["known_change_max"].value == 0
    assert found.default.evaluation.figures["fid"].spread is None


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_keep_known_pixels_and_do_not_read_under_the_hole(
    name: str, examples: Examples, rng: np.random.Generator
) -> None:
    batch = examples.read(examples.stems)
    others = [image.copy() for image in batch.images]
    for other, hole in zip(others, batch.holes, strict=True):
        other[hole] = rng.integers(0, 256, (int(hole.sum()), 3), dtype=np.uint8)
    before = [image.copy() for image in batch.images]
    fill = BASELINES[name]
    for image, unread, true, old, hole in zip(
        fill(batch), fill(batch._replace(images=others)), batch.images, before, batch.holes,
        strict=True,
    ):  # fmt: skip
        assert image.dtype == np.uint8 and image.shape == true.shape
        assert np.array_equal(image[~hole], true[~hole])
        assert np.array_equal(image, unread)
        assert np.array_equal(true, old)  # the input itself is left alone


def test_equal_images_of_other_names_get_other_fills_whatever_is_beside_them(
    model: InpaintPipeline, examples: Examples
) -> None:
    [_], [image], [hole], _ = examples.read(examples.stems[-1:])
    batch = Batch(["one", "other"], [image, image], [hole, hole])
    fill = by_model(model, model.defaults, seed=0)
    one, other = (np.array(filled, dtype=int) for filled in fill(batch))
    assert not np.array_equal(one[hole], other[hole])
    [alone] = fill(Batch(["other"], [image], [hole]))
    assert abs(alone - other).max() <= 1
    [again] = by_model(model, model.defaults, seed=1)(Batch(["other"], [image], [hole]))
    assert not np.array_equal(again[hole], alone[hole])


def test_the_tokenizer_paints_the_true_tokens(model: InpaintPipeline, examples: Examples) -> None:
    batch = examples.read(examples.stems)
    truth = to_unit_range(torch.from_numpy(np.stack(batch.images)).permute(0, 3, 1, 2))
    hole = torch.from_numpy(np.stack(batch.holes))
    tokens = model.tokenizer.encode(truth)
    expected = model.tokenizer.decode(tokens, truth, hole).detach().permute(0, 2, 3, 1).numpy()
    painted = np.stack(reconstruction(model.tokenizer)(batch))
    np.testing.assert_allclose(painted / 127.5 - 1, expected, atol=0.51 / 127.5)
