"""Batch-Instance Normalization (Nam & Kim 2018, equation 4)."""

import torch
from torch import Tensor, nn

from normcore import BatchNorm, InstanceNorm


class BatchInstanceNorm(nn.Module):
    r"""A mixture of the batch-normalized and the instance-normalized
    input, with a learned gate for each channel.

    .. math:: y = \gamma_c \left(\rho_c\,\hat x^{BN}
        + (1 - \rho_c)\,\hat x^{IN}\right) + \beta_c

    The paper clips :math:`\rho` to [0, 1] after each step; here it is
    clipped where it is used.

    Args:
        channels: C of the input (N, C, *spatial).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.batch = BatchNorm(channels, affine=False)
        self.instance = InstanceNorm(channels, affine=False)
        self.gate = nn.Parameter(torch.ones(channels))
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x."""
        channel = (-1, *[1] * (x.dim() - 2))
        gate = self.gate.clamp(0, 1).view(channel)
        y = gate * self.batch(x) + (1 - gate) * self.instance(x)
        return y * self.weight.view(channel) + self.bias.view(channel)
