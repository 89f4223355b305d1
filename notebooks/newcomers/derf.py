"""Derf (Chen, Lu, Zhu, Sun & Liu 2025, equation 10)."""

import torch
from torch import Tensor, nn


class Derf(nn.Module):
    r"""An error function in place of a normalizer: no statistics.

    .. math:: y = \gamma_c \operatorname{erf}(\alpha x + s) + \beta_c

    Args:
        channels: C of the input (N, C, *spatial).
        alpha: what the one learned :math:`\alpha` begins with, 0.5 as
            in the paper; the one learned s begins with 0.
    """

    def __init__(self, channels: int, alpha: float = 0.5) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(alpha))
        self.shift = nn.Parameter(torch.tensor(0.0))
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Squash x."""
        channel = (-1, *[1] * (x.dim() - 2))
        y = torch.erf(self.alpha * x + self.shift)
        return self.weight.view(channel) * y + self.bias.view(channel)
