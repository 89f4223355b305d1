"""Fuse normalizers into the convolutions and linear layers before them."""

import inspect
import warnings
import weakref
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn

from .layers import BatchNorm, BatchRenorm, FullNormBB, InstanceNorm, Norm, ReferenceBatchNorm
from .layers.base import Leaf
from .surgery import has_hooks, replaced

__all__ = ["FusedNorm", "fuse_norms"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_TORCH_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
#: what evaluates as a scale and a shift of each channel, if it keeps running averages; exactly these classes
_AFFINE = (
    *(BatchNorm, BatchRenorm, ReferenceBatchNorm, FullNormBB, InstanceNorm),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, *_TORCH_INSTANCE_NORMS),
)


class FusedNorm(Leaf):
    """What :func:`fuse_norms` leaves of a normalizer: the identity, for inputs of the dimensions it was fused for.

    Raises:
        ValueError: input of another number of dimensions, in which dimension 1 is not the fused layer's channels.
    """

    def __init__(self, norm: nn.Module, dimensions: tuple[int, ...]) -> None:
        super().__init__()
        self.norm, self.dimensions = repr(norm), dimensions

    def extra_repr(self) -> str:
        return self.norm

    def forward(self, x: Tensor) -> Tensor:
        """x as it is."""
        if x.dim() not in self.dimensions:
            expected = " or ".join(map(str, self.dimensions))
            raise ValueError(f"{self.norm} was fused for input of {expected} dimensions, got shape {tuple(x.shape)}")
        return x


def fuse_norms(model: nn.Module) -> nn.Module:
    r"""Make every normalizer that evaluates as a scale and a shift a part of the layer before it.

    .. math::

        s = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}, \qquad W' = s\,W, \qquad b' = s\,(b - \mu) + \beta

    computed in float64 and rounded once. Fused are BatchNorm, BatchRenorm, ReferenceBatchNorm, FullNormBB, and
    InstanceNorm if it keeps running averages, and torch's BatchNorm, SyncBatchNorm and InstanceNorm likewise, into
    ``nn.Conv1d``, ``2d``, ``3d``, ``nn.ConvTranspose1d``, ``2d``, ``3d`` or ``nn.Linear``.

    Which layer stands before which says ``torch.fx``, by following the model's ``forward`` with its defaults for
    arguments that have one. A normalizer is left as it is where its input goes elsewhere too, is kept by somebody or
    watched by a hook; where either layer is called more than once, has a hook, or is of a derived class; where its
    own mode is training; and where a fused weight would not be finite. What a model does outside its ``forward`` is
    not known: fuse last, for evaluation.

    Args:
        model: in evaluation mode; changed in place. The fused layers get new parameters, and a bias if they had none;
            in the place of the normalizer stands a :class:`FusedNorm`.

    Returns:
        the model.

    Raises:
        ValueError: a model in training mode, one that ``torch.fx`` cannot follow, or without anything to fuse, with the
            reason for each normalizer.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), BatchNorm(8), nn.ReLU()).eval()
    >>> x = torch.randn(2, 3, 9, 9)
    >>> y = model(x)
    >>> torch.allclose(fuse_norms(model)(x), y, atol=1e-6)
    True
    """
    if model.training:
        raise ValueError("fuse_norms is for evaluation, and the model is in training mode: call model.eval() first")
    trace = _Trace(model)
    new: dict[nn.Module, nn.Module] = {}
    left = {}
    for node in trace.nodes:
        norm = trace.layer(node)
        if not isinstance(norm, (Norm, *_AFFINE)):
            continue
        reason = _reason_against(trace, node, norm)
        if reason is None:
            linear: Any = trace.layer(node.args[0])
            weight, bias = _fused_tables(linear, norm)
            if weight.isfinite().all() and bias.isfinite().all():
                linear.weight = nn.Parameter(weight, linear.weight.requires_grad)
                linear.bias = nn.Parameter(bias, linear.weight.requires_grad)
                new[norm] = FusedNorm(norm, _dimensions(linear, norm))
                continue
            reason = "the fused weights are not finite"
        left[node.target] = f"{node.target}: {reason}"
    if not new:
        raise ValueError("nothing to fuse: " + ("; ".join(left.values()) or "no normalizer that is known is called"))
    return replaced(model, new)


