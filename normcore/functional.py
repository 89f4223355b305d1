r"""The engine that every normalizer runs on: moments, mix, apply.

A normalizer reads its input once for two small tables, does a few lines of algebra on them, and reads
the input a second time to centre, scale and shift it:

1. **moments**: mean and biased variance over the M spatial positions of every instance's channel,
   :math:`\mu_{nc}` and :math:`\sigma^2_{nc}`, two tables of shape (N, C);
2. **mix**: differentiable algebra on those tables that yields a center :math:`m`, a scale :math:`s` and a
   shift :math:`t`, each broadcastable to (N, C). This step alone tells one normalizer from another;
3. **apply**: :math:`y = s\,(x - m) + t`.

The backward pass reads the input once for two more tables, :math:`D = \sum dy` and
:math:`A = \sum dy\,(x - \mu)` over the positions of every (n, c). They are all that the mix needs:

.. math:: ds = A + (\mu - m)\,D, \qquad dm = -s\,D, \qquad dt = D,

autograd takes these through the small tables to :math:`d\mu` and :math:`d\sigma^2`, and a second pass writes

.. math:: dx = s\,dy + \frac{2\,d\sigma^2}{M}\,(x - \mu) + \frac{d\mu}{M}.

Everything is centred, so nothing cancels, however far the data lie from zero.
"""

import functools
import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from . import _torch, kernels
from .kernels import over, table_dtype

__all__ = ["affine", "fused_norm", "moments", "pool", "set_engine"]

# mix(mean, var, *parameters) -> (center, scale, shift, *statistics); see fused_norm
Mix = Callable[..., tuple[Tensor, ...]]


