"""Make the running statistics of a model precise."""

import functools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from . import _torch
from .functional import moments, pool
from .layers import InstanceNorm, ReferenceBatchNorm, RunningNorm
from .layers.base import _gather
from .surgery import averaging

__all__ = ["recalibrate"]

#: of one batch: mean and biased variance of each channel, and of how many values
Batches = list[tuple[Tensor, Tensor, Any]]


def recalibrate(model: nn.Module, loader: Iterable[Any]) -> nn.Module:
    """Replace running averages by the statistics of all the data in a loader ("precise BN", Wu & Johnson 2021).

    Running averages follow a moving network; this estimates, with the weights as they are, the mean and the
    unbiased variance of each channel over the whole loader, exactly as if it were one batch, given that every batch
    is normalized by its own statistics as in training. What averages over batches by definition (the mixed
    statistics of ReferenceBatchNorm, InstanceNorm's) is averaged. It serves normcore's layers and torch's, and what is
    derived from them; frozen ones stay as they are. What is compiled of the model runs uncompiled meanwhile.

    Args:
        model: changed in place; its layers, its modes and its weights are left as they are.
        loader: batches of input, or tuples or lists that start with one.

    Returns:
        the model.

    Raises:
        ValueError: no layer keeps running statistics, or the loader is empty.

    >>> model = nn.Sequential(nn.BatchNorm1d(3))
    >>> data = torch.randn(100, 3) * 2 + 5
    >>> _ = recalibrate(model, data.split(20))
    >>> torch.allclose(model[0].running_mean, data.mean(0)), torch.allclose(model[0].running_var, data.var(0))
    (True, True)
    """
    layers = [layer for layer in averaging(model) if not getattr(layer, "frozen", False)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no layer with running statistics that are not frozen")
    for layer in layers:
        if nn.parameter.is_lazy(layer.running_mean):
            raise ValueError(
                f"{type(layer).__name__} does not know its channels yet: call the model with an input first"
            )
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(_modes_kept(model))
        for layer in layers:
            layer.training = True
            averages = isinstance(layer, (ReferenceBatchNorm, InstanceNorm, _torch.InstanceNorms))
            stack.enter_context(_averaged(layer) if averages else _pooled(layer))
        if not _pass_all(model, loader):
            raise ValueError("the loader gave no batch to take statistics of")
    return model


def _pass_all(model: nn.Module, loader: Iterable[Any]) -> int:
    """Show every batch to the model; returns how many there were."""
    count = 0
    for batch in loader:
        model(batch[0] if isinstance(batch, (tuple, list)) else batch)
        count += 1
    return count


@contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    """All in evaluation mode, for the time being."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _state_kept(layer: Any) -> Iterator[None]:
    """Attributes, momentum one of them, and the count of batches are left as they are; after an error, all buffers."""
    attributes, before = dict(vars(layer)), {key: b.clone() for key, b in layer.named_buffers(recurse=False)}
    try:
        yield
    except BaseException:
        for key, buffer in before.items():
            layer.get_buffer(key).copy_(buffer)
        raise
    finally:
        vars(layer).clear()
        vars(layer).update(attributes)
        layer.num_batches_tracked.copy_(before["num_batches_tracked"])


@contextmanager
def _averaged(layer: Any) -> Iterator[None]:
    """The running averages become those of all batches within the block, each with the same weight."""
    count = 0

    def next_batch(layer: Any, inputs: Any) -> None:
        nonlocal count
        if count == 0:
            layer.reset_running_stats()
        count += 1
        layer.momentum = 1 / count

    with _state_kept(layer), layer.register_forward_pre_hook(next_batch):
        yield


@contextmanager
def _pooled(layer: Any) -> Iterator[None]:
    """The running averages become the statistics of all batches within the block, as if they were one."""
    batches: Batches = []
    with _state_kept(layer), _recording(layer, batches):
        yield
        _set_running(layer, batches)


@contextmanager
def _recording(layer: Any, batches: Batches) -> Iterator[None]:
    """Each batch's statistics, as a layer of normcore's gives them to its averages, or of what one of torch's gets."""
    if isinstance(layer, RunningNorm):
        layer.momentum = None  # not by torch's kernel, which would move the averages itself
        layer._update = lambda mean, var, count: batches.append((mean.flatten(), var.flatten(), count))  # type: ignore[method-assign]
        yield
    else:
        layer.momentum = 0.0
        with layer.register_forward_hook(functools.partial(_record, batches), with_kwargs=True):
            yield


def _record(batches: Batches, layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
    x = args[0] if args else kwargs["input"]
    mean, var = moments(x)
    counts = mean.new_full((x.shape[0], 1), x.shape[2:].numel())  # maybe of no instance at all
    (mean, var), count = pool(mean, var, 0, counts), counts.sum()
    if isinstance(layer, nn.SyncBatchNorm) and dist.is_available() and dist.is_initialized():
        group: Any = layer.process_group or dist.group.WORLD
        means, variances, counts = _gather(torch.cat((mean[0], var[0], count.view(1))), group).split(
            (mean.numel(), var.numel(), 1), 1
        )
        (mean, var), count = pool(means, variances, 0, counts), counts.sum()
    batches.append((mean.flatten(), var.flatten(), count))


def _set_running(layer: Any, batches: Batches) -> None:
    """The statistics of the union of batches, the variance unbiased."""
    if not batches:
        return
    means, variances = (torch.stack([batch[i] for batch in batches]) for i in (0, 1))
    counts = torch.stack([torch.as_tensor(n, dtype=means.dtype, device=means.device) for *_, n in batches])
    mean, var = pool(means, variances, 0, counts.unsqueeze(1))
    total = counts.sum()
    layer.running_mean.copy_(mean.flatten())
    layer.running_var.copy_(var.flatten() * total / (total - 1).clamp(min=1))
