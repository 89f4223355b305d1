"""Figures: one look for the whole book, and curves that a reader can switch and step through.

A figure is put on the page as inline SVG. Its lines of text and its axes take the colour of the page's text,
so it is as readable in dark mode as in light, and it is sharp at every width.
"""

import functools
import html
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from .stats import intervals, spread


class Style(NamedTuple):
    """How a normalizer looks in every figure of the book."""

    label: str
    color: str
    marker: str
    dash: str | tuple[int, tuple[int, ...]] = "-"


# Okabe and Ito's colours, safe for colour-blind readers, darkened or lightened until each stands out on white
# and on black alike; what shares a hue is a relative and differs in dash and marker.
STYLES = {
    "none": Style("no norm", "#8a8a8a", "o"),
    "bn": Style("BN", "#2b7fc4", "s"),
    "brn": Style("BatchRenorm", "#2b7fc4", "<", (0, (4, 2))),
    "rbn": Style("ReferenceBN", "#2b7fc4", ">", (0, (1, 1))),
    "vbn": Style("VirtualBN", "#2b7fc4", "p", (0, (6, 2, 1, 2))),
    "ln": Style("LN", "#d9661f", "D"),
    "cln": Style("ChannelLN", "#d9661f", "d", (0, (4, 2))),
    "rms": Style("RMSNorm", "#d9661f", "P", (0, (1, 1))),
    "in": Style("IN", "#0f9d76", "^"),
    "gn": Style("GN", "#c45f98", "v"),
    "sn": Style("SN", "#8f6fd0", "*"),
    "fnbb": Style("FNBB", "#c08a00", "h"),
    "fnbl": Style("FNBL", "#c08a00", "H", (0, (4, 2))),
    "lrn": Style("LRN", "#7a8a2a", "X"),
}

#: variants of a normalizer, in its colour
VARIANT_STYLES = {
    "fnbl-code": Style("FNBL, code (ChannelLN)", "#d9661f", "d", (0, (4, 2))),
    "fnbl-text": Style("FNBL, text", "#c08a00", "H", (0, (4, 2))),
    "bn-noise": Style("BN, then noise", "#2b7fc4", "X", (0, (4, 2))),
    "none-dropout": Style("no norm, dropout", "#8a8a8a", "P", (0, (4, 2))),
    "bn-dropout": Style("BN, dropout", "#2b7fc4", "8", (0, (4, 2))),
    "contrib-in": Style("IN of keras-contrib", "#0f9d76", "8", (0, (4, 2))),
    "contrib-gn": Style("GN of keras-contrib", "#c45f98", "X", (0, (4, 2))),
}
_NAMED = {**STYLES, **VARIANT_STYLES}
#: ending of a variant's name -> what it says of the normalizer before it (see ``catdog``), and its dash
_ENDINGS = {"-head": (", BN behind", (0, (1, 1))), "-report": (", as run", (0, (4, 2)))}
#: of other names: as far from those above and from each other as can be, to colour-blind readers as well
_OTHER_COLORS = ("#a800fc", "#78603c", "#fc006c", "#8478fc")
_OTHER_LOOKS = zip(
    itertools.cycle(_OTHER_COLORS), itertools.cycle("os^Dv"), itertools.repeat((0, (5, 1, 1, 1))), strict=False
)
_SEQUENCE = (("#3b62c8", "o"), ("#2a93b5", "s"), ("#2fa062", "^"), ("#b08d00", "D"), ("#d0612a", "v"), ("#b8458a", "P"))


def label(name: str) -> str:
    """The name of a normalizer or variant as readers see it; any other name as it is.

    >>> label("cln"), label("bn-head"), label("fnbb as published")
    ('ChannelLN', 'BN, BN behind', 'fnbb as published')
    """
    known = _known(name)
    return known.label if known else name


def _known(name: str) -> Style | None:
    """The look of a normalizer or variant of the book."""
    for ending, (words, dash) in _ENDINGS.items():
        look = _NAMED.get(name.removesuffix(ending))
        if look and name.endswith(ending):
            return look._replace(label=look.label + words, dash=dash)
    return _NAMED.get(name)


def style(name: str) -> Style:
    """How a normalizer or variant looks. One that the book does not know is called by its name, and keeps the look that
    it gets when it is first asked for.

    >>> style("bn").label, style("of my own").label
    ('BN', 'of my own')
    """
    return _known(name) or _other(name)


@functools.cache
def _other(name: str) -> Style:
    return Style(name, *next(_OTHER_LOOKS))


