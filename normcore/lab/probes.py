"""Probes: what is measured inside a network at chosen steps of its training, without disturbing it.

A run asks for them by name (``RunConfig.probes``) and keeps their rows; every probe looks at copies, and its random
numbers are its own, so that a run is the same to the bit with probes and without.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import distributions, landscape, outliers
from .landscape import Forward

Row = dict[str, Any]
BATCHES = 8  # of held images, that an outlier's influence is the median over


@dataclass(frozen=True)
class Snapshot:
    """What a probe may look at, in training mode.

    Attributes:
        model: the network before a step; a probe changes copies of it only.
        stepped: makes a copy of the network, after that step.
        forward: the network's scores for a batch.
        x, y: the batch of the step.
        held, held_labels: images that are looked at whatever the step, and their labels.
        foreign: images of another data set, at least as many as a batch has; none where the run names none.
        lr: the learning rate.
    """

    model: nn.Module
    stepped: Callable[[], nn.Module]
    forward: Forward
    x: Tensor
    y: Tensor
    held: Tensor
    held_labels: Tensor
    foreign: Tensor
    lr: float


@torch.no_grad()
def feature_distributions(at: Snapshot) -> list[Row]:
    """The distribution of what each normalizer of ``features`` gives out, or the convolution where there is none: a
    row a layer, :func:`normcore.lab.distributions.summary` and how far ``apart`` it is from the other layers."""
    model, seen = copy.deepcopy(at.model), dict[str, Tensor]()
    for name, part in model.named_modules():
        if name.startswith("features.") and name.endswith((".norm", ".noise")):
            stage = name.rpartition(".")[0]  # the last that it gives out: noise behind the normalizer, the batch behind
            part.register_forward_hook(lambda _, __, out, stage=stage: seen.__setitem__(stage, out))
    at.forward(model, at.held)
    rows = zip(map(distributions.summary, seen.values()), distributions.apart([*seen.values()]), strict=True)
    return [{"layer": i, **found, "apart": apart} for i, (found, apart) in enumerate(rows, start=1)]


def covariate_shift(at: Snapshot) -> list[Row]:
    """:func:`normcore.lab.landscape.covariate_shift` by the coming step, a row a layer but the first."""
    return landscape.covariate_shift(at.forward, at.model, at.stepped(), at.x, at.y)


def smoothness(at: Snapshot) -> list[Row]:
    """:func:`normcore.lab.landscape.smoothness` around the present weights, one row."""
    return [landscape.smoothness(at.forward, at.model, at.x, at.y, at.lr)]


def influence(at: Snapshot) -> list[Row]:
    """:func:`normcore.lab.outliers.influence` of each kind that there are images for, a row a kind and a mode: the
    medians over the first ``BATCHES`` batches of held images, as a single batch's gradient may be long or short."""
    size = min(len(at.x), len(at.held))
    batches = list(zip(at.held.split(size), at.held_labels.split(size), strict=True))[:BATCHES]
    rows: list[Row] = []
    for kind in (kind for kind in outliers.KINDS if kind != "foreign" or len(at.foreign)):
        found = [outliers.influence(at.forward, at.model, x, y, kind, at.foreign) for x, y in batches if len(x) == size]
        for of_mode in zip(*found, strict=True):
            middle = {c: float(np.median([row[c] for row in of_mode])) for c in of_mode[0] if c != "mode"}
            rows.append({"kind": kind, "mode": of_mode[0]["mode"], **middle})
    return rows


PROBES: dict[str, Callable[[Snapshot], list[Row]]] = {
    "distributions": feature_distributions, "shift": covariate_shift, "smoothness": smoothness, "outliers": influence,
}  # fmt: skip

#: probe -> column -> values, a row of the probe at each place
Probed = dict[str, dict[str, list[Any]]]


def due(probes: Mapping[str, int], step: int, last: bool) -> list[str]:
    """The probes that are taken before the step that follows this one: at the start, every so many steps, and at the
    end."""
    return [name for name, every in probes.items() if step % every == 0 or last]


def take(name: str, snapshot: Callable[[], Snapshot], device: torch.device, step: int, into: Probed) -> None:
    """Take a probe and note its rows; numbers that are not finite become None."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        torch.manual_seed(step)
        rows = PROBES[name](snapshot())
    columns = into.setdefault(name, {})
    for row in rows:
        for column, value in {"step": step, **row}.items():
            columns.setdefault(column, []).append(_plain(value))


def _plain(value: Any) -> Any:
    """Five significant digits: a result file is read by people, too."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if math.isfinite(value) else None
