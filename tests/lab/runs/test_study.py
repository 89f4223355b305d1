"""A notebook's first call and what it runs: whatever starts the notebook, what it was given is checked, a profile keeps
its name only while it is one, and nothing that is published is written."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from normcore.lab import paths
from normcore.lab.errors import LabError, UsageError
from normcore.lab.runs.experiments import Experiment
from normcore.lab.runs.store import Store
from normcore.lab.runs.study import Study, listed

from ..helpers import HOW, config, made_up, write_experiment

HEAD = f"""profile = "smoke"
steps = 6
lr = 0.01
norms = ["none", "bn"]
rates = [0.01, 0.02]
seeds = 1
{HOW}"""
SEARCH = """from normcore import lab

study = lab.Study("a-trial", globals())
fixed = {
    "dataset": "digits", "image_size": 14, "model": "lenet5", "batch_size": 32, "steps": steps, "eval_every": 3,
    "log_every": 2,
}
tried = lab.grid(**fixed, norm=norms, lr=rates, seed=0, validation=100)
search = lab.table(study.run(tried, stage="search"))
chosen = lab.best(search, "validation_accuracy", over=["lr"])
"""
COMPARE = """wanted = []
for name in norms:
    wanted += lab.grid(**fixed, norm=name, lr=chosen[name]["lr"], seed=range(seeds))
