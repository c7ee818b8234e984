"""The evaluation report: one self-contained HTML page, and the same as Markdown with PNG files."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from matplotlib.figure import Figure

from maskweave.errors import MaskweaveError
from maskweave.evaluation.pictures import DPI
from maskweave.evaluation.tables import Table
from maskweave.files import write_whole

CSS = """
:root { color-scheme: light dark; --line: #ccc; --page: #fff; --ink: #222; --link: #0645ad; }
@media (prefers-color-scheme: dark) {
  :root { --line: #444; --page: #181818; --ink: #ddd; --link: #8ab4f8; }
}
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--page); }
a { color: var(--link); }
p, li { max-width: 46rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
p { white-space: pre-line; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; }
figcaption { font-size: 0.85rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.75rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
"""


@dataclass(frozen=True)
class Section:
    """A part of the report under a heading of its own."""

    title: str
    """Plain text."""
    text: str
    """Plain text; blank lines separate paragraphs."""
    pictures: tuple[tuple[str, Figure], ...] = ()
    """Each with its name, which becomes the stem of its file."""
    table: Table | None = None
    """Stands between text and pictures."""
    items: tuple[str, ...] = ()
    """A list of plain text, between text and table."""


def write_report(directory: Path, title: str, sections: Sequence[Section]) -> None:
    """Write ``index.html``, ``report.md`` and ``NAME.png`` for every figure; replace earlier ones.

    Every file appears under its name only when whole. The HTML page embeds the pictures and needs
    no other file.

    Parameters
    ----------
    directory : Path
        Made if it is missing.
    title : str
        Of the report, in plain text.
    sections : Sequence[Section]
        In reading order.

    Raises
    ------
    MaskweaveError
        If the name of a figure is used twice or is no file name, or a file cannot be written.
    """
    figures = [pair for section in sections for pair in section.pictures]
    names = [name for name, _ in figures]
    for name in names:
        if names.count(name) > 1 or not name or re.search(r"[/\\\0]", name):
            raise MaskweaveError(f"figures need file names, each its own, not {name!r}")
    pictures = {name: _png(figure) for name, figure in figures}
    _remove_pictures(directory)
    for name, picture in pictures.items():
        write_whole(directory / f"{name}.png", picture)
    write_whole(directory / "report.md", _markdown(title, sections).encode())
    write_whole(directory / "index.html", _html(title, sections, pictures).encode())


def _remove_pictures(directory: Path) -> None:
    """Remove the pictures that an earlier report shows, as the new one may not replace them all."""
    report = directory / "report.md"
    shown = report.read_bytes() if report.is_file() else b""
    for file in directory.glob("*.png"):
        if _link(file.stem).encode() in shown:
            file.unlink()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _paragraphs(text: str) -> list[str]:
    """Split a text at its blank lines."""
    lines = "\n".join(line.strip() for line in text.splitlines())
    return [paragraph for paragraph in re.split(r"\n{2,}", lines.strip()) if paragraph]


def _html(title: str, sections: Sequence[Section], pictures: dict[str, bytes]) -> str:
    links = [f'<li><a href="#s{i}">{escape(s.title)}</a></li>' for i, s in enumerate(sections, 1)]
    parts = [_html_section(i, section, pictures) for i, section in enumerate(sections, 1)]
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>",
            f"<h1>{escape(title)}</h1>\n<nav><ol>",
            *links,
            "</ol></nav>",
            *parts,
            "</body>\n</html>\n",
        ]
    )


def _html_section(number: int, section: Section, pictures: dict[str, bytes]) -> str:
    parts = [f'<section id="s{number}">\n<h2>{escape(section.title)}</h2>']
    parts += [f"<p>{escape(paragraph)}</p>" for paragraph in _paragraphs(section.text)]
    if section.items:
        parts += ["<ul>", *(f"<li>{escape(item)}</li>" for item in section.items), "</ul>"]
    if section.table:
        rows = [_html_row("td", row) for row in section.table.rows]
        head = f"<thead>{_html_row('th', section.table.head)}</thead>"
        body = "\n".join(["<tbody>", *rows, "</tbody>"])
        parts.append(f'<div class="table"><table>\n{head}\n{body}\n</table></div>')
    for name, _ in section.pictures:
        alt, data = escape(f"{section.title}: {name}"), base64.b64encode(pictures[name]).decode()
        image = f'<img alt="{alt}" src="data:image/png;base64,{data}">'
        parts.append(f"<figure>{image}\n<figcaption>{escape(name)}</figcaption></figure>")
    return "\n".join([*parts, "</section>"])


def _html_row(kind: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{kind}>{escape(cell)}</{kind}>' for cell in cells)}</tr>"


def _markdown(title: str, sections: Sequence[Section]) -> str:
    blocks = [f"# {_line(title)}"]
    for section in sections:
        blocks.append(f"## {_line(section.title)}")
        blocks += [_paragraph(paragraph) for paragraph in _paragraphs(section.text)]
        if section.items:
            blocks.append("\n".join(f"- {_paragraph(item)}" for item in section.items))
        if section.table:
            head, rows = section.table.head, section.table.rows
            rule = "|".join(["|---", *["---:"] * (len(head) - 1)]) + "|"
            blocks.append("\n".join([_markdown_row(head), rule, *map(_markdown_row, rows)]))
        for name, _ in section.pictures:
            alt = _line(f"{section.title}: {name}")
            blocks.append(f"![{alt}{_link(name)}")
    return "\n\n".join(blocks) + "\n"


def _link(name: str) -> str:
    """Return how the link to a picture ends."""
    return f"]({quote(name, safe='')}.png)"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_line(cell) for cell in cells)} |"


def _line(text: str) -> str:
    """Escape, in one line, what Markdown would read as markup."""
    return re.sub(r"[\\`*_\[\]<>|&~$]", r"\\\g<0>", " ".join(text.split()))


def _paragraph(text: str) -> str:
    """Escape also what would begin a list or make a heading at the start of a line."""
    lines = [_line(line) for line in text.splitlines()]
    return "\n".join(re.sub(r"^(\d*)([-+#=]|[.)](?= |$))", r"\1\\\2", line) for line in lines)
