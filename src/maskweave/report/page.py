"""A report on disk: one Markdown text beside PNG files, and the same rendered as a whole page."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from string import Template
from urllib.parse import unquote

from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from maskweave.errors import MaskweaveError
from maskweave.files import write_whole
from maskweave.report.markdown import anchor, link_end, picture_link, plain
from maskweave.report.pictures import DPI

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --line: #ccc; --page: #fff; --ink: #222; --link: #0645ad; }
@media (prefers-color-scheme: dark) {
  :root { --line: #444; --page: #181818; --ink: #ddd; --link: #8ab4f8; }
}
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--page); }
a { color: var(--link); }
p, li { max-width: 46rem; }
p:has(img) { max-width: none; margin: 1.5rem 0 0; }
p:has(img) + p { margin-top: 0; font-size: 0.85rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
img { max-width: 100%; height: auto; }
table { display: block; overflow-x: auto; border-collapse: collapse;
  font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.75rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
</style>
</head>
<body>
$body</body>
</html>
""")


@dataclass(frozen=True)
class Section:
    """A part of the report under a heading of its own."""

    title: str
    """The heading, in plain text."""
    text: str
    """Markdown; what users name has to go through ``markdown.plain``."""
    pictures: tuple[tuple[str, Figure], ...] = ()
    """Figures below the text, each with its name, which becomes the stem of its file."""


def write_report(directory: Path, title: str, sections: Sequence[Section]) -> None:
    """Write ``report.md``, ``NAME.png`` for every figure, and the text rendered: ``index.html``.

    Every file appears under its name only when whole, and replaces that of an earlier report. The
    page embeds the pictures and needs no other file.

    Parameters
    ----------
    directory : Path
        Made if it is missing.
    title : str
        Title of the report, in plain text.
    sections : Sequence[Section]
        Parts of the report, in reading order.

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
    pictures = {f"{name}.png": _png(figure) for name, figure in figures}
    text = _text(title, sections)
    _remove_pictures(directory)
    for name, picture in pictures.items():
        write_whole(directory / name, picture)
    write_whole(directory / "report.md", text.encode())
    write_whole(directory / "index.html", _page(title, text, pictures).encode())


def _text(title: str, sections: Sequence[Section]) -> str:
    """Return the report as Markdown."""
    contents = [f"- [{plain(each.title)}](#{anchor(each.title)})" for each in sections]
    blocks = [f"# {plain(title)}", "\n".join(contents)]
    for section in sections:
        blocks += [f"## {plain(section.title)}", section.text]
        for name, _ in section.pictures:
            blocks += [picture_link(name, f"{section.title}: {name}"), plain(name)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _page(title: str, text: str, pictures: dict[str, bytes]) -> str:
    """Render the text, with the pictures in it."""
    markdown = MarkdownIt("js-default")  # CommonMark and tables, without HTML in the text
    tokens = markdown.parse(text)
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            words = (child.content for child in inline.children or [])
            opening.attrSet("id", anchor("".join(words)))
    for image in (child for token in tokens for child in token.children or []):
        if image.type == "image":
            data = base64.b64encode(pictures[unquote(str(image.attrs["src"]))]).decode()
            image.attrSet("src", f"data:image/png;base64,{data}")
    body = markdown.renderer.render(tokens, markdown.options, {})
    return PAGE.substitute(title=escape(title), body=body)


def _remove_pictures(directory: Path) -> None:
    """Remove the pictures that an earlier report shows, as the new one may not replace them all."""
    report = directory / "report.md"
    shown = report.read_bytes() if report.is_file() else b""
    for file in directory.glob("*.png"):
        if link_end(file.stem).encode() in shown:
            file.unlink()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
