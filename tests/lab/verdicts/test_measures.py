"""What is read off a run, against its definition on curves made by hand."""

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from normcore.lab import catdog
from normcore.lab.config import RunConfig
from normcore.lab.errors import UsageError
from normcore.lab.runs.store import Run
from normcore.lab.stats import SMALLEST, SMALLEST_LOG2, smallest
from normcore.lab.verdicts import measures
from normcore.lab.verdicts.measures import MEASURES, basins, curve, jitter, measure, measured, value, window

from ..helpers import made_up, run_of

Values = NDArray[np.float64]

numbers = st.lists(st.integers(-64, 64).map(lambda n: n / 64), min_size=7, max_size=25).map(np.array)
losses = st.lists(st.integers(0, 64).map(lambda n: n / 64), min_size=1, max_size=120)


def run(values: list[float], **changes: Any) -> Run:
    """A run whose every curve has these values."""
    return made_up("bn", 0, values, values, **changes)


# --- windows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of", "first", "last"),
    [
        ({"epochs": (0, 1)}, 1, 1),
        ({"epochs": (2, 5)}, 3, 5),
        ({"epochs": (-1, 0)}, 8, 8),
        ({"epochs": (-3, -1)}, 6, 7),
        ({"epochs": (-2.5, -0.5)}, 6, 7),
        ({"of_run": (0, 1)}, 1, 8),
        ({"of_run": (0.75, 1)}, 7, 8),
        ({"of_run": (0.3, 0.6)}, 3, 4),  # after step 24, up to step 48
        ({"samples": (0, 320)}, 1, 1),  # ten steps of 32 images
        ({"samples": (640, 1600)}, 3, 5),
    ],
)
def test_a_window_is_in_epochs_in_parts_of_the_run_or_in_images(of: dict[str, Any], first: int, last: int) -> None:
    """Eight epochs of ten steps of 32 images, a point after each: those from the first to the last of the window."""
    values = [0.1, 0.5, 0.2, 0.9, 0.3, 0.7, 0.6, 0.4]
    whole = run(values)
    assert curve(whole, "test_accuracy", window(whole, **of)).tolist() == values[first - 1 : last]
    assert value(whole, "test_accuracy", window(whole, **of)) == pytest.approx(np.mean(values[first - 1 : last]))


def test_two_windows_with_a_common_end_share_no_point() -> None:
    """Wherever the cut is, and however the product of a share and the steps is rounded."""
    for points in range(2, 41):
        values = [float(i) for i in range(points)]
        whole = run(values, every=550)
        for cut in range(1, points):
            halves = [(0, cut / points), (cut / points, 1)]
            found = [curve(whole, "train_loss", window(whole, of_run=part)).tolist() for part in halves]
            assert found == [values[:cut], values[cut:]]


def test_without_a_window_a_curve_is_its_last_value() -> None:
    assert window(run([0.3, 0.8])) is None
    assert value(run([0.3, 0.8]), "test_accuracy") == 0.8
    assert value(run([0.3, 0.8]), "train_loss") == 0.8


def test_two_windows_are_refused() -> None:
    for two in ({"epochs": (0, 1), "of_run": (0, 1)}, {"of_run": (0, 1), "samples": (0, 320)}):
        with pytest.raises(UsageError, match="in epochs, in parts of the run or in samples, one of them"):
            window(run([0.5]), **two)
        with pytest.raises(UsageError, match="one of them"):
            measure([run([0.5])], "train_loss", **two)


def test_a_measure_can_be_of_some_epochs() -> None:
    runs = [made_up("bn", 0, [4.0, 2.0, 1.0], [0.1, 0.2, 0.3])]
    expected = {(0, 1): [4.0], (0, 2): [3.0], (2, 3): [1.0], (-2, 0): [1.5]}
    assert {e: measure(runs, "train_loss", e)["value"].tolist() for e in expected} == expected
    assert measure(runs, "test_accuracy")["value"].tolist() == [0.3]
    assert measure(runs, "train_loss", (5, 6)).empty


