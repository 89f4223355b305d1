"""Probes: what is measured inside a network at chosen steps of its training, without disturbing it.

A run asks for them by name (``RunConfig.probes``) and keeps their rows; every probe looks at copies, and its random
numbers are its own, so that a run is the same to the bit with probes and without.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...layers import SwitchableNorm
from ...recalibration import recalibrate
from ...surgery import averaging
from ..config import OWN
from ..tasks.outliers import KINDS
from . import attacks, distributions, influence, landscape, pixels, sequences, similarity, surface
from .landscape import Forward

Row = dict[str, Any]
BATCHES = 16  # that a probe of the gradient is the median over: a single batch's may be long or short


@dataclass(frozen=True)
class Snapshot:
    """What a probe may look at, in training mode.

    Attributes:
        model: the network before a step; a probe changes copies of it only.
        stepped: makes a copy of the network after a step on this batch, with the optimizer as it is.
        forward: the network's scores for a batch.
        batches: the first batches of training images, at most ``BATCHES``, the same whatever the step.
        mixed: makes as many batches of training images drawn at random, whatever order the run has them in.
        scored: a network's mean loss and accuracy in evaluation mode, over all images that are held out or, if told so,
            over all that are trained on.
        held, held_labels: images that are not trained on, looked at whatever the step, and their labels.
        foreign: images of another data set, at least as many as a batch has; none where the run names none.
        lr: the learning rate.
        bounds: of images, what black and white are, (C, 1, 1) each.
        beside: networks of other runs, by the names that the run gives them.
        steps: time steps of a sequence that is trained on, the longest.
        long: makes batches of all sequences that are held out, longer ones among them.
        trained: makes batches of all that is trained on.
        examples: photographs by name, each as a network is given it and what that makes of it; see the task's.
    """

    model: nn.Module
    stepped: Callable[[Tensor, Tensor], nn.Module]
    forward: Forward
    batches: Sequence[tuple[Tensor, Tensor]]
    mixed: Callable[[], Sequence[tuple[Tensor, Tensor]]]
    scored: Callable[..., dict[str, float]]
    held: Tensor
    held_labels: Tensor
    foreign: Tensor
    lr: float
    bounds: attacks.Bounds
    beside: Mapping[str, nn.Module]
    steps: int
    long: Callable[[], Iterable[tuple[Any, Tensor]]]
    trained: Callable[[], Iterable[tuple[Any, Tensor]]]
    examples: Callable[[nn.Module], Iterable[tuple[str, Tensor, Tensor]]]


@torch.no_grad()
def feature_distributions(at: Snapshot) -> list[Row]:
    """The distribution of what each normalizer of ``features`` gives out, or the convolution where there is none: a
    row a layer, :func:`normcore.lab.probes.distributions.summary` and how far ``apart`` it is from the other layers."""
    model, seen = copy.deepcopy(at.model), dict[str, Tensor]()
    for name, part in model.named_modules():
        if name.startswith("features.") and name.endswith((".norm", ".noise")):
            stage = name.rpartition(".")[0]  # the last that it gives out: noise behind the normalizer, the batch behind
            part.register_forward_hook(lambda _, __, out, stage=stage: seen.__setitem__(stage, out))
    at.forward(model, at.held)
    rows = zip(map(distributions.summary, seen.values()), distributions.apart([*seen.values()]), strict=True)
    return [{"layer": i, **found, "apart": apart} for i, (found, apart) in enumerate(rows, start=1)]


def covariate_shift(at: Snapshot) -> list[Row]:
    """:func:`normcore.lab.probes.landscape.covariate_shift` by a step on each batch, a row a layer but the first."""
    return _medians(
        [landscape.covariate_shift(at.forward, at.model, at.stepped(x, y), x, y) for x, y in at.batches], "layer"
    )


def gradients(at: Snapshot) -> list[Row]:
    """:func:`normcore.lab.probes.landscape.first_to_last`, one row."""
    return _medians([[landscape.first_to_last(at.forward, copy.deepcopy(at.model), x, y)] for x, y in at.batches])


def smoothness(at: Snapshot) -> list[Row]:
    """:func:`normcore.lab.probes.landscape.smoothness` around the present weights, one row."""
    return _medians([[landscape.smoothness(at.forward, at.model, x, y, at.lr)] for x, y in at.batches])


def outlier_influence(at: Snapshot) -> list[Row]:
    """:func:`normcore.lab.probes.influence.influence` in batches of held images, a row a kind of outlier that there
    are images for and a mode; as a third mode, ``step``, the ``output`` of all held images changes by
    :func:`normcore.lab.probes.influence.influence_of_a_step`."""
    size = min(len(at.batches[0][0]), len(at.held))
    cut = list(zip(at.held.split(size), at.held_labels.split(size), strict=True))[:BATCHES]
    batches = [(x, y) for x, y in cut if len(x) == size]
    rows: list[Row] = []
    for kind in (kind for kind in KINDS if kind != "foreign" or len(at.foreign)):
        found = [influence.influence(at.forward, at.model, x, y, kind, at.foreign) for x, y in batches]
        rows += [{"kind": kind, **row} for row in _medians(found, "mode")]
        after = [
            influence.influence_of_a_step(at.forward, at.stepped, x, y, at.held, kind, at.foreign) for x, y in batches
        ]
        rows.append({"kind": kind, "mode": "step", "output": float(np.median(after)), "gradient": None, "update": None})
    return rows


def training_set(at: Snapshot) -> list[Row]:
    """Loss and accuracy over all training images in evaluation mode, one row: of a network with dropout or noise the
    training curve, taken on the way, says less than the network can."""
    return [at.scored(at.model, held=False)]


def recalibrated(at: Snapshot) -> list[Row]:
    """Loss and accuracy over all images that are held out, with running statistics that are estimated anew from
    training images drawn at random, one row: what is lost beyond that is not the running averages' doing."""
    model = copy.deepcopy(at.model)
    if any(averaging(model)):
        recalibrate(model, at.mixed())
    return [at.scored(model)]


