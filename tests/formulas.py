"""Every layer by its definition: explicit sums over (N, C, M) in float64, M the positions. Nothing of normcore
takes part in what is expected. At the end the same for the engine, with the mix that belongs to each formula."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import normcore
from normcore import fused_norm, pool

from .helpers import assert_near, laid_out

State = dict[str, Tensor]
Formula = Callable[..., tuple[Tensor, State]]


def moments_over(x: Tensor, *axes: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and biased variance by explicit sums over the axes, which stay; of nothing they are zero."""
    there = torch.ones_like(x) if mask is None else mask.expand(x.shape).to(x)
    count = there.sum(axes, keepdim=True).clamp(min=1)
    mean = (there * x).sum(axes, keepdim=True) / count
    return mean, (there * (x - mean) ** 2).sum(axes, keepdim=True) / count


def values_in(x: Tensor, *axes: int, mask: Tensor | None = None) -> Tensor:
    """How many values count, over the axes, which stay."""
    return (torch.ones_like(x) if mask is None else mask.expand(x.shape).to(x)).sum(axes, keepdim=True).detach()


def flat(x: Tensor) -> Tensor:
    """(N, C, *spatial) as (N, C, M)."""
    return x.flatten(2) if x.dim() > 2 else x[..., None]


def table(values: Tensor) -> Tensor:
    """(C,) or (1,) as (1, C, 1)."""
    return values.double()[None, :, None]


def scaled(x_hat: Tensor, s: State) -> Tensor:
    y = x_hat * table(s["weight"]) if "weight" in s else x_hat
    return y + table(s["bias"]) if "bias" in s else y


def normalized(x: Tensor, mean: Tensor, var: Tensor, s: State, eps: float) -> Tensor:
    return scaled((x - mean) / (var + eps) ** 0.5, s)


def averaged(s: State, mean: Tensor, var: Tensor, momentum: float | None) -> State:
    """The running averages after a batch with this mean and unbiased variance."""
    batches = int(s["num_batches_tracked"]) + 1
    share = 1 / batches if momentum is None else momentum
    if "mask" in s and not s["mask"].any():
        share = 0
    return {
        "running_mean": (1 - share) * s["running_mean"] + share * mean.detach().flatten(),
        "running_var": (1 - share) * s["running_var"] + share * var.detach().flatten(),
        "num_batches_tracked": torch.tensor(batches),
    }


def unbiased(var: Tensor, count: Tensor) -> Tensor:
    """Of a single value, where an average of the batch statistics has one to offer, the biased one."""
    return var * count / (count - 1).clamp(min=1)


# --- y and the buffers after, of x (N, C, M), the state before, and whether it is training. Part of the state is the
# mask (N, 1, M) if there is one; where it is False x is 0, and y may be anything. --------------------------------


def over(*axes: int) -> Formula:
    """Statistics of the current input over some axes, and running averages of them if there are any."""

    def formula(x: Tensor, s: State, training: bool, eps: float, momentum: float | None = 0.1) -> tuple[Tensor, State]:
        mean, var = moments_over(x, *axes, mask=s.get("mask"))
        if "running_mean" not in s:
            return normalized(x, mean, var, s, eps), {}
        if not training:
            return normalized(x, table(s["running_mean"]), table(s["running_var"]), s, eps), {}
        after = averaged(s, mean, unbiased(var, values_in(x, *axes, mask=s.get("mask"))), momentum)
        return normalized(x, mean, var, s, eps), after

    return formula


def instance(x: Tensor, s: State, training: bool, eps: float, momentum: float | None = 0.1) -> tuple[Tensor, State]:
    mean, var = moments_over(x, 2, mask=s.get("mask"))
    if "running_mean" not in s:
        return normalized(x, mean, var, s, eps), {}
    if not training:
        return normalized(x, table(s["running_mean"]), table(s["running_var"]), s, eps), {}
    count = values_in(x, 2, mask=s.get("mask"))
    (samples,) = count[:, 0, 0].nonzero(as_tuple=True)  # that are not all padding
    if len(samples) == 0:
        return normalized(x, mean, var, s, eps), averaged(s, mean[0], var[0], momentum)
    after = averaged(s, mean[samples].mean(0), unbiased(var, count)[samples].mean(0), momentum)
    return normalized(x, mean, var, s, eps), after


