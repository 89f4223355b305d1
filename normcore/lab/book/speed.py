"""The generated part of the book's page on speed, from ``data/benchmarks``."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .. import paths
from ..bench import loop as bench_training
from ..bench import steps as bench_steps
from ..bench.layers import FLOOR, MET, MISSED, NOISE, NOT_MEASURED, TEXT, judge, side_by_side
from ..figures import look
from ..files import read_sealed
from . import markdown

_BADGES = {MET: "success", NOISE: "warning", MISSED: "danger", NOT_MEASURED: "muted"}
_PLACES = {"cpu": "On a CPU", "cuda": "On a GPU"}


def speed() -> str:
    """A section for each device that was measured."""
    sections = [f"## {place}\n\n{text}" for device, place in _PLACES.items() if (text := _device(device))]
    return "\n\n".join(sections) or "Nothing has been measured yet."


def _device(device: str) -> str:
    """What was measured of the layers, of a step and of the training loop."""
    folder = paths.root() / "data" / "benchmarks"
    made = {"layers": _section, "passes": _passes, "steps": _steps, "training": _training}
    files = {folder / f"{name}-{device}.json": make for name, make in made.items()}
    parts = [make(read_sealed(path)) for path, make in files.items() if path.is_file()]
    if parts and device == "cuda" and not (folder / "layers-cuda.json").is_file():
        parts.insert(0, "No layer has been timed on one.")
    return "\n\n".join(parts)


def _section(found: Mapping[str, Any]) -> str:
    return "\n\n".join([
        _provenance(found),
        "### Limits",
        _limits(judge(found)),
        "### All layers",
        markdown.raw(_figure(found)),
        _numbers("Time over that of nn.BatchNorm2d", found, "to_batch_norm"),
        _numbers("Time over the memory floor", found, "to_floor"),
        _numbers("Milliseconds", found, "ms"),
        "### Memory",
        "What is kept from the forward for the backward pass, as a multiple of the input:",
        _numbers("Saved for the backward pass", found, "saved"),
        *([_numbers("Peak of a step", found, "peak")] if found["provenance"]["device"] == "cuda" else []),
    ])  # fmt: skip


def _provenance(found: Mapping[str, Any]) -> str:
    where, setting = found["provenance"], found["setting"]
    threads = f", {where['threads']} thread{'s' if where['threads'] > 1 else ''}"
    device = where["device_name"] + (threads if where["device"] == "cpu" else "")
    return (
        f"Measured on {device}, torch {where['versions']['torch']}, {setting['dtype']}, in {setting['rounds']} rounds, "
        f"at commit `{where['commit']}`."
    )


def _limits(judged: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for limit in judged:
        layers = dict.fromkeys(_label(cell.partition(",")[0]) for cell in limit["over"])
        worst = f"{_number(limit['worst'][0])} ({_cell_name(limit['where'])})" if limit["worst"] else ""
        badge = markdown.badge(_BADGES[limit["verdict"]], limit["verdict"])
        rows.append([limit["says"], badge, worst, ", ".join(layers)])
    return markdown.table(["limit", "", "worst value", "layers above it"], rows)


def _cell_name(where: str) -> str:
    layer, _, shape = where.partition(", ")
    return f"{_label(layer)}, {_times(shape)}"


def _label(layer: str) -> str:
    if layer == TEXT:
        return f"{look.label('fnbl')} (text)"
    return "memory floor" if layer == FLOOR else look.label(layer)


def _times(shape: str) -> str:
    return shape.replace(" x ", " × ")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _numbers(title: str, found: Mapping[str, Any], key: str) -> str:
    rows = []
    for line in side_by_side(found, key):
        layer, _, engine = line["layer"].partition(" ")
        values = [_number(value) for name, value in line.items() if name != "layer"]
        if any(values):
            rows.append([_label(layer), engine, *values])
    head = ["layer", "", *map(_times, found["measured"])]
    return f":::{{dropdown}} {title}\n{markdown.table(head, rows, 'll' + 'r' * len(found['measured']))}\n:::"


# --- the passes of what is compiled ----------------------------------------------------------------------


def _passes(found: Mapping[str, Any]) -> str:
    floor, where = found["setting"]["floor"], found["provenance"]
    rows = []
    for name, counts in found["measured"].items():
        forward, backward = counts["forward"], counts["backward"]
        cells = (forward["kernels"], backward["kernels"], forward["passes"], backward["passes"])
        over = forward["passes"] + backward["passes"] - sum(floor.values())
        rows.append([_label(name), *map(_number, cells), f"{over:+.2g}"])
    head = ["layer", "kernels forward", "backward", "passes forward", "backward", "over the floor"]
    return "\n\n".join([
        "### Passes over memory, compiled",
        f"Kernels that `torch.compile` makes of a training step of each layer, in {found['setting']['code']}, and the "
        f"bytes that they read and write as multiples of the input's, {_times(found['setting']['shape'])}. The floor "
        f"is {floor['forward']} passes forward and {floor['backward']} backward. A kernel that goes over its input "
        f"twice counts it once here, so a layer may be below. Counted with torch {where['versions']['torch']}, at "
        f"commit `{where['commit']}`.",
        markdown.table(head, rows, "lrrrrr"),
    ])  # fmt: skip


# --- a step and the training loop ------------------------------------------------------------------------


def _steps(found: Mapping[str, Any]) -> str:
    setting = found["setting"]
    lines = [_step(line, found["measured"][line["variant"]]) for line in bench_steps.rows(found)]
    return "\n\n".join([
        "### A step of a network",
        f"`{setting['model']}`, images of {setting['image_size']} pixels, batches of {setting['batch_size']}. "
        f"{_provenance(found)}",
        markdown.table(list(lines[0]), (line.values() for line in lines), "l" + "r" * (len(lines[0]) - 1)),
        _full_norms(found),
    ])  # fmt: skip


def _step(line: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, str]:
    """The cells of a variant by the heads of their columns."""
    return {
        "normalizer": _variant(line["variant"], line["norm"]),
        "ms": _interval(row["ms"]),
        "over no norm": _interval(row["of_none"]),
        "over BN": _interval(row["of_bn"]),
        "images a second": _number(line["images_per_second"]),
        "saved, MB": _number(row["saved_mb"]),
        **({"peak, MB": _number(row["peak_mb"])} if "peak_mb" in row else {}),
    }


def _full_norms(found: Mapping[str, Any]) -> str:
    """What the statement S0-17 is about."""
    published = bench_steps.ratio(found, bench_steps.PUBLISHED_BL, bench_steps.PUBLISHED_BB)
    ours = bench_steps.ratio(found, bench_steps.CODE, "fnbb")
    return (
        f"A step with FNBL takes {_interval(published)} times as long as one with FNBB where both are as published, "
        f"and {_interval(ours)} times as long with the layers of this library. [S0-17](#s0-17) is about this ratio."
    )


def _variant(name: str, norm: str) -> str:
    rest = name.removeprefix(norm).strip(" -")
    return look.label(norm) + (f" ({rest})" if rest else "")


def _interval(value: Sequence[float]) -> str:
    median, low, high = map(_number, value)
    return f"{median} [{low}, {high}]"


def _training(found: Mapping[str, Any]) -> str:
    lines = bench_training.side_by_side(found)
    cells = ([_number(v) if isinstance(v, float) else v or "" for v in line.values()] for line in lines)
    return "\n\n".join([
        "### The training loop",
        f"Images a second. {_provenance(found)}",
        markdown.table(list(lines[0]), cells, "llrrrrrrrr"),
    ])  # fmt: skip


# --- the figure ------------------------------------------------------------------------------------------


def _figure(found: Mapping[str, Any]) -> str:
    small = found["setting"]["small"]
    panels = []
    for shape, rows in found["measured"].items():
        with look.panel(height=3.7) as (figure, axes):
            measured = {n: r["to_batch_norm"] for n, r in rows.items() if n.endswith(("eager", "compiled", "torch"))}
            columns = ["median", "low", "high"]
            figure.numbers = pd.DataFrame.from_dict(measured, orient="index", columns=columns).reset_index(
                names="layer"
            )
            _draw(axes, rows)
            if shape != small:
                _draw_floor(axes, rows)
            axes.set(title=_times(shape) + (" (small)" if shape == small else ""), xlabel="time over nn.BatchNorm2d's")
        panels.append(figure)
    return _shown(panels)


def _shown(panels: Sequence[Figure]) -> str:
    return look.show(
        panels,
        alt="Time of forward and backward of every layer as a multiple of nn.BatchNorm2d's, a panel for each input "
        "shape; the numbers are in the tables below.",
        caption="Forward and backward, medians with 95 % intervals. Filled: eager. Open: compiled, where a layer heeds "
        "that choice. Upright stroke: torch's own layer. Solid line: nn.BatchNorm2d. Dashed line: the memory floor.",
    )


def _draw(axes: Axes, rows: Mapping[str, Any]) -> None:
    layers = [name.removesuffix(" eager") for name in rows if name.endswith(" eager") and name != "none eager"]
    text = mpl.rcParams["text.color"]  # the page's
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.axvline(1, color=text, linewidth=0.9)
    for place, layer in enumerate(reversed(layers)):
        style = look.style("fnbl" if layer == TEXT else layer)
        for engine, offset in (("eager", 0.14), ("compiled", -0.2)):
            if row := rows.get(f"{layer} {engine}"):
                median, low, high = row["to_batch_norm"]
                axes.errorbar(
                    median, place + offset, xerr=[[median - low], [high - median]], fmt=style.marker, color=style.color,
                    markerfacecolor=style.color if engine == "eager" else "none", markersize=5.5, elinewidth=1,
                )  # fmt: skip
        if row := rows.get(f"{layer} torch"):
            axes.plot(row["to_batch_norm"][0], place + 0.14, "|", color=text, markersize=9)
    axes.set_yticks(range(len(layers)), [_label(layer) for layer in reversed(layers)])
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_floor(axes: Axes, rows: Mapping[str, Any]) -> None:
    color = mpl.rcParams["text.color"]
    axes.axvline(rows[FLOOR]["to_batch_norm"][0], color=color, linewidth=0.9, linestyle=(0, (4, 3)))
