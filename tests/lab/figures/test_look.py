"""One look for the whole book."""

import base64
import io
import re
from typing import Any

import pandas as pd
import pytest

from normcore.factory import NORMS
from normcore.lab.figures import look


def test_every_normalizer_has_a_look_of_its_own() -> None:
    assert set(NORMS) <= set(look.STYLES)
    looks = [(s.color, s.marker, s.dash) for s in look.STYLES.values()]
    assert len(set(looks)) == len(looks)
    assert len({s.marker for s in look.STYLES.values()}) == len(looks)  # told apart without colour


COLOURS = {
    **{name: style.color for name, style in {**look.STYLES, **look.VARIANT_STYLES}.items()},
    **{f"other-{i}": color for i, color in enumerate(look._OTHER_COLORS)},
    **{f"setting-{i}": color for i, (color, _) in enumerate(look._SEQUENCE)},
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
        "bn-dropout": "bn", "contrib-in": "in", "contrib-gn": "gn", "ghost-bn": "bn", "ghost-sn": "sn",
    }  # fmt: skip
    assert set(look.VARIANT_STYLES) == set(relatives)
    assert not set(look.VARIANT_STYLES) & set(look.STYLES)
    for name, relative in relatives.items():
        assert look.VARIANT_STYLES[name].color == look.STYLES[relative].color
        assert look.VARIANT_STYLES[name].label != look.STYLES[relative].label
    every = [*(s for n, s in look.STYLES.items() if n not in ("cln", "fnbl")), *look.VARIANT_STYLES.values()]
    assert len({(s.color, s.marker) for s in every}) == len(every)
    assert len({s.marker for n, s in look.STYLES.items()}) == len(look.STYLES)


def test_named_lines_keep_their_look_and_their_order() -> None:
    found = look.styles("variant", ["gn", "bn-noise", "bn", "gn"])
    assert list(found) == ["gn", "bn-noise", "bn"]
    assert found == {n: {**look.STYLES, **look.VARIANT_STYLES}[n] for n in found}


def test_the_ending_of_a_name_says_which_network_or_whose_layer_it_is() -> None:
    plain, head, report = (look.style(name) for name in ("gn", "gn-head", "gn-report"))
    assert (head.label, report.label) == ("GN, BN behind", "GN, as run")
    assert head.color == report.color == plain.color
    assert len({plain.dash, head.dash, report.dash}) == 3
    assert look.style("mine-head").label == "mine-head"


def test_a_name_of_one_s_own_has_a_look_of_its_own_and_leaves_those_of_others() -> None:
    own = [f"my norm {i}" for i in range(20)]
    found = look.styles("norm", ["bn", *own, "gn"])
    assert (found["bn"], found["gn"]) == (look.STYLES["bn"], look.STYLES["gn"])
    assert [found[name].label for name in own] == own
    assert found == {name: look.style(name) for name in found}  # in this figure as in every other
    assert len({(s.color, s.marker) for s in found.values()}) == len(found)
    named = {s.color for s in (*look.STYLES.values(), *look.VARIANT_STYLES.values())}
    assert not named & {found[name].color for name in own}


@pytest.mark.parametrize(
    ("by", "values", "labels"),
    [
        ("batch_size", [32, 8, 16, 8], {"8": "batch 8", "16": "batch 16", "32": "batch 32"}),
        ("lr", [1e-3, 1e-5, 1e-4], {"1e-05": "lr 1e-05", "0.0001": "lr 0.0001", "0.001": "lr 0.001"}),
        ("num_groups", [16, 2], {"2": "2 groups", "16": "16 groups"}),
        ("images", ["grey", "as they are", "bn"], {"grey": "grey", "as they are": "as they are", "bn": "bn"}),
    ],
)
def test_values_of_a_setting_are_in_order_each_with_a_look(by: str, values: list[Any], labels: dict[str, str]) -> None:
    found = look.styles(by, values)
    assert list(found) == list(labels)
    assert {name: style.label for name, style in found.items()} == labels
    assert len({(s.color, s.marker) for s in found.values()}) == len(found)


def test_panels_share_their_axis_unless_told_not_to() -> None:
    def pair() -> list[look.Figure]:
        panels = []
        for top in (1, 100):
            with look.panel() as (figure, axes):
                axes.plot([0, 1], [0, top])
            panels.append(figure)
        return panels

    together, apart, untouched = pair(), pair(), pair()
    look.show(together, alt="", caption="")
    look.show(apart, alt="", caption="", share_y=False)
    limits = [[f.axes[0].get_ylim() for f in panels] for panels in (together, apart, untouched)]
    assert limits[0][0] == limits[0][1] == limits[2][1]
    assert limits[1] == limits[2]


# --- the numbers of a figure -----------------------------------------------------------------------------


def test_a_figure_has_its_numbers_to_download() -> None:
    known = pd.DataFrame({"norm": ["bn", "ln"], "mean": [0.123456, 1.0]})
    with look.panel() as (first, axes):
        first.numbers = known
        axes.set_title("first")
    with look.panel() as (second, axes):  # drawn without more ado, as pages on a normalizer do
        axes.plot([1, 2], [3.0, 4.0], label="a line")
        axes.bar([5], [6.0], label="a bar")
        axes.set_ylabel("second")
    shown = look.show([first, second], alt="Two.", caption="Both.")
    (data,) = re.findall(r'download="figure.csv" href="data:text/csv;base64,([^"]+)"', shown)
    table = pd.read_csv(io.BytesIO(base64.b64decode(data)))
    assert table["panel"].tolist() == ["first", "first", "second", "second", "second"]
    assert table["mean"].dropna().tolist() == [0.12346, 1.0]
    assert table.loc[2:, ["series", "x", "y"]].to_numpy().tolist() == [
        ["a line", 1.0, 3.0], ["a line", 2.0, 4.0], ["a bar", 5.0, 6.0],
    ]  # fmt: skip


def test_a_picture_without_numbers_offers_none() -> None:
    with look.panel() as (figure, _):
        pass
    assert "csv" not in look.show(figure, alt="Nothing.", caption="Empty.")


def test_a_wide_panel_has_a_narrow_twin_for_phones() -> None:
    def draw(width: float) -> look.Chart:
        with look.panel(width) as (figure, axes):
            axes.plot([1, 2, 3], [1, 2, 3], "o-")
        return figure

    text = look.show(look.wide(draw, 7.6), alt="A line.", caption="A line.")
    twins = re.findall(r'<div class="nc-panel (nc-wide|nc-narrow)"><svg viewBox="0 0 ([\d.]+)', text)
    assert [(kind, float(width)) for kind, width in twins] == [("nc-wide", 547.2), ("nc-narrow", 316.8)]
    ids = re.findall(r' id="([^"]+)"', text)
    assert ids
    assert len(set(ids)) == len(ids)  # what one of them refers to is not in the hidden one
    assert text.count("The numbers as CSV") == 1
