"""Published runs made again here: whether they come out as they were published.

A run is a function of its configuration, its code, and the instructions that its numbers are computed with. The same
code on the same instruction set gives the same bits. Another instruction set or another release of torch rounds
otherwise, and what a network makes of other roundings is one more draw of what a seed draws.
"""

import math
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # see stats.py
import torch

from . import paths
from .config import RunConfig
from .files import locked, read_sealed, write_sealed
from .provenance import instructions, provenance
from .runs.experiments import Experiment
from .runs.store import Run, Store
from .runs.training import train
from .stats import CONFIDENCE, MIN_SEEDS
from .verdicts.predicates import setting_of

SAME, NOISE, FEW, OTHER = "to the bit", "within seed noise", "other bits, too few seeds to tell more", "differs"
NOTED = "data/verified.json"
#: instruction sets, the largest first, as ATen and as oneDNN are told to use no larger one
_INSTRUCTIONS = {"AVX512": ("avx512", "AVX512_CORE"), "AVX2": ("avx2", "AVX2"), "DEFAULT": ("default", "SSE41")}
_VECTORS = ("AVX512", "AVX2")  # what nobody computes without who has them: without, a run takes ten times as long


@dataclass(frozen=True)
class Verified:
    """A published run and what it came out as.

    Attributes:
        published, again: the run as it was published, and as it came out here.
        outcome: ``SAME``, all curves, final metrics and probes; ``NOISE``, each final metric lies where one more seed's
            would, in the 95 % prediction interval of the published seeds; ``FEW``, other bits, and fewer seeds than
            such an interval takes; or ``OTHER``.
        change: the largest change of a final metric.
        instructions: the set that it was made again with.
        why: how the two runs' code, releases and machines differ, and why nothing more can be said.
    """

    published: Run
    again: Run
    outcome: str
    change: float
    instructions: str
    why: str


def cheapest(experiment: Experiment, number: int) -> list[list[Run]]:
    """The published runs of so many settings, the cheapest run and setting first; of the profile ``smoke``, which shows
    nothing of the data, where no other is published. Of runs that came to an end."""
    store = Store(experiment.name, paths.published())
    profiles = [profile for profile in store.profiles() if profile != "smoke"] or ["smoke"]
    published = {run.key: run for profile in profiles for run in store.runs(profile)}.values()
    settings: dict[str, list[Run]] = {}
    for run in sorted(published, key=lambda run: float(run.provenance["seconds"])):
        # one that takes networks of others needs them, and one that diverged says little: it multiplies every rounding
        if not run.config.needs and run.status == "finished":
            settings.setdefault(setting_of(run.config), []).append(run)
    return list(settings.values())[:number]


def verify(published: Run, seeds: Sequence[Run]) -> Verified:
    """Make a published run again on the CPU, in a process of its own, with the instruction set that it had; where that
    is not known, with this processor's own, and with a smaller one of ``_VECTORS`` if the bits are others.

    Args:
        seeds: the published runs of its setting, which say what a seed changes.
    """
    had = published.provenance.get("instructions", "")
    smaller = [name for name in _sets()[1:] if name in _VECTORS]
    tried = [had] if had in _sets() else [""] if had else ["", *smaller]
    found: list[Verified] = []
    for name in tried:
        found.append(compare(published, _again(published.config, name), seeds))
        if found[-1].outcome == SAME:
            break
    return min(found, key=lambda one: (SAME, NOISE, FEW, OTHER).index(one.outcome))


def note(rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep outcomes, as ``normcore verify`` shows them, in place of the earlier ones of their experiments."""
    experiments, now = {row["experiment"] for row in rows}, provenance(torch.device("cpu"))
    new = [{"experiment": r["experiment"], "key": r["key"], "outcome": r["outcome"], "commit": now["commit"],
            "instructions": r["instructions"]} for r in rows]  # fmt: skip
    with locked(paths.cache() / "locks" / "verified.lock", 60.0):  # others may be at other experiments
        others = [row for row in noted() if row["experiment"] not in experiments]
        both = sorted([*others, *new], key=lambda r: (r["experiment"], r["key"]))
        write_sealed(paths.root() / NOTED, {"verified": both})


def noted(experiment: str = "") -> list[dict[str, Any]]:
    """What :func:`note` kept, of one experiment or of all."""
    path = paths.root() / NOTED
    rows: list[dict[str, Any]] = read_sealed(path)["verified"] if path.is_file() else []
    return [row for row in rows if experiment in ("", row["experiment"])]


def _sets() -> list[str]:
    """The instruction sets that this processor has, its own first."""
    order = list(_INSTRUCTIONS)
    return order[order.index(instructions()) :] if instructions() in order else []


def _again(config: RunConfig, wanted: str) -> Run:
    """The run, in a new process that uses this instruction set, or its processor's own."""
    names = dict(zip(("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"), _INSTRUCTIONS.get(wanted, ()), strict=False))
    with _environment(names), ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(train, config, torch.device("cpu")).result()


def compare(published: Run, again: Run, seeds: Sequence[Run]) -> Verified:
    """What a run came out as; the arguments are those of :func:`verify` and :class:`Verified`."""
    used = str(again.provenance.get("instructions", ""))
    changes = [abs(again.final.get(name, math.nan) - value) for name, value in published.final.items()]
    differences = _differences(published, again)
    if (again.curves, again.final, again.probes) == (published.curves, published.final, published.probes):
        return Verified(published, again, SAME, 0.0, used, "")
    numbers = {name: [run.final[name] for run in seeds if name in run.final] for name in published.final}
    if len(seeds) < MIN_SEEDS:
        outcome = FEW
        differences.append(f"{len(seeds)} published seeds, too few to tell what a seed changes")
    else:
        outcome = NOISE if all(_one_more(n, again.final.get(name)) for name, n in numbers.items()) else OTHER
    return Verified(published, again, outcome, max(changes, default=math.nan), used, "; ".join(differences))


def _one_more(seeds: Sequence[float], value: float | None) -> bool:
    """Whether a value lies in the prediction interval for one more seed; what rounding alone does always does."""
    if value is None or len(seeds) < MIN_SEEDS:
        return False
    n, sd = len(seeds), float(np.std(seeds, ddof=1))
    reach = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * sd * math.sqrt(1 + 1 / n)
    return abs(value - float(np.mean(seeds))) <= reach + 1e-6


def _differences(published: Run, again: Run) -> list[str]:
    """What is not the same in what the two were made with, in words."""

    def facts(run: Run) -> dict[str, str]:
        known = run.provenance
        return {
            "device": known["device"], "torch": known["versions"]["torch"], "code": known.get("code") or "unknown",
            "instructions": known.get("instructions") or "unknown", "data": known["data"]["fingerprint"],
        }  # fmt: skip

    before, now = facts(published), facts(again)
    return [f"{name} {before[name]} is {now[name]} here" for name in before if before[name] != now[name]]


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """With these variables for processes that are started within the block."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
