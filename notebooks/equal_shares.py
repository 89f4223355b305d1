"""The control of what switchable normalization learns."""

from typing import Any

from normcore import SwitchableNorm


class EqualShares(SwitchableNorm):
    """Switchable normalization whose shares stay as they start, a third
    of each kind of statistics.

    Args:
        channels: C of the input (N, C, *spatial).
        options: of :class:`normcore.SwitchableNorm`.
    """

    def __init__(self, channels: int, **options: Any) -> None:
        super().__init__(channels, **options)
        self.mean_weight.requires_grad_(False)
        self.var_weight.requires_grad_(False)
