"""The ledger: every statement is there, and verdicts follow from results."""

import functools
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest

from normcore.lab.compare import Battery
from normcore.lab.config import AVERAGE_PRECISIONS, GENERATED, OWN, RESTORED, RESTYLED, RunConfig
from normcore.lab.errors import LabError, UsageError
from normcore.lab.probes.attacks import ATTACKS, BUDGETS
from normcore.lab.runs.experiments import Experiment, find
from normcore.lab.runs.store import Run, Store
from normcore.lab.runs.study import listed
from normcore.lab.tasks import datasets
from normcore.lab.verdicts import claims
from normcore.lab.verdicts.claims import IMPLEMENTED, NOT_MEASURED, NOT_TESTABLE
from normcore.lab.verdicts.predicates import INCONCLUSIVE, MIXED, REFUTED, SUPPORTED, unmet

from ..helpers import made_up, pair, run_of, steady

COUNTS = {"S0": 26, "S1": 16, "S2": 14, "S3": 12, "S4": 8}
JUDGED = (SUPPORTED, REFUTED, MIXED, INCONCLUSIVE)
ENOUGH = [-0.2, -0.3, -0.25, -0.2, -0.3]  # five seeds that support entry() below


def test_every_statement_of_the_five_documents_is_in_the_ledger() -> None:
    found = claims.read()
    expected = [f"{source}-{n:02d}" for source, number in COUNTS.items() for n in range(1, number + 1)]
    assert [entry["id"] for entry in found["claims"]] == expected
    assert set(found["sources"]) == set(COUNTS)
    for entry in found["claims"]:
        assert entry["kind"] in claims.KINDS
        assert entry["statement"].strip().endswith((".", "?"))
        assert "verdict" not in entry, "nobody writes a verdict by hand"


def test_every_cited_source_is_in_the_references() -> None:
    references = (Path(__file__).parents[3] / "book" / "references.bib").read_text()
    keys = set(re.findall(r"@\w+\{([\w-]+),", references))
    assert {about["cite"] for about in claims.read()["sources"].values()} <= keys


def entry(**more: Any) -> dict[str, Any]:
    part = {"predicate": "lower", "says": "lower", "metric": "train_loss", "a": "bn", "b": "none"}
    return {"id": "S9-01", "kind": "ord", "statement": "It is.", "parts": [part], **more}


def test_what_has_no_results_is_not_measured() -> None:
    assert claims._judge({**entry(), "parts": []}, [], "").verdict == NOT_MEASURED
    assert claims._judge(entry(), [], "").verdict == NOT_MEASURED
    assert claims._judge(entry(reason="it needs ImageNet"), [], "").verdict == NOT_TESTABLE


def test_runs_on_other_data_judge_nothing() -> None:
    runs = pair(ENOUGH)
    judged = claims._judge(entry(requires={"dataset": "fashion_mnist"}), runs, "smoke")
    assert judged.verdict == NOT_MEASURED
    assert "digits" in judged.reason
    assert claims._judge(entry(requires={"dataset": "digits"}), runs, "smoke").verdict == SUPPORTED


def test_runs_without_a_variant_judge_nothing() -> None:
    judged = claims._judge(entry(), pair(ENOUGH)[:5], "smoke")
    assert (judged.verdict, judged.reason) == (NOT_MEASURED, "these runs lack BN")


def test_a_wrong_entry_is_named() -> None:
    wrong = entry(parts=[{"predicate": "lowr", "says": "x"}])
    with pytest.raises(UsageError, match="unknown predicate of S9-01 'lowr': did you mean lower"):
        claims._judge(wrong, pair([0.1]), "")
    with pytest.raises(LabError, match="statement S9-01, lower"):
        claims._judge(entry(parts=[{"predicate": "lower", "says": "x"}]), pair([0.1]), "")
    with pytest.raises(UsageError, match="unknown statement 'S4-99'"):
        claims.judge("S4-99", [])


def test_a_judgement_can_be_shown_and_is_plain_json() -> None:
    judged = claims._judge(entry(), pair(ENOUGH), "quick")
    assert "supported" in judged._repr_html_()
    assert judged.to_json()["parts"][0]["effect"]["mean"] == pytest.approx(-0.25)
    assert claims._judge(entry(), pair([-0.2]), "quick").to_json()["parts"][0]["effect"]["low"] is None


# --- every statement that the cats and dogs are to judge -------------------------------------------------

CATDOG = [entry for entry in claims.read()["claims"] if entry.get("experiment", "").startswith("catdog-")]


def imagined(wanted: RunConfig) -> Run:
    """A made-up result: a loss that falls below 0.3 and an accuracy that rises, with noise."""
    points = wanted.steps // wanted.eval_every
    t = np.linspace(0, 1, points)
    loss, accuracy, current = np.random.default_rng(int(wanted.key, 16)).normal(0, 0.01, (3, points))
    loss += 0.7 * np.exp(-2 * t)
    accuracy += 0.8 - 0.3 * np.exp(-3 * t)
    run = run_of(
        wanted, loss.tolist(), accuracy.tolist(), every=wanted.eval_every, train_accuracy=(accuracy + 0.1 * t).tolist(),
        batch_loss=(loss + 5 * current).tolist(),
    )  # fmt: skip
    run.curves["test"] |= {"accuracy_a": (accuracy + current).tolist(), "accuracy_b": (accuracy - current).tolist()}
    return run


@functools.cache
def runs_of(experiment: str, profile: str) -> list[Run]:
    """Made-up results of the runs that the notebook's own code asks for in this profile."""
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setenv("NORMCORE_RESULTS", folder)
        return [imagined(wanted) for wanted in listed(find(experiment), profile)["main"]]


@pytest.mark.parametrize("profile", ["quick", "half", "full"])
@pytest.mark.parametrize("claim", CATDOG, ids=lambda entry: entry["id"])
def test_an_experiment_has_all_that_its_statements_ask_for(claim: dict[str, Any], profile: str) -> None:
    """Every predicate finds its variants and their measures, wherever the runs are as the statement requires; what a
    verdict rests on has all of the profile's seeds."""
    runs, parameters = runs_of(claim["experiment"], profile), find(claim["experiment"]).profile(profile)
    judged = claims._judge(claim, runs, profile)
    if unmet(runs, claim["requires"]):
        assert (judged.parts, parameters["steps"]) == ((), 2000)
        return
    assert judged.verdict in JUDGED, judged.reason
    assert len(judged.parts) == len(claim["parts"])
    assert len(judged.also) == len(claim.get("also", []))
    for spec, part in zip(claim["parts"], judged.parts, strict=True):
        if "requires" in spec and unmet(runs, spec["requires"]):
            assert part.seeds is None
            continue
        for leaf in part.leaves():
            assert leaf.seeds == parameters["seeds"], leaf
            assert math.isfinite(leaf.effect.mean)
    assert all(math.isfinite(part.effect.mean) for part in judged.also)


