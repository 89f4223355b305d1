"""The engine against formulas written out here in float64, and its derivatives against finite differences."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from normcore import fused_norm, moments, pool

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SHAPES = [(4, 3), (4, 3, 5), (3, 4, 2, 3), (2, 3, 2, 2, 3)]
EPS = 1e-2
Mix = Callable[..., tuple[Tensor, ...]]


# --- references, by explicit sums -------------------------------------------------------------------------


def sum_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every (n, c) by their definition, in float64."""
    flat = x.double().reshape(*x.shape[:2], -1)
    m = flat.shape[2]
    mean = flat.sum(2) / m
    return mean, ((flat - mean[..., None]) ** 2).sum(2) / m


def normalized(x: Tensor, axes: tuple[int, ...], eps: float = EPS) -> Tensor:
    """(x - mean) / sqrt(var + eps) with both taken over ``axes`` by explicit sums."""
    x = x.double()
    m = 1
    for axis in axes:
        m *= x.shape[axis]
    mean = x.sum(axes, keepdim=True) / m if axes else x
    var = ((x - mean) ** 2).sum(axes, keepdim=True) / m if axes else torch.zeros_like(x)
    return (x - mean) / (var + eps).sqrt()


def per_channel(table: Tensor, x: Tensor) -> Tensor:
    return table.double().reshape(1, -1, *[1] * (x.dim() - 2))


# --- mixes: the normalizers that the engine has to serve ---------------------------------------------------


