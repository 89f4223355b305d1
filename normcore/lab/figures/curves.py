"""Curves that a reader can switch and step through."""

import html
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..stats import intervals, spread
from .look import AXES, Html, Style, beside, captioned, legend_of, log_scale, panel, same_y, styles
from .words import contrast

POINTS = 40  # of a line that can be read off, at most
_SPLITS = {"train": "training"}  # what a split is called


def draw_curves(
    axes: Axes, frame: pd.DataFrame, metric: str, *, by: str = "norm", x: str = "epoch",
    looks: Mapping[str, Style] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """A line of means and a band of intervals over seeds, or of their range, for each value of ``by``.

    Args:
        frame: rows of :func:`normcore.lab.verdicts.tables.curves` of one split.
        looks: of the lines, where the frame has not all that the figure has.

    Returns:
        The numbers drawn: ``by``, ``x``, ``mean``, ``low``, ``high``, ``n``.
    """
    numbers = intervals(frame, [by, x], metric)
    looks = looks or styles(by, numbers[by])
    for name, line in numbers.groupby(by, sort=False):
        look = looks[str(name)]
        every = max(1, len(line) // 10)
        sns.lineplot(
            data=line, x=x, y="mean", ax=axes, color=look.color, marker=look.marker, linestyle=look.dash,
            markevery=every, errorbar=None, label=look.label, legend=False, gid=f"series:{name}",
            markeredgewidth=0,
        )  # fmt: skip
        band = axes.fill_between(line[x], line["low"], line["high"], color=look.color, alpha=0.25, linewidth=0)
        band.set_gid(f"series:{name}")
    return numbers


def interactive_curves(
    frame: pd.DataFrame,
    panels: Sequence[tuple[str, str, str]],
    *,
    alt: str,
    caption: str,
    by: str = "norm",
    x: str = "epoch",
    facet: str = "",
    logy: Sequence[str] = ("loss",),
) -> Html:
    """Curves whose lines can be switched on and off and stepped through, with their numbers as a table.

    Without the script (in Jupyter, in print) it is the same figure and its legend, and its numbers are in the CSV file.

    Args:
        frame: rows of :func:`normcore.lab.verdicts.tables.curves`.
        panels: (split, metric, axis label) of each panel.
        alt, caption: as in :func:`show`.
        by, x: the column that tells lines apart, and the horizontal one.
        facet: a column; each of its values gets panels of its own, all with the same vertical axis.
        logy: metrics on a logarithmic axis.
    """
    if frame.empty:  # of a profile that is published in part
        return Html(captioned("<p>None of these runs is there yet.</p>", caption))
    figures, data = [], []
    facets = styles(facet, frame[facet]) if facet else {"": None}
    looks = styles(by, frame[by])
    for (value, look), (split, metric, label) in itertools.product(facets.items(), panels):
        rows = frame[(frame["split"] == split) & (frame[facet].astype(str) == value if look else True)]
        own = split in ("train", "batch", "validation", "test")
        called = metric if metric in ("loss", "accuracy") else re.sub(r" \([^)]*\)$", "", label)  # without a unit
        what = f"{_SPLITS.get(split, split)} {called}" if own else label
        of, title = (look.label, look.label) if look else ("", what if own else called)
        ends, at = _ends(rows, metric, by, x)
        measure = f"{split}_{metric}" if own else f"{split}.{metric}"
        with panel() as (figure, axes):
            figure.numbers = numbers = draw_curves(axes, rows, metric, by=by, x=x, looks=looks)
            figure.seen = contrast(ends, metric, by, looks, what=f"{what} {at}", of=of, measure=measure)
            axes.set(xlabel=AXES.get(x, x), ylabel=label, title=title)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8 if x == "epoch" else 6))
            if numbers[x].max() > 2000:
                axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v / 1000:g}k" if v else "0"))
            if metric in logy:
                log_scale(axes)
        figures.append(figure)
        data.append((title, numbers))
    if facet:
        same_y(figures)
    body = beside(figures, alt) + legend_of(looks)
    points = [  # after the panels are drawn: that settles where the axes stand
        {"title": title, "line": _pixels(figure.axes[0]), **_series(numbers, by, x)}
        for (title, numbers), figure in zip(data, figures, strict=True)
    ]
    seeds = pd.concat([numbers for _, numbers in data]).groupby(by)["n"].min()
    few = min((int(numbers["n"].min()) for _, numbers in data if len(numbers)), default=0)
    known = {
        "note": f"Means over seeds{spread(few, 'in brackets')}.",
        "x": AXES.get(x, x), "lower": panels[0][1] == "loss", "panels": points,
        "seeds": {str(name): int(n) for name, n in seeds.items()},
    }  # fmt: skip
    payload = html.escape(json.dumps(known, separators=(",", ":"), allow_nan=False), quote=False).replace("'", "&#x27;")
    return Html(captioned(body, caption, figures, f" data-curves='{payload}'"))


def _ends(rows: pd.DataFrame, metric: str, by: str, x: str) -> tuple[pd.DataFrame, str]:
    """The last points that all lines have, and where that is, in words; without runs that stopped in the last quarter
    or before, as those that diverged did."""
    there = rows.dropna(subset=[metric])
    last = there["step"].groupby(there["key"]).transform("max")
    whole = there[last > 0.75 * there["steps"]]
    lines = whole.groupby(x)[by].nunique()
    shared = lines.index[lines == whole[by].nunique()].max()
    where = f"after {shared:,.0f} {AXES[x]}" if x == "samples" else f"at {AXES.get(x, x)} {shared:,.0f}"
    at = "at the end" if (whole.groupby(by)[x].max() == shared).all() else where
    some = ", of runs that came to it" if len(whole) < len(there) else ""
    return whole[whole[x] == shared], at + some


def _pixels(axes: Axes) -> list[float]:
    """[a, b, top, bottom]: where a value x stands in the SVG, at a + b x, and where the axes end."""
    figure = axes.figure
    assert figure is not None
    figure.set_dpi(72)  # a unit of the SVG is a point
    height = figure.bbox.height
    zero, one = (axes.transData.transform((value, 0))[0] for value in (0, 1))
    box = axes.bbox
    return [float(f"{v:.6g}") for v in (zero, one - zero, height - box.y1, height - box.y0)]


def _series(numbers: pd.DataFrame, by: str, x: str) -> dict[str, Any]:
    """The points of each line; where all have the same, how far along the axis these are stands once."""
    found, places = {}, {}
    for name, whole in numbers.groupby(by, sort=False):
        line = thinned(whole)
        places[str(name)] = [_plain(v) for v in line[x]]
        found[str(name)] = {c: [_plain(v) for v in line[c]] for c in ("mean", "low", "high")}
    first = next(iter(places.values()), [])
    if all(at == first for at in places.values()):
        return {"x": first, "series": found}
    return {"series": {name: {"x": places[name], **line} for name, line in found.items()}}


def thinned(line: pd.DataFrame) -> pd.DataFrame:
    """At most ``POINTS`` rows, evenly, the last among them: what is read off a line."""
    return line.iloc[::-1].iloc[:: -(-len(line) // POINTS)].iloc[::-1]


def _plain(value: float) -> float | None:
    if pd.isna(value):
        return None
    rounded = round(float(value), 4) if abs(value) >= 0.1 else float(f"{value:.4g}")
    return int(rounded) if rounded.is_integer() else rounded
