"""Notebooks: what they must look like, what they take, and how they are run."""

from pathlib import Path

import nbformat
import pytest

from normcore import NORMS
from normcore.lab import experiments, paths
from normcore.lab.errors import LabError, SweepIncomplete, UsageError
from normcore.lab.experiments import HOW, PROFILES, Experiment
from normcore.lab.runs import Store

from .helpers import made_up

ALL = sorted(experiments.experiments().values(), key=lambda e: e.name)
PAGES = sorted((paths.root() / "notebooks" / "normalizers").glob("*.ipynb"))
HEAD = """profile = "smoke"
steps = 4
lr = 0.1
rates = {"adam": [0.1]}
norms = ["bn"]
shard = "1/1"
jobs = 1
device = "cpu"
"""


@pytest.mark.parametrize("experiment", ALL, ids=lambda e: e.name)
def test_a_notebook_is_as_the_book_wants_it(experiment: Experiment) -> None:
    notebook = nbformat.read(experiment.notebook, as_version=4)
    nbformat.validate(notebook)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert notebook.cells[0].source.startswith("# ")
    assert not any(c.outputs or c.execution_count for c in code), "outputs are committed"
    assert {"profile", "device", "jobs", "fresh", "shard", "time_budget"} <= set(experiment.parameters)
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
    assert not HOW & (experiment.profile("full").keys() - experiment.parameters.keys())


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_a_page_on_a_normalizer_is_as_the_book_wants_it(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert notebook.cells[0].source.startswith("# ")
    assert not any(c.outputs or c.execution_count for c in code), "outputs are committed"
    assert not any("optimizer" in c.source for c in code), "a notebook holds no training code"
    assert Experiment(path.stem, path).parameters["seed"] == 0


def test_every_normalizer_has_a_page_and_it_is_no_experiment() -> None:
    named = {name for name in NORMS if name != "none"}
    assert named <= {path.stem for path in PAGES}
    assert not {path.stem for path in PAGES} & set(experiments.experiments())


def write(folder: Path, *cells: str, head: str = HEAD, profiles: str = "quick: {steps: 8}\n") -> Experiment:
    notebook = nbformat.v4.new_notebook()
    parameters = nbformat.v4.new_code_cell(head)
    parameters.metadata["tags"] = ["parameters"]
    title = nbformat.v4.new_markdown_cell("# A trial\n\nWords.")
    notebook.cells = [title, parameters, *map(nbformat.v4.new_code_cell, cells)]
    path = folder / "a_trial.ipynb"
    nbformat.write(notebook, path)
    path.with_suffix(".yaml").write_text(profiles)
    return Experiment("a-trial", path)


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
        ({"steps": 0}, "steps of a-trial must be positive, such as 4, got 0"),
        ({"lr": -0.1}, "lr of a-trial must be positive"),
        ({"rates": {"adam": [0.1, 0]}}, "rates of a-trial must be positive"),
        ({"rates": {}}, "rates of a-trial must be positive"),
        ({"norms": []}, "norms of a-trial must not be empty"),
    ],
)
def test_bad_parameters_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write(tmp_path).check(changes)


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


def test_a_change_of_what_is_computed_makes_the_profile_custom(tmp_path: Path) -> None:
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


def test_the_published_profile_is_the_best_that_is_complete(store: Path, tmp_path: Path) -> None:
    experiment = write(tmp_path)
    assert experiment.published() == "smoke"
    results = Store("a-trial")
    results.index("quick", "main", [])
    run = made_up("bn", 0, [1.0], [0.5])
    results.index("full", "main", [run.key])
    assert experiment.published() == "quick"
    results.put(run)
    assert experiment.published() == "full"
    results.path(run.key).write_text("half a resu")
    with pytest.warns(UserWarning, match="is not a result"):
        assert experiment.published() == "quick"
