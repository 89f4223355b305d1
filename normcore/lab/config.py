"""A run's configuration, and its key.

The key is a hash of what is computed and of nothing else, so two profiles that ask for the same run share it.
"""

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .. import own
from . import pictures
from .errors import UsageError
from .files import marked_up

OPTIMIZERS = ("adam", "sgd")
ORDERS = ("shuffled", "fixed")
SCHEDULES = ("constant", "cosine")
OWN = "own"  # the network of a run itself, beside those of others
HALVES = ("accuracy_a", "accuracy_b")  # of an evaluation curve: over one half of the items and over the other
AVERAGE_PRECISIONS = tuple(f"{of}_{ap}" for of in ("box", "mask") for ap in ("ap", "ap50", "ap75"))  # of detection
RESTYLED = ("content", "style")  # of style transfer, beside the loss, which is their weighted sum
RESTORED = ("psnr", "gain")  # of super-resolution, in decibels
GENERATED = ("frechet", "coverage")  # of adversarial networks


@dataclass(frozen=True)
class RunConfig:
    """Everything that a training run's numbers depend on.

    Attributes:
        task, task_options: one of ``tasks.TASKS``, and what it leaves open.
        dataset: a data set of the registry, or a path to one's own pictures, which is pinned to their hash.
        model, model_options: a network of the task, and keyword arguments beyond its defaults.
        norm, norm_options: a name for ``normcore.make_norm``, and the layer's options. A layer of one's own is pinned
            to its source, of which the key takes the hash and not the place.
        optimizer: ``adam``, or ``sgd`` (momentum 0.9 unless ``optimizer_options`` say otherwise).
        lr: learning rate, the highest where it is not constant.
        lr_schedule, warmup: how the rate goes, one of ``SCHEDULES``, after it has risen for so many steps; see
            :func:`normcore.lab.runs.training.rate`.
        batch_size: items a step; an epoch leaves out the remainder that fills no batch.
        steps: optimizer steps; none only from a ``start``.
        eval_every, log_every: steps between evaluations on the whole evaluation split, and between points
            of the training curve (each the mean over the steps since the point before).
        seed: of the initialization and of the order of the items.
        validation: this many training items are held out and evaluated on in place of the test set.
        optimizer_options: keyword arguments beyond the defaults.
        probes: names of ``probes.PROBES`` -> taken every so many steps, at the start and at the end.
        order: ``shuffled`` anew each epoch, or ``fixed``: every epoch in the order of the first.
        start: the key of a run; its trained network is what this run begins with.
        beside: names -> keys of runs, whose trained networks a probe looks at beside this run's, or the task with.
        image_size: of the task ``images``: the images are resized to this many pixels.
        colours: of the task ``images``: what is done to them, one of ``datasets.COLOURS``.
        outliers, outlier_kind: of the task ``images``: this share of the training images is outlying, in one of
            ``outliers.KINDS``.
        foreign: of the task ``images``: a data set whose images stand for outliers of the kind ``foreign``.
    """

    dataset: str
    image_size: int = field(default=0, kw_only=True)
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
    task: str = "images"
    task_options: dict[str, Any] = field(default_factory=dict)
    start: str = ""
    lr_schedule: str = "constant"
    warmup: int = 0
    beside: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_types(self)
        if (place := marked_up(vars(self))) is not None:
            raise UsageError(f"{place[0] if place else 'a name'} has HTML in a name or a text, which pages show")
        for name in ("dataset", "foreign"):
            if pictures.is_own(getattr(self, name)):
                object.__setattr__(self, name, pictures.pin(getattr(self, name)))
        if own.is_own(self.norm):
            try:
                object.__setattr__(self, "norm", own.pin(self.norm))
            except ValueError as error:
                raise UsageError(str(error)) from error
        for name in ("lr", "outliers"):
            object.__setattr__(self, name, float(getattr(self, name)))
        least = {"batch_size": 1, "steps": 0 if self.start else 1, "eval_every": 1, "log_every": 1}
        for name, number in least.items():
            if getattr(self, name) < number:
                raise UsageError(f"{name} must be at least {number}, got {getattr(self, name)}")
        for name in ("seed", "validation", "warmup"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must not be negative, got {getattr(self, name)}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"lr must be a positive number, got {self.lr}")
        if not 0 <= self.outliers <= 1:
            raise UsageError(f"outliers must be a share from 0 to 1, got {self.outliers}")
        if self.warmup and self.warmup >= self.steps:
            raise UsageError(f"warmup must be shorter than the {self.steps} steps, got {self.warmup}")
        for name, key in self.beside.items():
            if name == OWN or not isinstance(key, str):
                raise UsageError(f"beside must give the key of a run to names other than {OWN!r}, got {name}: {key!r}")
        for name, every in self.probes.items():
            if isinstance(every, bool) or not isinstance(every, int) or every < 1:
                raise UsageError(f"probes must say every how many steps, at least 1, got {name}: {every!r}")

    @property
    def needs(self) -> list[str]:
        """The keys of the runs whose trained networks this one takes."""
        return [*filter(None, [self.start]), *self.beside.values()]

    @property
    def steady(self) -> bool:
        """Whether the learning rate is the same at every step."""
        return self.lr_schedule == "constant" and not self.warmup

    @property
    def evaluated_on(self) -> str:
        return "validation" if self.validation else "test"

    @property
    def key(self) -> str:
        """16 hexadecimal digits. Fields at their default are left out, so that a new field with a
        default changes no key."""
        stated = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not _is_default(self, f)}
        stated["norm"] = own.short(self.norm)
        stated |= {name: pictures.short(stated[name]) for name in ("dataset", "foreign") if name in stated}
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


def setting(config: RunConfig) -> dict[str, Any]:
    """The fields of the run, and the options of its normalizer, network, optimizer and task, that are one value
    each."""
    options = config.norm_options | config.model_options | config.optimizer_options | config.task_options
    fields = {**dataclasses.asdict(config), **options}
    return {k: v for k, v in fields.items() if not isinstance(v, dict)}
