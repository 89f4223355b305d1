"""What the definitions among the statements say, measured on the layers themselves.

Each function runs layers on small inputs in float64 and returns numbers by name, among them the difference from the
formula, written out here with plain tensors. Nothing is trained, and equal versions give equal numbers. An entry of
``book/claims.yml`` names the function (``definition``) and the predicates that judge its numbers.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial, wraps
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import (
    BatchNorm,
    BatchRenorm,
    FullNormBB,
    FullNormBL,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    LocalResponseNorm,
    ReferenceBatchNorm,
)
from ..runs.training import deterministic

Measured = dict[str, float]
Definition = Callable[[], Measured]
Layer = TypeVar("Layer", bound=nn.Module)
Function = Callable[[Tensor], Tensor]
Axes = tuple[int, ...]

SHAPE = N, C, H, W = 4, 6, 5, 3  # no two alike, so that no axis can pass for another
M = N * H * W  # values in a channel
GROUPS = 3
EPS = 1e-5
KERAS_EPS = 1e-3
ALL, BATCH, SAMPLE, PLANE = (0, 1, 2, 3), (0, 2, 3), (1, 2, 3), (2, 3)  # axes

DEFINITIONS: dict[str, Definition] = {}


def definition(function: Definition) -> Definition:
    """Make it known by its name to the entries of ``book/claims.yml``."""

    @wraps(function)
    def measure() -> Measured:
        with deterministic(torch.device("cpu")):
            return function()

    DEFINITIONS[function.__name__] = measure
    return measure


# --- tools -----------------------------------------------------------------------------------------------


def random_values(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal values in float64."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def random_input(seed: int = 0) -> Tensor:
    """(N, C, H, W) with an offset and a scale of its own in every sample and channel."""
    offset, scale = random_values(N, C, 1, 1, seed=seed + 1000), random_values(N, C, 1, 1, seed=seed + 2000)
    return offset + (0.5 * scale).exp() * random_values(*SHAPE, seed=seed)


def ready(layer: Layer) -> Layer:
    """The layer in float64, with a weight and a bias that are not one and zero."""
    with torch.no_grad():
        for i, parameter in enumerate(layer.double().parameters()):
            parameter.add_(0.3 * random_values(*parameter.shape, seed=i))
    return layer


def moments(x: Tensor, axes: Axes = BATCH) -> tuple[Tensor, Tensor]:
    """Mean and biased variance."""
    return x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)


def normalized(x: Tensor, mean: Tensor, var: Tensor, eps: float = EPS) -> Tensor:
    return (x - mean) / torch.sqrt(var + eps)


def standardized(x: Tensor, axes: Axes, eps: float = EPS) -> Tensor:
    """Mean 0 and variance 1 over these axes, but for eps."""
    return normalized(x, *moments(x, axes), eps)


def grouped(x: Tensor) -> Tensor:
    """Mean 0 and variance 1, but for eps, over each group of channels of each sample."""
    return standardized(x.reshape(N, GROUPS, -1), (2,)).view_as(x)


def scaled(layer: Any, x_hat: Tensor) -> Tensor:
    """Times the layer's weight plus its bias, for each channel."""
    return column(layer.weight) * x_hat + column(layer.bias)


def column(table: Tensor) -> Tensor:
    """A value for each channel, in the shape in which it meets (N, C, H, W)."""
    return table.view(1, -1, 1, 1)


def gap(a: Tensor, b: Tensor | float) -> float:
    """The largest difference of two tensors, or of one from a number."""
    return (a - b).abs().max().item()


def entering(layer: Function, x: Tensor, blocks: int) -> Tensor:
    """Of as many blocks, in order, of input and output: true at (a, b) where output a moves with input b."""
    x = x.clone().requires_grad_()
    outputs = (layer(x) * random_values(*x.shape, seed=1)).view(blocks, -1).sum(1)  # at random, so that no sum vanishes
    slopes = [torch.autograd.grad(y, x, retain_graph=True)[0].view(blocks, -1) for y in outputs]
    largest = torch.stack(slopes).abs().amax(2)
    return largest > 1e-9 * largest.max()


