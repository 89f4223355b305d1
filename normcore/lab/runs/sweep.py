"""A sweep: many runs, side by side, resumable, sharable, within a time budget."""

import dataclasses
import math
import os
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import IO, Any

import torch
from filelock import Timeout
from tqdm import tqdm

from ... import own
from .. import paths
from ..config import RunConfig
from ..errors import LabError, ShardDone, SweepIncomplete, TimeUp, UsageError
from ..files import locked
from ..lifetime import GRACE, end_with, stopping_well, told_to_stop
from ..provenance import choose_device
from ..tasks import task_class
from . import training, weights
from .store import Run, Store
from .training import OutOfTime, train


@dataclass(frozen=True)
class Shard:
    """Part ``number`` of ``of``: a run belongs to the part that its key decides."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """``"2/3"``: the second of three parts."""
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise UsageError(f"shard must be i/n with 1 <= i <= n, such as 2/3, got {text!r}")
        return cls(int(number), int(of))

    def holds(self, key: str) -> bool:
        return int(key, 16) % self.of == self.number - 1


def parse_seconds(text: str) -> float:
    """Seconds of a duration such as ``90s``, ``9m`` or ``1.5h``; infinity for an empty one."""
    if not text:
        return math.inf
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1])
    try:
        value = float(text[:-1]) * (unit or math.nan)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"a time budget is a positive number and s, m or h, such as 9m, got {text!r}")
    return value


def sweep(
    configs: Iterable[RunConfig],
    store: Store,
    *,
    device: str = "auto",
    jobs: int = 1,
    fresh: bool = False,
    shard: Shard | None = None,
    deadline: float = math.inf,
    keep: bool = False,
) -> list[Run]:
    """Run what is not in the store yet, and return all results in the order asked for.

    Args:
        configs: the runs.
        store: where results are and go.
        device: ``auto``, ``cpu`` or ``cuda``.
        jobs: how many runs side by side, each in a process of its own, on a CPU with one thread each.
        fresh: run again what is there; the old result stays until the new one replaces it. What another process has
            replaced since this sweep began counts as run again.
        shard: run this part only.
        deadline: by ``time.monotonic``; past it, or at a SIGTERM, the sweep stops inside the run and keeps its state.
        keep: the networks that it trains, as those are kept that other runs of a sweep take.

    Raises:
        UsageError, DataError: before anything is run.
        ShardDone: if all that is missing belongs to other shards.
        TimeUp: at the deadline or a SIGTERM; calling again goes on.
        SweepIncomplete: if runs are missing for another reason (a dead worker); calling again goes on.
    """
    wanted = {config.key: config for config in configs}
    check(wanted.values())
    if jobs < 1:
        raise UsageError(f"jobs must be at least 1, got {jobs}")
    mine = [c for key, c in wanted.items() if shard is None or shard.holds(key)]
    todo = [c for c in mine if fresh or not store.adopt(c.key)]
    problems: list[str] = []
    if todo:
        chosen = choose_device(device)
        first = _started_from(todo, wanted, store)
        try_sizes([*first, *todo])
        data = {(c.task, c.dataset, c.image_size, c.colours, c.foreign): c for c in (*first, *todo)}
        for config in data.values():
            task_class(config.task).prepare(config)  # once, here, and what is wrong with it is said before any run
        again = {c.key: _written(store, c.key) if fresh else None for c in todo}
        with stopping_well():
            problems = _perform([_Job(c, store, chosen, deadline, keep=True) for c in first], jobs)
            problems += _perform([_Job(c, store, chosen, deadline, again[c.key], keep) for c in todo], jobs)
    found = [store.get(key) for key in wanted]
    missing = found.count(None)
    if missing:
        where = f"{len(wanted) - missing} of {len(wanted)} runs of {store.experiment} are there"
        if not problems:
            raise ShardDone(f"{where}; the rest belongs to other shards")
        kind = TimeUp if {*problems} <= {_BUDGET, _TOLD} else SweepIncomplete
        raise kind(f"{where}; {'; '.join(dict.fromkeys(problems))}")
    return [run for run in found if run]


def check(configs: Iterable[RunConfig]) -> None:
    """Refuse names and values that there are none of."""
    for config in _distinct(configs).values():
        training.check(config)


_tried: set[str] = set()  # settings that were, in this process


def try_sizes(configs: Iterable[RunConfig]) -> None:
    """Refuse, before any run, networks that cannot be trained. It loads much of torch: what is there is not tried."""
    for key, config in _distinct(configs).items():
        if key not in _tried:
            training.try_sizes(config)
        _tried.add(key)


def _distinct(configs: Iterable[RunConfig]) -> dict[str, RunConfig]:
    """A run of each setting: a sweep has many runs and few settings."""
    return {dataclasses.replace(c, seed=0, steps=1, warmup=0, lr=1.0, start="", beside={}).key: c for c in configs}


def _started_from(todo: Iterable[RunConfig], wanted: Mapping[str, RunConfig], store: Store) -> list[RunConfig]:
    """The runs whose networks others take, and are not kept."""
    missing = dict.fromkeys(key for c in todo for key in c.needs if not weights.file(key).is_file())
    configs = {}
    for key in missing:
        run = store.find(key)
        if run is None and key not in wanted:
            raise UsageError(
                f"start or beside: there is no run {key!r}; name the key of one that is there or in this sweep"
            )
        configs[key] = run.config if run else wanted[key]
    check(configs.values())
    return list(configs.values())


# --- one run ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    config: RunConfig
    store: Store
    device: torch.device
    deadline: float
    replaced: float | None = None  # which result is to be run again, by the time of its file; 0 where there is none
    keep: bool = False  # the trained network, whether or not the result is there

    @property
    def name(self) -> str:
        return f"{own.short(self.config.norm)}, seed {self.config.seed} ({self.config.key})"

    @property
    def checkpoint(self) -> Path:
        return paths.cache() / "checkpoints" / f"{self.config.key}.pt"


@dataclass(frozen=True)
class _Outcome:
    """How a run ended: with its result in the store, ``busy`` where another process is at it, or with a problem."""

    busy: bool = False
    problem: str = ""
    unexpected: bool = False  # no refusal of the lab's


_AGAIN = "run it again to go on"
_BUDGET = f"the time budget is used up: {_AGAIN}"
_TOLD = f"told to stop by SIGTERM: {_AGAIN}"


def _why_late() -> str:
    """Whose time is over: the scheduler's, or the budget's."""
    return _TOLD if told_to_stop() else _BUDGET


def _written(store: Store, key: str) -> float:
    """When the own result was written, by the clock of its file system; 0 where there is none."""
    path = store.path(key)
    return path.stat().st_mtime if path.is_file() else 0.0


def _attempt(job: _Job, progress: Callable[[int], None], patient: bool) -> _Outcome:
    """Do the run and store it, unless another process is at it; ``patient`` waits a second for that one."""
    lock = paths.cache() / "locks" / f"{job.config.key}.lock"
    try:
        with locked(lock, 1.0 if patient else 0.0):
            fresh = job.replaced is not None and job.replaced == _written(job.store, job.config.key)
            known = job.store.find(job.config.key)
            kept = not job.keep or weights.file(job.config.key).is_file()
            if known and kept and not fresh:
                return _Outcome()
            run = train(job.config, job.device, progress=progress, deadline=job.deadline,
                        checkpoint=job.checkpoint, keep=job.keep)  # fmt: skip
            if known and not fresh:
                _compare(known, run)
            else:
                job.store.put(run)
            return _Outcome()
    except Timeout:
        return _Outcome(busy=True)
    except OutOfTime:
        return _Outcome(problem=_why_late())
    except LabError as error:
        return _Outcome(problem=f"{job.name}: {error}")
    except Exception as error:
        return _Outcome(problem=f"{job.name}: {type(error).__name__}: {error}", unexpected=True)


def _compare(known: Run, again: Run) -> None:
    """Say so where a network that is trained again, for others to start from, is not the one that was measured."""
    if known.final != again.final:
        warnings.warn(
            f"run {known.key}, trained again for others to start from, ends elsewhere than its result: "
            f"{again.final} for {known.final}",
            stacklevel=2,
        )


# --- all of them -----------------------------------------------------------------------------------------


def _perform(work: Sequence[_Job], jobs: int) -> list[str]:
    """Does everything; returns what went wrong, in words. An error of one run leaves the others be."""
    if not work:
        return []
    for job in work:
        if job.replaced is not None:
            job.checkpoint.unlink(missing_ok=True)
    with _bars(work) as report:
        if jobs == 1:
            return _one_by_one(work, report)
        return _SideBySide(work, report, jobs).perform()


# report(position of the job, steps done, finished)
_Report = Callable[[int, int, bool], None]


def _one_by_one(work: Sequence[_Job], report: _Report) -> list[str]:
    problems: list[str] = []
    queue = [(i, job, False) for i, job in enumerate(work)]
    for i, job, patient in queue:  # grows: what another process was at comes again at the end
        if told_to_stop() or time.monotonic() > job.deadline:
            return [*problems, _why_late()]
        outcome = _attempt(job, lambda steps, i=i: report(i, steps, False), patient)  # type: ignore[misc]
        if outcome.busy:
            queue.append((i, job, True))
        elif outcome.problem:
            problems.append(_said(outcome))
        else:
            report(i, job.config.steps, True)
    return problems


def _said(outcome: _Outcome) -> str:
    if outcome.unexpected:
        warnings.warn(f"a run failed: {outcome.problem}", stacklevel=3)
    return outcome.problem


# --- side by side ----------------------------------------------------------------------------------------

_TRIES = 3  # how often a run is begun whose worker dies


class _SideBySide:
    """The runs of a sweep in worker processes, at most ``jobs`` at once.

    A worker can be killed at any moment, by an out-of-memory killer for one. So no two share a lock or a queue,
    which would die with it: each has a pipe of its own, whose end is its death. A run that dies with its worker
    is begun again by another, from its last checkpoint.
    """

    def __init__(self, work: Sequence[_Job], report: _Report, jobs: int) -> None:
        self.work, self.report, self.jobs = work, report, jobs
        self.context = get_context("spawn")
        self.steps = self.context.RawArray("q", len(work))  # each run writes its own place, without a lock
        self.waiting = list(range(len(work)))
        self.patient: set[int] = set()
        self.deaths: Counter[int] = Counter()  # by run
        self.failed_starts = 0  # since a worker last came to work
        self.workers: list[_Worker] = []
        self.problems: list[str] = []

    def perform(self) -> list[str]:
        """Do all of them; returns what went wrong, in words."""
        try:
            while self.waiting or any(worker.run is not None for worker in self.workers):
                if told_to_stop():
                    self._give_up(_TOLD)
                    break  # whoever is at work saves its state when it is told, below
                self._hand_out()
                for pipe in wait([worker.pipe for worker in self.workers], timeout=0.2):
                    self._hear(next(worker for worker in self.workers if worker.pipe is pipe))
                for worker in self.workers:
                    if worker.run is not None:
                        self.report(worker.run, self.steps[worker.run], False)
        finally:
            for worker in self.workers:
                worker.process.terminate()  # all of them before the first is waited for
            for worker in self.workers:
                worker.end()
        return self.problems

    def _hand_out(self) -> None:
        """A run to each worker that has none, and as many workers as there is work for."""
        if self.waiting and time.monotonic() > self.work[0].deadline:
            self._give_up(_BUDGET)
        for worker in self.workers:
            if worker.ready and worker.run is None and self.waiting:
                i = self.waiting.pop(0)
                worker.take(i, self.work[i], i in self.patient)
        busy = sum(worker.run is not None for worker in self.workers)
        while len(self.workers) < min(self.jobs, len(self.waiting) + busy):
            self.workers.append(_Worker(self.context, self.steps))

    def _hear(self, worker: "_Worker") -> None:
        """What a worker has to say: that it is ready, how its run ended, or, by the end of its pipe, that it died."""
        try:
            outcome = worker.pipe.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        i, worker.run = worker.run, None
        if i is None:
            worker.ready, self.failed_starts = True, 0
        elif outcome.busy:
            self.patient.add(i)
            self.waiting.append(i)
        elif outcome.problem:
            self.problems.append(_said(outcome))
        else:
            self.report(i, self.work[i].config.steps, True)

    def _bury(self, worker: "_Worker") -> None:
        self.workers.remove(worker)
        worker.end()
        died = f"its process died (exit code {worker.process.exitcode})"
        if not worker.ready:
            self.failed_starts += 1
            if self.failed_starts >= _TRIES * self.jobs:
                self._give_up(
                    f"a worker process died before its first run (exit code {worker.process.exitcode}): {_AGAIN}"
                )
        if worker.run is None:
            return
        self.deaths[worker.run] += 1
        problem = f"{self.work[worker.run].name}: {died}"
        if self.deaths[worker.run] < _TRIES:
            warnings.warn(f"{problem}; it is begun again", stacklevel=2)
            self.waiting.append(worker.run)
        else:
            self.problems.append(_said(_Outcome(problem=f"{problem}, {_TRIES} times: {_AGAIN}", unexpected=True)))

    def _give_up(self, problem: str) -> None:
        """Begin no more runs; those that are at work end."""
        self.problems.append(problem)
        self.waiting.clear()


class _Worker:
    """A process that does one run after another, and the pipe to it.

    Attributes:
        ready: whether it has come to work; that takes seconds.
        run: the position of the run that it is at.
    """

    def __init__(self, context: SpawnContext, steps: Any) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, steps), daemon=True)
        with _ignoring_interrupts():
            self.process.start()
        theirs.close()  # so that the pipe ends with the worker
        self.ready = False
        self.run: int | None = None

    def take(self, run: int, job: _Job, patient: bool) -> None:
        self.run = run
        with suppress(OSError):  # it has died since: the end of its pipe says so
            self.pipe.send((run, job, patient))

    def end(self) -> None:
        self.process.terminate()
        self.process.join(GRACE)
        self.process.kill()
        self.process.join(5)
        self.pipe.close()


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """A process that is started within the block is deaf to SIGINT, from its first instruction on: a terminal sends it
    to all, and the parent ends its workers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _leave(*_: object) -> None:
    """Leaves no half-written file; once, whatever comes on the way out."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + signal.SIGTERM)


def _work(pipe: Connection, steps: Any) -> None:
    """What a worker does: say that it is ready, then one run after another. Told to stop, it saves the state of its
    run and leaves; whether another worker goes on with it is the parent's to say."""
    signal.signal(signal.SIGTERM, _leave)
    end_with(os.getppid())
    with suppress(EOFError, OSError):  # the pipe's: the parent is gone
        pipe.send(None)
        while True:
            run, job, patient = pipe.recv()

            def progress(done: int, run: int = run) -> None:
                steps[run] = done

            with stopping_well():
                outcome = _attempt(job, progress, patient)
                if told_to_stop():
                    _leave()
            pipe.send(outcome)


# --- progress --------------------------------------------------------------------------------------------


def terminal() -> IO[str] | None:
    """A terminal to show progress on: this process' own, or the one that ``NORMCORE_TERMINAL`` names
    (a notebook's kernel has none; the command that started it passes its own on)."""
    if sys.stderr is not None and sys.stderr.isatty():
        return sys.stderr
    try:
        return Path(os.environ["NORMCORE_TERMINAL"]).open("w", encoding="utf-8")
    except (KeyError, OSError):
        return None


@contextmanager
def _bars(work: Sequence[_Job]) -> Iterator[_Report]:
    """A bar over runs and one over their steps; silent without a terminal."""
    stream = terminal()
    if stream is None:
        yield lambda place, steps, finished: None
        return
    done = [0] * len(work)
    with (
        tqdm(total=len(work), desc="runs", file=stream, leave=False, position=0) as runs,
        tqdm(total=sum(t.config.steps for t in work), desc="steps", file=stream, leave=False, position=1,
             unit_scale=True) as steps,
    ):  # fmt: skip

        def report(place: int, now: int, finished: bool) -> None:
            steps.update(max(0, now - done[place]))
            done[place] = max(now, done[place])
            runs.update(finished)

        yield report
