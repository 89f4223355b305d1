"""The runs that would decide what is undecided: which, in what order, and what they are expected to take."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

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
        homes: the key of each -> its experiment; a statement can have parts that other experiments judge.
        seconds: that the runs are expected to take, on one core.
    """

    judged: Judged
    seeds: int
    next: int
    expected: int | None
    runs: tuple[RunConfig, ...]
    now: tuple[RunConfig, ...]
    homes: dict[str, str]
    seconds: float

    @property
    def experiments(self) -> list[str]:
        return list(dict.fromkeys(self.homes.values()))

    @property
    def core_hours(self) -> float:
        return self.seconds / 3600

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.judged.id, "experiment": ", ".join(self.experiments), "profile": self.judged.profile,
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
            for name in first.experiments:
                runs = [config for config in first.now if first.homes[config.key] == name]
                if runs:
                    sweep(runs, Store(name), device=device, jobs=jobs, deadline=deadline)
        except TimeUp:
            raise
        except SweepIncomplete as error:
            failed[first.judged.id] = str(error)
    if failed:
        raise SweepIncomplete("; ".join(dict.fromkeys(failed.values())))
    return proposals


def propose(judged: Judged) -> Proposal | None:
    """For a statement that has runs and lacks seeds."""
    if judged.verdict != INCONCLUSIVE or judged.cause not in (FEW, SEEDS, CONTRADICTED):
        return None
    open_parts = [leaf for leaf in judged.leaves if leaf.cause in (FEW, SEEDS) and leaf.runs]
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
    runs, now = (_missing(rested, judged.experiment, to) for to in (max(expected or ahead, ahead), ahead))
    return Proposal(
        judged, seeds, ahead, expected, tuple(one.config for one in runs), tuple(one.config for one in now),
        {one.config.key: one.experiment for one in runs}, sum(one.seconds for one in runs),
    )  # fmt: skip


def _order(look: int | None) -> float:
    return math.inf if look is None else look


def _expected(part: Part) -> int | None:
    """The look at which a part is expected to be decided: the next where nothing is known of it."""
    ahead = next((n for n in LOOKS if n > (part.seeds or 0)), None)
    if part.needed is None:
        known = part.distance > 0 and part.effect.se > 0
        return None if known else ahead
    return next((n for n in LOOKS if n >= max(part.needed, ahead or part.needed)), None)


class _Missing(NamedTuple):
    experiment: str
    config: RunConfig
    seconds: float


def _missing(parts: Sequence[Part], experiment: str, to: int) -> list[_Missing]:
    """The runs that these parts lack to have so many seeds, the first seeds first, and the seconds that each takes; and
    the runs whose networks those take. As many seeds as there are without the measure (of diverged runs) are made up
    for.

    Args:
        experiment: of the parts that name none.
    """
    wanted: dict[str, _Missing] = {}
    for part in parts:
        home = part.experiment or experiment
        store, settings = Store(home), dict[str, list[Run]]()
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
                    wanted[config.key] = _Missing(home, config, cost)
    missing = [one for key, one in wanted.items() if not Store(one.experiment).path(key).is_file()]
    return sorted(missing, key=lambda one: one.config.seed)
