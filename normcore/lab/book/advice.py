"""A normalizer's place: when to use it by the sources and by what was measured, and where it stands everywhere.

``book/advice.yml`` has what the sources advise; the rest is computed. The page of each normalizer includes both parts.
"""

import html
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from .. import paths
from ..bench.steps import step_costs
from ..compare.battery import Comparison, Workload
from ..compare.standing import mean_values
from ..errors import LabError
from ..figures.look import label
from ..files import read_yaml
from ..runs.experiments import Experiment
from ..runs.store import Run
from ..verdicts.claims import NOT_MEASURED, NOT_TESTABLE, Judged
from ..verdicts.tables import probed
from . import markdown
from .guide import REFERENCE, Ranked, difference, link, place_of

_GREY = '<span class="nc-unmeasured">not measured here</span>'


class Shown(NamedTuple):
    """What the page of an experiment shows."""

    experiment: Experiment
    profile: str
    runs: Sequence[Run]


def read() -> dict[str, list[dict[str, Any]]]:
    """``book/advice.yml``."""
    schema = dict[str, list[dict[str, Any]]]
    found: dict[str, list[dict[str, Any]]] = read_yaml(paths.root() / "book" / "advice.yml", schema)
    return found


def advice(norm: str, judged: Iterable[Judged], comparison: Comparison, ranked: Ranked) -> str:
    """Two columns: what the sources say of when to use it, and what was measured of that."""
    statements = {j.id: j for j in judged}
    rows = []
    for entry in read().get(norm, []):
        said = f"{entry['says']} {', '.join(map(link, entry['sources']))}"
        found = [words for s in entry["sources"] if (words := _effect(statements[s]))]
        found += [words for w in entry.get("workloads", []) if (words := _standing(norm, w, comparison, ranked))]
        rows.append([said, "<br>".join(found) or _GREY])
    if not rows:
        return "The sources say nothing of when to use it."
    return markdown.div("nc-rows", markdown.table(["the sources say", "we measured"], rows))


def resting() -> dict[str, list[str]]:
    """Statement -> the advice that the sources rest on it, each with the normalizer that it is about."""
    found: dict[str, list[str]] = {}
    for norm, entries in read().items():
        for entry in entries:
            for statement in entry["sources"]:
                found.setdefault(statement, []).append(f"[{label(norm)}](/normalizers/{norm}.ipynb): {entry['says']}")
    return found


def _effect(judged: Judged) -> str:
    """The first part of a statement that has an effect, as it was measured; nothing of what has none."""
    if judged.verdict in (NOT_MEASURED, NOT_TESTABLE):
        return ""
    leaf = judged.first_measured
    return f"{judged.id}: {html.escape(leaf.found)}" if leaf else ""


def _standing(norm: str, name: str, comparison: Comparison, ranked: Ranked) -> str:
    """The group of a normalizer in a workload, and its difference from the reference; of the reference itself the best
    of the workload instead."""
    place = place_of(ranked.get(name, ()), norm)
    if place is None:
        return ""
    workload = _workload(comparison, name)
    scores = comparison.measured
    if norm == REFERENCE:
        means = mean_values(scores, workload)
        best = str(means.index[0])
        apart = difference(scores, workload, best)
        words = "" if best == norm else f"; the best, {label(best)}, minus {label(norm)} {apart}"
    else:
        apart = difference(scores, workload, norm)
        words = f"; minus {label(REFERENCE)} {apart}" if apart else ""
    return f"[{workload.title}](#guide-{name}): group {place} of {len(ranked[name])}{words}"


def _workload(comparison: Comparison, name: str) -> Workload:
    return next(w for w in comparison.battery.workloads if w.name == name)


def everywhere(
    norm: str, judged: Sequence[Judged], comparison: Comparison, ranked: Ranked, shown: Sequence[Shown] = ()
) -> str:
    """What was measured of it: its group in each workload, what a step costs, what it learned, the statements about it,
    its runs.

    Args:
        shown: every experiment.
    """
    blocks = []
    places = [_standing(norm, w.name, comparison, ranked) for w in comparison.battery.workloads]
    if lines := [f"- {line}" for line in places if line]:
        blocks += [f"In [the comparison](/runs/compare.ipynb). {comparison.note}", "\n".join(lines)]
    if cost := _cost(norm):
        blocks.append(cost)
    if norm == "sn":
        blocks.append(_mixture([run for one in shown for run in one.runs]))
    advised = {s for entry in read().get(norm, []) for s in entry["sources"]}
    own = [j for j in judged if norm in j.normalizers or j.id in advised]
    if own:
        blocks += ["The statements about it:", "\n".join(f"- {link(j.id)} {j.statement}" for j in own)]
    if rows := [row for one in shown if (row := _ran(norm, one))]:
        blocks += [
            "Its runs in the experiments:",
            markdown.table(["experiment", "profile", "runs", "seeds"], rows, "llrr"),
        ]
    return "\n\n".join(blocks) or "Nothing so far."


def _ran(norm: str, shown: Shown) -> list[object]:
    """A row on the runs of a normalizer in an experiment; empty where it has none."""
    own = [run for run in shown.runs if run.config.norm == norm]
    seeds = len({run.config.seed for run in own})
    link = f"[{shown.experiment.title}](/{shown.experiment.page}.ipynb)"
    return [link, f"`{shown.profile}`", len(own), seeds] if own else []


def _cost(norm: str) -> str:
    """What a step of training costs with it."""
    try:
        costs = step_costs().set_index("variant")
    except LabError:
        return ""
    if norm not in costs.index:
        return ""
    row = costs.loc[norm]
    beside = "" if norm == REFERENCE else f", {row['of_bn']:.2f} times as long as with {label(REFERENCE)},"
    return (
        f"A training step of the network of the cats and dogs takes {row['ms']:.3g} ms on one core of a CPU{beside} "
        f"and keeps {row['saved_mb']:.3g} MB for the backward pass ([speed](/speed.md))."
    )


def _mixture(runs: Sequence[Run]) -> str:
    """How the layers weigh the three kinds of statistics at the end of training, means over seeds."""
    rows = probed(runs, "mixture")
    if rows.empty:
        return f"How its layers weigh the statistics of IN, LN and BN after training: {_GREY}."
    rows = rows[rows["step"] == rows["steps"]]
    shares, setting = ["in", "ln", "bn"], ["dataset", "model", "batch_size", "lr", "steps"]
    blocks = []
    for (dataset, model, batch, lr, steps), own in rows.groupby(setting, sort=False):
        means = own.groupby(["layer", "of"], sort=False)[shares].mean()
        lines = [
            [layer, *(f"{means.loc[(layer, of), share]:.2f}" for of in ("mean", "var") for share in shares)]
            for layer in means.index.unique("layer")
        ]
        seeds = own["seed"].nunique()
        blocks.append(
            f"How its layers weigh the statistics of IN, LN and BN after {steps:,} steps of `{model}` on `{dataset}` "
            f"with batches of {batch} at the rate {lr:g}: {'one seed' if seeds == 1 else f'means over {seeds} seeds'}."
        )
        head = ["layer", *(f"{of}: {label(share)}" for of in ("mean", "variance") for share in shares)]
        blocks.append(markdown.table(head, lines, "lrrrrrr"))
    return "\n\n".join(blocks)
