"""The command line: what it prints, and how it refuses."""

import csv
import io
import json
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest

from normcore.lab import cli
from normcore.lab.errors import UsageError
from normcore.lab.runs.experiments import find
from normcore.lab.runs.store import Store
from normcore.lab.verdicts.claims import VERDICTS

from ..helpers import MINE
from .helpers import made_up

pytestmark = pytest.mark.usefixtures("store")


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command."""
    monkeypatch.setattr(sys, "argv", ["normcore", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    code = ended.value.code
    return (code if isinstance(code, int) else 0), out, err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "fashion-lent"], "unknown experiment 'fashion-lent': did you mean fashion-lenet?"),
        (["run", "fashion-lenet", "--profile", "ful"], "unknown profile 'ful': did you mean full?"),
        (
            ["run", "fashion-lenet", "--set", "epoch=3"],
            "parameter of fashion-lenet 'epoch': did you mean epochs",
        ),
        (["run", "fashion-lenet", "--set", "epochs=many"], "epochs of fashion-lenet must be of type int"),
        (["run", "fashion-lenet", "--set", "epochs=0"], "epochs of fashion-lenet must be at least 1, got 0"),
        (["run", "fashion-lenet", "--set", "epochs"], "--set takes key=value, got 'epochs'"),
        (["run", "fashion-lenet", "--device", "gpu"], "unknown device 'gpu': one of auto, cpu, cuda"),
        (["run", "fashion-lenet", "--shard", "3/2"], "shard must be i/n"),
        (["run", "fashion-lenet", "--jobs", "-3"], "jobs must be at least 1, got -3"),
        (["run", "fashion-lenet", "--fresh", "--no-train"], "without training nothing is run"),
        (["run", "fashion-lenet", "--set", "profile=full"], "profile is how: use --profile"),
        (["run", "fashion-lenet", "--set", "time_budget=x"], "time_budget is how: use --time-budget"),
        (["run", "fashion-lenet", "--set", "train=false"], "train is how: use --no-train"),
        (["publish", "fashion-lenet", "--profile", "custom"], "unknown profile 'custom'"),
        (["run"], "nothing to run: name experiments, or all, or give --plan"),
        (["run", "fashion-lenet", "--plan"], "--plan chooses the runs by itself, got fashion-lenet, too"),
        (["run", "fashion-lenet", "--time-budget", "soon"], "a time budget is a positive number and s, m or h"),
        (["check", "bm"], "unknown norm 'bm'"),
        (["check", "nine.py:Mine"], "there is no file nine.py"),
        (["page", "notebooks/normalizers/bm.ipynb"], "no notebook notebooks/normalizers/bm.ipynb here"),
        (["results", "fashion-lent"], "unknown experiment 'fashion-lent': did you mean fashion-lenet?"),
        (["results", "fashion-lenet", "--profile", "fast"], "unknown profile 'fast'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    words: list[str], message: str, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(monkeypatch, capsys, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (store / "fashion-lenet").exists(), "something was run"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"norms": ["none", "bm"]}, "unknown norm 'bm': did you mean bn?"),
        ({"rates": {"adan": [0.1]}}, "unknown optimizer 'adan': did you mean adam?"),
        ({"batch_sizes": [9999]}, "leave no batch to train on"),
        ({"rates": {"adam": [-1]}}, "lr must be a positive number, got -1.0"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_is_trained(
    values: dict[str, object], message: str, store: Path
) -> None:
    """By the notebook's own code."""
    experiment = find("fashion-lenet")
    names = {**experiment.profile("smoke"), **values, "profile": "custom"}
    cells = [c for c in nbformat.read(experiment.notebook, as_version=4).cells if c.cell_type == "code"]
    code = "\n".join(c.source for c in cells if "parameters" not in c.metadata.get("tags", []))
    with pytest.raises(UsageError, match=re.escape(message)):
        exec(code, names)
    assert not list(store.glob("fashion-lenet/*.json"))


