"""Figures of measures: against a setting, in order, and one against another."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

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
        with panel() as (figure, axes):
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
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(visible=True, axis="x")
    return figure


def draw_plane(
    table: pd.DataFrame, x: str, y: str, *, xlabel: str, ylabel: str, by: str = "variant", logx: bool = False
) -> Figure:
    """A panel with a point a variant: its means in two measures, with both intervals and its name beside it."""
    looks = styles(by, table[by])
    with panel(7.6, 4.8) as (figure, axes):
        points: dict[str, tuple[float, float]] = {}
        across, up = (intervals(table.dropna(subset=[x, y]), [by], metric) for metric in (x, y))
        for name in across[by]:
            style, h, v = looks[str(name)], across[across[by] == name], up[up[by] == name]
            point = float(h["mean"].iloc[0]), float(v["mean"].iloc[0])
            points[style.label] = point
            axes.errorbar(*point, xerr=_error(h), yerr=_error(v), color=style.color, marker=style.marker,
                          markersize=7.5, markeredgewidth=0, elinewidth=1)  # fmt: skip
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.grid(visible=True)
        axes.margins(x=0.12)
        if logx:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        _label(axes, points)
    return figure


def _label(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """The points' names beside them, moved apart vertically where they would cover each other."""
    assert axes.figure is not None
    axes.figure.set_dpi(72)  # a pixel is a point
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    at = {name: axes.transData.transform(point) for name, point in points.items()}
    placed: dict[str, float] = {}
    for name in sorted(at, key=lambda n: float(at[n][1])):
        near = [placed[other] for other in placed if abs(at[other][0] - at[name][0]) < _LABEL_WIDTH]
        placed[name] = max([float(at[name][1]) - 3, *(y + _LABEL_HEIGHT for y in near)])
    for name, point in points.items():
        away = placed[name] - float(at[name][1])
        line = {"arrowstyle": "-", "linewidth": 0.5, "alpha": 0.5} if away > _LABEL_HEIGHT else None
        axes.annotate(name, point, xytext=(12, away), textcoords="offset points", fontsize=8.5, arrowprops=line)


_LABEL_WIDTH, _LABEL_HEIGHT = 90, 11  # points


def _error(numbers: pd.DataFrame) -> list[pd.Series]:
    """How far the interval reaches down and up; nowhere where one seed gives none."""
    return [(numbers["mean"] - numbers["low"]).fillna(0), (numbers["high"] - numbers["mean"]).fillna(0)]
