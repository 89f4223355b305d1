"""A figure as an SVG element of a page: Matplotlib's drawing, without what the page can do without."""

import io
import re
from collections import Counter
from collections.abc import Iterable
from itertools import groupby, pairwise
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from matplotlib.figure import Figure

FONT_SIZE = 10.5  # of text that does not say another
_SERIES = "series:"  # with which the gid of a group begins that scripts tell apart
#: what an element need not say, since the whole drawing says it, it is so by default, or straight lines do not show it
_SAID = {("font-size", f"{FONT_SIZE}px"), ("stroke-width", "1"), ("stroke-linecap", "butt"),
         ("text-anchor", "start")}  # fmt: skip
_UNSEEN = {"font-family", "stroke-linejoin"}
_PLACES = {"d", "x", "y", "width", "height", "transform", "points"}


def svg(figure: Figure, text: str, background: str | None = None) -> str:
    """The same bytes every time. Groups whose gid is ``series:NAME`` get the attribute ``data-series="NAME"``.

    Args:
        text: the colour in which the figure has what takes that of the page's text.
        background: with one, a file that stands alone, in which the text is dark.
    """
    buffer = io.StringIO()
    options: dict[str, Any] = {"facecolor": background} if background else {"transparent": True}
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, **options)
    root = ElementTree.fromstring(re.sub(r"<!DOCTYPE[^>]*>| xmlns=\"[^\"]*\"|xlink:(?=href)", "", buffer.getvalue()))
    color = "#222222" if background else "currentColor"
    for element in root.iter():
        _say_less(element, text)
    _inline(root, text)
    _flatten(root)
    alone = {"xmlns": "http://www.w3.org/2000/svg"} if background else {}
    words = {"font-family": "system-ui, sans-serif", "font-size": f"{FONT_SIZE}px"}
    words = words if root.find(".//text") is not None else {}
    whole = {"fill": color, **words, "stroke-linejoin": "round"}
    root.attrib = {**alone, **{name: root.attrib[name] for name in ("viewBox", "width", "height")}, **whole}
    written = ElementTree.tostring(root, encoding="unicode").replace(text, color).replace(" />", "/>")
    return re.sub(r'((?:id="|#)[mp][0-9a-f]{6})[0-9a-f]+', r"\1", written)  # of a hash as much as tells them apart


def _say_less(element: Element, text: str) -> None:
    """How it looks as attributes, but for what is said already; places to a tenth of a point."""
    style = element.attrib.pop("style", "")
    for name, value in re.findall(r"([\w-]+): ?([^;]+)", style):
        said = (name, value) in _SAID or name in _UNSEEN or (element.tag == "text" and (name, value) == ("fill", text))
        if not said:
            element.set(name, value)
    for name in _PLACES & element.attrib.keys():
        element.set(name, _lean(element.attrib[name]))
    if element.tag == "path" and element.get("fill") != "none":
        element.set("d", _stepped(element.attrib["d"]))
    if element.get("transform", "").startswith("rotate(-0 "):  # of words that are not turned
        del element.attrib["transform"]
    if (name := element.get("id", "")).startswith(_SERIES):
        element.set("data-series", name.removeprefix(_SERIES))
    if element.tag not in ("text", "tspan"):
        element.text = None
        element.tail = None
    elif element.tag == "text":
        element.tail = None


def _lean(places: str) -> str:
    """To a tenth of a point; a path that goes on in lines as it began."""
    rounded = re.sub(r"-?\d+\.\d{2,}", lambda number: f"{round(float(number[0]), 1) + 0:g}", places)
    joined = re.sub(r"(?<=\d)\s+L(?= *[\d-])", "", rounded)
    return re.sub(r"\s*([A-Za-z])\s*", r"\1", re.sub(r"\s+", " ", joined)).strip() if "M" in places else rounded


def _stepped(path: str) -> str:
    """The same path of an area, in steps where it goes along the axes."""
    places = re.fullmatch(r"M([-\d. ]+)z", path)
    if not places:
        return path
    numbers = places[1].split()
    points = list(zip(numbers[::2], numbers[1::2], strict=True))
    said = f"M{' '.join(points[0])}"
    for (x0, y0), (x, y) in pairwise(points):
        said += f"V{y}" if x == x0 else f"H{x}" if y == y0 else f"L{x} {y}"
    return f"{said}z"


