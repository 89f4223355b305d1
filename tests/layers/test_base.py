"""What holds for every layer: its formula for any input, derivatives, dtypes, memory formats, state, refusals."""

import copy
import gc
import itertools
import math
import pickle
import re
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import normcore
from normcore import RunningNorm, freeze_norms

from ..formulas import (
    AVERAGING,
    BY_KERNEL,
    CASES,
    LEARNING,
    WAYS,
    assert_step,
    options_of,
    randomized,
    route,
    scattered,
    takes,
)
from ..helpers import CHANNELS_LAST, DEVICES, HALF, LAYOUTS, SHAPES, assert_near, case, laid_out

DTYPES = [  # of the input and of the layer: each with itself, and each into a layer in single precision
    (torch.float64, torch.float64),
    (torch.float64, torch.float32),
    (torch.float32, torch.float32),
    *((dtype, own) for dtype in HALF for own in (torch.float32, dtype)),
]
EXTREME = [(2, 4, 1, 1), (1, 4, 3, 3), (3, 2, 1), (1, 2, 2)]  # one position a map, one instance
COUNTING_EMPTY = ["bn", "sn", "brn", "rbn", "fnbb"]  # as torch's batch norms do
BATCH = [name for name in CASES if CASES[name].batch]
every_layer = pytest.mark.parametrize("name", CASES)
every_learning_layer = pytest.mark.parametrize("name", LEARNING)
every_averaging_layer = pytest.mark.parametrize("name", AVERAGING)
both_modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
every_way = pytest.mark.parametrize(("name", "way"), WAYS)
every_device = pytest.mark.parametrize("device", DEVICES)
pytestmark = pytest.mark.usefixtures("seed")


def with_past(name: str, channels: int = 4, **options: Any) -> nn.Module:
    """A layer with random parameters and running averages that has seen a batch, a reference batch too."""
    layer = randomized(CASES[name].layer(channels, **options))
    kind = next(layer.parameters(), torch.empty(0))
    layer(scattered((4, channels, 3)).to(kind))
    return layer


def cloned(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in state.items()}


def assert_same_state(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
        assert found[key].dtype == value.dtype


# --- formulas ----------------------------------------------------------------------------------------------------


def test_only_these_layers_have_a_kernel_of_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others go one way, and are tested on it."""
    for module, function in ((normcore.RunningNorm, "_suits_batch_norm"), (normcore.layers.sample, "_native")):
        monkeypatch.setattr(module, function, lambda *_: pytest.fail("a choice of ways"))
    for name in CASES:
        layer, x = CASES[name].layer(4), scattered((4, 4, 5), torch.float32)
        with case(name):
            if name in BY_KERNEL:
                with pytest.raises(pytest.fail.Exception, match="a choice of ways"):
                    layer(x)
            else:
                layer(x)
                layer.eval()(x)


@every_way
@every_device
def test_the_formula_in_training_and_evaluation(name: str, way: str, device: str) -> None:
    """In float64: outputs, gradients and running averages over several batches, of every shape that the layer takes."""
    for shape in (shape for shape in (*SHAPES, *EXTREME) if takes(name, shape)):
        layer = randomized(CASES[name].layer(shape[1], device=device, dtype=torch.float64))
        with route(way):
            for step, training in enumerate((True, True, False, True, False)):
                with case(shape, "step", step, "training" if training else "evaluation"):
                    assert_step(name, layer.train(training), scattered(shape).to(device))


@every_layer
@settings(max_examples=30)
@given(data=st.data())
def test_the_formula_for_any_input_and_options(name: str, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=5), label="shape"))
    assume(takes(name, shape))
    options = data.draw(options_of(name, shape[1]), label="options")
    dtype, own = data.draw(st.sampled_from(DTYPES), label="dtypes")
    layout, dy = (data.draw(st.sampled_from(LAYOUTS), label=label) for label in ("layout", "layout of dy"))
    torch.manual_seed(data.draw(st.integers(0, 99), label="seed"))
    layer = randomized(CASES[name].layer(shape[1], dtype=own, **options))
    with route(data.draw(st.sampled_from([way for n, way in WAYS if n == name]), label="way")):
        for training in (True, True, False):
            x = laid_out(scattered(shape, dtype), layout)
            assert_step(name, layer.train(training), x, dy, **options)


@pytest.mark.parametrize("name", ["bn", "fnbb"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_the_formula_for_a_large_input(name: str, layout: str) -> None:
    """From 2**19 values on these take another way, that of the other layers."""
    x = laid_out(scattered((8, 4, 128, 128), torch.float32), layout)
    layer = randomized(CASES[name].layer(4))
    assert_step(name, layer, x, layout)
    assert_step(name, layer.eval(), x, layout)


def derivatives_of(name: str, training: bool) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The layer as a pure function of its input and its parameters."""
    options: dict[str, Any] = {"momentum": 0.0} if "momentum" in CASES[name].choices else {}
    if name == "brn":  # r and d hide from the derivative how the output depends on the batch: with these they do not
        options |= {"r_max": 1.0, "d_max": 0.0}
    layer = with_past(name, dtype=torch.float64, **options).train(training)
    names = [key for key, _ in layer.named_parameters()]

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), x)

    return call, tuple(t.detach().requires_grad_() for t in (scattered((2, 4, 2)), *layer.parameters()))


