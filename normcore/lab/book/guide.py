"""The guide: for what a reader has, the normalizers in groups that the comparison can tell apart.

``book/guide.yml`` has what a reader is asked, what each workload of the comparison answers, and the statements of the
sources on it. A section carries its answers as ``data-item``, by which ``book/_assets/select.js`` shows those that fit.
"""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from ...factory import NORMS
from .. import paths
from ..bench.steps import step_costs
from ..compare.battery import Comparison, Workload
from ..compare.standing import BETTER, LEVEL, groups, listed, mean_values, standing
from ..errors import LabError
from ..figures.anatomy import entering, extents, facts, parts
from ..figures.look import label
from ..files import read_yaml
from ..runs.experiments import find
from ..stats import MIN_SEEDS
from ..verdicts.claims import Judged
from . import markdown

REFERENCE = "bn"  # which differences are from
NORMALIZERS = [name for name in NORMS if name != "none"]

Ranked = Mapping[str, Sequence[Sequence[str]]]  # workload -> its groups


def read() -> dict[str, Any]:
    """``book/guide.yml``."""
    found: dict[str, Any] = read_yaml(paths.root() / "book" / "guide.yml", dict[str, Any])
    return found


def guide(comparison: Comparison, judged: Iterable[Judged], ranked: Ranked) -> str:
    """The questions, a table of groups over all workloads, a section for each workload, one for each property of the
    layers, and what is not measured.

    Args:
        ranked: of :func:`rank`.
    """
    about = read()
    statements = {j.id: j for j in judged}
    blocks = [_form(about["questions"])]
    if ranked:
        shown = _shown(comparison)
        blocks += [comparison.note, _overview(comparison, ranked, shown)]
        blocks += [_workload(comparison, w, ranked[w.name], about["workloads"].get(w.name, {}), statements)
                   for w in shown]  # fmt: skip
    else:
        blocks.append(f"Nothing is compared yet with the {MIN_SEEDS} seeds that this takes.")
    blocks += [_property(name, answers, statements) for name, answers in about["properties"].items()]
    blocks.append(
        "## Other networks\n\nThe comparison has none of these. Where there is a study of its own, it is named."
    )
    blocks += [_elsewhere(answers, statements) for answers in about["elsewhere"]]
    return "\n\n".join(blocks)


def rank(comparison: Comparison) -> Ranked:
    """The groups of each workload, of the normalizers that have been run in all; empty with too few seeds."""
    scores = comparison.measured
    if scores.empty or scores.groupby(["workload", "norm"])["seed"].nunique().max() < MIN_SEEDS:
        return {}
    complete = comparison.battery.complete(comparison.scores)
    return {w.name: groups(scores, w, complete) for w in comparison.battery.workloads}


def _shown(comparison: Comparison) -> list[Workload]:
    there = set(comparison.scores["workload"])
    return [workload for workload in comparison.battery.workloads if workload.name in there]


def _form(questions: Mapping[str, Any]) -> str:
    fields = "".join(
        markdown.choice(name, question["asks"], "any", question["answers"]) for name, question in questions.items()
    )
    none = "This combination is not measured here. Leave a question open, or put your own network in the layers' place."
    return markdown.raw(markdown.form(fields, "sections fit", none))


def _item(answers: Mapping[str, Any], title: str, says: str) -> str:
    """The mark of a section by which it is chosen."""
    facets = {name: values for name, values in answers.items() if name not in ("title", "sources", "experiment")}
    data = json.dumps({"facets": facets, "title": title, "says": says.replace("*", "")})
    return markdown.raw(f'<div data-item="{html.escape(data)}" hidden></div>')


def _overview(comparison: Comparison, ranked: Ranked, shown: Sequence[Workload]) -> str:
    rows = []
    for norm in comparison.battery.complete(comparison.scores):
        cannot = comparison.battery.cannot(norm)
        rows.append([label(norm), *(_place(ranked[w.name], norm, w.name in cannot) for w in shown)])
    head = ["", *(f"[{w.title}](#guide-{w.name})" for w in shown)]
    return markdown.div("nc-dense", markdown.table(head, rows, "l" + "r" * len(shown)))


