"""What one outlier does to the rest of its batch: to the other images' scores, to their gradient, to the next step."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..tasks.outliers import first_outlying
from .landscape import Forward, gradient


def influence(
    forward: Forward, model: nn.Module, x: Tensor, y: Tensor, kind: str, foreign: Tensor
) -> list[dict[str, float | str]]:
    r"""What changes when the first image of a batch becomes an outlier, in training and at evaluation.

    Each number is relative, :math:`\|v' - v\| / \|v\|` with v before and v' after, as a sensitivity curve compares an
    estimate with and without one observation (Hampel, Ronchetti, Rousseeuw & Stahel 1986, section 2.1e).

    Args:
        model: left as it is.
        x, y: the batch, (N, C, H, W) and (N,).
        foreign: see :func:`outlying`.

    Returns:
        a row for the ``mode`` ``train`` and one for ``eval``: ``output``, of the other images' scores; ``gradient``,
        of the gradient of the other images' loss; ``update``, of the gradient of the whole batch's loss, which is what
        the optimizer is given.
    """
    x_after = first_outlying(x, kind, foreign)
    rows: list[dict[str, float | str]] = []
    for mode in ("train", "eval"):

        def look(of: Callable[..., Any], images: Tensor, mode: str = mode) -> Any:
            with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
                torch.manual_seed(0)
                return of(forward, copy.deepcopy(model).train(mode == "train"), images, y)

        before, after = (look(_others, images) for images in (x, x_after))
        update = [look(gradient, images)[1] for images in (x, x_after)]
        changes = [_change(v, w) for v, w in (*zip(before, after, strict=True), tuple(update))]
        rows.append({"mode": mode, **dict(zip(("output", "gradient", "update"), changes, strict=True))})
    return rows


def influence_of_a_step(
    forward: Forward,
    stepped: Callable[[Tensor, Tensor], nn.Module],
    x: Tensor,
    y: Tensor,
    others: Tensor,
    kind: str,
    foreign: Tensor,
) -> float:
    """What changes for other images when the network takes a step on a batch whose first image is an outlier.

    Args:
        stepped: the network after the optimizer's step on a batch.
        x, y: the batch, (N, C, H, W) and (N,).
        others: images whose scores are looked at, in evaluation mode, (M, C, H, W).
        foreign: see :func:`outlying`.

    Returns:
        the relative change, as in :func:`influence`, of their scores after a step on the batch with the outlier, from
        those after a step on the batch without.
    """

    def scores(images: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), torch.enable_grad():
            torch.manual_seed(0)
            network = stepped(images, y).eval()
        with torch.no_grad():
            return forward(network, others).flatten()

    return _change(scores(x), scores(first_outlying(x, kind, foreign)))


def _others(forward: Forward, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The scores of all images but the first, and the gradient of their loss."""
    scores: list[Tensor] = []

    def without_first(network: nn.Module, images: Tensor) -> Tensor:
        scores.append(forward(network, images)[1:])
        return scores[-1]

    _, found = gradient(without_first, model, x, y[1:])
    return scores[-1].detach().flatten(), found


def _change(before: Tensor, after: Tensor) -> float:
    return ((after - before).norm() / before.norm().clamp_min(1e-20)).item()
