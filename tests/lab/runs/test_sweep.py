"""Sweeps: side by side, resumed, shared, split, killed, out of time and out of disk."""

import dataclasses
import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from normcore.lab import lifetime
from normcore.lab.config import RunConfig
from normcore.lab.errors import DataError, ShardDone, SweepIncomplete, TimeUp, UsageError
from normcore.lab.runs import sweep as sweep_module
from normcore.lab.runs.store import Store
from normcore.lab.runs.sweep import Shard, _Worker, parse_seconds, sweep
from normcore.lab.runs.training import train
from normcore.lab.tasks import datasets

from ..helpers import config, write_pictures

pytestmark = pytest.mark.usefixtures("store")
ROOT = Path(__file__).resolve().parents[3]


def four() -> list[RunConfig]:
    return [config(norm=norm, seed=seed) for norm in ("none", "bn") for seed in (0, 1)]


def long(seed: int = 0) -> RunConfig:
    """Long enough to be interrupted, with many points at which it can be."""
    return config(steps=600, eval_every=600, log_every=10, seed=seed)


def test_results_come_in_the_order_asked_for_and_are_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store("trial")
    first = sweep(four(), store)
    assert [(r.config.norm, r.config.seed) for r in first] == [("none", 0), ("none", 1), ("bn", 0), ("bn", 1)]
    monkeypatch.setattr("normcore.lab.runs.sweep.train", None)  # would fail if it were called
    assert sweep(list(reversed(four())), store) == list(reversed(first))


def test_side_by_side_gives_the_same_bits() -> None:
    alone = sweep(four(), Store("alone"))
    together = sweep(four(), Store("together"), jobs=2, fresh=True)
    assert [r.curves for r in alone] == [r.curves for r in together]


def test_fresh_runs_again() -> None:
    store = Store("trial")
    run = sweep([config()], store)[0]
    store.put(dataclasses.replace(run, status="diverged"))  # which a run of it would not give
    after = sweep([config()], store, fresh=True)[0]
    assert (after.status, after.curves) == ("finished", run.curves)
    assert store.get(run.key) == after


def test_what_another_experiment_has_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Store("first"), Store("second")
    before = sweep(four(), first)
    second.put(before[0])
    with monkeypatch.context() as context:
        context.setattr("normcore.lab.runs.sweep.train", None)  # would fail if it were called
        assert sweep(four(), second) == before
        assert sweep(four(), Store("third")) == before
    for run in before:
        assert second.path(run.key).read_bytes() == first.path(run.key).read_bytes()
    assert sweep([*four(), config(seed=2)], second)[:4] == before  # what nobody has is run
    assert second.get(config(seed=2).key)
    assert first.get(config(seed=2).key) is None


def test_fresh_takes_nothing_from_another_experiment() -> None:
    first, second = Store("first"), Store("second")
    run = sweep([config()], first)[0]
    wrong = dataclasses.replace(run, status="diverged")
    first.put(wrong)
    after = sweep([config()], second, fresh=True)[0]
    assert (after.status, after.curves) == ("finished", run.curves)
    assert first.get(run.key) == wrong  # and leaves that one's as it is


def test_a_shard_takes_only_its_own_runs_from_another_experiment() -> None:
    wanted = [config(seed=seed) for seed in range(6)]
    sweep(wanted, Store("first"))
    second = Store("second")
    with pytest.raises(ShardDone, match="belongs to other shards"):
        sweep(wanted, second, shard=Shard(1, 3))
    assert {p.stem for p in second.folder.glob("*.json")} == {c.key for c in wanted if Shard(1, 3).holds(c.key)}


def test_a_sweep_over_colours_trains_on_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "data" / "noise", channels=3)
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))
    wanted = [config(dataset="noise", batch_size=8, colours=colours) for colours in datasets.COLOURS]
    found = sweep(wanted, Store("trial"))
    assert [run.config.colours for run in found] == ["rgb", "grey", "permuted"]
    assert len({run.key for run in found}) == 3
    seen = [run.provenance["data"]["fingerprint"] for run in found]
    assert seen == [datasets.load("noise", 14, colours).fingerprint for colours in datasets.COLOURS]
    assert len(set(seen)) == 3
    with pytest.raises(UsageError, match="colours='grey' needs images of three channels"):
        sweep([config(seed=1), config(colours="grey")], Store("trial"))
    assert Store("trial").get(config(seed=1).key) is None  # refused before anything is run


