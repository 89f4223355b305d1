"""Around a whole model: exchange its normalizers, and freeze them."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from . import _torch
from .factory import NORMS, make_norm, maker_of
from .layers import FullNormBL, InstanceNorm, Norm, RMSNorm, RunningNorm

__all__ = ["convert_norms", "freeze_norms"]

_TORCH_AVERAGING = (_torch.BatchNorms, _torch.InstanceNorms)
_INSTANCE_NORMS = (_torch.InstanceNorms, InstanceNorm)
#: torch's classes that are exchanged, exactly these
_EXCHANGED = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm),
)


def convert_norms(model: nn.Module, name: str, **options: Any) -> nn.Module:
    """Exchange every normalizer of a model for the one called ``name``.

    Exchanged are normcore's layers and torch's BatchNorm, SyncBatchNorm, InstanceNorm and GroupNorm. Left alone
    are ``nn.LayerNorm`` and ``nn.RMSNorm``, which normalize trailing axes, and LocalResponseNorm, which knows no
    channel count. Parameters and buffers of equal name and shape are the same objects as before, so that an
    optimizer and whoever shares them still have them; two layers that shared one of another shape share the new
    one. Hooks stay, with their handles; they are called with the new layer. Kept are also eps, momentum, process
    group, as far as the new layer's signature has such options, and device, dtype, training mode and whether it is
    frozen; where the old layer had no weight and bias, the new one has none.

    What would be lost is refused: a class derived from one of these, which may add an activation; a weight or bias
    that is computed, by a parametrization say; modules within the layer; a ``forward`` of the instance; a lazy layer.

    Args:
        model: changed in place; left as it is if a layer cannot be exchanged.
        name, options: as for :func:`make_norm`; options win over what is kept.

    Returns:
        the model; the new layer, if the model itself is a normalizer.

    Raises:
        ValueError: unknown name; a layer that cannot be exchanged, or not be made with these options, with its place
            in the model.

    >>> convert_norms(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), "gn", num_groups=4)
    Sequential(
      (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
      (1): GroupNorm(4, 8, eps=1e-05, affine=True)
    )
    """
    shared: dict[Any, nn.Parameter] = {}
    new: dict[nn.Module, nn.Module] = {}
    for path, layer in model.named_modules():
        if isinstance(layer, (*_TORCH_AVERAGING, nn.GroupNorm, Norm)):
            try:
                _refuse_losses(layer)
                new[layer] = _converted(layer, name, options, shared)
            except Exception as error:  # whatever the constructor of a layer raises
                raise ValueError(f"{path or 'the model'}: {error}") from error
    return replaced(model, new)


def _refuse_losses(layer: Any) -> None:
    """A ValueError if the layer is more than its class, or that more than a class which is known."""
    kind = type(layer)
    if isinstance(layer, LazyModuleMixin):
        raise ValueError(f"{kind.__name__} does not know its channels yet: call the model with an input first")
    if any(_is_computed(layer, key) for key in ("weight", "bias")):
        raise ValueError(
            f"{kind.__name__} computes its weight or bias (a parametrization, weight or spectral norm, pruning), which "
            "would be lost: remove that first, for instance by torch.nn.utils.parametrize.remove_parametrizations"
        )
    direct = {Norm, RunningNorm} & set(kind.__bases__)
    if not direct and kind not in (*_EXCHANGED, *map(_made_by, NORMS.values())):
        raise ValueError(
            f"{kind.__module__}.{kind.__name__} is derived from {kind.__bases__[0].__name__}, and what it adds would "
            "be lost: put the layer itself and a module for what is added in its place first"
        )
    if any(layer.children()) or "forward" in vars(layer):
        raise ValueError(
            f"{kind.__name__} has modules within it or a forward of its own, which would be lost: remove them first"
        )


def _is_computed(layer: nn.Module, key: str) -> bool:
    registered = dict(layer.named_parameters(recurse=False))
    return getattr(layer, key, None) is not None and key not in registered


def _converted(old: nn.Module, name: str, options: dict[str, Any], shared: dict[Any, nn.Parameter]) -> nn.Module:
    """The new layer, with what it takes over from the old one; ``shared`` are new parameters by what they replace."""
    channels: Any = old.num_channels if isinstance(old, nn.GroupNorm) else old.num_features
    layer = make_norm(name, channels, **{**_kept_options(old, name), **options})
    like = next((t for t in (*old.parameters(), *old.buffers()) if t.is_floating_point()), None)
    if like is not None:
        layer.to(device=like.device, dtype=like.dtype)
    _take_over(layer, old, shared)
    if isinstance(layer, RunningNorm):
        layer.frozen = getattr(old, "frozen", False)
    return layer.train(old.training)


def _take_over(layer: nn.Module, old: nn.Module, shared: dict[Any, nn.Parameter]) -> None:
    """The old layer's parameters and buffers, as far as their shapes are right, and its hooks."""
    parameters, buffers = dict(old.named_parameters(recurse=False)), dict(old.named_buffers(recurse=False))
    for key, own in [*layer.named_parameters(recurse=False)]:
        if key not in parameters:
            continue
        kept = parameters[key]
        if kept.shape != own.shape:
            own.requires_grad_(kept.requires_grad)
            kept = shared.setdefault((kept, key, own.shape), own)
        setattr(layer, key, kept)
    for key, buffer in [*layer.named_buffers(recurse=False)]:
        if key in buffers and buffers[key].shape == buffer.shape:
            setattr(layer, key, buffers[key])
    for key, hooks in vars(old).items():
        if "_hook" in key and hooks:  # the table itself, which the handles know; or whether hooks are of the full kind
            if isinstance(hooks, dict):
                hooks.update(vars(layer)[key])
            vars(layer)[key] = hooks


def _kept_options(old: Any, name: str) -> dict[str, Any]:
    """What the new layer is made with like the old one, as far as it has such options."""
    make = maker_of(name)
    kept = {"eps": old.eps, "affine": old.affine}
    if old.affine and old.bias is None and not isinstance(old, RMSNorm):
        kept["bias"] = False
    averages = isinstance(old, (*_TORCH_AVERAGING, RunningNorm)) and not isinstance(old, FullNormBL)
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


def replaced(model: nn.Module, new: dict[nn.Module, nn.Module]) -> nn.Module:
    """Put other layers into all the places of some; returns the model, or what takes its own place."""
    for path, layer in [*model.named_modules(remove_duplicate=False)]:
        if path and layer in new:
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, new[layer])
    return new.get(model, model)


