"""Whole models: what convert_norms keeps, what freeze_norms holds still, what recalibrate estimates."""

import copy
import functools
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normcore
from normcore import convert_norms, freeze_norms, make_norm, recalibrate

from .formulas import flat, moments_over

DOUBLE = torch.float64
pytestmark = pytest.mark.usefixtures("seed")


def filled(layer: nn.Module) -> nn.Module:
    """Parameters and running statistics as training would leave them, not ones and zeros."""
    for name, t in (*layer.named_parameters(), *layer.named_buffers()):
        if t.is_floating_point():
            nn.init.uniform_(t, 0.5, 2) if "var" in name else nn.init.normal_(t)
        elif "tracked" in name:
            t.fill_(7)
    return layer


class Nested(nn.Module):
    """Norms of every origin at every depth, one of them in two places, and what is to be left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.blocks = nn.ModuleList([nn.ModuleDict({"a": nn.GroupNorm(2, 4), "b": nn.InstanceNorm2d(4, affine=True)})])
        self.own = make_norm("sn", 4)
        self.shared = self.again = nn.SyncBatchNorm(4)
        self.twice = nn.ModuleList([self.stem, make_norm("fnbb", 4)])
        self.left = nn.ModuleDict({"ln": nn.LayerNorm(4), "rms": nn.RMSNorm(4), "lrn": make_norm("lrn", 4)})


# --- convert_norms -----------------------------------------------------------------------------------------

TYPES = {
    "none": nn.Identity,
    "bn": normcore.BatchNorm,
    "ln": normcore.LayerNorm,
    "cln": normcore.ChannelLayerNorm,
    "in": normcore.InstanceNorm,
    "gn": normcore.GroupNorm,
    "rms": normcore.RMSNorm,
    "lrn": normcore.LocalResponseNorm,
    "sn": normcore.SwitchableNorm,
    "brn": normcore.BatchRenorm,
    "rbn": normcore.ReferenceBatchNorm,
    "vbn": normcore.VirtualBatchNorm,
    "fnbb": normcore.FullNormBB,
    "fnbl": normcore.FullNormBL,
}
PLACES = ("stem.1", "blocks.0.a", "blocks.0.b", "own", "shared", "again", "twice.0.1", "twice.1")


@pytest.mark.parametrize("name", TYPES)
def test_convert_exchanges_every_norm_and_nothing_else(name: str) -> None:
    model = Nested()
    others = {path: m for path, m in model.named_modules() if path not in PLACES}
    assert convert_norms(model, name) is model
    for path in PLACES:
        assert type(model.get_submodule(path)) is TYPES[name], path
    assert all(model.get_submodule(path) is m for path, m in others.items())


def test_convert_keeps_one_layer_in_two_places_one() -> None:
    model = convert_norms(Nested(), "gn")
    assert model.shared is model.again
    assert model.twice[0] is model.stem
    assert model.own is not model.shared


def test_convert_returns_the_new_layer_of_a_model_that_is_a_norm() -> None:
    layer = convert_norms(nn.BatchNorm2d(6), "gn", num_groups=3)
    assert isinstance(layer, normcore.GroupNorm)
    assert (layer.num_groups, layer.num_channels) == (3, 6)


# old -> its name here: the same function, in training and at evaluation
TWINS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4, eps=0.1, momentum=0.3), "bn"),
    "BatchNorm2d, averaging": (lambda: nn.BatchNorm2d(4, momentum=None), "bn"),
    "BatchNorm2d, not affine": (lambda: nn.BatchNorm2d(4, affine=False), "bn"),
    "BatchNorm2d, not tracking": (lambda: nn.BatchNorm2d(4, track_running_stats=False), "bn"),
    "SyncBatchNorm": (lambda: nn.SyncBatchNorm(4), "bn"),
    "own BatchNorm": (lambda: make_norm("bn", 4, momentum=0.3), "bn"),
    "own FullNormBB": (lambda: make_norm("fnbb", 4, momentum=0.3), "fnbb"),
    "own SwitchableNorm": (lambda: make_norm("sn", 4, momentum=0.3), "sn"),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4, eps=0.1), "in"),
    "InstanceNorm2d, affine": (lambda: nn.InstanceNorm2d(4, affine=True), "in"),
    "InstanceNorm2d, tracking": (lambda: nn.InstanceNorm2d(4, momentum=0.3, track_running_stats=True), "in"),
    "GroupNorm": (lambda: nn.GroupNorm(1, 4, eps=0.1), "ln"),
    "GroupNorm, not affine": (lambda: nn.GroupNorm(1, 4, affine=False), "ln"),
}


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("kind", TWINS)
def test_convert_to_the_twin_changes_no_output(kind: str, dtype: torch.dtype) -> None:
    make, name = TWINS[kind]
    old = filled(make()).to(dtype).eval()
    new = convert_norms(nn.Sequential(copy.deepcopy(old)), name)[0]
    rounding = 1e-12 if dtype == DOUBLE else 1e-5
    x = torch.randn(3, 4, 5, 5, dtype=dtype)
    torch.testing.assert_close(new(x), old(x), rtol=rounding, atol=rounding)
    if isinstance(old, nn.SyncBatchNorm):  # in training it wants a GPU
        return
    torch.testing.assert_close(new.train()(x), old.train()(x), rtol=rounding, atol=rounding)
    state, expected = new.state_dict(), old.state_dict()
    assert state.keys() == expected.keys()
    if name == "in":  # torch's keeps the count of batches but never counts
        expected.pop("num_batches_tracked", None)
    for key, value in expected.items():
        torch.testing.assert_close(state[key], value, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("name", ["brn", "rbn", "bn"])
def test_convert_between_batch_norms_keeps_the_evaluation(name: str) -> None:
    old = filled(nn.BatchNorm2d(4, momentum=0.01)).eval()
    new = convert_norms(nn.Sequential(copy.deepcopy(old)), name)[0]
    x = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(new(x), old(x), rtol=1e-5, atol=1e-5)
    assert (new.momentum, new.num_batches_tracked.item()) == (0.01, 7)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, DOUBLE])
@pytest.mark.parametrize("training", [False, True])
def test_convert_keeps_what_shapes_allow(name: str, dtype: torch.dtype, training: bool) -> None:
    """Weight, bias, eps, dtype, mode, and whether a parameter is trained."""
    old = filled(nn.BatchNorm2d(4, eps=0.25)).to(dtype).train(training)
    old.weight.requires_grad_(requires_grad=False)
    new = convert_norms(nn.Sequential(old), name)[0]
    assert new.training == training
    if name in ("none", "lrn"):
        assert not list(new.parameters())
        return
    assert new.eps == 0.25
    assert all(t.dtype == dtype for t in (*new.parameters(), *new.buffers()) if t.is_floating_point())
    assert not new.weight.requires_grad
    if name == "fnbb":  # one pair for all channels: nothing to take it from
        assert (new.weight.item(), new.bias.item()) == (1, 0)
        assert (new.running_mean.item(), new.running_var.item()) == (0, 1)
        return
    assert torch.equal(new.weight, old.weight)
    assert new.weight.data_ptr() != old.weight.data_ptr()
    if name != "rms":
        assert torch.equal(new.bias, old.bias)
        assert new.bias.requires_grad
    assert all(p.requires_grad for key, p in new.named_parameters() if key.endswith("_weight"))


def test_convert_makes_no_pair_where_there_was_none() -> None:
    for name in set(TYPES) - {"none", "lrn"}:
        new = convert_norms(nn.BatchNorm2d(4, affine=False), name)
        assert new.weight is None
        assert new.bias is None


def test_convert_to_a_layer_with_a_bias_starts_it_at_zero() -> None:
    new = convert_norms(filled(make_norm("rms", 4)), "bn")
    assert torch.equal(new.bias, torch.zeros(4))


def test_options_win_over_what_is_kept() -> None:
    new = convert_norms(filled(nn.BatchNorm2d(4, eps=0.25, momentum=0.5)), "bn", eps=0.5, momentum=0.1, affine=False)
    assert (new.eps, new.momentum, new.affine, new.weight) == (0.5, 0.1, False, None)


def test_convert_keeps_a_frozen_layer_frozen() -> None:
    model = freeze_norms(nn.Sequential(filled(make_norm("bn", 4))))
    x = torch.randn(3, 4, 5)
    expected = model.train()(x)
    torch.testing.assert_close(convert_norms(model, "brn").train()(x), expected)


@pytest.mark.parametrize("name", ["bn", "brn", "rbn", "sn", "fnbb", "fnbl"])
def test_convert_keeps_the_process_group(name: str) -> None:
    """By which statistics are taken: without it, they would silently be those of one process."""
    group: Any = object()
    for old in (make_norm("bn", 4, process_group=group), nn.SyncBatchNorm(4, process_group=group)):
        assert convert_norms(old, name).process_group is group
    assert convert_norms(make_norm("bn", 4, process_group=group), "gn").state_dict().keys() == {"weight", "bias"}


def test_convert_on_the_meta_device() -> None:
    """Where large models are put together before they are loaded."""
    model = convert_norms(nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)).to("meta"), "bn")
    assert all(t.is_meta for t in (*model.parameters(), *model.buffers()))
    assert model(torch.empty(2, 2, 3, 3, device="meta")).shape == (2, 4, 3, 3)


@pytest.mark.parametrize(
    ("model", "place"),
    [
        (nn.Sequential(nn.Conv2d(3, 6, 1), nn.Sequential(nn.BatchNorm2d(6))), "1.0"),
        (nn.BatchNorm2d(6), "the model"),
    ],
    ids=["nested", "root"],
)
def test_options_that_do_not_fit_name_the_place(model: nn.Module, place: str) -> None:
    with pytest.raises(ValueError, match=f"^{place}: num_groups must divide num_channels=6, got num_groups=4"):
        convert_norms(model, "gn", num_groups=4)


def test_convert_to_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown norm 'bnn': known are none, bn.*did you mean 'bn'"):
        convert_norms(Nested(), "bnn")


# --- normalizers of one's own, registered by another name ----------------------------------------------------------


class OwnBatchNorm(normcore.BatchNorm):
    """Hands on whatever it does not read itself."""

    def __init__(self, channels: int, gain: float = 1.0, **options: Any) -> None:
        super().__init__(channels, **options)
        self.gain = gain


class OwnInstanceNorm(normcore.InstanceNorm):
    pass


class PlainNorm(nn.Module):
    """No layer of normcore's, and it takes eps alone."""

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(channels))


class BrokenNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        raise RuntimeError("no such device")


def own_function(channels: int, gain: float = 2.0, **options: Any) -> OwnBatchNorm:
    return OwnBatchNorm(channels, gain, **options)


BY_A_CLASS: dict[str, Callable[..., nn.Module]] = {
    "a subclass": OwnBatchNorm,
    "a function that says its class": own_function,
    "a function that does not": lambda channels, **options: OwnBatchNorm(channels, **options),
    "a partial class": functools.partial(OwnBatchNorm, gain=3.0),
}


@pytest.mark.parametrize("kind", BY_A_CLASS)
def test_convert_asks_a_layer_of_ones_own_what_it_takes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(normcore.NORMS, "own", BY_A_CLASS[kind])
    group: Any = object()
    old = filled(make_norm("bn", 4, eps=0.25, momentum=0.01, bias=False, process_group=group)).eval()
    new = convert_norms(nn.Sequential(copy.copy(old)), "own")[0]
    assert isinstance(new, OwnBatchNorm)
    assert (new.eps, new.momentum, new.bias, new.process_group) == (0.25, 0.01, None, group)
    x = torch.randn(3, 4, 5)
    torch.testing.assert_close(new(x), old(x))
    assert not convert_norms(nn.BatchNorm1d(4, track_running_stats=False), "own").track_running_stats