def sets(layer: Function) -> int:
    """How many sets of statistics a layer takes of (N, C, H, W): how many sets of channels enter an output."""
    return len(entering(layer, random_input(), N * C).unique(dim=0))


def others_moving(layer: Function) -> float:
    """The share of ordered pairs of samples where the output for the one moves with the other."""
    return share(entering(layer, random_input(), N)[~torch.eye(N, dtype=torch.bool)])


def share(found: Tensor) -> float:
    return found.double().mean().item()


def pairs(layer: nn.Module) -> float:
    """How many pairs of gamma and beta a layer learns."""
    return sum(p.numel() for p in layer.parameters()) / 2


def refusals(layer: Function, shapes: Iterable[Sequence[int]]) -> int:
    """How many of these shapes are a ValueError."""
    refused = 0
    for shape in shapes:
        try:
            layer(random_values(*shape))
        except ValueError:
            refused += 1
    return refused


# --- S0: cats and dogs -----------------------------------------------------------------------------------


def published_fnbb(x: Tensor) -> Tensor:
    """S0's code, on channels-last data: reshape to (N C, H, W, 1), normalize that one channel, reshape back."""
    channels_last = x.movedim(1, -1)
    flat = channels_last.reshape(N * C, H, W, 1).movedim(-1, 1)
    y = F.batch_norm(flat, None, None, training=True, eps=KERAS_EPS)
    return y.movedim(1, -1).reshape(channels_last.shape).movedim(-1, 1)


def published_fnbl(x: Tensor) -> Tensor:
    """S0's code, on channels-last data: reshape to (1, N H, W, C), normalize the last axis as Keras does."""
    channels_last = x.movedim(1, -1)
    y = F.layer_norm(channels_last.reshape(1, N * H, W, C), (C,), eps=KERAS_EPS)
    return y.reshape(channels_last.shape).movedim(-1, 1)


@definition
def fnbb() -> Measured:
    x = random_input()
    whole = standardized(x, ALL, KERAS_EPS)
    return {
        "largest difference, published code": gap(published_fnbb(x), whole),
        "largest difference, our layer": gap(FullNormBB(C, KERAS_EPS).double()(x), whole),
    }


@definition
def fnbl() -> Measured:
    x = random_input()
    code, text = (FullNormBL(C, semantics, KERAS_EPS).double()(x) for semantics in ("code", "text"))
    return {
        "largest difference, published code": gap(published_fnbl(x), standardized(x, ALL, KERAS_EPS)),
        "largest difference from C alone": gap(published_fnbl(x), standardized(x, (1,), KERAS_EPS)),
        "largest difference, our layer and the published code": gap(code, published_fnbl(x)),
        "largest difference, our layer by the text": gap(text, standardized(x, ALL, KERAS_EPS)),
    }


@definition
def ln_and_one_group() -> Measured:
    x = random_input()
    one_group, ln = ready(GroupNorm(1, C)), ready(LayerNorm(C))
    expected = standardized(x, SAMPLE)
    return {
        "largest difference, GN with one group": gap(one_group(x), scaled(one_group, expected)),
        "largest difference, LN": gap(ln(x), scaled(ln, expected)),
        "pairs, torch.nn.LayerNorm over C, H, W": pairs(nn.LayerNorm(SHAPE[1:])),
        "pairs, GN": pairs(one_group),
    }


@definition
def gn_between_ln_and_in() -> Measured:
    x = random_input()
    one, each = (GroupNorm(groups, C).double()(x) for groups in (1, C))
    return {
        "largest difference, one group": gap(one, LayerNorm(C).double()(x)),
        "largest difference, one group, from C, H, W": gap(one, standardized(x, SAMPLE)),
        "largest difference, C groups": gap(each, InstanceNorm(C).double()(x)),
        "largest difference, C groups, from H, W": gap(each, standardized(x, PLANE)),
    }


