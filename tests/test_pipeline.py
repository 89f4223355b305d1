"""The pipeline when it is killed: its children end with it, and the next build goes on."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from .pipeline import ROOT, at_work, environment, project, trial

pytestmark = pytest.mark.ci
TARGET = "book/runs/trial.ipynb"
ENDLESS = """
from pathlib import Path
from normcore.lab.config import RunConfig
from normcore.lab.runs.store import Store
from normcore.lab.runs.sweep import sweep

small = dict(dataset="digits", image_size=14, model="lenet5", norm="none", lr=0.01, batch_size=32)
steps = 10**7 if Path("endless").exists() else 2
runs = [RunConfig(**small, steps=steps, seed=seed, log_every=steps, eval_every=steps) for seed in (0, 1)]
print(len(sweep(runs, Store("trial"), jobs=jobs)), "runs")
"""


SNAKEMAKE = f"""#!/bin/sh
exec {sys.executable} -m snakemake "$@" -- {TARGET}
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A pipeline of one notebook, whose two runs do not end while there is a file ``endless``; `make book` makes that
    notebook alone."""
    folder = project(tmp_path / "project", trial(tmp_path / "trial.ipynb", ENDLESS))
    shutil.copy(ROOT / "Makefile", folder)
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "snakemake").write_text(SNAKEMAKE)
    (folder / ".venv" / "bin" / "snakemake").chmod(0o755)
    for name in ("endless", "requirements.lock", "pyproject.toml", ".venv/.installed"):
        (folder / name).touch()
    return folder


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(here: Path) -> Iterator[Start]:
    """Starts a command in the pipeline's folder; what is left of it is ended after the test."""
    started: list[subprocess.Popen[str]] = []

    def one(*command: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            command, cwd=here, env=environment(here), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        started.append(process)
        return process

    yield one
    for left in at_work(here):
        left.kill()
    for process in started:
        with process:  # closes its output and waits
            process.kill()


def wait_until(holds: Callable[[], bool], what: str) -> None:
    for _ in range(3000):
        if holds():
            return
        time.sleep(0.1)
    pytest.fail(f"not within five minutes: {what}")


def training(folder: Path) -> bool:
    """Whether both runs are being trained: each holds its lock then."""
    held = set()
    for process in at_work(folder):
        with suppress(psutil.Error):
            held |= {file.path for file in process.open_files() if "/cache/locks/" in file.path}
    return len(held) == 2


def wait_for_training(folder: Path, process: "subprocess.Popen[str]") -> None:
    """Until both runs are being trained; a process that ends before that has failed."""
    wait_until(lambda: training(folder) or process.poll() is not None, "two runs are being trained")
    assert process.poll() is None, process.communicate()[0]


def half_written(folder: Path) -> list[Path]:
    return list((folder / "book" / "runs").glob(".*"))


def test_the_children_of_a_killed_build_end_and_the_next_build_goes_on(here: Path, start: Start) -> None:
    build = ("make", "book", "PROFILE=smoke")
    make = start(*build)
    wait_for_training(here, make)
    assert len(half_written(here)) == 1
    refused = start(*build)
    said, _ = refused.communicate()
    holder = (here / ".snakemake" / "build.pid").read_text()
    assert psutil.Process(int(holder)).ppid() == make.pid
    assert f"another build is at work here, process {holder}: wait for it, or end it" in said.splitlines()
    assert refused.returncode == 2  # make's

    make.kill()
    wait_until(lambda: not at_work(here), "all children of a killed build have ended")
    assert not half_written(here)

    (here / "endless").unlink()
    (here / "book" / "runs" / ".trial.ipynb.abc.ipynb").touch()  # as a run leaves it that is killed itself
    again = start(*build)
    said, _ = again.communicate()
    assert again.returncode == 0, said
    assert [path.name for path in (here / "book" / "runs").iterdir()] == ["trial.ipynb"]
    assert "2 runs" in (here / TARGET).read_text()


def run_trial(start: Start) -> "subprocess.Popen[str]":
    return start(sys.executable, "-m", "normcore.lab.cli", "run", "trial", "--jobs", "2", "--to", "book/runs")


def test_the_kernel_and_the_workers_of_a_killed_run_end_with_it(here: Path, start: Start) -> None:
    run = run_trial(start)
    wait_for_training(here, run)
    run.kill()
    wait_until(lambda: not at_work(here), "the kernel and the workers have ended")
    assert half_written(here)  # which the next build takes away


@pytest.mark.parametrize("everyone", [False, True], ids=["the command", "every process"])
def test_a_run_that_a_scheduler_stops_saves_its_state_and_may_be_requeued(
    everyone: bool, here: Path, start: Start
) -> None:
    """Some schedulers send SIGTERM to the command that they started, others to every process of a job."""
    run = run_trial(start)
    wait_for_training(here, run)
    time.sleep(2)  # some steps
    for process in at_work(here) if everyone else [run]:
        process.terminate()
    said, _ = run.communicate()
    assert run.returncode == os.EX_TEMPFAIL, said
    assert "0 of 2 runs of trial are there; told to stop by SIGTERM: run it again to go on" in said
    wait_until(lambda: not at_work(here), "the kernel and the workers have ended")
    assert len(list((here / "cache" / "checkpoints").iterdir())) == 2
    assert not half_written(here)
