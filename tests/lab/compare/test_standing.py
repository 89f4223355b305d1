"""Where a normalizer stands: what is said of differences, and the profile over workloads."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from normcore.lab.compare.battery import Workload
from normcore.lab.compare.report import draw_profile
from normcore.lab.compare.standing import BETTER, LEVEL, OPEN, RANGE, WORSE, profile, sentences, standing

RIGHT = Workload("right", "Right", "?")
LOSS = Workload("loss", "Loss", "?", "test_loss", lower=True, least=0.02)
RATES = Workload("rates", "Rates", "?", "decades", least=0.25)
WIGGLE = np.array([0.001, -0.001, 0.0, 0.002, -0.002])


def scores(**values: Any) -> pd.DataFrame:
    """Rows of workload__norm=values, one a seed."""
    rows = [
        {"workload": key.partition("__")[0], "norm": key.partition("__")[2], "seed": seed, "value": value}
        for key, of in values.items()
        for seed, value in enumerate(of)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("workload", "shift", "noise", "verdict"),
    [
        (RIGHT, 0.05, 1.0, BETTER),
        (RIGHT, -0.05, 1.0, WORSE),
        (LOSS, -0.1, 1.0, BETTER),
        (LOSS, 0.1, 1.0, WORSE),
        (RIGHT, 0.0005, 0.1, LEVEL),
        (RIGHT, 0.003, 2.0, OPEN),  # less than what is of interest, and perhaps more
        (RIGHT, 0.01, 20.0, OPEN),
    ],
)
def test_a_difference_is_judged_by_its_interval_and_by_what_is_of_interest(
    workload: Workload, shift: float, noise: float, verdict: str
) -> None:
    base = 0.7 + WIGGLE
    table = standing(
        scores(**{f"{workload.name}__mine": base + shift + noise * WIGGLE[::-1], f"{workload.name}__bn": base}),
        [workload], "mine", ["bn"],
    )  # fmt: skip
    (row,) = table.to_dict("records")
    assert row["verdict"] == verdict
    assert row["difference"] == pytest.approx(shift, abs=1e-9)
    assert (row["n"], row["low"] < row["difference"] < row["high"]) == (5, True)


def test_few_seeds_judge_nothing_and_what_is_not_there_has_no_row() -> None:
    table = standing(
        scores(right__mine=[0.9, 0.9], right__bn=[0.1, 0.1], loss__bn=[1.0]), [RIGHT, LOSS], "mine", ["bn", "gn"]
    )
    assert table["verdict"].tolist() == [RANGE]


def test_it_is_said_in_words() -> None:
    base = 0.7 + WIGGLE
    values = scores(
        right__mine=base + 0.05, right__bn=base + 0.2 * WIGGLE[::-1], right__gn=base + 0.05 + 0.1 * WIGGLE[::-1],
        right__ln=base + 0.2, rates__mine=[np.nan, 1, 1, 1, 1], rates__bn=[1.0, 1, 1, 1, 1],
    )  # fmt: skip
    workloads = [RIGHT, RATES, LOSS]
    said = sentences(standing(values, workloads, "mine", ["bn", "gn", "ln"]), values, workloads, "mine", {"loss"})
    assert said[0].startswith("Right: better than BN by 0.05 [0.04")
    assert "worse than LN by 0.15 [" in said[0]
    assert said[0].endswith("level with GN.")
    assert said[1:] == ["Rates: diverged with 1 of 5 seeds; not judged beside BN (+0).", "Loss: it cannot stand there."]
    assert sentences(standing(values, [LOSS], "mine", ["bn"]), values, [LOSS], "mine") == ["Loss: not run yet."]


def test_the_profile_is_of_what_is_to_be_small() -> None:
    values = scores(
        right__mine=[0.9], right__bn=[0.8], loss__mine=[3.0], loss__bn=[2.0], rates__mine=[0.0], rates__bn=[2.0],
    )  # fmt: skip
    ratios = profile(values, [RIGHT, LOSS, RATES]).set_index(["workload", "norm"])["ratio"].to_dict()
    expected = {("right", "mine"): 1, ("right", "bn"): 2, ("loss", "mine"): 1.5, ("loss", "bn"): 1,
                ("rates", "mine"): np.inf, ("rates", "bn"): 1}  # fmt: skip
    assert ratios == pytest.approx(expected)
    axes = draw_profile(profile(values, [RIGHT, LOSS, RATES])).axes[0]
    mine, bn = axes.lines
    assert mine.get_ydata()[-1] == pytest.approx(2 / 3)  # of three workloads it has two
    assert bn.get_ydata()[0] == pytest.approx(2 / 3)  # and BN is the best of two
    assert bn.get_ydata()[-1] == 1
