"""The anatomy of a normalizer, measured on the layer itself: what it reads, what it learns, what it keeps.

A layer gets a small random input. The gradient of one output value says which input values its statistics are of, and
a nudge to each kept statistic whether that enters. Counts follow from moving that value along the axes, and the passes
over memory from whether a set of statistics reaches over positions.
"""

import functools
import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ... import make_norm
from .look import Html, captioned, label, style, tabulate

Place = tuple[int, int, int]

SIZES = {"N": 4, "C": 6, "H": 2, "W": 2}  # the input that is measured and drawn
N, C, P = SIZES["N"], SIZES["C"], SIZES["H"] * SIZES["W"]
SHAPE = (32, 256, 56, 56)  # for which counts are given: a layer of a ResNet-50

_KEPT = {"running": "running averages", "reference": "reference batch"}  # by the first word of a buffer's name


# --- what a layer reads ----------------------------------------------------------------------------------


class Reads(NamedTuple):
    """Where the statistics come from that normalize one value.

    Attributes:
        input: (N, C, positions), true for the input values that they are of; nowhere if all are kept ones.
        kept: by the first word of the buffers' names, true for the kept statistics that enter.
    """

    input: Tensor
    kept: dict[str, Tensor]

    @property
    def sources(self) -> list[str]:
        """Such as ``["current input", "running averages"]``."""
        current = ["current input"] if self.input.any() else []
        return current + [_KEPT[kind] for kind, table in self.kept.items() if table.any()]

    def __str__(self) -> str:
        found, covered = self.sources, extents(self.input)
        if self.input.sum() < math.prod(covered):
            found[0] = f"{self.input.sum()} of {self.input.numel()} values"
        elif self.input.any():
            axes = zip(covered, self.input.shape, ("instances", "channels", "positions"), strict=True)
            found[0] = ", ".join(f"all {n} {what}" if k == n else f"{k} of {n} {what}" for k, n, what in axes)
        return " and the ".join(found) or "nothing"


def extents(mask: Tensor) -> tuple[int, ...]:
    """How many instances, channels and positions a mask (N, C, positions) covers."""
    return tuple(len(set(mask.nonzero()[:, axis].tolist())) for axis in range(3))


