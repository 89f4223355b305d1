"""Probes: they measure at the steps asked for, and a run does not notice them."""

import contextlib
import copy
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from normcore import BatchNorm, SwitchableNorm
from normcore.lab import probes
from normcore.lab.config import RunConfig
from normcore.lab.errors import UsageError
from normcore.lab.probes import PROBES, Snapshot, attacks, due, influence, surface, take
from normcore.lab.runs import training
from normcore.lab.runs.store import Run, Store
from normcore.lab.runs.sweep import sweep
from normcore.lab.runs.training import train
from normcore.lab.tasks import datasets, outliers
from normcore.lab.tasks.images import ImageClassification, splits

from ..helpers import config, network, resumed


@pytest.fixture(autouse=True)
def short_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attacks and surfaces have tests of their own; here they are taken for what a probe must not disturb."""
    monkeypatch.setattr(attacks, "STEPS", 1)
    monkeypatch.setattr(attacks, "BUDGETS", (4, 8))
    monkeypatch.setattr(surface, "DIRECTIONS", 1)
    monkeypatch.setattr(surface, "GRID", 1)


CPU = torch.device("cpu")
AROUND = ("similarity", "surface")  # which take long, and have tests of their own
OF_IMAGES = tuple(probe for probe in ImageClassification.probes if probe not in AROUND)
ALL = dict.fromkeys(OF_IMAGES, 3)


@pytest.fixture(scope="module", autouse=True)
def decoded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache of data sets for all that is here: drawing the shapes takes longer than the runs. And one batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "BATCHES", 1)
        patch.setenv("NORMCORE_CACHE", str(tmp_path_factory.mktemp("cache")))
        datasets.load.cache_clear()
        yield
        datasets.load.cache_clear()


@pytest.fixture
def three_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "BATCHES", 3)


def probed(**changes: Any) -> RunConfig:
    return config(**{"foreign": "shapes", "probes": ALL, **changes})


RENORM = {"schedule": {"start": 0, "r_end": 1, "d_end": 1}}
NETWORKS: dict[str, dict[str, Any]] = {
    "none": {"norm": "none"},
    "bn": {"norm": "bn"},
    "vbn": {"norm": "vbn"},
    "brn": {"norm": "brn", "norm_options": RENORM},
    "rbn": {"norm": "rbn"},
    "sn": {"norm": "sn"},
    "fourconv with noise": {"model": "fourconv", "model_options": {"noise": True}},
    "fourconv, vbn": {"model": "fourconv", "norm": "vbn"},
    "dropout": {"model": "alexnet", "image_size": 16, "model_options": {"width": 0.05, "dropout": 0.5}},
    "sgd": {"optimizer": "sgd"},
    "noisy images": {"outliers": 0.3, "outlier_kind": "noise"},
    "foreign images": {"outliers": 0.3, "outlier_kind": "foreign"},
}


def rows(run: Run, probe: str, step: int) -> list[dict[str, Any]]:
    """The rows of a probe at a step."""
    columns = run.probes[probe]
    every = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [row for row in every if row["step"] == step]


# --- a run with probes is the run without ----------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_a_run_with_all_probes_is_to_the_bit_the_run_without(name: str) -> None:
    plain, looked_into = (train(probed(**NETWORKS[name], probes=p), CPU) for p in ({}, ALL))
    assert looked_into.curves == plain.curves
    assert looked_into.final == plain.final
    assert plain.probes == {}
    assert set(looked_into.probes) == set(OF_IMAGES)


def test_with_held_out_images_too() -> None:
    common = {"validation": 300, "outliers": 0.3, "outlier_kind": "noise"}
    plain, looked_into = (train(probed(**common, probes=p), CPU) for p in ({}, ALL))
    assert looked_into.curves == plain.curves


@pytest.mark.parametrize("name", ["vbn", "fourconv with noise", "noisy images"])
def test_the_same_run_has_the_same_probes_whatever_else_is_probed(name: str) -> None:
    together = train(probed(**NETWORKS[name]), CPU)
    for probe in OF_IMAGES:
        alone = train(probed(**NETWORKS[name], probes={probe: 6}), CPU)
        for step in (0, 6):
            assert rows(alone, probe, step) == rows(together, probe, step)


@pytest.mark.parametrize("name", ["bn", "brn", "fourconv with noise", "dropout", "noisy images"])
def test_a_resumed_run_has_the_probes_of_one_that_never_stopped(tmp_path: Path, name: str) -> None:
    wanted = probed(**NETWORKS[name], log_every=1, probes=dict.fromkeys(OF_IMAGES, 4))
    whole = train(wanted, CPU)
    run, stops = resumed(wanted, tmp_path / "run.pt")
    assert stops == 5
    assert run.probes == whole.probes
    assert run.curves == whole.curves


def test_a_run_killed_while_it_is_probed_at_the_end_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last step is saved then, and nothing is left to train."""
    wanted, checkpoint = probed(probes={"smoothness": 3, "shift": 4}), tmp_path / "run.pt"
    whole = train(wanted, CPU)
    own = probes.take

    def killed(name: str, snapshot: Any, device: torch.device, step: int, into: Any) -> None:
        if step == wanted.steps and name == "shift":
            raise KeyboardInterrupt
        own(name, snapshot, device, step, into)

    with monkeypatch.context() as patch:
        patch.setattr(training, "CHECKPOINT_EVERY", -1.0)
        patch.setattr(probes, "take", killed)
        with pytest.raises(KeyboardInterrupt):
            train(wanted, CPU, checkpoint=checkpoint)
    assert checkpoint.is_file()
    run = train(wanted, CPU, checkpoint=checkpoint)
    assert run.probes == whole.probes
    assert run.curves == whole.curves


