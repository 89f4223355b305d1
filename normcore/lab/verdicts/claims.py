"""Statements and their verdicts, computed from results.

``book/claims.yml`` has an entry for every statement of the five documents, ``book/newcomers.yml`` for those of other
papers on layers of their own. A testable one names its experiment, or its definition (a
function that runs the layers), and the predicates that judge it; nobody writes a verdict by hand. How the parts of a
statement are tested and put together is the subject of :mod:`normcore.lab.verdicts.predicates`.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .. import paths
from ..bench import steps as bench_steps
from ..errors import LabError, UsageError, unknown
from ..files import read_yaml
from ..runs.experiments import PROFILES, find
from ..runs.store import Run, Store
from ..stats import MIN_SEEDS, benjamini_hochberg, seeds_needed
from .definitions import DEFINITIONS, Definition
from .predicates import (
    CONTRADICTED,
    EXACT_PREDICATES,
    FEW,
    GRID_END,
    INCONCLUSIVE,
    MIXED,
    OPEN,
    PREDICATES,
    REFUTED,
    SHORT,
    SPEED_PREDICATES,
    SUPPORTED,
    Lacking,
    Part,
    Predicate,
    any_of,
    at_an_end,
    combine,
    is_as,
    left_open,
    setting_of,
    unmet,
)

NOT_TESTABLE, NOT_MEASURED = "not testable here", "not measured yet"
IMPLEMENTED = "implemented"  # of an entry that tests our own code, which is no verdict on a source
VERDICTS = (SUPPORTED, REFUTED, MIXED, INCONCLUSIVE, IMPLEMENTED, NOT_TESTABLE, NOT_MEASURED)
KINDS = {"num": "number", "ord": "order or trend", "def": "definition", "adv": "advice"}
EXTENT = ("epochs", "steps", "samples")  # in these a run can be too short to judge


@dataclass(frozen=True)
class Judged:
    """A statement with its verdict, which rests on its ``parts``; what is ``also`` measured explains it.

    Attributes:
        quote: a few words of the source, in English (``en``) or in Chinese (``zh``) with their translation (``en``).
        cause, reason: why it is inconclusive, a name of :mod:`normcore.lab.verdicts.predicates`, and in words.
        p: of the verdict, adjusted for looks and parts; NaN where there is no test.
        q: the same adjusted for all statements that were tested (Benjamini & Hochberg 1995).
    """

    id: str
    kind: str
    statement: str
    verdict: str
    cause: str = ""
    reason: str = ""
    p: float = math.nan
    q: float = math.nan
    note: str = ""
    quote: dict[str, str] = field(default_factory=dict)
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

    @property
    def leaves(self) -> list[Part]:
        """The parts that enter the verdict, those of an "or" one by one."""
        return [leaf for part in self.parts for leaf in part.leaves()]

    @property
    def experiments(self) -> dict[str, str]:
        """The experiments that it rests on, its own and those of parts that have others, with the profile of each."""
        own = {self.experiment: self.profile} if self.experiment else {}
        return own | {leaf.experiment: leaf.profile for leaf in self.leaves if leaf.experiment}

    @property
    def first_measured(self) -> Part | None:
        """The first part of which there is a number."""
        return next((leaf for leaf in self.leaves if not math.isnan(leaf.effect.mean)), None)

    def to_json(self) -> dict[str, Any]:
        known = {name: getattr(self, name) for name in self.__dataclass_fields__}
        known |= {name: None if math.isnan(known[name]) else known[name] for name in ("p", "q")}
        known |= {name: [part.to_json() for part in known[name]] for name in ("parts", "also")}
        needed = max((leaf.needed for leaf in self.leaves if leaf.needed is not None), default=None)
        return {"source": self.source, **known, "seeds_needed": needed}

    def _repr_html_(self) -> str:
        head = f'<p class="nc-judged"><b>{self.id}</b> {html.escape(self.statement)}<br>'
        if self.quote:
            head += f'<span class="nc-quote">{quoted(self.quote)}</span><br>'
        head += f'<span class="nc-verdict">{self.verdict}</span> {html.escape(self.reason)}</p>'
        return head + "".join(self._table(*named) for named in ((self.parts, "part"), (self.also, "also")) if named[0])

    def _table(self, parts: Sequence[Part], title: str) -> str:
        titles, rows = table_of(parts, title)
        cells = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
        head = "".join(f'<th scope="col">{html.escape(t)}</th>' for t in titles)
        return f'<table class="dataframe"><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table>'


def quoted(quote: Mapping[str, str]) -> str:
    """A source's words as HTML, with their translation where they are not English."""
    words = {name: html.escape(text) for name, text in quote.items()}
    if "zh" not in words:
        return f'<q lang="en">{words["en"]}</q>'
    return f'<q lang="zh">{words["zh"]}</q> ({words["en"]})'


