"""Runs as tables: of their settings and final metrics, of their curves, of what their probes found."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from ..config import setting
from ..runs.store import Run


def table(runs: Iterable[Run]) -> pd.DataFrame:
    """One row a run: configuration, final metrics, status, seconds, device."""
    rows = []
    for run in runs:
        row: dict[str, Any] = {"key": run.key}
        for name, value in dataclasses.asdict(run.config).items():
            row[name] = json.dumps(value, sort_keys=True) if isinstance(value, dict) else value
        row |= {"status": run.status, "diverged_at": run.diverged_at, **run.final}
        row |= {name: run.provenance.get(name) for name in ("seconds", "images_per_second", "device", "device_name")}
        rows.append(row)
    return pd.DataFrame(rows)


def differences(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a run: the settings that differ between runs of the same normalizer."""
    settings = pd.DataFrame([setting(run.config) for run in runs])
    if settings.empty:
        return settings
    counts = settings.groupby(settings["norm"].rename("by")).nunique(dropna=False).max()
    return settings.loc[:, counts > 1]


def curves(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a point of a curve: the run's configuration, ``split``, ``step``, ``samples`` and ``epoch``
    seen by then, and each metric in a column of its own."""
    frame = _joined(runs, [(run.key, split, columns) for run in runs for split, columns in run.curves.items()])
    if not frame.empty:
        per_epoch = {run.key: run.provenance["steps_per_epoch"] for run in runs}
        frame["samples"] = frame["step"] * frame["batch_size"]
        frame["epoch"] = frame["step"] / frame["key"].map(per_epoch)
    return frame


def probed(runs: Sequence[Run], probe: str) -> pd.DataFrame:
    """One row a row of a probe: the run's configuration, ``split`` = the probe's name, and the probe's columns."""
    return _joined(runs, [(run.key, probe, run.probes[probe]) for run in runs if run.probes.get(probe)])


def _joined(runs: Sequence[Run], parts: Sequence[tuple[str, str, dict[str, list[Any]]]]) -> pd.DataFrame:
    """Columns of (key, split), one below the other, each row with the configuration of its run."""
    if not parts:
        return pd.DataFrame()
    rows = pd.concat([pd.DataFrame({**columns, "key": key, "split": split}) for key, split, columns in parts])
    settings = pd.DataFrame([{"key": run.key, **setting(run.config)} for run in runs]).drop_duplicates("key")
    return rows.merge(settings, on="key", how="left")
