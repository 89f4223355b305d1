"""A normalizer becomes a part of the layer before it, exactly, or is left as it is."""

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from normcore import NORMS, FusedNorm, freeze_norms, fuse_norms, make_norm

from .helpers import filled

DOUBLE = torch.float64
pytestmark = pytest.mark.usefixtures("seed")

#: of inputs with 4 channels, 6 channels
LINEAR: dict[str, Callable[..., nn.Module]] = {
    "Linear": lambda **o: nn.Linear(4, 6, **o),
    "Conv1d": lambda **o: nn.Conv1d(4, 6, 3, padding=1, padding_mode="reflect", **o),
    "Conv2d": lambda **o: nn.Conv2d(4, 6, 3, stride=2, padding="valid", **o),
    "Conv2d, grouped": lambda **o: nn.Conv2d(4, 6, 3, groups=2, dilation=2, padding=2, **o),
    "Conv3d": lambda **o: nn.Conv3d(4, 6, 2, **o),
    "ConvTranspose1d": lambda **o: nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1, **o),
    "ConvTranspose2d, grouped": lambda **o: nn.ConvTranspose2d(4, 6, 3, groups=2, **o),
    "ConvTranspose3d": lambda **o: nn.ConvTranspose3d(4, 6, 2, groups=2, **o),
}
AFFINE = ["bn", "brn", "rbn", "fnbb", "in"]
KINDS: dict[str, Callable[..., nn.Module]] = {
    **{name: lambda d, name=name, **o: make_norm(name, 6, track_running_stats=True, **o) for name in AFFINE},
    "torch's BatchNorm": lambda d, **o: getattr(nn, f"BatchNorm{d}d")(6, **o),
    "torch's SyncBatchNorm": lambda d, **o: nn.SyncBatchNorm(6, **o),
    "torch's InstanceNorm": lambda d, **o: getattr(nn, f"InstanceNorm{d}d")(6, track_running_stats=True, **o),
}


def dimensions(linear: nn.Module) -> int:
    """Spatial ones."""
    return linear.weight.dim() - 2


def by_formula(linear: nn.Module, norm: Any, x: Tensor) -> Tensor:
    """weight (h - mean) / sqrt(var + eps) + bias, in the layer's precision."""
    h = linear(x)
    shape = (1, -1, *[1] * (h.dim() - 2))
    weight, bias = (torch.tensor(v).view(1) if t is None else t for t, v in ((norm.weight, 1.0), (norm.bias, 0.0)))
    mean, var, weight, bias = (t.to(h).view(shape) for t in (norm.running_mean, norm.running_var, weight, bias))
    return weight * (h - mean) / (var + norm.eps).sqrt() + bias


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", LINEAR)
def test_fused_layers_compute_what_the_two_did(before: str, kind: str, bias: bool) -> None:
    """To rounding, by the formula in float64; with and without each bias and the affine pair."""
    for affine, dtype in itertools.product((True, False), (DOUBLE, torch.float32)):
        linear = LINEAR[before](bias=bias).to(dtype)
        d = dimensions(linear)
        if d == 0 and kind == "torch's InstanceNorm":
            continue
        norm = filled(KINDS[kind](d or 1, affine=affine, eps=0.01)).to(dtype)
        model = nn.Sequential(linear, norm, nn.ReLU(inplace=True)).eval()
        x = torch.randn(3, 4, *[7, 6, 5][:d], dtype=dtype)
        expected = by_formula(copy.deepcopy(linear).double(), norm, x.double()).relu()
        assert fuse_norms(model) is model
        assert (type(model[1]), model[0]) == (FusedNorm, linear)
        rounding = 1e-13 if dtype == DOUBLE else 1e-5
        torch.testing.assert_close(model(x).double(), expected, rtol=rounding, atol=rounding)
        assert model[0].weight.dtype == dtype


def test_what_evaluates_otherwise_is_left() -> None:
    """Every other normalizer, and those of AFFINE without running averages."""
    for name in sorted(set(NORMS) - {"none", *AFFINE}):
        model = nn.Sequential(nn.Conv2d(4, 6, 1), make_norm(name, 6), nn.Conv2d(6, 6, 1), make_norm("bn", 6)).eval()
        x = torch.randn(3, 4, 5, 5)
        expected = model(x)
        kept = model[1]
        fuse_norms(model)
        torch.testing.assert_close(model(x), expected)
        assert model[1] is kept
    for norm in (make_norm("in", 6), nn.BatchNorm2d(6, track_running_stats=False), nn.GroupNorm(2, 6)):
        with pytest.raises(ValueError, match="nothing to fuse"):
            fuse_norms(nn.Sequential(nn.Conv2d(4, 6, 1), norm).eval())