def table_of(parts: Sequence[Part], title: str) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of a table of parts: what each says, what was measured, the seeds, the p value adjusted for the
    looks, and the verdict. The parts of an "or" stand below it."""
    rows = [row for part in parts for row in _rows(part)]
    drawn = {leaf.effect.kind for part in parts for leaf in part.leaves()}
    kinds = " or ".join(words for kind, words in (("interval", "95 % interval"), ("range", "range")) if kind in drawn)
    measured = f"measured, with {kinds}" if kinds else "measured"
    if all(part.seeds is None for part in parts):
        return [title, measured, "verdict"], [[row[0], row[1], row[-1]] for row in rows]
    return [title, measured, "seeds", "adjusted p", "verdict"], rows


def _rows(part: Part, before: str = "") -> list[list[str]]:
    seeds = "" if part.seeds is None else str(part.seeds)
    if part.seeds is not None and 0 < part.look < part.seeds:
        seeds = f"first {part.look} of {part.seeds}"
    p = f"{part.adjusted:.2g}" if part.look else ""
    why = f": {part.reason}" if part.reason and part.reason != part.measured else ""
    own = [before + part.says, part.found, seeds, p, part.verdict + why]
    return [own, *(row for inner in part.of for row in _rows(inner, f"{before}or: "))]


class _Part(BaseModel):
    """A predicate with its arguments, which it checks itself; or several, of which one must hold."""

    model_config = ConfigDict(strict=True, extra="allow")
    says: str
    predicate: str = ""
    any: list["_Part"] = []

    @model_validator(mode="after")
    def _one_or_several(self) -> "_Part":
        if bool(self.predicate) == bool(self.any):
            raise ValueError("a part has a predicate, or any: of which one must hold")
        return self


class _Claim(BaseModel):
    """A statement in a ledger's file."""

    model_config = ConfigDict(strict=True, extra="forbid")
    id: Annotated[str, Field(pattern=r"^[A-Z][0-9]-[0-9]{2}$")]
    kind: Literal["num", "ord", "def", "adv"]
    statement: str
    quote: dict[Literal["zh", "en"], str] | None = None
    note: str = ""
    reason: str = ""
    experiment: str = ""
    definition: str = ""
    benchmark: str = ""
    requires: dict[str, Any] = {}
    parts: list[_Part] = []
    also: list[_Part] = []
    normalizers: list[str] = []
    implemented: bool = False
    values: dict[str, Any] = {}


class _Ledger(BaseModel):
    """The file of a ledger."""

    model_config = ConfigDict(strict=True, extra="forbid")
    sources: dict[str, dict[Literal["title", "kind", "cite", "note"], str]]
    claims: list[_Claim]


def read(ledger: str = "claims") -> dict[str, Any]:
    """``book/claims.yml``, or another ledger: the documents (``sources``) and their statements (``claims``)."""
    found: dict[str, Any] = read_yaml(paths.root() / "book" / f"{ledger}.yml", _Ledger)
    return found


def values(claim: str) -> dict[str, list[float]]:
    """The numbers that a statement gives for each normalizer."""
    found: dict[str, list[float]] = _entry(claim).get("values", {})
    return found


def judge_all(ledger: str = "claims") -> list[Judged]:
    """Every statement of a ledger, judged by the published results, a definition by the layers; and what the number of
    statements makes of the p values of those that were tested."""
    entries = read(ledger)["claims"]
    names = {entry["experiment"] for entry in entries if "experiment" in entry}
    try:
        complete = {name: _complete(name) for name in names}  # read once, however many judge them
        judged = [_judge_by(entry, complete.get(entry.get("experiment"), [])) for entry in entries]
    except LabError as error:  # of what the ledger asks for
        raise type(error)(f"book/{ledger}.yml: {error}") from error
    tested = [i for i, one in enumerate(judged) if not math.isnan(one.p)]
    for i, q in zip(tested, benjamini_hochberg([judged[i].p for i in tested]), strict=True):
        judged[i] = replace(judged[i], q=q)
    return judged


def judge(claim: str, runs: Sequence[Run] = (), profile: str = "") -> Judged:
    """One statement, judged by these runs: the last cell of an experiment's notebook. A definition needs none.

    Further seeds of these runs that are in the results judge with them. A profile of too few seeds is shown; where a
    smaller one is complete and has enough of them, that one judges, unless the seeds that there are say the opposite.
    """
    entry, smaller = _entry(claim), []
    if profile in PROFILES and entry.get("experiment"):
        runs = with_further_seeds(Store(entry["experiment"]), runs)
        smaller = [c for c in _complete(entry["experiment"]) if PROFILES.index(c[0]) < PROFILES.index(profile)]
    return _judge_by(entry, [(profile, runs), *smaller])


