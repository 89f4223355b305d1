"""The predicates: what they compare, and the verdict that follows from its interval."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import f_oneway, fisher_exact

from normcore.lab.errors import UsageError
from normcore.lab.runs.store import Run
from normcore.lab.stats import Interval, mean_interval, over_looks
from normcore.lab.verdicts.predicates import (
    INCONCLUSIVE,
    MIXED,
    PREDICATES,
    REFUTED,
    SUPPORTED,
    Lacking,
    Part,
    alike,
    any_of,
    at_an_end,
    between,
    combine,
    gains,
    gains_less,
    higher,
    interacts,
    lower,
    mostly,
    predicts,
    ranks,
    rate_higher,
    regret,
    select,
    sets_apart,
    stands_out,
    stretches,
    takes_less,
    trend,
    unmet,
)

from ..helpers import made_up, pair

SIZES = [8, 16, 24, 32]
LESS = [-0.2, -0.3, -0.25, -0.25, -0.25]  # whose mean is -0.25


def flat(norm: str, values: Sequence[float], **changes: Any) -> list[Run]:
    """A run a seed whose loss and accuracy are this value throughout."""
    return [made_up(norm, seed, [v] * 4, [v] * 4, **changes) for seed, v in enumerate(values)]


def apart(*differences: float) -> list[Run]:
    """BN's loss is higher than without by these differences; so is another seed's of both, which is no difference."""
    levels = [1.0 + 10 * seed for seed in range(len(differences))]
    return flat("none", levels) + flat("bn", [a + d for a, d in zip(levels, differences, strict=True)])


def at_sizes(norm: str, metric: Callable[[int, int], float], seeds: int = 5, **changes: Any) -> list[Run]:
    """The runs of a sweep over batch sizes: the value of each, by size and seed."""
    sweeps = [flat(norm, [metric(size, s) for s in range(seeds)], batch_size=size, **changes) for size in SIZES]
    return [run for sweep in sweeps for run in sweep]


# --- one variant and another -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([-0.2, -0.3, -0.25, -0.25, -0.25], SUPPORTED),
        ([0.2, 0.3, 0.25, 0.25, 0.25], REFUTED),
        ([-0.2, 0.3, -0.1, -0, -0], INCONCLUSIVE),
        ([-0.2, -0.3], INCONCLUSIVE),  # two seeds give no verdict
    ],
)
def test_lower_and_higher_go_by_the_interval(differences: list[float], verdict: str) -> None:
    found = lower(pair(differences), "it is lower", "train_loss", "bn", "none")
    assert found.verdict == verdict
    assert found.seeds == len(differences)
    assert found.effect.mean == pytest.approx(sum(differences) / len(differences))
    opposite = {SUPPORTED: REFUTED, REFUTED: SUPPORTED}.get(verdict, verdict)
    assert higher(pair(differences), "it is higher", "train_loss", "bn", "none").verdict == opposite


@pytest.mark.parametrize(
    ("margin", "verdict"),
    [(0.0, SUPPORTED), (0.15, SUPPORTED), (0.25, INCONCLUSIVE), (0.35, REFUTED), (-0.1, SUPPORTED)],
)
def test_a_difference_must_exceed_its_margin(margin: float, verdict: str) -> None:
    below, above = apart(*LESS), apart(*(-d for d in LESS))
    assert lower(below, "", "train_loss", "bn", "none", margin=margin).verdict == verdict
    assert higher(above, "", "train_loss", "bn", "none", margin=margin).verdict == verdict


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.001, 0.002, 0.003, 0.002, 0.002], SUPPORTED),  # above, but not by more than the margin
        ([0.01, 0.02, 0.03, 0.02, 0.02], REFUTED),
        ([0.003, 0.004, 0.02, 0.009, 0.009], INCONCLUSIVE),
    ],
)
def test_a_negative_margin_allows_a_little_above(differences: list[float], verdict: str) -> None:
    assert lower(apart(*differences), "", "train_loss", "bn", "none", margin=-0.005).verdict == verdict


def test_equal_runs_are_neither_lower_nor_higher() -> None:
    for predicate in (lower, higher):
        assert predicate(apart(0, 0, 0), "", "train_loss", "bn", "none").verdict == INCONCLUSIVE


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([-0.01, 0.02, 0.01, 0.006667, 0.006667], SUPPORTED),
        ([0, 0, 0, 0, 0], SUPPORTED),
        ([0.2, 0.3, 0.25, 0.25, 0.25], REFUTED),
        ([-0.2, -0.3, -0.25, -0.25, -0.25], REFUTED),
        ([0.01, 0.2, 0.02, 0.076667, 0.076667], INCONCLUSIVE),
        ([-0.01, -0.2, -0.02, -0.076667, -0.076667], INCONCLUSIVE),
        ([-0.3, 0.3, 0.0, 0, 0], INCONCLUSIVE),
    ],
)
def test_alike_goes_by_the_tolerance_on_both_sides(differences: list[float], verdict: str) -> None:
    assert alike(apart(*differences), "", "train_loss", "bn", "none", 0.05).verdict == verdict


def test_differences_are_within_seeds_that_both_have() -> None:
    runs = [run for run in apart(*LESS, 7.0) if (run.config.norm, run.config.seed) != ("none", 5)]
    found = lower(runs, "", "train_loss", "bn", "none")
    assert (found.verdict, found.seeds) == (SUPPORTED, 5)
    assert found.effect.mean == pytest.approx(-0.25)


# --- one variant -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "bounds", "verdict"),
    [
        ([0.4, 0.5, 0.45, 0.45, 0.45], {"low": 0.3}, SUPPORTED),
        ([0.4, 0.5, 0.45, 0.45, 0.45], {"high": 0.6}, SUPPORTED),
        ([0.4, 0.5, 0.45, 0.45, 0.45], {"low": 0.3, "high": 0.6}, SUPPORTED),
        ([0.4, 0.5, 0.45, 0.45, 0.45], {"low": 0.6}, REFUTED),
        ([0.4, 0.5, 0.45, 0.45, 0.45], {"high": 0.3}, REFUTED),
        ([0.4, 0.5, 0.45, 0.45, 0.45], {"low": 0.1, "high": 0.3}, REFUTED),
        ([0.4, 0.5, 0.45, 0.45, 0.45], {"low": 0.45}, INCONCLUSIVE),
        ([0.4, 0.5, 0.45, 0.45, 0.45], {"low": 0.1, "high": 0.45}, INCONCLUSIVE),
        ([0.4, 0.5], {"low": 0.3}, INCONCLUSIVE),  # two seeds
    ],
)
def test_between_goes_by_its_bounds(values: list[float], bounds: dict[str, Any], verdict: str) -> None:
    found = between(flat("bn", values), "", "train_loss", "bn", **bounds)
    assert (found.verdict, found.seeds) == (verdict, len(values))
    assert found.effect.mean == pytest.approx(np.mean(values))


@pytest.mark.parametrize(
    ("later", "verdict"),
    [
        ([0.01, -0.02, 0.01, 0.0, 0.01], SUPPORTED),
        ([-0.2, -0.3, -0.25, -0.2, -0.3], REFUTED),
        ([0.2, 0.3, 0.25, 0.2, 0.3], REFUTED),
        ([0.0, -0.1, 0.02, 0.1, -0.05], INCONCLUSIVE),
        ([0.0, 0.0], INCONCLUSIVE),
    ],
)
def test_two_stretches_of_a_run_are_compared_by_their_difference(later: list[float], verdict: str) -> None:
    """The loss is 9 at first and in between, and in two quarters its seed's own level, once with a difference."""
    runs = [
        made_up("bn", s, [9, 9, s, s, 9, 9, s + change / 2, s + change * 3 / 2], [0.5] * 8)
        for s, change in enumerate(later)
    ]
    found = stretches(runs, "", "train_loss", "bn", (0.25, 0.5), (0.75, 1), low=-0.05, high=0.05)
    assert (found.verdict, found.seeds) == (verdict, len(later))
    assert found.effect.mean == pytest.approx(np.mean(later))