@pytest.mark.parametrize("wrong", ["test_acuracy", "jitters", "tests_loss", "samples_to_los", "loss", ""])
def test_an_unknown_measure_is_refused_with_those_there_are(wrong: str) -> None:
    with pytest.raises(UsageError, match=f"unknown measure '{wrong}'") as refused:
        value(run([0.5]), wrong)
    assert all(name in str(refused.value) for name in MEASURES)


def test_curves_are_told_apart() -> None:
    whole = made_up("bn", 0, [0.7, 0.5], [0.6, 0.8], train_accuracy=[0.65, 0.9], batch_loss=[0.9, 0.1])
    expected = {
        "train_loss": 0.5, "train_accuracy": 0.9, "test_loss": 0.5, "test_accuracy": 0.8, "batch_loss": 0.1,
        "validation_accuracy": None,
    }  # fmt: skip
    assert {name: value(whole, name) for name in expected} == expected
    assert value(run([0.5]), "batch_loss") is None  # a run from before there was such a curve


# --- convergence -----------------------------------------------------------------------------------------


def images_to_loss(values: list[float], every: int, batch_size: int, bound: float) -> int:
    """Images seen at the first point up to which the mean of the last 1/40 of the run is at most the bound."""
    width = max(1, round(len(values) / 40))
    for end in range(width, len(values) + 1):
        if sum(values[end - width : end]) / width <= bound:
            return end * every * batch_size
    return len(values) * every * batch_size


@given(losses, st.sampled_from([8, 24]))
def test_images_to_the_loss_are_counted_until_a_fortieth_of_the_run_is_below_it(
    values: list[float], batch_size: int
) -> None:
    found = value(run(values, batch_size=batch_size), "samples_to_loss")
    assert found == images_to_loss(values, 10, batch_size, 0.3)


@settings(max_examples=50)
@given(losses, st.floats(0, 1), st.floats(0, 1))
def test_a_higher_loss_is_reached_no_later(values: list[float], one: float, other: float) -> None:
    found = [value(run(values), f"samples_to_loss[{bound}]") for bound in sorted((one, other))]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0] >= found[1]


def test_one_low_point_is_no_convergence() -> None:
    """Of 200 points a mean over five decides: one alone at 0 comes down to 0.48, five to 0."""
    values = [0.6] * 200
    values[100] = 0.0
    assert value(run(values), "steps_to_loss") == 2000
    values[100:105] = [0.0] * 5
    assert value(run(values), "steps_to_loss") == 1030  # 0.24 after the third


def test_a_run_that_never_reaches_the_loss_counts_with_all_its_images() -> None:
    high = run([0.9, 0.7, 0.31], batch_size=16)
    assert value(high, "samples_to_loss") == 30 * 16
    assert value(high, "steps_to_loss") == 30
    assert value(run([0.9, 0.301, 0.2], batch_size=16), "samples_to_loss") == 30 * 16
    assert value(run([0.9, 0.3, 0.2], batch_size=16), "samples_to_loss") == 20 * 16
    diverged = run([0.9, 0.7], status="diverged", steps=200, batch_size=16)
    assert value(diverged, "samples_to_loss") == 200 * 16


@settings(max_examples=25)
@given(losses, st.integers(1, 64))
def test_steps_to_the_loss_are_its_images_by_the_batch_size(values: list[float], batch_size: int) -> None:
    whole = run(values, batch_size=batch_size)
    found = value(whole, "samples_to_loss")
    assert found is not None
    assert value(whole, "steps_to_loss") == pytest.approx(found / batch_size)


# --- jitter ----------------------------------------------------------------------------------------------


