"""EvoNorm-S0 (Liu, Brock, Simonyan & Le 2020, table 2)."""

import torch
from torch import Tensor, nn


class EvoNormS0(nn.Module):
    r"""A normalizer and an activation in one, found by a search: the
    swish of x over the deviation of its group.

    .. math:: y = \gamma_c \frac{x\,\sigma(v_c x)}
        {\sqrt{\sigma^2_{ng} + \epsilon}} + \beta_c

    It stands in place of a normalizer and its activation.

    Args:
        channels: C of the input (N, C, *spatial).
        groups: of channels; by default as many, up to the paper's 32,
            as leave two channels each.
    """

    activates = True  # no activation is put behind it

    def __init__(
        self, channels: int, groups: int = 0, eps: float = 1e-5
    ) -> None:
        super().__init__()
        fitting = (g for g in range(32, 1, -1) if channels % g == 0)
        two = (g for g in fitting if channels >= 2 * g)
        self.groups, self.eps = groups or next(two, 1), eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.v = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x."""
        channel = (-1, *[1] * (x.dim() - 2))
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        parts = wide.unflatten(1, (self.groups, -1))
        axes = tuple(range(2, parts.dim()))
        centered = parts - parts.mean(axes, keepdim=True)
        variance = centered.square().mean(axes, keepdim=True)
        scale = (variance + self.eps).rsqrt().expand_as(parts)
        swish = wide * torch.sigmoid(self.v.view(channel) * wide)
        y = swish * scale.flatten(1, 2) * self.weight.view(channel)
        return (y + self.bias.view(channel)).to(x.dtype)
