"""Statistics across the channels at each position: ChannelLayerNorm and LocalResponseNorm."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import check
from ..functional import traced
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
    """Layer normalization over dimension 1, by torch's kernel for the last dimension."""
    if mask is not None:
        y = channel_layer_norm(x.masked_fill(~mask, 0), weight, bias, eps).masked_fill(~mask, 0)
        return y.contiguous(memory_format=memory_format(x))
    wide = table_dtype(x)
    weight, bias = (None if t is None else t.to(wide) for t in (weight, bias))
    y = F.layer_norm(x.to(wide).movedim(1, -1), x.shape[1:2], weight, bias, eps).movedim(-1, 1)
    return y.to(x.dtype).contiguous(memory_format=memory_format(x))


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
