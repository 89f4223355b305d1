"""The statements of the five documents, and their verdicts, computed from results.

``book/claims.yml`` has an entry for every statement. A testable one names its experiment, or its definition (a
function that runs the layers), and the predicates that judge it; nobody writes a verdict by hand.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pandas as pd
import yaml

from . import bench_steps, paths
from .definitions import DEFINITIONS, Definition
from .errors import LabError, UsageError, unknown
from .experiments import PROFILES, find
from .predicates import (
    EXACT_PREDICATES,
    INCONCLUSIVE,
    MIN_SEEDS,
    PREDICATES,
    REFUTED,
    SPEED_PREDICATES,
    SUPPORTED,
    Lacking,
    Part,
    Predicate,
    combine,
    left_open,
    unmet,
)
from .runs import Run
from .stats import Interval

NOT_TESTABLE, NOT_MEASURED = "not testable here", "not measured yet"
VERDICTS = (SUPPORTED, REFUTED, INCONCLUSIVE, NOT_TESTABLE, NOT_MEASURED)
KINDS = {"num": "number", "ord": "order or trend", "def": "definition", "adv": "advice"}


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
    benchmark: str = ""
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
    complete = {name: find(name).complete() for name in names}  # read once, however many judge them
    return [_judge_by(entry, complete.get(entry.get("experiment"), [])) for entry in entries]


def judge(claim: str, runs: Sequence[Run] = (), profile: str = "") -> Judged:
    """One statement, judged by these runs: the last cell of an experiment's notebook. A definition needs none.

    A profile of too few seeds is shown; where a smaller one is complete and has enough of them, that one judges.
    """
    entry, smaller = _entry(claim), []
    if profile in PROFILES and entry.get("experiment"):
        smaller = [c for c in find(entry["experiment"]).complete() if PROFILES.index(c[0]) < PROFILES.index(profile)]
    return _judge_by(entry, [(profile, runs), *smaller])


def _entry(claim: str) -> dict[str, Any]:
    entries = {entry["id"]: entry for entry in read()["claims"]}
    if claim not in entries:
        raise unknown("statement", claim, entries)
    return dict(entries[claim])


def _judge_by(entry: dict[str, Any], candidates: Sequence[tuple[str, Sequence[Run]]]) -> Judged:
    """By the first of the profiles, unless it has too few seeds and another has enough."""
    profile, runs = candidates[0] if candidates else ("", [])
    first = _judge(entry, runs, profile)
    if first.verdict != INCONCLUSIVE or not runs or _seeds(first) >= MIN_SEEDS:
        return first
    seeds = "one seed" if _seeds(first) == 1 else f"{_seeds(first)} seeds"
    few = f"profile {profile} has {seeds} so far, too few for a verdict"
    for smaller, others in candidates[1:]:
        judged = _judge(entry, others, smaller)
        if judged.parts and _seeds(judged) >= MIN_SEEDS:
            return replace(judged, reason=f"{few}; profile {smaller} judges in its place")
    return replace(first, reason=few)


def _seeds(judged: Judged) -> int:
    return min((p.seeds for p in judged.parts if p.seeds is not None), default=0)


def _judge(entry: dict[str, Any], runs: Sequence[Run], profile: str) -> Judged:
    texts = ("id", "kind", "statement", "note", "experiment", "definition", "benchmark")
    known = {name: entry.get(name, "") for name in texts}
    known["normalizers"] = tuple(entry.get("normalizers", ()))
    if entry.get("reason"):
        return Judged(**known, verdict=NOT_TESTABLE, reason=entry["reason"])
    if not entry.get("parts"):
        return Judged(**known, verdict=NOT_MEASURED)
    if entry.get("definition"):
        return _verdict(entry, known, EXACT_PREDICATES, _definition(entry)())
    if entry.get("benchmark"):
        return _judge_speed(entry, known)
    if not runs:
        return Judged(**known, verdict=NOT_MEASURED, reason="its experiment has no results yet")
    if reason := unmet(runs, entry.get("requires", {})):
        return Judged(**known, verdict=NOT_MEASURED, reason=reason, profile=profile)
    try:
        return _verdict(entry, {**known, "profile": profile}, PREDICATES, runs)
    except Lacking as lacking:
        return Judged(**known, verdict=NOT_MEASURED, reason=f"these runs lack {lacking}", profile=profile)


def _judge_speed(entry: dict[str, Any], known: dict[str, Any]) -> Judged:
    """By the committed measurements of ``normcore bench steps`` on a CPU."""
    try:
        found = bench_steps.read()
    except LabError as error:
        return Judged(**known, verdict=NOT_MEASURED, reason=str(error))
    return _verdict(entry, known, SPEED_PREDICATES, found)


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
    requires = arguments.pop("requires", {})
    if requires and (why := unmet(results, requires)):
        return left_open(arguments["says"], why)
    if name == "matches":  # against the numbers of the statement itself
        arguments["values"] = entry["values"][spec["norm"]]
    if name not in predicates:
        raise unknown(f"predicate of {claim}", name, predicates)
    try:
        return predicates[name](results, **arguments)
    except Lacking:
        raise
    except (TypeError, UsageError, AttributeError) as error:
        raise LabError(f"book/claims.yml, {claim}, {name}: {error}") from error