def _complete(experiment: str) -> list[tuple[str, list[Run]]]:
    """Every complete profile of an experiment, the best first, with its runs and their further seeds."""
    store = Store(experiment)
    return [(profile, with_further_seeds(store, runs)) for profile, runs in find(experiment).complete()]


def with_further_seeds(store: Store, runs: Sequence[Run]) -> list[Run]:
    """These runs, and those of the same settings with the seeds that follow, as far as they are in the store."""
    last: dict[str, Run] = {}
    for run in runs:
        known = last.setdefault(setting_of(run.config), run)
        if known.config.seed < run.config.seed:
            last[setting_of(run.config)] = run
    further = []
    for run in last.values():
        following = run
        while found := store.get(store.with_seed(run.config, following.config.seed + 1).key):
            following = found
            further.append(found)
    return [*runs, *further]


def _entry(claim: str) -> dict[str, Any]:
    entries = {entry["id"]: entry for entry in read()["claims"]}
    if claim not in entries:
        raise unknown("statement", claim, entries)
    return dict(entries[claim])


# --- which profile judges --------------------------------------------------------------------------------


def _judge_by(entry: dict[str, Any], candidates: Sequence[tuple[str, Sequence[Run]]]) -> Judged:
    """By the first of the profiles, unless it has too few seeds and another has enough; that one must not say the
    opposite of the seeds that there are."""
    profile, runs = candidates[0] if candidates else ("", [])
    first = _judge(entry, runs, profile)
    if first.cause != FEW:
        return first
    seeds = "one seed" if _seeds(first) == 1 else f"{_seeds(first)} seeds"
    few = f"profile {profile} has {seeds} to judge it by, too few for a verdict"
    for smaller, others in candidates[1:]:
        judged = _judge(entry, others, smaller)
        if not judged.parts or judged.cause == SHORT or _seeds(judged) < MIN_SEEDS:
            continue
        first = replace(first, parts=_expecting(first.parts, judged.parts))
        if opposite := _contradicted(judged, first):
            why = f"{few}, and profile {smaller} cannot judge in its place, which says the opposite: {opposite}"
            return replace(first, cause=CONTRADICTED, reason=why)
        its_own = f": {judged.reason}" if judged.reason else ""
        return replace(judged, reason=f"{few}; profile {smaller} judges in its place{its_own}")
    return replace(first, reason=few)


def _seeds(judged: Judged) -> int:
    return min((p.seeds for p in judged.parts if p.seeds is not None), default=0)


def _contradicted(smaller: Judged, larger: Judged) -> str:
    """A part that a smaller profile decides and the mean of a larger one's seeds puts on the other side; empty if there
    is none."""
    for one, other in zip(smaller.leaves, larger.leaves, strict=True):
        decided = one.verdict in (SUPPORTED, REFUTED)
        if decided and other.inside is not None and other.inside != (one.verdict == SUPPORTED):
            return f"{one.says} ({one.effect.mean:+.4f} there, {other.effect.mean:+.4f} here)"
    return ""


def _expecting(parts: Sequence[Part], smaller: Sequence[Part]) -> tuple[Part, ...]:
    """The parts of a profile of few seeds, with the seeds that they need if a seed varies as in a smaller one."""

    def expecting(part: Part, other: Part) -> Part:
        if part.of:
            return replace(part, of=tuple(map(expecting, part.of, other.of)))
        if part.needed is not None or not other.effect.n:
            return part
        return replace(part, needed=seeds_needed(part.distance, other.effect.se * math.sqrt(other.effect.n)))

    return tuple(map(expecting, parts, smaller))


# --- one profile -----------------------------------------------------------------------------------------


def _judge(entry: dict[str, Any], runs: Sequence[Run], profile: str) -> Judged:
    texts = ("id", "kind", "statement", "note", "experiment", "definition", "benchmark")
    known: dict[str, Any] = {name: entry.get(name, "") for name in texts}
    known["normalizers"], known["quote"] = tuple(entry.get("normalizers", ())), entry.get("quote", {})
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
    return _judge_runs(entry, {**known, "profile": profile}, runs)


