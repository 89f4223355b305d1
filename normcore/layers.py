"""The normalization layers: what each keeps as state, and its ``mix`` for the engine."""

import torch
from torch import Tensor, nn

from .functional import fused_norm, pool

__all__ = ["BatchNorm", "Norm"]


class Norm(nn.Module):
    """What the layers share: the channel count, eps, the affine pair, and the check of the input.

    Args:
        num_features: number of channels C.
        eps: added to the variance.
        affine: whether to learn a ``weight`` and a ``bias`` of shape (C,), which start at one and zero.
        device, dtype: where and in what type the parameters are made.

    Raises:
        ValueError: if num_features is not positive or eps is negative.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features must be a positive integer, got {num_features}")
        if eps < 0:
            raise ValueError(f"eps must not be negative, got {eps}")
        self.num_features, self.eps, self.affine = num_features, eps, affine
        for name in ("weight", "bias"):
            table = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype)) if affine else None
            self.register_parameter(name, table)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight to one, bias to zero."""
        if self.weight is not None and self.bias is not None:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, affine={self.affine}"

    def _check_input(self, x: Tensor) -> None:
        if not 2 <= x.dim() <= 5:
            raise ValueError(
                f"{type(self).__name__} takes (N, C, *spatial) of 2 to 5 dimensions, "
                f"got {x.dim()} dimensions, shape {tuple(x.shape)}"
            )
        if x.shape[1] != self.num_features:
            raise ValueError(
                f"{type(self).__name__}({self.num_features}) takes {self.num_features} channels "
                f"in dimension 1, got {x.shape[1]}, shape {tuple(x.shape)}"
            )
        if not x.is_floating_point():
            raise ValueError(f"{type(self).__name__} takes floating-point input, got {x.dtype}")


def affine_tables(
    mean: Tensor, var: Tensor, eps: float, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    r"""Scale and shift of :math:`\gamma (x - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta`."""
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale
    return scale, shift if bias is None else shift + bias


class BatchNorm(Norm):
    r"""Batch Normalization (Ioffe & Szegedy 2015, Algorithms 1 and 2) for any number of spatial axes.

    .. math::

        y = \gamma_c \frac{x - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} + \beta_c

    In training :math:`\mu_c, \sigma_c^2` are the mean and the biased variance of channel c over the batch
    and all positions; at evaluation they are the running averages

    .. math:: r \leftarrow (1 - m)\, r + m\, s

    of the batch statistics s (the variance unbiased), m being ``momentum``, the weight of the new value.
    The twin of ``torch.nn.BatchNorm1d``, ``2d`` and ``3d``: the same names, defaults and ``state_dict``.
    Keras' ``momentum`` is the weight of the old value (0.99), its eps 1e-3, its running variance biased.

    Shape: (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W), and the same out.

    Args:
        num_features, eps, affine, device, dtype: see :class:`Norm`.
        momentum: weight of the new value in the running averages; None averages all batches equally.
        track_running_stats: without, batch statistics are used at evaluation too.

    Raises:
        ValueError: wrong rank, channel count or dtype; one value a channel in training; momentum
            outside [0, 1].
    """

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, affine, device, dtype)
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be None or in [0, 1], got {momentum}")
        self.momentum, self.track_running_stats = momentum, track_running_stats
        tracked = track_running_stats
        self.register_buffer("running_mean", torch.zeros(num_features, device=device, dtype=dtype) if tracked else None)
        self.register_buffer("running_var", torch.ones(num_features, device=device, dtype=dtype) if tracked else None)
        count = torch.tensor(0, dtype=torch.long, device=device)
        self.register_buffer("num_batches_tracked", count if tracked else None)

    def reset_running_stats(self) -> None:
        """Forget every batch: mean 0, variance 1, count 0."""
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def extra_repr(self) -> str:
        tail = f"momentum={self.momentum}, track_running_stats={self.track_running_stats}"
        return f"{super().extra_repr()}, {tail}"

    def forward(self, x: Tensor) -> Tensor:
        self._check_input(x)
        if not self.training and self.running_mean is not None:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        count = x.numel() // self.num_features
        if not count:  # as in the twin, an empty batch leaves the running averages alone
            return nn.functional.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        if self.training and count == 1:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.size()}")
        y, mean, var = fused_norm(x, self._mix, self.weight, self.bias)
        if self.training and self.track_running_stats:
            self._update(mean, var, count)
        return y

    def _mix(self, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, ...]:
        mean, var = pool(mean, var, dim=0)
        return *affine_tables(mean, var, self.eps, weight, bias), mean, var

    @torch.no_grad()
    def _update(self, mean: Tensor, var: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        m = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.view(-1).to(self.running_mean.dtype), m)
        self.running_var.lerp_((var.view(-1) * (count / (count - 1))).to(self.running_var.dtype), m)
