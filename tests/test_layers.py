"""BatchNorm against its twins in torch.nn, which run in float64 as the reference."""

import copy
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from normcore import BatchNorm, Norm

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
TWINS: dict[int, type[nn.Module]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
# the last four: one position a map, one instance, and the least that has a variance
SHAPES = [(8, 3), (4, 3, 5), (4, 3, 5, 6), (2, 3, 4, 3, 2), (4, 3, 1, 1), (1, 3, 4, 4), (2, 1), (1, 1, 2)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make_pair(rank: int, channels: int, device: str = "cpu", **options: object) -> tuple[BatchNorm, nn.Module]:
    """A layer with random parameters, and its twin in float64 with the same ones."""
    ours = BatchNorm(channels, device=device, **options)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.copy_(torch.randn(channels))
    twin = TWINS[rank](channels, device=device, dtype=torch.float64, **options)
    twin.load_state_dict(ours.state_dict(), strict=True)
    return ours, twin


def spread(shape: tuple[int, ...]) -> Tensor:
    """Values of random order, mean and scale in each channel, but never a channel of small variance: there
    the normalization magnifies what single precision rounds, and a comparison says nothing."""
    c, count = shape[1], math.prod(shape) // shape[1]
    values = 2 * torch.rand(c, count).argsort(1) / (count - 1) - 1
    values = values * (0.5 + torch.rand(c, 1)) + 2 * torch.randn(c, 1)
    return values.view(c, shape[0], *shape[2:]).transpose(0, 1).contiguous()


def arranged(x: Tensor, layout: str) -> Tensor:
    """The same values in another place in memory."""
    if layout == "channels_last":
        return x.to(memory_format=CHANNELS_LAST[x.dim()])
    if layout == "sliced":
        wide = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1])
        wide[..., ::2] = x
        return wide[..., ::2]
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    return x


def assert_step_equal(ours: BatchNorm, twin: nn.Module, x: Tensor) -> None:
    """One forward and backward of both: output, gradients, running statistics."""
    x = x.detach().requires_grad_()
    reference = x.detach().double().contiguous().requires_grad_()
    y, expected = ours(x), twin(reference)
    # Our backward meets a dy that is contiguous whatever the format of x. Torch's kernel, which runs the twin
    # and the evaluation, gets both alike: torch 2.13 gives wrong gradients for some one-row maps otherwise.
    layout = torch.contiguous_format if ours.training else torch.preserve_format
    dy = torch.randn_like(y, memory_format=layout)
    ours.zero_grad()
    twin.zero_grad()
    y.backward(dy)
    expected.backward(dy.double().contiguous())
    assert y.dtype == x.dtype
    assert y.shape == x.shape
    rounding = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}.get(x.dtype, 2e-5)
    torch.testing.assert_close(y.double(), expected, rtol=rounding, atol=rounding)
    assert x.grad is not None
    assert reference.grad is not None
    torch.testing.assert_close(x.grad.double(), reference.grad, rtol=rounding, atol=2 * rounding)
    # What is summed over a channel keeps single precision, whatever the input. Evaluation runs torch's own
    # kernel, which sums the gradients of some half-precision inputs in half precision.
    if ours.training or x.dtype == torch.float32:
        for mine, theirs in zip(ours.parameters(), twin.parameters(), strict=True):
            assert mine.grad is not None
            torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-4, atol=1e-4)
    assert_state_equal(ours, twin)


def assert_state_equal(ours: nn.Module, twin: nn.Module) -> None:
    expected = twin.state_dict()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name].double(), rtol=1e-5, atol=1e-6)


# --- the same as the twin ----------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_like_the_twin(shape: tuple[int, ...], device: str) -> None:
    """Three steps of training, so that the averages are averages, then evaluation."""
    ours, twin = make_pair(len(shape), shape[1], device)
    for _ in range(3):
        assert_step_equal(ours, twin, spread(shape).to(device))
    ours.eval()
    twin.eval()
    before = copy.deepcopy(ours.state_dict())
    assert_step_equal(ours, twin, spread(shape).to(device))
    assert all(torch.equal(before[name], value) for name, value in ours.state_dict().items())