def random_input(seed: int) -> Tensor:
    """Standard normal values (N, C, H, W) in float64."""
    return torch.randn(*SIZES.values(), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reads(layer: nn.Module, at: Place = (0, 0, 0), *, training: bool = True) -> Reads:
    """Where the statistics come from that normalize the value of an (instance, channel, position).

    Args:
        layer: in float64, for C channels, past its first batch.
    """
    layer.train(training)
    return Reads(entering(layer, at, training=training), _kept(layer, at))


def entering(layer: nn.Module, at: Place = (0, 0, 0), *, training: bool = True) -> Tensor:
    """The part of :func:`reads` that is of the current input."""
    layer.train(training)
    x = random_input(seed=1).requires_grad_()
    (slope,) = torch.autograd.grad(_value(layer, x, at), x)
    found = (slope.abs() > 1e-9 * slope.abs().max()).flatten(2)
    return found if found.sum() > 1 else torch.zeros_like(found)  # not the value by itself alone


def _value(layer: nn.Module, x: Tensor, at: Place, **changed: Tensor) -> Tensor:
    """One output value, with some buffers changed; the layer keeps what it has."""
    buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    return functional_call(layer, buffers | changed, (x,)).flatten(2)[at]


@torch.no_grad()
def _kept(layer: nn.Module, at: Place) -> dict[str, Tensor]:
    x, found = random_input(seed=1), dict[str, Tensor]()
    value = _value(layer, x, at)
    for name, buffer in layer.named_buffers():
        kind = name.partition("_")[0]
        if kind in _KEPT and buffer.dim() == 1:
            nudged = buffer + 0.01 * torch.eye(len(buffer), dtype=buffer.dtype)
            moved = torch.stack([_value(layer, x, at, **{name: row}) - value for row in nudged]).abs() > 1e-9
            found[kind] = found.get(kind, torch.zeros_like(moved)) | moved
    return found


def make_ready(name: str, **options: Any) -> nn.Module:
    """The layer in float64, past its first batch; a correction that a schedule would hold back is there."""
    if name == "brn":
        options = {"schedule": None, **options}
    layer = make_norm(name, C, **options).double()
    layer(random_input(seed=0))
    return layer


def parts(name: str, **options: Any) -> dict[str, nn.Module]:
    """The layer; of a switchable one, each of what it mixes, by the layer with all weight on that."""
    if name != "sn":
        return {"": make_ready(name, **options)}
    found = {part: make_ready(name, **options) for part in ("instance", "layer", "batch")}
    for layer, chosen in zip(found.values(), torch.eye(3), strict=True):
        for weight in ("mean_weight", "var_weight"):
            layer.get_parameter(weight).data.copy_(100 * chosen)  # the others' softmax is 4e-44
    return found


# --- the drawing -----------------------------------------------------------------------------------------

_SIDE = 17.0  # of a cell, in pixels
_TURN = math.radians(27)
_GAP, _HEIGHT = 0.55, 0.5  # of a strip of kept statistics, in cells


class Panel(NamedTuple):
    """A block to draw: its heading, whose it is, and what is coloured."""

    title: str
    name: str
    found: Reads

    def __str__(self) -> str:
        return f"{self.title[0].upper()}{self.title[1:]}: {self.found}."


def draw_axes(*names: str, **options: Any) -> Html:
    """The input as a block of cells, with what the statistics are of that normalize the outlined value coloured.

    Below the block stands a cell for each kept statistic, coloured where it enters. The layer is measured, nothing
    is drawn after its definition; see :func:`reads`. Of one normalizer training and evaluation are drawn, of
    several training.

    Args:
        names: keys of ``normcore.NORMS``.
        options: of the layers.
    """
    if len(names) > 1:
        panels = [Panel(label(n), n, reads(make_ready(n, **options), _place(n))) for n in names]
    else:
        panels = _by_mode(names[0], options)
    words = " ".join(map(str, panels))
    if len(names) == 1 and _blind(make_ready(names[0], **options)) == "scale":
        words += " Only a scale is taken from them, the mean stays."
    alt = html.escape(f"Blocks of {N} instances by {C} channels by {P} positions. {words}")
    many, zoom = (" nc-many", 1.0) if len(names) > 1 else ("", 1.4)
    drawn = "".join(f"<div>{_block(panel, zoom)}</div>" for panel in panels)
    caption = "The outlined value is normalized by statistics of what is coloured." + f" {words}" * (not many)
    return Html(captioned(f'<div class="nc-panels{many}" role="img" aria-label="{alt}">{drawn}</div>', caption))


def _by_mode(name: str, options: Mapping[str, Any]) -> list[Panel]:
    panels = []
    for part, layer in parts(name, **options).items():
        modes = {"in training": reads(layer, _place(name)), "at evaluation": reads(layer, _place(name), training=False)}
        if len(set(map(str, modes.values()))) == 1:
            modes = {"" if part else "in training and at evaluation": modes["in training"]}
        panels += [Panel(_title(part, mode), name, found) for mode, found in modes.items()]
    return panels


def _title(part: str, mode: str) -> str:
    return ", ".join(words for words in (f"{part} part" if part else "", mode) if words)


def _place(name: str) -> Place:
    """Of the outlined value: the front corner, but for a window of channels one with neighbours on both sides."""
    return (0, 2, 0) if name == "lrn" else (0, 0, 0)


def thumbnail(name: str) -> str:
    """What :func:`draw_axes` draws of a normalizer in training, small and without words, as an SVG element."""
    found, at = reads(make_ready(name), _place(name)), _place(name)
    low = P + (_GAP + _HEIGHT) * len(found.kept)
    left, top = _project(0, C, 0)[0] - 2, _project(N, C, 0)[1] - 2
    width, height = _project(N, 0, 0)[0] + 2 - left, _project(0, 0, low)[1] + 2 - top
    return (
        f'<svg viewBox="{left:.0f} {top:.0f} {width:.0f} {height:.0f}" width="{width * 0.55:.0f}" aria-hidden="true">'
        f"{_drawn(found, at, style(name).color, digits=0)}</svg>"
    )


def _block(panel: Panel, zoom: float) -> str:
    """The block as an SVG element, seen from above the front corner, so that three of its sides show."""
    found = panel.found
    marks = [
        _text("H, W", "end", 0, C + 0.3, P / 2),
        _text("N", "end", N / 2, C + 0.5, 0),
        _text("C", "start", N + 0.5, C / 2, 0),
    ]
    low = float(P)
    for kind in found.kept:
        low += _GAP + _HEIGHT
        marks.append(_text(_KEPT[kind], "start", 0.3, 0, low))
    left, top = _project(0, C, 0)[0] - 28, _project(N, C, 0)[1] - 25
    width, height = max(_project(N, 0, 0)[0], 93) + 4 - left, _project(0, 0, low)[1] + 4 - top
    return (
        f'<svg viewBox="{left:.0f} {top:.0f} {width:.0f} {height:.0f}" width="{width * zoom:.0f}" font-size="10.5"'
        ' fill="currentColor" font-family="system-ui, sans-serif">'
        f'<text x="{left + 4:.0f}" y="{top + 12:.0f}" font-weight="600">{panel.title}</text>'
        f"{_drawn(found, _place(panel.name), style(panel.name).color)}{''.join(marks)}</svg>"
    )


def _drawn(found: Reads, at: Place, color: str, digits: int = 1) -> str:
    """The cells of the three sides and of the kept statistics, coloured where they enter; the value at ``at`` is
    outlined. Corners have so many ``digits`` of a pixel."""
    n0, c0, p0 = at
    cells = [(_top(n, c), 0.95, found.input[n, c, 0]) for n in range(N) for c in range(C)]
    cells += [(_front(c, p), 0.75, found.input[0, c, p]) for c in range(C) for p in range(P)]
    cells += [(_side(n, p), 0.55, found.input[n, 0, p]) for n in range(N) for p in range(P)]
    low = float(P)
    for table in found.kept.values():
        low, width = low + _GAP, C / len(table)
        cells += [(_front(c * width, low, width, _HEIGHT), 0.75, on) for c, on in enumerate(table)]
        low += _HEIGHT
    looks: dict[tuple[str, float], list[list[Point]]] = {}
    for quad, shade, on in cells:
        looks.setdefault((color, shade) if on else ("currentColor", shade / 12), []).append(quad)
    outline = [_top(n0, c0)] * (p0 == 0) + [_front(c0, p0)] * (n0 == 0) + [_side(n0, p0)] * (c0 == 0)
    filled = "".join(_path(quads, digits, *look) for look, quads in looks.items())
    return (
        f'<g stroke="currentColor" stroke-opacity=".5" stroke-width=".7" stroke-linejoin="round">{filled}'
        f'<g stroke-width="2.5" stroke-opacity="1">{_path(outline, digits)}</g></g>'
    )


Point = tuple[float, float]


def _project(n: float, c: float, p: float) -> Point:
    """Where a corner stands: instances go back to the right, channels back to the left, positions down."""
    across, up = _SIDE * math.cos(_TURN), _SIDE * math.sin(_TURN)
    return (n - c) * across, p * _SIDE - (n + c) * up


def _top(n: int, c: int) -> list[Point]:
    return [_project(n, c, 0), _project(n + 1, c, 0), _project(n + 1, c + 1, 0), _project(n, c + 1, 0)]


def _front(c: float, p: float, width: float = 1, height: float = 1) -> list[Point]:
    return [
        _project(0, c, p),
        _project(0, c + width, p),
        _project(0, c + width, p + height),
        _project(0, c, p + height),
    ]


def _side(n: int, p: int) -> list[Point]:
    return [_project(n, 0, p), _project(n + 1, 0, p), _project(n + 1, 0, p + 1), _project(n, 0, p + 1)]


def _path(quads: Iterable[Sequence[Point]], digits: int, fill: str = "none", opacity: float = 1) -> str:
    corners = "".join(f"M{' '.join(f'{x:.{digits}f},{y:.{digits}f}' for x, y in quad)}z" for quad in quads)
    return f'<path d="{corners}" fill="{fill}" fill-opacity="{opacity:.2f}"/>'


def _text(text: str, anchor: str, n: float, c: float, p: float) -> str:
    x, y = _project(n, c, p)
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


# --- the table -------------------------------------------------------------------------------------------


class Count(NamedTuple):
    """A number and the formula that it comes from."""

    formula: str
    number: int

    def __str__(self) -> str:
        return self.formula if self.formula == str(self.number) else f"{self.formula} = {self.number:,}"


Fact = str | list[Count]


def describe(*names: str, shape: Sequence[int] = SHAPE, only: Sequence[str] | None = None, **options: Any) -> Html:
    """What normalizers learn, compute, keep and cost: of one with numbers, of several as formulas, a row each.

    Args:
        names: keys of ``normcore.NORMS``.
        shape: (N, C, H, W), for the numbers.
        only: keys of :func:`facts`; all by default.
        options: of the layers.
    """
    found = {name: facts(name, shape, **options) for name in names}
    wanted = only or list(found[names[0]])
    if len(names) > 1:
        formulas = ({what: _said(row[what], numbers=False) for what in wanted} for row in found.values())
        return tabulate({"": label(name)} | row for name, row in zip(names, formulas, strict=True))
    head = f"for an input of {' × '.join(map(str, shape))}"
    return tabulate({"": what, head: _said(found[names[0]][what])} for what in wanted)


def _said(fact: Fact, numbers: bool = True) -> str:
    return fact if isinstance(fact, str) else ", ".join(str(c) if numbers else c.formula for c in fact)


def facts(name: str, shape: Sequence[int] = SHAPE, **options: Any) -> dict[str, Fact]:
    """What a normalizer learns, computes, keeps and costs, measured on the layer; see :func:`describe`."""
    return dict(_facts(name, tuple(shape), **options))


@functools.cache  # the pages of the book ask for the same ones many times
def _facts(name: str, shape: tuple[int, ...], **options: Any) -> dict[str, Fact]:
    layers, at = parts(name, **options).values(), _place(name)
    large = make_norm(name, shape[1], **options)
    sizes = {"N": shape[0], "C": shape[1], "H·W": math.prod(shape[2:]), "G": getattr(large, "num_groups", 0)}
    sets, values = zip(*(_sets(layer, at, sizes) for layer in layers), strict=True)
    training, evaluation = (
        list(dict.fromkeys(source for layer in layers for source in reads(layer, at, training=mode).sources))
        for mode in (True, False)
    )
    wide = any(extents(entering(layer, at))[2] > 1 for layer in layers)
    again = wide and "current input" in evaluation
    names = [buffer for buffer, _ in large.named_buffers()]
    return {
        "learned values": [_total(name, nn.Module.parameters, shape[1], options)],
        "sets of statistics": list(sets),
        "values in a set": list(values),
        "statistics in training are of": ", ".join(training),
        "statistics at evaluation are of": ", ".join(evaluation),
        "kept values": [_total(name, nn.Module.buffers, shape[1], options)],
        "kept as": ", ".join(names) or "nothing",
        "output blind to its input's": _blind(make_ready(name, **options)),
        "forward pass": "2 reads, 1 write" if wide else "1 read, 1 write",
        "backward pass": "4 reads, 1 write" if wide else "2 reads, 1 write",
        "evaluation": "2 reads, 1 write" if again else "1 read, 1 write",
    }


def _sets(layer: nn.Module, at: Place, sizes: Mapping[str, int]) -> tuple[Count, Count]:
    """How many sets of statistics the layer takes of its input, and of how many values each is.

    Along each axis the set of the value at ``at`` is moved: it stays the same (the axis is pooled), is another one
    at every step (the axis counts sets), or changes now and then (groups).
    """
    covered = extents(entering(layer, at))
    sets, values = [], []
    for axis, (size, symbol) in enumerate(zip((N, C, P), ("N", "C", "H·W"), strict=True)):
        distinct = len({tuple(entering(layer, place).flatten().tolist()) for place in _along(axis, at, size)})
        if distinct == 1:
            values.append((symbol, sizes[symbol]))
        elif distinct == size:
            sets.append((symbol, sizes[symbol]))
            values += [(str(covered[axis]), covered[axis])] * (covered[axis] > 1)
        else:
            sets.append(("G", sizes["G"]))
            values.append((f"({symbol}/G)", sizes[symbol] // sizes["G"]))
    return _product(sets), _product(values)


def _along(axis: int, at: Place, size: int) -> list[Place]:
    places = [[*at] for _ in range(size)]
    for i, place in enumerate(places):
        place[axis] = i
    return [(n, c, p) for n, c, p in places]


def _product(factors: Sequence[tuple[str, int]]) -> Count:
    return Count("·".join(symbol for symbol, _ in factors) or "1", math.prod(number for _, number in factors))


def _total(name: str, of: Callable[[nn.Module], Iterable[Tensor]], channels: int, options: Mapping[str, Any]) -> Count:
    """All values of a layer's parameters or buffers, as a formula in the number of channels."""
    small, large = (sum(t.numel() for t in of(make_norm(name, c, **options))) for c in (C, 2 * C))
    each, fixed = (large - small) // C, 2 * small - large
    terms = [f"{each if each > 1 else ''}C"] * (each > 0) + [str(fixed)] * (fixed > 0 or not each)
    return Count(" + ".join(terms), each * channels + fixed)


@torch.no_grad()
def _blind(layer: nn.Module) -> str:
    """To which changes of its whole input the output is blind, in training: a shift, a scale."""
    x = random_input(seed=1)
    y = layer.train()(x)
    changed = {"shift": x + 1, "scale": 2 * x}
    return ", ".join(what for what, other in changed.items() if torch.allclose(layer(other), y, atol=1e-4)) or "nothing"
