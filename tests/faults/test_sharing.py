"""Several processes on one sweep: each run is made once, also where one of them makes runs afresh; and where the file
system has no locks, or shows late what another machine wrote, all end with the same numbers."""

import errno
import faulthandler
import functools
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from normcore.lab.runs import record
from normcore.lab.runs import sweep as sweep_module

from .calls import Measured, Place, Tally, in_children, sound, swept

pytestmark = pytest.mark.faults


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Every training is noted down, a line each."""
    train, noted = sweep_module.train, tmp_path / "trained"

    def noting(wanted: Any, *words: Any, **named: Any) -> Any:
        with noted.open("a") as file:
            file.write(f"{wanted.key}\n")
        time.sleep(0.1)  # so that the others come meanwhile
        return train(wanted, *words, **named)

    monkeypatch.setattr(sweep_module, "train", noting)
    return Place(tmp_path, monkeypatch)


def trained(place: Place) -> Counter[str]:
    """How often each run was trained since this was last asked."""
    noted = place.folder / "trained"
    found = Counter(noted.read_text().split())
    noted.unlink()
    return found


def side_by_side(*works: Callable[[], Measured]) -> list[int]:
    """The exit codes of copies of this process that do the works at the same time: none makes a run before all have
    looked at what is there."""
    barrier, perform = multiprocessing.Barrier(len(works)), sweep_module._perform
    waited = []

    def together(*given: Any) -> list[str]:
        if not waited:
            waited.append(barrier.wait(60))
        return perform(*given)

    def watched(work: Callable[[], Measured]) -> None:
        faulthandler.dump_traceback_later(20, exit=True)
        sweep_module._perform = together
        work()

    return in_children(*(functools.partial(watched, work) for work in works))


def again() -> Measured:
    return swept(fresh=True)


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_each_run_is_made_once(processes: int, place: Place, tally: Tally) -> None:
    place.into("alone")
    undisturbed = swept()
    trained(place)
    for name, works in {
        "all": [swept] * processes,
        "one afresh": [again, *[swept] * (processes - 1)],
        "all afresh": [again] * processes,
    }.items():
        folder = place.into(name)
        with tally.fault("several processes are on one sweep"):
            assert side_by_side(*works) == [0] * processes
            assert trained(place) == dict.fromkeys(undisturbed, 1)
            sound(folder)
            assert swept() == undisturbed


def test_one_makes_afresh_what_the_others_have(place: Place, tally: Tally) -> None:
    """The old results count until the new ones replace them, and each is made again once."""
    place.into("shared")
    undisturbed = swept()
    trained(place)
    with tally.fault("several processes are on one sweep"):
        assert side_by_side(again, again) == [0] * 2
        assert trained(place) == dict.fromkeys(undisturbed, 1)
        assert swept() == undisturbed


@pytest.mark.filterwarnings("ignore:.*file system without locks")
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(code: int, place: Place, tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    place.into("alone")
    undisturbed = swept()
    monkeypatch.setattr(FileLock, "acquire", refused)
    folder = place.into("shared")
    with tally.fault("the file system has no locks"):
        assert side_by_side(swept, swept, again, swept) == [0] * 4
        sound(folder)
        assert swept() == undisturbed


def test_a_file_system_that_shows_late_what_others_wrote(
    place: Place, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with several machines on NFS: for a while a file is not there, though the lock was given back after it was
    written; its writer sees it at once."""
    read, write, written = record.read, record.write, sweep_module._written
    ours: set[Path] = set()

    def hidden(path: Path) -> bool:
        return path not in ours and path.is_file() and time.time() - path.stat().st_mtime < 0.3

    def late(path: Path) -> Any:
        if hidden(path):
            raise FileNotFoundError(path)
        return read(path)

    def noted(path: Path, run: Any) -> None:
        ours.add(path)
        write(path, run)

    place.into("alone")
    undisturbed = swept()
    monkeypatch.setattr(record, "read", late)
    monkeypatch.setattr(record, "write", noted)
    monkeypatch.setattr(
        sweep_module, "_written", lambda store, key: 0.0 if hidden(store.path(key)) else written(store, key)
    )
    folder = place.into("shared")
    with tally.fault("a file shows late on another machine"):
        assert side_by_side(swept, swept, again, swept) == [0] * 4
        time.sleep(0.3)
        sound(folder)
        assert swept() == undisturbed
