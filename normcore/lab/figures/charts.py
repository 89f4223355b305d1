"""Figures of measures: against a setting, in order, and one against another."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ..probes.distributions import BINS, REACH
from ..stats import intervals
from .look import AXES, TEXT, WIDTH, Chart, Style, log_scale, panel, style, styles, wide
from .words import contrast


def draw_measures(
    table: pd.DataFrame,
    measures: Mapping[str, str],
    *,
    x: str,
    by: str = "variant",
    logy: Sequence[str] = (),
    title: str = "",
) -> list[Figure]:
    """A panel a measure: its mean and interval over seeds against a setting, a line a variant.

    Args:
        table: rows of :func:`normcore.lab.verdicts.measures.measured`, with the columns ``x`` and ``by``.
        measures: column -> what stands at the axis.
        logy: measures on a logarithmic axis.
        title: of the panels, where several tables stand side by side.
    """
    figures: list[Figure] = []
    looks, settings = styles(by, table[by]), styles(x, table[x])
    where = f" in {title}" if title else ""
    for metric, label in measures.items():
        figure = draw_intervals(intervals(table, [by, x], metric), x=x, by=by, label=label)
        figure.seen = [one for name, rows in table.groupby(by, sort=False) for one in
                       contrast(rows, metric, x, settings, what=label, of=looks[str(name)].label + where)]  # fmt: skip
        if metric in logy:
            log_scale(figure.axes[0])
        figure.axes[0].set_title(title)
        figures.append(figure)
    return figures


def draw_intervals(numbers: pd.DataFrame, *, x: str, by: str, label: str) -> Chart:
    """A panel of means and intervals against a setting (log), a line for each value of ``by``.

    Args:
        numbers: ``by``, ``x``, ``mean``, ``low``, ``high``.
        label: what stands at the vertical axis.
    """
    looks, ticks = styles(by, numbers[by]), sorted(numbers[x].unique())
    with panel() as (figure, axes):
        figure.numbers = numbers
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
    return figure


def draw_ranking(
    table: pd.DataFrame, metric: str, label: str, *, by: str = "variant", title: str = "", logx: bool = False
) -> Figure:
    """A panel with a row a variant, the highest on top: every seed, their mean and its interval.

    Args:
        table: with ``METRIC_open``, if there is such a column, where a number is only a bound, which its row then says.
        logx: a logarithmic axis, if the values span more than a decade.
    """
    if table.empty:  # of a profile that is published in part
        return _none_yet(label, title)
    numbers = intervals(table, [by], metric).sort_values("mean", kind="stable")
    looks = styles(by, table[by])  # in the table's order, which panels share, and not in that of the means
    open_ = table.get(f"{metric}_open", pd.Series(False, table.index))
    bounds = set(table.loc[open_, by])
    with panel(WIDTH, 0.9 + 0.27 * len(numbers)) as (figure, axes):
        figure.numbers = numbers
        if not bounds & {*numbers[by].iloc[:1], *numbers[by].iloc[-1:]}:  # between bounds nothing is known
            figure.seen = contrast(table, metric, by, looks, what=label, of=title)
        for place, (name, row) in enumerate(numbers.set_index(by).iterrows()):
            style = looks[str(name)]
            seeds = table.loc[table[by] == name, metric].dropna()
            axes.plot(seeds, [place] * len(seeds), "|", color=style.color, alpha=0.6, markersize=9)
            axes.errorbar(row["mean"], place, xerr=_error(numbers[numbers[by] == name]), color=style.color,
                          marker=style.marker, markersize=6.5, markeredgewidth=0)  # fmt: skip
        names = [looks[str(name)].label + ", a bound" * (name in bounds) for name in numbers[by]]
        axes.set_yticks(range(len(numbers)), names)
        axes.set(xlabel=label, title=title, ylim=(-0.6, len(numbers) - 0.4))
        drawn = table[metric].dropna()
        if logx and drawn.min() > 0 and drawn.max() > 10 * drawn.min():
            _log_across(axes, (1,) if drawn.max() > 100 * drawn.min() else (1, 2, 5))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(visible=True, axis="x")
    return figure


def _none_yet(label: str, title: str) -> Figure:
    with panel(WIDTH, 1.2) as (figure, axes):
        axes.text(0.5, 0.5, "none of these runs is there yet", transform=axes.transAxes, ha="center", va="center")
        axes.set(xlabel=label, title=title, xticks=[], yticks=[])
    return figure


def draw_pairs(
    table: pd.DataFrame, metric: str, label: str, *, pair: str, by: str = "variant", title: str = ""
) -> Figure:
    """A panel with a row a variant: the mean and interval under both values of a yes-or-no field (``pair``), a filled
    marker for yes and an open one for no."""
    numbers = intervals(table, [by, pair], metric)
    names = list(dict.fromkeys(numbers[by]))[::-1]
    looks = styles(by, names)
    markers = {"True": Style("the filled marker", "", ""), "False": Style("the open one", "", "")}
    with panel(WIDTH, 0.9 + 0.33 * len(names)) as (figure, axes):
        figure.numbers = numbers
        figure.seen = [
            one
            for name in names[::-1]
            for one in contrast(
                table[table[by] == name],
                metric,
                pair,
                markers,
                what=label,
                of=f"{looks[str(name)].label} {title}".strip(),
            )
        ]
        for place, name in enumerate(names):
            rows, style = numbers[numbers[by] == name], looks[str(name)]
            axes.plot(rows["mean"], [place] * len(rows), color=style.color, linewidth=1, alpha=0.6)
            for value, row in rows.groupby(pair):
                axes.errorbar(
                    row["mean"], [place + (0.12 if value else -0.12)], xerr=_error(row), color=style.color,
                    marker=style.marker, markersize=6.5, elinewidth=1, linestyle="none",
                    markerfacecolor=style.color if value else "none",
                )  # fmt: skip
        axes.set_yticks(range(len(names)), [looks[str(name)].label for name in names])
        axes.set(xlabel=label, title=title, ylim=(-0.6, len(names) - 0.4))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(visible=True, axis="x")
    return figure


def draw_heat(
    table: pd.DataFrame, metric: str, label: str, *, x: str = "lr", by: str = "variant", top: float | None = None
) -> Chart:
    """A panel with a row a variant and a column a setting: the mean over seeds as a colour and a number; a cross where
    any run diverged.

    Args:
        top: where the colours end; numbers above it have the last.
    """
    return wide(lambda width: _heat(table, metric, label, x, by, top, width), 7.6)


def _heat(table: pd.DataFrame, metric: str, label: str, x: str, by: str, top: float | None, width: float) -> Chart:
    order = list(dict.fromkeys(table[by]))
    diverged = (table["status"] != "finished").groupby([table[by], table[x]]).any().unstack(fill_value=False).loc[order]
    means = table.groupby([by, x])[metric].mean().unstack().loc[order].mask(diverged)
    looks = styles(by, order)
    short = "{:.2f}".format if width > WIDTH else _three
    scale = {"label": label, "pad": 0.015, "extend": "max" if top else "neither"}
    with panel(width, 1.1 + 0.3 * len(order)) as (figure, axes):
        figure.numbers = means.melt(var_name=x, value_name=metric, ignore_index=False).reset_index()
        known = figure.numbers.dropna()
        if len(known):
            least = dict(known.iloc[int(known[metric].argmin())])
            crosses = f"in {int(diverged.to_numpy().sum())} of {diverged.size} cells a run diverged"
            figure.seen = [f"The lowest mean, {least[metric]:.2f}, is {looks[str(least[by])].label}'s at "
                           f"{AXES.get(x, x)} {least[x]:g}; {crosses}."]  # fmt: skip
        axes.grid(visible=False)
        sns.heatmap(
            means, ax=axes, cmap="viridis_r", vmax=top, linewidths=0.5, annot=means.map(short), fmt="",
            annot_kws={"size": 10}, cbar=width > WIDTH, cbar_kws=scale,
        )  # fmt: skip
        for row, column in np.argwhere(diverged.to_numpy()):
            axes.text(column + 0.5, row + 0.5, "×", ha="center", va="center", color=TEXT)
        ticks = [f"{v:g}" if width > WIDTH else f"{v:g}".removeprefix("0") for v in means.columns]
        axes.set_xticks([i + 0.5 for i in range(means.shape[1])], ticks, rotation=0)
        axes.set_yticks([i + 0.5 for i in range(len(order))], [looks[str(n)].label for n in order], rotation=0)
        axes.tick_params(length=0)
        axes.set(xlabel=AXES.get(x, x), ylabel="")
    return figure


def _three(value: float) -> str:
    """In three characters, for a narrow cell."""
    digits = 2 if value < 0.995 else 1 if value < 9.95 else 0
    return f"{value:.{digits}f}".removeprefix("0")


def draw_ridges(frame: pd.DataFrame, *, title: str = "", by: str = "variant") -> Figure:
    """A panel with a row a variant: the density of a layer's values, its mean over seeds, cut off at one, and for
    comparison that of the standard normal distribution as a line.

    Args:
        frame: rows of the probe ``distributions`` of one layer at one step, with the column ``by``.
    """
    names = list(dict.fromkeys(frame[by]))[::-1]
    looks, width = styles(by, names), 2 * REACH / BINS
    edges = np.linspace(-REACH, REACH, BINS + 1)
    middles = edges[:-1] + width / 2
    normal = np.exp(-(middles**2) / 2) / math.sqrt(2 * math.pi)
    densities = {n: np.mean(frame.loc[frame[by] == n, "histogram"].tolist(), axis=0) / 1e4 / width for n in names}
    shown = abs(middles) < _SHOWN
    with panel(3.3, 0.9 + 0.5 * len(names)) as (figure, axes):
        figure.numbers = pd.concat([pd.DataFrame({by: n, "value": middles, "density": densities[n]}) for n in names])
        figure.seen = contrast(frame, "wasserstein", by, looks, what="distance to the standard normal", of=title)
        axes.grid(visible=False)
        for place, name in enumerate(names):
            style, front = looks[str(name)], 2.0 * (len(names) - place)
            top = place + np.minimum(densities[name], _CUT) * _RIDGE
            axes.stairs(top[shown], edges[np.append(shown, False) | np.append(False, shown)], baseline=place, fill=True,
                        color=style.color, alpha=0.75, linewidth=0, zorder=front)  # fmt: skip
            axes.plot(middles[shown], (place + normal * _RIDGE)[shown], color=TEXT, linewidth=0.9, zorder=front + 1)
        axes.set_yticks(range(len(names)), [looks[str(name)].label for name in names])
        axes.tick_params(axis="y", length=0)
        axes.set(xlim=(-_SHOWN, _SHOWN), ylim=(-0.2, len(names) - 0.9 + _CUT * _RIDGE), xlabel="value", title=title)
        axes.spines["left"].set_color("none")
    return figure


_SHOWN = 4.0  # how far from zero the values are that are drawn
_RIDGE = 1.5  # rows that a density of one is high
_CUT = 1.0  # where a density is cut off, so that no row hides the others


def draw_plane(
    table: pd.DataFrame, x: str, y: str, *, xlabel: str, ylabel: str, by: str = "variant", logx: bool = False
) -> Chart:
    """A panel with a point a variant: its means in two measures, with both intervals and its name beside it."""
    return wide(lambda width: _plane(table, x, y, xlabel, ylabel, by, logx, width), 7.6)


def _plane(table: pd.DataFrame, x: str, y: str, xlabel: str, ylabel: str, by: str, logx: bool, width: float) -> Chart:
    looks = styles(by, table[by])
    with panel(width, 4.8) as (figure, axes):
        points: dict[str, tuple[float, float]] = {}
        across, up = (intervals(table.dropna(subset=[x, y]), [by], metric) for metric in (x, y))
        figure.numbers = across.merge(up, on=by, suffixes=(f" of {x}", f" of {y}"))
        figure.seen = [one for metric, what in ((y, ylabel), (x, xlabel))
                       for one in contrast(table.dropna(subset=[x, y]), metric, by, looks, what=what)]  # fmt: skip
        for name in across[by]:
            style, h, v = looks[str(name)], across[across[by] == name], up[up[by] == name]
            point = float(h["mean"].iloc[0]), float(v["mean"].iloc[0])
            points[style.label] = point
            axes.errorbar(*point, xerr=_error(h), yerr=_error(v), color=style.color, marker=style.marker,
                          markersize=7.5, markeredgewidth=0, elinewidth=1)  # fmt: skip
        axes.set(xlabel="\n".join(textwrap.wrap(xlabel, 48 if width == WIDTH else 90)), ylabel=ylabel)
        axes.grid(visible=True)
        axes.margins(x=0.12)
        if logx:
            _log_across(axes, (1, 1.5, 2, 3, 5, 7))
        _label(axes, points)
    return figure


def _log_across(axes: Axes, at: Sequence[float]) -> None:
    """A logarithmic horizontal axis with plain numbers, at these multiples of the powers of ten."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=at, numticks=6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _label(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """The points' names beside them, above their intervals: to the left where another point is close to the right, and
    moved apart vertically where they would cover each other."""
    assert axes.figure is not None
    axes.figure.set_dpi(72)  # a pixel is a point
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    at = {name: axes.transData.transform(point) for name, point in points.items()}
    sides = {name: _free_side(name, at, axes.bbox.x0) for name in at}
    middle = {name: float(at[name][0]) + sides[name] * _LABEL_WIDTH / 2 for name in at}
    placed: dict[str, float] = {}
    for name in sorted(at, key=lambda n: float(at[n][1])):
        near = [placed[other] for other in placed if abs(middle[other] - middle[name]) < _LABEL_WIDTH]
        placed[name] = max([float(at[name][1]) + 3, *(y + _LABEL_HEIGHT for y in near)])
    for name, point in points.items():
        away = placed[name] - float(at[name][1])
        line = {"arrowstyle": "-", "linewidth": 0.5, "alpha": 0.5} if away > _LABEL_HEIGHT + 3 else None
        axes.annotate(name, point, xytext=(sides[name] * 6, away), textcoords="offset points", fontsize=10,
                      ha="left" if sides[name] > 0 else "right", arrowprops=line)  # fmt: skip


def _free_side(name: str, at: Mapping[str, Any], left: float) -> int:
    """1, to the right, unless a point is there, and to the left none and room enough up to this end: then -1."""
    if at[name][0] - _LABEL_WIDTH < left:
        return 1
    beside = [at[other] - at[name] for other in at if other != name]
    beside = [(x, y) for x, y in beside if abs(y) < _LABEL_HEIGHT and abs(x) < _LABEL_WIDTH]
    return -1 if any(x > 0 for x, _ in beside) and not any(x < 0 for x, _ in beside) else 1


_LABEL_WIDTH, _LABEL_HEIGHT = 105, 13  # points


def _error(numbers: pd.DataFrame) -> list[pd.Series]:
    """How far the interval reaches down and up; nowhere where one seed gives none."""
    return [(numbers["mean"] - numbers["low"]).fillna(0), (numbers["high"] - numbers["mean"]).fillna(0)]


def draw_settings(table: pd.DataFrame, *, x: str, y: str, title: str, by: str = "norm") -> Figure:
    """A panel of a search: the mean metric of each setting against ``x`` (log), one line a batch size, open
    markers for all but the smallest; settings that diverged are left out.

    Args:
        table: rows of :func:`normcore.lab.verdicts.tables.table`.
    """
    with panel() as (figure, axes):
        stable = table[table["status"] == "finished"]
        figure.numbers = numbers = stable.groupby([by, "batch_size", x], sort=False)[y].mean().reset_index()
        if len(numbers):
            top = dict(numbers.iloc[int(numbers[y].argmax())])
            figure.seen = [f"The highest mean of {title}, {top[y]:.3f}, is {style(str(top[by])).label}'s at "
                           f"{AXES.get(x, x)} {top[x]:g}, batch {top['batch_size']:g}."]  # fmt: skip
        for (name, size), line in numbers.groupby([by, "batch_size"], sort=False):
            look, smallest = style(str(name)), size == table["batch_size"].min()
            means = line.sort_values(x)
            axes.plot(
                means[x], means[y], color=look.color, marker=look.marker, linestyle="-" if smallest else "--",
                markerfacecolor=look.color if smallest else "none", markersize=6, linewidth=1,
                label=f"{look.label}, batch {size}",
            )  # fmt: skip
        axes.set(xscale="log", xlabel=AXES.get(x, x), ylabel=y.replace("_", " "), title=title)
        axes.set_xticks(sorted(table[x].unique()), [f"{v:g}" for v in sorted(table[x].unique())])
        axes.xaxis.minorticks_off()
        axes.legend()
    return figure


def draw_surface(frame: pd.DataFrame, name: str) -> Chart:
    """A panel with the contours of a loss on a plane, at powers of two; in the middle is the network.

    Args:
        frame: ``x``, ``y`` and ``loss`` (nats), of one network.
        name: its normalizer, in whose colour it is drawn.
    """
    look, losses = style(name), frame.pivot_table(index="y", columns="x", values="loss")
    with panel(2.8, 2.9) as (figure, axes):
        figure.numbers = frame[["x", "y", "loss"]]
        if len(losses):
            powers = range(math.ceil(math.log2(losses.min().min())), math.floor(math.log2(losses.max().max())) + 1)
            lines = axes.contour(losses.columns, losses.index, losses, levels=[2.0**power for power in powers],
                                 colors=look.color, linewidths=1)  # fmt: skip
            axes.clabel(lines, fmt="%g", fontsize=8)
        axes.plot(0, 0, look.marker, color=look.color, markersize=6)
        axes.set(title=look.label, xlabel="one direction", ylabel="another", aspect="equal")
    return figure


def draw_against(numbers: pd.DataFrame, source: Sequence[float], *, y: str) -> Figure:
    """A panel of one normalizer: our means with intervals by epoch, and a source's values for epochs 1, 2, ...

    Args:
        numbers: rows of :func:`normcore.lab.stats.intervals` with ``norm``, ``epoch``, ``mean``, ``low``, ``high``.
    """
    name = str(numbers["norm"].iloc[0])
    shown = numbers[numbers["epoch"] <= max(len(source), 1) + 1e-9]
    look = style(name)
    with panel(height=2.7) as (figure, axes):
        said = pd.Series(source, index=range(1, 1 + len(source)), name="source", dtype=float)
        figure.numbers = shown.merge(said, left_on="epoch", right_index=True, how="left")
        error = (shown["mean"] - shown["low"], shown["high"] - shown["mean"])
        beside = figure.numbers.dropna(subset=["source", "low"])
        if len(beside):
            inside = int(beside["source"].between(beside["low"], beside["high"]).sum())
            furthest = (beside["mean"] - beside["source"]).abs().max()
            figure.seen = [f"{look.label}: {inside} of the source's {len(beside)} values within our bars, the furthest "
                           f"{furthest:.2g} from our mean."]  # fmt: skip
        axes.errorbar(
            shown["epoch"], shown["mean"], yerr=error, fmt=look.marker, color=look.color, markersize=5,
            capsize=3, label="ours",
        )  # fmt: skip
        axes.plot(
            range(1, 1 + len(source)), source, "o", color=TEXT, markerfacecolor="none", markersize=7, label="source"
        )
        axes.set(xlabel="epoch", ylabel=y, title=look.label, xticks=range(1, 1 + max(len(source), 1)))
        axes.legend()
    return figure
