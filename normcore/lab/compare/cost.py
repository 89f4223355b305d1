"""What a normalizer costs: forward and backward alone, and a step of training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch

from ..bench.layers import layers, median_interval, take_turns
from ..bench.steps import Step
from ..config import RunConfig
from ..figures.look import label
from ..provenance import choose_device
from ..runs.training import build, deterministic, keep_memory
from ..tasks import task_class

CALLS = 5  # steps of a network in its turn


def layer_costs(
    norms: Sequence[str], shapes: Sequence[Sequence[int]], rounds: int, device: str = "auto",
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Forward and backward of each layer, float32, uncompiled.

    Returns:
        one row a normalizer and a shape: ``ms``, ``to BatchNorm2d`` and ``to the floor`` (medians of ratios within a
        round, and the ends of their 95 % intervals), and ``kept``, what is kept for the backward pass, as a multiple of
        the input.
    """
    large, small = shapes[:-1], shapes[-1]
    found = layers(
        device, rounds, names=["bn", *(n for n in norms if n not in ("bn", "none"))], small=tuple(small), forms=(),
        shapes=[tuple(s) for s in large], engines=["eager"], options=options or {},
    )  # fmt: skip
    rows = []
    for shape, measured in found["measured"].items():
        for name in (n for n in norms if f"{n} eager" in measured):
            row = measured[f"{name} eager"]
            rows.append({
                "norm": label(name), "shape": shape, "ms": row["ms"], "to BatchNorm2d": _ratio(row["to_batch_norm"]),
                "to the floor": _ratio(row["to_floor"]), "kept": row["saved"],
            })  # fmt: skip
    return pd.DataFrame(rows)


def step_times(configs: Sequence[RunConfig], rounds: int, device: str = "auto") -> pd.DataFrame:
    """A step of training (forward, backward, optimizer) of each of these runs' networks, one a normalizer, which take
    turns; on the embedded digits at the runs' size, so that no other data need be there.

    Returns:
        one row a normalizer: ``ms``, and ``to BN``, the ratio to batch normalization's where that is among them.
    """
    chosen = choose_device(device)
    keep_memory()
    with deterministic(chosen):
        times = take_turns({c.norm: _step(c, chosen) for c in configs}, rounds, CALLS, chosen, "steps")
    rows = []
    for name, own in times.items():
        row = {"norm": label(name), "ms": round(median_interval(own)[0], 3)}
        if "bn" in times:
            row["to BN"] = _ratio(median_interval([a / b for a, b in zip(own, times["bn"], strict=True)]))
        rows.append(row)
    return pd.DataFrame(rows)


def _step(config: RunConfig, device: torch.device) -> Step:
    config = replace(config, dataset="digits", validation=0)
    task = task_class(config.task)(config, device)
    return Step(config, task, build(config, task))


def _ratio(interval: Sequence[float]) -> str:
    middle, low, high = interval
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"
