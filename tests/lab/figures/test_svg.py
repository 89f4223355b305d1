"""A drawing that says no more than it needs to, and shows all."""

import re
from xml.etree import ElementTree as ET

from normcore.lab.figures import look


def drawing() -> str:
    """Two lines with markers and bands, each a series, and two bars of errors."""
    with look.panel() as (figure, axes):
        for level, (name, color) in enumerate({"one": "#ff0000", "two": "#0000ff"}.items(), start=1):
            axes.plot([0, 1, 2], [level, 2 * level, level], color=color, marker="o", gid=f"series:{name}")
            axes.fill_between([0, 1, 2], 0, level, color=color, alpha=0.2, linewidth=0, gid=f"series:{name}")
        axes.errorbar([0, 1], [1, 2], yerr=0.5, color="#00ff00", linestyle="none")
        axes.set(xlabel="a < b", title="title", yticks=[0, 1, 2, 3, 4])
    return look.svg(figure)


def test_all_that_is_drawn_is_there() -> None:
    root = ET.fromstring(drawing())
    series = {name: [g for g in root.iter("g") if g.get("data-series") == name] for name in ("one", "two")}
    for (name, groups), color in zip(series.items(), ("#ff0000", "#0000ff"), strict=True):
        inside = [e for g in groups for e in g.iter()]
        (line,) = [e for e in inside if e.get("fill") == "none" and e.get("stroke") == color]
        assert len(re.findall(r"[\d.]+ [\d.]+", line.attrib["d"])) == 3, name
        assert sum(e.tag == "use" for e in inside) == 3
        assert [e.get("fill-opacity") for e in inside if e.tag == "path" and "fill-opacity" in e.attrib] == ["0.2"]
    (errors,) = [e for e in root.iter("path") if e.get("stroke") == "#00ff00"]
    assert errors.attrib["d"].count("M") == 2
    (grid,) = [e for e in root.iter("path") if "stroke-opacity" in e.attrib]
    assert grid.attrib["d"].count("M") == 5
    ticks = [e for e in root.iter("path") if e.get("stroke-width") == "0.8"]
    words = list(root.iter("text"))
    assert sum(e.attrib["d"].count("M") for e in ticks) == len(words) - 2
    assert {"a < b", "title", "4"} <= {e.text for e in words}


def test_a_line_without_a_point_is_left_out() -> None:
    with look.panel() as (figure, axes):
        axes.plot([0, 1], [float("nan")] * 2, color="#ff0000")
        axes.plot([0, 1], [0, 1], color="#0000ff")
    drawn = [path.get("stroke") for path in ET.fromstring(look.svg(figure)).iter("path")]
    assert drawn.count("#0000ff") == 1
    assert "#ff0000" not in drawn


def test_what_is_used_is_defined_and_nothing_else_has_an_id() -> None:
    root = ET.fromstring(drawing())
    used = set(re.findall(r'(?:href="|url\()#(\w+)', drawing()))
    assert used == {e.attrib["id"] for e in root.iter() if "id" in e.attrib}
    assert not [e for e in root.iter("g") if not e.attrib]


def test_a_file_that_stands_alone_has_its_own_background() -> None:
    with look.panel() as (figure, axes):
        axes.plot([0, 1], [0, 1])
    alone = look.svg(figure, background="white")
    assert alone.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "currentColor" not in alone
    assert 'fill="#ffffff"' in alone
