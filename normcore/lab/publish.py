"""Publishing: one's own runs of a profile become published results, as far as they go."""

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import paths
from .errors import UsageError, unknown
from .files import write_json
from .provenance import code_of
from .runs import record
from .runs.experiments import PROFILES, Experiment
from .runs.store import Run, Store
from .runs.study import listed
from .verdicts import claims


@dataclass
class Offer:
    """What publishing a profile would do.

    Attributes:
        experiment, profile: whose.
        runs: key -> run, of those that would be written.
        stages: stage -> the keys that the profile then has published.
        left: what is not taken, and why, in sentences.
        notes: what else is to be known, in sentences.
        changes: the verdicts that would be others, in sentences.
        verdicts: statement -> the verdict that it would have.
        empty: whether it would change nothing.
    """

    experiment: Experiment
    profile: str
    runs: dict[str, Run] = field(default_factory=dict)
    stages: dict[str, list[str]] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    verdicts: dict[str, str] = field(default_factory=dict)
    empty: bool = False

    def write(self, published: Path) -> None:
        """Put the runs, then the list of them, into a folder of published results."""
        folder = published / self.experiment.name
        for key, run in self.runs.items():
            record.write(folder / f"{key}.json", run)
        write_json(folder / "profiles" / f"{self.profile}.json", self.stages)


def offer(experiment: Experiment, profile: str, scratch: Path, *, mixed: bool = False, replace: bool = False) -> Offer:
    """What there is to publish of a profile; nothing is published yet.

    Args:
        experiment: whose runs.
        profile: one of ``PROFILES``. Its own list, made by the notebook's code, names the runs that are taken.
        scratch: an empty folder, where the published results are made up as they would be.
        mixed: take runs of other code than the profile's published ones, too.
        replace: let one's own runs take the place of published ones.

    Raises:
        UsageError: no such profile, or no results of one's own.
    """
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    store = Store(experiment.name)
    if store.read_only:
        raise UsageError("there are no results of your own to publish: NORMCORE_RESULTS names the published ones")
    if store.published.is_dir():
        shutil.copytree(store.published, scratch / experiment.name)
    made = Offer(experiment, profile)
    before = _verdicts(experiment, scratch)
    _gather(made, store, scratch, mixed, replace)
    made.verdicts = after = _verdicts(experiment, scratch)
    made.changes = [f"{name}: {before[name]} becomes {after[name]}" for name in before if before[name] != after[name]]
    return made


def _gather(made: Offer, store: Store, scratch: Path, mixed: bool, replace: bool) -> None:
    """Take what can be taken, stage by stage: what was searched decides what is compared."""
    index = Store(store.experiment, paths.published()).profiles().get(made.profile, {})
    codes = _codes(store, index, replace)
    refused: dict[str, Run] = {}
    while True:
        with paths.only(scratch):
            keys = {stage: [c.key for c in configs] for stage, configs in listed(made.experiment, made.profile).items()}
        wanted = [key for stage in keys.values() for key in stage if key not in made.runs and key not in refused]
        runs = {key: run for key in wanted if (run := _candidate(store, key, replace))}
        for probed in (False, True):
            made_by = Counter(_code(run) for run in runs.values() if bool(run.config.probes) == probed and _code(run))
            codes[probed] = codes[probed] or {code for code, _ in made_by.most_common(1)}
        refused |= {
            key: run for key, run in runs.items() if not mixed and _code(run) and _code(run) not in _of(run, codes)
        }
        taken = {key: run for key, run in runs.items() if key not in refused}
        made.runs |= taken
        made.stages = _stages(scratch / store.experiment, keys, index, made.runs)
        if not taken:
            break
        made.write(scratch)
    made.empty = not made.runs and made.stages == index
    _explain(made, store, keys, refused, codes, index)


def _candidate(store: Store, key: str, replace: bool) -> Run | None:
    """The run that could be published under this key: an own one, or one that is published elsewhere."""
    if (store.published / f"{key}.json").is_file():
        return store.own(key) if replace else None
    return store.find(key)


def _stages(
    folder: Path, keys: dict[str, list[str]], index: dict[str, list[str]], runs: Iterable[str]
) -> dict[str, list[str]]:
    """What is there of the profile's list. A stage that cannot be listed yet stays as it is published."""
    there = {path.stem for path in folder.glob("*.json")} | set(runs)
    return {**index, **{stage: [key for key in listed if key in there] for stage, listed in keys.items()}}


def _code(run: Run) -> str:
    return code_of(run.provenance, bool(run.config.probes))


def _of(run: Run, codes: Mapping[bool, set[str]]) -> set[str]:
    """The codes that a run is compared with: those of runs that look into the network, or of those that do not."""
    return codes[bool(run.config.probes)]


def _codes(store: Store, index: dict[str, list[str]], replace: bool) -> dict[bool, set[str]]:
    """The code of the profile's published runs that stay, of those without probes and of those with them."""
    keys = [key for listed in index.values() for key in listed if not (replace and store.own(key))]
    codes: dict[bool, set[str]] = {False: set(), True: set()}
    for run in filter(None, map(Store(store.experiment, paths.published()).get, keys)):
        _of(run, codes).update(filter(None, [_code(run)]))
    return codes


def _verdicts(experiment: Experiment, folder: Path) -> dict[str, str]:
    """The verdicts on the experiment's statements, by the results in a folder."""
    with paths.only(folder):
        profile, runs = experiment.published_runs()
        names = [entry["id"] for entry in claims.read()["claims"] if entry.get("experiment") == experiment.name]
        return {name: claims.judge(name, runs, profile).verdict for name in names}


def _explain(
    made: Offer, store: Store, keys: dict[str, list[str]], refused: dict[str, Run], codes: Mapping[bool, set[str]],
    index: dict[str, list[str]],
) -> None:  # fmt: skip
    wanted = {key for listed in keys.values() for key in listed}
    own = {path.stem for path in store.folder.glob("[!.]*.json")}
    name = f"{made.experiment.name}, profile {made.profile}"
    if others := own - wanted:
        made.left.append(f"{_runs(others)} of your own: not among the runs of {name}")
    if stay := {key for key in own & wanted - made.runs.keys() if (store.published / f"{key}.json").is_file()}:
        made.left.append(f"{_runs(stay)} of your own: published already; --replace puts yours in their place")
    if refused:
        compared = set().union(*(_of(run, codes) for run in refused.values()))
        theirs, ours = (", ".join(sorted(c)) for c in ({_code(run) for run in refused.values()}, compared))
        made.left.append(
            f"{_runs(refused)} made by other code ({theirs}) than the profile's ({ours}): normcore run with --fresh "
            "measures them again, --mixed takes them as they are"
        )
    there = {key for stage in made.stages.values() for key in stage}
    if missing := wanted - there - refused.keys():
        made.notes.append(f"{_runs(missing)} of {name} not there yet: the profile is published in part")
    if gone := {key for stage in index.values() for key in stage} - there:
        made.notes.append(f"{_runs(gone)} published under {name}, which does not name them any more: their files stay")
    if "main" not in keys:
        made.notes.append(f"the comparison of {name} is not known before its search is there")
    if unknown_code := [run for run in made.runs.values() if not _code(run)]:
        made.notes.append(f"{_runs(unknown_code)} made by code that is unknown")


def _runs(runs: object) -> str:
    number = len(runs)  # type: ignore[arg-type]
    return "1 run" if number == 1 else f"{number} runs"
