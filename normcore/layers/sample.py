"""Statistics of each sample alone: GroupNorm, LayerNorm, InstanceNorm and RMSNorm."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _torch, check
from ..functional import compiles, differentiable, fused_norm, plain, pool, pool_backward, traced
from ..kernels import memory_format
from .base import Norm, RunningNorm

__all__ = ["GroupNorm", "InstanceNorm", "LayerNorm", "RMSNorm"]


class GroupNorm(Norm):
    r"""Group Normalization (Wu & He 2018, equations 1 to 7): over the channels of a group and all positions.

    .. math:: y = \gamma_c \frac{x - \mu_{ng}}{\sqrt{\sigma_{ng}^2 + \epsilon}} + \beta_c

    with the mean and biased variance of sample n over the C / G channels of the group g that c belongs to.
    The same at evaluation. The twin of ``torch.nn.GroupNorm``.

    Shape: (N, C, *spatial) and the same out.

    Args:
        num_groups: number of groups G, a divisor of C.
        num_channels: number of channels C.
        eps, affine, device, dtype: see :class:`Norm`.

    Raises:
        ValueError: num_groups does not divide num_channels; wrong rank, channel count or dtype; a batch
            of one value a group.

    One group is LN, as many groups as channels are IN:

    >>> x = torch.randn(4, 6, 5, 5)
    >>> torch.equal(GroupNorm(1, 6)(x), LayerNorm(6)(x))
    True
    >>> torch.allclose(GroupNorm(6, 6)(x), InstanceNorm(6)(x), atol=1e-6)
    True
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, **options: Any):
        super().__init__(num_channels, eps, affine, **options)
        check.positive_integer("num_groups", num_groups)
        if num_channels % num_groups:
            raise ValueError(f"num_groups must divide num_channels={num_channels}, got num_groups={num_groups}")
        self.num_groups = num_groups

    @property
    def num_channels(self) -> int:
        """Number of channels C, as ``torch.nn.GroupNorm`` calls it."""
        return self.num_features

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {super().extra_repr()}"

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalize x; positions where the mask (N, *spatial) is False count for nothing and come out 0."""
        mask = self._check_input(x, mask)
        if mask is None and _native(x, self.weight):
            return _by_kernel(x, self.num_groups, self.weight, self.bias, self.eps)
        if x.numel() == self.num_groups:
            raise ValueError(f"Expected more than 1 value per group, got input size {x.size()}")
        return fused_norm(x, self._mix, self.weight, self.bias, mask=mask, mix_backward=self._mix_backward)[0]

    def _mix(self, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, ...]:
        n, c = mean.shape
        grouped = (n, self.num_groups, c // self.num_groups)
        mean, var = (t.expand(grouped).reshape(n, c) for t in pool(mean.view(grouped), var.view(grouped), 2))
        return mean, *self._affine_tables(var, weight, bias), var

    def _mix_backward(
        self, inputs: Sequence[Any], outputs: Sequence[Any], gradients: Sequence[Tensor]
    ) -> tuple[Tensor | None, ...]:
        (mean, _, weight, bias), (center, _, _, var), (dcenter, dscale, dshift) = inputs, outputs, gradients
        n, c = mean.shape
        grouped = (n, self.num_groups, c // self.num_groups)
        dvar, dweight, dbias = self._affine_backward(var, weight, bias, dscale, dshift)
        dpooled, dvar = (t.view(grouped).sum(2, keepdim=True) for t in (dcenter, dvar))
        pair = pool_backward(mean.view(grouped), center.view(grouped), dpooled, dvar, 1 / grouped[2])
        return *(t.reshape(n, c) for t in pair), dweight, dbias


class LayerNorm(GroupNorm):
    r"""Layer Normalization (Ba, Kiros & Hinton 2016) over all channels and positions of each sample.

    .. math:: y = \gamma_c \frac{x - \mu_n}{\sqrt{\sigma_n^2 + \epsilon}} + \beta_c

    Group Normalization with one group: the twin of ``torch.nn.GroupNorm(1, C)``. ``torch.nn.LayerNorm`` over
    (C, H, W) has the same statistics but learns a weight for each element, and so fixes the image size; Keras'
    LayerNormalization normalizes the last axis alone, which is :class:`ChannelLayerNorm`.

    Shape: (N, C, *spatial) and the same out.

    Args:
        num_features, eps, affine, device, dtype: see :class:`Norm`.

    Raises:
        ValueError: as :class:`GroupNorm`.

    >>> x = torch.randn(4, 6, 5, 5)
    >>> torch.allclose(LayerNorm(6)(x), torch.nn.LayerNorm((6, 5, 5))(x), atol=1e-5)
    True
    """

    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = True, **options: Any) -> None:
        super().__init__(1, num_features, eps, affine, **options)

    def extra_repr(self) -> str:
        return Norm.extra_repr(self)


class InstanceNorm(RunningNorm):
    r"""Instance Normalization (Ulyanov, Vedaldi & Lempitsky 2016): every channel of every sample by itself.

    .. math:: y = \gamma_c \frac{x - \mu_{nc}}{\sqrt{\sigma_{nc}^2 + \epsilon}} + \beta_c

    The same at evaluation, unless running statistics are tracked. The twin of ``torch.nn.InstanceNorm1d``,
    ``2d`` and ``3d`` for batched input, with their defaults: no affine pair, nothing tracked.
    :func:`make_norm` makes it affine, as all the others.

    Shape: (N, C, *spatial) with at least two positions, and the same out.

    Args:
        num_features, eps, affine, device, dtype: see :class:`Norm`.
        momentum, track_running_stats: see :class:`RunningNorm`; averages over the batch of each channel's
            mean and unbiased variance.

    Raises:
        ValueError: wrong rank, channel count or dtype; a single position, whose variance is no statistic (S2-13:
            the layer is not for fully connected layers).
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, bias=bias, device=device, dtype=dtype
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalize x; positions where the mask (N, *spatial) is False count for nothing and come out 0."""
        mask = self._check_input(x, mask)
        if self._evaluates:
            return self._evaluate(x, mask)
        positions = math.prod(x.shape[2:])  # of torch.Size, numel() would make an exported model's size a constant
        if positions == 1 and x.shape[0]:
            raise ValueError(f"Expected more than 1 spatial element when training, got input size {x.size()}")
        if mask is None and not self._averages_batches and _native(x, self.weight):
            if traced() or not (torch.is_grad_enabled() and _torch.group_norm and _torch.batch_norm_backward):
                return _by_kernel(x, self.num_features, self.weight, self.bias, self.eps)
            flat: Tensor = _InstanceNorm.apply(x.flatten(2).contiguous(), self.weight, self.bias, self.eps)
            return flat.view(x.shape)
        y, mean, var = fused_norm(x, self._mix, self.weight, self.bias, mask=mask, mix_backward=self._mix_backward)
        if self._updates and x.numel():
            self._average_samples(mean, var, positions, self._counts(x, mask))
        return y

    def _average_samples(self, mean: Tensor, var: Tensor, positions: int, count: Tensor | None) -> None:
        """Move the running averages toward the samples' average; one that is all padding is none."""
        if count is None:
            return self._update(mean.mean(0), var.mean(0), positions)
        there = count > 0
        unbiased = var * (count / (count - 1).clamp(min=1))
        samples = there.sum().clamp(min=1)
        return self._average((mean * there).sum(0) / samples, (unbiased * there).sum(0) / samples, there.any())

    def _mix(self, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, ...]:
        return mean, *self._affine_tables(var, weight, bias), mean, var

    def _mix_backward(
        self, inputs: Sequence[Any], outputs: Sequence[Any], gradients: Sequence[Tensor]
    ) -> tuple[Tensor | None, ...]:
        (_, var, weight, bias), (dmean, dscale, dshift) = inputs, gradients
        dvar, dweight, dbias = self._affine_backward(var, weight, bias, dscale, dshift)
        return dmean, dvar, dweight, dbias


