"""What the layers share: parameters, checks of the input, running statistics and their synchronization."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional import affine, compiles, pool, traced
from ..kernels import SMALL, table_dtype

__all__ = ["Norm", "RunningNorm"]


class Norm(nn.Module):
    """What the layers share: the channel count, eps, the affine pair, and the check of the input.

    Args:
        num_features: number of channels C.
        eps: added to the variance.
        affine: whether to learn a ``weight`` and a ``bias``, which start at one and zero.
        bias: with ``affine``, whether to learn the bias.
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
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features must be a positive integer, got {num_features}")
        if not eps >= 0:
            raise ValueError(f"eps must not be negative, got {eps}")
        self.num_features, self.eps, self.affine = num_features, eps, affine
        for name, learned in (("weight", affine), ("bias", affine and bias)):
            table = nn.Parameter(torch.empty(self._table_size(), device=device, dtype=dtype)) if learned else None
            self.register_parameter(name, table)
        self.reset_parameters()

    def _table_size(self) -> int:
        """Entries of the learned tables and of the running statistics."""
        return self.num_features

    def reset_parameters(self) -> None:
        """Weight to one, bias to zero."""
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        without = ", bias=False" if self.weight is not None and self.bias is None else ""
        return f"{self.num_features}, eps={self.eps}, affine={self.affine}{without}"

    def _check_input(self, x: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """Refuse what the layer cannot take; returns the mask with a channel axis."""
        name = type(self).__name__
        if not 2 <= x.dim() <= 5:
            raise ValueError(
                f"{name} takes (N, C, *spatial) of 2 to 5 dimensions, got {x.dim()} dimensions, shape {tuple(x.shape)}"
            )
        if x.shape[1] != self.num_features:
            raise ValueError(
                f"{name}({self.num_features}) takes {self.num_features} channels "
                f"in dimension 1, got {x.shape[1]}, shape {tuple(x.shape)}"
            )
        if not x.is_floating_point():
            raise ValueError(f"{name} takes floating-point input, got {x.dtype}")
        if mask is None:
            return None
        expected = (x.shape[0], *x.shape[2:])
        if mask.dtype != torch.bool or mask.shape != expected:
            raise ValueError(
                f"the mask must be boolean (True: counts) of shape {expected}, (N, *spatial), "
                f"got {mask.dtype} of shape {tuple(mask.shape)}"
            )
        return mask.unsqueeze(1)

    def _affine_tables(self, var: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        r"""Scale and shift of :math:`\gamma (x - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta`."""
        scale = torch.rsqrt(var + self.eps)
        if weight is not None:
            scale = scale * weight
        return scale, torch.zeros_like(scale) if bias is None else bias.to(scale.dtype)


class RunningNorm(Norm):
    r"""A layer that keeps running averages of its statistics for evaluation.

    .. math:: r \leftarrow (1 - m)\, r + m\, s

    with s the statistics of a training batch (the variance unbiased) and m the ``momentum``. State, reset,
    loading and synchronization of all such layers stand here, as in torch's ``_NormBase``.

    Args:
        num_features, eps, affine, bias, device, dtype: see :class:`Norm`.
        momentum: weight of the new value in the running averages; None averages all batches equally.
        track_running_stats: without, batch statistics are used at evaluation too.
        process_group: the processes over which batch statistics are taken, by one small all-reduce of the
            (C,) tables; None: this process alone. All processes of the group must call the layer.

    Raises:
        ValueError: as :class:`Norm`; momentum outside [0, 1].
    """

    _version = 2  # as torch's _NormBase: since version 2 num_batches_tracked is in the state
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
        *,
        process_group: dist.ProcessGroup | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_features, eps, affine, bias=bias, device=device, dtype=dtype)
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be None or in [0, 1], got {momentum}")
        self.momentum, self.track_running_stats, self.process_group = momentum, track_running_stats, process_group
        self.frozen = False  # see freeze_norms
        size, tracked = self._table_size(), track_running_stats
        self.register_buffer("running_mean", torch.zeros(size, device=device, dtype=dtype) if tracked else None)
        self.register_buffer("running_var", torch.ones(size, device=device, dtype=dtype) if tracked else None)
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
        return f"{super().extra_repr()}, {tail}" + (", frozen=True" if self.frozen else "")

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        key = prefix + "num_batches_tracked"
        if self.num_batches_tracked is not None and (metadata.get("version") or 1) < 2 and key not in state:
            state[key] = torch.zeros_like(self.num_batches_tracked)
        super()._load_from_state_dict(state, prefix, metadata, *rest)

    @property
    def _updates(self) -> bool:
        return self.training and not self.frozen and self.track_running_stats and self.running_mean is not None

    @property
    def _evaluates(self) -> bool:
        """Whether the running averages take the place of the batch's statistics."""
        return self.running_mean is not None and (self.frozen or not self.training)

    def _evaluate(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        wide = table_dtype(x)
        scale, shift = self._affine_tables(self.running_var.to(wide), self.weight, self.bias)
        if mask is None:
            return affine(x, self.running_mean, scale, shift)
        return affine(x.masked_fill(~mask, 0), self.running_mean, scale, shift).masked_fill(~mask, 0)

    def _pass_empty(self, x: Tensor) -> Tensor | None:
        """An empty batch comes back as it is, and counts as a batch, as in torch."""
        if x.numel() or self.process_group is not None:
            return None
        if self._updates and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        zero = x.new_zeros(())
        return affine(x, zero, zero if self.weight is None else self.weight, zero if self.bias is None else self.bias)

    def _refuse_single_value(self, x: Tensor) -> None:
        if x.numel() == self._table_size() and self.process_group is None:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.size()}")

    def _batch_norm(self, x: Tensor) -> Tensor:
        """torch's own kernel for the statistics of dimension 1 over the batch, running averages included."""
        if self._updates and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        running = (self.running_mean, self.running_var) if self._updates else (None, None)
        return F.batch_norm(x, *running, self.weight, self.bias, True, self.momentum or 0.0, self.eps)

    def _suits_batch_norm(self, x: Tensor) -> bool:
        """Whether that kernel is as exact and the faster: for channels_last data and small ones, where calls cost
        more than memory."""
        if self.process_group is not None or traced() or (x.is_cuda and compiles(x)):
            return False
        if self.eps == 0 or (self._updates and self.momentum is None):
            return False
        wide = table_dtype(x)
        if any(t is not None and t.dtype != wide for t in (self.weight, self.running_mean)):
            return False
        if x.dtype != wide and (self.weight is None or not x.is_cuda):
            return False  # it would round half-precision input's statistics or, on a CPU, the bias' gradient
        return x.numel() < SMALL or not x.is_contiguous() or x.is_cuda

    def _counts(self, x: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """Values behind each row of the tables, (N, 1), where they may differ; None where they cannot."""
        if mask is not None:
            return mask.flatten(1).sum(1, keepdim=True).to(table_dtype(x))
        if self.process_group is None:
            return None
        return x.new_full((x.shape[0], 1), x.shape[2:].numel(), dtype=table_dtype(x))

    def _pool_batch(
        self, mean: Tensor, var: Tensor, count: Tensor | None, dim: int | tuple[int, ...] = 0
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Statistics of the whole batch, over all processes of the group, and of how many values per channel."""
        mean, var = pool(mean, var, dim, count)
        if count is None:
            return mean, var, None
        total = count.sum()
        if self.process_group is None:
            return mean, var, total
        size = mean.numel()
        rows = _gather(torch.cat((mean.flatten(), var.flatten(), total.view(1))), self.process_group)
        means, variances, totals = rows[:, :size], rows[:, size : 2 * size], rows[:, 2 * size :].detach()
        whole_mean, whole_var = pool(means, variances, 0, totals)
        return whole_mean.view_as(mean), whole_var.view_as(var), totals.sum()

    @torch.no_grad()
    def _update(self, mean: Tensor, var: Tensor, count: int | Tensor) -> None:
        """Move the running averages toward a batch's mean and biased variance over ``count`` values."""
        if not self._updates:
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        dtype = self.running_mean.dtype
        unbiased = var.view(-1) * (
            count / (count - 1).clamp(min=1) if isinstance(count, Tensor) else count / max(count - 1, 1)
        )
        m: Any = self.momentum if self.momentum is not None else self.num_batches_tracked.to(dtype).reciprocal()
        if isinstance(count, Tensor):  # the batch may be empty
            m = m * (count > 0).to(dtype)
        self.running_mean.lerp_(mean.view(-1).to(dtype), m)
        self.running_var.lerp_(unbiased.to(dtype), m)


def _gather(row: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The rows of all processes, one below the other, by an all-reduce; differentiable."""
    own = torch.arange(dist.get_world_size(group), device=row.device) == dist.get_rank(group)
    return _AllReduce.apply(own.unsqueeze(1) * row, group)


class _AllReduce(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _AllReduce.apply(gradient, ctx.group), None
