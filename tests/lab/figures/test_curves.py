"""Curves: the same bytes, and numbers beside the lines."""

import json
import re
import xml.etree.ElementTree as ET
from html import unescape
from typing import Any

import pytest

from normcore.lab.figures import look
from normcore.lab.figures.charts import draw_against, draw_settings
from normcore.lab.figures.curves import interactive_curves
from normcore.lab.runs.store import Run
from normcore.lab.stats import intervals
from normcore.lab.verdicts.tables import curves, table

from ..helpers import made_up


def runs() -> list[Any]:
    return [made_up(n, s, [2.0 + s, 1.0 + s, 0.5], [0.5, 0.6, 0.7]) for n in ("none", "bn") for s in range(3)]


def draw() -> look.Html:
    panels = [("train", "loss", "nats"), ("test", "accuracy", "share")]
    return interactive_curves(curves(runs()), panels, alt='Two "lines" & bands', caption="Means.")


def test_curves_of_no_runs_say_so_and_draw_nothing() -> None:
    shown = interactive_curves(curves([]), [("test", "accuracy", "share")], alt="None.", caption="A line.")
    assert "None of these runs is there yet." in shown
    assert "A line." in shown
    assert "data-curves" not in shown


def test_every_figure_takes_a_name_of_one_s_own() -> None:
    mine = [made_up("mine", seed, [2.0, 1.0], [0.5, 0.6]) for seed in range(2)]
    points = curves(mine)
    numbers = intervals(points[points["split"] == "test"], ["norm", "epoch"], "accuracy")
    own = look.style("mine")
    against = draw_against(numbers, [0.5], y="accuracy").axes[0]
    searched = draw_settings(table(mine), x="lr", y="test_accuracy", title="A search").axes[0]
    assert against.get_title() == "mine"
    assert [line.get_color() for line in searched.lines] == [own.color]
    assert [line.get_marker() for line in searched.lines] == [own.marker]
    assert own.color in interactive_curves(points, [("test", "accuracy", "share")], alt="Lines", caption="")


def test_the_same_figure_is_the_same_bytes() -> None:
    assert draw() == draw()


def test_a_figure_takes_the_colour_of_the_page_s_text() -> None:
    text = draw()
    assert "currentColor" in text
    assert look.TEXT not in text
    assert "#000000" not in text  # no black text: it would vanish in dark mode


def test_curves_carry_their_numbers() -> None:
    text = draw()
    payload = re.search("data-curves='([^']*)'", text)
    assert payload
    data = json.loads(unescape(payload[1]))
    assert data["panels"][0]["x"] == [1, 2, 3]
    line = data["panels"][0]["series"]["bn"]
    assert line["mean"] == [3.0, 2.0, 0.5]
    assert line["low"][0] < 3.0 < line["high"][0]
    assert data["note"] == "Means over seeds, in brackets the range of 3 seeds."
    assert text.count('aria-label="Two &quot;lines&quot; &amp; bands"') == 1


@pytest.mark.parametrize(("x", "values"), [("epoch", [1e3, 2e3, 3e3]), ("step", [1e4, 2e4, 3e4])])
def test_the_cursor_of_a_curve_stands_on_its_points(x: str, values: list[float]) -> None:
    """The pixel that the script computes for a value is where the line has its vertex."""
    found = [made_up("bn", seed, [2.0 + seed, 1.0 + seed, 0.5], [0.5, 0.6, 0.7], every=1e4) for seed in range(3)]
    text = faceted(found, by="norm", facet="", x=x)
    root = ET.fromstring(drawings(text)[0])
    lines = [g for g in root.iter() if g.get("data-series") == "bn"]
    paths = [p.get("d") or "" for g in lines for p in g if p.get("fill") == "none"]
    xs = [float(v) for v in re.findall(r"([\d.]+) [\d.]+", paths[0])]
    zero, unit = payload(text)[0]["line"][:2]
    assert xs == pytest.approx([zero + unit * value for value in values], abs=0.06)


def swept(sizes: dict[str, list[int]]) -> list[Run]:
    """Accuracies that tell normalizer, batch size and seed apart: hundredths are the batch size, thousandths a seed."""
    return [
        made_up(norm, seed, [1.0] * 3, [level + size / 100 + seed / 1000] * 3, batch_size=size)
        for level, (norm, batch_sizes) in enumerate(sizes.items())
        for size in batch_sizes
        for seed in range(3)
    ]


def faceted(found: list[Run], **options: Any) -> look.Html:
    options = {"by": "batch_size", "x": "step", "facet": "norm", **options}
    return interactive_curves(curves(found), [("test", "accuracy", "share right")], alt="", caption="", **options)


def payload(text: str) -> list[dict[str, Any]]:
    written = re.search("data-curves='([^']*)'", text)
    assert written
    found: list[dict[str, Any]] = json.loads(unescape(written[1]))["panels"]
    return found


def drawings(text: str) -> list[str]:
    """The drawings of the panels, without those of the legend."""
    return [re.search(r"<svg.*?</svg>", part, re.DOTALL)[0] for part in text.split('class="nc-panel"')[1:]]  # type: ignore[index]