# --- when ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "steps"), [(1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6]), (4, [0, 4, 6]), (6, [0, 6]), (100, [0, 6])]
)
def test_a_probe_is_taken_at_the_start_every_so_many_steps_and_once_at_the_end(every: int, steps: list[int]) -> None:
    found = train(probed(probes={"smoothness": every, "shift": every}), CPU).probes
    assert found["smoothness"]["step"] == steps
    assert found["shift"]["step"] == [step for step in steps for _ in range(4)]
    assert found["shift"]["layer"] == [2, 3, 4, 5] * len(steps)


def test_each_probe_has_its_own_pace() -> None:
    asked = {"distributions": 2, "shift": 3, "smoothness": 5}
    found = {step: due(asked, step, last=False) for step in range(7)}
    assert found == {
        0: ["distributions", "shift", "smoothness"], 1: [], 2: ["distributions"], 3: ["shift"], 4: ["distributions"],
        5: ["smoothness"], 6: ["distributions", "shift"],
    }  # fmt: skip
    assert due(asked, 7, last=True) == list(asked)
    assert due(asked, 6, last=True) == list(asked)
    assert due({}, 0, last=True) == []


# --- what a probe sees -----------------------------------------------------------------------------------


class _Seen(Exception):
    """Ends a run, so that what a probe is given stays as it is."""


def snapshot(steps: int = 0, **changes: Any) -> Snapshot:
    """What a probe is given before the step that follows these."""
    seen: list[Snapshot] = []

    def look(at: Snapshot) -> list[dict[str, Any]]:
        seen.append(at)
        if len(seen) == (2 if steps else 1):
            raise _Seen
        return []

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(_Seen):
        patch.setitem(probes.PROBES, "smoothness", look)
        train(probed(**changes, probes={"smoothness": max(1, steps)}), CPU)
    return seen[-1]


@pytest.mark.usefixtures("three_batches")
@pytest.mark.parametrize("name", ["none", "bn", "brn", "rbn", "vbn", "sgd", "foreign images"])
def test_the_network_after_the_step_is_the_one_that_the_run_goes_on_with(name: str) -> None:
    """With the moments that the optimizer has by then."""
    before: list[dict[str, Tensor]] = []
    after: list[dict[str, Tensor]] = []

    def look(at: Snapshot) -> list[dict[str, Any]]:
        before.append(copy.deepcopy(at.model.state_dict()))
        if len(after) < len(at.batches):  # those of the first steps
            after.append(at.stepped(*at.batches[len(after)]).state_dict())
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(probes.PROBES, "shift", look)
        train(probed(**NETWORKS[name], eval_every=6, probes={"shift": 1}), CPU)
    assert len(before) == 7
    assert len(after) == 3
    for expected, found in zip(before[1:], after, strict=False):
        assert all(torch.equal(value, found[key]) for key, value in expected.items())
    assert not torch.equal(before[0]["0.weight"], before[1]["0.weight"])


def taken(probe: str, at: Snapshot, step: int = 7) -> dict[str, list[Any]]:
    into: dict[str, dict[str, list[Any]]] = {}
    take(probe, lambda: at, CPU, step, into)
    return into[probe]


