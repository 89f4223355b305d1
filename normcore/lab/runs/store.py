"""The store that keeps results.

A finished run is one text file ``<experiment>/<key>.json``, written whole or not at all. Reading changes nothing: a
file that cannot be read is named and counts as not there, and is set aside only where the same run is written again.
"""

import itertools
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from .. import paths
from ..config import RunConfig
from ..errors import UsageError
from ..files import write_json
from . import record
from .record import Run

__all__ = ["Run", "Store", "measured_on"]


class Store:
    """The results of one experiment, and the list of runs that each of its profiles is made of: one's own, laid over
    the published ones. Written are one's own only.

    Args:
        experiment: its name.
        folder: where one's own are; ``paths.results()`` by default. With ``paths.published()`` the published ones are
            all there are, and nothing is written.
    """

    def __init__(self, experiment: str, folder: Path | None = None) -> None:
        self.experiment = paths.plain("the name of an experiment", experiment)
        self.folder = (folder or paths.results()) / experiment
        self.published = paths.published() / experiment
        # where what would be one's own is the published store, as where that is all that is to be shown
        self.read_only = self.folder.resolve().is_relative_to(self.published.parent.resolve())

    def path(self, key: str) -> Path:
        """The file of an own run."""
        return self.folder / f"{_checked(key)}.json"

    def get(self, key: str) -> Run | None:
        """The result, or None. A file that cannot be read is named and counts as not there."""
        return self.own(key) or _read(self.published / f"{_checked(key)}.json")

    def own(self, key: str) -> Run | None:
        """As :meth:`get`, of one's own runs alone."""
        return None if self.read_only else _read(self.path(key))

    def find(self, key: str) -> Run | None:
        """As :meth:`get`; where this experiment has none, the result of any other that has the very same run."""
        return self.get(key) or next(filter(None, map(_read, self._elsewhere(key))), None)

    def _elsewhere(self, key: str) -> Iterator[Path]:
        for folder in (self.folder, self.published):
            yield from sorted(folder.parent.glob(f"*/{_checked(key)}.json"))

    def with_seed(self, config: RunConfig, seed: int) -> RunConfig:
        """The same run with another seed; networks that it takes of runs that are here are those of that seed."""

        def key(of: str) -> str:
            run = self.find(of)
            return self.with_seed(run.config, seed).key if run else of

        beside = {name: key(of) for name, of in config.beside.items()}
        return replace(config, seed=seed, start=key(config.start) if config.start else "", beside=beside)

    def put(self, run: Run) -> None:
        """Keep the run; what stood in its place and could not be read is set aside."""
        self.refuse_published()
        path = self.path(run.key)
        _set_aside(path, record.read)
        record.write(path, run)

    def adopt(self, key: str) -> bool:
        """Whether the result is there, or was: with another experiment, from which it is copied to one's own then."""
        if self.get(key) is not None:
            return True
        run = self.find(key)
        if run is not None:
            self.put(run)
        return run is not None

    def profiles(self) -> dict[str, dict[str, list[str]]]:
        """profile -> stage -> keys, for every profile that is published or was ever asked for. A stage that was asked
        for here is as it was asked for; a published list names published runs, which need not be all of a profile."""
        merged: dict[str, dict[str, list[str]]] = {}
        for folder in (self.published, self.folder):
            for path in sorted((folder / "profiles").glob("[!.]*.json")):
                merged[path.stem] = {**merged.get(path.stem, {}), **_read_index(path)}
        return {name: stages for name, stages in merged.items() if stages}

    def index(self, profile: str, stage: str, keys: Iterable[str]) -> None:
        """Note which runs a stage of a profile is made of."""
        self.refuse_published()
        path = self.folder / "profiles" / f"{paths.plain('the name of a profile', profile)}.json"
        _set_aside(path, record.read_index)
        write_json(path, {**_read_index(path), stage: list(keys)})

    def has(self, profile: str) -> bool:
        """Whether every run of the profile is there, and readable."""
        stages = self.profiles().get(profile, {})
        return bool(stages) and all(self.get(key) is not None for keys in stages.values() for key in keys)

    def some(self, profile: str) -> bool:
        """Whether a run of the profile's comparison is there."""
        return any(self.get(key) is not None for key in self.profiles().get(profile, {}).get("main", []))

    def runs(self, profile: str, stage: str = "main") -> list[Run]:
        """The finished runs of a stage of a profile, in the order in which they were asked for."""
        keys = self.profiles().get(profile, {}).get(stage, [])
        return [run for run in map(self.get, keys) if run]

    def refuse_published(self) -> None:
        if self.read_only:
            raise UsageError(
                f"{self.folder.parent} holds the published results: nothing is written there but by normcore publish; "
                "name another folder with NORMCORE_RESULTS"
            )


def _checked(key: str) -> str:
    if not re.fullmatch(record.KEY, key):
        raise UsageError(f"the name of a run is 16 hexadecimal digits, got {key!r}")
    return key


def _read(path: Path) -> Run | None:
    """The result in a file, or None; one that cannot be read is named."""
    try:
        return record.read(path)
    except FileNotFoundError:
        return None
    except record.Unreadable as why:
        warnings.warn(f"{path} {why}; it is left as it is, and counts as not there", stacklevel=3)
        return None


def _read_index(path: Path) -> dict[str, list[str]]:
    """stage -> keys, as :func:`_read`; empty where it cannot be read."""
    try:
        return record.read_index(path)
    except FileNotFoundError:
        return {}
    except record.Unreadable as why:
        warnings.warn(f"{path} {why}; it is left as it is, and counts as not there", stacklevel=3)
        return {}


def _set_aside(path: Path, read: Callable[[Path], object]) -> None:
    """Keep what stands under a name that is about to be written, if it cannot be read, under another name."""
    try:
        read(path)
    except FileNotFoundError:
        return
    except record.Unreadable as why:
        aside = next(p for n in itertools.count(1) if not (p := path.with_suffix(f".json.unread{n}")).exists())
        with suppress(FileNotFoundError):  # another process was first
            path.replace(aside)
            warnings.warn(f"{path} {why}; it is kept as {aside.name}", stacklevel=4)


def measured_on(runs: Iterable[Run]) -> str:
    """In words, what the numbers of a figure rest on: ``12 runs with 3 seeds on AMD EPYC, torch 2.13.0``."""
    runs = list(runs)
    if not runs:
        return "no run is there yet"
    devices = ", ".join(sorted({run.provenance["device_name"] for run in runs}))
    versions = ", ".join(sorted({run.provenance["versions"]["torch"] for run in runs}))
    count = len({run.config.seed for run in runs})
    seeds = f"{count} seeds" if count > 1 else "one seed, so without intervals,"
    return f"{len(runs)} runs with {seeds} on {devices}, torch {versions}"
