"""The generated parts of the book: what chapters, experiments and the status page show.

Written to ``book/_generated`` when the book is built, from the results, ``book/claims.yml`` and the executed
notebooks in ``book/runs``; the pages of the book include them.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from ...factory import NORMS
from .. import catdog, compare, paths
from ..bench.steps import step_costs
from ..files import read_yaml, write_text
from ..runs.experiments import Experiment, experiments, find, read_notebook
from ..runs.store import Run, Store, measured_on
from ..verdicts.claims import VERDICTS, Judged, judge_all, read
from ..verdicts.history import history
from ..verdicts.simulation import report
from . import explorer, markdown, statements
from .advice import Shown, advice, everywhere, resting
from .beside import beside
from .faults import faults
from .front import cite, documents, front, overview_svg
from .guide import NORMALIZERS, guide, link, rank
from .reading import STATEMENTS
from .speed import speed
from .statements import badge, badge_classes, body, ledger


def generate() -> list[Path]:
    """Write all generated parts; returns their paths."""
    judged, of_newcomers, compared = judge_all(), judge_all("newcomers"), compare.Comparison.shown()
    ranked, complete = rank(compared), {name: e.complete() for name, e in experiments().items()}
    shown = [Shown(find(name), *profiles[0]) for name, profiles in complete.items() if profiles]
    stands = {norm: everywhere(norm, judged, compared, ranked, shown) for norm in NORMALIZERS}
    folder = paths.root() / "book" / "_generated"
    parts = {
        "front.md": front(judged, compared, ranked), "documents.md": documents(), "cite.md": cite(),
        "explorer.md": explorer.page((e, complete[name]) for name, e in experiments().items()),
        "claims.md": ledger(judged, read()["sources"]),
        "status.md": status(), "speed.md": speed(), "statistics.md": report(), "faults.md": faults(),
        **{f"{chapter}.md": study(judged, chapter) for chapter in CHAPTERS}, "catdog_overview.md": catdog_overview(),
        "newcomers.md": newcomers(of_newcomers), "newcomers_standing.md": newcomers_standing(compared),
        "guide.md": guide(compared, judged, ranked), "beside.md": beside(judged, compared, stands),
    }  # fmt: skip
    for name, experiment in experiments().items():
        of = of_newcomers if name == "compare" else judged
        parts[f"answer_{experiment.notebook.stem}.md"] = answer(experiment, of, complete[name])
    for norm in NORMALIZERS:
        parts[f"advice_{norm}.md"] = advice(norm, judged, compared, ranked)
        parts[f"everywhere_{norm}.md"] = stands[norm]
    parts["verdicts.json"] = verdicts([*judged, *of_newcomers])
    for name, text in parts.items():
        _write(folder / name, text.rstrip() + "\n")
    _write_statements(judged)
    for name, experiment in experiments().items():
        _write(paths.root() / explorer.SCRIPTS / f"{name}.js", explorer.script(experiment, complete[name]))
    picture = overview_svg()
    if picture:
        write_text(paths.root() / "book" / "_assets" / "overview.svg", picture)
    return [folder / name for name in parts]


def _write(path: Path, text: str) -> None:
    write_text(path, text)
    path.touch()  # the pipeline tells by the time that this was done


def _write_statements(judged: Iterable[Judged]) -> None:
    """A page for each statement."""
    folder = paths.root() / "book" / "statements"
    sources, pages = read()["sources"], {name: e.page for name, e in experiments().items()}
    before, rests = history(), resting()
    for one in judged:
        text = statements.page(
            one, sources[one.source], pages, before=before.get(one.id, ()), follows=rests.get(one.id, ()),
            with_care=_with_care(find(one.experiment)) if one.experiment else (),
        )  # fmt: skip
        _write(folder / f"{one.id.lower()}.md", text)


def _with_care(experiment: Experiment) -> list[str]:
    """What a notebook's last section asks to be read with care, its links as they are found from a folder beside."""
    cells = read_notebook(experiment.notebook).cells
    found = [c.source.partition(_CARE)[2] for c in cells if c.cell_type == "markdown" and _CARE in c.source]
    lines = re.sub(r"\]\((\w+\.ipynb)", r"](../runs/\1", " ".join(" ".join(found).split()))
    lines = re.sub(r"\]\(#(s\d-\d+)\)", r"](\1.md)", lines)
    return [line.strip() for line in lines.split(" - ")] if found else []


_CARE = "## Read this with care\n\n- "


