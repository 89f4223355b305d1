"""The guide: groups that can be told apart, and what is said of them."""

import html
import json
import re

import numpy as np
import pandas as pd
import pytest

from normcore.lab.book.guide import guide, in_short, rank, read
from normcore.lab.compare.battery import Comparison, Workload
from normcore.lab.compare.standing import groups
from normcore.lab.runs.experiments import Experiment
from normcore.lab.verdicts import claims
from normcore.lab.verdicts.claims import Judged

from ..compare.test_battery import battery
from ..helpers import made_up

RIGHT = Workload("right", "Right", "Is it right?")
LOSS = Workload("loss", "Loss", "How wrong is it?", "test_loss", lower=True, least=0.02, unit="nats")
WIGGLE = np.array([0.001, -0.001, 0.002, -0.002, 0.0])


def scores(workload: Workload, **means: float) -> pd.DataFrame:
    """Five seeds of each normalizer around its mean."""
    columns = ["workload", "norm", "seed", "value", "status"]
    rows = [
        [workload.name, norm, seed, mean + (-1) ** i * wiggle, "finished"]
        for i, (norm, mean) in enumerate(means.items())
        for seed, wiggle in enumerate(WIGGLE)
    ]
    return pd.DataFrame(rows, columns=columns)


def test_groups_are_told_apart_from_their_first() -> None:
    found = groups(scores(RIGHT, bn=0.9, ln=0.8, gn=0.899, none=0.797), RIGHT, ["bn", "ln", "gn", "none"])
    assert found == [["bn", "gn"], ["ln", "none"]]
    assert groups(scores(LOSS, bn=2.0, ln=1.5), LOSS, ["bn", "ln"]) == [["ln"], ["bn"]]
    assert groups(scores(RIGHT, bn=0.9, other=0.95), RIGHT, ["bn"]) == [["bn"]]


def test_in_short() -> None:
    def said(workload: Workload, **means: float) -> str:
        found = scores(workload, **means)
        return in_short(found, workload, groups(found, workload, list(means)))

    level = "It does not matter here: all are within 0.001 of the first (share of images right)."
    assert said(RIGHT, bn=0.9, gn=0.899) == level
    assert said(RIGHT, bn=0.9, gn=0.899, ln=0.8) == "BN and GN do best; LN is 0.1 behind BN (share of images right)."
    assert said(LOSS, bn=2.0, ln=1.5) == "LN does best; BN is 0.5 behind LN (nats)."
    assert said(RIGHT) == "Nothing is measured yet."
    unsure = scores(RIGHT, bn=0.9, gn=0.894)
    unsure["value"] += np.tile([0.02, -0.02, 0.01, -0.01, 0.0], 2) * np.repeat([1, -1], 5)
    told = groups(unsure, RIGHT, ["bn", "gn"])
    assert in_short(unsure, RIGHT, told) == "With these seeds no normalizer can be told from the first."


def compared() -> Comparison:
    """Three normalizers in every workload of a battery, of which IN cannot stand in the transformer."""
    study = battery(["none", "bn", "in"])
    study.refused["transformer", "in"] = "it needs positions"
    found = [scores(w, none=0.7, bn=0.9, **{"in": 0.8}) for w in study.workloads if w.name != "transformer"]
    return Comparison("quick", study, [], pd.concat([*found, scores(study.workloads[-2], none=2.0, bn=1.0)]))


STATEMENTS = [Judged(s, "ord", f"What {s} says.", "supported") for s in ("S2-05", "S2-09", "S2-12")]


def test_the_page_has_every_workload_with_differences_from_bn() -> None:
    text = guide(compared(), STATEMENTS, rank(compared()))
    assert "| BN | **1** |" in text
    assert "| no norm | 3 |" in text
    assert "(guide-batch-2)=" in text
    assert "- [S2-09](#s2-09) What S2-09 says." in text
    assert "Not applicable: IN." in text
    assert text.count("| 1 | BN |") == len(compared().battery.workloads) - 1  # its loss of the LSTM is the highest
    assert "-0.100" in text


def test_every_answer_that_can_be_given_leads_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Experiment, "published_runs", lambda _: ("quick", []))
    text = guide(compared(), STATEMENTS, rank(compared()))
    items = [json.loads(html.unescape(found)) for found in re.findall(r'data-item="([^"]+)"', text)]
    questions = read()["questions"]
    for name, question in questions.items():
        offered = {answer for item in items for answer in item["facets"].get(name, ())}
        assert offered <= set(question["answers"])
        for answer in set(question["answers"]) - {"4"}:  # the battery of this test has no batches of 4
            assert any(answer in item["facets"].get(name, [answer]) and item["says"] for item in items)
    unmeasured = next(item for item in items if item["title"] == "Restyling and enlarging images")
    assert unmeasured["says"] == "not measured yet."


@pytest.mark.parametrize(("there", "says"), [(3, "a study of its own: S2-09 supported."), (0, "not measured yet.")])
def test_a_study_of_its_own_is_named_with_its_verdicts(there: int, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [made_up("gn", seed, [1.0], [0.5]) for seed in range(there)]
    monkeypatch.setattr(Experiment, "published_runs", lambda _: ("quick", runs))
    text = guide(compared(), STATEMENTS, rank(compared()))
    items = [json.loads(html.unescape(found)) for found in re.findall(r'data-item="([^"]+)"', text)]
    detecting = next(item for item in items if item["title"] == "Detecting objects")
    assert (detecting["says"], detecting["facets"]) == (says, {"network": ["detection"], "counts": ["score"]})
    assert f"[Finding objects](runs/detection.ipynb), {'3 runs' if there else 'whose runs'}" in text


def test_it_names_statements_that_there_are() -> None:
    about = read()
    answers = [*about["workloads"].values(), *about["properties"].values(), *about["elsewhere"]]
    assert {s for one in answers for s in one["sources"]} <= {entry["id"] for entry in claims.read()["claims"]}


def test_cost_and_company_are_of_the_layers() -> None:
    text = guide(Comparison("smoke", battery(["bn"]), [], scores(RIGHT)), [], {})
    assert "| BN | current input | running averages | yes |" in text
    assert "| LN | current input | current input | no |" in text
    assert "| VirtualBN | current input, reference batch | current input, reference batch | no |" in text
    assert "times as long as with BN" in text


def test_without_five_seeds_nothing_is_ranked() -> None:
    few = scores(RIGHT, bn=0.9)
    comparison = Comparison("smoke", battery(["bn"]), [], few[few["seed"] < 2])
    assert rank(comparison) == {}
    assert "Nothing is compared yet with the 5 seeds that this takes." in guide(comparison, [], {})
