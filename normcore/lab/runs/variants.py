"""Named variants of an experiment: what each changes in a run, and its name beside every number of its runs."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from ..config import RunConfig, grid
from ..tasks.networks import spatial_only

#: name -> its runs
Variants = dict[str, list[RunConfig]]


def make(named: Mapping[str, Mapping[str, Any]], **common: Any) -> Variants:
    """The runs of each variant: every combination of the fields given as lists.

    Args:
        named: name -> the fields of :class:`normcore.lab.config.RunConfig` that make the variant.
        common: the fields that all share.

    >>> fixed = dict(dataset="digits", image_size=28, model="lenet5", lr=1e-3, batch_size=64, steps=10)
    >>> made = make({"plain": {"norm": "none"}, "bn": {"norm": "bn"}}, **fixed, seed=range(2))
    >>> {name: [(c.norm, c.seed) for c in configs] for name, configs in made.items()}
    {'plain': [('none', 0), ('none', 1)], 'bn': [('bn', 0), ('bn', 1)]}
    """
    return {name: list(grid(**{**common, **fields})) for name, fields in named.items()}


def configs(made: Variants) -> list[RunConfig]:
    """The runs of all variants, one list."""
    return [config for runs in made.values() for config in runs]


def name(frame: pd.DataFrame, made: Variants) -> pd.DataFrame:
    """The rows of a frame with a column ``key``, with the column ``variant`` added, in the order of the variants."""
    if frame.empty:  # of a profile that is published in part
        return frame
    names = {config.key: name for name, runs in made.items() for config in runs}
    named = frame.assign(variant=frame["key"].map(names))
    order = {name: place for place, name in enumerate(made)}
    return named.sort_values("variant", key=lambda column: column.map(order), kind="stable", ignore_index=True)


def placed(norm: str) -> dict[str, Any]:
    """The fields of a run of LeNet-5 with this normalizer wherever it can stand: behind every layer, or behind the
    convolutions alone."""
    return {"norm": norm, **({"model_options": {"linear_norm": False}} if spatial_only(norm) else {})}


def in_lenet5(norms: Iterable[str], steps: int, *, linear: bool = True) -> dict[str, dict[str, Any]]:
    """The variants of LeNet-5 with each of these normalizers: behind every layer where it can stand, or behind the
    convolutions alone (``linear=False``)."""
    named: dict[str, dict[str, Any]] = {
        norm: {"norm": norm, "model_options": {"linear_norm": linear and not spatial_only(norm)}} for norm in norms
    }
    if "brn" in named:
        named["brn"]["norm_options"] = {"schedule": renorm_schedule(steps)}
    return named


def renorm_schedule(steps: int) -> dict[str, int]:
    """When Batch Renormalization opens its clips: at the same shares of the run as the paper's 5,000, 40,000 and
    25,000 of about 100,000 batches (Ioffe 2017, section 4); with its own numbers a short run is plain BN."""
    return {"start": steps // 20, "r_end": steps * 2 // 5, "d_end": steps // 4}
