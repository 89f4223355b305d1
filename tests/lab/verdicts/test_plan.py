"""The plan: which runs would decide what is undecided, and that they are made in its order."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from normcore.lab.errors import SweepIncomplete
from normcore.lab.runs.store import Run, Store
from normcore.lab.verdicts import claims, plan
from normcore.lab.verdicts.claims import Judged

from ..helpers import pair

PART = {"predicate": "lower", "says": "lower", "metric": "train_loss", "a": "bn", "b": "none"}


def judged(differences: Sequence[float], name: str = "S9-01", seconds: float = 3600.0, **fields: Any) -> Judged:
    """A statement whose runs take so long each."""
    entry = {"id": name, "kind": "ord", "statement": "It is.", "parts": [PART], "experiment": "fashion-lenet"}
    runs = [
        replace(run, provenance={**run.provenance, "seconds": seconds}) for run in pair(list(differences), **fields)
    ]
    return claims._judge(entry, runs, "quick")


def test_what_lacks_seeds_is_planned_up_to_the_look_that_is_expected_to_decide(store: Path) -> None:
    (one,) = plan.plan([judged([-0.2, -0.3, -0.25])])
    assert (one.seeds, one.next, one.expected) == (3, 5, 5)
    assert sorted((c.norm, c.seed) for c in one.runs) == [("bn", 3), ("bn", 4), ("none", 3), ("none", 4)]
    assert one.runs == one.now
    assert one.core_hours == pytest.approx(4)
    later = plan.plan([judged([0.4, 0.1, 0.35, 0.05, 0.3])])[0]
    assert (later.seeds, later.next, later.expected) == (5, 8, 8)
    assert {c.seed for c in later.runs} == {5, 6, 7}


def test_of_runs_that_take_networks_those_networks_are_planned_too(store: Path) -> None:
    """Each of its own seed; and the seeds are one setting, though each starts from another network."""
    runs, places = [], Store("fashion-lenet")
    for run in pair([-0.2, -0.3, -0.25]):
        first = replace(run, config=replace(run.config, lr=0.5))
        places.put(first)
        runs.append(replace(run, config=replace(run.config, start=first.key)))
    entry = {"id": "S9-01", "kind": "ord", "statement": "It is.", "parts": [PART], "experiment": "fashion-lenet"}
    (one,) = plan.plan([claims._judge(entry, runs, "quick")])
    looked, trained = ([c for c in one.runs if bool(c.start) == taking] for taking in (True, False))
    for made in looked, trained:
        assert sorted((c.norm, c.seed) for c in made) == [("bn", 3), ("bn", 4), ("none", 3), ("none", 4)]
    assert {c.start for c in looked} == {c.key for c in trained}


def test_a_part_that_another_experiment_judges_is_planned_there(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = judged([-0.2, -0.3, -0.25])
    (part,) = one.parts
    other = judged([-0.2, -0.3, -0.25], lr=0.5).parts[0]
    both = replace(one, parts=(part, replace(other, experiment="position", profile="quick")))
    (found,) = plan.plan([both])
    assert found.to_json()["experiment"] == "fashion-lenet, position"
    assert {(found.homes[c.key], c.lr == 0.5) for c in found.runs} == {("fashion-lenet", False), ("position", True)}
    swept: list[tuple[str, set[bool]]] = []
    left = iter(([both], []))
    monkeypatch.setattr(plan, "judge_all", lambda: next(left))
    monkeypatch.setattr(plan, "sweep", lambda runs, to, **_: swept.append((to.experiment, {c.lr == 0.5 for c in runs})))
    assert plan.perform() == []
    assert swept == [("fashion-lenet", {False}), ("position", {True})]


def test_of_a_long_way_the_next_look_comes_first(store: Path) -> None:
    (one,) = plan.plan([judged([-0.5, 0.1, -0.3, 0.0, -0.6])])
    assert one.expected is not None
    assert one.expected > one.next == 8
    assert {c.seed for c in one.now} == {5, 6, 7}
    assert {c.seed for c in one.runs} == set(range(5, one.expected))


def test_one_seed_of_which_nothing_is_known_goes_to_the_first_look(store: Path) -> None:
    (one,) = plan.plan([judged([-0.2])])
    assert (one.seeds, one.next, one.expected, len(one.runs)) == (1, 5, 5, 8)


def test_what_is_decided_or_tied_or_too_short_is_not_planned(store: Path) -> None:
    assert plan.plan([judged([-0.2, -0.3, -0.25, -0.2, -0.3]), judged([0.001, -0.001, 0.0, 0.001, 0.0])]) == []
    short = replace(judged([-0.2]), cause="too short")
    assert plan.plan([short]) == []


def test_the_cheapest_comes_first_and_the_hopeless_last(store: Path) -> None:
    dear, cheap = judged([-0.2, -0.3, -0.25], "S9-01", 100), judged([-0.2, -0.3, -0.25], "S9-02", 10)
    hopeless = judged([-0.5, 0.5, -0.5, 0.5, -0.2], "S9-03", 1)
    found = plan.plan([hopeless, dear, cheap])
    assert [one.judged.id for one in found] == ["S9-02", "S9-01", "S9-03"]
    assert found[-1].expected is None
    assert found[0].to_json()["keys"] == [c.key for c in found[0].runs]


def test_runs_that_are_there_are_not_planned_and_lost_seeds_are_made_up_for(store: Path) -> None:
    one = judged([-0.2, -0.3, -0.25])
    made = pair([-0.2, -0.3, -0.25, -0.2])[3::4]
    for run in made:
        Store("fashion-lenet").put(run)
    (found,) = plan.plan([one])
    assert {c.seed for c in found.runs} == {4}
    (part,) = one.parts
    lost = replace(one, parts=(replace(part, seeds=2),))  # a seed diverged
    (found,) = plan.plan([lost])
    assert {c.seed for c in found.runs} == {4, 5}


def test_the_plan_is_made_a_look_at_a_time_until_nothing_is_left(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look shows what the next is about; what fails is left, and the rest goes on."""
    looks = [[-0.2], [0.4, 0.1, 0.35, 0.05, 0.3], [-0.2, -0.3, -0.25, -0.2, -0.3]]
    swept: list[tuple[str, set[int]]] = []

    def judge_all() -> list[Judged]:
        done = [name for name, _ in swept].count("S9-01")
        return [judged(looks[done]), judged([-0.2], "S9-02", 9999, lr=0.5)]

    def sweep(configs: Sequence[Any], results: Store, **how: Any) -> list[Run]:
        swept.append(("S9-02" if configs[0].lr == 0.5 else "S9-01", {c.seed for c in configs}))
        if configs[0].lr == 0.5:
            raise SweepIncomplete("its process died")
        assert how == {"device": "cpu", "jobs": 2, "deadline": math.inf}
        return []

    monkeypatch.setattr(plan, "judge_all", judge_all)
    monkeypatch.setattr(plan, "sweep", sweep)
    with pytest.raises(SweepIncomplete, match="its process died"):
        plan.perform("cpu", 2)
    assert swept == [("S9-01", {1, 2, 3, 4}), ("S9-01", {5, 6, 7}), ("S9-02", {1, 2, 3, 4})]


def test_at_the_deadline_the_plan_stops(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sweep(*_: Any, **__: Any) -> list[Run]:
        raise SweepIncomplete("the time budget is used up")

    monkeypatch.setattr(plan, "judge_all", lambda: [judged([-0.2]), judged([-0.2], "S9-02", lr=0.5)])
    monkeypatch.setattr(plan, "sweep", sweep)
    with pytest.raises(SweepIncomplete, match="time budget"):
        plan.perform(deadline=-math.inf)