def test_two_stretches_can_be_compared_by_ratio_and_by_correlation() -> None:
    """The second half of the batch's loss is that of the first, halved."""
    random = np.random.default_rng(0)
    halves = [random.random(10) for _ in range(5)]
    runs = [made_up("bn", s, [1.0] * 20, [0.5] * 20, batch_loss=[*h, *(h / 2)]) for s, h in enumerate(halves)]
    same = stretches(runs, "", "batch_loss", "bn", (0, 0.5), (0.5, 1), "correlation", low=0.5)
    assert (same.verdict, same.effect.mean) == (SUPPORTED, pytest.approx(1))
    calmer = stretches(runs, "", "batch_loss", "bn", (0, 0.5), (0.5, 1), "ratio", high=-0.5)
    assert (calmer.verdict, calmer.effect.mean) == (SUPPORTED, pytest.approx(-1))
    other = [made_up("bn", s, [1.0] * 20, [0.5] * 20, batch_loss=random.random(20).tolist()) for s in range(5)]
    assert stretches(other, "", "batch_loss", "bn", (0, 0.5), (0.5, 1), "correlation", low=0.5).verdict != SUPPORTED
    with pytest.raises(UsageError, match="unknown comparison 'rato': did you mean ratio"):
        stretches(runs, "", "batch_loss", "bn", (0, 0.5), (0.5, 1), "rato")


def of_one_epoch(values: Sequence[float]) -> list[Run]:
    return [made_up("bn", s, [1.0], [value]) for s, value in enumerate(values)]


@pytest.mark.parametrize(
    ("ours", "verdict", "cause"),
    [
        ([0.800, 0.801, 0.799, 0.8, 0.8], SUPPORTED, ""),
        ([0.83, 0.84, 0.835, 0.83, 0.84], REFUTED, ""),
        ([0.805, 0.815, 0.800, 0.79, 0.81], INCONCLUSIVE, "left open"),  # no mean tells where one more run would be
        ([0.800, 0.801, 0.799], INCONCLUSIVE, "seeds<5"),
    ],
)
def test_a_published_number_is_one_more_run(ours: list[float], verdict: str, cause: str) -> None:
    found = predicts(of_one_epoch(ours), "close", "test_accuracy", "bn", [0.8], 0.01)
    assert (found.verdict, found.cause) == (verdict, cause)
    assert found.effect.mean == pytest.approx(np.mean(ours) - 0.8)


def test_the_prediction_interval_is_wider_than_the_mean_s() -> None:
    """By the root of n + 1; a source that lies outside of the mean's interval can be one more run."""
    ours = [0.80, 0.82, 0.81, 0.80, 0.82]
    found = predicts(of_one_epoch(ours), "", "test_accuracy", "bn", [0.79], 0.001)
    mean = between(of_one_epoch(ours), "", "test_accuracy", "bn").effect
    assert found.effect.high - found.effect.mean == pytest.approx(6**0.5 * (mean.high - mean.mean))
    assert not mean.low < 0.79 < mean.high
    assert found.verdict == INCONCLUSIVE


def test_a_published_number_needs_every_epoch() -> None:
    with pytest.raises(UsageError, match="after each of 2 epochs"):
        predicts([made_up("bn", 0, [1.0], [0.8])], "close", "test_accuracy", "bn", [0.8, 0.9], 0.01)


@pytest.mark.parametrize(
    ("inside", "of", "verdict", "needed"),
    [
        (8, 8, SUPPORTED, None),
        (0, 8, REFUTED, None),
        (5, 5, INCONCLUSIVE, 8),
        (3, 5, INCONCLUSIVE, None),
        (4, 4, INCONCLUSIVE, None),
    ],
)
def test_most_seeds_are_counted(inside: int, of: int, verdict: str, needed: int | None) -> None:
    found = mostly(flat("bn", [0.1] * inside + [0.9] * (of - inside)), "", "train_loss", "bn", high=0.5)
    assert (found.verdict, found.seeds, found.needed) == (verdict, of, needed)
    assert found.effect.mean == inside / of
    assert found.found.startswith("share of seeds with training loss of BN below 0.5: ")


# --- a sweep ---------------------------------------------------------------------------------------------


def slopes(heights: Callable[[int, int], float], seeds: int = 5) -> list[float]:
    """Of the least-squares line of each seed against the binary logarithm of the batch size."""
    x = np.log2(SIZES)
    return [float(np.polyfit(x, [heights(size, seed) for size in SIZES], 1)[0]) for seed in range(seeds)]


def bent(size: int, seed: int) -> float:
    """Rises with the batch size, not along a line, and in every seed a little differently."""
    return 0.1 * size**0.4 + 0.02 * seed * math.log2(size) + (0.03 if size == 24 else 0)


