"""Publishing: what is taken of one's own runs, what is left, and what is said before anything is written."""

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from normcore.lab import cli, paths, provenance
from normcore.lab.config import RunConfig, grid
from normcore.lab.errors import UsageError
from normcore.lab.publish import Offer, offer
from normcore.lab.runs.experiments import Experiment
from normcore.lab.runs.store import Run, Store
from normcore.lab.verdicts import claims
from normcore.lab.verdicts.history import history

from .helpers import HOW, run_of, write_experiment

FIXED = {"dataset": "digits", "image_size": 14, "model": "lenet5", "batch_size": 32, "steps": 20, "eval_every": 10,
         "log_every": 10}  # fmt: skip
HEAD = f"""profile = "smoke"
fixed = {FIXED}
rates = [0.1, 0.2]
seeds = 1
{HOW}"""
CODE = """from normcore import lab
study = lab.Study("a-trial", globals())
tried = lab.grid(**fixed, norm="none", lr=rates, seed=0, validation=100)
search = lab.table(study.run(tried, stage="search"))
lr = lab.best(search, "validation_accuracy", over=["lr"])["none"]["lr"]
study.run(lab.grid(**fixed, norm=["none", "bn"], lr=lr, seed=range(seeds)))
raise AssertionError("there is nothing to list behind the comparison")
"""
ROOT = Path(provenance.__file__).parents[2]
CLAIM: dict[str, Any] = {
    "id": "S9-01", "kind": "ord", "statement": "It is.", "experiment": "a-trial",
    "parts": [{"predicate": "lower", "says": "lower", "metric": "train_loss", "a": "bn", "b": "none"}],
}  # fmt: skip


