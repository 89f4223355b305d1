"""The protocol of document S0, cats and dogs, shared by its experiments.

Two classes of colour images; the network ``catdog`` of :mod:`normcore.lab.tasks.networks`; Adam; 20 evaluations on the
whole test set, evenly spaced (the source has 20,000 steps and a point each 1,000), and 200 points of the training
curve.

The source leaves open whether BN stands behind the flattening of every network; its words on that are in its section on
full normalization. A variant's name says which network and which layer it is of:

==============  =====================================================================================================
``bn`` ...      the layer as its paper has it, no BN behind the flattening: the normalizer, and not its head
``bn-head`` ... the same with BN behind the flattening
``bn-report``   the layer as the report ran it, with the constants of its framework; see :data:`REPORT`
==============  =====================================================================================================
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from .config import RunConfig, grid
from .errors import UsageError
from .figures.charts import draw_plane
from .figures.look import Html, show
from .runs.store import Run
from .runs.variants import renorm_schedule
from .stats import spread
from .verdicts.measures import measured
from .verdicts.tables import curves

LR, BATCH_SIZE = 1e-4, 16  # the source's, unless it sweeps them

#: the layers that are not simply the one of their name -> the fields of a run that they stand for
LAYERS: dict[str, dict[str, Any]] = {
    "gn": {"norm": "gn", "norm_options": {"num_groups": 8}},  # the source's choice
    "fnbl-code": {"norm": "cln"},  # which it is, to the bit
    "fnbl-text": {"norm": "fnbl", "norm_options": {"semantics": "text"}},
}
KERAS = {"momentum": 0.01, "eps": 1e-3}  # of tf.layers' BN, which keeps 0.99 of its running averages
BARE = {"head_norm": False}  # no BN behind the flattening

#: the layers as the report ran them: BN of tf.layers; for LN the layer of Keras, which normalizes the channels of each
#: position; for IN and GN those of keras-contrib with their defaults. Its full normalizations have BN behind.
REPORT: dict[str, dict[str, Any]] = {
    "bn-report": {"norm": "bn", "norm_options": KERAS, "model_options": BARE},
    "ln-report": {"norm": "cln", "norm_options": {"eps": 1e-3}, "model_options": BARE},
    "in-report": {"norm": "contrib-in", "model_options": BARE},
    "gn-report": {"norm": "contrib-gn", "norm_options": {"num_groups": 8}, "model_options": BARE},
    "fnbb-report": {"norm": "fnbb", "norm_options": KERAS, "model_options": {"head_options": KERAS}},
    "fnbl-report": {"norm": "cln", "norm_options": {"eps": 1e-3}, "model_options": {"head_options": KERAS}},
}
HEAD = "-head"


def fields(variant: str, steps: int) -> dict[str, Any]:
    """The fields of a run that make it one of this variant; BatchRenorm's schedule depends on the steps."""
    if variant in REPORT:
        return REPORT[variant]
    name = variant.removesuffix(HEAD)
    layer = {"norm_options": {"schedule": renorm_schedule(steps)}} if name == "brn" else {}
    head = {} if variant.endswith(HEAD) else {"model_options": BARE}
    return {**LAYERS.get(name, {"norm": name}), **layer, **head}


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
    num_groups: int | Sequence[int] = (),
    **further: Any,
) -> list[RunConfig]:
    """The runs of these variants: every combination of the fields given as lists, for each seed.

    Args:
        variants: a name of ``normcore.make_norm`` or of ``LAYERS``, alone or with ``-head``, or one of ``REPORT``.
        seeds: how many.
        points: evaluations on the test set, evenly spaced.
        num_groups: of the group normalizations among them, in place of their own.
        further: fields of :class:`normcore.lab.config.RunConfig`.
    """
    every = {"eval_every": -(-steps // points), "log_every": -(-steps // 200)}
    common = {"dataset": dataset, "image_size": image_size, "model": "catdog", "lr": lr, "batch_size": batch_size,
              "steps": steps, "seed": range(seeds), **every}  # fmt: skip
    groups = [num_groups] if isinstance(num_groups, int) else list(num_groups)
    made: list[RunConfig] = []
    for variant in variants:
        own = fields(variant, steps)
        options = [{**own.get("norm_options", {}), "num_groups": number} for number in groups]
        made += grid(**{**common, **own, **({"norm_options": options} if options else {}), **further})
    return made


def rows(table: Sequence[Mapping[str, Any]], **common: Any) -> list[RunConfig]:
    """The runs of a table: each row names ``variants``, and whatever of :func:`configs` is its own in place of what all
    rows share."""
    made: list[RunConfig] = []
    for row in table:
        if "variants" not in row:
            raise UsageError(f"a row of runs names its variants, got {dict(row)}")
        made += configs(**{**common, **row})
    return list({config.key: config for config in made}.values())


def name_of(config: RunConfig) -> str:
    """The variant that the run is of: the inverse of :func:`configs`. FNBL as published is listed as ``cln``."""
    named: dict[str, dict[str, Any]] = {k: v for k, v in LAYERS.items() if k != "fnbl-code"}
    own = {k: v for k, v in config.norm_options.items() if k not in ("num_groups", "schedule")}
    for name, wanted in REPORT.items():
        options = {k: v for k, v in wanted.get("norm_options", {}).items() if k != "num_groups"}
        if (config.norm, own, config.model_options) == (wanted["norm"], options, wanted["model_options"]):
            return name
    layers = {(f["norm"], f.get("norm_options", {}).get("semantics")): name for name, f in named.items()}
    name = layers.get((config.norm, own.get("semantics")), config.norm)
    return name if config.model_options.get("head_norm") is False else name + HEAD


def tables(runs: Sequence[Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The curves and the measures of the runs, each with the columns ``variant`` and ``num_groups``."""
    known = {run.key: (name_of(run.config), run.config.norm_options.get("num_groups")) for run in runs}
    frames = curves(runs), measured(runs)
    for frame in frames:
        frame[["variant", "num_groups"]] = [known[key] for key in frame["key"]]
    return frames


def overview(measures: pd.DataFrame, costs: pd.DataFrame, note: str) -> Html:
    """Accuracy against speed: the highest test accuracy of every layer against the time that it takes to learn, as
    images to a training loss of 0.3 times what an image costs. Without BN behind the flattening, which by itself makes
    a network learn in a third of the images and would stand for the layer before it.

    Args:
        measures: as of :func:`tables`, at one batch size.
        costs: as of :func:`normcore.lab.bench.steps.step_costs`.
        note: what the runs are, for the caption.
    """
    cost = costs.set_index("variant")["of_none"]
    measures = measures[measures["variant"].isin(cost.index)]
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
        caption="Accuracy against speed, no BN behind the flattening: means over seeds"
        f"{spread(measures['seed'].nunique(), 'bars')}. A run that never came down to the loss stands at its whole "
        f"time. {note}",
    )
