"""A page for every statement."""

import base64
import io
import json
import re
from dataclasses import replace

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from normcore.lab.book import statements
from normcore.lab.stats import Interval
from normcore.lab.verdicts import claims
from normcore.lab.verdicts.claims import Judged
from normcore.lab.verdicts.history import Change
from normcore.lab.verdicts.predicates import REFUTED, SUPPORTED, Part, any_of

from ..helpers import made_up

ABOUT = {"title": "A document", "cite": "somebody2020"}
RUNS = tuple(made_up("bn", seed, [1.0], [0.5]) for seed in range(5))


def part(says: str, verdict: str = SUPPORTED, mean: float = -0.2) -> Part:
    return Part(says, "loss", Interval(mean, mean - 0.1, mean + 0.1), 5, verdict, runs=RUNS)


def judged(*parts: Part) -> Judged:
    return Judged(
        "S0-01", "ord", "It is so.", SUPPORTED, note="A note.", quote={"zh": "是", "en": "it is"},
        experiment="catdog-lr", parts=parts,
    )  # fmt: skip


def test_the_ledger_shows_every_statement_with_its_verdict_and_what_it_is_chosen_by() -> None:
    judged = claims.judge_all()
    text = statements.ledger(judged, claims.read()["sources"])
    rows = BeautifulSoup(text, "html.parser").select("tr[data-item]")
    assert len(rows) == len(judged) == 76
    for row, claim in zip(rows, judged, strict=True):
        link, said, verdict = row.find_all("td")
        assert link.a["href"] == f"statements/{claim.id.lower()}.html"
        assert said.text == claim.statement
        assert verdict.text == claim.verdict
        facets = json.loads(str(row["data-item"]))["facets"]
        assert (facets["verdict"], facets["source"]) == ([claim.verdict], [claim.source])
        assert facets["normalizer"] == list(claim.normalizers)


def test_the_numbers_of_the_ledger_lead_to_what_they_count() -> None:
    judged = [Judged(f"S0-0{n}", "ord", "It is so.", SUPPORTED) for n in range(3)]
    text = statements.ledger(judged, {"S0": {"title": "A document", "kind": "post", "cite": "x", "note": "N."}})
    assert '<a href="#verdict=supported&source=S0">3</a>' in text
    assert '<a href="#verdict=supported">3</a>' in text
    assert "refuted&source" not in text


def test_it_has_the_verdict_the_effects_and_the_runs() -> None:
    text = statements.page(judged(part("it is lower")), ABOUT, {"catdog-lr": "runs/catdog_lr"})
    assert text.startswith("(s0-01)=\n# S0-01\n")
    assert "[A document](#s0) {cite}`somebody2020`" in text
    assert '<q lang="zh">是</q> (it is)' in text
    assert "[catdog-lr](../runs/catdog_lr.ipynb)" in text
    assert text.count("<svg") == 1
    assert "The verdict rests on 5 runs" in text
    (data,) = re.findall(r'download="s0-01.csv" href="data:text/csv;base64,([^"]+)"', text)
    table = pd.read_csv(io.BytesIO(base64.b64decode(data)))
    assert table["seed"].tolist() == list(range(5))
    assert set(table["file"]) == {f"data/results/catdog-lr/{run.key}.json" for run in RUNS}
    assert set(table["parts"]) == {"it is lower"}


def test_a_part_of_another_experiment_leads_there() -> None:
    others = tuple(made_up("gn", seed, [1.0], [0.5]) for seed in range(5))
    elsewhere = replace(part("and there"), runs=others, experiment="noniid", profile="quick")
    pages = {"catdog-lr": "runs/catdog_lr", "noniid": "runs/noniid"}
    text = statements.page(judged(part("it is lower"), elsewhere), ABOUT, pages)
    assert "Experiments: [catdog-lr](../runs/catdog_lr.ipynb); [noniid](../runs/noniid.ipynb), profile quick." in text
    (data,) = re.findall(r'download="s0-01.csv" href="data:text/csv;base64,([^"]+)"', text)
    files = set(pd.read_csv(io.BytesIO(base64.b64decode(data)))["file"])
    assert {f"data/results/noniid/{run.key}.json" for run in others} < files


def test_an_effect_is_drawn_with_where_it_should_be_and_what_is_too_small() -> None:
    order = replace(part("it is lower"), high=0.0, tie=0.05)
    spans = [patch.get_extents() for patch in statements._effect(order).axes[0].patches]
    plain = statements._effect(part("it is lower")).axes[0].patches
    assert (len(spans), len(plain)) == (2, 0)
    grey, ground = (patch.get_xy() for patch in statements._effect(order).axes[0].patches)
    assert grey == (-0.05, pytest.approx(0))
    assert ground[0] < -0.3  # to the left of the interval


def test_the_parts_of_an_or_are_drawn_one_by_one() -> None:
    either = any_of("one or the other", [part("it is lower"), part("it is higher", REFUTED, 0.3)])
    text = statements.page(judged(either), ABOUT, {"catdog-lr": "runs/catdog_lr"})
    assert text.count('<div class="nc-panel">') == 2


def test_of_what_is_not_measured_nothing_is_drawn() -> None:
    text = statements.page(Judged("S1-05", "ord", "It is so.", "not measured yet"), ABOUT, {})
    assert "<svg" not in text
    assert re.findall("## (.*)", text) == ["What would change the verdict", "Its history"]
    assert "- A study that tests it" in text


def test_it_has_the_threats_what_would_change_it_and_its_history() -> None:
    one, pages = judged(part("it is lower")), {"catdog-lr": "runs/catdog_lr"}
    before = [
        Change("2030-01-31", "inconclusive", "one seed"),
        Change("2030-02-01", SUPPORTED, "five seeds", "c0ffee1"),
    ]
    text = statements.page(one, ABOUT, pages, before=before, with_care=["Mind the gap."], follows=["Take it."])
    sections = dict(zip(re.findall("## (.*)", text), re.split("## .*", text)[1:], strict=True))
    assert sections["What would follow from it"].strip() == "- Take it."
    assert "- Mind the gap." in sections["Threats"]
    assert "- All its runs are of the network `lenet5`" in sections["Threats"]
    assert "it is lower" in sections["What would change the verdict"]
    rows = [line for line in sections["Its history"].splitlines() if line.startswith("| 20")]
    assert rows == [
        "| 2030-01-31 | {bdg-warning}`inconclusive` | one seed |",
        "| 2030-02-01 | {bdg-success}`supported` | five seeds (`c0ffee1`) |",
    ]
    assert "| now |" not in text, "the present verdict is the last that was noted"
    assert "| now | {bdg-success}`supported` |" in statements.page(one, ABOUT, pages, before=before[:1])


def test_the_verdict_can_be_downloaded_with_its_parts() -> None:
    text = statements.page(judged(part("it is lower")), ABOUT, {"catdog-lr": "runs/catdog_lr"})
    (data,) = re.findall(r'download="s0-01.json" href="data:application/json;base64,([^"]+)"', text)
    found = json.loads(base64.b64decode(data))
    assert (found["verdict"], found["quote"]["zh"]) == (SUPPORTED, "是")
    assert [one["says"] for one in found["parts"]] == ["it is lower"]
