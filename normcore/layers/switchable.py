"""A learned mixture of statistics: SwitchableNorm."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..functional import fused_norm, pool, pool_backward
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

    def _register_state(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        super()._register_state(device, dtype)
        self.mean_weight = nn.Parameter(torch.empty(3, device=device, dtype=dtype))
        self.var_weight = nn.Parameter(torch.empty(3, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """All state as it is at first: weight one, bias zero, equal shares of the statistics, no batch seen."""
        super().reset_parameters()
        nn.init.ones_(self.mean_weight)
        nn.init.ones_(self.var_weight)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalize x; positions where the mask (N, *spatial) is False count for nothing and come out 0."""
        mask = self._check_input(x, mask)
        running: tuple[Tensor | None, Tensor | None] = (None, None)
        if self._evaluates:
            running = self._running()
        else:
            empty = self._pass_empty(x)
            if empty is not None:
                return empty + 0 * (self.mean_weight.sum() + self.var_weight.sum())  # a gradient of zero
            self._refuse_single_value(x)
        y, _, _, _, batch, *total = fused_norm(
            x,
            self._mix,
            *(self.weight, self.bias, self.mean_weight, self.var_weight, *running, self._counts(x, mask)),
            mask=mask,
            mix_backward=self._mix_backward,
        )
        if not self._evaluates:
            self._update(batch[0], batch[1], total[0] if total else x.numel() // self.num_features)
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
        """Center and variance go together, as two rows: mixed are (2, N, C), (2, N, 1) and (2, 1, C)."""
        instance, layer, total = torch.stack((mean, var)), torch.stack(pool(mean, var, 1)), None
        if running_mean is None or running_var is None:
            batch_mean, batch_var, total = self._pool_batch(mean, var, count)
            batch = torch.stack((batch_mean, batch_var))
        else:
            batch = torch.stack((running_mean, running_var)).to(mean.dtype).unsqueeze(1)
        shares = torch.stack((mean_weight, var_weight)).to(mean.dtype).softmax(1)
        one, two, three = shares.view(2, 3, 1, 1).unbind(1)
        center, variance = torch.addcmul(torch.addcmul(instance * one, layer, two), batch, three).unbind()
        tables = (center, *self._affine_tables(variance, weight, bias), variance, shares, layer, batch)
        return tables if total is None else (*tables, total)

    def _mix_backward(
        self, inputs: Sequence[Any], outputs: Sequence[Any], gradients: Sequence[Tensor]
    ) -> tuple[Tensor | None, ...]:
        mean, var, weight, bias, _, _, running_mean, _, count = inputs
        _, _, _, variance, shares, layer, batch, *total = outputs
        dcenter, dscale, dshift = gradients
        dvariance, dweight, dbias = self._affine_backward(variance, weight, bias, dscale, dshift)
        dmixed = torch.stack((dcenter, dvariance))
        dlayer, dbatch = dmixed.sum(2, keepdim=True), dmixed.sum(1, keepdim=True)
        dinstance = (dmixed * torch.stack((mean, var))).sum((1, 2))
        dshares = torch.stack((dinstance, (dlayer * layer).sum((1, 2)), (dbatch * batch).sum((1, 2))), 1)
        dlogits = shares * (dshares - (dshares * shares).sum(1, keepdim=True))
        one, two, three = shares.view(2, 3, 1, 1).unbind(1)
        dlayer, dbatch = dlayer * two, dbatch * three
        moments = dmixed * one + torch.stack(pool_backward(mean, layer[0], dlayer[0], dlayer[1], 1 / mean.shape[1]))
        if running_mean is None:
            of_all = total[0] if total else None
            moments += torch.stack(self._pool_batch_backward(mean, batch[0], dbatch[0], dbatch[1], count, of_all))
        dmean, dvar = moments.unbind()
        return dmean, dvar, dweight, dbias, *dlogits.unbind(), None, None, None
