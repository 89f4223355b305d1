"""The ledger of statements, a line each, and a page for every statement."""

import base64
import html
import json
import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .. import paths
from ..figures import look
from ..runs.store import Run, measured_on
from ..verdicts.claims import KINDS, VERDICTS, Judged, quoted, table_of
from ..verdicts.history import Change
from ..verdicts.limits import threats, turning
from ..verdicts.predicates import TOLERANCE, Part
from . import markdown

_COLORS = ("success", "danger", "info", "warning", "primary-line", "muted", "muted-line")
_BADGES = dict(zip(VERDICTS, _COLORS, strict=True))

_DEFINITIONS = (
    "A definition is judged on the layers themselves, which run on small, fixed inputs in double precision each time "
    "the book is built. Nothing is trained and nothing changes from run to run, so its numbers have no interval; those "
    f"that must be equal may differ by rounding, {TOLERANCE:g}."
)


def badge(verdict: str) -> str:
    """A verdict as a coloured label."""
    return markdown.badge(_BADGES[verdict], verdict)


def badge_classes(verdict: str) -> list[str]:
    """The classes of such a label in HTML."""
    color, line = _BADGES[verdict].removesuffix("-line"), _BADGES[verdict].endswith("-line")
    return [f"sd-outline-{color}", f"sd-text-{color}"] if line else [f"sd-bg-{color}", f"sd-bg-text-{color}"]


def badge_html(verdict: str) -> str:
    """The same label in HTML."""
    return f'<span class="sd-badge {" ".join(badge_classes(verdict))}">{verdict}</span>'


def ledger(judged: Sequence[Judged], sources: Mapping[str, Any]) -> str:
    """Counts by document and verdict, how definitions are judged, what can be chosen, a line for every statement."""
    counts = {source: Counter(j.verdict for j in judged if j.source == source) for source in sources}
    total = Counter(j.verdict for j in judged)
    rows = [
        [badge(v), *(_counted(c[v], verdict=v, source=s) for s, c in counts.items()), _counted(total[v], verdict=v)]
        for v in VERDICTS
    ]
    rows.append(["**statements**", *(_counted(c.total(), source=s) for s, c in counts.items()), f"**{total.total()}**"])
    head = ["verdict", *(f"[{s}](#{s.lower()})" for s in sources), "all"]
    blocks = [markdown.table(head, rows, "lrrrrrr"), _DEFINITIONS, _form(judged, sources)]
    for source, about in sources.items():
        blocks += [
            f"({source.lower()})=\n## {source}: {about['title']}",
            f"A {about['kind']} {{cite}}`{about['cite']}`. {about['note']}",
            _lines([j for j in judged if j.source == source]),
        ]
    return "\n\n".join(blocks)


def _counted(count: int, **chosen: str) -> str:
    """A number that leads to the lines that it counts."""
    return f'<a href="#{urlencode(chosen)}">{count}</a>' if count else ""


def _form(judged: Iterable[Judged], sources: Iterable[str]) -> str:
    named = {name: look.label(name) for one in judged for name in one.normalizers}
    fields = [
        markdown.choice("verdict", "Verdict", "all", {v: v for v in VERDICTS}),
        markdown.choice("source", "Document", "all", {s: s for s in sources}),
        markdown.choice("normalizer", "Normalizer", "all", dict(sorted(named.items(), key=lambda item: item[1]))),
        markdown.choice("kind", "Kind", "all", KINDS),
    ]
    return markdown.raw(markdown.form("".join(fields), "statements", "No statement is all of this."))