@every_way
@both_modes
def test_first_and_second_derivatives_by_finite_differences(name: str, training: bool, way: str) -> None:
    call, arguments = derivatives_of(name, training)
    with route(way):
        assert torch.autograd.gradcheck(call, arguments)
        assert torch.autograd.gradgradcheck(call, arguments, fast_mode=True)


@every_layer
@both_modes
def test_a_gradient_penalty_like_the_formula(name: str, training: bool) -> None:
    """Second derivatives where r and d of Batch Renormalization count as constants, too."""
    layer = with_past(name, dtype=torch.float64).train(training)
    x = scattered((4, 4, 3)).requires_grad_()
    expected, _, state = CASES[name].expected(layer, x)
    parameters = dict(layer.named_parameters())
    penalties = []
    for y, values in ((layer(x), parameters), (expected, {key: state[key] for key in parameters})):
        dx, *dparameters = torch.autograd.grad(y.sin().sum(), (x, *values.values()), create_graph=True)
        penalty = sum(g.square().sum() for g in (dx, *dparameters))
        assert isinstance(penalty, Tensor)
        penalties.append(torch.autograd.grad(penalty, (x, *values.values()), materialize_grads=True))
    for found, wanted in zip(*penalties, strict=True):
        assert_near(found, wanted, 1e-9)


# --- numbers that are hard ---------------------------------------------------------------------------------------


@every_way
def test_half_precision_input_keeps_float32_statistics(name: str, way: str) -> None:
    """1024 values near 40 a channel: a sum in float16 would overflow, one in bfloat16 would stop growing. Only what
    goes out is rounded."""
    kinds = [(dtype, own, True) for dtype in HALF for own in (torch.float32, dtype)]
    for dtype, own, affine in (*kinds, (torch.float16, torch.float32, False)):
        options: dict[str, Any] = {} if name == "lrn" else {"affine": affine}
        if "momentum" in CASES[name].choices:
            options["momentum"] = 1.0
        layer = CASES[name].layer(4, dtype=own, **options)
        x = (torch.randn(16, 4, 8, 8) + 40).to(dtype)
        expected, after, _ = CASES[name].expected(layer, x.double(), **options)
        with route(way), case(dtype, "into", own, options):
            y, eps = layer(x), torch.finfo(dtype).eps
            torch.testing.assert_close(y.detach().double(), expected.detach(), rtol=eps, atol=eps / 8)
            for key, buffer in layer.named_buffers():
                rounding = eps if buffer.dtype == dtype else 1e-5
                torch.testing.assert_close(buffer.double(), after[key].double(), rtol=rounding, atol=0)


