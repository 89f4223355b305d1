"""A sweep: many runs, side by side, resumable, sharable, within a time budget."""

import math
import os
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import IO, Any

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from . import data, paths
from .errors import LabError, ShardDone, SweepIncomplete, UsageError
from .provenance import choose_device
from .runs import Run, RunConfig, Store
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
) -> list[Run]:
    """Run what is not in the store yet, and return all results in the order asked for.

    Args:
        configs: the runs.
        store: where results are and go.
        device: ``auto``, ``cpu`` or ``cuda``.
        jobs: how many runs side by side, each in a process of its own, on a CPU with one thread each.
        fresh: run again what is there; the old result stays until the new one replaces it.
        shard: run this part only.
        deadline: by ``time.monotonic``; past it the sweep stops inside the run and keeps its state.

    Raises:
        UsageError, DataError: before anything is run.
        ShardDone: if all that is missing belongs to other shards.
        SweepIncomplete: if runs are missing for another reason (the budget, a dead worker); calling again
            goes on.
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
        needed = {(c.dataset, c.image_size, c.colours) for c in todo}
        needed |= {(c.foreign, c.image_size, "rgb") for c in todo if c.foreign}
        for name, size, colours in sorted(needed):
            data.load(name, size, colours)  # decoded once, here, and what is wrong with it is said before any run
        problems = _perform(todo, store, chosen, jobs, fresh, deadline)
    found = [store.get(key) for key in wanted]
    missing = found.count(None)
    if missing:
        where = f"{len(wanted) - missing} of {len(wanted)} runs of {store.experiment} are there"
        if not problems:
            raise ShardDone(f"{where}; the rest belongs to other shards")
        raise SweepIncomplete(f"{where}; {'; '.join(dict.fromkeys(problems))}. Run it again to go on.")
    return [run for run in found if run]


def check(configs: Iterable[RunConfig]) -> None:
    """Each combination of names once: a sweep has many runs and few names."""
    names = ("dataset", "model", "norm", "optimizer", "colours", "outlier_kind", "foreign")
    for config in {(*(getattr(c, name) for name in names), *c.probes): c for c in configs}.values():
        config.check_names()


# --- one run ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    config: RunConfig
    store: Store
    device: torch.device
    fresh: bool
    deadline: float

    @property
    def name(self) -> str:
        return f"{self.config.norm}, seed {self.config.seed} ({self.config.key})"

    @property
    def checkpoint(self) -> Path:
        return paths.cache() / "checkpoints" / f"{self.config.key}.pt"


@dataclass(frozen=True)
class _Outcome:
    """How a run ended: with its result in the store, ``busy`` where another process is at it, or with a problem."""

    busy: bool = False
    problem: str = ""
    unexpected: bool = False  # no refusal of the lab's


_BUDGET = _Outcome(problem="the time budget is used up")


def _attempt(task: _Task, progress: Callable[[int], None], patient: bool) -> _Outcome:
    """Do the run and store it, unless another process does: ``patient`` waits for that one's result."""
    lock = paths.cache() / "locks" / f"{task.config.key}.lock"
    asked = time.time()
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=_seconds_left(task) if patient else 0):
            result = task.store.path(task.config.key)
            newer = result.is_file() and result.stat().st_mtime > asked
            if not newer and (task.fresh or not task.store.get(task.config.key)):
                run = train(task.config, task.device, progress=progress, deadline=task.deadline,
                            checkpoint=task.checkpoint)  # fmt: skip
                task.store.put(run)
            return _Outcome()
    except Timeout:
        return _BUDGET if patient else _Outcome(busy=True)
    except OutOfTime:
        return _BUDGET
    except LabError as error:
        return _Outcome(problem=f"{task.name}: {error}")
    except Exception as error:
        return _Outcome(problem=f"{task.name}: {type(error).__name__}: {error}", unexpected=True)


def _seconds_left(task: _Task) -> float:
    """Until the deadline; -1, which is for ever to a lock, where there is none."""
    return -1 if math.isinf(task.deadline) else max(0.0, task.deadline - time.monotonic())


# --- all of them -----------------------------------------------------------------------------------------


def _perform(
    todo: Sequence[RunConfig], store: Store, device: torch.device, jobs: int, fresh: bool, deadline: float
) -> list[str]:
    """Runs everything; returns what went wrong, in words. An error of one run leaves the others be."""
    tasks = [_Task(config, store, device, fresh, deadline) for config in todo]
    if fresh:
        for task in tasks:
            task.checkpoint.unlink(missing_ok=True)
    with _bars(tasks) as report:
        if jobs == 1:
            return _one_by_one(tasks, report)
        return _SideBySide(tasks, report, jobs).perform()


