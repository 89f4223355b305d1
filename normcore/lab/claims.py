"""The statements of the five documents, and their verdicts, computed from results.

``book/claims.yml`` has an entry for every statement. A testable one names its experiment, or its definition (a
function that runs the layers), and the predicates that judge it; nobody writes a verdict by hand.
"""

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd
import yaml

from . import paths
from .definitions import DEFINITIONS, Definition
from .errors import LabError, UsageError, unknown
from .experiments import find
from .runs import Run
from .stats import Interval, mean_interval, paired_difference

SUPPORTED, REFUTED, INCONCLUSIVE = "supported", "refuted", "inconclusive"
NOT_TESTABLE, NOT_MEASURED = "not testable here", "not measured yet"
VERDICTS = (SUPPORTED, REFUTED, INCONCLUSIVE, NOT_TESTABLE, NOT_MEASURED)
KINDS = {"num": "number", "ord": "order or trend", "def": "definition", "adv": "advice"}
MIN_SEEDS = 3  # fewer give no verdict
TOLERANCE = 1e-12  # of what is computed in float64 and must be equal


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
        exact = f"{value:.4g}" if abs(value) > 1e-6 else f"{value:.1g}"  # of a rounding error the size says all
        return f"{self.measured}: {exact if self.seeds is None else format(self.effect, '+.4f')}"


Predicate = Callable[..., Part]


@dataclass(frozen=True)
class Judged:
    """A statement with its verdict, which rests on its ``parts``; what is ``also`` measured explains it."""

    id: str
    kind: str
    statement: str
    verdict: str
    reason: str = ""
    note: str = ""
    experiment: str = ""
    definition: str = ""
    normalizers: tuple[str, ...] = ()
    profile: str = ""
    parts: tuple[Part, ...] = field(default_factory=tuple)
    also: tuple[Part, ...] = ()

    @property
    def source(self) -> str:
        return self.id.partition("-")[0]

    def to_json(self) -> dict[str, Any]:
        found = {
            name: [{**asdict(p), "effect": _finite(p.effect)} for p in parts]
            for name, parts in (("parts", self.parts), ("also", self.also))
        }
        return {"source": self.source, **asdict(self), **found}

    def _repr_html_(self) -> str:
        head = f'<p class="nc-judged"><b>{self.id}</b> {html.escape(self.statement)}<br>'
        head += f'<span class="nc-verdict">{self.verdict}</span> {html.escape(self.reason)}</p>'
        if not self.parts:
            return head
        return head + self._table(self.parts, "part") + (self._table(self.also, "also") if self.also else "")

    def _table(self, parts: Sequence[Part], title: str) -> str:
        cells = ((p.says, p.found, p.verdict) for p in parts)
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in cells)
        effect = "measured" if self.definition else "effect, 95 % interval"
        titles = "".join(f'<th scope="col">{t}</th>' for t in (title, effect, "verdict"))
        return f'<table class="dataframe"><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table>'


def _finite(interval: Interval) -> dict[str, float | None]:
    return {name: None if pd.isna(value) else value for name, value in interval._asdict().items()}


