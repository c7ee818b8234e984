"""What the report of a benchmark shows: its table, its curves and its pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version

import numpy as np
from jaxtyping import Float

from maskweave.evaluation.baselines import by_model, pasted
from maskweave.evaluation.benchmark import BIHARMONIC, Benchmark, Row, slug
from maskweave.evaluation.examples import Batch, read_rgb
from maskweave.images import covered
from maskweave.maskgit import DecodeSettings
from maskweave.report.decoding import decoded, kept_when, model_size, takes_tokens, token_grid
from maskweave.report.markdown import plain, table_text
from maskweave.report.page import Section, write_report
from maskweave.report.pictures import (
    confidence_map,
    curves,
    decoding_panel,
    fills,
    losses,
    sheet,
)
from maskweave.report.results import Results
from maskweave.report.sweep import SWEPT, Trajectory
from maskweave.report.tables import COLUMNS, Table, methods_table, share_table

SHOWN = 6
"""Rows of a sheet, and fills of one hole."""

Losses = Mapping[str, Mapping[str, Float[np.ndarray, "points 2"]]]
"""Training curves, as ``pictures.losses`` draws them."""


def write_benchmark_report(
    benchmark: Benchmark, results: Results, model: str, training: Losses
) -> None:
    """Write the report of a benchmark that has run to ``report/`` in its folder.

    Parameters
    ----------
    benchmark : Benchmark
        The benchmark, whose pipeline fills a few more holes for pictures of single steps.
    results : Results
        What it found.
    model : str
        Name of the model.
    training : mapping
        Losses of training runs by their names; may be empty.
    """
    ours = results.default
    order = np.argsort(ours.lpips, kind="stable")
    stems = np.array(benchmark.examples.stems)[order]
    median = model_size(benchmark, str(stems[len(stems) // 2]))
    swept, tokens = results.trajectories, takes_tokens(benchmark.pipeline, median)
    sections = [
        _table_section(benchmark, results),
        _share_section(ours),
        *([_sweep_section(swept)] if swept else []),
        *([_panel_section(benchmark, swept, median)] if tokens else []),
        _sheet_section(benchmark, results, stems),
        _fills_section(benchmark, median),
        *([_confidence_section(benchmark, median)] if tokens else []),
        *([_training_section(training)] if training else []),
    ]
    write_report(benchmark.directory / "report", f"Benchmark of {model}", sections)


def _table_section(benchmark: Benchmark, results: Results) -> Section:
    identity, rows = benchmark.identity, results.rows
    parts = ['Known pixels are kept, but where a line says "as painted".']
    if benchmark.meter.inception:
        parts.append("""± is the 95 % interval over the seeds for FID and KID of the model (the
        deviation over subsets for a KID of one set), and over the images for all else. Compare FID
        at equal n, masks and resize only.""")
    else:
        parts.append("± is the 95 % interval over the images. FID and KID were not measured.")
    if results.trajectories:
        parts.append("""The best settings of the sweep were chosen on these images: their line
        flatters.""")
    made = f"""SHA-256 of the model {benchmark.model_hash[:8]}, of the examples
    {identity["examples"][:8]}; {benchmark.pipeline.dtype}, maskweave {identity["maskweave"]}, torch
    {version("torch")}."""
    evaluation = results.default.evaluation
    sources = [f"{COLUMNS[name]}: {f.source}" for name, f in evaluation.figures.items()]
    blocks = [
        plain(f"{len(benchmark.examples)} images. {' '.join(parts)}"),
        *map(plain, evaluation.notes),
        plain(made),
        table_text(methods_table([(row.name, row.evaluation) for row in rows])),
        "\n".join(f"- {plain(source)}" for source in sources),
    ]
    return Section("Figures", "\n\n".join(blocks))


def _share_section(row: Row) -> Section:
    text = plain(f"""
    {row.name}: means over the images whose hole covers so much of them; of the greatest changes
    the greatest.
    """)
    return Section("By size of the hole", f"{text}\n\n{table_text(share_table(row.evaluation))}")


def _sweep_section(trajectories: Sequence[Trajectory]) -> Section:
    merit = trajectories[0].merit
    name = COLUMNS[merit]
    groups: dict[str, dict[str, Trajectory]] = {}
    for each in trajectories:
        settings = each.settings
        group = slug(settings).removeprefix(settings.schedule)
        groups.setdefault(group, {})[settings.schedule] = each
    pictures = []
    for group, by_schedule in groups.items():
        schedule, best = min(by_schedule.items(), key=lambda pair: pair[1].best()[1])
        values = {one: each.figures[merit] for one, each in by_schedule.items()}
        drawn = curves(values, name, (schedule, best.best()[0]))
        pictures.append((f"{merit}{group}", drawn))
    shown = [merit, *(figure for figure in SWEPT if figure != merit)]
    cells = []
    for each in trajectories:
        t, _ = each.best()
        means = [each.figures[figure][:, t - 1].mean() for figure in shown]
        cells.append((slug(each.settings), str(t), *(f"{mean:.4g}" for mean in means)))
    n, seeds = trajectories[0].n, trajectories[0].seeds
    text = plain(f"""
    {name} after the first t of T steps, mean and range of {seeds} seed{"s" * (seeds > 1)}, over {n}
    images; do not compare with the table of figures. The best t of each combination:
    """)
    table = Table(("settings", "t", *(COLUMNS[figure] for figure in shown)), tuple(cells))
    return Section(f"{name} against t", f"{text}\n\n{table_text(table)}", tuple(pictures))


def _panel_section(
    benchmark: Benchmark, trajectories: Sequence[Trajectory], example: Batch
) -> Section:
    """Draw the decoding of one image, for each schedule with its first settings in the sweep.

    Without a sweep it is that of the default settings.
    """
    [stem], [image], [hole], _ = example
    default = replace(benchmark.pipeline.defaults, paint="sampled")
    by_schedule: dict[str, DecodeSettings] = {}
    for settings in [each.settings for each in trajectories] or [default]:
        by_schedule.setdefault(settings.schedule, settings)
    panels = []
    for schedule, settings in by_schedule.items():
        steps, pictures = decoded(benchmark.pipeline, example, settings)
        grids = [token_grid(benchmark.pipeline, step.masked) for step in steps]
        grids += [grids[-1]] * (len(pictures) - len(grids))  # decoding ends when nothing is masked
        pairs = list(zip(pictures, grids, strict=True))
        masked = token_grid(benchmark.pipeline, hole)
        panel = decoding_panel(image, hole, masked, pairs, slug(settings))
        panels.append((f"decoding-{schedule}", panel))
    text = plain(f"""
    {stem}, seed 0. Above, the tokens: known, kept so far, and masked for the next step. Below, the
    image with all tokens as predicted after the step: the result if decoding stopped there.
    """)
    return Section("Iterative decoding", text, tuple(panels))


def _sheet_section(benchmark: Benchmark, results: Results, stems: np.ndarray) -> Section:
    """Draw random, median and worst cases; ``stems`` are sorted by rising LPIPS."""
    row = results.default
    classical = next(one for one in results.rows if one.name == BIHARMONIC)
    lpips = dict(zip(stems, np.sort(row.lpips), strict=True))
    middle = max(0, len(stems) // 2 - SHOWN // 2)
    chosen = {
        "random": np.random.default_rng(0).permutation(stems)[:SHOWN],
        "median": stems[middle : middle + SHOWN],
        "worst": stems[::-1][:SHOWN],
    }
    sheets = []
    for name, cases in chosen.items():
        batch = benchmark.examples.read([str(stem) for stem in cases])
        rows = [
            {
                "hole": covered(image, hole),
                "result": read_rgb(benchmark.directory / row.folders[0] / f"{stem}.png"),
                "truth": image,
                "biharmonic": read_rgb(benchmark.directory / classical.folders[0] / f"{stem}.png"),
            }
            for stem, image, hole in zip(*batch[:3], strict=True)
        ]
        captions = [f"{stem} mean LPIPS {lpips[stem]:.3f}" for stem in cases]
        sheets.append((f"fills-{name}", sheet(rows, captions)))
    text = plain(f"""
    {row.name}, seed 0: random images, those around the median of LPIPS and the worst ones. LPIPS
    is the mean over all seeds.
    """)
    return Section("Fills", text, tuple(sheets))


def _fills_section(benchmark: Benchmark, example: Batch) -> Section:
    [stem], [image], [hole], _ = example
    settings = replace(benchmark.pipeline.defaults, paint="sampled")
    samples = [
        pasted(by_model(benchmark.pipeline, settings, seed)(example)[0], image, hole)
        for seed in range(SHOWN)
    ]
    picture = fills(covered(image, hole), samples, image)
    text = plain(f"{stem}, default settings, seeds 0 to {SHOWN - 1}.")
    return Section("Different fills of one hole", text, (("different-fills", picture),))


def _confidence_section(benchmark: Benchmark, example: Batch) -> Section:
    [stem], _, [hole], _ = example
    settings = replace(
        benchmark.pipeline.defaults, temperature=0.0, order="confidence", paint="sampled"
    )
    steps, pictures = decoded(benchmark.pipeline, example, settings)
    probability, when = kept_when(steps, token_grid(benchmark.pipeline, hole))
    text = plain(f"""
    {stem}, default settings with temperature 0, so that no noise is in the order: the probability
    that the transformer gave each token when it was kept.
    """)
    picture = confidence_map(pictures[-1], probability, when)
    return Section("Confidence of each token", text, (("confidence", picture),))


def _training_section(training: Losses) -> Section:
    text = "From the runs' TensorBoard logs; noisy curves are pale behind their running mean."
    return Section("Training", plain(text), (("losses", losses(training)),))
