"""Around a whole model: exchange its normalizers, freeze them, make their running statistics precise."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from . import _torch
from .factory import make_norm, maker_of
from .functional import pool
from .layers import FullNormBL, InstanceNorm, Norm, ReferenceBatchNorm, RMSNorm, RunningNorm

__all__ = ["convert_norms", "freeze_norms", "recalibrate"]

_TORCH_NORMS = (_torch.BatchNorms, _torch.InstanceNorms, nn.GroupNorm)
_INSTANCE_NORMS = (_torch.InstanceNorms, InstanceNorm)


def convert_norms(model: nn.Module, name: str, **options: Any) -> nn.Module:
    """Exchange every normalizer of a model for the one called ``name``.

    Exchanged are normcore's layers and torch's BatchNorm, SyncBatchNorm, InstanceNorm and GroupNorm. Left alone
    are ``nn.LayerNorm`` and ``nn.RMSNorm``, which normalize trailing axes, and LocalResponseNorm, which knows no
    channel count. Parameters and buffers of equal name and shape are kept (weight, bias; from BN to BatchRenorm
    the running statistics too), as are eps, momentum, process group, as far as the new layer's signature has such
    options, and device, dtype, training mode and whether parameters are trained; where the old layer had no weight
    and bias, the new one has none.

    Args:
        model: changed in place; left as it is if a layer cannot be exchanged.
        name, options: as for :func:`make_norm`; options win over what is kept.

    Returns:
        the model; the new layer, if the model itself is a normalizer.

    Raises:
        ValueError: unknown name; a layer that cannot be made with these options, with its place in the model.

    >>> convert_norms(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), "gn", num_groups=4)
    Sequential(
      (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
      (1): GroupNorm(4, 8, eps=1e-05, affine=True)
    )
    """
    return _exchange(model, (*_TORCH_NORMS, Norm), lambda old: _converted(old, name, options))


def _converted(old: nn.Module, name: str, options: dict[str, Any]) -> nn.Module:
    channels: Any = old.num_channels if isinstance(old, nn.GroupNorm) else old.num_features
    layer = make_norm(name, channels, **{**_kept_options(old, name), **options})
    like = next((t for t in (*old.parameters(), *old.buffers()) if t.is_floating_point()), None)
    if like is not None:
        layer.to(device=like.device, dtype=like.dtype)
    own = layer.state_dict()
    kept = {k: v for k, v in old.state_dict().items() if k in own and v.shape == own[k].shape}
    layer.load_state_dict({**own, **kept}, assign=like is not None and like.is_meta)
    trained = {k: p.requires_grad for k, p in old.named_parameters()}
    for key, parameter in layer.named_parameters():
        parameter.requires_grad_(trained.get(key, True))
    if isinstance(layer, RunningNorm):
        layer.frozen = getattr(old, "frozen", False)
    return layer.train(old.training)


def _kept_options(old: Any, name: str) -> dict[str, Any]:
    """What the new layer is made with like the old one, as far as it has such options."""
    make = maker_of(name)
    kept = {"eps": old.eps, "affine": old.affine}
    if old.affine and old.bias is None and not isinstance(old, RMSNorm):
        kept["bias"] = False
    averages = isinstance(old, (_torch.BatchNorms, _torch.InstanceNorms, RunningNorm)) and not isinstance(
        old, FullNormBL
    )
    if averages and isinstance(old, _INSTANCE_NORMS) == issubclass(_made_by(make) or nn.Module, InstanceNorm):
        kept |= {"momentum": old.momentum, "track_running_stats": old.track_running_stats}
    group = getattr(old, "process_group", None)
    if isinstance(old, nn.SyncBatchNorm) and group is None and dist.is_available() and dist.is_initialized():
        group = dist.group.WORLD
    if group is not None:
        kept["process_group"] = group
    return {option: value for option, value in kept.items() if _takes(make, option)}


def _takes(make: Callable[..., nn.Module], option: str) -> bool:
    """Whether one can say ``make(channels, option=...)``: by the signature of what is called and, as far as each hands
    ``**options`` on, of the class that it makes and of its bases."""
    made = _made_by(make)
    for called in (make, *(vars(c)["__init__"] for c in (made.__mro__ if made else ()) if "__init__" in vars(c))):
        parameters = inspect.signature(called).parameters
        if option in parameters:
            return True
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return False
    return made is None  # it takes everything, and says no more


def _made_by(make: Callable[..., nn.Module]) -> type[nn.Module] | None:
    """The class of the layers that an entry of ``NORMS`` makes, if it says so."""
    while isinstance(make, functools.partial):
        make = make.func
    made = make if isinstance(make, type) else inspect.signature(make).return_annotation
    return made if isinstance(made, type) and issubclass(made, nn.Module) and made is not nn.Module else None


def freeze_norms(model: nn.Module, affine: bool = True) -> nn.Module:
    """Make every normalizer that keeps running statistics use them and leave them as they are.

    It stays so through ``model.train()``: what fine-tuning with small batches asks for. Torch's BatchNorm and
    InstanceNorm layers are exchanged for normcore's first, see :func:`convert_norms`.

    Args:
        model: changed in place.
        affine: whether weights and biases of all normalizers are frozen too.

    Returns:
        the model; the new layer, if the model itself is one of those.
    """
    model = _with_own(model)
    for layer in model.modules():
        if isinstance(layer, RunningNorm) and layer.running_mean is not None:
            layer.frozen = True
        if affine and isinstance(layer, (*_TORCH_NORMS, Norm, nn.LayerNorm, nn.RMSNorm)):
            layer.requires_grad_(requires_grad=False)
    return model


def recalibrate(model: nn.Module, loader: Iterable[Any]) -> nn.Module:
    """Replace running averages by the statistics of all the data in a loader ("precise BN", Wu & Johnson 2021).

    Running averages follow a moving network; this estimates, with the weights as they are, the mean and the
    unbiased variance of each channel over the whole loader, exactly as if it were one batch, given that every batch
    is normalized by its own statistics as in training. What averages over batches by definition (the mixed
    statistics of ReferenceBatchNorm, InstanceNorm's) is averaged. Frozen layers stay as they are; torch's
    BatchNorm and InstanceNorm layers are exchanged for normcore's first.

    Args:
        model: changed in place; its modes and its weights are left as they are.
        loader: batches of input, or tuples or lists that start with one.

    Returns:
        the model; the new layer, if the model itself is one of those.

    Raises:
        ValueError: no layer keeps running statistics, or the loader is empty.

    >>> model = nn.Sequential(make_norm("bn", 3))
    >>> data = torch.randn(100, 3) * 2 + 5
    >>> _ = recalibrate(model, data.split(20))
    >>> torch.allclose(model[0].running_mean, data.mean(0)), torch.allclose(model[0].running_var, data.var(0))
    (True, True)
    """
    model = _with_own(model)
    layers = [m for m in model.modules() if isinstance(m, RunningNorm) and m.running_mean is not None and not m.frozen]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no layer with running statistics that are not frozen")
    before = {layer: {k: b.clone() for k, b in layer.named_buffers()} for layer in layers}
    modes = {m: m.training for m in model.modules()}
    momenta = {layer: layer.momentum for layer in layers}
    seen: dict[RunningNorm, list[tuple[Tensor, Tensor, Any]]] = {layer: [] for layer in layers}
    try:
        model.eval()
        for layer in layers:
            layer.train()
            layer.momentum = None
            if isinstance(layer, (ReferenceBatchNorm, InstanceNorm)):
                layer.reset_running_stats()
            else:
                layer._update = _recorder(seen[layer])  # type: ignore[method-assign, assignment]
        if not _pass_all(model, loader):
            raise ValueError("the loader gave no batch to take statistics of")
        for layer, batches in seen.items():
            _set_running(layer, batches)
    except BaseException:
        for layer, buffers in before.items():
            for key, buffer in buffers.items():
                layer.get_buffer(key).copy_(buffer)
        raise
    finally:
        for layer, momentum in momenta.items():
            layer.momentum = momentum
            layer.__dict__.pop("_update", None)
            assert layer.num_batches_tracked is not None
            layer.num_batches_tracked.copy_(before[layer]["num_batches_tracked"])
        for module, mode in modes.items():
            module.training = mode
    return model


def _recorder(batches: list[tuple[Tensor, Tensor, Any]]) -> Callable[[Tensor, Tensor, Any], None]:
    return lambda mean, var, count: batches.append((mean.flatten(), var.flatten(), count))


@torch.no_grad()
def _pass_all(model: nn.Module, loader: Iterable[Any]) -> int:
    """Show every batch to the model; returns how many there were."""
    count = 0
    for batch in loader:
        model(batch[0] if isinstance(batch, (tuple, list)) else batch)
        count += 1
    return count


@torch.no_grad()
def _set_running(layer: RunningNorm, batches: list[tuple[Tensor, Tensor, Any]]) -> None:
    """The statistics of the union of batches, the variance unbiased."""
    if not batches or layer.running_mean is None or layer.running_var is None:
        return
    means, variances = (torch.stack([batch[i] for batch in batches]) for i in (0, 1))
    counts = torch.stack([torch.as_tensor(n, dtype=means.dtype, device=means.device) for *_, n in batches])
    mean, var = pool(means, variances, 0, counts.unsqueeze(1))
    total = counts.sum()
    layer.running_mean.copy_(mean.flatten())
    layer.running_var.copy_(var.flatten() * total / (total - 1).clamp(min=1))


def _with_own(model: nn.Module) -> nn.Module:
    """The model with normcore's layers in place of those of torch that keep running statistics."""
    model = _exchange(model, _torch.BatchNorms, lambda old: _converted(old, "bn", {}))
    return _exchange(model, _torch.InstanceNorms, lambda old: _converted(old, "in", {}))


def _exchange(model: nn.Module, kinds: Any, make: Callable[[Any], nn.Module]) -> nn.Module:
    """Put ``make(layer)`` in the place of every layer of some kinds; one that stands in two places stays one."""
    new: dict[int, nn.Module] = {}
    places = [(p, layer) for p, layer in model.named_modules(remove_duplicate=False) if isinstance(layer, kinds)]
    for path, layer in places:
        if id(layer) not in new:
            try:
                new[id(layer)] = make(layer)
            except Exception as error:  # whatever the constructor of a layer raises
                raise ValueError(f"{path or 'the model'}: {error}") from error
    for path, layer in places:
        if path:
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, new[id(layer)])
    return new.get(id(model), model)
