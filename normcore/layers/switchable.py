"""A learned mixture of statistics: SwitchableNorm."""

from typing import Any

import torch
from torch import Tensor, nn

from ..functional import fused_norm, pool
from .base import RunningNorm

__all__ = ["SwitchableNorm"]


class SwitchableNorm(RunningNorm):
    r"""Switchable Normalization (Luo et al. 2018, equations 2 to 5): a learned mixture of IN, LN and BN.

    .. math::

        y = \gamma_c \frac{x - \sum_k w_k \mu_k}{\sqrt{\sum_k w'_k \sigma_k^2 + \epsilon}} + \beta_c,
        \qquad k \in (\text{instance}, \text{layer}, \text{batch})

    where w and w' are the softmax of ``mean_weight`` and ``var_weight``. At evaluation the running averages
    stand in for the batch's statistics. All three pairs of statistics come from one pass over x.

    Shape: (N, C, *spatial) and the same out; ``mean_weight`` and ``var_weight`` have shape (3,), in the order
    instance, layer, batch, and start at one (equal shares).

    Args:
        num_features, eps, momentum, affine, track_running_stats, process_group, device, dtype: see
            :class:`RunningNorm`.

    Raises:
        ValueError: as :class:`BatchNorm`.

    With one-hot weights it is one of the three:

    >>> from normcore import BatchNorm, InstanceNorm, LayerNorm
    >>> x = torch.randn(4, 6, 5, 5)
    >>> for k, twin in enumerate((InstanceNorm(6), LayerNorm(6), BatchNorm(6))):
    ...     layer = SwitchableNorm(6)
    ...     with torch.no_grad():
    ...         for weight in (layer.mean_weight, layer.var_weight):
    ...             _ = weight.fill_(-1e4)[k].fill_(0)
    ...     print(torch.allclose(layer(x), twin(x), atol=1e-5))
    True
    True
    True
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype, **options
        )
        self.mean_weight = nn.Parameter(torch.ones(3, device=device, dtype=dtype))
        self.var_weight = nn.Parameter(torch.ones(3, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """Weight to one, bias to zero, equal shares of the three statistics."""
        super().reset_parameters()
        for name in ("mean_weight", "var_weight"):
            if hasattr(self, name):  # not yet while the base class is being built
                nn.init.ones_(getattr(self, name))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x."""
        self._check_input(x)
        running: tuple[Tensor | None, Tensor | None] = (None, None)
        if self._evaluates:
            running = (self.running_mean, self.running_var)
        else:
            empty = self._pass_empty(x)
            if empty is not None:
                return empty + 0 * (self.mean_weight.sum() + self.var_weight.sum())  # a gradient of zero
            self._refuse_single_value(x)
        shares = (self.mean_weight, self.var_weight)
        y, *found = fused_norm(x, self._mix, self.weight, self.bias, *shares, *running, self._counts(x))
        if found:
            self._update(found[0], found[1], found[2] if len(found) > 2 else x.numel() // self.num_features)
        return y

    def _mix(
        self,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean_weight: Tensor,
        var_weight: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        count: Tensor | None,
    ) -> tuple[Tensor, ...]:
        layer_mean, layer_var = pool(mean, var, 1)
        statistics: tuple[Tensor, ...] = ()
        if running_mean is None or running_var is None:
            batch_mean, batch_var, total = self._pool_batch(mean, var, count)
            statistics = (batch_mean, batch_var) if total is None else (batch_mean, batch_var, total)
        else:
            batch_mean, batch_var = running_mean.to(mean.dtype), running_var.to(var.dtype)
        shares = torch.stack((mean_weight, var_weight)).to(mean.dtype).softmax(1).view(6).unbind()
        center = _weighted(shares[:3], mean, layer_mean, batch_mean)
        variance = _weighted(shares[3:], var, layer_var, batch_var)
        return center, *self._affine_tables(variance, weight, bias), *statistics


def _weighted(shares: tuple[Tensor, ...], instance: Tensor, layer: Tensor, batch: Tensor) -> Tensor:
    return torch.addcmul(torch.addcmul(instance * shares[0], layer, shares[1]), batch, shares[2])
