"""How far a verdict reaches: what threatens it, and what would change it. Both follow from what it rests on."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import scipy  # see stats.py

from ..provenance import code
from ..runs.experiments import PROFILES, find
from ..runs.store import Run, Store
from ..stats import ALPHA, LOOKS, nominal
from ..verify import FEW, NOISE, OTHER, SAME, noted
from .claims import NOT_MEASURED, NOT_TESTABLE, Judged
from .plan import Proposal, propose
from .predicates import (
    CONTRADICTED,
    GRID_END,
    OPEN,
    REFUTED,
    SHORT,
    SMALL,
    SUPPORTED,
    TIE,
    Part,
    at_an_end,
)

# --- threats ---------------------------------------------------------------------------------------------


def threats(judged: Judged) -> list[str]:
    """What may make the verdict another than that of the source's own setting, in sentences; of what is not judged
    there is none."""
    if judged.verdict in (NOT_MEASURED, NOT_TESTABLE):
        return []
    if judged.definition:
        return [
            "It is judged on the layers of this library and on small inputs in double precision. Of another "
            "implementation, and of what single precision makes of it, this says nothing."
        ]
    if judged.benchmark:
        return ["It was measured on one core of one processor. On another, or on a GPU, it may be otherwise."]
    runs = list({run.key: run for leaf in judged.leaves for run in leaf.runs}.values())
    return [*_of_runs(judged, runs), *_of_chance(judged)] if runs else []


def _of_runs(judged: Judged, runs: Sequence[Run]) -> Iterator[str]:
    models, datasets = (", ".join(f"`{name}`" for name in dict.fromkeys(names))
                        for names in ((r.config.model for r in runs), (r.config.dataset for r in runs)))  # fmt: skip
    yield f"All its runs are of the network {models} on {datasets}. Other networks and other data may behave otherwise."
    if judged.profile in PROFILES and judged.profile != PROFILES[-1]:
        smaller = _smaller(judged, runs)
        yield f"The protocol of the source is the profile `full`; these runs are of `{judged.profile}`{smaller}."
    earlier = sum(run.provenance.get("code") != code(bool(run.config.probes)) for run in runs)
    if earlier:
        which = "All" if earlier == len(runs) else f"{earlier}"
        yield (
            f"{which} of its {len(runs)} runs were made by earlier code of the layers, the tasks or the training loop. "
            f"{_made_again(judged.experiment)}How some come out now, `normcore verify {judged.experiment}` says."
        )
    search = Store(judged.experiment).runs(judged.profile, "search")
    searched = {run.config.norm for run in search}
    edge = at_an_end([run for run in runs if run.config.norm in searched], search, "lr") if search else ""
    if edge and judged.cause != GRID_END:
        yield f"{edge[0].upper()}{edge[1:]}: a rate beyond it might do better."


def _made_again(experiment: str) -> str:
    """How the runs of an experiment came out that were made again, in a sentence, or nothing."""
    rows = noted(experiment)
    if not rows:
        return ""
    counts = Counter(row["outcome"] for row in rows)
    outcomes = ", ".join(f"{counts[outcome]} {outcome}" for outcome in (SAME, NOISE, FEW, OTHER) if counts[outcome])
    commits = " and ".join(f"`{commit}`" for commit in sorted({row["commit"] for row in rows}))
    runs = "1 run of this experiment was" if len(rows) == 1 else f"{len(rows)} runs of this experiment were"
    used = " and ".join(sorted({row["instructions"] for row in rows}))
    return f"{runs} made again by the code of {commits} with the instruction set {used}: {outcomes}. "


def _smaller(judged: Judged, runs: Sequence[Run]) -> str:
    """How its runs differ in their images from those of the protocol of the source, where both are known."""
    wanted = find(judged.experiment).profile(PROFILES[-1])
    sizes = sorted({run.config.image_size for run in runs})
    said = []
    if "image_size" in wanted and sizes != [wanted["image_size"]]:
        said.append(f"images of {', '.join(map(str, sizes))} pixels a side instead of {wanted['image_size']}")
    if "dataset" in wanted and wanted["dataset"] not in {run.config.dataset for run in runs}:
        said.append(f"not on `{wanted['dataset']}`")
    return f": {', '.join(said)}" if said else ""


def _of_chance(judged: Judged) -> Iterator[str]:
    looked = [leaf.look for leaf in judged.leaves if leaf.look]
    if later := [str(n) for n in LOOKS if n > min(looked, default=LOOKS[-1])]:
        yield (
            f"It rests on {min(looked)} seeds. Where more are added it is taken anew (at {', '.join(later)}); the last "
            "counts."
        )
    decided = judged.verdict in (SUPPORTED, REFUTED)
    if decided and not math.isnan(judged.q) and judged.q > ALPHA:
        yield (
            f"Corrected for all statements that were tested, its p is {judged.q:.2g}: among so many, one may come out "
            "like this by chance."
        )


# --- what would change it --------------------------------------------------------------------------------


def turning(judged: Judged) -> list[str]:
    """What would change the verdict, in sentences: first what has to go before seeds matter, then for each part by
    itself what the seeds up to the next look would have to average, with the variance as it is."""
    if judged.verdict == NOT_TESTABLE:
        return [f"Nothing that is run here: {judged.reason}."]
    if not judged.leaves:
        lacking = f"The results that it is judged by: {judged.reason}."
        return [lacking if judged.reason else "A study that tests it; this book has none so far."]
    if judged.definition:
        return ["Another reading of the statement, or other layers. Nothing here is left to chance."]
    if judged.benchmark:
        return [f"Another measurement, `normcore bench {judged.benchmark}`."]
    said = []
    if judged.cause in (SHORT, GRID_END, OPEN, CONTRADICTED):
        said.append(f"No number of seeds, as long as this is so: {judged.reason}.")
    if proposal := propose(judged):
        said.append(_proposed(proposal))
    for part in judged.parts:
        named = [(f"{part.says}, {leaf.says}" if part.of else leaf.says, _turn(leaf)) for leaf in part.leaves()]
        said += [f"*{says}*: {words}." for says, words in named if words]
    return said


def _proposed(proposal: Proposal) -> str:
    runs = "one further run" if len(proposal.runs) == 1 else f"{len(proposal.runs)} further runs"
    time = f"{60 * proposal.core_hours:.0f} minutes" if proposal.core_hours < 1 else f"{proposal.core_hours:.2g} hours"
    effort = f"{runs}, about {time} of one core"
    if proposal.expected:
        return f"It is expected to be decided at {proposal.expected} seeds: {effort}."
    return f"No look up to {LOOKS[-1]} seeds is expected to decide it; the next takes {effort}."


def _turn(part: Part) -> str:
    """What the seeds up to the next look would have to average."""
    ahead = next((n for n in LOOKS if n > part.look), None)
    if part.seeds is None:
        return ""
    if ahead is None:
        return f"stays as it is: {LOOKS[-1]} seeds are the last look"
    if not part.look:
        return f"is judged when there are {ahead} seeds; there {_are(part.seeds)}"
    if math.isnan(part.effect.se) or (part.low, part.high) == (-math.inf, math.inf):
        return f"is judged again at {ahead} seeds"
    outcomes = {name: words for name, bounds in _outcomes(part, ahead).items() if (words := _between(bounds, part))}
    now = TIE if part.cause in (TIE, SMALL) else part.verdict
    so_far = f"the first {part.look} average {_number(part.effect.mean, part)}"
    further = f"seeds {part.look + 1} to {ahead} average"
    if now in outcomes:
        return f"stays {_NAMED.get(now, now)} if {further} {outcomes[now]}; {so_far}"
    if not outcomes:
        return f"stays undecided at {ahead} seeds, with this variance; {so_far}"
    (first, words), *others = outcomes.items()
    rest = "".join(f", {_NAMED.get(name, name)} if {words}" for name, words in others)
    return f"becomes {_NAMED.get(first, first)} if {further} {words}{rest}; {so_far}"


_NAMED = {TIE: "a tie"}


def _are(seeds: int) -> str:
    return "is one" if seeds == 1 else f"are {seeds}"


def _outcomes(part: Part, ahead: int) -> dict[str, list[tuple[float, float]]]:
    """Outcome -> between what the seeds up to the look ``ahead`` would have to average."""
    effect, tie = part.effect, part.tie
    sd = effect.se * math.sqrt(effect.n)
    reach = float(scipy.stats.t.ppf(1 - nominal() / 2, effect.df)) * sd / math.sqrt(ahead)

    def further(mean: float) -> float:
        return (ahead * mean - part.look * effect.mean) / (ahead - part.look) if math.isfinite(mean) else mean

    low, high = part.low + reach, part.high - reach
    within = tie - reach  # of zero: a tie comes before what holds
    if tie and within > 0:
        low, high = (max(low, within), high) if math.isinf(part.high) else (low, min(high, -within))
    found = {
        SUPPORTED: [(low, high)],
        REFUTED: [(-math.inf, part.low - tie - reach), (part.high + tie + reach, math.inf)],
        TIE: [(-within, within)] if tie else [],
    }
    return {name: [(further(a), further(b)) for a, b in bounds if a < b] for name, bounds in found.items()}


def _between(bounds: Sequence[tuple[float, float]], part: Part) -> str:
    said = []
    for low, high in bounds:
        if math.isinf(low):
            said.append(f"below {_number(high, part)}")
        elif math.isinf(high):
            said.append(f"above {_number(low, part)}")
        else:
            said.append(f"between {_number(low, part)} and {_number(high, part)}")
    return " or ".join(said)


def _number(value: float, part: Part) -> str:
    """As precise as the part itself is written; of a logarithm the factor."""
    if part.factor:
        return f"a factor of {2**value:.3g}"
    if abs(part.effect.mean) >= 100:
        return f"{value:+,.0f}"
    return f"{value:+.4f}" if abs(value) >= 5e-4 else f"{value:+.1g}"