class Block(nn.Module):
    """A convolution and a normalizer behind it, by a forward of a test's choice."""

    def __init__(self, forward: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), filled(make_norm("bn", 4))
        self.kept: list[Tensor] = []
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.how = forward

    def forward(self, x: Tensor) -> Any:
        return self.how(self, x)


def residual(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    return m.norm(y) + y


def given_out(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = m.conv(x)
    return m.norm(y), y


def kept(m: Any, x: Tensor) -> Tensor:
    m.feature = m.conv(x)
    return m.norm(m.feature)


def listed(m: Any, x: Tensor) -> Tensor:
    m.kept.append(m.conv(x))
    return m.norm(m.kept[-1])


def changed(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    y.add_(1)
    return m.norm(y)


def masked(m: Any, x: Tensor) -> Tensor:
    return m.norm(m.conv(x), mask=x[:, 0] > 0)


NOT_BEHIND = "its input is not that of a convolution"
UNSOUND: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "residual": (lambda: Block(residual), "norm: the output of conv is used elsewhere, too"),
    "given out": (lambda: Block(given_out), "the output of conv is used elsewhere, too"),
    "kept as an attribute": (lambda: Block(kept), "the output of conv is used elsewhere, too"),
    "kept in a list": (lambda: Block(listed), "the output of conv is used elsewhere, too"),
    "changed in place": (lambda: Block(changed), "the output of conv is used elsewhere, too"),
    "a convolution twice": (
        lambda: Block(lambda m, x: m.norm(m.conv(m.conv(x)))),
        "it or conv is called more than once",
    ),
    "a normalizer twice": (
        lambda: Block(lambda m, x: m.norm(m.other(m.norm(m.conv(x)))), other=nn.Conv2d(4, 4, 1)),
        "it or other is called more than once",
    ),
    "something between": (
        lambda: Block(lambda m, x: m.norm(m.conv(x).relu())),
        "its input is not that of a convolution",
    ),
    "a convolution behind": (lambda: Block(lambda m, x: m.conv(m.norm(x))), "its input is not that of a convolution"),
    "its weight elsewhere": (
        lambda: Block(lambda m, x: nn.functional.conv2d(m.norm(m.conv(x)), m.conv.weight)),
        "parameters of it or conv are used elsewhere, too",
    ),
    "a mask": (lambda: Block(masked), NOT_BEHIND),
    "within a leaf": (
        lambda: nn.Sequential(linear := nn.Linear(4, 4), nn.BatchNorm1d(4), holding(linear)),
        "1: it or 0 is called more than once",
    ),
    "channels of another axis": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.InstanceNorm1d(3, track_running_stats=True)),
        "behind a linear layer it has no channels",
    ),
    "parametrized convolution": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Conv2d(4, 4, 1)), nn.BatchNorm2d(4)),
        NOT_BEHIND,
    ),
    "weight norm of the old kind": (
        lambda: nn.Sequential(nn.utils.weight_norm(nn.Conv2d(4, 4, 1)), nn.BatchNorm2d(4)),
        "has hooks, which would see other values",
    ),
    "not finite": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 1).half(), large(nn.BatchNorm2d(4))),
        "1: the fused weights are not finite",
    ),
}


def holding(linear: nn.Linear) -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 1, 4)
    layer.linear1 = linear
    return layer


def large(norm: nn.Module) -> nn.Module:
    nn.init.constant_(norm.weight, 1e6)
    return norm


@pytest.mark.parametrize("kind", UNSOUND)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_fusing_would_change_is_left_with_a_word(kind: str) -> None:
    make, message = UNSOUND[kind]
    model = make().eval()
    state = {key: t.clone() for key, t in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"^nothing to fuse: .*{message}"):
        fuse_norms(model)
    assert not any(isinstance(m, FusedNorm) for m in model.modules())
    assert not hasattr(model, "feature")
    assert all(torch.equal(t, state[key]) for key, t in model.state_dict().items())