def test_a_facet_has_a_panel_for_each_value_and_only_its_runs() -> None:
    text = faceted(swept({"none": [8, 16], "bn": [8, 16], "gn": [8, 16]}))
    panels = payload(text)
    assert [p["title"] for p in panels] == ["no norm", "BN", "GN"]
    assert len(drawings(text)) == 3
    for level, p in enumerate(panels):
        assert {name: line["mean"] for name, line in p["series"].items()} == {
            str(size): [pytest.approx(level + size / 100 + 0.001)] * 3 for size in (8, 16)
        }


def test_without_a_facet_a_panel_says_what_it_shows() -> None:
    text = faceted(swept({"none": [8], "bn": [8]}), by="norm", facet="")
    assert [p["title"] for p in payload(text)] == ["test accuracy"]
    assert list(payload(text)[0]["series"]) == ["none", "bn"]


def test_a_facet_can_be_of_any_column() -> None:
    """Of words and of numbers, whole or not."""
    found = swept({"none": [8, 16], "bn": [8, 16]})
    assert [p["title"] for p in payload(faceted(found, by="norm", facet="batch_size"))] == ["batch 8", "batch 16"]
    rates = [made_up("bn", s, [1.0], [0.5], lr=lr) for lr in (1e-3, 1e-5) for s in range(2)]
    panels = payload(faceted(rates, by="norm", facet="lr"))
    assert [p["title"] for p in panels] == ["lr 1e-05", "lr 0.001"]
    assert [len(p["series"]) for p in panels] == [1, 1]


def ticks(drawing: str) -> list[str]:
    """Numbers that stand in a drawing."""
    return re.findall(r">\s*([\d.−]+)\s*</text>", drawing)


def test_the_panels_of_a_facet_have_the_same_axis() -> None:
    """Whose accuracies are a whole apart; one alone has other numbers at its axis."""
    low, high = (drawings(faceted(swept(sizes)))[0] for sizes in ({"none": [8]}, {"none": [], "bn": [8]}))
    assert ticks(low) != ticks(high)
    first, second = drawings(faceted(swept({"none": [8], "bn": [8]})))
    assert ticks(first) == ticks(second)


def stroke(drawing: str, name: str) -> str:
    """The colour of a line."""
    found = re.search(rf'data-series="{name}"[^>]*><path [^>]*fill="none" stroke="(#\w+)', drawing)
    assert found, f"no line of {name}"
    return found[1]


@pytest.mark.parametrize("sizes", [{"none": [8, 16], "bn": [8, 16]}, {"none": [8, 16], "bn": [16]}])
def test_a_line_has_the_legend_s_colour_in_every_panel(sizes: dict[str, list[int]]) -> None:
    """Also where a panel has fewer lines than others."""
    text = faceted(swept(sizes))
    legend = dict(re.findall(r'<span data-series="(\d+)">.*?stroke="(#\w+)', text, re.DOTALL))
    assert len(set(legend.values())) == len(legend) == 2
    for norm, drawing in zip(sizes, drawings(text), strict=True):
        assert [stroke(drawing, str(s)) for s in sizes[norm]] == [legend[str(s)] for s in sizes[norm]]


@pytest.mark.parametrize(("by", "values"), [("batch_size", [8, 16]), ("lr", [1e-3, 1e-5])])
def test_what_the_legend_names_can_be_switched_in_the_panel(by: str, values: list[float]) -> None:
    """A line and its band, whatever the name has in it."""
    settings: list[dict[str, Any]] = [{by: v} for v in values]
    found = [made_up("bn", s, [1.0, 1.0], [0.5, 0.6], **setting) for setting in settings for s in range(2)]
    text = faceted(found, by=by, facet="")
    named = re.findall(r'<span data-series="([^"]+)"', text)
    assert named == [str(v) for v in sorted(values)]
    assert {name: drawings(text)[0].count(f'data-series="{name}"') for name in named} == dict.fromkeys(named, 2)


def test_lines_with_points_of_their_own_have_places_of_their_own() -> None:
    """Against the images seen, lines of other batch sizes have their points elsewhere."""
    text = faceted(swept({"bn": [8, 12]}), x="samples", facet="")
    (panel,) = payload(text)
    assert "x" not in panel
    assert [line["x"] for line in panel["series"].values()] == [[80, 160, 240], [120, 240, 360]]


def test_one_seed_is_drawn_without_a_band() -> None:
    text = faceted([made_up("bn", 0, [1.0] * 3, [0.5, 0.6, 0.7])], by="norm", facet="")
    line = payload(text)[0]["series"]["bn"]
    assert line["mean"] == [0.5, 0.6, 0.7]
    assert line["low"] == line["high"] == [None] * 3
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_other_figures_are_drawn() -> None:
    rows = table(runs()).assign(validation_accuracy=0.5)
    panel = draw_settings(rows, x="lr", y="validation_accuracy", title="adam")
    shown = look.show(panel, alt="a search", caption="The search.")
    assert "The search." in shown
    numbers = intervals(curves(runs()).query("split == 'test' and norm == 'bn'"), ["norm", "epoch"], "accuracy")
    assert "<svg" in look.svg(draw_against(numbers, [0.4, 0.5], y="test accuracy"))
    assert "<td>bn</td>" in look.tabulate([{"norm": "bn", "value": 1}])
