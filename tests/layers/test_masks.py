"""mask=: padded positions, whatever stands there, count for nothing."""

import math

import pytest
import torch
from torch import Tensor, nn

from normcore import make_norm

LENGTHS = (7, 3, 5, 1)
NAMES = ["bn", "ln", "in", "gn", "rms"]


def padded(fill: float) -> tuple[Tensor, Tensor]:
    """Four sequences of 6 channels, padded to 7 steps, and their mask (N, L)."""
    torch.manual_seed(0)
    x = torch.randn(len(LENGTHS), 6, max(LENGTHS), dtype=torch.float64) * 2 + 3
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return x.masked_fill(~mask[:, None], fill), mask


def layer_with_parameters(name: str) -> nn.Module:
    layer = make_norm(name, 6).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(0.5, 1.5)
    return layer


def unpadded(name: str, layer: nn.Module, x: Tensor) -> Tensor:
    """The formula on the sequences as they are, one after the other; batch statistics over all that count."""
    parts = [x[n, :, :length] for n, length in enumerate(LENGTHS)]
    flat = torch.cat(parts, 1)
    outputs = []
    for part in parts:
        groups = {"bn": flat, "ln": part.reshape(1, -1), "in": part, "rms": part.reshape(1, -1)}
        if name == "gn":
            per_group = part.reshape(3, -1)  # six channels make three groups of two
            mean, var = per_group.mean(1), per_group.var(1, correction=0)
            mean, var = mean.repeat_interleave(2), var.repeat_interleave(2)
        elif name == "rms":
            mean, var = torch.zeros(1, dtype=x.dtype), groups[name].square().mean(1)
        else:
            mean, var = groups[name].mean(1), groups[name].var(1, correction=0)
        y = (part - mean[:, None]) / (var[:, None] + layer.eps).sqrt() * layer.weight[:, None]
        y = y if layer.bias is None else y + layer.bias[:, None]
        outputs.append(torch.nn.functional.pad(y, (0, x.shape[2] - y.shape[1])))
    return torch.stack(outputs)


@pytest.mark.parametrize("fill", [0.0, 1e6, math.nan, math.inf])
@pytest.mark.parametrize("name", NAMES)
def test_it_is_as_if_the_padding_were_not_there(name: str, fill: float) -> None:
    layer = layer_with_parameters(name)
    x, mask = padded(fill)
    x.requires_grad_()
    clean = padded(0.0)[0].requires_grad_()
    y = layer(x, mask)
    expected = unpadded(name, layer, clean)
    torch.testing.assert_close(y, expected)
    dy = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    inputs = [x, *layer.parameters()]
    found = torch.autograd.grad(y, inputs, dy)
    torch.testing.assert_close(found, torch.autograd.grad(expected, [clean, *layer.parameters()], dy))
    assert not found[0].masked_select(~mask[:, None]).any()


def test_running_averages_are_of_what_counts() -> None:
    layer = make_norm("bn", 6, momentum=1.0).double()
    x, mask = padded(math.nan)
    layer(x, mask)
    flat = torch.cat([x[n, :, :length] for n, length in enumerate(LENGTHS)], 1)
    torch.testing.assert_close(layer.running_mean, flat.mean(1))
    torch.testing.assert_close(layer.running_var, flat.var(1))
    layer.eval()
    y = layer(x, mask)
    kept = (x - layer.running_mean[:, None]) / (layer.running_var[:, None] + layer.eps).sqrt()
    torch.testing.assert_close(y, kept.masked_fill(~mask[:, None], 0))


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_that_is_all_padding_is_zero_and_harmless(name: str) -> None:
    layer = layer_with_parameters(name)
    x, mask = padded(math.nan)
    mask[1] = False
    x = x.masked_fill(~mask[:, None], math.nan).requires_grad_()
    y = layer(x, mask)
    y.square().sum().backward()
    assert not y[1].any()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    if name == "bn":
        keep = [0, 2, 3]
        torch.testing.assert_close(y[keep], layer(x[keep], mask[keep]))


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_that_leaves_nothing_out_changes_nothing(name: str) -> None:
    layer = layer_with_parameters(name)
    x = padded(0.0)[0]
    torch.testing.assert_close(layer(x, torch.ones(4, 7, dtype=torch.bool)), layer(x))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "mask", [torch.ones(4, 6, dtype=torch.bool), torch.ones(4, 7), torch.ones(7, dtype=torch.bool)]
)
def test_another_mask_is_refused(name: str, mask: Tensor) -> None:
    with pytest.raises(ValueError, match=r"the mask must be boolean .* of shape \(4, 7\).*got"):
        make_norm(name, 6).double()(padded(0.0)[0], mask)


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_stays(name: str) -> None:
    x = torch.randn(4, 6, 5, 7).to(memory_format=torch.channels_last).requires_grad_()
    y = make_norm(name, 6)(x, torch.rand(4, 5, 7) > 0.3)
    assert y.is_contiguous(memory_format=torch.channels_last)
