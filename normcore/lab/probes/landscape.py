"""Two explanations of why normalization helps, as measurements on a network: how much its layers are shifted by the
updates of those before them, and how smooth the surface of its loss is (Santurkar, Tsipras, Ilyas & Madry 2018)."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import distributions

#: the network's scores for a batch
Forward = Callable[[nn.Module, Tensor], Tensor]
LENGTHS = (0.5, 1.0, 2.0, 4.0)  # of the steps along the gradient, in learning rates (their appendix A)


def gradient(
    forward: Forward, model: nn.Module, x: Tensor, y: Tensor, parameters: Sequence[Tensor] | None = None
) -> tuple[float, Tensor]:
    """The loss of a batch, and its gradient by these parameters (all by default) as one vector."""
    wanted = list(model.parameters()) if parameters is None else list(parameters)
    loss = F.cross_entropy(forward(model, x), y)
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    vector = torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in zip(found, wanted, strict=True)]
    )
    return loss.item(), vector


def layers(model: nn.Module) -> list[tuple[nn.Module, list[Tensor]]]:
    """The convolutions and linear layers in their order, each with its parameters and those of what follows it up to
    the next: its normalizer's."""
    found: list[tuple[nn.Module, list[Tensor]]] = []
    for module in model.modules():
        own: list[Tensor] = list(module.parameters(recurse=False))
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            found.append((module, own))
        elif own and found:
            found[-1][1].extend(own)
    return found


def first_to_last(forward: Forward, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """The length of the gradient by the weights of the first layer over that by the weights of the last, on one batch:
    far below one where gradients vanish on their way back. Also the two lengths themselves."""
    weights = [own[0] for _, own in layers(model)]
    first, last = (gradient(forward, model, x, y, [w])[1].norm().item() for w in (weights[0], weights[-1]))
    return {"ratio": first / max(last, 1e-30), "first": first, "last": last}


def covariate_shift(
    forward: Forward, before: nn.Module, after: nn.Module, x: Tensor, y: Tensor
) -> list[dict[str, float]]:
    r"""Internal covariate shift of each layer but the first (their definition 2.1).

    With the weights W of the network before a step of training and W' after it, the gradient by the weights of layer i
    is taken twice on the same batch,

    .. math:: G_i = \nabla_{W_i} L(W_1, \dots, W_k), \qquad
              G'_i = \nabla_{W_i} L(W'_1, \dots, W'_{i-1}, W_i, \dots, W_k):

    what differs is that the layers before it have moved. What a network draws at random is drawn anew each time, as
    from step to step.

    Args:
        before, after: the network before the step and after it; both are left as they are.

    Returns:
        a row a layer: ``layer`` (from 2); ``gradient``, the length of G' - G over that of G; ``distance``, the length
        of G' - G itself; ``cosine``, of the angle between the two; ``input``, the Wasserstein-1 distance between the
        layer's inputs before and after, over their standard deviation before.
    """
    mixed, rows = copy.deepcopy(before), []
    first = [_seen(forward, before, x, y, i) for i in range(1, len(layers(before)))]
    for i, (old, inputs) in enumerate(first, start=1):
        with torch.no_grad():
            for own, moved in zip(layers(mixed)[i - 1][1], layers(after)[i - 1][1], strict=True):
                own.copy_(moved)
        new, moved_inputs = _seen(forward, mixed, x, y, i)
        length = old.norm().clamp_min(1e-20)
        shift = distributions.distance(distributions.quantiles(inputs), distributions.quantiles(moved_inputs))
        rows.append({
            "layer": i + 1, "gradient": ((new - old).norm() / length).item(), "distance": (new - old).norm().item(),
            "cosine": (new @ old / (length * new.norm().clamp_min(1e-20))).item(),
            "input": shift / max(inputs.float().std(correction=0).item(), 1e-12),
        })  # fmt: skip
    return rows


def _seen(forward: Forward, model: nn.Module, x: Tensor, y: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """The gradient by the weights of a layer, and the layer's input."""
    model = copy.deepcopy(model)
    module, parameters = layers(model)[layer]
    inputs: list[Tensor] = []
    module.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0].detach()))
    _, found = gradient(forward, model, x, y, parameters)
    return found, inputs[-1]


def smoothness(
    forward: Forward, model: nn.Module, x: Tensor, y: Tensor, lr: float, lengths: Sequence[float] = LENGTHS
) -> dict[str, float]:
    r"""How the loss and its gradient change along the gradient (their section 3.1): with g the gradient at the weights
    w and steps of :math:`\eta` = ``lr`` times each of ``lengths``,

    Args:
        model: left as it is.
        lr: the learning rate that the network is trained with.

    Returns:
        ``loss``, at w; ``loss_range``, the largest minus the smallest loss at :math:`w - \eta g`; ``gradient_norm``,
        the length of g; ``gradient_change``, the largest :math:`\|g(w - \eta g) - g\|`; ``beta``, the effective
        smoothness, the largest :math:`\|g(w - \eta g) - g\| / (\eta \|g\|)`.
    """
    model = copy.deepcopy(model)

    def surface() -> tuple[float, Tensor]:
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            torch.manual_seed(0)  # one surface: whatever the network draws at random it draws again
            return gradient(forward, copy.deepcopy(model), x, y)  # nor do its statistics move

    loss, start = surface()
    length, own = start.norm().item(), list(model.parameters())
    slopes = [part.view(p.shape) for part, p in zip(start.split([p.numel() for p in own]), own, strict=True)]
    weights = [p.detach().clone() for p in own]
    losses, changes, betas = [], [], []
    for eta in (lr * step for step in lengths):
        with torch.no_grad():
            for parameter, weight, slope in zip(own, weights, slopes, strict=True):
                parameter.copy_(weight - eta * slope)
        there, found = surface()
        losses.append(there)
        changes.append((found - start).norm().item())
        betas.append(changes[-1] / max(eta * length, 1e-20))
    return {
        "loss": loss, "loss_range": float(np.ptp(losses)), "gradient_norm": length,
        "gradient_change": float(np.max(changes)), "beta": float(np.max(betas)),
    }  # fmt: skip
