"""What a normalizer reads, learns and keeps, measured on the layer and checked against the definitions."""

import itertools
import math
import re
import xml.etree.ElementTree as ET
from html import unescape
from typing import Any

import pytest
import torch
from torch import nn

from normcore import NORMS, make_norm
from normcore.lab.figures import anatomy
from normcore.lab.figures.anatomy import SHAPE, SIZES, C, N, P, entering, extents, facts, parts, reads
from normcore.lab.figures.look import STYLES

NAMES = [name for name in NORMS if name != "none"]
# how many instances, channels and positions a set of statistics covers, by the papers
COVERS = {
    "bn": (N, 1, P), "ln": (1, C, P), "cln": (1, C, 1), "in": (1, 1, P), "gn": (1, 2, P), "rms": (1, C, P),
    "lrn": (1, 5, 1), "brn": (N, 1, P), "rbn": (N, 1, P), "vbn": (1, 1, P), "fnbb": (N, C, P), "fnbl": (1, C, 1),
}  # fmt: skip
RUNNING, REFERENCE, CURRENT = "running averages", "reference batch", "current input"


def only(name: str, **options: Any) -> nn.Module:
    (layer,) = parts(name, **options).values()
    return layer


@pytest.mark.parametrize("name", COVERS)
def test_the_measured_set_is_the_defined_one(name: str) -> None:
    at = anatomy._place(name)
    found = reads(only(name), at).input
    assert extents(found) == COVERS[name]
    assert found.sum() == math.prod(COVERS[name]), "not a box"
    assert found[at]


def test_options_reach_the_layer() -> None:
    assert extents(reads(only("fnbl", semantics="text")).input) == (N, C, P)
    assert extents(reads(only("gn", num_groups=2)).input) == (1, 3, P)


def test_a_switchable_norm_is_measured_part_by_part() -> None:
    found = {part: extents(reads(layer).input) for part, layer in parts("sn").items()}
    assert found == {"instance": COVERS["in"], "layer": COVERS["ln"], "batch": COVERS["bn"]}
    whole = reads(make_norm("sn", C).double())
    assert str(whole) == f"{C * P + N * P - P} of {N * C * P} values"  # an instance and a channel, which cross


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.BatchNorm2d(C), "bn"),
        (nn.GroupNorm(1, C), "ln"),
        (nn.InstanceNorm2d(C), "in"),
        (nn.GroupNorm(3, C), "gn"),
        (nn.LocalResponseNorm(5), "lrn"),
    ],
)
def test_torch_s_layers_measure_the_same(layer: nn.Module, name: str) -> None:
    at = anatomy._place(name)
    assert torch.equal(reads(layer.double(), at).input, reads(only(name), at).input)


@pytest.mark.parametrize(
    ("name", "training", "evaluation"),
    [
        ("bn", [CURRENT], [RUNNING]),
        ("fnbb", [CURRENT], [RUNNING]),
        ("brn", [CURRENT, RUNNING], [RUNNING]),
        ("rbn", [CURRENT, REFERENCE], [RUNNING]),
        ("vbn", [CURRENT, REFERENCE], [CURRENT, REFERENCE]),
        *((name, [CURRENT], [CURRENT]) for name in ("ln", "cln", "in", "gn", "rms", "lrn", "fnbl")),
    ],
)
def test_where_statistics_come_from(name: str, training: list[str], evaluation: list[str]) -> None:
    at = anatomy._place(name)
    assert reads(only(name), at).sources == training
    assert reads(only(name), at, training=False).sources == evaluation


def test_measuring_changes_nothing() -> None:
    layer = only("bn")
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    reads(layer)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_the_number_of_sets_is_the_number_of_different_patterns(name: str) -> None:
    places = list(itertools.product(range(N), range(C), range(P)))
    patterns = [len({tuple(entering(layer, at).flatten().tolist()) for at in places}) for layer in parts(name).values()]
    counts = facts(name, tuple(SIZES.values()))["sets of statistics"]
    assert [count.number for count in counts if isinstance(count, anatomy.Count)] == patterns


@pytest.mark.parametrize("name", NAMES)
def test_counts_of_values_are_the_layer_s(name: str) -> None:
    layer, found = make_norm(name, SHAPE[1]), facts(name)
    for what, tensors in (("learned values", layer.parameters()), ("kept values", layer.buffers())):
        (count,) = found[what]
        assert isinstance(count, anatomy.Count)
        assert count.number == sum(t.numel() for t in tensors)


def test_sets_of_statistics_are_what_s2_02_calls_parameters() -> None:
    shape = (8, 64, 14, 14)
    told = {name: str(facts(name, shape)["sets of statistics"][0]) for name in ("bn", "ln", "in", "gn")}
    assert told == {"bn": "C = 64", "ln": "N = 8", "in": "N·C = 512", "gn": "N·G = 256"}
    learned = {name: str(facts(name, shape)["learned values"][0]) for name in told}
    assert set(learned.values()) == {"2C = 128"}
    assert [str(c) for c in facts("gn", shape)["values in a set"]] == ["(C/G)·H·W = 392"]


@pytest.mark.parametrize(
    ("names", "blind"),
    [
        (("bn", "ln", "cln", "in", "gn", "sn", "fnbb", "fnbl"), "shift, scale"),
        (("rms",), "scale"),
        (("lrn", "brn", "rbn", "vbn"), "nothing"),
    ],
)
def test_what_the_output_is_blind_to(names: tuple[str, ...], blind: str) -> None:
    assert {facts(name)["output blind to its input's"] for name in names} == {blind}


@pytest.mark.parametrize("name", NAMES)
def test_a_drawing_shows_what_was_measured(name: str) -> None:
    text = anatomy.draw_axes(name)
    assert text == anatomy.draw_axes(name), "not the same bytes"
    drawings = re.findall(r"<svg.*?</svg>", text)
    colored = [_colored(drawing, name) for drawing in drawings]
    at = anatomy._place(name)
    expected = []
    for layer in parts(name).values():
        modes = [reads(layer, at, training=training) for training in (True, False)]
        for found in modes[: 1 if str(modes[0]) == str(modes[1]) else 2]:
            x = found.input  # the sides that show: the first position, instance and channel
            sides = x[:, :, 0].sum() + x[0].sum() + x[:, 0].sum()
            expected.append(int(sides + sum(int(table.sum()) for table in found.kept.values())))
    assert colored == expected
    if len(parts(name)) == 1:
        assert _colored(anatomy.thumbnail(name), name) == expected[0]
    (label,) = re.findall(r'aria-label="([^"]*)"', text)
    assert str(reads(next(iter(parts(name).values())), at)) in unescape(label)


def _colored(drawing: str, name: str) -> int:
    """How many cells have the colour of the normalizer."""
    paths = [path for path in ET.fromstring(drawing).iter("path") if path.get("fill") == STYLES[name].color]
    return sum(path.get("d", "").count("M") for path in paths)


def test_drawings_side_by_side() -> None:
    text = anatomy.draw_axes("bn", "ln")
    assert text.count("<svg") == 2
    assert ">BN</text>" in text
    assert "mean stays" in anatomy.draw_axes("rms")
    assert "mean stays" not in anatomy.draw_axes("ln")


def test_tables_of_one_and_of_several() -> None:
    one = anatomy.describe("bn", shape=(2, 3, 4, 5))
    assert "for an input of 2 × 3 × 4 × 5" in one
    assert "N·H·W = 40" in one
    several = anatomy.describe("bn", "ln", only=["learned values"])
    assert several.count("<tr") == 3
    assert "2C" in several
    assert "=" not in re.sub(r"<[^>]*>", "", several)
