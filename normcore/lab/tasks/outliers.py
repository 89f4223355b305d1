"""Outlying images: what they are, training with a share of them, and what one of them does to its batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

#: an image with ten times the contrast, one under noise of five times its deviation, one of another data set
KINDS = ("scaled", "noise", "foreign")
SCALE, NOISE = 10.0, 5.0


def outlying(x: Tensor, kind: str, foreign: Tensor) -> Tensor:
    """The images as outliers of a kind.

    Args:
        x: standardized images, (N, C, H, W).
        foreign: images of another set for kind ``foreign``, of the same shape.
    """
    if kind == "scaled":
        return SCALE * x
    return x + NOISE * torch.randn_like(x) if kind == "noise" else foreign


def first_outlying(x: Tensor, kind: str, foreign: Tensor) -> Tensor:
    """The batch with its first image an outlier; see :func:`outlying`."""
    return torch.cat([outlying(x[:1], kind, foreign[:1]), x[1:]])


@dataclass(frozen=True)
class Outliers:
    """A share of a data set that is outlying, always the same images; their labels stay.

    Attributes:
        kind: one of ``KINDS``.
        chosen: (items,), whether the image is outlying.
        foreign: images of another set, which take the places in turn; for the other kinds, unused.
    """

    kind: str
    chosen: Tensor
    foreign: Tensor

    @classmethod
    def draw(cls, items: int, share: float, kind: str, foreign: Tensor) -> "Outliers":
        """Which of the images are outlying, drawn once for all seeds and kinds; a larger share contains a smaller."""
        drawn = torch.rand(items, generator=torch.Generator().manual_seed(0)) < share
        return cls(kind, drawn.to(foreign.device), foreign)

    def __call__(self, x: Tensor, index: Tensor) -> Tensor:
        """The batch of the images with these indices, the outlying ones made so."""
        foreign = self.foreign[index % len(self.foreign)] if self.kind == "foreign" else x
        return torch.where(self.chosen[index].view(-1, 1, 1, 1), outlying(x, self.kind, foreign), x)
