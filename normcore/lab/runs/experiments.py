"""The experiments: one notebook each, found where they are, run by papermill.

``notebooks/<name>.ipynb`` has one cell tagged ``parameters`` whose values are the profile ``smoke``;
``notebooks/<name>.yaml`` holds what the other profiles change. Dashes in a name are underscores in the file.
Notebooks in folders below, such as the pages on the normalizers, are no experiments: they measure in seconds
whatever they show, and keep no results.
"""

import ast
import functools
import json
import os
import signal
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nbformat

from .. import paths
from ..errors import DataError, LabError, ShardDone, SweepIncomplete, TimeUp, UsageError, unknown
from ..files import read_yaml, replacing
from ..lifetime import children_stopping_well, told_to_stop
from .store import Run, Store

PROFILES = ("smoke", "quick", "half", "full")
PUBLISHED = "published"  # the best profile that is published
CUSTOM = "custom"  # runs with parameters that are no profile's

#: parameters that say how a notebook is run, not what it computes -> the command's option for each
HOW = {
    "profile": "--profile", "device": "--device", "jobs": "--jobs", "fresh": "--fresh", "shard": "--shard",
    "time_budget": "--time-budget", "train": "--no-train",
}  # fmt: skip
COUNTS = {"seeds", "epochs", "steps", "points"}  # of which there must be one: the last word of a parameter's name


def read_notebook(path: Path) -> Any:
    """A notebook, with ``cells``.

    Raises:
        LabError: it is none.
    """
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except Exception as error:  # nbformat lets what is no notebook fail where it may
        raise LabError(f"{path}: not a notebook ({type(error).__name__}: {str(error).splitlines()[0]})") from error
    return notebook


