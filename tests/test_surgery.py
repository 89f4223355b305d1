"""Whole models: what convert_norms keeps and refuses, what freeze_norms holds still."""

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.utils import prune

import normcore
from normcore import convert_norms, freeze_norms, make_norm

from .helpers import filled

DOUBLE = torch.float64
pytestmark = pytest.mark.usefixtures("seed")


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
    old.weight.requires_grad_(False)
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
    assert new.weight is old.weight
    if name != "rms":
        assert new.bias is old.bias
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
    group = dist.ProcessGroup(0, 1)  # type: ignore[call-arg]
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
    group = dist.ProcessGroup(0, 1)  # type: ignore[call-arg]
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


# --- what else holds on to a layer: an optimizer, another layer, a hook ---------------------------------------------


def test_an_optimizer_from_before_goes_on_with_the_same_parameters() -> None:
    """Its steps move the new layers' scales."""
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.SyncBatchNorm(4), make_norm("in", 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    convert_norms(model, "gn")
    before = [layer.weight.clone() for layer in model[1:]]
    model(torch.randn(3, 2, 5, 5)).pow(3).sum().backward()
    optimizer.step()
    assert all((layer.weight - old).abs().min() > 0 for layer, old in zip(model[1:], before, strict=True))


class Tied(nn.Module):
    """Two layers with one scale, and a third with a scale of its own."""

    def __init__(self, make: Callable[[], nn.Module] = lambda: nn.BatchNorm2d(4)) -> None:
        super().__init__()
        self.a, self.b, self.c = make(), make(), make()
        self.b.weight = self.a.weight


@pytest.mark.parametrize("name", sorted(set(TYPES) - {"none", "lrn"}))
@pytest.mark.parametrize("make", [lambda: nn.BatchNorm2d(4), lambda: make_norm("bn", 4), lambda: make_norm("fnbb", 4)])
def test_a_weight_that_two_layers_share_stays_one(name: str, make: Callable[[], nn.Module]) -> None:
    """Also where the new one has another shape."""
    model = convert_norms(Tied(make), name)
    assert model.a.weight is model.b.weight
    assert model.a.weight is not model.c.weight
    if model.a.bias is not None:
        assert model.a.bias is not model.b.bias


def test_hooks_and_their_handles_outlive_a_conversion() -> None:
    seen: list[str] = []
    layer = nn.BatchNorm2d(4)
    handles = [
        layer.register_forward_pre_hook(lambda m, _: seen.append(f"before {type(m).__name__}")),
        layer.register_forward_hook(lambda m, _x, _y: seen.append(f"after {type(m).__name__}")),
        layer.register_full_backward_hook(lambda m, _dx, _dy: seen.append(f"backward {type(m).__name__}")),
    ]
    model = convert_norms(nn.Sequential(nn.Conv2d(2, 4, 1), layer), "gn")
    x = torch.randn(3, 2, 5, 5)
    model(x).sum().backward()
    assert seen == ["before GroupNorm", "after GroupNorm", "backward GroupNorm"]
    for handle in handles:
        handle.remove()
    model(x).sum().backward()
    assert len(seen) == 3


# --- what would be lost --------------------------------------------------------------------------------------------


class BatchNormAct(nn.BatchNorm2d):
    """As others derive from it: with an activation behind it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(super().forward(x))


class OwnAct(normcore.GroupNorm):
    pass


def observed() -> nn.Module:
    layer = nn.BatchNorm2d(4)
    layer.observer = nn.Identity()
    return layer


def patched() -> nn.Module:
    layer = nn.BatchNorm2d(4)
    layer.forward = lambda x: x
    return layer


LOST: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "derived": (lambda: BatchNormAct(4), r"test_surgery.BatchNormAct is derived from BatchNorm2d, and what it adds"),
    "derived from ours": (lambda: OwnAct(2, 4), "OwnAct is derived from GroupNorm, and what it adds would be lost"),
    "parametrized": (
        lambda: nn.utils.parametrizations.weight_norm(nn.BatchNorm2d(4), dim=None),
        r"ParametrizedBatchNorm2d computes its weight or bias .* by torch.nn.utils.parametrize.remove_parametrizations",
    ),
    "ours, parametrized": (lambda: nn.utils.parametrizations.weight_norm(make_norm("bn", 4), dim=None), "computes"),
    "pruned": (lambda: prune.l1_unstructured(nn.BatchNorm2d(4), "weight", 2), "BatchNorm2d computes its"),
    "lazy": (nn.LazyBatchNorm2d, "LazyBatchNorm2d does not know its channels yet: call the model with an input first"),
    "with a module": (observed, "BatchNorm2d has modules within it or a forward of its own, which would be lost"),
    "with a forward": (patched, "BatchNorm2d has modules within it or a forward of its own, which would be lost"),
}


@pytest.mark.parametrize("kind", LOST)
def test_what_would_be_lost_is_refused_with_its_place(kind: str) -> None:
    make, message = LOST[kind]
    model = nn.Sequential(nn.BatchNorm2d(4), nn.ModuleDict({"norm": make()}))
    before = [*model.named_modules()]
    with pytest.raises(ValueError, match=rf"^1\.norm: .*{message}"):
        convert_norms(model, "gn")
    assert [*model.named_modules()] == before


def test_a_lazy_layer_is_converted_once_it_knows_its_channels() -> None:
    model = nn.Sequential(nn.LazyBatchNorm2d())
    model(torch.randn(2, 6, 3, 3))
    assert convert_norms(model, "bn")[0].num_features == 6


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


def test_freezing_changes_no_layer_for_another() -> None:
    """Nor a parameter, nor a hook; derived and parametrized layers are frozen like the others."""
    seen: list[nn.Module] = []
    layers = [filled(BatchNormAct(4)), nn.utils.parametrizations.weight_norm(nn.BatchNorm2d(4), dim=None)]
    model = nn.Sequential(*layers, nn.BatchNorm2d(4), make_norm("bn", 4))
    model[2].register_forward_hook(lambda m, _x, _y: seen.append(m))
    before, parameters = [*model.modules()], [*model.parameters()]
    x = torch.randn(3, 4, 5, 5)
    expected = copy.deepcopy(model).eval()(x)
    seen.clear()
    freeze_norms(freeze_norms(model, affine=False), affine=False).train()
    torch.testing.assert_close(model(x), expected)
    assert seen == [model[2]]
    assert [*model.modules()] == before
    assert [a is b for a, b in zip(model.parameters(), parameters, strict=True)] == [True] * len(parameters)
    assert all(len(m._forward_pre_hooks) == (m is not model[3]) for m in model)


def test_a_frozen_lazy_layer_makes_itself_and_evaluates() -> None:
    model = freeze_norms(nn.Sequential(nn.LazyBatchNorm2d()), affine=False).train()
    x = torch.randn(3, 4, 5, 5) + 3
    torch.testing.assert_close(model(x), x / (1 + model[0].eps) ** 0.5)


@pytest.mark.parametrize("name", RUNNING)
def test_a_layer_can_be_set_free(name: str) -> None:
    model = freeze_norms(nn.Sequential(RUNNING[name]()))
    layer = model[0]
    assert layer.frozen
    if isinstance(layer, nn.SyncBatchNorm):  # in training it wants a GPU
        return
    layer.frozen = False
    model.train()(torch.randn(3, 4, 5, 5) + 3)
    assert layer.training
    assert (layer.running_mean != 0).all()


def test_frozen_layers_of_torch_stay_frozen_when_they_are_exchanged() -> None:
    layer = filled(nn.BatchNorm2d(4))
    x = torch.randn(3, 4, 5, 5)
    expected = layer.eval()(x)
    model = convert_norms(freeze_norms(nn.Sequential(layer)), "brn").train()
    torch.testing.assert_close(model(x), expected)
    assert "frozen=True" in repr(model)


def test_a_compiled_model_with_frozen_layers_is_compiled_once_for_each_mode() -> None:
    model = freeze_norms(nn.Sequential(filled(nn.BatchNorm2d(4)), filled(make_norm("bn", 4)))).train()
    x = torch.randn(3, 4, 5, 5)
    expected = model(x)
    compiled = torch.compile(model.train(), backend="eager")
    counter = torch._dynamo.utils.counters["stats"]
    try:
        for _ in range(3):
            torch.testing.assert_close(compiled.train()(x), expected)
            first = counter["unique_graphs"]
            torch.testing.assert_close(compiled(x), expected)
        assert counter["unique_graphs"] <= first + 1
    finally:
        torch._dynamo.reset()
