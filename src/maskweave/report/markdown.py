"""The text of a report: Markdown that GitHub, editors and ``page`` show alike."""

import re
from urllib.parse import quote

from maskweave.report.tables import Table


def plain(text: str) -> str:
    """Return text of any origin as Markdown that shows it, in one line, and is no markup."""
    line = re.sub(r"[\\`*_\[\]<>|&~$]", r"\\\g<0>", " ".join(text.split()))
    # What would make a list or a heading at the start of a paragraph.
    return re.sub(r"^(\d*)([-+#=](?!\d)|[.)](?= |$))", r"\1\\\2", line)


def picture_link(name: str, description: str) -> str:
    """Return the Markdown of a picture that lies beside the text as ``NAME.png``."""
    return f"![{plain(description)}{link_end(name)}"


def link_end(name: str) -> str:
    """Return how the link to a picture ends, by which it can be found in a text."""
    return f"]({quote(name, safe='')}.png)"


def anchor(title: str) -> str:
    """Return the address of a heading within the text, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def table_text(table: Table) -> str:
    """Return a table whose first column is of words and whose others are of numbers."""
    rule = "|".join(["|---", *["---:"] * (len(table.head) - 1)]) + "|"
    head, *rows = [
        f"| {' | '.join(plain(cell) for cell in cells)} |" for cells in (table.head, *table.rows)
    ]
    return "\n".join([head, rule, *rows])