@pytest.mark.parametrize("probe", ImageClassification.probes)
@pytest.mark.parametrize("name", ["bn", "brn", "vbn", "fourconv with noise", "dropout"])
def test_a_probe_leaves_the_network_and_the_random_numbers_as_they_are(probe: str, name: str) -> None:
    at = snapshot(2, **NETWORKS[name])
    torch.manual_seed(5)
    model = copy.deepcopy(at.model.state_dict())
    slopes = [p.grad.clone() for p in at.model.parameters() if p.grad is not None]
    looked_at = [*(x for x, _ in at.batches), at.held, at.foreign]
    drawn, images = torch.get_rng_state(), [v.clone() for v in looked_at]
    found = taken(probe, at)
    assert all(torch.equal(v, model[k]) for k, v in at.model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(at.model.parameters(), slopes, strict=True))  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(a, b) for a, b in zip(looked_at, images, strict=True))
    assert all(m.training for m in at.model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in at.model.modules())
    assert taken(probe, at) == found


def in_layers(model: nn.Module, x: Tensor) -> list[Tensor]:
    """What each stage's normalizer gives out in training, or what comes after the noise behind it."""
    found = []
    with torch.no_grad():
        for stage in model.get_submodule("features").children():
            for name, part in stage.named_children():
                x = part(x)
                if name == ("noise" if hasattr(stage, "noise") else "norm"):
                    found.append(x.flatten().double())
    return found


@pytest.mark.parametrize("norm", ["none", "bn", "gn"])
@pytest.mark.parametrize("noise", [False, True])
def test_the_distributions_are_of_what_each_layer_gives_out(norm: str, noise: bool) -> None:
    at = snapshot(2, model="fourconv", norm=norm, model_options={"noise": noise})
    found = taken("distributions", at, 7)
    torch.manual_seed(7)  # of which each layer draws its noise in turn
    expected = [v.numpy() for v in in_layers(copy.deepcopy(at.model), at.held)]
    assert found["step"] == [7] * 4
    assert found["layer"] == [1, 2, 3, 4]
    assert list(found) == ["step", "layer", "mean", "std", "skew", "kurtosis", "wasserstein", "histogram", "apart"]
    assert found["mean"] == pytest.approx([v.mean() for v in expected], rel=1e-3, abs=1e-4)
    assert found["std"] == pytest.approx([v.std() for v in expected], rel=1e-3)
    assert found["kurtosis"] == pytest.approx([stats.kurtosis(v) for v in expected], rel=1e-2, abs=1e-2)
    for shares, values in zip(found["histogram"], expected, strict=True):
        counted = np.histogram(values, 48, (-6, 6))[0] / values.size * 10_000
        assert np.abs(np.array(shares) - counted).max() <= 2
    distances = [[stats.wasserstein_distance(a, b) for b in expected] for a in expected]
    assert found["apart"] == pytest.approx([sum(row) / 3 for row in distances], rel=0.05, abs=0.02)
    if norm == "bn":  # standardized in each channel, until the noise comes
        assert all(abs(value - 1) < 0.1 for value in found["std"]) is not noise


def test_the_distributions_of_a_reference_normalizer_are_of_the_same_four_layers() -> None:
    """Though another batch passes through them first."""
    at = snapshot(1, model="fourconv", norm="vbn")
    found = taken("distributions", at)
    assert found["layer"] == [1, 2, 3, 4]
    model, seen = copy.deepcopy(at.model), list[float]()
    for stage in model.get_submodule("features").children():
        stage.get_submodule("norm").register_forward_hook(lambda _, __, out: seen.append(out.mean().item()))
    with torch.no_grad():
        at.forward(model, at.held)
    assert found["mean"] == pytest.approx(seen[-4:], rel=1e-3, abs=1e-5)


def test_outliers_are_of_the_kinds_that_there_are_images_for() -> None:
    with_foreign = train(probed(probes={"outliers": 6}), CPU).probes["outliers"]
    without = train(probed(probes={"outliers": 6}, foreign=""), CPU).probes["outliers"]
    assert with_foreign["kind"] == [kind for kind in ("scaled", "noise", "foreign") for _ in range(3)] * 2
    assert without["kind"] == [kind for kind in ("scaled", "noise") for _ in range(3)] * 2
    assert with_foreign["mode"] == ["train", "eval", "step"] * 6
    assert without["mode"] == ["train", "eval", "step"] * 4


