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

the derivative of the mix takes these through the small tables to :math:`d\mu` and :math:`d\sigma^2`, and a second
pass writes

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

__all__ = ["affine", "fused_norm", "moments", "pool", "pool_backward", "set_engine"]

Tables = Sequence[Tensor | None]
# mix(mean, var, *parameters) -> (center, scale, shift, *statistics); see fused_norm
Mix = Callable[..., tuple[Tensor, ...]]
# mix_backward((mean, var, *parameters), (center, scale, shift, *statistics), (dcenter, dscale, dshift))
# -> (dmean, dvar, *gradients of the parameters); see fused_norm
MixBackward = Callable[..., Sequence[Tensor | None]]


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
    # Inductor cannot derive var_mean of changing sizes, and makes one kernel of these. The variance is, for any
    # constant k, E[(x - k)^2] - (mu - k)^2: with mu for k the derivative, too, has no sum over x - mu, which is zero.
    if torch.compiler.is_compiling():
        mean = x.mean(spatial)
        k = mean.detach()
        return mean, (x - over(k, x)).square().mean(spatial) - (mean - k).square()
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


def pool_backward(
    mean: Tensor, pooled: Tensor, dpooled: Tensor, dvar: Tensor, share: float | Tensor
) -> tuple[Tensor, Tensor]:
    r"""The gradients of parts from those of their union's moments, see :func:`pool`.

    .. math:: d\mu_i = w_i\,(d\mu + 2\,d\sigma^2\,(\mu_i - \mu)), \qquad d\sigma^2_i = w_i\,d\sigma^2

    Args:
        mean: the parts' means.
        pooled, dpooled, dvar: the mean of the union, and the gradients of its mean and its variance.
        share: :math:`w_i`, the part's share of the values; of n equal parts 1 / n.
    """
    dmean = torch.addcmul(dpooled, dvar, mean - pooled, value=2) * share
    return dmean, (dvar * share).expand_as(dmean)


def fused_norm(
    x: Tensor,
    mix: Mix,
    *parameters: Tensor | None,
    mask: Tensor | None = None,
    mix_backward: MixBackward | None = None,
) -> tuple[Tensor, ...]:
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
        mix_backward: the derivative of ``mix`` by hand, for speed: called as ``mix_backward(inputs, outputs,
            gradients)`` with ``(mean, var, *parameters)``, what ``mix`` made of them, and the gradients of center,
            scale and shift in the shapes of these; returns the gradients of the inputs, None for what needs none.
            Without it autograd differentiates the mix, which is then run again in the backward pass.

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
        return _run_compiled(x, mix, parameters, mix_backward)
    x = kernels.dense(x)
    if torch.is_grad_enabled():
        return _Fused.apply(x, mix, mix_backward, *parameters)
    center, scale, shift, *statistics = _tables(mix, *kernels.moments(x), *parameters)
    return (kernels.apply(x, center, scale, shift), *statistics)


def affine(x: Tensor, center: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``scale * (x - center) + shift`` with tables broadcastable to (N, C), in the dtype of x: evaluation."""
    center, scale, shift = (_table(t.to(table_dtype(x))) for t in (center, scale, shift))
    if traced():
        return _applied(x, center, scale, shift).to(x.dtype)
    x = kernels.dense(x)
    if torch.is_grad_enabled():
        return _Affine.apply(x, center, scale, shift)
    return kernels.apply(x, center, scale, shift)


def traced() -> bool:
    """Whether someone looks at the operations themselves: a compiler, an exporter, a functional transform."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or _torch.transforms_active()
        or _torch.forward_mode_active()
    )


def recomputing() -> bool:
    """Whether this forward pass runs within a backward pass, and so repeats one (activation checkpointing)."""
    return not torch.compiler.is_compiling() and _torch.in_backward()


