"""The loss around a network's weights, along random directions that are as long as the weights are (Li, Xu, Taylor,
Studer & Goldstein 2018)."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .landscape import Forward

Row = dict[str, Any]
RADII = (0.25, 0.5, 1.0)  # of the steps, in lengths of the weights
DIRECTIONS = 6  # that the rise of the loss is a mean over, each both ways
GRID = 9  # points on a side of the picture, from -1 to 1


def direction(model: nn.Module) -> list[Tensor]:
    """A random direction, normalized filter by filter (their section 4): each filter of it is as long as the filter of
    the weights. What is no filter, biases and the scales and shifts of normalizers, stays as it is."""
    found = []
    for weight in model.parameters():
        if weight.dim() < 2:
            found.append(torch.zeros_like(weight))
            continue
        drawn, own = torch.randn_like(weight).flatten(1), weight.detach().flatten(1)
        lengths = own.norm(dim=1, keepdim=True) / drawn.norm(dim=1, keepdim=True).clamp_min(1e-12)
        found.append((drawn * lengths).view_as(weight))
    return found


class Around:
    """The mean loss (nats) of a network over all these batches, in evaluation mode, as a function of a step of its
    weights."""

    def __init__(self, forward: Forward, model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.forward, self.model = forward, copy.deepcopy(model).eval()
        self.x, self.y = (torch.cat(parts) for parts in zip(*batches, strict=True))
        self.weights = [weight.detach().clone() for weight in self.model.parameters()]

    @torch.no_grad()
    def __call__(self, *steps: tuple[float, Sequence[Tensor]]) -> float:
        """The loss at the weights plus each of the directions times its length."""
        for i, weight in enumerate(self.model.parameters()):
            weight.copy_(self.weights[i] + sum(length * along[i] for length, along in steps))
        return F.cross_entropy(self.forward(self.model, self.x), self.y).item()


def surface(forward: Forward, model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> list[Row]:
    """Rows of a ``radius``: by how much the loss rises at that distance, the mean over random directions; and of a
    plane through two more of them: the ``loss`` at ``x`` and ``y``."""
    loss = Around(forward, model, batches)
    here, ways = loss(), [direction(model) for _ in range(DIRECTIONS)]
    rows: list[Row] = []
    for radius in RADII:
        there = [loss((sign * radius, way)) for way in ways for sign in (-1, 1)]
        rows.append({"radius": radius, "rise": sum(there) / len(there) - here, "x": None, "y": None, "loss": None})
    across, up = direction(model), direction(model)
    at = torch.linspace(-1, 1, GRID).tolist()
    rows += [{"radius": None, "rise": None, "x": x, "y": y, "loss": loss((x, across), (y, up))} for y in at for x in at]
    return rows
