"""make_norm: every name makes its layer, and a mistake says what to write instead."""

import pytest
import torch
from torch import nn

import normcore
from normcore import NORMS, make_norm

RUNNING = {"running_mean", "running_var", "num_batches_tracked"}
REFERENCE = {"reference_mean", "reference_var", "reference_size"}
PAIR = {"weight", "bias"}

# name -> class, and the keys of its state_dict
MADE: dict[str, tuple[type[nn.Module], set[str]]] = {
    "none": (nn.Identity, set()),
    "bn": (normcore.BatchNorm, PAIR | RUNNING),
    "ln": (normcore.LayerNorm, PAIR),
    "cln": (normcore.ChannelLayerNorm, PAIR),
    "in": (normcore.InstanceNorm, PAIR),
    "gn": (normcore.GroupNorm, PAIR),
    "rms": (normcore.RMSNorm, {"weight"}),
    "lrn": (normcore.LocalResponseNorm, set()),
    "sn": (normcore.SwitchableNorm, PAIR | RUNNING | {"mean_weight", "var_weight"}),
    "brn": (normcore.BatchRenorm, PAIR | RUNNING),
    "rbn": (normcore.ReferenceBatchNorm, PAIR | RUNNING | REFERENCE),
    "vbn": (normcore.VirtualBatchNorm, PAIR | REFERENCE),
    "fnbb": (normcore.FullNormBB, PAIR | RUNNING),
    "fnbl": (normcore.FullNormBL, PAIR),
}
AFFINE = sorted(MADE.keys() - {"none", "lrn"})


def test_the_names_are_these() -> None:
    assert NORMS.keys() == MADE.keys()


@pytest.mark.parametrize("name", MADE)
def test_every_name_makes_its_class_and_state(name: str) -> None:
    kind, keys = MADE[name]
    layer = make_norm(name, 4)
    assert type(layer) is kind
    assert layer.state_dict().keys() == keys
    size = 1 if name == "fnbb" else 4
    assert all(layer.state_dict()[key].shape == (size,) for key in keys & (PAIR | {"running_mean", "reference_mean"}))
    layer(torch.randn(3, 4, 6, 6) + 1)
    make_norm(name, 4).load_state_dict(layer.state_dict())


@pytest.mark.parametrize("name", MADE)
def test_every_layer_keeps_shape_and_dtype_and_passes_gradients(name: str) -> None:
    layer = make_norm(name, 4)
    x = torch.randn(3, 4, 6, 6, requires_grad=True)
    y = layer(x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    y.pow(3).sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is not None for p in layer.parameters())


@pytest.mark.parametrize("name", AFFINE)
def test_options_reach_the_layer(name: str) -> None:
    layer = make_norm(name, 4, eps=1e-3, affine=False, dtype=torch.float64)
    assert (layer.eps, layer.affine, layer.weight, layer.bias) == (1e-3, False, None, None)
    assert all(t.dtype == torch.float64 for t in layer.state_dict().values() if t.is_floating_point())
    assert all(t.is_meta for t in make_norm(name, 4, device="meta").state_dict().values())


@pytest.mark.parametrize("name", AFFINE)
def test_defaults_are_affine_with_eps_of_torch(name: str) -> None:
    layer = make_norm(name, 4)
    assert (layer.eps, layer.affine) == (1e-5, True)
    assert torch.equal(layer.weight, torch.ones_like(layer.weight))
    assert layer.bias is None or torch.equal(layer.bias, torch.zeros_like(layer.bias))


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("bn", "momentum", None),
        ("sn", "track_running_stats", False),
        ("in", "track_running_stats", True),
        ("lrn", "size", 3),
        ("lrn", "k", 2.0),
        ("brn", "r_max", 2.0),
        ("brn", "d_max", 0.5),
        ("brn", "schedule", None),
        ("gn", "num_groups", 2),
        ("fnbl", "semantics", "text"),
    ],
)
def test_options_of_its_own_reach_the_layer(name: str, option: str, value: object) -> None:
    default, layer = make_norm(name, 4), make_norm(name, 4, **{option: value})
    assert getattr(layer, option) == value
    if name != "gn":
        assert getattr(default, option) != value


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(1, 1), (2, 1), (3, 1), (4, 2), (6, 3), (7, 1), (16, 8), (30, 15), (64, 32), (96, 32), (100, 25), (256, 32)],
)
def test_groups_are_as_many_as_leave_two_channels_and_at_most_32(channels: int, groups: int) -> None:
    assert make_norm("gn", channels).num_groups == groups


@pytest.mark.parametrize(("name", "closest"), [("bnn", "bn"), ("b", "bn"), ("non", "none"), ("None", "none")])
def test_an_unknown_name_gets_the_known_and_the_closest(name: str, closest: str) -> None:
    with pytest.raises(ValueError, match=f"unknown norm '{name}': known are none, bn.*; did you mean '{closest}'"):
        make_norm(name, 4)


def test_a_name_like_none_of_them_gets_the_known() -> None:
    with pytest.raises(ValueError, match="unknown norm 'xyzzy': known are none, bn") as caught:
        make_norm("xyzzy", 4)
    assert all(name in str(caught.value) for name in NORMS)
    assert "did you mean" not in str(caught.value)


def test_none_takes_any_channels_and_no_options() -> None:
    """An option that nothing reads is a mistake in a configuration."""
    x = torch.randn(2, 3, 4)
    assert make_norm("none", 3)(x) is x
    with pytest.raises(TypeError, match=r"'none' takes no options, got \['affine', 'eps'\]"):
        make_norm("none", 4, eps=1e-3, affine=False)


@pytest.mark.parametrize(
    ("name", "channels", "options", "error", "message"),
    [
        ("bn", 0, {}, ValueError, "num_features must be a positive integer, got 0"),
        ("ln", 4, {"eps": -1.0}, ValueError, "eps must be a finite number, at least 0, got -1.0"),
        ("bn", 4, {"momentum": 1.5}, ValueError, "momentum must be None or a finite number between 0 and 1, got 1.5"),
        ("gn", 6, {"num_groups": 4}, ValueError, "num_groups must divide num_channels=6, got num_groups=4"),
        ("gn", 0, {}, ValueError, "num_features must be a positive integer, got 0"),
        ("lrn", 4, {"size": 0}, ValueError, "size must be a positive integer, got 0"),
        ("fnbl", 4, {"semantics": "maths"}, ValueError, "semantics must be 'code' or 'text', got 'maths'"),
        ("brn", 4, {"r_max": 0.5}, ValueError, "r_max must be a number, at least 1, got 0.5"),
        ("bn", 4, {"groups": 2}, TypeError, "groups"),
        ("lrn", 4, {"eps": 1e-3}, TypeError, "eps"),
    ],
)
def test_errors_of_the_layers_come_through(
    name: str, channels: int, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_norm(name, channels, **options)