def strided_as_channels_last(x: Tensor) -> Tensor:
    """Also where one channel or one position makes it contiguous, too."""
    return x.new_empty(x.shape[0], *x.shape[2:], x.shape[1]).movedim(-1, 1).copy_(x)


FAR: dict[str, Callable[[], Tensor]] = {
    "no positions": lambda: torch.randn(256, 4),
    "contiguous": lambda: torch.randn(8, 4, 16, 16),
    "channels_last": lambda: strided_as_channels_last(torch.randn(8, 4, 16, 16)),
    "channels_last, cropped": lambda: strided_as_channels_last(torch.randn(8, 4, 17, 17))[:, :, 1:, 1:],
    "channels_last, half of the channels": lambda: strided_as_channels_last(torch.randn(8, 8, 16, 16))[:, ::2],
    "channels_last, one channel": lambda: strided_as_channels_last(torch.randn(8, 1, 16, 16)),
    "channels_last, one position": lambda: strided_as_channels_last(torch.randn(64, 4, 1, 1)),
}


@every_way
@every_device
def test_far_from_zero(name: str, way: str, device: str) -> None:
    """At 1e4 single precision holds the input to 5e-4, and a mean to 1e-3; a variance from mean squares, as the
    authors' SwitchNorm has it, would be off by several units, or negative."""
    for kind, make in FAR.items():
        x = make().to(device).add_(1e4).requires_grad_()
        if takes(name, tuple(x.shape)):
            with case(kind):
                assert_right_far_from_zero(name, way, x)


