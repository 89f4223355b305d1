"""The normalizers side by side: a map of all by what shares statistics and when they are taken, and any two in full.

``book/_assets/beside.js`` shows the two that are chosen; without it all stand one below the other.
"""

import functools
import html
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import nbformat

from .. import paths
from ..bench.steps import step_costs
from ..compare.battery import Comparison
from ..compare.report import standings
from ..errors import LabError
from ..figures.anatomy import describe, draw_axes, facts, thumbnail
from ..figures.look import label
from ..verdicts.claims import MIXED, REFUTED, SUPPORTED, Judged
from . import markdown
from .guide import NORMALIZERS, REFERENCE, cannot_stand, in_figures


def beside(judged: Sequence[Judged], comparison: Comparison, stands: Mapping[str, str]) -> str:
    """The map, the choice of two, and a part for each normalizer.

    Args:
        judged: the statements, for the map.
        stands: normalizer -> where it stands everywhere, :func:`normcore.lab.book.advice.everywhere`.
    """
    blocks = ["## The map", _READ, _map(judged), "## Two side by side", _choice(comparison)]
    return "\n\n".join([*blocks, *(_part(name, comparison, stands[name]) for name in NORMALIZERS)])


_READ = (
    "A row says what one statistic is taken over (N instances, C channels, G groups of them, H·W positions), a column "
    "whether the layer evaluates by the current input alone or by statistics that it kept. In the drawn block the "
    "values are coloured that the outlined one is normalized by in training."
)


def _map(judged: Sequence[Judged]) -> str:
    """Each normalizer in the row of what one of its statistics is taken over, in the column of whether it evaluates by
    what it kept."""
    over, kept = {}, {}
    for name in NORMALIZERS:
        known = facts(name)
        over[name] = "<br>".join(c.formula for c in known["values in a set"] if not isinstance(c, str))
        kept[name] = str(known["statistics at evaluation are of"])
    cards = _cards(judged, kept)
    columns = {"at evaluation by the current input alone": False, "at evaluation by what was kept": True}
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    rows = []
    for row in dict.fromkeys(over.values()):
        shown = ""
        for column, keeps in columns.items():
            there = [name for name in NORMALIZERS if over[name] == row and (kept[name] != _CURRENT) == keeps]
            shown += f'<td data-when="{column}">{"".join(cards[name] for name in there)}</td>'
        rows.append(f'<tr><th scope="row">{f"{row} values" if row.isdigit() else row}</th>{shown}</tr>')
    return markdown.raw(
        f'<table class="table nc-map"><thead><tr><th scope="col">a statistic is of</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


_CURRENT = "current input"


def _cards(judged: Sequence[Judged], kept: Mapping[str, str]) -> dict[str, str]:
    """What stands in the map of each normalizer: the drawn block, its name and year, what kept statistics it evaluates
    by, what a step of training costs, and how many of the statements about it came off how."""
    try:
        costs = step_costs().set_index("variant")["of_bn"].to_dict()
    except LabError:
        costs = {}
    cards = {}
    for name in NORMALIZERS:
        lines = [f"by {kept[name]}"] if kept[name] != _CURRENT else []
        lines += [f"a step: {costs[name]:.2f} of {label(REFERENCE)}'s"] if name in costs else []
        counts = Counter(j.verdict for j in judged if name in j.normalizers)
        if decided := [f"{counts[v]} {v}" for v in (SUPPORTED, REFUTED, MIXED) if counts[v]]:
            lines.append(f'<a href="claims.html#{urlencode({"normalizer": name})}">{", ".join(decided)}</a>')
        title = f'<a href="normalizers/{name}.html">{label(name)}</a> {_year(name)}'
        cards[name] = f'<div class="nc-card">{thumbnail(name)}<div>{"<br>".join([title, *lines])}</div></div>'
    return cards


def _year(name: str) -> str:
    """Of its paper, by the key of the first citation on its page."""
    key = re.search(r"\{cite\}`[a-z]*(\d{4})", _page(name))
    return key[1] if key else ""


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
    return markdown.div(f"nc-norm nc-norm-{name}", "\n\n".join(filter(None, blocks)))