@pytest.mark.parametrize("log", [False, True])
def test_a_trend_is_the_slope_of_each_seed_s_line(log: bool) -> None:
    found = trend(at_sizes("bn", bent), "", "train_loss", "bn", "batch_size", values=SIZES, log=log)
    expected = slopes(lambda size, seed: math.log2(bent(size, seed)) if log else bent(size, seed))
    assert found.effect.mean == pytest.approx(np.mean(expected))
    ends = found.effect.low, found.effect.high
    assert ends == pytest.approx(mean_interval(expected)[1:3])
    assert found.seeds == 5
    assert ("log2 of training loss" in found.found) == log


def test_a_trend_is_what_a_doubling_adds_or_with_log_what_it_multiplies_by() -> None:
    """0.2 more with each doubling; or the inverse of the size, which is a slope of -1."""
    line = at_sizes("bn", lambda size, seed: 0.2 * math.log2(size) + seed)
    assert trend(line, "", "train_loss", "bn", "batch_size", values=SIZES).effect.mean == pytest.approx(0.2)
    assert trend(line, "", "train_loss", "bn", "batch_size", values=[8, 32]).effect.mean == pytest.approx(0.2)
    inverse = at_sizes("bn", lambda size, seed: (seed + 1) * 3 / size)
    found = trend(inverse, "", "train_loss", "bn", "batch_size", values=SIZES, log=True)
    assert found.effect.mean == pytest.approx(-1)


@pytest.mark.parametrize(
    ("a_doubling", "bounds", "verdict"),
    [
        ([0.2, 0.3, 0.25, 0.25, 0.25], {"low": 0}, SUPPORTED),
        ([0.2, 0.3, 0.25, 0.25, 0.25], {"low": 0.1, "high": 0.4}, SUPPORTED),
        ([0.2, 0.3, 0.25, 0.25, 0.25], {"high": 0}, REFUTED),
        ([0.2, 0.3, 0.25, 0.25, 0.25], {"low": -0.01, "high": 0.01}, REFUTED),
        ([-0.2, -0.3, -0.25, -0.25, -0.25], {"low": 0}, REFUTED),
        ([0.2, -0.3, 0.25, 0.05, 0.05], {"low": 0}, INCONCLUSIVE),
        ([0.0, 0.0, 0.0, 0, 0], {"low": 0}, INCONCLUSIVE),
        ([0.2, 0.3], {"low": 0}, INCONCLUSIVE),
    ],
)
def test_a_trend_goes_by_its_bounds(a_doubling: list[float], bounds: dict[str, Any], verdict: str) -> None:
    runs = at_sizes("bn", lambda size, seed: a_doubling[seed] * math.log2(size), seeds=len(a_doubling))
    found = trend(runs, "", "train_loss", "bn", "batch_size", values=SIZES, **bounds)
    assert (found.verdict, found.seeds) == (verdict, len(a_doubling))


def test_a_trend_is_of_the_seeds_that_have_every_value() -> None:
    runs = [r for r in at_sizes("bn", bent, seeds=4) if (r.config.batch_size, r.config.seed) != (24, 1)]
    found = trend(runs, "", "train_loss", "bn", "batch_size", values=SIZES)
    expected = slopes(bent, seeds=4)
    assert found.seeds == 3
    assert found.effect.mean == pytest.approx(np.mean([expected[0], expected[2], expected[3]]))


def test_a_trend_without_any_seed_lacks_it() -> None:
    """At one size every run diverged before its last quarter."""
    short = [made_up("bn", s, [1.0], [0.5], "diverged", steps=40, batch_size=8) for s in range(3)]
    runs = [r for r in at_sizes("bn", bent) if r.config.batch_size != 8] + short
    for log in (False, True):
        with pytest.raises(Lacking, match=r"training loss of BN.*no seed has it"):
            trend(runs, "", "train_loss", "bn", "batch_size", values=SIZES, log=log, of_run=(0.75, 1))


def test_a_trend_can_be_over_the_number_of_groups() -> None:
    level = {2: 0.5, 4: 0.6, 8: 0.9}
    runs = [
        run for groups, v in level.items() for run in flat("gn", [v] * 5, norm_options={"num_groups": groups})
    ]  # fmt: skip
    found = trend(runs, "", "train_loss", "gn", "num_groups", values=list(level), low=0)
    assert found.effect.mean == pytest.approx(np.polyfit(np.log2(list(level)), list(level.values()), 1)[0])
    assert (found.verdict, found.seeds) == (SUPPORTED, 5)


# --- two differences -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of_bn", "of_ln", "verdict"),
    [
        ([0.1, 0.1, 0.12, 0.106667, 0.106667], [0.3, 0.35, 0.3, 0.316667, 0.316667], SUPPORTED),
        ([0.3, 0.35, 0.3, 0.316667, 0.316667], [0.1, 0.1, 0.12, 0.106667, 0.106667], REFUTED),
        ([0.3, 0.1, 0.2, 0.2, 0.2], [0.1, 0.3, 0.2, 0.2, 0.2], INCONCLUSIVE),
        ([0.1, 0.1], [0.3, 0.3], INCONCLUSIVE),
    ],
)
def test_a_gain_is_less_by_the_difference_of_two_differences(
    of_bn: list[float], of_ln: list[float], verdict: str
) -> None:
    """LN is better by 5 throughout, which is no gain."""
    gains = {"bn": (0.0, of_bn), "ln": (5.0, of_ln)}
    runs = [
        run
        for norm, (level, gain) in gains.items()
        for colours, share in (("grey", 0), ("rgb", 1), ("permuted", 17))
        for run in flat(norm, [level + seed + share * g for seed, g in enumerate(gain)], colours=colours)
    ]
    found = gains_less(runs, "", "test_accuracy", "bn", "ln", by={"colours": "rgb"}, over={"colours": "grey"})
    assert (found.verdict, found.seeds) == (verdict, len(of_bn))
    assert found.effect.mean == pytest.approx(np.mean(of_bn) - np.mean(of_ln))
    assert found.measured == "gain in test accuracy by rgb, BN minus LN"


# --- variants --------------------------------------------------------------------------------------------


