"""The experiments: one notebook each, found where they are, run by papermill.

``notebooks/<name>.ipynb`` has one cell tagged ``parameters`` whose values are the profile ``smoke``;
``notebooks/<name>.yaml`` holds what the other profiles change. Dashes in a name are underscores in the file.
Notebooks in folders below, such as the pages on the normalizers, are no experiments: they measure in seconds
whatever they show, and keep no results.
"""

import ast
import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

from . import paths
from .errors import DataError, LabError, ShardDone, SweepIncomplete, UsageError, unknown
from .files import replacing
from .runs import Run, Store

PROFILES = ("smoke", "quick", "half", "full")
PUBLISHED = "published"  # the best profile whose results are all there
CUSTOM = "custom"  # runs with parameters that are no profile's


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
        for cell in nbformat.read(self.notebook, as_version=4).cells:
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
        cells = nbformat.read(self.notebook, as_version=4).cells
        tagged = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
        if len(tagged) != 1:
            raise LabError(f"{self.notebook.name} has {len(tagged)} cells tagged 'parameters', expected one")
        values = {}
        for statement in ast.parse(tagged[0].source).body:
            if not (isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)):
                raise LabError(f"{self.notebook.name}: the parameters cell may hold plain assignments only")
            values[statement.targets[0].id] = ast.literal_eval(statement.value)
        return values

    def profile(self, name: str) -> dict[str, Any]:
        """The parameters of a profile: the notebook's own, with what the profile changes."""
        name = self.published() if name == PUBLISHED else name
        if name not in PROFILES:
            raise unknown("profile", name, (*PROFILES, PUBLISHED))
        path = self.notebook.with_suffix(".yaml")
        rows = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return {**self.parameters, **self.check(rows.get(name, {})), "profile": name}

    def check(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The changes, if every name is a parameter and every value of its type and range.

        The notebook's own value tells both: where that is positive, or a list that is not empty, so must be the
        new one. Integers pass as numbers.
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
            if _numbers(default) and min(_numbers(default)) > 0 and not (_numbers(value) and min(_numbers(value)) > 0):
                raise UsageError(f"{name} of {self.name} must be positive, such as {default!r}, got {value!r}")
            if default and not value and not isinstance(value, bool | str):
                raise UsageError(f"{name} of {self.name} must not be empty, such as {default!r}")
            checked[name] = value
        return checked

    def published(self) -> str:
        """The best profile whose runs are all in the store; ``smoke`` if there is none."""
        store = Store(self.name)
        return next((profile for profile in reversed(PROFILES) if store.has(profile)), "smoke")

    def complete(self) -> list[tuple[str, list[Run]]]:
        """Every profile whose runs are all there, the best first, and the runs of its comparison."""
        store = Store(self.name)
        return [(profile, store.runs(profile)) for profile in reversed(PROFILES) if store.has(profile)]

    def published_runs(self) -> tuple[str, list[Run]]:
        """The published profile and the runs of its comparison; none where no profile is complete."""
        return next(iter(self.complete()), ("smoke", []))

    def run(
        self, profile: str = PUBLISHED, changes: Mapping[str, Any] | None = None, output: Path | None = None
    ) -> Path:
        """Execute the notebook by papermill; the copy with its outputs takes its final name only if it ended well.

        Args:
            profile: one of ``PROFILES``, or ``published``.
            changes: parameters that differ from the profile's. If one of them changes what is computed, the
                runs are listed under the profile ``custom``, so that no published list is touched.
            output: where the executed copy goes; ``_build/runs/`` by default.

        Raises:
            UsageError: unknown profile or parameter, a value of the wrong type or range.
            ShardDone: the notebook did its shard of a sweep and stopped there.
            SweepIncomplete: the time budget ended, or a run failed.
            LabError: a cell failed.
        """
        parameters = self.profile(profile)
        changes = self.check(changes or {})
        if set(changes) - HOW:
            parameters["profile"] = CUSTOM
        output = output or paths.root() / "_build" / "runs" / self.notebook.name
        return execute(self.notebook, output, {**parameters, **changes})


def _numbers(value: Any) -> list[float]:
    """All numbers in a parameter: itself, or those in its lists and tables."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


#: parameters that say how a notebook is run, not what it computes
HOW = {"profile", "device", "jobs", "fresh", "shard", "time_budget"}


def experiments() -> dict[str, Experiment]:
    """Every experiment by name."""
    found = sorted((paths.root() / "notebooks").glob("*.ipynb"))
    return {p.stem.replace("_", "-"): Experiment(p.stem.replace("_", "-"), p) for p in found}


def find(name: str) -> Experiment:
    known = experiments()
    if name not in known:
        raise unknown("experiment", name, known)
    return known[name]


_SAID: tuple[type[LabError], ...] = (UsageError, DataError, SweepIncomplete, ShardDone)


def execute(notebook: Path, output: Path, parameters: Mapping[str, Any] | None = None) -> Path:
    """Execute a notebook by papermill; the copy with its outputs takes its final name only if it ended well.

    Raises:
        UsageError, ShardDone, SweepIncomplete, LabError: as :meth:`Experiment.run`.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from .sweep import terminal

    stream = terminal()
    if stream is not None and "NORMCORE_TERMINAL" not in os.environ:
        os.environ["NORMCORE_TERMINAL"] = os.ttyname(stream.fileno())  # the kernel shows its bars there
    with replacing(output) as temporary:
        try:
            papermill.execute_notebook(
                notebook, temporary, parameters=dict(parameters or {}), kernel_name="python3",
                language="python", cwd=str(paths.root()), progress_bar=False, log_output=False,
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
            raise LabError(f"{notebook.name}: {type(error).__name__}: {error}") from error
    return output
