"""What recalibrate estimates, for normcore's layers and torch's, and what it leaves alone."""

import copy
import functools
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normcore import freeze_norms, make_norm, recalibrate

from .formulas import flat, moments_over
from .helpers import filled

DOUBLE = torch.float64
INSTANCE_NORM = functools.partial(nn.InstanceNorm2d, affine=True, track_running_stats=True)
TORCH: dict[str, Callable[..., nn.Module]] = {"BatchNorm2d": nn.BatchNorm2d, "InstanceNorm2d": INSTANCE_NORM}
pytestmark = pytest.mark.usefixtures("seed")


def population(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of every channel over all there is."""
    mean, var = moments_over(flat(x), 0, 2)
    m = x.numel() // x.shape[1]
    return mean.flatten(), var.flatten() * m / (m - 1)


def _look(*_: object) -> None:
    """A hook of somebody else's."""


def state_of(model: nn.Module) -> dict[str, Any]:
    attributes = {
        path: (m.training, getattr(m, "momentum", None), getattr(m, "frozen", None), sorted(vars(m)))
        for path, m in model.named_modules()
    }
    return {**attributes, **{f"{k} requires": p.requires_grad for k, p in model.named_parameters()}}


def assert_equal_tensors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []


@pytest.mark.parametrize("shape", [(14, 3), (14, 3, 4), (14, 3, 4, 5)], ids=len)
@pytest.mark.parametrize("name", ["bn", "brn", "sn", "torch"])
def test_recalibrated_statistics_are_those_of_all_the_data(name: str, shape: tuple[int, ...]) -> None:
    """Exactly, however unequal the batches: bare, and first in a tuple or list."""
    batch_norms = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
    data = torch.randn(shape, dtype=DOUBLE) * torch.arange(1.0, 15).view(-1, *[1] * (len(shape) - 1)) + 100
    layer = filled(batch_norms[len(shape)](3) if name == "torch" else make_norm(name, 3)).double()
    loader = [data[:7], (data[7:9], torch.zeros(2)), [data[9:14], "labels"]]
    assert recalibrate(layer, iter(loader)) is layer
    mean, var = population(data)
    torch.testing.assert_close(layer.running_mean, mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(layer.running_var, var, rtol=1e-10, atol=0)
    assert not layer.running_mean.requires_grad


def test_recalibrated_full_norm_has_one_pair() -> None:
    data = torch.randn(9, 3, 4, 5, dtype=DOUBLE) + torch.arange(3.0).view(3, 1, 1)
    layer = recalibrate(make_norm("fnbb", 3).double(), data.split((2, 4, 3)))
    mean, var = population(data.reshape(-1, 1))
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_var, var)


@pytest.mark.parametrize("make", [lambda: make_norm("in", 3, track_running_stats=True), lambda: INSTANCE_NORM(3)])
def test_recalibrated_instance_norm_averages_over_batches(make: Callable[[], nn.Module]) -> None:
    data = torch.randn(9, 3, 4, 5, dtype=DOUBLE)
    batches = data.split((2, 4, 3))
    layer = recalibrate(filled(make()).double(), batches)
    parts = [moments_over(x, 2, 3) for x in batches]
    mean = torch.stack([m.sum(0).flatten() / len(m) for m, _ in parts]).sum(0) / 3
    var = torch.stack([v.sum(0).flatten() / len(v) * 20 / 19 for _, v in parts]).sum(0) / 3
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_var, var)


def test_recalibrated_reference_batch_norm_averages_the_mixed_statistics() -> None:
    """(m mean_B + mean_ref) / (m + 1), likewise the biased variance, the latter times m / (m - 1)."""
    reference, data = torch.randn(6, 3, 4, dtype=DOUBLE) + 2, torch.randn(9, 3, 4, dtype=DOUBLE)
    batches = data.split((2, 4, 3))
    layer = make_norm("rbn", 3).double()
    layer.set_reference(reference)
    recalibrate(layer, batches)
    fixed = moments_over(reference, 0, 2)
    means, variances = [], []
    for x in batches:
        m = len(x)
        mean, var = ((m * own + fix) / (m + 1) for own, fix in zip(moments_over(x, 0, 2), fixed, strict=True))
        means.append(mean.flatten())
        variances.append(var.flatten() * m / (m - 1))
    torch.testing.assert_close(layer.running_mean, torch.stack(means).sum(0) / 3)
    torch.testing.assert_close(layer.running_var, torch.stack(variances).sum(0) / 3)
    torch.testing.assert_close(layer.reference_mean, fixed[0].flatten())


