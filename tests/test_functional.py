"""The engine against formulas over x in float64, and its derivatives against those of the formulas."""

import gc
import itertools
import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from normcore import affine, fused_norm, moments, pool

from .formulas import (
    FORMULAS,
    MIX_EPS,
    MIXES,
    batch_mix,
    flat,
    gradient_within_a_gradient,
    layer_mix,
    moments_over,
    parameters_of,
    standard,
)  # fmt: skip
from .helpers import DEVICES, LAYOUTS, ROUNDING, SHAPES, assert_near, laid_out

shapes = st.tuples(st.integers(1, 4), st.integers(1, 5)).flatmap(
    lambda nc: st.lists(st.integers(1, 5), max_size=3).map(lambda space: (*nc, *space))
)
seeds = st.integers(0, 999)
pytestmark = pytest.mark.usefixtures("seed")


def output_of(name: str) -> Callable[..., Tensor]:
    """The output of the engine as a function of its tensors."""
    return lambda x, *parameters: fused_norm(x, MIXES[name], *parameters)[0]


def derivatives(y: Tensor, inputs: list[Tensor], dy: Tensor, **options: bool) -> tuple[Tensor, ...]:
    """Gradients, zero where y does not depend on an input."""
    return torch.autograd.grad(y, inputs, dy, materialize_grads=True, **options)


# --- moments -----------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    shape=shapes,
    dtype=st.sampled_from(list(ROUNDING)),
    layout=st.sampled_from(LAYOUTS),
    differentiable=st.booleans(),
    seed=seeds,
)
def test_moments_match_the_sums_in_any_layout(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str, differentiable: bool, seed: int
) -> None:
    """Inputs that require a gradient take another path."""
    torch.manual_seed(seed)
    x = laid_out((torch.randn(shape, dtype=torch.float64) + 2).to(dtype), layout).requires_grad_(differentiable)
    expected = moments_over(flat(x.detach().double()), 2)
    for found, wanted in zip(moments(x), expected, strict=True):
        assert (found.shape, found.dtype) == (shape[:2], torch.promote_types(dtype, torch.float32))
        # half precision in the input is none in the tables
        assert_near(found, wanted.reshape(shape[:2]), min(ROUNDING[dtype], 2e-6))
    assert moments(x)[0].requires_grad == differentiable


