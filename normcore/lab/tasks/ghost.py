"""Statistics of a part of the batch ("ghost batches", Hoffer, Hubara & Soudry 2017): what a small batch does to a
normalizer, with the optimizer's batch left as it is.

They are layers of the laboratory: a run asks for them by name, the core does not know them.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ...functional import pool
from ...layers import BatchNorm, SwitchableNorm
from ...layers.base import RunningNorm


class _Ghost(RunningNorm):
    """Takes the statistics of the batch over each ``group`` of neighbouring samples; the running averages get the mean
    of the groups' statistics, one step a batch.

    Args:
        num_features: C of the input (N, C, *spatial).
        group: samples that share their statistics; it divides N in training.
        options: of the layer.

    Raises:
        ValueError: a group of no sample; when called, a batch that it does not divide.
    """

    def __init__(self, num_features: int, group: int, **options: Any) -> None:
        if isinstance(group, bool) or not isinstance(group, int) or group < 1:
            raise ValueError(f"group must be a number of samples, at least 1, got {group!r}")
        super().__init__(num_features, **options)
        self.group = group

    def _pool_batch(self, mean: Tensor, var: Tensor, count: Tensor | None) -> tuple[Tensor, Tensor, None]:
        samples, channels = mean.shape
        if samples % self.group:
            raise ValueError(f"groups of {self.group} do not divide a batch of {samples}")
        groups = (-1, self.group, channels)
        mean, var = (t.expand(groups).flatten(0, 1) for t in pool(mean.view(groups), var.view(groups), 1))
        return mean, var, None

    def _update(self, mean: Tensor, var: Tensor, count: int | Tensor) -> None:
        per_group = count * self.group // len(mean)
        super()._update(mean.mean(0), var.mean(0), per_group)


class GhostBatchNorm(_Ghost, BatchNorm):
    """:class:`normcore.BatchNorm` in groups of samples, see :class:`_Ghost`.

    .. math:: y = \\gamma_c \\frac{x - \\mu_{gc}}{\\sqrt{\\sigma_{gc}^2 + \\epsilon}} + \\beta_c

    with the mean and the biased variance of channel c over the samples of group g and all positions.
    """

    _mix_batch_backward = None  # type: ignore[assignment]  # by autograd: BN's own is of one batch

    def _suits_batch_norm(self, x: Tensor) -> bool:
        return False


class GhostSwitchableNorm(_Ghost, SwitchableNorm):
    """:class:`normcore.SwitchableNorm` whose share of BN's statistics is of groups of samples, see :class:`_Ghost`."""

    _mix_backward = None  # type: ignore[assignment]  # by autograd, as above


#: name of a run's normalizer -> makes the layer for a number of channels
NORMS: dict[str, Callable[..., nn.Module]] = {"ghost-bn": GhostBatchNorm, "ghost-sn": GhostSwitchableNorm}
