"""The laboratory: experiments on the layers, from a data set to a judged statement."""

from . import catdog, claims, models, variants
from .anatomy import describe, draw_axes
from .bench_steps import table as step_costs
from .claims import judge
from .demo import activations, show_moments
from .figures import draw_against, draw_settings, interactive_curves, label, panel, show, tabulate
from .measures import basins, measure, measured
from .plots import draw_heat, draw_measures, draw_pairs, draw_plane, draw_ranking, draw_ridges
from .runs import RunConfig, Store, curves, epochs, grid, measured_on, probed, table
from .stats import best, intervals, mean_interval, paired_difference, spread
from .sweep import Study

__all__ = [
    "RunConfig",
    "Store",
    "Study",
    "activations",
    "basins",
    "best",
    "catdog",
    "claims",
    "curves",
    "describe",
    "draw_against",
    "draw_axes",
    "draw_heat",
    "draw_measures",
    "draw_pairs",
    "draw_plane",
    "draw_ranking",
    "draw_ridges",
    "draw_settings",
    "epochs",
    "grid",
    "interactive_curves",
    "intervals",
    "judge",
    "label",
    "mean_interval",
    "measure",
    "measured",
    "measured_on",
    "models",
    "paired_difference",
    "panel",
    "probed",
    "show",
    "show_moments",
    "spread",
    "step_costs",
    "table",
    "tabulate",
    "variants",
]
