"""What the report of a benchmark shows: its table, its curves and its pictures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float

from maskweave.evaluation.baselines import by_model, pasted
from maskweave.evaluation.benchmark import BIHARMONIC, Benchmark, Results, Row
from maskweave.evaluation.examples import read_rgb
from maskweave.evaluation.pictures import (
    confidence_map,
    curves,
    decoding_panel,
    fills,
    losses,
    sheet,
)
from maskweave.evaluation.report import Section, write_report
from maskweave.evaluation.sweep import SWEPT, Trajectory, slug
from maskweave.evaluation.tables import COLUMNS, Table, methods_table, share_table
from maskweave.holes import token_mask
from maskweave.images import Hole, Pixels, covered
from maskweave.maskgit import DecodeSettings, Step
from maskweave.pipeline import InpaintPipeline

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
        With the pipeline, which fills a few more holes for pictures of single steps.
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
    median = str(stems[len(stems) // 2])
    sections = [
        _table_section(benchmark, results.rows),
        _share_section(ours),
        _sweep_section(results.trajectories),
        _panel_section(benchmark, results.trajectories, median),
        _sheet_section(benchmark, results, stems),
        _fills_section(benchmark, median),
        _confidence_section(benchmark, median),
        _training_section(training),
    ]
    write_report(benchmark.directory / "report", f"Benchmark of {model}", sections)


def _table_section(benchmark: Benchmark, rows: Sequence[Row]) -> Section:
    identity = benchmark.identity
    text = _prose(f"""
    {len(benchmark.examples)} images. Known pixels are kept, but where a line says "as painted".
    ± is the 95 % interval over the seeds for FID and KID of the model (the deviation over subsets
    for a KID of one set), and over the images for all else. Compare FID at equal n, masks and
    resize only. The best settings of the sweep were chosen on these images: their line flatters.
    """)
    text += "\n\n" + _prose(f"""
    SHA-256 of the model {identity["model"][:8]}, of the examples {identity["examples"][:8]};
    {identity["dtype"]}, maskweave {identity["maskweave"]}, torch {version("torch")}.
    """)
    figures = rows[-1].evaluation.figures
    sources = tuple(f"{COLUMNS[name]}: {figure.source}" for name, figure in figures.items())
    table = methods_table([(row.name, row.evaluation) for row in rows])
    return Section("Figures", text, table=table, items=sources)


def _share_section(row: Row) -> Section:
    text = _prose(f"""
    {row.name}: means over the images whose hole covers so much of them; of the greatest changes
    the greatest.
    """)
    return Section("By size of the hole", text, table=share_table(row.evaluation))


def _sweep_section(trajectories: Sequence[Trajectory]) -> Section:
    groups: dict[str, dict[str, Trajectory]] = {}
    for each in trajectories:
        settings = each.settings
        group = slug(settings).removeprefix(settings.schedule)
        groups.setdefault(group, {})[settings.schedule] = each
    pictures = []
    for group, by_schedule in groups.items():
        schedule, best = min(by_schedule.items(), key=lambda pair: pair[1].best()[1])
        values = {name: each.figures["fid"] for name, each in by_schedule.items()}
        pictures.append((f"fid{group}", curves(values, "FID", (schedule, best.best()[0]))))
    cells = []
    for each in trajectories:
        t, fid = each.best()
        others = [each.figures[name][:, t - 1].mean() for name in SWEPT]
        cells.append(
            (slug(each.settings), str(t), f"{fid:.4g}", *(f"{value:.4g}" for value in others))
        )
    n, seeds = trajectories[0].n, trajectories[0].seeds
    text = _prose(f"""
    FID after the first t of T steps, mean and range of {seeds} seed{"s" * (seeds > 1)}, over {n}
    images; do not compare with the table of figures. Below, the best t of each combination.
    """)
    head = ("settings", "t", "FID", *(COLUMNS[name] for name in SWEPT))
    return Section("FID against t", text, tuple(pictures), Table(head, tuple(cells)))


def _panel_section(benchmark: Benchmark, trajectories: Sequence[Trajectory], stem: str) -> Section:
    """Draw the decoding of one image, for each schedule with its first settings in the sweep."""
    image, hole = _example(benchmark, stem)
    by_schedule: dict[str, DecodeSettings] = {}
    for each in trajectories:
        by_schedule.setdefault(each.settings.schedule, each.settings)
    panels = []
    for schedule, settings in by_schedule.items():
        steps, pictures = _decoded(benchmark.pipeline, image, hole, settings)
        grids = [step.masked for step in steps]
        grids += [grids[-1]] * (len(pictures) - len(grids))  # decoding ends when nothing is masked
        pairs = list(zip(pictures, map(_grid, grids), strict=True))
        masked = _tokens(benchmark.pipeline, hole)
        panel = decoding_panel(image, hole, masked, pairs, slug(settings))
        panels.append((f"decoding-{schedule}", panel))
    text = _prose(f"""
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
            for stem, image, hole in zip(*batch, strict=True)
        ]
        captions = [f"{stem} mean LPIPS {lpips[stem]:.3f}" for stem in cases]
        sheets.append((f"fills-{name}", sheet(rows, captions)))
    text = _prose(f"""
    {row.name}, seed 0: random images, those around the median of LPIPS and the worst ones. LPIPS
    is the mean over all seeds.
    """)
    return Section("Fills", text, tuple(sheets))


