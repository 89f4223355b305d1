"""Filter Response Normalization (Singh & Krishnan 2020, section 3)."""

import torch
from torch import Tensor, nn


class FRN(nn.Module):
    r"""Each channel of each sample over its root mean square, then TLU,
    the maximum with a learned threshold.

    .. math::
        y = \max\left(\gamma_c \frac{x}{\sqrt{\nu^2_{nc} + \epsilon}}
        + \beta_c, \tau_c\right), \quad \nu^2_{nc} = E_{hw}[x^2]

    It stands in place of a normalizer and its activation.

    Args:
        channels: C of the input (N, C, *spatial).
        eps: added to the mean square. The paper learns it where maps
            have one position; inputs without positions are refused.
    """

    activates = True  # no activation is put behind it

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.threshold = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x."""
        if x.dim() < 3:
            raise ValueError(
                f"FRN needs spatial axes, got {tuple(x.shape)}"
            )
        channel = (-1, *[1] * (x.dim() - 2))
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        square = wide.square().mean(tuple(range(2, x.dim())), keepdim=True)
        y = wide * (square + self.eps).rsqrt() * self.weight.view(channel)
        y = y + self.bias.view(channel)
        return torch.maximum(y, self.threshold.view(channel)).to(x.dtype)