def _table(t: Tensor) -> Tensor:
    """Of two dimensions, so that it broadcasts to (N, C)."""
    return t if t.dim() == 2 else t.unsqueeze(0) if t.dim() else t.view(1, 1)


def _tables_of_inputs(mix: Mix, mean: Tensor, var: Tensor, *parameters: Tensor | None) -> tuple[Tensor, ...]:
    """The tables of a mix that reads nothing but its arguments: then they need no gradient if those need none."""
    with torch.enable_grad():
        tables = _tables(mix, mean.detach(), var, *(t if t is None else t.detach() for t in parameters))
    if any(t.requires_grad for t in tables):
        raise ValueError(
            f"{getattr(mix, '__qualname__', mix)} reads a tensor that takes a gradient and is none of its arguments: "
            "the gradient would be lost, hand it to fused_norm as a parameter"
        )
    return tables


def _tables(mix: Mix, mean: Tensor, var: Tensor, *parameters: Tensor | None) -> tuple[Tensor, ...]:
    center, scale, shift, *statistics = mix(mean, var, *parameters)
    tables = (_table(t.to(mean.dtype)) for t in (center, scale, shift))
    return *tables, *(s.detach() if s.requires_grad else s for s in statistics)


def _applied(x: Tensor, center: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return (x - over(center, x)) * over(scale, x) + over(shift, x)


def _composite(
    x: Tensor, mix: Mix, parameters: Sequence[Tensor | None], mask: Tensor | None = None
) -> tuple[Tensor, ...]:
    """The same by plain differentiable operations: for compilers and exporters, higher derivatives and masks."""
    wide = x.to(table_dtype(x))
    if mask is not None:
        wide = wide.masked_fill(~mask, 0)
    center, scale, shift, *statistics = _tables(mix, *moments(wide, mask), *parameters)
    y = _applied(wide, center, scale, shift)
    if mask is not None:
        y = y.masked_fill(~mask, 0).contiguous(memory_format=kernels.memory_format(x))
    return (y.to(x.dtype), *statistics)


class _Fused(torch.autograd.Function):
    """Moments, mix and apply forward; the sums, the mix's derivative and the input gradient backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mix: Mix, mix_backward: MixBackward | None, *parameters: Tensor | None
    ) -> tuple[Tensor, ...]:
        mean, var = kernels.moments(x)
        tables = (_tables if mix_backward else _tables_of_inputs)(mix, mean, var, *parameters)
        center, scale, shift, *statistics = tables
        ctx.save_for_backward(x, mean, var, *tables, *parameters)
        ctx.mix, ctx.mix_backward, ctx.size = mix, mix_backward, len(tables)
        ctx.mark_non_differentiable(*statistics)
        ctx.set_materialize_grads(False)
        return (kernels.apply(x, center, scale, shift), *statistics)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: Any) -> Any:
        if dy is None:
            return (None,) * len(ctx.needs_input_grad)
        x, mean, var, *saved = ctx.saved_tensors
        tables, parameters = saved[: ctx.size], saved[ctx.size :]
        if plain(dy):
            dx, *gradients = differentiable(lambda x, *p: _composite(x, ctx.mix, p)[0], (x, *parameters), dy)
            return dx, None, None, *gradients
        dy = kernels.dense(dy, like=x)
        total, dot = kernels.sums(dy, x, mean)
        center, scale, shift = tables[:3]
        dtables = (-scale * total, torch.addcmul(dot, mean - center, total), total)
        dtables = tuple(d.sum_to_size(t.shape) for d, t in zip(dtables, (center, scale, shift), strict=True))
        mix_backward = ctx.mix_backward
        if mix_backward is None:  # `or` would ask a method whether it is true, which Dynamo of torch 2.11 cannot
            mix_backward = functools.partial(_mix_backward, ctx.mix)
        dmean, dvar, *gradients = mix_backward((mean, var, *parameters), tables, dtables)
        dx = None
        if ctx.needs_input_grad[0]:
            m = max(x.shape[2:].numel(), 1)
            dx = kernels.input_gradient(dy, x, scale, mean, dvar * (2 / m), dmean / m)
        return dx, None, None, *gradients


class _Affine(torch.autograd.Function):
    """Apply alone, with tables that do not depend on x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, center: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(x, center, scale, shift)
        return kernels.apply(x, center, scale, shift)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, center, scale, shift = tensors = ctx.saved_tensors
        if plain(dy):
            return tuple(differentiable(lambda x, *t: _applied(x, *t).to(x.dtype), tensors, dy))
        dy = kernels.dense(dy, like=x)
        dtables: tuple[Tensor | None, ...] = (None, None, None)
        if any(ctx.needs_input_grad[1:]):
            total, dscale = kernels.sums(dy, x, center.expand(x.shape[:2]))
            dtables = tuple(
                d.sum_to_size(t.shape)
                for d, t in zip((-scale * total, dscale, total), (center, scale, shift), strict=True)
            )
        return (dy * over(scale, x)).to(x.dtype) if ctx.needs_input_grad[0] else None, *dtables


def plain(gradient: Tensor) -> bool:
    """Whether a backward pass is looked at itself: it must be differentiable (create_graph) or batched (vmap)."""
    if torch.is_grad_enabled() or _torch.transforms_active():
        return True
    return not torch.compiler.is_compiling() and bool(_torch.is_batched(gradient))


def differentiable(function: Callable[..., Tensor], inputs: Tables, dy: Tensor) -> list[Tensor | None]:
    """The gradients of ``function(*inputs)``, with a graph of their own within a backward pass that makes one."""
    with torch.enable_grad():
        # by other names: of two inputs one may be made of the other, and each path counts once
        inputs = [t if t is None else t.view_as(t) for t in inputs]
        y = function(*inputs)
    return _gradients((y,), inputs, (dy,))


def _gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor | None], gradients: Sequence[Tensor]
) -> list[Tensor | None]:
    """For every input that wants one; with a graph within a backward pass that makes one."""
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    pairs = [pair for pair in zip(outputs, gradients, strict=True) if pair[0].requires_grad]
    left = iter(
        torch.autograd.grad(
            [output for output, _ in pairs],
            wanted,
            [gradient for _, gradient in pairs],
            create_graph=torch.is_grad_enabled(),
            materialize_grads=True,
        )
    )
    return [next(left) if t is not None and t.requires_grad else None for t in inputs]


