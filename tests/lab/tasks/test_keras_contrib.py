"""The layers of keras-contrib, against their formulas written out on channels-last data."""

import pytest
import torch
from torch import nn

from normcore.lab.tasks.keras_contrib import ContribGroupNorm, ContribInstanceNorm


def drawn(layer: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in layer.double().parameters():
        nn.init.normal_(parameter)
    return layer


def test_group_norm_reshapes_rows_into_groups() -> None:
    """As the package does: (N, H, W, C) read as (N, G, H, W, C / G), the pairs of a band by the last axis."""
    layer = drawn(ContribGroupNorm(8, 4))
    x = torch.randn(3, 8, 12, 5, dtype=torch.float64) * 2 + 1
    read = x.permute(0, 2, 3, 1).reshape(3, 4, 12, 5, 2)
    mean = read.mean((2, 3, 4), keepdim=True)
    deviation = (read.var((2, 3, 4), unbiased=False, keepdim=True) + 1e-5).sqrt()
    weight, bias = (p.view(1, 4, 1, 1, 2) for p in layer.parameters())
    expected = ((read - mean) / deviation * weight + bias).reshape(3, 12, 5, 8).permute(0, 3, 1, 2)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(last), expected, rtol=0, atol=1e-12)


def test_its_groups_are_bands_of_rows_and_not_groups_of_channels() -> None:
    layer = ContribGroupNorm(8, 4).double()
    x = torch.randn(2, 8, 8, 4, dtype=torch.float64)
    disturbed = x.clone()
    disturbed[:, 0, 2:4] += 5  # one channel, the second band
    moved = (layer(disturbed) - layer(x)).abs().amax((0, 1, 3)) > 1e-9
    assert moved.tolist() == [False, False, True, True, False, False, False, False]


def test_instance_norm_is_over_the_whole_instance_with_one_scalar_pair() -> None:
    layer = drawn(ContribInstanceNorm(6))
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64) * 3 + 2
    mean = x.mean((1, 2, 3), keepdim=True)
    deviation = x.std((1, 2, 3), unbiased=False, keepdim=True)
    weight, bias = layer.parameters()
    assert weight.shape == bias.shape == (1,)
    torch.testing.assert_close(layer(x), (x - mean) / (deviation + 1e-3) * weight + bias, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(layer, (x.requires_grad_(),))


def test_a_constant_input_has_finite_gradients() -> None:
    x = torch.ones(2, 4, 4, 4, requires_grad=True)
    for layer in (ContribInstanceNorm(4), ContribGroupNorm(4, 2)):
        (gradient,) = torch.autograd.grad(layer(x).square().sum(), x)
        assert gradient.isfinite().all()


def test_what_has_no_bands_is_refused() -> None:
    with pytest.raises(ValueError, match="num_groups must divide num_features=6, got num_groups=4"):
        ContribGroupNorm(6, 4)
    with pytest.raises(ValueError, match=r"H a multiple of 4, got shape \(1, 8, 6, 6\)"):
        ContribGroupNorm(8, 4)(torch.zeros(1, 8, 6, 6))