def assert_right_far_from_zero(name: str, way: str, x: Tensor) -> None:
    options = {"num_groups": 1} if name == "gn" and x.shape[1] == 1 else {}
    layer = randomized(CASES[name].layer(x.shape[1], device=x.device, **options))
    wide = x.detach().double().contiguous().requires_grad_()
    expected, after, _ = CASES[name].expected(layer, wide, **options)
    with route(way):
        y, dy = layer(x), torch.randn_like(x)
        y.backward(dy)
    expected.backward(dy.double())
    assert x.grad is not None
    assert wide.grad is not None
    assert_near(y, expected.detach(), 1e-2)
    assert_near(x.grad, wide.grad, 1e-2)
    for key, value in after.items():
        torch.testing.assert_close(layer.get_buffer(key).double(), value.double(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", [name for name in LEARNING if name != "rms"])
def test_a_constant_input_comes_out_as_the_bias(name: str) -> None:
    """No variance: only eps keeps the scale finite, at 316."""
    options = {"r_max": 1.0, "d_max": 0.0} if name == "brn" else {}
    for shape in (shape for shape in [(4, 4), (4, 4, 5, 5)] if takes(name, shape)):
        for value in (0.0, 0.1, -7.3, 1e4):
            layer = randomized(CASES[name].layer(4, eps=1e-5, **options))
            x = torch.full(shape, value, requires_grad=True)
            with case(value, shape):
                y = layer(x)
                y.backward(torch.randn_like(y))
                assert isinstance(layer.bias, Tensor)
                expected = layer.bias.expand(4, *shape[2:], 4)
                rounding = 4 * 316 * abs(value) * torch.finfo(torch.float32).eps
                torch.testing.assert_close(y.movedim(1, -1), expected, rtol=1e-5, atol=rounding + 1e-6)
                assert x.grad is not None
                assert x.grad.isfinite().all()
                assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
                assert all(b.isfinite().all() for b in layer.buffers())


@every_learning_layer
def test_eps_zero_is_allowed(name: str) -> None:
    layer = randomized(CASES[name].layer(4, eps=0.0, dtype=torch.float64))
    assert_step(name, layer, scattered((4, 4, 5)), eps=0.0)


@every_layer
@both_modes
def test_an_empty_batch_teaches_nothing(name: str, training: bool) -> None:
    """Empty out, gradients of zero and not NaN, averages as they were; it counts as a batch where it does in torch."""
    for shape in [(0, 4), (0, 4, 3, 3), (2, 4, 0, 3)][name == "lrn" :]:  # lrn takes no (N, C)
        layer = with_past(name).train(training)
        before = cloned(layer.state_dict())
        x = torch.ones(shape, requires_grad=True)
        with case(shape):
            y = layer(x)
            y.sum().backward()
            assert y.shape == shape
            assert x.grad is not None
            for key, parameter in layer.named_parameters():
                assert parameter.grad is not None, key
                assert not parameter.grad.any(), key
            if training and name in COUNTING_EMPTY:
                before["num_batches_tracked"] += 1
            assert_same_state(layer.state_dict(), before)


# --- dtypes and memory formats -----------------------------------------------------------------------------------


@every_layer
@both_modes
def test_channels_last_stays(name: str, training: bool) -> None:
    layer = CASES[name].layer(4).train(training)
    for rank, dtype, grad in itertools.product((4, 5), (torch.float32, torch.bfloat16), (True, False)):
        x = torch.randn((2, 4, 3, 5, 2)[:rank]).to(dtype).to(memory_format=CHANNELS_LAST[rank]).requires_grad_(grad)
        with case(rank, dtype, "grad" if grad else "no grad"):
            y = layer(x)
            assert y.is_contiguous(memory_format=CHANNELS_LAST[rank])
            if grad:
                (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
                assert dx.is_contiguous(memory_format=CHANNELS_LAST[rank])


@every_layer
@both_modes
def test_any_dtype_of_the_input(name: str, training: bool) -> None:
    """Into a layer of the same and into one in single precision: the output is like the input, the state as it was."""
    for dtype, own in DTYPES:
        layer = CASES[name].layer(4).to(own).train(training)
        for shape in SHAPES[1:3]:
            x = scattered(shape, dtype).requires_grad_()
            expected, _, _ = CASES[name].expected(layer, x.detach().double())
            with case(dtype, "into", own, shape):
                y = layer(x)
                y.sum().backward()
                assert x.grad is not None
                assert (y.dtype, x.grad.dtype) == (dtype, dtype)
                rounding = max(torch.finfo(d).eps for d in (dtype, own, torch.float32))
                torch.testing.assert_close(
                    y.detach().double(), expected.detach(), rtol=4 * rounding, atol=16 * rounding
                )
                assert all(p.grad is not None and p.grad.dtype == own for p in layer.parameters())
                assert {b.dtype for b in layer.buffers() if b.is_floating_point()} <= {own}


@every_layer
@both_modes
def test_under_autocast_the_dtype_of_the_input_stays(name: str, training: bool) -> None:
    """bfloat16 out of a convolution that autocasts stays so; statistics and parameters keep single precision."""
    conv, layer = nn.Conv2d(2, 4, 3), with_past(name).train(training)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(4, 4, 6, 6)).dtype == torch.float32
        hidden = conv(torch.randn(4, 2, 6, 6))
        wide = hidden.detach().double().requires_grad_()
        expected, after, _ = CASES[name].expected(layer, wide)
        y = layer(hidden)
    assert (hidden.dtype, y.dtype) == (torch.bfloat16, torch.bfloat16)
    torch.testing.assert_close(y.detach().double(), expected.detach(), rtol=8e-3, atol=1e-3)
    hidden.retain_grad()
    dy = torch.randn_like(y)
    y.backward(dy)
    expected.backward(dy.double())
    assert hidden.grad is not None
    assert wide.grad is not None
    assert_near(hidden.grad, wide.grad, 2e-2)
    assert conv.weight.grad is not None
    assert {t.dtype for t in (*layer.parameters(), *(p.grad for p in layer.parameters()))} <= {torch.float32}
    for key, value in after.items():
        torch.testing.assert_close(layer.get_buffer(key).double(), value.double(), rtol=1e-5, atol=1e-6)


# --- what autograd sees ------------------------------------------------------------------------------------------


@every_layer
@both_modes
def test_the_mode_is_the_training_flag_and_not_whether_gradients_are_enabled(name: str, training: bool) -> None:
    """A BN tutorial chose its mode by ``is_grad_enabled()``."""
    layer = with_past(name).train(training)
    other, x = copy.deepcopy(layer), scattered((4, 4, 3, 3), torch.float32)
    y = layer(x.clone().requires_grad_())
    with torch.no_grad():
        torch.testing.assert_close(other(x), y.detach())
    for key, value in layer.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], value)
    with torch.inference_mode():
        assert other.eval()(x).shape == x.shape


