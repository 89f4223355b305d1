"""Normalization layers for PyTorch on one fused engine: moments, mix, apply."""

from .factory import NORMS, make_norm
from .functional import fused_norm, moments, pool
from .layers import BatchNorm, Norm

__all__ = ["NORMS", "BatchNorm", "Norm", "fused_norm", "make_norm", "moments", "pool"]
__version__ = "0.1.0"