# --- every statement that the study of the promises is to judge ------------------------------------------

PROMISES = ("feature-distributions", "large-rates", "alexnet-cifar100", "outliers", "position")
PROMISED = [entry for entry in claims.read()["claims"] if entry.get("experiment") in PROMISES]


def imagined_probes(wanted: RunConfig) -> dict[str, dict[str, list[Any]]]:
    """Made-up rows of every probe that a run asks for."""
    random = np.random.default_rng(int(wanted.key, 16))
    labels: dict[str, list[dict[str, Any]]] = {
        "distributions": [{"layer": n} for n in (1, 2, 3, 4)],
        "shift": [{"layer": n} for n in (2, 3, 4, 5, 6)],
        "smoothness": [{}],
        "training_set": [{}],
        "outliers": [{"kind": k, "mode": m} for k in ("scaled", "noise", "foreign") for m in ("train", "eval", "step")],
    }
    columns = {
        "distributions": ("wasserstein", "apart", "mean", "std", "skew", "kurtosis"),
        "shift": ("gradient", "input"), "smoothness": ("loss_range", "gradient_change", "beta"),
        "outliers": ("output", "gradient", "update"), "training_set": ("loss", "accuracy"),
    }  # fmt: skip
    return {
        name: pd.DataFrame([
            {"step": step, **label, **dict.fromkeys(columns[name], random.lognormal())}
            for step in sorted({*range(0, wanted.steps, every), wanted.steps})
            for label in labels[name]
        ]).to_dict("list")
        for name, every in wanted.probes.items()
    }  # fmt: skip