def _inline(root: Element, text: str) -> None:
    """What is defined and used only once stands where it is used, and so do all ticks."""
    defined = {e.get("id"): e for defs in root.iter("defs") for e in defs if e.tag == "path"}
    uses = Counter(use.attrib["href"] for use in root.iter("use"))
    for use in root.iter("use"):
        path, (x, y) = defined[use.attrib["href"][1:]], (use.attrib["x"], use.attrib["y"])
        for name in [name for name in path.attrib if name == "stroke-width" or path.attrib[name] == use.get(name)]:
            _remove(use, name)
        tick = _LINE.fullmatch(path.attrib["d"]) if path.get("stroke") == text else None
        if tick:
            ends = [float(place) + float(start) for place, start in zip(tick.groups(), (x, y) * 2, strict=True)]
            line = "M" + " ".join(f"{round(end, 1):g}" for end in ends)
            use.tag, use.attrib = "path", {**_but(path, "id"), "d": line, "fill": "none"}
        elif uses[use.attrib["href"]] == 1:
            looks = _but(path, "id") | _but(use, "href", "x", "y")
            use.tag, use.attrib = "path", {**looks, "transform": f"translate({x} {y})"}
    used = {use.attrib["href"][1:] for use in root.iter("use")}
    for defs in root.iter("defs"):
        defs[:] = [e for e in defs if e.tag != "style" and (e.tag != "path" or e.get("id") in used)]


_LINE = re.compile(r"M(\S+) (\S+) (\S+) (\S+)")


def _flatten(parent: Element) -> None:
    """Without groups that say nothing, without what shows nothing; what is alike of neighbours is said once."""
    for child in parent:
        _flatten(child)
    if parent.tag in ("svg", "g"):
        axis = _remove(parent, "id").startswith("matplotlib.axis_")
        children = [child for child in parent if _shows(child)]
        clips = {child.get("clip-path", "") for child in children if child.tag != "defs"}
        if parent.attrib and len(clips) == 1 and "" not in clips and parent.tag == "g":
            parent.set("clip-path", clips.pop())
            for child in children:
                _remove(child, "clip-path")
        bare = [e for child in children for e in (child if child.tag == "g" and not child.attrib else [child])]
        parent[:] = _clipped(_alike(sorted(bare, key=_kind) if axis else bare))


def _remove(element: Element, *names: str) -> str:
    """The last of what was removed."""
    return [element.attrib.pop(name, "") for name in names][-1]


def _shows(element: Element) -> bool:
    if element.tag == "path":
        return "d" in element.attrib and (element.get("fill") != "none" or "stroke" in element.attrib)
    return element.tag != "metadata" and (element.tag not in ("g", "defs") or len(element) > 0)


def _kind(of_axis: Element) -> tuple[int, str]:
    """Lines of the grid and ticks first, then words."""
    return (0, str(_but(of_axis, "d"))) if of_axis.tag == "path" else (1, "")


def _but(element: Element, *names: str) -> dict[str, str]:
    return {name: value for name, value in element.attrib.items() if name not in names}


def _alike(elements: Iterable[Element]) -> list[Element]:
    """Neighbouring lines of one look are one path, markers and words of one look a group that has it."""
    found = []
    for (tag, look), run in groupby(elements, lambda e: (e.tag, _but(e, "d", "href", "x", "y"))):
        several = list(run)
        if tag == "path" and look.get("fill") == "none" and "id" not in look:
            several[0].set("d", "".join(path.attrib["d"] for path in several))
            found.append(several[0])
        elif tag in ("use", "text") and look and "transform" not in look and len(several) > 1:
            found.append(_grouped(several, *look))
        else:
            found += several
    return found


def _clipped(elements: Iterable[Element]) -> list[Element]:
    """Neighbours that are cut off alike are a group that is."""
    found = []
    for clip, run in groupby(elements, lambda e: e.get("clip-path", "")):
        several = list(run)
        found += [_grouped(several, "clip-path")] if clip and len(several) > 1 else several
    return found


def _grouped(elements: Iterable[Element], *names: str) -> Element:
    """A group of them that has these attributes, which they have alike."""
    group = Element("g")
    for element in elements:
        group.attrib |= {name: element.attrib[name] for name in names}
        _remove(element, *names)
        group.extend([element] if element.attrib or element.tag != "g" else element)
    return group