def by_hand(values: Values, of: slice = slice(None)) -> float:
    """Without the parabola through the seven points around each, or at the ends through the outermost seven."""
    left = []
    for i in range(values.size):
        start = min(max(i - 3, 0), values.size - 7)
        x = np.arange(start, start + 7) - i
        left.append(values[i] - np.polyval(np.polyfit(x, values[start : start + 7], 2), 0))
    return float(np.mean(np.abs(np.diff(left[of]))))


@given(numbers)
def test_jitter_is_the_mean_change_of_what_a_local_parabola_leaves(values: Values) -> None:
    assert jitter(values) == pytest.approx(by_hand(values), abs=1e-9)


@given(st.integers(7, 25), *[st.floats(-10, 10)] * 3)
def test_a_parabola_does_not_jitter(points: int, a: float, b: float, c: float) -> None:
    x = np.linspace(-1, 1, points)
    assert jitter(a * x**2 + b * x + c) == pytest.approx(0, abs=1e-9)


@given(numbers, *[st.floats(-10, 10)] * 3)
def test_jitter_knows_nothing_of_the_trend(values: Values, a: float, b: float, c: float) -> None:
    x = np.linspace(-1, 1, values.size)
    assert jitter(values + a * x**2 + b * x + c) == pytest.approx(jitter(values), abs=1e-9)


@given(numbers, st.floats(-10, 10))
def test_jitter_grows_with_the_curve(values: Values, scale: float) -> None:
    assert jitter(scale * values) == pytest.approx(abs(scale) * (jitter(values) or 0), abs=1e-9)


@given(numbers)
def test_jitter_is_the_same_backwards(values: Values) -> None:
    assert jitter(values[::-1]) == pytest.approx(jitter(values), abs=1e-9)


def test_a_zigzag_jitters() -> None:
    """Up and down by 0.1 each time. With Savitzky and Golay's weights (-2, 3, 6, 7, 6, 3, -2)/21 the parabola takes up
    5/21 of it, and 16/21 are left, but for the few points at the ends."""
    assert jitter(np.array([0.7, 0.8] * 5000)) == pytest.approx(0.1 * 16 / 21, rel=1e-3)


def test_each_jitter_is_of_its_curve_in_its_window() -> None:
    generator = np.random.default_rng(0)
    tested, current = generator.random(20), generator.random(20)
    whole = made_up("bn", 0, [1.0] * 20, tested.tolist(), batch_loss=current.tolist())
    assert value(whole, "jitter") == pytest.approx(by_hand(tested))
    assert value(whole, "batch_jitter") == pytest.approx(by_hand(current))
    assert value(whole, "jitter", window(whole, of_run=(0, 0.5))) == pytest.approx(by_hand(tested, slice(0, 10)))
    late = window(whole, of_run=(0.75, 1))
    assert value(whole, "batch_jitter", late) == pytest.approx(by_hand(current, slice(15, 20)))
    assert value(whole, "jitter", window(whole, of_run=(0.95, 1))) is None  # one point jitters against nothing


# --- the others ------------------------------------------------------------------------------------------


def test_overfitting_is_training_minus_test_accuracy() -> None:
    whole = made_up("bn", 0, [1.0] * 4, [0.5, 0.6, 0.75, 0.7], train_accuracy=[0.5, 0.7, 0.9, 0.99])
    assert value(whole, "overfitting") == pytest.approx((0 + 0.1 + 0.15 + 0.29) / 4)
    assert value(whole, "overfitting", window(whole, of_run=(0.5, 1))) == pytest.approx((0.15 + 0.29) / 2)


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_fall_and_peak_are_what_a_search_finds(values: list[float]) -> None:
    whole = run(values)
    assert value(whole, "fall") == max(a - b for a, b in pairwise(values))
    assert value(whole, "highest") == sorted(values)[-1]
    assert value(whole, "peak_step") in [10 * (i + 1) for i, v in enumerate(values) if v == max(values)]


