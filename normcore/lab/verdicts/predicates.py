"""The predicates of ``book/claims.yml``: what a statement says, put to the results, one part at a time.

A predicate over runs names its variants as the figures do (``bn``, or ``bn-head`` of the cats and dogs) or by the
fields of a run and the options of its normalizer (``{norm: gn, num_groups: 8}``), what all of them share by ``where``,
a measure of :mod:`normcore.lab.verdicts.measures` and, unless the end of the run is meant, its window: ``epochs``,
``of_run``, or ``shared``, a part of the images that all of its runs have seen.

It holds if the mean over seeds lies where the statement puts it, and fails if it lies elsewhere, each by a t test with
a moderated variance (:mod:`normcore.lab.stats`), at the looks fixed in advance. An order (``a`` above ``b``, with no
margin) has a smallest effect of interest, :func:`normcore.lab.stats.smallest`: it fails where ``a`` is
below ``b`` by more than that, and where the two are within it of each other they are tied, which neither supports nor
refutes, unless the statement means any difference whatever (``strict``).
"""

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import scipy  # see stats.py
from scipy import special

from ... import own
from .. import catdog
from ..bench import steps as bench_steps
from ..config import RunConfig
from ..errors import UsageError, unknown
from ..figures.look import label
from ..runs.store import Run
from ..stats import (
    ALPHA,
    CONFIDENCE,
    LOOKS,
    MIN_SEEDS,
    Interval,
    Prior,
    family,
    holm,
    look,
    mean_interval,
    nominal,
    over_looks,
    seeds_needed,
    smallest,
)
from .measures import LOG2, curve, measure, value, window

SUPPORTED, REFUTED, MIXED, INCONCLUSIVE = "supported", "refuted", "mixed", "inconclusive"
TOLERANCE = 1e-12  # of what is computed in float64 and must be equal

#: Why a part or a statement is inconclusive: its sides are equal within the smallest effect of interest; they differ
#: by less than that; more seeds are needed; there are fewer than five; the runs are too short to judge; the best value
#: of a search lies at its end; the statement asks for what these runs are not; the larger profile says the opposite;
#: single parts fail, but no more of them than chance would have it among so many.
TIE, SMALL, SEEDS, FEW, SHORT, GRID_END, OPEN, CONTRADICTED, MANY = (
    "tie", "small", "seeds", "seeds<5", "too short", "grid end", "left open", "contradicted", "several tests",
)  # fmt: skip

Variant = str | Mapping[str, Any]


class Lacking(UsageError):
    """The results have no run of a variant."""


@dataclass(frozen=True)
class Part:
    """One thing that a statement says, judged by one predicate.

    Attributes:
        says: in words, what must hold.
        measured: what the effect is, with its unit.
        effect: the measured value and its 95 % interval, or its range.
        seeds: how many runs a variant there are; None where nothing is random, and no interval says anything.
        verdict: ``supported``, ``refuted`` or ``inconclusive``.
        cause, reason: why it is inconclusive, one of the names above and in words.
        holds, fails: the p values of holding and of failing, adjusted for the looks; NaN where nothing is random.
        p: the smaller of the two before that.
        look: the number of seeds at which it is judged, 0 before the first look.
        inside: whether the mean lies where the statement puts it.
        distance: of the mean from where it would be decided, in the effect's unit.
        low, high: the statement puts the effect between these.
        tie: of an order, the smallest effect of interest; 0 of what is none.
        factor: what the effect is the binary logarithm of, with which it is told; empty where it is none.
        needed: so many seeds would decide it, if the effect is as it seems; None where none would, or none need to.
        of: the parts of an "or".
        runs: what it rests on.
        experiment, profile: where those are, if the part has an experiment of its own; else empty.
    """

    says: str
    measured: str
    effect: Interval
    seeds: int | None
    verdict: str
    cause: str = ""
    reason: str = ""
    holds: float = math.nan
    fails: float = math.nan
    p: float = math.nan
    look: int = 0
    inside: bool | None = None
    distance: float = 0.0
    low: float = -math.inf
    high: float = math.inf
    tie: float = 0.0
    factor: str = ""
    needed: int | None = None
    of: tuple["Part", ...] = ()
    runs: tuple[Run, ...] = field(default=(), repr=False, compare=False)
    experiment: str = ""
    profile: str = ""

    @property
    def found(self) -> str:
        """What was measured, in words."""
        value = self.effect.mean
        if math.isnan(value):
            return self.measured
        if self.factor:
            return f"{self.factor}: {_times(self.effect)}"
        if self.seeds is None and math.isnan(self.effect.low):
            exact = f"{value:.4g}" if abs(value) > 1e-6 else f"{value:.1g}"  # of a rounding error the size says all
            return f"{self.measured}: {exact}"
        spec = "+,.0f" if abs(value) >= 100 else "+.4f" if self.seeds else ".3f"
        return f"{self.measured}: {self.effect:{spec}}"

    @property
    def adjusted(self) -> float:
        """The p value adjusted for the looks, of what the effect points to."""
        return min(self.holds, self.fails)

    def leaves(self) -> Iterator["Part"]:
        """The part, or the parts of which it says "or"."""
        for part in self.of or (self,):
            yield from part.leaves() if part.of else (part,)

    def to_json(self) -> dict[str, Any]:
        """Plain, with None for what there is not; without the runs."""
        effect = {**self.effect._asdict(), "p": self.effect.p}
        numbers = {name: getattr(self, name) for name in ("holds", "fails", "p", "adjusted")}
        return {
            "says": self.says, "measured": self.measured, "effect": _finite(effect), "kind": self.effect.kind,
            "seeds": self.seeds, "verdict": self.verdict, "cause": self.cause, "reason": self.reason,
            **_finite(numbers), "look": self.look, "seeds_needed": self.needed,
            "of": [part.to_json() for part in self.of],
            **({"experiment": self.experiment, "profile": self.profile} if self.experiment else {}),
        }  # fmt: skip


def _times(effect: Interval) -> str:
    """A binary logarithm as a factor, such as ``smaller by a factor of 4.3 [3.9, 4.7]``."""
    mean, low, high = effect.mean, effect.low, effect.high
    way, ends = ("smaller", (-high, -low)) if mean < 0 else ("larger", (low, high))
    told = effect._replace(mean=2 ** abs(mean), low=2 ** ends[0], high=2 ** ends[1])
    return f"{way} by a factor of {format(told, ',.0f' if told.mean >= 100 else '.3g')}"