def freeze_norms(model: nn.Module, affine: bool = True) -> nn.Module:
    """Make every normalizer that keeps running statistics use them and leave them as they are.

    It stays so through ``model.train()``: what fine-tuning with small batches asks for. The layers stay those that
    they are, torch's BatchNorm and InstanceNorm and what is derived from them too: each gets an attribute ``frozen``,
    and torch's a hook that puts them into evaluation mode whenever they are called. ``layer.frozen = False`` and
    ``model.train()`` set a layer free.

    Args:
        model: changed in place.
        affine: whether weights and biases of all normalizers are frozen too.

    Returns:
        the model.
    """
    for layer in averaging(model):
        if not isinstance(layer, RunningNorm) and _evaluate_frozen not in layer._forward_pre_hooks.values():
            layer.register_forward_pre_hook(_evaluate_frozen)
        layer.frozen = True
    if affine:
        for layer in model.modules():
            if isinstance(layer, (*_TORCH_AVERAGING, nn.GroupNorm, Norm, nn.LayerNorm, nn.RMSNorm)):
                layer.requires_grad_(requires_grad=False)
    return model


def averaging(model: nn.Module) -> Iterator[Any]:
    """The layers of a model that keep running averages: normcore's, torch's, and what is derived from them."""
    for layer in model.modules():
        if isinstance(layer, (*_TORCH_AVERAGING, RunningNorm)) and layer.running_mean is not None:
            yield layer


def _evaluate_frozen(layer: nn.Module, inputs: Any) -> None:
    """Before each call of a layer of torch's; a function with a name, so that a model with it can be pickled."""
    if getattr(layer, "frozen", False):
        layer.training = False


def has_hooks(layer: nn.Module) -> bool:
    """Whether somebody looks at the layer's inputs, outputs or gradients."""
    kinds = (layer._forward_pre_hooks, layer._forward_hooks, layer._backward_pre_hooks, layer._backward_hooks)
    return any(hook is not _evaluate_frozen for hooks in kinds for hook in hooks.values())
