"""The battery: small studies that are the same for every normalizer, and what is read off each."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ... import own
from ...factory import NORMS
from ..config import RunConfig, grid
from ..errors import UsageError, unknown
from ..runs.experiments import find
from ..runs.store import Run, Store, measured_on
from ..runs.training import check, try_sizes
from ..runs.variants import renorm_schedule
from ..stats import best
from ..verdicts.measures import LATE, basins, value, window
from ..verdicts.tables import table

SEARCH = "rates"  # the workload whose runs the learning rates are chosen from


@dataclass(frozen=True)
class Workload:
    """One study of the battery.

    Attributes:
        name: of its rows.
        title, asks: what is varied, and the question, for readers.
        metric: a measure of a run (:mod:`normcore.lab.verdicts.measures`); ``decades`` is of all its rates.
        part: the part of the run that the measure is of.
        lower: whether less is better.
        least: the smallest difference of interest.
        unit: of the measure, as at an axis.
    """

    name: str
    title: str
    asks: str
    metric: str = "test_accuracy"
    part: tuple[float, float] = LATE
    lower: bool = False
    least: float = 0.005
    unit: str = "share of images right"


# Every normalizer stands in the same places, and not all can stand behind a linear layer.
BARE = {"linear_norm": False}
# What takes no statistics needs values of the right size: see tasks.text.Transformer.
TEXT_OPTIONS: dict[str, dict[str, Any]] = {"transformer": {"embedding_scale": True}}
LONG = "long"  # whose runs are also looked at after their first tenth
#: network -> its title, and what it is
TEXTS = {"transformer": ("transformer", "a small pre-norm transformer, which gives the layer single tokens"),
         "lstm": ("LSTM", "an LSTM, which gives the layer a batch at each step")}  # fmt: skip


def pinned(names: Iterable[str]) -> list[str]:
    """Names of normalizers, those of one's own with the hash of their source."""
    return [own.pin(name) if own.is_own(name) else name for name in names]


def workloads(
    batch_size: int, batch_sizes: Sequence[int], one_class: float, outliers: float, rates: Sequence[float]
) -> list[Workload]:
    """The studies, in the order in which they are shown."""
    right, size = "How many images does it get right", f"with batches of {batch_size}"
    studies = [
        Workload("short", "Few steps", f"{right} over the first tenth of the steps, {size}?", part=(0, 0.1)),
        Workload(LONG, "Many steps", f"{right} towards the end, {size}?"),
    ]
    for small in batch_sizes:
        studies.append(Workload(f"batch-{small}", f"Batches of {small}", f"{right} with {small} images a batch?"))
    sorted_batches = f"{right} where {one_class:.0%} of each training batch is of one class?"
    studies.append(Workload("one-class", "Sorted batches", sorted_batches))
    spoiled = f"{right} where {outliers:.0%} of the training images have ten times their contrast?"
    studies.append(Workload("outliers", "Outliers", spoiled))
    asks = f"Over how many decades of the rates from {min(rates):g} to {max(rates):g} does it train?"
    unit = "decades of learning rates"
    studies.append(Workload(SEARCH, "Learning rates", asks, "decades", (0, 1), least=0.25, unit=unit))
    for name, (title, what) in TEXTS.items():
        asks = f"How well does it predict the next character, in {what}?"
        unit = "loss in nats a character"
        studies.append(Workload(name, f"Text, {title}", asks, "test_loss", lower=True, least=0.02, unit=unit))
    return studies


