"""Intervals over seeds, paired differences, the tests behind the verdicts, and choices by a search.

Every interval of the book is made here: a mean over seeds with a t interval whose variance is moderated by those of its
family, the same measure under the other settings of the experiment (Smyth 2004, as limma has it). A few seeds tell a
variance badly, many settings with a few seeds each tell it well. Fewer than ``MIN_SEEDS`` seeds have no interval;
what is drawn and tabulated then is the range of the seeds, and is called so.
"""

import functools
import itertools
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy  # whose parts are imported when they are first asked for: its stats take a second
from numpy.typing import ArrayLike, NDArray
from scipy import special

from .config import AVERAGE_PRECISIONS, GENERATED, RESTORED, RESTYLED
from .errors import UsageError

CONFIDENCE = 0.95
ALPHA = 0.05  # a verdict is wrong at most this often where nothing is there
LOOKS = (5, 8, 12, 20)  # numbers of seeds at which a verdict may be taken, fixed in advance
MIN_SEEDS = LOOKS[0]  # fewer give a range and no verdict
MIN_FAMILY = 4  # fewer variances moderate none
POWER = 0.8  # with which the seeds that are asked for would find an effect as large as the one seen

Array = NDArray[np.float64]


class Prior(NamedTuple):
    """What a family says of a variance: an inverse chi-square distribution of ``df`` degrees of freedom around
    ``variance``. ``df`` 0 says nothing. ``pooled`` are the degrees of freedom of the whole family."""

    df: Any = 0.0
    variance: Any = 0.0
    pooled: Any = math.inf


NO_PRIOR = Prior()


class Interval(NamedTuple):
    """A mean over seeds and what is known of it.

    Attributes:
        mean, low, high: with ``MIN_SEEDS`` seeds or more the ends of the 95 % interval; with fewer the smallest and the
            largest value; NaN where one seed has neither.
        n: how many seeds; 0 where the ends are not of seeds.
        se, df: the standard error of the mean, from the moderated variance, and its degrees of freedom.
    """

    mean: float
    low: float
    high: float
    n: int = 0
    se: float = math.nan
    df: float = math.nan

    @property
    def kind(self) -> str:
        """``interval``, ``range``, or nothing where there is neither."""
        if math.isnan(self.low):
            return ""
        return "range" if 0 < self.n < MIN_SEEDS else "interval"

    def above(self, bound: float) -> float:
        """The p value of lying above the bound: twice the one-sided one, so that ``ALPHA`` is meant for both sides."""
        if not self.se > 0:
            return 0.0 if self.se == 0 and self.mean > bound else 1.0
        return min(1.0, 2 * float(special.stdtr(self.df, (bound - self.mean) / self.se)))

    def below(self, bound: float) -> float:
        """The p value of lying below the bound."""
        return Interval(-self.mean, -self.high, -self.low, self.n, self.se, self.df).above(-bound)

    @property
    def p(self) -> float:
        """The two-sided p value of a mean of zero; NaN where there is no interval."""
        if self.kind != "interval" or math.isnan(self.se):
            return math.nan
        return min(self.above(0), self.below(0))

    def __format__(self, spec: str) -> str:
        spec = spec or ".3f"
        ends = {
            "": "", "interval": f" [{self.low:{spec}}, {self.high:{spec}}]",
            "range": f" (range {self.low:{spec}} to {self.high:{spec}})",
        }  # fmt: skip
        return f"{self.mean:{spec}}{ends[self.kind]}"


# --- the moderated variance ------------------------------------------------------------------------------


