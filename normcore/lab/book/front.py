"""The front page: the verdicts as one bar, what a reader would tell a colleague, and one figure; and the README's."""

import math
from collections import Counter
from collections.abc import Sequence
from urllib.parse import urlencode

import pandas as pd
from matplotlib.ticker import MaxNLocator

from ...factory import NORMS
from .. import paths
from ..compare.battery import LONG, Comparison
from ..compare.report import standings
from ..compare.standing import BETTER, WORSE, listed
from ..figures import look
from ..figures.charts import draw_intervals
from ..figures.curves import draw_curves
from ..files import read_yaml
from ..runs.experiments import find
from ..runs.store import Run
from ..stats import spread
from ..tasks import datasets
from ..verdicts.claims import REFUTED, SUPPORTED, VERDICTS, Judged, read
from ..verdicts.tables import curves
from .guide import REFERENCE, Ranked, in_short, link
from .markdown import bullets, raw
from .statements import badge_classes

_TOLD = ("batch-2", "lstm")  # the workloads of the comparison that the start page tells of


def front(judged: Sequence[Judged], compared: Comparison, ranked: Ranked) -> str:
    """The start page: the verdicts as one bar, what a reader would tell a colleague, and one figure, with a comment
    before each, by which ``book/index.md`` puts them in their places."""
    found = [f"**{w.title}.** {in_short(compared.measured, w, ranked[w.name])} "
             f"[More](#guide-{w.name})" for w in compared.battery.workloads if w.name in _TOLD and ranked]  # fmt: skip
    clear = sorted((j for j in judged if not math.isnan(j.p)), key=lambda j: j.p)
    for verdict in (SUPPORTED, REFUTED):
        found += [_most_clearly(one) for one in [j for j in clear if j.verdict == verdict][:1]]
    figure = raw(_small_batches(compared)) if ranked else ""
    return "\n\n".join([_bar(judged), _rest(judged), "% findings", bullets(found), "% figure", figure])


def _bar(judged: Sequence[Judged]) -> str:
    """How many of each verdict, as one bar whose parts lead into the ledger."""
    counts = Counter(j.verdict for j in judged)
    parts = "".join(
        f'<a class="{" ".join(badge_classes(v))}" style="flex-grow:{counts[v]}" '
        f'href="claims.html#{urlencode({"verdict": v})}">{counts[v]} {v}</a>'
        for v in VERDICTS if counts[v]
    )  # fmt: skip
    return raw(f'<div class="nc-bar" role="group" aria-label="The verdicts on {len(judged)} statements">{parts}</div>')


def _rest(judged: Sequence[Judged]) -> str:
    """How many runs the verdicts rest on, and with how many seeds at least what is decided was decided."""
    leaves = [leaf for one in judged for leaf in one.leaves]
    runs = {run.key for leaf in leaves for run in leaf.runs}
    looks = [leaf.look for leaf in leaves if leaf.look and leaf.verdict in (SUPPORTED, REFUTED)]
    if not looks:
        return ""
    least = f"nothing that varies was decided with fewer than {min(looks)} seeds"
    return f"The verdicts rest on {len(runs):,} training runs; {least}."


def _most_clearly(judged: Judged) -> str:
    leaf, said = judged.first_measured, judged.statement.rstrip(".")
    found = f": {leaf.found}" if leaf else ""
    return f"**Most clearly {judged.verdict}**: {said} ({link(judged.id)}){found}."