def _lines(judged: Iterable[Judged]) -> str:
    """A table with a line for each statement, which can be chosen by its verdict and what it is about."""
    rows = []
    for one in judged:
        facets = {"verdict": [one.verdict], "source": [one.source], "normalizer": one.normalizers, "kind": [one.kind]}
        item = html.escape(json.dumps({"facets": facets}))
        link = f'<a href="statements/{one.id.lower()}.html">{one.id}</a>'
        cells = (link, html.escape(one.statement), badge_html(one.verdict))
        rows.append(f'<tr data-item="{item}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    head = '<tr><th scope="col">number</th><th scope="col">statement</th><th scope="col">verdict</th></tr>'
    table = f'<table class="table nc-ledger"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'
    return markdown.raw(table)


def page(
    judged: Judged, about: Mapping[str, Any], pages: Mapping[str, str], *, before: Sequence[Change] = (),
    with_care: Sequence[str] = (), follows: Sequence[str] = (),
) -> str:  # fmt: skip
    """Everything on one statement.

    Args:
        about: its document.
        pages: experiment -> page, as it is found from the page of a statement.
        before: its verdicts so far.
        with_care: what its experiment asks to be read with care.
        follows: what the sources advise that rests on it.
    """
    source = f"Of [{about['title']}](#{judged.source.lower()}) {{cite}}`{about['cite']}`."
    blocks = [f"({judged.id.lower()})=\n# {judged.id}", source, body(judged, pages, "..")]
    if follows:
        blocks += ["## What would follow from it", markdown.bullets(follows)]
    if drawn := _effects(judged):
        blocks += ["## The effects", markdown.raw(drawn)]
    if runs := {run.key: run for leaf in judged.leaves for run in leaf.runs}:
        blocks += ["## The runs", f"The verdict rests on {_runs(judged, list(runs.values()))}"]
    if judged.leaves and (found := [*threats(judged), *with_care]):
        blocks += ["## Threats", markdown.bullets(found)]
    blocks += ["## What would change the verdict", markdown.bullets(turning(judged)), "## Its history"]
    blocks.append(_history(judged, before))
    return "\n\n".join(blocks) + "\n"


def _history(judged: Judged, before: Sequence[Change]) -> str:
    """Since when it has which verdict, and what changed it; the present one, where that is not of the published
    results."""
    rows = [[c.date, badge(c.verdict), html.escape(c.why) + (f" (`{c.commit}`)" if c.commit else "")] for c in before]
    if not before or before[-1].verdict != judged.verdict:
        rows.append(["now", badge(judged.verdict), "with the results that this book is built from"])
    return markdown.div("nc-history", markdown.table(["since", "verdict", "what changed it"], rows))


def body(judged: Judged, pages: Mapping[str, str], root: str = ".") -> str:
    """A statement, its verdict and what it rests on, without a heading."""
    lines = [f"**{judged.id}** {badge(judged.verdict)} *{KINDS[judged.kind]}*", judged.statement]
    if judged.quote:
        lines.append(f'<span class="nc-quote">{quoted(judged.quote)}</span>')
    if judged.parts:
        lines.append(_parts(judged.parts, "what must hold"))
    if judged.also:
        lines.append(_parts(judged.also, "also measured, outside of the verdict"))
    if not math.isnan(judged.q):
        lines.append(f"Adjusted p of the statement {judged.p:.2g}, over all statements tested {judged.q:.2g}.")
    if text := " ".join(filter(None, _tail(judged, pages, root))):
        lines.append(text)
    return markdown.div("nc-claim", "\n\n".join(lines))


def _tail(judged: Judged, pages: Mapping[str, str], root: str) -> list[str]:
    tail = [judged.note.strip(), f"{judged.reason[0].upper()}{judged.reason[1:]}." if judged.reason else ""]
    if judged.experiments:
        named = [f"[{name}]({root}/{pages[name]}.ipynb){f', profile {of}' if of else ''}"
                 for name, of in judged.experiments.items()]  # fmt: skip
        tail.append(f"Experiment{'s' if len(named) > 1 else ''}: {'; '.join(named)}.")
    if judged.benchmark:
        tail.append(f"Measured by `normcore bench {judged.benchmark}`, see [speed]({root}/speed.md).")
    if judged.definition:
        tail.append(f"Measured on the layers by `{judged.definition}` of `normcore/lab/verdicts/definitions.py`.")
    if links := _normalizer_links(judged.normalizers, root):
        tail.append(f"More on {links}.")
    return tail


def _parts(parts: Sequence[Part], title: str) -> str:
    titles, rows = table_of(parts, title)
    return markdown.table(titles, rows, "llrrl" if len(titles) == 5 else "")


def _normalizer_links(names: Iterable[str], root: str) -> str:
    """To the pages of the normalizers, where the table of contents has them."""
    contents = (paths.root() / "book" / "_toc.yml").read_text(encoding="utf-8").split()
    there = [name for name in names if f"normalizers/{name}" in contents]
    return ", ".join(f"[{look.label(name)}]({root}/normalizers/{name}.ipynb)" for name in there)


def _effects(judged: Judged) -> str:
    """A panel for each part with an interval or a range: the effect, and zero."""
    leaves = [leaf for leaf in judged.leaves if not math.isnan(leaf.effect.low)]
    if not leaves:
        return ""
    return look.show(
        [_effect(leaf) for leaf in leaves], share_y=False,
        alt=f"The effect of each part of {judged.id} with its interval, beside zero.",
        caption="What was measured of each part, with its 95 % interval, or its range where there are fewer than five "
        "seeds. The statement puts it where the ground is blue; in the grey band a difference is too small to matter.",
    )  # fmt: skip


def _effect(leaf: Part) -> Figure:
    mean, low, high = leaf.effect.mean, leaf.effect.low, leaf.effect.high
    with look.panel(4.4, 1.5) as (figure, axes):
        row = {"part": leaf.says, "mean": mean, "low": low, "high": high, "verdict": leaf.verdict}
        figure.numbers = pd.DataFrame([row])
        axes.axvline(0, color="#808080", linewidth=0.9)
        if leaf.tie:
            axes.axvspan(-leaf.tie, leaf.tie, color="#808080", alpha=0.25, linewidth=0)
        axes.errorbar(mean, 0, xerr=[[max(0.0, mean - low)], [max(0.0, high - mean)]], color=look.style("bn").color,
                      marker="o", markersize=6.5, markeredgewidth=0, elinewidth=1.6)  # fmt: skip
        left, right = axes.get_xlim()
        if (leaf.low, leaf.high) != (-math.inf, math.inf):
            axes.axvspan(
                max(left, leaf.low), min(right, leaf.high), color=look.style("bn").color, alpha=0.08, linewidth=0
            )
            axes.set_xlim(left, right)
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(visible=True, axis="x")
        axes.set_title("\n".join(textwrap.wrap(leaf.says, 46)), fontsize=10.5)
        axes.set_xlabel("\n".join(textwrap.wrap(leaf.measured, 48)), fontsize=10.5)
    return figure


def _runs(judged: Judged, runs: Sequence[Run]) -> str:
    """What they were measured with, and a table of them to download."""
    parts: dict[str, list[str]] = {}
    experiment = {}
    for leaf in judged.leaves:
        for run in leaf.runs:
            parts.setdefault(run.key, []).append(leaf.says)
            experiment[run.key] = leaf.experiment or judged.experiment
    table = pd.DataFrame([
        {"file": f"data/results/{experiment[run.key]}/{run.key}.json", "norm": look.label(run.config.norm),
         "lr": run.config.lr, "batch_size": run.config.batch_size, "steps": run.config.steps, "seed": run.config.seed,
         "status": run.status, "parts": "; ".join(dict.fromkeys(parts[run.key])), **run.final}
        for run in runs
    ])  # fmt: skip
    link = look.csv_link(judged.id.lower(), table, "which they are, as CSV")
    return f"{measured_on(runs)}: {link}, {_json_link(judged)}."


def _json_link(judged: Judged) -> str:
    """To the verdict with all that was measured of it, inside the page."""
    data = base64.b64encode(json.dumps(judged.to_json(), ensure_ascii=False).encode()).decode()
    return (
        f'<a class="nc-csv" download="{judged.id.lower()}.json" href="data:application/json;base64,{data}">'
        "the verdict and its parts, as JSON</a>"
    )