def adversarial(at: Snapshot) -> list[Row]:
    """Held images attacked in evaluation mode, a row an attack with :func:`normcore.lab.probes.attacks.outcome`: each
    attack with each budget, made on the network itself (``source`` is ``OWN``), and PGD made on each network beside it
    and given to this one (``source`` is that one's name). Of these, images count that both networks have right."""
    x, y = at.held, at.held_labels
    networks = {OWN: at.model, **at.beside}
    networks = {name: copy.deepcopy(network).eval().requires_grad_(False) for name, network in networks.items()}
    with torch.no_grad():
        scores = {name: at.forward(network, x) for name, network in networks.items()}
    tried = [(OWN, attack, budget) for attack in attacks.ATTACKS for budget in attacks.BUDGETS]
    tried += [(name, "pgd", budget) for name in at.beside for budget in attacks.BUDGETS[1:]]
    rows = []
    for source, attack, budget in tried:
        changed = attacks.perturbed(attack, at.forward, networks[source], x, y, budget, at.bounds)
        with torch.no_grad():
            after = at.forward(networks[OWN], changed)
        counted = scores[source].argmax(1) == y
        rows.append({"source": source, "attack": attack, "budget": budget,
                     **attacks.outcome(scores[OWN], after, y, counted)})  # fmt: skip
    return rows


def mixture(at: Snapshot) -> list[Row]:
    """What switchable normalization has learned: of each of its layers the shares of the statistics of IN, LN and BN, a
    row for the mean and one for the variance; none of a network without it."""
    layers = [part for part in at.model.modules() if isinstance(part, SwitchableNorm)]
    weights = [(i, of, getattr(layer, f"{of}_weight")) for i, layer in enumerate(layers, 1) for of in ("mean", "var")]
    return [
        {"layer": i, "of": of, **dict(zip(("in", "ln", "bn"), weight.softmax(0).tolist(), strict=True))}
        for i, of, weight in weights
    ]


@torch.no_grad()
def time_steps(at: Snapshot) -> list[Row]:
    """:func:`normcore.lab.probes.sequences.losses` of the sequences that are held out, in evaluation mode."""
    return sequences.losses(at.forward, copy.deepcopy(at.model).eval(), at.long(), at.steps)


@torch.no_grad()
def statistics(at: Snapshot) -> list[Row]:
    """:func:`normcore.lab.probes.sequences.errors` of running averages against all that is trained on."""
    return sequences.errors(at.forward, copy.deepcopy(at.model).eval(), at.trained(), at.steps)


@torch.no_grad()
def features_alike(at: Snapshot) -> list[Row]:
    """:func:`normcore.lab.probes.similarity.similarity` of held images, in evaluation mode."""
    networks = {name: copy.deepcopy(network).eval() for name, network in {OWN: at.model, **at.beside}.items()}
    return similarity.similarity(at.forward, networks.pop(OWN), networks, at.held)


def around(at: Snapshot) -> list[Row]:
    """:func:`normcore.lab.probes.surface.surface` of training images drawn at random."""
    return surface.surface(at.forward, at.model, at.mixed())


def contrast(at: Snapshot) -> list[Row]:
    """:func:`normcore.lab.probes.pixels.contrast` of held photographs at half of it, in evaluation mode, one row."""
    return [pixels.contrast(at.forward, copy.deepcopy(at.model).eval(), at.held)]


@torch.no_grad()
def examples(at: Snapshot) -> list[Row]:
    """:func:`normcore.lab.probes.pixels.rows` of the task's photographs, in evaluation mode."""
    return pixels.rows(at.examples(copy.deepcopy(at.model).eval()))


def _medians(batches: Sequence[Sequence[Mapping[str, Any]]], *names: str) -> list[Row]:
    """The rows of one batch, each number the median over the batches; what is not a number has these names."""
    return [
        {c: first if c in names else float(np.median([row[c] for row in rows])) for c, first in rows[0].items()}
        for rows in zip(*batches, strict=True)
    ]


PROBES: dict[str, Callable[[Snapshot], list[Row]]] = {
    "distributions": feature_distributions, "shift": covariate_shift, "smoothness": smoothness,
    "outliers": outlier_influence, "training_set": training_set, "mixture": mixture,
    "recalibrated": recalibrated, "gradients": gradients, "adversarial": adversarial,
    "steps": time_steps, "statistics": statistics, "similarity": features_alike, "surface": around,
    "contrast": contrast, "examples": examples,
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
