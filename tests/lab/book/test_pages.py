"""The generated parts of the book."""

import re
from pathlib import Path

import nbformat
import pytest

from normcore.lab import catdog
from normcore.lab.book import pages
from normcore.lab.runs.experiments import experiments
from normcore.lab.runs.store import Store
from normcore.lab.stats import Interval
from normcore.lab.verdicts import claims
from normcore.lab.verdicts.claims import NOT_MEASURED, Judged
from normcore.lab.verdicts.predicates import REFUTED, SUPPORTED, Part

from ..helpers import made_up, run_of


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min 01 s"), (3599.6, "1 h 00 min"), (7260, "2 h 01 min")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert pages._duration(seconds) == words


def test_the_facts_of_runs_are_said() -> None:
    facts = dict(pages._run_facts([made_up("bn", s, [1.0], [0.5]) for s in range(2)]))
    assert facts["runs"] == "2: 2 finished"
    assert facts["commit"] == "`c0ffee`"
    assert facts["measured"] == "2030-01-31 12:00 UTC to 2030-01-31 12:00 UTC"
    assert pages._run_facts([]) == [["runs", "none"]]


# --- the page of an experiment ---------------------------------------------------------------------------


def test_the_answer_of_an_experiment_has_its_statements_with_what_was_measured() -> None:
    part = Part("it is", "loss, BN minus LN", Interval(-0.2, -0.3, -0.1), 5, SUPPORTED)
    judged = [
        Judged("S0-01", "ord", "It is.", SUPPORTED, experiment="catdog-lr", profile="half", parts=(part,)),
        Judged("S0-02", "ord", "It is not.", NOT_MEASURED, experiment="catdog-lr", reason="no runs"),
        Judged("S0-04", "ord", "Elsewhere.", SUPPORTED, experiment="catdog-batch", parts=(part,)),
    ]
    text = pages.answer(experiments()["catdog-lr"], judged, experiments()["catdog-lr"].complete())
    assert text.startswith("**Supported: [S0-01](#s0-01); not measured yet: [S0-02](#s0-02).**")
    assert "| It is. | loss, BN minus LN: -0.2000 [-0.3000, -0.1000] (`half`, seeds: 5) | {bdg-success}" in text
    assert '| It is not. | <span class="nc-unmeasured">no runs</span> |' in text
    assert "Elsewhere" not in text
    assert text.endswith("[How it was run](#how-catdog_lr): `normcore run catdog-lr --profile half`.")


# --- the page of a study ---------------------------------------------------------------------------------


def test_a_study_shows_the_statements_of_its_document_and_those_that_its_experiments_judge(store: Path) -> None:
    part = Part("it is", "loss", Interval(-0.2, -0.3, -0.1), 3, SUPPORTED)
    judged = [
        Judged("S0-01", "ord", "It is.", SUPPORTED, profile="quick", parts=(part,)),
        Judged("S0-02", "ord", "It is not.", NOT_MEASURED, profile="half"),  # whose runs could not judge it
        Judged("S0-03", "ord", "It is so.", SUPPORTED, parts=(part,)),
        Judged("S1-01", "ord", "Also here.", REFUTED, experiment="catdog-smallbatch", parts=(part,)),
        Judged("S4-03", "ord", "Elsewhere.", REFUTED, experiment="fashion-lenet", parts=(part,)),
    ]
    text = pages.study(judged, "catdog")
    assert text.splitlines()[0] == (
        "Of its 3 statements: 2 supported, 1 not measured yet. Statements of other documents that the same "
        "experiments judge: 1."
    )
    rows = [line for line in text.splitlines() if line.startswith("| [S")]
    assert [re.findall(r"\[(S\d-\d\d)\]\(#(\S+)\)", row) for row in rows] == [
        *([(f"S0-0{n}", f"s0-0{n}")] for n in (1, 2, 3)),
        [("S1-01", "s1-01")],
    ]
    for row, judgement in zip(rows, judged, strict=False):
        assert judgement.statement in row
        assert f"`{judgement.verdict}`" in row
        assert row.endswith("| `quick` |" if judgement.id == "S0-01" else "|  |")
    assert "Elsewhere" not in text


def test_a_study_shows_what_its_experiments_have(store: Path) -> None:
    wanted = catdog.configs(["none", "bn"], dataset="shapes", image_size=64, steps=20000, seeds=3)
    results = Store("catdog-lr")
    results.index("half", "main", [config.key for config in wanted])
    for config in wanted:
        results.put(run_of(config, [0.5] * 20, [0.6] * 20, every=1000))
    results.index("full", "main", ["0" * 16])  # which is not there
    text = pages.study([], "catdog")
    table = text[text.index("What the experiments show") :]
    rows = {line.split("]")[0].removeprefix("| ["): line for line in table.splitlines() if line.startswith("| [")}
    known = {name: e for name, e in experiments().items() if name.startswith("catdog-")}
    assert set(rows) == {e.title for e in known.values()}
    for name, experiment in known.items():
        cells = [cell.strip() for cell in rows[experiment.title].strip("| ").split("|")]
        assert f"({experiment.page}.ipynb)" in cells[0]
        if name == "catdog-lr":
            assert cells[1:] == ["`half`", "64 pixels, 20,000 steps", "3", "6"]
        else:
            assert cells[1:] == ["`smoke`", "", "", "none"]


def test_the_overview_of_the_cats_and_dogs_is_of_the_published_runs_at_the_study_s_batch_size(store: Path) -> None:
    assert pages.catdog_overview() == "Nothing is measured yet."
    wanted = catdog.configs(
        ["none", "bn", "gn"], dataset="shapes", image_size=32, steps=2000, seeds=3, batch_size=[8, 16]
    )
    results = Store("catdog-compare")
    results.index("quick", "main", [config.key for config in wanted])
    for config in wanted:
        results.put(run_of(config, [0.5, 0.2], [0.5, 0.6], every=1000))
    text = pages.catdog_overview()
    assert text.startswith("```{raw} html\n<figure")
    assert text.count("<svg") == 2  # a wide one, and a narrow one for phones
    assert "Profile quick, 9 runs with 3 seeds on a CPU" in text


def test_the_page_of_the_cats_and_dogs_is_of_the_ledger_s_verdicts() -> None:
    judged = claims.judge_all()
    text = pages.study(judged, "catdog")
    own = [j for j in judged if j.source == "S0"]
    assert text.startswith(f"Of its {len(own)} statements: ")
    assert sum(int(n) for n in re.findall(r"(\d+) (?:" + "|".join(claims.VERDICTS) + ")", text.splitlines()[0])) == 26
    assert text.count("](#s0-") == 26


def test_every_chapter_has_its_experiments_in_the_table_of_contents() -> None:
    found = {chapter: pages._sections(chapter) for chapter in pages.CHAPTERS}
    assert all(found.values())
    others = {"runs/compare"}  # of no document
    assert set().union(*found.values()) == {e.page for e in experiments().values()} - others


def test_what_is_to_be_read_with_care_is_every_point_of_the_notebook_s_last_section() -> None:
    for experiment in experiments().values():
        cells = nbformat.read(experiment.notebook, as_version=4).cells
        sections = [cell.source.partition("## Read this with care")[2] for cell in cells]
        points = sum(line.startswith("- ") for section in sections for line in section.splitlines())
        found = pages._with_care(experiment)
        assert len(found) == points, experiment.name
        assert not [point for point in found if re.search(r"\]\((\w+\.ipynb|#s)", point)], experiment.name
