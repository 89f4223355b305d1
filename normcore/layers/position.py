"""Statistics across the channels at each position: ChannelLayerNorm and LocalResponseNorm."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import check, kernels
from ..functional import differentiable, plain, traced
from ..kernels import memory_format, table_dtype
from .base import Leaf, Norm

__all__ = ["ChannelLayerNorm", "LocalResponseNorm"]


class ChannelLayerNorm(Norm):
    r"""Layer Normalization over the channels at every position of every sample.

    .. math:: y = \gamma_c \frac{x - \mu_{nhw}}{\sqrt{\sigma_{nhw}^2 + \epsilon}} + \beta_c

    What ``torch.nn.LayerNorm(C)`` and Keras' LayerNormalization (whose eps is 1e-3) compute on channels-last
    data, and what ConvNeXt uses. On (N, C) it is :class:`LayerNorm`.

    Shape: (N, C, *spatial) and the same out.

    Args:
        num_features, eps, affine, device, dtype: see :class:`Norm`.

    Raises:
        ValueError: wrong rank, channel count or dtype.

    >>> import torch
    >>> x = torch.randn(4, 6, 5, 5)
    >>> y = torch.nn.LayerNorm(6)(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    >>> torch.allclose(ChannelLayerNorm(6)(x), y, atol=1e-6)
    True
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalize x; positions where the mask (N, *spatial) is False come out 0, whatever stands there."""
        mask = self._check_input(x, mask)
        return channel_layer_norm(x, self.weight, self.bias, self.eps, mask)


def channel_layer_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, mask: Tensor | None = None
) -> Tensor:
    """Layer normalization over dimension 1: by torch's kernel for the last dimension, or block by block where that
    would have to copy much."""
    if mask is not None:
        y = channel_layer_norm(x.masked_fill(~mask, 0), weight, bias, eps).masked_fill(~mask, 0)
        return y.contiguous(memory_format=memory_format(x))
    if not traced() and kernels.vectorized(x, kernels.FEW):
        return _ChannelLayerNorm.apply(x, weight, bias, eps)
    return _by_kernel(x, weight, bias, eps)


def _by_kernel(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    wide = table_dtype(x)
    weight, bias = (None if t is None else t.to(wide) for t in (weight, bias))
    y = F.layer_norm(x.to(wide).movedim(1, -1), x.shape[1:2], weight, bias, eps).movedim(-1, 1)
    return y.to(x.dtype).contiguous(memory_format=memory_format(x))


class _ChannelLayerNorm(torch.autograd.Function):
    r"""Contiguous x on a CPU, in blocks that stay in the cache between the operations: memory is read once.

    With :math:`h = (x - \mu)\,i` and :math:`i = 1 / \sqrt{\sigma^2 + \epsilon}`, means over the channels,

    .. math:: dx = i\,(\gamma\,dy - E[\gamma\,dy] - h\,E[\gamma\,dy\,h]).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        result = torch.empty_like(x)
        rows, y, wide = x.flatten(2), result.flatten(2), table_dtype(x)
        mean, inverse = rows.new_empty((2, len(rows), 1, rows.shape[2]), dtype=wide)
        scale, shift = (None if t is None else t.to(wide).unsqueeze(1) for t in (weight, bias))
        scratch = kernels.scratch_for(rows, wide, 2)
        for at in kernels.blocks(rows):
            block = rows[at].to(wide)
            centred, h = scratch(block)
            h = y[at] if y.dtype == wide else h
            torch.mean(block, 1, keepdim=True, out=mean[at])
            torch.sub(block, mean[at], out=centred)
            torch.mean(torch.mul(centred, centred, out=h), 1, keepdim=True, out=inverse[at])
            torch.mul(centred, inverse[at].add_(eps).rsqrt_(), out=h)
            if scale is not None:
                h *= scale
            if shift is not None:
                h += shift
            if y.dtype != wide:
                y[at] = h
        ctx.save_for_backward(x, weight, bias, mean, inverse)
        ctx.eps = eps
        return result

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight, bias, mean, inverse = ctx.saved_tensors
        if plain(dy):
            return *differentiable(lambda x, w, b: _by_kernel(x, w, b, ctx.eps), (x, weight, bias), dy), None
        rows, dys, wide = x.flatten(2), dy.flatten(2), mean.dtype
        dx = torch.empty_like(rows)
        dscale, dshift = mean.new_zeros((2, rows.shape[1]))
        scale = mean.new_ones(rows.shape[1], 1) if weight is None else weight.to(wide).unsqueeze(1)
        scratch = kernels.scratch_for(rows, wide, 2)
        for at in kernels.blocks(rows):
            block, dblock = rows[at].to(wide), dys[at].to(wide)
            h, product = scratch(block)
            product = dx[at] if dx.dtype == wide else product
            torch.sub(block, mean[at], out=h).mul_(inverse[at])
            torch.mul(dblock, h, out=product)
            dscale += product.sum((0, 2))
            dshift += dblock.sum((0, 2))
            along = product.mul_(scale).mean(1, keepdim=True)  # by no matrix product, which autocast would round
            torch.mul(dblock, scale, out=product)
            product -= torch.mean(product, 1, keepdim=True)
            product.addcmul_(h, along, value=-1).mul_(inverse[at])
            if dx.dtype != wide:
                dx[at] = product
        dweight, dbias = (None if t is None else d.to(t.dtype) for t, d in ((weight, dscale), (bias, dshift)))
        return dx.view(x.shape), dweight, dbias, None


class LocalResponseNorm(Leaf, nn.LocalResponseNorm):
    r"""Local Response Normalization (Krizhevsky, Sutskever & Hinton 2012, section 3.3), as torch defines it.

    .. math:: y_c = x_c \Bigl(k + \frac{\alpha}{n} \sum_{c' \in w(c)} x_{c'}^2\Bigr)^{-\beta}

    with w(c) the n = ``size`` channels around c at the same position, absent ones counted as zero. The paper and
    TensorFlow do not divide alpha by n (and call n / 2 the ``depth_radius``): their alpha is ours over n. It
    learns nothing and takes any number of channels.

    Shape: (N, C, *spatial) with at least one spatial axis, and the same out.

    Args:
        size: number of channels in the window, n.
        alpha, beta, k: constants of the formula; the paper has 5e-4 (for alpha / n: 1e-4), 0.75 and 2.

    Raises:
        ValueError: size below 1; no spatial axis; input that is not floating point.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        check.positive_integer("size", size)
        for name, value in (("alpha", alpha), ("beta", beta), ("k", k)):
            check.number(name, value)
        super().__init__(size, alpha, beta, k)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x."""
        if not x.is_floating_point():
            raise ValueError(f"LocalResponseNorm takes floating-point input, got {x.dtype}")
        if not 3 <= x.dim() <= 5:
            raise ValueError(
                f"LocalResponseNorm takes (N, C, *spatial) of 3 to 5 dimensions, got {x.dim()}D, shape {tuple(x.shape)}"
            )
        return local_response_norm(x, self.size, self.alpha, self.beta, self.k)


def local_response_norm(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """The formula of LocalResponseNorm; ``F.local_response_norm`` takes the sums by a 3D pooling, which is slower."""
    wide = x.to(table_dtype(x))
    before, after = size // 2, (size - 1) // 2
    if traced():
        windows = F.pad(wide.square(), (0, 0) * (x.dim() - 2) + (before, after))
        sums = sum((windows.narrow(1, i, x.shape[1]) for i in range(1, size)), windows.narrow(1, 0, x.shape[1]))
    else:
        sums = _ChannelWindow.apply(wide.square(), before, after)
    y = wide * (k + alpha / size * sums).pow(-beta)
    return y.to(x.dtype).contiguous(memory_format=memory_format(x))


class _ChannelWindow(torch.autograd.Function):
    """At every channel the sum of x over ``before`` channels before it, itself and ``after`` ones after it.

    Shifted sums in place: no copy for each channel of the window, and no difference of running sums, which would
    cancel. The transposed map, backward, is the mirrored window.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, before: int, after: int) -> Tensor:
        ctx.window = before, after
        sums, last = x.clone(), x.shape[1] - 1
        for i in range(1, min(before, last) + 1):
            sums[:, i:] += x[:, :-i]
        for i in range(1, min(after, last) + 1):
            sums[:, :-i] += x[:, i:]
        return sums

    @staticmethod
    def backward(ctx: Any, dsums: Tensor) -> Any:
        before, after = ctx.window
        return _ChannelWindow.apply(dsums, after, before), None, None
