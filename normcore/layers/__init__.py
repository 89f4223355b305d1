"""The normalization layers: what each keeps as state, and its ``mix`` for the engine."""

from .base import Norm, RunningNorm
from .batch import BatchNorm, BatchRenorm, ClipSchedule
from .full import FullNormBB, FullNormBL
from .position import ChannelLayerNorm, LocalResponseNorm
from .reference import ReferenceBatchNorm, VirtualBatchNorm, reference_pass
from .sample import GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from .switchable import SwitchableNorm

__all__ = [
    "BatchNorm",
    "BatchRenorm",
    "ChannelLayerNorm",
    "ClipSchedule",
    "FullNormBB",
    "FullNormBL",
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
    "reference_pass",
]
