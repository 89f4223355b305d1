"""The two normalizers that document S0 took from the package keras-contrib (its reference 5), as that package computes
them on channels-last data. Neither is what its name says, and S0's numbers are of these.

They are layers of the laboratory: a run asks for them by name, the core does not know them.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...functional import fused_norm, pool
from ...layers.base import Norm


class ContribInstanceNorm(Norm):
    r"""``InstanceNormalization`` of keras-contrib with its default ``axis=None``: layer normalization with one scalar
    pair, and eps added to the deviation.

    .. math:: y = \gamma \frac{x - \mu_n}{\sigma_n + \epsilon} + \beta

    with the mean and the biased deviation of sample n over all channels and positions.

    Shape: (N, C, *spatial) and the same out; weight and bias have shape (1,).
    """

    def __init__(self, num_features: int, eps: float = 1e-3) -> None:
        super().__init__(num_features, eps)

    def _table_size(self) -> int:
        return 1

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x."""
        self._check_input(x)
        return fused_norm(x, self._mix, self.weight, self.bias)[0]

    def _mix(self, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        mean, var = pool(mean, var, 1)
        scale = weight / (var.clamp_min(torch.finfo(var.dtype).tiny).sqrt() + self.eps)  # the root has a slope at 0
        return mean, scale, bias.to(scale.dtype)


class ContribGroupNorm(Norm):
    r"""``GroupNormalization`` of keras-contrib on channels-last data: bands of rows in place of groups of channels.

    It reshapes (N, H, W, C) to (N, G, H, W, C / G) without moving the channels to the front first, so that the g-th
    "group" is the g-th of G bands of H / G rows, all channels of it:

    .. math:: y = \gamma_{gj} \frac{x - \mu_{ng}}{\sqrt{\sigma_{ng}^2 + \epsilon}} + \beta_{gj}

    with g the band of the row and j the channel modulo C / G.

    Shape: (N, C, H, W) with G dividing C and H, and the same out; weight and bias have shape (C,), entry
    g C / G + j.

    Raises:
        ValueError: G does not divide C, or H.
    """

    def __init__(self, num_features: int, num_groups: int = 8, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps)
        if num_groups < 1 or num_features % num_groups:
            raise ValueError(f"num_groups must divide num_features={num_features}, got num_groups={num_groups}")
        self.num_groups = num_groups

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x."""
        self._check_input(x)
        if x.dim() != 4 or x.shape[2] % self.num_groups:
            raise ValueError(f"takes (N, C, H, W) with H a multiple of {self.num_groups}, got shape {tuple(x.shape)}")
        rows = x.movedim(1, -1)
        n, c = x.shape[:2]
        bands = rows.reshape(n * self.num_groups, -1)
        y = F.layer_norm(bands, bands.shape[1:], eps=self.eps).view(n, self.num_groups, -1, c)
        weight, bias = (self._of_bands(t) for t in (self.weight, self.bias))
        return torch.addcmul(bias, y, weight).view(rows.shape).movedim(-1, 1)

    def _of_bands(self, table: Tensor | None) -> Tensor:
        """The entry of each band and channel, (G, 1, C)."""
        assert table is not None
        return table.view(self.num_groups, -1).repeat(1, self.num_groups).unsqueeze(1)


#: name of a run's normalizer -> makes the layer for a number of channels
NORMS: dict[str, Callable[..., nn.Module]] = {"contrib-in": ContribInstanceNorm, "contrib-gn": ContribGroupNorm}
