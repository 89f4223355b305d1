"""One look for the whole book: what stands for a normalizer, a panel, a figure on a page.

A figure is put on the page as inline SVG. Its lines of text and its axes take the colour of the page's text,
so it is as readable in dark mode as in light, and it is sharp at every width.
"""

import base64
import functools
import html
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ..stats import MIN_SEEDS
from .svg import FONT_SIZE
from .svg import svg as as_svg
from .words import Contrast, told


class Style(NamedTuple):
    """How a normalizer looks in every figure of the book."""

    label: str
    color: str
    marker: str
    dash: str | tuple[int, tuple[int, ...]] = "-"


# Chosen by a search in OKLab. All stand out on white and on black alike. The seven that most figures compare (no norm,
# BN, LN, IN, GN, SN, FNBB) keep a distance of 0.1 for red- and green-blind readers (Machado et al. 2009); there are not
# fourteen such colours, so that every normalizer has a marker of its own as well.
STYLES = {
    "none": Style("no norm", "#666666", "o"),
    "bn": Style("BN", "#035cf9", "s"),
    "brn": Style("BatchRenorm", "#616cc0", "<", (0, (4, 2))),
    "rbn": Style("ReferenceBN", "#186d88", ">", (0, (1, 1))),
    "vbn": Style("VirtualBN", "#56949a", "p", (0, (6, 2, 1, 2))),
    "ln": Style("LN", "#b9340d", "D"),
    "cln": Style("ChannelLN", "#dc6b69", "d", (0, (4, 2))),
    "rms": Style("RMSNorm", "#9a742e", "P", (0, (1, 1))),
    "in": Style("IN", "#18a77e", "^"),
    "gn": Style("GN", "#c603ae", "v"),
    "sn": Style("SN", "#9f83f1", "*"),
    "fnbb": Style("FNBB", "#c18a18", "h"),
    "fnbl": Style("FNBL", "#4e6c31", "H", (0, (4, 2))),
    "lrn": Style("LRN", "#b10ce2", "X"),
}

#: variants of a normalizer, in its colour
VARIANT_STYLES = {
    "fnbl-code": Style("FNBL, code (ChannelLN)", "#dc6b69", "d", (0, (4, 2))),
    "fnbl-text": Style("FNBL, text", "#4e6c31", "H", (0, (4, 2))),
    "bn-noise": Style("BN, then noise", "#035cf9", "X", (0, (4, 2))),
    "none-dropout": Style("no norm, dropout", "#666666", "P", (0, (4, 2))),
    "bn-dropout": Style("BN, dropout", "#035cf9", "8", (0, (4, 2))),
    "ghost-bn": Style("BN of groups", "#035cf9", "P", (0, (1, 1))),
    "ghost-sn": Style("SN of groups", "#9f83f1", "X", (0, (1, 1))),
    "contrib-in": Style("IN of keras-contrib", "#18a77e", "8", (0, (4, 2))),
    "contrib-gn": Style("GN of keras-contrib", "#c603ae", "X", (0, (4, 2))),
}
_NAMED = {**STYLES, **VARIANT_STYLES}
#: ending of a variant's name -> what it says of the normalizer before it (see ``catdog``), and its dash
_ENDINGS = {"-head": (", BN behind", (0, (1, 1))), "-report": (", as run", (0, (4, 2))),
            "-frozen": (", frozen", (0, (4, 2))), "-per-step": (", per step", (0, (4, 2)))}  # fmt: skip
#: of other names: as far from those above and from each other as can be, to colour-blind readers as well
_OTHER_COLORS = ("#f06683", "#3a6f3a", "#8691be", "#a105d6", "#d91278")
_OTHER_LOOKS = zip(
    itertools.cycle(_OTHER_COLORS), itertools.cycle("os^D"), itertools.repeat((0, (5, 1, 1, 1))), strict=False
)
#: of the values of a setting, in order: no normalizer's colours
_SEQUENCE = tuple(zip(("#3f6ad8", "#6f5bd0", "#9a4fbb", "#bd4a94", "#cf5a5f", "#b9770f"), "os^DvP", strict=True))


_OWN = re.compile(r"^.+:(\w+)(?:@[0-9a-f]{8})?(?=-|$)")  # a layer of one's own, pinned to its source or not


def label(name: str) -> str:
    """The name of a normalizer or variant as readers see it; any other name as it is, without its source.

    >>> label("cln"), label("bn-head"), label("fnbb as published"), label("mine.py:MyNorm@877a4471")
    ('ChannelLN', 'BN, BN behind', 'fnbb as published', 'MyNorm')
    """
    known = _known(name)
    return known.label if known else _OWN.sub(r"\1", name)


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
    return Style(label(name), *next(_OTHER_LOOKS))


