"""The protocol of document S0, cats and dogs, shared by its experiments.

Two classes of colour images; the network ``catdog`` of :mod:`normcore.lab.models`; Adam; 20 evaluations on the
whole test set, evenly spaced (the source has 20,000 steps and a point each 1,000), and 200 points of the training
curve. Behind the flattening there is always BN, but for ``none``, which is to have no normalizer at all.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from .figures import Html, show
from .measures import measured
from .plots import draw_plane
from .runs import Run, RunConfig, curves, grid
from .stats import spread
from .variants import renorm_schedule

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
    points: int = 20,
    lr: Any = LR,
    batch_size: Any = BATCH_SIZE,
    **fields: Any,
) -> list[RunConfig]:
    """The runs of these variants: every combination of the fields given as lists, for each seed.

    Args:
        variants: names of ``normcore.make_norm``, or of ``VARIANTS``.
        seeds: how many.
        points: evaluations on the test set, evenly spaced.
        fields: further fields of :class:`normcore.lab.runs.RunConfig`.
    """
    every = {"eval_every": -(-steps // points), "log_every": -(-steps // 200)}
    common = {"dataset": dataset, "image_size": image_size, "model": "catdog", "lr": lr, "batch_size": batch_size,
              "steps": steps, "seed": range(seeds), **every, **fields}  # fmt: skip
    made: list[RunConfig] = []
    for name in variants:
        variant = {"brn": {"norm": "brn", "norm_options": {"schedule": renorm_schedule(steps)}}, **VARIANTS}
        made += grid(**{**common, **variant.get(name, {"norm": name}), **fields})
    return made


def name_of(config: RunConfig) -> str:
    """The variant that the run is of: the inverse of :func:`configs`. FNBL as published is listed as ``cln``."""
    for name, fields in VARIANTS.items():
        wanted = {"norm_options": {}, "model_options": {}, **fields}
        if name != "fnbl-code" and all(getattr(config, k) == v for k, v in wanted.items()):
            return name
    return config.norm


def tables(runs: Sequence[Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The curves and the measures of the runs, each with the columns ``variant`` and ``num_groups``."""
    known = {run.key: (name_of(run.config), run.config.norm_options.get("num_groups")) for run in runs}
    frames = curves(runs), measured(runs)
    for frame in frames:
        frame[["variant", "num_groups"]] = [known[key] for key in frame["key"]]
    return frames


def overview(measures: pd.DataFrame, costs: pd.DataFrame, note: str) -> Html:
    """Accuracy against speed: the highest test accuracy of every variant against the time that it takes to learn, as
    images to a training loss of 0.3 times what an image costs.

    Args:
        measures: as of :func:`tables`, at one batch size.
        costs: as of :func:`normcore.lab.bench_steps.table`.
        note: what the runs are, for the caption.
    """
    cost = costs.set_index("variant")["of_none"]
    cost["none-head"] = cost["none"]
    time = measures["samples_to_loss"] * measures["variant"].map(cost) / 1000
    drawn = draw_plane(
        measures.assign(time=time),
        "time",
        "highest",
        xlabel="time to a training loss of 0.3 (steps of the plain network on 1,000 images)",
        ylabel="highest test accuracy",
        logx=True,
    )
    return show(
        drawn,
        alt="Highest test accuracy against time to a training loss of 0.3, a point a normalizer.",
        caption=f"Accuracy against speed, means over seeds{spread(measures['seed'].nunique(), 'bars')}. A run that never "
        f"came down to the loss stands at its whole time. {note}",
    )
