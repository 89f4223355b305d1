"""Adversarial examples: how many of a network's right answers fall to changes of the pixels that are too small to
matter to a person, made on that network itself or on another."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .landscape import Forward

BUDGETS = (2, 4, 8)  # by how much any pixel may change, in parts of 255
STEPS = 10  # of projected gradient descent

#: the range of a pixel: the values of black and of white, each (C, 1, 1)
Bounds = tuple[Tensor, Tensor]


def margin(scores: Tensor, y: Tensor) -> Tensor:
    r"""By how much the best wrong class leads, :math:`\max_{k \ne y} z_k - z_y` of scores (N, K): (N,).

    It is above zero where the answer is wrong. Unlike the cross-entropy's, its gradient does not vanish where a network
    is sure of itself, by which an attack would fail that the network does not withstand (Carlini & Wagner 2017).
    """
    own = scores.gather(1, y.unsqueeze(1))
    return (scores.scatter(1, y.unsqueeze(1), -torch.inf).amax(1, keepdim=True) - own).squeeze(1)


def noise(forward: Forward, model: nn.Module, x: Tensor, y: Tensor, reach: Tensor, bounds: Bounds) -> Tensor:
    """Each pixel moved by the whole budget up or down by the toss of a coin: as large a change as an attack's, with no
    aim. (N, C, H, W), as x."""
    return _within(x + reach * torch.sign(torch.rand_like(x) - 0.5), bounds)


def fgsm(forward: Forward, model: nn.Module, x: Tensor, y: Tensor, reach: Tensor, bounds: Bounds) -> Tensor:
    """The fast gradient sign method (Goodfellow, Shlens & Szegedy 2015, section 4), on the :func:`margin`: one step of
    the whole budget. (N, C, H, W), as x."""
    return _within(x + reach * _uphill(forward, model, x, y), bounds)


def pgd(forward: Forward, model: nn.Module, x: Tensor, y: Tensor, reach: Tensor, bounds: Bounds) -> Tensor:
    """Projected gradient descent (Madry et al. 2018, section 2.1), on the :func:`margin`: from a random start within
    the budget, ``STEPS`` steps of a quarter of it, each followed by the projection into it. (N, C, H, W), as x."""
    low, high = x - reach, x + reach
    moved = _within(x + reach * (2 * torch.rand_like(x) - 1), bounds)
    for _ in range(STEPS):
        moved = moved + reach / 4 * _uphill(forward, model, moved, y)
        moved = _within(moved.maximum(low).minimum(high), bounds)
    return moved


Attack = Callable[[Forward, nn.Module, Tensor, Tensor, Tensor, Bounds], Tensor]
ATTACKS: dict[str, Attack] = {"noise": noise, "fgsm": fgsm, "pgd": pgd}


def perturbed(
    attack: str, forward: Forward, model: nn.Module, x: Tensor, y: Tensor, budget: float, bounds: Bounds
) -> Tensor:
    """Images changed by an attack on the network, which is left as it is.

    Args:
        attack: one of ``ATTACKS``.
        model: in evaluation mode.
        x, y: images (N, C, H, W) and their labels (N,).
        budget: by how much any pixel may change, in parts of 255.
        bounds: the range of a pixel.

    Returns:
        (N, C, H, W): within the budget of x, and within the range of pixels.
    """
    reach = (bounds[1] - bounds[0]) * (budget / 255)
    return ATTACKS[attack](forward, model, x, y, reach, bounds).detach()


def outcome(before: Tensor, after: Tensor, y: Tensor, counted: Tensor) -> dict[str, float]:
    """What became of a network's answers.

    Args:
        before, after: its scores for the images and for the changed ones, (N, K).
        y: labels, (N,).
        counted: which images an attack is judged on, (N,), of those that the network has right.

    Returns:
        ``accuracy``, the share of all changed images that are right; ``fooled``, of the images that are counted and
        were right the share that no longer is, NaN where there are none.
    """
    right, still = before.argmax(1) == y, after.argmax(1) == y
    judged = right & counted
    return {
        "accuracy": still.double().mean().item(),
        "fooled": (judged & ~still).sum().item() / judged.sum().item() if judged.any() else float("nan"),
    }


def _uphill(forward: Forward, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The sign of the gradient of the margin by the pixels."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(margin(forward(model, x), y).sum(), x)[0].sign()


def _within(x: Tensor, bounds: Bounds) -> Tensor:
    return x.maximum(bounds[0]).minimum(bounds[1])
