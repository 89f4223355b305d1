"""The laboratory: experiments on the layers, from a data set to a judged statement."""

from . import claims
from .anatomy import describe, draw_axes
from .claims import judge
from .demo import activations, show_moments
from .figures import draw_against, draw_settings, interactive_curves, panel, show, tabulate
from .runs import RunConfig, Store, curves, epochs, grid, measured_on, table
from .stats import best, intervals, mean_interval, paired_difference
from .sweep import Study

__all__ = [
    "RunConfig",
    "Store",
    "Study",
    "activations",
    "best",
    "claims",
    "curves",
    "describe",
    "draw_against",
    "draw_axes",
    "draw_settings",
    "epochs",
    "grid",
    "interactive_curves",
    "intervals",
    "judge",
    "mean_interval",
    "measured_on",
    "paired_difference",
    "panel",
    "show",
    "show_moments",
    "table",
    "tabulate",
]
