"""What the notebook of a comparison shows."""

import html
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...factory import NORMS, make_norm
from ...testing import dependences, examine
from ..figures.look import Chart, Html, csv_link, label, panel, show, styles, tabulate, wide
from ..stats import spread
from .battery import LONG, Battery, Workload
from .cost import step_times
from .standing import listed, sentences, standing

Options = Mapping[str, Mapping[str, Any]]


def checks(norms: Iterable[str], options: Options) -> Html:
    """What each layer has to stand, and how it comes off (:func:`normcore.testing.examine`)."""
    rows: dict[str, dict[str, str]] = {}
    for norm in norms:
        for check in examine(partial(make_norm, norm, **options.get(norm, {}))):
            rows.setdefault(check.name, {"check": check.name})[label(norm)] = ": ".join(
                filter(None, (check.outcome, check.says))
            )
    return tabulate(rows.values())


def depends(norms: Iterable[str], options: Options) -> Html:
    """What each layer's output depends on (:func:`normcore.testing.dependences`)."""
    rows = []
    for norm in norms:
        found = dependences(partial(make_norm, norm, **options.get(norm, {})))
        rows.append({"norm": label(norm), **{what: f"{change:.3f}" for what, change in found.items()}})
    return tabulate(rows)


def standings(scores: pd.DataFrame, battery: Battery, norms: Sequence[str], rivals: Sequence[str]) -> pd.DataFrame:
    """The rows of :func:`normcore.lab.compare.standing.standing` of each of these normalizers."""
    return pd.concat([standing(scores, battery.workloads, norm, rivals) for norm in norms], ignore_index=True)


def words(table: pd.DataFrame, scores: pd.DataFrame, battery: Battery, norms: Iterable[str]) -> Html:
    """Where each normalizer stands, in sentences, and what it cannot do."""
    parts = []
    for norm in norms:
        said = sentences(table, scores, battery.workloads, norm, battery.cannot(norm))
        reasons = (why for (_, refused), why in battery.refused.items() if refused == norm)
        said += dict.fromkeys(f"{why.replace(norm, label(norm))}." for why in reasons)
        items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in said)
        parts.append(f"<h3>{html.escape(label(norm))}</h3><ul>{items}</ul>")
    return Html("".join(parts))


def draw_standings(table: pd.DataFrame, battery: Battery, norms: Iterable[str], note: str) -> Html:
    """For each normalizer a figure of every workload: the difference from each rival."""
    parts = []
    for norm in norms:
        own, name = table[table["norm"] == norm], label(norm)
        if own.empty:  # of a profile that is there in part
            continue
        shown = [w for w in battery.workloads if (own["workload"] == w.name).any()]
        least, counts = int(own["n"].min()), own["verdict"].value_counts()
        found = listed([f"{verdict} the known one in {number}" for verdict, number in counts.items()])
        seen = f"Of {len(own)} comparisons, {name} is {found}."
        parts.append(show(
            [draw_standing(own, workload) for workload in shown], share_y=False,
            alt=f"The difference of {name} from each of the known normalizers, one panel per workload. {seen}",
            caption=f"{seen} {name} minus each of the known ones, means over seeds{spread(least, 'bars')}; the grey "
            f"band is the smallest difference of interest. {note}",
        ))  # fmt: skip
    return Html("".join(parts))


STRONG = 7  # lines of a figure at full strength, as in book/_assets/curves.js


def draw_profile(ratios: pd.DataFrame) -> Chart:
    """A panel with a line a normalizer: the share of workloads in which it is within a factor of the best (Dolan & Moré
    2002). Higher is better; the left end says how often it is the best. Where there are many, the known ones are faint.

    Args:
        ratios: rows of :func:`profile`.
    """
    return wide(lambda width: _profile(ratios, width), 6.4)


def _profile(ratios: pd.DataFrame, width: float) -> Chart:
    looks = styles("norm", ratios["norm"])
    finite = ratios["ratio"][np.isfinite(ratios["ratio"])]
    end = max(1.1, float(finite.max()) * 1.05) if len(finite) else 2.0
    with panel(width, 3.4) as (figure, axes):
        figure.numbers = ratios
        firsts = ratios[ratios["ratio"] <= 1]["norm"].value_counts()
        if len(firsts):
            leads = listed([looks[str(n)].label for n in firsts.index[firsts == firsts.iloc[0]]])
            figure.seen = [
                f"The best mean in most workloads, {firsts.iloc[0]} of {ratios['workload'].nunique()}: {leads}."
            ]
        for name, own in ratios.groupby("norm", sort=False):
            at = np.sort(own["ratio"].to_numpy())
            at = at[np.isfinite(at)]
            shares = np.arange(1, len(at) + 1) / len(own)
            look, known = looks[str(name)], str(name) in NORMS
            behind: dict[str, Any] = {"alpha": 0.45, "linewidth": 1.0} if known and len(looks) > STRONG else {}
            axes.plot([1, *at, end], [float((at <= 1).sum()) / len(own), *shares, len(at) / len(own)], color=look.color,
                      linestyle=look.dash, marker=look.marker, drawstyle="steps-post", markevery=[1] if len(at) else [],
                      label=look.label, **behind)  # fmt: skip
        axes.set(
            xscale="log", xlabel="factor of the best", ylabel="share of workloads", ylim=(-0.03, 1.03), xlim=(1, end)
        )
        ticks = [t for t in (1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100) if t <= end]
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.xaxis.minorticks_off()
    return figure


def draw_standing(table: pd.DataFrame, workload: Workload) -> Figure:
    """A panel of one workload: the difference from each rival with its interval, zero, and the smallest difference of
    interest as a band."""
    rows = table[table["workload"] == workload.name].iloc[::-1]
    looks = styles("norm", rows["rival"])
    with panel(4.4, 0.9 + 0.3 * max(1, len(rows))) as (figure, axes):
        figure.numbers = rows
        axes.axvspan(-workload.least, workload.least, color="#808080", alpha=0.2, linewidth=0)
        axes.axvline(0, color="#808080", linewidth=0.9)
        for place, row in enumerate(rows.to_dict("records")):
            look = looks[str(row["rival"])]
            mean, low, high = (float(row[end]) for end in ("difference", "low", "high"))
            error = None if np.isnan(low) else [[max(0.0, mean - low)], [max(0.0, high - mean)]]
            axes.errorbar(mean, place, xerr=error, color=look.color, marker=look.marker, markersize=6.5,
                          markeredgewidth=0, elinewidth=1.4)  # fmt: skip
        axes.set_yticks(range(len(rows)), [f"minus {looks[str(r)].label}" for r in rows["rival"]])
        better = "lower is better" if workload.lower else "higher is better"
        axes.set(xlabel=f"{workload.unit}, {better}", title=workload.title, ylim=(-0.6, len(rows) - 0.4))
        axes.grid(visible=True, axis="x")
    return figure


def lenet_costs(battery: Battery, rounds: int, device: Any) -> Html:
    """A step of training with each normalizer, on images."""
    configs = [configs[0] for (workload, _), configs in battery.runs.items() if workload == LONG]
    costs = step_times(configs, rounds, str(device))
    return tabulate([dict(row) for _, row in costs.iterrows()])


def download(**tables: pd.DataFrame) -> Html:
    """Links to tables as CSV files, which are in the page itself."""
    links = [csv_link(name, table, f"{name}.csv") for name, table in tables.items()]
    return Html(f'<p class="nc-tables-csv">{", ".join(links)}</p>')
