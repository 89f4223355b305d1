"""Means over seeds with 95 % bootstrap intervals, paired differences, and choices by a search."""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from .errors import UsageError

CONFIDENCE = 0.95
RESAMPLES = 9999


class Interval(NamedTuple):
    """A mean and the bootstrap interval around it; NaN ends where one value gives no interval."""

    mean: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        interval = "" if math.isnan(self.low) else f" [{self.low:{spec}}, {self.high:{spec}}]"  # of one seed, none
        return f"{self.mean:{spec}}{interval}"


def mean_interval(values: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Mean with its percentile bootstrap interval (Efron & Tibshirani 1993, chapter 13).

    The resampling is seeded, so equal values give equal intervals.

    Args:
        values: one number a seed, finite.

    Raises:
        UsageError: no values, or one that is not finite.
    """
    x = np.asarray(values, dtype=float)
    if x.size == 0 or not np.isfinite(x).all():
        raise UsageError(f"an interval needs finite values, got {x.tolist()}")
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, float("nan"), float("nan"))
    if np.ptp(x) == 0:
        return Interval(mean, mean, mean)
    with warnings.catch_warnings():  # few seeds have few distinct resamples; the interval says so by itself
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (x,), np.mean, confidence_level=confidence, n_resamples=RESAMPLES, method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval  # fmt: skip
    return Interval(mean, float(found.low), float(found.high))


def intervals(table: pd.DataFrame, by: Sequence[str], metric: str) -> pd.DataFrame:
    """Mean, low and high of a metric over the rows of each group (its seeds), and ``n``, their number."""
    rows = []
    for values, group in table.groupby(list(by), sort=False):
        interval = mean_interval(group[metric])
        rows.append({**dict(zip(by, values, strict=True)), **interval._asdict(), "n": len(group)})
    return pd.DataFrame(rows, columns=[*by, *Interval._fields, "n"])


def paired_difference(table: pd.DataFrame, metric: str, a: str, b: str, *, by: str = "norm") -> Interval:
    """Mean of ``metric(a) - metric(b)`` over the seeds that both have, with its interval.

    Args:
        table: one row a run, with columns ``seed``, ``by`` and the metric.
        a, b: two values of the column ``by``.

    Raises:
        UsageError: if the two share no seed, or one has several rows a seed.
    """
    compared = table[table[by].isin([a, b])]
    if compared.duplicated(["seed", by]).any():
        raise UsageError(f"{a} or {b} has more than one run a seed: narrow the table down first")
    wide = compared.pivot(index="seed", columns=by, values=metric).dropna()
    if a not in wide or b not in wide:
        raise UsageError(f"no runs of {a if a not in wide else b} to compare in {metric}")
    if wide.empty:
        raise UsageError(f"{a} and {b} share no seed")
    return mean_interval(wide[a] - wide[b])


def best(table: pd.DataFrame, metric: str, over: Sequence[str], *, by: str = "norm") -> dict[str, dict[str, object]]:
    """For each value of ``by`` the setting (the columns ``over``) of the highest mean metric over seeds.

    A setting of which any run diverged is not chosen.

    Raises:
        UsageError: if every setting of some group diverged.
    """
    chosen = {}
    for name, group in table.groupby(by, sort=False):
        stable = group.groupby(list(over)).filter(lambda runs: (runs["status"] == "finished").all())
        if stable.empty:
            raise UsageError(f"every setting of {name} diverged: widen the search")
        means = stable.groupby(list(over), sort=False)[metric].mean().reset_index()
        top = means.sort_values(metric, kind="stable")[list(over)].tail(1)
        chosen[str(name)] = {str(k): v for k, v in top.to_dict("records")[0].items()}
    return chosen
