"""The protocol of document S0, cats and dogs, shared by its experiments.

Two classes of colour images; the network ``catdog`` of :mod:`normcore.lab.models`; Adam; 20 evaluations on the
whole test set, evenly spaced (the source has 20,000 steps and a point each 1,000), and 200 points of the training
curve. Behind the flattening there is always BN, but for ``none``, which is to have no normalizer at all.
"""

from collections.abc import Iterable
from typing import Any

from .runs import RunConfig, grid

LR, BATCH_SIZE = 1e-4, 16  # the source's, unless it sweeps them

#: names beside those of ``normcore.make_norm`` -> the fields of a run that they stand for
VARIANTS: dict[str, dict[str, Any]] = {
    "none": {"norm": "none", "model_options": {"head_norm": False}},
    "none-head": {"norm": "none"},  # BN behind the flattening, as with every normalizer
    "gn": {"norm": "gn", "norm_options": {"num_groups": 8}},  # the source's choice
    "fnbl-code": {"norm": "cln"},  # which it is, to the bit
    "fnbl-text": {"norm": "fnbl", "norm_options": {"semantics": "text"}},
}


def configs(
    variants: Iterable[str],
    *,
    dataset: str,
    image_size: int,
    steps: int,
    seeds: int,
    lr: Any = LR,
    batch_size: Any = BATCH_SIZE,
    **fields: Any,
) -> list[RunConfig]:
    """The runs of these variants: every combination of the fields given as lists, for each seed.

    Args:
        variants: names of ``normcore.make_norm``, or of ``VARIANTS``.
        seeds: how many.
        fields: further fields of :class:`normcore.lab.runs.RunConfig`.
    """
    points = {"eval_every": -(-steps // 20), "log_every": -(-steps // 200)}
    common = {"dataset": dataset, "image_size": image_size, "model": "catdog", "lr": lr, "batch_size": batch_size,
              "steps": steps, "seed": range(seeds), **points, **fields}  # fmt: skip
    made: list[RunConfig] = []
    for name in variants:
        variant = {"brn": {"norm": "brn", "norm_options": {"schedule": renorm_schedule(steps)}}, **VARIANTS}
        made += grid(**{**common, **variant.get(name, {"norm": name})})
    return made


def renorm_schedule(steps: int) -> dict[str, int]:
    """When Batch Renormalization opens its clips: at the same shares of the run as the paper's 5,000, 40,000 and
    25,000 of about 100,000 batches (Ioffe 2017, section 4); with its own numbers a short run is plain BN."""
    return {"start": steps // 20, "r_end": steps * 2 // 5, "d_end": steps // 4}
