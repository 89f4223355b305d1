"""Ghost batches: each group of samples is a batch of its own."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from normcore import BatchNorm, SwitchableNorm
from normcore.lab.tasks.ghost import GhostBatchNorm, GhostSwitchableNorm

PAIRS = [(GhostBatchNorm, BatchNorm), (GhostSwitchableNorm, SwitchableNorm)]


def pair(ghost: Callable[..., nn.Module], layer: Callable[..., nn.Module], group: int) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    ours, plain = ghost(3, group=group).double(), layer(3).double()
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


@pytest.mark.parametrize(("ghost", "layer"), PAIRS)
@pytest.mark.parametrize("group", [2, 4, 8])
def test_a_group_is_normalized_as_a_batch_of_its_own(
    ghost: Callable[..., nn.Module], layer: Callable[..., nn.Module], group: int
) -> None:
    """Values, gradients, and the running averages: the mean of the groups', in one step."""
    ours, plain = pair(ghost, layer, group)
    x = (torch.randn(8, 3, 4, 5, dtype=torch.float64) * 2 + 1).requires_grad_()
    g = torch.randn_like(x)
    wanted = torch.cat([plain(part) for part in x.split(group)])
    y = ours(x)
    torch.testing.assert_close(y, wanted)
    for a, b in zip(
        torch.autograd.grad(y, (x, *ours.parameters()), g),
        torch.autograd.grad(wanted, (x, *plain.parameters()), g),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    parts = x.detach().unflatten(0, (-1, group))
    mean, var = parts.mean((1, 3, 4)).mean(0), parts.var((1, 3, 4)).mean(0)
    torch.testing.assert_close(ours.running_mean, 0.1 * mean)
    torch.testing.assert_close(ours.running_var, 0.9 + 0.1 * var)


@pytest.mark.parametrize(("ghost", "layer"), PAIRS)
def test_at_evaluation_there_are_no_groups(ghost: Callable[..., nn.Module], layer: Callable[..., nn.Module]) -> None:
    ours, plain = pair(ghost, layer, 4)
    x = torch.randn(7, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(ours.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("group", [0, True, 2.0])
def test_a_group_is_a_number_of_samples(group: object) -> None:
    with pytest.raises(ValueError, match="group must be a number of samples"):
        GhostBatchNorm(3, group=group)  # type: ignore[arg-type]


def test_a_batch_is_of_whole_groups() -> None:
    with pytest.raises(ValueError, match="groups of 4 do not divide a batch of 6"):
        GhostBatchNorm(3, group=4)(torch.randn(6, 3, 2, 2))