@pytest.mark.parametrize("device", DEVICES)
@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 5),
    c=st.integers(1, 5),
    dims=st.lists(st.integers(1, 5), max_size=3),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    layout=st.sampled_from(["contiguous", "channels_last", "sliced", "transposed"]),
    momentum=st.sampled_from([0.1, None, 0.0, 1.0]),
    affine=st.booleans(),
    track=st.booleans(),
    seed=st.integers(0, 999),
)
def test_like_the_twin_for_any_input(
    device: str,
    n: int,
    c: int,
    dims: list[int],
    dtype: torch.dtype,
    layout: str,
    momentum: float | None,
    affine: bool,
    track: bool,
    seed: int,
) -> None:
    assume(n * math.prod(dims) > 1)
    rank = 2 + len(dims)
    assume(layout != "channels_last" or rank in CHANNELS_LAST)
    torch.manual_seed(seed)
    ours, twin = make_pair(rank, c, device, momentum=momentum, affine=affine, track_running_stats=track, eps=1e-3)
    for training in (True, True, False):
        ours.train(training)
        twin.train(training)
        x = arranged(spread((n, c, *dims)).to(device, dtype), layout)
        assert_step_equal(ours, twin, x)
        if layout == "channels_last":
            assert ours(x).is_contiguous(memory_format=CHANNELS_LAST[rank])
            twin(x.double())  # the call above was one more step


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(8, 3), (3, 2, 4, 5)], ids=str)
def test_double_precision_is_kept(shape: tuple[int, ...], device: str) -> None:
    ours, twin = make_pair(len(shape), shape[1], device)
    ours.double()
    for _ in range(2):
        x = spread(shape).double().to(device)
        torch.testing.assert_close(ours(x), twin(x), rtol=1e-12, atol=1e-12)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(8, 3), (4, 3, 5, 5)], ids=str)
def test_a_model_in_low_precision(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    """Parameters and running averages in half precision too: what they hold is rounded, no sum is."""
    ours, twin = make_pair(len(shape), shape[1], device)
    ours.to(dtype)
    twin.load_state_dict(ours.state_dict())
    x = spread(shape).to(device, dtype)
    rounding = 4 * torch.finfo(dtype).eps
    for training in (True, False):
        ours.train(training)
        twin.train(training)
        y = ours(x)
        assert y.dtype == dtype
        torch.testing.assert_close(y.double(), twin(x.double()), rtol=rounding, atol=2 * rounding)
    y = ours.train()(x)
    y.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == dtype for p in ours.parameters())
    for name, value in ours.named_buffers():
        assert value.dtype == (torch.long if name == "num_batches_tracked" else dtype)


@pytest.mark.parametrize("rank", [4, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_channels_last_stays(rank: int, dtype: torch.dtype, training: bool) -> None:
    layout = CHANNELS_LAST[rank]
    x = torch.randn((2, 3, 4, 5, 6)[:rank]).to(dtype).to(memory_format=layout).requires_grad_()
    y = BatchNorm(3).train(training)(x)
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert y.is_contiguous(memory_format=layout)
    assert dx.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4, 4), (2, 3, 0, 4)], ids=str)
def test_empty_batch_like_the_twin(shape: tuple[int, ...], track: bool, training: bool) -> None:
    """Empty out, and nothing learned: gradients of zero, not NaN, and the averages as they were. The twin
    counts the batch all the same, which would falsify an average over all batches (momentum None)."""
    ours, twin = make_pair(len(shape), 3, track_running_stats=track)
    ours.train(training)
    twin.train(training)
    x = torch.ones(shape, requires_grad=True)
    y, expected = ours(x), twin(x.detach().double())
    y.sum().backward()
    expected.sum().backward()
    assert y.shape == expected.shape == shape
    assert x.grad is not None
    for mine, theirs in zip(ours.parameters(), twin.parameters(), strict=True):
        assert mine.grad is not None
        assert torch.equal(mine.grad.double(), theirs.grad)
    for mine, theirs in zip(list(ours.buffers())[:2], list(twin.buffers())[:2], strict=True):
        assert torch.equal(mine.double(), theirs)


@pytest.mark.parametrize("training", [True, False])
def test_second_derivatives(training: bool) -> None:
    """Both the engine in training and the native kernel at evaluation serve a gradient penalty."""
    layer = BatchNorm(2, momentum=0.0, dtype=torch.float64).train(training)
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)

    arguments = (x, *(p.detach().clone().requires_grad_() for p in layer.parameters()))
    assert torch.autograd.gradcheck(call, arguments)
    assert torch.autograd.gradgradcheck(call, arguments)


def test_a_layer_used_twice_with_create_graph() -> None:
    """A weight shared by two calls, the second of which sees an input that depends on it."""
    ours, twin = make_pair(3, 2)
    ours.double()
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    found, expected = (
        torch.autograd.grad(layer(layer(x).sin()).cos().sum(), tuple(layer.parameters()), create_graph=True)
        for layer in (ours, twin)
    )
    torch.testing.assert_close(found, expected)


