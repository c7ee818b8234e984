"""The page /docs: what OpenAPI says of the routes, as plain HTML.

The usual page for this loads its scripts from another host, which would fail where there is no
network.
"""

from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: auto; padding: 1rem; }
summary { cursor: pointer; padding: .3rem 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: .5rem 0 1rem; width: 100%; }
td, th { border-top: 1px solid #8886; padding: .25rem .75rem .25rem 0; text-align: left;
  vertical-align: top; }
div { overflow-x: auto; }
"""


def reference(openapi: dict[str, Any]) -> str:
    """Return an HTML page on routes as OpenAPI describes them."""
    title = f"{openapi['info']['title']} {openapi['info']['version']}: HTTP routes"
    parts = [
        f"<h1>{escape(title)}</h1>",
        '<p>For programs: <a href="openapi.json">openapi.json</a>. '
        "Errors are JSON with a line in <code>detail</code>.</p>",
    ]
    tag = None
    for path, methods in openapi["paths"].items():
        for method, said in methods.items():
            if said.get("tags") != tag:
                tag = said.get("tags")
                parts.append(f"<h2>{escape(' '.join(tag or []))}</h2>")
            parts.append(_operation(f"{method.upper()} {path}", said, openapi))
    style = f"<style>{STYLE}</style>"
    view = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<meta charset="utf-8">{view}<title>{escape(title)}</title>{style}'
    body = "\n".join(parts)
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>'


def _operation(name: str, said: dict[str, Any], openapi: dict[str, Any]) -> str:
    parts = [f"<p>{escape(said.get('description', ''))}</p>"]
    for media, content in said.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>{escape(media)}</p>{_fields(content['schema'], openapi)}")
    return f"<details><summary><code>{escape(name)}</code></summary>{''.join(parts)}</details>"


def _fields(schema: dict[str, Any], openapi: dict[str, Any]) -> str:
    """Return a table of the fields of an object."""
    if "$ref" in schema:
        schema = openapi["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    rows: list[str] = []
    for name, field in schema.get("properties", {}).items():
        kinds = [each.get("type", "") for each in field.get("anyOf", [field])]
        kind = ", ".join(each for each in kinds if each not in ("", "null"))
        default = "required" if name in schema.get("required", ()) else field.get("default")
        cells = (name, kind, "" if default is None else str(default), field.get("description", ""))
        rows.append("".join(f"<td>{escape(each)}</td>" for each in cells))
    head = "".join(f"<th>{each}</th>" for each in ("field", "type", "default", "what it says"))
    lines = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<div><table><tr>{head}</tr>{lines}</table></div>"
