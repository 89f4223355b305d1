"""Figures of measures: against a setting, in order, and one against another."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .figures import AXES, log_scale, panel, styles
from .stats import intervals


def draw_measures(
    table: pd.DataFrame, measures: Mapping[str, str], *, x: str, by: str = "variant", logy: Sequence[str] = ()
) -> list[Figure]:
    """A panel a measure: its mean and interval over seeds against a setting, a line a variant.

    Args:
        table: rows of :func:`normcore.lab.measures.measured`, with the columns ``x`` and ``by``.
        measures: column -> what stands at the axis.
        logy: measures on a logarithmic axis.
    """
    looks, ticks = styles(by, table[by]), sorted(table[x].unique())
    figures: list[Figure] = []
    for metric, label in measures.items():
        last = len(figures) == len(measures) - 1
        with panel(6.0 if last else 4.4) as (figure, axes):
            numbers = intervals(table.dropna(subset=[metric]), [by, x], metric)
            for i, (name, rows) in enumerate(numbers.groupby(by, sort=False)):
                style, line = looks[str(name)], rows.sort_values(x)
                aside = 1 + 0.03 * (i - (len(looks) - 1) / 2)  # so that intervals do not cover each other
                axes.errorbar(
                    line[x] * aside, line["mean"], yerr=_error(line), color=style.color, marker=style.marker,
                    linestyle=style.dash, markeredgewidth=0, elinewidth=1, label=style.label,
                )  # fmt: skip
            axes.set(xscale="log", xlabel=AXES.get(x, x), ylabel=label)
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.xaxis.minorticks_off()
            if metric in logy:
                log_scale(axes)
            if last:
                axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        figures.append(figure)
    return figures


def draw_ranking(table: pd.DataFrame, metric: str, label: str, *, by: str = "variant", title: str = "") -> Figure:
    """A panel with a row a variant, the highest on top: every seed, their mean and its interval."""
    numbers = intervals(table.dropna(subset=[metric]), [by], metric).sort_values("mean", kind="stable")
    looks = styles(by, numbers[by])
    with panel(5.2, 0.9 + 0.27 * len(numbers)) as (figure, axes):
        for place, (name, row) in enumerate(numbers.set_index(by).iterrows()):
            style = looks[str(name)]
            seeds = table.loc[table[by] == name, metric].dropna()
            axes.plot(seeds, [place] * len(seeds), "|", color=style.color, alpha=0.6, markersize=9)
            axes.errorbar(row["mean"], place, xerr=_error(numbers[numbers[by] == name]), color=style.color,
                          marker=style.marker, markersize=6.5, markeredgewidth=0)  # fmt: skip
        axes.set_yticks(range(len(numbers)), [looks[str(name)].label for name in numbers[by]])
        axes.set(xlabel=label, title=title)
        axes.grid(visible=True, axis="x")
    return figure


def draw_plane(
    table: pd.DataFrame, x: str, y: str, *, xlabel: str, ylabel: str, by: str = "variant", logx: bool = False
) -> Figure:
    """A panel with a point a variant: its means in two measures, with both intervals and its name beside it."""
    looks = styles(by, table[by])
    with panel(7.6, 4.8) as (figure, axes):
        across, up = (intervals(table.dropna(subset=[x, y]), [by], metric) for metric in (x, y))
        for name in across[by]:
            style, h, v = looks[str(name)], across[across[by] == name], up[up[by] == name]
            point = float(h["mean"].iloc[0]), float(v["mean"].iloc[0])
            axes.errorbar(*point, xerr=_error(h), yerr=_error(v), color=style.color, marker=style.marker,
                          markersize=7.5, markeredgewidth=0, elinewidth=1)  # fmt: skip
            axes.annotate(style.label, point, xytext=(7, 4), textcoords="offset points", fontsize=8.5)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.grid(visible=True)
        axes.margins(x=0.12)
        if logx:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
    return figure


def _error(numbers: pd.DataFrame) -> list[pd.Series]:
    """How far the interval reaches down and up; nowhere where one seed gives none."""
    return [(numbers["mean"] - numbers["low"]).fillna(0), (numbers["high"] - numbers["mean"]).fillna(0)]