@dataclass(frozen=True)
class Experiment:
    """A notebook of ``notebooks/``.

    Attributes:
        name: as on the command line, such as ``fashion-lenet``.
        notebook: its file.
    """

    name: str
    notebook: Path

    @functools.cached_property
    def title(self) -> str:
        """The first heading."""
        for cell in read_notebook(self.notebook).cells:
            for line in cell.source.splitlines():
                if cell.cell_type == "markdown" and line.startswith("# "):
                    return line[2:].strip()
        return self.name

    @property
    def page(self) -> str:
        """The document of the book that shows the executed notebook."""
        return f"runs/{self.notebook.stem}"

    @functools.cached_property
    def parameters(self) -> dict[str, Any]:
        """Names and values of the parameters cell, read without running it."""
        cells = read_notebook(self.notebook).cells
        tagged = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
        if len(tagged) != 1:
            raise LabError(f"{self.notebook.name} has {len(tagged)} cells tagged 'parameters', expected one")
        values = {}
        try:
            for statement in ast.parse(tagged[0].source).body:
                if not (isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)):
                    raise ValueError
                values[statement.targets[0].id] = ast.literal_eval(statement.value)
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
            raise LabError(f"{self.notebook.name}: the parameters cell may hold plain assignments only") from error
        return values

    def profile(self, name: str) -> dict[str, Any]:
        """The parameters of a profile: the notebook's own, with what the profile changes."""
        name = self.published() if name == PUBLISHED else name
        if name not in PROFILES:
            raise unknown("profile", name, (*PROFILES, PUBLISHED))
        path = self.notebook.with_suffix(".yaml")
        rows = (
            read_yaml(path, dict[Literal["smoke", "quick", "half", "full"], dict[str, Any]]) if path.is_file() else {}
        )
        return {**self.parameters, **self.check(rows.get(name, {})), "profile": name}

    def profile_of(self, values: Mapping[str, Any]) -> str:
        """The profile that parameters are of: the one that they name, if all that says what is run is as that profile
        has it, else ``custom``."""
        name: str = values["profile"]
        if name == CUSTOM:
            return CUSTOM
        own = self.profile(name)
        what = [n for n in self.parameters if n not in HOW]
        written = [json.dumps([v[n] for n in what], sort_keys=True) for v in (own, values)]  # 1 and 1.0 are two values
        return name if written[0] == written[1] else CUSTOM

    def check(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The changes, if every name is a parameter and every value of its type and range; integers pass as numbers.

        The type is that of the notebook's own value. Of the ranges, those of how it is run are known here, and that a
        count is at least 1. All others are the run configuration's, which refuses before anything is trained.
        """
        checked = {}
        for name, value in changes.items():
            if name not in self.parameters:
                raise unknown(f"parameter of {self.name}", name, self.parameters)
            default = self.parameters[name]
            if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
                value = float(value)
            if type(value) is not type(default):
                wanted = f"of type {type(default).__name__}, such as {default!r}"
                raise UsageError(f"{name} of {self.name} must be {wanted}, got {value!r}")
            if name.rpartition("_")[2] in COUNTS and isinstance(value, int) and value < 1:
                raise UsageError(f"{name} of {self.name} must be at least 1, got {value}")
            checked[name] = value
        check_how(checked)
        return checked

    def published(self) -> str:
        """The best profile that has published runs of its comparison.

        Raises:
            LabError: if nothing of the experiment is published.
        """
        store = Store(self.name, paths.published())
        best = next((profile for profile in reversed(PROFILES) if store.some(profile)), None)
        if best is None:
            raise LabError(
                f"{self.notebook.name}: nothing of it is published; normcore run {self.name} --profile quick makes "
                "results of your own"
            )
        return best

    def complete(self) -> list[tuple[str, list[Run]]]:
        """Every profile that can be shown, the best first, and the runs of its comparison that are there: one's own
        and the published ones. Own ones count when all of a profile are there, published ones as far as they go."""
        store, published = Store(self.name), Store(self.name, paths.published())
        shown = [p for p in reversed(PROFILES) if published.some(p) or store.has(p)]
        return [(profile, store.runs(profile)) for profile in shown]

    def published_runs(self) -> tuple[str, list[Run]]:
        """The best of the profiles that can be shown and the runs of its comparison; none where there is none."""
        return next(iter(self.complete()), ("smoke", []))

    def run(
        self, profile: str = PUBLISHED, changes: Mapping[str, Any] | None = None, output: Path | None = None
    ) -> Path:
        """Execute the notebook by papermill; the copy with its outputs takes its final name only if it ended well.

        Args:
            profile: one of ``PROFILES``, or ``published``: the best that is published, of which nothing is trained
                and of which only published runs are shown.
            changes: parameters that differ from the profile's. If one of them changes what is computed, the
                runs are listed under the profile ``custom``.
            output: where the executed copy goes; ``_build/runs/`` by default.

        Raises:
            UsageError: unknown profile or parameter, a value of the wrong type or range.
            ShardDone: the notebook did its shard of a sweep and stopped there.
            TimeUp: the time budget ended, or SIGTERM came.
            SweepIncomplete: a run failed.
            LabError: nothing is there that could be shown; a cell failed.
        """
        parameters = {**self.profile(profile), **self.check(changes or {})}
        if profile == PUBLISHED:
            parameters["train"] = False
            check_how(parameters)
        parameters["profile"] = self.profile_of(parameters)
        output = output or paths.work() / "_build" / "runs" / self.notebook.name
        with paths.only(paths.published()) if profile == PUBLISHED else nullcontext():
            return execute(self.notebook, output, parameters)


def check_how(values: Mapping[str, Any]) -> None:
    """Refuse, of the parameters in ``HOW`` that are given, what cannot be."""
    from ..provenance import choose_device
    from .sweep import Shard, parse_seconds

    if values.get("profile", CUSTOM) not in (*PROFILES, CUSTOM):
        raise unknown("profile", values["profile"], PROFILES)
    choose_device(values.get("device", "auto"))
    Shard.parse(values.get("shard", "1/1"))
    parse_seconds(values.get("time_budget", ""))
    if values.get("jobs", 1) < 1:
        raise UsageError(f"jobs must be at least 1, got {values['jobs']}")
    if values.get("fresh") and not values.get("train", True):
        raise UsageError("fresh runs again what is there, and without training nothing is run: leave one of them out")


def experiments() -> dict[str, Experiment]:
    """Every experiment by name."""
    found = sorted((paths.share() / "notebooks").glob("*.ipynb"))
    return {p.stem.replace("_", "-"): Experiment(p.stem.replace("_", "-"), p) for p in found}


def find(name: str) -> Experiment:
    known = experiments()
    if name not in known:
        raise unknown("experiment", name, known)
    return known[name]


_SAID: tuple[type[LabError], ...] = (UsageError, DataError, SweepIncomplete, ShardDone, TimeUp, LabError)


def execute(notebook: Path, output: Path, parameters: Mapping[str, Any] | None = None) -> Path:
    """Execute a notebook by papermill; the copy with its outputs takes its final name only if it ended well.

    Raises:
        UsageError, ShardDone, TimeUp, SweepIncomplete, LabError: as :meth:`Experiment.run`.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from .sweep import terminal

    stream = terminal()
    if stream is not None and "NORMCORE_TERMINAL" not in os.environ:
        os.environ["NORMCORE_TERMINAL"] = os.ttyname(stream.fileno())  # the kernel shows its bars there
    with replacing(output) as temporary, children_stopping_well():
        try:
            papermill.execute_notebook(
                notebook, temporary, parameters=dict(parameters or {}), kernel_name="python3",
                language="python", cwd=str(paths.work()), progress_bar=False, log_output=False,
                extra_arguments=["--IPKernelApp.log_level=50"],  # what fails is said below
            )  # fmt: skip
        except PapermillExecutionError as error:
            # what the lab refuses is said as the lab says it; any other failure names its cell
            known: dict[str, type[LabError]] = {e.__name__: e for e in _SAID}
            if error.ename in known:
                of = f"{notebook.name}: " if error.ename == DataError.__name__ else ""  # several may want the same set
                raise known[error.ename](of + error.evalue) from None
            where = f"{notebook.name}, cell {error.exec_count}"
            raise LabError(f"{where}: {error.ename}: {error.evalue}") from error
        except Exception as error:  # a dead kernel, a time-out: nbclient's errors
            if told_to_stop():  # it was no sweep that the kernel was at, and it ended by the signal
                raise SystemExit(128 + signal.SIGTERM) from error
            raise LabError(f"{notebook.name}: {type(error).__name__}: {error}") from error
    return output