def test_the_highest_and_a_fall_can_be_of_a_window() -> None:
    whole = run([0.5, 0.9, 0.4, 0.6, 0.7, 0.65])
    assert (value(whole, "highest"), value(whole, "peak_step")) == (0.9, 20)
    assert value(whole, "fall") == pytest.approx(0.5)
    late = window(whole, of_run=(0.5, 1))
    assert value(whole, "highest", late) == 0.7
    assert value(whole, "fall", late) == pytest.approx(0.05)


def halves(a: list[float], b: list[float]) -> Run:
    whole = run([(x + y) / 2 for x, y in zip(a, b, strict=True)])
    whole.curves["test"] |= {"accuracy_a": a, "accuracy_b": b}
    return whole


def test_a_peak_is_chosen_on_one_half_of_the_test_images_and_measured_on_the_other() -> None:
    whole = halves([0.5, 0.9, 0.6, 0.7], [0.4, 0.5, 0.8, 0.65])
    assert value(whole, "peak") == pytest.approx((0.5 + 0.6) / 2)  # each at the other's best
    assert value(whole, "peak", window(whole, of_run=(0.5, 1))) == pytest.approx((0.65 + 0.6) / 2)
    assert value(run([0.5, 0.9]), "peak") is None  # a run from before there were halves
    noise = np.random.default_rng(0).normal(0.8, 0.01, (2, 2000)).tolist()
    assert (value(halves(*noise), "highest") or 0) > 0.82
    assert value(halves(*noise), "peak") == pytest.approx(0.8, abs=0.03)


def test_kendall_s_tau_says_whether_a_curve_rises() -> None:
    whole = made_up("bn", 0, [1.0] * 8, [0.5] * 8, batch_loss=[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.35])
    assert value(whole, "tau[batch_loss]") == pytest.approx(-26 / 28)
    assert (value(whole, "tau_p[batch_loss]") or 1) < 0.001
    assert value(whole, "tau[batch_loss]", window(whole, of_run=(0.75, 1))) is None
    assert (value(whole, "tau[test_accuracy]"), value(whole, "tau_p[test_accuracy]")) == (0, 1)


def test_the_logarithm_of_a_measure_makes_a_factor_a_difference() -> None:
    eight, four, none = (made_up("bn", 0, [loss] * 4, [0.5] * 4) for loss in (8.0, 4.0, 0.0))
    assert [value(run, "log2(train_loss)") for run in (eight, four, none)] == [3, 2, None]
    assert value(eight, "log2(steps_to_loss[0.5])") == pytest.approx(np.log2(eight.config.steps))
    assert smallest("log2(train_loss)", 8.0) == SMALLEST_LOG2


def test_every_smallest_effect_is_of_a_measure() -> None:
    plain = {f"{split}_{name}" for split in measures.SPLITS for name in measures.CURVES}
    of_probes = {f"{probe}.{name}" for probe in ("training_set", "recalibrated") for name in ("accuracy", "loss")}
    of_probes |= {"mixture.in", "mixture.ln", "mixture.bn", "adversarial.accuracy", "adversarial.fooled",
                  "steps.loss", "steps.rise"}  # fmt: skip
    assert set(SMALLEST) <= {*MEASURES, *measures.OF_A_CURVE, *plain, *of_probes}
    assert smallest("test_accuracy", 0.8) == 0.005
    assert smallest("steps_to_loss[0.5]", 4000) == pytest.approx(200)
    assert smallest("tau[batch_accuracy]", 0.3) == 0.1


def test_a_curve_that_only_rises_falls_by_less_than_nothing() -> None:
    assert value(run([0.1, 0.4, 0.5, 0.9]), "fall") == pytest.approx(-0.1)


def test_progress_is_the_first_twentieth_of_the_run_minus_the_last() -> None:
    values = np.linspace(0.9, 0.1, 40) ** 2
    assert value(run(values.tolist()), "progress") == pytest.approx(values[:2].mean() - values[-2:].mean())
    assert value(run([0.7] * 40), "progress") == 0


