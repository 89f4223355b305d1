"""Sphinx, taught to show an experiment in a reader's order.

A notebook goes the way that it runs: protocol, parameters, runs, figures, verdicts. Its page begins with the question,
the answer (``_generated/answer_NAME.md``, :func:`normcore.lab.book.pages.answer`) and the figure that is tagged
``answer``, and ends with how it was run, the code folded.
"""

import json
import re
from pathlib import PurePosixPath
from typing import Any

Cell = dict[str, Any]


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _read(_: Any, page: str, source: list[str]) -> None:
    if page.startswith("runs/"):
        notebook = json.loads(source[0])
        notebook["cells"] = reordered(notebook["cells"], PurePosixPath(page).name)
        source[0] = json.dumps(notebook)


def reordered(cells: list[Cell], name: str) -> list[Cell]:
    """The cells of an executed notebook in the order of its page.

    Args:
        name: of the notebook, by which its answer is found.
    """
    first = _first_behind_parameters(cells)
    how, shown = [_demoted(cell) for cell in cells[1:first]], cells[first:]
    lead = next((i for i, cell in enumerate(shown) if "answer" in _tags(cell)), None)
    front: list[Cell] = []
    if lead is not None:
        start = next((i for i in reversed(range(lead)) if shown[i]["cell_type"] == "markdown"), lead)
        front, shown = shown[start : lead + 1], shown[:start] + shown[lead + 1 :]
    answer = _markdown("page-answer", f"```{{include}} ../_generated/answer_{name}.md\n```")
    ordered = [cells[0], answer, *front, *shown, _markdown("page-how", f"(how-{name})=\n## How it was run"), *how]
    return [_folded(cell) for cell in ordered]


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