def test_training_a_network_like_the_twin() -> None:
    """The layer inside a network, with an optimizer: ten steps later both are the same network."""
    networks = []
    for norm in (BatchNorm, nn.BatchNorm2d):
        torch.manual_seed(0)
        layers = [nn.Conv2d(2, 4, 3), norm(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 1)]
        network = nn.Sequential(*layers).double()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        for _ in range(10):
            x = torch.randn(8, 2, 5, 5, dtype=torch.float64)
            optimizer.zero_grad()
            (network(x) - x.mean((1, 2, 3))[:, None]).square().mean().backward()
            optimizer.step()
        networks.append(network.state_dict())
    for name, value in networks[0].items():
        torch.testing.assert_close(value, networks[1][name], rtol=1e-9, atol=1e-12)


# --- state -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("track", [True, False])
def test_state_dict_both_ways(affine: bool, track: bool) -> None:
    options = {"affine": affine, "track_running_stats": track}
    trained, twin = make_pair(4, 3, **options)
    trained(torch.randn(4, 3, 5, 5))
    assert list(trained.state_dict()) == list(twin.state_dict())
    twin = nn.BatchNorm2d(3, **options)
    twin.load_state_dict(trained.state_dict(), strict=True)
    back = BatchNorm(3, **options)
    back.load_state_dict(twin.state_dict(), strict=True)
    assert all(torch.equal(back.state_dict()[name], value) for name, value in trained.state_dict().items())
    x = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(twin.eval()(x), trained.eval()(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(back.eval()(x), trained(x), rtol=0, atol=0)


def test_running_statistics_by_hand() -> None:
    """r <- (1 - m) r + m s, the variance unbiased, from mean 0 and variance 1; the input biased."""
    layer = BatchNorm(1, momentum=0.25, eps=0.0)
    x = torch.tensor([[1.0], [3.0]])
    y = layer(x)
    assert torch.equal(y.detach(), torch.tensor([[-1.0], [1.0]]))
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.running_mean.item() == pytest.approx(0.25 * 2)
    assert layer.running_var.item() == pytest.approx(0.75 + 0.25 * 2)
    assert layer.num_batches_tracked == 1


def test_momentum_none_averages_all_batches_equally() -> None:
    layer = BatchNorm(2, momentum=None)
    batches = torch.randn(5, 6, 2, 4)
    for batch in batches:
        layer(batch)
    flat = batches.double().transpose(1, 2).reshape(5, 2, 24)
    means = flat.sum(2) / 24
    variances = ((flat - means[..., None]) ** 2).sum(2) / 23
    assert layer.running_mean is not None
    assert layer.running_var is not None
    torch.testing.assert_close(layer.running_mean.double(), means.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.running_var.double(), variances.mean(0), rtol=1e-5, atol=1e-6)


def test_without_running_statistics_evaluation_is_as_training() -> None:
    layer = BatchNorm(3, track_running_stats=False)
    x = torch.randn(4, 3, 5)
    y = layer(x)
    assert list(layer.buffers()) == []
    assert torch.equal(layer.eval()(x), y)


def test_averages_can_be_frozen_while_training_goes_on() -> None:
    """As with the twin, by switching off ``track_running_stats`` on a layer that has them."""
    ours, twin = make_pair(3, 3)
    for layer in (ours, twin):
        layer(torch.randn(4, 3, 5, dtype=torch.float64))
        layer.track_running_stats = False
    before = copy.deepcopy(ours.state_dict())
    x = spread((4, 3, 5))
    torch.testing.assert_close(ours(x).double(), twin(x.double()), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in ours.state_dict().items())


def test_without_affine_there_is_nothing_to_learn() -> None:
    layer = BatchNorm(3, affine=False)
    assert list(layer.parameters()) == []
    x = 3 * torch.randn(16, 3, 5) + 2
    y = layer(x)
    torch.testing.assert_close(y.mean((0, 2)), torch.zeros(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(y.var((0, 2), correction=0), torch.ones(3), rtol=1e-4, atol=0)


def test_state_holds_no_graph() -> None:
    """Running averages that keep the graph grow with every step and cannot be copied."""
    layer = BatchNorm(3)
    y = layer(torch.randn(4, 3, 5, requires_grad=True))
    for buffer in layer.buffers():
        assert not buffer.requires_grad
        assert buffer.grad_fn is None
    twin = copy.deepcopy(layer)
    y.sum().backward()
    assert all(torch.equal(twin.state_dict()[name], value) for name, value in layer.state_dict().items())
    twin(torch.randn(4, 3, 5))
    assert layer.num_batches_tracked == 1
    assert twin.num_batches_tracked == 2


def test_reset() -> None:
    layer = BatchNorm(3)
    fresh = copy.deepcopy(layer.state_dict())
    layer(torch.randn(4, 3) + 5)
    with torch.no_grad():
        layer.weight.fill_(2)
        layer.bias.fill_(2)
    layer.reset_running_stats()
    layer.reset_parameters()
    assert all(torch.equal(fresh[name], value) for name, value in layer.state_dict().items())
    bare = BatchNorm(3, affine=False, track_running_stats=False)
    bare.reset_running_stats()
    bare.reset_parameters()
    assert bare.state_dict() == {}


def test_device_dtype_and_description() -> None:
    layer = BatchNorm(3, eps=1e-3, momentum=None, device="meta", dtype=torch.float64)
    for name, value in layer.state_dict().items():
        assert value.is_meta
        assert value.dtype == (torch.long if name == "num_batches_tracked" else torch.float64)
    assert repr(layer) == "BatchNorm(3, eps=0.001, affine=True, momentum=None, track_running_stats=True)"
    assert repr(Norm(2, affine=False)) == "Norm(2, eps=1e-05, affine=False)"


# --- hard numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_far_from_zero(layout: str, device: str) -> None:
    """At 1e4 single precision holds the input to 5e-4, so x - mean is right to about 1e-3; a variance from
    mean squares would be off by several units, or negative."""
    ours, twin = make_pair(4, 4, device)
    x = arranged((torch.randn(8, 4, 16, 16) + 1e4).to(device), layout).requires_grad_()
    reference = x.detach().double().requires_grad_()
    y, expected = ours(x), twin(reference)
    dy = torch.randn_like(y)
    y.backward(dy)
    expected.backward(dy.double())
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=5e-3)
    assert x.grad is not None
    assert reference.grad is not None
    torch.testing.assert_close(x.grad.double(), reference.grad, rtol=0, atol=2e-3)
    for mine, theirs in zip(ours.parameters(), twin.parameters(), strict=True):
        # sums of 2048 products: of size 45 where nothing is to be learned
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=0, atol=1.0)
    torch.testing.assert_close(ours.running_mean.double(), twin.running_mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.running_var.double(), twin.running_var, rtol=1e-3, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e4])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5, 5)], ids=str)