def _small_batches(compared: Comparison) -> str:
    """The difference of each known normalizer from BN, against the batch size."""
    battery = compared.battery
    sizes = {f"batch-{n}": n for n in battery.batch_sizes} | {LONG: battery.images["batch_size"]}
    studied = [w for w in battery.workloads if w.name in sizes]
    known = [norm for norm in battery.norms if norm in NORMS and norm != REFERENCE]
    rows = standings(compared.measured, battery, known, [REFERENCE])
    rows = rows[rows["workload"].isin(sizes)].assign(batch_size=rows["workload"].map(sizes), mean=rows["difference"])
    figure = _draw_apart(rows, studied[0].least)
    network = {"lenet5": "LeNet-5"}.get(battery.images["model"], battery.images["model"])
    dataset = datasets.find(battery.images["dataset"]).title
    return look.show(
        figure, legend=known,
        alt="The test accuracy of each normalizer minus that of BN against the batch size, with intervals, around a "
        "grey band of differences too small to matter.",
        caption=f"Do small batches speak against BN? {network} on {dataset}, each "
        "normalizer at its own learning rate: test accuracy minus BN's, means with 95 % intervals. In the grey band a "
        f"difference is too small to matter. {compared.note.replace('`', '')}",
    )  # fmt: skip


def _draw_apart(rows: pd.DataFrame, least: float) -> look.Chart:
    label = f"test accuracy minus {look.label(REFERENCE)}'s"
    figure = draw_intervals(rows, x="batch_size", by="norm", label=label)
    figure.seen = [_apart(rows)]
    axes = figure.axes[0]
    axes.axhspan(-least, least, color="#808080", alpha=0.2, linewidth=0)
    axes.axhline(0, color="#808080", linewidth=0.9)
    return figure


def _apart(rows: pd.DataFrame) -> str:
    """Which of these stand apart from the reference, and at which batch sizes."""
    found = []
    for verdict in (BETTER, WORSE):
        sizes = rows[rows["verdict"] == verdict].groupby("norm", sort=False)["batch_size"].unique()
        names = (
            f"{look.label(str(norm))} (batch {listed([f'{n:g}' for n in sorted(at)])})" for norm, at in sizes.items()
        )
        found += [f"{verdict.capitalize()} {look.label(REFERENCE)}: {', '.join(names)}."] * bool(len(sizes))
    return " ".join([*found, f"The others are not told apart from {look.label(REFERENCE)}, or by less than matters."])


def documents() -> str:
    """Who the sources are, in a line each."""
    return "\n".join(f"- [{name}](#{name.lower()}): {about['title']}, a {about['kind']} {{cite}}`{about['cite']}`."
                     for name, about in read()["sources"].items())  # fmt: skip


def cite() -> str:
    """How to cite the book, from ``CITATION.cff``, in words and for BibTeX."""
    known = read_yaml(paths.root() / "CITATION.cff")
    authors = " and ".join(author["name"] for author in known["authors"])
    words = f"{authors}: *{known['title']}*, version {known['version']}. {known['abstract']}"
    fields = {
        "author": f"{{{authors}}}",
        "title": known["title"],
        "note": f"Version {known['version']}. {known['abstract']}",
    }
    entry = "".join(f"  {name} = {{{text}}},\n" for name, text in fields.items())
    return f"{words}\n\n{known['message']}\n\n```bibtex\n@software{{normcore,\n{entry}}}\n```"


_LEAD = "fashion-lenet"  # the experiment of the README's picture


def _seeds(runs: Sequence[Run]) -> int:
    return len({run.config.seed for run in runs})


def overview_svg() -> str:
    """The README's picture: test accuracy by epoch of the lead experiment; empty before it has published results."""
    with paths.only(paths.published()):  # it is a part of the repository, one's own results are not
        _, runs = find(_LEAD).published_runs()
    if not runs:
        return ""
    frame = curves(runs)
    with look.panel(7.2, 3.2) as (figure, axes):
        draw_curves(axes, frame[frame["split"] == "test"], "accuracy")
        dataset = frame["dataset"].iloc[0].replace("_", "-").title().replace("Mnist", "MNIST")
        axes.set(
            xlabel="epoch",
            ylabel="test accuracy",
            title=f"LeNet-5 on {dataset}: mean{spread(_seeds(runs))}",
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    return look.svg(figure, background="white") + "\n"