def test_a_variant_is_a_normalizer_or_fields_of_a_run() -> None:
    runs = [
        *flat("gn", [0.1] * 5, norm_options={"num_groups": 8}),
        *flat("gn", [0.2] * 5, norm_options={"num_groups": 2}),
        *flat("gn", [0.4] * 5, norm_options={"num_groups": 2}, batch_size=16),
        *flat("bn", [0.8] * 5),
    ]

    def mean_of(variant: str | Mapping[str, Any], where: Mapping[str, Any] | None = None) -> float:
        return between(runs, "", "train_loss", variant, where=where).effect.mean

    two = {"norm_options": {"num_groups": 2}}
    assert mean_of("bn") == pytest.approx(0.8)
    assert mean_of({"norm": "bn", "batch_size": 32}) == pytest.approx(0.8)
    assert mean_of({"norm": "gn", "norm_options": {"num_groups": 8}}) == pytest.approx(0.1)
    assert mean_of({**two, "batch_size": 16}, {"norm": "gn"}) == pytest.approx(0.4)
    assert mean_of({**two, "batch_size": 32}, {"norm": "gn"}) == pytest.approx(0.2)
    assert mean_of(two, {"norm": "gn", "batch_size": 16}) == pytest.approx(0.4)
    eight, where = {"norm_options": {"num_groups": 8}}, {"norm": "gn", "batch_size": 32}
    found = lower(runs, "", "train_loss", two, eight, where=where)
    assert found.effect.mean == pytest.approx(0.1)
    assert found.measured == "training loss, num groups 2 minus num groups 8"


def test_a_variant_can_be_named_by_options_of_its_network_and_optimizer() -> None:
    def slow(momentum: float, noise: bool) -> dict[str, Any]:
        return {"optimizer": "sgd", "optimizer_options": {"momentum": momentum}, "model_options": {"noise": noise}}

    runs = [*flat("bn", [0.1] * 5, **slow(0.9, True)), *flat("bn", [0.2] * 5, **slow(0.9, False)),
            *flat("bn", [0.4] * 5, **slow(0.0, False))]  # fmt: skip
    found = lower(runs, "", "train_loss", {"noise": True}, {"noise": False}, where={"norm": "bn", "momentum": 0.9})
    assert found.effect.mean == pytest.approx(-0.1)
    assert found.measured == "training loss, with noise minus without noise"
    assert between(runs, "", "train_loss", {"norm": "bn", "momentum": 0.0}).effect.mean == pytest.approx(0.4)


def test_the_difference_of_two_logarithms_is_told_as_a_factor() -> None:
    noise = [1.0, 1.02, 0.99, 1.01, 0.98]
    runs = [*flat("bn", [0.1] * 5), *flat("none", [0.4 * n for n in noise])]
    less = lower(runs, "", "log2(train_loss)", "bn", "none")
    more = higher(runs, "", "log2(train_loss)", "none", "bn")
    ends = f"[{2**-less.effect.high:.3g}, {2**-less.effect.low:.3g}]"
    assert less.found == f"training loss, BN against no norm: smaller by a factor of 4 {ends}"
    assert more.found == f"training loss, no norm against BN: larger by a factor of 4 {ends}"
    tied = lower(
        [*flat("bn", [0.1] * 5), *flat("none", [0.1 * n for n in noise])], "", "log2(train_loss)", "bn", "none"
    )
    assert tied.reason == "a tie: equal within a factor of 1.07, the smallest difference of interest"


def test_a_measure_of_a_probe_is_said_in_words() -> None:
    runs = [
        dataclasses.replace(run, probes={"smoothness": {"step": [0, 1], "loss_range": [1.0, 3.0], "layer": [1, 2]}})
        for run in flat("bn", [0.1] * 5)
    ]
    assert between(runs, "", "smoothness.loss_range", "bn").measured == "range of the loss along the gradient of BN"
    one = between(runs, "", "smoothness.loss_range[layer=2]", "bn")
    spoiled = dataclasses.replace(runs[0], probes={"outliers": {"step": [1], "mode": ["step"], "output": [4.0]}})
    log = between([spoiled], "", "log2(outliers.output[mode=step])", "bn")
    assert (log.measured, log.effect.mean) == ("log2 of change of the output by an outlier (after a step) of BN", 2.0)
    assert (one.measured, one.effect.mean) == ("range of the loss along the gradient (layer 2) of BN", 3.0)


@pytest.mark.parametrize(
    ("variant", "where", "lacked"),
    [
        ("in", None, "IN"),
        ("bn", {"batch_size": 16}, "batch size 16, BN"),
        ({"norm": "bn", "lr": 0.5}, None, "BN, learning rate 0.5"),
        ({"norm_options": {"num_groups": 4}}, {"norm": "gn"}, "GN, num groups 4"),
    ],
)
def test_a_variant_without_runs_is_lacking(
    variant: str | dict[str, Any], where: dict[str, Any] | None, lacked: str
) -> None:
    runs = flat("bn", [0.5] * 5) + flat("gn", [0.5] * 5, norm_options={"num_groups": 8})
    with pytest.raises(Lacking, match=f"^{lacked}$"):
        select(runs, variant, where)
    with pytest.raises(Lacking, match=f"^{lacked}$"):
        lower(runs, "", "train_loss", variant, "bn", where=where)


def test_a_variant_with_several_runs_a_seed_has_to_be_narrowed_down() -> None:
    runs = apart(*LESS) + flat("bn", [0.5] * 5, batch_size=16)
    with pytest.raises(UsageError, match="train_loss: several runs a seed; narrow the variant down"):
        lower(runs, "", "train_loss", "bn", "none")
    assert lower(runs, "", "train_loss", "bn", "none", where={"batch_size": 32}).verdict == SUPPORTED


def test_a_measure_that_no_seed_has_is_lacking() -> None:
    short = [made_up(n, s, [1.0, 0.9], [0.5, 0.6], "diverged", steps=200) for n in ("bn", "none") for s in range(3)]
    for found in (lower, higher):
        with pytest.raises(Lacking, match="jitter of the test accuracy, BN minus no norm: no seed has it"):
            found(short, "", "jitter", "bn", "none")


# --- windows ---------------------------------------------------------------------------------------------


def by_images(batch_size: int, seed: int, points: int = 20) -> Run:
    """The loss goes by the images seen alone, 1 / (1 + thousands), with an offset a seed."""
    loss = [1 / (1 + 10 * (i + 1) * batch_size / 1000) + seed for i in range(points)]
    return made_up("ln", seed, loss, [0.5] * points, batch_size=batch_size)