def moments(x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Mean and biased variance over the spatial axes, for every instance and channel; differentiable.

    .. math:: \mu_{nc} = \frac1M \sum_i x_{nci}, \qquad \sigma^2_{nc} = \frac1M \sum_i (x_{nci} - \mu_{nc})^2

    Args:
        x: (N, C, *spatial) with M values a channel. Without spatial axes x is its own mean table.
        mask: True where a position counts; broadcastable to (N, 1, *spatial). An instance without any such
            position has mean and variance 0.

    Returns:
        Two tables (N, C) in float32, or in float64 if x is.
    """
    x = x.to(table_dtype(x))
    spatial = tuple(range(2, x.dim()))
    if mask is not None:
        mask = mask.expand(x.shape[0], -1, *x.shape[2:])
        x = x.masked_fill(~mask, 0)
        count = (mask.sum(spatial) if spatial else mask).clamp(min=1)
        mean = (x.sum(spatial) if spatial else x) / count
        squares = (x - over(mean, x)).square().masked_fill(~mask, 0)
        return mean, (squares.sum(spatial) if spatial else squares) / count
    if not spatial:
        return x, torch.zeros_like(x)
    if not traced() and not (torch.is_grad_enabled() and x.requires_grad):
        return kernels.moments(kernels.dense(x))
    if x.numel() == 0:  # var_mean warns of it
        return x.sum(spatial), x.sum(spatial)
    var, mean = torch.var_mean(x, dim=spatial, correction=0)
    return mean, var


def pool(mean: Tensor, var: Tensor, dim: int | tuple[int, ...], count: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Moments of a union of parts, by the law of total variance; keeps the pooled axes.

    .. math:: \mu = E[\mu_i], \qquad \sigma^2 = E[\sigma^2_i] + E[(\mu_i - \mu)^2]

    Both terms are sums of squares, so nothing cancels, however far the data lie from zero.

    Args:
        mean, var: tables of equal shape.
        dim: the axis or axes whose entries are pooled; 0 pools instances, 1 pools channels.
        count: values in each part, broadcastable to the tables; without, all parts are equally large.
    """
    if count is None:
        total = mean.mean(dim, keepdim=True)
        return total, (var + (mean - total).square()).mean(dim, keepdim=True)
    share = count.expand_as(mean).to(mean.dtype)
    share = share / share.sum(dim, keepdim=True).clamp(min=1)
    total = (share * mean).sum(dim, keepdim=True)
    return total, (share * (var + (mean - total).square())).sum(dim, keepdim=True)


def fused_norm(x: Tensor, mix: Mix, *parameters: Tensor | None, mask: Tensor | None = None) -> tuple[Tensor, ...]:
    r"""Normalize x by the center, scale and shift that ``mix`` makes of its moments.

    Args:
        x: (N, C, *spatial), floating point.
        mix: called as ``mix(mean, var, *parameters)`` with the two tables of :func:`moments`; returns
            ``(center, scale, shift, *statistics)``. The first three broadcast to (N, C); the statistics are
            handed back to the caller without a gradient (a layer updates its running averages from them). It
            must be a pure function of its arguments.
        parameters: further tensors that ``mix`` reads and that receive gradients; None is passed through.
        mask: True where a position counts, broadcastable to (N, 1, *spatial); elsewhere y is 0 and x, NaN
            even, has no influence.

    Returns:
        ``(y, *statistics)`` with ``y = scale * (x - center) + shift`` in the dtype and memory format of x.

    A normalizer of your own is its mix. Root mean square over each channel of each sample:

    >>> def mix(mean, var):
    ...     scale = torch.rsqrt(var + mean.square() + 1e-5)
    ...     return torch.zeros_like(mean), scale, torch.zeros_like(mean)
    >>> x = torch.randn(2, 3, 8, 8)
    >>> y, = fused_norm(x, mix)
    >>> torch.allclose(y, x * torch.rsqrt(x.square().mean((2, 3), keepdim=True) + 1e-5), atol=1e-6)
    True
    """
    if mask is not None or traced():
        return _composite(x, mix, parameters, mask)
    if compiles(x):
        return _run_compiled(x, mix, parameters)
    x = kernels.dense(x)
    if not torch.is_grad_enabled():
        mean, var = kernels.moments(x)
        center, scale, shift, *statistics = _mixed(mix, x, mean, var, *parameters)
        return (kernels.apply(x, center, scale, shift), *statistics)
    link = _Link() if _torch.backward_pass and _torch.will_execute else None
    mean, var = _Moments.apply(x, link)
    center, scale, shift, *statistics = _mixed(mix, x, mean, var, *parameters)
    return (_Apply.apply(x, mean, center, scale, shift, link), *statistics)


def affine(x: Tensor, center: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``scale * (x - center) + shift`` with tables broadcastable to (N, C), in the dtype of x: evaluation."""
    m, s, t = (table.to(table_dtype(x)).expand(x.shape[:2]) for table in (center, scale, shift))
    if traced():
        return ((x - over(m, x)) * over(s, x) + over(t, x)).to(x.dtype)
    x = kernels.dense(x)
    if torch.is_grad_enabled():
        return _Apply.apply(x, m.detach(), m, s, t, None)
    return kernels.apply(x, m, s, t)


def traced() -> bool:
    """Whether someone looks at the operations themselves: a compiler, an exporter, a functional transform."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or _torch.transforms_active()
        or _torch.forward_mode_active()
    )


def _mixed(mix: Mix, x: Tensor, mean: Tensor, var: Tensor, *parameters: Tensor | None) -> tuple[Tensor, ...]:
    center, scale, shift, *statistics = mix(mean, var, *parameters)
    tables = [t.to(mean.dtype) for t in (center, scale, shift)]
    tables = [t if t.dim() == 2 else t.expand(x.shape[:2]) for t in tables]
    return *tables, *(s.detach() for s in statistics)


def _composite(
    x: Tensor, mix: Mix, parameters: Sequence[Tensor | None], mask: Tensor | None = None
) -> tuple[Tensor, ...]:
    """The same by plain differentiable operations: for compilers and exporters, higher derivatives and masks."""
    wide = x.to(table_dtype(x))
    if mask is not None:
        wide = wide.masked_fill(~mask, 0)
    mean, var = moments(wide, mask)
    center, scale, shift, *statistics = _mixed(mix, x, mean, var, *parameters)
    y = (wide - over(center, x)) * over(scale, x) + over(shift, x)
    if mask is not None:
        y = y.masked_fill(~mask, 0).contiguous(memory_format=kernels.memory_format(x))
    return (y.to(x.dtype), *statistics)


class _Link:
    """What apply leaves for moments within one backward pass, so that the input gradient is written once."""

    def __init__(self) -> None:
        self.left: dict[int, tuple[Tensor, Tensor]] = {}  # by the backward pass, which may run within another

    def leave(self, dy: Tensor, scale: Tensor) -> None:
        self.left[_torch.backward_pass()] = (dy, scale)

    def take(self) -> tuple[Tensor, Tensor] | None:
        return self.left.pop(_torch.backward_pass(), None)


class _Moments(torch.autograd.Function):
    """The first pass forward, the last one backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, link: _Link | None) -> tuple[Tensor, Tensor]:
        mean, var = kernels.moments(x)
        ctx.save_for_backward(x, mean)
        ctx.link = link
        return mean, var

    @staticmethod
    def backward(ctx: Any, dmean: Tensor, dvar: Tensor) -> Any:
        x, mean = ctx.saved_tensors
        m = max(x.shape[2:].numel(), 1)
        p, q = dvar * (2 / m), dmean / m
        if _plain(dmean):  # apply has given its share of dx itself
            return (over(p, x) * (x - over(mean, x)) + over(q, x)).to(x.dtype), None
        left = ctx.link.take() if ctx.link else None
        if left is None:  # no link, or a second derivative that does not pass through apply
            return kernels.apply(x, mean, p, q), None
        dy, scale = left
        return kernels.input_gradient(dy, x, scale, mean, p, q), None


class _Apply(torch.autograd.Function):
    """The second pass forward, the first one backward. Between the two functions the mix is ordinary autograd.

    It takes the mean besides the center for the centred sums, and so that the backward pass of moments always
    comes after its own. Without a link it writes its share of the input gradient itself; where there are no moments,
    that is all of it.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, center: Tensor, scale: Tensor, shift: Tensor, link: _Link | None
    ) -> Tensor:
        ctx.save_for_backward(x, mean, center, scale)
        ctx.link, ctx.shift_shape = link, shift.shape
        return kernels.apply(x, center, scale, shift)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, mean, center, scale = ctx.saved_tensors
        dx = None
        if _plain(dy):
            wide = dy.to(scale.dtype)
            total = _sum(wide, x)
            dscale = _sum(wide * (x - over(center, x)), x)
        else:
            dy = kernels.dense(dy, like=x)
            total, dot = kernels.sums(dy, x, mean)
            dscale = torch.addcmul(dot, mean - center, total)
        if ctx.needs_input_grad[0]:
            if ctx.link is None or _plain(dy):
                dx = (dy * over(scale, x)).to(x.dtype)
            elif _torch.will_execute(ctx.next_functions[1][0]):  # moments comes in this pass
                ctx.link.leave(dy, scale)
        tables = zip((-scale * total, dscale, total), (center.shape, scale.shape, ctx.shift_shape), strict=True)
        return dx, None, *(gradient.sum_to_size(shape) for gradient, shape in tables), None