def test_shards_share_the_work_and_the_store(store: Path) -> None:
    wanted = [config(seed=seed) for seed in range(6)]
    parts = [[c.key for c in wanted if Shard(i, 3).holds(c.key)] for i in (1, 2, 3)]
    assert sorted(k for part in parts for k in part) == sorted(c.key for c in wanted)
    shared = Store("trial")
    for number in (1, 2):
        with pytest.raises(ShardDone, match="belongs to other shards"):
            sweep(wanted, shared, shard=Shard(number, 3))
    assert {p.stem for p in shared.folder.glob("*.json")} == {*parts[0], *parts[1]}
    assert len(sweep(wanted, shared, shard=Shard(3, 3))) == 6


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b", "1/0", "-1/2"])
def test_bad_shards_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="shard must be i/n"):
        Shard.parse(text)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("9m", 540), ("1.5h", 5400), ("", math.inf)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["9", "m", "-1m", "9 minutes", "nans", "0s"])
def test_bad_durations_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="time budget"):
        parse_seconds(text)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_time_budget_stops_inside_a_run_and_the_next_call_goes_on(jobs: int, store: Path) -> None:
    whole = train(long(), torch.device("cpu"))
    shared = Store("trial")
    sweep([config()], shared, jobs=jobs)  # so that the budget below is not spent on starting and decoding
    with pytest.raises(TimeUp, match="time budget is used up"):
        sweep([long(), long(1)], shared, jobs=jobs, deadline=time.monotonic() + 0.3)
    checkpoints = list((store.parent / "cache" / "checkpoints").glob("*.pt"))
    if jobs == 1:  # (with two, the processes take longer than that to start: it stops before a run)
        assert [p.stem for p in checkpoints] == [long().key]
    assert shared.get(long(1).key) is None
    assert sweep([long()], shared, jobs=jobs)[0].curves == whole.curves


