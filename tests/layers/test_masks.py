"""A mask makes a padded batch compute what its unpadded sequences would, whatever stands in the padding."""

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from normcore import make_norm

from ..formulas import LAYOUTS, assert_near, laid_out
from .formulas import CASES, MASKED, ROUNDING, State, options_of, randomized, scattered, takes

PADDING = [math.nan, math.inf, -math.inf, 1e30, 0.0]
every_masked_layer = pytest.mark.parametrize("name", MASKED)
both_modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def unpadded(name: str, layer: nn.Module, x: Tensor, mask: Tensor, **options: Any) -> tuple[Tensor, State, State]:
    """The formula on what counts: on all of it together (bn), or sample by sample, of which running averages take
    the mean. Padding comes out 0. Returns output, buffers after, state before."""
    case, state = CASES[name], CASES[name].state(layer)
    rows, places = x.reshape(*x.shape[:2], -1), mask.reshape(len(mask), -1)
    y, afters = torch.zeros_like(rows), []
    samples = range(len(x))
    for group in [samples] if name == "bn" else [[n] for n in samples]:
        values = [rows[n][:, places[n]] for n in group]
        if sum(v.shape[1] for v in values):
            part, after = case.compute(torch.cat(values, 1)[None], state, layer.training, **options)
            afters.append(after)
            for n, p in zip(group, part[0].split([v.shape[1] for v in values], 1), strict=True):
                y[n, :, places[n]] = p
    keys = afters[0] if afters else {}
    return y.view(x.shape), {key: torch.stack([a[key].double() for a in afters]).mean(0) for key in keys}, state


def padded(x: Tensor, mask: Tensor, value: float) -> Tensor:
    return x.masked_fill(~mask.unsqueeze(1), value)


def assert_like_unpadded(
    name: str, layer: nn.Module, x: Tensor, mask: Tensor, padding: float, layout: str = "contiguous", **options: Any
) -> None:
    wide = x.double().requires_grad_()
    expected, after, state = unpadded(name, layer, wide, mask, **options)
    full = laid_out(padded(x, mask, padding), layout).requires_grad_()
    layer.zero_grad()
    y = layer(full, mask)
    dy = torch.randn_like(x)
    y.backward(padded(dy, mask, padding))  # what the rest of the network says of the padding does not matter either
    if expected.requires_grad:
        expected.backward(dy.double())
    rounding = ROUNDING[x.dtype]
    assert full.grad is not None
    for values in (y, full.grad):
        assert not values.masked_fill(mask.unsqueeze(1), 0).any()
    assert_near(y, expected.detach(), rounding)
    assert_near(full.grad, torch.zeros_like(wide) if wide.grad is None else wide.grad, rounding)
    for key, parameter in layer.named_parameters():
        assert parameter.grad is not None, key
        wanted = state[key].grad
        assert_near(
            parameter.grad, torch.zeros_like(state[key]) if wanted is None else wanted, ROUNDING[parameter.dtype]
        )
    for key, buffer in layer.named_buffers():
        if key != "num_batches_tracked":
            assert_near(buffer, after.get(key, state[key]), ROUNDING[buffer.dtype])


@every_masked_layer
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_like_the_unpadded_sequences_for_any_input_and_options(name: str, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=5), label="shape"))
    assume(takes(name, shape))
    options = data.draw(options_of(name, shape[1]), label="options")
    dtype, own = data.draw(
        st.sampled_from(
            [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)]
        )
    )
    layout, padding = data.draw(st.sampled_from(LAYOUTS[:4])), data.draw(st.sampled_from(PADDING), label="padding")
    torch.manual_seed(data.draw(st.integers(0, 99), label="seed"))
    layer = randomized(CASES[name].layer(shape[1], dtype=own, **options))
    for training in (True, True, False):
        mask = torch.rand(shape[0], *shape[2:]) < data.draw(st.sampled_from([0.3, 0.8]), label="share that counts")
        assume(name != "bn" or mask.sum() > 1)
        layer.train(training)
        assert_like_unpadded(name, layer, scattered(shape, dtype), mask, padding, layout, **options)