def styles(by: str, values: Iterable[Any]) -> dict[str, Style]:
    """How the lines of a figure look: normalizers and variants as everywhere in the book, the values of a setting in a
    sequence from blue to red."""
    order = list(dict.fromkeys(values))
    if by in ("norm", "variant", "") or all(_known(str(value)) for value in order):
        return {str(value): style(str(value)) for value in order}
    words = {"batch_size": "batch ", "lr": "lr ", "num_groups": "groups ", "layer": "layer "}.get(by, "")
    looks = itertools.cycle(_SEQUENCE)
    if not any(isinstance(value, str) for value in order):
        order.sort()
    return {str(v): Style(words + (f"{v:g}" if isinstance(v, float) else str(v)), *next(looks)) for v in order}


_TEXT = "#010203"  # stands for the page's text colour; see svg()
_RC: Any = {
    "font.size": 9.5, "axes.titlesize": 10.5, "axes.labelsize": 9.5, "legend.fontsize": 9,
    "text.color": _TEXT, "axes.labelcolor": _TEXT, "axes.edgecolor": _TEXT, "xtick.color": _TEXT,
    "ytick.color": _TEXT, "axes.titlecolor": _TEXT, "grid.color": _TEXT, "grid.alpha": 0.15, "grid.linewidth": 0.6,
    "axes.linewidth": 0.7, "lines.linewidth": 1.7, "lines.markersize": 4.5, "legend.frameon": False,
    "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "lines.solid_capstyle": "round",
    "patch.edgecolor": "w", "patch.force_edgecolor": True,
    "svg.fonttype": "none", "svg.hashsalt": "normcore", "figure.constrained_layout.use": True,
}  # fmt: skip


@contextmanager
def panel(width: float = 4.4, height: float = 3.0) -> Iterator[tuple[Figure, Axes]]:
    """One panel in the book's style; panels stand beside each other where there is room (inches)."""
    with mpl.rc_context(_RC):
        figure = Figure(figsize=(width, height))
        axes = figure.add_subplot()
        axes.grid(visible=True, axis="y")
        yield figure, axes


def svg(figure: Figure, background: str | None = None) -> str:
    """The figure as an SVG element that takes its text colour from the page; the same bytes every time.

    Groups whose gid is ``series:NAME`` get the attribute ``data-series="NAME"``. With a ``background`` the
    text is black instead, for a file that stands alone.
    """
    buffer = io.StringIO()
    with mpl.rc_context(_RC):
        options: dict[str, Any] = {"facecolor": background} if background else {"transparent": True}
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, **options)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'id="series:([^"]+)"', r'data-series="\1"', text)
    text = re.sub(r'<g id="\w+"', "<g", text)  # the same ids in every figure of a page help nobody
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    return text.replace(_TEXT, "currentColor" if background is None else "#222222")


#: what stands at the axes
AXES = {"samples": "images seen", "batch_size": "batch size", "lr": "learning rate", "num_groups": "groups"}