def _finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}


Predicate = Callable[..., Part]


# --- from parts to a verdict -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Combined:
    """The verdict on a statement, why it is inconclusive, and its p value (NaN where there is no test)."""

    verdict: str
    cause: str = ""
    reason: str = ""
    p: float = math.nan


def combine(parts: Sequence[Part]) -> Combined:
    """A statement holds if all it says holds: the largest of the parts' p values is then its own. It fails if a part
    fails, by p values corrected for the number of parts (Holm). Where by such p values one part holds and another
    fails it is mixed."""
    holds, fails = ([_p(part, which) for part in parts] for which in ("holds", "fails"))
    picked, failed = holm(holds), holm(fails)
    tested = any(part.look for part in parts)
    p = min(1.0, max(holds), min(failed)) if tested else math.nan
    if all(part.verdict == SUPPORTED for part in parts):
        return Combined(SUPPORTED, p=p)
    refuted = [part for part, q in zip(parts, failed, strict=True) if part.verdict == REFUTED and q <= ALPHA]
    held = [part for part, q in zip(parts, picked, strict=True) if part.verdict == SUPPORTED and q <= ALPHA]
    if refuted:
        return Combined(MIXED if held else REFUTED, p=p)
    undecided = [part for part in parts if part.verdict == INCONCLUSIVE]
    if not undecided or any(part.verdict == REFUTED for part in parts):
        alone = sum(part.verdict == REFUTED for part in parts)
        why = f"of {len(parts)} parts {alone} would fail by itself, which chance does too often among so many"
        return Combined(INCONCLUSIVE, MANY, why, p)
    first = min(undecided, key=lambda part: _CAUSES.index(part.cause) if part.cause in _CAUSES else -1)
    reasons = dict.fromkeys(part.reason for part in undecided if part.reason)
    return Combined(INCONCLUSIVE, first.cause, "; ".join(reasons), p)


_CAUSES = (FEW, SHORT, GRID_END, OPEN, SEEDS, SMALL, TIE)  # the first of these that a part has is the statement's


def _p(part: Part, which: str) -> float:
    """The p value of holding or of failing; of what is not random 0 or 1."""
    p = float(getattr(part, which))
    wanted = SUPPORTED if which == "holds" else REFUTED
    return p if not math.isnan(p) else 0.0 if part.verdict == wanted else 1.0


def any_of(says: str, parts: Sequence[Part]) -> Part:
    """A source's "or": holds if one of the parts holds, by p values corrected for their number, and fails if all do."""
    holds, fails = min(holm([_p(part, "holds") for part in parts])), max(_p(part, "fails") for part in parts)
    held = any(part.verdict == SUPPORTED for part in parts) and holds <= ALPHA
    failed = all(part.verdict == REFUTED for part in parts)
    verdict = SUPPORTED if held else REFUTED if failed else INCONCLUSIVE
    undecided = [part for part in parts if part.verdict == INCONCLUSIVE]
    seeds = [part.seeds for part in parts if part.seeds is not None]
    inside = [part.inside for part in parts if part.inside is not None]
    random = any(not math.isnan(part.holds) for part in parts)
    why = undecided[0] if undecided else None
    return Part(
        says, "at least one of these", Interval(math.nan, math.nan, math.nan), min(seeds) if seeds else None, verdict,
        cause="" if verdict != INCONCLUSIVE else why.cause if why else MANY,
        reason="" if verdict != INCONCLUSIVE else why.reason if why else "one holds by itself, not among so many",
        holds=holds if random else math.nan, fails=fails if random else math.nan,
        p=min((part.p for part in parts), default=math.nan), look=min(part.look for part in parts),
        inside=any(inside) if inside else None, of=tuple(parts),
    )  # fmt: skip


def left_open(says: str, why: str, cause: str = OPEN) -> Part:
    """A part that these results cannot judge."""
    nothing = Interval(math.nan, math.nan, math.nan)
    return Part(says, why, nothing, None, INCONCLUSIVE, cause, why, holds=1.0, fails=1.0)


@dataclass(frozen=True)
class _Sample:
    """A mean over the seeds of a look, all the seeds that there are, and the runs that it is of."""

    effect: Interval
    seeds: int
    runs: tuple[Run, ...]


def _tested(
    says: str, measured: str, sample: _Sample, low: float, high: float, tie: float = 0.0, factor: str = ""
) -> Part:
    """Whether the mean lies between ``low`` and ``high``.

    Args:
        tie: of an order, the smallest effect of interest.
        factor: what the mean is the binary logarithm of.
    """
    effect = sample.effect
    holds = max([effect.above(low)] * math.isfinite(low) + [effect.below(high)] * math.isfinite(high), default=0.0)
    fails = min(effect.below(low - tie), effect.above(high + tie))
    equal = max(effect.above(-tie), effect.below(tie)) if tie else 1.0
    inside = low < effect.mean < high
    near = [effect.mean - low, high - effect.mean] if inside else [low - tie - effect.mean, effect.mean - high - tie]
    distance = max(min(near) if inside else max(near), tie - abs(effect.mean))
    return _judged(
        Part(says, measured, effect, sample.seeds, INCONCLUSIVE, holds=holds, fails=fails, inside=inside,
             distance=distance, low=low, high=high, tie=tie, factor=factor, runs=sample.runs),
        equal, tie,
    )  # fmt: skip


def _judged(part: Part, equal: float = 1.0, tie: float = 0.0) -> Part:
    """The part with its verdict, from the p values of holding, of failing, and of being a tie, each before they are
    adjusted for the looks."""
    seeds, effect = part.seeds or 0, part.effect
    p, at = min(part.holds, part.fails), look(seeds)
    holds, fails, equal = (over_looks(p) for p in (part.holds, part.fails, equal))
    sd = effect.se * math.sqrt(effect.n) if effect.n else math.nan
    needed = seeds_needed(part.distance, sd)
    if needed is not None:
        needed = max(needed, next((n for n in LOOKS if n > seeds), needed))
    verdict, cause, reason = INCONCLUSIVE, "", ""
    if not at:
        cause, reason = FEW, f"{'one seed' if seeds == 1 else f'{seeds} seeds'}, fewer than {MIN_SEEDS}"
        p, holds, fails = math.nan, 1.0, 1.0
    elif equal <= ALPHA:
        there = min(over_looks(effect.above(0)), over_looks(effect.below(0))) <= ALPHA
        cause = SMALL if there else TIE
        near = f"a factor of {2**tie:.3g}" if part.factor else f"{tie:.2g}"
        within = f"within {near}, the smallest difference of interest"
        reason = f"there is a difference, but {within}" if there else f"a tie: equal {within}"
        needed = None
    elif holds <= ALPHA:
        verdict, needed = SUPPORTED, None
    elif fails <= ALPHA:
        verdict, needed = REFUTED, None
    else:
        cause, reason = SEEDS, _seeds_in_words(needed, seeds, far=part.distance > 0)
    return replace(part, verdict=verdict, cause=cause, reason=reason, holds=holds, fails=fails, p=p, look=at,
                   needed=needed)  # fmt: skip