def test_constant_channels(shape: tuple[int, ...], value: float, device: str) -> None:
    """No variance: only eps keeps the scale finite, at 316, and the output is the bias."""
    ours, _ = make_pair(len(shape), 3, device)
    x = torch.full(shape, value, device=device, requires_grad=True)
    y = ours(x)
    y.backward(torch.randn_like(y))
    assert ours.bias is not None
    expected = ours.bias.detach().view(1, -1, *[1] * (len(shape) - 2)).expand(shape)
    rounding = 2 * 316 * abs(value) * torch.finfo(torch.float32).eps
    torch.testing.assert_close(y.detach(), expected, rtol=1e-6, atol=rounding + 1e-6)
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.parameters())
    assert ours.running_var is not None
    torch.testing.assert_close(ours.running_var, torch.full((3,), 0.9, device=device), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_of_low_precision_inputs(dtype: torch.dtype) -> None:
    """4096 values near 40: a sum in float16 would overflow, one in bfloat16 would stop growing."""
    x = (torch.randn(16, 2, 16, 16) + 40).to(dtype)
    layer = BatchNorm(2, momentum=1.0)
    layer(x)
    flat = x.double().transpose(0, 1).reshape(2, -1)
    mean = flat.sum(1) / 4096
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.running_mean.dtype == layer.running_var.dtype == torch.float32
    torch.testing.assert_close(layer.running_mean.double(), mean, rtol=1e-6, atol=0)
    variance = ((flat - mean[:, None]) ** 2).sum(1) / 4095
    torch.testing.assert_close(layer.running_var.double(), variance, rtol=1e-5, atol=0)


# --- autocast and torch.compile ----------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_autocast(device: str) -> None:
    """bfloat16 in and out after a layer that autocasts; statistics and parameters in single precision."""
    conv, ours = nn.Conv2d(2, 3, 3, device=device), BatchNorm(3, momentum=1.0, device=device)
    x = torch.randn(4, 2, 6, 6, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert ours(torch.randn(4, 3, 6, 6, device=device)).dtype == torch.float32
        hidden = conv(x)
        y = ours(hidden)
    assert hidden.dtype == y.dtype == torch.bfloat16
    dy = torch.randn_like(y)
    found = torch.autograd.grad(y, (hidden, *ours.parameters(), conv.weight), dy)
    assert [g.dtype for g in found] == [torch.bfloat16, *[torch.float32] * 3]

    twin = nn.BatchNorm2d(3, momentum=1.0, device=device, dtype=torch.float64)
    reference = hidden.detach().double().requires_grad_()
    expected = twin(reference)
    torch.testing.assert_close(y.double(), expected, rtol=1e-2, atol=1e-2)
    dhidden, *dparameters = torch.autograd.grad(expected, (reference, *twin.parameters()), dy.double())
    torch.testing.assert_close(found[0].double(), dhidden, rtol=1e-2, atol=1e-2)
    for mine, theirs in zip(found[1:3], dparameters, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.running_mean.double(), twin.running_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.running_var.double(), twin.running_var, rtol=1e-5, atol=0)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [True, False])
def test_compiled_without_a_graph_break(momentum: float | None, affine: bool) -> None:
    """fullgraph raises at a break; backend eager needs no compiler on the machine."""
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3),
        BatchNorm(3, momentum=momentum, affine=affine),
        nn.ReLU(),
        nn.Flatten(),
        BatchNorm(27),
    ).double()
    plain = copy.deepcopy(network)
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    for training in (True, True, False):
        compiled.train(training)
        plain.train(training)
        x = torch.randn(4, 2, 5, 5, dtype=torch.float64)
        y, expected = compiled(x), plain(x)
        torch.testing.assert_close(y, expected)
        dy = torch.randn_like(y)
        found = torch.autograd.grad(y, tuple(network.parameters()), dy)
        torch.testing.assert_close(found, torch.autograd.grad(expected, tuple(plain.parameters()), dy))
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name])