def _plain(gradient: Tensor) -> bool:
    """Whether a backward pass is looked at itself: it must be differentiable (create_graph) or batched (vmap)."""
    return torch.is_grad_enabled() or _torch.transforms_active() or _torch.is_batched(gradient)


def _sum(x: Tensor, like: Tensor) -> Tensor:
    return x.sum(tuple(range(2, like.dim()))) if like.dim() > 2 else x


# --- the compiled path -------------------------------------------------------------------------------------

Engine = Literal["auto", "eager", "compiled"]
_engine: Engine = "auto"


def set_engine(engine: Engine) -> None:
    """Choose how layers outside of ``torch.compile`` run; inside, its own fusion serves them.

    Args:
        engine: ``"eager"``: the fused autograd function over torch's kernels. ``"compiled"``: the same passes
            made by ``torch.compile`` for each normalizer at its first use (seconds), but for large contiguous
            inputs on a CPU, which torch's kernels serve faster; without a working compiler a warning is given
            once and the eager path is taken. ``"auto"``, the default: compiled on a GPU that Triton serves,
            else eager.

    Raises:
        ValueError: another name.
    """
    global _engine
    if engine not in ("auto", "eager", "compiled"):
        raise ValueError(f"engine must be 'auto', 'eager' or 'compiled', got {engine!r}")
    _engine = engine
    _compiled.cache_clear()


def compiles(x: Tensor) -> bool:
    """Whether the engine serves x by compiled passes; see :func:`set_engine`."""
    if _engine == "auto":
        return x.is_cuda and _torch.has_triton()
    return _engine == "compiled" and not (kernels.vectorized(x) and x.numel() >= kernels.SMALL)


@functools.cache
def _compiled(kind: Hashable, name: str) -> Callable[..., tuple[Tensor, ...]]:
    """The composite, compiled for one kind of call."""
    return torch.compile(_torch.with_own_code(_composite, f"{name.replace('.', '_')}_norm"))


def _run_compiled(x: Tensor, mix: Mix, parameters: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    function = getattr(mix, "__func__", mix)
    kind = (getattr(function, "__code__", type(function)), x.dim(), x.dtype, torch.is_grad_enabled())
    # a view is no nn.Parameter: the size of those is compiled in, so that each channel count would be compiled anew
    views = [p if p is None else p.view_as(p) for p in parameters]
    try:
        return _compiled(kind, getattr(function, "__qualname__", "mix"))(x, mix, views)
    except _torch.compiler_error() as error:
        warnings.warn(f"torch.compile does not work here, normcore goes on without: {error}", stacklevel=3)
        set_engine("eager")
        return fused_norm(x, mix, *parameters)