def read() -> dict[str, Any]:
    """``book/claims.yml``: the documents (``sources``) and their statements (``claims``)."""
    text = (paths.root() / "book" / "claims.yml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def values(claim: str) -> dict[str, list[float]]:
    """The numbers that a statement gives for each normalizer."""
    found: dict[str, list[float]] = _entry(claim).get("values", {})
    return found


def judge_all() -> list[Judged]:
    """Every statement, judged by the published results, a definition by the layers."""
    entries = read()["claims"]
    names = {entry["experiment"] for entry in entries if "experiment" in entry}
    published = {name: find(name).published_runs() for name in names}  # read once, however many judge them
    judged = []
    for entry in entries:
        profile, runs = published.get(entry.get("experiment"), ("", []))
        judged.append(_judge(entry, runs, profile))
    return judged


def judge(claim: str, runs: Sequence[Run] = (), profile: str = "") -> Judged:
    """One statement, judged by these runs: the last cell of an experiment's notebook. A definition needs none."""
    return _judge(_entry(claim), runs, profile)


def _entry(claim: str) -> dict[str, Any]:
    entries = {entry["id"]: entry for entry in read()["claims"]}
    if claim not in entries:
        raise unknown("statement", claim, entries)
    return dict(entries[claim])


def _judge(entry: dict[str, Any], runs: Sequence[Run], profile: str) -> Judged:
    known = {name: entry.get(name, "") for name in ("id", "kind", "statement", "note", "experiment", "definition")}
    known["normalizers"] = tuple(entry.get("normalizers", ()))
    if entry.get("reason"):
        return Judged(**known, verdict=NOT_TESTABLE, reason=entry["reason"])
    if not entry.get("parts"):
        return Judged(**known, verdict=NOT_MEASURED)
    if entry.get("definition"):
        return _verdict(entry, known, EXACT_PREDICATES, _definition(entry)())
    if not runs:
        return Judged(**known, verdict=NOT_MEASURED, reason="its experiment has no results yet")
    for name, value in entry.get("requires", {}).items():
        found = {getattr(run.config, name) for run in runs}
        if found != {value}:
            reason = f"these runs have {name} {', '.join(map(str, sorted(found)))}; the statement is about {value}"
            return Judged(**known, verdict=NOT_MEASURED, reason=reason, profile=profile)
    specs = (*entry["parts"], *entry.get("also", ()))
    needed = {part[name] for part in specs for name in ("norm", "a", "b") if name in part}
    if missing := needed - {run.config.norm for run in runs}:
        reason = f"these runs lack {', '.join(sorted(missing))}"
        return Judged(**known, verdict=NOT_MEASURED, reason=reason, profile=profile)
    return _verdict(entry, {**known, "profile": profile}, PREDICATES, runs)


def _definition(entry: dict[str, Any]) -> Definition:
    name = entry["definition"]
    if name not in DEFINITIONS:
        raise unknown(f"definition of {entry['id']}", name, DEFINITIONS)
    return DEFINITIONS[name]


def _verdict(entry: dict[str, Any], known: dict[str, Any], predicates: Mapping[str, Predicate], results: Any) -> Judged:
    parts, also = (
        tuple(_part(entry, spec, predicates, results) for spec in entry.get(name, ())) for name in ("parts", "also")
    )
    return Judged(**known, verdict=combine(p.verdict for p in parts), parts=parts, also=also)


def _part(entry: dict[str, Any], spec: dict[str, Any], predicates: Mapping[str, Predicate], results: Any) -> Part:
    claim, arguments = entry["id"], dict(spec)
    name = arguments.pop("predicate")
    if name == "matches":  # against the numbers of the statement itself
        arguments["values"] = entry["values"][spec["norm"]]
    if name not in predicates:
        raise unknown(f"predicate of {claim}", name, predicates)
    try:
        return predicates[name](results, **arguments)
    except (TypeError, UsageError) as error:
        raise LabError(f"book/claims.yml, {claim}, {name}: {error}") from error


def combine(verdicts: Any) -> str:
    """A statement holds if all it says holds, and fails if any of it does."""
    found = set(verdicts)
    if REFUTED in found:
        return REFUTED
    return SUPPORTED if found == {SUPPORTED} else INCONCLUSIVE


# --- measures and predicates -----------------------------------------------------------------------------


def measure(runs: Sequence[Run], metric: str, epochs: Sequence[float] | None = None) -> pd.DataFrame:
    """One row a run with the column ``value``: a metric such as ``train_loss`` or ``test_accuracy``.

    Args:
        metric: split and name, joined by ``_``.
        epochs: the mean over the points after the first and up to the second of these, counted from the end
            where negative (``(-1, 0)`` is the last epoch); the final value without. A run that diverged
            before its first such point has none and is left out.
    """
    split, _, name = metric.partition("_")
    rows = []
    for run in runs:
        curve, epoch = run.curves[split], run.provenance["steps_per_epoch"]
        points = curve[name][-1:]
        if epochs is not None:
            low, high = epochs
            if low < 0:
                low, high = (run.config.steps / epoch + e for e in (low, high))
            points = [v for s, v in zip(curve["step"], curve[name], strict=True) if low < s / epoch <= high + 1e-9]
        if points:
            rows.append({"norm": run.config.norm, "seed": run.config.seed, "value": sum(points) / len(points)})
    return pd.DataFrame(rows, columns=["norm", "seed", "value"])


def _seeds(table: pd.DataFrame, *norms: str) -> int:
    return min(table.loc[table["norm"] == norm, "seed"].nunique() for norm in norms)


def _differs(
    runs: Sequence[Run], sign: int, says: str, metric: str, a: str, b: str, epochs: Sequence[float] | None
) -> Part:
    table = measure(runs, metric, epochs)
    effect = paired_difference(table, "value", a, b)
    seeds = _seeds(table, a, b)
    low, high = sorted((sign * effect.low, sign * effect.high))
    verdict = INCONCLUSIVE
    if seeds >= MIN_SEEDS and low > 0:
        verdict = SUPPORTED
    elif seeds >= MIN_SEEDS and high < 0:
        verdict = REFUTED
    return Part(says, f"{metric.replace('_', ' ')}, {a} minus {b}", effect, seeds, verdict)


def lower(runs: Sequence[Run], says: str, metric: str, a: str, b: str, epochs: Sequence[float] | None = None) -> Part:
    """``metric`` of ``a`` is below that of ``b``: the interval of the paired difference lies below zero."""
    return _differs(runs, -1, says, metric, a, b, epochs)


def higher(runs: Sequence[Run], says: str, metric: str, a: str, b: str, epochs: Sequence[float] | None = None) -> Part:
    """``metric`` of ``a`` is above that of ``b``: the interval of the paired difference lies above zero."""
    return _differs(runs, 1, says, metric, a, b, epochs)


def matches(runs: Sequence[Run], says: str, metric: str, norm: str, values: Sequence[float], tolerance: float) -> Part:
    """The metric after epochs 1, 2, ... is the source's values within the tolerance.

    Supported if the intervals of all deviations lie within the tolerance, refuted if any lies wholly outside;
    the effect is the mean deviation over the epochs.
    """
    own = [run for run in runs if run.config.norm == norm]
    tables = [measure(own, metric, (n, n + 1)) for n in range(len(values))]
    for table, value in zip(tables, values, strict=True):
        table["value"] -= value
    seeds = min(len(table) for table in tables)
    if not seeds:
        raise UsageError(f"{norm} has no {metric} after each of {len(values)} epochs")
    deviations = [mean_interval(table["value"]) for table in tables]
    every = pd.concat(tables).groupby("seed")["value"].mean()
    verdict = INCONCLUSIVE
    if seeds >= MIN_SEEDS and all(d.low >= -tolerance and d.high <= tolerance for d in deviations):
        verdict = SUPPORTED
    elif seeds >= MIN_SEEDS and any(d.low > tolerance or d.high < -tolerance for d in deviations):
        verdict = REFUTED
    measured = f"{metric.replace('_', ' ')} of {norm}, ours minus the source's, mean of {len(values)} epochs"
    return Part(says, measured, mean_interval(every), seeds, verdict)


# --- predicates of definitions ---------------------------------------------------------------------------


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


PREDICATES: dict[str, Predicate] = {"lower": lower, "higher": higher, "matches": matches}  # over runs
EXACT_PREDICATES: dict[str, Predicate] = {"equals": equals, "exceeds": exceeds}  # over the numbers of a definition