def test_running_averages_of_instances_are_none_of_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Momentum and tracking are kept within either kind, whatever its name, and not from one to the other."""
    monkeypatch.setitem(normcore.NORMS, "own", OwnInstanceNorm)
    tracking = nn.InstanceNorm1d(4, momentum=0.01, track_running_stats=True)
    for old, name, kept in ((tracking, "own", True), (nn.BatchNorm1d(4, momentum=0.01), "own", False)):
        new = convert_norms(copy.deepcopy(old), name)
        assert (new.momentum, new.track_running_stats) == ((0.01, True) if kept else (0.1, False))
    assert convert_norms(tracking, "bn").momentum == 0.1


def test_a_plain_module_gets_what_it_takes_and_what_it_does_not_names_the_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(normcore.NORMS, "plain", PlainNorm)
    model = nn.Sequential(nn.ModuleDict({"norm": filled(nn.BatchNorm2d(4, eps=0.25, momentum=0.01))}))
    old = model[0]["norm"]
    with pytest.raises(ValueError, match=r"^0\.norm: .*unexpected keyword argument 'momentum'"):
        convert_norms(model, "plain", momentum=0.1)
    assert model[0]["norm"] is old
    new = convert_norms(model, "plain")[0]["norm"]
    assert (type(new), new.eps) == (PlainNorm, 0.25)
    assert torch.equal(new.weight, old.weight)


def test_whatever_a_constructor_raises_names_the_place_and_leaves_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    makers = iter([PlainNorm, BrokenNorm])
    monkeypatch.setitem(normcore.NORMS, "broken", lambda channels: next(makers)(channels))
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    before = list(model)
    with pytest.raises(ValueError, match=r"^1: no such device"):
        convert_norms(model, "broken")
    assert list(model) == before


def test_a_converted_network_trains() -> None:
    model = convert_norms(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)), "gn")
    model(torch.randn(3, 2, 6, 6)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# --- freeze_norms ------------------------------------------------------------------------------------------

RUNNING: dict[str, Callable[[], nn.Module]] = {
    **{name: lambda name=name: make_norm(name, 4) for name in ("bn", "brn", "rbn", "sn", "fnbb")},
    "in": lambda: make_norm("in", 4, track_running_stats=True),
    "BatchNorm2d": lambda: nn.BatchNorm2d(4),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(4),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
}


@pytest.mark.parametrize("name", RUNNING)
def test_frozen_norms_evaluate_whatever_the_mode(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 1), filled(RUNNING[name]()))
    x = torch.randn(3, 2, 5, 5)
    expected = model.eval()(x)
    assert freeze_norms(model) is model
    model.train()
    buffers = {key: b.clone() for key, b in model.named_buffers()}
    for form in (model, copy.deepcopy(model).train(), pickle.loads(pickle.dumps(model)).train()):
        for _ in range(2):
            torch.testing.assert_close(form(x), expected, rtol=1e-5, atol=1e-5)
        assert all(torch.equal(b, buffers[key]) for key, b in form.named_buffers())
        assert form.training
        assert not any(p.requires_grad for p in form[1].parameters())
        assert all(p.requires_grad for p in form[0].parameters())


def test_gradients_pass_frozen_norms() -> None:
    """As through a scale and a shift."""
    layer = freeze_norms(nn.Sequential(filled(nn.BatchNorm2d(4)).double()), affine=False)[0].train()
    x, dy = (torch.randn(3, 4, 5, 5, dtype=DOUBLE, requires_grad=True) for _ in range(2))
    dx, dweight, dbias = torch.autograd.grad(layer(x), (x, layer.weight, layer.bias), dy)
    mean, deviation = (t.view(1, 4, 1, 1) for t in (layer.running_mean, (layer.running_var + layer.eps).sqrt()))
    torch.testing.assert_close(dx, dy * layer.weight.view(1, 4, 1, 1) / deviation)
    torch.testing.assert_close(dweight, (dy * (x - mean) / deviation).sum((0, 2, 3)))
    torch.testing.assert_close(dbias, dy.sum((0, 2, 3)))


def test_freezing_reaches_the_pairs_of_all_norms_or_of_none() -> None:
    for affine in (True, False):
        model = freeze_norms(Nested(), affine=affine)
        norms = {p for path, m in model.named_modules() if path in PLACES or "left." in path for p in m.parameters()}
        assert len(norms) == 2 * 6 + 2 + 3  # pairs; the two mixture weights of sn; nn.LayerNorm's and nn.RMSNorm's
        assert all(p.requires_grad != affine for p in norms)
        assert all(p.requires_grad for p in set(model.parameters()) - norms)


def test_freezing_leaves_statistics_of_the_batch_alone() -> None:
    """What keeps no running averages has nothing to be frozen to."""
    x = torch.randn(3, 4, 5, 5) + 3
    for old in (nn.BatchNorm2d(4, track_running_stats=False), make_norm("gn", 4), make_norm("fnbl", 4)):
        expected = old.train()(x)
        torch.testing.assert_close(freeze_norms(nn.Sequential(old)).train()(x), expected, rtol=1e-5, atol=1e-5)


def test_freezing_a_model_that_is_a_norm() -> None:
    layer = freeze_norms(filled(nn.BatchNorm2d(4)))
    assert isinstance(layer, normcore.BatchNorm)
    assert "frozen=True" in repr(layer)


# --- recalibrate -------------------------------------------------------------------------------------------


def population(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of every channel over all there is."""
    mean, var = moments_over(flat(x), 0, 2)
    m = x.numel() // x.shape[1]
    return mean.flatten(), var.flatten() * m / (m - 1)


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
@pytest.mark.parametrize("name", ["bn", "brn", "sn"])
def test_recalibrated_statistics_are_those_of_all_the_data(name: str, shape: tuple[int, ...]) -> None:
    """Exactly, however unequal the batches: bare, and first in a tuple or list."""
    data = torch.randn(shape, dtype=DOUBLE) * torch.arange(1.0, 15).view(-1, *[1] * (len(shape) - 1)) + 100
    layer = filled(make_norm(name, 3)).double()
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


