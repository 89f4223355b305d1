"""The command ``normcore``."""

import json
import logging
import math
import os
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from .errors import LabError, ShardDone, SweepIncomplete, TimeUp, UsageError
from .lifetime import end_well

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Run the experiments on normalization layers, and read what they measured.")  # fmt: skip
bench_app = typer.Typer(no_args_is_help=True, help="Measure speed.")
app.add_typer(bench_app, name="bench")
INTERRUPTED = 128 + signal.SIGINT
console = Console() if sys.stdout.isatty() else Console(width=160)

AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="As CSV.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Options = Annotated[str, typer.Option(help="The layer's options as JSON, such as '{\"num_groups\": 4}'.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show what a layer of your own raised, with its traceback.")]
To = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers there.")]


def main() -> None:
    """Entry point: what the lab refuses is one line and an exit code, never a traceback.

    Exit codes: 2 bad input, nothing was run; 3 runs failed, the next call tries them again; 75 the time was over, the
    budget's or at a SIGTERM, and the state of every run is saved: the same call goes on, so a scheduler may requeue it;
    130 and 143 stopped by SIGINT and SIGTERM without that; 1 anything else that failed.
    """
    end_well()
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        app()
    except UsageError as error:
        _fail(error, 2)
    except TimeUp as error:
        _fail(error, os.EX_TEMPFAIL)
    except SweepIncomplete as error:
        _fail(error, 3)
    except LabError as error:
        _fail(error, 1)
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:  # typer makes an exit of its own of a KeyboardInterrupt
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it tells of the cell that was left, at length
            _fail(LabError("stopped; what was measured is kept, and the next call goes on"), INTERRUPTED)
        raise
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a full disk, a folder that may not be written
        _fail(error, 1)


def _fail(error: Exception, code: int) -> None:
    if "--verbose" in sys.argv and error.__cause__:
        traceback.print_exception(error.__cause__)
    print(" ".join(str(error).split()), file=sys.stderr)
    sys.exit(code)


def _show(rows: list[dict[str, Any]]) -> None:
    if not rows:
        console.print("nothing yet")
        return
    table = Table(*rows[0], box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    console.print(table)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


@app.command("experiments")
def list_experiments(as_json: AsJson = False) -> None:
    """List the experiments, and the profiles of which results are there: published ones, and your own."""
    from . import paths
    from .runs.experiments import CUSTOM, PROFILES, experiments
    from .runs.store import Store

    rows = []
    for name, experiment in experiments().items():
        published, own = Store(name, paths.published()), Store(name)
        shown = [profile for profile in PROFILES if published.some(profile)]
        mine = [p for p in (*PROFILES, CUSTOM) if any(map(own.own, own.profiles().get(p, {}).get("main", [])))]
        rows.append({"experiment": name, "title": experiment.title, "published": ", ".join(shown) or "none yet",
                     "your own": ", ".join(mine) or "none"})  # fmt: skip
    print(json.dumps(rows, indent=1)) if as_json else _show(rows)


def _changes(settings: list[str]) -> dict[str, Any]:
    from .runs.experiments import HOW

    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"--set takes key=value, got {setting!r}")
        if name in HOW:
            raise UsageError(f"--set is for what is run; {name} is how: use {HOW[name]}")
        try:
            changes[name] = yaml.safe_load(value)
            if isinstance(changes[name], str):  # YAML 1.1 takes 1e-3 for text
                changes[name] = float(value)
        except ValueError:
            pass
        except yaml.YAMLError as error:
            raise UsageError(f"--set {setting}: the value is not YAML ({error})") from None
    return {name: _with_own(value) for name, value in changes.items()}


def _with_own(value: Any) -> Any:
    """A parameter's value whose layers of one's own are tried out, and they and pictures named so that they are found
    from anywhere."""
    from .. import own
    from . import paths, pictures

    if isinstance(value, list):
        return [_with_own(item) for item in value]
    if isinstance(value, str) and own.is_own(value):
        return _own(value, {})
    if isinstance(value, str) and pictures.is_own(value):
        where, at, digest = pictures.pin(value).partition("@")
        return f"{paths.named(where)}{at}{digest}" if digest else value
    return value


