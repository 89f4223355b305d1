"""Layers with a twin in torch, on the inputs with which torch tests its own modules."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.common_modules import ModuleInput, module_db

from normcore import BatchNorm, GroupNorm, InstanceNorm, LocalResponseNorm

OURS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.BatchNorm1d: BatchNorm,
    nn.BatchNorm2d: BatchNorm,
    nn.BatchNorm3d: BatchNorm,
    nn.InstanceNorm1d: InstanceNorm,
    nn.InstanceNorm2d: InstanceNorm,
    nn.InstanceNorm3d: InstanceNorm,
    nn.GroupNorm: GroupNorm,
    nn.LocalResponseNorm: LocalResponseNorm,
}
AXES = {nn.InstanceNorm1d: 3, nn.InstanceNorm2d: 4, nn.InstanceNorm3d: 5}


def module_inputs() -> Iterator[Any]:
    for info in module_db:
        if info.module_cls not in OURS:
            continue
        inputs = info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=True, training=True)
        for number, given in enumerate(inputs):
            yield pytest.param(info.module_cls, given, id=f"{info.module_cls.__name__}-{number}-{given.desc}")


def pair(kind: type[nn.Module], given: ModuleInput) -> tuple[nn.Module, nn.Module, Tensor]:
    """The twin with random parameters, ours with its state, and an input."""
    arguments, options = given.constructor_input.args, given.constructor_input.kwargs
    twin = kind(*arguments, **options).double()
    ours = OURS[kind](*arguments, **options).double()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.normal_()
    ours.load_state_dict(twin.state_dict())
    x = given.forward_input.args[0].detach()
    return twin, ours, x[None] if x.dim() < AXES.get(kind, 0) else x  # ours takes batches only


def step(layer: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    parameters = list(layer.parameters())
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return [y, *torch.autograd.grad((y * weights.cos()).sum(), [x, *parameters])]


@pytest.mark.parametrize(("kind", "given"), list(module_inputs()))
def test_forward_gradients_and_state_are_the_twins(kind: type[nn.Module], given: ModuleInput) -> None:
    torch.manual_seed(0)
    twin, ours, x = pair(kind, given)
    for training in (True, True, False):
        twin.train(training)
        ours.train(training)
        torch.testing.assert_close(step(ours, x), step(twin, x))
    own = ours.state_dict()
    if isinstance(ours, InstanceNorm) and "num_batches_tracked" in own:
        own["num_batches_tracked"].zero_()  # the twin has this buffer, too, but never counts
    torch.testing.assert_close(own, twin.state_dict())
    twin.load_state_dict(own)
    assert list(own) == list(twin.state_dict())


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


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_a_state_from_before_batches_were_counted_loads(kind: type[nn.Module]) -> None:
    """Version 1 of torch's state had no num_batches_tracked; the file says so by having no version."""
    state = dict(kind(3, affine=True, track_running_stats=True).state_dict())
    del state["num_batches_tracked"]
    layer = OURS[kind](3, affine=True, track_running_stats=True)
    layer.load_state_dict(state)
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("kind", "arguments", "shape", "match"),
    [
        (nn.BatchNorm2d, (3,), (1, 3, 1, 1), "Expected more than 1 value per channel when training"),
        (nn.BatchNorm1d, (3,), (1, 3), "Expected more than 1 value per channel when training"),
        (nn.InstanceNorm2d, (3,), (4, 3, 1, 1), "Expected more than 1 spatial element when training"),
        (nn.GroupNorm, (3, 3), (1, 3), "Expected more than 1 value per"),
    ],
)
def test_what_the_twin_refuses_is_refused(
    kind: type[nn.Module], arguments: tuple[int, ...], shape: tuple[int, ...], match: str
) -> None:
    for layer in (kind(*arguments), OURS[kind](*arguments)):
        with pytest.raises(ValueError, match=match):
            layer(torch.randn(shape))
