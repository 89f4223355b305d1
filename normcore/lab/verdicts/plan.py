"""The runs that would decide what is undecided: which, in what order, and what they are expected to take."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from ..config import RunConfig
from ..errors import SweepIncomplete, TimeUp
from ..runs.store import Run, Store
from ..runs.sweep import sweep
from ..stats import LOOKS
from .claims import Judged, judge_all
from .predicates import CONTRADICTED, FEW, INCONCLUSIVE, SEEDS, Part, setting_of


@dataclass(frozen=True)
class Proposal:
    """What would decide a statement.

    Attributes:
        judged: the statement, as it stands.
        seeds: how many it has.
        next: the look at which it is judged next.
        expected: the look at which it is expected to be decided, by the effects and variances that there are; None
            where no look is.
        runs: that are missing up to the expected look, or where there is none up to the next.
        now: those of them that are missing up to the next look.
        seconds: that the runs are expected to take, on one core.
    """

    judged: Judged
    seeds: int
    next: int
    expected: int | None
    runs: tuple[RunConfig, ...]
    now: tuple[RunConfig, ...]
    seconds: float

    @property
    def core_hours(self) -> float:
        return self.seconds / 3600

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.judged.id, "experiment": self.judged.experiment, "profile": self.judged.profile,
            "cause": self.judged.cause, "seeds": self.seeds, "next_look": self.next, "expected_look": self.expected,
            "runs": len(self.runs), "core_hours": round(self.core_hours, 2), "reason": self.judged.reason,
            "keys": [config.key for config in self.runs],
        }  # fmt: skip


def plan(judged: Sequence[Judged] | None = None) -> list[Proposal]:
    """A proposal for every undecided statement that further seeds could decide: those that the looks up to the last are
    expected to decide, the cheapest first, then the others."""
    made = [propose(one) for one in (judge_all() if judged is None else judged)]
    found = [proposal for proposal in made if proposal]
    return sorted(found, key=lambda p: (p.expected is None, p.seconds, p.judged.id))


def perform(device: str = "auto", jobs: int = 1, deadline: float = math.inf) -> list[Proposal]:
    """Make the runs of the plan, a look of the first statement at a time; what they decide is left out of the plan that
    is made then. Returns what is left, which more seeds are not expected to decide.

    Raises:
        TimeUp: at the deadline or a SIGTERM; calling again goes on.
        SweepIncomplete: if runs failed; calling again tries them again.
    """
    failed: dict[str, str] = {}
    while True:
        proposals = plan()
        todo = [p for p in proposals if p.expected is not None and p.now and p.judged.id not in failed]
        if not todo:
            break
        first = todo[0]
        try:
            sweep(first.now, Store(first.judged.experiment), device=device, jobs=jobs, deadline=deadline)
        except TimeUp:
            raise
        except SweepIncomplete as error:
            failed[first.judged.id] = str(error)
    if failed:
        raise SweepIncomplete("; ".join(dict.fromkeys(failed.values())))
    return proposals


def propose(judged: Judged) -> Proposal | None:
    """For a statement that has runs and lacks seeds; not for its parts that other experiments judge."""
    if judged.verdict != INCONCLUSIVE or judged.cause not in (FEW, SEEDS, CONTRADICTED):
        return None
    open_parts = [leaf for leaf in judged.leaves if leaf.cause in (FEW, SEEDS) and leaf.runs and not leaf.experiment]
    leaning = [part for part in open_parts if part.inside is False]  # one failing part is enough
    looks = [_expected(part) for part in open_parts]
    if leaning:
        looks = [min(map(_expected, leaning), key=_order)]
    if not looks:
        return None
    expected = max(looks, key=_order)
    seeds = min(part.seeds or 0 for part in open_parts)
    ahead = next((n for n in LOOKS if n > seeds), None)
    if ahead is None:
        return None
    rested = [part for part in open_parts if not leaning or part in leaning]
    runs, now = (_missing(rested, Store(judged.experiment), to) for to in (max(expected or ahead, ahead), ahead))
    seconds = sum(seconds for _, seconds in runs)
    return Proposal(judged, seeds, ahead, expected, tuple(c for c, _ in runs), tuple(c for c, _ in now), seconds)


def _order(look: int | None) -> float:
    return math.inf if look is None else look


def _expected(part: Part) -> int | None:
    """The look at which a part is expected to be decided: the next where nothing is known of it."""
    ahead = next((n for n in LOOKS if n > (part.seeds or 0)), None)
    if part.needed is None:
        known = part.distance > 0 and part.effect.se > 0
        return None if known else ahead
    return next((n for n in LOOKS if n >= max(part.needed, ahead or part.needed)), None)


def _missing(parts: Sequence[Part], store: Store, to: int) -> list[tuple[RunConfig, float]]:
    """The runs that these parts lack to have so many seeds, the first seeds first, and the seconds that each takes; and
    the runs whose networks those take. As many seeds as there are without the measure (of diverged runs) are made up
    for."""
    wanted: dict[str, tuple[RunConfig, float]] = {}
    for part in parts:
        settings: dict[str, list[Run]] = {}
        for run in part.runs:
            settings.setdefault(setting_of(run.config), []).append(run)
        lost = min(len(runs) for runs in settings.values()) - (part.seeds or 0)
        for runs in settings.values():
            there = {run.config.seed for run in runs}
            seconds = median(run.provenance["seconds"] for run in runs)
            taken = [known for key in runs[0].config.needs if (known := store.find(key))]
            for seed in sorted(set(range(to + max(0, lost))) - there):
                for one, cost in (*((known, known.provenance["seconds"]) for known in taken), (runs[0], seconds)):
                    config = store.with_seed(one.config, seed)
                    wanted[config.key] = config, cost
    missing = [one for key, one in wanted.items() if not store.path(key).is_file()]
    return sorted(missing, key=lambda one: one[0].seed)
