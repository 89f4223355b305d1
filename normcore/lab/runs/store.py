"""The result of a run, and the store that keeps results.

A finished run is one text file ``<experiment>/<key>.json``, written whole or not at all.
"""

import dataclasses
import json
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import paths
from ..config import RunConfig
from ..errors import UsageError
from ..files import write_json
from ..probes import Probed


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        config: what was asked for.
        status: ``finished``, or ``diverged`` where the loss became infinite or NaN.
        final: the last values of the curves; for a diverged run those before the divergence.
        curves: ``{"train": {"step", "loss", "accuracy"}, "test" or "validation": the same}``.
        provenance: versions, device, commit, time, data fingerprint.
        diverged_at: the first step whose loss was not finite.
        probes: ``{probe: {"step", ...}}``, a value a column for each row that a probe gave.
    """

    config: RunConfig
    status: str
    final: dict[str, float]
    curves: dict[str, dict[str, list[float]]]
    provenance: dict[str, Any]
    diverged_at: int | None = None
    probes: Probed = field(default_factory=dict)

    @property
    def key(self) -> str:
        return self.config.key

    def to_json(self) -> dict[str, Any]:
        return {"key": self.key, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Run":
        record = dict(record)
        key = record.pop("key")
        run = cls(**{**record, "config": RunConfig(**record["config"])})
        if run.key != key:
            raise ValueError(f"key {key} does not belong to its configuration (that is {run.key})")
        return run


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
        """The result, or None. A file that cannot be read is named and counts as not there; an own one is set aside."""
        return self.own(key) or _read(self.published / f"{_checked(key)}.json")

    def own(self, key: str) -> Run | None:
        """As :meth:`get`, of one's own runs alone."""
        path = self.path(key)
        return None if self.read_only else _read(path, aside=True)

    def find(self, key: str) -> Run | None:
        """As :meth:`get`; where this experiment has none, the result of any other that has the very same run."""
        return self.get(key) or next(filter(None, map(_read, self._elsewhere(key))), None)

    def _elsewhere(self, key: str) -> Iterator[Path]:
        for folder in (self.folder, self.published):
            yield from sorted(folder.parent.glob(f"*/{_checked(key)}.json"))

    def put(self, run: Run) -> None:
        self.refuse_published()
        write_json(self.path(run.key), run.to_json())

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
                aside = folder == self.folder and not self.read_only
                merged[path.stem] = {**merged.get(path.stem, {}), **_read_index(path, aside)}
        return {name: stages for name, stages in merged.items() if stages}

    def index(self, profile: str, stage: str, keys: Iterable[str]) -> None:
        """Note which runs a stage of a profile is made of."""
        self.refuse_published()
        path = self.folder / "profiles" / f"{paths.plain('the name of a profile', profile)}.json"
        write_json(path, {**(_read_index(path) if path.is_file() else {}), stage: list(keys)})

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
    if not re.fullmatch(r"[0-9a-f]{16}", key):
        raise UsageError(f"the name of a run is 16 hexadecimal digits, got {key!r}")
    return key


def _read(path: Path, aside: bool = False) -> Run | None:
    """The result in a file, or None; one that cannot be read is named, and set aside if that is asked for."""
    try:
        return Run.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        _complain(path, f"not a result ({error})", aside)
        return None


def _read_index(path: Path, aside: bool = True) -> dict[str, list[str]]:
    """stage -> keys, as :func:`_read`; empty where it cannot be read."""
    try:
        stages = dict(json.loads(path.read_text(encoding="utf-8")))
        return {str(stage): [_checked(key) for key in keys] for stage, keys in stages.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError) as error:
        _complain(path, f"not an index ({error})", aside)
        return {}


def _complain(path: Path, why: str, aside: bool) -> None:
    if aside:
        with suppress(FileNotFoundError):  # another process was first
            path.replace(path.with_suffix(".json.corrupt"))
    done = f"set aside as {path.stem}.json.corrupt" if aside else "left as it is"
    warnings.warn(f"{path} is {why}; {done}", stacklevel=4)


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