def _said(counts: Counter[str]) -> str:
    """How many of each verdict, such as ``3 supported, 1 refuted``."""
    return ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v])


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _when(moment: str) -> str:
    """``2030-01-31T12:34:56+00:00`` as ``2030-01-31 12:34 UTC``."""
    return moment[:16].replace("T", " ") + " UTC"


# --- verdicts for badges ----------------------------------------------------------------------------------


def verdicts(judged: Iterable[Judged]) -> str:
    """The verdict of each statement, how its badge looks, and what was measured, as JSON for
    :mod:`normcore.lab.book.badges`."""
    found = {}
    for one in judged:
        measured = "; ".join(f"{part.says}: {part.found}" for part in one.leaves) or one.statement
        found[one.id] = {"verdict": one.verdict, "classes": badge_classes(one.verdict), "measured": measured}
    return json.dumps(found, indent=1)


# --- the status page -------------------------------------------------------------------------------------


def status() -> str:
    """Every notebook: when it was executed, how long, the profile it shows, and its runs."""
    blocks = []
    for experiment in experiments().values():
        executed = paths.root() / "book" / f"{experiment.page}.ipynb"
        if not executed.is_file():
            continue
        blocks.append(_experiment_status(experiment, executed))
    return "\n\n".join(blocks)


def _experiment_status(experiment: Experiment, executed: Path) -> str:
    mill = read_notebook(executed).metadata.get("papermill", {})
    profile = mill.get("parameters", {}).get("profile", "")
    store = Store(experiment.name)
    runs = [r for stage in store.profiles().get(profile, {}) for r in store.runs(profile, stage)]
    facts = [
        ["profile shown", f"`{profile}`"],
        ["notebook executed", f"{_when(mill.get('start_time', ''))}, {_duration(mill.get('duration') or 0)}"],
        *_run_facts(runs),
    ]  # fmt: skip
    heading = f"## [{experiment.title}]({experiment.page}.ipynb)"
    return f"{heading}\n\n{markdown.table(['', f'`{experiment.name}`'], facts)}"


def _run_facts(runs: Sequence[Run]) -> list[list[str]]:
    if not runs:
        return [["runs", "none"]]
    seen = pd.DataFrame([{**r.provenance, **r.provenance["versions"], "status": r.status,
                          "fingerprint": r.provenance["data"]["fingerprint"], "dataset": r.config.dataset}
                         for r in runs])  # fmt: skip

    def all_of(column: str) -> str:
        return ", ".join(f"`{v}`" for v in sorted(set(seen[column].astype(str))))

    seconds = seen["seconds"]
    counts = ", ".join(f"{n} {s}" for s, n in Counter(seen["status"]).items())
    data = ", ".join(f"{d} `{f}`" for d, f in sorted(set(zip(seen["dataset"], seen["fingerprint"], strict=True))))
    return [
        ["runs", f"{len(runs)}: {counts}"],
        ["measured", f"{_when(min(seen['started']))} to {_when(max(seen['started']))}"],
        ["training time", f"{_duration(seconds.sum())} in all, {_duration(seconds.median())} a run (median)"],
        ["device", all_of("device_name")],
        ["threads a run", all_of("threads")],
        ["versions", f"torch {all_of('torch')}, Python {all_of('python')}, normcore {all_of('normcore')}"],
        ["commit", all_of("commit")],
        ["data fingerprint", data],
    ]  # fmt: skip


# --- the page of an experiment ---------------------------------------------------------------------------


def answer(experiment: Experiment, judged: Iterable[Judged], complete: explorer.Profiles) -> str:
    """What an experiment says of its statements: in a sentence, then, behind a comment, each with what was measured of
    it; and the command that runs it."""
    own = [j for j in judged if experiment.name in j.experiments]
    profile = complete[0][0] if complete else "smoke"
    command = f"`normcore run {experiment.name} --profile {profile}`"
    blocks = [STATEMENTS]
    if own:
        by_verdict = {v: [link(j.id) for j in own if j.verdict == v] for v in VERDICTS}
        said = "; ".join(f"{v}: {', '.join(ids)}" for v, ids in by_verdict.items() if ids)
        rows = [[link(j.id), j.statement, _measured(j), badge(j.verdict)] for j in own]
        table = markdown.table(["", "the source says", "we measured", "verdict"], rows)
        blocks = [f"**{said[0].upper()}{said[1:]}.**", STATEMENTS, "## The statements", markdown.div("nc-rows", table)]
    explore = ""
    if explorer.trained(complete):
        explore = f'<a href="../explorer.html#experiment={experiment.name}">Explore its runs</a>. '
    return "\n\n".join([*blocks, f"{explore}[How it was run](#how-{experiment.notebook.stem}): {command}."])


