"""The ledger: every statement is there, and verdicts follow from results."""

import re
from pathlib import Path
from typing import Any

import pytest

from normcore.lab import claims
from normcore.lab.claims import INCONCLUSIVE, NOT_MEASURED, NOT_TESTABLE, REFUTED, SUPPORTED, higher, lower, matches
from normcore.lab.errors import LabError, UsageError
from normcore.lab.runs import Run

from .helpers import made_up

COUNTS = {"S0": 26, "S1": 16, "S2": 14, "S3": 12, "S4": 8}


def pair(difference: list[float], seeds: int | None = None) -> list[Run]:
    """BN's loss is that of no norm, 1.0, plus a difference a seed."""
    seeds = seeds or len(difference)
    plain = [made_up("none", s, [2.0, 1.0], [0.5, 0.6]) for s in range(seeds)]
    return plain + [made_up("bn", s, [2.0, 1.0 + d], [0.5, 0.6]) for s, d in enumerate(difference[:seeds])]


def test_every_statement_of_the_five_documents_is_in_the_ledger() -> None:
    found = claims.read()
    expected = [f"{source}-{n:02d}" for source, number in COUNTS.items() for n in range(1, number + 1)]
    assert [entry["id"] for entry in found["claims"]] == expected
    assert set(found["sources"]) == set(COUNTS)
    for entry in found["claims"]:
        assert entry["kind"] in claims.KINDS
        assert entry["statement"].strip().endswith((".", "?"))
        assert "verdict" not in entry, "nobody writes a verdict by hand"


def test_every_cited_source_is_in_the_references() -> None:
    references = (Path(__file__).parents[2] / "book" / "references.bib").read_text()
    keys = set(re.findall(r"@\w+\{([\w-]+),", references))
    assert {about["cite"] for about in claims.read()["sources"].values()} <= keys


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([-0.2, -0.3, -0.25], SUPPORTED),
        ([0.2, 0.3, 0.25], REFUTED),
        ([-0.2, 0.3, -0.1], INCONCLUSIVE),
        ([-0.2, -0.3], INCONCLUSIVE),  # two seeds give no verdict
    ],
)
def test_lower_and_higher_go_by_the_interval(differences: list[float], verdict: str) -> None:
    found = lower(pair(differences), "it is lower", "train_loss", "bn", "none")
    assert found.verdict == verdict
    assert found.seeds == len(differences)
    assert found.effect.mean == pytest.approx(sum(differences) / len(differences))
    opposite = {SUPPORTED: REFUTED, REFUTED: SUPPORTED}.get(verdict, verdict)
    assert higher(pair(differences), "it is higher", "train_loss", "bn", "none").verdict == opposite


def test_a_measure_can_be_of_some_epochs() -> None:
    runs = [made_up("bn", 0, [4.0, 2.0, 1.0], [0.1, 0.2, 0.3])]
    expected = {(0, 1): [4.0], (0, 2): [3.0], (2, 3): [1.0], (-2, 0): [1.5]}
    assert {e: claims.measure(runs, "train_loss", e)["value"].tolist() for e in expected} == expected
    assert claims.measure(runs, "test_accuracy")["value"].tolist() == [0.3]
    assert claims.measure(runs, "train_loss", (5, 6)).empty


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [([0.800, 0.805, 0.803], SUPPORTED), ([0.83, 0.84, 0.835], REFUTED), ([0.805, 0.815, 0.800], INCONCLUSIVE)],
)
def test_matches_goes_by_the_tolerance(ours: list[float], verdict: str) -> None:
    runs = [made_up("bn", s, [1.0], [value]) for s, value in enumerate(ours)]
    found = matches(runs, "close", "test_accuracy", "bn", [0.8], 0.01)
    assert found.verdict == verdict
    assert found.effect.mean == pytest.approx(sum(ours) / 3 - 0.8)


def test_matches_needs_every_epoch() -> None:
    with pytest.raises(UsageError, match="after each of 2 epochs"):
        matches([made_up("bn", 0, [1.0], [0.8])], "close", "test_accuracy", "bn", [0.8, 0.9], 0.01)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([SUPPORTED, SUPPORTED], SUPPORTED),
        ([SUPPORTED, REFUTED], REFUTED),
        ([SUPPORTED, INCONCLUSIVE], INCONCLUSIVE),
        ([REFUTED, INCONCLUSIVE], REFUTED),
    ],
)
def test_all_that_a_statement_says_must_hold(verdicts: list[str], expected: str) -> None:
    assert claims.combine(verdicts) == expected


def entry(**more: Any) -> dict[str, Any]:
    part = {"predicate": "lower", "says": "lower", "metric": "train_loss", "a": "bn", "b": "none"}
    return {"id": "S9-01", "kind": "ord", "statement": "It is.", "parts": [part], **more}


def test_what_has_no_results_is_not_measured() -> None:
    assert claims._judge({**entry(), "parts": []}, [], "").verdict == NOT_MEASURED
    assert claims._judge(entry(), [], "").verdict == NOT_MEASURED
    assert claims._judge(entry(reason="it needs ImageNet"), [], "").verdict == NOT_TESTABLE


def test_runs_on_other_data_judge_nothing() -> None:
    runs = pair([-0.2, -0.3, -0.25])
    judged = claims._judge(entry(requires={"dataset": "fashion_mnist"}), runs, "smoke")
    assert judged.verdict == NOT_MEASURED
    assert "digits" in judged.reason
    assert claims._judge(entry(requires={"dataset": "digits"}), runs, "smoke").verdict == SUPPORTED


def test_runs_without_a_variant_judge_nothing() -> None:
    judged = claims._judge(entry(), pair([-0.2, -0.3, -0.25])[:3], "smoke")
    assert (judged.verdict, judged.reason) == (NOT_MEASURED, "these runs lack bn")


def test_a_wrong_entry_is_named() -> None:
    wrong = entry(parts=[{"predicate": "lowr", "says": "x"}])
    with pytest.raises(UsageError, match="unknown predicate of S9-01 'lowr': did you mean lower"):
        claims._judge(wrong, pair([0.1]), "")
    with pytest.raises(LabError, match=r"claims\.yml, S9-01, lower"):
        claims._judge(entry(parts=[{"predicate": "lower", "says": "x"}]), pair([0.1]), "")
    with pytest.raises(UsageError, match="unknown statement 'S4-99'"):
        claims.judge("S4-99", [])


def test_a_judgement_can_be_shown_and_is_plain_json() -> None:
    judged = claims._judge(entry(), pair([-0.2, -0.3, -0.25]), "quick")
    assert "supported" in judged._repr_html_()
    assert judged.to_json()["parts"][0]["effect"]["mean"] == pytest.approx(-0.25)
    assert claims._judge(entry(), pair([-0.2]), "quick").to_json()["parts"][0]["effect"]["low"] is None