class Battery:
    """The runs of a comparison, and what they give.

    Args:
        norms: names, and layers of one's own, pinned.
        options: normalizer -> the layer's options.
        images: fields of a run on images: ``dataset``, ``image_size``, ``model``, ``batch_size``, ``validation``.
        steps, search_steps: of a run on images, and of one that a rate is tried with.
        rates: of Adam, tried on images; each normalizer then runs at its best, and with smaller batches at that times
            the square root of the batch sizes' ratio (Malladi et al. 2022).
        trained: share of right answers from which a rate counts as one that trains.
        batch_sizes: beside the one of ``images``.
        one_class, outliers: shares, of the two studies of spoiled batches.
        text: fields of a run on text: ``dataset``, ``batch_size``, and a task option, ``length``.
        text_steps, text_search_steps: of a run on text, and of one that a rate is tried with.
        text_rates: of Adam, tried on text with one seed.
        seeds: how many.

    Attributes:
        workloads: what is studied.
        refused: (workload, normalizer) -> why there are no such runs.
    """

    def __init__(
        self,
        norms: Iterable[str],
        *,
        options: Mapping[str, Mapping[str, Any]],
        images: Mapping[str, Any],
        steps: int,
        search_steps: int,
        rates: Sequence[float],
        trained: float,
        batch_sizes: Sequence[int],
        one_class: float,
        outliers: float,
        text: Mapping[str, Any],
        text_steps: int,
        text_search_steps: int,
        text_rates: Sequence[float],
        seeds: int,
    ) -> None:
        self.norms = list(dict.fromkeys(norms))
        for norm in self.norms:
            if norm not in NORMS and not own.is_own(norm):
                raise unknown("norm", norm, NORMS)
        self.options, self.images, self.steps, self.rates, self.trained = options, dict(images), steps, rates, trained
        self.search_steps = search_steps
        self.batch_sizes, self.one_class, self.outliers, self.seeds = batch_sizes, one_class, outliers, seeds
        self.text, self.text_rates = dict(text), text_rates
        self.text_steps, self.text_search_steps = text_steps, text_search_steps
        self.workloads = workloads(self.images["batch_size"], batch_sizes, one_class, outliers, rates)
        self.refused: dict[tuple[str, str], str] = {}
        self.runs: dict[tuple[str, str], list[RunConfig]] = {}  # of a workload and a normalizer

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> "Battery":
        """The battery of these parameters of the notebook: the known normalizers, with which all are compared, then the
        new ones."""
        options = {pinned([name])[0]: given for name, given in parameters["options"].items()}
        named = ("steps", "search_steps", "rates", "trained", "batch_sizes", "one_class", "outliers", "text_steps",
                 "text_search_steps", "text_rates", "seeds")  # fmt: skip
        images = {name: parameters[name] for name in ("dataset", "image_size", "batch_size", "validation")}
        text = {"dataset": parameters["text"], **{n: parameters[f"text_{n}"] for n in ("batch_size", "length")}}
        return cls(
            pinned([*parameters["against"], *parameters["norms"]]), options=options,
            images={"model": "lenet5", **images}, text=text, **{name: parameters[name] for name in named},
        )  # fmt: skip

    # --- what is run -------------------------------------------------------------------------------------

    def search(self) -> list[RunConfig]:
        """The runs that learning rates are chosen from: on images all seeds, judged on images held out of the training
        set; on text one seed."""
        for norm in self.norms:
            self._add(SEARCH, **self._on_images(norm, self.search_steps), lr=list(self.rates), seed=range(self.seeds))
            for model in TEXTS:
                self._add(f"{model}-rates", **self._on_text(norm, model, self.text_search_steps),
                          lr=list(self.text_rates), seed=0, validation=self.text["batch_size"])  # fmt: skip
        return self._all(SEARCH, *(f"{model}-rates" for model in TEXTS))

    def comparison(self, found: Sequence[Run]) -> list[RunConfig]:
        """The runs that are compared, each normalizer at its own rate.

        Args:
            found: those of the search.
        """
        rows = table(found)
        for norm in self.norms:
            rate = self._best(rows, SEARCH, norm, "validation_accuracy")
            if rate is not None:
                common = {**self._on_images(norm, self.steps), "validation": 0, "seed": range(self.seeds)}
                size = common["batch_size"]
                self._add(LONG, **common, lr=rate)
                for small in self.batch_sizes:
                    scaled = float(f"{rate * math.sqrt(small / size):.3g}")
                    self._add(f"batch-{small}", **{**common, "batch_size": small}, lr=scaled)
                self._add("one-class", **common, lr=rate, task_options={"one_class": self.one_class})
                self._add("outliers", **common, lr=rate, outliers=self.outliers)
            for model in TEXTS:
                rate = self._best(rows, f"{model}-rates", norm, "validation_loss")
                if rate is not None:
                    self._add(model, **self._on_text(norm, model, self.text_steps), lr=rate, seed=range(self.seeds))
        return self._all(*(w.name for w in self.workloads if w.name != SEARCH))

    def _on_images(self, norm: str, steps: int) -> dict[str, Any]:
        return {**self.images, "steps": steps, **_points(steps), "model_options": BARE, **self._norm(norm, steps)}

    def _on_text(self, norm: str, model: str, steps: int) -> dict[str, Any]:
        return {
            "task": "text", "dataset": self.text["dataset"], "task_options": {"length": self.text["length"]},
            "model": model, "model_options": TEXT_OPTIONS.get(model, {}), "batch_size": self.text["batch_size"],
            "steps": steps, **_points(steps), **self._norm(norm, steps),
        }  # fmt: skip

    def _norm(self, norm: str, steps: int) -> dict[str, Any]:
        options = dict(self.options.get(norm, {"schedule": renorm_schedule(steps)} if norm == "brn" else {}))
        return {"norm": norm, **({"norm_options": options} if options else {})}

    def _add(self, workload: str, **fields: Any) -> None:
        configs, norm = list(grid(**fields)), fields["norm"]
        try:
            check(configs[0])
            try_sizes(configs[0])
        except UsageError as error:
            self.refused[workload, norm] = str(error)
        else:
            self.runs[workload, norm] = configs

    def _best(self, rows: pd.DataFrame, workload: str, norm: str, metric: str) -> float | None:
        """The rate with the best mean metric over seeds; None where there are no runs, or all diverged."""
        keys = [config.key for config in self.runs.get((workload, norm), [])]
        tried = rows[rows["key"].isin(keys)]
        if tried.empty:
            return None
        try:
            chosen = best(
                tried.assign(score=-tried[metric] if metric.endswith("loss") else tried[metric]), "score", ["lr"]
            )
        except UsageError as error:
            self.refused[workload.removesuffix("-rates"), norm] = str(error)
            return None
        return float(str(chosen[norm]["lr"]))

    def _all(self, *names: str) -> list[RunConfig]:
        return [config for (workload, _), configs in self.runs.items() if workload in names for config in configs]

    def cannot(self, norm: str) -> set[str]:
        """The workloads in which a normalizer cannot stand, or has no rate that trains."""
        refused = {workload.removesuffix("-rates") for workload, name in self.refused if name == norm}
        on_images = {w.name for w in self.workloads if w.name not in TEXTS}
        return refused | (on_images if SEARCH in refused else set())

    def complete(self, scores: pd.DataFrame) -> list[str]:
        """The normalizers that have been run in every workload in which they can stand."""
        run = scores.groupby("norm")["workload"].agg(set).to_dict()
        names = {workload.name for workload in self.workloads}
        return [norm for norm in self.norms if names <= run.get(norm, set()) | self.cannot(norm)]

    # --- what it gives -----------------------------------------------------------------------------------

    def scores(self, found: Iterable[Run]) -> pd.DataFrame:
        """One row a workload, a normalizer and a seed: ``value``, the workload's measure, and ``status``. Of a run that
        diverged the value is missing."""
        known = {run.key: run for run in found}
        rows: list[dict[str, Any]] = []
        for workload in self.workloads:
            source = LONG if workload.name == "short" else workload.name
            for norm in self.norms:
                runs = [known[c.key] for c in self.runs.get((source, norm), []) if c.key in known]
                rows += self._decades(norm, runs) if workload.metric == "decades" else _values(workload, norm, runs)
        columns = ["workload", "norm", "seed", "value", "status"]
        return pd.DataFrame(rows, columns=columns)

    def _decades(self, norm: str, runs: Sequence[Run]) -> list[dict[str, Any]]:
        if not runs:
            return []
        rows = table(runs)
        stretches = basins(rows.assign(wrong=1 - rows["validation_accuracy"]), "wrong", 1 - self.trained, by="norm")
        return [
            {"workload": SEARCH, "norm": norm, "seed": row["seed"], "value": row["decades"], "status": "finished"}
            for row in stretches.to_dict("records")
        ]