@every_way
@both_modes
def test_in_place_operations_may_follow(name: str, way: str, training: bool) -> None:
    layer = with_past(name).train(training)
    other = copy.deepcopy(layer)
    for shape in (shape for shape in [(4, 4), (4, 4, 3, 3)] if takes(name, shape)):
        x = scattered(shape, torch.float32).requires_grad_()
        with route(way), case(shape):
            (found,) = torch.autograd.grad(layer(x).relu_().sum(), x)
            (expected,) = torch.autograd.grad(other(x).relu().sum(), x)
            torch.testing.assert_close(found, expected)


@every_layer
@both_modes
def test_the_input_is_left_alone(name: str, training: bool) -> None:
    layer, x = with_past(name).train(training), scattered((4, 4, 3, 3), torch.float32)
    before = x.clone()
    layer(x)
    assert torch.equal(x, before)


@every_layer
@both_modes
def test_only_what_needs_a_gradient_gets_one(name: str, training: bool) -> None:
    layer = with_past(name).train(training)
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    x = scattered((4, 4, 3, 3), torch.float32)
    assert not layer(x).requires_grad
    assert layer(x.requires_grad_()).requires_grad


@every_learning_layer
def test_the_state_keeps_no_graph(name: str) -> None:
    """A BN tutorial's moving average did: memory grew with every step, and deepcopy failed."""
    layer = CASES[name].layer(4)
    x = scattered((4, 4, 3, 3), torch.float32).requires_grad_()
    hidden = x * 2
    layer(hidden)
    seen = weakref.ref(hidden)
    del hidden
    gc.collect()
    assert seen() is None
    for buffer in layer.buffers():
        assert not buffer.requires_grad
        assert buffer.grad_fn is None
    assert_same_state(copy.deepcopy(layer).state_dict(), layer.state_dict())


@every_layer
def test_a_second_batch_before_the_first_went_backward(name: str) -> None:
    """As in gradient accumulation over a loss of two views: what the first backward needs is not overwritten."""
    layer, twice = with_past(name), with_past(name)
    twice.load_state_dict(layer.state_dict())
    batches = [scattered((4, 4, 3, 3), torch.float32).requires_grad_() for _ in range(2)]
    together = torch.autograd.grad(sum(layer(x).sin().sum() for x in batches), batches)
    for x, found in zip(batches, together, strict=True):
        (expected,) = torch.autograd.grad(twice(x).sin().sum(), x)
        torch.testing.assert_close(found, expected)


# --- state -------------------------------------------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "state_dict"])
def test_copies_compute_the_same_and_are_their_own(name: str, way: str) -> None:
    layer = with_past(name)
    if way == "state_dict":
        other = CASES[name].layer(4)
        other.load_state_dict(layer.state_dict(), strict=True)
    else:
        other = copy.deepcopy(layer) if way == "deepcopy" else pickle.loads(pickle.dumps(layer))
    assert type(other) is type(layer)
    assert repr(other) == repr(layer)
    assert_same_state(other.state_dict(), layer.state_dict())
    before = cloned(layer.state_dict())
    x = scattered((4, 4, 5), torch.float32)
    y = other(x)
    for parameter in other.parameters():
        parameter.data.add_(1)
    assert_same_state(layer.state_dict(), before)
    assert torch.equal(layer(x), y)