# report(position of the task, steps done, finished)
_Report = Callable[[int, int, bool], None]


def _one_by_one(tasks: Sequence[_Task], report: _Report) -> list[str]:
    problems: list[str] = []
    queue = [(i, task, False) for i, task in enumerate(tasks)]
    for i, task, patient in queue:  # grows: what another process was at comes again at the end
        if time.monotonic() > task.deadline:
            return [*problems, _BUDGET.problem]
        outcome = _attempt(task, lambda steps, i=i: report(i, steps, False), patient)  # type: ignore[misc]
        if outcome.busy:
            queue.append((i, task, True))
        elif outcome.problem:
            problems.append(_said(outcome))
        else:
            report(i, task.config.steps, True)
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

    def __init__(self, tasks: Sequence[_Task], report: _Report, jobs: int) -> None:
        self.tasks, self.report, self.jobs = tasks, report, jobs
        self.context = get_context("spawn")
        self.steps = self.context.RawArray("q", len(tasks))  # each run writes its own place, without a lock
        self.waiting = list(range(len(tasks)))
        self.patient: set[int] = set()
        self.deaths: Counter[int] = Counter()  # by run
        self.failed_starts = 0  # since a worker last came to work
        self.workers: list[_Worker] = []
        self.problems: list[str] = []

    def perform(self) -> list[str]:
        """Do all of them; returns what went wrong, in words."""
        try:
            while self.waiting or any(worker.run is not None for worker in self.workers):
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
        if self.waiting and time.monotonic() > self.tasks[0].deadline:
            self._give_up(_BUDGET.problem)
        for worker in self.workers:
            if worker.ready and worker.run is None and self.waiting:
                i = self.waiting.pop(0)
                worker.take(i, self.tasks[i], i in self.patient)
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
            self.report(i, self.tasks[i].config.steps, True)

    def _bury(self, worker: "_Worker") -> None:
        self.workers.remove(worker)
        worker.end()
        died = f"its process died (exit code {worker.process.exitcode})"
        if not worker.ready:
            self.failed_starts += 1
            if self.failed_starts >= _TRIES * self.jobs:
                self._give_up(f"a worker process died before its first run (exit code {worker.process.exitcode})")
        if worker.run is None:
            return
        self.deaths[worker.run] += 1
        problem = f"{self.tasks[worker.run].name}: {died}"
        if self.deaths[worker.run] < _TRIES:
            warnings.warn(f"{problem}; it is begun again", stacklevel=2)
            self.waiting.append(worker.run)
        else:
            self.problems.append(_said(_Outcome(problem=f"{problem}, {_TRIES} times", unexpected=True)))

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
        self.process.start()
        theirs.close()  # so that the pipe ends with the worker
        self.ready = False
        self.run: int | None = None

    def take(self, run: int, task: _Task, patient: bool) -> None:
        self.run = run
        with suppress(OSError):  # it has died since: the end of its pipe says so
            self.pipe.send((run, task, patient))

    def end(self) -> None:
        self.process.terminate()
        self.process.join(5)
        self.process.kill()
        self.process.join(5)
        self.pipe.close()


def _work(pipe: Connection, steps: Any) -> None:
    """What a worker does: say that it is ready, then one run after another."""
    from .lifetime import end_with  # here, so that it can be run as a program without having been imported

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent ends its workers
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # leaves no half-written file
    end_with(os.getppid())
    with suppress(EOFError, OSError):  # the pipe's: the parent is gone
        pipe.send(None)
        while True:
            run, task, patient = pipe.recv()

            def progress(done: int, run: int = run) -> None:
                steps[run] = done

            pipe.send(_attempt(task, progress, patient))


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
def _bars(tasks: Sequence[_Task]) -> Iterator[_Report]:
    """A bar over runs and one over their steps; silent without a terminal."""
    stream = terminal()
    if stream is None:
        yield lambda place, steps, finished: None
        return
    done = [0] * len(tasks)
    with (
        tqdm(total=len(tasks), desc="runs", file=stream, leave=False, position=0) as runs,
        tqdm(total=sum(t.config.steps for t in tasks), desc="steps", file=stream, leave=False, position=1,
             unit_scale=True) as steps,
    ):  # fmt: skip

        def report(place: int, now: int, finished: bool) -> None:
            steps.update(max(0, now - done[place]))
            done[place] = max(now, done[place])
            runs.update(finished)

        yield report