# --- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_features": 0}, "num_features must be a positive integer, got 0"),
        ({"num_features": -3}, "num_features must be a positive integer, got -3"),
        ({"eps": -1e-5}, "eps must not be negative, got -1e-05"),
        ({"momentum": -0.1}, r"momentum must be None or in \[0, 1\], got -0.1"),
        ({"momentum": 1.1}, r"momentum must be None or in \[0, 1\], got 1.1"),
        ({"momentum": math.nan}, r"momentum must be None or in \[0, 1\], got nan"),
    ],
    ids=str,
)
def test_options_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchNorm(**{"num_features": 3, **options})


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(()), r"of 2 to 5 dimensions, got 0 dimensions, shape \(\)"),
        (torch.zeros(3), r"of 2 to 5 dimensions, got 1 dimensions, shape \(3,\)"),
        (
            torch.zeros(2, 3, 1, 1, 1, 1),
            r"of 2 to 5 dimensions, got 6 dimensions, shape \(2, 3, 1, 1, 1, 1\)",
        ),
        (torch.zeros(3, 4), r"takes 3 channels in dimension 1, got 4, shape \(3, 4\)"),
        (torch.zeros(2, 4, 4, 3), r"takes 3 channels in dimension 1, got 4, shape \(2, 4, 4, 3\)"),
        (torch.zeros(2, 3, dtype=torch.long), "takes floating-point input, got torch.int64"),
        (torch.zeros(2, 3, dtype=torch.bool), "takes floating-point input, got torch.bool"),
        (torch.zeros(2, 3, dtype=torch.complex64), "takes floating-point input, got torch.complex64"),
    ],
    ids=["scalar", "1d", "6d", "channels", "channels_at_the_end", "integer", "bool", "complex"],
)
def test_inputs_that_do_not_fit(x: Tensor, message: str, training: bool) -> None:
    layer = BatchNorm(3).train(training)
    with pytest.raises(ValueError, match=f"BatchNorm.* {message}"):
        layer(x)
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1), (1, 3, 1, 1), (1, 3, 1, 1, 1)], ids=str)
def test_one_value_a_channel_has_no_variance(shape: tuple[int, ...]) -> None:
    """In the words of the twin; at evaluation one value is enough."""
    ours, twin = make_pair(len(shape), 3)
    x = torch.randn(shape)
    for layer in (ours, twin):
        with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
            layer(x)
    torch.testing.assert_close(ours.eval()(x).double(), twin.eval()(x.double()), rtol=1e-5, atol=1e-6)