# --- runs that have less ---------------------------------------------------------------------------------


def test_a_run_that_diverged_has_no_measure_of_what_it_did_not_reach() -> None:
    early = run([0.9, 0.8, 0.7], status="diverged", steps=200)
    late = window(early, of_run=(0.75, 1))
    assert [value(early, name, late) for name in ("test_accuracy", "overfitting", "fall", "highest")] == [None] * 4
    assert [value(early, name) for name in ("jitter", "batch_jitter", "progress")] == [None] * 3
    assert value(early, "highest") == 0.9
    assert value(early, "fall") == pytest.approx(0.1)


def test_a_run_that_diverged_before_its_first_point_has_no_measure_at_all() -> None:
    nothing = made_up("bn", 0, [], [], "diverged", steps=200)
    assert {name: value(nothing, name) for name in MEASURES} == dict.fromkeys(MEASURES)
    assert value(nothing, "test_accuracy") is None
    (row,) = measured([nothing]).to_dict("records")
    assert all(row[name] is None or math.isnan(row[name]) for name in MEASURES)


def test_a_run_evaluated_on_held_out_images_has_no_measure_of_the_test_set() -> None:
    whole = run([0.5] * 8, validation=100)
    whole.curves["validation"] = whole.curves.pop("test")
    assert [value(whole, name) for name in ("jitter", "overfitting", "fall", "highest", "peak_step")] == [None] * 5
    assert value(whole, "samples_to_loss") == 80 * 32


def test_runs_without_a_measure_are_left_out() -> None:
    runs = [run([0.5] * 8), run([0.5] * 6), run([0.6] * 9)]
    assert measure(runs, "jitter").index.tolist() == [0, 1]
    assert list(measure(runs[1:2], "jitter")) == ["norm", "seed", "value"]


def test_a_table_of_runs_has_every_measure() -> None:
    """Of the end, what the end is; of the others, the whole run."""
    accuracy, trained = [0.5, 0.9, 0.6, 0.8, 0.7, 0.75, 0.7, 0.6], [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99]
    loss = [0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05]
    runs = [made_up(norm, 3, loss, accuracy, train_accuracy=trained, batch_size=16) for norm in ("bn", "gn")]
    rows = measured(runs).to_dict("records")
    assert [row["norm"] for row in rows] == ["bn", "gn"]
    row = rows[0]
    assert (row["key"], row["seed"], row["batch_size"], row["status"]) == (runs[0].key, 3, 16, "finished")
    expected = {
        "test_accuracy": 0.65, "train_loss": 0.075, "overfitting": 0.32, "highest": 0.9, "peak_step": 20, "fall": 0.3,
        "samples_to_loss": 50 * 16, "steps_to_loss": 50, "jitter": by_hand(np.array(accuracy)),
    }  # fmt: skip
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert set(MEASURES) <= set(row)


# --- the tables of the cats and dogs ---------------------------------------------------------------------


def small(variants: list[str], **fields: Any) -> list[RunConfig]:
    return catdog.configs(variants, **{"dataset": "digits", "image_size": 14, "steps": 40, "seeds": 2, **fields})


def test_both_tables_say_which_variant_a_row_is_of() -> None:
    names = ["none", "none-head", "bn", "gn", "fnbl-text"]
    runs = [run_of(c, [0.5, 0.4], [0.6, 0.7], every=20) for c in small(names)]
    curves, rows = catdog.tables(runs)
    assert rows["variant"].tolist() == [name for name in names for _ in range(2)]
    assert len(curves) == len(runs) * 2 * 2  # two points each of the training and the test curve
    for frame in (curves, rows):
        assert dict(zip(frame["key"], frame["variant"], strict=True)) == {
            r.key: name for r, name in zip(runs, [n for n in names for _ in range(2)], strict=True)
        }
        assert set(frame.loc[frame["variant"] == "gn", "num_groups"]) == {8}
        assert frame.loc[frame["variant"] != "gn", "num_groups"].isna().all()


