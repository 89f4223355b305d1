"""The cats-and-dogs protocol: its network, its variants, and the training of those that need more than a layer."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from normcore import NORMS, BatchNorm, ClipSchedule, make_norm, reference_pass
from normcore.lab import catdog
from normcore.lab.config import RunConfig
from normcore.lab.errors import UsageError
from normcore.lab.figures.charts import draw_plane
from normcore.lab.runs import training
from normcore.lab.runs.store import Run
from normcore.lab.runs.training import OutOfTime, read_checkpoint, train
from normcore.lab.tasks import networks
from normcore.lab.tasks.images import ImageClassification

from .helpers import config, network, resumed

CPU = torch.device("cpu")
SCHEDULE = {"start": 1, "r_end": 5, "d_end": 4}  # opens within the runs below


def small(**changes: Any) -> RunConfig:
    """The network of the cats and dogs on the digits for eight steps, with these changes."""
    return config(**{"model": "catdog", "lr": 0.001, "batch_size": 16, "steps": 8, **changes})


def variant(name: str, steps: int = 8) -> RunConfig:
    """The protocol's one run of this variant, on the digits."""
    (found,) = catdog.configs([name], dataset="digits", image_size=14, steps=steps, seeds=1)
    return found


# --- the network -----------------------------------------------------------------------------------------


def no_norm(channels: int) -> nn.Module:
    return nn.Identity()


@pytest.mark.parametrize("size", [1, 13, 14, 29, 30, 31, 32, 127, 128])
def test_the_network_fits_its_images(size: int) -> None:
    net = networks.catdog(no_norm, 3, 2, size)
    assert net(torch.zeros(2, 3, size, size)).shape == (2, 2)