@every_layer
@pytest.mark.parametrize("change", [nn.Module.double, nn.Module.half, nn.Module.bfloat16])
def test_the_dtype_of_all_but_counts_can_be_changed(name: str, change: Callable[[nn.Module], nn.Module]) -> None:
    layer = with_past(name)
    before = cloned(layer.state_dict())
    dtype = change(nn.Linear(1, 1)).weight.dtype
    for key, value in change(layer).state_dict().items():
        assert value.dtype == (dtype if before[key].is_floating_point() else torch.long)
        torch.testing.assert_close(value, before[key].to(value.dtype))


@every_layer
def test_the_device_and_the_dtype_of_what_is_made(name: str) -> None:
    layer = CASES[name].layer(4, device="meta", dtype=torch.float64)
    plain = CASES[name].layer(4)
    assert list(layer.state_dict()) == list(plain.state_dict())
    for key, value in layer.state_dict().items():
        assert value.is_meta
        assert value.shape == plain.state_dict()[key].shape
        assert value.dtype == (torch.float64 if plain.state_dict()[key].is_floating_point() else torch.long)
    assert layer(torch.empty(3, 4, 5, 5, device="meta", dtype=torch.float64)).shape == (3, 4, 5, 5)
    layer.load_state_dict(plain.state_dict(), assign=True)
    assert_same_state(layer.state_dict(), plain.state_dict())


@every_learning_layer
def test_parameters_are_tables_of_the_channels(name: str) -> None:
    size = 1 if name == "fnbb" else 4
    expected = {"weight": (size,), "bias": (size,)}
    if name == "rms":
        del expected["bias"]
    if name == "sn":
        expected |= {"mean_weight": (3,), "var_weight": (3,)}
    layer = CASES[name].layer(4)
    assert {key: tuple(p.shape) for key, p in layer.named_parameters()} == expected
    for key, parameter in layer.named_parameters():
        assert torch.equal(parameter, torch.full_like(parameter, 0.0 if key == "bias" else 1.0))
    bare = CASES[name].layer(4, affine=False)
    assert {key for key, _ in bare.named_parameters()} == set(expected) - {"weight", "bias"}
    if name != "rms":
        assert {key for key, _ in CASES[name].layer(4, bias=False).named_parameters()} == set(expected) - {"bias"}


@every_averaging_layer
def test_running_averages_start_at_mean_zero_and_variance_one(name: str) -> None:
    """The authors' SwitchNorm starts its variance at 0, a BatchRenorm port its deviation; one keeps neither in the
    ``state_dict``."""
    layer, size = CASES[name].layer(4), 1 if name == "fnbb" else 4
    state = layer.state_dict()
    assert torch.equal(state["running_mean"], torch.zeros(size))
    assert torch.equal(state["running_var"], torch.ones(size))
    assert torch.equal(state["num_batches_tracked"], torch.tensor(0))
    assert not any("running" in key or "num_batches" in key for key, _ in layer.named_parameters())


@every_averaging_layer
def test_momentum_is_the_weight_of_the_new_value(name: str) -> None:
    """Of the biased input statistics the variance is averaged unbiased. In S4 and the authors' SwitchNorm momentum
    means keep. The formulas say it for all; here it is by hand."""
    x = torch.tensor([1.0, 3.0, 1.0, 3.0]).view(2, 1, 2)
    layer = CASES[name].layer(1, momentum=0.25)
    layer(x)
    # of 4 values; an average over instances or batches has n / (n - 1) for 2 of them
    factor = 2 if name in ("rbn", "in tracked") else 4 / 3
    assert layer.get_buffer("running_mean").item() == pytest.approx(0.25 * 2)
    assert layer.get_buffer("running_var").item() == pytest.approx(0.75 + 0.25 * factor)


@every_averaging_layer
def test_momentum_none_averages_all_batches_equally(name: str) -> None:
    layers = [CASES[name].layer(4, momentum=momentum) for momentum in (None, 1.0)]
    seen = []
    for _ in range(5):
        x = scattered((4, 4, 3), torch.float32)
        for layer in layers:
            layer(x)
        seen.append([layers[1].get_buffer(key).clone() for key in ("running_mean", "running_var")])
    for key, values in zip(("running_mean", "running_var"), zip(*seen, strict=True), strict=True):
        torch.testing.assert_close(layers[0].get_buffer(key), torch.stack(values).mean(0))