def place_of(ranked: Sequence[Sequence[str]], norm: str) -> int | None:
    """The number of a normalizer's group, from 1."""
    return next((i for i, group in enumerate(ranked, start=1) if norm in group), None)


def _place(ranked: Sequence[Sequence[str]], norm: str, cannot: bool) -> str:
    place = place_of(ranked, norm)
    if place is None:
        return "–" if cannot else ""
    return f"**{place}**" if place == 1 else str(place)


def _workload(
    comparison: Comparison, workload: Workload, ranked: Sequence[Sequence[str]], answers: Mapping[str, Any],
    statements: Mapping[str, Judged],
) -> str:  # fmt: skip
    scores = comparison.measured
    rows = []
    means = mean_values(scores, workload)
    for place, group in enumerate(ranked, start=1):
        for norm in group:
            rows.append([place, label(norm), f"{means[norm]:#.4g}", difference(scores, workload, norm)])
    says = in_short(scores, workload, ranked)
    head = ["group", "normalizer", workload.unit, f"minus {label(REFERENCE)}"]
    blocks = [
        f"(guide-{workload.name})=\n## {workload.title}",
        _item(answers, workload.title, says),
        f"{workload.asks} **{says}**",
        markdown.div("nc-groups", markdown.table(head, rows, "rlrr")),
    ]
    cannot = [label(n) for n in comparison.battery.norms if workload.name in comparison.battery.cannot(n)]
    return "\n\n".join([*blocks, *cannot_stand(cannot), *_advice(answers, statements)])


def cannot_stand(names: Sequence[str]) -> list[str]:
    """A sentence on what cannot stand somewhere, or where something cannot; none if there is nothing."""
    return [f"Not applicable: {'; '.join(names)}."] if names else []


def _advice(answers: Mapping[str, Any], statements: Mapping[str, Judged]) -> list[str]:
    """What the sources say on it, each statement with its verdict (:mod:`normcore.lab.book.badges`)."""
    lines = [f"- {link(s)} {statements[s].statement}" for s in answers.get("sources", ()) if s in statements]
    return ["The sources on this:", "\n".join(lines)] if lines else []


def link(statement: str) -> str:
    """To a statement's page."""
    return f"[{statement}](#{statement.lower()})"


def difference(scores: pd.DataFrame, workload: Workload, norm: str) -> str:
    """From the reference, where that stands there, too; nothing for the reference itself."""
    if norm == REFERENCE:
        return ""
    beside = standing(scores, [workload], norm, [REFERENCE]).to_dict("records")
    return "".join(map(in_figures, beside))


def in_figures(row: Mapping[Any, Any]) -> str:
    """The difference of a row of :func:`normcore.lab.compare.standing.standing` with its interval."""
    width = row["high"] - row["low"]
    digits = min(5, max(0, 1 - math.floor(math.log10(width)))) if width > 0 else 3  # two of the interval's width
    return f"{row['difference']:+z.{digits}f} [{row['low']:+z.{digits}f}, {row['high']:+z.{digits}f}]"


def in_short(scores: pd.DataFrame, workload: Workload, ranked: Sequence[Sequence[str]]) -> str:
    """What the groups say, in a sentence."""
    if not ranked:
        return "Nothing is measured yet."
    lead = ranked[0][0]
    if len(ranked) == 1:
        apart = standing(scores, [workload], lead, ranked[0][1:])
        if len(apart) and (apart["verdict"] == LEVEL).all():
            widest = float(apart["difference"].abs().max())
            return f"It does not matter here: all are within {widest:.2g} of the first ({workload.unit})."
        return "With these seeds no normalizer can be told from the first."
    first, last = ranked[0], ranked[-1]
    (row,) = standing(scores, [workload], lead, [last[-1]]).to_dict("records")
    ahead = f"{label(last[-1])} is {abs(row['difference']):.2g} behind {label(lead)} ({workload.unit})"
    if row["verdict"] != BETTER:
        ahead = f"{label(last[-1])} comes last"
    return f"{listed(list(map(label, first)))} {'do' if len(first) > 1 else 'does'} best; {ahead}."


