"""Figures of measures: what stands where, its interval and its name."""

import itertools
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from normcore.lab import figures
from normcore.lab.measures import measured
from normcore.lab.plots import draw_measures, draw_plane, draw_ranking

from .helpers import made_up

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
    """The 2.5 % and 97.5 % points of the means of all resamples of three values, each as likely as another."""
    v = list(values)
    means = [np.mean([a, b, c]) for a in v for b in v for c in v]
    low, high = (float(np.quantile(means, q, method="inverted_cdf")) for q in (0.025, 0.975))
    return low, high


def has_no_nan(figure: Figure) -> bool:
    return not re.search(r"\bnan\b", figures.svg(figure), re.IGNORECASE)


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
            assert line.lines[0].get_color() == figures.styles("variant", NAMES)[name].color
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
    shown = figures.show(found, alt="a", caption="c", share_y=False, legend=NAMES)
    assert re.findall(r'<span data-series="([^"]+)">', shown) == list(NAMES)
    assert all(shown.count(f"{LABELS[name]}</span>") == 1 for name in NAMES)
    assert "nc-legend" not in figures.show(found, alt="a", caption="c", share_y=False)


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
    empty, full = draw_measures(too_short(), {"jitter": "jitter", "peak": "highest"}, x="batch_size")
    assert drawn(empty) == []
    assert len(drawn(full)) == 1
    assert not drawn(draw_ranking(too_short(), "jitter", "jitter"))
    assert not drawn(draw_plane(too_short(), "jitter", "peak", xlabel="", ylabel=""))


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
    rows = pd.DataFrame(
        [{"variant": n, "x": 50.0 + i / 100, "y": 0.75 + i / 1e4} for i, n in enumerate(figures.STYLES)]
    )
    figure = draw_plane(rows, "x", "y", xlabel="x", ylabel="y")
    names = [child for child in figure.axes[0].get_children() if isinstance(child, Annotation)]
    figure.set_dpi(72)
    axes = figure.axes[0]
    heights = sorted(axes.transData.transform(name.xy)[1] + name.xyann[1] for name in names)
    assert len(names) == len(figures.STYLES)
    assert min(b - a for a, b in itertools.pairwise(heights)) > 9  # points: a line of text
