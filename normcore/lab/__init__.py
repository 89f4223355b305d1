"""The laboratory: experiments on the layers, from a data set to a judged statement."""

from . import claims
from .claims import judge
from .figures import draw_against, draw_settings, interactive_curves, show, tabulate
from .runs import RunConfig, Store, curves, epochs, grid, measured_on, table
from .stats import best, intervals, mean_interval, paired_difference
from .sweep import Study

__all__ = [
    "RunConfig",
    "Store",
    "Study",
    "best",
    "claims",
    "curves",
    "draw_against",
    "draw_settings",
    "epochs",
    "grid",
    "interactive_curves",
    "intervals",
    "judge",
    "mean_interval",
    "measured_on",
    "paired_difference",
    "show",
    "table",
    "tabulate",
]
