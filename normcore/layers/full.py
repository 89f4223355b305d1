"""Statistics over everything: the two Full Normalizations of the cats-and-dogs report (S0)."""

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from ..functional import fused_norm
from .base import RunningNorm
from .position import channel_layer_norm

__all__ = ["FullNormBB", "FullNormBL"]


class FullNormBB(RunningNorm):
    r"""Full Normalization based on BN (S0, section 3.3): one mean and variance of the whole batch.

    .. math:: y = \gamma \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

    over N, C and all positions, with a single :math:`\gamma` and :math:`\beta`; at evaluation the running
    averages. The report reshapes to (N C, H, W, 1) and applies Batch Normalization.

    Shape: (N, C, *spatial) and the same out; parameters and running statistics have shape (1,).

    Args:
        num_features, eps, momentum, affine, track_running_stats, process_group, device, dtype: see
            :class:`RunningNorm`.

    Raises:
        ValueError: as :class:`BatchNorm`; a batch of a single value in training.

    >>> import torch
    >>> x = torch.randn(4, 3, 5, 5)
    >>> y = torch.nn.BatchNorm2d(1)(x.reshape(4 * 3, 1, 5, 5)).view_as(x)
    >>> torch.allclose(FullNormBB(3)(x), y, atol=1e-5)
    True
    """

    _batch_axes = (0, 1)

    def _table_size(self) -> int:
        return 1

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalize x; positions where the mask (N, *spatial) is False count for nothing and come out 0."""
        mask = self._check_input(x, mask)
        if self._evaluates:
            return self._evaluate(x, mask)
        empty = self._pass_empty(x)
        if empty is not None:
            return empty
        self._refuse_single_value(x)
        if mask is None and x.is_contiguous() and self._suits_batch_norm(x):
            return self._batch_norm(x.view(-1, 1, *x.shape[2:])).view_as(x)
        y, mean, var, *total = fused_norm(
            x,
            self._mix_batch,
            *(self.weight, self.bias, self._counts(x, mask)),
            mask=mask,
            mix_backward=self._mix_batch_backward,
        )
        self._update(mean, var, total[0] if total else x.numel())
        return y


class FullNormBL(RunningNorm):
    r"""Full Normalization based on LN (S0, section 3.3), as its code computes it or as its text says.

    ``semantics="code"``: the published code reshapes to (1, N H, W, C) and calls Keras' LayerNormalization,
    which normalizes the last axis: :class:`ChannelLayerNorm`, exactly (S0-16). ``semantics="text"``: what the
    report means, one mean and variance over N, C and all positions of the current batch, at evaluation too:

    .. math:: y = \gamma_c \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta_c

    Shape: (N, C, *spatial) and the same out.

    Args:
        num_features, eps, affine, device, dtype: see :class:`Norm`.
        semantics: ``"code"`` or ``"text"``.
        process_group: see :class:`RunningNorm`; only ``"text"`` has statistics to share.

    Raises:
        ValueError: other semantics; wrong rank, channel count or dtype; with ``"text"`` a batch of one value.

    >>> import torch
    >>> from normcore import ChannelLayerNorm
    >>> x = torch.randn(4, 3, 5, 5)
    >>> torch.equal(FullNormBL(3)(x), ChannelLayerNorm(3)(x))
    True
    >>> y = FullNormBL(3, semantics="text")(x)
    >>> torch.allclose(y, (x - x.mean()) / x.std(correction=0), atol=1e-4)
    True
    """

    _batch_axes = (0, 1)

    def __init__(
        self,
        num_features: int,
        semantics: Literal["code", "text"] = "code",
        eps: float = 1e-5,
        affine: bool = True,
        *,
        process_group: dist.ProcessGroup | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if semantics not in ("code", "text"):
            raise ValueError(f"semantics must be 'code' or 'text', got {semantics!r}")
        options: dict[str, Any] = {"process_group": process_group, "bias": bias, "device": device, "dtype": dtype}
        super().__init__(num_features, eps, None, affine, track_running_stats=False, **options)
        self.semantics = semantics

    def extra_repr(self) -> str:
        return f"{self.num_features}, semantics={self.semantics!r}, eps={self.eps}, affine={self.affine}"

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalize x; positions where the mask (N, *spatial) is False count for nothing and come out 0."""
        mask = self._check_input(x, mask)
        if self.semantics == "code":
            return channel_layer_norm(x, self.weight, self.bias, self.eps, mask)
        empty = self._pass_empty(x)
        if empty is not None:
            return empty
        if x.numel() == 1 and self.process_group is None:
            raise ValueError(f"Expected more than 1 value in the batch, got input size {x.size()}")
        return fused_norm(
            x,
            self._mix_batch,
            *(self.weight, self.bias, self._counts(x, mask)),
            mask=mask,
            mix_backward=self._mix_batch_backward,
        )[0]
