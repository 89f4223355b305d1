"""Figures of measures: what stands where, its interval and its name."""

import itertools
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import same_color
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from matplotlib.text import Annotation
from scipy import stats

from normcore.lab.figures import look
from normcore.lab.figures.charts import draw_heat, draw_measures, draw_pairs, draw_plane, draw_ranking, draw_ridges
from normcore.lab.probes.distributions import BINS, REACH
from normcore.lab.verdicts.measures import measured

from ..helpers import made_up

NAMES = ["bn", "none-head", "gn"]
LABELS = {"bn": "BN", "none-head": "no norm, BN behind", "gn": "GN"}
SEEDS = (0.0, 0.1, 0.5)  # what each seed adds


def table(seeds: Iterable[float] = SEEDS, sizes: Iterable[int] = (8, 16, 32)) -> pd.DataFrame:
    """A peak and a time that tell variant, batch size and seed apart."""
    rows = [
        {"variant": name, "batch_size": size, "seed": seed, "peak": i + size / 100 + d, "time": (i + 1) * size + 2 * d}
        for i, name in enumerate(NAMES)
        for size in sizes
        for seed, d in enumerate(seeds)
    ]
    return pd.DataFrame(rows)


def drawn(figure: Figure) -> list[ErrorbarContainer]:
    return [c for c in figure.axes[0].containers if isinstance(c, ErrorbarContainer)]


def points(container: ErrorbarContainer) -> np.ndarray[Any, Any]:
    """Rows of x and y."""
    assert container.lines[0] is not None
    return np.column_stack([np.asarray(v, dtype=float) for v in container.lines[0].get_data()])


def bars(container: ErrorbarContainer, number: int = 0) -> np.ndarray[Any, Any]:
    """Of each point the two ends of its bar."""
    collection = container.lines[2][number]
    assert isinstance(collection, LineCollection)
    return np.array(collection.get_segments())


def ends(values: Iterable[float]) -> tuple[float, float]:
    """Of three seeds, the range."""
    v = list(values)
    return min(v), max(v)


def has_no_nan(figure: Figure) -> bool:
    return not re.search(r"\bnan\b", look.svg(figure), re.IGNORECASE)


# --- against a setting -----------------------------------------------------------------------------------


def test_a_measure_against_a_setting_is_a_line_a_variant() -> None:
    found = draw_measures(table(), {"peak": "highest", "time": "seconds"}, x="batch_size")
    assert [f.axes[0].get_ylabel() for f in found] == ["highest", "seconds"]
    assert [f.axes[0].get_xlabel() for f in found] == ["batch size"] * 2
    for figure, metric in zip(found, ("peak", "time"), strict=True):
        assert [c.get_label() for c in drawn(figure)] == [LABELS[n] for n in NAMES]
        for name, line in zip(NAMES, drawn(figure), strict=True):
            rows = table().query("variant == @name")
            expected = [rows.loc[rows["batch_size"] == size, metric].mean() for size in (8, 16, 32)]
            assert points(line)[:, 1] == pytest.approx(expected)
            assert points(line)[:, 0] == pytest.approx([8, 16, 32], rel=0.05)  # a little aside of each other
            assert line.lines[0] is not None
            assert line.lines[0].get_color() == look.styles("variant", NAMES)[name].color
        assert has_no_nan(figure)


def test_lines_stand_aside_of_each_other() -> None:
    (figure,) = draw_measures(table(), {"peak": "highest"}, x="batch_size")
    first = [points(line)[0, 0] for line in drawn(figure)]
    assert len({round(x, 6) for x in first}) == len(NAMES)
    assert np.exp(np.mean(np.log(first))) == pytest.approx(8, rel=1e-2)  # around the tick


def test_bars_reach_to_the_ends_of_the_interval() -> None:
    (figure,) = draw_measures(table(sizes=[8]), {"peak": "highest"}, x="batch_size")
    for i, line in enumerate(drawn(figure)):
        assert bars(line)[0, :, 1] == pytest.approx(ends(i + 0.08 + d for d in SEEDS))


