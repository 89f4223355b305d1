r"""The engine that every normalizer runs on: moments, mix, apply.

A normalizer reads its input once for two small tables, does a few lines of algebra on them, and reads
the input a second time to scale and shift it:

1. **moments**: mean and biased variance over the spatial positions of every instance's channel,
   :math:`\mu_{nc}` and :math:`\sigma^2_{nc}`, two tables of shape (N, C);
2. **mix**: differentiable algebra on those tables that yields a scale :math:`a` and a shift :math:`b`,
   each broadcastable to (N, C). This step alone tells one normalizer from another;
3. **apply**: :math:`y = a x + b`.

The backward pass needs :math:`\sum dy` and :math:`\sum dy\,x` over the positions of every (n, c), one
pass, hands them to autograd for the small tables, and writes :math:`dx = a\,dy + p\,x + q` in a second
pass, with tables :math:`p, q` of shape (N, C).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["fused_norm", "moments", "pool"]

# mix(mean, var, *parameters) -> (scale, shift, *statistics); see fused_norm
Mix = Callable[..., tuple[Tensor, ...]]


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean and biased variance over the spatial axes, for every instance and channel.

    .. math:: \mu_{nc} = \frac1M \sum_i x_{nci}, \qquad \sigma^2_{nc} = \frac1M \sum_i (x_{nci} - \mu_{nc})^2

    Args:
        x: (N, C, *spatial) with M values a channel. Without spatial axes x is its own mean table.

    Returns:
        Two tables (N, C) in float32, or in float64 if x is.
    """
    x = x.to(_table_dtype(x))
    if x.dim() == 2:
        return x, torch.zeros_like(x)
    spatial = tuple(range(2, x.dim()))
    if torch.compiler.is_compiling() or x.requires_grad:
        var, mean = torch.var_mean(x, dim=spatial, correction=0)
        return mean, var
    # channels_last: plain sums are fast there, the native kernels are not; and var_mean warns of empty input
    if not x.is_contiguous() or x.numel() == 0:
        mean = x.mean(spatial)
        return mean, (x - _over(mean, x)).square_().mean(spatial)
    # The native kernel takes the moments in one parallel pass, several times faster than var_mean on a
    # CPU. With eps = 0 the inverse of the standard deviation that it returns loses nothing.
    n, c = x.shape[:2]
    _, mean, rstd = torch.native_group_norm(x, None, None, n, c, x[0, 0].numel(), c, 0.0)
    return mean.view(n, c), rstd.view(n, c).square().reciprocal()