def test_recalibrated_instance_norm_averages_over_batches() -> None:
    data = torch.randn(9, 3, 4, 5, dtype=DOUBLE)
    batches = data.split((2, 4, 3))
    layer = recalibrate(filled(make_norm("in", 3, track_running_stats=True)).double(), batches)
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


@pytest.mark.parametrize("name", ["bn", "brn", "sn", "rbn", "fnbb"])
@pytest.mark.parametrize("training", [True, False])
def test_recalibrate_changes_running_statistics_only(name: str, training: bool) -> None:
    """Momentum, modes (a part may be at evaluation), counts, weights; and the model can be pickled as before."""
    layer = filled(make_norm(name, 4, momentum=0.3))
    model = nn.Sequential(nn.Conv2d(2, 4, 1), layer, nn.Dropout(), nn.Sequential(nn.ReLU())).train(training)
    model[3].train(not training)
    if name == "rbn":
        layer.set_reference(torch.randn(4, 4, 3, 3))
    attributes, tensors = state_of(model), {k: t.clone() for k, t in model.state_dict().items()}
    recalibrate(model, torch.randn(9, 2, 5, 5).split(3))
    assert state_of(model) == attributes
    moved = {"1.running_mean", "1.running_var"}
    found = model.state_dict()
    assert not any(torch.equal(found[key], tensors[key]) for key in moved)
    assert_equal_tensors(*({k: t for k, t in d.items() if k not in moved} for d in (found, tensors)))
    assert_equal_tensors(pickle.loads(pickle.dumps(model)).state_dict(), found)
    assert not any(p.grad is not None for p in model.parameters())


