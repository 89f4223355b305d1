"""Figures: one look, the same bytes, and numbers beside the lines."""

import json
import re
import xml.etree.ElementTree as ET
from html import unescape

import pytest

from normcore.factory import NORMS
from normcore.lab import figures
from normcore.lab.runs import curves, table

from .helpers import made_up


def runs() -> list[figures.Any]:
    return [made_up(n, s, [2.0 + s, 1.0 + s, 0.5], [0.5, 0.6, 0.7]) for n in ("none", "bn") for s in range(3)]


def draw() -> figures.Html:
    panels = [("train", "loss", "nats"), ("test", "accuracy", "share")]
    return figures.interactive_curves(curves(runs()), panels, alt='Two "lines" & bands', caption="Means.")


def test_every_normalizer_has_a_look_of_its_own() -> None:
    assert set(NORMS) <= set(figures.STYLES)
    looks = [(s.color, s.marker, s.dash) for s in figures.STYLES.values()]
    assert len(set(looks)) == len(looks)
    assert len({s.marker for s in figures.STYLES.values()}) == len(looks)  # told apart without colour


@pytest.mark.parametrize("style", figures.STYLES.values(), ids=figures.STYLES)
@pytest.mark.parametrize("background", ["#ffffff", "#121212"])
def test_every_colour_stands_out_on_light_and_dark(style: figures.Style, background: str) -> None:
    """Contrast of at least 3 to 1, as WCAG 2.1 (1.4.11) asks of graphics."""

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(style.color), luminance(background)])
    assert (high + 0.05) / (low + 0.05) >= 3


def test_the_same_figure_is_the_same_bytes() -> None:
    assert draw() == draw()


def test_a_figure_takes_the_colour_of_the_page_s_text() -> None:
    text = draw()
    assert "currentColor" in text
    assert figures._TEXT not in text
    assert "#000000" not in text.replace("stroke: #000000", "")  # no black text: it would vanish in dark mode


def test_curves_carry_their_numbers() -> None:
    text = draw()
    payload = re.search(r'data-curves="([^"]*)"', text)
    assert payload
    data = json.loads(unescape(payload[1]))
    line = data["panels"][0]["series"]["bn"]
    assert line["x"] == [1, 2, 3]
    assert line["mean"] == [3.0, 2.0, 0.5]
    assert line["low"][0] < 3.0 < line["high"][0]
    assert "3.0000 [" in text, "the table holds the numbers too"
    assert text.count('aria-label="Two &quot;lines&quot; &amp; bands"') == 1


def test_the_cursor_of_a_curve_stands_on_its_points() -> None:
    """The pixel that the script computes for a value is where the line has its vertex."""
    text = draw()
    data = json.loads(unescape(re.search(r'data-curves="([^"]*)"', text)[1]))  # type: ignore[index]
    drawing = re.search(r"<svg.*?</svg>", text, re.DOTALL)
    assert drawing
    root = ET.fromstring(drawing[0])
    lines = [g for g in root.iter() if g.get("data-series") == "bn"]
    paths = [p.get("d") or "" for g in lines for p in g if "fill: none" in (p.get("style") or "")]
    xs = [float(v) for v in re.findall(r"[ML] ([\d.]+) ", paths[0])]
    zero, unit = data["panels"][0]["line"][:2]
    assert xs == pytest.approx([zero + unit * epoch for epoch in (1, 2, 3)], abs=0.01)


def test_other_figures_are_drawn() -> None:
    rows = table(runs()).assign(validation_accuracy=0.5)
    panel = figures.draw_settings(rows, x="lr", y="validation_accuracy", title="adam")
    shown = figures.show(panel, alt="a search", caption="The search.")
    assert "The search." in shown
    numbers = figures.intervals(curves(runs()).query("split == 'test' and norm == 'bn'"), ["norm", "epoch"], "accuracy")
    assert "<svg" in figures.svg(figures.draw_against(numbers, [0.4, 0.5], y="test accuracy"))
    assert "<td>bn</td>" in figures.tabulate([{"norm": "bn", "value": 1}])