# --- what follows from the layers ------------------------------------------------------------------------


def _property(name: str, answers: Mapping[str, Any], statements: Mapping[str, Judged]) -> str:
    title, says, body = {"cost": _cost, "alone": _alone}[name]()
    item = _item(answers, title, says)
    return "\n\n".join([f"(guide-{name})=\n## {title}", item, f"**{says}**", body, *_advice(answers, statements)])


def _cost() -> tuple[str, str, str]:
    """What a step costs with each normalizer (``normcore bench steps``)."""
    title = "Speed and memory"
    try:
        costs = step_costs()
    except LabError as error:
        return title, "Nothing is measured yet.", f"{error}."
    own = costs[costs["variant"].isin(NORMS)].sort_values("of_bn", kind="stable")
    others = own[~own["norm"].isin(("none", REFERENCE))]
    near = others[others["of_bn"] < _MUCH]
    dear = [f"{label(str(row.norm))} {row.of_bn:.2g}" for row in others[others["of_bn"] >= _MUCH].itertuples()]
    says = (
        f"A step of training takes {near['of_bn'].min():.2f} to {near['of_bn'].max():.2f} times as long as with "
        f"{label(REFERENCE)} on one core of a CPU" + (f"; with {listed(dear)} times." if dear else ".")
    )
    rows = [
        [label(str(row.norm)), f"{row.ms:.1f}", f"{row.of_bn:.2f}", f"{row.saved_mb:.1f}"] for row in own.itertuples()
    ]
    head = ["normalizer", "a step (ms)", f"times {label(REFERENCE)}", "kept for the backward pass (MB)"]
    body = markdown.table(head, rows, "lrrr")
    return title, says, f"{body}\n\nThe network of the cats and dogs; [speed](speed.md) has the layers by themselves."


_MUCH = 1.5  # times the reference's


def _alone() -> tuple[str, str, str]:
    """Of what each layer takes its statistics, measured on the layer: whether an image comes out the same in any
    company, and evaluated as in training."""
    sources = {name: [facts(name)[f"statistics {when} are of"] for when in ("in training", "at evaluation")]
               for name in NORMALIZERS}  # fmt: skip
    free = [label(n) for n in NORMALIZERS if sources[n] == ["current input"] * 2 and _by_itself(n)]
    says = f"An image comes out the same alone and in any company, in training and at evaluation, with {listed(free)}."
    rows = [[label(n), *sources[n], "no" if _by_itself(n) else "yes"] for n in NORMALIZERS]
    head = ["normalizer", "statistics in training are of", "at evaluation", "other images of the batch enter"]
    return "An image by itself", says, markdown.table(head, rows)


def _by_itself(norm: str) -> bool:
    """Whether no other instance of the current input enters, in training."""
    return all(extents(entering(layer))[0] <= 1 for layer in parts(norm).values())


def _elsewhere(answers: Mapping[str, Any], statements: Mapping[str, Judged]) -> str:
    """A section on what the comparison has not: which study has, and what came of the sources' statements there."""
    says, body = "not measured here; the sources give advice.", []
    if name := answers.get("experiment"):
        experiment = find(name)
        profile, runs = experiment.published_runs()
        of = f"{len(runs)} runs of the profile `{profile}`" if runs else "whose runs are not there yet"
        body = [f"A study of its own: [{experiment.title}]({experiment.page}.ipynb), {of}."]
        verdicts = [f"{s} {statements[s].verdict}" for s in answers["sources"] if s in statements]
        says = f"a study of its own: {listed(verdicts)}." if runs and verdicts else "not measured yet."
    title = answers["title"]
    return "\n\n".join([f"### {title}", _item(answers, title, says), *body, *_advice(answers, statements)])
