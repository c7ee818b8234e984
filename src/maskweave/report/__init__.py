"""A benchmark told in one text: the table, the sweep, pictures; as Markdown and as a page."""