def test_deeper_layers_see_batches_normalized_by_themselves() -> None:
    """As in training; and what training does besides, dropout say, is left out."""
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 3)).double()
    model.append(make_norm("bn", 3).double())
    batches = torch.randn(14, 5, dtype=DOUBLE).split((7, 2, 5))
    recalibrate(model, batches)
    first = [model[0](x) for x in batches]
    mean, var = population(torch.cat(first))
    torch.testing.assert_close(model[1].running_mean, mean)
    torch.testing.assert_close(model[1].running_var, var)
    second = []
    for h in first:
        m, v = moments_over(h, 0)
        second.append(model[4](((h - m) / (v + 1e-5).sqrt()).relu()))
    mean, var = population(torch.cat(second))
    torch.testing.assert_close(model[5].running_mean, mean)
    torch.testing.assert_close(model[5].running_var, var)


def test_recalibrate_builds_no_graph() -> None:
    graphs = []
    model = nn.Sequential(nn.Linear(3, 3), make_norm("bn", 3))
    model.register_forward_hook(lambda _module, _inputs, y: graphs.append(y.requires_grad))
    recalibrate(model, torch.randn(6, 3).split(3))
    assert graphs == [False, False]


def test_a_layer_that_is_called_twice_sees_both() -> None:
    layer, linear = make_norm("bn", 3, affine=False).double(), nn.Linear(3, 3).double()
    data = torch.randn(8, 3, dtype=DOUBLE) + 4
    recalibrate(nn.Sequential(layer, linear, layer), [data])
    mean, var = moments_over(data, 0)
    mean, var = population(torch.cat((data, linear((data - mean) / (var + 1e-5).sqrt()))))
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_var, var)


@pytest.mark.parametrize("name", ["bn", "brn", "sn", "rbn", "fnbb", *TORCH])
@pytest.mark.parametrize("training", [True, False])
def test_recalibrate_changes_running_statistics_only(name: str, training: bool) -> None:
    """Momentum, modes (a part may be at evaluation), counts, weights; and the model can be pickled as before."""
    layer = filled(TORCH[name](4, momentum=0.3) if name in TORCH else make_norm(name, 4, momentum=0.3))
    layer.register_forward_hook(_look)
    model = nn.Sequential(nn.Conv2d(2, 4, 1), layer, nn.Dropout(), nn.Sequential(nn.ReLU())).train(training)
    model[3].train(not training)
    if name == "rbn":
        layer.set_reference(torch.randn(4, 4, 3, 3))
    attributes, tensors = state_of(model), {k: t.clone() for k, t in model.state_dict().items()}
    before = [*model.modules(), *model.parameters()]
    recalibrate(model, torch.randn(9, 2, 5, 5).split(3))
    assert state_of(model) == attributes
    assert all(a is b for a, b in zip((*model.modules(), *model.parameters()), before, strict=True))
    assert [*layer._forward_hooks.values()] == [_look]
    moved = {"1.running_mean", "1.running_var"}
    found = model.state_dict()
    assert not any(torch.equal(found[key], tensors[key]) for key in moved)
    assert_equal_tensors(*({k: t for k, t in d.items() if k not in moved} for d in (found, tensors)))
    assert_equal_tensors(pickle.loads(pickle.dumps(model)).state_dict(), found)
    assert not any(p.grad is not None for p in model.parameters())


def failing(data: Tensor) -> Iterator[Tensor]:
    yield from data.split(3)
    raise OSError("the disk is gone")


@pytest.mark.parametrize("name", ["bn", "brn", "sn", "rbn", "fnbb", "in", "BatchNorm1d", "InstanceNorm1d"])
@pytest.mark.parametrize("what", ["loader", "model", "empty"])
def test_after_an_error_all_is_as_before(name: str, what: str) -> None:
    options = {"track_running_stats": True} if name.lower().startswith("in") else {}
    layer = getattr(nn, name)(4, **options) if hasattr(nn, name) else make_norm(name, 4, **options)
    model = nn.Sequential(filled(layer), nn.Linear(5, 5), filled(make_norm("bn", 4)))
    attributes, tensors = state_of(model), {k: t.clone() for k, t in model.state_dict().items()}
    data = torch.randn(9, 4, 5)
    loaders: dict[str, tuple[Any, type[Exception], str]] = {
        "loader": (failing(data), OSError, "the disk is gone"),
        "model": ([data, torch.randn(3, 4, 6)], RuntimeError, "shapes cannot be multiplied"),
        "empty": ([], ValueError, "the loader gave no batch to take statistics of"),
    }
    loader, error, message = loaders[what]
    with pytest.raises(error, match=message):
        recalibrate(model, loader)
    assert state_of(model) == attributes
    assert_equal_tensors(model.state_dict(), tensors)