def pool(mean: Tensor, var: Tensor, dim: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
    r"""Moments of a union of equally large parts, by the law of total variance; keeps the pooled axes.

    .. math:: \mu = E[\mu_i], \qquad \sigma^2 = E[\sigma^2_i] + E[(\mu_i - \mu)^2]

    Both terms are sums of squares, so nothing cancels, however far the data lie from zero.

    Args:
        mean, var: tables of equal shape.
        dim: the axis or axes whose entries are pooled; 0 pools instances, 1 pools channels.
    """
    total = mean.mean(dim, keepdim=True)
    return total, var.mean(dim, keepdim=True) + (mean - total).square().mean(dim, keepdim=True)


def fused_norm(x: Tensor, mix: Mix, *parameters: Tensor | None) -> tuple[Tensor, ...]:
    r"""Normalize x by the scale and shift that ``mix`` makes of its moments.

    Args:
        x: (N, C, *spatial), floating point.
        mix: called as ``mix(mean, var, *parameters)`` with the two tables of :func:`moments`; returns
            ``(scale, shift, *statistics)``. Scale and shift broadcast to (N, C); the statistics are handed
            back to the caller without a gradient (a layer updates its running averages from them). It
            must be a pure function of its arguments.
        parameters: further tensors that ``mix`` reads and that receive gradients; None is passed through.

    Returns:
        ``(y, *statistics)`` with ``y = scale * x + shift`` in the dtype and memory format of x.
    """
    if torch.compiler.is_compiling():  # Inductor fuses the passes by itself
        return _composite(x, mix, *parameters)
    return _FusedNorm.apply(x, mix, *parameters)


def _table_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _over(table: Tensor, x: Tensor) -> Tensor:
    """A table (N, C) with the axes of x, so that it broadcasts over the spatial positions."""
    return table.view(table.shape + (1,) * (x.dim() - 2))


def _scale_and_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    if x.dtype == scale.dtype:
        return torch.addcmul(_over(shift, x), x, _over(scale, x))
    return (x * _over(scale, x) + _over(shift, x)).to(x.dtype)


def _mixed(mix: Mix, x: Tensor, mean: Tensor, var: Tensor, *parameters: Tensor | None) -> tuple[Any, ...]:
    scale, shift, *statistics = mix(mean, var, *parameters)
    shape = x.shape[:2]
    return scale.expand(shape), shift.expand(shape), tuple(s.detach() for s in statistics)


def _composite(x: Tensor, mix: Mix, *parameters: Tensor | None) -> tuple[Tensor, ...]:
    """The same by plain differentiable operations: for torch.compile and for higher derivatives."""
    wide = x.to(_table_dtype(x))
    mean, var = moments(wide)
    scale, shift, statistics = _mixed(mix, x, mean, var, *parameters)
    return ((wide * _over(scale, x) + _over(shift, x)).to(x.dtype), *statistics)


class _FusedNorm(torch.autograd.Function):
    """moments, mix and apply with a hand-written backward; see the module's docstring."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mix: Mix, *parameters: Tensor | None) -> tuple[Tensor, ...]:
        x_ = x.detach()
        mean, var = (table.detach().requires_grad_() for table in moments(x_))
        leaves = [p if p is None else p.detach().requires_grad_(p.requires_grad) for p in parameters]
        with torch.enable_grad():
            scale, shift, statistics = _mixed(mix, x, mean, var, *leaves)
        ctx.mix, ctx.small = mix, (mean, var, leaves, scale, shift)
        ctx.save_for_backward(x, *parameters)
        ctx.mark_non_differentiable(*statistics)
        return (_scale_and_shift(x_, scale.detach(), shift.detach()), *statistics)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        dy = grads[0]
        x, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the derivative must itself be differentiable
            return _differentiable_backward(ctx, x, parameters, dy)
        mean, var, leaves, scale, shift = ctx.small
        dscale, dshift = _sums(dy, x)
        wanted = [mean, var, *(p for p in leaves if p is not None and p.requires_grad)]
        outputs = [(t, g) for t, g in ((scale, dscale), (shift, dshift)) if t.requires_grad]
        small = torch.autograd.grad(
            [t for t, _ in outputs], wanted, [g for _, g in outputs], allow_unused=True, retain_graph=True
        )
        dmean, dvar = (torch.zeros_like(mean) if g is None else g for g in small[:2])
        rest = iter(small[2:])
        dparameters = [next(rest) if p is not None and p.requires_grad else None for p in leaves]
        dx = _input_gradient(dy, x, scale.detach(), mean.detach(), dmean, dvar) if ctx.needs_input_grad[0] else None
        return (dx, None, *dparameters)


def _sums(dy: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of dy * x and of dy over the positions of every (n, c): the gradients of scale and shift."""
    wide = _table_dtype(x)
    dy, x = dy.to(wide), x.to(wide)
    if x.dim() == 2:
        return dy * x, dy
    spatial = tuple(range(2, x.dim()))
    return (dy * x).sum(spatial), dy.sum(spatial)


def _input_gradient(dy: Tensor, x: Tensor, scale: Tensor, mean: Tensor, dmean: Tensor, dvar: Tensor) -> Tensor:
    r"""dx = a dy + p x + q with p = 2 dσ² / M and q = (dμ - 2 μ dσ²) / M."""
    m = x[0, 0].numel() if x.numel() else 1
    p, q = 2 * dvar / m, (dmean - 2 * mean * dvar) / m
    wide = _table_dtype(x)
    dx = torch.addcmul(_over(q, x), x.to(wide), _over(p, x))
    return dx.addcmul_(dy.to(wide), _over(scale, x)).to(x.dtype)


def _differentiable_backward(ctx: Any, x: Tensor, parameters: list[Tensor | None], dy: Tensor) -> Any:
    with torch.enable_grad():
        # Views: where one argument depends on another (a weight shared by two layers), the gradient of a
        # view stops at this call's own use of it.
        x = x.view_as(x)
        parameters = [p if p is None else p.view_as(p) for p in parameters]
        y = _composite(x, ctx.mix, *parameters)[0]
    slots = [x, None, *parameters]
    wanted = {i: t for i, t in enumerate(slots) if t is not None and ctx.needs_input_grad[i]}
    found = torch.autograd.grad(y, list(wanted.values()), dy, create_graph=True, allow_unused=True)
    gradients = dict(zip(wanted, found, strict=True))
    return tuple(gradients.get(i) for i in range(len(slots)))
