"""A sweep: many runs, side by side, resumable, sharable, within a time budget."""

import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
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
    def checkpoint(self) -> Path:
        return paths.cache() / "checkpoints" / f"{self.config.key}.pt"


class _Busy(Exception):
    """Another process is at this run."""


def _run(task: _Task, progress: Callable[[int], None], patient: bool) -> None:
    """Do the run and store it, unless another process does: ``patient`` waits for that one's result."""
    lock = paths.cache() / "locks" / f"{task.config.key}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    asked = time.time()
    try:
        with FileLock(lock, timeout=-1 if patient else 0):
            result = task.store.path(task.config.key)
            newer = result.is_file() and result.stat().st_mtime > asked
            if newer or (not task.fresh and task.store.get(task.config.key)):
                return
            run = train(task.config, task.device, progress=progress, deadline=task.deadline,
                        checkpoint=task.checkpoint)  # fmt: skip
            task.store.put(run)
    except Timeout:
        raise _Busy from None


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
        return _side_by_side(tasks, report, jobs)


# report(position of the task, steps done, finished)
_Report = Callable[[int, int, bool], None]


def _one_by_one(tasks: Sequence[_Task], report: _Report) -> list[str]:
    problems: list[str] = []
    queue = [(i, task, False) for i, task in enumerate(tasks)]
    for i, task, patient in queue:  # grows: what another process was at comes again at the end
        if time.monotonic() > task.deadline:
            return [*problems, "the time budget is used up"]
        try:
            _run(task, lambda steps, i=i: report(i, steps, False), patient)  # type: ignore[misc]
            report(i, task.config.steps, True)
        except _Busy:
            queue.append((i, task, True))
        except Exception as error:
            problems.append(_explain(task, error))
    return problems


def _side_by_side(tasks: Sequence[_Task], report: _Report, jobs: int) -> list[str]:
    from pebble import ProcessPool

    problems: list[str] = []
    context = get_context("spawn")
    steps = context.RawArray("q", len(tasks))  # each run writes its own place: no lock that a death could hold
    patient: set[int] = set()
    with ProcessPool(min(jobs, len(tasks)), initializer=_share, initargs=(steps,), context=context) as pool:
        running: dict[Future[None], int] = {}
        waiting = list(range(len(tasks)))
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    i = waiting.pop(0)
                    if time.monotonic() > tasks[i].deadline:
                        problems.append("the time budget is used up")
                        waiting.clear()
                        break
                    running[pool.schedule(_work, args=(tasks[i], i, i in patient))] = i
                ended, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in ended:
                    i = running.pop(future)
                    error = future.exception()
                    if error is None:
                        report(i, tasks[i].config.steps, True)
                    elif isinstance(error, _Busy):
                        patient.add(i)
                        waiting.append(i)
                    else:
                        problems.append(_explain(tasks[i], error))
                for i in running.values():
                    report(i, steps[i], False)
        except BaseException:
            pool.stop()
            raise
    return problems


_steps: Any = None


def _share(steps: Any) -> None:
    global _steps
    _steps = steps


def _work(task: _Task, place: int, patient: bool) -> None:
    def progress(done: int) -> None:
        _steps[place] = done

    _run(task, progress, patient)


def _explain(task: _Task, error: BaseException) -> str:
    if isinstance(error, OutOfTime):
        return "the time budget is used up"
    name = f"{task.config.norm}, seed {task.config.seed} ({task.config.key})"
    if isinstance(error, LabError):
        return f"{name}: {error}"
    code = getattr(error, "exitcode", None)
    words = f"its process died (exit code {code})" if code is not None else f"{type(error).__name__}: {error}"
    warnings.warn(f"run {name} failed, {words}", stacklevel=2)
    return f"{name}: {words}"


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
