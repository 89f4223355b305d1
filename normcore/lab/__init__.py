"""The laboratory: experiments on the layers, from a data set to a judged statement."""

from . import catdog, claims
from .anatomy import describe, draw_axes
from .bench_steps import table as step_costs
from .claims import judge
from .demo import activations, show_moments
from .figures import draw_against, draw_settings, interactive_curves, panel, show, tabulate
from .measures import measure, measured
from .plots import draw_measures, draw_plane, draw_ranking
from .runs import RunConfig, Store, curves, epochs, grid, measured_on, table
from .stats import best, intervals, mean_interval, paired_difference
from .sweep import Study

__all__ = [
    "RunConfig",
    "Store",
    "Study",
    "activations",
    "best",
    "catdog",
    "claims",
    "curves",
    "describe",
    "draw_against",
    "draw_axes",
    "draw_measures",
    "draw_plane",
    "draw_ranking",
    "draw_settings",
    "epochs",
    "grid",
    "interactive_curves",
    "intervals",
    "judge",
    "mean_interval",
    "measure",
    "measured",
    "measured_on",
    "paired_difference",
    "panel",
    "show",
    "show_moments",
    "step_costs",
    "table",
    "tabulate",
]
