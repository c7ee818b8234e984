"""The benchmark: what it fills, what it measures, and that it goes on where it was stopped."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from typer.testing import CliRunner, Result

from maskweave.cli.main import app
from maskweave.data.augment import to_unit_range
from maskweave.errors import MaskweaveError
from maskweave.evaluation import benchmark as benchmark_module
from maskweave.evaluation import examples as examples_module
from maskweave.evaluation.baselines import by_model, reconstruction, run_model
from maskweave.evaluation.benchmark import BASELINES, Benchmark, slug
from maskweave.evaluation.evaluate import Meter, truth_features
from maskweave.evaluation.examples import Batch, Examples, read_examples
from maskweave.evaluation.inception import Inception, frechet_distance
from maskweave.images import read_image
from maskweave.maskgit import DecodeSettings
from maskweave.masks import read_mask
from maskweave.pipeline import InpaintPipeline
from maskweave.progress import progress
from maskweave.report import sweep
from maskweave.report.results import Results, run
from maskweave.report.sweep import SWEPT, Grid, Trajectory, best_of, trajectory
from maskweave.tokenizer.vqgan import VQGAN, TokenizerConfig
from maskweave.transformer import BidirectionalTransformer, TransformerConfig

GRID = Grid(schedules=("cosine",), steps=(3,), temperatures=(0.0, 1.0), images=3)
SEEDS = 2
SIDE = 32


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read five examples in three batches."""
    monkeypatch.setattr(examples_module, "BATCH", 2)


@pytest.fixture(scope="module")
def meter(torch_home: Path) -> Meter:
    """A meter with a quick stand-in for Inception's features."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(torch_home))
        meter = Meter(Inception(64, "pytorch-fid"))
    meter.inception.forward = lambda images: (images / 255)[:, :, 8:16, 4:12].flatten(2).std(2)
    return meter


def model_of(seed: int, heads: int = 2) -> InpaintPipeline:
    """Return a model for images of the smallest size that is measured."""
    torch.manual_seed(seed)
    config = TokenizerConfig(
        image_size=SIDE, codebook_size=32, encoder_dim=16, channels=(8, 8, 16), decoder_blocks=1
    )
    transformer = BidirectionalTransformer(
        TransformerConfig(codebook_size=32, grid=(8, 8), dim=16, depth=2, heads=heads, mlp_dim=32)
    )
    for parameter in transformer.parameters():  # far from uniform predictions
        parameter.data.add_(torch.randn_like(parameter) * 0.3)
    return InpaintPipeline(VQGAN(config), transformer)


@pytest.fixture(scope="module")
def model() -> InpaintPipeline:
    return model_of(0)


@pytest.fixture(scope="module")
def saved(model: InpaintPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(folder)
    return folder


def write_examples(folder: Path, shape: tuple[int, int] = (SIDE, SIDE)) -> Path:
    """Write five images and masks with holes of their own, the first of a single pixel."""
    rng = np.random.default_rng(0)
    for name in ("truth", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(5):
        pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        hole = np.zeros(shape, dtype=np.uint8)
        hole[3 : 4 + 4 * index, 2 : 3 + 6 * index] = 255
        Image.fromarray(pixels).save(folder / "truth" / f"picture{index}.png")
        Image.fromarray(hole).save(folder / "masks" / f"picture{index}.png")
    return folder


def read(folder: Path) -> Examples:
    return read_examples(folder / "truth", folder / "masks")


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


def ignore(count: int = 1, text: str = "") -> None:
    """Advance no bar."""


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def count_calls(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, stop_at: int | None = None
) -> list[int]:
    """Count the calls of a function in the list's one element; Ctrl+C at a call if asked."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = [0]

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == stop_at:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls


def figures_of(results: Results) -> str:
    """Return the results without the folders, in a form where NaN equals itself."""
    found = results.as_json()
    for row in found["rows"]:
        del row["folders"]
    return json.dumps(found)


def contents(directory: Path) -> dict[str, bytes]:
    files = [file for file in directory.rglob("*") if file.is_file()]
    return {str(file.relative_to(directory)): file.read_bytes() for file in files}


def test_every_step_is_the_result_of_decoding_that_stops_there(
    model: InpaintPipeline, examples: Examples, meter: Meter, tmp_path: Path
) -> None:
    settings = replace(model.defaults, steps=3, stop_after=3)
    truth = truth_features(examples, meter, ignore)
    found = trajectory(model, settings, 2, examples, truth, meter, tmp_path / "cache", ignore)

    everything = examples.read(examples.stems)
    for seed in range(2):
        for t in range(1, 4):
            stopped = replace(settings, stop_after=t)
            output = run_model(model, stopped, seed, everything)
            scores = meter.score([np.array(image) for image in output.images], everything)
            expected = {name: scores.figures[name].mean() for name in SWEPT}
            expected["fid"] = frechet_distance(scores.features, truth)
            for name, value in expected.items():
                assert found.figures[name][seed, t - 1] == pytest.approx(value, rel=1e-3), name
    assert found.figures.keys() == {"fid", *SWEPT}
    assert all(values.shape == (2, 3) for values in found.figures.values())
    assert len(np.unique(found.figures["fid"])) == 6  # seeds and steps do differ


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


