"""What the notebook of a comparison shows."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from ...factory import make_norm
from ...testing import dependences, examine
from ..figures.look import Html, label, show, tabulate
from .battery import LONG, Battery
from .cost import step_costs
from .standing import draw_standing, sentences, standing

Options = Mapping[str, Mapping[str, Any]]


def checks(norms: Iterable[str], options: Options) -> Html:
    """What each layer has to stand, and how it comes off (:func:`normcore.testing.examine`)."""
    rows: dict[str, dict[str, str]] = {}
    for norm in norms:
        for check in examine(partial(make_norm, norm, **options.get(norm, {}))):
            rows.setdefault(check.name, {"check": check.name})[label(norm)] = ": ".join(
                filter(None, (check.outcome, check.says))
            )
    return tabulate(rows.values())


def depends(norms: Iterable[str], options: Options) -> Html:
    """What each layer's output depends on (:func:`normcore.testing.dependences`)."""
    rows = []
    for norm in norms:
        found = dependences(partial(make_norm, norm, **options.get(norm, {})))
        rows.append({"norm": label(norm), **{what: f"{change:.3f}" for what, change in found.items()}})
    return tabulate(rows)


def standings(scores: pd.DataFrame, battery: Battery, norms: Sequence[str], rivals: Sequence[str]) -> pd.DataFrame:
    """The rows of :func:`normcore.lab.compare.standing.standing` of each of these normalizers."""
    return pd.concat([standing(scores, battery.workloads, norm, rivals) for norm in norms], ignore_index=True)


def words(table: pd.DataFrame, scores: pd.DataFrame, battery: Battery, norms: Iterable[str]) -> Html:
    """Where each normalizer stands, in sentences, and what it cannot do."""
    parts = []
    for norm in norms:
        said = sentences(table, scores, battery.workloads, norm)
        said += dict.fromkeys(why for (_, refused), why in battery.refused.items() if refused == norm)
        items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in said)
        parts.append(f"<h3>{html.escape(label(norm))}</h3><ul>{items}</ul>")
    return Html("".join(parts))


def draw_standings(table: pd.DataFrame, battery: Battery, norms: Iterable[str], note: str) -> Html:
    """For each normalizer a figure of every workload: the difference from each rival."""
    parts = []
    for norm in norms:
        own, name = table[table["norm"] == norm], label(norm)
        shown = [w for w in battery.workloads if (own["workload"] == w.name).any()]
        least = int(own["n"].min()) if len(own) else 0
        bars = "bars: 95 % intervals" if least >= 5 else "bars: the range over seeds" if least > 1 else "one seed"
        parts.append(show(
            [draw_standing(own, workload) for workload in shown], share_y=False,
            alt=f"The difference of {name} from each of the known normalizers, a panel a workload.",
            caption=f"{name} minus each of the known ones, mean over seeds, {bars}; the grey band is the smallest "
            f"difference of interest. {note}",
        ))  # fmt: skip
    return Html("".join(parts))


def lenet_costs(battery: Battery, rounds: int, device: Any) -> Html:
    """A step of training with each normalizer, on images."""
    configs = [configs[0] for (workload, _), configs in battery.runs.items() if workload == LONG]
    costs = step_costs(configs, rounds, str(device))
    return tabulate([dict(row) for _, row in costs.iterrows()])


def download(**tables: pd.DataFrame) -> Html:
    """Links to tables as CSV files, which are in the page itself."""
    links = []
    for name, table in tables.items():
        data = base64.b64encode(table.to_csv(index=False).encode()).decode()
        links.append(f'<a download="{name}.csv" href="data:text/csv;base64,{data}">{name}.csv</a>')
    return Html(f"<p>{', '.join(links)}</p>")