def _fills_section(benchmark: Benchmark, stem: str) -> Section:
    image, hole = _example(benchmark, stem)
    defaults = benchmark.pipeline.defaults
    samples = [
        pasted(by_model(benchmark.pipeline, defaults, seed)([image], [hole])[0], image, hole)
        for seed in range(SHOWN)
    ]
    picture = fills(covered(image, hole), samples, image)
    text = f"{stem}, default settings, seeds 0 to {SHOWN - 1}."
    return Section("Different fills of one hole", text, (("different-fills", picture),))


def _confidence_section(benchmark: Benchmark, stem: str) -> Section:
    image, hole = _example(benchmark, stem)
    settings = replace(benchmark.pipeline.defaults, temperature=0.0, confidence="log_probability")
    steps, pictures = _decoded(benchmark.pipeline, image, hole, settings)
    before = _tokens(benchmark.pipeline, hole)
    probability = np.full(before.shape, math.nan)
    when = probability.copy()
    for step in steps:
        after = _grid(step.masked) if step is not steps[-1] else np.zeros_like(before)
        kept = before & ~after
        probability[kept] = np.exp(step.confidence[0].view(before.shape).cpu().numpy())[kept]
        when[kept] = step.number + 1
        before = after
    text = _prose(f"""
    {stem}, default settings with temperature 0, so that no noise is in the confidence: the
    probability that the transformer gave each token when it was kept.
    """)
    picture = confidence_map(pictures[-1], probability, when)
    return Section("Confidence of each token", text, (("confidence", picture),))


def _training_section(training: Losses) -> Section:
    if not training:
        return Section("Training", "No training log was given (--logs RUN).")
    text = "From the runs' TensorBoard logs; noisy curves are pale behind their running mean."
    return Section("Training", text, (("losses", losses(training)),))


def _prose(text: str) -> str:
    """Return one paragraph without the line breaks of its source."""
    return " ".join(text.split())


def _decoded(
    pipeline: InpaintPipeline, image: Pixels, hole: Hole, settings: DecodeSettings
) -> tuple[list[Step], list[Pixels]]:
    """Fill one image with seed 0; return every step and every picture."""
    steps: list[Step] = []
    [pictures] = (
        pipeline(
            image,
            hole,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
            output_steps=True,
            callback_on_step_end=lambda _pipeline, _number, step: steps.append(step),
            **asdict(settings),
        ).steps
        or []
    )
    return steps, [picture.image for picture in pictures]


def _example(benchmark: Benchmark, stem: str) -> tuple[Pixels, Hole]:
    """Return an image and its hole at the model's size, where tokens are squares of it."""
    size = benchmark.pipeline.tokenizer.config.image_size
    [_], [image], [hole] = benchmark.examples.read([stem])
    if hole.shape == (size, size):
        return image, hole
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    covered_share = cv2.resize(hole.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    return image, covered_share > 0


def _tokens(pipeline: InpaintPipeline, hole: Hole) -> Bool[np.ndarray, "grid grid"]:
    return _grid(token_mask(torch.from_numpy(hole)[None], pipeline.tokenizer.patch_size))


def _grid(masked: Bool[torch.Tensor, "1 length"]) -> Bool[np.ndarray, "grid grid"]:
    side = math.isqrt(masked.shape[1])
    return masked.view(side, side).cpu().numpy()
