"""The generated parts of the book."""

import re
from pathlib import Path

import pytest

from normcore.lab import claims, pages, paths

from .helpers import made_up


def test_the_ledger_shows_every_statement_with_its_verdict() -> None:
    judged = claims.judge_all()
    text = pages.ledger(judged)
    for claim in judged:
        block = text[text.index(f"({claim.id.lower()})=") :].split("::::\n")[0]
        assert f"`{claim.verdict}`" in block
        assert claim.statement.strip() in block
    assert text.splitlines()[2 + len(claims.VERDICTS)] == "| **statements** | 26 | 16 | 14 | 12 | 8 | **76** |"


def test_the_summary_counts_what_the_ledger_shows() -> None:
    judged = claims.judge_all()
    text = pages.summary(judged)
    found = {v: int(n) for n, v in re.findall(r"(\d+) (" + "|".join(claims.VERDICTS) + ")", text.splitlines()[0])}
    assert sum(found.values()) == len(judged) == 76


def test_without_results_the_pages_say_so(store: Path) -> None:
    assert "57 not measured yet" in pages.summary(claims.judge_all())  # definitions need no results
    assert pages.overview_svg() == ""


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


def test_the_readme_s_picture_is_of_the_published_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture's means are those of the committed results, so that it cannot go stale unnoticed."""
    monkeypatch.delenv("NORMCORE_RESULTS", raising=False)
    picture = (paths.root() / "book" / "_assets" / "overview.svg").read_text(encoding="utf-8")
    expected = pages.overview_svg()
    numbers = [[float(v) for v in re.findall(r"-?\d+\.\d+", text)] for text in (picture, expected)]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.01)