@pytest.mark.parametrize("make", [lambda: make_norm("bn", 4), lambda: nn.BatchNorm1d(4)])
def test_frozen_layers_are_left_and_normalize_by_what_they_hold(make: Callable[[], nn.Module]) -> None:
    frozen = freeze_norms(filled(make()).double())
    model = nn.Sequential(frozen, make_norm("bn", 4).double())
    before = {k: t.clone() for k, t in frozen.state_dict().items()}
    data = torch.randn(9, 4, 3, dtype=DOUBLE)
    recalibrate(model, data.split(4))
    assert_equal_tensors(frozen.state_dict(), before)
    mean, var = population(frozen.eval()(data))
    torch.testing.assert_close(model[1].running_mean, mean)
    torch.testing.assert_close(model[1].running_var, var)


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(3, 3),
        make_norm("gn", 4),
        nn.BatchNorm1d(3, track_running_stats=False),
        freeze_norms(nn.BatchNorm1d(3)),
    ],
    ids=["none", "of samples", "not tracking", "frozen"],
)
def test_a_model_without_running_statistics_is_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="has no layer with running statistics that are not frozen"):
        recalibrate(model, [torch.randn(4, 3)])


def test_a_lazy_layer_is_refused_before_it_is_shown_a_batch() -> None:
    with pytest.raises(ValueError, match="LazyBatchNorm1d does not know its channels yet"):
        recalibrate(nn.Sequential(nn.LazyBatchNorm1d()), [torch.randn(4, 3)])


def test_a_batch_of_nothing_changes_nothing() -> None:
    data = torch.randn(6, 3, 4, dtype=DOUBLE)
    for make in (lambda: make_norm("bn", 3), lambda: nn.BatchNorm1d(3)):
        layer = recalibrate(make().double(), [data[:0], data])
        torch.testing.assert_close(layer.running_var, population(data)[1])


class BatchNormAct(nn.BatchNorm2d):
    """As others derive from it: with an activation behind it, and a name for its input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(input=x).relu()


def test_what_derives_from_torchs_is_recalibrated_as_it_is() -> None:
    data = torch.randn(9, 3, 4, 4, dtype=DOUBLE) + 5
    model = nn.Sequential(BatchNormAct(3), BatchNormAct(3)).double()
    recalibrate(model, data.split((4, 5)))
    torch.testing.assert_close(model[0].running_mean, population(data)[0])
    inner = []
    for x in data.split((4, 5)):
        mean, var = moments_over(flat(x), 0, 2)
        inner.append(((flat(x) - mean) / (var + 1e-5).sqrt()).relu())
    torch.testing.assert_close(model[1].running_var, population(torch.cat(inner))[1])


@pytest.mark.parametrize("name", ["bn", "brn", "sn", "rbn", *TORCH])
def test_a_compiled_model_is_recalibrated_without_compiling_it_again(name: str) -> None:
    """By the whole, by a part, and in place; and afterwards the graph that was there still serves."""
    layer = filled(TORCH[name](3) if name in TORCH else make_norm(name, 3))
    whole = nn.Sequential(nn.Conv2d(3, 3, 1), layer).eval()
    data = torch.randn(8, 3, 4, 4)
    expected = recalibrate(copy.deepcopy(whole), data.split(2)).state_dict()
    part, in_place = nn.Sequential(torch.compile(copy.deepcopy(whole), backend="eager")), copy.deepcopy(whole)
    in_place.compile(backend="eager")
    stats = torch._dynamo.utils.counters["stats"]
    try:
        for model in (torch.compile(copy.deepcopy(whole), backend="eager"), part, in_place):
            model(data)
            graphs = stats["unique_graphs"]
            for _ in range(3):
                recalibrate(model, data.split(2))
            model(data)
            assert stats["unique_graphs"] == graphs
            assert_equal_tensors({k.split("_orig_mod.")[-1]: t for k, t in model.state_dict().items()}, expected)
    finally:
        torch._dynamo.reset()


@pytest.mark.parametrize("name", ["bn", "rbn", "in"])
def test_a_layer_that_no_batch_reaches_keeps_its_statistics(name: str) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = make_norm("bn", 3)
            self.unused = filled(make_norm(name, 3, track_running_stats=True))

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = Half()
    before = {k: t.clone() for k, t in model.unused.state_dict().items()}
    recalibrate(model, [torch.randn(4, 3)])
    assert_equal_tensors(model.unused.state_dict(), before)