def test_the_tables_tell_numbers_of_groups_apart() -> None:
    chosen = small(["gn"], num_groups=[2, 4])
    runs = [run_of(c, [0.5, 0.4], [0.6, 0.7], every=20) for c in chosen]
    for frame in catdog.tables(runs):
        assert set(frame["num_groups"]) == {2, 4}
        assert set(frame["variant"]) == {"gn"}


# --- of the training loss, and of the fields of a run ----------------------------------------------------


def test_the_jitter_of_the_training_loss_is_of_its_curve_in_its_window() -> None:
    loss = np.random.default_rng(1).random(20)
    whole = made_up("bn", 0, loss.tolist(), [0.5] * 20)
    assert value(whole, "train_jitter") == pytest.approx(by_hand(loss))
    assert value(whole, "train_jitter", window(whole, of_run=(0.5, 1))) == pytest.approx(by_hand(loss, slice(10, 20)))
    assert value(whole, "jitter") == pytest.approx(0, abs=1e-12)
    assert value(run([0.5] * 6), "train_jitter") is None
    assert measured([whole])["train_jitter"].tolist() == pytest.approx([by_hand(loss)])


def test_a_table_of_runs_has_the_fields_of_the_run_and_the_options_of_its_network() -> None:
    runs = [
        made_up("bn", 0, [1.0] * 2, [0.5] * 2, model_options={"activation": a, "norm_first": f}, outliers=0.5)
        for a, f in (("relu", True), ("tanh", False))
    ]
    rows = measured([*runs, made_up("gn", 1, [1.0] * 2, [0.5] * 2)])
    assert rows["activation"].tolist()[:2] == ["relu", "tanh"]
    assert rows["norm_first"].tolist()[:2] == [True, False]
    assert rows[["activation", "norm_first"]].iloc[2].isna().all()
    assert rows["outliers"].tolist() == [0.5, 0.5, 0.0]
    assert rows["steps"].tolist() == [20] * 3
    assert not {"model_options", "norm_options", "probes"} & set(rows)


# --- probes ----------------------------------------------------------------------------------------------