@pytest.mark.usefixtures("three_batches")
@pytest.mark.parametrize("norm", ["none", "bn", "vbn"])
def test_the_influence_of_an_outlier_is_the_median_over_batches_of_held_images(norm: str) -> None:
    """Of the first of them, each as large as the run's."""
    at = snapshot(2, norm=norm)
    found = taken("outliers", at, 7)
    torch.manual_seed(7)
    for place, kind in enumerate(outliers.KINDS):
        every = [
            influence.influence(at.forward, at.model, at.held[i : i + 32], at.held_labels[i : i + 32], kind, at.foreign)
            for i in range(0, 3 * 32, 32)
        ]
        for mode in (0, 1):
            assert (found["kind"][3 * place + mode], found["mode"][3 * place + mode]) == (kind, ("train", "eval")[mode])
            for name in ("output", "gradient", "update"):
                median = np.median([float(rows[mode][name]) for rows in every])
                assert found[name][3 * place + mode] == pytest.approx(median, rel=1e-4)


@pytest.mark.usefixtures("three_batches")
@pytest.mark.parametrize("norm", ["none", "bn", "vbn"])
def test_the_influence_of_a_step_is_what_the_optimizer_makes_of_an_outlier(norm: str) -> None:
    """Of ten times the contrast, in the scores of all held images at evaluation, the median over three batches."""
    at = snapshot(2, norm=norm)
    found, changes = taken("outliers", at, 7), list[float]()
    for i in range(0, 3 * 32, 32):
        x, y = at.held[i : i + 32], at.held_labels[i : i + 32]
        spoilt = torch.cat([10 * x[:1], x[1:]])
        networks = [at.stepped(images, y).eval() for images in (x, spoilt)]
        with torch.no_grad():
            clean, other = (at.forward(network, at.held) for network in networks)
        changes.append(((other - clean).norm() / clean.norm()).item())
    assert (found["kind"][2], found["mode"][2]) == ("scaled", "step")
    assert found["output"][2] == pytest.approx(np.median(changes), rel=1e-3)
    assert found["gradient"][2] is None
    assert found["update"][2] is None


def test_the_influence_is_measured_on_fewer_held_images_than_a_batch_has_too() -> None:
    """Or the run is refused: a probe that was asked for and has no row would be missed late."""
    wanted = probed(batch_size=400, steps=2, eval_every=2, probes={"outliers": 2})
    try:
        run = train(wanted, CPU)
    except UsageError:
        return
    assert len(run.probes["outliers"]["update"]) == 2 * 3 * 3


