"""One name for every normalizer."""

import difflib
from collections.abc import Callable
from typing import Any

from torch import nn

from . import own
from .layers import (
    BatchNorm,
    BatchRenorm,
    ChannelLayerNorm,
    FullNormBB,
    FullNormBL,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    LocalResponseNorm,
    ReferenceBatchNorm,
    RMSNorm,
    SwitchableNorm,
    VirtualBatchNorm,
)

__all__ = ["NORMS", "make_norm"]


def _identity(num_channels: int, **options: Any) -> nn.Identity:
    if options:
        raise TypeError(f"the norm 'none' takes no options, got {sorted(options)}")
    return nn.Identity()


def _group_norm(num_channels: int, num_groups: int | None = None, **options: Any) -> GroupNorm:
    if num_groups is None:  # the paper's 32 where they leave two channels a group, else as many as do
        fitting = (g for g in range(32, 1, -1) if num_channels % g == 0 and num_channels >= 2 * g)
        num_groups = next(fitting, 1)
    return GroupNorm(num_groups, num_channels, **options)


def _instance_norm(num_channels: int, affine: bool = True, **options: Any) -> InstanceNorm:
    return InstanceNorm(num_channels, affine=affine, **options)


def _local_response_norm(num_channels: int, **options: Any) -> LocalResponseNorm:
    return LocalResponseNorm(**options)


#: name -> a callable that makes the layer from the channel count and the layer's own options; a function that hands
#: ``**options`` on says by its annotation which class it makes
NORMS: dict[str, Callable[..., nn.Module]] = {
    "none": _identity,
    "bn": BatchNorm,
    "ln": LayerNorm,
    "cln": ChannelLayerNorm,
    "in": _instance_norm,
    "gn": _group_norm,
    "rms": RMSNorm,
    "lrn": _local_response_norm,
    "sn": SwitchableNorm,
    "brn": BatchRenorm,
    "rbn": ReferenceBatchNorm,
    "vbn": VirtualBatchNorm,
    "fnbb": FullNormBB,
    "fnbl": FullNormBL,
}


def make_norm(name: str, num_channels: int, **options: Any) -> nn.Module:
    """The normalization layer called ``name`` for ``num_channels`` channels.

    Args:
        name: a key of ``NORMS``: ``none`` (identity), ``bn`` :class:`BatchNorm`, ``ln`` :class:`LayerNorm`, ``cln``
            :class:`ChannelLayerNorm`, ``in`` :class:`InstanceNorm` (affine, as all the others here), ``gn``
            :class:`GroupNorm` (by default the largest number of groups up to 32 that divides the channels and
            leaves two in a group), ``rms`` :class:`RMSNorm`, ``lrn`` :class:`LocalResponseNorm`, ``sn``
            :class:`SwitchableNorm`, ``brn`` :class:`BatchRenorm`, ``rbn`` :class:`ReferenceBatchNorm`, ``vbn``
            :class:`VirtualBatchNorm`, ``fnbb`` :class:`FullNormBB`, ``fnbl`` :class:`FullNormBL`. Or one's own layer,
            ``mine.py:MyNorm`` or ``package.module:MyNorm``: what takes the number of channels and gives a layer.
        num_channels: C of the input (N, C, *spatial).
        options: passed to the layer.

    Raises:
        ValueError: unknown name; the message lists the known ones and the closest. Or see :func:`normcore.own.load`.

    >>> make_norm("bn", 16)
    BatchNorm(16, eps=1e-05, affine=True, momentum=0.1, track_running_stats=True)
    >>> make_norm("gn", 16)
    GroupNorm(8, 16, eps=1e-05, affine=True)
    """
    return maker_of(name)(num_channels, **options)


def maker_of(name: str) -> Callable[..., nn.Module]:
    """The entry of ``NORMS``, or what :func:`normcore.own.load` finds; else the ValueError of :func:`make_norm`."""
    if ":" in name:
        return own.load(name)
    if name not in NORMS:
        close = difflib.get_close_matches(name, NORMS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown norm {name!r}: known are {', '.join(NORMS)}{hint}")
    return NORMS[name]