@pytest.mark.parametrize("what", ["conv", "norm"])
@pytest.mark.parametrize("how", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_a_layer_that_is_watched_is_left(what: str, how: str) -> None:
    model = Block(lambda m, x: m.norm(m.conv(x))).eval()
    getattr(getattr(model, what), how)(lambda *_: None)
    with pytest.raises(ValueError, match="norm: it or conv has hooks, which would see other values"):
        fuse_norms(model)


def test_a_hook_on_a_module_around_is_seen() -> None:
    """One that keeps the convolution's output; one that looks at what stays the same does no harm."""
    kept: list[Tensor] = []
    model = nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 1)), nn.BatchNorm2d(4)).eval()
    handle = model[0].register_forward_hook(lambda _m, _x, y: kept.append(y))
    with pytest.raises(ValueError, match=r"the output of 0\.0 is used elsewhere, too"):
        fuse_norms(model)
    handle.remove()
    kept.clear()
    model.register_forward_hook(lambda _m, _x, y: kept.append(y))
    assert isinstance(fuse_norms(model)[1], FusedNorm)


def test_only_what_is_at_evaluation_is_fused() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), make_norm("bn", 4))

    with pytest.raises(ValueError, match=r"the model is in training mode: call model.eval\(\) first"):
        fuse_norms(model())
    part = model().eval()
    part[1].train()
    assert [type(m) is FusedNorm for m in fuse_norms(part)] == [False, False, False, True]
    frozen = freeze_norms(model().eval())
    frozen[1].train()
    frozen[3].train()
    assert [type(m) is FusedNorm for m in fuse_norms(frozen)] == [False, True, False, True]


def test_weights_that_are_shared_are_not_scaled_for_others() -> None:
    """A second convolution with the same weight, and a normalizer that stands in the model by two names."""
    model = Block(lambda m, x: m.other(m.norm(m.conv(x))), other=nn.Conv2d(4, 4, 3)).eval()
    model.alias, model.other.weight = model.norm, model.conv.weight
    x = torch.randn(3, 4, 5, 5)
    expected = model(x)
    fuse_norms(model)
    assert model.alias is model.norm
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def test_a_model_that_cannot_be_followed_says_so() -> None:
    def branching(m: Any, x: Tensor) -> Tensor:
        return m.norm(m.conv(x)) if x.sum() > 0 else x

    with pytest.raises(ValueError, match=r"torch.fx cannot follow Block \(symbolically traced variables"):
        fuse_norms(Block(branching).eval())
    compiled = torch.compile(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).eval())
    with pytest.raises(ValueError, match=r"torch.fx cannot follow OptimizedModule .*fuse before compiling"):
        fuse_norms(compiled)


class WithOption(nn.Module):
    """The path of the default is followed, not that of an argument which is given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), filled(nn.BatchNorm2d(4))

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        y = self.norm(self.conv(x))
        return y if skip is None else y + skip


def test_arguments_have_their_defaults() -> None:
    model, x = WithOption().eval(), torch.randn(2, 4, 3, 3)
    expected = model(x), model(x, x)
    assert isinstance(fuse_norms(model).norm, FusedNorm)
    torch.testing.assert_close((model(x), model(x, x)), expected, rtol=1e-5, atol=1e-5)


def test_a_fused_linear_layer_refuses_what_has_its_channels_elsewhere() -> None:
    """(N, C, L) behind a linear layer: the normalizer's channels are in dimension 1, the layer's in dimension 2."""
    model = nn.Sequential(nn.Linear(4, 6), filled(nn.BatchNorm1d(6))).eval()
    x = torch.randn(3, 6, 4)
    assert model(x).shape == (3, 6, 6)
    with pytest.raises(ValueError, match=r"BatchNorm1d.* was fused for input of 2 dimensions, got shape \(3, 6, 6"):
        fuse_norms(model)(x)


def test_a_fused_model_is_an_ordinary_one() -> None:
    """It is copied, pickled, traced, exported and compiled; and fused only once."""
    model = nn.Sequential(nn.Conv2d(4, 6, 3), filled(make_norm("bn", 6)), nn.ReLU()).eval()
    x = torch.randn(2, 4, 8, 8)
    expected = model(x)
    fuse_norms(model)
    forms: list[Callable[[Tensor], Tensor]] = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.jit.trace(model, x),
        torch.export.export(model, (x,)).module(),
        torch.compile(model, backend="eager", fullgraph=True),
        torch.fx.symbolic_trace(model),
    ]
    for form in forms:
        torch.testing.assert_close(form(x), expected, rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()
    with pytest.raises(ValueError, match="nothing to fuse: no normalizer that is known is called"):
        fuse_norms(model)
    assert repr(model[1]) == "FusedNorm(BatchNorm(6, eps=1e-05, affine=True, momentum=0.1, track_running_stats=True))"
    assert set(model.state_dict()) == {"0.weight", "0.bias"}