runs = study.run(wanted)
"""


@pytest.fixture
def trial(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """An experiment of two stages, which every study is of."""
    profiles = "quick: {seeds: 2}\nfull: {seeds: 3}\n"
    experiment = write_experiment(tmp_path, SEARCH, COMPARE, head=HEAD, profiles=profiles)
    monkeypatch.setattr("normcore.lab.runs.study.find", lambda name: experiment)
    return experiment


def given(**changes: Any) -> dict[str, Any]:
    """The names of a notebook whose parameters cell was run, and the one with these changes behind it."""
    injected = "".join(f"{name} = {value!r}\n" for name, value in changes.items())
    cells = [HEAD, *([f"# Parameters\n{injected}"] if changes else [])]
    names: dict[str, Any] = {}
    exec("\n".join(cells), names)
    return {**names, "In": ["", *cells, "study = lab.Study(...)"], "Out": {}, "get_ipython": print}


# --- what a notebook was given ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seedz": 1}, "unknown parameter of a-trial 'seedz': did you mean seeds?"),
        ({"seeds": "two"}, "seeds of a-trial must be of type int, such as 1, got 'two'"),
        ({"seeds": -1}, "seeds of a-trial must be at least 1, got -1"),
        ({"lr": True}, "lr of a-trial must be of type float, such as 0.01, got True"),
        ({"profile": "../../x"}, "unknown profile '../../x'"),
        ({"device": "tpu"}, "unknown device 'tpu': one of auto, cpu, cuda"),
        ({"shard": "9/3"}, "shard must be i/n with 1 <= i <= n, such as 2/3, got '9/3'"),
        ({"time_budget": "x"}, "a time budget is a positive number and s, m or h, such as 9m, got 'x'"),
        ({"jobs": -3}, "jobs must be at least 1, got -3"),
        ({"fresh": 1}, "fresh of a-trial must be of type bool, such as False, got 1"),
    ],
)
def test_the_first_call_refuses_what_the_command_does_with_the_same_sentence(
    trial: Experiment, store: Path, changes: dict[str, Any], message: str
) -> None:
    for refused in (lambda: Study("a-trial", given(**changes)), lambda: trial.check(changes)):
        with pytest.raises(UsageError) as error:
            refused()
        assert str(error.value).startswith(message)
    assert not store.exists()


def test_a_parameter_without_a_value_is_named(trial: Experiment) -> None:
    names = given()
    del names["seeds"]
    with pytest.raises(UsageError, match="seeds of a-trial has no value: run the notebook's parameters cell first"):
        Study("a-trial", names)


def test_in_an_editor_a_kernel_holds_more_than_was_given(trial: Experiment) -> None:
    """Run all cells a second time: what they made is no parameter. A name beside the parameters is."""
    names = given()
    used = {**names, "note": "Profile smoke.", "fixed": {"steps": 3}, "x": 3}
    used["In"] = ["", HEAD, "study = lab.Study(...)", "note = study.note(runs)", "x = 3", HEAD, "study = ..."]
    assert Study("a-trial", used).profile == "smoke"
    used["In"] = ["", f"{HEAD}\nseedz = 1\n", "study = ..."]
    with pytest.raises(UsageError, match="'seedz': did you mean seeds"):
        Study("a-trial", {**used, "seedz": 1})


def test_outside_ipython_every_plain_value_was_given(trial: Experiment) -> None:
    names = {name: value for name, value in given().items() if name not in ("In", "Out")}
    assert Study("a-trial", {**names, "os": os, "_private": 1}).profile == "smoke"
    with pytest.raises(UsageError, match="unknown parameter of a-trial 'seedz'"):
        Study("a-trial", {**names, "seedz": 1})


@pytest.mark.parametrize(
    ("changes", "profile"),
    [
        ({}, "smoke"),
        ({"profile": "quick", "seeds": 2}, "quick"),
        ({"profile": "quick", "seeds": 1}, "custom"),
        ({"profile": "quick"}, "custom"),
        ({"seeds": 2}, "custom"),
        ({"jobs": 2, "shard": "1/2", "time_budget": "9m"}, "smoke"),
        ({"lr": 1}, "custom"),
    ],
)
def test_a_study_s_profile_is_what_it_runs(trial: Experiment, changes: dict[str, Any], profile: str) -> None:
    assert Study("a-trial", given(**changes)).profile == profile


# --- what is run, and what is shown ----------------------------------------------------------------------


def test_a_study_lists_its_runs_under_its_profile(trial: Experiment) -> None:
    study = Study("a-trial", given())
    searched = study.run([config(seed=seed, validation=100) for seed in (0, 1)], stage="search")
    study.run([config()])
    assert set(study.store.profiles()["smoke"]) == {"search", "main"}
    assert study.store.runs("smoke", "search") == searched
    assert study.store.has("smoke")
    with pytest.raises(UsageError, match="a-trial has no runs at the stage main: one of its lists is empty"):
        study.run([])


def test_without_training_what_is_there_is_shown_and_nothing_written(
    trial: Experiment, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("normcore.lab.runs.study.sweep", None)  # would fail if it were called
    wanted = [config(seed=seed) for seed in range(3)]
    study = Study("a-trial", given(train=False))
    message = r"a_trial\.ipynb: {} of the 3 runs of profile smoke, stage {}, are there; normcore run a-trial --profile"
    with pytest.raises(LabError, match=message.format("none", "main")):
        study.run(wanted)
    there = made_up("bn", 1, [1.0], [0.5], steps=6, eval_every=3, log_every=2)
    assert there.key == wanted[1].key
    Store("another").put(there)
    with pytest.raises(LabError, match=message.format("1", "search")):
        study.run(wanted, stage="search")  # of which nothing follows yet
    assert study.run(wanted) == [there]
    assert study.note([there]) == (
        "Profile smoke, 1 runs with one seed, so without intervals, on a CPU, torch 2; 2 more are not there yet."
    )
    assert [path.name for path in store.iterdir()] == ["another"]


def test_published_results_are_named_before_anything_is_trained(
    trial: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NORMCORE_RESULTS", str(paths.published()))
    with pytest.raises(UsageError, match="holds the published results"):
        Study("a-trial", given())
    assert Study("a-trial", given(train=False)).profile == "smoke"


def test_a_profile_s_list_goes_as_far_as_the_results(trial: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normcore.lab.runs.study.sweep", None)  # would fail if it were called
    only_search = listed(trial, "quick")
    assert list(only_search) == ["search"]
    assert [(c.norm, c.lr) for c in only_search["search"]] == [
        (n, lr) for n in ("none", "bn") for lr in (0.01, 0.02)
    ]  # fmt: skip
    for wanted in only_search["search"]:
        run = made_up("bn", 0, [1.0], [0.5])
        better = {"validation_accuracy": 0.5 + wanted.lr * (1 if wanted.norm == "bn" else -1)}
        Store("a-trial").put(type(run)(wanted, "finished", better, run.curves, run.provenance))
    both = listed(trial, "quick")
    assert [(c.norm, c.lr, c.seed) for c in both["main"]] == [
        ("none", 0.01, 0), ("none", 0.01, 1), ("bn", 0.02, 0), ("bn", 0.02, 1),
    ]  # fmt: skip
    assert not (Store("a-trial").folder / "profiles").exists()


# --- however it is started -------------------------------------------------------------------------------


def _papermill(notebook: Path, output: Path) -> None:
    """As a reader would: the profile's name, and fewer and shorter runs."""
    parameters = ["-p", "profile", "quick", "-p", "seeds", "1", "-p", "steps", "8", "-p", "points", "2"]
    command = [sys.executable, "-m", "papermill", str(notebook), str(output), *parameters]
    done = subprocess.run(command, cwd=paths.root(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def _editor(notebook: Path, output: Path) -> None:
    """A change in the parameters cell, not saved, and every cell run."""
    opened = nbformat.read(notebook, as_version=4)
    (cell,) = [c for c in opened.cells if "parameters" in c.metadata.get("tags", [])]
    cell.source = cell.source.replace("steps = 48", "steps = 8").replace("seeds = 2", "seeds = 1")
    NotebookClient(opened, resources={"metadata": {"path": str(paths.root())}}).execute()
    nbformat.write(opened, output)


@pytest.mark.parametrize("start", [_papermill, _editor])
def test_a_reader_s_rerun_leaves_alone_what_is_published(
    start: Callable[[Path, Path], None], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NORMCORE_PUBLISHED")
    published = paths.published()

    def state() -> dict[str, tuple[int, int]]:
        stats = {str(path): path.stat() for path in published.rglob("*")}
        return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}

    before, output = state(), tmp_path / "out.ipynb"
    assert len(before) > 1000
    start(paths.root() / "notebooks" / "catdog_groups.ipynb", output)
    assert state() == before
    own = Store("catdog-groups")
    assert sorted(path.name for path in (own.folder / "profiles").iterdir()) == ["custom.json"]
    assert len([run for run in own.runs("custom") if own.own(run.key)]) == 4
    shown = nbformat.read(output, as_version=4)
    text = "".join(str(o) for c in shown.cells if c.cell_type == "code" for o in c.outputs)
    assert "Profile custom, 4 runs" in text
