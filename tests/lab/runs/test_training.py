"""The training loop: it learns, it repeats itself to the bit, it stops and goes on."""

import hashlib
import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from normcore.lab.errors import UsageError
from normcore.lab.runs import training
from normcore.lab.runs.training import OutOfTime, Replayed, check, rate, step, train
from normcore.lab.tasks import datasets, networks
from normcore.lab.tasks.images import ImageClassification
from normcore.lab.tasks.outliers import Outliers
from normcore.lab.tasks.task import halves

from ..helpers import config, network, resumed, write_pictures

pytestmark = pytest.mark.usefixtures("store")
CPU = torch.device("cpu")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("norm", ["none", "bn"])
def test_it_learns_the_digits(norm: str, optimizer: str, device: str) -> None:
    lr = {"adam": 0.005, "sgd": 0.05}[optimizer]
    wanted = config(norm=norm, optimizer=optimizer, lr=lr, steps=120, eval_every=60, log_every=20)
    run = train(wanted, torch.device(device))
    assert run.status == "finished"
    assert run.final["test_accuracy"] > 0.8
    assert run.curves["train"]["step"] == [20, 40, 60, 80, 100, 120]
    assert run.curves["test"]["step"] == run.curves["batch"]["step"] == [60, 120]
    assert run.curves["train"]["loss"][-1] < run.curves["train"]["loss"][0]


@pytest.mark.parametrize("norm", ["none", "bn"])
def test_the_same_configuration_gives_the_same_bits(norm: str) -> None:
    first, second = train(config(norm=norm), CPU), train(config(norm=norm), CPU)
    assert first.curves == second.curves
    assert train(config(norm=norm, seed=1), CPU).curves != first.curves


def test_the_number_of_threads_changes_no_bit() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = train(config(), CPU)
        torch.set_num_threads(2)
        assert train(config(), CPU).curves == first.curves
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_norms_of_a_pair_start_from_the_same_weights_and_batches() -> None:
    plain, normed = (network(config(norm=norm)) for norm in ("none", "bn"))
    kinds = (nn.Conv2d, nn.Linear)
    weights = [[m.weight for m in net.modules() if isinstance(m, kinds)] for net in (plain, normed)]
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    task = ImageClassification(config(), CPU)
    orders = [list(training.batches(task, config(norm=norm), 0)) for norm in ("none", "bn")]
    assert all(torch.equal(a, b) for a, b in zip(*orders, strict=True))


def test_an_epoch_sees_every_image_once() -> None:
    task = ImageClassification(config(batch_size=479), CPU)
    seen = torch.cat(list(training.batches(task, config(batch_size=479, steps=3), 0)))
    assert sorted(seen.tolist()) == list(range(1437))
    again = torch.cat(list(training.batches(task, config(batch_size=479, steps=6), 3)))
    assert sorted(again.tolist()) == list(range(1437))
    assert not torch.equal(seen, again)


def test_a_fixed_order_is_the_first_epoch_s_in_every_epoch() -> None:
    task = ImageClassification(config(batch_size=479), CPU)
    shuffled = list(training.batches(task, config(batch_size=479, steps=6), 0))
    fixed = list(training.batches(task, config(batch_size=479, steps=6, order="fixed"), 0))
    assert [index.tolist() for index in fixed] == [index.tolist() for index in shuffled[:3]] * 2


