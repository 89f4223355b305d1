"""The data of the explorer."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from normcore.lab.book import explorer
from normcore.lab.config import RunConfig
from normcore.lab.figures.curves import POINTS
from normcore.lab.runs.experiments import Experiment, experiments
from normcore.lab.runs.store import Store
from normcore.lab.stats import intervals
from normcore.lab.verdicts.tables import curves

from ..helpers import config, run_of


def handed_over(text: str) -> tuple[str, dict[str, Any]]:
    name, data = json.loads(f"[{text.removeprefix('normcoreRuns(').removesuffix(');' + chr(10))}]")
    return name, data


def of(name: str) -> tuple[Experiment, explorer.Profiles]:
    return experiments()[name], experiments()[name].complete()


@pytest.fixture
def wanted(store: Path) -> list[RunConfig]:
    """Two normalizers at two rates, two seeds each, as runs of an experiment's profile."""
    made = [
        config(norm=norm, lr=lr, seed=seed, steps=1000)
        for norm in ("none", "bn")
        for lr in (0.01, 0.1)
        for seed in (0, 1)
    ]
    results = Store("large-rates")
    results.index("quick", "main", [c.key for c in made])
    for c in made:
        results.put(run_of(c, [1 / (i + 1 + c.seed) for i in range(100)], [i / 100 for i in range(100)]))
    return made


def test_a_line_is_of_the_seeds_of_a_setting(wanted: list[RunConfig]) -> None:
    name, data = handed_over(explorer.script(*of("large-rates")))
    profile = data["profiles"]["quick"]
    assert name == "large-rates"
    assert profile["fields"] == {"lr": "learning rate"}
    assert [(line["variant"], line["facets"]["lr"], line["seeds"]) for line in profile["lines"]] == [
        ("none", "0.01", 2),
        ("none", "0.1", 2),
        ("bn", "0.01", 2),
        ("bn", "0.1", 2),
    ]
    assert profile["looks"]["bn"]["label"] == "BN"


def test_its_points_are_those_of_the_figures(wanted: list[RunConfig]) -> None:
    _, data = handed_over(explorer.script(*of("large-rates")))
    points = data["profiles"]["quick"]["lines"][0]["curves"]["training loss"]
    assert len(points["x"]) <= POINTS
    assert points["x"][-1] == 1000
    frame = curves(
        [run for run in Store("large-rates").runs("quick") if (run.config.norm, run.config.lr) == ("none", 0.01)]
    )
    known = intervals(frame[frame["split"] == "train"], ["step"], "loss").set_index("step")
    for name in ("mean", "low", "high"):  # two seeds have a range, which no family moderates
        assert points[name] == [pytest.approx(known.loc[x, name], rel=1e-3) for x in points["x"]]


def test_the_page_offers_experiments_that_have_runs(wanted: list[RunConfig]) -> None:
    assert "&quot;large-rates&quot;" in explorer.page(map(of, experiments()))
    assert "outliers" not in explorer.page(map(of, experiments()))


def test_runs_that_only_look_at_a_network_have_no_curves(wanted: list[RunConfig]) -> None:
    experiment, profiles = of("large-rates")
    looks = [replace(run, config=replace(run.config, start=run.key, steps=0)) for _, runs in profiles for run in runs]
    mixed = [(profile, [*runs, *looks]) for profile, runs in profiles]
    assert explorer.script(experiment, mixed) == explorer.script(experiment, profiles)
    assert "large-rates" not in explorer.page([(experiment, [("quick", looks)])])


def test_what_follows_from_the_rest_is_not_asked_for(store: Path) -> None:
    results, rates = Store("large-rates"), {("none", 8): 0.01, ("none", 32): 0.02, ("bn", 8): 0.1, ("bn", 32): 0.2}
    made = [config(norm=norm, batch_size=size, lr=lr) for (norm, size), lr in rates.items()]
    results.index("quick", "main", [c.key for c in made])
    for c in made:
        results.put(run_of(c, [0.5], [0.5]))
    _, data = handed_over(explorer.script(*of("large-rates")))
    assert data["profiles"]["quick"]["fields"] == {"batch_size": "batch size"}
