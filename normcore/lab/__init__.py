"""The laboratory: experiments on the layers, from a data set to a judged statement.

A name is imported when it is first asked for: a process that trains needs nothing of what counts and draws, which
takes longer to import than torch.
"""

# ruff: noqa: F401

import gc
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors
    from . import catdog, claims, data, figures, models, variants
    from .anatomy import describe, draw_axes
    from .bench_steps import step_costs
    from .claims import judge
    from .demo import activations, show_moments
    from .figures import draw_against, draw_settings, interactive_curves, label, panel, show, tabulate
    from .measures import basins, measure, measured
    from .plots import draw_heat, draw_measures, draw_pairs, draw_plane, draw_ranking, draw_ridges
    from .runs import RunConfig, Store, epochs, grid, measured_on
    from .stats import best, intervals, mean_interval, paired_difference, spread
    from .study import Study
    from .tables import curves, probed, table

gc.freeze()  # torch, which stays: else its objects are gone through again and again while the rest is imported

#: module -> the names that notebooks take from it
_NAMES = {
    "anatomy": ["describe", "draw_axes"],
    "bench_steps": ["step_costs"],
    "claims": ["judge"],
    "demo": ["activations", "show_moments"],
    "figures": ["draw_against", "draw_settings", "interactive_curves", "label", "panel", "show", "tabulate"],
    "measures": ["basins", "measure", "measured"],
    "plots": ["draw_heat", "draw_measures", "draw_pairs", "draw_plane", "draw_ranking", "draw_ridges"],
    "runs": ["RunConfig", "Store", "epochs", "grid", "measured_on"],
    "stats": ["best", "intervals", "mean_interval", "paired_difference", "spread"],
    "study": ["Study"],
    "tables": ["curves", "probed", "table"],
}
_MODULES = {module.name for module in iter_modules(__path__)}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES})