def scale_and_shift(mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    scale = (var + EPS).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    return scale, shift if bias is None else shift + bias


def instance(mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, ...]:
    return scale_and_shift(mean, var, weight, bias)


def layer(mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, ...]:
    return scale_and_shift(*pool(mean, var, 1), weight, bias)


def batch(mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, ...]:
    mean, var = pool(mean, var, 0)
    return *scale_and_shift(mean, var, weight, bias), mean, var


def full(mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, ...]:
    return scale_and_shift(*pool(mean, var, (0, 1)), weight, bias)


def root_mean_square(mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, ...]:
    """No mean subtracted: without a bias the shift is a constant that autograd knows nothing about."""
    mean, var = pool(mean, var, 1)
    scale = (var + mean.square() + EPS).rsqrt()
    scale = scale if weight is None else scale * weight
    return scale, torch.zeros_like(scale) if bias is None else bias.expand_as(mean * scale)


def switchable(
    mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, logits: Tensor | None
) -> tuple[Tensor, ...]:
    """Statistics that are a learned convex combination of three."""
    shares = (mean.new_zeros(3) if logits is None else logits).softmax(0)
    tables = [(mean, var), pool(mean, var, 1), pool(mean, var, 0)]
    mean = sum((s * m for s, (m, _) in zip(shares, tables, strict=True)), torch.zeros_like(mean))
    var = sum((s * v for s, (_, v) in zip(shares, tables, strict=True)), torch.zeros_like(var))
    return *scale_and_shift(mean, var, weight, bias), mean


def spatial(rank: int) -> tuple[int, ...]:
    return tuple(range(2, rank))


# name -> the mix, and the axes that it normalizes over
POOLED: dict[str, tuple[Mix, Callable[[int], tuple[int, ...]]]] = {
    "instance": (instance, spatial),
    "layer": (layer, lambda rank: (1, *spatial(rank))),
    "batch": (batch, lambda rank: (0, *spatial(rank))),
    "full": (full, lambda rank: (0, 1, *spatial(rank))),
}
MIXES: dict[str, Mix] = {
    **{name: mix for name, (mix, _) in POOLED.items()},
    "rms": root_mean_square,
    "switchable": switchable,
}


def parameters_of(name: str, channels: int, device: str = "cpu") -> list[Tensor]:
    count = [(channels,), (channels,), *([(3,)] if name == "switchable" else [])]
    made = [torch.randn(size, dtype=torch.float64).to(device) for size in count]
    return [p.requires_grad_() for p in made]


def output_of(name: str) -> Callable[..., Tensor]:
    """The output of fused_norm as a function of its tensors."""
    return lambda x, *parameters: fused_norm(x, MIXES[name], *parameters)[0]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# --- moments and pool --------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("path", ["native", "strided", "differentiable"])
@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("shape", SHAPES)
def test_moments_match_the_sums(shape: tuple[int, ...], offset: float, path: str, device: str) -> None:
    x = (3 * torch.randn(shape, dtype=torch.float64) + offset).float().to(device)
    if path == "strided":
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    mean, var = (table.detach() for table in moments(x.requires_grad_(path == "differentiable")))
    x = x.detach()
    expected_mean, expected_var = sum_moments(x)
    assert mean.dtype == var.dtype == torch.float32
    torch.testing.assert_close(mean.double(), expected_mean, rtol=3e-7, atol=1e-6)
    # E[x²] - E[x]² in float32 would be off by several units at this offset
    torch.testing.assert_close(var.double(), expected_var, rtol=5e-3 if offset else 1e-5, atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(
    dims=st.lists(st.integers(1, 5), min_size=0, max_size=3),
    n=st.integers(1, 4),
    c=st.integers(1, 5),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    layout=st.sampled_from(["contiguous", "strided", "permuted", "expanded"]),
    differentiable=st.booleans(),
    seed=st.integers(0, 999),
)
def test_moments_of_any_layout(
    dims: list[int], n: int, c: int, dtype: torch.dtype, layout: str, differentiable: bool, seed: int
) -> None:
    """Inputs that require a gradient take another path, and strided ones another kernel."""
    torch.manual_seed(seed)
    shape = (n, c, *dims)
    x = torch.randn(shape, dtype=torch.float64) + 2
    if layout == "strided":
        x = torch.randn(*shape[:-1], 2 * shape[-1], dtype=torch.float64)[..., ::2]
    elif layout == "permuted":
        x = torch.randn(shape[::-1], dtype=torch.float64).permute(*reversed(range(len(shape))))
    elif layout == "expanded":
        x = x[:1].expand(shape)
    x = x.to(dtype).requires_grad_(differentiable)
    mean, var = moments(x)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert (mean.shape, mean.dtype, var.shape, var.dtype) == ((n, c), wide, (n, c), wide)
    # the values are those of single precision also where the input holds 8 or 11 bits
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    for table, expected in zip((mean, var), sum_moments(x.detach()), strict=True):
        torch.testing.assert_close(table.detach().double(), expected, rtol=tolerance, atol=tolerance)
    assert mean.requires_grad == differentiable


def test_moments_pass_gradients() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(moments, x)


def test_moments_of_constants_have_no_variance() -> None:
    """A reciprocal standard deviation of infinity has to come back as zero, not as NaN."""
    mean, var = moments(torch.full((2, 3, 4, 4), 1e4))
    assert torch.equal(mean, torch.full((2, 3), 1e4))
    assert torch.equal(var, torch.zeros(2, 3))


def test_an_empty_batch_has_empty_tables() -> None:
    x = torch.ones(0, 3, 4, requires_grad=True)
    for table in moments(x.detach()):
        assert table.shape == (0, 3)
    y = fused_norm(x, instance, None, None)[0]
    y.sum().backward()
    assert y.shape == x.shape
    assert x.grad is not None


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e8])
@pytest.mark.parametrize("dim", [0, 1, (0, 1)])
def test_pool_is_the_law_of_total_variance(dim: int | tuple[int, ...], offset: float) -> None:
    """Pooled moments of equal parts are the moments of all their values together."""
    parts = torch.randn(4, 3, 10, dtype=torch.float64) + 5 * torch.randn(4, 3, 1, dtype=torch.float64) + offset
    mean, var = pool(*sum_moments(parts), dim)
    axes = (dim, 2) if isinstance(dim, int) else (*dim, 2)
    count = parts.numel() // mean.numel()
    expected_mean = parts.sum(axes, keepdim=True) / count
    expected_var = ((parts - expected_mean) ** 2).sum(axes, keepdim=True) / count
    torch.testing.assert_close(mean, expected_mean.squeeze(2), rtol=1e-12, atol=1e-12)
    # float64 holds values near 1e8 to about 1e-8
    torch.testing.assert_close(var, expected_var.squeeze(2), rtol=1e-7 if offset == 1e8 else 1e-10, atol=0)


def test_pool_of_single_values_is_their_variance() -> None:
    """Without spatial axes the parts have no variance of their own."""
    x = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    mean, var = pool(*moments(x), 0)
    assert torch.equal(mean, torch.tensor([[2.0, 4.0]]))
    assert torch.equal(var, torch.tensor([[1.0, 4.0]]))


