"""Published runs made again: what counts as the same, and what is said of the rest."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from normcore.lab import verify
from normcore.lab.runs.experiments import find
from normcore.lab.runs.store import Run, Store
from normcore.lab.runs.training import train
from normcore.lab.verify import FEW, NOISE, OTHER, SAME, cheapest, compare

from .helpers import config
from .test_cli import call


@pytest.fixture(scope="module")
def made() -> Run:
    return train(config(), torch.device("cpu"))


def seeds(run: Run, number: int, spread: float) -> list[Run]:
    """Published runs of its setting whose accuracies lie around its own."""
    offsets = spread * np.linspace(-1, 1, number)
    return [replace(run, final={name: value + offset for name, value in run.final.items()}) for offset in offsets]


def test_the_same_bits(made: Run) -> None:
    found = compare(made, train(made.config, torch.device("cpu")), [made])
    assert (found.outcome, found.change, found.why) == (SAME, 0.0, "")


@pytest.mark.parametrize(
    ("number", "by", "outcome"), [(5, 0.01, NOISE), (5, 0.2, OTHER), (4, 0.01, FEW)], ids=["noise", "more", "few"]
)
def test_other_bits_are_measured_by_what_a_seed_changes(made: Run, number: int, by: float, outcome: str) -> None:
    again = replace(made, final={name: value + by for name, value in made.final.items()})
    found = compare(made, again, seeds(made, number, 0.02))
    assert (found.outcome, found.change) == (outcome, pytest.approx(by))
    assert ("too few to tell" in found.why) == (number < 5)


def test_a_curve_that_differs_is_not_the_same(made: Run) -> None:
    curves = {**made.curves, "train": {**made.curves["train"], "loss": [9.0] * len(made.curves["train"]["loss"])}}
    assert compare(made, replace(made, curves=curves), [made]).outcome == FEW


def test_what_the_two_were_made_with_is_said(made: Run) -> None:
    older = {
        **made.provenance,
        "code": "c0de",
        "instructions": "",
        "versions": {**made.provenance["versions"], "torch": "1"},
    }
    found = compare(replace(made, provenance=older, final={}), made, [made])
    assert "torch 1 is" in found.why
    assert "code c0de is" in found.why
    assert "instructions unknown is" in found.why


@pytest.mark.parametrize(("had", "tried"), [("", ["", "AVX2"]), ("AVX2", ["AVX2"]), ("AMX", [""])])
def test_it_is_made_with_the_instructions_that_it_had(
    had: str, tried: list[str], made: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def again(wanted: Any, name: str) -> Run:
        asked.append(name)
        return made if name == "AVX2" else replace(made, final={})

    monkeypatch.setattr(verify, "instructions", lambda: "AVX512")
    monkeypatch.setattr(verify, "_again", again)
    found = verify.verify(replace(made, provenance={**made.provenance, "instructions": had}), [made])
    assert asked == tried
    assert (found.outcome == SAME) == ("AVX2" in tried)


def publish(runs: list[Run], store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the published smoke profile of fashion-lenet."""
    monkeypatch.setenv("NORMCORE_RESULTS", str(store))
    monkeypatch.setenv("NORMCORE_PUBLISHED", str(store.parent / "none"))
    kept = Store("fashion-lenet")
    for run in runs:
        kept.put(run)
    kept.index("smoke", "main", [run.key for run in runs])
    monkeypatch.setenv("NORMCORE_PUBLISHED", str(store))
    monkeypatch.setenv("NORMCORE_RESULTS", str(store.parent / "own"))


def test_the_command(
    store: Path, made: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = replace(made, config=replace(made.config, lr=0.02), provenance={**made.provenance, "seconds": 1e6})
    publish([slow, made], store, monkeypatch)
    code, out, _ = call(monkeypatch, capsys, "verify", "fashion-lenet", "--runs", "1", "--json")
    (row,) = json.loads(out)
    assert (code, row["key"], row["outcome"]) == (0, made.key, SAME)
    others = [replace(made, config=replace(made.config, seed=seed)) for seed in range(5)]
    publish([slow, *(replace(run, final=dict.fromkeys(made.final, 0.0)) for run in others)], store, monkeypatch)
    code, out, _ = call(monkeypatch, capsys, "verify", "fashion-lenet", "--runs", "1")
    assert (code, "differs" in out) == (1, True)


def test_outcomes_that_are_noted_take_the_place_of_earlier_ones(
    store: Path, made: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(verify, "NOTED", str(store.parent / "verified.json"))
    publish([made], store, monkeypatch)
    old = {"key": "0" * 16, "outcome": NOISE, "instructions": "AVX2"}
    verify.note([{"experiment": "fashion-lenet", **old}, {"experiment": "position", **old}])
    call(monkeypatch, capsys, "verify", "fashion-lenet", "--runs", "1", "--note")
    assert [(row["experiment"], row["outcome"]) for row in verify.noted()] == [
        ("fashion-lenet", SAME),
        ("position", NOISE),
    ]
    assert [row["key"] for row in verify.noted("fashion-lenet")] == [made.key]


def test_each_setting_once_the_cheapest_first(store: Path, made: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of runs that came to an end, and that need no other's network."""
    runs = [
        replace(made, config=replace(made.config, lr=lr, seed=seed), provenance={**made.provenance, "seconds": seconds})
        for lr, seed, seconds in ((0.01, 0, 5.0), (0.01, 1, 3.0), (0.02, 0, 4.0))
    ]
    free = {**made.provenance, "seconds": 0.1}
    others = [
        replace(made, config=replace(made.config, lr=0.03), provenance=free, status="diverged", diverged_at=1),
        replace(made, config=replace(made.config, start=runs[0].key), provenance=free),
    ]
    publish([*runs, *others], store, monkeypatch)
    settings = cheapest(find("fashion-lenet"), 3)
    assert [seeds[0].key for seeds in settings] == [runs[1].key, runs[2].key]
    assert [len(s) for s in settings] == [2, 1]