def test_what_the_notebook_refuses_is_one_line_of_the_command(
    store: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(monkeypatch, capfd, "run", "fashion-lenet", "--set", "dataset=digit")
    assert code == 2, err
    (line,) = err.strip().splitlines()
    assert "unknown data set 'digit': did you mean digits?" in line
    assert not list(store.glob("fashion-lenet/*.json"))


def test_results_are_one_row_a_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    results = Store("fashion-lenet")
    runs = [made_up(norm, seed, [1.0], [0.5]) for norm in ("none", "bn") for seed in range(2)]
    for run in runs:
        results.put(run)
    results.index("quick", "main", [r.key for r in runs])
    quick = ("results", "fashion-lenet", "--profile", "quick")
    code, out, _ = call(monkeypatch, capsys, *quick, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [(r["profile"], r["norm"], r["seed"]) for r in rows] == [
        ("quick", n, s) for n in ("none", "bn") for s in ("0", "1")
    ]
    code, out, _ = call(monkeypatch, capsys, *quick, "--json")
    assert [r["key"] for r in json.loads(out)] == [r.key for r in runs]
    code, out, _ = call(monkeypatch, capsys, *quick)
    assert out.count("finished") == 4
    assert "outliers" not in out
    code, _, err = call(monkeypatch, capsys, *quick, "--stage", "serch")
    assert (code, err) == (2, "unknown stage 'serch': known are main.\n")
    code, _, err = call(monkeypatch, capsys, "results", "fashion-lenet", "--profile", "full")
    assert (code, "has no results of profile full" in err) == (1, True)
    code, _, err = call(monkeypatch, capsys, "results", "fashion-lenet")
    assert (code, "nothing of it is published" in err) == (1, True)


def test_results_show_what_differs_between_runs_of_a_normalizer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = Store("outliers")
    runs = [
        made_up(norm, 0, [1.0], [0.5], outliers=share, model_options={"linear_norm": norm == "bn"})
        for norm in ("none", "bn")
        for share in (0.0, 0.25)
    ]
    for run in runs:
        results.put(run)
    results.index("quick", "main", [r.key for r in runs])
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = call(monkeypatch, capsys, "results", "outliers", "--profile", "quick")
    header, *lines = out.splitlines()
    assert code == 0
    assert header.split()[:6] == ["norm", "optimizer", "lr", "batch_size", "outliers", "seed"]
    assert [line.split()[4] for line in lines if line.strip()] == ["0", "0.25"] * 2
    assert "linear_norm" not in header, "it follows from the normalizer"


def test_a_layer_of_one_s_own_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    code, out, _ = call(monkeypatch, capsys, "check", f"{tmp_path}/mine.py:Mine", "--options", '{"factor": 3}')
    assert code == 0
    assert "failed" not in out
    assert "other samples" in out
    code, _, err = call(monkeypatch, capsys, "check", f"{tmp_path}/mine.py:Unfinished")
    assert code == 2
    assert "Unfinished: it takes none of (N, C), (N, C, L)" in err
    code, _, err = call(monkeypatch, capsys, "check", f"{tmp_path}/mine.py:Mine", "--options", "[1]")
    assert (code, err.count("\n")) == (2, 1)


def test_claims_are_all_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(monkeypatch, capsys, "claims", "--json")
    rows = json.loads(out)
    assert len(rows) == 76
    assert {row["verdict"] for row in rows} <= set(VERDICTS)
    _, out, _ = call(monkeypatch, capsys, "claims")
    assert "S4-03" in out


def test_what_is_there_is_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(monkeypatch, capsys, "experiments", "--json")
    listed = {row["experiment"]: (row["published"], row["your own"]) for row in json.loads(out)}
    assert {"fashion-lenet", "catdog-batch"} <= set(listed)
    assert set(listed.values()) == {("none yet", "none")}
    monkeypatch.delenv("NORMCORE_DATA", raising=False)
    _, out, _ = call(monkeypatch, capsys, "data", "--json")
    state = {row["data set"]: row["state"] for row in json.loads(out)}
    assert state["digits"] == "embedded"
    assert state["mnist"] == "missing"
    monkeypatch.setattr("normcore.lab.cli._try_compile", lambda: "works")  # its compiler takes long to start
    _, out, _ = call(monkeypatch, capsys, "doctor", "--json")
    found = json.loads(out)
    assert {"torch", "device", "free_disk_gib", "torch_compile"} <= set(found)


def test_an_experiment_runs_from_the_command_line(
    store: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An epoch a run of the smoke profile: a time budget that is too short, a shard, and two runs side by side."""
    command = ("run", "fashion-lenet", "--set", "epochs=1", "--set", "seeds=1")
    code, _, err = call(monkeypatch, capfd, *command, "--time-budget", "0.01s")
    assert (code, "used up: run it again to go on" in err) == (os.EX_TEMPFAIL, True), err
    code, out, err = call(monkeypatch, capfd, *command, "--shard", "1/2")
    assert (code, "belongs to other shards" in out) == (0, True), err
    code, _, err = call(monkeypatch, capfd, *command, "--jobs", "2")
    assert code == 0, err
    assert len(Store("fashion-lenet").runs("custom")) == 2
    assert not (store.parent / "published").exists()