def fit_prior(variances: ArrayLike, df: ArrayLike) -> Prior:
    """The prior distribution of the variances of a family, fitted by the mean and the variance of their logarithms
    (Smyth 2004, section 6.2). Families stand along the last axis.

    Args:
        variances: a sample variance each; NaN where there is none.
        df: the degrees of freedom of each.
    """
    found = np.asarray(variances, dtype=float)
    own = np.broadcast_to(np.asarray(df, dtype=float), found.shape)
    if found.shape[-1] < MIN_FAMILY:
        return NO_PRIOR
    known = np.isfinite(found) & (own > 0)
    with warnings.catch_warnings(), np.errstate(all="ignore"):  # families without a variance; they say nothing
        warnings.simplefilter("ignore", RuntimeWarning)
        middle = np.nanmedian(np.where(known, found, np.nan), axis=-1, keepdims=True)
        found = np.where(known, np.maximum(found, 1e-5 * middle), np.nan)  # as limma keeps zeros in bounds
        half = np.where(known, own / 2, np.nan)
        logs = np.log(found) - special.digamma(half) + np.log(half)
        excess = np.nanvar(logs, axis=-1, ddof=1) - np.nanmean(special.polygamma(1, half), axis=-1)
        pooled = np.nansum(2 * half, axis=-1)
        prior_df = np.where(excess > 0, 2 * _trigamma_inverse(np.where(excess > 0, excess, 1.0)), np.inf)
        finite = np.where(np.isfinite(prior_df), prior_df, 1.0) / 2
        spread = np.exp(np.nanmean(logs, axis=-1) + special.digamma(finite) - np.log(finite))
        same = np.nansum(2 * half * found, axis=-1) / pooled
        nothing = (known.sum(axis=-1) < MIN_FAMILY) | ~(middle[..., 0] > 0)
        return Prior(
            np.where(nothing, 0.0, prior_df), np.where(nothing, 0.0, np.where(np.isfinite(prior_df), spread, same)),
            np.where(nothing, np.inf, pooled),
        )  # fmt: skip


def _trigamma_inverse(x: Array) -> Array:
    """The y whose trigamma is x, by Newton's method on 1 / trigamma (Smyth 2004, appendix)."""
    y = 0.5 + 1 / x
    for _ in range(50):
        trigamma = special.polygamma(1, y)
        step = trigamma * (1 - trigamma / x) / special.polygamma(2, y)
        y = y + step
        if np.max(-step / y) < 1e-8:
            break
    return np.asarray(y)


