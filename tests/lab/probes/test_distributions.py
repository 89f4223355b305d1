"""Distributions of what a layer gives out, against scipy and against what is known of the normal one."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import integrate, stats

from normcore.lab.probes import distributions
from normcore.lab.probes.distributions import (
    BINS,
    QUANTILES,
    REACH,
    SAMPLE,
    apart,
    distance,
    distance_to_normal,
    quantiles,
    summary,
)

Values = NDArray[np.float64]

WIDTH = 2 * REACH / BINS
eighths = st.integers(-80, 80).map(lambda n: n / 8)
samples = st.lists(eighths, min_size=2, max_size=60).map(np.array)


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32)


def normal(items: int, mean: float = 0.0, deviation: float = 1.0) -> Values:
    """The middles of equal shares of a normal distribution."""
    found: Values = mean + deviation * stats.norm.ppf((np.arange(items) + 0.5) / items)
    return found


def between(a: Any, b: Any) -> float:
    return distance(quantiles(tensor(a)), quantiles(tensor(b)))


# --- moments ---------------------------------------------------------------------------------------------


@given(samples.filter(lambda v: np.ptp(v) > 0), st.floats(-50, 50), st.sampled_from([0.25, 1.0, 8.0]))
def test_the_moments_are_scipy_s(values: Values, shift: float, scale: float) -> None:
    given_ = tensor(scale * values + shift)
    found, exact = summary(given_), given_.numpy().astype(np.float64)
    assert found["mean"] == pytest.approx(exact.mean(), abs=1e-4)
    assert found["std"] == pytest.approx(exact.std(), rel=1e-3)
    assert found["skew"] == pytest.approx(stats.skew(exact), rel=1e-2, abs=1e-2)
    assert found["kurtosis"] == pytest.approx(stats.kurtosis(exact), rel=1e-2, abs=1e-2)


def test_a_normal_distribution_has_neither_skew_nor_kurtosis_nor_a_distance() -> None:
    found = summary(tensor(normal(20_000)))
    for name in ("mean", "skew", "kurtosis", "wasserstein"):
        assert found[name] == pytest.approx(0, abs=0.01), name
    assert found["std"] == pytest.approx(1, abs=0.01)


def test_a_skewed_and_a_flat_distribution_have_the_moments_of_the_books() -> None:
    """Of the exponential distribution 2 and 6, of the uniform one 0 and -6/5."""
    u = (np.arange(60_000) + 0.5) / 60_000
    exponential, uniform = summary(tensor(-np.log1p(-u))), summary(tensor(u))
    assert (exponential["skew"], exponential["kurtosis"]) == (pytest.approx(2, abs=0.02), pytest.approx(6, abs=0.2))
    assert (uniform["skew"], uniform["kurtosis"]) == (pytest.approx(0, abs=1e-3), pytest.approx(-1.2, abs=1e-3))


def test_the_shape_does_not_matter_and_no_gradient_is_kept() -> None:
    values = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    flat = summary(values.flatten())
    assert summary(values) == flat
    assert summary(values.double().requires_grad_()) == flat
    assert summary(values.to(memory_format=torch.channels_last))["histogram"] == flat["histogram"]
    assert set(flat) == {"mean", "std", "skew", "kurtosis", "wasserstein", "histogram"}
    assert all(isinstance(v, float) for name, v in flat.items() if name != "histogram")


@pytest.mark.parametrize("value", [0.0, 1.5, -3.0, 0.1, 3.7])
@pytest.mark.parametrize("items", [1, 1000])
def test_a_constant_has_no_deviation_and_no_skew(value: float, items: int) -> None:
    """Of one whose sum is rounded, too: a rounding error is no distribution."""
    found = summary(torch.full((items,), value))
    assert found["mean"] == pytest.approx(value, abs=1e-6)
    assert found["std"] == pytest.approx(0, abs=1e-6)
    assert found["skew"] == 0
    assert found["wasserstein"] == pytest.approx(np.abs(value - normal(items)).mean(), abs=1e-5)
    assert found["histogram"][int((np.float32(value) + REACH) / WIDTH)] == 10_000


def test_what_is_not_finite_is_nowhere_in_the_histogram_and_leaves_no_moment() -> None:
    found = summary(torch.tensor([0.1, math.nan, math.inf, -math.inf]))
    assert sum(found["histogram"]) == 2500
    assert not any(math.isfinite(found[name]) for name in ("mean", "std", "skew", "kurtosis", "wasserstein"))


# --- the histogram ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, BINS // 2 - 1, BINS // 2, BINS - 1])
def test_a_bin_has_what_lies_in_it(place: int) -> None:
    low = -REACH + place * WIDTH
    inside = [low + 0.01 * WIDTH, low + WIDTH / 2, low + 0.99 * WIDTH]
    assert summary(tensor(inside))["histogram"] == [10_000 if i == place else 0 for i in range(BINS)]


@given(st.lists(st.integers(-95, 94), min_size=25, max_size=25))
def test_a_histogram_of_what_is_all_inside_adds_up_to_all(numbers: list[int]) -> None:
    """In bins that numpy finds, too. No value lies between two bins."""
    values = [n / 16 + 1 / 32 for n in numbers]
    found = summary(tensor(values))["histogram"]
    assert sum(found) == 10_000
    assert found == (np.histogram(values, BINS, (-REACH, REACH))[0] * 400).tolist()


def test_what_lies_outside_is_in_no_bin() -> None:
    found = summary(tensor([-7.0, 0.1, 0.1, 6.5, 100.0]))["histogram"]
    assert sum(found) == found[BINS // 2] == 4000


# --- the distance to the standard normal distribution ----------------------------------------------------


@settings(max_examples=30)
@given(st.floats(-5, 5))
def test_a_shifted_normal_distribution_is_as_far_away_as_it_is_shifted(shift: float) -> None:
    assert distance_to_normal(tensor(normal(4000, shift))) == pytest.approx(abs(shift), abs=1e-5)


@settings(max_examples=30)
@given(st.floats(0, 5))
def test_a_scaled_normal_distribution_is_away_by_the_mean_of_its_absolute_values(scale: float) -> None:
    found = distance_to_normal(tensor(normal(20_000, 0, scale)))
    assert found == pytest.approx(abs(scale - 1) * math.sqrt(2 / math.pi), abs=1e-3)


@given(samples)
def test_the_distance_to_normal_is_scipy_s_to_as_many_normal_values(values: Values) -> None:
    found = distance_to_normal(tensor(np.random.default_rng(0).permutation(values)))
    assert found == pytest.approx(stats.wasserstein_distance(values, normal(len(values))), abs=1e-5)


@pytest.mark.parametrize("name", ["uniform", "exponential", "two heaps"])
def test_the_distance_to_normal_is_the_area_between_the_distribution_functions(name: str) -> None:
    generator = np.random.default_rng(0)
    heaps = generator.normal(0, 0.3, 5000) + generator.choice([-2.0, 1.0], 5000)
    drawn = {"uniform": generator.uniform(-1, 3, 5000), "exponential": generator.exponential(1, 5000)}
    values = np.sort(drawn.get(name, heaps))
    at = np.linspace(-12, 12, 200_001)
    gap = np.abs(np.searchsorted(values, at, side="right") / values.size - stats.norm.cdf(at))
    assert distance_to_normal(tensor(values)) == pytest.approx(integrate.trapezoid(gap, at), abs=2e-3)


# --- distances between samples ---------------------------------------------------------------------------


@given(st.lists(eighths, min_size=1, max_size=600).map(np.array))
def test_quantiles_are_order_statistics_at_the_middles_of_equal_shares(values: Values) -> None:
    ordered = np.sort(values)
    places = [(2 * i + 1) * ordered.size // (2 * QUANTILES) for i in range(QUANTILES)]
    assert quantiles(tensor(values)).tolist() == ordered[places].tolist()


def of_quantiles(number: int) -> st.SearchStrategy[Values]:
    """Samples of so many times the number of quantiles."""
    seeds = st.tuples(st.integers(0, 99), st.floats(-2, 2), st.floats(0.1, 3))
    return seeds.map(lambda s: s[1] + s[2] * np.random.default_rng(s[0]).normal(size=number * QUANTILES) ** 3)


@settings(max_examples=30)
@given(of_quantiles(1), of_quantiles(1))
def test_the_distance_of_two_samples_is_scipy_s(a: Values, b: Values) -> None:
    assert between(a, b) == pytest.approx(stats.wasserstein_distance(a, b), rel=1e-4, abs=1e-5)


@settings(max_examples=30)
@given(of_quantiles(2), of_quantiles(1), of_quantiles(3))
def test_a_distance_is_symmetric_zero_for_equal_samples_and_no_detour_is_shorter(
    a: Values, b: Values, c: Values
) -> None:
    assert between(a, b) == between(b, a)
    assert between(a, np.random.default_rng(0).permutation(a)) == 0
    assert between(a, c) <= between(a, b) + between(b, c) + 1e-5


@settings(max_examples=30)
@given(st.lists(eighths, min_size=1, max_size=300).map(np.array), eighths)
def test_a_shifted_sample_is_as_far_away_as_it_is_shifted(values: Values, shift: float) -> None:
    assert between(values, values + shift) == abs(shift)


def test_how_far_apart_is_the_mean_distance_to_the_others() -> None:
    samples = [np.random.default_rng(i).normal(i, 1 + i, QUANTILES) for i in range(4)]
    expected = [
        np.mean([stats.wasserstein_distance(a, b) for j, b in enumerate(samples) if j != i])
        for i, a in enumerate(samples)
    ]
    assert apart([tensor(s) for s in samples]) == pytest.approx(expected, rel=1e-4)
    assert apart([tensor([1.0, 2.0]), tensor([4.0, 5.0])]) == [3.0, 3.0]


def test_one_sample_alone_is_apart_from_nothing() -> None:
    assert apart([tensor([1.0, 5.0])]) == [0.0]
    assert apart([]) == []


# --- larger tensors --------------------------------------------------------------------------------------


def test_of_a_larger_tensor_an_even_sample_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "SAMPLE", 4)
    values = tensor([40.0, 0, 0, 30.0, 0, 0, 10.0, 0, 0, 20.0])
    assert sorted(set(quantiles(values).tolist())) == [10, 20, 30, 40]
    expected = stats.wasserstein_distance([10, 20, 30, 40], normal(4))
    assert distance_to_normal(values) == pytest.approx(expected, abs=1e-5)
    assert sorted(set(quantiles(values[:4]).tolist())) == [0, 30, 40]  # as it is


def test_the_sample_of_a_larger_tensor_is_like_all_of_it() -> None:
    values = np.random.default_rng(0).exponential(1, 3 * SAMPLE + 1)
    area = stats.wasserstein_distance(values, normal(values.size))
    assert distance_to_normal(tensor(values)) == pytest.approx(area, abs=0.02)
    assert distance_to_normal(tensor(values)) != pytest.approx(area, abs=1e-6)  # it is a sample
    assert between(values, values + 2) == pytest.approx(2, abs=1e-5)