@settings(max_examples=40)
@given(shape=shapes, wide=st.lists(st.booleans(), min_size=4, max_size=4), seed=seeds)
def test_masked_moments_are_those_of_what_counts(shape: tuple[int, ...], wide: list[bool], seed: int) -> None:
    """The mask may be broadcast along any axis; what it hides may be NaN."""
    torch.manual_seed(seed)
    x = torch.randn(shape, dtype=torch.float64)
    sizes = (shape[0], 1, *shape[2:])
    mask = torch.rand([n if keep else 1 for n, keep in zip(sizes, wide, strict=False)] + [*sizes[4:]]) < 0.6
    counts = mask.expand(shape)
    mean, var = moments(x.masked_fill(~counts, torch.nan), mask)
    for n, c in itertools.product(*map(range, shape[:2])):
        values = x[n, c][counts[n, c]]
        expected = moments_over(values, 0) if len(values) else (torch.zeros(1), torch.zeros(1))
        assert mean[n, c].item() == pytest.approx(expected[0].item(), abs=1e-12)
        assert var[n, c].item() == pytest.approx(expected[1].item(), abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_moments_pass_gradients(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(shape[0], 1, *shape[2:]) < 0.6
    assert torch.autograd.gradcheck(moments, x)
    assert torch.autograd.gradcheck(lambda x: moments(x, mask), x)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_moments_as_a_compiler_sees_them_have_both_derivatives(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = (torch.randn(shape, dtype=torch.float64) + 1e3).requires_grad_()
    seen = moments(x)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for ours, expected in zip(moments(x), seen, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(moments, x)
    assert torch.autograd.gradgradcheck(moments, x)


# --- pool --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counted", [False, True], ids=["equal", "counted"])
@pytest.mark.parametrize("offset", [0.0, 1e4, 1e8])
@pytest.mark.parametrize("dim", [0, 1, (0, 1)], ids=str)
def test_pool_is_the_law_of_total_variance(dim: int | tuple[int, ...], offset: float, counted: bool) -> None:
    """Pooled moments are the moments of all values of the parts together, however many are in each."""
    sizes = torch.tensor([3, 1, 0, 7]) if counted else torch.full((4,), 5)
    parts = [[torch.randn(int(m), dtype=torch.float64) * 2 + offset + k for k in range(3)] for m in sizes]
    mean, var = (
        torch.stack([torch.stack([moments_over(p, 0)[k].sum() if len(p) else p.sum() for p in row]) for row in parts])
        for k in (0, 1)
    )
    found = pool(mean, var, dim, sizes.unsqueeze(1) if counted else None)
    if dim == 0:
        groups = [[torch.cat([row[k] for row in parts]) for k in range(3)]]
    elif dim == 1:
        groups = [[torch.cat(row)] for row in parts]
    else:
        groups = [[torch.cat([p for row in parts for p in row])]]
    for i, j in itertools.product(range(len(groups)), range(len(groups[0]))):
        values = groups[i][j]
        expected = moments_over(values, 0) if len(values) else (torch.zeros(1), torch.zeros(1))
        assert found[0][i, j].item() == pytest.approx(expected[0].item(), rel=1e-12, abs=1e-12)
        # float64 holds values near 1e8 to about 1e-8
        assert found[1][i, j].item() == pytest.approx(expected[1].item(), rel=1e-6 if offset == 1e8 else 1e-10)
    assert found[0].shape == found[1].shape == (len(groups), len(groups[0]))


def test_pool_does_not_cancel_in_single_precision() -> None:
    mean = torch.tensor([[1e4], [1e4 + 1], [1e4 + 2]])
    for count in (None, torch.ones(3, 1)):
        total, var = pool(mean, torch.full((3, 1), 0.25), 0, count)
        assert total.item() == pytest.approx(1e4 + 1, rel=1e-7)
        assert var.item() == pytest.approx(0.25 + 2 / 3, rel=1e-3)


def test_pool_passes_gradients() -> None:
    mean, var = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    count = torch.tensor([[3], [1], [0], [7]])
    for dim in (0, 1, (0, 1)):
        assert torch.autograd.gradcheck(lambda m, v, d=dim: pool(m, v, d), (mean, var))
        assert torch.autograd.gradcheck(lambda m, v, d=dim: pool(m, v, d, count), (mean, var))


# --- fused_norm: values and first derivatives --------------------------------------------------------------


@settings(max_examples=100)
@given(
    name=st.sampled_from(list(FORMULAS)),
    shape=shapes,
    dtype=st.sampled_from(list(ROUNDING)),
    layout=st.sampled_from(LAYOUTS),
    dy_layout=st.sampled_from([*LAYOUTS, "ones"]),
    wanted=st.sets(st.integers(0, 3), min_size=1),
    device=st.sampled_from(DEVICES),
    seed=seeds,
)
def test_values_and_gradients_are_those_of_the_formula(
    name: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    layout: str,
    dy_layout: str,
    wanted: set[int],
    device: str,
    seed: int,
) -> None:
    """Every mix, rank, dtype and layout; any of x, weight, bias and the third may be what requires a gradient."""
    torch.manual_seed(seed)
    x = laid_out((2 * torch.randn(shape, dtype=torch.float64) + 1).to(device, dtype), layout)
    dy = torch.randn(shape, dtype=torch.float64).to(device, dtype)
    dy = dy.flatten()[0].expand(shape) if dy_layout == "ones" else laid_out(dy, dy_layout)
    table_dtype = torch.promote_types(dtype, torch.float32)
    inputs = [x, *(p.detach() for p in parameters_of(name, shape[1], table_dtype, device))]
    exact = [t.double().contiguous() for t in inputs]
    for i in wanted:
        inputs[i].requires_grad_()
        exact[i].requires_grad_()
    y, expected = fused_norm(inputs[0], MIXES[name], *inputs[1:])[0], FORMULAS[name](*exact)
    assert (y.dtype, y.shape) == (dtype, shape)
    assert_near(y, expected.detach(), ROUNDING[dtype])
    with torch.no_grad():  # another path
        assert_near(fused_norm(inputs[0], MIXES[name], *inputs[1:])[0], expected, ROUNDING[dtype])
    if not expected.requires_grad:
        return
    order = sorted(wanted)
    found = derivatives(y, [inputs[i] for i in order], dy)
    correct = derivatives(expected, [exact[i] for i in order], dy.double())
    for i, gradient, wanted_gradient in zip(order, found, correct, strict=True):
        assert gradient.dtype == inputs[i].dtype
        # only the gradient of x is rounded to a lower precision than that of the tables
        assert_near(gradient, wanted_gradient, 3 * (ROUNDING[dtype] if i == 0 else ROUNDING[table_dtype]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_parameters_of_another_precision_than_the_tables(layout: str, dtype: torch.dtype) -> None:
    """A model in double precision, or in half, on float32 data: output like x, gradients like the parameters."""
    x = laid_out(torch.randn(4, 3, 5, 5), layout).requires_grad_()
    parameters = parameters_of("switchable", 3, dtype)
    y = output_of("switchable")(x, *parameters)
    found = torch.autograd.grad(y, (x, *parameters), torch.ones_like(y))
    exact = [t.detach().double().requires_grad_() for t in (x, *parameters)]
    expected = FORMULAS["switchable"](*exact)
    correct = torch.autograd.grad(expected, exact, torch.ones_like(expected))
    assert y.dtype == torch.float32
    assert_near(y, expected.detach(), 2e-5 if dtype == torch.float64 else 2e-3)
    for gradient, wanted, like in zip(found, correct, (x, *parameters), strict=True):
        assert gradient.dtype == like.dtype
        assert_near(gradient, wanted, 5e-5 if dtype == torch.float64 else 5e-3)


@pytest.mark.parametrize("missing", [(0,), (1,), (0, 1)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parameters_may_be_none(shape: tuple[int, ...], missing: tuple[int, ...]) -> None:
    """A missing weight is one, a missing bias zero; the others keep their gradients."""
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    filled = [torch.ones(shape[1]), torch.zeros(shape[1]), torch.zeros(())]
    given = [None if i in missing else p for i, p in enumerate(parameters_of("batch", shape[1])[:2])]
    y = fused_norm(x, batch_mix, *given, None)[0]
    expected = FORMULAS["batch"](x, *(f if g is None else g for g, f in zip(given, filled, strict=False)), filled[2])
    torch.testing.assert_close(y, expected)
    inputs, dy = [x, *(g for g in given if g is not None)], torch.randn_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, inputs, dy), torch.autograd.grad(expected, inputs, dy))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize(("rank", "layout"), [(4, torch.channels_last), (5, torch.channels_last_3d)], ids=["2d", "3d"])
def test_channels_last_stays(name: str, rank: int, layout: torch.memory_format, device: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn((2, 3, 4, 5, 6)[:rank]).to(device, dtype).to(memory_format=layout).requires_grad_()
        y = output_of(name)(x, *parameters_of(name, 3, device=device))
        for dy in (torch.randn_like(y).contiguous(), torch.ones_like(y).to(memory_format=layout)):
            (dx,) = torch.autograd.grad(y, x, dy, retain_graph=True)
            assert dx.is_contiguous(memory_format=layout)
        assert y.is_contiguous(memory_format=layout)


def test_a_user_writes_a_normalizer_in_five_lines() -> None:
    """Weight standardization's cousin: the mean absolute channel mean as a scale, say."""

    def mix(mean: Tensor, var: Tensor, gain: Tensor) -> tuple[Tensor, ...]:
        total, spread = pool(mean, var, (0, 1))
        size = (spread + total.square()).sqrt()
        return total * gain.tanh(), gain / (1 + size), size, size

    x, gain = torch.randn(4, 3, 5, 6, requires_grad=True), torch.randn(3, requires_grad=True)
    y, size = fused_norm(x, mix, gain)
    root = x.double().square().mean().sqrt()
    g = gain.double().view(1, 3, 1, 1)
    expected = g / (1 + root) * (x.double() - x.double().mean() * g.tanh()) + root
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    assert size.item() == pytest.approx(root.item(), rel=1e-6)
    dy = torch.randn_like(y)
    found, correct = (torch.autograd.grad(out, (x, gain), dy.to(out.dtype)) for out in (y, expected))
    torch.testing.assert_close(found, correct, rtol=1e-4, atol=1e-4)

    for argument in (x, x.detach()):  # as part of someone's compiled model
        torch._dynamo.reset()
        compiled = torch.compile(lambda x, gain: fused_norm(x, mix, gain), backend="aot_eager", fullgraph=True)
        z, compiled_size = compiled(argument, gain)
        torch.testing.assert_close((z, compiled_size), (y, size))
        assert not compiled_size.requires_grad
        wanted = (x, gain) if argument is x else (gain,)
        torch.testing.assert_close(torch.autograd.grad(z, wanted, dy), found[-len(wanted) :], rtol=1e-5, atol=1e-5)


# --- masks -------------------------------------------------------------------------------------------------


def masked_batch(mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, count: Tensor) -> tuple[Tensor, ...]:
    mean, var = pool(mean, var, 0, count)
    return *standard(mean, var, weight, bias), mean, var


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_masked_positions_neither_count_nor_come_through(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """BatchNorm over the values that count, channel by channel; NaN elsewhere reaches nothing, gradients neither."""
    mask = torch.rand(shape[0], 1, *shape[2:]) < 0.6
    mask[0] = False
    mask[-1] = True
    x = torch.randn(shape).to(dtype)
    weight, bias, _ = parameters_of("batch", shape[1], torch.promote_types(dtype, torch.float32))
    hidden = x.masked_fill(~mask, torch.nan).requires_grad_()
    y, mean, var = fused_norm(hidden, masked_batch, weight, bias, mask.flatten(1).sum(1, keepdim=True), mask=mask)
    dy = torch.randn(shape).to(dtype)
    found = torch.autograd.grad(y, (hidden, weight, bias), dy)

    exact = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    expected = torch.zeros(shape, dtype=torch.float64)
    for c in range(shape[1]):
        values = exact[0][:, c][mask[:, 0]]
        m, v = moments_over(values, 0)
        expected[:, c] = expected[:, c].masked_scatter(
            mask[:, 0], (values - m) / (v + MIX_EPS).sqrt() * exact[1][c] + exact[2][c]
        )
        assert mean[0, c].item() == pytest.approx(m.item(), rel=1e-5, abs=1e-6)
        assert var[0, c].item() == pytest.approx(v.item(), rel=1e-5)
    assert y.dtype == dtype
    assert_near(y, expected.detach(), ROUNDING[dtype])
    for gradient, correct in zip(found, torch.autograd.grad(expected, exact, dy.double()), strict=True):
        assert_near(gradient, correct, 3 * ROUNDING[dtype])
    assert torch.equal(found[0].masked_select(~mask), torch.zeros_like(found[0].masked_select(~mask)))


# --- derivatives of every kind -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in MIXES if name != "renormed"])  # its gradient is none of a function
@pytest.mark.parametrize("shape", [(3, 2), (2, 2, 2), (2, 2, 1, 2)], ids=str)
def test_finite_differences_forward_mode_and_second_derivatives(shape: tuple[int, ...], name: str) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    arguments = (x, *parameters_of(name, shape[1]))
    call = output_of(name)
    assert torch.autograd.gradcheck(call, arguments, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, arguments)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "sliced"])
@pytest.mark.parametrize("name", ["batch", "tangled"])
def test_finite_differences_in_other_layouts(name: str, layout: str) -> None:
    x = laid_out(torch.randn(2, 2, 1, 3, dtype=torch.float64), layout).requires_grad_()
    arguments = (x, *parameters_of(name, 2))
    assert torch.autograd.gradcheck(output_of(name), arguments, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(output_of(name), arguments)


@pytest.mark.parametrize("name", FORMULAS)
def test_functional_transforms(name: str) -> None:
    """torch.func on the engine and on the formula."""
    x = torch.randn(3, 2, 2, dtype=torch.float64)
    parameters = [p.detach() for p in parameters_of(name, 2)]
    arguments, tangents = (x, *parameters), tuple(torch.randn_like(t) for t in (x, *parameters))
    many = torch.randn(5, *x.shape, dtype=torch.float64)

    def transformed(call: Callable[..., Tensor]) -> list[object]:
        def loss(x: Tensor, *parameters: Tensor) -> Tensor:
            return call(x, *parameters).sin().sum()

        return [
            torch.func.grad(loss, argnums=(0, 1, 2, 3))(*arguments),
            torch.func.jvp(call, arguments, tangents),
            torch.func.jacrev(call)(*arguments),
            torch.func.jacfwd(call)(*arguments),
            torch.func.hessian(loss)(*arguments),
            torch.func.vmap(call, in_dims=(0, None, None, None))(many, *parameters),
            torch.func.vmap(torch.func.grad(loss), in_dims=(0, None, None, None))(many, *parameters),
        ]

    for found, expected in zip(transformed(output_of(name)), transformed(FORMULAS[name]), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_forward_mode_of_dual_numbers() -> None:
    x, direction = (torch.randn(3, 2, 4, dtype=torch.float64) for _ in range(2))
    parameters = [p.detach() for p in parameters_of("batch", 2)]
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, direction)
        found, expected = (
            forward_ad.unpack_dual(call(dual, *parameters)).tangent for call in (output_of("batch"), FORMULAS["batch"])
        )
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_many_output_gradients_at_once(layout: str) -> None:
    """What torch.autograd.functional.jacobian(vectorize=True) does."""
    x = laid_out(torch.randn(4, 3, 2, 3, dtype=torch.float64), layout).requires_grad_()
    arguments = [x, *parameters_of("tangled", 3)]
    y, dy = output_of("tangled")(*arguments), torch.randn(7, *x.shape, dtype=torch.float64)
    expected = zip(*(torch.autograd.grad(y, arguments, d, retain_graph=True) for d in dy), strict=True)
    found = torch.autograd.grad(y, arguments, dy, is_grads_batched=True)
    for together, apart in zip(found, expected, strict=True):
        torch.testing.assert_close(together, torch.stack(apart))


def test_arguments_that_depend_on_each_other() -> None:
    """A parameter in two places, a parameter made of the input: each path counts once."""
    x = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    weight, bias, other = parameters_of("tangled", 3)

    def stacked(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def two_layers(x: Tensor, weight: Tensor, bias: Tensor, other: Tensor) -> Tensor:
            hidden = call(x, weight, weight, other).sin()
            return call(hidden, bias + hidden.mean((0, 2)), weight, other)

        return two_layers

    arguments = (x, weight, bias, other)
    y, expected = stacked(output_of("tangled"))(*arguments), stacked(FORMULAS["tangled"])(*arguments)
    dy = torch.randn_like(y)
    correct = torch.autograd.grad(expected, arguments, dy)
    torch.testing.assert_close(torch.autograd.grad(y, arguments, dy, retain_graph=True), correct)
    torch.testing.assert_close(torch.autograd.grad(y, arguments, dy, create_graph=True), correct)


# --- several backward passes through one graph -------------------------------------------------------------

Step = Callable[[Tensor, list[Tensor], Tensor], tuple[Tensor, ...]]


def everything(y: Tensor, inputs: list[Tensor], dy: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(y, inputs, dy, retain_graph=True)


def the_weight_only(y: Tensor, inputs: list[Tensor], dy: Tensor) -> tuple[Tensor, ...]:
    """Stops before the moments: whatever apply left for them is not fetched."""
    return torch.autograd.grad(y, inputs[1:2], 2 * dy, retain_graph=True)


def the_input_only(y: Tensor, inputs: list[Tensor], dy: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(y, inputs[:1], -dy, retain_graph=True)


def second_past_apply(y: Tensor, inputs: list[Tensor], dy: Tensor) -> tuple[Tensor, ...]:
    """The gradient's own gradient reaches the moments without passing through apply."""
    (dx,) = torch.autograd.grad(y, inputs[:1], dy, create_graph=True)
    return (dx, *torch.autograd.grad(dx.pow(3).sum(), inputs, retain_graph=True, materialize_grads=True))


def second_and_first(y: Tensor, inputs: list[Tensor], dy: Tensor) -> tuple[Tensor, ...]:
    """A gradient penalty: loss and squared gradient in one backward pass."""
    dx, dw = torch.autograd.grad(y, inputs[:2], dy, create_graph=True)
    loss = dx.pow(2).sum() + dw.sin().sum() + y.pow(3).sum()
    return torch.autograd.grad(loss, inputs, retain_graph=True)


def third(y: Tensor, inputs: list[Tensor], dy: Tensor) -> tuple[Tensor, ...]:
    (dx,) = torch.autograd.grad(y, inputs[:1], dy, create_graph=True)
    (ddx,) = torch.autograd.grad(dx.pow(3).sum(), inputs[:1], create_graph=True)
    return torch.autograd.grad(ddx.pow(2).sum(), inputs, retain_graph=True, materialize_grads=True)


STEPS: list[Step] = [everything, the_weight_only, the_input_only, second_past_apply, second_and_first, third]


@pytest.mark.parametrize("name", ["batch", "tangled"])
def test_backward_passes_in_any_order(name: str) -> None:
    """Every two of them, one after the other on one graph: the second finds nothing that the first left."""
    inputs = [torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True), *parameters_of(name, 2)[:2]]
    other, dy = torch.randn(2, 2, dtype=torch.float64), torch.randn(3, 2, 4, dtype=torch.float64)
    expected = {step: step(FORMULAS[name](*inputs, other), inputs, dy) for step in STEPS}
    for order in itertools.product(STEPS, repeat=2):
        y = output_of(name)(*inputs, other)
        for step in order:
            torch.testing.assert_close(step(y, inputs, dy), expected[step], msg=f"{[s.__name__ for s in order]}")


def test_a_backward_pass_within_another() -> None:
    """A hook in the mix that runs a backward pass of the same graph."""
    x = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    weight, bias, other = parameters_of("batch", 3)
    dy = torch.randn(4, 3, 5, dtype=torch.float64)
    (expected,) = torch.autograd.grad(FORMULAS["batch"](x, weight, bias, other), x, dy)
    torch.testing.assert_close(gradient_within_a_gradient(weight, bias, x, dy), (expected, -expected))


def test_the_graph_is_freed_after_backward() -> None:
    x, (weight, bias, other) = torch.randn(4, 3, 5, requires_grad=True), parameters_of("batch", 3)
    y = output_of("batch")(x, weight, bias, other)
    y.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()


@pytest.mark.parametrize("wanted", ["everything", "parameters", "weight"])
def test_the_output_gradient_is_not_kept(wanted: str) -> None:
    """Someone may hold on to the graph, by the last step's loss: it must not hold a gradient as large as x."""
    x = torch.randn(4, 3, 5, requires_grad=wanted != "parameters")
    weight, bias, _ = parameters_of("batch", 3, torch.float32)
    y, dy = fused_norm(x, batch_mix, weight, bias, None)[0], torch.randn(4, 3, 5)
    kept = weakref.ref(dy)
    if wanted == "weight":
        torch.autograd.grad(y, weight, dy)
    else:
        y.backward(dy)
    del dy
    gc.collect()
    assert weight.grad is None or weight.grad.isfinite().all()
    assert kept() is None, "the graph still holds dy"


# --- within a network --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_place_operations_may_follow(layout: str) -> None:
    """nn.ReLU(inplace=True) after a normalizer is the most usual of networks."""
    x = laid_out(torch.randn(4, 3, 5, 5), layout).requires_grad_()
    parameters = parameters_of("batch", 3)
    (found,) = torch.autograd.grad(output_of("batch")(x, *parameters).relu_().sum(), x)
    exact = x.detach().double().contiguous().requires_grad_()
    (expected,) = torch.autograd.grad(FORMULAS["batch"](exact, *parameters).relu().sum(), exact)
    assert_near(found, expected, 1e-4)


def test_an_input_changed_before_backward_is_noticed() -> None:
    x = torch.randn(4, 3, 5, requires_grad=True) * 1
    y = fused_norm(x, batch_mix, None, None, None)[0]
    x.add_(1)
    with pytest.raises(RuntimeError, match="inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints(reentrant: bool) -> None:
    x = torch.randn(4, 3, 5, requires_grad=True)
    parameters = parameters_of("batch", 3)
    call = output_of("batch")
    found = checkpoint(lambda x: call(call(x, *parameters).sin(), *parameters), x, use_reentrant=reentrant)
    found.sum().backward()
    (expected,) = torch.autograd.grad(call(call(x, *parameters).sin(), *parameters).sum(), x)
    assert torch.equal(x.grad, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize("name", MIXES)
def test_the_graph_keeps_x_and_small_tables(name: str, layout: str, dtype: torch.dtype) -> None:
    """Neither the output, nor a copy in single precision, nor anything else as large as x."""
    x = laid_out(torch.randn(8, 4, 32, 32).to(dtype), layout).requires_grad_()
    kept: dict[int, Tensor] = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t  # the tensor too: a freed address may be used again
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = output_of(name)(x, *parameters_of(name, 4, torch.float32))
    size = x.numel() * x.element_size()
    bytes_kept = sum(t.untyped_storage().nbytes() for t in kept.values())
    assert y.requires_grad
    assert size <= bytes_kept <= 1.1 * size


def test_autocast_leaves_the_engine_alone() -> None:
    """Statistics of float32 data are taken in float32, half-precision data come back so."""
    x, parameters = torch.randn(4, 3, 5, 5, requires_grad=True), parameters_of("layer", 3, torch.float32)
    plain = output_of("layer")(x, *parameters)
    with torch.autocast("cpu", torch.bfloat16):
        y = output_of("layer")(x, *parameters)
        half = output_of("layer")(x.bfloat16(), *parameters)
        gradient = torch.autograd.grad(y.square().sum(), x)[0]
    assert torch.equal(y, plain)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(gradient, torch.autograd.grad(plain.square().sum(), x)[0])


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_exporters_see_plain_operations() -> None:
    """The exported program holds for other data, and needs no normcore."""

    class Model(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y, mean, _ = fused_norm(x, batch_mix, None, None, None)
            return affine(y, mean, mean + 1, mean)

    x, other = torch.randn(4, 3, 5, 5), torch.randn(4, 3, 5, 5) + 2
    expected = Model()(other)
    exported = torch.export.export(Model(), (x,))
    torch.testing.assert_close(exported.module()(other), expected)
    called = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert all(name.startswith(("aten.", "<built-in function getitem>")) for name in called)
    traced = torch.jit.trace(Model(), x)
    torch.testing.assert_close(traced(other), expected)
    assert "PythonOp" not in str(traced.inlined_graph)


def test_shapes_without_data() -> None:
    x = torch.empty(2, 3, 4, 4, device="meta", requires_grad=True)
    y, mean, _ = fused_norm(x, batch_mix, torch.ones(3, device="meta"), None, None)
    y.sum().backward()
    assert (y.shape, mean.shape, x.grad.shape) == ((2, 3, 4, 4), (1, 3), (2, 3, 4, 4))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_statistics_come_back_without_a_gradient(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, requires_grad=True)
    y, mean, var = fused_norm(x, batch_mix, *parameters_of("batch", shape[1]))
    assert [t.requires_grad for t in (y, mean, var)] == [True, False, False]
    expected = moments_over(flat(x.detach().double()), 0, 2)
    torch.testing.assert_close((mean.double(), var.double()), tuple(t.view(1, -1) for t in expected))


# --- far from zero, and at the limits ----------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("shape", "layout"),
    [((8, 4, 16, 16), "contiguous"), ((8, 4, 16, 16), "channels_last"), ((256, 4), "contiguous")],
    ids=["contiguous", "channels_last", "rows"],
)
@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4])
def test_far_from_zero_no_worse_than_torch(offset: float, shape: tuple[int, ...], layout: str, device: str) -> None:
    """Root mean square errors of the output and of every gradient, besides those of torch's batch norm."""
    x = laid_out((torch.randn(shape) + offset).to(device), layout)
    weight, bias, dy = torch.randn(4), torch.randn(4), torch.randn(shape)

    def results(call: Callable[..., Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
        inputs = [t.detach().to(device, dtype).requires_grad_() for t in (x, weight, bias)]
        y = call(*inputs)
        return tuple(t.double() for t in (y.detach(), *torch.autograd.grad(y, inputs, dy.to(y))))

    exact = results(lambda x, w, b: FORMULAS["batch"](x, w, b, x), torch.float64)
    ours = results(lambda x, w, b: fused_norm(x, batch_mix, w, b, None)[0], torch.float32)
    torchs = results(lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True, eps=MIX_EPS), torch.float32)
    for what, correct, own, other in zip(("y", "dx", "dweight", "dbias"), exact, ours, torchs, strict=True):
        error, reference, size = (t.square().mean().sqrt().item() for t in (own - correct, other - correct, correct))
        # besides: rounding, and a quarter of what the data lost when they were rounded so far from zero
        assert error <= 2 * reference + (1e-6 + offset * 2**-26) * size, what


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", ["instance", "layer", "batch", "full"])
def test_a_constant_becomes_the_bias(name: str, layout: str) -> None:
    """Variance 0, far from zero: no NaN, no rounding either, and a gradient that is finite."""
    x = laid_out(torch.full((4, 3, 8, 8), 1024.0), layout).requires_grad_()
    weight, bias, _ = parameters_of(name, 3, torch.float32)
    y = fused_norm(x, MIXES[name], weight, bias, None)[0]
    torch.testing.assert_close(y, bias.view(1, 3, 1, 1).expand_as(y), rtol=0, atol=2e-3)
    (dx,) = torch.autograd.grad(y, x, torch.randn_like(y))
    assert dx.isfinite().all()


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1), (1, 3, 1, 1), (4, 3, 1, 1), (1, 1), (1, 3, 4, 4)], ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_single_samples_and_single_positions(name: str, shape: tuple[int, ...]) -> None:
    """The variance of one value is zero, and the layers decide what is too few."""
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True), *parameters_of(name, shape[1])]
    y, expected = output_of(name)(*inputs), FORMULAS[name](*inputs)
    torch.testing.assert_close(y, expected)
    dy = torch.randn_like(y)
    torch.testing.assert_close(derivatives(y, inputs, dy), derivatives(expected, inputs, dy))


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4, 4), (2, 3, 0)], ids=str)
def test_empty_batches(shape: tuple[int, ...]) -> None:
    inputs = [torch.empty(shape, requires_grad=True), *parameters_of("layer", 3, torch.float32)[:2]]
    y = fused_norm(inputs[0], layer_mix, *inputs[1:], None)[0]
    found = torch.autograd.grad(y.sum(), inputs)
    assert y.shape == found[0].shape == shape
    assert [t.shape for t in found[1:]] == [(3,), (3,)]
    assert [t.shape for t in moments(inputs[0])] == [shape[:2], shape[:2]]
    with torch.no_grad():
        assert fused_norm(inputs[0], layer_mix, *inputs[1:], None)[0].shape == shape


def test_tables_that_ignore_the_moments() -> None:
    """Then nothing flows through the moments, and dx is scale * dy."""
    x = torch.randn(3, 2, 4, requires_grad=True)
    y = fused_norm(x, lambda mean, var: (torch.ones_like(mean), torch.full_like(mean, 2.0), torch.zeros_like(mean)))[0]
    dy = torch.randn_like(y)
    y.backward(dy)
    torch.testing.assert_close(y, 2 * (x - 1))
    torch.testing.assert_close(x.grad, 2 * dy)


def test_a_parameter_of_integers() -> None:
    """Which group a channel belongs to, say: passed to the mix, and without a gradient."""
    x, order = torch.randn(4, 3, 5, requires_grad=True), torch.tensor([2, 0, 1])
    weight = torch.randn(3, requires_grad=True)
    zero = torch.zeros(())
    y = fused_norm(x, lambda mean, var, order, weight: (zero, weight[order], mean), order, weight)[0]
    y.sum().backward()
    torch.testing.assert_close(weight.grad[order], x.detach().sum((0, 2)))


# --- affine ------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    shape=shapes,
    dtype=st.sampled_from(list(ROUNDING)),
    layout=st.sampled_from(LAYOUTS),
    sizes=st.lists(st.sampled_from(["full", "channels", "row", "number"]), min_size=3, max_size=3),
    differentiable=st.booleans(),
    seed=seeds,
)
def test_affine_centres_scales_and_shifts(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str, sizes: list[str], differentiable: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    size_of = {"full": shape[:2], "channels": shape[1:2], "row": (1, shape[1]), "number": ()}
    x = laid_out(torch.randn(shape, dtype=torch.float64).to(dtype), layout).requires_grad_(differentiable)
    tables = [torch.randn(size_of[size], dtype=torch.float64).requires_grad_(differentiable) for size in sizes]
    y = affine(x, *tables)
    inputs = [t.detach().double().requires_grad_() for t in (x, *tables)]
    spread = [t.expand(shape[:2])[(...,) + (None,) * (x.dim() - 2)] for t in inputs[1:]]
    expected = spread[1] * (inputs[0] - spread[0]) + spread[2]
    assert (y.dtype, y.requires_grad) == (dtype, differentiable)
    assert_near(y, expected.detach(), ROUNDING[dtype])
    if differentiable:
        dy = torch.randn(shape, dtype=torch.float64).to(dtype)
        found = torch.autograd.grad(y, (x, *tables), dy)
        for gradient, correct in zip(found, torch.autograd.grad(expected, inputs, dy.double()), strict=True):
            assert_near(gradient, correct, 3 * ROUNDING[dtype])


@pytest.mark.parametrize("shape", [(3, 2), (2, 2, 2), (2, 2, 1, 2)], ids=str)
def test_affine_has_derivatives_of_every_kind(shape: tuple[int, ...]) -> None:
    for layout in ("contiguous", "channels_last"):
        x = laid_out(torch.randn(shape, dtype=torch.float64), layout).requires_grad_()
        tables = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in ((2,), shape[:2], ())]
        assert torch.autograd.gradcheck(affine, (x, *tables), check_forward_ad=True, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(affine, (x, *tables))
        (expected,) = torch.autograd.grad((tables[1][(...,) + (None,) * (x.dim() - 2)] * x).sum(), x)
        (found,) = torch.autograd.grad(affine(x, *(t.detach() for t in tables)).sub_(1).sum(), x)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("differentiable", [False, True])
def test_affine_keeps_channels_last(differentiable: bool) -> None:
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_(differentiable)
    assert affine(x, *torch.randn(3, 3)).is_contiguous(memory_format=torch.channels_last)


def test_affine_is_traced() -> None:
    """Dynamo sees plain operations, one graph."""
    x, tables = torch.randn(2, 3, 4, 5), torch.randn(3, 3)
    torch._dynamo.reset()
    y = torch.compile(affine, backend="eager", fullgraph=True)(x, *tables)
    center, scale, shift = tables.view(3, 1, 3, 1, 1)
    expected = scale * (x - center) + shift
    torch.testing.assert_close(y, expected)