@definition
def lrn() -> Measured:
    """With the constants of AlexNet, on positive responses: 16 channels at two positions of 500 inputs."""
    channels, reach = 16, 2
    x = random_values(500, channels, 2).abs()
    layer, middle = LocalResponseNorm(2 * reach + 1, alpha=5e-4, beta=0.75, k=2.0), channels // 2
    factor = layer(x) / x
    raised = x.index_fill(1, torch.tensor(middle), x.max().item())
    beside = [middle + d for d in range(-reach, reach + 1) if d]
    # the ratio of the larger response to the smaller one grows where it was multiplied by the larger factor
    gains = (x.unsqueeze(1) - x.unsqueeze(2)) * (factor.unsqueeze(1) - factor.unsqueeze(2)) > 0
    away = (torch.arange(channels).unsqueeze(0) - torch.arange(channels).unsqueeze(1)).abs()
    elsewhere = x.diff(dim=2) * factor.diff(dim=2) > 0

    together = LocalResponseNorm(2 * channels - 1, alpha=5e-4, beta=0.75, k=2.0)(x) / x
    return {
        "share of pairs where the larger gains, in each other's window": share(gains[:, (away > 0) & (away <= reach)]),
        "share of pairs where the larger gains, outside of it": share(gains[:, away > reach]),
        "share of pairs where the larger gains, one channel at two positions": share(elsewhere),
        "share of neighbours that a larger response lowers": share((layer(raised) < layer(x))[:, beside]),
        "share of responses that grow": share(factor > 1),
        "largest relative change of a ratio, all channels in one window": gap(together / together[:, :1], 1),
    }


# --- S1: a fixed reference batch -------------------------------------------------------------------------


@definition
def company_of_a_sample() -> Measured:
    evaluating = BatchNorm(C).double()
    evaluating(random_input(seed=1))
    alone = (LayerNorm(C).double(), InstanceNorm(C).double(), GroupNorm(GROUPS, C).double())
    return {
        "share of pairs of samples, BN": others_moving(BatchNorm(C).double()),
        "share of pairs of samples, BN at evaluation": others_moving(evaluating.eval()),
        "share of pairs of samples, LN, IN and GN": max(map(others_moving, alone)),
    }


@definition
def reference_batch_norm() -> Measured:
    layer = ready(ReferenceBatchNorm(C, momentum=None))
    reference, *batches = (random_input(seed) for seed in range(4))
    layer.set_reference(reference)
    l1 = 1 / (N + 1)
    fixed, own, mixed, gaps = moments(reference), [], [], []
    for x in batches:
        own.append(moments(x))
        mean, var = ((1 - l1) * ours + l1 * kept for ours, kept in zip(own[-1], fixed, strict=True))
        mixed.append((mean, var))
        gaps.append(gap(layer(x), scaled(layer, normalized(x, mean, var))))
    y = layer.eval()(reference)
    return {
        "largest difference in training": max(gaps),
        "largest difference at evaluation": gap(y, _folded(layer, reference, mixed)),
        "largest difference at evaluation, averages before mixing": gap(y, _folded(layer, reference, own)),
    }