def styles(by: str, values: Iterable[Any]) -> dict[str, Style]:
    """How the lines of a figure look: normalizers and variants as everywhere in the book, the values of a setting in a
    sequence from blue to red."""
    order = list(dict.fromkeys(values))
    if by in ("norm", "variant", "") or all(_known(str(value)) for value in order):
        return {str(value): style(str(value)) for value in order}
    words = {"batch_size": "batch {}", "lr": "lr {}", "num_groups": "{} groups", "layer": "layer {}"}.get(by, "{}")
    looks = itertools.cycle(_SEQUENCE)
    if not any(isinstance(value, str) for value in order):
        order.sort()
    return {str(v): Style(words.format(f"{v:g}" if isinstance(v, float) else v), *next(looks)) for v in order}


TEXT = "#010203"  # stands for the page's text colour
_RC: Any = {
    "font.size": FONT_SIZE, "axes.titlesize": 11, "axes.labelsize": FONT_SIZE, "legend.fontsize": FONT_SIZE,
    "text.color": TEXT, "axes.labelcolor": TEXT, "axes.edgecolor": TEXT, "xtick.color": TEXT,
    "ytick.color": TEXT, "axes.titlecolor": TEXT, "grid.color": TEXT, "grid.alpha": 0.15, "grid.linewidth": 0.6,
    "axes.linewidth": 0.7, "lines.linewidth": 1.7, "lines.markersize": 4.5, "legend.frameon": False,
    "svg.fonttype": "none", "figure.constrained_layout.use": True,
}  # fmt: skip


class Chart(Figure):
    """One panel of a figure, and the numbers that it shows.

    Attributes:
        numbers: as they were computed before they were drawn; without, they are read off the panel.
        seen: what is to be seen in it.
        narrow: the same for a phone, where it is wider than a panel is there (see :func:`wide`).
    """

    numbers: pd.DataFrame | None = None
    seen: Sequence[Contrast | str] = ()
    narrow: "Chart | None" = None


WIDTH = 4.4  # of a panel, in inches


def wide(draw: Callable[[float], Chart], width: float) -> Chart:
    """A panel as wide as the page, and beside it the same as narrow as a phone."""
    chart = draw(width)
    chart.narrow = draw(WIDTH)
    return chart


@contextmanager
def panel(width: float = WIDTH, height: float = 3.0) -> Iterator[tuple[Chart, Axes]]:
    """One panel in the book's style; panels stand beside each other where there is room (inches)."""
    with sns.axes_style("ticks"), mpl.rc_context(_RC):
        figure = Chart(figsize=(width, height))
        axes = figure.add_subplot()
        axes.grid(visible=True, axis="y")
        yield figure, axes
        sns.despine(ax=axes)


def svg(figure: Figure, background: str | None = None, salt: str = "normcore") -> str:
    """The figure as an SVG element that takes its text colour from the page; with a ``background`` the text is dark
    instead, for a file that stands alone. Drawings of one figure have another ``salt``, and so no id in common."""
    with mpl.rc_context({**_RC, "svg.hashsalt": salt}):
        return as_svg(figure, TEXT, background)