class Html(str):
    """Markup that a notebook displays as such."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, {len(self)} characters>"

    def _repr_html_(self) -> str:
        return str(self)


def show(
    figures: Figure | Sequence[Figure], *, alt: str, caption: str, share_y: bool = True, legend: Iterable[Any] = ()
) -> Html:
    """The panels of one figure, side by side where there is room, with the same vertical axis (``share_y``).

    Args:
        figures: made in :func:`panel`.
        alt: what the figure shows, for who does not see it.
        caption: what to look at.
        legend: the normalizers or variants that all panels show, to be named under them.
    """
    panels = [figures] if isinstance(figures, Figure) else list(figures)
    if share_y:
        _share_y(panels)
    looks = styles("", legend)
    return Html(captioned(_panels(panels, alt) + (_legend(looks) if looks else ""), caption))


def _share_y(panels: Sequence[Figure]) -> None:
    ends = [axes.get_ylim() for figure in panels for axes in figure.axes]
    for figure in panels:
        for axes in figure.axes:
            axes.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))


def _panels(panels: Sequence[Figure], alt: str) -> str:
    kinds = ("nc-panel nc-wide" if panel.get_figwidth() > 6 else "nc-panel" for panel in panels)
    drawn = "".join(f'<div class="{kind}">{svg(panel)}</div>' for kind, panel in zip(kinds, panels, strict=True))
    return f'<div class="nc-panels" role="img" aria-label="{html.escape(alt)}">{drawn}</div>'


def captioned(body: str, caption: str, attributes: str = "") -> str:
    """Markup as a figure of the book, with its caption."""
    return f'<figure class="nc-figure"{attributes}>{body}<figcaption>{html.escape(caption)}</figcaption></figure>'


def draw_curves(
    axes: Axes, frame: pd.DataFrame, metric: str, *, by: str = "norm", x: str = "epoch",
    looks: Mapping[str, Style] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """A line of means and a band of intervals over seeds, or of their range, for each value of ``by``.

    Args:
        frame: rows of :func:`normcore.lab.tables.curves` of one split.
        looks: of the lines, where the frame has not all that the figure has.

    Returns:
        The numbers drawn: ``by``, ``x``, ``mean``, ``low``, ``high``, ``n``.
    """
    numbers = intervals(frame.dropna(subset=[metric]), [by, x], metric)
    looks = looks or styles(by, numbers[by])
    for name, line in numbers.groupby(by, sort=False):
        look = looks[str(name)]
        every = max(1, len(line) // 10)
        axes.plot(
            line[x], line["mean"], color=look.color, marker=look.marker, linestyle=look.dash, markevery=every,
            label=look.label, gid=f"series:{name}", markeredgewidth=0,
        )  # fmt: skip
        band = axes.fill_between(line[x], line["low"], line["high"], color=look.color, alpha=0.25, linewidth=0)
        band.set_gid(f"series:{name}")
    return numbers


def draw_settings(table: pd.DataFrame, *, x: str, y: str, title: str, by: str = "norm") -> Figure:
    """A panel of a search: the mean metric of each setting against ``x`` (log), one line a batch size, open
    markers for all but the smallest; settings that diverged are left out.

    Args:
        table: rows of :func:`normcore.lab.tables.table`.
    """
    with panel() as (figure, axes):
        stable = table[table["status"] == "finished"]
        for (name, size), line in stable.groupby([by, "batch_size"], sort=False):
            look, smallest = style(str(name)), size == table["batch_size"].min()
            means = line.groupby(x, as_index=False)[y].mean()
            axes.plot(
                means[x], means[y], color=look.color, marker=look.marker, linestyle="-" if smallest else "--",
                markerfacecolor=look.color if smallest else "none", markersize=6, linewidth=1,
                label=f"{look.label}, batch {size}",
            )  # fmt: skip
        axes.set(xscale="log", xlabel=x, ylabel=y.replace("_", " "), title=title)
        axes.set_xticks(sorted(table[x].unique()), [f"{v:g}" for v in sorted(table[x].unique())])
        axes.xaxis.minorticks_off()
        axes.legend()
    return figure


def draw_against(numbers: pd.DataFrame, source: Sequence[float], *, y: str) -> Figure:
    """A panel of one normalizer: our means with intervals by epoch, and a source's values for epochs 1, 2, ...

    Args:
        numbers: rows of :func:`normcore.lab.stats.intervals` with ``norm``, ``epoch``, ``mean``, ``low``, ``high``.
    """
    name = str(numbers["norm"].iloc[0])
    shown = numbers[numbers["epoch"] <= max(len(source), 1) + 1e-9]
    look = style(name)
    with panel(height=2.7) as (figure, axes):
        error = (shown["mean"] - shown["low"], shown["high"] - shown["mean"])
        axes.errorbar(
            shown["epoch"], shown["mean"], yerr=error, fmt=look.marker, color=look.color, markersize=5,
            capsize=3, label="ours",
        )  # fmt: skip
        axes.plot(
            range(1, 1 + len(source)), source, "o", color=_TEXT, markerfacecolor="none", markersize=7, label="source"
        )
        axes.set(xlabel="epoch", ylabel=y, title=look.label, xticks=range(1, 1 + max(len(source), 1)))
        axes.legend()
    return figure


def tabulate(rows: Iterable[Mapping[str, object]]) -> Html:
    """Rows as a table, in the book's style and without an index."""
    return Html(pd.DataFrame([dict(row) for row in rows]).to_html(index=False, border=0, justify="left"))


