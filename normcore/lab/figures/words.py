"""What is to be seen in a figure, in words that are computed from what it draws.

The difference between the highest and the lowest of what a panel compares is a paired one over seeds, by the functions
that the verdicts are made by (:mod:`normcore.lab.stats`). The two are picked out by their means: they count as told
apart only where their p value, allowing for the looks and for all the pairs that they were picked from, is small.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..errors import UsageError
from ..stats import ALPHA, MIN_SEEDS, Interval, mean_interval, over_looks, paired_difference, smallest

if TYPE_CHECKING:  # which shows the words
    from .look import Style


@dataclass(frozen=True)
class Contrast:
    """The highest and the lowest of several.

    Attributes:
        what: is compared, such as ``test accuracy``.
        of: which of several comparisons it is, such as a panel's title; empty where it is the only one.
        high, low: what the two are called.
        apart: the difference.
        least: the smallest difference of interest.
        compared: how many there are.
    """

    what: str
    of: str
    high: str
    low: str
    apart: Interval
    least: float
    compared: int

    @property
    def pairs(self) -> int:
        return self.compared * (self.compared - 1) // 2


def contrast(
    table: pd.DataFrame,
    metric: str,
    by: str,
    looks: "Mapping[str, Style]",
    *,
    what: str,
    of: str = "",
    measure: str = "",
) -> list[Contrast | str]:
    """Between the highest and the lowest mean of the metric; where there is only one, what it is; nothing where there
    are not two to compare with shared seeds.

    Args:
        table: one row a run, with ``seed``, ``by`` and the metric.
        looks: of the values of ``by``.
        measure: that the metric is, which has a smallest effect of interest; by default of its name.
    """
    if not {"seed", metric} <= set(table.columns):
        return []
    rows = table.dropna(subset=[metric]).astype({by: str})
    means = rows.groupby(by, sort=False)[metric].mean()
    if len(means) == 1 and np.isfinite(rows[metric]).all() and rows["seed"].is_unique:
        found = mean_interval(rows[metric])
        return [f"{_headed(what, of)}: only {looks[str(means.index[0])].label} is there, {_number(found)}."]
    high, low = (str(means.idxmax()), str(means.idxmin())) if len(means) else ("", "")
    if high == low:
        return []
    try:
        apart = paired_difference(rows, metric, high, low, by=by)
    except UsageError:  # they share no seed, or there are several runs of one
        return []
    if apart.mean <= 0:  # with the seeds that both have it is the other way about
        return []
    least = smallest(measure or metric, float(means[[high, low]].mean()))
    return [Contrast(what, of, looks[high].label, looks[low].label, apart, least, len(means))]


def told(seen: Sequence[Sequence[Contrast | str]]) -> list[str]:
    """Sentences on what is to be seen in the panels of a figure: one on all where they compare the same, else one a
    panel.

    Args:
        seen: of each panel.
    """
    contrasts = [one for panel in seen for one in panel if isinstance(one, Contrast)]
    texts = list(dict.fromkeys(one for panel in seen for one in panel if isinstance(one, str)))
    by_what: dict[str, list[Contrast]] = {}
    for one in contrasts:
        by_what.setdefault(one.what, []).append(one)
    return [*(said for of_one in by_what.values() for said in _of_all(of_one)), *texts]


def _of_all(contrasts: Sequence[Contrast]) -> list[str]:
    """The widest of them, and where there is none."""
    widest = max(contrasts, key=lambda one: one.apart.mean)
    pairs = sum(one.pairs for one in contrasts)
    if len(contrasts) == 1:
        return [f"{_headed(widest.what, widest.of)}: {_in_words(widest, pairs)}."]
    said = f"{_headed(f'{widest.what}, the widest gap', widest.of)}: {_in_words(widest, pairs)}."
    alike = [one.of for one in contrasts if one.apart.n >= MIN_SEEDS and not _clear(one, pairs)]
    if not alike or widest.of in alike:
        return [said]
    names = "; ".join(alike) if len(alike) < 4 else f"{len(alike)} of {len(contrasts)}"
    return [said, f"Highest and lowest cannot be told apart: {names}."]


def _headed(what: str, of: str) -> str:
    """What a sentence is about, such as ``Test accuracy (BN)``."""
    return what[0].upper() + what[1:] + (f" ({of})" if of else "")


def _number(found: Interval) -> str:
    return format(found, ",.0f" if abs(found.mean) >= 100 else ".3g")


def _clear(one: Contrast, pairs: int) -> bool:
    """Whether the two are told apart, being picked from so many pairs."""
    return one.apart.n >= MIN_SEEDS and over_looks(one.apart.p) * pairs <= ALPHA


def _in_words(one: Contrast, pairs: int) -> str:
    apart, several = one.apart, one.compared > 2
    by = _number(apart)
    said = (
        f"{one.high} is highest, {by} above {one.low}, the lowest" if several else f"{one.high} is {by} above {one.low}"
    )
    interest = f"than the smallest difference of interest, {one.least:{',.0f' if one.least >= 100 else '.2g'}}"
    if apart.n < MIN_SEEDS:
        return f"{said}; one run each" if apart.n < 2 else f"{said}; {apart.n} seeds, too few to judge by"
    if max(abs(apart.low), abs(apart.high)) < one.least:
        return f"{said}, less {interest}"
    if not _clear(one, pairs):
        among = f"picked from {one.compared}, " if several and apart.p <= ALPHA else ""
        return f"{said}; {among}the two cannot be told apart with {apart.n} seeds"
    return f"{said}, more {interest}" if apart.low > one.least else said