class _Trace(fx.Tracer):
    """The calls of a model's forward, and what becomes of their values."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._values: dict[fx.Node, weakref.ref[fx.Proxy]] = {}
        parameters = inspect.signature(model.forward).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        attributes = {module: dict(vars(module)) for module in model.modules()}
        try:
            with warnings.catch_warnings(action="ignore"):
                self.nodes = [*self.trace(model, defaults).nodes]
            self.kept = {node for node, value in self._values.items() if value() is not None}
        except Exception as error:  # whatever a model does with what is no tensor
            raise ValueError(
                f"torch.fx cannot follow {type(model).__name__} ({error}): fuse before compiling, or fuse those of its "
                "parts that it can follow, one by one"
            ) from error
        finally:
            for module, before in attributes.items():  # without the values that forward has put there
                vars(module).clear()
                vars(module).update(before)
        called = [self.layer(node) for node in self.nodes if node.op == "call_module"]
        self.calls = Counter(module for layer in called if layer for module in layer.modules())
        self.read = {str(node.target).rpartition(".")[0] for node in self.nodes if node.op == "get_attr"}

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """The value of a node, which lives on where an attribute, a list or a hook keeps it."""
        value = super().proxy(node)
        self._values[node] = weakref.ref(value)
        return value

    def layer(self, node: Any) -> nn.Module | None:
        """The module that is called, if one is."""
        called = isinstance(node, fx.Node) and node.op == "call_module"
        return self.model.get_submodule(str(node.target)) if called else None


def _reason_against(trace: _Trace, node: fx.Node, norm: Any) -> str | None:
    """Why a normalizer cannot be fused, if so."""
    evaluates = not norm.training or getattr(norm, "frozen", False)
    if type(norm) not in _AFFINE or norm.running_mean is None or not evaluates:
        return f"{type(norm).__name__} is here no scale and shift that is known"
    before = node.args[0] if len(node.args) == 1 and not node.kwargs else None
    linear: Any = trace.layer(before)
    if not isinstance(before, fx.Node) or type(linear) not in _LINEAR:
        return "its input is not that of a convolution or linear layer alone"
    if isinstance(linear, nn.Linear) and isinstance(norm, _TORCH_INSTANCE_NORMS):
        return "behind a linear layer it has no channels"
    if list(before.users) != [node] or before in trace.kept:
        return f"the output of {before.target} is used elsewhere, too"
    if trace.calls[norm] > 1 or trace.calls[linear] > 1:
        return f"it or {before.target} is called more than once"
    if has_hooks(norm) or has_hooks(linear):
        return f"it or {before.target} has hooks, which would see other values"
    if {str(before.target), str(node.target)} & trace.read:
        return f"parameters of it or {before.target} are used elsewhere, too"
    channels = linear.out_features if isinstance(linear, nn.Linear) else linear.out_channels
    if norm.num_features != channels:
        return f"{before.target} has {channels} channels, not {norm.num_features}"
    return None


def _fused_tables(linear: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of the linear layer and the normalizer behind it."""

    def exact(table: Tensor | None, instead: float) -> Tensor:
        table = torch.tensor(instead) if table is None else table.detach()
        return table.to("cpu", torch.float64)

    weight, bias = exact(linear.weight, 1), exact(linear.bias, 0)
    scale = exact(norm.weight, 1) / (exact(norm.running_var, 1) + norm.eps).sqrt()
    scale = scale.expand(norm.num_features)
    if isinstance(linear, _TRANSPOSED):  # (in, out / groups, ...), where of `in` each group has its share
        grouped = weight.view(linear.groups, -1, *weight.shape[1:])
        fused = grouped * scale.view(linear.groups, 1, -1, *[1] * (weight.dim() - 2))
    else:
        fused = weight * scale.view(-1, *[1] * (weight.dim() - 1))
    shift = (bias - exact(norm.running_mean, 0)) * scale + exact(norm.bias, 0)
    return fused.view_as(weight).to(linear.weight), shift.to(linear.weight)


def _dimensions(linear: Any, norm: nn.Module) -> tuple[int, ...]:
    """Of the inputs that the two take together."""
    dimensions = linear.weight.dim()
    return (dimensions - 1, dimensions) if isinstance(norm, _TORCH_INSTANCE_NORMS) else (dimensions,)