@every_averaging_layer
def test_evaluation_updates_nothing(name: str) -> None:
    """BatchRenorm ports update their statistics in evaluation too."""
    layer = with_past(name).eval()
    before = cloned(layer.state_dict())
    layer(scattered((4, 4, 3), torch.float32) + 5)
    assert_same_state(layer.state_dict(), before)


@every_averaging_layer
def test_track_running_stats_switched_off_later_stops_the_averages(name: str) -> None:
    """As with torch's batch norms. Training goes on with the statistics of the batch."""
    layer = with_past(name)
    before, x = cloned(layer.state_dict()), scattered((4, 4, 3), torch.float32)
    expected = copy.deepcopy(layer)(x)
    layer.track_running_stats = False
    torch.testing.assert_close(layer(x), expected)
    assert_same_state(layer.state_dict(), before)


@every_averaging_layer
def test_a_frozen_layer_in_training_is_as_in_evaluation(name: str) -> None:
    layer = with_past(name)
    x = scattered((4, 4, 3), torch.float32).requires_grad_()
    expected = copy.deepcopy(layer).eval()(x)
    assert "frozen" not in repr(layer)
    frozen = freeze_norms(nn.Sequential(layer), affine=False).train()
    assert layer.training
    assert "frozen=True" in repr(layer)
    before = cloned(layer.state_dict())
    torch.testing.assert_close(frozen(x), expected, rtol=0, atol=0)
    assert_same_state(layer.state_dict(), before)
    assert pickle.loads(pickle.dumps(layer)).frozen
    one = torch.randn(1, 4, 1)  # has no variance of its own, and needs none
    assert frozen(one).shape == (1, 4, 1)


@every_learning_layer
def test_reset_forgets_what_was_learned_and_seen(name: str) -> None:
    layer, fresh = with_past(name), CASES[name].layer(4)
    CASES[name].layer(4, affine=False).reset_parameters()  # there may be nothing to reset
    layer.reset_parameters()
    for key, parameter in layer.named_parameters():
        assert torch.equal(parameter, fresh.get_parameter(key))
    if isinstance(layer, RunningNorm):
        layer.reset_running_stats()
        for key in ("running_mean", "running_var", "num_batches_tracked"):
            if key in fresh.state_dict():
                assert torch.equal(layer.get_buffer(key), fresh.get_buffer(key))


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("bn", {"momentum": None}, "BatchNorm(4, eps=0.01, affine=True, momentum=None, track_running_stats=True)"),
        (
            "bn",
            {"bias": False},
            "BatchNorm(4, eps=0.01, affine=True, bias=False, momentum=0.1, track_running_stats=True)",
        ),
        ("ln", {}, "LayerNorm(4, eps=0.01, affine=True)"),
        ("cln", {"affine": False}, "ChannelLayerNorm(4, eps=0.01, affine=False)"),
        ("in", {}, "InstanceNorm(4, eps=0.01, affine=True, momentum=0.1, track_running_stats=False)"),
        ("gn", {}, "GroupNorm(2, 4, eps=0.01, affine=True)"),
        ("rms", {}, "RMSNorm(4, eps=0.01, affine=True"),
        ("lrn", {}, "LocalResponseNorm(3, alpha=0.5, beta=0.75, k=1.0)"),
        ("sn", {}, "SwitchableNorm(4, eps=0.01, affine=True, momentum=0.1, track_running_stats=True)"),
        ("brn", {}, "track_running_stats=True, r_max=1.25, d_max=0.5, schedule=None)"),
        ("rbn", {}, "ReferenceBatchNorm(4, eps=0.01, affine=True, momentum=0.1, track_running_stats=True)"),
        ("vbn", {}, "VirtualBatchNorm(4, eps=0.01, affine=True)"),
        ("fnbb", {}, "FullNormBB(4, eps=0.01, affine=True, momentum=0.1, track_running_stats=True)"),
        ("fnbl", {}, "FullNormBL(4, semantics='code', eps=0.01, affine=True)"),
        ("fnbl text", {}, "FullNormBL(4, semantics='text', eps=0.01, affine=True)"),
    ],
)
def test_the_description_names_the_options(name: str, options: dict[str, Any], text: str) -> None:
    assert text in repr(CASES[name].layer(4, **options))


