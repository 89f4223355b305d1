"""What the layers share: parameters, checks of the input, running statistics and their synchronization."""

import copy
import functools
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .. import check
from ..functional import affine, compiles, pool, pool_backward, recomputing, traced
from ..kernels import SMALL, dense, memory_format, table_dtype

__all__ = ["Leaf", "Norm", "Repeatable", "RunningNorm"]

WORLD = "world"  # in a file, the group of all processes


class Leaf(nn.Module):
    """A layer that torch.fx calls, as it does torch's own, and does not follow into its forward."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As ``nn.Module``'s; within a symbolic trace a node that calls the layer, whose hooks then run with it."""
        x = args[0] if args else next(iter(kwargs.values()), None)
        if not isinstance(x, fx.Proxy) or not isinstance(x.tracer, fx.Tracer):
            return super().__call__(*args, **kwargs)
        tracer = x.tracer
        path = tracer.path_of_module(self)
        return tracer.call_module(self, functools.partial(_node, tracer, path), args, kwargs)


def _node(tracer: fx.Tracer, path: str, *args: Any, **kwargs: Any) -> fx.Proxy:
    node: fx.Proxy = tracer.create_proxy("call_module", path, args, kwargs)
    return node


class Norm(Leaf):
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
        check.positive_integer("num_features", num_features)
        check.number("eps", eps, low=0)
        check.flag("affine", affine)
        check.flag("bias", bias)
        check.floating_dtype(dtype)
        self.num_features, self.eps, self.affine = num_features, eps, affine
        for name, learned in (("weight", affine), ("bias", affine and bias)):
            table = nn.Parameter(torch.empty(self._table_size(), device=device, dtype=dtype)) if learned else None
            self.register_parameter(name, table)
        self._register_state(device, dtype)
        self.reset_parameters()

    def _register_state(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Make what the layer keeps besides weight and bias; :meth:`reset_parameters` gives it its values."""

    def _table_size(self) -> int:
        """Entries of the learned tables and of the running statistics."""
        return self.num_features

    def reset_parameters(self) -> None:
        """All state as it is at first: weight one, bias zero."""
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

    def _counts(self, x: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """Values behind each row of the tables, (N, 1), where they may differ; None where they cannot."""
        return None if mask is None else mask.flatten(1).sum(1, keepdim=True).to(table_dtype(x))

    def _normalize(self, x: Tensor, mean: Tensor, var: Tensor, mask: Tensor | None) -> Tensor:
        """x by statistics that are given; 0 where the mask is False."""
        scale, shift = self._affine_tables(var.to(table_dtype(x)), self.weight, self.bias)
        if mask is None:
            return affine(x, mean, scale, shift)
        y = affine(x.masked_fill(~mask, 0), mean, scale, shift).masked_fill(~mask, 0)
        return y.contiguous(memory_format=memory_format(x))

    def _affine_backward(
        self, var: Tensor, weight: Tensor | None, bias: Tensor | None, dscale: Tensor, dshift: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The gradients of :meth:`_affine_tables`' arguments from those of its tables."""
        inverse = torch.rsqrt(var + self.eps)
        dinverse = dscale if weight is None else dscale * weight
        dvar = (dinverse * inverse.pow(3)).mul_(-0.5).sum_to_size(var.shape)
        dweight = None if weight is None else (dscale * inverse).sum_to_size(1, weight.numel()).view_as(weight)
        dbias = None if bias is None else dshift.sum_to_size(1, bias.numel()).view_as(bias)
        return dvar, dweight, dbias


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

    _batch_axes: int | tuple[int, ...] = 0  # of the tables (N, C), over which a batch is pooled
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
        check.number("momentum", momentum, low=0, high=1, optional=True)
        check.flag("track_running_stats", track_running_stats)
        check.process_group(process_group)
        self.momentum, self.track_running_stats, self.process_group = momentum, track_running_stats, process_group
        self.frozen = False  # see freeze_norms
        super().__init__(num_features, eps, affine, bias=bias, device=device, dtype=dtype)

    def _register_state(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        for name in ("running_mean", "running_var"):
            table = torch.empty(self._table_size(), device=device, dtype=dtype) if self.track_running_stats else None
            self.register_buffer(name, table)
        count = torch.empty((), dtype=torch.long, device=device) if self.track_running_stats else None
        self.register_buffer("num_batches_tracked", count)

    def reset_parameters(self) -> None:
        """All state as it is at first: weight one, bias zero, no batch seen."""
        super().reset_parameters()
        self.reset_running_stats()

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

    def __copy__(self) -> "RunningNorm":
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> "RunningNorm":
        """A copy belongs to the same group of processes, which is no data."""
        memo[id(self.process_group)] = self.process_group
        memo[id(self)] = twin = type(self).__new__(type(self))
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_last", None)  # see Repeatable
        if self.process_group is not None:
            if self.process_group is not dist.group.WORLD:
                raise pickle.PicklingError(
                    f"a {type(self).__name__} of some of the processes cannot be saved, as these are not known where "
                    "it is loaded. Save its state_dict, or set process_group to None before"
                )
            state["process_group"] = WORLD
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if state.get("process_group") == WORLD:  # all processes, where there are some; else this one
            there = dist.is_available() and dist.is_initialized()
            self.process_group = dist.group.WORLD if there else None

    @property
    def _averages_batches(self) -> bool:
        """Whether training batches move the running averages."""
        return self.training and not self.frozen and self.track_running_stats and self.running_mean is not None

    @property
    def _updates(self) -> bool:
        """Whether this batch does; one that is computed again for a backward pass has done so before."""
        return self._averages_batches and not recomputing()

    @property
    def _evaluates(self) -> bool:
        """Whether the running averages take the place of the batch's statistics."""
        return self.running_mean is not None and (self.frozen or not self.training)

    def _running(self) -> tuple[Tensor, Tensor]:
        """Copies of mean and variance, so that a later batch that moves them leaves this one's backward pass alone."""
        assert self.running_mean is not None
        assert self.running_var is not None
        return self.running_mean.clone(), self.running_var.clone()

    def _evaluate(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._normalize(x, *self._running(), mask)

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
        running: tuple[Tensor | None, Tensor | None] = (None, None)
        if self._updates and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            # by another name, since autograd keeps them: a later batch may move them before this one's backward pass
            running = (self.running_mean.data, self.running_var.data)
        elif self._averages_batches:
            running = self._running()  # checkpointing counts the tensors that are kept
        y = F.batch_norm(x, *running, self.weight, self.bias, True, self.momentum or 0.0, self.eps)
        if y.requires_grad:
            y.register_hook(functools.partial(_laid_out_as, x.detach()))
        return y

    def _suits_batch_norm(self, x: Tensor) -> bool:
        """Whether that kernel is as exact and the faster: for channels_last data and small ones, where calls cost
        more than memory."""
        if self.process_group is not None or traced() or (x.is_cuda and compiles(x)):
            return False
        if self.eps == 0 or (self._averages_batches and self.momentum is None):
            return False
        wide = table_dtype(x)
        if any(t is not None and t.dtype != wide for t in (self.weight, self.running_mean)):
            return False
        if x.dtype != wide and (self.weight is None or not x.is_cuda):
            return False  # it would round half-precision input's statistics or, on a CPU, the bias' gradient
        return x.numel() < SMALL or not x.is_contiguous() or x.is_cuda

    def _counts(self, x: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """As :meth:`Norm._counts`; the batches of other processes may differ too."""
        if mask is None and self.process_group is not None:
            return x.new_full((x.shape[0], 1), x.shape[2:].numel(), dtype=table_dtype(x))
        return super()._counts(x, mask)

    def _pool_batch(self, mean: Tensor, var: Tensor, count: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Statistics of the whole batch, over all processes of the group, and of how many values per channel."""
        parts = mean.shape[1]
        mean, var = pool(mean, var, self._batch_axes, count)
        if count is None:
            return mean, var, None
        total = count.sum() * (parts // mean.shape[1])
        if self.process_group is None:
            return mean, var, total
        size = mean.numel()
        rows = _gather(torch.cat((mean.flatten(), var.flatten(), total.view(1))), self.process_group)
        means, variances, totals = rows[:, :size], rows[:, size : 2 * size], rows[:, 2 * size :].detach()
        whole_mean, whole_var = pool(means, variances, 0, totals)
        return whole_mean.view_as(mean), whole_var.view_as(var), totals.sum()

    def _pool_batch_backward(
        self, mean: Tensor, pooled: Tensor, dpooled: Tensor, dvar: Tensor, count: Tensor | None, total: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The gradients of the instances' moments from those of the batch's, here and in the other processes."""
        if count is None or total is None:
            return pool_backward(mean, pooled, dpooled, dvar, pooled.numel() / mean.numel())
        dpooled, dvar = self._sum_over_processes(torch.stack((dpooled, dvar))).unbind()
        return pool_backward(mean, pooled, dpooled, dvar, count / total.clamp(min=1))

    def _sum_over_processes(self, values: Tensor) -> Tensor:
        return values if self.process_group is None else _AllReduce.apply(values, self.process_group)

    def _mix_batch(
        self, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, count: Tensor | None
    ) -> tuple[Tensor, ...]:
        """The mix of the layers that take nothing but the batch's statistics."""
        mean, var, total = self._pool_batch(mean, var, count)
        tables = (mean, *self._affine_tables(var, weight, bias), mean, var)
        return tables if total is None else (*tables, total)

    def _mix_batch_backward(
        self, inputs: Sequence[Any], outputs: Sequence[Any], gradients: Sequence[Tensor]
    ) -> tuple[Tensor | None, ...]:
        (mean, _, weight, bias, count), (center, _, _, _, var, *total) = inputs, outputs
        dcenter, dscale, dshift = gradients
        dvar, dweight, dbias = self._affine_backward(var, weight, bias, dscale, dshift)
        moments = self._pool_batch_backward(mean, center, dcenter, dvar, count, total[0] if total else None)
        return *moments, dweight, dbias, None

    def _update(self, mean: Tensor, var: Tensor, count: int | Tensor) -> None:
        """Move the running averages toward a batch's mean and biased variance over ``count`` values."""
        if isinstance(count, Tensor):  # the batch may be empty
            self._average(mean, var * (count / (count - 1).clamp(min=1)), count > 0)
        else:
            self._average(mean, var * (count / max(count - 1, 1)))

    @torch.no_grad()
    def _average(self, mean: Tensor, var: Tensor, there: Tensor | None = None) -> None:
        """One step of the running averages toward these values; a step of zero if a batch was not ``there``."""
        if not self._updates:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        for average, value in ((self.running_mean, mean.view(-1)), (self.running_var, var.view(-1))):
            assert average is not None
            if there is None and self.momentum is not None and average.dtype == value.dtype:
                average.lerp_(value, self.momentum)
                continue
            # not rounded before it is averaged: half precision ends at 65,504, and a share of more may well fit
            wide = torch.promote_types(average.dtype, value.dtype)
            m: Any = self.momentum if self.momentum is not None else self.num_batches_tracked.to(wide).reciprocal()
            if there is not None:
                m = m * there.to(wide)
            average.copy_(torch.lerp(average.to(wide), value.to(wide), m))


class Repeatable(nn.Module):
    """A layer in training whose output depends on what earlier batches left in it, not on this batch alone.

    Activation checkpointing computes a batch a second time, when the layer holds what came after it. What the last
    batch started from is therefore kept, and taken again in a pass that runs within a backward pass.
    """

    _last: tuple[tuple[Tensor, ...], Tensor, Tensor] | None = None

    def _before(self, state: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """``state()``, or in a repeated pass what that gave the first time."""
        return self._last[0] if recomputing() and self._last is not None else state()

    def _keep_before(self, before: tuple[Tensor, ...], mean: Tensor, var: Tensor) -> None:
        """Keep it, with the batch's statistics, by which a repeated pass is known."""
        if not traced() and not recomputing():
            self._last = (before, mean, var)

    def _repeated(self, mix: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
        """The mix, which in a repeated pass looks whether it is the batch: what that needs is gone when the pass ends.

        Its tables are center, scale, shift, and mean and variance of the batch.

        Raises:
            RuntimeError: from the mix, if it is another batch than the last.
        """
        if not recomputing():
            return mix
        last = self._last

        def checked(*inputs: Tensor | None) -> tuple[Tensor, ...]:
            tables = mix(*inputs)
            mean, var = tables[3].detach(), tables[4].detach()
            if last is None or bool(((mean - last[1]).abs() > 1e-3 * (last[2] + var).sqrt()).any()):
                raise RuntimeError(
                    f"{type(self).__name__}: a forward pass within a backward pass (activation checkpointing) repeats "
                    "another batch than the layer's last one, and what the layer held then is gone. Call backward "
                    "after each forward pass of the layer, or leave it out of the checkpointed part."
                )
            return tables

        return checked


def _laid_out_as(x: Tensor, dy: Tensor | None) -> Tensor | None:
    """torch's kernel may take a gradient whose strides are not those of x for one whose are, and be wrong."""
    return dy if dy is None else dense(dy, like=x)


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