@pytest.fixture
def trial(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """An experiment with one statement: BN's loss is lower."""
    experiment = write_experiment(tmp_path, CODE, head=HEAD, profiles="quick: {seeds: 5}\n")
    for module in ("runs.study", "verdicts.claims", "runs.experiments"):
        monkeypatch.setattr(f"normcore.lab.{module}.find", lambda name: experiment)
    monkeypatch.setattr(claims, "read", lambda: {"claims": [CLAIM], "sources": {}})
    return experiment


def search() -> list[Run]:
    """The search of the profile quick, which chooses the rate 0.2."""
    configs = grid(**FIXED, norm="none", lr=[0.1, 0.2], seed=0, validation=100)
    return [done(wanted, {"validation_accuracy": wanted.lr}) for wanted in configs]


def comparison(lr: float = 0.2, seeds: int = 5, **changes: Any) -> list[Run]:
    return [done(wanted, **changes) for wanted in grid(**FIXED, norm=["none", "bn"], lr=lr, seed=range(seeds))]


def done(wanted: RunConfig, final: dict[str, float] | None = None, code: str = "one", shift: float = 0.0) -> Run:
    loss = [2.0, (0.5 if wanted.norm == "bn" else 1.0) + shift]
    run = run_of(wanted, loss, [0.5, 0.6])
    measured = {name: value for name, value in run.provenance.items() if name != "commit"} | {"code": code}
    return dataclasses.replace(run, final=final or run.final, provenance=measured)


def put(*runs: Run) -> None:
    for run in runs:
        Store("a-trial").put(run)


def offered(experiment: Experiment, folder: Path, **how: bool) -> Offer:
    folder.mkdir()
    return offer(experiment, "quick", folder, **how)


def keys(runs: list[Run]) -> list[str]:
    return [run.key for run in runs]


def test_what_the_profile_s_own_list_names_is_taken_and_nothing_else(trial: Experiment, tmp_path: Path) -> None:
    put(*search(), *comparison(seeds=2), *comparison(lr=0.1), *comparison(seeds=6)[-1:])
    made = offered(trial, tmp_path / "scratch")
    wanted = [run.key for run in comparison() if run.config.seed < 2]
    assert made.stages == {"search": keys(search()), "main": wanted}
    assert set(made.runs) == {*keys(search()), *wanted}
    assert made.left == ["11 runs of your own: not among the runs of a-trial, profile quick"]
    assert made.notes == ["6 runs of a-trial, profile quick not there yet: the profile is published in part"]
    assert not paths.published().exists(), "nothing is published yet"
    made.write(paths.published())
    published = Store("a-trial", paths.published())
    assert published.profiles() == {"quick": made.stages}
    assert keys(published.runs("quick")) == wanted
    assert trial.published() == "quick"


def test_results_are_published_as_they_come(trial: Experiment, tmp_path: Path) -> None:
    put(*search()[:1])
    first = offered(trial, tmp_path / "1")
    assert first.stages == {"search": keys(search()[:1])}
    assert "the comparison of a-trial, profile quick is not known before its search is there" in first.notes
    first.write(paths.published())
    assert offered(trial, tmp_path / "2").empty
    put(*search(), *comparison()[3:])
    second = offered(trial, tmp_path / "3")
    assert not set(first.runs) & set(second.runs)
    second.write(paths.published())
    put(*comparison())
    third = offered(trial, tmp_path / "4")
    third.write(paths.published())
    assert Store("a-trial", paths.published()).profiles()["quick"] == {
        "search": keys(search()), "main": keys(comparison()),
    }  # fmt: skip
    assert third.notes == []


def test_what_the_list_names_no_more_leaves_it_and_its_file_stays(trial: Experiment, tmp_path: Path) -> None:
    put(*search(), *comparison())
    made = offered(trial, tmp_path / "1")
    made.write(paths.published())
    dropped = done(next(grid(**FIXED, norm="gn", lr=0.2, seed=0)))
    published = Store("a-trial", paths.published())
    made.stages["main"].append(dropped.key)
    made.runs[dropped.key] = dropped
    made.write(paths.published())
    again = offered(trial, tmp_path / "2")
    assert not again.empty
    assert again.notes == [
        "1 run published under a-trial, profile quick, which does not name them any more: their files stay"
    ]
    again.write(paths.published())
    assert published.profiles()["quick"]["main"] == keys(comparison())
    assert published.get(dropped.key) == dropped


def test_verdicts_that_change_are_said(trial: Experiment, tmp_path: Path) -> None:
    put(*search(), *comparison(seeds=1))
    assert offered(trial, tmp_path / "1").changes == ["S9-01: not measured yet becomes inconclusive"]
    put(*comparison())
    made = offered(trial, tmp_path / "2")
    assert made.changes == ["S9-01: not measured yet becomes supported"]
    made.write(paths.published())
    assert offered(trial, tmp_path / "3").changes == []


def test_what_is_published_stays_unless_it_is_to_be_replaced(trial: Experiment, tmp_path: Path) -> None:
    put(*search(), *comparison())
    offered(trial, tmp_path / "1").write(paths.published())
    put(*comparison(shift=0.1)[:2])
    kept = offered(trial, tmp_path / "2")
    assert kept.empty
    assert kept.left == ["12 runs of your own: published already; --replace puts yours in their place"]
    replaced = offered(trial, tmp_path / "3", replace=True)
    assert not replaced.empty
    replaced.write(paths.published())
    published = Store("a-trial", paths.published()).runs("quick")
    assert published == [*comparison(shift=0.1)[:2], *comparison()[2:]]


def test_runs_of_other_code_are_left_unless_they_may_be_mixed(trial: Experiment, tmp_path: Path) -> None:
    put(*search(), *comparison()[:4])
    offered(trial, tmp_path / "1").write(paths.published())
    put(*comparison(code="two")[4:])
    left = offered(trial, tmp_path / "2")
    assert left.empty
    assert "6 runs made by other code (two) than the profile's (one)" in left.left[1]
    assert set(offered(trial, tmp_path / "3", mixed=True).runs) == set(keys(comparison()[4:]))


def test_runs_that_look_into_the_network_are_of_a_code_of_their_own(
    trial: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probes are counted among their sources, and not among those of the search."""
    probing = CODE.replace("seed=range(seeds)))", "seed=range(seeds), probes={'shift': 10}))")
    experiment = write_experiment(tmp_path, probing, head=HEAD, profiles="quick: {seeds: 5}\n")
    for module in ("runs.study", "verdicts.claims", "runs.experiments"):
        monkeypatch.setattr(f"normcore.lab.{module}.find", lambda name: experiment)
    probed = [dataclasses.replace(r, config=dataclasses.replace(r.config, probes={"shift": 10}))
              for r in comparison(code="two")]  # fmt: skip
    put(*search(), *probed)
    made = offered(experiment, tmp_path / "scratch")
    assert set(made.runs) == set(keys([*search(), *probed]))
    assert not made.left


def test_runs_of_code_that_is_unknown_are_taken_and_said_to_be(trial: Experiment, tmp_path: Path) -> None:
    put(*search(), *comparison(code="")[:2], *comparison()[2:])
    made = offered(trial, tmp_path / "scratch")
    assert len(made.runs) == 12
    assert made.notes == ["2 runs made by code that is unknown"]


def test_a_run_that_is_published_elsewhere_is_taken_over(trial: Experiment, tmp_path: Path) -> None:
    for run in (*search(), *comparison()):
        path = paths.published() / "another" / f"{run.key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(run.to_json()))
    made = offered(trial, tmp_path / "scratch")
    assert set(made.runs) == set(keys([*search(), *comparison()]))


def test_there_is_nothing_to_publish_in_what_is_published(
    trial: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="unknown profile 'custom'"):
        offer(trial, "custom", tmp_path)
    monkeypatch.setenv("NORMCORE_RESULTS", str(paths.published()))
    with pytest.raises(UsageError, match="there are no results of your own"):
        offer(trial, "quick", tmp_path)


@pytest.mark.parametrize(
    ("words", "answer", "written"), [((), "n\n", False), ((), "y\n", True), (("--yes",), "", True)]
)
def test_the_command_asks_before_it_writes(
    words: tuple[str, ...], answer: str, written: bool, trial: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    put(*search(), *comparison())
    done = CliRunner().invoke(cli.app, ["publish", "a-trial", "--profile", "quick", *words], input=answer)
    assert done.exit_code == (0 if written else 1), done.output
    assert "S9-01: not measured yet becomes supported" in done.output
    assert ("Write 12 runs to" in done.output) == (not words)
    assert len(list(paths.published().glob("a-trial/*.json"))) == (12 if written else 0)
    assert (paths.published() / "a-trial" / "profiles" / "quick.json").is_file() == written
    assert [c.verdict for c in history().get("S9-01", [])] == (["supported"] if written else [])


# --- the code that runs were made by ---------------------------------------------------------------------


def test_a_commit_s_code_is_hashed_as_the_code_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of what computes is another code; comments, docstrings, drawings are none. A dirty commit is unknown."""
    sources = {
        "normcore/layers/base.py": "x = 1\n", "normcore/lab/runs/training.py": "y = 2\n",
        "normcore/lab/figures/charts.py": "z = 1\n", "normcore/lab/probes/__init__.py": "p = 1\n",
    }  # fmt: skip

    def git(*words: str) -> str:
        author = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *author, *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    def commit(**changes: str) -> str:
        for name, text in {**sources, **{f"normcore/{k.replace('__', '/')}.py": v for k, v in changes.items()}}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        git("add", "-A")
        git("commit", "--allow-empty", "-qm", "x")
        return git("rev-parse", "--short=12", "HEAD").strip()

    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    git("init", "-q")
    first = commit()
    code = provenance.code_of({"commit": first})
    assert len(code) == 12
    words = '"""Words."""\n\nx = 1  # one\n# and more\n'
    assert provenance.code_of({"commit": commit(layers__base=words, lab__figures__charts="z = 3\n")}) == code
    assert provenance.code_of({"commit": commit(layers__base="x = 2\n")}) != code
    probed = commit(lab__probes__landscape="p = 2\n")
    assert provenance.code_of({"commit": probed}) == code
    assert provenance.code_of({"commit": probed}, True) != provenance.code_of({"commit": first}, True)
    for unclear in (f"{first}+", "", "0" * 12, "--output=x"):
        assert provenance.code_of({"commit": unclear}) == ""
    assert provenance.code_of({"commit": first, "code": "said"}) == "said"


def test_what_a_run_is_made_by_is_in_its_result() -> None:
    import torch

    measured = provenance.provenance(torch.device("cpu"))
    assert measured["code"] == provenance.code() != provenance.code(True)
    counted = (*provenance.CODE, *provenance.PROBED)
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "normcore").rglob("*.py")}
    trained = {source for source in sources if provenance._counts(source, counted)}
    assert {"normcore/functional.py", "normcore/lab/runs/training.py", "normcore/lab/tasks/images.py"} <= trained
    assert "normcore/lab/probes/landscape.py" in trained
    assert not any(source.startswith(("normcore/lab/figures", "normcore/lab/verdicts")) for source in trained)