@every_masked_layer
@both_modes
@pytest.mark.parametrize("padding", PADDING, ids=str)
def test_sequences_of_several_lengths_one_of_them_empty(name: str, padding: float, training: bool) -> None:
    lengths = torch.tensor([7, 3, 0, 2, 1])
    mask = torch.arange(7) < lengths[:, None]
    layer = randomized(CASES[name].layer(4, dtype=torch.float64)).train(training)
    assert_like_unpadded(name, layer, scattered((5, 4, 7)), mask, padding)


@every_masked_layer
@both_modes
def test_first_and_second_derivatives_by_finite_differences(name: str, training: bool) -> None:
    options: dict[str, Any] = {"momentum": 0.0} if "momentum" in CASES[name].choices else {}
    layer = randomized(CASES[name].layer(2, dtype=torch.float64, **options)).train(training)
    mask = torch.tensor([[True, True, True], [True, True, False], [False, False, False]])
    names = [key for key, _ in layer.named_parameters()]

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x, mask))

    arguments = tuple(t.detach().requires_grad_() for t in (scattered((3, 2, 3)), *layer.parameters()))
    assert torch.autograd.gradcheck(call, arguments)
    assert torch.autograd.gradgradcheck(call, arguments, fast_mode=True)


@every_masked_layer
@both_modes
@pytest.mark.parametrize("shape", [(4, 4, 5), (3, 4, 2, 3)], ids=str)
def test_a_mask_that_hides_nothing_changes_nothing(name: str, shape: tuple[int, ...], training: bool) -> None:
    x, mask = scattered(shape), torch.ones(shape[0], *shape[2:], dtype=torch.bool)
    plain, masked = (CASES[name].layer(4, dtype=torch.float64).train(training) for _ in range(2))
    torch.testing.assert_close(masked(x, mask), plain(x))
    torch.testing.assert_close(masked.state_dict(), plain.state_dict())


@every_masked_layer
@both_modes
def test_a_mask_that_hides_everything_teaches_nothing(name: str, training: bool) -> None:
    """Output and gradients are 0 and not NaN, averages stay."""
    layer = randomized(CASES[name].layer(4, dtype=torch.float64)).train(training)
    mask = torch.zeros(3, 5, dtype=torch.bool)
    assert_like_unpadded(name, layer, scattered((3, 4, 5)), mask, math.nan)
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())


@every_masked_layer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_channels_last_stays(name: str, dtype: torch.dtype) -> None:
    layer = make_norm(name.removesuffix(" tracked"), 4)
    x = torch.randn(2, 4, 5, 3).to(dtype, memory_format=torch.channels_last).requires_grad_()
    mask = torch.rand(2, 5, 3) < 0.7
    for training in (True, False):
        y = layer.train(training)(x, mask)
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert dx.is_contiguous(memory_format=torch.channels_last)


@every_masked_layer
@both_modes
@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(2, 3, dtype=torch.bool),
        torch.ones(3, 2, dtype=torch.bool),
        torch.ones(2, 4, 3, dtype=torch.bool),
        torch.ones(2, dtype=torch.bool),
        torch.ones(2, 5),
        torch.ones(2, 5, dtype=torch.long),
    ],
    ids=lambda mask: f"{tuple(mask.shape)} {mask.dtype}",
)
def test_a_mask_that_does_not_fit_is_refused(name: str, mask: Tensor, training: bool) -> None:
    layer = CASES[name].layer(4).train(training)
    message = rf"the mask must be boolean \(True: counts\) of shape \(2, 5\), .*, got {mask.dtype} of shape \("
    with pytest.raises(ValueError, match=message) as caught:
        layer(torch.randn(2, 4, 5), mask)
    assert str(tuple(mask.shape)) in str(caught.value)