def test_a_shared_window_is_of_the_images_that_all_have_seen() -> None:
    """With 8 and with 16 images a step, 200 steps: both have seen 1,600, with 16 after half of the steps."""
    runs = [by_images(size, seed) for size in (8, 16) for seed in range(5)]
    sizes: tuple[dict[str, int], dict[str, int]] = {"batch_size": 16}, {"batch_size": 8}
    found = alike(runs, "", "train_loss", *sizes, 0.05, where={"norm": "ln"}, shared=(0.75, 1))

    def late(size: int) -> float:
        """Mean loss at the points, one each 10 steps, after 1,200 images up to 1,600."""
        seen = [10 * i * size for i in range(1, 21)]
        return float(np.mean([1 / (1 + n / 1000) for n in seen if 1200 < n <= 1600]))

    assert found.effect.mean == pytest.approx(late(16) - late(8))
    assert (found.verdict, found.seeds) == (SUPPORTED, 5)
    steps = alike(runs, "", "train_loss", *sizes, 0.05, where={"norm": "ln"}, of_run=(0.75, 1))
    assert steps.verdict == REFUTED  # at equal steps, not at equal images


def test_a_shared_window_of_a_trend_is_of_the_images_that_all_of_the_sweep_have_seen() -> None:
    runs = [by_images(size, seed) for size in SIZES for seed in range(3)]
    found = trend(runs, "", "train_loss", "ln", "batch_size", values=SIZES, shared=(0.75, 1))
    means = []
    for size in SIZES:
        seen = [10 * i * size for i in range(1, 21)]
        means.append(np.mean([1 / (1 + n / 1000) for n in seen if 1200 < n <= 1600]))
    assert found.effect.mean == pytest.approx(np.polyfit(np.log2(SIZES), means, 1)[0])


def test_two_windows_are_refused() -> None:
    runs = apart(*LESS)
    with pytest.raises(UsageError, match="one of them"):
        lower(runs, "", "train_loss", "bn", "none", shared=(0, 1), of_run=(0, 1))


# --- the smallest effect of interest, looks and causes ---------------------------------------------------


@pytest.mark.parametrize(
    ("differences", "verdict", "cause", "strictly"),
    [
        ([0.001, -0.002, 0.001, 0.0, 0.001], INCONCLUSIVE, "tie", INCONCLUSIVE),
        ([0.01, 0.011, 0.01, 0.009, 0.01], INCONCLUSIVE, "small", SUPPORTED),
        ([-0.01, -0.011, -0.01, -0.009, -0.01], INCONCLUSIVE, "small", REFUTED),
        ([0.05, 0.06, 0.05, 0.04, 0.05], SUPPORTED, "", SUPPORTED),
        ([-0.05, -0.06, -0.05, -0.04, -0.05], REFUTED, "", REFUTED),
        ([-0.025, -0.035, -0.025, -0.015, -0.025], INCONCLUSIVE, "seeds", REFUTED),  # below, not by 0.02 for sure
        ([-0.2, 0.3, -0.1, 0.1, 0.0], INCONCLUSIVE, "seeds", INCONCLUSIVE),
        ([-0.2, 0.3, -0.1], INCONCLUSIVE, "seeds<5", INCONCLUSIVE),
    ],
)
def test_an_order_has_a_smallest_effect_of_interest(
    differences: list[float], verdict: str, cause: str, strictly: str
) -> None:
    """Of a loss it is 0.02."""
    found = higher(apart(*differences), "", "train_loss", "bn", "none")
    assert (found.verdict, found.cause) == (verdict, cause)
    assert bool(found.reason) == (verdict == INCONCLUSIVE)
    assert higher(apart(*differences), "", "train_loss", "bn", "none", strict=True).verdict == strictly


def test_a_verdict_is_taken_at_the_last_look_on_the_first_seeds() -> None:
    clear, odd = [0.2, 0.3, 0.25, 0.2, 0.3], [-5.0, -5.0]
    found = higher(apart(*clear, *odd), "", "train_loss", "bn", "none")
    assert (found.verdict, found.look, found.seeds, found.effect.n) == (SUPPORTED, 5, 7, 5)
    assert found.effect.mean == pytest.approx(np.mean(clear))
    all_of_them = higher(apart(*clear, *odd, -5.0), "", "train_loss", "bn", "none")
    assert (all_of_them.look, all_of_them.effect.n) == (8, 8)
    assert all_of_them.verdict != SUPPORTED


def test_at_a_look_more_is_asked_for_than_a_95_percent_interval() -> None:
    """Here the plain interval excludes zero, and the p value that allows for the looks is above 0.05."""
    values = [0.4, 0.1, 0.35, 0.05, 0.3]
    found = higher(apart(*values), "", "train_loss", "bn", "none")
    assert found.effect.low > 0
    assert found.p < 0.05 < found.adjusted
    assert (found.verdict, found.cause) == (INCONCLUSIVE, "seeds")
    assert found.needed == 8
    assert "about 8 would decide it" in found.reason


def test_the_variance_is_moderated_by_the_other_settings_of_the_runs() -> None:
    random = np.random.default_rng(1)
    others = [r for i in range(12) for r in flat("gn", (1 + random.normal(0, 0.02, 5)).tolist(), lr=0.01 * (i + 2))]
    runs = apart(0.03, 0.05, 0.04, 0.06, 0.01)
    alone, among = (lower(r, "", "train_loss", "bn", "none").effect for r in (runs, [*runs, *others]))
    assert alone.mean == pytest.approx(among.mean)
    assert alone.df == 4
    assert among.df > 6


# --- the others over several variants --------------------------------------------------------------------


def test_gains_can_be_compared_at_equal_images_and_between_bounds() -> None:
    """What a larger batch costs BN more than nothing at all: 0.3 less 0.1."""
    losses = {("bn", 8): 1.0, ("bn", 16): 1.3, ("none", 8): 2.0, ("none", 16): 2.1}
    runs = [
        r for (norm, size), v in losses.items() for r in flat(norm, [v + 0.001 * s for s in range(5)], batch_size=size)
    ]
    sizes: dict[str, Any] = {"by": {"batch_size": 16}, "over": {"batch_size": 8}}
    found = gains(runs, "", "train_loss", "bn", "none", low=0.1, high=0.3, shared=(0.5, 1), **sizes)
    assert (found.verdict, found.effect.mean) == (SUPPORTED, pytest.approx(0.2))
    assert gains(runs, "", "train_loss", "bn", "none", high=0.1, **sizes).verdict == REFUTED


def test_a_trend_can_be_less_that_of_another_variant() -> None:
    runs = [
        *at_sizes("bn", lambda size, s: 0.5 * math.log2(size) + s),
        *at_sizes("none", lambda size, s: 0.2 * math.log2(size) - s),
    ]
    found = trend(runs, "", "train_loss", "bn", "batch_size", values=SIZES, against="none", low=0)
    assert (found.effect.mean, found.verdict) == (pytest.approx(0.3), SUPPORTED)
    assert "less that of no norm" in found.measured