def test_one_seed_has_a_bar_of_no_length() -> None:
    (figure,) = draw_measures(table(seeds=[0.0]), {"peak": "highest"}, x="batch_size")
    for line in drawn(figure):
        found = bars(line)
        assert np.isfinite(found).all()
        assert (found[:, 0] == found[:, 1]).all()
        assert found[:, 0] == pytest.approx(points(line))
    assert has_no_nan(figure)


def test_the_axis_has_the_values_of_the_setting() -> None:
    first, last = draw_measures(table(), {"peak": "highest", "time": "s"}, x="batch_size", logy=["time"])
    for figure in (first, last):
        axes = figure.axes[0]
        assert axes.get_xscale() == "log"
        assert axes.get_xticks().tolist() == [8, 16, 32]
        assert [t.get_text() for t in axes.get_xticklabels()] == ["8", "16", "32"]
        assert not len(axes.get_xticks(minor=True))
    assert [f.axes[0].get_yscale() for f in (first, last)] == ["linear", "log"]
    assert first.axes[0].get_legend() is last.axes[0].get_legend() is None  # the names stand below, once


def test_the_names_of_all_panels_stand_below_them() -> None:
    found = draw_measures(table(), {"peak": "highest", "time": "s"}, x="batch_size")
    shown = look.show(found, alt="a", caption="c", share_y=False, legend=NAMES)
    assert re.findall(r'<span data-series="([^"]+)">', shown) == list(NAMES)
    assert all(shown.count(f"{LABELS[name]}</span>") == 1 for name in NAMES)
    assert "nc-legend" not in look.show(found, alt="a", caption="c", share_y=False)


def test_a_setting_can_be_small_and_lines_of_another_column() -> None:
    rates = table(sizes=[1]).assign(lr=1e-4)
    both = pd.concat([rates, rates.assign(lr=1e-3)])
    (figure,) = draw_measures(both.assign(dataset="cats"), {"peak": "highest"}, x="lr", by="dataset")
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["0.0001", "0.001"]
    assert figure.axes[0].get_xlabel() == "learning rate"
    assert [c.get_label() for c in drawn(figure)] == ["cats"]


def test_a_variant_without_a_measure_is_left_out_of_its_panel_alone() -> None:
    rows = table()
    rows.loc[rows["variant"] == "gn", "peak"] = None
    first, last = draw_measures(rows, {"peak": "highest", "time": "s"}, x="batch_size")
    assert [c.get_label() for c in drawn(first)] == ["BN", "no norm, BN behind"]
    assert [c.get_label() for c in drawn(last)] == [LABELS[n] for n in NAMES]
    assert has_no_nan(first)


def too_short() -> pd.DataFrame:
    """Measures of runs of four points, which are too few to jitter."""
    runs = [made_up("bn", s, [1.0] * 4, [0.5, 0.6, 0.7, 0.6], batch_size=b) for s in range(2) for b in (8, 16)]
    return measured(runs).assign(variant="bn")


def test_a_measure_that_no_run_has_leaves_its_panel_empty() -> None:
    empty, full = draw_measures(too_short(), {"jitter": "jitter", "highest": "highest"}, x="batch_size")
    assert drawn(empty) == []
    assert len(drawn(full)) == 1
    assert not drawn(draw_ranking(too_short(), "jitter", "jitter"))
    assert not drawn(draw_plane(too_short(), "jitter", "highest", xlabel="", ylabel=""))


# --- in order --------------------------------------------------------------------------------------------


def test_a_ranking_has_the_highest_on_top_and_every_seed() -> None:
    shuffled = table(sizes=[8]).sample(frac=1, random_state=0)
    figure = draw_ranking(shuffled, "peak", "highest test accuracy", title="cats")
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_title()) == ("highest test accuracy", "cats")
    assert axes.get_yticks().tolist() == [0, 1, 2]
    assert [t.get_text() for t in axes.get_yticklabels()] == [LABELS[n] for n in NAMES]  # as they rise in the table
    assert [points(c)[0].tolist() for c in drawn(figure)] == [
        pytest.approx([i + 0.08 + np.mean(SEEDS), i]) for i in range(len(NAMES))
    ]
    marks = [line for line in axes.lines if line.get_marker() == "|"]
    for i, line in enumerate(marks):
        assert sorted(np.asarray(line.get_xdata(), dtype=float)) == pytest.approx([i + 0.08 + d for d in SEEDS])
        assert list(np.asarray(line.get_ydata())) == [i] * 3
    assert len(marks) == len(NAMES)
    assert has_no_nan(figure)


