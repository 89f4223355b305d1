"""Dynamic Tanh (Zhu, Chen, He, LeCun & Liu 2025, algorithm 1)."""

import torch
from torch import Tensor, nn


class DyT(nn.Module):
    r"""A squashing function in place of a normalizer: no statistics.

    .. math:: y = \gamma_c \tanh(\alpha x) + \beta_c

    Args:
        channels: C of the input (N, C, *spatial).
        alpha: what the one learned :math:`\alpha` begins with; 0.5 in
            the paper, but for large language models.
    """

    def __init__(self, channels: int, alpha: float = 0.5) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(alpha))
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Squash x."""
        channel = (-1, *[1] * (x.dim() - 2))
        y = torch.tanh(self.alpha * x)
        return self.weight.view(channel) * y + self.bias.view(channel)