def _own(reference: str, options: Mapping[str, Any]) -> str:
    """A layer of one's own, tried out, pinned to its source, its file named from the repository or the root."""
    from .. import own
    from . import paths
    from .runs.training import try_out

    try:
        pinned = own.pin(reference)
    except ValueError as error:
        raise UsageError(str(error)) from error
    try_out(pinned, options)
    where, _, name = pinned.rpartition(":")
    return f"{paths.named(where)}:{name}" if where.endswith(".py") else pinned


@app.command()
def run(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Experiments, or 'all'.")] = None,
    profile: Annotated[str, typer.Option(help="smoke, quick, half, full, or published (the best there is).")] = "smoke",
    device: Device = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again what is there.")] = False,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a parameter of the notebook.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Runs side by side; on a CPU one thread each.")] = 1,
    shard: Annotated[str, typer.Option(help="i/n: do the i-th of n parts only.")] = "1/1",
    time_budget: Annotated[str, typer.Option(help="Stop cleanly after 90s, 9m or 1.5h; the next call goes on.")] = "",
    train: Annotated[bool, typer.Option("--train/--no-train", help="Run what is missing, or only show.")] = True,
    to: Annotated[Path, typer.Option(help="Folder for the executed notebooks.")] = Path("_build/runs"),
    planned: Annotated[
        bool,
        typer.Option("--plan", help="Instead: the runs of `normcore claims --plan`, in its order."),
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Run experiments by papermill: what is neither published nor among your own results. Those go to NORMCORE_RESULTS
    (by default the folder results), the executed notebooks to _build/runs."""
    if planned:
        return _run_plan(names, device, jobs, time_budget)
    if not names:
        raise UsageError("nothing to run: name experiments, or all, or give --plan")
    from .runs.experiments import experiments, find
    from .runs.sweep import parse_seconds

    chosen = list(experiments().values()) if names == ["all"] else [find(name) for name in names]
    how = {"device": device, "fresh": fresh, "jobs": jobs, "shard": shard, "time_budget": time_budget, "train": train}
    what = _changes(changes or [])
    for experiment in chosen:  # everything is checked before anything is run
        experiment.profile(profile)
        experiment.check({**what, **how})
    stopped, deadline = False, time.monotonic() + parse_seconds(time_budget)
    for experiment in chosen:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeUp(f"the time budget is used up before {experiment.name}: run it again to go on")
        if math.isfinite(left):
            how["time_budget"] = f"{left}s"
        try:
            output = experiment.run(profile, {**what, **how}, to / experiment.notebook.name)
            console.print(f"{experiment.name}: {output}")
        except ShardDone as error:
            console.print(str(error))
        except TimeUp:
            raise
        except SweepIncomplete as error:
            stopped = True
            print(error, file=sys.stderr)
    if stopped:
        raise typer.Exit(3)


def _run_plan(names: list[str] | None, device: str, jobs: int, time_budget: str) -> None:
    from .runs.experiments import check_how
    from .runs.sweep import parse_seconds
    from .verdicts.plan import perform

    if names:
        raise UsageError(f"--plan chooses the runs by itself, got {' '.join(names)}, too")
    check_how({"device": device, "jobs": jobs, "time_budget": time_budget})
    deadline = time.monotonic() + parse_seconds(time_budget)
    left = perform(device, jobs, deadline)
    console.print(f"nothing is left that more seeds are expected to decide ({len(left)} statements are undecided)")


@app.command()
def page(
    notebook: Annotated[Path, typer.Argument(help="A notebook that is no experiment.")],
    to: Annotated[Path, typer.Option(help="Folder for the executed notebook.")] = Path("_build/pages"),
) -> None:
    """Execute a page of the book that is a notebook but no experiment (part of `make book`)."""
    from .runs.experiments import execute

    if not notebook.is_file():
        raise UsageError(f"no notebook {notebook} here")
    console.print(str(execute(notebook, to / notebook.name)))


@app.command()
def results(
    name: Annotated[str, typer.Argument(help="An experiment.")],
    profile: Annotated[
        str, typer.Option(help="smoke, quick, half, full, custom, or published (the best that is).")
    ] = "published",
    stage: Annotated[str, typer.Option(help="The stage of the experiment, such as main or search.")] = "main",
    as_csv: AsCsv = False,
    as_json: AsJson = False,
) -> None:
    """One row a run of an experiment: configuration, final metrics, time, device. Without --csv or --json only what is
    most often asked for, and what differs between runs of a normalizer."""
    from . import paths
    from .errors import unknown
    from .runs.experiments import CUSTOM, PROFILES, PUBLISHED, find
    from .runs.store import Store
    from .verdicts.tables import differences, table

    experiment = find(name)
    store = Store(name, paths.published() if profile == PUBLISHED else None)
    profile = experiment.published() if profile == PUBLISHED else profile
    stages = store.profiles().get(profile)
    if stages is None:
        if profile in (*PROFILES, CUSTOM):
            raise LabError(f"{name} has no results of profile {profile}: normcore run {name} --profile {profile}")
        raise unknown("profile", profile, store.profiles())
    if stage not in stages:
        raise unknown("stage", stage, stages)
    found = store.runs(profile, stage)
    rows = table(found)
    if not rows.empty:
        rows.insert(0, "profile", profile)
    if as_csv:
        rows.to_csv(sys.stdout, index=False)
    elif as_json:
        print(json.dumps([{"profile": profile, **r.to_json()} for r in found], indent=1))
    else:
        short = ["norm", "optimizer", "lr", "batch_size", "seed", "status", "seconds"]
        last = [c for c in rows.columns if c.endswith(("_loss", "_accuracy")) and not c.startswith("batch_")]
        differing = differences(found).drop(columns=short, errors="ignore")
        shown = [*short[:4], *differing.columns, short[4], *last, *short[5:]]
        _show(rows.assign(**differing)[shown].to_dict("records") if found else [])  # type: ignore[arg-type]


@app.command()
def publish(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment.")],
    profile: Annotated[str, typer.Option(help="smoke, quick, half or full.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    mixed: Annotated[bool, typer.Option("--mixed", help="Take runs of other code than the published, too.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Put your runs in the place of published ones.")] = False,
) -> None:
    """Publish your own runs of a profile, as far as they go: those that the profile's own list names. The only command
    that writes to the published results."""
    from tempfile import TemporaryDirectory

    from . import paths
    from .publish import offer
    from .runs.experiments import find
    from .verdicts.history import note

    with TemporaryDirectory() as scratch:
        made = offer(find(name), profile, Path(scratch), mixed=mixed, replace=replace)
    for sentence in (*(f"left out, {sentence}" for sentence in made.left), *made.notes):
        console.print(sentence)
    if made.empty:
        raise LabError(f"there is nothing new to publish of {name} under profile {profile}")
    for change in made.changes or ["no verdict changes"]:
        console.print(change)
    if yes or typer.confirm(f"Write {len(made.runs)} runs to {paths.published() / name}?", abort=True):
        made.write(paths.published())
        note(made.verdicts, f"{name}: results of the profile {profile}")
        console.print(f"{name}: {len(made.runs)} runs are published under profile {profile}")


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Experiments; without, all.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Of each experiment, the cheapest, each of another setting.")] = 3,
    as_json: AsJson = False,
    noted: Annotated[
        bool, typer.Option("--note", help="Note the outcomes in data/verified.json, for the pages on the statements.")
    ] = False,
) -> None:
    """Make published runs again and say whether they come out to the bit, within what a seed changes, or not, and how
    what they were made with differs. Ends with 1 where one differs."""
    from .figures.look import label
    from .runs.experiments import experiments, find
    from .verify import OTHER, cheapest, note
    from .verify import verify as made_again

    rows: list[dict[str, Any]] = []
    for name in names or [n for n, e in experiments().items() if e.published_runs()[1]]:
        own = []
        for seeds in cheapest(find(name), runs):
            run, found = seeds[0], made_again(seeds[0], seeds)
            own.append({
                "experiment": name, "key": run.key, "norm": label(run.config.norm), "lr": run.config.lr,
                "seed": run.config.seed, "outcome": found.outcome, "instructions": found.instructions,
                "change": f"{found.change:.2g}", "why": found.why,
                "seconds": round(found.again.provenance["seconds"], 1),
            })  # fmt: skip
            if not as_json:
                console.print(f"{name}, {run.key}: {found.outcome}")
        rows += own
        if noted:  # now: the next experiment may take minutes
            note(own)
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        _show(rows)
    if any(row["outcome"] == OTHER for row in rows):
        raise typer.Exit(1)


@app.command()
def claims(
    as_json: AsJson = False,
    planned: Annotated[bool, typer.Option("--plan", help="The runs that would decide the undecided.")] = False,
    why: Annotated[str, typer.Option("--note", metavar="WHY", help="Note what changed in the history.")] = "",
) -> None:
    """Every statement of the five documents with its verdict, computed from the results."""
    from .verdicts.claims import judge_all

    if why:
        from . import paths
        from .verdicts.history import note

        with paths.only(paths.published()):
            changed = note({judged.id: judged.verdict for judged in judge_all()}, why)
        return _show([{"id": name, "verdict": verdict} for name, verdict in changed.items()])

    if planned:
        from .verdicts.plan import plan

        proposals = [proposal.to_json() for proposal in plan()]
        shown = [{k: v for k, v in p.items() if k not in ("keys", "reason")} for p in proposals]
        return print(json.dumps(proposals, indent=1)) if as_json else _show(shown)
    rows = [judged.to_json() for judged in judge_all()]
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        _show([{"id": r["id"], "kind": r["kind"], "verdict": r["verdict"], "statement": r["statement"]} for r in rows])


@app.command()
def data(as_json: AsJson = False) -> None:
    """What data set is found where, and how to get what is missing."""
    from .tasks.datasets import registry, where

    rows = []
    for name, entry in registry().items():
        state, how = where(entry)
        rows.append({"data set": name, "state": state, "": how, "licence": entry.licence})
    print(json.dumps(rows, indent=1)) if as_json else _show(rows)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Versions, device, disk space, and whether torch.compile works here."""
    import torch

    from . import paths
    from .provenance import choose_device, provenance

    found = provenance(choose_device("auto"))
    space = paths.cache()
    while not space.exists():
        space = space.parent
    row = {
        **found.pop("versions"), **found, "results": str(paths.results()),
        "published": str(paths.published()), "cache": str(paths.cache()),
        "free_disk_gib": round(shutil.disk_usage(space).free / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch_compile": _try_compile(), "chromium": _chromium(),
    }  # fmt: skip
    print(json.dumps(row, indent=1)) if as_json else _show([{"what": k, "found": v} for k, v in row.items()])


def _try_compile() -> str:
    import torch

    try:
        x = torch.linspace(0, 1, 8)
        same = torch.equal(torch.compile(lambda t: t * 2 + 1)(x), x * 2 + 1)
        return "works" if same else "wrong result"
    except Exception as error:  # a missing compiler shows itself in many ways
        return f"does not work ({type(error).__name__}); the eager path is used"


def _chromium() -> str:
    found = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    return next((path for path in found if path), "none")


def _measured(found: dict[str, Any], to: Path | None, title: str, rows: list[dict[str, Any]]) -> None:
    """Write what a benchmark found, and show it."""
    from .files import write_sealed

    if to:
        write_sealed(to, found)
    console.print(title)
    _show(rows)


@bench_app.command()
def training(
    to: To = None,
    device: Device = "auto",
    batch_size: Annotated[int | None, typer.Option(min=2, help="In place of the settings' own.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that the loops take turns in.")] = 15,
) -> None:
    """Our training loop, a plain DataLoader loop, and the floor, on the same models and batch sizes (minutes)."""
    from .bench.loop import side_by_side
    from .bench.loop import training as measure

    found = measure(device, batch_size, rounds)
    _measured(found, to, "Images a second, medians of ratios within a round, and memory:", side_by_side(found))


@bench_app.command()
def steps(
    to: To = None,
    device: Device = "auto",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that the variants take turns in.")] = 21,
    image_size: Annotated[int, typer.Option(min=1)] = 64,
    batch_size: Annotated[int, typer.Option(min=2)] = 16,
) -> None:
    """Time and memory of one optimizer step of the network catdog with every normalizer (minutes)."""
    from .bench.steps import rows
    from .bench.steps import steps as measure

    found = measure(device, rounds, image_size=image_size, batch_size=batch_size)
    title = f"A step of catdog, {image_size} px, batch {batch_size}: medians, ratios within a round:"
    _measured(found, to, title, rows(found))


@bench_app.command()
def layers(
    to: To = None,
    device: Device = "auto",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that the layers take turns in.")] = 21,
) -> None:
    """Forward and backward of every layer against nn.BatchNorm2d, its torch twin and the memory floor (minutes)."""
    from .bench.layers import layers as measure
    from .bench.layers import side_by_side

    found = measure(device, rounds)
    _measured(found, to, "Times as multiples of nn.BatchNorm2d's:", side_by_side(found, "to_batch_norm"))
    for limit in found["limits"]:
        worst = f" (at worst {limit['worst'][0]:.3g}: {limit['where']})" if limit["worst"] else ""
        console.print(f"{limit['says']}: {limit['verdict']}{worst}")


@bench_app.command()
def passes(to: To = None, device: Device = "auto") -> None:
    """Kernels and memory traffic of every layer under torch.compile, counted by the compiler (minutes)."""
    from .bench.passes import passes as measure
    from .bench.passes import rows

    found = measure(device)
    _measured(found, to, "Generated kernels, and bytes they read and write over those of the input:", rows(found))


@app.command()
def check(
    layer: Annotated[str, typer.Argument(help="mine.py:MyNorm, package.module:MyNorm, or one of normcore's names.")],
    options: Options = "{}",
    verbose: Verbose = False,
) -> None:
    """Put a layer through what a normalizer has to stand, and show what its output depends on (seconds)."""
    from functools import partial

    from .. import own
    from ..factory import make_norm, maker_of
    from ..testing import FAILED, dependences, examine

    given = _options(options)
    if own.is_own(layer):
        _own(layer, given)
    try:
        make = partial(maker_of(layer), **given)
    except ValueError as error:
        raise UsageError(str(error)) from error
    checks = examine(make)
    _show([{"check": c.name, "outcome": c.outcome, "found": c.says} for c in checks])
    failed = sum(c.outcome == FAILED for c in checks)
    if len(checks) > 1:  # it can be made and called
        beside = {layer: make, **{name: partial(make_norm, name) for name in ("bn", "ln", "in", "gn")}}
        console.print("How much the output changes, relative to its length, with:")
        _show([{"layer": name, **{k: f"{v:.3f}" for k, v in dependences(m).items()}} for name, m in beside.items()])
    if failed:
        console.print(f"{failed} of {len(checks)} checks failed")
        raise typer.Exit(1)


@app.command()
def compare(
    layers: Annotated[list[str], typer.Argument(metavar="LAYER...", help="mine.py:MyNorm or package.module:MyNorm.")],
    against: Annotated[str, typer.Option(help="The known ones to stand beside, by commas.")] = "none,bn,ln,gn,in,rms",
    options: Options = "{}",
    profile: Annotated[str, typer.Option(help="smoke (a minute), quick (half an hour), full (a GPU).")] = "quick",
    device: Device = "auto",
    jobs: Annotated[int, typer.Option(help="Runs side by side; on a CPU one thread each.")] = 1,
    time_budget: Annotated[str, typer.Option(help="Stop cleanly after 90s, 9m or 1.5h; the next call goes on.")] = "",
    to: Annotated[Path, typer.Option(help="The page; its numbers go beside it as CSV.")] = Path("compare.html"),
    verbose: Verbose = False,
) -> None:
    """Put layers of your own through a battery of small studies beside the known normalizers, and leave a page that
    says where they stand. What is computed is kept: a second call goes on."""
    from .compare import page
    from .files import write_text
    from .runs.experiments import find

    given = _options(options)
    each = given if given and all(isinstance(value, dict) for value in given.values()) else dict.fromkeys(layers, given)
    named = {layer: _own(layer, each.get(layer, {})) for layer in layers}
    what = {"norms": list(named.values()), "against": against.split(","),
            "options": {named[layer]: each[layer] for layer in layers if each.get(layer)}}  # fmt: skip
    how = {"device": device, "jobs": jobs, "time_budget": time_budget}
    executed = find("compare").run(profile, {**what, **how})
    page.write(executed, to)
    for name, table in page.tables(executed).items():
        write_text(to.with_name(f"{to.stem}-{name}"), table)
    console.print(f"{', '.join(layers)}: {to}")


def _options(text: str) -> dict[str, Any]:
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"--options takes JSON, such as '{{\"num_groups\": 4}}', got {text!r}: {error}") from None
    if not isinstance(given, dict):
        raise UsageError(f"--options takes names and values, such as '{{\"num_groups\": 4}}', got {text!r}")
    return given


@app.command()
def book() -> None:
    """Write the generated parts of the book's pages from the results (part of `make book`)."""
    from .book.pages import generate

    for path in generate():
        console.print(str(path))


if __name__ == "__main__":
    main()
