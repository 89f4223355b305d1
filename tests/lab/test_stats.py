"""Intervals, paired differences, moderated variances, looks, and the choice of a setting."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from normcore.lab.errors import UsageError
from normcore.lab.stats import (
    ALPHA,
    LOOKS,
    NO_PRIOR,
    Interval,
    Prior,
    benjamini_hochberg,
    best,
    family,
    fit_prior,
    holm,
    intervals,
    look,
    mean_interval,
    moderate,
    nominal,
    over_looks,
    paired_difference,
    seeds_needed,
    spread,
)

few = st.lists(st.floats(-1e3, 1e3, allow_nan=False), min_size=2, max_size=4)
enough = st.lists(st.integers(-1000, 1000).map(lambda n: n / 8), min_size=5, max_size=9)


@given(few)
def test_fewer_than_five_seeds_have_a_range(values: list[float]) -> None:
    found = mean_interval(values)
    assert (found.low, found.high, found.n, found.kind) == (min(values), max(values), len(values), "range")
    assert math.isnan(found.p)


@given(enough)
def test_alone_an_interval_is_student_s(values: list[float]) -> None:
    found = mean_interval(values)
    assert found.kind == "interval"
    if np.ptp(values) == 0:
        assert found[:3] == (values[0],) * 3
        return
    expected = reference.ttest_1samp(values, 0)
    assert found[1:3] == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.p == pytest.approx(expected.pvalue)


@settings(max_examples=25)
@given(enough, st.floats(-10, 10), st.floats(0.1, 10))
def test_an_interval_moves_and_scales_with_its_values(values: list[float], shift: float, scale: float) -> None:
    first = mean_interval(values)
    moved = mean_interval([scale * v + shift for v in values])
    assert moved[:3] == pytest.approx([scale * end + shift for end in first[:3]], abs=1e-6)


@pytest.mark.parametrize(("bound", "above"), [(0.0, True), (3.5, False)])
def test_p_values_are_twice_the_one_sided_ones(bound: float, above: bool) -> None:
    values = [1.0, 2.0, 4.0, 3.0, 2.5]
    found = mean_interval(values)
    assert found.above(bound) == pytest.approx(
        min(1, 2 * reference.ttest_1samp(values, bound, alternative="greater").pvalue)
    )
    assert found.below(bound) == pytest.approx(
        min(1, 2 * reference.ttest_1samp(values, bound, alternative="less").pvalue)
    )
    assert (found.above(bound) < found.below(bound)) == above


def test_one_value_has_no_interval_and_equal_values_an_empty_one() -> None:
    single = mean_interval([2.0])
    assert single.mean == 2
    assert math.isnan(single.low)
    assert math.isnan(single.high)
    assert (f"{single:.2f}", single.kind) == ("2.00", "")
    same = mean_interval([2.0] * 5)
    assert same[:3] == (2, 2, 2)
    assert (same.above(1), same.above(2), same.below(2)) == (0, 1, 1)


def test_an_interval_and_a_range_are_told_apart_in_words() -> None:
    assert f"{Interval(2, 1, 3, 5):.1f}" == "2.0 [1.0, 3.0]"
    assert f"{Interval(2, 1, 3, 3):.1f}" == "2.0 (range 1.0 to 3.0)"
    assert f"{Interval(2, 1, 3):.1f}" == "2.0 [1.0, 3.0]"  # not of seeds
    assert [spread(n, "bars") for n in (1, 4, 5)] == [
        ", here one run each",
        ", bars the range of 4 seeds",
        ", bars 95 % intervals",
    ]


# --- the moderated variance ------------------------------------------------------------------------------


def test_the_prior_is_the_one_that_the_variances_come_from() -> None:
    random = np.random.default_rng(0)
    variances = 0.04 * 10 / random.chisquare(10, 20000) * random.chisquare(4, 20000) / 4
    found = fit_prior(variances, 4)
    assert (found.df, found.variance) == pytest.approx((10, 0.04), rel=0.05)
    assert found.pooled == 80000
    same = fit_prior(0.5 * random.chisquare(4, 5) / 4 + 1, 4)  # more alike than chance has it
    assert same.df == math.inf


def test_families_along_the_last_axis_are_fitted_one_by_one() -> None:
    random = np.random.default_rng(1)
    variances = random.chisquare(4, (6, 5)) * random.lognormal(0, 1.5, (6, 5))
    variances[2, 3] = math.nan
    together = fit_prior(variances, 4)
    for i, row in enumerate(variances):
        alone = fit_prior(row[np.isfinite(row)], 4)
        for a, b in zip(together, alone, strict=True):
            assert a[i] == pytest.approx(b)


@pytest.mark.parametrize("variances", [[], [1.0], [1.0, 2.0, 1.0], [0.0] * 6])
def test_too_small_a_family_says_nothing(variances: list[float]) -> None:
    prior = fit_prior(variances, 4)
    variance, df = moderate(2.0, 4, prior)
    assert (float(variance), float(df)) == (2.0, 4.0)


def test_a_variance_is_pulled_toward_the_prior_s() -> None:
    variance, df = moderate(np.array([1.0, 9.0]), 4, Prior(6.0, 3.0, 100.0))  # of which two thirds count
    assert variance == pytest.approx([(4 * 3 + 4 * 1) / 8, (4 * 3 + 4 * 9) / 8])
    assert df == pytest.approx([8, 8])
    variance, df = moderate(9.0, 4, Prior(math.inf, 3.0, 20.0))
    assert (float(variance), float(df)) == (3.0, 10.0)  # half of the family's
    wide, narrow = (mean_interval([1.0, 2, 3, 4, 8], p) for p in (NO_PRIOR, Prior(6.0, 1.0, 100.0)))
    assert narrow.high - narrow.low < wide.high - wide.low
    assert narrow.mean == wide.mean


def test_a_family_is_of_differences_that_share_no_setting() -> None:
    """Every seed is off by a thousand times its number, which is nothing to a difference."""
    random = np.random.default_rng(2)
    columns = [pd.Series(1000.0 * np.arange(5) + random.normal(0, 1, 5)) for _ in range(2000)]
    paired, alone = family(columns, paired=True), family(columns, paired=False)
    assert paired.variance == pytest.approx(1, rel=0.1)
    assert paired.pooled == 1000 * 4
    assert alone.variance == pytest.approx(1000**2 * 2.5, rel=0.1)


def test_intervals_are_by_group_and_moderated_by_each_other() -> None:
    random = np.random.default_rng(3)
    table = pd.DataFrame(
        {"g": np.repeat(np.arange(12), 6), "seed": np.tile(np.arange(6), 12), "m": random.normal(0, 1, 72)}
    )
    found = intervals(table, ["g"], "m")
    groups = [rows["m"].to_numpy() for _, rows in table.groupby("g")]
    prior = fit_prior([g.var(ddof=1) for g in groups], 5)
    assert prior.df > 0
    for row, group in zip(found.itertuples(), groups, strict=True):
        assert (row.mean, row.low, row.high, row.n) == pytest.approx(mean_interval(group, prior)[:4])


# --- looks and many tests --------------------------------------------------------------------------------


def test_looks_are_fixed_in_advance() -> None:
    assert LOOKS == (5, 8, 12, 20)
    assert [look(n) for n in (1, 4, 5, 7, 8, 19, 20, 99)] == [0, 0, 5, 5, 8, 12, 20, 20]


def test_a_p_value_allows_for_the_looks() -> None:
    """Against simulated sums of normal differences, looked at four times."""
    sums = np.random.default_rng(4).standard_normal((200_000, LOOKS[-1])).cumsum(axis=1)
    least = np.min([2 * reference.norm.sf(np.abs(sums[:, n - 1]) / n**0.5) for n in LOOKS], axis=0)
    for p in (0.3, 0.05, nominal(), 0.005):
        assert over_looks(p) == pytest.approx((least <= p).mean(), abs=0.003)
    assert over_looks(nominal()) == pytest.approx(ALPHA)
    assert (over_looks(0), over_looks(1)) == (0, 1)
    assert 1 < over_looks(1e-12) / 1e-12 < len(LOOKS)
    assert 0.015 < nominal() < 0.0205  # Pocock's, for four looks at equal distances, is 0.0182


def test_the_seeds_that_are_needed_find_the_effect_with_the_power_asked_for() -> None:
    needed = seeds_needed(1.0, 1.0)
    assert needed in LOOKS
    values = np.random.default_rng(5).normal(1.0, 1.0, (4000, needed))
    assert (reference.ttest_1samp(values, 0, axis=1).pvalue <= nominal()).mean() > 0.77
    assert seeds_needed(1.0, 0.0) == LOOKS[0]
    assert (seeds_needed(0.0, 1.0), seeds_needed(1e-6, 1.0), seeds_needed(1.0, math.nan)) == (None, None, None)
    assert 20 < (seeds_needed(0.3, 1.0) or 0) < 200


def test_holm_and_benjamini_hochberg_on_a_worked_example() -> None:
    p = [0.04, 0.01, 0.03, 0.005]
    assert holm(p) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert benjamini_hochberg(p) == pytest.approx([0.04, 0.02, 0.04, 0.02])
    assert (holm([]), benjamini_hochberg([])) == ([], [])


# --- tables ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_what_has_no_mean_is_refused(values: list[float]) -> None:
    with pytest.raises(UsageError, match="finite values"):
        mean_interval(values)


def _table() -> pd.DataFrame:
    rows = [("bn", s, 0.9 + 0.01 * s) for s in range(4)] + [("none", s, 0.8 + 0.01 * s) for s in range(1, 5)]
    return pd.DataFrame(rows, columns=["norm", "seed", "value"])


def test_differences_are_taken_within_seeds() -> None:
    found = paired_difference(_table(), "value", "bn", "none")  # seeds 1, 2, 3, each 0.1 apart
    assert found[:4] == pytest.approx((0.1, 0.1, 0.1, 3))
    assert paired_difference(_table(), "value", "none", "bn").mean == pytest.approx(-0.1)


def test_differences_without_a_pair_are_refused() -> None:
    with pytest.raises(UsageError, match="no runs of gn"):
        paired_difference(_table(), "value", "bn", "gn")
    with pytest.raises(UsageError, match="share no seed"):
        paired_difference(_table().query("(norm == 'bn') == (seed < 2)"), "value", "bn", "none")
    with pytest.raises(UsageError, match="more than one run a seed"):
        paired_difference(pd.concat([_table(), _table()]), "value", "bn", "none")


def test_a_difference_is_moderated_by_those_between_the_other_variants() -> None:
    random = np.random.default_rng(6)
    names = [f"n{i}" for i in range(12)]
    rows = [(name, seed, random.normal()) for name in names for seed in range(5)]
    table = pd.DataFrame(rows, columns=["norm", "seed", "value"])
    found = paired_difference(table, "value", "n0", "n1")
    alone = paired_difference(table[table["norm"].isin(["n0", "n1"])], "value", "n0", "n1")
    assert found.mean == alone.mean
    assert found.df > alone.df == 4


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


def test_a_range_holds_its_mean_where_all_values_are_equal() -> None:
    """The mean of equal numbers can be rounded past them, and a figure's bar cannot have a negative length."""
    equal = [0.1 + 0.2] * 3
    table = pd.DataFrame({"norm": "bn", "value": equal})
    for mean, low, high in (
        [*mean_interval(equal)[:3]],
        intervals(table, ["norm"], "value")[["mean", "low", "high"]].iloc[0],
    ):
        assert low <= mean <= high