#: what stands at the axes
AXES = {"samples": "images seen", "batch_size": "batch size", "lr": "learning rate", "num_groups": "groups",
        "time": "time step"}  # fmt: skip


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
        alt: what the figure shows, for who does not see it. What is to be seen in each panel follows.
        caption: what is drawn. What is to be seen in it stands before, in two sentences at most.
        legend: the normalizers or variants that all panels show, to be named under them.
    """
    panels = [figures] if isinstance(figures, Figure) else list(figures)
    if share_y:
        same_y(panels)
    looks = styles("", legend)
    body = beside(panels, alt) + (legend_of(looks) if looks else "")
    return Html(captioned(body, caption, panels))


def same_y(panels: Sequence[Figure]) -> None:
    """Give the panels one vertical axis."""
    ends = [axes.get_ylim() for figure in panels for axes in figure.axes]
    for figure in panels:
        for axes in figure.axes:
            axes.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))


def beside(panels: Sequence[Figure], alt: str) -> str:
    """The panels side by side where there is room, as markup."""
    drawn = "".join(map(_drawn, panels))
    description = html.escape(" ".join([alt, *seen_in(panels)]))
    scrolls = ' tabindex="0"' if any(map(_is_wide, panels)) else ""  # where it is the wide one, by keyboard, too
    return f'<div class="nc-panels" role="img"{scrolls} aria-label="{description}">{drawn}</div>'


def _drawn(panel: Figure) -> str:
    kind = "nc-panel nc-wide" if _is_wide(panel) else "nc-panel"
    narrow = panel.narrow if isinstance(panel, Chart) else None
    on_phones = f'<div class="nc-panel nc-narrow">{svg(narrow, salt="narrow")}</div>' if narrow else ""
    return f'<div class="{kind}">{svg(panel)}</div>{on_phones}'


def _is_wide(panel: Figure) -> bool:
    return bool(panel.get_figwidth() > 6)


def seen_in(panels: Sequence[Figure]) -> list[str]:
    """What is to be seen in the panels of a figure, in sentences."""
    return told([panel.seen for panel in panels if isinstance(panel, Chart)])


def captioned(body: str, caption: str, panels: Sequence[Figure] = (), attributes: str = "") -> str:
    """Markup as a figure of the book, with its caption, and with the numbers of its panels to download."""
    text, numbers = html.escape(caption), numbers_of(panels)
    if seen := " ".join(seen_in(panels)[:2]):
        text = f'<span class="nc-seen">{html.escape(seen)}</span> {text}'
    if few := _few(numbers):
        text += f" {few}"
    if len(numbers):
        text += f' <span class="nc-csv">{csv_link("figure", numbers, "The numbers as CSV")}.</span>'
    return f'<figure class="nc-figure"{attributes}>{body}<figcaption>{text}</figcaption></figure>'


def _few(numbers: pd.DataFrame) -> str:
    """How much of what is drawn is one run each, or has fewer seeds than an interval takes, where not all is alike."""
    seeds = numbers.get("n", pd.Series(dtype=int))
    if seeds.empty or seeds.min() >= MIN_SEEDS or seeds.min() == seeds.max():
        return ""
    one, below = (seeds == 1).mean(), (seeds < MIN_SEEDS).mean()
    return " ".join(
        f"{share:.0%} of the points {words}." for share, words in
        ((one, "are one run each"), (below - one, "have fewer than five seeds, and their range")) if share
    )  # fmt: skip


def csv_link(name: str, table: pd.DataFrame, text: str) -> str:
    """A link that downloads a table as CSV, which is in the page itself, with five significant digits."""
    data = base64.b64encode(table.to_csv(index=False, float_format="%.5g").encode()).decode()
    return f'<a download="{name}.csv" href="data:text/csv;base64,{data}">{text}</a>'


def numbers_of(panels: Sequence[Figure]) -> pd.DataFrame:
    """What these panels show, one below the other, with the ``panel`` that a row is of where there are several."""
    tables = []
    for number, figure in enumerate(panels, start=1):
        known = figure.numbers if isinstance(figure, Chart) else None
        table = _read_off(figure) if known is None else known
        axes = figure.axes[0] if figure.axes else None
        title = (axes.get_title() or axes.get_ylabel()) if axes else ""
        tables.append(table.assign(panel=title or str(number)) if len(panels) > 1 else table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _read_off(figure: Figure) -> pd.DataFrame:
    """The points of the lines of a panel and the heights of its bars, by their labels."""
    tables = []
    for axes in figure.axes:
        for number, line in enumerate(axes.lines, start=1):
            name = str(line.get_label())
            label = str(number) if name.startswith("_") else name
            tables.append(pd.DataFrame({"series": label, "x": line.get_xdata(), "y": line.get_ydata()}))
        for bars in axes.containers:
            if isinstance(bars, BarContainer):
                at = [[bar.get_x() + bar.get_width() / 2, bar.get_height()] for bar in bars]
                tables.append(pd.DataFrame(at, columns=["x", "y"]).assign(series=str(bars.get_label())))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def tabulate(rows: Iterable[Mapping[str, object]]) -> Html:
    """Rows as a table, in the book's style and without an index."""
    return Html(pd.DataFrame([dict(row) for row in rows]).to_html(index=False, border=0, justify="left"))


def log_scale(axes: Axes) -> None:
    """A logarithmic vertical axis with plain numbers, at 1, 2 and 5 times the powers of ten, or at these alone where
    there are more than three."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def legend_of(looks: Mapping[str, Style]) -> str:
    """The names of lines beside how they look, as markup."""
    rows = []
    for name, look in looks.items():
        with panel(0.55, 0.2) as (figure, axes):
            axes.set_axis_off()
            axes.set_position((0.05, 0, 0.9, 1))
            axes.plot([0, 1, 2], [0, 0, 0], color=look.color, linestyle=look.dash, marker=look.marker,
                      markevery=[1], markeredgewidth=0, markersize=5, clip_on=False)  # fmt: skip
        rows.append(f'<span data-series="{name}"><span aria-hidden="true">{svg(figure)}</span>{look.label}</span>')
    return f'<div class="nc-legend">{"".join(rows)}</div>'
