"""make_norm: every name makes its layer, and a mistake says what to write instead."""

import doctest

import pytest
import torch
from torch import nn

import normcore.factory
from normcore import NORMS, BatchNorm, make_norm


def test_none_changes_nothing() -> None:
    x = torch.randn(2, 3, 4)
    assert make_norm("none", 3)(x) is x


def test_options_reach_the_layer() -> None:
    layer = make_norm("bn", 5, eps=1e-3, momentum=None, affine=False, dtype=torch.float64)
    assert isinstance(layer, BatchNorm)
    assert (layer.num_features, layer.eps, layer.momentum, layer.affine) == (5, 1e-3, None, False)
    assert layer.running_mean is not None
    assert layer.running_mean.dtype == torch.float64


@pytest.mark.parametrize("name", NORMS)
def test_every_name_makes_a_layer_that_keeps_the_shape(name: str) -> None:
    layer = make_norm(name, 4)
    assert isinstance(layer, nn.Module)
    x = torch.randn(3, 4, 6, 6, requires_grad=True)
    y = layer(x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    y.square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(("name", "closest"), [("bnn", "bn"), ("b", "bn"), ("non", "none"), ("None", "none")])
def test_unknown_name_lists_the_known_and_the_closest(name: str, closest: str) -> None:
    with pytest.raises(ValueError, match=f"unknown norm '{name}': known are none, bn.*; did you mean '{closest}'"):
        make_norm(name, 4)


def test_unknown_name_like_none_of_them() -> None:
    with pytest.raises(ValueError, match="unknown norm 'xyzzy': known are none, bn") as caught:
        make_norm("xyzzy", 4)
    assert all(name in str(caught.value) for name in NORMS)
    assert "did you mean" not in str(caught.value)


def test_none_takes_no_options() -> None:
    """An option that nothing reads is a mistake in a configuration."""
    with pytest.raises(TypeError, match=r"'none' takes no options, got \['affine', 'eps'\]"):
        make_norm("none", 4, eps=1e-3, affine=False)


def test_errors_of_the_layer_come_through() -> None:
    with pytest.raises(ValueError, match="num_features must be a positive integer, got 0"):
        make_norm("bn", 0)
    with pytest.raises(TypeError, match="group"):
        make_norm("bn", 4, groups=2)


def test_examples_in_the_docstrings() -> None:
    failed, attempted = doctest.testmod(normcore.factory)
    assert attempted > 0
    assert failed == 0
