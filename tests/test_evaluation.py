"""Figures: known answers, agreement with the libraries, and what is told beside them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from PIL import Image

from evaluations import SHAPE, evaluate, figures, refuses
from maskweave.cli.evaluate import print_table
from maskweave.evaluation.benchmark import BASELINES
from maskweave.evaluation.evaluate import Meter, joined, summarise, truth_features
from maskweave.evaluation.examples import read_examples
from maskweave.evaluation.inception import PUBLISHED, Inception
from maskweave.evaluation.metrics import EXACT
from maskweave.report.tables import COLUMNS, Table


def ignore(count: int = 1, text: str = "") -> None:
    """Advance no bar."""


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which every call of Inception adds its number of images."""
    seen: list[int] = []
    forward = Inception.forward

    def count(self: Inception, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Inception, "forward", count)
    return seen


@pytest.mark.parametrize("features", [64, 192])
def test_against_torch_fidelity(features: int, folders: Path, weights: Path) -> None:
    theirs = torch_fidelity.calculate_metrics(
        input1=str(folders / "results"), input2=str(folders / "truth"), fid=True, kid=True,
        feature_layer_fid=str(features), feature_layer_kid=str(features), kid_subset_size=3,
        feature_extractor_weights_path=str(weights), samples_find_ext="png", cuda=False,
        save_cpu_ram=True, verbose=False, cache=False,
    )  # fmt: skip
    ours = figures(evaluate(folders, "--features", features, "--json"))
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)


def test_exact_results_have_the_best_figures_and_every_figure_its_source(
    folders: Path, weights: Path
) -> None:
    for file in (folders / "truth").iterdir():
        (folders / "results" / file.name).write_bytes(file.read_bytes())
    result = evaluate(folders, "--json")
    found = figures(result)
    assert found.keys() == COLUMNS.keys() - {"lattice"}  # the holes are too small for it
    assert (found["lpips"], found["psnr"], found["psnr_hole"]) == (0, EXACT, EXACT)
    assert found["ssim"] == found["ssim_hole"] == pytest.approx(1)
    assert found["boundary_error"] == found["known_change_mean"] == found["known_change_max"] == 0
    assert 0 <= found["fid"] < 1e-6
    assert "note: the Inception weights have SHA-256" in result.stderr
    digest = Inception(64, "torch-fidelity").sha256[:8]
    for name, figure in json.loads(result.stdout)["figures"].items():
        assert figure["n"] == 6 and figure["source"]
        assert (digest in figure["source"]) == (name in ("fid", "kid"))


def test_tables_show_every_figure(folders: Path, weights: Path) -> None:
    result = evaluate(folders)
    assert result.exit_code == 0, result.output
    for name in COLUMNS.values():
        assert (name in result.stdout) == (name != "lattice")


def test_inverted_masks_are_the_same_as_their_opposites(folders: Path, weights: Path) -> None:
    before = evaluate(folders, "--json").stdout
    for file in (folders / "masks").iterdir():
        Image.fromarray(255 - np.array(Image.open(file))).save(file)
    assert evaluate(folders, "--json", "--invert-mask").stdout == before
    assert evaluate(folders, "--json").stdout != before