def gained(*gains_of: tuple[float, float], seeds: int = 5) -> list[Run]:
    """Runs of two activations whose gains by BN are these, with a little noise."""
    random = np.random.default_rng(3)
    return [
        made_up(norm, s, [1.0], [level + (gain if norm == "bn" else 0) + random.normal(0, 0.0005)], batch_size=size)
        for size, (level, gain) in zip(SIZES, gains_of, strict=False)
        for norm in ("bn", "none")
        for s in range(seeds)
    ]


@pytest.mark.parametrize(
    ("gains_of", "verdict"),
    [
        (((0.5, 0.01), (0.6, 0.03), (0.4, 0.02)), SUPPORTED),
        (((0.5, 0.03), (0.6, 0.01), (0.4, 0.02)), SUPPORTED),  # whichever way
        (((0.5, 0.02), (0.6, 0.02), (0.4, 0.02)), REFUTED),  # the same, within 0.005
    ],
)
def test_an_interaction_is_a_gain_that_differs(gains_of: tuple[tuple[float, float], ...], verdict: str) -> None:
    sizes = [{"batch_size": size} for size in SIZES[: len(gains_of)]]
    asked: dict[str, Any] = {"by": {"norm": "bn"}, "over": {"norm": "none"}, "among": sizes}
    found = interacts(gained(*gains_of), "", "test_accuracy", **asked)
    assert (found.verdict, found.seeds) == (verdict, 5)
    assert interacts(gained(*gains_of, seeds=3), "", "test_accuracy", **asked).verdict == INCONCLUSIVE


def test_the_interaction_s_p_value_is_that_of_a_paired_t_test_where_there_are_two() -> None:
    runs = gained((0.5, 0.0200), (0.6, 0.0206))
    sizes = [{"batch_size": size} for size in SIZES[:2]]
    found = interacts(runs, "", "test_accuracy", by={"norm": "bn"}, over={"norm": "none"}, among=sizes)
    paired = gains(runs, "", "test_accuracy", *sizes, by={"norm": "bn"}, over={"norm": "none"}, low=0)
    values = paired.effect
    assert found.holds == pytest.approx(over_looks(values.p), rel=0.2)  # the other is moderated where it can be


@pytest.mark.parametrize(("step", "verdict"), [(0.5, SUPPORTED), (0.0, REFUTED), (0.12, INCONCLUSIVE)])
def test_variants_are_set_apart_where_they_differ_more_than_seeds(step: float, verdict: str) -> None:
    """By the share of the variance that lies between them, of the one-way analysis of variance."""
    values = {size: [step * i + wobble for wobble in np.roll([-0.2, -0.1, 0.0, 0.1, 0.2], i)]
              for i, size in enumerate(SIZES)}  # fmt: skip
    runs = [run for size, own in values.items() for run in flat("bn", own, batch_size=size)]
    among = [{"batch_size": size} for size in SIZES]
    found = sets_apart(runs, "", "test_accuracy", among)
    assert (found.verdict, found.seeds) == (verdict, 5)
    f = float(f_oneway(*values.values()).statistic)
    assert found.effect.mean == pytest.approx((f - 1) / (f + 4))
    assert found.effect.low <= found.effect.mean <= found.effect.high
    few = [run for run in runs if run.config.seed < 3]
    assert sets_apart(few, "", "test_accuracy", among).verdict == INCONCLUSIVE


def test_the_share_between_variants_is_found_by_its_interval_as_often_as_it_says() -> None:
    """Two standard deviations between variants to one between seeds: a share of 0.8."""
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(200):
        means = rng.normal(0, 2, len(SIZES))
        runs = [run for mean, size in zip(means, SIZES, strict=True)
                for run in flat("bn", mean + rng.normal(0, 1, 5), batch_size=size)]  # fmt: skip
        effect = sets_apart(runs, "", "test_accuracy", [{"batch_size": size} for size in SIZES]).effect
        inside.append(effect.low <= 0.8 <= effect.high)
    assert 0.9 < np.mean(inside) < 0.99


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [(8, 0, SUPPORTED), (0, 8, REFUTED), (5, 4, INCONCLUSIVE)],
)
def test_a_share_of_runs_is_compared_by_fisher_s_test(ours: int, theirs: int, verdict: str) -> None:
    runs = [*flat("bn", [0.9] * ours + [0.1] * (8 - ours)), *flat("none", [0.9] * theirs + [0.1] * (8 - theirs))]
    found = rate_higher(runs, "", "test_accuracy", "bn", "none", above=0.5)
    assert (found.verdict, found.effect.mean) == (verdict, (ours - theirs) / 8)
    table = [[ours, 8 - ours], [theirs, 8 - theirs]]
    one_sided = fisher_exact(table, alternative="greater" if ours > theirs else "less").pvalue
    assert found.p == pytest.approx(min(1, 2 * one_sided))
    assert found.effect.low <= found.effect.mean <= found.effect.high


@pytest.mark.parametrize(
    ("losses", "correlation", "verdict"),
    [
        ((0.4, 0.3, 0.2, 0.1), -1.0, REFUTED),
        ((0.1, 0.2, 0.3, 0.4), 1.0, SUPPORTED),
        ((0.2, 0.1, 0.4, 0.3), 0.6, SUPPORTED),
    ],
)
def test_ranks_are_of_the_variants_within_each_seed(losses: Sequence[float], correlation: float, verdict: str) -> None:
    """Whatever a seed adds to all of them, and whatever the numbers are beyond their order."""
    runs = [
        made_up("bn", seed, [loss**3 + seed] * 4, [accuracy] * 4, batch_size=size)
        for seed in range(5)
        for size, loss, accuracy in zip(SIZES, losses, (0.5, 0.6, 0.7, 0.9), strict=True)
    ]
    among = [{"batch_size": size} for size in SIZES]
    found = ranks(runs, "", "train_loss", "test_accuracy", among, low=0)
    assert (found.effect.mean, found.verdict, found.seeds) == (pytest.approx(correlation), verdict, 5)
    level = flat("none", [0.5] * 5, batch_size=8) + flat("none", [0.5] * 5, batch_size=16)
    with pytest.raises(Lacking, match="no seed has it"):
        ranks(level, "", "train_loss", "test_accuracy", among[:2], low=0)