@dataclass(frozen=True)
class Comparison:
    """What a profile of the comparison has so far.

    Attributes:
        profile: its name.
        battery: with the runs that it consists of.
        runs: those of the comparison that are there.
        scores: see :meth:`Battery.scores`.
    """

    profile: str
    battery: Battery
    runs: Sequence[Run]
    scores: pd.DataFrame

    @property
    def measured(self) -> pd.DataFrame:
        """The scores that are numbers: of a run that diverged there is none."""
        return self.scores.dropna(subset=["value"])

    @property
    def note(self) -> str:
        """What it rests on, in words."""
        return f"Profile `{self.profile}`, {measured_on(self.runs)}."

    @classmethod
    def shown(cls) -> "Comparison":
        """Of the profile that the book shows; without scores where its search is not complete."""
        experiment = find("compare")
        profile, runs = experiment.published_runs()
        battery, search = Battery.of(experiment.profile(profile)), Store(experiment.name).runs(profile, "search")
        if len(search) < len(battery.search()):
            search = runs = []
        else:
            battery.comparison(search)
        return cls(profile, battery, runs, battery.scores([*search, *runs]))


def _points(steps: int) -> dict[str, int]:
    """Ten evaluations, and forty points of the training curve."""
    return {"eval_every": max(1, steps // 10), "log_every": max(1, steps // 40)}


def _values(workload: Workload, norm: str, runs: Sequence[Run]) -> list[dict[str, Any]]:
    rows = []
    for run in runs:
        measured = value(run, workload.metric, window(run, of_run=workload.part))
        diverged = run.status != "finished" and workload.part[1] == 1
        rows.append({
            "workload": workload.name, "norm": norm, "seed": run.config.seed,
            "value": math.nan if measured is None or diverged else measured, "status": run.status,
        })  # fmt: skip
    return rows
