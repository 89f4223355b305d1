"""Figures: one look, the same bytes, and numbers beside the lines."""

import json
import re
import xml.etree.ElementTree as ET
from html import unescape

import pytest

from normcore.factory import NORMS
from normcore.lab import figures
from normcore.lab.runs import Run
from normcore.lab.stats import intervals
from normcore.lab.tables import curves, table

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


COLOURS = {
    **{name: style.color for name, style in {**figures.STYLES, **figures.VARIANT_STYLES}.items()},
    **{f"other-{i}": color for i, color in enumerate(figures._OTHER_COLORS)},
    **{f"setting-{i}": color for i, (color, _) in enumerate(figures._SEQUENCE)},
}


@pytest.mark.parametrize("color", COLOURS.values(), ids=COLOURS)
@pytest.mark.parametrize("background", ["#ffffff", "#121212"])
def test_every_colour_stands_out_on_light_and_dark(color: str, background: str) -> None:
    """Contrast of at least 3 to 1, as WCAG 2.1 (1.4.11) asks of graphics."""

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(color), luminance(background)])
    assert (high + 0.05) / (low + 0.05) >= 3


def test_a_variant_has_the_colour_of_its_normalizer_and_a_look_of_its_own() -> None:
    """FNBL by its code is the run of ChannelLN, by its text FNBL: these look alike, and stand in no figure together."""
    relatives = {
        "fnbl-code": "cln", "fnbl-text": "fnbl", "bn-noise": "bn", "none-dropout": "none",
        "bn-dropout": "bn", "contrib-in": "in", "contrib-gn": "gn",
    }  # fmt: skip
    assert set(figures.VARIANT_STYLES) == set(relatives)
    assert not set(figures.VARIANT_STYLES) & set(figures.STYLES)
    for name, relative in relatives.items():
        assert figures.VARIANT_STYLES[name].color == figures.STYLES[relative].color
        assert figures.VARIANT_STYLES[name].label != figures.STYLES[relative].label
    every = [*(s for n, s in figures.STYLES.items() if n not in ("cln", "fnbl")), *figures.VARIANT_STYLES.values()]
    assert len({(s.color, s.marker) for s in every}) == len(every)
    assert len({s.marker for n, s in figures.STYLES.items()}) == len(figures.STYLES)


def test_named_lines_keep_their_look_and_their_order() -> None:
    found = figures.styles("variant", ["gn", "bn-noise", "bn", "gn"])
    assert list(found) == ["gn", "bn-noise", "bn"]
    assert found == {n: {**figures.STYLES, **figures.VARIANT_STYLES}[n] for n in found}


def test_the_ending_of_a_name_says_which_network_or_whose_layer_it_is() -> None:
    plain, head, report = (figures.style(name) for name in ("gn", "gn-head", "gn-report"))
    assert (head.label, report.label) == ("GN, BN behind", "GN, as run")
    assert head.color == report.color == plain.color
    assert len({plain.dash, head.dash, report.dash}) == 3
    assert figures.style("mine-head").label == "mine-head"


def test_curves_of_no_runs_say_so_and_draw_nothing() -> None:
    shown = figures.interactive_curves(curves([]), [("test", "accuracy", "share")], alt="None.", caption="A line.")
    assert "None of these runs is there yet." in shown
    assert "A line." in shown
    assert "data-curves" not in shown


def test_a_name_of_one_s_own_has_a_look_of_its_own_and_leaves_those_of_others() -> None:
    own = [f"my norm {i}" for i in range(20)]
    found = figures.styles("norm", ["bn", *own, "gn"])
    assert (found["bn"], found["gn"]) == (figures.STYLES["bn"], figures.STYLES["gn"])
    assert [found[name].label for name in own] == own
    assert found == {name: figures.style(name) for name in found}  # in this figure as in every other
    assert len({(s.color, s.marker) for s in found.values()}) == len(found)
    named = {s.color for s in (*figures.STYLES.values(), *figures.VARIANT_STYLES.values())}
    assert not named & {found[name].color for name in own}


def test_every_figure_takes_a_name_of_one_s_own() -> None:
    mine = [made_up("mine", seed, [2.0, 1.0], [0.5, 0.6]) for seed in range(2)]
    points = curves(mine)
    numbers = intervals(points[points["split"] == "test"], ["norm", "epoch"], "accuracy")
    look = figures.style("mine")
    against = figures.draw_against(numbers, [0.5], y="accuracy").axes[0]
    searched = figures.draw_settings(table(mine), x="lr", y="test_accuracy", title="A search").axes[0]
    assert against.get_title() == "mine"
    assert [line.get_color() for line in searched.lines] == [look.color]
    assert [line.get_marker() for line in searched.lines] == [look.marker]
    assert look.color in figures.interactive_curves(points, [("test", "accuracy", "share")], alt="Lines", caption="")


@pytest.mark.parametrize(
    ("by", "values", "labels"),
    [
        ("batch_size", [32, 8, 16, 8], {"8": "batch 8", "16": "batch 16", "32": "batch 32"}),
        ("lr", [1e-3, 1e-5, 1e-4], {"1e-05": "lr 1e-05", "0.0001": "lr 0.0001", "0.001": "lr 0.001"}),
        ("num_groups", [16, 2], {"2": "groups 2", "16": "groups 16"}),
        ("images", ["grey", "as they are", "bn"], {"grey": "grey", "as they are": "as they are", "bn": "bn"}),
    ],
)
def test_values_of_a_setting_are_in_order_each_with_a_look(
    by: str, values: list[figures.Any], labels: dict[str, str]
) -> None:
    found = figures.styles(by, values)
    assert list(found) == list(labels)
    assert {name: style.label for name, style in found.items()} == labels
    assert len({(s.color, s.marker) for s in found.values()}) == len(found)


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