def _seeds_in_words(needed: int | None, seeds: int, *, far: bool = False) -> str:
    so_far = f"undecided with {seeds} seeds"
    if needed is None:
        return f"{so_far}; no number of seeds in sight would decide it" if far else so_far
    return f"{so_far}; about {needed} would decide it{'' if needed <= LOOKS[-1] else f', more than {LOOKS[-1]}'}"


# --- variants and their values -----------------------------------------------------------------------------


def _fields(variant: Variant, where: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {**(where or {}), **({"variant": variant} if isinstance(variant, str) else variant)}


def _named(variant: Variant) -> str:
    """In words, such as ``BN, batch size 16``."""
    flat: dict[str, Any] = {}
    for field_, value_ in _fields(variant).items():
        flat |= value_ if isinstance(value_, Mapping) else {field_: value_}
    for field_ in ("norm", "variant"):
        if field_ in flat:
            flat[field_] = label(flat[field_])
    plain = ("norm", "variant", "dataset", "colours", "activation")
    return ", ".join(str(v) if k in plain else _option(k, v) for k, v in flat.items())


#: option that is true or false -> what a network is with it, and without
_EITHER = {"norm_first": ("before the activation", "behind the activation"), "noise": ("with noise", "without noise"),
           "frozen": ("frozen", "not frozen"), "he": ("He's initialization", "torch's initialization"),
           "per_step": ("statistics of each step", "statistics of all steps")}  # fmt: skip


def _option(name: str, value: Any) -> str:
    """An option of a variant, such as ``groups 8``, ``before the activation`` or ``no linear norm``."""
    if name == "one_class":
        return f"{value:.0%} of one class"
    if isinstance(value, bool):
        return _EITHER.get(name, (_words(name), f"no {_words(name)}"))[not value]
    return f"{_words(name)} {value}"


def _field(run: Run, name: str) -> Any:
    """Of a field of the run, or of an option of its normalizer, its network, its optimizer or its task; the ``epochs``
    and the ``samples`` that it is long; its ``variant``, which is its normalizer, one of one's own without its source,
    unless the protocol has names of its own."""
    if name == "variant":
        return catdog.name_of(run.config) if run.config.model == "catdog" else own.called(run.config.norm)
    if name == "epochs":
        return run.config.steps / run.provenance["steps_per_epoch"]
    if name == "samples":
        return run.config.steps * run.config.batch_size
    config = run.config
    for options in (config.optimizer_options, config.model_options, config.norm_options, config.task_options):
        if name in options:
            return options[name]
    return getattr(run.config, name)


_BOUND = re.compile(r"(>=|<=|>|<)\s*(\d+(?:\.\d+)?(?:e[+-]?\d+)?)")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip


def is_as(run: Run, name: str, wanted: Any) -> bool:
    """Whether a field of the run is this value, or as this bound has it (``">= 5"``)."""
    bound = _BOUND.fullmatch(wanted) if isinstance(wanted, str) else None
    if bound:
        return _COMPARE[bound[1]](_field(run, name) + 1e-9 * (bound[1] == ">="), float(bound[2]))
    return bool(_field(run, name) == wanted)


def unmet(runs: Sequence[Run], requires: Mapping[str, Any]) -> str:
    """What these runs are not and must be, in words; empty where they are."""
    for name, wanted in requires.items():
        if not all(is_as(run, name, wanted) for run in runs):
            there = sorted({_field(run, name) for run in runs})
            shown = ", ".join(f"{v:.2g}" if isinstance(v, float) else str(v) for v in there)
            return f"these runs have {_words(name)} {shown}; the statement is about {wanted}"
    return ""


def at_an_end(runs: Sequence[Run], search: Sequence[Run], name: str) -> str:
    """Which of these runs have a value of the field ``name`` that is the smallest or the largest of those that were
    searched for their variant, in words; empty where none has."""

    def variant(config: RunConfig) -> str:
        return repr((config.norm, config.norm_options, config.model, config.model_options, config.optimizer))

    tried: dict[str, set[Any]] = {}
    for run in search:
        tried.setdefault(variant(run.config), set()).add(_field(run, name))
    ends = {
        f"{label(run.config.norm)} {_field(run, name):g}"
        for run in runs
        for values in [tried.get(variant(run.config), set())]
        if not values or not min(values) < _field(run, name) < max(values)
    }
    shown = ", ".join(sorted(ends))
    return f"the best {_words(name)} is an end of the grid that was searched ({shown})" if ends else ""


def setting_of(config: RunConfig) -> str:
    """What all seeds of a setting share; networks that a run takes are those of its own seed."""
    return repr({**vars(config), "seed": None, "start": bool(config.start), "beside": sorted(config.beside)})


def select(runs: Sequence[Run], variant: Variant, where: Mapping[str, Any] | None = None) -> list[Run]:
    """The runs of a variant.

    Raises:
        Lacking: there are none.
    """
    fields = _fields(variant, where)
    chosen = [run for run in runs if all(_field(run, k) == v for k, v in fields.items())]
    if not chosen:
        raise Lacking(_named({**(where or {}), **fields}))
    return chosen


Value = Callable[[Run], float | None]


def _reader(metric: str, within: Mapping[str, Any], among: Sequence[Run]) -> Value:
    """The measure of a run in the window; ``shared`` is of the images that all of ``among`` have seen."""
    within = dict(within)
    if "shared" in within:
        seen = min(run.config.steps * run.config.batch_size for run in among)
        within["samples"] = [share * seen for share in within.pop("shared")]

    def read(run: Run) -> float | None:
        return value(run, metric, window(run, **within))

    return read


def _by_seed(runs: Sequence[Run], read: Value, what: str) -> "pd.Series[float]":
    numbers = {run.config.seed: read(run) for run in runs}
    if len(numbers) < len(runs):
        raise UsageError(f"{what}: several runs a seed; narrow the variant down by more of its fields")
    return pd.Series(numbers, dtype=float).dropna().sort_index()


def _at_look(values: Any) -> Any:
    """Those of the first seeds, up to the last look that is reached."""
    return values.sort_index().iloc[: look(len(values)) or None]


def _contrast(
    runs: Sequence[Run], terms: Sequence[tuple[float, Sequence[Run]]], read: Value, metric: str, measured: str
) -> _Sample:
    """The sum, within each seed that all have, of a number of each variant times its coefficient. Its variance is
    moderated by the other settings of the runs: by their differences, two by two, where the coefficients sum to zero.
    """
    columns = [_by_seed(own, read, metric) * weight for weight, own in terms]
    values = pd.concat(columns, axis=1).dropna().sum(axis=1)
    if values.empty:
        raise Lacking(f"{measured}: no seed has it")
    weights = np.array([weight for weight, _ in terms])
    prior = _family(runs, read, paired=abs(weights.sum()) < 1e-9)
    prior = prior._replace(variance=prior.variance * float((weights**2).sum()))
    used = tuple(run for _, own in terms for run in own)
    return _Sample(mean_interval(_at_look(values), prior), len(values), used)


def _family(runs: Sequence[Run], read: Value, *, paired: bool) -> Prior:
    """What the settings of these runs say of the variance of a number that is read off each."""
    settings: dict[str, dict[int, float]] = {}
    for run in runs:
        number = read(run)
        if number is not None:
            settings.setdefault(setting_of(run.config), {})[run.config.seed] = number
    return family((pd.Series(numbers, dtype=float) for numbers in settings.values()), paired=paired)


#: measure or column of a probe -> what a reader is told
_READ = {
    "train_loss": "training loss", "train_accuracy": "training accuracy", "train_jitter": "jitter of the training loss",
    "saturation_step": "step of saturation", "gradients.ratio": "first layer's gradient over the last's",
    "one_class": "share of one class", "lr": "learning rate", "highest": "highest test accuracy",
    "peak": "test accuracy at its peak",
    "test_box_ap": "AP of boxes", "test_box_ap50": "AP50 of boxes", "test_box_ap75": "AP75 of boxes",
    "test_mask_ap": "AP of masks", "test_mask_ap50": "AP50 of masks", "test_mask_ap75": "AP75 of masks",
    "jitter": "jitter of the test accuracy", "training_set.accuracy": "accuracy on all training images",
    "recalibrated.accuracy": "test accuracy with statistics estimated anew",
    "adversarial.fooled": "right answers lost to an attack", "adversarial.accuracy": "accuracy under attack",
    "outliers.output": "change of the output by an outlier", "outliers.update": "change of the update by an outlier",
    "shift.gradient": "covariate shift of the gradient", "shift.input": "covariate shift of the input",
    "distributions.wasserstein": "distance from the standard normal",
    "distributions.apart": "distance between the layers", "smoothness.beta": "effective smoothness (beta)",
    "smoothness.loss_range": "range of the loss along the gradient",
    "smoothness.gradient_change": "change of the gradient along it",
    "similarity.cosine": "cosine similarity of features", "surface.rise": "rise of the loss around the weights",
    "steps.rise": "rise of the loss above the first tenth of the time steps",
    "statistics.mean": "error of the running mean", "statistics.var": "error of the running variance",
    **{f"mixture.{norm}": f"share of {label(norm)}'s statistics" for norm in ("in", "ln", "bn")},
}  # fmt: skip
#: which rows of a probe -> what a reader is told
_WITHIN = {
    "mode=step": "after a step", "mode=train": "in training", "mode=eval": "at evaluation",
    "of=mean": "in the mean", "of=var": "in the variance", "stretch=last": "in the last tenth",
    "stretch=beyond": "beyond the last", "of=inputs": "of different images", "of=layers": "of different layers",
}  # fmt: skip


def _words(metric: str) -> str:
    """A measure as readers are told of it: ``log2(shift.input[layer=2])`` as ``log2 of covariate shift of the input
    (layer 2)``."""
    if inside := LOG2.fullmatch(metric):
        return f"log2 of {_words(inside['metric'])}"
    name, _, where = metric.partition("[")
    within = [_WITHIN.get(one, one.replace("=", " ")) for one in where.rstrip("]").split(",")]
    which = f" ({', '.join(within)})" if where else ""
    return _READ.get(name, name.replace(".", ": ").replace("_", " ")) + which


# --- one variant and another -------------------------------------------------------------------------------


def _difference(
    runs: Sequence[Run], says: str, metric: str, a: Variant, b: Variant, where: Mapping[str, Any] | None,
    within: Mapping[str, Any], low: float, high: float, *, order: bool = False,
) -> Part:  # fmt: skip
    """Whether ``metric(a) - metric(b)`` lies between these bounds; of an ``order``, by more than the smallest of
    interest."""
    ours, theirs = select(runs, a, where), select(runs, b, where)
    read = _reader(metric, within, [*ours, *theirs])
    measured = f"{_words(metric)}, {_named(a)} minus {_named(b)}"
    inside = LOG2.fullmatch(metric)
    factor = f"{_words(inside['metric'])}, {_named(a)} against {_named(b)}" if inside else ""
    sample = _contrast(runs, [(1.0, ours), (-1.0, theirs)], read, metric, measured)
    tie = _tie(metric, read, [*ours, *theirs]) if order else 0.0
    return _tested(says, measured, sample, low, high, tie, factor)


def _tie(metric: str, read: Value, runs: Sequence[Run]) -> float:
    """The smallest effect of interest between these runs."""
    return smallest(metric, float(np.mean([v for v in map(read, runs) if v is not None])))


def lower(
    runs: Sequence[Run], says: str, metric: str, a: Variant, b: Variant, *, margin: float = 0.0, strict: bool = False,
    where: Mapping[str, Any] | None = None, **within: Any,
) -> Part:  # fmt: skip
    """``metric`` of ``a`` is below that of ``b``, by more than ``margin`` (a negative one: or hardly above it)."""
    order = not margin and not strict
    return _difference(runs, says, metric, a, b, where, within, -math.inf, -margin, order=order)


def higher(
    runs: Sequence[Run], says: str, metric: str, a: Variant, b: Variant, *, margin: float = 0.0, strict: bool = False,
    where: Mapping[str, Any] | None = None, **within: Any,
) -> Part:  # fmt: skip
    """``metric`` of ``a`` is above that of ``b``, by more than ``margin``."""
    order = not margin and not strict
    return _difference(runs, says, metric, a, b, where, within, margin, math.inf, order=order)


def alike(
    runs: Sequence[Run], says: str, metric: str, a: Variant, b: Variant, tolerance: float, *,
    where: Mapping[str, Any] | None = None, **within: Any,
) -> Part:  # fmt: skip
    """``metric`` of ``a`` and of ``b`` differ by less than the tolerance."""
    return _difference(runs, says, metric, a, b, where, within, -tolerance, tolerance)


def rate_higher(
    runs: Sequence[Run], says: str, metric: str, a: Variant, b: Variant, above: float, *,
    where: Mapping[str, Any] | None = None, **within: Any,
) -> Part:  # fmt: skip
    """More of the runs of ``a`` than of ``b`` have a metric above this bound, by Fisher's exact test; a run that has
    not the metric, such as one that diverged, is not above it. The interval is Newcombe's (1998)."""
    ours, theirs = select(runs, a, where), select(runs, b, where)
    read = _reader(metric, within, [*ours, *theirs])
    seeds = sorted({r.config.seed for r in ours} & {r.config.seed for r in theirs})
    if not seeds:
        raise Lacking(f"{metric}, {_named(a)} and {_named(b)} in one seed")
    judged = set(seeds[: look(len(seeds)) or None])
    hits = [[(read(r) or -math.inf) > above for r in own if r.config.seed in judged] for own in (ours, theirs)]
    table = [[sum(own), len(own) - sum(own)] for own in hits]
    holds, fails = (float(scipy.stats.fisher_exact(table, alternative=way).pvalue) for way in ("greater", "less"))
    (p, p_low, p_high), (q, q_low, q_high) = (_share(own, "wilson")[:3] for own in hits)
    down, up = math.hypot(p - p_low, q_high - q), math.hypot(p_high - p, q - q_low)
    effect = Interval(p - q, p - q - down, p - q + up, len(judged))
    measured = f"share of runs with {_words(metric)} above {above:g}, {_named(a)} minus {_named(b)}"
    part = Part(says, measured, effect, len(seeds), INCONCLUSIVE, holds=min(1, 2 * holds), fails=min(1, 2 * fails),
                inside=p > q, runs=(*ours, *theirs))  # fmt: skip
    return _judged(part)


def _share(hits: Sequence[bool], method: str) -> Interval:
    """A share and its 95 % interval; of too few seeds without."""
    if len(hits) < MIN_SEEDS:
        return Interval(sum(hits) / len(hits), math.nan, math.nan, len(hits))
    ends = scipy.stats.binomtest(sum(hits), len(hits)).proportion_ci(CONFIDENCE, method)
    return Interval(sum(hits) / len(hits), float(ends.low), float(ends.high), len(hits))


# --- one variant -------------------------------------------------------------------------------------------


def between(
    runs: Sequence[Run], says: str, metric: str, variant: Variant, *, low: float = -math.inf, high: float = math.inf,
    where: Mapping[str, Any] | None = None, **within: Any,
) -> Part:  # fmt: skip
    """``metric`` of one variant lies between these bounds."""
    own = select(runs, variant, where)
    measured = f"{_words(metric)} of {_named(variant)}"
    sample = _contrast(runs, [(1.0, own)], _reader(metric, within, own), metric, measured)
    return _tested(says, measured, sample, low, high)


def mostly(
    runs: Sequence[Run], says: str, metric: str, variant: Variant, *, low: float = -math.inf, high: float = math.inf,
    share: float = 0.5, where: Mapping[str, Any] | None = None, **within: Any,
) -> Part:  # fmt: skip
    """``metric`` of one variant lies between these bounds in more than this share of the seeds, by the binomial test;
    the interval is Clopper and Pearson's (1934)."""
    own = select(runs, variant, where)
    measured = f"share of seeds with {_words(metric)} of {_named(variant)} {_range(low, high)}"
    values = _by_seed(own, _reader(metric, within, own), metric)
    if values.empty:
        raise Lacking(f"{measured}: no seed has it")
    judged = _at_look(values)
    hits = ((judged > low) & (judged < high)).tolist()
    holds, fails = (scipy.stats.binomtest(sum(hits), len(hits), share, way).pvalue for way in ("greater", "less"))
    effect = _share(hits, "exact")
    part = Part(says, measured, effect, len(values), INCONCLUSIVE, holds=min(1, 2 * holds), fails=min(1, 2 * fails),
                inside=effect.mean > share, runs=tuple(own))  # fmt: skip
    part = _judged(part)
    if part.cause != SEEDS:
        return part
    needed = _unanimous(effect.mean, share, len(values))
    return replace(part, needed=needed, reason=_seeds_in_words(needed, len(values)))


def _range(low: float, high: float) -> str:
    if math.isinf(low):
        return f"below {high:g}"
    return f"above {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"


def _unanimous(seen: float, share: float, seeds: int) -> int | None:
    """The first look after these seeds at which a share as seen would be decided."""
    for n in (n for n in LOOKS if n > seeds):
        p = scipy.stats.binomtest(round(seen * n), n, share, "greater" if seen > share else "less").pvalue
        if over_looks(min(1, 2 * p)) <= ALPHA:
            return n
    return None


def stretches(
    runs: Sequence[Run], says: str, metric: str, variant: Variant, first: Sequence[float], second: Sequence[float],
    compare: str = "difference", *, low: float = -math.inf, high: float = math.inf,
    where: Mapping[str, Any] | None = None,
) -> Part:  # fmt: skip
    """Two stretches of a run, in parts of it, compared: the ``difference`` of the metric, the second minus the first;
    its ``ratio``, as a binary logarithm; or the ``correlation`` of a curve's points with each other, one by one."""
    own = select(runs, variant, where)
    what = {"difference": "later minus earlier", "ratio": "log2 of later over earlier",
            "correlation": "correlation of two stretches"}  # fmt: skip
    if compare not in what:
        raise unknown("comparison", compare, what)

    def read(run: Run) -> float | None:
        windows = [window(run, of_run=part) for part in (first, second)]
        if compare == "correlation":
            a, b = (curve(run, metric, w) for w in windows)
            usable = a.size == b.size > 2 and np.ptp(a) > 0 and np.ptp(b) > 0
            return float(np.corrcoef(a, b)[0, 1]) if usable else None
        one, two = (value(run, metric, w) for w in windows)
        if one is None or two is None:
            return None
        if compare == "difference":
            return two - one
        return math.log2(two / one) if one > 0 and two > 0 else None

    measured = f"{_words(metric)} of {_named(variant)}, {what[compare]}"
    return _tested(says, measured, _contrast(runs, [(1.0, own)], read, metric, measured), low, high)


def predicts(runs: Sequence[Run], says: str, metric: str, norm: str, values: Sequence[float], tolerance: float) -> Part:
    """One more run of ours would have the source's values after epochs 1, 2, ..., within the tolerance.

    A source's number is of one run, with a run's own noise: what must lie within the tolerance, or fails if it lies
    outside, is the interval of the difference between our mean and one more run, at every epoch, or at any one of them
    by p values corrected for their number. The effect is the mean deviation over the epochs.
    """
    own = select(runs, norm)
    tables = [measure(own, metric, (n, n + 1)).set_index("seed")["value"].sort_index() for n in range(len(values))]
    wide = pd.concat(tables, axis=1).dropna()
    if wide.empty:
        raise Lacking(f"{norm} with a {metric} after each of {len(values)} epochs")
    deviations = _at_look(wide - np.asarray(values))
    each = [_one_more(mean_interval(deviations.iloc[:, i])) for i in range(len(values))]
    holds = max(max(e.above(-tolerance), e.below(tolerance)) for e in each)
    fails = min(1.0, len(each) * min(min(e.below(-tolerance), e.above(tolerance)) for e in each))
    effect = _one_more(mean_interval(deviations.mean(axis=1)))
    which = f"one more run of ours minus the source's, mean of {len(values)} epochs"
    inside = all(abs(e.mean) < tolerance for e in each)
    part = _judged(Part(says, f"{_words(metric)} of {_named(norm)}, {which}", effect, len(wide), INCONCLUSIVE,
                        holds=holds, fails=fails, inside=inside, runs=tuple(own)))  # fmt: skip
    alone = wide.std().to_numpy() * -special.ndtri(nominal() / 2)  # what is left of the interval with many seeds
    if part.cause == SEEDS and any(abs(abs(e.mean) - tolerance) < run for e, run in zip(each, alone, strict=True)):
        return replace(
            part, cause=OPEN, reason="one run alone varies too much for the tolerance, with any number of seeds"
        )
    return part


def _one_more(effect: Interval) -> Interval:
    """The interval for one more run in place of that for the mean."""
    if effect.kind != "interval":
        return effect
    wider = math.sqrt(effect.n + 1)
    reach = (effect.high - effect.mean) * wider
    return effect._replace(low=effect.mean - reach, high=effect.mean + reach, se=effect.se * wider)


# --- several variants --------------------------------------------------------------------------------------


def trend(
    runs: Sequence[Run], says: str, metric: str, variant: Variant, over: str, *, values: Sequence[Any],
    low: float = -math.inf, high: float = math.inf, log: bool = False, against: Variant | None = None,
    strict: bool = False, where: Mapping[str, Any] | None = None, **within: Any,
) -> Part:  # fmt: skip
    """What a doubling of a field (``over``, taking these ``values``) adds to the metric, or with ``log`` to its binary
    logarithm, lies between these bounds: the slope of the least-squares line of each seed. With ``against`` the slope
    of another variant is taken off. A bound of 0 and no other is an order: over all of the values the metric grows, or
    falls."""
    chosen = {
        name: [select(runs, {**_fields(name_), over: v}, where) for v in values]
        for name, name_ in (("own", variant), ("other", against))
        if name_ is not None
    }
    among = [run for sweep in chosen.values() for part in sweep for run in part]
    measured = f"log2({metric})" if log else metric
    read = _reader(measured, within, among)
    x = np.log2(np.asarray(values, dtype=float))
    slope = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    terms = [(float(w), own) for w, own in zip(slope, chosen["own"], strict=True)]
    terms += [(-float(w), own) for w, own in zip(slope, chosen.get("other", ()), strict=False)]
    what = f"{'log2 of ' if log else ''}{_words(metric)} of {_named(variant)}, for a doubling of {_words(over)}"
    what += f", less that of {_named(against)}" if against is not None else ""
    tie = _tie(measured, read, among) / float(np.ptp(x)) if _is_order(low, high) and not strict else 0.0
    return _tested(says, what, _contrast(runs, terms, read, metric, what), low, high, tie)


def contrast(
    runs: Sequence[Run], says: str, metric: str, terms: Sequence[tuple[float, Variant]], *, low: float = -math.inf,
    high: float = math.inf, strict: bool = False, where: Mapping[str, Any] | None = None, **within: Any,
) -> Part:  # fmt: skip
    """The sum of the metric of several variants, each times its coefficient, lies between these bounds: a mean of some
    minus a mean of others. A bound of 0 and no other is an order."""
    chosen = [(float(weight), select(runs, variant, where)) for weight, variant in terms]
    among = [run for _, own in chosen for run in own]
    read = _reader(metric, within, among)
    ups, downs = ([v for w, v in terms if w * sign > 0] for sign in (1, -1))
    sides = (_each(ups), _each(downs)) if len(terms) <= 4 else (f"{len(ups)} settings", f"{len(downs)}")
    measured = f"{_words(metric)}, mean of {sides[0]} minus that of {sides[1]}"
    tie = _tie(metric, read, among) if _is_order(low, high) and not strict else 0.0
    return _tested(says, measured, _contrast(runs, chosen, read, metric, measured), low, high, tie)


def _is_order(low: float, high: float) -> bool:
    """Whether these bounds only say which side of zero."""
    return (low, high) in ((0, math.inf), (-math.inf, 0))


def _each(variants: Sequence[Variant]) -> str:
    return " and ".join(map(_named, variants))


def _several(variants: Sequence[Variant]) -> str:
    return _each(variants) if len(variants) <= 4 else f"{len(variants)} variants"


def gains(
    runs: Sequence[Run], says: str, metric: str, a: Variant, b: Variant, *, by: Mapping[str, Any],
    over: Mapping[str, Any], low: float = -math.inf, high: float = math.inf, order: bool = False,
    where: Mapping[str, Any] | None = None, **within: Any,
) -> Part:  # fmt: skip
    """What ``a`` gains by these fields (``by``) over those (``over``), minus what ``b`` gains, lies between these
    bounds: the difference of two differences. ``shared`` is of the images that all four have seen."""
    four = [(sign * way, select(runs, {**_fields(v), **fields}, where))
            for sign, v in ((1.0, a), (-1.0, b)) for way, fields in ((1.0, by), (-1.0, over))]  # fmt: skip
    among = [run for _, own in four for run in own]
    read = _reader(metric, within, among)
    measured = f"gain in {_words(metric)} by {_named({'norm': '', **by}).strip(', ')}, {_named(a)} minus {_named(b)}"
    sample = _contrast(runs, four, read, metric, measured)
    return _tested(says, measured, sample, low, high, _tie(metric, read, among) if order else 0.0)


def gains_less(
    runs: Sequence[Run], says: str, metric: str, a: Variant, b: Variant, *, by: Mapping[str, Any],
    over: Mapping[str, Any], strict: bool = False, where: Mapping[str, Any] | None = None, **within: Any,
) -> Part:  # fmt: skip
    """``a`` gains less than ``b`` by these fields (``by``) over those (``over``)."""
    return gains(runs, says, metric, a, b, by=by, over=over, high=0.0, order=not strict, where=where, **within)


def interacts(
    runs: Sequence[Run], says: str, metric: str, *, by: Mapping[str, Any], over: Mapping[str, Any],
    among: Sequence[Variant], where: Mapping[str, Any] | None = None, **within: Any,
) -> Part:  # fmt: skip
    """What ``by`` gains over ``over`` differs between these variants, whichever way: the F test of the gains, the seeds
    as blocks. It fails where all the gains are within the smallest effect of interest of each other. The effect is the
    largest gain minus the smallest."""
    chosen = [[select(runs, {**_fields(v), **fields}, where) for fields in (by, over)] for v in among]
    every = [run for two in chosen for own in two for run in own]
    read = _reader(metric, within, every)
    columns = [_by_seed(one, read, metric) - _by_seed(two, read, metric) for one, two in chosen]
    wide = pd.concat(columns, axis=1).dropna()
    measured = f"gain in {_words(metric)} by {_named(by)}, the largest minus the smallest of {len(among)} variants"
    if wide.empty:
        raise Lacking(f"{measured}: no seed has it")
    table = _at_look(wide).to_numpy()
    n, k = table.shape
    means = table.mean(axis=0)
    left = table - means - table.mean(axis=1, keepdims=True) + table.mean()
    df = (n - 1) * (k - 1)
    noise = float((left**2).sum()) / df if df else math.nan
    between_ = float(n * ((means - means.mean()) ** 2).sum()) / (k - 1)
    holds = float(special.fdtrc(k - 1, df, between_ / noise)) if df and noise > 0 else float(between_ == 0)
    tie = _tie(metric, read, every)
    pairs = [Interval(float(a - b), 0, 0, n, math.sqrt(2 * noise / n) if df else math.nan, df)
             for a, b in combinations(means, 2)]  # fmt: skip
    fails = max(max(pair.above(-tie), pair.below(tie)) for pair in pairs)
    effect = Interval(float(np.ptp(means)), math.nan, math.nan, n)
    return _judged(Part(says, measured, effect, len(wide), INCONCLUSIVE, holds=holds, fails=fails, inside=True,
                        runs=tuple(every)))  # fmt: skip


def sets_apart(
    runs: Sequence[Run], says: str, metric: str, among: Sequence[Variant], *, share: float = 0.5,
    where: Mapping[str, Any] | None = None, **within: Any,
) -> Part:  # fmt: skip
    """Of the variance of the metric more than this share lies between these variants (``among``), and less between the
    seeds of one: the intraclass correlation, by the F test and with the interval of a one-way layout (Searle 1971)."""
    chosen = [select(runs, variant, where) for variant in among]
    every = [run for own in chosen for run in own]
    read = _reader(metric, within, every)
    wide = pd.concat([_by_seed(own, read, metric) for own in chosen], axis=1).dropna()
    measured = f"share of the variance of {_words(metric)} that lies between {_several(among)}"
    if wide.empty:
        raise Lacking(f"{measured}: no seed has it")
    table = _at_look(wide).to_numpy()
    n, k = table.shape
    df = (k - 1, k * (n - 1))
    between_ = n * float(((table.mean(axis=0) - table.mean()) ** 2).sum()) / df[0]
    inside = float(((table - table.mean(axis=0)) ** 2).sum()) / df[1] if df[1] else math.nan
    ratio = between_ / inside if inside > 0 else math.inf
    at_bound = ratio / (1 + n * share / (1 - share))
    holds, fails = (float(of(*df, at_bound)) if df[1] else 1.0 for of in (special.fdtrc, special.fdtr))

    def correlation(f: float) -> float:
        return 1.0 if math.isinf(f) else (f - 1) / (f - 1 + n)

    tail = (1 - CONFIDENCE) / 2
    low, high = (correlation(ratio / float(special.fdtri(*df, q))) if df[1] else math.nan for q in (1 - tail, tail))
    effect = Interval(correlation(ratio) if df[1] else math.nan, low, high, n)
    return _judged(Part(says, measured, effect, len(wide), INCONCLUSIVE, holds=holds, fails=fails,
                        inside=effect.mean > share, runs=tuple(every)))  # fmt: skip


def ranks(
    runs: Sequence[Run], says: str, metric: str, by: str, among: Sequence[Variant], *, low: float = -math.inf,
    high: float = math.inf, where: Mapping[str, Any] | None = None, **within: Any,
) -> Part:  # fmt: skip
    """Spearman's rank correlation, over these variants (``among``), of the metric with another (``by``) of the same run
    lies between these bounds. The seeds repeat it; the variants are those that there are."""
    chosen = [select(runs, variant, where) for variant in among]
    every = [run for own in chosen for run in own]
    ours, theirs = (
        pd.concat([_by_seed(own, _reader(name, within, every), name) for own in chosen], axis=1).dropna()
        for name in (metric, by)
    )
    measured = f"rank correlation of {_words(metric)} with {_words(by)}, over {_several(among)}"
    correlations = {
        seed: float(scipy.stats.spearmanr(ours.loc[seed], theirs.loc[seed]).statistic)
        for seed in ours.index.intersection(theirs.index)
        if ours.loc[seed].nunique() > 1 and theirs.loc[seed].nunique() > 1
    }
    values = pd.Series(correlations, dtype=float)
    if values.empty:
        raise Lacking(f"{measured}: no seed has it")
    sample = _Sample(mean_interval(_at_look(values)), len(values), tuple(every))
    return _tested(says, measured, sample, low, high)


def stands_out(
    runs: Sequence[Run], says: str, metric: str, of: str, one: Any, others: Sequence[Any], among: Sequence[Variant], *,
    low: float = -math.inf, high: float = math.inf, strict: bool = False, where: Mapping[str, Any] | None = None,
) -> Part:  # fmt: skip
    """Within each run a probe's rows that have ``one`` value in a column (``of``) minus the mean of those with the
    ``others`` that the run has; the mean over these variants (``among``) lies between these bounds. A bound of 0 and no
    other is an order."""
    chosen = [select(runs, variant, where) for variant in among]

    def row(run: Run, name: Any) -> float | None:
        return value(run, f"{metric.removesuffix(']')}{',' if metric.endswith(']') else '['}{of}={name}]")

    def read(run: Run) -> float | None:
        first, rest = row(run, one), [number for name in others if (number := row(run, name)) is not None]
        return None if first is None or not rest else first - float(np.mean(rest))

    measured = f"{_words(metric)}, {of} {label(str(one))} minus the mean of the others, of {_several(among)}"
    sample = _contrast(runs, [(1 / len(chosen), own) for own in chosen], read, metric, measured)
    order = _is_order(low, high) and not strict
    return _tested(says, measured, sample, low, high,
                   _tie(metric, lambda run: row(run, one), sample.runs) if order else 0.0)  # fmt: skip


def regret(
    runs: Sequence[Run], says: str, variant: Variant, at: Sequence[float], among: Sequence[Variant], high: float, *,
    where: Mapping[str, Any] | None = None,
) -> Part:  # fmt: skip
    """The test accuracy of a variant in a stretch of the run (``at``, in parts of it) is within ``high`` of the best of
    all these variants (``among``) and steps. In each seed the best is chosen on one half of the test images and both
    are taken on the other, both ways; where the halves were not logged, on all images, which flatters the best."""
    own = _runs_of(select(runs, variant, where))
    others = [_runs_of(select(runs, v, where)) for v in among]
    seeds = sorted(set(own).intersection(*others))
    every = [run for by_seed in (own, *others) for run in by_seed.values()]
    halves = all("accuracy_a" in run.curves.get("test", {}) for run in every)
    ways = (("_a", "_b"), ("_b", "_a")) if halves else (("", ""),)

    def lost(seed: int) -> float:
        of_seed = []
        for chosen_on, taken_on in ways:
            curves = [[curve(o[seed], f"test_accuracy{h}") for o in others] for h in (chosen_on, taken_on)]
            first, second = (np.concatenate(c) for c in curves)
            here = curve(own[seed], f"test_accuracy{taken_on}", window(own[seed], of_run=at))
            of_seed.append(float(second[first.argmax()] - here.mean()))
        return float(np.mean(of_seed))

    values = pd.Series({seed: lost(seed) for seed in seeds}, dtype=float).dropna()
    measured = f"test accuracy of the best of {len(among)} settings and all steps minus that of {_named(variant)}"
    if values.empty:
        raise Lacking(f"{measured}: no seed has it")
    sample = _Sample(mean_interval(_at_look(values)), len(values), tuple(every))
    return _tested(says, measured, sample, -math.inf, high)


def _runs_of(runs: Iterable[Run]) -> dict[int, Run]:
    """seed -> its run."""
    by_seed: dict[int, Run] = {}
    for run in runs:
        if run.config.seed in by_seed:
            raise UsageError("test accuracy: several runs a seed; narrow the variant down by more of its fields")
        by_seed[run.config.seed] = run
    return by_seed


# --- predicates over the numbers of a definition -----------------------------------------------------------


def _exact(
    measured: Mapping[str, float], says: str, measure: str, expected: str, holds: Callable[[float], bool]
) -> Part:
    if measure not in measured:
        raise unknown("measure", measure, measured)
    value = float(measured[measure])
    verdict = SUPPORTED if holds(value) else REFUTED
    return Part(says, f"{measure} ({expected})", Interval(value, math.nan, math.nan), None, verdict)


def equals(
    measured: Mapping[str, float], says: str, measure: str, value: float | None = None, tolerance: float = TOLERANCE
) -> Part:
    """The number is this value, within the tolerance; without a value it is a difference, and there is none."""
    if value is None:
        expected = f"at most {tolerance:g}"
    else:
        expected = f"expected {value:.4g}" + (f" within {tolerance:g}" if tolerance > TOLERANCE else "")
    return _exact(measured, says, measure, expected, lambda found: abs(found - (value or 0)) <= tolerance)


def exceeds(measured: Mapping[str, float], says: str, measure: str, bound: float = TOLERANCE) -> Part:
    """The measured number is above this bound; there is a difference."""
    return _exact(measured, says, measure, f"more than {bound:g}", lambda found: found > bound)


# --- predicates over a benchmark -----------------------------------------------------------------------------


def takes_less(found: Mapping[str, Any], says: str, a: str, b: str, share: float) -> Part:
    """A step with ``a`` takes less than this share of the time of a step with ``b``, by the 95 % interval of the
    median of ratios within a round of :func:`normcore.lab.bench.steps.steps`."""
    median, low, high = bench_steps.ratio(found, a, b)
    effect = Interval(median, low, high)
    verdict = SUPPORTED if effect.high < share else REFUTED if effect.low > share else INCONCLUSIVE
    return Part(says, f"time of a step, {a} over {b}", effect, None, verdict)


#: over runs
PREDICATES: dict[str, Predicate] = {
    "lower": lower, "higher": higher, "alike": alike, "rate_higher": rate_higher, "between": between, "mostly": mostly,
    "stretches": stretches, "predicts": predicts, "trend": trend, "contrast": contrast, "gains": gains,
    "gains_less": gains_less, "interacts": interacts, "sets_apart": sets_apart, "ranks": ranks,
    "stands_out": stands_out, "regret": regret,
}  # fmt: skip
#: over the numbers of a definition
EXACT_PREDICATES: dict[str, Predicate] = {"equals": equals, "exceeds": exceeds}
#: over a benchmark
SPEED_PREDICATES: dict[str, Predicate] = {"takes_less": takes_less}