def test_the_command_prints_only_json_and_writes_a_report(
    saved: Path, torch_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    logs, out = tmp_path / "stage", tmp_path / "out"
    write_examples(tmp_path)
    truth, masks = tmp_path / "truth", tmp_path / "masks"
    Image.new("L", (SIDE, SIDE), "white").save(masks / "picture4.png")  # nobody is warned
    with SummaryWriter(str(logs)) as writer:
        for step in range(5):
            writer.add_scalar("loss", 1 / (step + 1), step)
    data = ("--truth", truth, "--masks", masks, "--features", 64, "--json", "--device", "cpu")
    result = command(
        "benchmark", *data, "--output", out, "--model", saved, "--steps", 3, "--seeds", 2,
        "--sweep-images", 4, "--schedule", "linear", "--schedule", "cosine",
        "--temperature", 0, "--temperature", 1, "--real", truth, "--logs", logs,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed == json.loads((out / "results.json").read_text())
    settings = [each["settings"] for each in printed["sweep"]]
    assert [(one["schedule"], one["temperature"]) for one in settings] == [
        ("linear", 0), ("linear", 1), ("cosine", 0), ("cosine", 1),
    ]  # fmt: skip
    assert {np.shape(each["fid"]) for each in printed["sweep"]} == {(2, 3)}
    assert {(each["n"], each["seeds"]) for each in printed["sweep"]} == {(4, 2)}
    assert all((out / folder).is_dir() for row in printed["rows"] for folder in row["folders"])
    real, floor, *_ = printed["rows"]
    assert (real["name"], real["figures"]["fid"]["n"]) == ("5 other real images", 5)
    assert real["figures"]["fid"]["value"] == pytest.approx(0, abs=1e-6)

    report = (out / "report" / "report.md").read_text()
    for words in ("best of the sweep", "5 other real images", "From the runs'", "over 4 images"):
        assert words in report
    pictures = {file.stem for file in (out / "report").glob("*.png")}
    assert {"losses", "decoding-linear", "decoding-cosine", "fills-worst"} < pictures
    assert (out / "report" / "index.html").exists()

    alone = command("evaluate", out / "fills" / "grey", *data)
    assert floor["name"] == "grey" and json.loads(alone.stdout)["figures"] == floor["figures"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"--schedule": "sideways"}, "unknown schedule 'sideways'"),
        ({"--steps": 0}, "steps should be greater than or equal to 1"),
        ({"--temperature": -1}, "temperature should be greater"),
        ({"--token-temperature": 1e9}, "temperature should be less"),
        ({"--seeds": 0}, "'--seeds'"),
        ({"--sweep-images": 1}, "'--sweep-images'"),
        ({"--features": 65}, "features must be one of"),
        ({"--dtype": "int8"}, "dtype is"),
        ({"--truth": "nowhere"}, "No such file"),
        ({"--masks": "nowhere"}, "No such file"),
        ({"--logs": "nowhere"}, "holds no TensorBoard log"),
        ({"--model": "nowhere"}, "unknown model"),
        ({"--real": "nowhere"}, "No such file"),
        ({"--real": "few"}, "other real images must be at least 2"),
        ({"--real": "few", "--no-fid": None}, "--real serves FID and KID alone"),
        ({"--truth": "few", "--masks": "few"}, "at least 2 images"),
    ],
)
def test_what_is_wrong_is_one_line_exit_2_and_found_before_any_work(
    folder: Path,
    saved: Path,
    torch_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, object],
    message: str,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    (tmp_path / "few").mkdir()
    Image.new("RGB", (SIDE, SIDE), "white").save(tmp_path / "few" / "one.png")
    for name, value in options.items():
        if value in ("few", "nowhere"):
            options = options | {name: tmp_path / str(value)}
    given: dict[str, object] = {
        "--truth": folder / "truth", "--masks": folder / "masks", "--output": tmp_path / "out",
        "--model": saved, "--features": 64, "--device": "cpu",
    } | options  # fmt: skip
    asked = count_calls(monkeypatch, Inception, "forward")
    arguments = [part for pair in given.items() for part in pair if part is not None]
    result = command("benchmark", *arguments)
    assert result.exit_code == 2, result.output
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ") and message in line
    assert not result.stdout
    assert asked == [0]
    assert not (tmp_path / "out").exists()