def test_a_ranking_s_bars_are_the_intervals() -> None:
    figure = draw_ranking(table(sizes=[8]), "peak", "highest")
    for i, line in enumerate(drawn(figure)):
        assert bars(line)[0, :, 0] == pytest.approx(ends(i + 0.08 + d for d in SEEDS))
    single = draw_ranking(table(seeds=[0.0], sizes=[8]), "peak", "highest")
    for i, line in enumerate(drawn(single)):
        assert bars(line)[0, :, 0] == pytest.approx([i + 0.08] * 2)
    assert has_no_nan(single)


def test_a_ranking_leaves_out_what_has_no_measure() -> None:
    rows = table(sizes=[8])
    rows.loc[rows["variant"] == "gn", "peak"] = None
    rows.loc[(rows["variant"] == "bn") & (rows["seed"] == 2), "peak"] = None
    figure = draw_ranking(rows, "peak", "highest")
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["BN", "no norm, BN behind"]
    assert [points(c)[0, 0] for c in drawn(figure)] == pytest.approx([0.08 + 0.05, 1.08 + 0.2])


def test_what_is_no_normalizer_looks_the_same_in_every_panel() -> None:
    rising = pd.DataFrame([{"way": w, "seed": s, "peak": i + 0.1 * s} for i, w in enumerate("abc") for s in range(5)])
    panels = [draw_ranking(rows, "peak", "highest", by="way") for rows in (rising, rising.assign(peak=-rising["peak"]))]
    looks = [
        dict(zip([t.get_text() for t in p.axes[0].get_yticklabels()],
                 [(c.lines[0].get_color(), c.lines[0].get_marker()) for c in drawn(p) if c.lines[0]], strict=True))
        for p in panels
    ]  # fmt: skip
    assert list(looks[0]) == list(looks[1])[::-1]
    assert looks[0] == looks[1]
    assert len(set(looks[0].values())) == 3


# --- one against another ---------------------------------------------------------------------------------


@pytest.mark.parametrize("logx", [False, True])
def test_a_plane_has_a_named_point_a_variant(logx: bool) -> None:
    rows = table(sizes=[8])
    figure = draw_plane(rows, "time", "peak", xlabel="seconds", ylabel="highest", logx=logx)
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("seconds", "highest")
    assert axes.get_xscale() == ("log" if logx else "linear")
    named = {t.get_text(): t.xy for t in axes.texts if isinstance(t, Annotation)}
    assert list(named) == [LABELS[n] for n in NAMES]
    for i, (name, line) in enumerate(zip(NAMES, drawn(figure), strict=True)):
        expected = [(i + 1) * 8 + 2 * np.mean(SEEDS), i + 0.08 + np.mean(SEEDS)]
        assert points(line)[0] == pytest.approx(expected)
        assert named[LABELS[name]] == pytest.approx(expected)
        assert bars(line, 0)[0, :, 0] == pytest.approx(ends((i + 1) * 8 + 2 * d for d in SEEDS))
        assert bars(line, 1)[0, :, 1] == pytest.approx(ends(i + 0.08 + d for d in SEEDS))
    assert has_no_nan(figure)


def test_a_plane_of_one_seed_has_finite_bars() -> None:
    figure = draw_plane(table(seeds=[0.0], sizes=[8]), "time", "peak", xlabel="", ylabel="")
    for line in drawn(figure):
        for number in (0, 1):
            assert bars(line, number)[0] == pytest.approx(np.repeat(points(line), 2, axis=0))
    assert has_no_nan(figure)