@pytest.mark.parametrize("options", [{}, {"one_class": 0.5}])
def test_batches_can_be_found_again_from_any_step(options: dict[str, Any]) -> None:
    wanted = config(batch_size=479, steps=10, task_options=options)
    task = ImageClassification(wanted, CPU)
    whole = list(training.batches(task, wanted, 0))
    for start in (1, 3, 7):
        rest = list(training.batches(task, wanted, start))
        assert all(torch.equal(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_the_held_out_images_are_not_trained_on_and_the_same_for_every_seed() -> None:
    task, other = (ImageClassification(config(validation=300, seed=seed), CPU) for seed in (0, 5))
    assert len(task.items) == 1437 - 300
    assert sorted([*task.items.tolist(), *task.held_items.tolist()]) == list(range(1437))
    assert torch.equal(task.held_items, other.held_items)
    run = train(config(validation=300), CPU)
    assert "validation_accuracy" in run.final
    assert "test_accuracy" not in run.final


def test_evaluation_is_over_the_whole_test_set_in_evaluation_mode() -> None:
    net, task = network(config()), ImageClassification(config(), CPU)
    measured = training.evaluate(net, task)
    net.eval()
    with torch.no_grad():
        x, y = task.batch(task.held_items, held=True)
        scores = net(x).double()
    assert measured["accuracy"] == pytest.approx((scores.argmax(1) == y).double().mean().item(), abs=1e-12)
    assert measured["loss"] == pytest.approx(nn.functional.cross_entropy(scores, y).item(), rel=1e-5)


def test_two_fixed_halves_of_the_test_images_are_judged_apart() -> None:
    one, other = (train(config(seed=seed), CPU).curves["test"] for seed in (0, 1))
    for points in (one, other):
        assert points.keys() == {"step", "loss", "accuracy", "accuracy_a", "accuracy_b"}
        for whole, a, b in zip(points["accuracy"], points["accuracy_a"], points["accuracy_b"], strict=True):
            assert a * 180 == pytest.approx(round(a * 180), abs=1e-3)  # of 360 images
            assert (a + b) / 2 == pytest.approx(whole, abs=1e-6)
    assert one["accuracy_a"] != one["accuracy_b"]


def test_the_halves_are_of_both_classes() -> None:
    """Rows may come class by class in turn: every other image would be one class."""
    labels = torch.arange(4999) % 2
    first = halves(labels)[0]
    assert 0.45 < first.double().mean() < 0.55


def test_the_current_batch_has_a_point_at_each_evaluation() -> None:
    """Of the last batch before it alone, and not the mean since the point before, which the training curve has."""
    coarse = train(config(steps=10, eval_every=4, log_every=3), CPU)
    assert coarse.curves["batch"]["step"] == coarse.curves["test"]["step"] == [4, 8, 10]
    fine = train(config(steps=10, eval_every=4, log_every=1), CPU).curves["train"]
    for name in "loss", "accuracy":
        assert coarse.curves["batch"][name] == [fine[name][step - 1] for step in (4, 8, 10)]
        assert coarse.final[f"batch_{name}"] == fine[name][-1]
    held_out = train(config(validation=300), CPU)
    assert set(held_out.curves) == {"train", "batch", "validation"}
    assert held_out.curves["batch"]["step"] == [3, 6]


def test_the_training_images_have_the_colours_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "data" / "noise", channels=3)
    monkeypatch.setenv("NORMCORE_DATA", str(tmp_path / "data"))
    found = {}
    for colours in datasets.COLOURS:
        run = train(config(dataset="noise", batch_size=8, colours=colours), CPU)
        assert run.provenance["data"]["fingerprint"] == datasets.load("noise", 14, colours).fingerprint
        found[colours] = run.curves["train"]["loss"]
    assert train(config(dataset="noise", batch_size=8), CPU).curves["train"]["loss"] == found["rgb"]
    assert len(set(map(tuple, found.values()))) == 3


def test_adam_fused_is_adam() -> None:
    fused = train(config(), CPU)
    plain = train(config(optimizer_options={"fused": False}), CPU)
    assert fused.curves["train"]["loss"] == pytest.approx(plain.curves["train"]["loss"], rel=1e-4)
    other = train(config(optimizer_options={"betas": (0.5, 0.9)}), CPU)  # options go to it as they are
    assert other.curves["train"]["loss"] != pytest.approx(plain.curves["train"]["loss"], rel=1e-4)


def test_a_diverged_run_is_a_result_with_the_step() -> None:
    run = train(config(norm="none", optimizer="sgd", lr=1e9, steps=40, log_every=7, eval_every=40), CPU)
    assert run.status == "diverged"
    assert run.diverged_at is not None
    assert 2 <= run.diverged_at <= 40
    assert all(math.isfinite(v) for v in run.curves["train"]["loss"])
    assert not any(values for split in ("batch", "test") for values in run.curves[split].values())


def test_out_of_time_and_resumed_is_as_if_never_stopped(tmp_path: Path) -> None:
    whole = train(config(steps=20, model="lenet5"), CPU)
    run, stops = resumed(config(steps=20), tmp_path / "run.pt")
    assert stops > 2
    assert run.curves == whole.curves
    assert run.final == whole.final


def stopped_at(checkpoint: Path) -> bytes:
    """The state of a run whose time was over at its first evaluation."""
    with pytest.raises(OutOfTime):
        train(config(eval_every=5), CPU, checkpoint=checkpoint, deadline=0)
    return checkpoint.read_bytes()


def sealed(state: Mapping[str, Any]) -> bytes:
    """A checkpoint as another version might have written it, whole and with its checksum."""
    content = io.BytesIO()
    torch.save(dict(state), content)
    return hashlib.sha256(content.getvalue()).digest() + content.getvalue()


def opened(content: bytes) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(io.BytesIO(content[32:]), weights_only=True)
    return state


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "no checkpoint at all": lambda content: b"half a file",
    "empty": lambda content: b"",
    "cut off": lambda content: content[:-100],
    "a bit": flipped,
    "without the optimizer": lambda content: sealed({k: v for k, v in opened(content).items() if k != "optimizer"}),
    "a layer by another name": lambda content: sealed(
        {**opened(content), "model": {f"net.{k}": v for k, v in opened(content)["model"].items()}}
    ),
    "a layer of another shape": lambda content: sealed(
        {**opened(content), "model": {k: v.flatten()[:1] for k, v in opened(content)["model"].items()}}
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_run_begins_anew_where_its_state_is_damaged_or_of_another_version(damage: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.pt"
    checkpoint.write_bytes(DAMAGE[damage](stopped_at(checkpoint)))
    with pytest.warns(UserWarning, match=r"run\.pt cannot be gone on from .*: the run begins anew"):
        run = train(config(eval_every=5), CPU, checkpoint=checkpoint)
    whole = train(config(eval_every=5), CPU)
    assert (run.curves, run.provenance["weights"]) == (whole.curves, whole.provenance["weights"])
    assert not checkpoint.exists()


def test_provenance_says_what_it_was_measured_with() -> None:
    run = train(config(), CPU)
    origin = run.provenance
    assert origin["versions"]["torch"] == torch.__version__
    assert origin["data"]["fingerprint"] == datasets.load("digits", 14).fingerprint
    assert origin["threads"] == 1
    assert origin["seconds"] > 0
    assert origin["steps_per_epoch"] == 1437 // 32
    assert origin["parameters"] == sum(p.numel() for p in network(config()).parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_options": {"groups": 2}}, "norm_options or model_options.*groups"),
        ({"optimizer_options": {"speed": 2}}, "optimizer_options.*speed"),
        ({"batch_size": 5000}, "batch_size=5000 is more than the 1437 training images"),
        ({"validation": 1430}, "leaves no batch of 32"),
        ({"image_size": 8}, "lenet5 needs images of at least 12 pixels"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train(config(**changes), CPU)


@pytest.mark.parametrize("size", [12, 14, 28, 32])
def test_lenet5_fits_its_images(size: int) -> None:
    net = networks.lenet5(lambda channels: nn.Identity(), 3, 7, size)
    assert net(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_lenet5_is_the_source_s() -> None:
    """At 28 pixels: 16 x 5 x 5 features, and LeNet-5's 61,706 parameters with ten classes."""
    net = networks.lenet5(lambda channels: nn.Identity(), 1, 10, 28)
    assert sum(p.numel() for p in net.parameters()) == 61706
    norms: list[int] = []

    def norm(channels: int) -> nn.Module:
        norms.append(channels)
        return nn.Identity()

    networks.lenet5(norm, 1, 10, 28)
    assert norms == [6, 16, 120, 84]


class _Device:
    """Stands in for CUDA's graphs on a machine without: what is captured runs when it is replayed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refuses: bool = False) -> None:
        self.captured: list[Any] = []
        self.refuses, self.capturing = refuses, False
        stream = type("Stream", (), {"wait_stream": lambda self, other: None})
        for name, stand_in in {
            "Stream": stream, "current_stream": stream, "CUDAGraph": lambda: self, "graph": self.graph,
            "stream": lambda stream: nullcontext(),
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, stand_in)

    @contextmanager
    def graph(self, graph: object) -> Iterator[None]:
        if self.refuses:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.capturing = True
        yield
        self.capturing = False

    def replay(self) -> None:
        for operation in self.captured:
            operation()


@pytest.mark.parametrize("refuses", [False, True])
def test_a_replayed_step_computes_what_the_step_computes(monkeypatch: pytest.MonkeyPatch, refuses: bool) -> None:
    device = _Device(monkeypatch, refuses)
    found = torch.zeros(1)

    def run(index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if device.capturing:
            device.captured.append(lambda: found.copy_(index.sum() * 2.0))
            return found, index
        return index.sum() * 2.0, index

    replayed = Replayed(run)
    given = [torch.tensor([i, i + 1]) for i in range(8)]
    with pytest.warns(UserWarning, match="runs without") if refuses else nullcontext():
        results = [replayed(index)[0].item() for index in given]
    assert results == [2.0 * (2 * i + 1) for i in range(8)]
    assert len(device.captured) == (0 if refuses else 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("norm", ["none", "bn", "gn", "sn", "brn", "rbn", "vbn", "fnbb"])
def test_on_a_gpu_a_replayed_step_trains_as_the_step_does(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # every step can be captured
        replayed = train(config(norm=norm, steps=12, log_every=3), cuda)
    monkeypatch.setattr(Replayed, "WARM_UP", 10**9)
    plain = train(config(norm=norm, steps=12, log_every=3), cuda)
    assert replayed.curves["train"]["loss"] == pytest.approx(plain.curves["train"]["loss"], rel=1e-3)


# --- outliers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["scaled", "noise", "foreign"])
def test_training_with_outliers_is_another_and_repeats_itself_to_the_bit(kind: str) -> None:
    spoiled = {"outliers": 0.3, "outlier_kind": kind, "foreign": "digits"}
    first, clean = train(config(**spoiled), CPU), train(config(), CPU)
    assert first.curves == train(config(**spoiled), CPU).curves
    for split in ("train", "test"):
        assert first.curves[split]["loss"] != clean.curves[split]["loss"]
    more = train(config(**{**spoiled, "outliers": 0.6}), CPU)
    assert more.curves["train"]["loss"] != first.curves["train"]["loss"]
    assert train(config(foreign="digits"), CPU).curves == clean.curves  # named, and of no use


@pytest.mark.parametrize("validation", [0, 300])
@pytest.mark.parametrize("kind", ["scaled", "noise"])
def test_evaluation_is_on_images_without_outliers(kind: str, validation: int) -> None:
    """On the test set or on the held-out images, by a network that has hardly moved."""
    common = {"norm": "none", "lr": 1e-12, "validation": validation}
    clean, spoiled = (train(config(**common, outliers=share, outlier_kind=kind), CPU) for share in (0.0, 1.0))
    split = clean.config.evaluated_on
    assert spoiled.final[f"{split}_loss"] == pytest.approx(clean.final[f"{split}_loss"], abs=1e-5)
    assert spoiled.final["train_loss"] != pytest.approx(clean.final["train_loss"], abs=1e-3)


def test_the_same_images_are_outliers_for_every_seed_and_in_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, set[bool]] = {}
    own = Outliers.__call__

    def noted(self: Outliers, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        made = own(self, x, index)
        for i, a, b in zip(index.tolist(), x, made, strict=True):
            seen.setdefault(i, set()).add(torch.equal(a, b))
        return made

    monkeypatch.setattr(Outliers, "__call__", noted)
    for seed in (0, 1):
        train(config(outliers=0.25, seed=seed, batch_size=479, steps=6, log_every=6), CPU)
    assert len(seen) == 1437
    assert all(len(found) == 1 for found in seen.values())
    assert sum(found == {False} for found in seen.values()) / 1437 == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize("norm", ["bn", "vbn"])
def test_a_resumed_run_has_the_noise_of_one_that_never_stopped(tmp_path: Path, norm: str) -> None:
    """In its batches, and in the reference batch of virtual batch normalization."""
    wanted = config(norm=norm, steps=8, outliers=0.5, outlier_kind="noise")
    whole, (run, stops) = train(wanted, CPU), resumed(wanted, tmp_path / "run.pt")
    assert stops > 1
    assert run.curves == whole.curves


# --- the learning rate -----------------------------------------------------------------------------------


def test_the_rate_rises_over_the_warmup_and_falls_by_the_cosine() -> None:
    wanted = config(lr=0.4, steps=20, warmup=4, lr_schedule="cosine")
    found = [rate(wanted, step) for step in range(20)]
    assert found[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert found[12] == pytest.approx(0.2)  # halfway down
    assert found[-1] == pytest.approx(0.4 * (1 + math.cos(math.pi * 15 / 16)) / 2)
    assert [rate(config(lr=0.4, steps=20, warmup=4), step) for step in (0, 4, 19)] == pytest.approx([0.1, 0.4, 0.4])


def test_each_step_is_taken_at_its_rate() -> None:
    """Of plain gradient descent: a run of one step at the rate of the last one moves the weights as far."""
    plain = {
        "optimizer": "sgd",
        "optimizer_options": {"momentum": 0.0},
        "eval_every": 1,
        "log_every": 1,
        "norm": "none",
    }
    wanted = config(**plain, lr=0.4, steps=3, warmup=2)
    seen = []

    def stepped(model: nn.Module, optim: torch.optim.Optimizer, *rest: Any) -> Any:
        seen.append(optim.param_groups[0]["lr"])
        return step(model, optim, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "step", stepped)
        train(wanted, CPU)
    assert seen == pytest.approx([0.2, 0.4, 0.4])


def test_a_rate_that_changes_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """With images augmented anew at each step."""
    wanted = config(steps=12, lr_schedule="cosine", warmup=2, task_options={"augment": 2})
    run, stops = resumed(wanted, tmp_path / "run.pt")
    assert stops > 1
    assert run.curves == train(wanted, CPU).curves


@pytest.mark.parametrize(("changes", "words"), [
    ({"lr_schedule": "linear"}, "lr_schedule"), ({"warmup": -1}, "warmup"), ({"warmup": 6}, "shorter than the 6 steps"),
])  # fmt: skip
def test_a_schedule_that_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check(config(**changes))
