"""One name for every normalizer."""

import difflib
from collections.abc import Callable
from typing import Any

from torch import nn

from .layers import BatchNorm

__all__ = ["NORMS", "make_norm"]


def _identity(num_channels: int, **options: Any) -> nn.Module:
    if options:
        raise TypeError(f"the norm 'none' takes no options, got {sorted(options)}")
    return nn.Identity()


#: name -> a callable that makes the layer from the channel count and the layer's own options
NORMS: dict[str, Callable[..., nn.Module]] = {"none": _identity, "bn": BatchNorm}


def make_norm(name: str, num_channels: int, **options: Any) -> nn.Module:
    """The normalization layer called ``name`` for ``num_channels`` channels.

    Args:
        name: a key of ``NORMS``: ``"none"`` (identity), ``"bn"`` (:class:`~normcore.BatchNorm`).
        num_channels: C of the input (N, C, *spatial).
        options: passed to the layer.

    Raises:
        ValueError: unknown name; the message lists the known ones and the closest.

    >>> make_norm("bn", 16)
    BatchNorm(16, eps=1e-05, affine=True, momentum=0.1, track_running_stats=True)
    """
    if name not in NORMS:
        close = difflib.get_close_matches(name, NORMS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown norm {name!r}: known are {', '.join(NORMS)}{hint}")
    return NORMS[name](num_channels, **options)
