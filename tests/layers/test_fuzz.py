"""Whatever one may hand a layer: options, shapes, strides of the input and of the incoming gradient, dtypes, masks; at
random and against the formulas. Every run draws the same cases; those of ``-m fuzz`` are thousands."""

import itertools
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from normcore import BatchNorm, kernels
from normcore.layers import base

from ..formulas import AVERAGING, CASES, Formula, assert_step, randomized, scattered, takes
from ..helpers import case

REFERRING = ["rbn", "vbn"]  # whose first batch becomes a reference, and so has to have a variance


# --- at random ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_some(name: str) -> None:
    for seed in range(25):
        try_at_random(name, seed)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", CASES)
def test_many(name: str) -> None:
    for seed in range(25, 1000):
        try_at_random(name, seed)


def try_at_random(name: str, seed: int) -> None:
    """Two batches one after the other, in training or at evaluation."""
    draw = random.Random(f"{name} {seed}")
    torch.manual_seed(seed)
    channels = draw.choice([1, 2, 3, 4, 6])
    options = {key: draw.choice(values) for key, values in CASES[name].choices.items()}
    if name == "gn":
        options["num_groups"] = draw.choice([g for g in range(1, channels + 1) if channels % g == 0])
    dtype = draw.choice([torch.float64, torch.float32, torch.float32, torch.bfloat16, torch.float16])
    wide = torch.promote_types(dtype, torch.float32)
    layer = randomized(CASES[name].layer(channels, **options, dtype=draw.choice([dtype, wide])))
    layer.train(draw.random() < 0.7)
    sizes = {
        name: draw.choice([least, getattr(kernels, name)]) for name, least in (("FEW", 1), ("SMALL", 1), ("BLOCK", 16))
    }
    for batch in range(2):
        shape = draw_shape(draw, name, channels)
        x, dy = draw_strides(draw, scattered(shape, dtype)), draw_strides(draw, torch.randn(shape).to(dtype))
        mask = draw_mask(draw, name, shape) if name != "lrn" and draw.random() < 0.3 else None
        if mask is not None:
            x = torch.where(mask[:, None], x, draw.choice([0.0, 1e4, math.nan, math.inf]))
            x = draw_strides(draw, x, "permuted", "sliced")
        described = f"seed {seed}, batch {batch}, {layer} with {options}, training={layer.training}, {sizes}"
        strides = f"x {x.dtype} {shape} of strides {x.stride()}, dy of strides {dy.stride()}"
        with case(described, strides, f"mask {mask}"), set_in_kernels(sizes):
            assert_step(name, layer, x, dy, mask, **options)


def draw_shape(draw: random.Random, name: str, channels: int) -> tuple[int, ...]:
    """Of two to five dimensions, often with axes of size 1; such as the layer takes."""
    while True:
        spatial = [draw.choice([1, 1, 2, 3, 5, 8]) for _ in range(draw.randrange(4))]
        shape = (draw.choice([1, 2, 3, 5]), channels, *spatial)
        if takes(name, shape):
            return shape


def draw_strides(draw: random.Random, x: Tensor, *layouts: str) -> Tensor:
    """The axes in any order in memory, with gaps in between, or one of them expanded."""
    layout = draw.choice(layouts or ("permuted", "sliced", "expanded"))
    axis = draw.randrange(x.dim())
    if layout == "expanded":
        return x.narrow(axis, 0, 1).expand_as(x)
    if layout == "sliced":
        return torch.stack((x, x), axis + 1).select(axis + 1, 1)
    return in_memory(x, draw.sample(range(x.dim()), x.dim()))


def in_memory(x: Tensor, order: Any) -> Tensor:
    """The same values, with the axes in this order in memory."""
    back = [order.index(axis) for axis in range(x.dim())]
    return x.permute(*order).clone(memory_format=torch.contiguous_format).permute(back)


def draw_mask(draw: random.Random, name: str, shape: tuple[int, ...]) -> Tensor:
    """Single positions, or whole samples; sometimes nothing counts."""
    mask = torch.rand(shape[0], *shape[2:]) < draw.choice([0.0, 0.5, 0.9])
    mask[torch.rand(shape[0]) < 0.2] = draw.random() < 0.5
    if name in REFERRING and mask.sum() < 2:
        mask[:] = True
    return mask


@contextmanager
def set_in_kernels(sizes: dict[str, int]) -> Iterator[None]:
    """From which sizes on an input is no longer small: with 1, what these take goes the ways of large ones."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FEW", "BLOCK"):
            patch.setattr(kernels, name, sizes[name])
        for module in (kernels, base):
            patch.setattr(module, "SMALL", sizes["SMALL"])
        yield


# --- all pairs of layouts of x and dy --------------------------------------------------------------------------------

WITH_AXES_OF_ONE = [(4, 3, 5), (4, 3, 1), (1, 3, 5), (4, 1, 5), (4, 3, 1, 6), (4, 3, 6, 1), (4, 1, 2, 5), (1, 3, 1, 5)]


def wrong_pairs(layer: nn.Module, formula: Formula, shape: tuple[int, ...], **options: Any) -> list[Any]:
    """The pairs of orders of the axes in memory, of x and of dy, that give another gradient than the formula."""
    x, dy = scattered(shape, torch.float32), torch.randn(shape)
    wide = x.double().requires_grad_()
    state = {key: value.detach().double() for key, value in layer.state_dict().items()}
    y = formula(wide.flatten(2), state, training=True, **options)[0].view(shape)
    (expected,) = torch.autograd.grad(y, wide, dy.double())
    orders = list(itertools.permutations(range(len(shape))))
    return [pair for pair in itertools.product(orders, orders) if not near(gradient(layer, x, dy, *pair), expected)]


def gradient(layer: nn.Module, x: Tensor, dy: Tensor, order_of_x: Any, order_of_dy: Any) -> Tensor:
    x = in_memory(x, order_of_x).requires_grad_()
    return torch.autograd.grad(layer(x), x, in_memory(dy, order_of_dy))[0]


def near(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() < 1e-4 * expected.abs().max().clamp(min=1))


@pytest.mark.parametrize("shape", WITH_AXES_OF_ONE, ids=str)
def test_batch_norm_is_right_for_all_pairs_of_layouts(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = randomized(BatchNorm(shape[1], track_running_stats=False))
    assert wrong_pairs(layer, CASES["bn"].formula, shape, eps=layer.eps) == []


def test_torch_s_own_is_wrong_for_some() -> None:
    """Why ours does not hand it a gradient as it comes. Where this is skipped, that may go."""
    torch.manual_seed(0)
    kinds: dict[int, Callable[..., nn.Module]] = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
    wrong = []
    for shape in WITH_AXES_OF_ONE:
        layer = randomized(kinds[len(shape)](shape[1], track_running_stats=False))
        wrong += wrong_pairs(layer, CASES["bn"].formula, shape, eps=1e-5)
    if not wrong:
        pytest.skip("this torch's batch_norm is right for all pairs of layouts")
    assert len(wrong) < 2448 / 4  # of all pairs: it is right where the strides are alike


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("bn", *REFERRING)])
def test_the_others_are_right_for_all_pairs_of_layouts(name: str) -> None:
    torch.manual_seed(0)
    options = CASES[name].options
    layer = randomized(CASES[name].layer(4, **options))
    if name in AVERAGING:
        layer.momentum = 0.0  # each pair begins with the same averages
    assert wrong_pairs(layer, CASES[name].formula, (2, 4, 1, 3), **options) == []
