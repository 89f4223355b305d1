"""What arguments must be: one sentence each, before anything is made of them."""

import math
import numbers
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["flag", "floating_dtype", "number", "positive_integer", "process_group"]


def positive_integer(name: str, value: Any) -> None:
    """Raises TypeError for what is no integer, ValueError for one below 1."""
    if isinstance(value, bool) or not isinstance(value, (numbers.Integral, torch.SymInt)):
        raise TypeError(f"{name} must be a positive integer, got {value!r} ({type(value).__name__})")
    if value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value}")


def number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    finite: bool = True,
    optional: bool = False,
) -> None:
    """Raises TypeError for what is no real number, ValueError for NaN or one outside of low to high."""
    if optional and value is None:
        return
    expected = ("None or " if optional else "") + ("a finite number" if finite else "a number")
    if low > -math.inf:
        expected += f", at least {low:g}" if high == math.inf else f" between {low:g} and {high:g}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {expected}, got {value!r} ({type(value).__name__})")
    if not low <= float(value) <= high or (finite and math.isinf(value)):
        raise ValueError(f"{name} must be {expected}, got {value}")


def flag(name: str, value: Any) -> None:
    """Raises TypeError for what is neither True nor False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r} ({type(value).__name__})")


def floating_dtype(dtype: Any) -> None:
    """Raises TypeError for what is no dtype, ValueError for one of integers, truth values or complex numbers."""
    if dtype is None:
        return
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a torch.dtype, got {dtype!r} ({type(dtype).__name__})")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type, got {dtype}")


def process_group(group: Any) -> None:
    """Raises TypeError for what is no group of processes."""
    if group is not None and not (dist.is_available() and isinstance(group, dist.ProcessGroup)):
        raise TypeError(
            "process_group must be a torch.distributed.ProcessGroup (torch.distributed.group.WORLD: all processes, "
            f"once they are initialized), got {group!r} ({type(group).__name__})"
        )
