"""The guide: for what a reader has, the normalizers in groups that the comparison can tell apart."""

from collections.abc import Mapping, Sequence

import pandas as pd

from .. import paths
from ..compare.battery import Comparison, Workload
from ..compare.standing import BETTER, CANNOT, LEVEL, groups, listed, mean_values, standing
from ..figures.look import label
from ..files import read_yaml
from ..stats import MIN_SEEDS
from . import markdown

REFERENCE = "bn"  # which differences are from


def guide(comparison: Comparison) -> str:
    """A table of groups over all workloads, then each workload: in short, every normalizer's difference from BN, and
    what the sources say. ``book/guide.yml`` has the statements on each workload."""
    scores = comparison.scores.dropna(subset=["value"])
    if scores.groupby(["workload", "norm"])["seed"].nunique().max() < MIN_SEEDS:
        return f"Nothing is measured yet with the {MIN_SEEDS} seeds that this takes."
    complete = comparison.battery.complete(comparison.scores)
    ranked = {w.name: groups(scores, w, complete) for w in comparison.battery.workloads}
    advice: Mapping[str, Sequence[str]] = read_yaml(paths.root() / "book" / "guide.yml")
    blocks = [comparison.note, _overview(comparison, ranked)]
    blocks += [_workload(comparison, scores, w, ranked[w.name], advice.get(w.name, ())) for w in _shown(comparison)]
    return "\n\n".join(blocks)


def _shown(comparison: Comparison) -> list[Workload]:
    there = set(comparison.scores["workload"])
    return [workload for workload in comparison.battery.workloads if workload.name in there]


def _overview(comparison: Comparison, ranked: Mapping[str, Sequence[Sequence[str]]]) -> str:
    shown = _shown(comparison)
    rows = []
    for norm in comparison.battery.complete(comparison.scores):
        cannot = comparison.battery.cannot(norm)
        rows.append([label(norm), *(_place(ranked[w.name], norm, w.name in cannot) for w in shown)])
    head = ["", *(f"[{w.title}](#guide-{w.name})" for w in shown)]
    return markdown.table(head, rows, "l" + "r" * len(shown))


def _place(ranked: Sequence[Sequence[str]], norm: str, cannot: bool) -> str:
    place = next((i for i, group in enumerate(ranked, start=1) if norm in group), None)
    if place is None:
        return "–" if cannot else ""
    return f"**{place}**" if place == 1 else str(place)


def _workload(
    comparison: Comparison, scores: pd.DataFrame, workload: Workload, ranked: Sequence[Sequence[str]],
    advice: Sequence[str],
) -> str:  # fmt: skip
    rows = []
    means = mean_values(scores, workload)
    for place, group in enumerate(ranked, start=1):
        for norm in group:
            difference = "" if norm == REFERENCE else _difference(scores, workload, norm)
            rows.append([place, label(norm), f"{means[norm]:.4g}", difference])
    blocks = [
        f"(guide-{workload.name})=\n## {workload.title}",
        f"{workload.asks} **{in_short(scores, workload, ranked)}**",
        markdown.table(["group", "normalizer", workload.unit, f"minus {label(REFERENCE)}"], rows, "rlrr"),
    ]
    if cannot := [n for n in comparison.battery.norms if workload.name in comparison.battery.cannot(n)]:
        blocks.append(f"{CANNOT[0].upper()}{CANNOT[1:]}: {', '.join(map(label, cannot))}.")
    if advice:
        blocks.append(f"The sources on this: {', '.join(f'[{s}](#{s.lower()})' for s in advice)}.")
    return "\n\n".join(blocks)


def _difference(scores: pd.DataFrame, workload: Workload, norm: str) -> str:
    """From the reference, where that stands there, too."""
    beside = standing(scores, [workload], norm, [REFERENCE]).to_dict("records")
    return "".join(f"{row['difference']:+.3g} [{row['low']:+.3g}, {row['high']:+.3g}]" for row in beside)


def in_short(scores: pd.DataFrame, workload: Workload, ranked: Sequence[Sequence[str]]) -> str:
    """What the groups say, in a sentence."""
    if not ranked:
        return "Nothing is measured yet."
    lead = ranked[0][0]
    if len(ranked) == 1:
        apart = standing(scores, [workload], lead, ranked[0][1:])
        if len(apart) and (apart["verdict"] == LEVEL).all():
            widest = float(apart["difference"].abs().max())
            return f"It does not matter here: all are within {widest:.2g} of the first."
        return "With these seeds no normalizer can be told from the first."
    first, last = ranked[0], ranked[-1]
    (row,) = standing(scores, [workload], lead, [last[-1]]).to_dict("records")
    ahead = f"{label(lead)} is better than {label(last[-1])} by {abs(row['difference']):.2g}"
    if row["verdict"] != BETTER:
        ahead = f"{label(last[-1])} comes last"
    return f"{listed(list(map(label, first)))} {'do' if len(first) > 1 else 'does'} best; {ahead}."
