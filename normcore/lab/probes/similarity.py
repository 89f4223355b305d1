"""How alike features are: of different images, of different layers, of different networks."""

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .landscape import Forward

Row = dict[str, Any]


def features(forward: Forward, model: nn.Module, x: Tensor) -> list[Tensor]:
    """What each stage of the network, or of its ``features``, gives out, (N, values of an image)."""
    seen: dict[int, Tensor] = {}  # the last that a stage gives out: a reference batch may go before
    hooks = [
        stage.register_forward_hook(lambda _, __, out, i=i: seen.__setitem__(i, out.flatten(1).double()))
        for i, stage in enumerate(getattr(model, "features", model).children())
    ]
    forward(model, x)
    for hook in hooks:
        hook.remove()
    return [*seen.values()]


def cosine(values: Tensor) -> float:
    r"""The mean of :math:`x \cdot z / (\|x\| \|z\|)` over all pairs of different images, of their values (N, P)."""
    units = torch.nn.functional.normalize(values)
    n = len(units)
    return float((units.sum(0).square().sum() - units.square().sum()) / (n * (n - 1)))


def gram(values: Tensor) -> Tensor:
    r"""The centred Gram matrix (N, N) of features (N, P), divided by its length, :math:`K / \|K\|_F`. The inner product
    of two, of features of the same images, is their linear centred kernel alignment, CKA (Kornblith et al. 2019,
    section 3): 1 where one is a rotation of the other."""
    centred = values - values.mean(0)
    found = centred @ centred.T
    return found / found.norm().clamp_min(1e-300)


def similarity(forward: Forward, model: nn.Module, beside: Mapping[str, nn.Module], x: Tensor) -> list[Row]:
    """How alike features are, a row each ``of`` the

    - ``inputs``: of a stage, the mean cosine of different images, as they are and ``centred`` on their mean;
    - ``layers``: of a pair of stages, their alignment (:func:`gram`);
    - ``networks``: of a stage and a network beside this one, the alignment of the two.
    """
    own = features(forward, model, x)
    rows: list[Row] = [
        {
            "of": "inputs",
            "layer": i,
            "other": str(i),
            "cosine": cosine(values),
            "centred": cosine(values - values.mean(0)),
        }
        for i, values in enumerate(own, 1)
    ]
    grams = [gram(values) for values in own]
    pairs = [("layers", i, str(j), a, b) for (i, a), (j, b) in itertools.combinations(enumerate(grams, 1), 2)]
    for name, network in beside.items():
        theirs = map(gram, features(forward, network, x))
        pairs += [("networks", i, name, a, b) for i, (a, b) in enumerate(zip(grams, theirs, strict=True), 1)]
    rows += [{"of": of, "layer": i, "other": other, "cosine": float((a * b).sum()), "centred": None}
             for of, i, other, a, b in pairs]  # fmt: skip
    return rows
