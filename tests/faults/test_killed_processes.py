"""Kernels, workers, the processes that wait for them, and commands, killed at their calls on files: what is left ends
by itself, and the same call completes with the numbers of an undisturbed sweep."""

import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from normcore.lab.runs import sweep as sweep_module

from ..lab.helpers import write_pictures
from ..pipeline import ROOT, at_work, environment, project, trial
from .calls import FAULTS, KILLED, Act, Meter, Place, Tally, in_children, sound, swept

pytestmark = pytest.mark.faults
HOW = ("killed before", "killed after")


def once(act: Act, mark: Path) -> Act:
    """The act, at the first of all processes that come to it."""

    def acting(call: Callable[[], Any]) -> Any:
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return call()
        return act(call)

    return acting


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Workers are copies of this process, so that they have the meter, and start in milliseconds."""
    monkeypatch.setattr(sweep_module, "get_context", lambda _: multiprocessing.get_context("fork"))
    monkeypatch.setattr("normcore.lab.lifetime.WATCH_EVERY", 0.01)
    return Place(tmp_path, monkeypatch)


@pytest.mark.filterwarnings("ignore:.*its process died")
@pytest.mark.parametrize("how", HOW)
def test_a_worker_is_killed_at_its_calls_and_the_sweep_goes_on_by_itself(
    how: str, place: Place, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.into("undisturbed")
    undisturbed = swept(jobs=2)
    work = sweep_module._work
    for at in range(1, 1000):
        folder, mark = place.into(str(at)), place.folder / f"mark {at}"

        def metered(*given: Any, folder: Path = folder, mark: Path = mark, at: int = at) -> None:
            with Meter(folder, at, once(FAULTS[how], mark)).measuring():
                work(*given)

        monkeypatch.setattr(sweep_module, "_work", metered)
        codes = in_children(lambda: swept(jobs=2))
        if not mark.exists():  # no worker makes so many calls
            assert at > 20
            break
        with tally.fault("killed at a call: a worker of a sweep"):
            assert codes == [0], at
            sound(folder)
            assert swept() == undisturbed, at


@pytest.mark.parametrize("how", HOW)
def test_the_process_that_workers_work_for_is_killed_at_its_calls(how: str, place: Place, tally: Tally) -> None:
    place.into("undisturbed")
    with Meter(place.into("undisturbed")).measuring() as meter:
        undisturbed = swept(jobs=2)
    assert meter.count > 20
    for at in range(1, meter.count + 1):
        folder = place.into(str(at))

        def disturbed(folder: Path = folder, at: int = at) -> None:
            this = os.getpid()

            def strike(call: Callable[[], Any]) -> Any:
                return FAULTS[how](call) if os.getpid() == this else call()

            with Meter(folder, at, strike).measuring():
                swept(jobs=2)

        with tally.fault("killed at a call: the process that waits for workers"):
            assert in_children(disturbed) == [KILLED], at
            sound(folder)
            assert swept() == undisturbed, at


# --- a command, and the kernel of its notebook -------------------------------------------------------------

NOTEBOOK = """
from normcore.lab.runs.store import Store
from normcore.lab.runs.sweep import sweep
from tests.faults.calls import CONFIGS, struck

meter = struck("kernel")
print(len(sweep(CONFIGS, Store("trial"), jobs=jobs)), "runs")
print("calls:", meter.count, "changes:", [*meter.changes.values()])
"""
COMMAND = """
import sys
from normcore.lab.cli import main
from tests.faults.calls import struck

meter = struck("command")
sys.argv = ["normcore", "run", "trial", "--device", "cpu"]
try:
    main()
finally:
    print("calls:", meter.count, "changes:", [*meter.changes.values()])
"""
Strike = tuple[int, str]  # the number of a call, and what happens there


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a folder of the pipeline with one notebook, whose sweep has two runs."""
    notebook = trial(tmp_path / "trial.ipynb", NOTEBOOK)
    write_pictures(tmp_path / "data" / "noise", train=16, test=4)
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))

    def make(name: str) -> Path:
        folder = project(tmp_path / name, notebook)
        (folder / "tests").symlink_to(ROOT / "tests")
        return folder

    return make


def called(folder: Path) -> "subprocess.CompletedProcess[str]":
    """The command, in a process that begins no other session, until it and its kernel have ended."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND], cwd=folder, env=environment(folder), capture_output=True, text=True
    )
    while at_work(folder):
        time.sleep(0.05)
    return done


def calls_in(text: str) -> tuple[int, list[int]]:
    """The number of calls that a meter counted, and the numbers of those that change what is in the folder."""
    calls, changes = re.findall(r"calls: (\d+) changes: (\[.*?\])", text)[-1]
    return int(calls), json.loads(changes)


def measured(folder: Path) -> dict[str, Any]:
    runs = [json.loads(path.read_text()) for path in (folder / "results" / "trial").glob("[!.]*.json")]
    return {run["key"]: (run["final"], run["curves"], run["provenance"]["weights"]) for run in runs}


@pytest.mark.parametrize("who", ["command", "kernel"])
def test_a_command_and_its_kernel_are_killed_at_their_calls(
    who: str, here: Callable[[str], Path], tally: Tally
) -> None:
    first = here("undisturbed")
    done = called(first)
    assert done.returncode == 0, done.stderr
    undisturbed = measured(first)
    assert len(undisturbed) == 2
    made = (first / "_build" / "runs" / "trial.ipynb").read_text() if who == "kernel" else done.stdout
    calls, changes = calls_in(made)
    strikes: list[Strike] = [(2, HOW[0]), (calls // 2, HOW[1]), (calls, HOW[1])]
    if who == "command":  # what it leaves is another only behind a call that changes something
        assert len(changes) > 3
        strikes += [(at, HOW[0]) for at in changes]
    for at, how in strikes:
        folder = here(f"{who} {at} {how}")
        (folder / f"{who}.json").write_text(json.dumps([at, how]))
        with tally.fault(f"killed at a call: a notebook's {who}"):
            struck = called(folder)
            assert not (folder / f"{who}.json").exists()
            if who == "command":
                assert struck.returncode == KILLED, struck.stderr
            else:
                assert struck.returncode == 1, struck.stderr
                assert "DeadKernelError" in struck.stderr
            sound(folder)
            executed = folder / "_build" / "runs" / "trial.ipynb"
            assert not executed.exists() or "2 runs" in executed.read_text()
            again = called(folder)
            assert again.returncode == 0, again.stderr
            assert measured(folder) == undisturbed