def test_pool_does_not_cancel_in_single_precision() -> None:
    mean = torch.tensor([[1e4], [1e4 + 1], [1e4 + 2]])
    total, var = pool(mean, torch.full((3, 1), 0.25), 0)
    assert total.item() == 1e4 + 1
    assert var.item() == pytest.approx(0.25 + 2 / 3, rel=1e-6)


# --- fused_norm, forward -----------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", POOLED)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_is_the_textbook_formula(shape: tuple[int, ...], name: str, device: str) -> None:
    mix, axes = POOLED[name]
    x = (2 * torch.randn(shape) + 1).to(device)
    weight, bias = parameters_of(name, shape[1], device)
    y = fused_norm(x, mix, weight, bias)[0]
    expected = normalized(x, axes(len(shape))) * per_channel(weight, x) + per_channel(bias, x)
    assert y.dtype == x.dtype
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_is_scale_times_x_plus_shift(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Tables that do not depend on x: (N, C), a channel's, an instance's, and one number for all."""
    x = torch.randn(shape).to(dtype)
    n, c = shape[:2]
    for size in [(n, c), (1, c), (n, 1), (1, 1)]:
        a, b = torch.randn(size), torch.randn(size)
        y = fused_norm(x, lambda mean, var, a, b: (a, b), a, b)[0]
        spread = (*size, *[1] * (len(shape) - 2))
        expected = a.double().view(spread) * x.double() + b.double().view(spread)
        assert y.dtype == dtype
        rounding = torch.finfo(dtype).eps
        torch.testing.assert_close(y.double(), expected, rtol=rounding, atol=min(10 * rounding, 1e-6))


@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize(("rank", "layout"), [(4, torch.channels_last), (5, torch.channels_last_3d)], ids=["2d", "3d"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channels_last_stays(name: str, rank: int, layout: torch.memory_format, dtype: torch.dtype) -> None:
    x = torch.randn((2, 3, 4, 5, 6)[:rank]).to(dtype).to(memory_format=layout).requires_grad_()
    parameters = parameters_of(name, 3)
    y = fused_norm(x, MIXES[name], *parameters)[0]
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert y.is_contiguous(memory_format=layout)
    assert dx.is_contiguous(memory_format=layout)
    plain = fused_norm(x.detach().contiguous(), MIXES[name], *parameters)[0]
    assert plain.is_contiguous()
    torch.testing.assert_close(y, plain, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)


# --- fused_norm, backward ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize("shape", SHAPES)
def test_first_and_second_derivatives(shape: tuple[int, ...], name: str) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    arguments = (x, *parameters_of(name, shape[1]))
    assert torch.autograd.gradcheck(output_of(name), arguments)
    assert torch.autograd.gradgradcheck(output_of(name), arguments)


@pytest.mark.parametrize("missing", [(0,), (1,), (0, 1), (2,), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("shape", [(4, 3), (3, 2, 2, 2)], ids=str)
def test_derivatives_with_parameters_that_are_none(shape: tuple[int, ...], missing: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    present = [p for i, p in enumerate(parameters_of("switchable", shape[1])) if i not in missing]

    def call(x: Tensor, *present: Tensor) -> Tensor:
        rest = iter(present)
        return fused_norm(x, switchable, *(None if i in missing else next(rest) for i in range(3)))[0]

    assert torch.autograd.gradcheck(call, (x, *present))
    assert torch.autograd.gradgradcheck(call, (x, *present))


@pytest.mark.parametrize("name", ["layer", "rms"])
def test_derivatives_without_any_parameter(name: str) -> None:
    x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(output_of(name), (x, None, None))
    assert torch.autograd.gradgradcheck(output_of(name), (x, None, None))


def test_tables_that_ignore_the_moments() -> None:
    """Then nothing flows through the moments, and dx is scale * dy."""
    x = torch.randn(3, 2, 4, requires_grad=True)
    y = fused_norm(x, lambda mean, var: (torch.full_like(mean, 2.0), torch.ones_like(mean)))[0]
    dy = torch.randn_like(y)
    y.backward(dy)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, 2 * dy)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", POOLED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_in_low_precision(name: str, dtype: torch.dtype, device: str) -> None:
    """Against autograd through the textbook formula in float64, from the same rounded inputs."""
    mix, axes = POOLED[name]
    x = torch.randn(4, 6, 5, 5).to(device, dtype).requires_grad_()
    dy = torch.randn(4, 6, 5, 5).to(device, dtype)
    weight, bias = parameters_of(name, 6, device)
    found = torch.autograd.grad(fused_norm(x, mix, weight, bias)[0], (x, weight, bias), dy)
    y = normalized(x, axes(4)) * per_channel(weight, x) + per_channel(bias, x)
    expected = torch.autograd.grad(y, (x, weight, bias), dy.double())
    assert found[0].dtype == dtype
    # the sums over positions keep single precision; only dx is rounded to the dtype of x
    rounding = 1e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found[0].double(), expected[0].double(), rtol=rounding, atol=rounding)
    torch.testing.assert_close(found[1:], expected[1:], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", MIXES)
def test_create_graph_gives_the_same_first_gradient(name: str) -> None:
    """The hand-written backward and the differentiable one are two codes for one derivative."""
    arguments = (torch.randn(3, 4, 2, 2, dtype=torch.float64, requires_grad=True), *parameters_of(name, 4))
    y = fused_norm(arguments[0], MIXES[name], *arguments[1:])[0]
    dy = torch.randn_like(y)
    by_hand = torch.autograd.grad(y, arguments, dy, retain_graph=True)
    by_autograd = torch.autograd.grad(y, arguments, dy, create_graph=True)
    torch.testing.assert_close(by_hand, by_autograd, rtol=1e-9, atol=1e-12)
    assert by_autograd[0].requires_grad


def test_a_parameter_of_integers() -> None:
    """Which group a channel belongs to, say: passed to the mix, and without a gradient."""
    x, order = torch.randn(4, 3, 5, requires_grad=True), torch.tensor([2, 0, 1])
    weight = torch.randn(3, requires_grad=True)
    y = fused_norm(x, lambda mean, var, order, weight: (weight[order], mean), order, weight)[0]
    y.sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad[order], x.detach().sum((0, 2)))


def test_arguments_that_depend_on_each_other() -> None:
    """Each argument gets its direct part only, also with create_graph: what one owes to another, a weight
    shared by two layers say, autograd adds by itself, and would be counted twice."""
    weight = torch.randn(3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)

    def two_layers(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        hidden = fused_norm(x, batch, weight, bias)[0].sin()
        return fused_norm(hidden, batch, weight, bias + hidden.mean((0, 2)))[0]

    def one_in_two_places(x: Tensor, weight: Tensor) -> Tensor:
        return fused_norm(x, batch, weight, weight)[0]

    for call, arguments in ((two_layers, (x, weight, bias)), (one_in_two_places, (x, weight))):
        dy = torch.randn(4, 3, 2, dtype=torch.float64)
        first = torch.autograd.grad(call(*arguments), arguments, dy)
        differentiable = torch.autograd.grad(call(*arguments), arguments, dy, create_graph=True)
        torch.testing.assert_close(first, differentiable)
        assert torch.autograd.gradcheck(call, arguments)
        assert torch.autograd.gradgradcheck(call, arguments)


def test_backward_twice() -> None:
    x, (weight, bias) = torch.randn(4, 3, 5, requires_grad=True), parameters_of("batch", 3)
    y = fused_norm(x, batch, weight, bias)[0]
    dy = torch.randn_like(y)
    first = torch.autograd.grad(y, (x, weight, bias), dy, retain_graph=True)
    second = torch.autograd.grad(y, (x, weight, bias), dy)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y, x, dy)


def test_only_what_asks_gets_a_gradient() -> None:
    """x frozen; a weight alone; nothing at all: the gradients that remain are the same as with all."""
    x, (weight, bias) = torch.randn(4, 3, 5, requires_grad=True), parameters_of("batch", 3)
    dy = torch.randn(4, 3, 5)
    expected = torch.autograd.grad(fused_norm(x, batch, weight, bias)[0], (x, weight, bias), dy)
    frozen, fixed = x.detach(), bias.detach()
    for create_graph in (False, True):
        only_weights = torch.autograd.grad(
            fused_norm(frozen, batch, weight, bias)[0], (weight, bias), dy, create_graph=create_graph
        )
        torch.testing.assert_close(only_weights, expected[1:])
        (only_weight,) = torch.autograd.grad(
            fused_norm(frozen, batch, weight, fixed)[0], weight, dy, create_graph=create_graph
        )
        torch.testing.assert_close(only_weight, expected[1])
        (only_x,) = torch.autograd.grad(
            fused_norm(x, batch, weight.detach(), fixed)[0], x, dy, create_graph=create_graph
        )
        torch.testing.assert_close(only_x, expected[0])
    assert not fused_norm(frozen, batch, weight.detach(), fixed)[0].requires_grad
    with torch.no_grad():
        assert not fused_norm(x, batch, weight, bias)[0].requires_grad


def test_an_input_changed_before_backward_is_noticed() -> None:
    x = torch.randn(4, 3, 5, requires_grad=True) * 1
    y = fused_norm(x, batch, None, None)[0]
    x.add_(1)
    with pytest.raises(RuntimeError, match="inplace operation"):
        y.sum().backward()


# --- fused_norm, statistics --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_statistics_come_back_without_a_gradient(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, requires_grad=True)
    y, mean, var = fused_norm(x, batch, *parameters_of("batch", shape[1]))
    assert y.requires_grad
    assert not mean.requires_grad
    assert not var.requires_grad
    assert mean.grad_fn is None
    assert var.grad_fn is None
    flat = x.detach().double().transpose(0, 1).reshape(shape[1], -1)
    expected = flat.sum(1) / flat.shape[1]
    torch.testing.assert_close(mean[0].double(), expected, rtol=1e-5, atol=1e-6)
    centred = flat - expected[:, None]
    torch.testing.assert_close(var[0].double(), (centred**2).sum(1) / flat.shape[1], rtol=1e-5, atol=1e-6)


def test_statistics_of_low_precision_inputs_are_single_precision() -> None:
    x = torch.randn(8, 3, 16).to(torch.bfloat16)
    _, mean, var = fused_norm(x, batch, None, None)
    flat = x.double().transpose(0, 1).reshape(3, -1)
    expected = flat.sum(1) / flat.shape[1]
    assert mean.dtype == var.dtype == torch.float32
    torch.testing.assert_close(mean[0].double(), expected, rtol=1e-6, atol=1e-7)
    centred = flat - expected[:, None]
    torch.testing.assert_close(var[0].double(), (centred**2).sum(1) / flat.shape[1], rtol=1e-6, atol=0)


# --- torch.compile -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize("shape", [(4, 3), (3, 4, 2, 3)], ids=str)
def test_compiled_is_the_same(shape: tuple[int, ...], name: str) -> None:
    """Compilers get the engine as plain operations; backend eager needs no compiler installed."""
    arguments = (torch.randn(shape, dtype=torch.float64, requires_grad=True), *parameters_of(name, shape[1]))
    call = output_of(name)
    torch._dynamo.reset()
    y, compiled = call(*arguments), torch.compile(call, backend="eager", fullgraph=True)(*arguments)
    torch.testing.assert_close(compiled, y)
    dy = torch.randn_like(y)
    torch.testing.assert_close(torch.autograd.grad(compiled, arguments, dy), torch.autograd.grad(y, arguments, dy))


def test_compiled_statistics_carry_no_gradient() -> None:
    x = torch.randn(4, 3, 5, requires_grad=True)
    torch._dynamo.reset()
    found = torch.compile(lambda x: fused_norm(x, batch, None, None), backend="eager", fullgraph=True)(x)
    assert [t.requires_grad for t in found] == [True, False, False]
    torch.testing.assert_close(found, fused_norm(x, batch, None, None))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_compiled_far_from_zero(layout: torch.memory_format) -> None:
    """The plain operations do not cancel either."""
    x = (torch.randn(4, 3, 8, 8) + 1e4).to(memory_format=layout)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: fused_norm(x, batch, None, None), backend="eager", fullgraph=True)
    for _, mean, var in (compiled(x), fused_norm(x, batch, None, None)):
        flat = x.double().transpose(0, 1).reshape(3, -1)
        torch.testing.assert_close(mean[0].double(), flat.mean(1), rtol=3e-7, atol=0)
        torch.testing.assert_close(var[0].double(), flat.var(1, correction=0), rtol=5e-3, atol=0)
