"""What the tests of the engine compare with: inputs of every layout, mixes, and their formulas over x in float64."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from normcore import pool

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
# half a unit in the last place and what a short computation adds to it
ROUNDING = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
LAYOUTS = ["contiguous", "channels_last", "transposed", "sliced", "expanded"]
EPS = 1e-2


def laid_out(x: Tensor, layout: str) -> Tensor:
    """x in another layout; expanded: its first instance, with stride 0 in place of the others."""
    if layout == "channels_last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "sliced":
        return torch.stack((x, x), -1)[..., 0]
    return x[:1].expand_as(x) if layout == "expanded" else x.contiguous()


def assert_near(found: Tensor, expected: Tensor, rounding: float) -> None:
    """Near in units of the largest expected value: what sums over the whole tensor may lose."""
    largest = expected.abs().max().item() if expected.numel() else 0.0
    torch.testing.assert_close(found.detach().double(), expected, rtol=rounding, atol=rounding * max(largest, 1))


def moments_over(x: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance by explicit sums; the axes are kept."""
    m = math.prod(x.shape[axis] for axis in axes)
    mean = x.sum(axes, keepdim=True) / m if axes else x
    squares = (x - mean) ** 2
    return mean, squares.sum(axes, keepdim=True) / m if axes else squares


def spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.dim()))


def per_channel(table: Tensor, x: Tensor) -> Tensor:
    return table.to(x.dtype).reshape(1, -1, *[1] * (x.dim() - 2))


# --- formulas: y of x, weight, bias and a third tensor of shape (2, C) or (2, 3) -----------------------------


def _over(*axes: int) -> Callable[..., Tensor]:
    def formula(x: Tensor, weight: Tensor, bias: Tensor, _: Tensor) -> Tensor:
        mean, var = moments_over(x, (*axes, *spatial(x)))
        return (x - mean) / (var + EPS).sqrt() * per_channel(weight, x) + per_channel(bias, x)

    return formula


def _rms(x: Tensor, weight: Tensor, bias: Tensor, _: Tensor) -> Tensor:
    axes = (1, *spatial(x))
    square = (x**2).sum(axes, keepdim=True) / math.prod(x.shape[1:])
    return x / (square + EPS).sqrt() * per_channel(weight, x)


def _switchable(x: Tensor, weight: Tensor, bias: Tensor, logits: Tensor) -> Tensor:
    parts = [moments_over(x, (*axes, *spatial(x))) for axes in ((), (1,), (0,))]
    shares = logits.exp() / logits.exp().sum(1, keepdim=True)
    mean = sum(shares[0, k] * parts[k][0] for k in range(3))
    var = sum(shares[1, k] * parts[k][1] for k in range(3))
    return (x - mean) / (var + EPS).sqrt() * per_channel(weight, x) + per_channel(bias, x)


def _renormed(x: Tensor, weight: Tensor, bias: Tensor, running: Tensor) -> Tensor:
    """Corrected by r and d, which are constants to the derivative."""
    mean, var = moments_over(x, (0, *spatial(x)))
    old_mean, old_deviation = per_channel(running[0], x), per_channel(running[1] ** 2 + EPS, x).sqrt()
    with torch.no_grad():
        r = ((var + EPS).sqrt() / old_deviation).clamp(0.5, 2)
        d = ((mean - old_mean) / old_deviation).clamp(-1, 1)
    return ((x - mean) / (var + EPS).sqrt() * r + d) * per_channel(weight, x) + per_channel(bias, x)


def _tangled(x: Tensor, weight: Tensor, bias: Tensor, other: Tensor) -> Tensor:
    """Center, scale and shift depend on everything, and no two in the same way."""
    mean, var = moments_over(x, spatial(x))
    w, b, o = per_channel(weight, x), per_channel(bias, x), per_channel(other[0], x)
    return (w * var.cos() + mean.sin()) * (x - (mean / 2 + o * var.tanh())) + b * mean + var


FORMULAS: dict[str, Callable[..., Tensor]] = {
    "instance": _over(),
    "layer": _over(1),
    "batch": _over(0),
    "full": _over(0, 1),
    "rms": _rms,
    "switchable": _switchable,
    "renormed": _renormed,
    "tangled": _tangled,
}


# --- the same for the engine: mixes of the tables of moments -------------------------------------------------

Mix = Callable[..., tuple[Tensor, ...]]


def standard(mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, ...]:
    """Center, scale and shift of the usual normalizer."""
    scale = torch.rsqrt(var + EPS)
    scale = scale if weight is None else scale * weight
    return mean, scale, torch.zeros_like(scale) if bias is None else bias


def instance(
    mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, _: Tensor | None
) -> tuple[Tensor, ...]:
    return standard(mean, var, weight, bias)


def layer(
    mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, _: Tensor | None
) -> tuple[Tensor, ...]:
    return standard(*pool(mean, var, 1), weight, bias)


def batch(
    mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, _: Tensor | None
) -> tuple[Tensor, ...]:
    mean, var = pool(mean, var, 0)
    return *standard(mean, var, weight, bias), mean, var


def full(mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, _: Tensor | None) -> tuple[Tensor, ...]:
    return standard(*pool(mean, var, (0, 1)), weight, bias)


def rms(mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor | None, _: Tensor | None) -> tuple[Tensor, ...]:
    square = (var + mean.square()).mean(1, keepdim=True)
    return torch.zeros_like(square), torch.rsqrt(square + EPS) * weight, mean.new_zeros(())


def switchable(mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
    shares = logits.softmax(1)
    tables = ((mean, var), pool(mean, var, 1), pool(mean, var, 0))
    means, variances = (sum(share * t[k] for share, t in zip(shares[k], tables, strict=True)) for k in (0, 1))
    return standard(means, variances, weight, bias)


def renormed(mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, running: Tensor) -> tuple[Tensor, ...]:
    mean, var = pool(mean, var, 0)
    center, scale, shift = standard(mean, var, weight, bias)
    with torch.no_grad():
        inverse = torch.rsqrt(running[1].square() + EPS)
        r = ((var + EPS).sqrt() * inverse).clamp(0.5, 2)
        d = ((mean - running[0]) * inverse).clamp(-1, 1)
    return center, scale * r, shift + d * weight


def tangled(mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, other: Tensor) -> tuple[Tensor, ...]:
    center = mean / 2 + other[0] * var.tanh()
    return center, weight * var.cos() + mean.sin(), bias * mean + var


MIXES: dict[str, Mix] = {
    "instance": instance,
    "layer": layer,
    "batch": batch,
    "full": full,
    "rms": rms,
    "switchable": switchable,
    "renormed": renormed,
    "tangled": tangled,
}


def parameters_of(name: str, channels: int, dtype: torch.dtype = torch.float64, device: str = "cpu") -> list[Tensor]:
    """Weight, bias and the third, from the global generator."""
    sizes = [(channels,), (channels,), (2, 3 if name == "switchable" else channels)]
    return [torch.randn(size, dtype=torch.float64).to(device, dtype).requires_grad_() for size in sizes]
