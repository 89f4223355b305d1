"""A new normalizer put through a battery of small studies, beside the known ones: what it costs, where it stands."""

# ruff: noqa: F401

from .battery import Battery, Comparison, pinned
from .cost import layer_costs
from .report import checks, depends, download, draw_profile, draw_standings, lenet_costs, standings, words
from .standing import profile
