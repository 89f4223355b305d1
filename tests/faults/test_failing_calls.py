"""Every call that can fail fails once, and at each the process is killed once, as SQLite is tested: afterwards nothing
half-written stands under a final name, and a second call completes with the numbers of an undisturbed sweep."""

import builtins
import errno
import io
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from normcore.lab.errors import LabError
from normcore.lab.runs import record, training
from normcore.lab.runs.store import Store
from normcore.lab.runs.sweep import sweep
from normcore.lab.tasks import datasets

from ..lab.helpers import config, write_pictures

pytestmark = pytest.mark.faults

CALLS = ("open", "replace", "rename", "mkdir", "unlink", "rmdir", "fsync", "chmod", "stat")
KILLED = 9
#: does what the call does, or in its place
Act = Callable[[Callable[[], Any]], Any]


class Meter:
    """Counts the calls on files of a folder, and lets an act take place at one of them.

    Args:
        folder: of which calls count.
        at: the number of the call, from 1 on.
        act: what happens there.
    """

    def __init__(self, folder: Path, at: int = 0, act: Act = lambda call: call()) -> None:
        self.folder, self.at, self.act, self.count = str(folder), at, act, 0

    def __call__(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*words: Any, **named: Any) -> Any:
            target = words[0] if words else ""
            ours = name == "fsync" or (
                isinstance(target, str | os.PathLike) and os.fspath(target).startswith(self.folder)
            )
            if not ours:
                return call(*words, **named)
            self.count += 1
            if self.count != self.at:
                return call(*words, **named)
            return self.act(lambda: call(*words, **named))

        return counted

    @contextmanager
    def measuring(self) -> Iterator["Meter"]:
        """Within the block calls are counted."""
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, self(name, getattr(os, name)))
            opened = self("open", builtins.open)
            patch.setattr(builtins, "open", opened)
            patch.setattr(io, "open", opened)
            yield self


class Short:
    """A file of which only half of what is written arrives."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, content: Any) -> int:
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        raise OSError(errno.ENOSPC, "no space left on device")

    def __enter__(self) -> "Short":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def failing(code: int) -> Act:
    def act(call: Callable[[], Any]) -> Any:
        raise OSError(code, os.strerror(code))

    return act


def short(call: Callable[[], Any]) -> Any:
    found = call()
    return Short(found) if getattr(found, "writable", bool)() else found


def killed_before(call: Callable[[], Any]) -> Any:
    os._exit(KILLED)


def killed_after(call: Callable[[], Any]) -> Any:
    with suppress(OSError):  # such as of a file that is not there
        call()
    os._exit(KILLED)


FAULTS: dict[str, Act] = {
    "no space": failing(errno.ENOSPC), "input and output": failing(errno.EIO), "no permission": failing(errno.EACCES),
    "short write": short, "killed before": killed_before, "killed after": killed_after,
}  # fmt: skip
CONFIGS = [
    config(dataset="noise", norm=norm, steps=4, eval_every=2, log_every=2, image_size=12, batch_size=8)
    for norm in ("none", "bn")
]


def swept(fresh: bool = False) -> dict[str, Any]:
    """A sweep as a new process would begin it; what it measured."""
    datasets.load.cache_clear()
    runs = sweep(CONFIGS, Store("trial"), device="cpu", fresh=fresh)
    return {run.key: (run.final, run.curves, run.provenance["weights"]) for run in runs}


def in_a_child(work: Callable[[], object]) -> int:
    """The exit code of a copy of this process that does the work."""
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def sound(folder: Path) -> None:
    """Whatever stands under a final name is whole."""
    for path in (folder / "results").rglob("[!.]*.json"):
        record.read_index(path) if path.parent.name == "profiles" else record.read(path)


@pytest.mark.parametrize("fresh", [False, True], ids=["first", "again"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_sweep_survives_every_call_that_fails(
    fault: str, fresh: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a state of the run kept at every point; ``again``, what was measured is there at any time."""
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    monkeypatch.setattr("normcore.lab.runs.sweep.terminal", lambda: None)

    def into(folder: Path) -> None:
        for variable, part in (("RESULTS", "results"), ("PUBLISHED", "published"), ("CACHE", "cache")):
            monkeypatch.setenv(f"NORMCORE_{variable}", str(folder / part))

    def begun(name: str) -> Path:
        if fresh:
            shutil.copytree(tmp_path / "done", tmp_path / name)
        into(tmp_path / name)
        return tmp_path / name

    write_pictures(tmp_path / "data" / "noise", train=16, test=4)
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))
    into(tmp_path / "done")
    undisturbed = swept()
    with Meter(begun("counted")).measuring() as meter:
        assert swept(fresh) == undisturbed
    assert meter.count > 50
    for at in range(1, meter.count + 1):
        folder = begun(str(at))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")

            def disturbed(folder: Path = folder, at: int = at) -> None:
                with Meter(folder, at, FAULTS[fault]).measuring():
                    swept(fresh)

            if fault.startswith("killed"):
                assert in_a_child(disturbed) == KILLED
            else:
                with suppress(LabError, OSError):
                    disturbed()
            sound(folder)
            if fresh:
                assert all(Store("trial").get(key) for key in undisturbed)
            assert swept() == undisturbed, f"{fault}, call {at} of {meter.count}"
