"""An execution of an experiment's notebook: what it was given, what it runs, and what it shows."""

import ast
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ..config import RunConfig
from ..errors import LabError, UsageError
from .experiments import CUSTOM, Experiment, find, read_notebook
from .store import Run, Store, measured_on
from .sweep import Shard, check, parse_seconds, sweep, try_sizes

#: stage -> its runs
Listed = dict[str, list[RunConfig]]

MARK = "# Parameters"  # the first line of a cell that papermill injected


class Study:
    """One execution of an experiment's notebook: what is run, under which profile, and how.

    The first call of a notebook. What its parameters are, and what papermill, an editor or a person gave them, is read
    from the notebook's names and checked before anything is done.

    Args:
        experiment: its name; results go to the store of that name.
        names: the notebook's ``globals()``.

    Attributes:
        profile: ``smoke``, ``quick``, ``half`` or ``full`` if all that says what is run is as that profile has it,
            else ``custom``: under it the list of runs is kept.
        store: the results.

    Raises:
        UsageError: a name that is no parameter, a parameter without a value, a value of the wrong type or range.
    """

    def __init__(self, experiment: str, names: Mapping[str, Any]) -> None:
        notebook = find(experiment)
        values = _parameters(notebook, names)
        self.experiment, self.profile, self.store = notebook, notebook.profile_of(values), Store(experiment)
        self.device, self.jobs, self.fresh, self.train = (values[n] for n in ("device", "jobs", "fresh", "train"))
        self.shard = Shard.parse(values["shard"])
        self.deadline = time.monotonic() + parse_seconds(values["time_budget"])
        self._lacking = 0  # runs of the last stage that are not there
        if self.train:
            self.store.refuse_published()

    def run(self, configs: Iterable[RunConfig], stage: str = "main", *, keep: bool = False) -> list[Run]:
        """Note that the profile consists of these runs at this stage, do what is missing, return them all. Without
        training, those that are there, in the order asked for. ``keep`` the networks that a later stage takes: what is
        not kept is trained again for it.

        Raises:
            UsageError: no runs, or names in them that there are none of.
            LabError: without training, if no run is there, or not all of a search.
        """
        wanted = {config.key: config for config in configs}
        configs = list(wanted.values())
        if not configs:
            raise UsageError(f"{self.experiment.name} has no runs at the stage {stage}: one of its lists is empty")
        check(configs)
        if _noted is not None:
            return self._note_down(configs, stage)
        runs = self._trained(configs, stage, keep) if self.train else self._there(configs, stage)
        # as they were asked for here: a layer of one's own may have lain elsewhere when it was run
        return [replace(run, config=wanted[run.key]) for run in runs]

    def _trained(self, configs: Sequence[RunConfig], stage: str, keep: bool) -> list[Run]:
        try_sizes(config for config in configs if self.fresh or not self.store.find(config.key))
        self.store.index(self.profile, stage, [config.key for config in configs])
        return sweep(
            configs, self.store, device=self.device, jobs=self.jobs, fresh=self.fresh,
            shard=self.shard, deadline=self.deadline, keep=keep,
        )  # fmt: skip

    def note(self, runs: Sequence[Run]) -> str:
        """For the captions of figures: the profile, what the runs were measured with, and what is not there yet."""
        rest = f"; {self._lacking} more are not there yet" if self._lacking else ""
        return f"Profile {self.profile}, {measured_on(runs)}{rest}."

    def _there(self, configs: Sequence[RunConfig], stage: str) -> list[Run]:
        runs = [run for run in (self.store.find(config.key) for config in configs) if run]
        self._lacking = len(configs) - len(runs)
        if not runs or (self._lacking and stage != "main"):  # of a search in part nothing follows
            command = f"normcore run {self.experiment.name} --profile {self.profile}"
            how = "its parameters with train=True make them" if self.profile == CUSTOM else f"{command} makes them"
            raise LabError(
                f"{self.experiment.notebook.name}: {len(runs) or 'none'} of the {len(configs)} runs of profile "
                f"{self.profile}, stage {stage}, are there; {how}"
            )
        return runs

    def _note_down(self, configs: Sequence[RunConfig], stage: str) -> list[Run]:
        assert _noted is not None
        _noted[stage] = list(configs)
        runs = [run for run in (self.store.find(config.key) for config in configs) if run]
        if stage == "main" or len(runs) < len(configs):
            raise _AllNoted
        return runs


# --- what a notebook was given ---------------------------------------------------------------------------


def _parameters(notebook: Experiment, names: Mapping[str, Any]) -> dict[str, Any]:
    notebook.check({name: names.get(name) for name in _assigned(notebook, names) - notebook.parameters.keys()})
    for name in notebook.parameters:
        if name not in names:
            raise UsageError(f"{name} of {notebook.name} has no value: run the notebook's parameters cell first")
    values = {name: names[name] for name in notebook.parameters}
    notebook.check(values)
    return values


def _assigned(notebook: Experiment, names: Mapping[str, Any]) -> set[str]:
    """What was given values for this execution: in IPython the names in the parameters cell and in the one that
    papermill put behind it, which are those that ran right before (an editor's kernel may hold far more), elsewhere
    all plain values."""
    history = names.get("In")
    if not isinstance(history, list):
        plain = (bool, int, float, str, list, dict, tuple)
        return {name for name, value in names.items() if isinstance(value, plain) and not name.startswith("_")}
    assigned: set[str] = set()
    for source in reversed(history[:-1]):
        cell = _assignments(source)
        if cell is None:
            break
        if source.startswith(MARK) or cell & notebook.parameters.keys():
            assigned |= cell
    return {name for name in assigned if not name.startswith("_")}


def _assignments(source: str) -> set[str] | None:
    """The names that a cell of nothing but assignments gives values to; None for any other cell."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        return None
    targets = [s.targets[0] if isinstance(s, ast.Assign) else None for s in statements]
    return {t.id for t in targets if isinstance(t, ast.Name)} if all(isinstance(t, ast.Name) for t in targets) else None


# --- what a profile consists of --------------------------------------------------------------------------

_noted: Listed | None = None


class _AllNoted(Exception):
    """The notebook's code has said all that it can say without results that are missing."""


@contextmanager
def _noting() -> Iterator[Listed]:
    """Within the block no study trains or shows anything: it notes its runs."""
    global _noted
    _noted = {}
    try:
        yield _noted
    except _AllNoted:
        pass
    finally:
        _noted = None


def listed(experiment: Experiment, profile: str) -> Listed:
    """The runs that a profile consists of, by the notebook's own code: stage by stage as far as the results go, since
    what is compared can depend on what was searched. The comparison, ``main``, is the last stage."""
    names = {**experiment.profile(profile), "train": False}
    cells = [c for c in read_notebook(experiment.notebook).cells if c.cell_type == "code"]
    with _noting() as noted:
        for cell in cells:
            if "parameters" not in cell.metadata.get("tags", []):
                exec(compile(cell.source, experiment.notebook.name, "exec"), names)
    return noted