def _judge_runs(entry: dict[str, Any], known: dict[str, Any], runs: Sequence[Run]) -> Judged:
    """By those runs that are as the entry requires; inconclusive where they are of the right kind and too short, or
    where the best value of a search is at an end of it."""
    requires = dict(entry.get("requires", {}))
    interior = requires.pop("interior", "")
    extent = {name: requires.pop(name) for name in EXTENT if name in requires}
    if reason := unmet(runs, requires):
        return Judged(**known, verdict=NOT_MEASURED, reason=reason)
    long = [run for run in runs if all(is_as(run, name, wanted) for name, wanted in extent.items())]
    try:
        judged = _verdict(entry, known, PREDICATES, long)
    except Lacking as lacking:
        if len(long) < len(runs):
            short = f"too short to judge: {unmet(runs, extent)}"
            return Judged(**known, verdict=INCONCLUSIVE, cause=SHORT, reason=short)
        return Judged(**known, verdict=NOT_MEASURED, reason=f"these runs lack {lacking}")
    if interior:
        used = [run for leaf in judged.leaves if not leaf.experiment for run in leaf.runs]
        search = Store(entry["experiment"]).runs(known["profile"], "search")
        if reason := at_an_end(used, search, interior):
            return replace(judged, verdict=INCONCLUSIVE, cause=GRID_END, reason=reason)
    return judged


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
    parts = tuple(_part(entry, spec, predicates, results) for spec in entry.get("parts", ()))
    also = tuple(_beside(entry, spec, predicates, results) for spec in entry.get("also", ()))
    found = combine(parts)
    verdict, cause, reason = found.verdict, found.cause, found.reason
    if entry.get("implemented"):
        holds = verdict == SUPPORTED
        verdict, cause = (IMPLEMENTED, "") if holds else (INCONCLUSIVE, OPEN)
        reason = "" if holds else "our code does not do this"
    return Judged(**known, verdict=verdict, cause=cause, reason=reason, p=found.p, parts=parts, also=also)


def _beside(entry: dict[str, Any], spec: dict[str, Any], predicates: Mapping[str, Predicate], results: Any) -> Part:
    """What explains a verdict and does not enter it: where its runs are not there, the verdict stands without it."""
    try:
        return _part(entry, spec, predicates, results)
    except Lacking as lacking:
        return left_open(spec["says"], f"these runs lack {lacking}")


def _part(entry: dict[str, Any], spec: dict[str, Any], predicates: Mapping[str, Predicate], results: Any) -> Part:
    """A part of an entry: a predicate with its arguments, or ``any`` of several; of the results that are given, or of
    an ``experiment`` that it names."""
    claim, arguments = entry["id"], dict(spec)
    if other := arguments.pop("experiment", ""):
        return _elsewhere(entry, arguments, other)
    if "any" in arguments:
        return any_of(arguments["says"], [_part(entry, inner, predicates, results) for inner in arguments["any"]])
    name = arguments.pop("predicate")
    requires = arguments.pop("requires", {})
    if requires and (why := unmet(results, requires)):
        return left_open(arguments["says"], why, SHORT if set(requires) & set(EXTENT) else OPEN)
    if name == "predicts" and "values" not in arguments:  # against the numbers of the statement itself
        arguments["values"] = entry["values"][spec["norm"]]
    if name in SPEED_PREDICATES and predicates is PREDICATES:  # a part on cost of a statement on results
        predicates, results = SPEED_PREDICATES, bench_steps.read()
    if name not in predicates:
        raise unknown(f"predicate of {claim}", name, predicates)
    try:
        return predicates[name](results, **arguments)
    except Lacking:
        raise
    except (TypeError, UsageError, AttributeError) as error:
        raise LabError(f"statement {claim}, {name}: {error}") from error


def _elsewhere(entry: dict[str, Any], spec: dict[str, Any], experiment: str) -> Part:
    """A part that another experiment's results judge: those of its best profile that has seeds enough, or of its best;
    they must be as the part ``requires``, and the best value of a search (``interior``) not be at an end of it."""
    requires = dict(spec.pop("requires", {}))
    interior, judged = requires.pop("interior", ""), list[Part]()
    for profile, runs in _complete(experiment):
        try:
            part = _part(entry, {**spec, "requires": requires}, PREDICATES, runs)
        except Lacking as lacking:
            part = left_open(spec["says"], f"the runs of {experiment} lack {lacking}")
        used, search = [run for leaf in part.leaves() for run in leaf.runs], Store(experiment).runs(profile, "search")
        if interior and (reason := at_an_end(used, search, interior)):
            part = left_open(spec["says"], reason, GRID_END)
        judged.append(replace(part, experiment=experiment, profile=profile))
    enough = (part for part in judged if (part.seeds or 0) >= MIN_SEEDS)
    none = replace(left_open(spec["says"], f"the experiment {experiment} has no results yet"), experiment=experiment)
    return next(enough, judged[0] if judged else none)
