"""The report: one text, rendered as a page that needs nothing else; nothing half written."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from matplotlib.figure import Figure

from maskweave.errors import MaskweaveError
from maskweave.report.markdown import plain, table_text
from maskweave.report.page import Section, write_report
from maskweave.report.tables import Table

NASTY = '<b>&"x"</b> | *y* [z](http://example.org) `c` $m$ ![i](j.png) ~~s~~ \\'


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
        self.words: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.words.setdefault(tag, []).append("")
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in self.open:
            self.words[tag][-1] += data

    def all(self, tag: str, name: str) -> list[str]:
        return [value for t, n, value in self.attributes if (t, n) == (tag, name)]


def rendered(folder: Path, *sections: Section, title: str = "t") -> Page:
    write_report(folder, title, sections)
    return Page((folder / "index.html").read_text(encoding="utf-8"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    table = Table((NASTY, "FID"), ((NASTY, "1.5"), ("two\nlines", "-2")))
    sections = [
        Section(
            NASTY, f"**Our own.** {plain(NASTY)}\n\n{table_text(table)}", (("<b> 50%", figure()),)
        ),
        Section("Second", "", (("second", figure(2)), ("a b#?", figure(3)))),
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
    assert {*names} <= {*page.words["p"]}


def test_the_text_names_the_same_pictures(directory: Path) -> None:
    text = (directory / "report.md").read_text(encoding="utf-8")
    links = re.findall(r"^!\[.*\]\(([^()\s]+)\)$", text, re.MULTILINE)
    assert {directory / unquote(link) for link in links} == {*directory.glob("*.png")}


def test_the_page_needs_nothing_else(page: Page) -> None:
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    for _, name, value in page.attributes:
        assert name not in ("href", "src") or value.startswith(("#", "data:image/png;base64,"))
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    [style] = page.words["style"]
    assert "prefers-color-scheme: dark" in style
    assert not re.search(r"http|url\(|@import", style)


def test_what_users_name_is_text_and_no_markup(page: Page) -> None:
    assert not {"b", "em", "code", "s", "del"} & {*page.tags}
    assert page.words["title"] == page.words["h1"] == [f"Report {NASTY}"]
    assert page.words["h2"] == [NASTY, "Second"]
    assert f"Our own. {NASTY}" in page.words["p"] and page.words["strong"] == ["Our own."]
    assert [page.words[cell] for cell in ("th", "td")] == [
        [NASTY, "FID"],
        [NASTY, "1.5", "two lines", "-2"],
    ]


@pytest.mark.parametrize(
    "text",
    ["# no heading", "- no list", "+ none", "1. no list", "10) none", "> q", "===", "---", "~~~",
     "```", "    code", "<!-- c -->", "&amp;", "a\\", "1.", "#", "http://example.org", "|a|",
     "[a]: b", "0.5 dB", "-2", "1.5", "_x_"],
)  # fmt: skip
def test_any_text_at_the_start_of_a_paragraph_is_shown_as_it_is(text: str, tmp_path: Path) -> None:
    page = rendered(tmp_path, Section("s", plain(text)))
    assert page.words["p"] == [text.strip()]
    assert page.tags[page.tags.index("h2") + 1 :] == ["p"]


@pytest.mark.parametrize("text", ["0.5 dB is little.", "-2", "1.5", "#1"])
def test_numbers_stay_readable_in_the_text(text: str) -> None:
    assert plain(text) == text


def test_the_contents_lead_to_every_section(page: Page) -> None:
    links = page.all("a", "href")
    headings = page.all("h2", "id")
    assert [unquote(link) for link in links] == [f"#{heading}" for heading in headings]
    assert len(set(headings)) == 2


def test_a_report_replaces_an_earlier_one(directory: Path) -> None:
    (directory / "of the user.png").touch()
    before = (directory / "second.png").read_bytes()
    write_report(directory, "New", [Section("Only", "text", (("second", figure(-5)),))])
    assert (directory / "second.png").read_bytes() != before
    for file in ("index.html", "report.md"):
        text = (directory / file).read_text()
        assert "New" in text and "Report" not in text
    assert {file.name for file in directory.iterdir()} == {
        "index.html", "report.md", "second.png", "of the user.png",
    }  # fmt: skip


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
