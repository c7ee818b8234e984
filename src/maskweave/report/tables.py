"""Figures as tables of text, for the terminal and for the report."""

from collections.abc import Collection, Sequence
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
    "lattice": "lattice",
    "boundary_error": "boundary error",
    "known_change_mean": "known pixels, mean change",
    "known_change_max": "known pixels, greatest change",
}
"""Figures and their names in tables."""

LOW, HIGH = ("fid", "lpips"), ("psnr_hole", "psnr", "ssim_hole", "ssim")
"""Figures that should be low, and others that should be high."""


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


def compared_table(
    rows: Sequence[tuple[str, Evaluation]],
    ours: Collection[str],
    rivals: Collection[str],
    names: Sequence[str],
) -> Table:
    """Return ``methods_table`` with our figures beside the best of some rivals, in brackets.

    Of figures that should be low our share of the best is told, of others our lead.
    """
    table = methods_table(rows, names)
    best = [evaluation for method, evaluation in rows if method in rivals]
    cells = [
        (
            *row[:2],
            *(
                cell + (_relation(title, evaluation, best) if method in ours else "")
                for title, cell in zip(table.head[2:], row[2:], strict=True)
            ),
        )
        for row, (method, evaluation) in zip(table.rows, rows, strict=True)
    ]
    return Table(table.head, tuple(cells))


def beside_best(name: str, evaluation: Evaluation, rivals: Sequence[Evaluation]) -> float | None:
    """Return our share of the least figure of some rivals, or our lead over the greatest.

    There is none of figures that should be neither low nor high, or that somebody lacks.
    """
    values = [each.figures[name].value for each in rivals if name in each.figures]
    if not values or name not in evaluation.figures:
        return None
    own = evaluation.figures[name].value
    if name in LOW and min(values) > 0:
        return own / min(values)
    return own - max(values) if name in HIGH else None


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


def _relation(title: str, evaluation: Evaluation, rivals: Sequence[Evaluation]) -> str:
    """Return what ``beside_best`` says, in brackets."""
    [name] = [name for name, column in COLUMNS.items() if column == title]
    value = beside_best(name, evaluation, rivals)
    if value is None:
        return ""
    return f" (x{value:.2f})" if name in LOW else f" ({value:+.3g})"


def _cell(evaluation: Evaluation, name: str) -> str:
    if name not in evaluation.figures:
        return ""
    figure = evaluation.figures[name]
    return f"{figure.value:.4g}" + (f" ± {figure.spread:.2g}" if figure.spread else "")