def moderate(variance: Any, df: Any, prior: Prior) -> tuple[Array, Array]:
    """Sample variances pulled toward the prior's, in proportion to both degrees of freedom, and the degrees of freedom
    of the result.

    A family of few settings tells its prior badly, which limma, with its thousands of genes, need not mind: here the
    prior counts for two thirds of its degrees of freedom, and no result has more than half of the family's. Without
    that too many verdicts are wrong (:mod:`normcore.lab.verdicts.simulation`).
    """
    df = np.asarray(df, dtype=float)
    variance = np.where(df > 0, variance, 0.0)
    prior_df, centre = 2 / 3 * np.asarray(prior.df, dtype=float), np.asarray(prior.variance, dtype=float)
    finite = np.where(np.isfinite(prior_df), prior_df, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mixed = (finite * centre + df * variance) / (finite + df)
    total = np.minimum(prior_df + df, np.maximum(np.asarray(prior.pooled) / 2, df))
    result = np.where(np.isfinite(prior_df), mixed, centre)
    return result, np.broadcast_to(total, result.shape)


def family(columns: Iterable["pd.Series[float]"], *, paired: bool) -> Prior:
    """The prior of a family of settings.

    Args:
        columns: the measure of each setting, its index the seeds.
        paired: of differences, or of settings by themselves. Differences are of every setting and the next, two by
            two, so that no setting enters twice; their variances are halved. Either way the prior is that of the
            variance of a combination of settings whose squared coefficients sum to one.
    """
    values = [column.dropna() for column in columns]
    values = [column for column in values if len(column) > 1]
    if paired:
        pairs = zip(values[::2], values[1::2], strict=False)
        values = [((a - b) / math.sqrt(2)).dropna() for a, b in pairs]
    found = [(float(v.var()), len(v) - 1) for v in values if len(v) > 1]
    return fit_prior(*zip(*found, strict=True)) if found else NO_PRIOR


# --- intervals -------------------------------------------------------------------------------------------


def _ends(mean: Any, variance: Any, n: Any, least: Any, most: Any, prior: Prior) -> dict[str, Any]:
    """The fields of :class:`Interval` but for the mean, for any number of them at once."""
    n = np.asarray(n)
    moderated, df = moderate(variance, n - 1, prior)
    se = np.sqrt(moderated / n)
    reach = se * special.stdtrit(np.maximum(df, 1e-9), (1 + CONFIDENCE) / 2)
    few, alone = n < MIN_SEEDS, n < 2
    low, high = (np.where(few, end, mean + sign * reach) for end, sign in ((least, -1), (most, 1)))
    return {"low": np.where(alone, np.nan, low), "high": np.where(alone, np.nan, high), "n": n, "se": se, "df": df}


def mean_interval(values: ArrayLike, prior: Prior = NO_PRIOR) -> Interval:
    """Mean over seeds with its interval; without a prior that of Student's t.

    Args:
        values: one number a seed, finite.
        prior: of the variance, see :func:`family`.

    Raises:
        UsageError: no values, or one that is not finite.
    """
    x = np.asarray(values, dtype=float)
    if x.size == 0 or not np.isfinite(x).all():
        raise UsageError(f"an interval needs finite values, got {x.tolist()}")
    variance = float(x.var(ddof=1)) if x.size > 1 and np.ptp(x) > 0 else 0.0
    mean = np.clip(x.mean(), x.min(), x.max())  # the mean of equal values can be rounded past them
    ends = _ends(mean, variance, x.size, x.min(), x.max(), prior)
    return Interval(float(mean), **{name: value.item() for name, value in ends.items()})


def intervals(table: pd.DataFrame, by: Sequence[str], metric: str) -> pd.DataFrame:
    """The fields of an :class:`Interval` of a metric over the rows (the seeds) of each group that have it; the groups
    are the family by which the variances are moderated. It is what a figure draws, and what its CSV holds."""
    groups = table.dropna(subset=[metric]).groupby(list(by), sort=False)[metric]
    numbers = groups.agg(["mean", "var", "count", "min", "max"]).reset_index()
    least, most, n = numbers["min"].to_numpy(), numbers["max"].to_numpy(), numbers["count"].to_numpy()
    numbers["mean"] = numbers["mean"].clip(least, most)
    variance = np.where(least == most, 0.0, numbers["var"].to_numpy())
    prior = fit_prior(np.where(n > 1, variance, np.nan), n - 1)
    ends = _ends(numbers["mean"].to_numpy(), variance, n, least, most, prior)
    return numbers.assign(**ends)[[*by, *Interval._fields]]


def paired_difference(table: pd.DataFrame, metric: str, a: str, b: str, *, by: str = "norm") -> Interval:
    """Mean of ``metric(a) - metric(b)`` over the seeds that both have, with its interval; the variance is moderated
    by the differences between the other values of ``by``.

    Args:
        table: one row a run, with columns ``seed``, ``by`` and the metric.
        a, b: two values of the column ``by``.

    Raises:
        UsageError: if the two share no seed, or one has several rows a seed.
    """
    if table[table[by].isin([a, b])].duplicated(["seed", by]).any():
        raise UsageError(f"{a} or {b} has more than one run a seed: narrow the table down first")
    columns = {
        name: rows.set_index("seed")[metric].dropna()
        for name, rows in table.groupby(by, sort=False)
        if not rows["seed"].duplicated().any()
    }
    for name in (a, b):
        if name not in columns or columns[name].empty:
            raise UsageError(f"no runs of {name} to compare in {metric}")
    difference = (columns[a] - columns[b]).dropna()
    if difference.empty:
        raise UsageError(f"{a} and {b} share no seed")
    prior = family(columns.values(), paired=True)
    return mean_interval(difference, prior._replace(variance=2 * prior.variance))


def spread(seeds: int | pd.DataFrame, what: str = "bands") -> str:
    """What is drawn around a mean over so many seeds, or over those of these rows, for the sentence of a caption.

    >>> [f"Means{spread(n)}." for n in (5, 3, 1)]
    ['Means, bands 95 % intervals.', 'Means, bands the range of 3 seeds.', 'Means, here one run each.']
    """
    seeds = int(seeds["seed"].nunique()) if isinstance(seeds, pd.DataFrame) else seeds
    if seeds < 2:
        return ", here one run each"
    return f", {what} the range of {seeds} seeds" if seeds < MIN_SEEDS else f", {what} 95 % intervals"


# --- looks and many tests --------------------------------------------------------------------------------


def look(seeds: int) -> int:
    """The last look that so many seeds reach, 0 before the first. A verdict is taken on the first so many seeds, in
    their order; those after it wait for the next look."""
    return max((n for n in LOOKS if n <= seeds), default=0)


@functools.lru_cache(maxsize=4096)
def over_looks(p: float) -> float:
    """How often noise alone gives a p value as small as this at one of the looks at least: the p value after allowing
    for seeds that are added (Pocock 1977).

    The sums of the seeds are followed from look to look, with those left out that have crossed the bound, by numerical
    integration (Armitage, McPherson & Rowe 1969).
    """
    if p <= 0 or p >= 1:
        return min(1.0, max(0.0, p))
    z = -special.ndtri(p / 2)
    nodes, weights = np.polynomial.legendre.leggauss(96)
    reach = z * math.sqrt(LOOKS[0])
    sums, weight = reach * nodes, reach * weights
    density = np.exp(-(sums**2) / 2 / LOOKS[0]) / math.sqrt(2 * math.pi * LOOKS[0])
    crossed = p
    for before, now in itertools.pairwise(LOOKS):
        step, bound = math.sqrt(now - before), z * math.sqrt(now)
        inside = weight * density
        crossed += inside @ (special.ndtr((-bound - sums) / step) + special.ndtr((sums - bound) / step))
        ahead = bound * nodes
        jumps = np.exp(-(((ahead[:, None] - sums) / step) ** 2) / 2) / step / math.sqrt(2 * math.pi)
        sums, weight, density = ahead, bound * weights, jumps @ inside
    return min(1.0, float(crossed))


@functools.cache
def nominal() -> float:
    """The p value at a look that decides: Pocock's constant for these looks."""
    return float(scipy.optimize.brentq(lambda p: over_looks(p) - ALPHA, 1e-3, ALPHA))


def seeds_needed(distance: float, sd: float) -> int | None:
    """How many seeds would show, with ``POWER``, that a mean lies this far from a bound: the first look that does, or
    where none does the number that Student's t asks for; None where no number does.

    Args:
        distance: of the mean from the bound.
        sd: of a seed.
    """
    if not (distance > 0 and math.isfinite(sd)):
        return None
    level = 1 - nominal() / 2
    for n in (*LOOKS, *range(25, 1001, 5)):
        needed = special.stdtrit(n - 1, level) + special.stdtrit(n - 1, POWER)
        if distance * math.sqrt(n) >= needed * sd:
            return n
    return None


def holm(p: Sequence[float]) -> list[float]:
    """The p values of several tests, of which the smallest is picked out (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    adjusted, highest = [1.0] * len(p), 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - place) * p[i]))
        adjusted[i] = highest
    return adjusted


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """The p values of many tests, so that of those below a level no larger a share is wrong (Benjamini & Hochberg
    1995)."""
    return [float(q) for q in scipy.stats.false_discovery_control(p)] if p else []


# --- the smallest effects of interest ---------------------------------------------------------------------

#: The smallest effect of interest of a measure: a difference within it is a tie, whatever its sign. Accuracies are
#: shares of images, losses nats. What is not named has 5 % of the size of what is compared.
SMALLEST = {
    "train_accuracy": 0.005, "batch_accuracy": 0.005, "test_accuracy": 0.005, "validation_accuracy": 0.005,
    "peak": 0.005, "highest": 0.005, "overfitting": 0.005, "fall": 0.005, "jitter": 0.002,
    "train_loss": 0.02, "batch_loss": 0.02, "test_loss": 0.02, "validation_loss": 0.02, "progress": 0.02,
    "batch_jitter": 0.02, "train_jitter": 0.02, "tau": 0.1, "tau_p": 0.0,
    **{f"{probe}.{name}": size for probe in ("training_set", "recalibrated")
       for name, size in (("accuracy", 0.005), ("loss", 0.02))},
    **{f"{split}_{ap}": 0.005 for split in ("test", "validation") for ap in AVERAGE_PRECISIONS},
    **{f"test_{part}": 0.02 for part in RESTYLED}, **{f"test_{ratio}": 0.1 for ratio in RESTORED},
    **{f"test_{score}": 0.02 for score in GENERATED},
    "steps.loss": 0.02, "steps.rise": 0.02, "adversarial.accuracy": 0.02, "adversarial.fooled": 0.02,
    **{f"mixture.{norm}": 0.02 for norm in ("in", "ln", "bn")},
}  # fmt: skip
SMALLEST_SHARE = 0.05  # of the size of what is compared
SMALLEST_LOG2 = 0.1  # of a binary logarithm, a factor of 1.07


def smallest(metric: str, size: float) -> float:
    """The smallest effect of interest of a measure whose values are of this size."""
    if metric.startswith("log2("):
        return SMALLEST_LOG2
    return SMALLEST.get(metric.partition("[")[0], SMALLEST_SHARE * abs(size))


# --- a choice ---------------------------------------------------------------------------------------------


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