def _mix_backward(mix: Mix, inputs: Sequence[Any], outputs: Any, gradients: Sequence[Tensor]) -> list[Tensor | None]:
    """The derivative of a mix that brings none: by autograd, through the mix run again."""
    mean, var = (t.detach().requires_grad_() for t in inputs[:2])
    parameters = [t if t is None else t.detach().requires_grad_(t.requires_grad) for t in inputs[2:]]
    with torch.enable_grad():
        center, scale, shift, *_ = _tables(mix, mean, var, *parameters)
    return _gradients((center, scale, shift), (mean, var, *parameters), gradients)


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


def _run_compiled(
    x: Tensor, mix: Mix, parameters: Sequence[Tensor | None], mix_backward: MixBackward | None
) -> tuple[Tensor, ...]:
    function = getattr(mix, "__func__", mix)
    kind = (getattr(function, "__code__", type(function)), x.dim(), x.dtype, torch.is_grad_enabled())
    # a view is no nn.Parameter: the size of those is compiled in, so that each channel count would be compiled anew
    views = [p if p is None else p.view_as(p) for p in parameters]
    try:
        return _compiled(kind, getattr(function, "__qualname__", "mix"))(x, mix, views)
    except _torch.compiler_error() as error:
        warnings.warn(f"torch.compile does not work here, normcore goes on without: {error}", stacklevel=3)
        set_engine("eager")
        return fused_norm(x, mix, *parameters, mix_backward=mix_backward)
