"""Disks that are really full, and folders that may really not be written to: file systems in memory, where this process
may mount them."""

import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from normcore.lab.errors import LabError

from .calls import Place, Tally, sound, swept

pytestmark = pytest.mark.faults
KB = 1024


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


@pytest.fixture
def disk(place: Place) -> Iterator[Path]:
    """A file system of its own, into which sweeps go."""
    folder = place.into("disk")
    folder.mkdir()
    try:
        mount("-t", "tmpfs", "tmpfs", str(folder))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def refusal() -> str:
    """What a sweep is refused by, or nothing."""
    try:
        swept()
    except (LabError, OSError) as error:
        return str(error)
    return ""


def emptied(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def test_a_disk_that_is_full(place: Place, disk: Path, tally: Tally) -> None:
    """At each size from nothing to what a sweep takes, in steps of a page."""
    place.into("elsewhere")
    undisturbed = swept()
    place.into("disk")
    page = 4 * KB
    for pages in range(1, 1000):
        mount("-o", f"remount,size={pages * page}", str(disk))
        with tally.fault("the disk is full"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = refusal()
            assert "No space left on device" in said or not said
            sound(disk)
            mount("-o", "remount,size=64M", str(disk))
            assert swept() == undisturbed, f"{pages} pages"
        emptied(disk)
        if not said:
            break
    assert pages > 10


@pytest.mark.parametrize("fresh", [False, True], ids=["first", "again"])
def test_a_file_system_that_may_only_be_read(fresh: bool, place: Place, disk: Path, tally: Tally) -> None:
    place.into("elsewhere")
    undisturbed = swept()
    place.into("disk")
    if fresh:
        assert swept() == undisturbed
    mount("-o", "remount,ro", str(disk))
    with tally.fault("the folder may only be read"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises((LabError, OSError), match="Read-only file system"):
            swept(fresh=fresh)
        sound(disk)
        if fresh:
            assert swept() == undisturbed  # what is there can be looked at
        mount("-o", "remount,rw", str(disk))
        assert swept() == undisturbed