@pytest.mark.parametrize("jobs", [1, 2])
def test_told_to_stop_by_a_scheduler_every_run_saves_its_state_and_the_next_call_goes_on(
    jobs: int, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any step, also between two points of the curves."""
    wanted = [config(steps=400, log_every=100, eval_every=400, seed=seed) for seed in (0, 1)]
    whole = [train(c, torch.device("cpu")) for c in wanted]

    @contextmanager
    def watched(work: Any) -> Iterator[Any]:
        yield lambda place, steps, finished: steps and os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as context:
        context.setattr(sweep_module, "_bars", watched)
        with pytest.raises(TimeUp, match="0 of 2 runs of trial are there; told to stop by SIGTERM: run it again"):
            sweep(wanted, Store("trial"), jobs=jobs)
    checkpoints = {path.stem for path in (store.parent / "cache" / "checkpoints").iterdir()}
    assert checkpoints == {c.key for c in wanted[:jobs]}
    assert not lifetime.told_to_stop()
    again = sweep(wanted, Store("trial"), jobs=jobs)
    assert [(run.final, run.curves) for run in again] == [(run.final, run.curves) for run in whole]


class Killer:
    """Kills a worker at each of these moments, as often as it is named, of the run at one position or of any."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, moments: Iterable[str], only: int | None = None) -> None:
        self.left, self.only = Counter(moments), only
        self.at_work: dict[int, _Worker] = {}
        start, take, bars = _Worker.__init__, _Worker.take, sweep_module._bars

        def started(worker: _Worker, *given: Any) -> None:
            start(worker, *given)
            self.strike("start", worker)

        def taking(worker: _Worker, run: int, *given: Any) -> None:
            self.strike("idle", worker, run)
            self.at_work[run] = worker
            take(worker, run, *given)
            self.strike("taking", worker, run)

        @contextmanager
        def watched(tasks: Any) -> Iterator[Any]:
            with bars(tasks) as report:

                def watch(run: int, steps: int, finished: bool) -> None:
                    report(run, steps, finished)
                    if finished or steps > 0:
                        self.strike("ended" if finished else "running", self.at_work[run], run)

                yield watch

        monkeypatch.setattr(_Worker, "__init__", started)
        monkeypatch.setattr(_Worker, "take", taking)
        monkeypatch.setattr(sweep_module, "_bars", watched)

    def strike(self, moment: str, worker: _Worker, run: int | None = None) -> None:
        if self.left[moment] and self.only in (None, run) and worker.process.is_alive():
            self.left[moment] -= 1
            worker.process.kill()


@pytest.mark.filterwarnings("ignore:.*its process died")
@pytest.mark.parametrize(
    ("moments", "only"), [(("start", "start", "idle", "ended"), None), (("taking", "running"), 0)], ids=["idle", "busy"]
)
def test_a_sweep_whose_workers_are_killed_ends_as_any_other(
    moments: tuple[str, ...], only: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [long(), *four()]
    alone = sweep(wanted, Store("alone"))
    killer = Killer(monkeypatch, moments, only)
    together = sweep(wanted, Store("together"), jobs=2, fresh=True)
    assert not any(killer.left.values()), "not all were killed"
    assert [(r.status, r.final, r.curves) for r in together] == [(r.status, r.final, r.curves) for r in alone]


def test_a_run_whose_workers_always_die_is_given_up_and_the_others_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Store("trial")
    Killer(monkeypatch, ["taking"] * 9, only=0)
    with (
        pytest.warns(UserWarning, match="its process died"),
        pytest.raises(
            SweepIncomplete, match=r"2 of 3 runs .* its process died \(exit code -9\), 3 times: run it again"
        ),
    ):
        sweep([long(), *four()[:2]], shared, jobs=2)
    assert all(shared.get(c.key) for c in four()[:2])


def test_workers_that_cannot_start_end_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    Killer(monkeypatch, ["start"] * 99)
    with pytest.raises(SweepIncomplete, match=r"a worker process died before its first run \(exit code -9\)"):
        sweep(four(), Store("trial"), jobs=2)


_SCRIPT = """
import json, sys
from normcore.lab.config import RunConfig
from normcore.lab.runs.store import Store
from normcore.lab.runs.sweep import sweep

if __name__ == "__main__":
    configs = [RunConfig(**fields) for fields in json.loads(sys.argv[1])]
    sweep(configs, Store("trial"), jobs=int(sys.argv[2]))
"""


def _process(configs: list[RunConfig], jobs: int) -> "subprocess.Popen[bytes]":
    fields = json.dumps([dataclasses.asdict(c) for c in configs])
    return subprocess.Popen([sys.executable, "-c", _SCRIPT, fields, str(jobs)], cwd=ROOT, start_new_session=True)


def test_killed_in_mid_run_a_re_run_finishes(store: Path) -> None:
    shared = Store("trial")
    endless = config(steps=200_000, log_every=10, eval_every=200_000)
    process = _process([config(), endless], 1)
    for _ in range(600):
        time.sleep(0.1)
        if shared.get(config().key):
            break
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert [p.name for p in shared.folder.iterdir()] == [f"{config().key}.json"]  # nothing half-written
    assert len(sweep([config(), config(seed=1)], shared)) == 2


def test_two_processes_on_one_sweep_lose_and_corrupt_nothing(store: Path) -> None:
    wanted = [config(seed=seed, steps=100, log_every=50) for seed in range(4)]
    processes = [_process(wanted, 1), _process(list(reversed(wanted)), 1)]
    assert [p.wait(timeout=240) for p in processes] == [0, 0]
    shared = Store("trial")
    assert {p.name for p in shared.folder.iterdir()} == {f"{c.key}.json" for c in wanted}
    assert all(shared.get(c.key) for c in wanted)


def test_a_full_disk_leaves_no_half_result_and_a_re_run_finishes(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    shared = Store("trial")
    datasets.load("digits", 14)
    with monkeypatch.context() as context:
        context.setattr("normcore.lab.files.os.fsync", full)
        with pytest.warns(UserWarning, match="No space left"), pytest.raises(SweepIncomplete, match="No space left"):
            sweep([config()], shared)
    assert not shared.folder.exists() or list(shared.folder.iterdir()) == []
    assert len(sweep([config()], shared)) == 1


def test_a_diverged_run_is_kept_and_the_sweep_goes_on() -> None:
    wild = config(norm="none", optimizer="sgd", lr=1e9, steps=40)
    found = sweep([wild, config()], Store("trial"))
    assert [r.status for r in found] == ["diverged", "finished"]


def test_bad_data_is_refused_before_anything_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    for split in ("train", "test"):
        (tmp_path / "data" / "mnist" / f"{split}.parquet").write_text("broken")
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError, match=r"train\.parquet"):
        sweep([config(), config(dataset="mnist")], Store("trial"))
    assert not Store("trial").folder.exists()


def test_jobs_must_be_positive() -> None:
    with pytest.raises(UsageError, match="jobs must be at least 1"):
        sweep(four(), Store("trial"), jobs=0)


def test_progress_is_shown_on_a_terminal_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NORMCORE_TERMINAL", raising=False)
    sweep([config()], Store("quiet"))
    assert capsys.readouterr() == ("", "")
    screen = tmp_path / "screen"
    monkeypatch.setenv("NORMCORE_TERMINAL", str(screen))
    sweep([config(seed=1)], Store("loud"))
    assert "runs" in screen.read_text()
    assert "steps" in screen.read_text()
