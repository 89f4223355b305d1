"""Statistics over the batch: BatchNorm and BatchRenorm."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import _torch, check
from ..functional import fused_norm
from ..kernels import dense, table_dtype
from .base import Repeatable, RunningNorm

__all__ = ["BatchNorm", "BatchRenorm", "ClipSchedule"]


class BatchNorm(RunningNorm, _torch.BatchNormBase):
    r"""Batch Normalization (Ioffe & Szegedy 2015, Algorithms 1 and 2) for any number of spatial axes.

    .. math::

        y = \gamma_c \frac{x - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} + \beta_c

    In training :math:`\mu_c, \sigma_c^2` are the mean and the biased variance of channel c over the batch
    and all positions; at evaluation they are running averages. The twin of ``torch.nn.BatchNorm1d``, ``2d``
    and ``3d``: the same names, defaults and ``state_dict``, and to tools that look for those one of them
    (``swa_utils.update_bn``, ``SyncBatchNorm.convert_sync_batchnorm``). Keras' ``momentum`` is the weight of the old
    value (0.99), its eps 1e-3, its running variance biased.

    Shape: (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W), and the same out.

    Args:
        num_features, eps, affine, device, dtype: see :class:`Norm`.
        momentum, track_running_stats, process_group: see :class:`RunningNorm`.

    Raises:
        ValueError: wrong rank, channel count or dtype; one value a channel in training; momentum
            outside [0, 1].

    >>> layer = BatchNorm(3)
    >>> x = torch.randn(8, 3, 5, 5)
    >>> y = layer(x)
    >>> torch.allclose(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    True
    >>> torch.allclose(y, torch.nn.BatchNorm2d(3)(x), atol=1e-5)
    True
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalize x; positions where the mask (N, *spatial) is False count for nothing and come out 0."""
        mask = self._check_input(x, mask)
        if self._evaluates:
            return self._evaluate(x, mask)
        empty = self._pass_empty(x)
        if empty is not None:
            return empty
        self._refuse_single_value(x)
        if mask is None and self._suits_batch_norm(x):
            return self._batch_norm(dense(x))
        y, mean, var, *total = fused_norm(
            x,
            self._mix_batch,
            *(self.weight, self.bias, self._counts(x, mask)),
            mask=mask,
            mix_backward=self._mix_batch_backward,
        )
        self._update(mean, var, total[0] if total else x.numel() // self.num_features)
        return y


@dataclass(frozen=True)
class ClipSchedule:
    """How Batch Renormalization opens its clips: closed until ``start`` training batches, then linearly.

    The defaults are the paper's (Ioffe 2017, section 4): r reaches ``r_max`` at 40,000 batches, d reaches
    ``d_max`` at 25,000.

    >>> r_max, d_max = ClipSchedule(start=0, r_end=10, d_end=10)(torch.tensor(5), r_max=3.0, d_max=5.0)
    >>> r_max.item(), d_max.item()
    (2.0, 2.5)
    """

    start: int = 5000
    r_end: int = 40000
    d_end: int = 25000

    def __post_init__(self) -> None:
        for name in ("start", "r_end", "d_end"):
            check.number(f"{name}, in training batches,", getattr(self, name), low=0)

    def __call__(self, step: Tensor, r_max: float, d_max: float) -> tuple[Tensor, Tensor]:
        """The clips after ``step`` training batches (a tensor, so that nothing waits for a GPU)."""
        done = (step - self.start).clamp(min=0)
        r = (done / max(self.r_end - self.start, 1)).clamp(max=1)
        d = (done / max(self.d_end - self.start, 1)).clamp(max=1)
        # a share of nothing is nothing, of an infinite clip too, which then is open from the start on
        return torch.where(r > 0, 1 + (r_max - 1) * r, 1.0), torch.where(d > 0, d_max * d, 0.0)


PAPER = ClipSchedule()


class BatchRenorm(Repeatable, RunningNorm):
    r"""Batch Renormalization (Ioffe 2017, Algorithm 1): batch statistics, corrected toward the running averages.

    .. math::

        y &= \gamma_c \Bigl(\frac{x - \mu_B}{\sigma_B}\, r + d\Bigr) + \beta_c \\
        r &= \operatorname{clip}\Bigl(\frac{\sigma_B}{\sigma}, \frac1{r_{max}}, r_{max}\Bigr) \\
        d &= \operatorname{clip}\Bigl(\frac{\mu_B - \mu}{\sigma}, -d_{max}, d_{max}\Bigr)

    with the batch's mean :math:`\mu_B` and :math:`\sigma_B^2`, its biased variance plus :math:`\epsilon`; and the
    running mean :math:`\mu` and :math:`\sigma^2`, the running variance plus :math:`\epsilon`, both as they were
    before this batch. No gradient flows through r and d.
    With open clips training and evaluation compute the same. The running averages are those of
    :class:`BatchNorm` (the paper averages :math:`\sigma_B`, with ``momentum`` 0.01), so a trained BatchNorm's
    ``state_dict`` loads.

    Shape: (N, C, *spatial) and the same out.

    Args:
        num_features, eps, momentum, affine, process_group, device, dtype: see :class:`RunningNorm`.
        track_running_stats: must be True: the correction is toward the running averages.
        r_max, d_max: the clips, at least 1 and at least 0.
        schedule: called as ``schedule(step, r_max, d_max)`` with the number of training batches so far,
            a tensor, gives the clips of this batch; None: constant clips.

    Raises:
        ValueError: as :class:`BatchNorm`; r_max below 1 or d_max below 0; track_running_stats=False.

    >>> x = torch.randn(8, 3, 5, 5)
    >>> layer = BatchRenorm(3, r_max=1.0, d_max=0.0, schedule=None)
    >>> torch.allclose(layer(x), BatchNorm(3)(x), atol=1e-6)
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
        r_max: float = 3.0,
        d_max: float = 5.0,
        schedule: Callable[..., tuple[Any, Any]] | None = PAPER,
        **options: Any,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **options)
        check.number("r_max", r_max, low=1, finite=False)
        check.number("d_max", d_max, low=0, finite=False)
        if schedule is not None and not callable(schedule):
            raise TypeError(f"schedule must be None or callable as schedule(step, r_max, d_max), got {schedule!r}")
        if not track_running_stats:
            raise ValueError("BatchRenorm corrects toward running averages: track_running_stats must be True")
        self.r_max, self.d_max, self.schedule = r_max, d_max, schedule

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, r_max={self.r_max}, d_max={self.d_max}, schedule={self.schedule}"

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalize x; positions where the mask (N, *spatial) is False count for nothing and come out 0."""
        mask = self._check_input(x, mask)
        if self._evaluates:
            return self._evaluate(x, mask)
        empty = self._pass_empty(x)
        if empty is not None:
            return empty
        self._refuse_single_value(x)
        before = self._before(lambda: (*self._clips(), *self._running()))
        y, mean, var, _, _, *total = fused_norm(
            x,
            self._repeated(self._mix),
            *(self.weight, self.bias, self._counts(x, mask), *before),
            mask=mask,
            mix_backward=self._mix_backward,
        )
        self._keep_before(before, mean, var)
        self._update(mean, var, total[0] if total else x.numel() // self.num_features)
        return y

    def _clips(self) -> tuple[Tensor, Tensor]:
        assert self.num_batches_tracked is not None
        assert self.running_var is not None
        step = self.num_batches_tracked.to(table_dtype(self.running_var))
        r_max, d_max = self.schedule(step, self.r_max, self.d_max) if self.schedule else (self.r_max, self.d_max)
        r_max, d_max = (t.to(step) if isinstance(t, Tensor) else torch.full_like(step, t) for t in (r_max, d_max))
        return r_max, d_max

    def _mix(
        self,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        count: Tensor | None,
        r_max: Tensor,
        d_max: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
    ) -> tuple[Tensor, ...]:
        mean, var, total = self._pool_batch(mean, var, count)
        with torch.no_grad():
            inverse = torch.rsqrt(running_var.to(var.dtype) + self.eps)
            r = (torch.sqrt(var + self.eps) * inverse).clamp(1 / r_max, r_max)
            d = ((mean - running_mean) * inverse).clamp(-d_max, d_max)
        scale, shift = self._affine_tables(var, weight, bias)
        shift = shift + (d if weight is None else d * weight)
        tables = (mean, scale * r, shift, mean, var, r, d)
        return tables if total is None else (*tables, total)

    def _mix_backward(
        self, inputs: Sequence[Any], outputs: Sequence[Any], gradients: Sequence[Tensor]
    ) -> tuple[Tensor | None, ...]:
        (mean, _, weight, bias, count, *_), (center, _, _, _, var, r, d, *total) = inputs, outputs
        dcenter, dscale, dshift = gradients
        dvar, dweight, dbias = self._affine_backward(var, weight, bias, dscale * r, dshift)
        if dweight is not None:
            dweight = dweight + (dshift * d).view_as(dweight)
        moments = self._pool_batch_backward(mean, center, dcenter, dvar, count, total[0] if total else None)
        return *moments, dweight, dbias, *(None,) * 5