def _folded(layer: Any, x: Tensor, statistics: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """S1's inference: one factor and one summand for each channel."""
    mean, var = (torch.stack(tables).mean(0) for tables in zip(*statistics, strict=True))
    factor = column(layer.weight) / torch.sqrt(N / (N - 1) * var + EPS)
    return factor * x + (column(layer.bias) - factor * mean)


@definition
def batch_renorm() -> Measured:
    before, x = random_input(seed=1), random_input()
    outputs = {}
    for name, r_max, d_max in (("open", 1e9, 1e9), ("closed", 1.0, 0.0)):
        layer = ready(BatchRenorm(C, r_max=r_max, d_max=d_max, schedule=None))
        layer(before)
        running = column(layer.running_mean).clone(), column(layer.running_var).clone()  # type: ignore[arg-type]
        outputs[name] = layer(x)
    moving, own = scaled(layer, normalized(x, *running)), scaled(layer, normalized(x, *moments(x)))
    return {
        "largest difference, open clips, from the moving averages": gap(outputs["open"], moving),
        "largest difference, closed clips, from BN": gap(outputs["closed"], own),
        "largest difference, BN from the moving averages": gap(own, moving),
        "learned values beyond those of BN": 2 * (pairs(layer) - pairs(BatchNorm(C))),
    }


# --- S2: which normalizer where --------------------------------------------------------------------------


@definition
def pairs_of_bn() -> Measured:
    return {"pairs": pairs(BatchNorm(C)), "sets of statistics": sets(BatchNorm(C).double())}


@definition
def pairs_and_statistics() -> Measured:
    layers = {"LN": LayerNorm(C), "IN": InstanceNorm(C, affine=True), "GN": GroupNorm(GROUPS, C)}
    found: Measured = {}
    for name, layer in layers.items():
        found |= {f"pairs, {name}": pairs(layer), f"sets of statistics, {name}": sets(layer.double())}
    return found


@definition
def training_and_inference() -> Measured:
    layer = BatchNorm(C, momentum=None).double()  # all batches weigh the same
    batches = [random_input(seed) for seed in range(3)]
    gaps = [gap(layer(x), standardized(x, BATCH)) for x in batches]
    means, variances = zip(*map(moments, batches), strict=True)
    x = batches[0]
    collected = normalized(x, torch.stack(means).mean(0), M / (M - 1) * torch.stack(variances).mean(0))
    inference = layer.eval()(x)
    training = layer.train()(x)
    return {
        "largest difference in training": max(gaps),
        "largest difference at inference": gap(inference, collected),
        "largest difference between the two": gap(training, inference),
    }


@definition
def single_values() -> Measured:
    steps = 7
    layer, sequence = InstanceNorm(C).double(), random_values(1, 1, steps)
    later = torch.ones(steps, steps, dtype=torch.bool).triu(1)
    return {
        "refusals": refusals(layer, [(N, C), (N, C, 1)]),
        "refusals, LN": refusals(LayerNorm(C).double(), [(N, C), (N, C, 1)]),
        "largest output by the formula": gap(standardized(random_values(N, C, 1), (2,)), 0),
        "refusals, a whole sequence": refusals(layer, [(N, C, steps)]),
        "share of later steps that move an earlier one": share(
            entering(InstanceNorm(1).double(), sequence, steps)[later]
        ),
    }


@definition
def backward_of_bn() -> Measured:
    layer, x, dy = ready(BatchNorm(C)), random_input().requires_grad_(), random_values(*SHAPE, seed=1)
    found = torch.autograd.grad((layer(x) * dy).sum(), (x, layer.weight, layer.bias))  # type: ignore[arg-type]
    with torch.no_grad():
        mean, var = moments(x)
        x_hat = normalized(x, mean, var)
        gamma, beta = (dy * x_hat).sum(BATCH), dy.sum(BATCH)
        centred = dy - (column(beta) + x_hat * column(gamma)) / M
        dx = column(layer.weight) / torch.sqrt(var + EPS) * centred  # type: ignore[arg-type]
    names = (f"largest difference, {name}" for name in ("x", "gamma", "beta"))
    return dict(zip(names, map(gap, found, (dx, gamma, beta)), strict=True))


# --- S3: GN and LN ---------------------------------------------------------------------------------------


@definition
def groups_of_channels() -> Measured:
    layer = GroupNorm(GROUPS, C, eps=0, affine=False).double()
    mean, var = moments(layer(random_input()).view(N, GROUPS, -1), (2,))
    members = entering(layer, random_input()[:1], C)
    group = torch.arange(C) * GROUPS // C
    expected = group.unsqueeze(0) == group.unsqueeze(1)
    return {
        "largest mean of a group": gap(mean, 0),
        "largest difference of a group's variance from 1": gap(var, 1),
        "pairs of channels wrongly together or apart": (members != expected).sum().item(),
    }


@definition
def gamma_and_beta_of_ln() -> Measured:
    x, ln = random_input(), ready(LayerNorm(C))
    mean, var = moments(x, SAMPLE)
    y, x_hat = ln(x), normalized(x, mean, var)
    replaced = torch.sqrt(var + EPS) * x_hat + mean
    return {
        "pairs, LN": pairs(ln),
        "pairs, BN": pairs(BatchNorm(C)),
        "largest difference, sigma and mu as gamma and beta": gap(y, replaced),
        "largest difference, sigma and mu as gamma and beta, from x": gap(replaced, x),
        "largest difference, gamma and beta after mu and sigma": gap(y, scaled(ln, x_hat)),
    }


@definition
def terms_of_gn_and_ln() -> Measured:
    x = random_input()
    bn, over_samples = BatchNorm(C).double()(x), partial(standardized, axes=SAMPLE)
    found: Measured = {}
    both: dict[str, tuple[Function, Function]] = {
        "GN": (GroupNorm(GROUPS, C).double(), grouped),
        "LN": (LayerNorm(C).double(), over_samples),
    }
    for name, (layer, formula) in both.items():
        with_layer, alone = _gradients(layer, x), _gradients(formula, x)
        found |= {
            f"largest difference of {name} and BN": gap(layer(x), bn),
            f"largest difference of gradients, {name}": max(map(gap, with_layer, alone)),
        }
    return found


def _gradients(norm: Function, x: Tensor) -> tuple[Tensor, ...]:
    """Of the weights of two layers, each followed by the normalizer: features of both are there to be compared."""
    weights = [random_values(C, C, seed=seed).requires_grad_() for seed in (1, 2)]
    for weight in weights:
        x = norm(torch.einsum("dc,nchw->ndhw", weight, x)).tanh()
    return torch.autograd.grad((x * random_values(*SHAPE, seed=3)).sum(), weights)


@definition
def hyper_parameters() -> Measured:
    x = random_input()
    with_2, with_3 = (GroupNorm(groups, C).double()(x) for groups in (2, 3))
    return {
        "arguments without a default, BN": required(BatchNorm),
        "arguments without a default, LN": required(LayerNorm),
        "arguments without a default, GN": required(GroupNorm),
        "largest difference of 2 and 3 groups": gap(with_2, with_3),
    }


def required(layer: type[nn.Module]) -> int:
    """How many arguments of a layer have no default."""
    named = [p for p in inspect.signature(layer).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    return sum(p.default is p.empty for p in named)


# --- S4: BN from scratch ---------------------------------------------------------------------------------


@definition
def bn_from_scratch() -> Measured:
    """S4's averages beside those of the layer, over the same batches."""
    layer, batches, keep = BatchNorm(C).double(), 10, 0.9
    assert layer.running_mean is not None
    assert layer.running_var is not None
    start = layer.running_var.max().item()
    mean, var = torch.zeros(1, C, 1, 1), torch.zeros(1, C, 1, 1)
    gaps, spreads = [], []
    for seed in range(batches):
        x = random_input(seed)
        own_mean, own_var = moments(x)
        gaps.append(gap(layer(x), normalized(x, own_mean, own_var)))
        mean, var = keep * mean + (1 - keep) * own_mean, keep * var + (1 - keep) * own_var
        spreads.append(normalized(x, own_mean, var).std(BATCH, correction=0).mean().item())
    added = column(layer.running_var) - keep**batches * start
    x = random_input(batches)
    return {
        "largest difference of outputs in training": max(gaps),
        "largest difference of moving means": gap(column(layer.running_mean), mean),
        "moving variance before the first batch, BN": start,
        "gain of moving variance, BN's over S4's": (added / var).mean().item(),
        "gain of moving variance, BN's over M / (M - 1) times S4's": (added / (var * M / (M - 1))).mean().item(),
        "refusals of 3 and 5 dimensions, BN": refusals(layer, [(N, C, W), (N, C, 2, H, W)]),
        "refusals of 1 and 6 dimensions, BN": refusals(layer, [(C,), (N, C, 1, 2, H, W)]),
        "standard deviation of outputs at evaluation after one batch, S4": spreads[0],
        "largest difference of outputs at evaluation after ten batches": gap(layer.eval()(x), normalized(x, mean, var)),
    }