def test_a_plane_leaves_out_runs_without_either_measure() -> None:
    rows = table(sizes=[8])
    rows.loc[rows["variant"] == "gn", "time"] = None
    rows.loc[(rows["variant"] == "bn") & (rows["seed"] == 2), "time"] = None
    figure = draw_plane(rows, "time", "peak", xlabel="", ylabel="")
    assert [t.get_text() for t in figure.axes[0].texts] == ["BN", "no norm, BN behind"]
    assert points(drawn(figure)[0])[0] == pytest.approx([8 + 0.1, 0.08 + 0.05])


def test_names_of_points_in_one_place_stand_apart() -> None:
    rows = pd.DataFrame([{"variant": n, "x": 50.0 + i / 100, "y": 0.75 + i / 1e4} for i, n in enumerate(look.STYLES)])
    figure = draw_plane(rows, "x", "y", xlabel="x", ylabel="y")
    names = [child for child in figure.axes[0].get_children() if isinstance(child, Annotation)]
    figure.set_dpi(72)
    axes = figure.axes[0]
    heights = sorted(axes.transData.transform(name.xy)[1] + name.xyann[1] for name in names)
    assert len(names) == len(look.STYLES)
    assert min(b - a for a, b in itertools.pairwise(heights)) > 9  # points: a line of text


def test_a_name_stands_to_the_left_of_a_point_that_has_another_to_its_right() -> None:
    """Where there is room for it, as at the left end of the axis there is not."""
    names, x, y = ["gn", "brn", "vbn", "ln", "in"], [50.0, 51.0, 90.0, 10.0, 11.0], [0.75, 0.75, 0.8, 0.6, 0.6]
    rows = pd.DataFrame({"variant": names, "x": x, "y": y})
    named = {t.get_text(): t for t in draw_plane(rows, "x", "y", xlabel="", ylabel="").axes[0].texts}
    sides = {name: (text.get_ha(), text.xyann[0] > 0) for name, text in named.items() if isinstance(text, Annotation)}
    assert sides == {"GN": ("right", False), **dict.fromkeys(["BatchRenorm", "VirtualBN", "LN", "IN"], ("left", True))}


def wide(factor: float) -> pd.DataFrame:
    """One size, whose largest time is this many times the smallest."""
    return table(sizes=[8]).assign(time=lambda t: np.geomspace(1e-3, 1e-3 * factor, len(t)))


@pytest.mark.parametrize("factor", [20, 900, 1e5])
def test_a_ranking_can_be_logarithmic_with_plain_numbers(factor: float) -> None:
    figure = draw_ranking(wide(factor), "time", "seconds", logx=True)
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    low, high = axes.get_xlim()
    shown = [axes.xaxis.get_major_formatter()(tick, 0) for tick in axes.get_xticks() if low <= tick <= high]
    assert len(shown) >= 2
    assert all(float(text) > 0 for text in shown)
    means = wide(factor).groupby("variant", sort=False)["time"].mean()
    assert [points(c)[0].tolist() for c in drawn(figure)] == [pytest.approx([v, i]) for i, v in enumerate(means)]
    assert has_no_nan(figure)


@pytest.mark.parametrize("logx", [True, False])
def test_a_ranking_of_less_than_a_decade_or_of_zero_is_not_logarithmic(logx: bool) -> None:
    with_zero = wide(1e5).assign(time=lambda t: t["time"].where(t["seed"] != 1, 0.0))
    for rows in (wide(9), with_zero, *([] if logx else [wide(1e5)])):
        assert draw_ranking(rows, "time", "seconds", logx=logx).axes[0].get_xscale() == "linear"
    assert not drawn(draw_ranking(too_short(), "jitter", "jitter", logx=True))


# --- with and without ------------------------------------------------------------------------------------


def pairs(seeds: Iterable[float] = SEEDS) -> pd.DataFrame:
    """Peaks that tell variant, seed and yes or no apart; ``none-head`` has no yes."""
    rows = [
        {"variant": name, "first": first, "seed": seed, "peak": i + (0.25 if first else 0) + d}
        for i, name in enumerate(NAMES)
        for first in ([False] if name == "none-head" else [True, False])
        for seed, d in enumerate(seeds)
    ]
    return pd.DataFrame(rows)


