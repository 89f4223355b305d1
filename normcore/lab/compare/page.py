"""An executed notebook as one page of HTML that needs no network and no other file."""

import base64
import html
import re
from pathlib import Path

import nbformat
from markdown_it import MarkdownIt
from nbformat import NotebookNode

from .. import paths
from ..files import write_text

_TABLES = re.compile(r'<p class="nc-tables-csv">.*?</p>')
_DOWNLOAD = re.compile(r'<a download="([^"]+)" href="data:text/csv;base64,([^"]+)">')
STYLE = """
:root { color-scheme: light dark; --pst-color-text-base: #222; --pst-color-text-muted: #555; --pst-color-border: #ccc;
  --back: #fff; --raised: #f6f6f6; --link: #1a5fb4; }
@media (prefers-color-scheme: dark) { :root { --pst-color-text-base: #ddd; --pst-color-text-muted: #aaa;
  --pst-color-border: #555; --back: #14181e; --raised: #1f242d; --link: #8ab4f8; } }
body { font: 1rem/1.55 system-ui, sans-serif; color: var(--pst-color-text-base); background: var(--back);
  max-width: 60rem; margin: 0 auto; padding: 1rem 1rem 4rem; overflow-wrap: break-word; }
a { color: var(--link); } h1, h2, h3 { line-height: 1.25; } h2 { margin-top: 2.2rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; max-width: 100%; font-size: .9rem;
  margin: 1rem 0; }
th, td { text-align: left; padding: .25rem .7rem; border-bottom: 1px solid var(--pst-color-border); }
pre, code { font-family: ui-monospace, monospace; font-size: .85rem; }
pre { background: var(--raised); padding: .7rem; overflow-x: auto; border-radius: .3rem; }
details.code > summary { color: var(--pst-color-text-muted); font-size: .85rem; cursor: pointer; }
"""


def write(notebook: Path, page: Path) -> None:
    """Write the page of an executed notebook: its words, its outputs, and its code folded away."""
    cells = nbformat.read(notebook, as_version=4).cells
    body = "\n".join(map(_cell, cells))
    title = next((line[2:] for cell in cells for line in cell.source.splitlines() if line.startswith("# ")), page.stem)
    css = (paths.share() / "book" / "_assets" / "book.css").read_text(encoding="utf-8")
    script = (paths.share() / "book" / "_assets" / "curves.js").read_text(encoding="utf-8")
    write_text(
        page,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{html.escape(title)}</title>'
        f"<style>{css}{STYLE}</style></head>\n<body><main>{body}</main><script>{script}</script></body></html>\n",
    )


def tables(notebook: Path) -> dict[str, str]:
    """The tables that an executed notebook offers for download: file name -> CSV."""
    outputs = (o for c in nbformat.read(notebook, as_version=4).cells for o in c.get("outputs", []))
    text = "".join(found for o in outputs for found in _TABLES.findall(o.get("data", {}).get("text/html", "")))
    return {name: base64.b64decode(data).decode() for name, data in _DOWNLOAD.findall(text)}


def _cell(cell: NotebookNode) -> str:
    if cell.cell_type == "markdown":
        return MarkdownIt("commonmark").enable("table").render(cell.source)
    outputs = "".join(map(_output, cell.outputs))
    code = f'<details class="code"><summary>code</summary><pre>{html.escape(cell.source)}</pre></details>'
    return outputs + code


def _output(output: NotebookNode) -> str:
    data = output.get("data", {})
    if "text/html" in data:
        return str(data["text/html"])
    if "text/markdown" in data:
        return MarkdownIt("commonmark").render(data["text/markdown"])
    return f"<pre>{html.escape(data.get('text/plain') or output.get('text', ''))}</pre>"