def lasting(provenance: dict[str, Any], wanted: RunConfig) -> dict[str, Any]:
    """The provenance of a run whose epoch is as long as it would be."""
    items = datasets.items(wanted.dataset, wanted.image_size)["train"] - wanted.validation
    return {**provenance, "steps_per_epoch": items // wanted.batch_size}


@functools.cache
def runs_of_promises(experiment: str, profile: str) -> list[Run]:
    """Made-up results of the runs that the notebook's own code asks for, search and all, with five seeds."""
    cells = nbformat.read(find(experiment).notebook, as_version=4).cells
    code = [c.source for c in cells if c.cell_type == "code" and not c.metadata.get("tags")]
    names: dict[str, Any] = {**find(experiment).profile(profile), "seeds": 5}

    def run(wanted: RunConfig) -> Run:
        found = replace(imagined(replace(wanted, eval_every=-(-wanted.steps // 20))), config=wanted)
        held = {"test": wanted.evaluated_on}
        curves = {held.get(split, split): points for split, points in found.curves.items()}
        final = {name.replace("test", wanted.evaluated_on): value for name, value in found.final.items()}
        return replace(
            found,
            curves=curves,
            final=final,
            probes=imagined_probes(wanted),
            provenance=lasting(found.provenance, wanted),
        )

    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setenv("NORMCORE_RESULTS", folder)
        patch.setattr("normcore.lab.runs.study.sweep", lambda configs, *_, **__: [run(c) for c in configs])
        for cell in code:
            exec(cell, names)
    return list(names["runs"])


@pytest.mark.parametrize("profile", ["quick", "full"])
@pytest.mark.parametrize("claim", PROMISED, ids=lambda entry: entry["id"])
def test_the_promises_have_all_that_their_statements_ask_for(claim: dict[str, Any], profile: str) -> None:
    """Every predicate finds its variants and their measures; what needs the source's whole protocol is left open."""
    judged = claims._judge(claim, runs_of_promises(claim["experiment"], profile), profile)
    assert judged.verdict in JUDGED, judged.reason
    assert len(judged.parts) == len(claim["parts"])
    assert len(judged.also) == len(claim.get("also", []))
    for spec, part in zip(claim["parts"], judged.parts, strict=True):
        if profile == "quick" and "requires" in spec:
            assert part.verdict == INCONCLUSIVE
            assert part.seeds is None
            assert "the statement is about" in part.found
        else:
            assert part.seeds == 5, part
            for leaf in part.leaves():
                ends = (
                    leaf.effect[:3] if spec.get("predicate") != "interacts" else leaf.effect[:1]
                )  # an F test has none
                assert np.isfinite(ends).all()


# --- what a study of the promises can find ---------------------------------------------------------------

#: what a run is made up to find: values of `accuracy`, `loss`, its `jitter`, and rows of its probes
Found = dict[str, Any]


def told(
    wanted: RunConfig, *, accuracy: float = 0.8, wobble: float = 0.0, loss: float = 0.5, jitter: float = 0.01,
    **probes: Any,
) -> Run:  # fmt: skip
    """A made-up result that stands where it is put, but for a seed's noise, with an accuracy that goes up and down by
    ``wobble``; an epoch is as long as it would be."""
    noise = np.random.default_rng(int(wanted.key, 16)).normal(0, 1e-3, 3)
    points = np.arange(wanted.steps // wanted.log_every or 1)  # a run of no steps is evaluated once
    losses = (loss + jitter * (1 + noise[0]) * (-1.0) ** points) * (1 + noise[1])
    accuracies = accuracy + noise[2] + wobble * (1 + noise[0]) * (-1.0) ** points
    run = run_of(wanted, losses.tolist(), accuracies.tolist(),
                 every=wanted.log_every if wanted.steps else 0)  # fmt: skip
    held = {"test": wanted.evaluated_on}
    curve = run.curves["test"]
    scores: dict[str, dict[str, list[float]]] = {
        "detection": dict.fromkeys(AVERAGE_PRECISIONS, curve["accuracy"]),
        "style": dict.fromkeys(("loss", *RESTYLED), curve["loss"]),
        "adversarial": dict.fromkeys(GENERATED, curve["loss"]),
        "super_resolution": {"loss": curve["loss"], **{name: [-x for x in curve["loss"]] for name in RESTORED}},
    }
    if own := scores.get(wanted.task):
        run.curves["test"] = {"step": curve["step"], **own}
        run.final.update({f"test_{name}": values[-1] for name, values in own.items()})
    if not wanted.steps:
        run.curves["train"] = {name: [] for name in run.curves["train"]}

    def noisy(value: Any) -> Any:
        return value if isinstance(value, str) else value * (1 + noise[0])

    return replace(
        run,
        curves={held.get(split, split): curve for split, curve in run.curves.items()},
        final={name.replace("test", wanted.evaluated_on): value for name, value in run.final.items()},
        provenance=lasting(run.provenance, wanted),
        probes={
            name: {"step": [wanted.steps] * len(rows), **pd.DataFrame(rows).map(noisy).to_dict("list")}
            for name, rows in probes.items()
        },
    )


def judged_by(
    claim: str, find_: Callable[[RunConfig], Found], patch: pytest.MonkeyPatch, **changes: Any
) -> claims.Judged:
    """The statement, judged by a study whose runs, those of the search too, find this: the notebook's own code, in
    the profile ``quick`` with these changes."""
    entry_ = claims._entry(claim)
    experiment = find(entry_["experiment"])
    store = Store(experiment.name)

    def sweep(configs: list[RunConfig], *_: Any, **__: Any) -> list[Run]:
        runs = [told(wanted, **find_(wanted)) for wanted in configs]
        for run in runs:
            store.put(run)
        return runs

    patch.setattr("normcore.lab.runs.study.sweep", sweep)
    cells = nbformat.read(experiment.notebook, as_version=4).cells
    code = [c.source for c in cells if c.cell_type == "code" and not c.metadata.get("tags")]
    names: dict[str, Any] = {**experiment.profile("quick"), **changes}
    for cell in code[: 1 + next(i for i, cell in enumerate(code) if "\nruns = study.run" in cell)]:
        exec(cell, names)
    return claims._judge(entry_, names["runs"], names["study"].profile)


def tuned(wanted: RunConfig, accuracy: float, best: float) -> float:
    """An accuracy that is lower the farther the rate is from the best."""
    return accuracy - 0.1 * abs(math.log10(wanted.lr / best))


def placed(gain: Callable[[RunConfig], float], best: float = 0.002) -> Callable[[RunConfig], Found]:
    """Of `position`: what BN gains over no normalizer."""
    return lambda wanted: {"accuracy": tuned(wanted, 0.8 + (gain(wanted) if wanted.norm == "bn" else 0), best)}


def with_sigmoid(wanted: RunConfig) -> bool:
    return bool(wanted.model_options["activation"] == "sigmoid")


def before(wanted: RunConfig) -> bool:
    return bool(wanted.model_options["norm_first"])


def learnt(test: Callable[[bool, bool], float], train: Callable[[bool, bool], float]) -> Callable[[RunConfig], Found]:
    """Of `alexnet-cifar100`: accuracies, of whether there are BN and dropout."""

    def found(wanted: RunConfig) -> Found:
        has = wanted.norm == "bn", bool(wanted.model_options["dropout"])
        return {"accuracy": tuned(wanted, test(*has), 0.001), "training_set": [{"accuracy": train(*has)}]}

    return found


def source_says(bn: bool, dropout: bool) -> float:
    return 0.58 if bn and not dropout else 0.5 if bn else 0.40


def disturbed(bn: Callable[[str], float], best: float = 0.002) -> Callable[[RunConfig], Found]:
    """Of `outliers`: how much more a step on each kind of outlier changes a network with BN than one without."""

    def found(wanted: RunConfig) -> Found:
        rows = [
            {"kind": kind, "mode": mode, **dict.fromkeys(("output", "gradient", "update"), 0.1 * factor)}
            for kind in ("scaled", "noise", "foreign")
            for mode, factor in (("train", 1), ("eval", 1), ("step", bn(kind) if wanted.norm == "bn" else 1))
        ]
        return {"accuracy": tuned(wanted, 0.8, best), "outliers": rows}

    return found


Losses = dict[tuple[str, float], float]


def settled(losses: Losses, jitters: Losses, *, plain: Losses | None = None) -> Callable[[RunConfig], Found]:
    """Of `large-rates`: where the loss ends and how it jitters, by normalizer and rate; other losses without momentum.
    The basins, of 300 steps, say the opposite."""

    def found(wanted: RunConfig) -> Found:
        at = wanted.norm, wanted.lr
        if wanted.steps == 300:
            return {"loss": 2.25 if wanted.norm == "bn" else 0.3}
        own = losses if plain is None or wanted.optimizer_options["momentum"] else plain
        return {"loss": own.get(at, 0.3), "jitter": jitters.get(at, 0.01)}

    return found


STUCK, WELL = {("none", 0.5): 2.29}, {("none", 0.5): 0.5}
RESTLESS, STEADY = {("bn", 0.5): 0.04}, {("bn", 0.1): 0.04}

#: statement, what is found, the verdict
STUDIES: list[tuple[str, Callable[[RunConfig], Found], str]] = [
    ("S3-01", placed(lambda run: 0.04 if before(run) else 0.02), SUPPORTED),
    ("S3-01", placed(lambda run: 0.02 if before(run) else 0.04), REFUTED),
    ("S3-01", placed(lambda run: 0.04 if before(run) != with_sigmoid(run) else 0.02), MIXED),
    ("S3-01", placed(lambda run: 0.02), INCONCLUSIVE),
    ("S3-07", placed(lambda run: 0.04 if with_sigmoid(run) else 0.02), SUPPORTED),
    ("S3-07", placed(lambda run: -0.04 if with_sigmoid(run) else 0.02), SUPPORTED),
    ("S3-07", placed(lambda run: 0.02), REFUTED),
    ("S4-05", settled(STUCK, {}, plain=STUCK), INCONCLUSIVE),  # no steadier, and no less steady
    ("S4-05", settled(STUCK, STEADY), SUPPORTED),
    ("S4-05", settled(STUCK, {("none", 0.5): 0.04}), SUPPORTED),
    ("S4-05", settled(STUCK, STEADY, plain=WELL), SUPPORTED),  # with one of the optimizers
    ("S4-05", settled(STUCK, RESTLESS), MIXED),
    ("S4-05", settled(WELL, RESTLESS), MIXED),
    ("S4-05", settled({**WELL, ("bn", 0.5): 0.6}, RESTLESS), REFUTED),
    ("S4-06", learnt(source_says, lambda bn, _: 0.999 if bn else 0.973), INCONCLUSIVE),  # its numbers take 100 epochs
    ("S4-06", learnt(lambda bn, dropout: 0.35 - 0.05 * bn, lambda bn, _: 0.4 - 0.1 * bn), REFUTED),
    ("S4-06", learnt(lambda _, dropout: 0.35 - 0.1 * dropout, lambda bn, _: 0.4 + 0.1 * bn), INCONCLUSIVE),  # a tie
    ("S4-06", learnt(lambda bn, dropout: 0.35 - 0.1 * dropout - 0.02 * bn, lambda bn, _: 0.4 + 0.1 * bn), MIXED),
    ("S4-07", disturbed(lambda kind: 0.5), SUPPORTED),
    ("S4-07", disturbed(lambda kind: 2.0), REFUTED),
    ("S4-07", disturbed(lambda kind: 5.0 if kind == "scaled" else 0.5), SUPPORTED),
    ("S4-07", disturbed(lambda kind: 1.0), INCONCLUSIVE),
]


@pytest.mark.parametrize(("claim", "found", "verdict"), STUDIES)
def test_a_promise_can_be_kept_and_can_be_broken(
    claim: str, found: Callable[[RunConfig], Found], verdict: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert judged_by(claim, found, monkeypatch).verdict == verdict


@pytest.mark.parametrize(
    ("claim", "found"), {claim: found for claim, found, verdict in reversed(STUDIES) if verdict == SUPPORTED}.items()
)
def test_runs_of_fewer_than_five_epochs_are_too_short_for_a_promise(
    claim: str, found: Callable[[RunConfig], Found], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = judged_by(claim, found, monkeypatch, epochs=4)
    assert (judged.verdict, judged.cause) == (INCONCLUSIVE, "too short")


@pytest.mark.parametrize(("bn", "verdict"), [(0.999, SUPPORTED), (0.95, MIXED)])
def test_the_numbers_of_alexnet_are_judged_by_the_source_s_own_protocol(
    bn: float, verdict: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = learnt(source_says, lambda has_bn, _: bn if has_bn else 0.973)
    assert judged_by("S4-06", found, monkeypatch, epochs=100, width=1.0).verdict == verdict


@pytest.mark.parametrize("end", [0, -1])
@pytest.mark.parametrize(
    ("claim", "experiment", "found"),
    [
        ("S3-01", "position", lambda best: placed(lambda run: 0.04 if before(run) else 0.02, best)),
        ("S4-07", "outliers", lambda best: disturbed(lambda kind: 0.5, best)),
    ],
)
def test_no_verdict_is_taken_at_an_end_of_the_rates(
    claim: str,
    experiment: str,
    found: Callable[[float], Callable[[RunConfig], Found]],
    end: int,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    best = find(experiment).profile("quick")["rates"][end]
    judged = judged_by(claim, found(best), monkeypatch)
    assert (judged.verdict, judged.cause) == (INCONCLUSIVE, "grid end")


def test_every_statement_of_s4_names_what_judges_it() -> None:
    own = [entry for entry in claims.read()["claims"] if entry["id"].startswith("S4-")]
    assert all(entry.get("parts") and (entry.get("experiment") or entry.get("definition")) for entry in own)


def test_a_part_that_needs_more_than_the_runs_are_is_left_open() -> None:
    runs = pair(ENOUGH)
    (part,) = entry()["parts"]
    met, unmet = {**part, "requires": {"dataset": "digits"}}, {**part, "requires": {"steps": 7, "lr": 0.01}}
    assert claims._judge(entry(parts=[met]), runs, "smoke").verdict == SUPPORTED
    judged = claims._judge(entry(parts=[met, unmet]), runs, "smoke")
    assert [p.verdict for p in judged.parts] == [SUPPORTED, INCONCLUSIVE]
    assert judged.parts[1].found == f"these runs have steps {runs[0].config.steps}; the statement is about 7"
    assert judged.verdict == INCONCLUSIVE
    refuted = {**part, "predicate": "higher"}
    assert claims._judge(entry(parts=[refuted, unmet]), runs, "smoke").verdict == REFUTED
    assert judged.parts[1].cause == judged.cause == "too short"
    assert "nan" not in judged._repr_html_()


def benchmark(share: float) -> dict[str, Any]:
    """Three rounds of steps in which FNBL takes this share of FNBB's time."""
    slow = {"fnbb": [9.0, 10.0, 11.0] * 7, "fnbb as published": [30.0, 20.0, 25.0] * 7}
    fast = {"fnbl-code": slow["fnbb"], "fnbl as published": [share * ms for ms in slow["fnbb as published"]]}
    return {"measured": {name: {"rounds": rounds} for name, rounds in {**slow, **fast}.items()}}


def test_every_other_statement_on_cats_and_dogs_is_judged_without_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims.bench_steps, "read", lambda: benchmark(0.2))
    trained = {entry["id"] for entry in CATDOG}
    others = [e for e in claims.read()["claims"] if e["id"].startswith("S0-") and e["id"] not in trained]
    assert {e["id"]: claims.judge(e["id"]).verdict for e in others if claims.judge(e["id"]).verdict not in JUDGED} == {}


@pytest.mark.parametrize(("share", "verdict"), [(0.2, SUPPORTED), (0.5, REFUTED)])
def test_a_statement_on_speed_is_judged_by_its_benchmark(
    share: float, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the runs are, at whose end a notebook asks for it, and whatever is also measured."""
    monkeypatch.setattr(claims.bench_steps, "read", lambda: benchmark(share))
    judged = claims.judge("S0-17", pair(ENOUGH), "full")
    assert (judged.verdict, judged.profile, judged.benchmark) == (verdict, "", "steps")
    assert judged.parts[0].effect[:3] == pytest.approx((share,) * 3)
    assert judged.also[0].verdict == REFUTED  # of our layers, as fast as each other


def test_a_statement_on_speed_without_its_benchmark_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> dict[str, Any]:
        raise LabError("no steps-cpu.json yet")

    monkeypatch.setattr(claims.bench_steps, "read", nothing)
    judged = claims.judge("S0-17")
    assert (judged.verdict, judged.reason, judged.parts) == (NOT_MEASURED, "no steps-cpu.json yet", ())


def test_a_verdict_stands_without_the_runs_of_what_only_explains_it() -> None:
    beside = {"predicate": "lower", "says": "beside", "metric": "train_loss", "a": "gn", "b": "none"}
    judged = claims._judge(entry(also=[beside]), pair(ENOUGH), "quick")
    assert judged.verdict == SUPPORTED
    assert [(part.verdict, part.reason) for part in judged.also] == [(INCONCLUSIVE, "these runs lack GN")]


def test_a_variant_named_by_its_fields_can_be_lacking() -> None:
    part = {
        "predicate": "between", "says": "x", "metric": "train_loss", "low": 0,
        "variant": {"norm": "gn", "norm_options": {"num_groups": 4}},
    }  # fmt: skip
    judged = claims._judge(entry(parts=[part]), pair(ENOUGH), "smoke")
    assert (judged.verdict, judged.reason) == (NOT_MEASURED, "these runs lack GN, num groups 4")


def test_a_variant_that_is_not_narrowed_down_names_its_entry() -> None:
    with pytest.raises(LabError, match=r"statement S9-01, lower: train_loss: several runs a seed; narrow"):
        claims._judge(entry(), pair(ENOUGH) + pair(ENOUGH, batch_size=16), "smoke")


# --- profiles --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "has"), [([-0.2], "one seed"), ([-0.2, -0.3], "2 seeds")])
def test_too_few_seeds_give_way_to_a_smaller_profile_that_has_enough(first: list[float], has: str) -> None:
    judged = claims._judge_by(entry(), [("half", pair(first)), ("quick", pair(ENOUGH))])
    assert (judged.verdict, judged.profile) == (SUPPORTED, "quick")
    assert judged.reason == (
        f"profile half has {has} to judge it by, too few for a verdict; profile quick judges in its place"
    )
    assert judged.parts == claims._judge(entry(), pair(ENOUGH), "quick").parts


def test_the_best_of_the_smaller_profiles_judges() -> None:
    smaller = [("half", pair([-0.2, -0.3])), ("quick", pair(ENOUGH)), ("smoke", pair([-d for d in ENOUGH]))]
    judged = claims._judge_by(entry(), [("full", pair([-0.2])), *smaller])
    assert (judged.verdict, judged.profile) == (SUPPORTED, "quick")
    assert judged.reason.startswith("profile full has one seed to judge it by")


@pytest.mark.parametrize(
    ("smaller", "why"),
    [
        ([], "there is none"),
        ([("quick", pair([-0.2, -0.3]))], "it has too few seeds itself"),
        ([("quick", pair(ENOUGH, lr=0.5))], "it is not what the statement is about"),
        ([("quick", pair(ENOUGH)[:5])], "it lacks a variant"),
    ],
)
def test_too_few_seeds_are_shown_where_no_smaller_profile_can_judge(
    smaller: list[tuple[str, list[Run]]], why: str
) -> None:
    judged = claims._judge_by(entry(requires={"lr": 0.01}), [("half", pair([-0.2])), *smaller])
    assert (judged.verdict, judged.profile) == (INCONCLUSIVE, "half"), why
    assert judged.reason == "profile half has one seed to judge it by, too few for a verdict"
    assert judged.parts[0].seeds == 1


@pytest.mark.parametrize("differences", [ENOUGH, [-d for d in ENOUGH], [-0.2, 0.3, -0.1, 0.0, 0.1]])
def test_with_enough_seeds_the_better_profile_judges_whatever_it_finds(differences: list[float]) -> None:
    alone = claims._judge(entry(), pair(differences), "half")
    judged = claims._judge_by(entry(), [("half", pair(differences)), ("quick", pair(ENOUGH))])
    assert (judged.verdict, judged.profile, judged.parts) == (alone.verdict, "half", alone.parts)


@pytest.mark.parametrize("few", [[0.2], [0.2, -0.1, 0.3]])
def test_a_smaller_profile_that_is_contradicted_does_not_judge(few: list[float]) -> None:
    judged = claims._judge_by(entry(), [("half", pair(few)), ("quick", pair(ENOUGH))])
    assert (judged.verdict, judged.cause, judged.profile) == (INCONCLUSIVE, "contradicted", "half")
    assert "says the opposite: lower (-0.2500 there" in judged.reason
    assert judged.parts[0].needed is not None


def test_one_seed_needs_as_many_as_a_smaller_profile_s_variance_says() -> None:
    quiet = claims._judge_by(entry(), [("half", pair([-0.2])), ("quick", pair(ENOUGH))])
    assert quiet.profile == "quick"
    undecided = claims._judge_by(entry(), [("half", pair([0.3])), ("quick", pair(ENOUGH))])
    assert undecided.parts[0].needed == 5
    noisy = claims._judge_by(entry(), [("half", pair([0.1])), ("quick", pair([-0.9, -0.5, -0.7, -0.6, -0.8]))])
    assert (noisy.parts[0].needed or 0) > 20


# --- what an entry can require, and say of itself --------------------------------------------------------


@pytest.mark.parametrize(
    ("requires", "verdict", "cause"),
    [
        ({"epochs": ">= 0.2"}, SUPPORTED, ""),
        ({"epochs": ">= 5"}, INCONCLUSIVE, "too short"),
        ({"samples": ">= 1000000"}, INCONCLUSIVE, "too short"),
        ({"steps": 20}, SUPPORTED, ""),
        ({"interior": "lr"}, INCONCLUSIVE, "grid end"),  # nothing was searched
    ],
)
def test_an_entry_can_require_long_runs_and_a_search_whose_best_is_inside(
    requires: dict[str, Any], verdict: str, cause: str, store: Path
) -> None:
    judged = claims._judge(entry(requires=requires, experiment="fashion-lenet"), pair(ENOUGH), "quick")
    assert (judged.verdict, judged.cause) == (verdict, cause)
    assert bool(judged.reason) == (verdict == INCONCLUSIVE)


def test_longer_runs_judge_and_shorter_ones_beside_them_do_not() -> None:
    runs = [*pair(ENOUGH), *pair([-d for d in ENOUGH], steps=10)]
    assert claims._judge(entry(requires={"epochs": ">= 2"}), runs, "quick").verdict == SUPPORTED


def test_an_entry_of_our_own_code_has_no_verdict() -> None:
    part = {"predicate": "equals", "says": "x", "measure": "largest difference of outputs in training"}
    own = {**entry(parts=[part], kind="def", definition="bn_from_scratch"), "implemented": True}
    assert claims._judge(own, [], "").verdict == IMPLEMENTED
    wrong = {**own, "parts": [{**part, "predicate": "exceeds"}]}
    judged = claims._judge(wrong, [], "")
    assert (judged.verdict, judged.reason) == (INCONCLUSIVE, "our code does not do this")


def test_an_or_is_a_part_with_parts_of_its_own() -> None:
    (part,) = entry()["parts"]
    either = {"says": "one of two", "any": [part, {**part, "predicate": "higher", "says": "higher"}]}
    judged = claims._judge(entry(parts=[either]), pair(ENOUGH), "quick")
    assert judged.verdict == SUPPORTED
    assert [leaf.says for leaf in judged.leaves] == ["lower", "higher"]
    assert "or: higher" in judged._repr_html_()
    assert [p["says"] for p in judged.to_json()["parts"][0]["of"]] == ["lower", "higher"]


def test_plain_json_has_all_that_a_verdict_rests_on() -> None:
    record = claims._judge(entry(), pair([-0.2, 0.3, -0.1, 0.0, 0.1]), "quick").to_json()
    part = record["parts"][0]
    assert (record["verdict"], record["cause"], part["kind"], part["look"]) == (INCONCLUSIVE, "seeds", "interval", 5)
    assert record["seeds_needed"] == part["seeds_needed"]
    assert part["p"] < part["adjusted"] <= 1
    assert record["p"] == part["adjusted"]
    assert json.loads(json.dumps(record, allow_nan=False)) == json.loads(json.dumps(record))
    assert claims._judge(entry(), pair([-0.2, 0.3]), "quick").to_json()["parts"][0]["kind"] == "range"


def test_seeds_that_follow_judge_with_those_of_the_profile(store: Path) -> None:
    """In their order, as far as they go; a seed after a gap waits."""
    results, runs = Store("fashion-lenet"), pair(ENOUGH * 2)
    for run in runs:
        if run.config.seed != 7:
            results.put(run)
    found = claims.with_further_seeds(results, [run for run in runs if run.config.seed < 2])
    assert sorted((run.config.norm, run.config.seed) for run in found) == sorted(
        (norm, seed) for norm in ("bn", "none") for seed in range(7)
    )
    assert claims._judge(entry(), found, "quick").parts[0].look == 5


def test_what_the_best_profile_cannot_judge_stays_unjudged() -> None:
    judged = claims._judge_by(entry(), [("half", pair(ENOUGH)[:5]), ("quick", pair(ENOUGH))])
    assert (judged.verdict, judged.reason) == (NOT_MEASURED, "these runs lack BN")
    assert claims._judge_by(entry(), []).verdict == NOT_MEASURED


def mnist(difference: list[float]) -> list[Run]:
    """LeNet-5 with BN, whose loss is lower by this in each of five epochs, a seed each, and without."""
    levels = {"none": [1.0] * len(difference), "bn": [1 - d for d in difference]}
    return [
        made_up(norm, seed, [v] * 5, [0.5] * 5, dataset="fashion_mnist")
        for norm, values in levels.items()
        for seed, v in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("profile", "judge", "verdict"),
    [
        ("full", "quick", SUPPORTED),
        ("half", "quick", SUPPORTED),
        ("quick", "quick", INCONCLUSIVE),  # its own one seed: what is given is shown, not what is published
        ("custom", "custom", INCONCLUSIVE),  # is no profile, and above none
    ],
)
def test_a_notebook_s_runs_give_way_only_to_a_smaller_profile(
    profile: str, judge: str, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = [("full", mnist(ENOUGH)), ("quick", mnist([-d for d in ENOUGH]))]
    monkeypatch.setattr(claims, "find", lambda name: SimpleNamespace(complete=lambda: complete))
    judged = claims.judge("S4-03", mnist([0.1]), profile)
    assert (judged.profile, judged.verdict) == (judge, verdict)


def published(experiment: str, profile: str, runs: list[Run]) -> None:
    store = Store(experiment)
    for run in runs:
        store.put(run)
    store.index(profile, "main", [run.key for run in runs])


def test_complete_profiles_come_with_their_runs_the_best_first(store: Path, tmp_path: Path) -> None:
    experiment = Experiment("a-trial", tmp_path / "a_trial.ipynb")
    assert experiment.complete() == []
    assert experiment.published_runs() == ("smoke", [])
    many, few = pair(ENOUGH), pair(ENOUGH)[4:6]
    published("a-trial", "quick", many)
    published("a-trial", "full", few)
    Store("a-trial").index("half", "main", [made_up("gn", 0, [1.0], [0.5]).key])  # which is not there
    Store("a-trial").index("custom", "main", [many[0].key])  # is no profile
    assert experiment.complete() == [("full", few), ("quick", many)]
    assert experiment.published_runs() == ("full", few)


def test_the_ledger_is_judged_by_the_best_profile_that_has_enough_seeds(store: Path) -> None:
    published("fashion-lenet", "quick", mnist([-d for d in ENOUGH]))
    published("fashion-lenet", "full", [replace(r, config=replace(r.config, lr=0.02)) for r in mnist([0.1])])
    judged = {j.id: j for j in claims.judge_all()}
    assert (judged["S4-03"].verdict, judged["S4-03"].profile) == (SUPPORTED, "quick")
    assert judged["S4-03"].reason.startswith("profile full has one seed to judge it by")
    assert judged["S0-04"].verdict == NOT_MEASURED


# --- the newcomers ---------------------------------------------------------------------------------------


def newcomers_judged(lead: float) -> dict[str, str]:
    """The statements of the newcomers' papers, judged by runs in which a newcomer is better than a known one by so
    much, in accuracy and in loss, and Derf by as much again."""
    parameters = {**find("compare").profile("quick"), "rates": [0.001, 0.01, 0.1], "text_rates": [0.001, 0.01, 0.1]}
    battery = Battery.of(parameters)

    def accuracy(run: RunConfig) -> float:
        newcomer = lead * (":" in run.norm) * (2 if "Derf" in run.norm else 1)
        return 0.8 + newcomer + 0.001 * math.sin(run.seed + len(run.norm))

    shared = Store("compare")
    search = [steady(c, 0.8 - 0.1 * (c.lr != 0.01)) for c in battery.search()]
    for run in search:
        shared.put(run)
    shared.index("quick", "search", [run.key for run in search])
    runs = [steady(c, accuracy(c)) for c in battery.comparison(search)]
    entries = claims.read("newcomers")["claims"]
    return {entry["id"]: claims._judge(entry, runs, "quick").verdict for entry in entries}


def test_the_newcomers_statements_can_hold_and_fail(store: Path) -> None:
    ids = ["N1-01", "N1-02", "N2-01", "N3-01", "N4-01", "N5-01"]
    assert newcomers_judged(0.05) == dict.fromkeys(ids, SUPPORTED) | {"N1-02": REFUTED}
    assert newcomers_judged(-0.05) == dict.fromkeys(ids, REFUTED) | {"N1-02": SUPPORTED}


# --- what networks that are attacked can show ------------------------------------------------------------


def attacked(slope: float, lead: float) -> Callable[[RunConfig], Found]:
    """The later networks of the list are more accurate, and by ``slope`` more easily fooled; what is made on VGG-16
    fools the others by ``lead`` more."""
    order = ["lenet5", "alexnet", "vgg16", "resnet50"]

    def found(wanted: RunConfig) -> Found:
        place = 3 * order.index(wanted.model) + ["none", "bn", "gn"].index(wanted.norm)
        accuracy = 0.7 + 0.02 * place
        if wanted.steps:
            return {"accuracy": tuned(wanted, accuracy, 0.01)}
        own = [(OWN, attack, budget, 0.4 + slope * place) for attack in ATTACKS for budget in BUDGETS]
        others = [(name, "pgd", budget, 0.2 + lead * (name == "vgg16"))
                  for name in order if name != wanted.model for budget in BUDGETS[1:]]  # fmt: skip
        rows = [{"source": source, "attack": attack, "budget": str(budget), "accuracy": 0.5, "fooled": fooled}
                for source, attack, budget, fooled in own + others]  # fmt: skip
        return {"accuracy": accuracy, "adversarial": rows}

    return found


@pytest.mark.parametrize(
    ("slope", "lead", "verdict"),
    [(0.02, 0.1, SUPPORTED), (-0.02, -0.1, REFUTED), (0.02, -0.1, MIXED), (-0.02, 0.1, MIXED)],
)
def test_accurate_networks_can_be_robust_or_not(
    slope: float, lead: float, verdict: str, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    """By the runs that attack, among those that train what they attack."""
    judged = judged_by("S1-16", attacked(slope, lead), monkeypatch)
    assert judged.verdict == verdict, judged.reason
    assert all(part.seeds == 5 for part in (*judged.parts, *judged.also))


# --- what detectors can show, and parts of other experiments -----------------------------------------------


def detecting(rbn: float, gn: float = 0.0, frozen: float = 0.0) -> Callable[[RunConfig], Found]:
    """The average precision with each normalizer, beyond BN's."""

    def found(wanted: RunConfig) -> Found:
        more = {"rbn": rbn, "gn": gn, "bn": frozen * wanted.model_options.get("frozen", False)}[wanted.norm]
        return {"accuracy": tuned(wanted, 0.3 + more, 0.02)}

    return found


@pytest.mark.parametrize(("rbn", "verdict"), [(0.02, SUPPORTED), (-0.02, REFUTED), (0.0, INCONCLUSIVE)])
def test_a_detector_can_be_better_with_a_reference_batch_or_not(
    rbn: float, verdict: str, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    """By a BN that normalizes by its batch; the frozen one, better than both, is beside the verdict."""
    judged = judged_by("S1-10", detecting(rbn, frozen=0.1), monkeypatch)
    assert judged.verdict == verdict, judged.reason
    assert [part.verdict for part in judged.also] == [REFUTED, REFUTED]
    assert all(part.seeds == 5 for part in (*judged.parts, *judged.also))
    seeds = {run.config.seed: run.config.start for run in judged.parts[0].runs if run.config.norm == "rbn"}
    assert len(set(seeds.values())) == 5, "each seed has a backbone of its own"


@pytest.mark.parametrize(
    ("batch", "frozen", "verdicts"),
    [(0.02, 0.01, [SUPPORTED, SUPPORTED]), (0.02, 0.05, [SUPPORTED, REFUTED]), (-0.02, 0.0, [REFUTED, REFUTED])],
)
def test_detection_judges_its_part_of_a_statement_on_small_batches(
    batch: float, frozen: float, verdicts: list[str], monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    entry_ = claims._entry("S2-09")
    own = [spec for spec in entry_["parts"] if spec.get("experiment") == "detection"]
    open_ = [claims._part(entry_, spec, claims.PREDICATES, []) for spec in own]
    assert [part.reason for part in open_] == ["the experiment detection has no results yet"] * 2
    judged = judged_by("S1-10", detecting(0.0, gn=batch, frozen=frozen), monkeypatch)
    index = listed(find("detection"), "quick")
    for stage, configs in index.items():
        Store("detection").index("quick", stage, [config.key for config in configs])
    parts = [claims._part(entry_, spec, claims.PREDICATES, []) for spec in own]
    assert [part.verdict for part in parts] == verdicts
    assert {(part.experiment, part.profile, part.seeds) for part in parts} == {("detection", "quick", 5)}
    assert judged.experiments == {"detection": "quick"}


@pytest.mark.parametrize(("there", "verdict"), [(ENOUGH, SUPPORTED), ([-d for d in ENOUGH], MIXED), ([], INCONCLUSIVE)])
def test_a_part_can_be_judged_by_another_experiment(there: list[float], verdict: str, store: Path) -> None:
    if there:
        published("large-rates", "full", pair(there[:2], lr=0.02))  # too few seeds
        published("large-rates", "quick", pair(there))
    part = entry()["parts"][0]
    statement = entry(experiment="fashion-lenet", parts=[part, {**part, "says": "there", "experiment": "large-rates"}])
    judged = claims._judge(statement, pair(ENOUGH), "quick")
    assert judged.verdict == verdict, judged.reason
    elsewhere = "quick" if there else ""
    assert judged.experiments == {"fashion-lenet": "quick", "large-rates": elsewhere}
    assert judged.parts[1].to_json()["experiment"] == "large-rates"


@pytest.mark.parametrize(("requires", "cause"), [({"dataset": "mnist"}, "left open"), ({"interior": "lr"}, "grid end")])
def test_a_part_asks_of_another_experiment_what_it_requires(requires: dict[str, Any], cause: str, store: Path) -> None:
    published("large-rates", "quick", pair(ENOUGH))
    part = {**entry()["parts"][0], "experiment": "large-rates", "requires": requires}
    judged = claims._judge(entry(experiment="fashion-lenet", parts=[part]), pair(ENOUGH), "quick")
    assert (judged.verdict, judged.parts[0].cause) == (INCONCLUSIVE, cause)
    lacking = {**part, "a": "gn", "requires": {}}
    judged = claims._judge(entry(experiment="fashion-lenet", parts=[lacking]), pair(ENOUGH), "quick")
    assert judged.parts[0].reason == "the runs of large-rates lack GN"


@pytest.mark.parametrize("ratio", [3.0, 0.3])
def test_bn_can_jitter_more_than_others_or_less(ratio: float, monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    """What a step costs is the committed benchmark's: with BN more than without, and less than with GN and with LN."""

    def found(wanted: RunConfig) -> Found:
        return {"accuracy": tuned(wanted, 0.8, 0.001), "wobble": 0.01 * (ratio if wanted.norm == "bn" else 1)}

    judged = judged_by("S3-11", found, monkeypatch)
    assert judged.verdict == MIXED, judged.reason
    jitter, costs = judged.parts[:3], judged.parts[3:]
    assert {part.verdict for part in jitter} == {SUPPORTED if ratio > 1 else REFUTED}
    assert [part.verdict for part in costs] == [SUPPORTED, REFUTED, REFUTED]


@pytest.mark.parametrize(
    ("scaled", "augmented", "verdict"),
    [(0.03, 0.02, SUPPORTED), (-0.03, -0.02, REFUTED), (0.03, -0.02, MIXED), (0.0, 0.0, INCONCLUSIVE)],
)
def test_how_pixels_become_numbers_can_matter_or_not(
    scaled: float, augmented: float, verdict: str, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    def found(wanted: RunConfig) -> Found:
        options = wanted.task_options
        more = scaled * (options["scaling"] != "raw") + augmented * bool(options["augment"])
        return {"accuracy": tuned(wanted, 0.8 + more, 0.001)}

    judged = judged_by("S3-06", found, monkeypatch)
    assert judged.verdict == verdict, judged.reason
    assert all(part.seeds == 5 for part in (*judged.parts, *judged.also))


# --- what a recurrent network can show ----------------------------------------------------------------------


def reading(ln: float, bn: float, gn: float, late: float = 0.0, beyond: float = 0.0) -> Callable[[RunConfig], Found]:
    """How far the loss with each normalizer is below that without, and what BN loses at late steps and beyond: in its
    averages, and against the others."""

    def found(wanted: RunConfig) -> Found:
        gains = {"ln": ln, "bn": bn, "gn": gn}
        loss = 1.8 - gains.get(wanted.norm, 0.0) + 0.1 * abs(math.log10(wanted.lr / 0.01))
        lost = {"last": late, "beyond": beyond}
        noise = np.random.default_rng(int(wanted.key, 16)).normal(0, 1e-3)
        kept = wanted.model_options["per_step"]
        rows = [{"stretch": stretch, "loss": loss, "rise": noise + lost.get(stretch, 0.0) * kept}
                for stretch in ("first", "last", "beyond")]  # fmt: skip
        averages = [{"stretch": stretch, "mean": 0.1 + noise + error, "var": 0.2 + noise + error}
                    for stretch, error in (("first", 0.0), ("last", late))]  # fmt: skip
        return {"loss": loss, "jitter": 0.0, "steps": rows, **({"statistics": averages} if kept else {})}

    return found


@pytest.mark.parametrize(
    ("ln", "bn", "gn", "verdict"),
    [(0.1, 0.0, -0.1, SUPPORTED), (0.1, 0.0, 0.1, MIXED), (-0.1, 0.1, 0.1, REFUTED)],
)
def test_ln_can_be_the_only_one_that_is_of_use_in_a_recurrent_network_or_not(
    ln: float, bn: float, gn: float, verdict: str, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    judged = judged_by("S2-03", reading(ln, bn, gn), monkeypatch)
    assert judged.verdict == verdict, judged.reason
    assert all(part.seeds == 5 for part in (*judged.parts, *judged.also))


@pytest.mark.parametrize(
    ("late", "beyond", "verdict"),
    [(0.1, 0.1, SUPPORTED), (-0.09, -0.1, REFUTED), (0.1, -0.1, MIXED)],
)
def test_statistics_of_late_steps_can_be_poor_or_not(
    late: float, beyond: float, verdict: str, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    judged = judged_by("S2-07", reading(0.1, 0.0, 0.0, late, beyond), monkeypatch)
    assert judged.verdict == verdict, judged.reason
    assert all(part.seeds == 5 for part in (*judged.parts, *judged.also))


# --- what networks that make pictures can show --------------------------------------------------------------


def restyled(bn: float, in_: float) -> Callable[[RunConfig], Found]:
    """How far the loss with each normalizer is above that without."""

    def found(wanted: RunConfig) -> Found:
        loss = 1.0 + {"bn": bn, "in": in_}.get(wanted.norm, 0.0) + 0.1 * abs(math.log10(wanted.lr / 0.003))
        return {"loss": loss, "jitter": 0.0, "contrast": [{"change": loss}]}

    return found


@pytest.mark.parametrize(
    ("bn", "in_", "verdict"),
    [(0.1, -0.1, SUPPORTED), (0.1, 0.09, MIXED), (-0.1, 0.1, REFUTED)],
)
def test_bn_can_hurt_in_style_transfer_and_in_do_clearly_better_or_not(
    bn: float, in_: float, verdict: str, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    judged = judged_by("S2-05", restyled(bn, in_), monkeypatch)
    assert judged.verdict == verdict, judged.reason
    assert all(part.seeds == 5 for part in (*judged.parts, *judged.also))


# --- what features can show ---------------------------------------------------------------------------------


def felt(images: float, layers: float, rise: float) -> Callable[[RunConfig], Found]:
    """How much each normalizer changes the cosine of images and the alignment of layers, and the logarithm of the rise
    of the loss, from one normalizer to the next."""

    def found(wanted: RunConfig) -> Found:
        place = ["none", "bn", "ln", "gn"].index(wanted.norm)
        if wanted.steps:
            return {"accuracy": tuned(wanted, 0.8, 0.003)}
        noise = np.random.default_rng(int(wanted.key, 16)).normal(0, 0.1)
        alike = [{"of": "inputs", "layer": 1, "cosine": 0.5 + images * bool(place)},
                 {"of": "layers", "layer": 1, "cosine": 0.7 + layers * bool(place)}]  # fmt: skip
        rises = [{"radius": str(radius), "rise": 2 ** (rise * place + noise)} for radius in (0.25, 0.5, 1.0)]
        return {"similarity": alike, "surface": rises}

    return found


@pytest.mark.parametrize(
    ("images", "layers", "verdict"),
    [(0.1, -0.1, SUPPORTED), (0.0, 0.0, REFUTED)],
)
def test_normalizers_can_change_how_alike_features_are_or_not(
    images: float, layers: float, verdict: str, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    judged = judged_by("S3-09", felt(images, layers, 0), monkeypatch, seeds=5)
    assert judged.verdict == verdict, judged.reason
    assert all(part.seeds == 5 for part in judged.parts)


@pytest.mark.parametrize(("rise", "verdict"), [(1.0, SUPPORTED), (0.0, REFUTED)])
def test_a_picture_of_the_loss_can_tell_normalizers_apart_or_not(
    rise: float, verdict: str, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    judged = judged_by("S3-10", felt(0, 0, rise), monkeypatch, seeds=5)
    assert judged.verdict == verdict, judged.reason
    assert all(part.seeds == 5 for part in (*judged.parts, *judged.also))


@pytest.mark.parametrize(("ln", "verdict"), [(0.1, INCONCLUSIVE), (-0.1, REFUTED)])
def test_advice_of_which_a_row_has_no_results_can_fail_and_not_be_supported(
    ln: float, verdict: str, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    monkeypatch.setattr(claims, "_complete", lambda _: [])
    judged = judged_by("S2-12", reading(ln, 0.0, 0.0), monkeypatch)
    assert judged.verdict == verdict, judged.reason
    assert {part.verdict for part in judged.parts[:3]} == {SUPPORTED if ln > 0 else REFUTED}
    assert judged.parts[4].reason == "the experiment adversarial has no results yet"