def test_the_lattice_of_large_holes_is_measured(tmp_path: Path, weights: Path) -> None:
    rng = np.random.default_rng(0)
    for folder in ("results", "truth", "masks"):
        (tmp_path / folder).mkdir()
    hole = np.zeros((100, 100), dtype=np.uint8)
    hole[10:90, 10:90] = 255
    for name in ("1", "2", "3"):
        image = rng.integers(100, 140, (100, 100, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "truth" / f"{name}.png")
        Image.fromarray(hole).save(tmp_path / "masks" / f"{name}.png")
        image[::8] += 9
        image[:, ::8] += 9
        Image.fromarray(image).save(tmp_path / "results" / f"{name}.png")
    result = evaluate(tmp_path, "--json", "--no-fid")
    figure = json.loads(result.stdout)["figures"]["lattice"]
    assert figure["value"] > 2 and figure["n"] == 3
    assert figure["spread_of"] == "95 % over images, bootstrap" and figure["spread"] > 0
    (tmp_path / "results").rename(tmp_path / "grids")
    (tmp_path / "truth").rename(tmp_path / "results")
    (tmp_path / "grids").rename(tmp_path / "truth")
    assert figures(evaluate(tmp_path, "--json", "--no-fid"))["lattice"] < 1


def test_what_is_undefined_is_null(folders: Path, weights: Path) -> None:
    for file in (folders / "masks").iterdir():
        Image.new("L", SHAPE[::-1], 255).save(file)
    found = figures(evaluate(folders, "--json"))
    assert found["known_change_mean"] is None and found["boundary_error"] is None


def test_features_of_the_truth_are_computed_once_on_a_machine(
    folders: Path, weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = counted(monkeypatch)
    first = evaluate(folders, "--json")
    assert (first.exit_code, sum(seen)) == (0, 12)
    second = evaluate(folders, "--json")
    assert sum(seen) == 18  # the results alone
    assert second.stdout == first.stdout
    [file] = cache.rglob("*.safetensors")
    whole = file.read_bytes()
    for broken in (whole[: len(whole) // 2], b""):
        file.write_bytes(broken)
        seen.clear()
        assert evaluate(folders, "--json").stdout == first.stdout
        assert sum(seen) == 12
        assert file.read_bytes() == whole


def test_a_cache_of_the_truth_that_cannot_be_written_costs_only_time(
    folders: Path, weights: Path, cache: Path
) -> None:
    cache.touch()
    assert figures(evaluate(folders, "--json"))["psnr"]


def without_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide Inception's weights, and the network from which they would come; LPIPS's stay."""

    def download(url: str, file: str, digits: str) -> None:
        raise OSError("no network here")

    home = folder / "torch"
    checkpoints = home / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    for file in (Path(torch.hub.get_dir()) / "checkpoints").iterdir():
        if file.name != PUBLISHED:
            (checkpoints / file.name).symlink_to(file)
    monkeypatch.setenv("TORCH_HOME", str(home))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)


def test_without_inception_the_other_figures_are_measured_and_a_note_says_why(
    folders: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = figures(evaluate(folders, "--json"))
    without_weights(folders, monkeypatch)
    result = evaluate(folders, "--json")
    found = figures(result)
    assert found == {k: v for k, v in everything.items() if k not in ("fid", "kid")}
    [line] = result.stderr.splitlines()
    assert line.startswith("note: FID and KID are left out") and "no network here" in line


def test_no_fid_needs_no_inception_and_no_note(
    folders: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_weights(folders, monkeypatch)
    result = evaluate(folders, "--no-fid", "--json")
    assert "lpips" in figures(result) and "fid" not in figures(result)
    assert result.stderr == ""
    assert json.loads(result.stdout)["notes"] == []
    table = evaluate(folders, "--no-fid")
    assert table.exit_code == 0 and "LPIPS" in table.stdout and "FID" not in table.stdout


def test_few_images_are_told_beside_their_fid(folders: Path, weights: Path) -> None:
    [note] = json.loads(evaluate(folders, "--json").stdout)["notes"]
    assert "6 images, fewer than the 64 features" in note
    assert note in " ".join(evaluate(folders).stdout.split())


def test_as_many_images_as_features_need_no_note(meter: Meter) -> None:
    assert meter.notes(63) and not meter.notes(64)


def test_inverted_masks_are_told_of_once(folders: Path, weights: Path) -> None:
    assert json.loads(evaluate(folders, "--no-fid", "--json").stdout)["notes"] == []
    result = evaluate(folders, "--no-fid", "--invert-mask")
    [line] = [line for line in result.stdout.splitlines() if line.startswith("note: ")]
    assert line == "note: 6 of 6 images, first a: 81% of the image is hole: is the mask inverted?"


def test_masks_are_read_as_a_fill_reads_them(folders: Path, weights: Path) -> None:
    for file in (folders / "masks").iterdir():
        Image.fromarray(np.array(Image.open(file)) // 4).save(file)
    refuses(evaluate(folders, "--no-fid"), "--threshold 1 takes whatever is not black")
    for number in range(6):  # a fill whose hole was widened by two pixels
        image = np.array(Image.open(folders / "truth" / f"{'abcdef'[number]}.png"))
        image[6:22, 6:26] = 200
        Image.fromarray(image).save(folders / "results" / f"{'abcdef'[number]}.png")
    options = ("--no-fid", "--json", "--threshold", 60)
    assert figures(evaluate(folders, *options))["known_change_max"] != 0
    assert figures(evaluate(folders, *options, "--grow", 2))["known_change_max"] == 0


def test_what_there_is_to_say_of_masks_is_told_once_with_a_count(
    folders: Path, weights: Path
) -> None:
    for file in sorted((folders / "masks").iterdir())[1:]:
        soft = np.array(Image.open(file))
        soft[22:30, 6 : 20 + ord(file.stem) - ord("a")] = 100
        Image.fromarray(soft).save(file)
    exif = Image.Exif()
    exif[0x0112] = 3
    for stem in "de":
        image = Image.open(folders / "truth" / f"{stem}.png")
        image.transpose(Image.Transpose.ROTATE_180).save(image.filename, exif=exif)
    evaluation = evaluate(folders, "--no-fid", "--json")
    soft_note, turned = json.loads(evaluation.stdout)["notes"]
    assert soft_note.startswith("5 of 6 images, first b: 9.4% of the mask is neither near black")
    assert turned.startswith("2 of 6 images, first d: the image is turned by its EXIF orientation")


def test_cells_of_tables_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(Table(("method",), (("my[v2]cats",),)))
    assert "my[v2]cats" in capsys.readouterr().out


@pytest.mark.slow
def test_a_row_of_the_table_of_figures_to_beat(shared: Path, weights: Path) -> None:
    """One row of what other code measured once, since each takes minutes."""
    folder = shared / "data" / "cats64" / "test"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    examples = read_examples(folder / "truth", folder / "masks", invert_mask=True)
    meter = Meter(Inception(768, "pytorch-fid"))
    truth = truth_features(examples, meter, ignore)
    parts = [
        meter.score(BASELINES["scikit-image biharmonic"](batch), batch)
        for batch in examples.batches()
    ]
    found = summarise([joined(parts)], truth, meter).figures
    for figure, expected, digit in (
        ("fid", 0.132, 0.0005),
        ("lpips", 0.0528, 0.00005),
        ("psnr_hole", 21.34, 0.005),
        ("ssim_hole", 0.686, 0.0005),
    ):
        assert found[figure].value == pytest.approx(expected, abs=0.01 * expected + digit), figure