def test_a_grid_is_every_combination_on_top_of_the_defaults() -> None:
    defaults = DecodeSettings(steps=5, stop_after=2, top_k=7, order="halton", paint="expected")
    found = Grid(("linear", "cosine"), (4, 9), (0.5, 2.0), (0.0, 1.5)).settings(defaults)
    assert len(set(found)) == 16
    assert all(each.stop_after == each.steps for each in found)
    assert {(each.top_k, each.order, each.paint) for each in found} == {(7, "halton", "sampled")}
    assert {each.token_temperature for each in found} == {0.0, 1.5}


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 9},
        {"schedule": "linear"},
        {"stop_after": 3},
        {"temperature": 2.5},
        {"token_temperature": 0.25},
        {"top_k": 4},
        {"order": "random"},
        {"remask": True},
        {"entropy_bound": 0.5},
        {"paint": "expected"},
        {"context": 0.1},
        {"levels": 0},
    ],
)
def test_settings_that_differ_have_folders_that_differ(change: dict[str, Any]) -> None:
    settings = DecodeSettings()
    assert slug(replace(settings, **change)) != slug(settings)
    assert slug(replace(settings, stop_after=settings.steps)) == slug(settings)  # they are the same


def test_where_nothing_is_sampled_only_what_still_counts_is_told() -> None:
    expected = DecodeSettings(paint="expected")
    assert slug(replace(expected, steps=9, order="random", temperature=2.0)) == "expected"
    assert slug(replace(expected, context=0.1, levels=0)) == "expected-context-0.1-levels-0"


def test_the_best_of_a_sweep_has_the_lowest_mean_fid_of_all_steps() -> None:
    one, other = DecodeSettings(steps=3, stop_after=3), DecodeSettings(steps=4, stop_after=4)
    trajectories = [
        Trajectory(one, 9, {"fid": np.array([[5.0, 4.0, 9.0], [5.0, 4.0, 1.0]])}),
        Trajectory(other, 9, {"fid": np.array([[8.0, 0.5, 6.0, 8.0], [8.0, 6.5, 6.0, 8.0]])}),
    ]
    assert [each.best() for each in trajectories] == [(2, 4.0), (2, 3.5)]
    assert best_of(trajectories) == replace(other, stop_after=2)


@pytest.mark.parametrize("number", [1, 2, 3, 7, 20, 99])
def test_a_subset_is_spread_evenly(number: int) -> None:
    files = {f"{index:02d}": Path(f"{index:02d}.png") for index in range(20)}
    chosen = [int(stem) for stem in Examples(files, files).subset(number).truth]
    assert len(chosen) == min(number, 20)
    gaps = np.diff([*chosen, 20])
    assert chosen[0] == 0 and gaps.min() >= 1 and gaps.max() - gaps.min() <= 1


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


def test_without_inception_and_sweep_there_is_the_table_alone(
    saved: Path, torch_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    asked = count_calls(monkeypatch, Inception, "forward")
    write_examples(tmp_path)
    result = command(
        "benchmark", "--truth", tmp_path / "truth", "--masks", tmp_path / "masks", "--model", saved,
        "--output", tmp_path / "out", "--no-fid", "--no-sweep", "--seeds", 1, "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "FID" not in result.stdout and "expected codes" in result.stdout
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["sweep"] == [] and asked == [0]
    assert not any("fid" in row["figures"] for row in found["rows"])
    report = (tmp_path / "out" / "report" / "report.md").read_text()
    assert "FID and KID were not measured" in report and "sweep" not in report
    assert {"decoding-cosine", "confidence", "fills-worst"} < {
        file.stem for file in (tmp_path / "out" / "report").glob("*.png")
    }


def test_without_inception_the_sweep_goes_by_lpips(
    model: InpaintPipeline,
    examples: Examples,
    torch_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    found = run(Benchmark(model, examples, Meter(None), tmp_path / "out"), "tiny", 1, GRID)
    lowest = min(each.figures["lpips"].min() for each in found.trajectories)
    best = best_of(found.trajectories)
    [chosen] = [e for e in found.trajectories if e.settings == replace(best, stop_after=3)]
    assert chosen.figures["lpips"][0, best.stop_after - 1] == lowest


def test_logs_of_the_same_name_are_refused(tmp_path: Path) -> None:
    for name in ("truth", "masks"):
        (tmp_path / name).mkdir()
        for stem in "ab":
            Image.new("RGB", (32, 32), "white").save(tmp_path / name / f"{stem}.png")
    options = [f"--{name}={tmp_path / name}" for name in ("truth", "masks", "output")]
    options += [f"--logs={tmp_path / parent / 'run'}" for parent in ("one", "two")]
    result = CliRunner().invoke(app, ["benchmark", *options])
    assert result.exit_code == 2
    assert "folders of the same name" in result.stderr


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_is_on_terminals_alone_and_its_text_no_markup(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1" if terminal else "")
    with progress(1) as advance:
        advance(1, "my[/v2]cats")
    assert ("my[/v2]cats" in capsys.readouterr().err) == terminal


def test_settings_that_differ_a_little_have_folders_of_their_own() -> None:
    grid = Grid(temperatures=(1.0, 1.0000001), token_temperatures=(0.5, 0.50000001))
    settings = grid.settings(DecodeSettings())
    assert len({slug(each) for each in settings}) == len(settings)
