"""The laboratory: experiments on the layers, from a data set to a judged statement.

Its rooms, each above those before it:

============  =======================================================================================================
``tasks``     what is trained: data sets, networks, and what a network is trained to do
``probes``    what is looked at inside a network on its way
``runs``      from a configuration to a result that is kept, and from many to a study
``figures``   what is drawn
``verdicts``  from results to a verdict on a statement
``bench``     speed
``compare``   a new normalizer beside the known ones
``book``      the generated parts of the book's pages
============  =======================================================================================================

A name is imported when it is first asked for: a process that trains needs nothing of what counts and draws, which
takes longer to import than torch.
"""

# ruff: noqa: F401

import gc
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors
    from . import catdog, compare
    from .bench.steps import step_costs
    from .config import RunConfig, grid
    from .figures.anatomy import describe, draw_axes
    from .figures.charts import (
        draw_against,
        draw_heat,
        draw_measures,
        draw_pairs,
        draw_plane,
        draw_ranking,
        draw_ridges,
        draw_settings,
        draw_surface,
    )
    from .figures.curves import interactive_curves
    from .figures.look import STYLES, label, panel, show, tabulate
    from .figures.moments import activations, show_moments
    from .figures.pictures import show_pictures
    from .runs import variants
    from .runs.store import Store, measured_on
    from .runs.study import Study
    from .stats import best, intervals, mean_interval, paired_difference, spread
    from .tasks.datasets import title
    from .tasks.images import epochs
    from .tasks.networks import spatial_only
    from .verdicts import claims
    from .verdicts.claims import judge
    from .verdicts.measures import basins, measure, measured
    from .verdicts.tables import curves, probed, table

gc.freeze()  # torch, which stays: else its objects are gone through again and again while the rest is imported

#: module -> the names that notebooks take from it
_NAMES = {
    "bench.steps": ["step_costs"],
    "config": ["RunConfig", "grid"],
    "figures.anatomy": ["describe", "draw_axes"],
    "figures.charts": ["draw_against", "draw_heat", "draw_measures", "draw_pairs", "draw_plane", "draw_ranking",
                       "draw_ridges", "draw_settings", "draw_surface"],
    "figures.curves": ["interactive_curves"],
    "figures.look": ["STYLES", "label", "panel", "show", "tabulate"],
    "figures.moments": ["activations", "show_moments"],
    "figures.pictures": ["show_pictures"],
    "runs.store": ["Store", "measured_on"],
    "runs.study": ["Study"],
    "stats": ["best", "intervals", "mean_interval", "paired_difference", "spread"],
    "tasks.datasets": ["title"],
    "tasks.images": ["epochs"],
    "tasks.networks": ["spatial_only"],
    "verdicts.claims": ["judge"],
    "verdicts.measures": ["basins", "measure", "measured"],
    "verdicts.tables": ["curves", "probed", "table"],
}  # fmt: skip
_HOMES = {name: module for module, names in _NAMES.items() for name in names}
#: the modules that notebooks use by their name
_MODULES = {"catdog": "catdog", "claims": "verdicts.claims", "compare": "compare", "variants": "runs.variants"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    if name in _MODULES:
        return import_module(f".{_MODULES[name]}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES})