def failing(data: Tensor) -> Iterator[Tensor]:
    yield from data.split(3)
    raise OSError("the disk is gone")


@pytest.mark.parametrize("name", ["bn", "brn", "sn", "rbn", "fnbb", "in"])
@pytest.mark.parametrize("what", ["loader", "model", "empty"])
def test_after_an_error_all_is_as_before(name: str, what: str) -> None:
    options = {"track_running_stats": True} if name == "in" else {}
    model = nn.Sequential(filled(make_norm(name, 4, **options)), nn.Linear(5, 5), filled(make_norm("bn", 4)))
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


def test_frozen_layers_are_left_and_normalize_by_what_they_hold() -> None:
    frozen = freeze_norms(filled(make_norm("bn", 4)).double())
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


def test_recalibrating_a_model_that_is_a_norm_of_torch() -> None:
    data = torch.randn(9, 3) + 5
    layer = recalibrate(nn.BatchNorm1d(3), data.split((4, 5)))
    assert isinstance(layer, normcore.BatchNorm)
    torch.testing.assert_close(layer.running_mean, population(data)[0])


def test_a_layer_that_no_batch_reaches_keeps_its_statistics() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = make_norm("bn", 3), filled(make_norm("bn", 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = Half()
    before = {k: t.clone() for k, t in model.unused.state_dict().items()}
    recalibrate(model, [torch.randn(4, 3)])
    assert_equal_tensors(model.unused.state_dict(), before)
