"""The data of the explorer: every published run, by experiment and profile, as ``book/_assets/explorer.js`` draws it.

A line is of the seeds of one setting: means with intervals at forty points at most. The file of an experiment
is a script that hands its data over, since a page that is opened from a disk may load scripts and nothing else.
"""

import html
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .. import catdog
from ..config import setting
from ..figures.curves import thinned
from ..figures.look import AXES, style
from ..runs.experiments import Experiment
from ..runs.store import Run
from ..stats import intervals
from ..verdicts.predicates import setting_of
from ..verdicts.tables import curves
from . import markdown

SCRIPTS = Path("book", "_assets", "runs")  # where the data of each experiment is
Profiles = Sequence[tuple[str, Sequence[Run]]]  # of Experiment.complete
MEASURES = {
    ("test", "accuracy"): "test accuracy", ("test", "loss"): "test loss", ("train", "loss"): "training loss",
    ("train", "accuracy"): "training accuracy", ("validation", "accuracy"): "validation accuracy",
    ("validation", "loss"): "validation loss",
}  # fmt: skip


def page(found: Iterable[tuple[Experiment, Profiles]]) -> str:
    """The place of the explorer on its page, and the list of experiments that have runs."""
    titles = html.escape(json.dumps({e.name: e.title for e, profiles in found if trained(profiles)}))
    return markdown.raw(
        f'<div id="nc-explorer" data-runs="_static/runs" data-experiments="{titles}">The explorer needs JavaScript; '
        'the pages of the experiments do not.</div>\n<script src="_static/explorer.js" defer></script>'
    )


def trained(profiles: Profiles) -> dict[str, list[Run]]:
    """The runs of each profile that has curves to be explored; those that only look at a network have none."""
    found = {profile: [run for run in runs if run.config.steps] for profile, runs in profiles}
    return {profile: runs for profile, runs in found.items() if runs}


def script(experiment: Experiment, profiles: Profiles) -> str:
    """The data of an experiment as a script."""
    drawn = {profile: _profile(runs) for profile, runs in trained(profiles).items()}
    data = {"title": experiment.title, "page": f"{experiment.page}.html", "profiles": drawn}
    return f"normcoreRuns({json.dumps(experiment.name)}, {json.dumps(data, separators=(',', ':'), allow_nan=False)});\n"


def _profile(runs: Sequence[Run]) -> dict[str, Any]:
    """The lines of a profile, how their normalizers look, and what else tells them apart."""
    settings: dict[str, list[Run]] = {}
    for run in runs:
        settings.setdefault(setting_of(run.config), []).append(run)
    first = [of_setting[0] for of_setting in settings.values()]
    variants = [variant(run) for run in first]
    fields = _varying(first, variants)
    numbers = _numbers(settings)
    lines = [
        {"variant": name, "facets": facets, **_facts(of_setting), "curves": numbers.get(i, {})}
        for i, (name, facets, of_setting) in enumerate(zip(variants, fields, settings.values(), strict=True))
    ]
    named = {name: AXES.get(name, name.replace("_", " ")) for facets in fields[:1] for name in facets}
    looks = {name: _look(name) for name in dict.fromkeys(variants)}
    return {"fields": named, "looks": looks, "lines": lines}


def variant(run: Run) -> str:
    """What figures call the normalizer of a run."""
    return catdog.name_of(run.config) if run.config.model == "catdog" else run.config.norm


def _look(name: str) -> dict[str, Any]:
    found = style(name)
    dash = found.dash[1] if isinstance(found.dash, tuple) else ()
    return {"label": found.label, "color": found.color, "marker": found.marker, "dash": list(dash)}


def _varying(runs: Sequence[Run], variants: Sequence[str]) -> list[dict[str, str]]:
    """Of each setting the fields that tell settings of the same variant apart, with their values; without those that
    follow from the others, as a rate that was chosen for each does."""
    known = pd.DataFrame([{**setting(run.config), **run.config.task_options} for run in runs])
    known = known.drop(columns=["seed", "norm"])
    known = known.fillna("default").astype(str)
    counts = known.groupby(pd.Series(variants)).nunique()
    kept = known.loc[:, counts.max() > 1]
    for name in sorted(kept, key=lambda name: (name != "lr", name == "batch_size")):  # the rate first, the batch last
        fewer = kept.drop(columns=name)
        if not fewer.assign(variant=list(variants)).duplicated().any():
            kept = fewer
    return [{str(name): str(value) for name, value in row.items()} for row in kept.to_dict("records")]


def _facts(runs: Sequence[Run]) -> dict[str, Any]:
    steps = sum(run.config.steps for run in runs)
    seconds = sum(run.provenance["seconds"] for run in runs)
    diverged = sum(run.status != "finished" for run in runs)
    return {
        "seeds": len(runs), "diverged": diverged, "batch": runs[0].config.batch_size,
        "epoch": runs[0].provenance["steps_per_epoch"], "seconds": float(f"{seconds / steps:.4g}"),
    }  # fmt: skip


def _numbers(settings: dict[str, list[Run]]) -> dict[int, dict[str, Any]]:
    """Setting -> measure -> its points."""
    runs = [run for of_setting in settings.values() for run in of_setting]
    places = {run.key: i for i, of_setting in enumerate(settings.values()) for run in of_setting}
    frame = curves(runs)
    frame["setting"] = frame["key"].map(places)
    found: dict[int, dict[str, Any]] = {}
    for (split, metric), title in MEASURES.items():
        rows = frame[frame["split"] == split]
        if metric not in rows or rows[metric].isna().all():
            continue
        numbers = intervals(rows, ["setting", "step"], metric)
        for place, line in numbers.groupby("setting"):
            found.setdefault(int(str(place)), {})[title] = _points(line.sort_values("step"))
    return found


def _points(line: pd.DataFrame) -> dict[str, list[float | None]]:
    thin = thinned(line)
    columns = {"x": thin["step"], **{name: thin[name] for name in ("mean", "low", "high")}}
    return {name: [None if pd.isna(v) else float(f"{v:.4g}") for v in values] for name, values in columns.items()}
