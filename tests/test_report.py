"""The report: one page that needs nothing else, the same in Markdown, nothing half written."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from matplotlib.figure import Figure

from maskweave.errors import MaskweaveError
from maskweave.evaluation.report import Section, Table, write_report

NASTY = '<b>&"x"</b> | *y* [z](http://example.org) `c` $m$'


def figure(value: float = 1.0) -> Figure:
    drawing = Figure((2, 1))
    drawing.subplots().plot([0, value])
    return drawing


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())

    def all(self, tag: str, name: str) -> list[str]:
        return [value for t, n, value in self.attributes if (t, n) == (tag, name)]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    table = Table((NASTY, "FID"), ((NASTY, "1.5"), ("two\nlines", "-2")))
    sections = [
        Section(
            NASTY, f"# no heading\n- no list\n\n\n  {NASTY}  ", (("<b> 50%", figure()),), table
        ),
        Section("Second", "", (("second", figure(2)), ("a b#?", figure(3))), items=("1. *", "two")),
    ]
    write_report(tmp_path / "new" / "report", f"Report {NASTY}", sections)
    return tmp_path / "new" / "report"


@pytest.fixture
def page(directory: Path) -> Page:
    return Page((directory / "index.html").read_text(encoding="utf-8"))


def test_pictures_in_the_page_are_the_files(directory: Path, page: Page) -> None:
    prefix = "data:image/png;base64,"
    sources = page.all("img", "src")
    assert all(source.startswith(prefix) for source in sources)
    embedded = [base64.b64decode(source.removeprefix(prefix)) for source in sources]
    names = ["<b> 50%", "second", "a b#?"]
    assert embedded == [(directory / f"{name}.png").read_bytes() for name in names]
    assert page.all("img", "alt") == [f"{NASTY}: <b> 50%", "Second: second", "Second: a b#?"]


def test_the_page_needs_nothing_else(page: Page) -> None:
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    for _, name, value in page.attributes:
        assert name not in ("href", "src") or value.startswith(("#", "data:image/png;base64,"))
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    [style] = [words for words in page.words if "prefers-color-scheme: dark" in words]
    assert not re.search(r"http|url\(|@import", style)


def test_what_users_name_is_text_and_no_markup(page: Page) -> None:
    assert "b" not in page.tags
    assert {NASTY, f"Report {NASTY}", "<b> 50%", "# no heading\n- no list"} <= set(page.words)
    assert page.words.count(NASTY) == 5  # contents, heading, text and two cells
    assert page.tags.count("p") == 2


def test_the_contents_lead_to_every_section(page: Page) -> None:
    links = page.all("a", "href")
    assert links == [f"#{name}" for name in page.all("section", "id")]
    assert len(set(links)) == 2


def test_tables_scroll_sideways(directory: Path, page: Page) -> None:
    assert page.all("div", "class") == ["table"]
    assert ".table { overflow-x: auto; }" in (directory / "index.html").read_text()
    assert page.tags.count("tr") == 3 and page.tags.count("th") == 2 and page.tags.count("td") == 4


def test_markdown_shows_the_same(directory: Path) -> None:
    lines = (directory / "report.md").read_text(encoding="utf-8").splitlines()
    links = [m[1] for line in lines if (m := re.fullmatch(r"!\[.*\]\(([^()\s]+)\)", line))]
    files = [directory / unquote(link) for link in links]
    assert set(files) == set(directory.glob("*.png"))
    assert [line[:2] for line in lines if line.startswith("#")] == ["# ", "##", "##"]
    assert "\\# no heading" in lines and "\\- no list" in lines
    assert [line for line in lines if line.startswith("- ")] == ["- 1\\. \\*", "- two"]
    rows = [re.split(r"(?<!\\)\|", line) for line in lines if line.startswith("|")]
    assert {len(row) for row in rows} == {4} and len(rows) == 4
    assert rows[1] == ["", "---", "---:", ""]
    assert [row[1:-1] for row in rows[3:]] == [[" two lines ", " -2 "]]
    for line in lines:  # no markup but the report's own
        assert not re.search(r"(?<!\\)[<*`$&]", line)


def test_decimals_in_markdown_stay_readable(tmp_path: Path) -> None:
    write_report(tmp_path, "t", [Section("s", "0.5 dB is little.\n1. no list\n10) none either")])
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert lines[-3:] == ["0.5 dB is little.", "1\\. no list", "10\\) none either"]


def test_a_report_replaces_an_earlier_one(directory: Path) -> None:
    (directory / "of the user.png").touch()
    before = (directory / "second.png").read_bytes()
    write_report(directory, "New", [Section("Only", "text", (("second", figure(-5)),))])
    assert (directory / "second.png").read_bytes() != before
    for file in ("index.html", "report.md"):
        text = (directory / file).read_text()
        assert "New" in text and "Report" not in text
    assert {file.name for file in directory.glob("*.png")} == {"second.png", "of the user.png"}
    assert not list(directory.glob("*unfinished*")) + list(directory.glob(".*"))


@pytest.mark.parametrize("names", [("twice", "twice"), ("../up",), ("a/b",), ("a\\b",), ("",)])
def test_names_that_are_no_files_are_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    figures = tuple((name, figure()) for name in names)
    with pytest.raises(MaskweaveError, match="need file names"):
        write_report(tmp_path / "report", "t", [Section("s", "", figures)])
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MaskweaveError, match="cannot write"):
        write_report(tmp_path / "file", "t", [])
    (tmp_path / "report" / "index.html").mkdir(parents=True)
    with pytest.raises(MaskweaveError, match=r"cannot write .*index\.html"):
        write_report(tmp_path / "report", "t", [])
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == ["index.html", "report.md"]
