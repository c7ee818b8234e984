"""Figures as tables of text, for the terminal and for the report."""

from collections.abc import Sequence
from dataclasses import dataclass

from maskweave.evaluation.evaluate import Evaluation

COLUMNS = {
    "fid": "FID",
    "kid": "KID",
    "lpips": "LPIPS",
    "psnr_hole": "PSNR in hole",
    "psnr": "PSNR",
    "ssim_hole": "SSIM in hole",
    "ssim": "SSIM",
    "boundary_error": "boundary error",
    "known_change_mean": "known pixels, mean change",
    "known_change_max": "known pixels, greatest change",
}
"""Figures and their names in tables."""


@dataclass(frozen=True)
class Table:
    """Figures in rows."""

    head: tuple[str, ...]
    """Names of the columns."""
    rows: tuple[tuple[str, ...], ...]
    """Cells, in rows as long as the head."""


def methods_table(
    evaluations: Sequence[tuple[str, Evaluation]], names: Sequence[str] = (*COLUMNS,)
) -> Table:
    """Return some figures of several methods side by side, as mean ± spread.

    Figures that no method has are left out.
    """
    names = [name for name in names if any(name in each.figures for _, each in evaluations)]
    cells = [
        (method, str(evaluation.n), *(_cell(evaluation, name) for name in names))
        for method, evaluation in evaluations
    ]
    return Table(("method", "n", *(COLUMNS[name] for name in names)), tuple(cells))


def evaluation_table(evaluation: Evaluation) -> Table:
    """Return the figures of one set, each with what it was measured with."""
    cells = [
        (
            COLUMNS[name],
            f"{figure.value:.4g}",
            "" if figure.spread is None else f"{figure.spread:.2g}",
            figure.spread_of,
            str(figure.n),
            figure.source,
        )
        for name, figure in evaluation.figures.items()
    ]
    return Table(("figure", "value", "±", "of", "n", "measured with"), tuple(cells))


def share_table(evaluation: Evaluation) -> Table:
    """Return the means by the share of the image that is hole."""
    names = list(evaluation.buckets[0].means)
    cells = [
        (f"{low:.0%} to {high:.0%}", str(n), *(f"{means[name]:.4g}" for name in names))
        for low, high, n, means in evaluation.buckets
    ]
    return Table(("hole", "n", *(COLUMNS[name] for name in names)), tuple(cells))


def _cell(evaluation: Evaluation, name: str) -> str:
    if name not in evaluation.figures:
        return ""
    figure = evaluation.figures[name]
    return f"{figure.value:.4g}" + (f" ± {figure.spread:.2g}" if figure.spread else "")