def heights(figure: Figure) -> dict[str, float]:
    """Where each variant's name stands."""
    axes = figure.axes[0]
    return {t.get_text(): float(y) for t, y in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)}


def test_pairs_have_a_filled_marker_for_yes_and_an_open_one_for_no() -> None:
    figure = draw_pairs(pairs(), "peak", "highest", pair="first", title="cats")
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_title()) == ("highest", "cats")
    at = heights(figure)
    assert [at[LABELS[name]] for name in NAMES] == sorted(at.values(), reverse=True)  # the first on top
    expected = {
        (i + (0.25 if first else 0) + float(np.mean(SEEDS)), name, first)
        for i, name in enumerate(NAMES)
        for first in ((False,) if name == "none-head" else (True, False))
    }
    found = set()
    for container in drawn(figure):
        (x, y), line = points(container)[0], container.lines[0]
        assert line is not None
        name = next(n for n in NAMES if abs(at[LABELS[n]] - y) < 0.5)
        style = look.styles("variant", NAMES)[name]
        filled = line.get_markerfacecolor() == style.color
        assert filled or line.get_markerfacecolor() == "none"
        assert (line.get_color(), line.get_marker()) == (style.color, style.marker)
        assert bool(y > at[LABELS[name]]) is filled  # both are to be seen where they are equal
        (mean,) = [mean for mean, n, first in expected if (n, first) == (name, filled)]
        assert x == pytest.approx(mean)
        assert bars(container)[0, :, 0] == pytest.approx(ends(mean - float(np.mean(SEEDS)) + d for d in SEEDS))
        found.add((mean, name, filled))
    assert found == expected
    assert has_no_nan(figure)


def test_a_line_joins_the_two_of_a_pair() -> None:
    figure = draw_pairs(pairs(), "peak", "highest", pair="first")
    at = heights(figure)
    joined = {
        tuple(np.asarray(line.get_ydata(), dtype=float)): sorted(np.asarray(line.get_xdata(), dtype=float))
        for line in figure.axes[0].lines
        if line.get_linestyle() == "-" and len(np.asarray(line.get_xdata())) == 2
    }
    mean = float(np.mean(SEEDS))
    assert joined == {
        (at[LABELS[name]],) * 2: pytest.approx([i + mean, i + 0.25 + mean])
        for i, name in enumerate(NAMES)
        if name != "none-head"
    }


def test_pairs_of_one_seed_or_without_a_measure_are_drawn_as_far_as_they_are_there() -> None:
    single = draw_pairs(pairs(seeds=[0.0]), "peak", "highest", pair="first")
    assert all((bars(c)[0, 0] == bars(c)[0, 1]).all() for c in drawn(single))
    assert has_no_nan(single)
    rows = pairs()
    rows.loc[(rows["variant"] == "gn") | (rows["variant"].eq("bn") & rows["first"]), "peak"] = None
    some = draw_pairs(rows, "peak", "highest", pair="first")
    assert list(heights(some)) == ["no norm, BN behind", "BN"]
    assert len(drawn(some)) == 2
    assert not drawn(draw_pairs(rows.assign(peak=np.nan), "peak", "highest", pair="first"))


def test_pairs_can_be_of_another_column() -> None:
    figure = draw_pairs(pairs().rename(columns={"variant": "norm"}), "peak", "highest", pair="first", by="norm")
    assert set(heights(figure)) == set(LABELS.values())


# --- a map -----------------------------------------------------------------------------------------------

RATES = (0.001, 0.1, 5.0)