def group(x: Tensor, s: State, training: bool, eps: float, num_groups: int) -> tuple[Tensor, State]:
    groups = []
    for part in x.chunk(num_groups, 1):
        mean, var = moments_over(part, 1, 2, mask=s.get("mask"))
        groups.append((part - mean) / (var + eps) ** 0.5)
    return scaled(torch.cat(groups, 1), s), {}


def root_mean_square(x: Tensor, s: State, training: bool, eps: float) -> tuple[Tensor, State]:
    square = (x**2).sum((1, 2), keepdim=True) / values_in(x, 1, 2, mask=s.get("mask")).clamp(min=1)
    return scaled(x / (square + eps) ** 0.5, s), {}


def local_response(
    x: Tensor, s: State, training: bool, size: int, alpha: float, beta: float, k: float
) -> tuple[Tensor, State]:
    channels = []
    for c in range(x.shape[1]):
        window = x[:, max(c - size // 2, 0) : c + (size - 1) // 2 + 1]
        channels.append(x[:, c] / (k + alpha / size * (window**2).sum(1)) ** beta)
    return torch.stack(channels, 1), {}


def switchable(x: Tensor, s: State, training: bool, eps: float, momentum: float | None = 0.1) -> tuple[Tensor, State]:
    mask = s.get("mask")
    batch_mean, batch_var = moments_over(x, 0, 2, mask=mask)
    after: State = {}
    if "running_mean" in s and training:
        after = averaged(s, batch_mean, unbiased(batch_var, values_in(x, 0, 2, mask=mask)), momentum)
    elif "running_mean" in s:
        batch_mean, batch_var = table(s["running_mean"]), table(s["running_var"])
    (in_mean, in_var), (ln_mean, ln_var) = moments_over(x, 2, mask=mask), moments_over(x, 1, 2, mask=mask)
    w, v = (s[name].exp() / s[name].exp().sum() for name in ("mean_weight", "var_weight"))
    mean = w[0] * in_mean + w[1] * ln_mean + w[2] * batch_mean
    var = v[0] * in_var + v[1] * ln_var + v[2] * batch_var
    return normalized(x, mean, var, s, eps), after


def clips(step: int, r_max: float, d_max: float, schedule: normcore.ClipSchedule | None) -> tuple[float, float]:
    """r_max from 1 and d_max from 0, both linear from ``start`` to their ends."""
    if schedule is None:
        return r_max, d_max
    r, d = ((step - schedule.start) / (end - schedule.start) for end in (schedule.r_end, schedule.d_end))
    return 1 + (r_max - 1) * min(max(r, 0), 1), d_max * min(max(d, 0), 1)


def batch_renorm(
    x: Tensor,
    s: State,
    training: bool,
    eps: float,
    momentum: float | None = 0.1,
    r_max: float = 3.0,
    d_max: float = 5.0,
    schedule: normcore.ClipSchedule | None = None,
) -> tuple[Tensor, State]:
    if not training:
        return over(0, 2)(x, s, training, eps)
    r_max, d_max = clips(int(s["num_batches_tracked"]), r_max, d_max, schedule)
    mean, var = moments_over(x, 0, 2, mask=s.get("mask"))
    deviation, running_deviation = (var + eps) ** 0.5, (table(s["running_var"]) + eps) ** 0.5
    with torch.no_grad():
        r = (deviation / running_deviation).clamp(1 / r_max, r_max)
        d = ((mean - table(s["running_mean"])) / running_deviation).clamp(-d_max, d_max)
    after = averaged(s, mean, unbiased(var, values_in(x, 0, 2, mask=s.get("mask"))), momentum)
    return scaled((x - mean) / deviation * r + d, s), after


def referred(s: State, mean: Tensor, var: Tensor, size: int) -> State:
    """The reference batch that there is, or this one."""
    if s["reference_size"] > 0:
        return {name: value for name, value in s.items() if name.startswith("reference")}
    own = {"reference_mean": mean.flatten(), "reference_var": var.flatten(), "reference_size": torch.tensor(size)}
    return {name: value.detach() for name, value in own.items()}


def samples_in(x: Tensor, s: State) -> int:
    """Without those that are all padding."""
    return int((values_in(x, 1, 2, mask=s.get("mask")) > 0).sum())


def reference_batch(
    x: Tensor, s: State, training: bool, eps: float, momentum: float | None = 0.1
) -> tuple[Tensor, State]:
    if "running_mean" in s and not training:
        return over(0, 2)(x, s, training, eps)
    m, (mean, var) = samples_in(x, s), moments_over(x, 0, 2, mask=s.get("mask"))
    reference = referred(s, mean, var, m)
    if s["reference_size"] > 0:  # else it is the batch itself
        mean = m / (m + 1) * mean + 1 / (m + 1) * table(reference["reference_mean"])
        var = m / (m + 1) * var + 1 / (m + 1) * table(reference["reference_var"])
    after = averaged(s, mean, unbiased(var, torch.tensor(m)), momentum) if "running_mean" in s else {}
    return normalized(x, mean, var, s, eps), after | reference if training else {}


def virtual_batch(x: Tensor, s: State, training: bool, eps: float) -> tuple[Tensor, State]:
    """Moments of the reference batch's m samples and the example together, by means of squares as the paper's code."""
    reference = referred(s, *moments_over(x, 0, 2, mask=s.get("mask")), samples_in(x, s))
    count = values_in(x, 2, mask=s.get("mask")).clamp(min=1)
    w = 1 / (int(reference["reference_size"]) + 1)
    mean, var = table(reference["reference_mean"]), table(reference["reference_var"])
    square = w * (x**2).sum(2, keepdim=True) / count + (1 - w) * (var + mean**2)
    mean = w * x.sum(2, keepdim=True) / count + (1 - w) * mean
    return normalized(x, mean, square - mean**2, s, eps), reference if training else {}


# --- the layers, their formulas and the options that they are tried with -----------------------------------------

SCHEDULE = normcore.ClipSchedule(start=1, r_end=4, d_end=3)


@dataclass(frozen=True)
class Case:
    """A layer and its formula. Both take ``options``, of which there are more to try in ``choices``."""

    make: Callable[..., nn.Module]
    formula: Formula
    options: dict[str, Any]
    choices: dict[str, list[Any]]
    batch: bool = False  # statistics of the whole batch: one value a channel has none

    def layer(self, channels: int, **options: Any) -> nn.Module:
        return self.make(channels, **{**self.options, **options})

    def state(self, layer: nn.Module) -> State:
        """In float64 what the layer keeps, of which the parameters take gradients."""
        learned = dict(layer.named_parameters())
        kept = {name: value.detach().double() for name, value in layer.state_dict().items()}
        return {name: value.requires_grad_(name in learned) for name, value in kept.items()}

    def compute(self, x: Tensor, state: State, training: bool, **options: Any) -> tuple[Tensor, State]:
        """Output and buffers after."""
        known = {name: value for name, value in {**self.options, **options}.items() if name not in NOT_IN_FORMULAS}
        y, after = self.formula(flat(x), state, training, **known)
        return y.view(x.shape), after

    def expected(
        self, layer: nn.Module, x: Tensor, mask: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, State, State]:
        """Output, buffers after, and the state before, with parameters that then have gradients."""
        state = self.state(layer)
        if mask is None:
            return *self.compute(x, state, layer.training, **options), state
        padding, state["mask"] = ~mask[:, None], mask.reshape(len(mask), 1, -1)
        y, after = self.compute(x.masked_fill(padding, 0), state, layer.training, **options)
        return y.masked_fill(padding, 0), after, state


NOT_IN_FORMULAS = {"affine", "bias", "track_running_stats", "device", "dtype"}  # the state says it
EPS: dict[str, Any] = {"eps": 1e-2}
AFFINE: dict[str, list[Any]] = {"eps": [1e-2, 0.5], "affine": [True, False], "bias": [True, False]}
RUNNING: dict[str, list[Any]] = {**AFFINE, "momentum": [0.1, None, 0.0, 1.0], "track_running_stats": [True, False]}
RENORM = {name: values for name, values in RUNNING.items() if name != "track_running_stats"}


def _group_norm(channels: int, num_groups: int, **options: Any) -> nn.Module:
    return normcore.GroupNorm(num_groups, channels, **options)


def _local_response_norm(
    channels: int, device: str | None = None, dtype: torch.dtype | None = None, **options: Any
) -> nn.Module:
    return normcore.LocalResponseNorm(**options)


CASES: dict[str, Case] = {
    "bn": Case(normcore.BatchNorm, over(0, 2), EPS, RUNNING, batch=True),
    "ln": Case(normcore.LayerNorm, over(1, 2), EPS, AFFINE),
    "cln": Case(normcore.ChannelLayerNorm, over(1), EPS, AFFINE),
    "in": Case(partial(normcore.InstanceNorm, affine=True), instance, EPS, RUNNING),
    "gn": Case(_group_norm, group, {**EPS, "num_groups": 2}, AFFINE),
    "rms": Case(normcore.RMSNorm, root_mean_square, EPS, {"eps": [1e-2, 0.5], "affine": [True, False]}),
    "lrn": Case(
        _local_response_norm,
        local_response,
        {"size": 3, "alpha": 0.5, "beta": 0.75, "k": 1.0},
        {"size": [1, 2, 5, 8], "alpha": [1e-4, 0.0], "beta": [0.75, 0.0, 2.0], "k": [1.0, 2.0]},
    ),
    "sn": Case(normcore.SwitchableNorm, switchable, EPS, RUNNING, batch=True),
    "brn": Case(  # both clips are met by what the tests put in
        normcore.BatchRenorm,
        batch_renorm,
        {**EPS, "r_max": 1.25, "d_max": 0.5, "schedule": None},
        {**RENORM, "r_max": [1.0, 1.5, 100.0], "d_max": [0.0, 1.0, 100.0], "schedule": [None, SCHEDULE]},
        batch=True,
    ),
    "rbn": Case(normcore.ReferenceBatchNorm, reference_batch, EPS, RUNNING, batch=True),
    "vbn": Case(normcore.VirtualBatchNorm, virtual_batch, EPS, AFFINE, batch=True),
    "fnbb": Case(normcore.FullNormBB, over(0, 1, 2), EPS, RUNNING, batch=True),
    "fnbl": Case(normcore.FullNormBL, over(1), EPS, AFFINE),
    "fnbl text": Case(partial(normcore.FullNormBL, semantics="text"), over(0, 1, 2), EPS, AFFINE, batch=True),
    "in tracked": Case(partial(normcore.InstanceNorm, affine=True, track_running_stats=True), instance, EPS, RENORM),
}


LEARNING = [name for name in CASES if name != "lrn"]
AVERAGING = [name for name in CASES if "momentum" in CASES[name].choices and name != "in"]
#: those that a kernel of torch's serves, too, if the input is small or contiguous; the others go by the engine alone
BY_KERNEL = ["bn", "ln", "in", "gn", "fnbb"]
WAYS = [(name, way) for name in CASES for way in ("kernel", "engine", "plain") if way != "kernel" or name in BY_KERNEL]


@st.composite
def options_of(draw: st.DrawFn, name: str, channels: int) -> dict[str, Any]:
    options = {key: draw(st.sampled_from(values)) for key, values in CASES[name].choices.items()}
    if name == "gn":
        options["num_groups"] = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
    return options


def randomized(layer: nn.Module) -> nn.Module:
    """Parameters of any sign and size, running averages of some past."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
        for name, buffer in layer.named_buffers():
            if name == "running_mean":
                buffer.copy_(torch.randn_like(buffer))
            elif name == "running_var":
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return layer


def scattered(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """Values whose mean and scale differ from instance to instance and from channel to channel."""
    tables = (*shape[:2], *[1] * (len(shape) - 2))
    return (torch.randn(shape) * (0.5 + torch.rand(tables)) + torch.randn(tables)).to(dtype)


def takes(name: str, shape: tuple[int, ...]) -> bool:
    """Whether the layer has statistics of such a batch. What it refuses is tested by itself."""
    positions = math.prod(shape[2:])
    if name == "lrn":
        return len(shape) > 2
    return positions > 1 if name in ("in", "in tracked") else shape[0] * positions > 1


@contextmanager
def route(name: str) -> Iterator[None]:
    """By the kernel of torch's that serves many a small input ("kernel"), or by the engine whatever the input, in plain
    operations ("plain") or by the kernels that it has for large ones ("engine")."""
    with pytest.MonkeyPatch.context() as patch:
        if name == "engine":
            patch.setattr(normcore.kernels, "FEW", 1)
        if name != "kernel":
            patch.setattr(normcore.RunningNorm, "_suits_batch_norm", lambda self, x: False)
            patch.setattr(normcore.layers.sample, "_native", lambda x, weight: False)
        yield


# --- comparison --------------------------------------------------------------------------------------------------

STEP_ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def assert_step(
    name: str,
    layer: nn.Module,
    x: Tensor,
    dy: str | Tensor = "contiguous",
    mask: Tensor | None = None,
    **options: Any,
) -> None:
    """Output, gradients of the input and of the parameters, and buffers after one forward and backward."""
    x = x.detach().requires_grad_()
    wide = x.detach().double().clone(memory_format=torch.contiguous_format).requires_grad_()
    expected, after, state = CASES[name].expected(layer, wide, mask, **options)
    layer.zero_grad()
    y = layer(x) if mask is None else layer(x, mask)
    gradient = dy if isinstance(dy, Tensor) else laid_out(torch.randn(x.shape).to(x), dy)
    y.backward(gradient)
    expected.backward(gradient.double())
    assert x.grad is not None
    assert wide.grad is not None
    assert (y.dtype, y.shape, x.grad.dtype) == (x.dtype, x.shape, x.dtype)
    own = next((t for t in layer.state_dict().values() if t.is_floating_point()), x).dtype  # of what the layer keeps
    rounding = max(STEP_ROUNDING[x.dtype], STEP_ROUNDING[own])
    assert_near(y, expected.detach(), rounding)
    assert_near(x.grad, wide.grad, rounding)
    for key, parameter in layer.named_parameters():
        assert parameter.grad is not None, key
        wanted = state[key].grad
        assert_near(parameter.grad, torch.zeros_like(state[key]) if wanted is None else wanted, STEP_ROUNDING[own])
    for key, buffer in layer.named_buffers():
        assert_near(buffer, after.get(key, state[key]).double(), STEP_ROUNDING.get(buffer.dtype, 0.0))


# --- the engine: y of x, weight, bias and a third tensor, (2, C) or (2, 3), and the mix that gives it ------------

Mix = Callable[..., tuple[Tensor, ...]]
MIX_EPS = 1e-2


def by_layer(formula: Formula, *third: str, **options: Any) -> Callable[..., Tensor]:
    """A layer's formula; the rows of the third tensor are those of its tables."""

    def y(x: Tensor, weight: Tensor, bias: Tensor, other: Tensor) -> Tensor:
        state = {"weight": weight, "bias": bias, **{name: other[i] for i, name in enumerate(third)}}
        return formula(flat(x), state, training=True, eps=MIX_EPS, **options)[0].view(x.shape)

    return y


def rms_formula(x: Tensor, weight: Tensor, bias: Tensor, other: Tensor) -> Tensor:
    return root_mean_square(flat(x), {"weight": weight}, True, MIX_EPS)[0].view(x.shape)


def renormed_formula(x: Tensor, weight: Tensor, bias: Tensor, running: Tensor) -> Tensor:
    """The second row of the third tensor is a deviation."""
    state = {"weight": weight, "bias": bias, "running_mean": running[0], "running_var": running[1] ** 2}
    state["num_batches_tracked"] = torch.tensor(0)
    return batch_renorm(flat(x), state, True, MIX_EPS, r_max=2.0, d_max=1.0)[0].view(x.shape)


def tangled_formula(x: Tensor, weight: Tensor, bias: Tensor, other: Tensor) -> Tensor:
    """Center, scale and shift depend on everything, and no two in the same way."""
    mean, var = moments_over(flat(x), 2)
    w, b, o = table(weight), table(bias), table(other[0])
    return ((w * var.cos() + mean.sin()) * (flat(x) - (mean / 2 + o * var.tanh())) + b * mean + var).view(x.shape)


FORMULAS: dict[str, Callable[..., Tensor]] = {
    "instance": by_layer(over(2)),
    "layer": by_layer(over(1, 2)),
    "batch": by_layer(over(0, 2)),
    "full": by_layer(over(0, 1, 2)),
    "rms": rms_formula,
    "switchable": by_layer(switchable, "mean_weight", "var_weight"),
    "renormed": renormed_formula,
    "tangled": tangled_formula,
}


def standard(mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, ...]:
    """Center, scale and shift of the usual normalizer."""
    scale = torch.rsqrt(var + MIX_EPS)
    scale = scale if weight is None else scale * weight
    return mean, scale, torch.zeros_like(scale) if bias is None else bias


def instance_mix(
    mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, _: Tensor | None
) -> tuple[Tensor, ...]:
    return standard(mean, var, weight, bias)


def layer_mix(
    mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, _: Tensor | None
) -> tuple[Tensor, ...]:
    return standard(*pool(mean, var, 1), weight, bias)


def batch_mix(
    mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, _: Tensor | None
) -> tuple[Tensor, ...]:
    mean, var = pool(mean, var, 0)
    return *standard(mean, var, weight, bias), mean, var


def full_mix(
    mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, _: Tensor | None
) -> tuple[Tensor, ...]:
    return standard(*pool(mean, var, (0, 1)), weight, bias)


def rms_mix(mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor | None, _: Tensor | None) -> tuple[Tensor, ...]:
    square = (var + mean.square()).mean(1, keepdim=True)
    return torch.zeros_like(square), torch.rsqrt(square + MIX_EPS) * weight, mean.new_zeros(())


def switchable_mix(mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
    shares = logits.softmax(1)
    tables = ((mean, var), pool(mean, var, 1), pool(mean, var, 0))
    means, variances = (sum(share * t[k] for share, t in zip(shares[k], tables, strict=True)) for k in (0, 1))
    return standard(means, variances, weight, bias)


def renormed_mix(mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, running: Tensor) -> tuple[Tensor, ...]:
    mean, var = pool(mean, var, 0)
    center, scale, shift = standard(mean, var, weight, bias)
    with torch.no_grad():
        inverse = torch.rsqrt(running[1].square() + MIX_EPS)
        r = ((var + MIX_EPS).sqrt() * inverse).clamp(0.5, 2)
        d = ((mean - running[0]) * inverse).clamp(-1, 1)
    return center, scale * r, shift + d * weight


def tangled_mix(mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, other: Tensor) -> tuple[Tensor, ...]:
    center = mean / 2 + other[0] * var.tanh()
    return center, weight * var.cos() + mean.sin(), bias * mean + var


MIXES: dict[str, Mix] = {
    "instance": instance_mix,
    "layer": layer_mix,
    "batch": batch_mix,
    "full": full_mix,
    "rms": rms_mix,
    "switchable": switchable_mix,
    "renormed": renormed_mix,
    "tangled": tangled_mix,
}


def parameters_of(name: str, channels: int, dtype: torch.dtype = torch.float64, device: str = "cpu") -> list[Tensor]:
    """Weight, bias and the third, from the global generator."""
    sizes = [(channels,), (channels,), (2, 3 if name == "switchable" else channels)]
    return [torch.randn(size, dtype=torch.float64).to(device, dtype).requires_grad_() for size in sizes]


def gradient_within_a_gradient(weight: Tensor, bias: Tensor, x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """Of batch normalization, the gradient by x for dy, and the one for -dy from a backward pass of the same graph that
    a hook runs within the first, in the middle of the mix."""
    within: list[Tensor] = []
    outermost = True

    def mix(*arguments: Tensor | None) -> tuple[Tensor, ...]:
        center, scale, shift, *_ = batch_mix(*arguments)
        if scale.requires_grad:  # as it does where the mix is differentiated
            scale.register_hook(again)
        return center, scale, shift

    def again(_: Tensor) -> None:
        nonlocal outermost
        if outermost:
            outermost = False
            within.extend(torch.autograd.grad(y, x, -dy, retain_graph=True))

    y = fused_norm(x, mix, weight, bias, None)[0]
    (outer,) = torch.autograd.grad(y, x, dy, retain_graph=True)
    return outer, within[0]
