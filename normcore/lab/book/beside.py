"""The normalizers side by side: a map of all by what shares statistics and when they are taken, and any two in full.

``book/_assets/beside.js`` shows the two that are chosen; without it all stand one below the other.
"""

import functools
import html
import json
import re
from collections.abc import Mapping
from typing import Any

import nbformat

from .. import paths
from ..compare.battery import Comparison
from ..compare.report import standings
from ..figures.anatomy import describe, draw_axes, facts
from ..figures.look import label
from . import markdown
from .guide import NORMALIZERS, cannot_stand, in_figures


def beside(comparison: Comparison, stands: Mapping[str, str]) -> str:
    """The map, the choice of two, and a part for each normalizer.

    Args:
        stands: normalizer -> where it stands everywhere, :func:`normcore.lab.book.advice.everywhere`.
    """
    blocks = ["## The map", _map(), "## Two side by side", _choice(comparison)]
    return "\n\n".join([*blocks, *(_part(name, comparison, stands[name]) for name in NORMALIZERS)])


def _map() -> str:
    """Each normalizer in the row of what one of its statistics is taken over, in the column of when they are taken."""
    found = {name: facts(name) for name in NORMALIZERS}
    over = {name: ", ".join(count.formula for count in f["values in a set"] if not isinstance(count, str))
            for name, f in found.items()}  # fmt: skip
    when = {name: str(f["statistics at evaluation are of"]) for name, f in found.items()}
    columns = list(dict.fromkeys(when.values()))
    rows = []
    for row in dict.fromkeys(over.values()):
        cells = (", ".join(_named(n) for n in NORMALIZERS if (over[n], when[n]) == (row, column)) for column in columns)
        rows.append([f"`{row}`", *cells])
    return markdown.table(["a statistic is of", *(f"at evaluation: {column}" for column in columns)], rows)


def _named(name: str) -> str:
    """With the year of its paper, by the key of the first citation on its page."""
    key = re.search(r"\{cite\}`[a-z]*(\d{4})", _page(name))
    return f"[{label(name)}](/normalizers/{name}.ipynb)" + (f" ({key[1]})" if key else "")


@functools.cache  # for the map and for the formula
def _page(name: str) -> str:
    """What the page of a normalizer says."""
    notebook = nbformat.read(paths.root() / "notebooks" / "normalizers" / f"{name}.ipynb", as_version=4)
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def _choice(comparison: Comparison) -> str:
    options = "".join(f'<option value="{name}">{html.escape(label(name))}</option>' for name in NORMALIZERS)
    selects = "".join(
        f'<label>{words} <select name="{words}">{options}</select></label>' for words in ("one", "the other")
    )
    pairs = html.escape(json.dumps(_pairs(comparison), separators=(",", ":")))
    return markdown.raw(
        f'<form class="nc-select nc-beside" data-pairs="{pairs}" hidden>{selects}</form>\n<div id="nc-pair"></div>\n'
        '<script src="_static/beside.js" defer></script>'
    )


def _pairs(comparison: Comparison) -> dict[str, list[list[Any]]]:
    """For each two normalizers of the comparison, of each workload: its title, the difference with its interval, and
    the verdict."""
    known = [name for name in comparison.battery.norms if name in NORMALIZERS]
    if comparison.scores.empty or len(known) < 2:
        return {}
    titles = {w.name: f"{w.title} ({w.unit}, {'lower' if w.lower else 'higher'} is better)"
              for w in comparison.battery.workloads}  # fmt: skip
    found: dict[str, list[list[Any]]] = {}
    for row in standings(comparison.measured, comparison.battery, known, known).to_dict("records"):
        if row["norm"] != row["rival"]:
            pair = found.setdefault(f"{row['norm']},{row['rival']}", [])
            pair.append([titles[row["workload"]], in_figures(row), row["verdict"]])
    return found


def _part(name: str, comparison: Comparison, stands: str) -> str:
    formula = re.search(r"\$\$.*?\$\$", _page(name), re.DOTALL)
    cannot = sorted(w.title for w in comparison.battery.workloads if w.name in comparison.battery.cannot(name))
    blocks = [
        f"[{label(name)}](/normalizers/{name}.ipynb)", formula[0] if formula else "",
        markdown.raw(draw_axes(name)), markdown.raw(describe(name)), stands, *cannot_stand(cannot),
    ]  # fmt: skip
    return f"::::{{div}} nc-norm nc-norm-{name}\n" + "\n\n".join(filter(None, blocks)) + "\n::::"
