"""Calls on files that fail, and processes that are killed at one: what the tests of faults share."""

import builtins
import errno
import io
import json
import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from normcore.lab.runs import record
from normcore.lab.runs.store import Store
from normcore.lab.runs.sweep import sweep
from normcore.lab.tasks import datasets

from ..lab.helpers import config, write_pictures

CALLS = ("open", "replace", "rename", "mkdir", "unlink", "rmdir", "fsync", "chmod", "stat")
KILLED = 9
#: does what the call does, or in its place
Act = Callable[[Callable[[], Any]], Any]


class Tally:
    """Counts the faults of a test."""

    def __init__(self) -> None:
        self.injected: Counter[str] = Counter()
        self.survived: Counter[str] = Counter()

    @contextmanager
    def fault(self, kind: str) -> Iterator[None]:
        """A fault is injected within the block, and survived if that ends well."""
        self.injected[kind] += 1
        yield
        self.survived[kind] += 1


class Meter:
    """Counts the calls on files of a folder, and lets an act take place at one of them.

    Args:
        folder: of which calls count.
        at: the number of the call, from 1 on.
        act: what happens there.
    """

    def __init__(self, folder: Path, at: int = 0, act: Act = lambda call: call()) -> None:
        self.folder, self.at, self.act, self.count = str(folder), at, act, 0
        self.changes: dict[tuple[str, str], int] = {}  # call, path -> the last number, where it leaves other files

    def __call__(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*words: Any, **named: Any) -> Any:
            target = words[0] if words else ""
            ours = name == "fsync" or (
                isinstance(target, str | os.PathLike) and os.fspath(target).startswith(self.folder)
            )
            if not ours:
                return call(*words, **named)
            self.count += 1
            if changes(name, words, named):
                self.changes[name, str(target)] = self.count
            if self.count != self.at:
                return call(*words, **named)
            return self.act(lambda: call(*words, **named))

        return counted

    @contextmanager
    def measuring(self) -> Iterator["Meter"]:
        """Within the block calls are counted."""
        with pytest.MonkeyPatch.context() as patch:
            self.install(patch)
            yield self

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Count calls from now on."""
        for name in CALLS:
            patch.setattr(os, name, self(name, getattr(os, name)))
        opened = self("open", builtins.open)
        patch.setattr(builtins, "open", opened)
        patch.setattr(io, "open", opened)


def changes(name: str, words: tuple[Any, ...], named: dict[str, Any]) -> bool:
    """Whether a call may leave other files than there were; `open` is the built-in one, or that of `os`."""
    if name != "open":
        return name != "stat"
    mode = named.get("mode", named.get("flags", words[1] if len(words) > 1 else "r"))
    return bool(mode & (os.O_WRONLY | os.O_RDWR)) if isinstance(mode, int) else not set(mode) <= set("rbt")


class Failing:
    """An opened file; what fails of it, its kinds say."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> "Failing":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


class Short(Failing):
    """Only half of what is written arrives."""

    def write(self, content: Any) -> int:
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        raise OSError(errno.ENOSPC, "no space left on device")


class Unread(Failing):
    """It is opened, and cannot be read."""

    def read(self, *_: object) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    readinto = readline = readlines = __iter__ = read


def failing(code: int) -> Act:
    def act(call: Callable[[], Any]) -> Any:
        raise OSError(code, os.strerror(code))

    return act


def opened(kind: type[Failing], mode: str) -> Act:
    """What the file that is opened there is, if it is opened for this."""

    def act(call: Callable[[], Any]) -> Any:
        file = call()
        return kind(file) if getattr(file, mode, bool)() else file

    return act


def killed_before(call: Callable[[], Any]) -> Any:
    os._exit(KILLED)


def killed_after(call: Callable[[], Any]) -> Any:
    with suppress(OSError):  # such as of a file that is not there
        call()
    os._exit(KILLED)


FAULTS: dict[str, Act] = {
    "no space": failing(errno.ENOSPC), "input and output": failing(errno.EIO), "no permission": failing(errno.EACCES),
    "short write": opened(Short, "writable"), "a read": opened(Unread, "readable"),
    "killed before": killed_before, "killed after": killed_after,
}  # fmt: skip
CONFIGS = [
    config(dataset="noise", norm=norm, steps=2, eval_every=2, log_every=2, image_size=12, batch_size=8)
    for norm in ("none", "bn")
]
Measured = dict[str, Any]


class Place:
    """Folders of their own for the sweeps of a test: the data once, results and cache anew for each trial."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        write_pictures(folder / "data" / "noise", train=16, test=4)
        monkeypatch.setenv("NORMCORE_DATA", str(folder / "data"))
        monkeypatch.setattr("normcore.lab.runs.training.CHECKPOINT_EVERY", 0.0)  # a state of the run at every step
        monkeypatch.setattr("normcore.lab.runs.sweep.terminal", lambda: None)

    def into(self, name: str) -> Path:
        """Sweeps are made there from now on."""
        for variable, part in (("RESULTS", "results"), ("PUBLISHED", "published"), ("CACHE", "cache")):
            self.monkeypatch.setenv(f"NORMCORE_{variable}", str(self.folder / name / part))
        return self.folder / name


def swept(*, fresh: bool = False, jobs: int = 1) -> Measured:
    """A sweep as a new process would begin it; what it measured."""
    datasets.load.cache_clear()
    runs = sweep(CONFIGS, Store("trial"), device="cpu", fresh=fresh, jobs=jobs)
    return {run.key: (run.final, run.curves, run.provenance["weights"]) for run in runs}


def in_children(*works: Callable[[], object]) -> list[int]:
    """The exit codes of copies of this process that do the works at the same time: 0, or 1 where that raised."""
    children = []
    for work in works:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def struck(name: str) -> Meter:
    """A meter of the calls in this folder that is at work from now on. What a file of this name says, if there is one,
    takes place once: the number of a call, and which of ``FAULTS``."""
    said = Path(f"{name}.json")
    at, fault = json.loads(said.read_text()) if said.exists() else (0, "killed before")
    said.unlink(missing_ok=True)
    meter = Meter(Path.cwd(), at, FAULTS[fault])
    meter.install(pytest.MonkeyPatch())
    return meter


def sound(folder: Path) -> None:
    """Whatever stands under a final name is whole."""
    for path in (folder / "results").rglob("[!.]*.json"):
        record.read_index(path) if path.parent.name == "profiles" else record.read(path)
