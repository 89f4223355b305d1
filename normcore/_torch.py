"""What the core uses of torch without a promise that it stays: private names, and kernels below the functional ones.

They are looked up here, once, and nowhere else. Where a version of torch lacks one, what stands in its place sends the
layers by plain operations: slower, with the same values and gradients.
"""

import functools
import pkgutil
import types
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.autograd import forward_ad


def of_torch(path: str, instead: Any = None) -> Any:
    """The object at ``path``, written as ``"module:name"``; ``instead`` where this torch has none."""
    try:
        return pkgutil.resolve_name(path)
    except (AttributeError, ImportError):
        return instead


def yes(*_: Any) -> bool:
    """The answer to "does someone look at the operations?" where torch cannot be asked."""
    return True


# --- who looks at the operations -----------------------------------------------------------------------------

#: whether a transform of torch.func is at work (grad, vmap, jvp), which an autograd function would have to know of
transforms_active = of_torch("torch:_C._are_functorch_transforms_active", yes)

#: whether a gradient is many at once (``is_grads_batched``), on which kernels below autograd do not work
is_batched = of_torch("torch:_C._functorch.is_legacy_batchedtensor", yes)


def forward_mode_active() -> bool:
    """Whether torch.autograd.forward_ad carries tangents along; its level of nesting is -1 outside."""
    return bool(getattr(forward_ad, "_current_level", 0) >= 0)


# --- the backward pass ---------------------------------------------------------------------------------------

#: a number for each backward pass, -1 outside
backward_pass = of_torch("torch:_C._current_graph_task_id")


def in_backward() -> bool:
    """Whether this thread is within a backward pass; without an answer it is never said to be."""
    return backward_pass is not None and backward_pass() != -1


# --- kernels, of which each reads or writes x once; without one, kernels.py computes the same in several passes ----

#: (x, weight, bias, N, C, M, groups, eps) -> y, mean, 1 / deviation: the moments of contiguous x
group_norm = of_torch("torch:native_group_norm")

#: (x, running mean and var, momentum) -> mean, var of each channel
batch_norm_moments = of_torch("torch:batch_norm_update_stats")

#: (x, weight, bias, mean, var, training, momentum, eps) -> y, ...: center, scale and shift of contiguous x
batch_norm = of_torch("torch:native_batch_norm")

#: (x, shape) -> x in that shape, and to autograd not a view: operations in place may follow a layer
unsafe_view = of_torch("torch:ops.aten._unsafe_view")

#: (dy, x, weight, running mean and var, mean, 1 / deviation, training, eps, wanted) -> dx, dot, total
batch_norm_backward = of_torch("torch:ops.aten.native_batch_norm_backward")


# --- the compiler --------------------------------------------------------------------------------------------


@functools.cache
def has_triton() -> bool:
    """Whether torch.compile has Triton for the GPU; without an answer layers are not compiled unasked."""
    return bool(of_torch("torch.utils._triton:has_triton", bool)())


def compiler_error() -> type[Exception]:
    """What a compiler that does not work raises; not looked up before it is needed, since this loads the compiler."""
    error: type[Exception] = of_torch("torch._dynamo.exc:TorchDynamoException", RuntimeError)
    return error


def with_own_code(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The same function with a code object of its own: Dynamo counts recompilations by code object, and a network
    with many kinds of layers would soon reach its limit."""
    code = function.__code__.replace(co_name=name)
    return types.FunctionType(code, function.__globals__, argdefs=function.__defaults__)


# --- what torch's own layers have in common ------------------------------------------------------------------

#: BatchNorm1d, 2d, 3d and SyncBatchNorm
BatchNorms = of_torch(
    "torch.nn.modules.batchnorm:_BatchNorm", (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
)


class BatchNormBase(BatchNorms if isinstance(BatchNorms, type) else nn.Module):  # type: ignore[misc]
    """What torch's tools look for before they take a module for a BatchNorm; it makes nothing itself."""

    def __init__(self) -> None:
        nn.Module.__init__(self)


#: InstanceNorm1d, 2d and 3d
InstanceNorms = of_torch(
    "torch.nn.modules.instancenorm:_InstanceNorm", (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
)
