"""The battery: what is run for a new normalizer, at which rate, and what is read off it."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from normcore.lab import paths
from normcore.lab.compare import Battery, checks, depends, pinned
from normcore.lab.compare.battery import LONG, SEARCH
from normcore.lab.errors import UsageError
from normcore.lab.figures.look import label
from normcore.lab.runs.store import Store
from normcore.lab.runs.sweep import sweep

from ...helpers import MINE
from ..helpers import steady

NEWCOMERS = sorted((paths.root() / "notebooks" / "newcomers").glob("*.py"))


def battery(norms: list[str], **changes: Any) -> Battery:
    fields: dict[str, Any] = {
        "options": {}, "steps": 20, "search_steps": 10, "rates": [0.001, 0.01, 0.1], "trained": 0.5,
        "images": {"dataset": "digits", "image_size": 14, "model": "lenet5", "batch_size": 32, "validation": 287},
        "batch_sizes": [2, 8], "one_class": 0.5, "outliers": 0.1, "text_rates": [0.003, 0.03], "seeds": 2,
        "text": {"dataset": "descriptions", "batch_size": 4, "length": 8}, "text_steps": 5, "text_search_steps": 5,
    }  # fmt: skip
    return Battery(norms, **{**fields, **changes})


def test_every_normalizer_gets_the_same_search_and_runs_at_its_best_rate() -> None:
    study = battery(["none", "bn"])
    search = study.search()
    assert len(search) == 2 * (3 * 2 + 2 * 2)
    assert {c.evaluated_on for c in search} == {"validation"}
    best = {"none": {"images": 0.001, "text": 0.03}, "bn": {"images": 0.1, "text": 0.003}}
    found = [steady(c, 0.9 if c.lr == best[c.norm][c.task] else 0.4) for c in search]
    runs = study.comparison(found)
    assert {c.evaluated_on for c in runs} == {"test"}
    assert {c.seed for c in runs} == {0, 1}
    for config in runs:
        scale = math.sqrt(config.batch_size / 32) if config.task == "images" else 1
        assert config.lr == pytest.approx(best[config.norm][config.task] * scale, rel=0.01)
    fields = [(c.task, c.model, c.batch_size, c.outliers, c.task_options.get("one_class", 0)) for c in runs if c.seed]
    assert sorted(fields) == sorted(
        2 * [("images", "lenet5", size, 0.0, 0) for size in (32, 2, 8)]
        + 2 * [("images", "lenet5", 32, 0.0, 0.5), ("images", "lenet5", 32, 0.1, 0)]
        + 2 * [("text", model, 4, 0.0, 0) for model in ("lstm", "transformer")]
    )


def test_the_scores_are_read_off_the_runs() -> None:
    study = battery(["bn"])
    accuracy = {0.001: 0.6, 0.01: 0.7, 0.1: 0.4}
    search = [steady(c, accuracy.get(c.lr, 0.5)) for c in study.search()]
    scores = study.scores([*search, *(steady(c, 0.25) for c in study.comparison(search))])
    values = scores.groupby("workload", sort=False)["value"].mean().to_dict()
    assert list(values) == [w.name for w in study.workloads]
    assert values.pop(SEARCH) == pytest.approx(1.0)  # a decade, from 0.001 to 0.01
    assert values.pop("lstm") == values.pop("transformer") == pytest.approx(0.75)  # a loss
    assert all(value == pytest.approx(0.25) for value in values.values())


def test_complete_is_what_has_been_run_wherever_it_can_stand() -> None:
    study = battery(["bn", "ln"])
    study.refused["transformer-rates", "ln"] = "it needs positions"
    rows = [
        {"workload": w.name, "norm": n}
        for n in ("bn", "ln")
        for w in study.workloads
        if (w.name, n) != ("transformer", "ln")
    ]
    scores = pd.DataFrame(rows)
    assert study.complete(scores) == ["bn", "ln"]
    assert study.complete(scores[scores["workload"] != "outliers"]) == []
    assert study.complete(scores.iloc[:0]) == []


def test_what_diverged_has_no_value_and_what_always_does_no_rate() -> None:
    study = battery(["bn"])
    search = [steady(c, 0.9, "diverged" if c.task == "text" else "finished") for c in study.search()]
    runs = study.comparison(search)
    assert {c.task for c in runs} == {"images"}
    assert "every setting of bn diverged" in study.refused["lstm", "bn"]
    scores = study.scores([*search, *(steady(c, 0.25, "diverged") for c in runs)])
    assert scores[scores["workload"] == LONG]["value"].isna().all()


def test_what_a_normalizer_cannot_do_is_said() -> None:
    study = battery(["in", "ln"])
    assert {c.norm for c in study.search() if c.task == "text"} == {"ln"}
    assert "in needs positions beside channels" in study.refused["lstm-rates", "in"]
    with pytest.raises(UsageError, match="unknown norm 'bm': did you mean"):
        battery(["bm"])


@pytest.fixture
def mine(tmp_path: Path, store: Path) -> str:
    (tmp_path / "mine.py").write_text(MINE)
    return f"{tmp_path}/mine.py:Mine"


def test_a_layer_of_one_s_own_is_run_side_by_side_and_found_again_where_it_was_moved_to(mine: str) -> None:
    """By worker processes, under a key that does not take its place."""
    (norm,) = pinned([mine])
    configs = battery([norm], options={norm: {"factor": 0.5}}).search()[:2]
    runs = sweep(configs, Store("compare"), jobs=2)
    assert [r.config.norm for r in runs] == [norm] * 2
    assert runs[0].config.norm_options == {"factor": 0.5}
    path = Path(norm.rpartition(":")[0])
    moved = path.rename(path.with_name("moved.py"))
    (again,) = pinned([f"{moved}:Mine"])
    later = battery([again], options={again: {"factor": 0.5}}).search()[:2]
    assert [c.key for c in later] == [c.key for c in configs]
    moved.write_text("raise RuntimeError")  # what is there is read, and nothing is executed
    assert [r.config.norm for r in map(Store("compare").get, [c.key for c in later]) if r] == [norm] * 2
    assert label(norm) == "Mine"


def test_a_file_that_changes_between_the_question_and_the_run_is_refused(mine: str) -> None:
    config = battery(pinned([mine])).search()[0]
    Path(mine.rpartition(":")[0]).write_text(MINE + "\n# another\n")
    with pytest.raises(UsageError, match=r"mine\.py has changed"):
        sweep([config], Store("compare"))


@pytest.mark.parametrize("path", NEWCOMERS, ids=lambda path: path.stem)
def test_the_newcomers_stand_every_check(path: Path) -> None:
    (name,) = (line.split()[1].partition("(")[0] for line in path.read_text().splitlines() if line.startswith("class"))
    shown = checks([f"{path}:{name}"], {})
    assert "passed" in shown
    assert "failed" not in shown
    assert f"<td>{name}</td>" in depends(pinned([f"{path}:{name}"]), {})
