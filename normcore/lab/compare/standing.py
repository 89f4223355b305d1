"""Where a normalizer stands beside each rival, in each workload: differences, words, a profile over all of them."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..errors import UsageError
from ..figures.look import label
from ..stats import MIN_SEEDS, Interval, paired_difference
from .battery import Workload

BETTER, WORSE, LEVEL, OPEN, RANGE = (
    "better than",
    "worse than",
    "level with",
    "not told apart from",
    "not judged beside",
)


CANNOT = "it cannot stand there"


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


def sentences(
    table: pd.DataFrame, scores: pd.DataFrame, workloads: Iterable[Workload], norm: str, cannot: Collection[str] = ()
) -> list[str]:
    """What the rows of :func:`standing` say, a sentence a workload.

    Args:
        cannot: names of workloads in which the normalizer cannot stand.
    """
    said = []
    for workload in workloads:
        rows = table[(table["workload"] == workload.name) & (table["norm"] == norm)]
        own = scores[(scores["workload"] == workload.name) & (scores["norm"] == norm)]
        if own.empty:
            said.append(f"{workload.title}: {CANNOT if workload.name in cannot else 'not run yet'}.")
            continue
        diverged = int(own["value"].isna().sum())
        words = [f"diverged with {diverged} of {len(own)} seeds"] if diverged else []
        for verdict in (BETTER, WORSE, LEVEL, OPEN, RANGE):
            beside = [_beside(row, verdict) for row in rows[rows["verdict"] == verdict].to_dict("records")]
            if beside:
                words.append(f"{verdict} {listed(beside)}")
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


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def mean_values(scores: pd.DataFrame, workload: Workload) -> "pd.Series[float]":
    """The mean over seeds of each normalizer that has a value in a workload, the best first."""
    own = scores[scores["workload"] == workload.name].dropna(subset=["value"])
    return own.groupby("norm", sort=False)["value"].mean().sort_values(ascending=workload.lower, kind="stable")


def groups(scores: pd.DataFrame, workload: Workload, norms: Collection[str]) -> list[list[str]]:
    """The normalizers of a workload in groups that can be told apart, the best first: with the best of each group are
    all that it is not :data:`BETTER` than."""
    left = [str(norm) for norm in mean_values(scores, workload).index if norm in norms]
    found = []
    while left:
        beside = standing(scores, [workload], left[0], left[1:])
        behind = set(beside.loc[beside["verdict"] == BETTER, "rival"])
        found.append([norm for norm in left if norm not in behind])
        left = [norm for norm in left if norm in behind]
    return found


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