@pytest.mark.parametrize(("lead", "verdict"), [(0.1, SUPPORTED), (-0.1, REFUTED), (0.001, INCONCLUSIVE)])
def test_a_row_of_a_probe_stands_out_from_the_others_that_the_run_has(lead: float, verdict: str) -> None:
    """Each run has rows of two other sources, or of three; those with another budget are not looked at."""

    def probed(run: Run, sources: Mapping[str, float]) -> Run:
        rows = [(name, budget, share) for name, share in sources.items() for budget in (4, 8)]
        columns = dict(zip(("source", "budget", "fooled"), map(list, zip(*rows, strict=True)), strict=True))
        columns["fooled"] = [share * (b == 8) for share, b in zip(columns["fooled"], columns["budget"], strict=True)]
        return dataclasses.replace(run, probes={"adversarial": {"step": [0] * len(rows), **columns}})

    noise = [0.001, -0.002, 0.003, 0.0, -0.002]
    runs = [probed(run, {"a": 0.3 + lead + noise[run.config.seed], "b": 0.2, "c": 0.4}) for run in flat("bn", noise)]
    runs += [probed(run, {"a": 0.2 + lead, "b": 0.2}) for run in flat("none", noise)]
    found = stands_out(runs, "", "adversarial.fooled[budget=8]", "source", "a", ["b", "c"], ["bn", "none"], low=0)
    assert (found.effect.mean, found.verdict) == (pytest.approx(lead), verdict)
    with pytest.raises(Lacking):
        stands_out(runs, "", "adversarial.fooled[budget=8]", "source", "d", ["b"], ["bn"], low=0)


def test_regret_is_what_another_setting_and_step_would_have_given() -> None:
    """The best is chosen on one half of the test images; where there are no halves, on all."""
    curves_of = {8: [0.5, 0.7, 0.6, 0.6], 16: [0.6, 0.75, 0.7, 0.7]}
    runs = [
        made_up("bn", s, [1.0] * 4, values, batch_size=size) for size, values in curves_of.items() for s in range(5)
    ]
    asked: dict[str, Any] = {"at": (0.25, 0.5), "among": [{"batch_size": 8}, {"batch_size": 16}]}
    found = regret(runs, "", {"batch_size": 8}, high=0.01, **asked)
    assert (found.effect.mean, found.verdict) == (pytest.approx(0.05), REFUTED)
    assert regret(runs, "", {"batch_size": 16}, high=0.01, **asked).verdict == SUPPORTED
    a, b = [0.5, 0.8, 0.6, 0.6], [0.5, 0.6, 0.7, 0.6]
    for run in runs:
        run.curves["test"] |= {"accuracy_a": a, "accuracy_b": b}
    halved = regret(runs, "", {"batch_size": 8}, high=0.01, **asked)
    assert halved.effect.mean == pytest.approx(((0.6 - 0.6) + (0.6 - 0.8)) / 2)


@pytest.mark.parametrize(
    ("wanted", "met"),
    [
        ({"epochs": ">= 5"}, True),
        ({"epochs": ">= 5.5"}, False),
        ({"samples": "> 1600"}, False),
        ({"steps": 50}, True),
        ({"steps": "< 50"}, False),
        ({"dataset": "digits"}, True),
        ({"dataset": "cats"}, False),
    ],
)
def test_what_is_required_of_runs_is_a_value_or_a_bound(wanted: dict[str, Any], met: bool) -> None:
    """Five epochs of ten steps of 32 images."""
    words = unmet([made_up("bn", 0, [1.0] * 5, [0.5] * 5)], wanted)
    assert (words == "") == met
    assert met or "the statement is about" in words


def test_the_best_of_a_search_must_not_be_its_end() -> None:
    search = [r for lr in (0.1, 0.2, 0.3) for r in flat("bn", [0.5], lr=lr)]
    assert at_an_end(flat("bn", [0.5], lr=0.2), search, "lr") == ""
    assert "is an end of the grid" in at_an_end(flat("bn", [0.5], lr=0.3), search, "lr")
    assert "BN 0.2" in at_an_end(flat("bn", [0.5], lr=0.2), [], "lr")  # nothing was searched


# --- a benchmark -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([0.20, 0.22, 0.21] * 7, SUPPORTED),
        ([0.40, 0.42, 0.41] * 7, REFUTED),
        ([0.20, 0.34, 0.45] * 7, INCONCLUSIVE),
    ],
)
def test_a_share_of_the_time_goes_by_the_ratios_within_rounds(ratios: list[float], verdict: str) -> None:
    """The machine is slower in every other round, which is nothing to a ratio."""
    slow = [10.0 + 20 * (i % 2) for i in range(len(ratios))]
    rounds = {"a": [r * t for r, t in zip(ratios, slow, strict=True)], "b": slow}
    found = takes_less({"measured": {k: {"rounds": v} for k, v in rounds.items()}}, "less", "a", "b", 1 / 3)
    assert found.verdict == verdict
    assert found.effect.mean == pytest.approx(np.median(ratios))
    assert found.effect.low <= found.effect.mean <= found.effect.high
    assert found.seeds is None


# --- parts -----------------------------------------------------------------------------------------------


def judged(holds: float, fails: float) -> Part:
    """A part at a look with these p values."""
    verdict = SUPPORTED if holds <= 0.05 else REFUTED if fails <= 0.05 else INCONCLUSIVE
    cause = "seeds" if verdict == INCONCLUSIVE else ""
    return Part("", "m", Interval(0, -1, 1, 5), 5, verdict, cause, cause, holds=holds, fails=fails, look=5)


@pytest.mark.parametrize(
    ("parts", "verdict", "cause", "p"),
    [
        ([(0.04, 1), (0.001, 1)], SUPPORTED, "", 0.04),  # all must agree: no correction
        ([(1, 0.001), (0.2, 0.9)], REFUTED, "", 0.002),
        ([(1, 0.04), (0.2, 0.9)], INCONCLUSIVE, "several tests", 0.08),  # the smaller of two, not by Holm
        ([(1, 0.04), (1, 0.01)], REFUTED, "", 0.02),
        ([(1, 0.001), (0.001, 1)], MIXED, "", 0.002),
        ([(1, 0.001), (0.04, 1)], REFUTED, "", 0.002),  # what holds alone does not, of two
        ([(0.001, 1), (0.3, 0.7)], INCONCLUSIVE, "seeds", 0.3),
    ],
)
def test_parts_are_combined_by_holm(parts: list[tuple[float, float]], verdict: str, cause: str, p: float) -> None:
    found = combine([judged(*part) for part in parts])
    assert (found.verdict, found.cause) == (verdict, cause)
    assert found.p == pytest.approx(p)
    assert bool(found.reason) == (verdict == INCONCLUSIVE)


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ([(0.02, 1), (1, 0.001)], SUPPORTED),
        ([(0.04, 1), (1, 0.001)], INCONCLUSIVE),  # the better of two, not by Holm
        ([(1, 0.001), (1, 0.04)], REFUTED),  # all must fail: no correction
        ([(1, 0.001), (0.5, 0.5)], INCONCLUSIVE),
    ],
)
def test_of_an_or_one_must_hold_or_all_must_fail(parts: list[tuple[float, float]], verdict: str) -> None:
    found = any_of("either", [judged(*part) for part in parts])
    assert (found.verdict, found.seeds, len(list(found.leaves()))) == (verdict, 5, 2)
    assert bool(found.reason) == (verdict == INCONCLUSIVE)
    assert combine([found]).verdict == verdict


