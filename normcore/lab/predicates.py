"""The predicates of ``book/claims.yml``: what a statement says, put to the results, one part at a time.

A predicate over runs names its variants by a normalizer (``bn``) or by the fields of a run and the options of its
normalizer (``{norm: gn, num_groups: 8}``), what all of them share by ``where``, a measure of
:mod:`normcore.lab.measures` and, unless the end of the run is meant, its window: ``epochs``, ``of_run``, or ``shared``,
a part of the images that all of its runs have seen. It holds if the 95 % interval over seeds lies wholly where the
statement puts it, and fails if it lies wholly elsewhere.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from . import bench_steps
from .errors import UsageError, unknown
from .figures import label
from .measures import measure
from .runs import Run
from .stats import Interval, mean_interval

SUPPORTED, REFUTED, INCONCLUSIVE = "supported", "refuted", "inconclusive"
MIN_SEEDS = 3  # fewer give no verdict
TOLERANCE = 1e-12  # of what is computed in float64 and must be equal

Variant = str | Mapping[str, Any]


class Lacking(UsageError):
    """The results have no run of a variant."""


@dataclass(frozen=True)
class Part:
    """One thing that a statement says, judged by one predicate.

    Attributes:
        says: in words, what must hold.
        measured: what the effect is, with its unit.
        effect: the measured value and its 95 % interval.
        seeds: how many runs a variant it rests on; None where nothing is random, and no interval says anything.
        verdict: ``supported``, ``refuted`` or ``inconclusive``.
    """

    says: str
    measured: str
    effect: Interval
    seeds: int | None
    verdict: str

    @property
    def found(self) -> str:
        """What was measured, in words."""
        value = self.effect.mean
        if math.isnan(value):
            return self.measured
        if self.seeds is None and math.isnan(self.effect.low):
            exact = f"{value:.4g}" if abs(value) > 1e-6 else f"{value:.1g}"  # of a rounding error the size says all
            return f"{self.measured}: {exact}"
        spec = "+,.0f" if abs(value) >= 100 else "+.4f" if self.seeds else ".3f"
        return f"{self.measured}: {self.effect:{spec}}"


Predicate = Callable[..., Part]


def combine(verdicts: Any) -> str:
    """A statement holds if all it says holds, and fails if any of it does."""
    found = set(verdicts)
    if REFUTED in found:
        return REFUTED
    return SUPPORTED if found == {SUPPORTED} else INCONCLUSIVE


def _part(says: str, measured: str, values: pd.Series, low: float = -math.inf, high: float = math.inf) -> Part:
    """Whether the mean over seeds lies between ``low`` and ``high``, judged by its interval."""
    if values.empty:
        raise Lacking(f"{measured}: no seed has it")
    effect, seeds = mean_interval(values), len(values)
    verdict = INCONCLUSIVE
    if seeds >= MIN_SEEDS and low < effect.low and effect.high < high:
        verdict = SUPPORTED
    elif seeds >= MIN_SEEDS and (effect.high < low or effect.low > high):
        verdict = REFUTED
    return Part(says, measured, effect, seeds, verdict)


# --- variants and their values -----------------------------------------------------------------------------


def _fields(variant: Variant, where: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {**(where or {}), **({"norm": variant} if isinstance(variant, str) else variant)}


def _named(variant: Variant) -> str:
    """In words, such as ``BN, batch size 16``."""
    flat: dict[str, Any] = {}
    for field, value in _fields(variant).items():
        flat |= value if isinstance(value, Mapping) else {field: value}
    if "norm" in flat:
        flat["norm"] = label(flat["norm"])
    plain = ("norm", "dataset", "colours", "activation")
    return ", ".join(str(v) if k in plain else f"{_words(k)}{_plainly(v)}" for k, v in flat.items())


def _plainly(value: Any) -> str:
    return f": {'yes' if value else 'no'}" if isinstance(value, bool) else f" {value}"


def _field(run: Run, field: str) -> Any:
    """Of a field of the run, or of an option of its normalizer, its network or its optimizer."""
    for options in (run.config.optimizer_options, run.config.model_options, run.config.norm_options):
        if field in options:
            return options[field]
    return getattr(run.config, field)


def unmet(runs: Sequence[Run], requires: Mapping[str, Any]) -> str:
    """What these runs are not and must be, in words; empty where they are."""
    for name, value in requires.items():
        found = {_field(run, name) for run in runs}
        if found != {value}:
            return (
                f"these runs have {_words(name)} {', '.join(map(str, sorted(found)))}; the statement is about {value}"
            )
    return ""


def left_open(says: str, why: str) -> Part:
    """A part that these results cannot judge."""
    return Part(says, why, Interval(math.nan, math.nan, math.nan), None, INCONCLUSIVE)


def select(runs: Sequence[Run], variant: Variant, where: Mapping[str, Any] | None = None) -> list[Run]:
    """The runs of a variant.

    Raises:
        Lacking: there are none.
    """
    fields = _fields(variant, where)
    found = [run for run in runs if all(_field(run, k) == v for k, v in fields.items())]
    if not found:
        raise Lacking(_named({**(where or {}), **fields}))
    return found


def _by_seed(runs: Sequence[Run], metric: str, window: Mapping[str, Any], among: Sequence[Run] = ()) -> pd.Series:
    """The measure of each seed; ``shared`` is of the images that all of ``among`` have seen."""
    window = dict(window)
    if "shared" in window:
        seen = min(run.config.steps * run.config.batch_size for run in among)
        window["samples"] = [share * seen for share in window.pop("shared")]
    table = measure(runs, metric, **window)
    if table["seed"].duplicated().any():
        raise UsageError(f"{metric}: several runs a seed; narrow the variant down by more of its fields")
    return table.set_index("seed")["value"]


def _difference(
    runs: Sequence[Run], metric: str, a: Variant, b: Variant, where: Mapping[str, Any] | None, window: Mapping[str, Any]
) -> pd.Series:
    """``metric(a) - metric(b)`` of each seed that both have."""
    ours, theirs = select(runs, a, where), select(runs, b, where)
    among = [*ours, *theirs]
    return (_by_seed(ours, metric, window, among) - _by_seed(theirs, metric, window, among)).dropna()


def _words(metric: str) -> str:
    """``smoothness.loss_range[layer=2]`` as ``smoothness: loss range (layer 2)``."""
    probe, dot, column = metric.partition(".")
    column, _, where = (column if dot else probe).replace("_", " ").partition("[")
    which = f" ({where.rstrip(']').replace('=', ' ').replace(',', ', ')})" if where else ""
    return f"{probe}: {column}{which}" if dot else column + which


# --- predicates over runs ----------------------------------------------------------------------------------


def lower(
    runs: Sequence[Run], says: str, metric: str, a: Variant, b: Variant, *, margin: float = 0.0,
    where: Mapping[str, Any] | None = None, **window: Any,
) -> Part:  # fmt: skip
    """``metric`` of ``a`` is below that of ``b``, by more than ``margin`` (a negative one: or hardly above it)."""
    values = _difference(runs, metric, a, b, where, window)
    return _part(says, f"{_words(metric)}, {_named(a)} minus {_named(b)}", values, high=-margin)


def higher(
    runs: Sequence[Run], says: str, metric: str, a: Variant, b: Variant, *, margin: float = 0.0,
    where: Mapping[str, Any] | None = None, **window: Any,
) -> Part:  # fmt: skip
    """``metric`` of ``a`` is above that of ``b``, by more than ``margin``."""
    values = _difference(runs, metric, a, b, where, window)
    return _part(says, f"{_words(metric)}, {_named(a)} minus {_named(b)}", values, low=margin)


def alike(
    runs: Sequence[Run], says: str, metric: str, a: Variant, b: Variant, tolerance: float, *,
    where: Mapping[str, Any] | None = None, **window: Any,
) -> Part:  # fmt: skip
    """``metric`` of ``a`` and of ``b`` differ by less than the tolerance."""
    values = _difference(runs, metric, a, b, where, window)
    return _part(says, f"{_words(metric)}, {_named(a)} minus {_named(b)}", values, -tolerance, tolerance)


def between(
    runs: Sequence[Run], says: str, metric: str, variant: Variant, *, low: float = -math.inf, high: float = math.inf,
    where: Mapping[str, Any] | None = None, **window: Any,
) -> Part:  # fmt: skip
    """``metric`` of one variant lies between these bounds."""
    found = select(runs, variant, where)
    return _part(says, f"{_words(metric)} of {_named(variant)}", _by_seed(found, metric, window, found), low, high)


def settled(
    runs: Sequence[Run], says: str, metric: str, variant: Variant, first: Sequence[float], second: Sequence[float],
    tolerance: float, *, where: Mapping[str, Any] | None = None,
) -> Part:  # fmt: skip
    """``metric`` is the same in two parts of the run, within the tolerance."""
    found = select(runs, variant, where)
    earlier, later = (_by_seed(found, metric, {"of_run": part}) for part in (first, second))
    measured = f"{_words(metric)} of {_named(variant)}, later minus earlier"
    return _part(says, measured, (later - earlier).dropna(), -tolerance, tolerance)


def trend(
    runs: Sequence[Run], says: str, metric: str, variant: Variant, over: str, *, values: Sequence[Any],
    low: float = -math.inf, high: float = math.inf, log: bool = False, where: Mapping[str, Any] | None = None,
    **window: Any,
) -> Part:  # fmt: skip
    """What a doubling of a field (``over``, taking these ``values``) adds to the metric, or with ``log`` to its binary
    logarithm, lies between these bounds: the slope of the least-squares line of each seed."""
    chosen = [select(runs, {**_fields(variant), over: v}, where) for v in values]
    among = [run for part in chosen for run in part]
    table = pd.concat([_by_seed(part, metric, window, among) for part in chosen], axis=1).dropna().to_numpy()
    heights = np.log2(table) if log else table
    x = np.log2(np.asarray(values, dtype=float))
    slopes = (heights - heights.mean(axis=1, keepdims=True)) @ (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    what = f"{'log2 of ' if log else ''}{_words(metric)} of {_named(variant)}, for a doubling of {_words(over)}"
    return _part(says, what, pd.Series(slopes), low, high)


def gains_less(
    runs: Sequence[Run], says: str, metric: str, a: Variant, b: Variant, *, by: Mapping[str, Any],
    over: Mapping[str, Any], where: Mapping[str, Any] | None = None, **window: Any,
) -> Part:  # fmt: skip
    """``a`` gains less than ``b`` by these fields (``by``) over those (``over``): the difference of two differences."""
    gains = [
        _difference(runs, metric, {**_fields(v), **by}, {**_fields(v), **over}, where, window) for v in (a, b)
    ]  # fmt: skip
    measured = f"gain in {_words(metric)} by {_named({'norm': '', **by}).strip(', ')}, {_named(a)} minus {_named(b)}"
    return _part(says, measured, (gains[0] - gains[1]).dropna(), high=0.0)


def matches(runs: Sequence[Run], says: str, metric: str, norm: str, values: Sequence[float], tolerance: float) -> Part:
    """The metric after epochs 1, 2, ... is the source's values within the tolerance.

    Supported if the intervals of all deviations lie within the tolerance, refuted if any lies wholly outside;
    the effect is the mean deviation over the epochs.
    """
    own = select(runs, norm)
    tables = [measure(own, metric, (n, n + 1)) for n in range(len(values))]
    for table, value in zip(tables, values, strict=True):
        table["value"] -= value
    seeds = min(len(table) for table in tables)
    if not seeds:
        raise Lacking(f"{norm} with a {metric} after each of {len(values)} epochs")
    parts = [_part("", "", table["value"], -tolerance, tolerance) for table in tables]
    every = pd.concat(tables).groupby("seed")["value"].mean()
    measured = f"{_words(metric)} of {_named(norm)}, ours minus the source's, mean of {len(values)} epochs"
    return Part(says, measured, mean_interval(every), seeds, combine(p.verdict for p in parts))


# --- predicates over the numbers of a definition -----------------------------------------------------------


def _exact(
    measured: Mapping[str, float], says: str, measure: str, expected: str, holds: Callable[[float], bool]
) -> Part:
    if measure not in measured:
        raise unknown("measure", measure, measured)
    value = float(measured[measure])
    verdict = SUPPORTED if holds(value) else REFUTED
    return Part(says, f"{measure} ({expected})", Interval(value, math.nan, math.nan), None, verdict)


def equals(
    measured: Mapping[str, float], says: str, measure: str, value: float | None = None, tolerance: float = TOLERANCE
) -> Part:
    """The number is this value, within the tolerance; without a value it is a difference, and there is none."""
    if value is None:
        expected = f"at most {tolerance:g}"
    else:
        expected = f"expected {value:.4g}" + (f" within {tolerance:g}" if tolerance > TOLERANCE else "")
    return _exact(measured, says, measure, expected, lambda found: abs(found - (value or 0)) <= tolerance)


def exceeds(measured: Mapping[str, float], says: str, measure: str, bound: float = TOLERANCE) -> Part:
    """The measured number is above this bound; there is a difference."""
    return _exact(measured, says, measure, f"more than {bound:g}", lambda found: found > bound)


# --- predicates over a benchmark -----------------------------------------------------------------------------


def takes_less(found: Mapping[str, Any], says: str, a: str, b: str, share: float) -> Part:
    """A step with ``a`` takes less than this share of the time of a step with ``b``, by the 95 % interval of the
    median of ratios within a round of :func:`normcore.lab.bench_steps.steps`."""
    effect = Interval(*bench_steps.ratio(found, a, b))
    verdict = SUPPORTED if effect.high < share else REFUTED if effect.low > share else INCONCLUSIVE
    return Part(says, f"time of a step, {a} over {b}", effect, None, verdict)


#: over runs
PREDICATES: dict[str, Predicate] = {
    "lower": lower, "higher": higher, "alike": alike, "between": between, "settled": settled, "trend": trend,
    "gains_less": gains_less, "matches": matches,
}  # fmt: skip
#: over the numbers of a definition
EXACT_PREDICATES: dict[str, Predicate] = {"equals": equals, "exceeds": exceeds}
#: over a benchmark
SPEED_PREDICATES: dict[str, Predicate] = {"takes_less": takes_less}
