"""The guide: groups that can be told apart, and what is said of them."""

import numpy as np
import pandas as pd

from normcore.lab.book.guide import guide, in_short
from normcore.lab.compare.battery import Comparison, Workload
from normcore.lab.compare.standing import groups

from ..compare.test_battery import battery

RIGHT = Workload("right", "Right", "Is it right?")
LOSS = Workload("loss", "Loss", "How wrong is it?", "test_loss", lower=True, least=0.02, unit="nats")
WIGGLE = np.array([0.001, -0.001, 0.002, -0.002, 0.0])


def scores(workload: Workload, **means: float) -> pd.DataFrame:
    """Five seeds of each normalizer around its mean."""
    columns = ["workload", "norm", "seed", "value", "status"]
    rows = [
        [workload.name, norm, seed, mean + (-1) ** i * wiggle, "finished"]
        for i, (norm, mean) in enumerate(means.items())
        for seed, wiggle in enumerate(WIGGLE)
    ]
    return pd.DataFrame(rows, columns=columns)


def test_groups_are_told_apart_from_their_first() -> None:
    found = groups(scores(RIGHT, bn=0.9, ln=0.8, gn=0.899, none=0.797), RIGHT, ["bn", "ln", "gn", "none"])
    assert found == [["bn", "gn"], ["ln", "none"]]
    assert groups(scores(LOSS, bn=2.0, ln=1.5), LOSS, ["bn", "ln"]) == [["ln"], ["bn"]]
    assert groups(scores(RIGHT, bn=0.9, other=0.95), RIGHT, ["bn"]) == [["bn"]]


def test_in_short() -> None:
    def said(workload: Workload, **means: float) -> str:
        found = scores(workload, **means)
        return in_short(found, workload, groups(found, workload, list(means)))

    assert said(RIGHT, bn=0.9, gn=0.899) == "It does not matter here: all are within 0.001 of the first."
    assert said(RIGHT, bn=0.9, gn=0.899, ln=0.8) == "BN and GN do best; BN is better than LN by 0.1."
    assert said(LOSS, bn=2.0, ln=1.5) == "LN does best; LN is better than BN by 0.5."
    assert said(RIGHT) == "Nothing is measured yet."
    unsure = scores(RIGHT, bn=0.9, gn=0.894)
    unsure["value"] += np.tile([0.02, -0.02, 0.01, -0.01, 0.0], 2) * np.repeat([1, -1], 5)
    told = groups(unsure, RIGHT, ["bn", "gn"])
    assert in_short(unsure, RIGHT, told) == "With these seeds no normalizer can be told from the first."


def test_the_page_has_every_workload_with_differences_from_bn() -> None:
    study = battery(["none", "bn", "in"])
    study.refused["transformer", "in"] = "it needs positions"
    found = [scores(w, none=0.7, bn=0.9, **{"in": 0.8}) for w in study.workloads if w.name != "transformer"]
    text = guide(Comparison("quick", study, [], pd.concat([*found, scores(study.workloads[-2], none=2.0, bn=1.0)])))
    assert "| BN | **1** |" in text
    assert "| no norm | 3 |" in text
    assert "(guide-batch-2)=" in text
    assert "[S2-09](#s2-09)" in text
    assert "It cannot stand there: IN." in text
    assert text.count("| 1 | BN |") == len(study.workloads) - 1  # its loss of the LSTM is the highest
    assert "-0.1 [" in text


def test_without_five_seeds_there_is_no_guide() -> None:
    few = scores(RIGHT, bn=0.9)
    text = guide(Comparison("smoke", battery(["bn"]), [], few[few["seed"] < 2]))
    assert text.startswith("Nothing is measured yet")
