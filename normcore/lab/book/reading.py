"""Sphinx, taught to show an experiment in a reader's order.

A notebook goes the way that it runs: protocol, parameters, runs, figures, verdicts. Its page begins with the question,
the answer (``_generated/answer_NAME.md``, :func:`normcore.lab.book.pages.answer`), the figure that is tagged
``answer`` and the statements, and ends with how it was run, the code folded. Where another profile is published too,
whose notebook is ``runs/PROFILE/NAME.ipynb``, its figure is folded behind the answer's.
"""

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Cell = dict[str, Any]

STATEMENTS = "% statements"  # the comment between a page's answer and the statements that it is made of


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _read(app: Any, page: str, source: list[str]) -> None:
    if page.startswith("runs/"):
        notebook, name = json.loads(source[0]), Path(page).name
        others = {
            path.parent.name: json.loads(path.read_text(encoding="utf-8"))["cells"]
            for path in sorted(Path(app.srcdir, "runs").glob(f"[!.]*/{name}.ipynb"))
        }
        notebook["cells"] = reordered(notebook["cells"], name, others)
        source[0] = json.dumps(notebook)


def reordered(cells: list[Cell], name: str, others: Mapping[str, list[Cell]] | None = None) -> list[Cell]:
    """The cells of an executed notebook in the order of its page.

    Args:
        name: of the notebook, by which its answer is found.
        others: the same notebook as executed with other profiles.
    """
    first = _first_behind_parameters(cells)
    how, shown = [_demoted(cell) for cell in cells[1:first]], cells[first:]
    lead = next((i for i, cell in enumerate(shown) if "answer" in _tags(cell)), None)
    front: list[Cell] = []
    if lead is not None:
        start = next((i for i in reversed(range(lead)) if shown[i]["cell_type"] == "markdown"), lead)
        front, shown = shown[start : lead + 1], shown[:start] + shown[lead + 1 :]
        front += [
            _markdown(f"page-{profile}", _switch(other, name, profile)) for profile, other in (others or {}).items()
        ]
    answer = _included("page-answer", name, "end-before")
    statements = _included("page-statements", name, "start-after")
    run = _markdown("page-how", f"(how-{name})=\n## How it was run")
    ordered = [cells[0], answer, *front, statements, *shown, run, *how]
    return [_folded(cell) for cell in ordered]


def _included(key: str, name: str, part: str) -> Cell:
    return _markdown(key, f"```{{include}} ../_generated/answer_{name}.md\n:{part}: '{STATEMENTS}'\n```")


def _first_behind_parameters(cells: list[Cell]) -> int:
    """The first cell of the section behind the one with the parameters and what runs by them."""
    parameters = next((i for i, cell in enumerate(cells) if "parameters" in _tags(cell)), 0)
    behind = (i for i, cell in enumerate(cells) if i > parameters and cell["cell_type"] == "markdown")
    return next(behind, len(cells))


def _tags(cell: Cell) -> list[str]:
    found: list[str] = cell["metadata"].get("tags", [])
    return found


def _markdown(key: str, text: str) -> Cell:
    return {"cell_type": "markdown", "id": key, "metadata": {}, "source": text}


def _switch(cells: list[Cell], name: str, profile: str) -> str:
    """The figure that answers, of another profile, folded; and where its runs are explored."""
    answer = next(cell for cell in cells if "answer" in _tags(cell))
    figure = "".join("".join(output.get("data", {}).get("text/html", ())) for output in answer["outputs"])
    place = html.escape(f"../explorer.html#experiment={name.replace('_', '-')}&profile={profile}")
    return (
        f"```{{raw}} html\n<details><summary>The same with profile <code>{profile}</code></summary>{figure}"
        f'<p><a href="{place}">Explore the runs of this profile</a></p></details>\n```'
    )


def _demoted(cell: Cell) -> Cell:
    """Under a heading of its own, a section is one level lower."""
    if cell["cell_type"] != "markdown":
        return cell
    return {**cell, "source": re.sub(r"\A## ", "### ", "".join(cell["source"]))}


def _folded(cell: Cell) -> Cell:
    """Code that a reader opens to see."""
    if cell["cell_type"] != "code" or any(tag.startswith(("hide", "remove")) for tag in _tags(cell)):
        return cell
    return {**cell, "metadata": {**cell["metadata"], "tags": [*_tags(cell), "hide-input"]}}