def interactive_curves(
    frame: pd.DataFrame,
    panels: Sequence[tuple[str, str, str]],
    *,
    alt: str,
    caption: str,
    by: str = "norm",
    x: str = "epoch",
    facet: str = "",
    logy: Sequence[str] = ("loss",),
) -> Html:
    """Curves whose lines can be switched on and off and stepped through, with their numbers as a table.

    Without the script (in Jupyter, in print) it is the same figure, its legend and its table.

    Args:
        frame: rows of :func:`normcore.lab.tables.curves`.
        panels: (split, metric, axis label) of each panel.
        alt, caption: as in :func:`show`.
        by, x: the column that tells lines apart, and the horizontal one.
        facet: a column; each of its values gets panels of its own, all with the same vertical axis.
        logy: metrics on a logarithmic axis.
    """
    if frame.empty:  # of a profile that is published in part
        return Html(captioned("<p>None of these runs is there yet.</p>", caption))
    figures, data = [], []
    facets = styles(facet, frame[facet]) if facet else {"": None}
    looks = styles(by, frame[by])
    for (value, look), (split, metric, label) in itertools.product(facets.items(), panels):
        rows = frame[(frame["split"] == split) & (frame[facet].astype(str) == value if look else True)]
        own = split in ("train", "batch", "validation", "test")
        title = look.label if look else f"{split} {metric}" if own else metric.replace("_", " ")
        with panel() as (figure, axes):
            numbers = draw_curves(axes, rows, metric, by=by, x=x, looks=looks)
            axes.set(xlabel=AXES.get(x, x), ylabel=label, title=title)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8 if x == "epoch" else 6))
            if numbers[x].max() > 2000:
                axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v / 1000:g}k" if v else "0"))
            if metric in logy:
                log_scale(axes)
        figures.append(figure)
        data.append((title, numbers))
    if facet:
        _share_y(figures)
    body = _panels(figures, alt) + _legend(looks) + _tables(data, by, x, looks)
    points = [  # after the panels are drawn: that settles where the axes stand
        {"title": title, "line": _pixels(figure.axes[0]), "series": _series(numbers, by, x, looks)}
        for (title, numbers), figure in zip(data, figures, strict=True)
    ]
    payload = html.escape(json.dumps({"x": AXES.get(x, x), "panels": points}, separators=(",", ":"), allow_nan=False))
    return Html(captioned(body, caption, f' data-curves="{payload}"'))


def log_scale(axes: Axes) -> None:
    """A logarithmic vertical axis with plain numbers, at 1, 2 and 5 times the powers of ten, or at these alone where
    there are more than three."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _pixels(axes: Axes) -> list[float]:
    """[a, b, top, bottom]: where a value x stands in the SVG, at a + b x, and where the axes end."""
    figure = axes.figure
    assert figure is not None
    figure.set_dpi(72)  # a unit of the SVG is a point
    height = figure.bbox.height
    zero, one = (axes.transData.transform((value, 0))[0] for value in (0, 1))
    box = axes.bbox
    return [round(float(v), 3) for v in (zero, one - zero, height - box.y1, height - box.y0)]


def _series(numbers: pd.DataFrame, by: str, x: str, looks: Mapping[str, Style]) -> dict[str, Any]:
    found = {}
    for name, line in numbers.groupby(by, sort=False):
        columns = {c: [_plain(v) for v in line[c]] for c in ("mean", "low", "high")}
        found[str(name)] = {"label": looks[str(name)].label, "x": [_plain(v) for v in line[x]], **columns}
    return found


def _plain(value: float) -> float | None:
    if pd.isna(value):
        return None
    return round(float(value), 4) if abs(value) >= 0.1 else float(f"{value:.4g}")


def _legend(looks: Mapping[str, Style]) -> str:
    rows = []
    for name, look in looks.items():
        with panel(0.55, 0.2) as (figure, axes):
            axes.set_axis_off()
            axes.plot([0, 1, 2], [0, 0, 0], color=look.color, linestyle=look.dash, marker=look.marker,
                      markevery=[1], markeredgewidth=0, markersize=5)  # fmt: skip
        rows.append(f'<span data-series="{name}"><span aria-hidden="true">{svg(figure)}</span>{look.label}</span>')
    return f'<div class="nc-legend">{"".join(rows)}</div>'


def _tables(data: Sequence[tuple[str, pd.DataFrame]], by: str, x: str, looks: Mapping[str, Style]) -> str:
    parts = []
    for title, numbers in data:
        wide = numbers.assign(cell=[_cell(r) for r in numbers.itertuples()])
        wide = wide.pivot(index=x, columns=by, values="cell").fillna("")
        wide = wide[list(dict.fromkeys(numbers[by]))]
        if len(wide) > 40:
            wide = wide.iloc[:: len(wide) // 20]
        head = "".join(f'<th scope="col">{looks[str(c)].label}</th>' for c in wide.columns)
        rows = "".join(
            f'<tr><th scope="row">{at:{",.0f" if at >= 1000 else ".3g"}}</th>'
            + "".join(f"<td>{v}</td>" for v in row)
            + "</tr>"
            for at, row in zip(wide.index, wide.to_numpy(), strict=True)
        )
        parts.append(
            f'<table><caption>{title}</caption><tr><th scope="col">{AXES.get(x, x)}</th>{head}</tr>{rows}</table>'
        )
    seeds = min((int(numbers["n"].min()) for _, numbers in data if len(numbers)), default=0)
    note = f"Means over seeds{spread(seeds, 'in brackets')}."
    return (
        f'<details><summary>The numbers</summary><p>{note}</p><div class="nc-tables">{"".join(parts)}</div></details>'
    )


def _cell(row: Any) -> str:
    return f"{row.mean:.4f}" if pd.isna(row.low) else f"{row.mean:.4f} [{row.low:.4f}, {row.high:.4f}]"