def losses() -> pd.DataFrame:
    """Means of i + j / 10; of one seed the last rate of BN diverged, of GN both."""
    rows = [
        {"variant": name, "lr": rate, "seed": seed, "loss": i + j / 10 + (0.5 if seed else -0.5),
         "status": "diverged" if rate == 5 and (name == "gn" or (name == "bn" and seed)) else "finished"}
        for i, name in enumerate(NAMES)
        for j, rate in enumerate(RATES)
        for seed in range(2)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def cells(figure: Figure) -> dict[tuple[int, int], list[str]]:
    """What is written in each row and column."""
    found: dict[tuple[int, int], list[str]] = {}
    for text in figure.axes[0].texts:
        x, y = text.get_position()
        found.setdefault((int(y), int(x)), []).append(text.get_text())
    return found


CELLS = {
    (0, 0): ["0.00"], (0, 1): ["0.10"], (0, 2): ["×"],
    (1, 0): ["1.00"], (1, 1): ["1.10"], (1, 2): ["1.20"],
    (2, 0): ["2.00"], (2, 1): ["2.10"], (2, 2): ["×"],
}  # fmt: skip


def test_a_map_has_the_mean_of_each_setting_or_a_cross_where_a_run_diverged() -> None:
    figure = draw_heat(losses().sample(frac=1, random_state=1).sort_values("variant", key=lambda c: c.map(NAMES.index),
                       kind="stable"), "loss", "nats")  # fmt: skip
    axes, colours = figure.axes
    assert cells(figure) == CELLS
    assert [t.get_text() for t in axes.get_yticklabels()] == [LABELS[n] for n in NAMES]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0.001", "0.1", "5"]
    assert (axes.get_xlabel(), colours.get_ylabel()) == ("learning rate", "nats")
    assert has_no_nan(figure)


def test_the_rows_of_a_map_are_in_the_order_of_the_table() -> None:
    figure = draw_heat(losses().iloc[::-1], "loss", "nats")
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [LABELS[n] for n in NAMES[::-1]]
    assert cells(figure) == {(2 - row, column): texts for (row, column), texts in CELLS.items()}


def test_the_colours_of_a_map_can_end_below_its_largest_number() -> None:
    figure = draw_heat(losses(), "loss", "nats", top=1.05)
    assert figure.axes[0].collections[0].get_clim() == pytest.approx((0, 1.05))
    assert cells(figure) == CELLS  # which stays as it is
    assert draw_heat(losses(), "loss", "nats").axes[0].collections[0].get_clim() == pytest.approx((0, 2.1))


def test_a_map_leaves_what_was_not_run_empty() -> None:
    """A cross is a run that diverged."""
    rows = losses()
    figure = draw_heat(rows[(rows["variant"] != "bn") | (rows["lr"] != 0.1)], "loss", "nats")
    assert cells(figure) == {place: texts for place, texts in CELLS.items() if place != (0, 1)}


def test_a_map_of_a_measure_that_some_run_has_not_is_of_the_others() -> None:
    rows = losses()
    rows.loc[(rows["lr"] == 0.1) & (rows["seed"] == 0), "loss"] = None
    assert cells(draw_heat(rows, "loss", "nats"))[1, 1] == ["1.60"]


def test_a_map_where_every_run_diverged_is_all_crosses() -> None:
    figure = draw_heat(losses().assign(status="diverged"), "loss", "nats")
    assert cells(figure) == {place: ["×"] for place in CELLS}


# --- densities -------------------------------------------------------------------------------------------


def shares(mean: float, deviation: float) -> list[int]:
    """A histogram of a normal distribution, in hundredths of a percent."""
    edges = stats.norm.cdf(np.linspace(-REACH, REACH, BINS + 1), mean, deviation)
    return [int(n) for n in np.round(np.diff(edges) * 10_000)]


def spread() -> pd.DataFrame:
    """BN standard normal; GN moved, one seed to each side; the third wide."""
    rows = [("bn", 0.0, 1.0), ("bn", 0.0, 1.0), ("none-head", 0.0, 2.0), ("gn", -1.0, 0.5), ("gn", 1.0, 0.5)]
    return pd.DataFrame([{"variant": v, "seed": i, "histogram": shares(m, s)} for i, (v, m, s) in enumerate(rows)])


def ridges(figure: Figure) -> dict[str, np.ndarray[Any, Any]]:
    """Of each variant the outline of its density: rows of x and of the height above its line."""
    at, found = heights(figure), {}
    looks = look.styles("variant", NAMES)
    for area in figure.axes[0].patches:
        assert isinstance(area, StepPatch)
        color = tuple(np.asarray(area.get_facecolor())[:3])
        (name,) = [n for n in NAMES if same_color(color, looks[n].color)]
        x, y = np.asarray(area.get_path().vertices).T
        found[name] = np.column_stack([x, y - at[LABELS[name]]])
    return found


def above(outline: np.ndarray[Any, Any], x: float) -> float:
    """How high the outline, made of steps, is over this point."""
    spans = [(a, b) for a, b in itertools.pairwise(outline) if min(a[0], b[0]) < x < max(a[0], b[0])]
    return float(max(a[1] for a, b in spans if a[1] == b[1]))


def test_a_ridge_is_the_density_of_a_variant_the_mean_of_its_seeds() -> None:
    figure = draw_ridges(spread(), title="layer 1")
    assert figure.axes[0].get_title() == "layer 1"
    at, found = heights(figure), ridges(figure)
    assert [at[LABELS[name]] for name in NAMES] == sorted(at.values(), reverse=True)
    assert set(found) == set(NAMES)
    unit = above(found["bn"], 0.125) / stats.norm.pdf(0.125)  # rows that a density of one is high
    densities = {
        "bn": stats.norm.pdf, "none-head": lambda x: stats.norm.pdf(x, 0, 2),
        "gn": lambda x: (stats.norm.pdf(x, -1, 0.5) + stats.norm.pdf(x, 1, 0.5)) / 2,
    }  # fmt: skip
    for name, density in densities.items():
        assert found[name][:, 1].min() == pytest.approx(0)
        for x in (-2.125, -1.125, -0.125, 0.875, 3.125):
            assert above(found[name], x) == pytest.approx(unit * density(x), abs=0.02 * unit), (name, x)
    assert has_no_nan(figure)


def test_a_line_on_each_ridge_is_the_standard_normal_distribution() -> None:
    figure = draw_ridges(spread())
    at, found = heights(figure), ridges(figure)
    lines = [np.column_stack([np.asarray(v, dtype=float) for v in line.get_data()]) for line in figure.axes[0].lines]
    assert len(lines) == len(NAMES)
    for line, height in zip(lines, sorted(at.values()), strict=True):
        peak = line[:, 1].max() - height
        assert (line[:, 1] - height) / peak == pytest.approx(
            stats.norm.pdf(line[:, 0]) / stats.norm.pdf(0.125), abs=1e-6
        )
        assert peak == pytest.approx(above(found["bn"], 0.125), rel=0.01)  # on the scale of the areas


def test_the_density_of_a_single_value_is_cut_off_and_yet_within_the_panel() -> None:
    rows = spread()
    rows["histogram"] = pd.Series([[10_000 if i == BINS // 2 else 0 for i in range(BINS)]] * 5)
    figure = draw_ridges(rows)
    at, (low, high) = heights(figure), figure.axes[0].get_ylim()
    normal = min(float(np.max(line.get_ydata())) for line in figure.axes[0].lines)  # of the lowest row
    for name, outline in ridges(figure).items():
        assert normal < outline[:, 1].max() < 5 * normal
        assert low <= at[LABELS[name]] + outline[:, 1].min()
        assert at[LABELS[name]] + outline[:, 1].max() <= high


def test_ridges_can_be_of_layers() -> None:
    figure = draw_ridges(spread().assign(layer=[1, 1, 2, 3, 3]), by="layer")
    assert list(heights(figure)) == ["layer 3", "layer 2", "layer 1"]


def test_a_number_that_is_a_bound_says_so() -> None:
    rows = [{"variant": name, "decades": 2.0 + seed / 10, "decades_open": name == "bn" and seed == 1}
            for name in ("bn", "ln") for seed in range(2)]  # fmt: skip
    axes = draw_ranking(pd.DataFrame(rows), "decades", "width").axes[0]
    assert sorted(tick.get_text() for tick in axes.get_yticklabels()) == ["BN, a bound", "LN"]


def test_a_ranking_of_no_runs_says_so() -> None:
    figure = draw_ranking(pd.DataFrame(), "test_accuracy", "test accuracy", title="mine")
    assert [text.get_text() for text in figure.axes[0].texts] == ["none of these runs is there yet"]
    assert "none of these runs is there yet" in look.show(figure, alt="A ranking.", caption="A ranking.")
