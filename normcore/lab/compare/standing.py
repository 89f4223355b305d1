"""Where a normalizer stands beside each rival, in each workload: differences, words, a profile over all of them."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..errors import UsageError
from ..figures.look import label, panel, styles
from ..stats import MIN_SEEDS, Interval, paired_difference
from .battery import Workload

BETTER, WORSE, LEVEL, OPEN, RANGE = (
    "better than",
    "worse than",
    "level with",
    "not told apart from",
    "not judged beside",
)


def standing(scores: pd.DataFrame, workloads: Iterable[Workload], norm: str, rivals: Sequence[str]) -> pd.DataFrame:
    """One row a workload and a rival: ``difference``, the mean over seeds of the normalizer's value minus the rival's,
    with ``low`` and ``high``, the seeds ``n``, and a ``verdict`` on it.

    Better and worse are a 95 % interval without zero around a difference of interest; level is an interval within the
    smallest difference of interest; between the two they are not told apart, and with fewer than five seeds not judged.

    Args:
        scores: rows of :meth:`normcore.lab.compare.battery.Battery.scores`.
    """
    rows = []
    for workload in workloads:
        own = scores[scores["workload"] == workload.name]
        for rival in rivals:
            try:
                found = paired_difference(own, "value", norm, rival)
            except UsageError:  # one of the two cannot stand there, or diverged with every seed
                continue
            rows.append({
                "workload": workload.name, "norm": norm, "rival": rival, "difference": found.mean, "low": found.low,
                "high": found.high, "n": found.n, "verdict": _verdict(found, workload),
            })  # fmt: skip
    columns = ["workload", "norm", "rival", "difference", "low", "high", "n", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def _verdict(found: Interval, workload: Workload) -> str:
    if found.n < MIN_SEEDS:
        return RANGE
    mean, low, high = (-found.mean, -found.high, -found.low) if workload.lower else (found.mean, found.low, found.high)
    if max(abs(low), abs(high)) <= workload.least:
        return LEVEL
    if abs(mean) > workload.least and (low > 0 or high < 0):
        return BETTER if low > 0 else WORSE
    return OPEN


def sentences(table: pd.DataFrame, scores: pd.DataFrame, workloads: Iterable[Workload], norm: str) -> list[str]:
    """What the rows of :func:`standing` say, a sentence a workload."""
    said = []
    for workload in workloads:
        rows = table[(table["workload"] == workload.name) & (table["norm"] == norm)]
        own = scores[(scores["workload"] == workload.name) & (scores["norm"] == norm)]
        if own.empty:
            said.append(f"{workload.title}: it cannot stand there.")
            continue
        diverged = int(own["value"].isna().sum())
        words = [f"diverged with {diverged} of {len(own)} seeds"] if diverged else []
        for verdict in (BETTER, WORSE, LEVEL, OPEN, RANGE):
            beside = [_beside(row, verdict) for row in rows[rows["verdict"] == verdict].to_dict("records")]
            if beside:
                words.append(f"{verdict} {_listed(beside)}")
        said.append(f"{workload.title}: {'; '.join(words) or 'nothing to compare'}.")
    return said


def _beside(row: dict[Any, Any], verdict: str) -> str:
    name = label(str(row["rival"]))
    if verdict in (LEVEL, OPEN):
        return name
    difference = round(row["difference"], 6)
    if verdict == RANGE:
        return f"{name} ({difference:+.3g})"
    return f"{name} by {abs(difference):.3g} [{_ends(row)}]"


def _ends(row: dict[Any, Any]) -> str:
    low, high = sorted((abs(row["low"]), abs(row["high"])))
    return f"{low:.3g}, {high:.3g}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def profile(scores: pd.DataFrame, workloads: Iterable[Workload]) -> pd.DataFrame:
    """How far each normalizer is from the best of each workload, as a ratio of what is to be small: the share of images
    wrong, the loss, one over the decades of rates. Infinite where it has no value.

    Returns:
        ``workload``, ``norm``, ``ratio``; 1 for the best.
    """
    rows = []
    for workload in workloads:
        means = scores[scores["workload"] == workload.name].groupby("norm", sort=False)["value"].mean()
        with np.errstate(divide="ignore"):
            costs = means if workload.lower else 1 / means if workload.metric == "decades" else 1 - means
        costs = costs.reindex(scores["norm"].unique()).fillna(np.inf)
        least = costs.min()
        if np.isfinite(least):
            ratios = costs / max(least, 1e-12)
            rows += [{"workload": workload.name, "norm": norm, "ratio": ratio} for norm, ratio in ratios.items()]
    return pd.DataFrame(rows, columns=["workload", "norm", "ratio"])


def draw_profile(ratios: pd.DataFrame) -> Figure:
    """A panel with a line a normalizer: the share of workloads in which it is within a factor of the best (Dolan & Moré
    2002). Higher is better; the left end says how often it is the best.

    Args:
        ratios: rows of :func:`profile`.
    """
    looks = styles("norm", ratios["norm"])
    finite = ratios["ratio"][np.isfinite(ratios["ratio"])]
    end = max(1.1, float(finite.max()) * 1.05) if len(finite) else 2.0
    with panel(6.4, 3.4) as (figure, axes):
        for name, own in ratios.groupby("norm", sort=False):
            at = np.sort(own["ratio"].to_numpy())
            at = at[np.isfinite(at)]
            shares = np.arange(1, len(at) + 1) / len(own)
            look = looks[str(name)]
            axes.plot([1, *at, end], [float((at <= 1).sum()) / len(own), *shares, len(at) / len(own)], color=look.color,
                      linestyle=look.dash, marker=look.marker, drawstyle="steps-post", markevery=[1] if len(at) else [],
                      label=look.label)  # fmt: skip
        axes.set(
            xscale="log", xlabel="factor of the best", ylabel="share of workloads", ylim=(-0.03, 1.03), xlim=(1, end)
        )
        ticks = [t for t in (1, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100) if t <= end]
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.xaxis.minorticks_off()
    return figure


def draw_standing(table: pd.DataFrame, workload: Workload) -> Figure:
    """A panel of one workload: the difference from each rival with its interval, zero, and the smallest difference of
    interest as a band."""
    rows = table[table["workload"] == workload.name].iloc[::-1]
    looks = styles("norm", rows["rival"])
    with panel(4.4, 0.9 + 0.3 * max(1, len(rows))) as (figure, axes):
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