class _InstanceNorm(torch.autograd.Function):
    """torch's group norm forward, a group for each channel, and its batch norm's backward pass over N C channels.

    The backward pass of its group norm takes differences of sums that are not centred, which far from zero cancel.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        n, c, m = x.shape
        y, mean, inverse = _torch.group_norm(x, weight, bias, n, c, m, c, eps)
        ctx.save_for_backward(x, weight, bias, mean, inverse)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight, bias, mean, inverse = ctx.saved_tensors
        if plain(dy):
            inputs = (x, weight, bias)
            return *differentiable(lambda x, w, b: F.instance_norm(x, None, None, w, b, eps=ctx.eps), inputs, dy), None
        n, c, m = x.shape
        rows = (1, n * c, m)
        dx, dweight, dbias = _torch.batch_norm_backward(
            dy.contiguous().view(rows),
            x.view(rows),
            None if weight is None else weight.repeat(n),
            None,
            None,
            mean.view(-1),
            inverse.view(-1),
            True,
            ctx.eps,
            [ctx.needs_input_grad[0], weight is not None, bias is not None],
        )
        pair = (None if one is None else t.view(n, c).sum(0) for one, t in ((weight, dweight), (bias, dbias)))
        return None if dx is None else dx.view(x.shape), *pair, None


class RMSNorm(Norm):
    r"""Root Mean Square Layer Normalization (Zhang & Sennrich 2019, equation 4): no mean, no bias.

    .. math:: y = \gamma_c \frac{x}{\sqrt{\mathrm{mean}(x_n^2) + \epsilon}}

    with the mean over all channels and positions of sample n. On (N, C) the twin of ``torch.nn.RMSNorm(C)``,
    whose default eps is the dtype's machine epsilon.

    Shape: (N, C, *spatial) and the same out.

    Args:
        num_features, eps, device, dtype: see :class:`Norm`.
        affine: whether to learn a ``weight``; there is no ``bias``.

    Raises:
        ValueError: wrong rank, channel count or dtype.

    >>> x = torch.randn(4, 6)
    >>> torch.allclose(RMSNorm(6)(x), torch.nn.RMSNorm(6, eps=1e-5)(x), atol=1e-6)
    True
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, affine, bias=False, device=device, dtype=dtype)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalize x; positions where the mask (N, *spatial) is False count for nothing and come out 0."""
        mask = self._check_input(x, mask)
        return fused_norm(x, self._mix, self.weight, mask=mask, mix_backward=self._mix_backward)[0]

    def _mix(self, mean: Tensor, var: Tensor, weight: Tensor | None) -> tuple[Tensor, ...]:
        square = (var + mean.square()).mean(1, keepdim=True)
        return torch.zeros_like(square), *self._affine_tables(square, weight, None), square

    def _mix_backward(
        self, inputs: Sequence[Any], outputs: Sequence[Any], gradients: Sequence[Tensor]
    ) -> tuple[Tensor | None, ...]:
        (mean, _, weight), (_, _, _, square), (_, dscale, dshift) = inputs, outputs, gradients
        dsquare, dweight, _ = self._affine_backward(square, weight, None, dscale, dshift)
        dvar = (dsquare / mean.shape[1]).expand_as(mean)
        return 2 * mean * dvar, dvar, dweight


def _native(x: Tensor, weight: Tensor | None) -> bool:
    """Whether torch's group norm kernel is as exact as the engine and no slower."""
    exact = x.dtype in (torch.float32, torch.float64) and (weight is None or weight.dtype == x.dtype)
    contiguous = x.numel() > 0 and memory_format(x) == torch.contiguous_format
    return exact and contiguous and not (x.is_cuda and compiles(x))


def _by_kernel(x: Tensor, num_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """torch's group norm. In three dimensions: what can pass for channels_last goes to a kernel that takes mean
    squares minus squared means, which far from zero is no variance at all."""
    if torch.compiler.is_compiling():  # a compiler has a kernel of its own, and finds the sizes of a flat view hard
        return F.group_norm(x, num_groups, weight, bias, eps)
    flat = x.flatten(2) if x.dim() > 3 else x
    return F.group_norm(flat.contiguous(), num_groups, weight, bias, eps).view(x.shape)
