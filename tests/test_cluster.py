"""The pipeline on a Slurm cluster: shards run side by side, and compute what one process computes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from .pipeline import ROOT, environment, project
from .slurm import cluster, missing

TARGET = "book/runs/fashion_lenet.ipynb"


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What the environment of a cluster's commands needs; the test is skipped where there is no Slurm."""
    lacking = missing()
    if not find_spec("snakemake_executor_plugin_slurm"):
        lacking.append("snakemake-executor-plugin-slurm")
    if lacking and os.environ.get("NORMCORE_REQUIRE_SLURM"):
        pytest.fail(f"{', '.join(lacking)} not installed, and NORMCORE_REQUIRE_SLURM is set")
    if lacking:
        pytest.skip(f"{', '.join(lacking)} not installed: see .ci/run")
    with cluster(tmp_path / "slurm") as env:
        yield env


@pytest.mark.ci
def test_shards_run_side_by_side_and_give_the_same_bits(slurm: dict[str, str], tmp_path: Path) -> None:
    here = project(tmp_path / "cluster", ROOT / "notebooks" / "fashion_lenet.ipynb")
    env = environment(here, **slurm)
    status = ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "5"]
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--profile",
        "profiles/slurm",
        *status,
        "--config",
        "profile=smoke",
        "shards=2",
        "--",
    ]
    done = subprocess.run([*command, TARGET], cwd=here, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-9000:]

    jobs = _jobs(env)
    for turn in (1, 2):  # the search, then the comparison
        (begin, end), (other_begin, other_end) = (
            jobs[f"rule_shard_wildcards_fashion_lenet_{turn}_{i}_2"] for i in (1, 2)
        )
        assert max(begin, other_begin) < min(end, other_end), "the shards took turns"

    alone = tmp_path / "alone"
    run = [sys.executable, "-m", "normcore.lab.cli", "run", "fashion-lenet", "--to", str(alone)]
    subprocess.run(run, cwd=ROOT, env=environment(alone), check=True, capture_output=True)
    expected = _results(alone / "results")
    assert len(expected) == 8
    assert _results(here / "results") == expected


def _jobs(env: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Comment -> start and end, for every job that the controller knows; of one that was sent again, of its first."""
    text = subprocess.run(["scontrol", "--oneliner", "show", "job"], env=env, capture_output=True, text=True).stdout
    rows = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in text.splitlines()]
    rows.sort(key=lambda row: int(row["JobId"]), reverse=True)
    return {row["Comment"]: (row["StartTime"], row["EndTime"]) for row in rows}


def _results(folder: Path) -> dict[str, Any]:
    """What every run measured, by its key; not where and when."""
    runs = [json.loads(path.read_text()) for path in folder.glob("fashion-lenet/*.json")]
    return {run["key"]: [run[name] for name in ("config", "status", "final", "curves")] for run in runs}
