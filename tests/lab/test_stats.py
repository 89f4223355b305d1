"""Intervals, paired differences, and the choice of a setting."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normcore.lab.errors import UsageError
from normcore.lab.stats import best, intervals, mean_interval, paired_difference

numbers = st.lists(st.floats(-1e3, 1e3, allow_nan=False), min_size=2, max_size=6)


@settings(max_examples=25, deadline=None)
@given(numbers)
def test_an_interval_holds_its_mean_and_lies_within_the_values(values: list[float]) -> None:
    found = mean_interval(values)
    slack = 1e-9 * (1 + max(map(abs, values)))
    assert found.mean == pytest.approx(float(np.mean(values)))
    assert min(values) - slack <= found.low <= found.mean + slack
    assert found.mean - slack <= found.high <= max(values) + slack


@settings(max_examples=10, deadline=None)
@given(numbers, st.floats(-10, 10), st.floats(0.1, 10))
def test_an_interval_moves_and_scales_with_its_values(values: list[float], shift: float, scale: float) -> None:
    first = mean_interval(values)
    moved = mean_interval([scale * v + shift for v in values])
    for a, b in zip(first, moved, strict=True):
        assert b == pytest.approx(scale * a + shift, abs=1e-6)


def test_the_interval_is_the_percentile_bootstrap_s() -> None:
    """Against all 27 equally likely resamples of three values: their 2.5 % and 97.5 % points."""
    values = [0.0, 1.0, 5.0]
    means = [np.mean([a, b, c]) for a in values for b in values for c in values]
    found = mean_interval(values)
    assert found.low == pytest.approx(np.quantile(means, 0.025, method="inverted_cdf"), abs=1e-9)
    assert found.high == pytest.approx(np.quantile(means, 0.975, method="inverted_cdf"), abs=1e-9)


def test_one_value_has_no_interval_and_equal_values_an_empty_one() -> None:
    single = mean_interval([2.0])
    assert single.mean == 2
    assert math.isnan(single.low)
    assert math.isnan(single.high)
    assert f"{single:.2f}" == f"{single.mean:.2f}"
    assert mean_interval([2.0, 2.0]) == (2, 2, 2)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_what_has_no_mean_is_refused(values: list[float]) -> None:
    with pytest.raises(UsageError, match="finite values"):
        mean_interval(values)


def _table() -> pd.DataFrame:
    rows = [("bn", s, 0.9 + 0.01 * s) for s in range(4)] + [("none", s, 0.8 + 0.01 * s) for s in range(1, 5)]
    return pd.DataFrame(rows, columns=["norm", "seed", "value"])


def test_differences_are_taken_within_seeds() -> None:
    found = paired_difference(_table(), "value", "bn", "none")  # seeds 1, 2, 3, each 0.1 apart
    assert tuple(found) == pytest.approx((0.1, 0.1, 0.1))
    assert paired_difference(_table(), "value", "none", "bn").mean == pytest.approx(-0.1)


def test_differences_without_a_pair_are_refused() -> None:
    with pytest.raises(UsageError, match="no runs of gn"):
        paired_difference(_table(), "value", "bn", "gn")
    with pytest.raises(UsageError, match="share no seed"):
        paired_difference(_table().query("(norm == 'bn') == (seed < 2)"), "value", "bn", "none")
    with pytest.raises(UsageError, match="more than one run a seed"):
        paired_difference(pd.concat([_table(), _table()]), "value", "bn", "none")


def test_intervals_are_by_group() -> None:
    found = intervals(_table(), ["norm"], "value")
    assert found["norm"].tolist() == ["bn", "none"]
    assert found["n"].tolist() == [4, 4]
    assert found["mean"].tolist() == pytest.approx([0.915, 0.825])


def test_the_best_setting_is_by_mean_and_never_one_that_diverged() -> None:
    rows = [
        ("bn", 0.1, 0, 0.90, "finished"), ("bn", 0.1, 1, 0.70, "finished"),
        ("bn", 0.2, 0, 0.85, "finished"), ("bn", 0.2, 1, 0.85, "finished"),
        ("bn", 9.0, 0, 0.99, "finished"), ("bn", 9.0, 1, 0.99, "diverged"),
        ("none", 0.1, 0, 0.5, "finished"),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["norm", "lr", "seed", "accuracy", "status"])
    table["batch_size"] = 32
    found = best(table, "accuracy", over=["lr", "batch_size"])
    assert found == {"bn": {"lr": 0.2, "batch_size": 32}, "none": {"lr": 0.1, "batch_size": 32}}
    assert type(found["bn"]["batch_size"]) is int
    with pytest.raises(UsageError, match="every setting of bn diverged"):
        best(table.assign(status="diverged"), "accuracy", over=["lr"])