def test_what_is_not_random_needs_no_p_value() -> None:
    exact = {v: Part("", "m", Interval(1, math.nan, math.nan), None, v) for v in (SUPPORTED, REFUTED)}
    assert [combine([exact[v]]).verdict for v in exact] == [SUPPORTED, REFUTED]
    both = combine(list(exact.values()))
    assert both.verdict == MIXED
    assert math.isnan(both.p)


@pytest.mark.parametrize(
    ("effect", "seeds", "words"),
    [
        ((0.12344, 0.1, 0.15), 3, "m: +0.1234 [+0.1000, +0.1500]"),
        ((-12345.6, -20000.0, -5000.0), 3, "m: -12,346 [-20,000, -5,000]"),
        ((0.12344, math.nan, math.nan), 1, "m: +0.1234"),
        ((0.3146, 0.3, 0.33), None, "m: 0.315 [0.300, 0.330]"),  # of a benchmark
        ((3.14159, math.nan, math.nan), None, "m: 3.142"),  # of a definition
        ((1.23e-13, math.nan, math.nan), None, "m: 1e-13"),
    ],
)
def test_what_was_found_is_said_with_its_interval_where_there_is_one(
    effect: tuple[float, float, float], seeds: int | None, words: str
) -> None:
    assert Part("it is", "m", Interval(*effect), seeds, INCONCLUSIVE).found == words


def test_every_predicate_says_what_must_hold_and_what_was_measured() -> None:
    runs = [*at_sizes("bn", bent), *at_sizes("ln", bent), *at_sizes("bn", bent, colours="grey"),
            *at_sizes("ln", bent, colours="grey")]  # fmt: skip
    common: dict[str, Any] = {"where": {"batch_size": 8, "colours": "rgb"}}
    arguments: dict[str, dict[str, Any]] = {
        "lower": {"a": "bn", "b": "ln", **common},
        "higher": {"a": "bn", "b": "ln", **common},
        "alike": {"a": "bn", "b": "ln", "tolerance": 0.1, **common},
        "between": {"variant": "bn", **common},
        "rate_higher": {"a": "bn", "b": "ln", "above": 0.1, **common},
        "mostly": {"variant": "bn", "low": 0, **common},
        "stretches": {"variant": "bn", "first": (0, 0.5), "second": (0.5, 1), **common},
        "regret": {"variant": "bn", "at": (0, 1), "among": ["bn", "ln"], "high": 0.1, **common},
        "interacts": {"by": {"norm": "bn"}, "over": {"norm": "ln"}, "among": [{"colours": "rgb"}, {"colours": "grey"}],
                      "where": {"batch_size": 8}},
        "sets_apart": {"among": ["bn", "ln"], **common},
        "trend": {"variant": "bn", "over": "batch_size", "values": SIZES, "where": {"colours": "rgb"}},
        "contrast": {"terms": [(1, "bn"), (-1, "ln")], **common},
        "ranks": {"by": "test_loss", "among": [{"norm": "bn", "batch_size": size} for size in SIZES],
                  "where": {"colours": "rgb"}},
        "stands_out": {"of": "layer", "one": 1, "others": [2], "among": ["bn"], **common},
        "gains_less": {"a": "bn", "b": "ln", "by": {"colours": "rgb"}, "over": {"colours": "grey"},
                       "where": {"batch_size": 8}},
        "gains": {"a": "bn", "b": "ln", "by": {"colours": "rgb"}, "over": {"colours": "grey"},
                  "where": {"batch_size": 8}},
        "predicts": {"norm": "bn", "values": [0.3], "tolerance": 0.1},
    }  # fmt: skip
    runs = [dataclasses.replace(r, probes={"training_set": {"step": [0, 0], "layer": [1, 2], "accuracy": [0.2, 0.1]}})
            for r in runs]  # fmt: skip
    assert set(arguments) == set(PREDICATES)
    for name, given in arguments.items():
        own = [r for r in runs if (r.config.batch_size, r.config.colours) == (8, "rgb")] if name == "predicts" else runs
        metric = {} if name == "regret" else {"metric": "test_accuracy"}
        metric = {"metric": "training_set.accuracy"} if name == "stands_out" else metric
        found = PREDICATES[name](own, says="so it is", **metric, **given)
        assert found.says == "so it is"
        assert ("accuracy on all training images" if name == "stands_out" else "test accuracy") in found.measured
        assert "BN" in found.measured
        assert found.seeds == 5


# --- a contrast of several variants ----------------------------------------------------------------------


def test_a_contrast_is_the_weighted_sum_within_each_seed() -> None:
    """One size minus the mean of the others: which of them lies lower decides, unless by less than is of interest."""
    runs = at_sizes("bn", bent)
    terms = [(1, {"batch_size": 32}), *((-1 / 3, {"batch_size": size}) for size in SIZES[:-1])]
    part = PREDICATES["contrast"](runs, "the largest is ahead", "test_accuracy", terms, low=0, where={"norm": "bn"})
    by_hand = [bent(32, seed) - sum(bent(size, seed) for size in SIZES[:-1]) / 3 for seed in range(5)]
    assert part.effect.mean == pytest.approx(np.mean(by_hand))
    assert part.verdict == SUPPORTED
    other = PREDICATES["contrast"](runs, "behind", "test_accuracy", terms, high=0, where={"norm": "bn"})
    assert other.verdict == REFUTED
    level = at_sizes("bn", lambda size, seed: 0.5 + 0.001 * (seed * size % 3))
    tied = PREDICATES["contrast"](level, "ahead", "test_accuracy", terms, low=0, where={"norm": "bn"})
    assert (tied.verdict, tied.cause) == (INCONCLUSIVE, "tie")