@pytest.mark.usefixtures("three_batches")
@pytest.mark.parametrize("finite", range(3))
def test_a_median_over_batches_most_of_which_have_no_finite_influence_is_none(
    finite: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the three batches has one."""
    batch = itertools.cycle(range(3))

    def some(*arguments: Any) -> list[dict[str, Any]]:
        value = 1.0 if next(batch) == finite else math.nan
        return [{"mode": mode, "output": value, "gradient": value, "update": 2.0} for mode in ("train", "eval")]

    monkeypatch.setattr(influence, "influence", some)
    found = taken("outliers", snapshot(0, norm="none"))
    assert [v for v, mode in zip(found["output"], found["mode"], strict=True) if mode != "step"] == [None] * 6
    assert found["gradient"] == [None] * 9
    assert found["update"] == [2.0, 2.0, None] * 3


def test_the_shift_and_the_smoothness_of_a_run_that_trains_are_not_zero() -> None:
    found = train(probed(model="fourconv"), CPU).probes
    assert found["shift"]["layer"] == [2, 3, 4, 5, 6] * 3
    assert all(value > 0 for name in ("gradient", "distance", "input") for value in found["shift"][name])
    assert all(value > 0 for name in ("loss", "loss_range", "beta") for value in found["smoothness"][name])
    assert list(found["smoothness"]) == ["step", "loss", "loss_range", "gradient_norm", "gradient_change", "beta"]


@pytest.mark.usefixtures("three_batches")
def test_the_smoothness_is_of_the_first_batches_and_the_learning_rate() -> None:
    """The median over them, the same batches at every step."""
    at, later = snapshot(0, norm="none"), snapshot(3, norm="none")
    assert all(torch.equal(x, z) for (x, _), (z, _) in zip(at.batches, later.batches, strict=True))
    run = train(probed(norm="none", probes={"smoothness": 6}), CPU)
    losses = [nn.functional.cross_entropy(at.model(x), y) for x, y in at.batches]
    assert run.probes["smoothness"]["loss"][0] == pytest.approx(np.median([v.item() for v in losses]), rel=1e-4)
    slopes = [torch.autograd.grad(loss, list(at.model.parameters())) for loss in losses]
    lengths = [torch.cat([g.flatten() for g in gradient]).norm().item() for gradient in slopes]
    assert run.probes["smoothness"]["gradient_norm"][0] == pytest.approx(np.median(lengths), rel=1e-3)
    other = train(probed(norm="none", lr=0.1, probes={"smoothness": 6}), CPU)
    assert other.probes["smoothness"]["loss"][0] == run.probes["smoothness"]["loss"][0]
    assert other.probes["smoothness"]["loss_range"][0] > 2 * run.probes["smoothness"]["loss_range"][0]


def test_the_training_set_is_evaluated_as_a_whole_and_in_evaluation_mode() -> None:
    wanted = probed(**NETWORKS["dropout"], probes={"training_set": 6})
    at, run = snapshot(0, **NETWORKS["dropout"]), train(wanted, CPU)
    dataset = datasets.load(wanted.dataset, wanted.image_size)
    images, items, _, _ = splits(wanted, dataset, CPU)
    model = copy.deepcopy(at.model).eval()
    with torch.no_grad():
        right = torch.cat([model(x).argmax(1) == y for x, y in (images.batch(i) for i in items.split(100))])
    assert run.probes["training_set"]["step"] == [0, 6]
    assert run.probes["training_set"]["accuracy"][0] == pytest.approx(right.float().mean().item(), rel=1e-4)


@pytest.mark.usefixtures("three_batches")
def test_the_gradient_of_the_first_layer_is_taken_relative_to_the_last_s() -> None:
    at, run = snapshot(0, norm="bn"), train(probed(norm="bn", probes={"gradients": 6}), CPU)
    ratios = []
    for x, y in at.batches:
        model = copy.deepcopy(at.model)
        nn.functional.cross_entropy(model(x), y).backward()
        weights = [m.weight.grad for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        ratios.append((weights[0].norm() / weights[-1].norm()).item())
    assert run.probes["gradients"]["ratio"][0] == pytest.approx(np.median(ratios), rel=1e-4)
    assert run.probes["gradients"]["ratio"][0] != run.probes["gradients"]["ratio"][-1]


def test_statistics_that_are_estimated_anew_are_of_images_drawn_at_random() -> None:
    """Whatever batches the run has: of one class each, the averages it keeps are another network's, these are not."""
    sorted_ = {"norm": "bn", "task_options": {"one_class": 1.0}}
    wanted = probed(**sorted_, probes={"recalibrated": 6})
    run, model = train(wanted, CPU), snapshot(6, **sorted_).model
    images, items, held, held_items = splits(wanted, datasets.load(wanted.dataset, wanted.image_size), CPU)
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(0))
    layers, x = (
        [m for m in model.modules() if isinstance(m, BatchNorm)],
        images.batch(items[order[: wanted.batch_size]])[0],
    )
    for layer in layers:
        layer.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
        x, y = held.batch(held_items)
        wanted_loss = nn.functional.cross_entropy(model.eval()(x), y).item()
    assert run.probes["recalibrated"]["loss"][-1] == pytest.approx(wanted_loss, rel=1e-4)
    assert run.curves["test"]["loss"][-1] != pytest.approx(wanted_loss, rel=1e-3)


# --- what is kept ----------------------------------------------------------------------------------------


def test_the_mixture_is_what_each_switchable_layer_has_learned() -> None:
    run = train(probed(norm="sn", lr=0.1, probes={"mixture": 6}), CPU)
    layers = [m for m in network(probed(norm="sn")).modules() if isinstance(m, SwitchableNorm)]
    start, end = (rows(run, "mixture", step) for step in (0, 6))
    assert [(row["layer"], row["of"]) for row in end] == [
        (i + 1, of) for i in range(len(layers)) for of in ("mean", "var")
    ]
    assert {row[share] for row in start for share in ("in", "ln", "bn")} == {0.33333}
    assert max(abs(row["bn"] - 1 / 3) for row in end) > 1e-3
    layer = SwitchableNorm(3)
    for weight, shares in ((layer.mean_weight, (0.2, 0.3, 0.5)), (layer.var_weight, (0.7, 0.2, 0.1))):
        weight.data = torch.tensor(shares).log()
    at = SimpleNamespace(model=nn.Sequential(nn.Conv2d(3, 3, 1), layer))
    mean, var = PROBES["mixture"](at)  # type: ignore[arg-type]
    assert [mean[share] for share in ("in", "ln", "bn")] == pytest.approx([0.2, 0.3, 0.5])
    assert [var[share] for share in ("in", "ln", "bn")] == pytest.approx([0.7, 0.2, 0.1])