def with_probes(steps: list[int], of: int = 40, **columns: list[Any]) -> Run:
    """A run of so many steps with a probe ``p``, a row at each of these."""
    return dataclasses.replace(run([0.5] * (of // 10)), probes={"p": {"step": steps, **columns}})


def test_a_probe_s_column_is_the_median_of_its_rows() -> None:
    whole = with_probes([0, 10, 20, 30, 40], beta=[5.0, 1.0, 2.0, 9.0, 4.0])
    assert value(whole, "p.beta") == 4  # from the start to the end
    assert value(whole, "p.beta", window(whole, of_run=(0.6, 1))) == 6.5
    assert value(whole, "p.beta", window(whole, of_run=(0.1, 0.4))) == 1
    assert value(whole, "p.beta", window(whole, epochs=(-1.5, 0))) == 6.5
    assert value(whole, "p.beta", window(whole, of_run=(0.6, 0.7))) is None
    assert measure([whole], "p.beta", of_run=(0.6, 1))["value"].tolist() == [6.5]


@settings(max_examples=50)
@given(st.lists(st.integers(-99, 99), min_size=1, max_size=20))
def test_the_median_of_a_probe_is_numpy_s(values: list[int]) -> None:
    steps = [2 * i for i in range(len(values))]
    assert value(with_probes(steps, beta=[v / 4 for v in values]), "p.beta") == np.median(values) / 4


def test_a_window_s_end_is_in_it_however_it_is_rounded() -> None:
    """As of a curve: a share of the run by its steps is seldom exact."""
    for points in range(2, 41):
        steps = [550 * i for i in range(points + 1)]
        whole = dataclasses.replace(run([0.5] * points, every=550), probes={"p": {"step": steps, "at": steps}})
        for cut in range(1, points + 1):
            found = value(whole, "p.at", window(whole, of_run=(0.5 / points, cut / points)))
            assert found == np.median(steps[1 : cut + 1]), (cut, points)


def test_rows_are_chosen_by_what_stands_in_other_columns() -> None:
    whole = with_probes(
        [0, 0, 0, 40, 40, 40], layer=[2, 3, 12, 2, 3, 12], mode=["train", "eval", "train"] * 2,
        shift=[1.0, 2.0, 3.0, 5.0, 7.0, 11.0],
    )  # fmt: skip
    expected = {
        "p.shift": 4, "p.shift[layer=2]": 3, "p.shift[layer=12]": 7, "p.shift[mode=train]": 4,
        "p.shift[mode=eval]": 4.5, "p.shift[layer=3,mode=eval]": 4.5, "p.shift[layer=3,mode=train]": None,
        "p.shift[step=40]": 7, "p.shift[layer=1]": None, "p.shift[mode=eva]": None,
    }  # fmt: skip
    assert {metric: value(whole, metric) for metric in expected} == expected
    assert value(whole, "p.shift[layer=2]", window(whole, of_run=(0.5, 1))) == 5


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([None, 1.0, 2.0], 2),
        ([None, None, 1.0], None),
        ([None, 1.0], None),
        ([None], None),
        ([3.0, 1.0, 2.0, None], 2.5),
    ],
)
def test_what_is_not_finite_counts_as_infinitely_large(values: list[float | None], expected: float | None) -> None:
    whole = with_probes(list(range(len(values))), beta=values)
    assert value(whole, "p.beta") == expected
    assert measure([whole], "p.beta")["value"].tolist() == ([] if expected is None else [expected])


def test_a_run_without_the_probe_has_not_the_measure() -> None:
    assert value(run([0.5] * 4), "smoothness.beta") is None
    assert value(dataclasses.replace(run([0.5] * 4), probes={"p": {}}), "p.beta") is None
    assert value(with_probes([0], beta=[1.0]), "shift.gradient[layer=2]") is None
    assert measure([run([0.5] * 4), with_probes([0], beta=[1.0])], "p.beta")["value"].tolist() == [1]


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("p.betta", r"p\.betta: the probe p has no betta"),
        ("p.beta[layr=2]", "the probe p has no layr"),
        ("p.betta[layer=2,kind=x]", "the probe p has no betta, kind"),
        ("p.beta[layer]", r"p\.beta\[layer\]"),
        ("p.beta[layer=2", "unknown measure"),
        ("p.", "unknown measure"),
        (".beta", "unknown measure"),
    ],
)
def test_a_probe_s_measure_that_is_none_is_refused(metric: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        value(with_probes([0], layer=[2], beta=[1.0]), metric)


def test_a_table_of_runs_can_have_measures_of_probes_too() -> None:
    runs = [with_probes([0, 20], beta=[1.0, 4.0], layer=[1, 2]), run([0.5] * 4)]
    rows = measured(runs, also={"roughness": "p.beta", "of 2": "p.beta[layer=2]"})
    assert rows["roughness"].tolist()[0] == 2.5  # over the whole run
    assert rows["of 2"].tolist()[0] == 4
    assert rows[["roughness", "of 2"]].iloc[1].isna().all()
    assert set(measured(runs)) == set(rows) - {"roughness", "of 2"}


# --- the rates that train --------------------------------------------------------------------------------


def rates(losses: Sequence[float | None], variant: str = "bn", seed: int = 0) -> pd.DataFrame:
    """A row a rate, 0.001, 0.01, ...; what has no loss diverged."""
    return pd.DataFrame([
        {"variant": variant, "seed": seed, "lr": 10.0 ** (i - 3), "loss": 0.1 if loss is None else loss,
         "status": "diverged" if loss is None else "finished"}
        for i, loss in enumerate(losses)
    ])  # fmt: skip


@settings(max_examples=60)
@given(st.lists(st.sampled_from([0.2, 0.4, 0.9, 1.0, math.nan, None]), min_size=1, max_size=8), st.integers(0, 99))
def test_the_basin_is_the_longest_stretch_of_rates_that_train(losses: list[float | None], seed: int) -> None:
    trains = [loss is not None and loss < 0.9 for loss in losses]
    stretches = [
        (b - a, -a) for a in range(len(losses)) for b in range(a + 1, len(losses) + 1) if all(trains[a:b])
    ]  # the first of the longest
    (found,) = basins(rates(losses).sample(frac=1, random_state=seed), "loss", 0.9).to_dict("records")
    if not stretches:
        assert (found["decades"], math.isnan(found["low"]), math.isnan(found["high"])) == (0, True, True)
        return
    length, start = max(stretches)
    ends = 10.0 ** (-start - 3), 10.0 ** (-start - 3 + length - 1)
    assert (found["low"], found["high"]) == pytest.approx(ends)
    assert found["decades"] == pytest.approx(length - 1)


def test_each_seed_of_each_variant_has_a_basin_of_its_own() -> None:
    table = pd.concat([
        rates([0.1, 0.2, 2.0, 0.1]), rates([0.1, 0.2, 0.3, 2.0], seed=1), rates([2.0, None], "none"),
        rates([2.0, 0.5, None, 0.2], "none", seed=1),
    ])  # fmt: skip
    found = basins(table, "loss", 1.0)
    assert list(found)[:5] == ["variant", "seed", "low", "high", "decades"]
    assert found[["variant", "seed"]].to_numpy().tolist() == [["bn", 0], ["bn", 1], ["none", 0], ["none", 1]]
    assert found["decades"].tolist() == pytest.approx([1, 2, 0, 0])
    assert found["high"].tolist()[:2] == pytest.approx([0.01, 0.1])
    assert found["low"].tolist()[3] == pytest.approx(0.01)  # the lower of two as short
    other = basins(table.rename(columns={"variant": "norm"}), "loss", 1.0, by="norm")
    assert other["norm"].tolist() == ["bn", "bn", "none", "none"]


def test_a_basin_that_reaches_an_end_of_the_rates_is_a_bound() -> None:
    inside, low, high, none = (
        basins(rates(losses), "loss", 1.0).iloc[0]
        for losses in ([2.0, 0.1, 0.1, 2.0], [0.1, 0.1, 2.0], [2.0, 0.1, 0.1], [2.0, 2.0])
    )
    of = ["low_open", "high_open", "decades_open"]
    assert [bool(v) for v in inside[of]] == [False, False, False] == [bool(v) for v in none[of]]
    assert [bool(v) for v in low[of]] == [True, False, True]
    assert [bool(v) for v in high[of]] == [False, True, True]


def test_the_bound_of_a_basin_is_outside() -> None:
    assert basins(rates([1.0, 0.999]), "loss", 1.0)["low"].tolist() == pytest.approx([0.01])


def test_a_run_saturates_where_it_has_made_nearly_all_of_its_own_rise() -> None:
    """Whatever its height; a run that does not rise is the last to saturate."""
    rise = [*np.linspace(0.1, 0.5, 21), *[0.5] * 59]
    quick = made_up("bn", 0, [1.0] * 80, [0.5] * 80, train_accuracy=rise)
    flat = made_up("bn", 0, [1.0] * 80, [0.5] * 80, train_accuracy=[0.1, 0.15] * 40)
    every = quick.curves["train"]["step"][0]
    smooth = np.convolve(rise, [0.5, 0.5], "valid")  # a fortieth of the run is two points
    reached = next(i for i, v in enumerate(smooth) if v - smooth[0] >= 0.95 * (0.5 - smooth[0]))
    assert value(quick, "saturation_step") == (reached + 2) * every
    assert value(flat, "saturation_step") == flat.config.steps