# --- refusals ----------------------------------------------------------------------------------------------------


@every_learning_layer
def test_options_out_of_range(name: str) -> None:
    for channels in (0, -4):
        with case(channels), pytest.raises(ValueError, match=f"must be a positive integer, got {channels}"):
            CASES[name].layer(channels)
    for eps in (-1e-5, math.nan):
        with case(eps), pytest.raises(ValueError, match=f"eps must be a finite number, at least 0, got {eps}"):
            CASES[name].layer(4, eps=eps)


@every_averaging_layer
def test_momentum_out_of_range(name: str) -> None:
    for momentum in (-0.1, 1.1, math.nan):
        message = f"momentum must be None or a finite number between 0 and 1, got {momentum}"
        with case(momentum), pytest.raises(ValueError, match=message):
            CASES[name].layer(4, momentum=momentum)


def assert_refused(layer: nn.Module, x: Tensor, message: str) -> None:
    """In training and at evaluation, with the layer's name, and nothing is learned of it."""
    before = cloned(layer.state_dict())
    for training in (True, False):
        with case(tuple(x.shape), x.dtype, "training" if training else "evaluation"):
            with pytest.raises(ValueError, match=f"^{type(layer).__name__}.* {message}"):
                layer.train(training)(x)
            assert_same_state(layer.state_dict(), before)


@every_layer
def test_a_wrong_rank(name: str) -> None:
    for shape in [(), (4,), (2, 4, 1, 1, 1, 1)]:
        assert_refused(
            CASES[name].layer(4), torch.zeros(shape), rf"dimensions, got {len(shape)}.*{re.escape(str(shape))}"
        )


@every_learning_layer
def test_a_wrong_channel_count(name: str) -> None:
    for shape in [(4, 3), (2, 3, 5, 4), (3, 8)]:
        message = rf"takes 4 channels in dimension 1, got {shape[1]}, shape {re.escape(str(shape))}"
        assert_refused(CASES[name].layer(4), torch.zeros(shape), message)


@every_layer
def test_an_input_that_is_not_floating_point(name: str) -> None:
    for dtype in (torch.long, torch.bool, torch.complex64):
        layer = CASES[name].layer(4)
        assert_refused(layer, torch.zeros(2, 4, 3, dtype=dtype), f"takes floating-point input, got {dtype}")


@pytest.mark.parametrize("name", [name for name in BATCH if name not in ("fnbb", "fnbl text", "vbn")])
def test_one_value_a_channel_has_no_variance(name: str) -> None:
    """In the words of torch's batch norm; the averages stay as they were, and at evaluation one value is enough."""
    message = r"Expected more than 1 value per channel when training, got input size .*\[1, 4"
    for shape in [(1, 4), (1, 4, 1), (1, 4, 1, 1), (1, 4, 1, 1, 1)]:
        layer = CASES[name].layer(4)
        before = cloned(layer.state_dict())
        with case(shape):
            with pytest.raises(ValueError, match=message):
                layer(torch.randn(shape))
            assert_same_state(layer.state_dict(), before)
            assert_step(name, with_past(name, dtype=torch.float64).eval(), scattered(shape))


@pytest.mark.parametrize("name", ["bn", "sn", "rbn"])
def test_one_value_a_channel_at_evaluation_without_running_averages(name: str) -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        CASES[name].layer(4, track_running_stats=False).eval()(torch.randn(1, 4))
