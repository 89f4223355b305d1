"""Normalization layers for PyTorch on one fused engine: moments, mix, apply."""

from .factory import NORMS, make_norm
from .functional import affine, fused_norm, moments, pool, set_engine
from .fusion import FusedNorm, fuse_norms
from .layers import (
    BatchNorm,
    BatchRenorm,
    ChannelLayerNorm,
    ClipSchedule,
    FullNormBB,
    FullNormBL,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    LocalResponseNorm,
    Norm,
    ReferenceBatchNorm,
    RMSNorm,
    RunningNorm,
    SwitchableNorm,
    VirtualBatchNorm,
    reference_pass,
)
from .recalibration import recalibrate
from .surgery import convert_norms, freeze_norms

__all__ = [
    "NORMS",
    "BatchNorm",
    "BatchRenorm",
    "ChannelLayerNorm",
    "ClipSchedule",
    "FullNormBB",
    "FullNormBL",
    "FusedNorm",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "LocalResponseNorm",
    "Norm",
    "RMSNorm",
    "ReferenceBatchNorm",
    "RunningNorm",
    "SwitchableNorm",
    "VirtualBatchNorm",
    "affine",
    "convert_norms",
    "freeze_norms",
    "fuse_norms",
    "fused_norm",
    "make_norm",
    "moments",
    "pool",
    "recalibrate",
    "reference_pass",
    "set_engine",
]
__version__ = "0.1.0"