def test_the_normalizers_are_in_the_features_and_bn_in_the_head() -> None:
    placed: list[nn.Module] = []

    def norm(channels: int) -> nn.Module:
        placed.append(make_norm("gn", channels, num_groups=channels // 2))
        return placed[-1]

    net = networks.catdog(norm, 3, 2, 32)
    features, head = net.get_submodule("features"), net.get_submodule("head")
    assert [layer.num_channels for layer in placed] == [16, 16]
    assert [module for module in features.modules() if module in placed] == placed
    assert not any(module in placed for module in head.modules())
    assert [module.num_features for module in head.modules() if isinstance(module, BatchNorm)] == [128, 128]
    bare = networks.catdog(norm, 3, 2, 32, head_norm=False)
    assert not any(isinstance(module, BatchNorm) for module in bare.modules())
    weights = [[m.weight.shape for m in n.modules() if isinstance(m, nn.Conv2d | nn.Linear)] for n in (net, bare)]
    assert weights[0] == weights[1]


def _pass(features: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """The output, and the gradients of the input and of every parameter."""
    x = x.clone().requires_grad_()
    y = features(x)
    weights = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
    return y, *torch.autograd.grad((y * weights).sum(), [x, *features.parameters()])


@pytest.mark.parametrize("size", [30, 31])
def test_pooling_before_the_relu_is_the_relu_before_pooling_to_the_bit(size: int) -> None:
    """The drawing has the ReLU first; the gradients of parameters and input are the same too."""
    torch.manual_seed(0)
    ours = networks.catdog(lambda channels: BatchNorm(channels), 3, 2, size).get_submodule("features")
    assert isinstance(ours, nn.Sequential)
    layers = list(ours)
    for at in 2, 6:
        assert isinstance(layers[at], nn.MaxPool2d)
        assert isinstance(layers[at + 1], nn.ReLU)
        layers[at], layers[at + 1] = layers[at + 1], layers[at]
    x = torch.randn(4, 3, size, size)
    found, expected = _pass(ours, x), _pass(nn.Sequential(*layers), x)
    assert (found[0] == 0).any()  # some windows have no positive value
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


# --- the protocol ----------------------------------------------------------------------------------------


def test_configurations_are_every_combination_of_the_lists() -> None:
    found = catdog.configs(["none", "bn"], dataset="shapes", image_size=32, steps=20_000, seeds=2, lr=[1e-3, 1e-4])
    assert [(c.norm, c.lr, c.seed) for c in found] == [
        (norm, lr, seed) for norm in ("none", "bn") for lr in (1e-3, 1e-4) for seed in (0, 1)
    ]
    assert {(c.model, c.optimizer, c.batch_size, c.dataset, c.image_size) for c in found} == {
        ("catdog", "adam", 16, "shapes", 32)
    }
    changed = catdog.configs(["bn"], dataset="shapes", image_size=32, steps=100, seeds=1, colours="grey", log_every=7)
    assert [(c.colours, c.log_every, c.lr) for c in changed] == [("grey", 7, 1e-4)]


@pytest.mark.parametrize("steps", [10, 150, 1234, 20_000])
def test_a_run_has_twenty_evaluations_and_two_hundred_points_or_as_many_as_it_has_steps(steps: int) -> None:
    run = variant("bn", steps)
    assert run.eval_every * 20 >= steps > (run.eval_every - 1) * 20
    assert run.log_every * 200 >= steps > (run.log_every - 1) * 200
    if steps == 20_000:
        assert (run.eval_every, run.log_every) == (1000, 100)


NAMES = sorted({*NORMS, *catdog.LAYERS} - {"fnbl"})


def behind(name: str) -> list[tuple[float, float | None]]:
    """The constants of the BN behind the flattening."""
    net = network(variant(name))
    return [(m.eps, m.momentum) for m in net.get_submodule("head").modules() if isinstance(m, BatchNorm)]


@pytest.mark.usefixtures("store")
def test_a_name_says_whether_bn_stands_behind_the_flattening() -> None:
    for name in NAMES:
        assert behind(name) == []
        assert behind(f"{name}-head") == [(1e-5, 0.1)] * 2
        assert variant(name).norm == variant(f"{name}-head").norm
    assert {name: behind(name) for name in catdog.REPORT} == {
        **{name: [] for name in ("bn-report", "ln-report", "in-report", "gn-report")},
        **{name: [(1e-3, 0.01)] * 2 for name in ("fnbb-report", "fnbl-report")},
    }


def test_every_variant_has_runs_of_its_own_and_they_have_its_name() -> None:
    every = [*NAMES, *(f"{name}-head" for name in NAMES), *catdog.REPORT]
    once = [name for name in every if not name.startswith("fnbl-code")]
    assert len({variant(name).key for name in once}) == len(once)
    assert [catdog.name_of(variant(name)) for name in once] == once
    (two,) = catdog.configs(["gn-report"], dataset="digits", image_size=14, steps=8, seeds=1, num_groups=2)
    assert (two.norm_options, catdog.name_of(two)) == ({"num_groups": 2}, "gn-report")


def test_a_table_of_runs_has_what_is_each_row_s_own() -> None:
    made = catdog.rows(
        [
            {"variants": ["none", "bn"], "batch_size": [8, 16]},
            {"variants": ["none"], "batch_size": 32, "steps": 40, "seeds": 1},
            {"variants": ["bn"]},  # there already
        ],
        dataset="shapes", image_size=16, steps=160, seeds=2,
    )  # fmt: skip
    assert [(c.norm, c.batch_size, c.steps, c.seed) for c in made] == [
        *((norm, size, 160, seed) for norm in ("none", "bn") for size in (8, 16) for seed in (0, 1)),
        ("none", 32, 40, 0),
    ]
    assert [c.eval_every * c.batch_size for c in made if c.seed == 0 and c.norm == "none"] == [64, 128, 64]
    with pytest.raises(UsageError, match="names its variants"):
        catdog.rows([{"batch_size": 8}], dataset="shapes", image_size=16, steps=160, seeds=2)


def test_the_published_code_of_fnbl_is_the_run_of_cln() -> None:
    assert variant("fnbl-code") == variant("cln")
    assert variant("fnbl-text").key != variant("fnbl").key


def test_batch_renorm_opens_its_clips_at_the_shares_of_the_paper() -> None:
    assert variant("brn", 2000).norm_options == {"schedule": {"start": 100, "r_end": 800, "d_end": 500}}


@pytest.mark.parametrize("name", [*NAMES, *catdog.REPORT])
@pytest.mark.usefixtures("store")
def test_every_variant_trains_and_evaluates(name: str) -> None:
    (wanted,) = catdog.configs([name], dataset="digits", image_size=16, steps=4, seeds=1)
    training.check(wanted)
    run = train(wanted, CPU)
    assert run.status == "finished"
    assert {split: points["step"] for split, points in run.curves.items()} == {
        "train": [1, 2, 3, 4], "batch": [1, 2, 3, 4], "test": [1, 2, 3, 4]
    }  # fmt: skip
    assert run.curves["test"]["loss"][0] != run.curves["test"]["loss"][-1]


@pytest.mark.usefixtures("store")
def test_fnbl_as_its_code_has_it_trains_as_cln_does_to_the_bit() -> None:
    fnbl, cln, text = (train(variant(name, 12), CPU) for name in ("fnbl", "cln", "fnbl-text"))
    assert fnbl.key != cln.key
    assert fnbl.curves == cln.curves
    assert text.curves != cln.curves


# --- batch renormalization -------------------------------------------------------------------------------


@pytest.mark.usefixtures("store")
def test_a_schedule_written_down_is_the_schedule() -> None:
    written = train(small(norm="brn", norm_options={"schedule": SCHEDULE}, log_every=1), CPU)
    passed = train(small(norm="brn", norm_options={"schedule": ClipSchedule(**SCHEDULE)}, log_every=1), CPU)
    assert written.curves == passed.curves
    closed, plain = (train(small(norm=norm, log_every=1), CPU).curves for norm in ("brn", "bn"))
    assert closed["train"]["loss"] == pytest.approx(plain["train"]["loss"], rel=1e-4)  # the paper's is still closed
    assert written.curves["train"]["loss"][:2] == pytest.approx(plain["train"]["loss"][:2], rel=1e-4)
    assert written.curves["train"]["loss"][-1] != pytest.approx(plain["train"]["loss"][-1], rel=1e-4)


@pytest.mark.usefixtures("store")
def test_a_schedule_survives_the_result_file_with_its_key() -> None:
    run = train(small(norm="brn", norm_options={"schedule": SCHEDULE}, steps=2), CPU)
    again = Run.from_json(json.loads(json.dumps(run.to_json(), allow_nan=False)))
    assert again == run
    assert again.config.norm_options == {"schedule": SCHEDULE}
    assert again.key == small(norm="brn", norm_options={"schedule": dict(reversed(SCHEDULE.items()))}, steps=2).key
    assert again.key != small(norm="brn", norm_options={"schedule": {**SCHEDULE, "start": 2}}, steps=2).key


# --- virtual batch normalization -------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["catdog", "lenet5"])
@pytest.mark.usefixtures("store")
def test_vbn_refers_to_the_first_batch_with_the_weights_of_each_step(model: str) -> None:
    """In training and at evaluation, as a loop by hand has it."""
    wanted = small(model=model, norm="vbn", steps=3, log_every=1, eval_every=3)
    task = ImageClassification(wanted, CPU)
    losses: list[float] = []
    with training.deterministic(CPU):
        net = network(wanted)
        normalized = net.get_submodule("features") if model == "catdog" else net
        optim = training.optimizer(wanted, net)
        order = list(training.batches(task, wanted, 0))
        reference = task.batch(order[0])[0]
        for index in order:
            x, y = task.batch(index)
            with reference_pass(normalized, reference):
                loss = nn.functional.cross_entropy(net(x), y)
            optim.zero_grad()
            loss.backward()
            optim.step()
            losses.append(loss.item())
        net.eval()
        with torch.no_grad(), reference_pass(normalized, reference):
            x, y = task.batch(task.held_items, held=True)
            scores = net(x)
    run = train(wanted, CPU)
    assert run.curves["train"]["loss"] == pytest.approx(losses, abs=2e-6)
    assert run.final["test_loss"] == pytest.approx(nn.functional.cross_entropy(scores, y).item(), abs=1e-5)
    assert run.final["test_accuracy"] == pytest.approx((scores.argmax(1) == y).double().mean().item(), abs=1e-6)


@pytest.mark.usefixtures("store")
def test_the_reference_changes_what_is_learned() -> None:
    """Without the pass at each step the first batch's statistics stay as they were with the first weights."""
    wanted = small(norm="vbn")
    task = ImageClassification(wanted, CPU)
    reference = task.batch(next(training.batches(task, wanted, 0)))[0]
    losses: dict[bool, list[float]] = {}
    for referred in (False, True):
        net = network(wanted)
        optim = training.optimizer(wanted, net)
        steps = (task.batch(index) for index in training.batches(task, wanted, 0))
        given = reference if referred else None
        losses[referred] = [training.step(net, optim, task, batch, given)[0].item() for batch in steps]
    assert losses[True][-1] != pytest.approx(losses[False][-1], rel=1e-4)


def test_the_reference_leaves_the_head_s_statistics_alone(tmp_path: Path, store: Path) -> None:
    """What is saved after a step with a reference pass and an evaluation with another."""
    checkpoint = tmp_path / "run.pt"
    with pytest.raises(OutOfTime):
        train(small(norm="vbn", eval_every=1), CPU, deadline=-math.inf, checkpoint=checkpoint)
    state = read_checkpoint(checkpoint, CPU)
    assert state["curves"]["test"]["step"] == [1]
    counts = {name: n.item() for name, n in state["model"].items() if name.endswith("num_batches_tracked")}
    assert {name.partition(".")[0] for name in counts} == {"head"}
    assert list(counts.values()) == [state["done"]] * 2 == [1, 1]


@pytest.mark.parametrize(("norm", "options"), [("vbn", {}), ("brn", {"schedule": SCHEDULE})])
def test_out_of_time_and_resumed_is_as_if_never_stopped(
    norm: str, options: dict[str, Any], tmp_path: Path, store: Path
) -> None:
    wanted = small(norm=norm, norm_options=options)
    whole = train(wanted, CPU)
    run, stops = resumed(wanted, tmp_path / "run.pt")
    assert stops > 2
    assert run.curves == whole.curves
    assert run.final == whole.final


def test_the_overview_is_of_the_time_to_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images to the loss times what an image costs; what has BN behind the flattening is left out."""
    measures = pd.DataFrame({"variant": ["none", "bn-head", "bn"], "seed": 0, "samples_to_loss": [4000, 2000, 1000],
                             "highest": [0.7, 0.8, 0.9]})  # fmt: skip
    costs = pd.DataFrame({"variant": ["bn", "none"], "of_none": [1.5, 1.0]})
    drawn: dict[str, pd.DataFrame] = {}

    def note(table: pd.DataFrame, *of: str, **labels: Any) -> Any:
        drawn[of[0]] = table
        return draw_plane(table, *of, **labels)

    monkeypatch.setattr(catdog, "draw_plane", note)
    shown = catdog.overview(measures, costs, "A note.")
    assert drawn["time"]["time"].tolist() == [4.0, 1.5]
    assert drawn["time"]["highest"].tolist() == [0.7, 0.9]
    assert "A note." in shown
