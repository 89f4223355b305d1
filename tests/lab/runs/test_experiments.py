"""Notebooks: what they must look like, what they take, and how they are run."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from normcore import NORMS
from normcore.lab import paths
from normcore.lab.errors import LabError, SweepIncomplete, UsageError
from normcore.lab.files import write_json
from normcore.lab.runs import experiments
from normcore.lab.runs.experiments import PROFILES, Experiment
from normcore.lab.runs.store import Store

from ..helpers import HOW, made_up, write_experiment

ALL = sorted(experiments.experiments().values(), key=lambda e: e.name)
PAGES = sorted((paths.root() / "notebooks" / "normalizers").glob("*.ipynb"))
HEAD = f"""profile = "smoke"
steps = 4
validation = 3
lr = 0.1
rates = {{"adam": [0.1]}}
norms = ["bn"]
{HOW}"""


@pytest.mark.parametrize("experiment", ALL, ids=lambda e: e.name)
def test_a_notebook_is_as_the_book_wants_it(experiment: Experiment) -> None:
    notebook = nbformat.read(experiment.notebook, as_version=4)
    nbformat.validate(notebook)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert notebook.cells[0].source.startswith("# ")
    assert not any(c.outputs or c.execution_count for c in code), "outputs are committed"
    assert set(experiments.HOW) <= set(experiment.parameters)
    assert experiment.parameters["profile"] == "smoke"
    for cell in code:
        for forbidden in ("import torch", "backward(", "optimizer.step"):
            assert forbidden not in cell.source, "a notebook holds no training code"


@pytest.mark.parametrize("experiment", ALL, ids=lambda e: e.name)
def test_a_notebook_s_profiles_are_of_its_parameters(experiment: Experiment) -> None:
    for profile in PROFILES:
        found = experiment.profile(profile)
        assert set(found) == set(experiment.parameters)
        assert found["profile"] == profile
        how = {name: found[name] for name in experiments.HOW if name != "profile"}
        assert how == {name: experiment.parameters[name] for name in how}, "a profile says what is run, not how"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_a_page_on_a_normalizer_is_as_the_book_wants_it(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert notebook.cells[0].source.startswith("# ")
    assert not any(c.outputs or c.execution_count for c in code), "outputs are committed"
    assert not any("optimizer" in c.source for c in code), "a notebook holds no training code"
    assert Experiment(path.stem, path).parameters.get("seed", 0) == 0


def test_every_normalizer_has_a_page_and_it_is_no_experiment() -> None:
    named = {name for name in NORMS if name != "none"}
    assert named <= {path.stem for path in PAGES}
    assert not {path.stem for path in PAGES} & set(experiments.experiments())


def write(folder: Path, *cells: str, head: str = HEAD, profiles: str = "quick: {steps: 8}\n") -> Experiment:
    return write_experiment(folder, *cells, head=head, profiles=profiles)


def test_parameters_are_read_without_running_them(tmp_path: Path) -> None:
    experiment = write(tmp_path)
    assert experiment.title == "A trial"
    assert experiment.parameters["steps"] == 4
    assert experiment.profile("quick")["steps"] == 8
    with pytest.raises(LabError, match="plain assignments only"):
        _ = write(tmp_path, head="import os\n").parameters
    with pytest.raises(UsageError, match=r"unknown profile 'ful': did you mean full"):
        experiment.profile("ful")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepz": 3}, "unknown parameter of a-trial 'stepz': did you mean steps"),
        ({"steps": "many"}, "steps of a-trial must be of type int, such as 4, got 'many'"),
        ({"steps": True}, "steps of a-trial must be of type int"),
        ({"lr": "1e-3x"}, "lr of a-trial must be of type float"),
        ({"steps": 0}, "steps of a-trial must be at least 1, got 0"),
        ({"norms": "bn"}, "norms of a-trial must be of type list"),
        ({"profile": "qick"}, "unknown profile 'qick': did you mean quick"),
        ({"profile": "../../x"}, "unknown profile '../../x'"),
        ({"shard": "9/3"}, "shard must be i/n with 1 <= i <= n, such as 2/3, got '9/3'"),
        ({"time_budget": "x"}, "a time budget is a positive number and s, m or h, such as 9m, got 'x'"),
        ({"device": "tpu"}, "unknown device 'tpu': one of auto, cpu, cuda"),
        ({"jobs": -3}, "jobs must be at least 1, got -3"),
        ({"fresh": 1}, "fresh of a-trial must be of type bool, such as False, got 1"),
        ({"fresh": True, "train": False}, "without training nothing is run"),
    ],
)
def test_bad_parameters_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        write(tmp_path).check(changes)


def test_a_default_is_no_range(tmp_path: Path) -> None:
    """What cannot be run, the run configuration refuses."""
    changes = {"validation": 0, "lr": 0.0, "rates": {}, "norms": []}
    assert write(tmp_path).check(changes) == changes


def test_an_integer_passes_for_a_number(tmp_path: Path) -> None:
    assert write(tmp_path).check({"lr": 1}) == {"lr": 1.0}


def test_a_profile_with_an_unknown_parameter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown parameter of a-trial 'stps'"):
        write(tmp_path, profiles="full: {stps: 8}\n").profile("full")


def test_it_runs_with_its_parameters_and_takes_its_final_name(tmp_path: Path) -> None:
    output = tmp_path / "out.ipynb"
    write(tmp_path, "print(profile, steps)").run("quick", {"jobs": 2}, output)
    executed = nbformat.read(output, as_version=4)
    assert executed.cells[-1].outputs[0].text == "quick 8\n"
    assert executed.metadata.papermill.parameters["jobs"] == 2


@pytest.mark.parametrize(
    ("changes", "profile"),
    [
        ({"steps": 9}, "custom"),
        ({"steps": 8}, "quick"),
        ({"lr": 1}, "custom"),
        ({"jobs": 2, "device": "auto", "train": False}, "quick"),
        ({"profile": "full"}, "custom"),  # which has 9 steps
        ({"profile": "full", "steps": 9}, "full"),
    ],
)
def test_a_profile_s_name_is_kept_while_all_that_is_run_is_the_profile_s(
    tmp_path: Path, changes: dict[str, Any], profile: str
) -> None:
    experiment = write(tmp_path, profiles="quick: {steps: 8}\nfull: {steps: 9}\n")
    assert experiment.profile_of({**experiment.profile("quick"), **changes}) == profile


def test_a_change_of_what_is_run_makes_the_page_s_profile_custom(tmp_path: Path) -> None:
    output = tmp_path / "out.ipynb"
    write(tmp_path, "print(profile, steps)").run("quick", {"steps": 9}, output)
    assert nbformat.read(output, as_version=4).cells[-1].outputs[0].text == "custom 9\n"


@pytest.mark.parametrize(
    ("cell", "error", "message"),
    [
        ("1 / 0", LabError, r"a_trial\.ipynb, cell 3: ZeroDivisionError"),
        ("from normcore.lab.errors import UsageError\nraise UsageError('steps: 4')", UsageError, "^steps: 4$"),
        ("from normcore.lab.errors import SweepIncomplete\nraise SweepIncomplete('go on')", SweepIncomplete, "^go on$"),
        ("import os\nos._exit(7)", LabError, "DeadKernelError"),
    ],
)
def test_a_notebook_that_fails_says_why_and_leaves_nothing(
    tmp_path: Path, cell: str, error: type[Exception], message: str
) -> None:
    output = tmp_path / "out" / "out.ipynb"
    with pytest.raises(error, match=message):
        write(tmp_path, cell).run("smoke", {}, output)
    assert list(output.parent.iterdir()) == []


def test_the_published_profile_is_the_best_of_which_a_run_is_published(store: Path, tmp_path: Path) -> None:
    experiment, published = write(tmp_path), store.parent / "published" / "a-trial"
    runs = [made_up("bn", seed, [1.0], [0.5]) for seed in range(2)]

    def publish(profile: str, keys: list[str]) -> None:
        write_json(published / "profiles" / f"{profile}.json", {"main": keys})

    with pytest.raises(LabError, match=r"a_trial\.ipynb: nothing of it is published; normcore run a-trial"):
        experiment.published()
    publish("quick", [run.key for run in runs])
    publish("full", [])
    own = Store("a-trial")
    for run in runs:
        own.put(run)
    own.index("full", "main", [run.key for run in runs])
    with pytest.raises(LabError, match="nothing of it is published"):
        experiment.published()  # one's own runs have no part in it
    write_json(published / f"{runs[1].key}.json", runs[1].to_json())
    assert experiment.published() == "quick"  # in part
    publish("full", [runs[1].key])
    assert experiment.published() == "full"


def test_shown_is_what_is_published_in_part_and_of_one_s_own_what_is_complete(store: Path, tmp_path: Path) -> None:
    experiment, published = write(tmp_path), store.parent / "published" / "a-trial"
    runs = [made_up("bn", seed, [1.0], [0.5]) for seed in range(4)]
    keys, own = [run.key for run in runs], Store("a-trial")
    write_json(published / f"{keys[0]}.json", runs[0].to_json())
    write_json(published / "profiles" / "half.json", {"main": keys[:1]})
    own.index("half", "main", keys)
    own.index("full", "main", keys)
    own.put(runs[1])
    assert experiment.complete() == [("half", runs[:2])]
    own.put(runs[2])
    own.put(runs[3])
    assert experiment.complete() == [("full", runs), ("half", runs)]
    with paths.only(paths.published()):
        assert experiment.complete() == [("half", runs[:1])]


def test_the_published_profile_is_shown_alone_and_nothing_is_trained(store: Path, tmp_path: Path) -> None:
    run = made_up("bn", 0, [1.0], [0.5])
    published = store.parent / "published" / "a-trial"
    write_json(published / f"{run.key}.json", run.to_json())
    write_json(published / "profiles" / "quick.json", {"main": [run.key]})
    Store("a-trial").put(made_up("bn", 0, [2.0], [0.25]))
    cell = f"from normcore import lab\nprint(train, profile, lab.Store('a-trial').get('{run.key}').final['test_loss'])"
    output = tmp_path / "out.ipynb"
    write(tmp_path, cell).run("published", {}, output)
    text = nbformat.read(output, as_version=4).cells[-1].outputs[0].text
    assert text.split() == ["False", "quick", "1.0"]
