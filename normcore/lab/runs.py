"""A run: one frozen configuration, its key, its result, and the store that keeps results.

The key is a hash of what is computed and of nothing else, so two profiles that ask for the same run share
it. A finished run is one text file ``<experiment>/<key>.json``, written whole or not at all.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import re
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import factory
from . import data, keras_contrib, models, paths
from .errors import UsageError, unknown
from .files import write_json
from .outliers import KINDS
from .probes import PROBES, Probed

OPTIMIZERS = ("adam", "sgd")
ORDERS = ("shuffled", "fixed")
HALVES = ("accuracy_a", "accuracy_b")  # of an evaluation curve: over one half of the images and over the other


@dataclass(frozen=True)
class RunConfig:
    """Everything that a training run's numbers depend on.

    Attributes:
        dataset, image_size: a data set of the registry, its images resized to this many pixels.
        model: a network of ``models.MODELS``.
        norm, norm_options: a name for ``normcore.make_norm``, and the layer's options.
        optimizer: ``adam``, or ``sgd`` (momentum 0.9 unless ``optimizer_options`` say otherwise).
        lr: learning rate, constant.
        batch_size: images a step; an epoch leaves out the remainder that fills no batch.
        steps: optimizer steps.
        eval_every, log_every: steps between evaluations on the whole evaluation split, and between points
            of the training curve (each the mean over the steps since the point before).
        seed: of the initialization and of the order of the images.
        validation: this many training images are held out and evaluated on in place of the test set.
        colours: what is done to the images, one of ``data.COLOURS``.
        optimizer_options, model_options: keyword arguments beyond the defaults.
        outliers, outlier_kind: this share of the training images is outlying, in one of ``outliers.KINDS``.
        foreign: a data set whose images stand for outliers of the kind ``foreign``.
        probes: names of ``probes.PROBES`` -> taken every so many steps, at the start and at the end.
        order: ``shuffled`` anew each epoch, or ``fixed``: every epoch in the order of the first.
    """

    dataset: str
    image_size: int
    model: str
    norm: str
    lr: float
    batch_size: int
    steps: int
    seed: int
    optimizer: str = "adam"
    norm_options: dict[str, Any] = field(default_factory=dict)
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    model_options: dict[str, Any] = field(default_factory=dict)
    eval_every: int = 1000
    log_every: int = 100
    validation: int = 0
    colours: str = "rgb"
    outliers: float = 0.0
    outlier_kind: str = "scaled"
    foreign: str = ""
    probes: dict[str, Any] = field(default_factory=dict)
    order: str = "shuffled"

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("lr", "outliers"):
            object.__setattr__(self, name, float(getattr(self, name)))
        for name in ("image_size", "batch_size", "steps", "eval_every", "log_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("seed", "validation"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must not be negative, got {getattr(self, name)}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"lr must be a positive number, got {self.lr}")
        if not 0 <= self.outliers <= 1:
            raise UsageError(f"outliers must be a share from 0 to 1, got {self.outliers}")
        if self.outliers and self.outlier_kind == "foreign" and not self.foreign:
            raise UsageError("outlier_kind='foreign' needs the name of another data set, got foreign=''")
        for name, every in self.probes.items():
            if isinstance(every, bool) or not isinstance(every, int) or every < 1:
                raise UsageError(f"probes must say every how many steps, at least 1, got {name}: {every!r}")

    def check_names(self) -> None:
        """Refuse a data set, model, norm or optimizer that there is none of. Apart from the other checks, since
        a result can be read where its data set is not known."""
        known: dict[str, Collection[str]] = {
            "dataset": data.registry(), "model": models.MODELS,
            "norm": (*factory.NORMS, *keras_contrib.NORMS), "optimizer": OPTIMIZERS,
            "colours": data.COLOURS, "outlier_kind": KINDS, "order": ORDERS,
        }  # fmt: skip
        for name, names in known.items():
            if getattr(self, name) not in names:
                raise unknown("data set" if name == "dataset" else name, getattr(self, name), names)
        for name in filter(None, (self.dataset, self.foreign)):
            paths.plain("the name of a data set", name)
        if self.foreign and self.foreign not in known["dataset"]:
            raise unknown("data set", self.foreign, known["dataset"])
        for probe in self.probes:
            if probe not in PROBES:
                raise unknown("probe", probe, PROBES)

    @property
    def evaluated_on(self) -> str:
        return "validation" if self.validation else "test"

    @property
    def key(self) -> str:
        """16 hexadecimal digits. Fields at their default are left out, so that a new field with a
        default changes no key."""
        stated = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not _is_default(self, f)}
        canonical = json.dumps(stated, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _is_default(config: RunConfig, f: "dataclasses.Field[Any]") -> bool:
    if f.default_factory is not dataclasses.MISSING:
        return bool(getattr(config, f.name) == f.default_factory())
    return f.default is not dataclasses.MISSING and bool(getattr(config, f.name) == f.default)


def _check_types(config: RunConfig) -> None:
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        wanted = f.type if isinstance(f.type, type) else dict
        accepted = (int, float) if wanted is float else wanted
        if isinstance(value, bool) or not isinstance(value, accepted):
            raise UsageError(f"{f.name} must be of type {wanted.__name__}, got {value!r}")


def grid(**axes: Any) -> Iterator[RunConfig]:
    """Every combination of the axes given as lists; anything else is the same in all runs.

    >>> fixed = dict(dataset="digits", image_size=28, model="lenet5", lr=1e-3, batch_size=64, steps=10)
    >>> [(c.norm, c.seed) for c in grid(**fixed, norm=["none", "bn"], seed=[0, 1])]
    [('none', 0), ('none', 1), ('bn', 0), ('bn', 1)]
    """
    lists = {name: value for name, value in axes.items() if isinstance(value, list | tuple | range)}
    for name, value in lists.items():
        if not value:
            raise UsageError(f"{name} is an empty list: there is nothing to run")
    for values in itertools.product(*lists.values()):
        yield RunConfig(**{**axes, **dict(zip(lists, values, strict=True))})


def epochs(
    number: int, dataset: str, image_size: int, batch_size: int, *, validation: int = 0, points: int = 10
) -> dict[str, int]:
    """The fields of a :class:`RunConfig` that make a run of so many epochs, evaluated after each, with
    ``points`` points of the training curve an epoch. Of a set that the registry knows, no data need be there."""
    epoch = (data.train_items(dataset, image_size) - validation) // batch_size
    if epoch < 1:
        raise UsageError(f"batch_size={batch_size} and validation={validation} leave no batch to train on")
    return {
        "batch_size": batch_size, "steps": number * epoch, "eval_every": epoch, "log_every": -(-epoch // points),
        "validation": validation,
    }  # fmt: skip


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


def setting(config: RunConfig) -> dict[str, Any]:
    """The fields of the run, and the options of its normalizer, network and optimizer, that are one value each."""
    options = config.norm_options | config.model_options | config.optimizer_options
    fields = {**dataclasses.asdict(config), **options}
    return {k: v for k, v in fields.items() if not isinstance(v, dict)}


def measured_on(runs: Iterable[Run]) -> str:
    """In words, what the numbers of a figure rest on: ``12 runs with 3 seeds on AMD EPYC, torch 2.13.0``."""
    runs = list(runs)
    devices = ", ".join(sorted({run.provenance["device_name"] for run in runs}))
    versions = ", ".join(sorted({run.provenance["versions"]["torch"] for run in runs}))
    count = len({run.config.seed for run in runs})
    seeds = f"{count} seeds" if count > 1 else "one seed, so without intervals,"
    return f"{len(runs)} runs with {seeds} on {devices}, torch {versions}"