def test_numbers_that_are_not_finite_are_kept_as_none() -> None:
    wanted = config(
        norm="none", optimizer="sgd", lr=1e9, steps=40, log_every=7, eval_every=40, model="fourconv",
        probes=dict.fromkeys(OF_IMAGES, 3),
    )  # fmt: skip
    run = train(wanted, CPU)
    assert run.status == "diverged"
    assert run.probes["smoothness"]["step"] == [0, 3, 6]
    assert run.probes["smoothness"]["loss"][0] is not None
    assert run.probes["smoothness"]["loss"][-1] is None
    assert run.probes["distributions"]["std"][-1] is None
    assert run.probes["outliers"]["update"][-1] is None
    assert Run.from_json(json.loads(json.dumps(run.to_json(), allow_nan=False))) == run


def test_numbers_are_kept_to_five_digits_and_the_rest_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"a": 1 / 3, "b": -2e-7 / 3, "c": math.nan, "d": -math.inf, "e": 123456, "f": "x", "g": [1, 2], "h": 0.0}]
    monkeypatch.setitem(probes.PROBES, "shift", lambda at: rows)
    into: dict[str, dict[str, list[Any]]] = {}
    for step in (0, 9):
        take("shift", lambda: None, CPU, step, into)  # type: ignore[arg-type, return-value]
    one = {"a": 0.33333, "b": -6.6667e-8, "c": None, "d": None, "e": 123456, "f": "x", "g": [1, 2], "h": 0.0}
    assert into == {"shift": {"step": [0, 9], **{name: [value] * 2 for name, value in one.items()}}}


def test_a_result_with_probes_is_a_small_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each time of all probes, on the network of four convolutions: the book's runs have eleven."""
    monkeypatch.setenv("NORMCORE_RESULTS", str(tmp_path))
    run = train(probed(model="fourconv", steps=2, eval_every=1, log_every=1, probes=dict.fromkeys(OF_IMAGES, 1)), CPU)
    assert len(run.probes["smoothness"]["step"]) == 3
    store = Store("trial")
    store.put(run)
    assert store.get(run.key) == run
    assert store.path(run.key).stat().st_size < 3 * 5_000


# --- what is asked for -----------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [0, -1, 1.5, "often", None, True])
def test_a_pace_that_is_none_is_refused(every: Any) -> None:
    with pytest.raises(UsageError, match=rf"probes must say every how many steps, at least 1, got shift: {every!r}"):
        config(probes={"shift": every})


def test_an_unknown_probe_is_refused_with_the_closest_and_yet_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NORMCORE_RESULTS", str(tmp_path))
    wrong = config(probes={"smoothness": 1, "shfit": 2})
    with pytest.raises(UsageError, match="unknown probe 'shfit': did you mean shift"):
        training.check(wrong)
    with pytest.raises(UsageError, match="unknown probe 'shfit'"):
        sweep([config(), config(probes={"smoothness": 1}), wrong], Store("trial"))
    assert not Store("trial").folder.exists()


def test_the_new_fields_at_their_defaults_change_no_key() -> None:
    """Published results are found by their key."""
    defaults: dict[str, Any] = {"outliers": 0.0, "outlier_kind": "scaled", "foreign": "", "probes": {}}
    assert config().key == config(**defaults).key == config(outliers=0).key == "42674741a18a35e6"
    changed = [
        config(outliers=0.1), config(outlier_kind="noise"), config(foreign="shapes"), config(probes={"shift": 1}),
        config(probes={"shift": 2}), config(probes={"smoothness": 1}), config(),
    ]  # fmt: skip
    assert len({c.key for c in changed}) == len(changed)
    two = {"shift": 1, "smoothness": 2}
    assert config(probes=two).key == config(probes=dict(reversed(two.items()))).key
