"""The pictures of the report: they show what they were given, in grey too; losses read back."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from maskweave.errors import MaskweaveError
from maskweave.images import GREY, covered
from maskweave.report.pictures import (
    DPI,
    TOKENS,
    confidence_map,
    curves,
    decoding_panel,
    fills,
    losses,
    read_scalars,
    sheet,
)


def picture(rng: np.random.Generator, height: int = 64, width: int = 64) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def rendered(figure: Figure, mode: str = "RGB") -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return np.array(Image.open(buffer).convert(mode))


def drawn(figure: Figure) -> list[np.ndarray]:
    """Return the images of a figure, in reading order."""

    def place(axes: Axes) -> tuple[float, float]:
        box = axes.get_position(original=True)  # whatever the shape of the image in it
        return -round(box.y0, 3), box.x0

    axes = sorted(figure.axes, key=place)
    return [np.asarray(image.get_array()) for a in axes for image in a.images]


def appears(small: np.ndarray, large: np.ndarray) -> bool:
    height, width = small.shape[:2]
    corners = np.argwhere((large == small[0, 0]).all(-1))
    return any(np.array_equal(large[y : y + height, x : x + width], small) for y, x in corners)


def test_covering_paints_the_hole_and_nothing_else(rng: np.random.Generator) -> None:
    image, hole = picture(rng), rng.random((64, 64)) < 0.5
    grey = covered(image, hole)
    assert (grey[hole] == GREY).all()
    assert np.array_equal(grey[~hole], image[~hole])


@pytest.mark.parametrize(("total", "columns"), [(1, 2), (4, 5), (7, 8), (15, 8), (16, 8)])
def test_a_panel_draws_every_step_in_order(
    total: int, columns: int, rng: np.random.Generator
) -> None:
    image, hole = picture(rng), np.zeros((64, 64), dtype=bool)
    hole[8:40, 8:40] = True
    masked = hole.reshape(16, 4, 16, 4).any(axis=(1, 3))
    order = rng.random((16, 16))
    steps = [(picture(rng), masked & (order < 1 - k / total)) for k in range(1, total + 1)]
    figure = decoding_panel(image, hole, masked, steps, "a $title$")
    expected: list[Any] = []
    states = [(covered(image, hole), masked), *steps]
    for first in range(0, total + 1, columns):
        block = states[first : first + columns]
        expected += [left for _, left in block] + [painted for painted, _ in block]
    found = drawn(figure)
    assert len(found) == len(expected) == 2 * (total + 1)
    for shown, given in zip(found, expected, strict=True):
        is_tokens = given.dtype == bool
        assert np.array_equal(shown == TOKENS["masked"] if is_tokens else shown, given)
        assert not is_tokens or np.array_equal(shown == TOKENS["known"], ~masked)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    shares = [f"{left.sum() / masked.sum():.0%} masked" for _, left in states]
    names = ["input", *(f"{k} / {total}" for k in range(1, total + 1))]
    assert titles == [f"{name}\n{share}" for name, share in zip(names, shares, strict=True)]


def test_a_panel_without_a_hole_is_drawn(rng: np.random.Generator) -> None:
    none, image = np.zeros((16, 16), dtype=bool), picture(rng)
    decoding_panel(image, np.zeros((64, 64), dtype=bool), none, [(image, none)], "no hole")


def test_small_images_are_enlarged_pixel_by_pixel(rng: np.random.Generator) -> None:
    image, truth = picture(rng), picture(rng)
    page = rendered(fills(image, [image], truth))
    for shown in (image, truth):
        twice = shown.repeat(2, axis=0).repeat(2, axis=1)
        # Without the rim, which the frame covers.
        assert appears(twice[8:-8, 8:-8], page)


@pytest.mark.parametrize(("number", "rows"), [(1, 1), (6, 1), (7, 2), (20, 3)])
def test_fills_stand_between_input_and_truth(
    number: int, rows: int, rng: np.random.Generator
) -> None:
    pictures = [picture(rng) for _ in range(number + 2)]
    figure = fills(pictures[0], pictures[1:-1], pictures[-1])
    assert all(map(np.array_equal, drawn(figure), pictures))
    tops = {round(axes.get_position().y1, 3) for axes in figure.axes}
    assert len(drawn(figure)) == number + 2
    assert len(tops) == rows


def test_a_sheet_names_columns_once_and_takes_any_size_and_caption(
    rng: np.random.Generator,
) -> None:
    same = {"hole": picture(rng), "truth": picture(rng, 200, 300)}
    rows = [same, same, {"other": picture(rng, 5, 9)}]
    captions = ["$broken_{tex$", "a" * 70, "plain"]
    figure = sheet(rows, captions)
    assert all(map(np.array_equal, drawn(figure), [p for row in rows for p in row.values()]))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["hole", "truth", "other"]
    assert [t.get_text().replace("\n", "") for t in figure.texts] == captions
    rendered(figure)
    left = min(axes.get_position().x0 for axes in figure.axes) * figure.get_figwidth() * DPI
    assert max(text.get_window_extent().x1 for text in figure.texts) < left
    rendered(sheet([same], [""]))


def test_curves_show_mean_range_and_best(rng: np.random.Generator) -> None:
    values = {name: rng.random((3, 15)) for name in ("linear", "cosine", "square")}
    [axes] = curves(values, "FID", best=("cosine", 4)).axes
    *lines, best = axes.lines
    for line, band, table in zip(lines, axes.collections, values.values(), strict=True):
        assert line.get_xdata().tolist() == list(range(1, 16))
        np.testing.assert_allclose(line.get_ydata(), table.mean(axis=0))
        _, corners = zip(*band.get_paths()[0].vertices, strict=True)
        assert {*table.min(axis=0), *table.max(axis=0)} == set(corners)
    assert (*best.get_xdata(), *best.get_ydata()) == (4, values["cosine"][:, 3].mean())
    assert axes.get_legend().get_title().get_text() == "mean and range of 3 seeds"


def test_curves_differ_without_colour() -> None:
    values = {f"schedule {i}": np.full((1, 5), float(i)) for i in range(6)}
    figure = curves(values, "FID")
    [axes] = figure.axes
    weights = np.array([0.299, 0.587, 0.114])
    greys = [np.array(line.get_color())[:3] @ weights for line in axes.lines]
    assert min(np.diff(greys)) > 0.05
    assert len({line.get_marker() for line in axes.lines}) == 6
    exchanged = {name: values[f"schedule {5 - i}"] for i, name in enumerate(values)}
    assert not np.array_equal(rendered(figure, "L"), rendered(curves(exchanged, "FID"), "L"))


def test_a_confidence_map_hatches_known_tokens(rng: np.random.Generator) -> None:
    known = rng.random((16, 16)) < 0.5
    probability = np.where(known, np.nan, rng.random((16, 16)))
    step = np.where(known, np.nan, rng.integers(1, 5, (16, 16)))
    figure = confidence_map(picture(rng), probability, step)
    colours = []
    for axes, values in zip(figure.axes[1:3], (probability, step), strict=True):
        [image] = axes.images
        np.testing.assert_array_equal(image.get_array().filled(np.nan), values)
        assert axes.patch.get_hatch()
        colours.append(image.to_rgba(image.get_array()))
        assert np.array_equal(colours[-1][:, :, 3] == 0, known)  # so that the hatching shows
    assert len(np.unique(colours[1][~known], axis=0)) == 4  # a colour for each step
    assert len(figure.axes) == 5  # two colour bars
    nothing = np.full((16, 16), np.nan)
    rendered(confidence_map(picture(rng), nothing, nothing))


def test_losses_smooth_training_but_not_validation(rng: np.random.Generator) -> None:
    steps = np.arange(0.0, 3000, 10)
    noisy = np.stack([steps, 5 + rng.normal(size=len(steps))], axis=1)
    few = np.array([[500.0, 4.0], [1000.0, 3.0]])
    figure = losses({name: {"loss": noisy, "validation/loss": few} for name in ("a", "$b", "c")})
    assert [axes.get_title() for axes in figure.axes] == ["a", "$b", "c"]
    for axes in figure.axes:
        raw, smooth, validation = axes.lines
        assert np.array_equal(raw.get_xydata(), noisy)
        assert smooth.get_ydata().std() < 0.5 * noisy[:, 1].std()
        assert raw.get_alpha() < 0.5 and smooth.get_zorder() >= raw.get_zorder()
        assert np.array_equal(validation.get_xydata(), few)
    rendered(figure)


def test_a_running_mean_leaves_straight_lines_alone() -> None:
    line = np.stack([np.arange(100.0), 2 * np.arange(100.0) + 1], axis=1)
    [axes] = losses({"run": {"loss": line}}).axes
    x, y = axes.lines[1].get_xydata().T
    np.testing.assert_allclose(y, 2 * x + 1)


def log(directory: Path, values: dict[str, dict[int, float]]) -> None:
    with SummaryWriter(str(directory)) as writer:
        for tag, points in values.items():
            for step, value in points.items():
                writer.add_scalar(tag, value, step)


def test_a_curve_of_one_point_has_a_marker() -> None:
    [axes] = losses({"run": {"loss": np.array([[1.0, 7.0]])}}).axes
    assert axes.lines[-1].get_markevery() == 1


def test_losses_of_a_resumed_run_are_read_back(tmp_path: Path) -> None:
    first = {step: 1 / step for step in range(10, 30_010, 10)}  # more than TensorBoard keeps
    again = {step: 2 / step for step in range(29_000, 31_010, 10)}
    folder = tmp_path / "logs" / "tensorboard"
    log(folder, {"loss": first, "learning_rate": {10: 1.0}, "validation/loss": {500: 3.0}})
    log(folder, {"loss": again})
    scalars = read_scalars(tmp_path)
    assert set(scalars) == {"loss", "validation/loss"}
    assert scalars["validation/loss"].tolist() == [[500, 3]]
    expected = np.array(sorted((first | again).items()))
    np.testing.assert_allclose(scalars["loss"], expected, rtol=1e-6)


def test_a_log_cut_off_while_being_written_is_read_up_to_there(tmp_path: Path) -> None:
    log(tmp_path, {"loss": {step: float(step) for step in range(10)}})
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    assert read_scalars(tmp_path)["loss"].tolist() == [[step, step] for step in range(9)]


def test_folders_without_losses_are_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(MaskweaveError, match="holds no TensorBoard log"):
            read_scalars(folder)
    log(tmp_path, {"learning_rate": {1: 0.1}})
    with pytest.raises(MaskweaveError, match="holds no loss"):
        read_scalars(tmp_path)