def _measured(judged: Judged) -> str:
    """The first part of a statement that was measured, and by which profile."""
    leaf = judged.first_measured
    if leaf is None:
        return f'<span class="nc-unmeasured">{judged.reason}</span>'
    return f"{leaf.found} (`{judged.profile}`, seeds: {leaf.seeds})" if leaf.seeds else leaf.found


# --- the page of a study ---------------------------------------------------------------------------------


#: page -> the document that it is about
CHAPTERS = {"catdog": "S0", "promises": "S4", "reference-batch": "S1", "networks": "S2", "what-else": "S3"}


def study(judged: Sequence[Judged], chapter: str) -> str:
    """The statements of a chapter's document with their verdicts, those of other documents that its experiments judge,
    and what each of its experiments shows at the moment. The table of contents says which experiments those are."""
    own = [j for j in judged if j.source == CHAPTERS[chapter]]
    by_page = {e.page: e for e in experiments().values()}
    parts = [by_page[page] for page in _sections(chapter) if page in by_page]
    others = [j for j in judged if j not in own and j.experiments.keys() & {e.name for e in parts}]
    rows = [
        [
            link(j.id),
            j.statement,
            badge(j.verdict),
            f"`{j.profile}`" if j.profile and j.parts else "",
        ]
        for j in (*own, *others)
    ]
    shown = []
    for experiment in parts:
        profile, runs = experiment.published_runs()
        trained = [r.config for r in runs if r.config.steps] or [r.config for r in runs]
        sizes = [{"pixels": config.image_size, "steps": config.steps} for config in trained]
        setting = {", ".join(f"{number:,} {of}" for of, number in size.items() if number) for size in sizes}
        seeds = len({r.config.seed for r in runs})
        shown.append([f"[{experiment.title}]({experiment.page}.ipynb)", f"`{profile}`", "; ".join(sorted(setting)),
                      seeds or "", len(runs) or "none"])  # fmt: skip
    beside = f" Statements of other documents that the same experiments judge: {len(others)}." if others else ""
    return "\n\n".join([
        f"Of its {len(own)} statements: {_said(Counter(j.verdict for j in own))}.{beside}",
        markdown.div("nc-rows", markdown.table(["", "statement", "verdict", "judged by"], rows)),
        "What the experiments show at the moment:",
        markdown.table(["experiment", "profile", "size", "seeds", "runs"], shown, "lllrr"),
    ])  # fmt: skip


def catdog_overview() -> str:
    """The figure of accuracy against speed, from the published runs at the study's batch size."""
    profile, runs = find("catdog-compare").published_runs()
    compared = [r for r in runs if r.config.batch_size == catdog.BATCH_SIZE and catdog.name_of(r.config) in NORMS]
    if not compared:
        return "Nothing is measured yet."
    note = f"Profile {profile}, {measured_on(compared)}."
    return markdown.raw(catdog.overview(catdog.tables(compared)[1], step_costs(), note))


def newcomers(judged: Sequence[Judged]) -> str:
    """What the papers of the newcomers say and how it came off: an overview, then every statement."""
    pages = {name: e.page for name, e in experiments().items()}
    rows = [[link(j.id), j.statement, badge(j.verdict)] for j in judged]
    blocks = [f"Of {len(judged)} statements: {_said(Counter(j.verdict for j in judged))}."]
    blocks.append(markdown.div("nc-rows", markdown.table(["", "statement", "verdict"], rows)))
    for source, about in read("newcomers")["sources"].items():
        blocks.append(f"### {about['title']}\n\n{about['note'].strip()} {{cite}}`{about['cite']}`")
        blocks += [f"({j.id.lower()})=\n{body(j, pages)}" for j in judged if j.source == source]
    return "\n\n".join(blocks)


def newcomers_standing(found: compare.Comparison) -> str:
    """Where each newcomer stands in each workload of the comparison, in sentences, from the published runs."""
    if found.scores.empty:
        return "Nothing is measured yet."
    rivals = [norm for norm in found.battery.norms if norm in NORMS]
    new = [norm for norm in found.battery.norms if norm not in NORMS]
    beside = compare.standings(found.scores, found.battery, new, rivals)
    return f"{found.note}\n\n{markdown.raw(compare.words(beside, found.scores, found.battery, new))}"


def _sections(chapter: str) -> list[str]:
    """The pages below a chapter in the table of contents, in its order."""
    contents = read_yaml(paths.root() / "book" / "_toc.yml")
    entries = [entry for part in contents["parts"] for entry in part["chapters"]]
    return [s["file"] for entry in entries if entry["file"] == chapter for s in entry.get("sections", ())]