# --- panels by a column ----------------------------------------------------------------------------------


def swept(sizes: dict[str, list[int]]) -> list[Run]:
    """Accuracies that tell normalizer, batch size and seed apart: hundredths are the batch size, thousandths a seed."""
    return [
        made_up(norm, seed, [1.0] * 3, [level + size / 100 + seed / 1000] * 3, batch_size=size)
        for level, (norm, batch_sizes) in enumerate(sizes.items())
        for size in batch_sizes
        for seed in range(3)
    ]


def faceted(found: list[Run], **options: figures.Any) -> figures.Html:
    options = {"by": "batch_size", "x": "step", "facet": "norm", **options}
    return figures.interactive_curves(
        curves(found), [("test", "accuracy", "share right")], alt="", caption="", **options
    )


def payload(text: str) -> list[dict[str, figures.Any]]:
    written = re.search(r'data-curves="([^"]*)"', text)
    assert written
    found: list[dict[str, figures.Any]] = json.loads(unescape(written[1]))["panels"]
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
    assert [f"<caption>{title}</caption>" in text for title in ("no norm", "BN", "GN")] == [True] * 3


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


def test_panels_share_their_axis_unless_told_not_to() -> None:
    def pair() -> list[figures.Figure]:
        panels = []
        for top in (1, 100):
            with figures.panel() as (figure, axes):
                axes.plot([0, 1], [0, top])
            panels.append(figure)
        return panels

    together, apart, untouched = pair(), pair(), pair()
    shared = figures.show(together, alt="", caption="")
    figures.show(apart, alt="", caption="", share_y=False)
    limits = [[f.axes[0].get_ylim() for f in panels] for panels in (together, apart, untouched)]
    assert limits[0][0] == limits[0][1] == limits[2][1]
    assert limits[1] == limits[2]
    assert ticks(drawings(shared)[0]) == ticks(drawings(shared)[1])


def stroke(drawing: str, name: str) -> str:
    """The colour of a line."""
    found = re.search(rf'data-series="{name}">\s*<path [^>]*fill: none;[^"]*stroke: (#\w+)', drawing)
    assert found, f"no line of {name}"
    return found[1]


@pytest.mark.parametrize("sizes", [{"none": [8, 16], "bn": [8, 16]}, {"none": [8, 16], "bn": [16]}])
def test_a_line_has_the_legend_s_colour_in_every_panel(sizes: dict[str, list[int]]) -> None:
    """Also where a panel has fewer lines than others."""
    text = faceted(swept(sizes))
    legend = dict(re.findall(r'<span data-series="(\d+)">.*?stroke: (#\w+)', text, re.DOTALL))
    assert len(set(legend.values())) == len(legend) == 2
    for norm, drawing in zip(sizes, drawings(text), strict=True):
        assert [stroke(drawing, str(s)) for s in sizes[norm]] == [legend[str(s)] for s in sizes[norm]]


@pytest.mark.parametrize(("by", "values"), [("batch_size", [8, 16]), ("lr", [1e-3, 1e-5])])
def test_what_the_legend_names_can_be_switched_in_the_panel(by: str, values: list[float]) -> None:
    """A line and its band, whatever the name has in it."""
    settings: list[dict[str, figures.Any]] = [{by: v} for v in values]
    found = [made_up("bn", s, [1.0, 1.0], [0.5, 0.6], **setting) for setting in settings for s in range(2)]
    text = faceted(found, by=by, facet="")
    named = re.findall(r'<span data-series="([^"]+)"', text)
    assert named == [str(v) for v in sorted(values)]
    assert {name: drawings(text)[0].count(f'data-series="{name}"') for name in named} == dict.fromkeys(named, 2)


def test_the_table_has_no_cell_where_a_line_has_no_point() -> None:
    """Against the images seen, lines of other batch sizes have their points elsewhere."""
    text = faceted(swept({"bn": [8, 12]}), x="samples", facet="")
    assert [line["x"] for line in payload(text)[0]["series"].values()] == [[80, 160, 240], [120, 240, 360]]
    table = text[text.index("<table>") :]
    assert "nan" not in table
    assert table.count("<tr>") == 1 + 5


def test_the_table_says_a_step_in_full() -> None:
    found = [made_up("bn", s, [1.0] * 3, [0.5] * 3, every=12340) for s in range(2)]
    rows = re.findall(r'<th scope="row">([^<]+)</th>', faceted(found, facet=""))
    assert [float(row.replace(",", "")) for row in rows] == [12340, 24680, 37020]
    assert not any("e" in row for row in rows)


def test_one_seed_is_drawn_without_a_band() -> None:
    text = faceted([made_up("bn", 0, [1.0] * 3, [0.5, 0.6, 0.7])], by="norm", facet="")
    line = payload(text)[0]["series"]["bn"]
    assert line["mean"] == [0.5, 0.6, 0.7]
    assert line["low"] == line["high"] == [None] * 3
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)
    assert "<td>0.5000</td>" in text
