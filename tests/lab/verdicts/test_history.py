"""The history of the verdicts, and that it is kept."""

from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from normcore.lab import cli, paths
from normcore.lab.verdicts import claims, history


def test_what_is_noted_is_added_and_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMCORE_PUBLISHED", str(tmp_path))
    assert history.history() == {}
    assert history.note({"S0-01": "refuted", "S0-02": "mixed"}, "first: results") == {
        "S0-01": "refuted",
        "S0-02": "mixed",
    }
    first = (tmp_path / "history.yml").read_text(encoding="utf-8")
    assert history.note({"S0-01": "refuted", "S0-02": "supported"}, "more") == {"S0-02": "supported"}
    assert history.note({"S0-01": "refuted", "S0-02": "supported"}, "nothing new") == {}
    assert (tmp_path / "history.yml").read_text(encoding="utf-8").startswith(first)
    changes = history.history()["S0-02"]
    assert [(change.verdict, change.why) for change in changes] == [("mixed", "first: results"), ("supported", "more")]


def test_the_command_notes_what_the_published_results_say_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMCORE_PUBLISHED", str(tmp_path / "published"))
    monkeypatch.setenv("NORMCORE_RESULTS", str(tmp_path / "own"))
    seen = []

    def judge_all() -> list[claims.Judged]:
        seen.append(paths.results())
        return [claims.Judged("S0-01", "ord", "It is so.", "refuted")]

    monkeypatch.setattr(claims, "judge_all", judge_all)
    done = CliRunner().invoke(cli.app, ["claims", "--note", "another test"])
    assert done.exit_code == 0, done.output
    assert "S0-01" in done.output
    assert seen == [tmp_path / "published"], "one's own results are not what is noted"
    assert [change[1:3] for change in history.history()["S0-01"]] == [("refuted", "another test")]


def test_the_history_ends_with_the_verdicts_of_the_published_results() -> None:
    with paths.only(paths.published()):
        judged = {one.id: one.verdict for one in claims.judge_all()}
    last = {statement: changes[-1].verdict for statement, changes in history.history().items()}
    assert last == judged, "a verdict has changed: normcore claims --note 'what changed it'"


def test_it_never_says_the_same_twice_in_a_row() -> None:
    for statement, changes in history.history().items():
        dates = [change.date for change in changes]
        assert dates == sorted(dates), statement
        assert all(change.verdict in claims.VERDICTS for change in changes), statement
        assert all(a.verdict != b.verdict for a, b in pairwise(changes)), statement
