"""What a normalization layer has to stand, as checks that any layer can be put through.

:func:`check_norm` is for a test suite, as scikit-learn's ``check_estimator``; :func:`examine` gives the same as rows,
and :func:`dependences` what the layer's output depends on, measured.
"""

import copy
import io
import itertools
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .own import in_words

__all__ = ["Check", "check_norm", "dependences", "examine", "first_look"]

#: makes the layer from its number of channels
MakeNorm = Callable[[int], nn.Module]
CHANNELS = 8
SHAPES = {"(N, C)": (6, CHANNELS), "(N, C, L)": (4, CHANNELS, 5), "(N, C, H, W)": (4, CHANNELS, 3, 4),
          "(N, C, D, H, W)": (3, CHANNELS, 2, 3, 2)}  # fmt: skip
ALL = tuple(SHAPES)
FLAT, SPATIAL = ALL[:1], ALL[1:]
ROUNDING = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}  # of the largest value
FAR = 1e4  # an offset that leaves single precision four digits of a standard deviation of 1
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass(frozen=True)
class Check:
    """One thing that was asked of a layer.

    Attributes:
        name: what was asked.
        outcome: ``passed``, ``failed`` or ``skipped``, where the layer takes no input that it could be asked on.
        says: what was found, in words; empty where all is well.
    """

    name: str
    outcome: str
    says: str = ""


class _Wrong(Exception):
    """What a check found, in words for a person."""


def check_norm(make: MakeNorm) -> None:
    """Put a layer through every check.

    Args:
        make: makes the layer from its number of channels, such as ``normcore.BatchNorm``.

    Raises:
        AssertionError: a check failed; the message names each that did, and what was found.

    >>> from normcore import BatchNorm
    >>> check_norm(BatchNorm)
    """
    failed = [f"{check.name}: {check.says}" for check in examine(make) if check.outcome == FAILED]
    assert not failed, "\n".join(failed)


def first_look(make: MakeNorm) -> None:
    """Make the layer and call it once in each mode.

    Args:
        make: makes the layer from its number of channels.

    Raises:
        ValueError: what is wrong, in words; what the layer raised is the cause.
    """
    try:
        layer = _layer(make)
        shape = next((shape for shape in SHAPES.values() if _taken(layer, shape)), None)
        if shape is None:
            layer(torch.randn(SHAPES["(N, C, H, W)"], dtype=torch.float64))
        else:
            _shape(make, shape)
    except _Wrong as wrong:
        raise ValueError(str(wrong)) from wrong.__cause__
    except Exception as error:  # whatever somebody's layer raises
        raise ValueError(f"it takes none of {', '.join(SHAPES)}: {in_words(error)}") from error


def examine(make: MakeNorm) -> list[Check]:
    """Put a layer through every check, whatever comes of the others.

    Args:
        make: makes the layer from its number of channels.
    """
    try:
        layer = _layer(make)
        shapes = {name: shape for name, shape in SHAPES.items() if _taken(layer, shape)}
    except _Wrong as wrong:
        return [Check("it is made from the number of channels", FAILED, str(wrong))]
    if not shapes:
        return [Check("it takes (N, C, L), (N, C, H, W) or (N, C, D, H, W)", FAILED, "it refuses each of them")]
    return [_outcome(name, make, shapes) for name in CHECKS]


def _outcome(name: str, make: MakeNorm, shapes: dict[str, tuple[int, ...]]) -> Check:
    check, asked = CHECKS[name]
    taken = [shape for shape in asked if shape in shapes]
    if not taken:
        return Check(name, SKIPPED, f"it refuses {', '.join(asked)}")
    for shape in taken:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                check(make, shapes[shape])
            except _Wrong as wrong:
                return Check(name, FAILED, f"{shape}: {wrong}")
            except Exception as error:  # whatever somebody's layer raises
                return Check(name, FAILED, f"{shape}: {in_words(error)}")
    return Check(name, PASSED)


def _layer(make: MakeNorm, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The layer with parameters that are not those it starts from, since a gamma of 1 and a beta of 0 hide mistakes."""
    try:
        layer = make(CHANNELS)
    except Exception as error:  # whatever somebody's layer raises
        raise _Wrong(in_words(error)) from error
    if not isinstance(layer, nn.Module):
        raise _Wrong(f"it is a {type(layer).__name__}, not a torch.nn.Module")
    layer = layer.double()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer.to(dtype)


def _taken(layer: nn.Module, shape: tuple[int, ...]) -> bool:
    try:
        copy.deepcopy(layer)(torch.randn(shape, dtype=torch.float64))
    except (ValueError, TypeError, RuntimeError, IndexError, NotImplementedError):
        return False
    return True


def _input(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """Values whose mean and deviation differ from channel to channel and from sample to sample."""
    channel = torch.arange(shape[1], dtype=torch.float64).view(1, -1, *[1] * (len(shape) - 2))
    sample = torch.arange(shape[0], dtype=torch.float64).view(-1, 1, *[1] * (len(shape) - 2))
    x = torch.randn(shape, dtype=torch.float64) * (0.5 + channel / 8 + sample / 4) + channel / 4 - sample / 8
    return x.to(dtype)


def _out(layer: nn.Module, x: Tensor) -> Tensor:
    """What the layer gives out; what it draws at random it draws again each time, and its state is a copy's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        y: Tensor = copy.deepcopy(layer)(x)
    return y


def _near(found: Tensor, expected: Tensor, share: float, what: str) -> None:
    """Within this share of the largest expected value."""
    if found.shape != expected.shape:
        raise _Wrong(f"{what}: the shape is {tuple(found.shape)}, expected {tuple(expected.shape)}")
    found, expected = found.detach().double(), expected.detach().double()
    if not found.isfinite().all():
        raise _Wrong(f"{what}: there are values that are not finite")
    largest = expected.abs().max().clamp_min(1e-30).item() if expected.numel() else 1.0
    off = (found - expected).abs().max().item() / largest if expected.numel() else 0.0
    if off > share:
        raise _Wrong(f"{what}: off by {off:.2g} of the largest value")


def _both_modes(make: MakeNorm, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Iterator[nn.Module]:
    """The layer in training and in evaluation, each after batches of the past: some layers set themselves up by the
    first."""
    layer = _layer(make, dtype).train()
    for training in (True, False):
        with torch.no_grad():
            layer.train()(_input(shape, dtype))
        yield layer.train(training)


# --- the checks ----------------------------------------------------------------------------------------------------


def _shape(make: MakeNorm, shape: tuple[int, ...]) -> None:
    x = _input(shape, torch.float32)
    for layer in _both_modes(make, shape, torch.float32):
        y = layer(x)
        if not isinstance(y, Tensor):
            raise _Wrong(f"it gives out a {type(y).__name__}, not a tensor")
        if (y.shape, y.dtype) != (x.shape, x.dtype):
            raise _Wrong(f"it gives out {tuple(y.shape)} in {y.dtype} for {tuple(x.shape)} in {x.dtype}")
        if not y.isfinite().all():
            raise _Wrong("it gives out values that are not finite")


def _gradients(make: MakeNorm, shape: tuple[int, ...]) -> None:
    x = _input(shape).requires_grad_()
    for layer in _both_modes(make, shape):
        given = [x, *layer.parameters()]

        def call(x: Tensor, *parameters: Tensor, layer: nn.Module = layer) -> Tensor:
            return _out_of(layer, x, parameters)

        mode = "training" if layer.training else "evaluation"
        for check, order in ((torch.autograd.gradcheck, "first"), (torch.autograd.gradgradcheck, "second")):
            try:
                right = check(call, given, fast_mode=True, raise_exception=True)
            except RuntimeError as error:
                raise _Wrong(
                    f"the {order} derivatives in {mode} are not those of the outputs ({in_words(error)})"
                ) from None
            assert right


def _out_of(layer: nn.Module, x: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
    """As :func:`_out`, as a function of the input and the parameters: every call starts from the same buffers."""
    names = [name for name, _ in layer.named_parameters()]
    buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        tensors = {**dict(zip(names, parameters, strict=True)), **buffers}
        y: Tensor = torch.func.functional_call(copy.deepcopy(layer), tensors, (x,))
    return y


def _memory_formats(make: MakeNorm, shape: tuple[int, ...]) -> None:
    x = _input(shape)
    layouts = {
        "channels last": x.movedim(1, -1).contiguous().movedim(-1, 1),
        "every other value of a larger tensor": torch.stack((x, x), -1)[..., 0],
    }
    for layer in _both_modes(make, shape):
        for name, laid_out in layouts.items():
            _near(_out(layer, laid_out), _out(layer, x), 1e-9, f"{name} against contiguous")


def _single_precision(make: MakeNorm, shape: tuple[int, ...]) -> None:
    _as_in_double(make, _input(shape, torch.float32), torch.float32, ROUNDING[torch.float32])


def _far_from_zero(make: MakeNorm, shape: tuple[int, ...]) -> None:
    x = (_input(shape) + FAR).float()
    _as_in_double(make, x, torch.float32, 0.02, f"with {FAR:g} added to every value, single against double precision")


def _half_precision(make: MakeNorm, shape: tuple[int, ...]) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        _as_in_double(make, _input(shape, dtype), dtype, ROUNDING[dtype], f"in {str(dtype).removeprefix('torch.')}")


def _as_in_double(
    make: MakeNorm, x: Tensor, dtype: torch.dtype, share: float, what: str = "in single precision"
) -> None:
    layer = _layer(make, dtype).train()
    exact = copy.deepcopy(layer).double()
    y, expected = _out(layer, x), _out(exact, x.double())
    if y.dtype != dtype:
        raise _Wrong(f"{what}: it gives out {y.dtype}")
    _near(y, expected, share, what)


def _constant(make: MakeNorm, shape: tuple[int, ...]) -> None:
    x = _input(shape, torch.float32)
    x[:, 0] = 3.0  # one channel
    for images, what in ((x, "a constant channel"), (torch.full_like(x, 3.0), "an input that is constant everywhere")):
        images = images.clone().requires_grad_()
        y = _layer(make, torch.float32).train()(images)
        (slope,) = torch.autograd.grad(y.square().sum(), images)
        for values, of in ((y, "outputs"), (slope, "gradients")):
            if not values.isfinite().all():
                raise _Wrong(f"{what} gives {of} that are not finite")


def _few_values(make: MakeNorm, shape: tuple[int, ...]) -> None:
    """One sample, none, one position: an output, or a ValueError that says what is expected."""
    single = (1, *shape[1:]), (0, *shape[1:]), (2, shape[1], *[1] * (len(shape) - 2))
    for size, training in itertools.product(single, (True, False)):
        layer = _layer(make, torch.float32).train()
        layer(_input(shape, torch.float32))
        try:
            y = layer.train(training)(torch.randn(size))
        except ValueError:
            continue
        if y.shape != size or not y.isfinite().all():
            raise _Wrong(f"{size}: it gives out {tuple(y.shape)}, or values that are not finite, and no ValueError")


def _evaluation(make: MakeNorm, shape: tuple[int, ...]) -> None:
    *_, layer = _both_modes(make, shape)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x = _input(shape)
    first = layer(x)
    layer(3 * _input(shape) + 1)
    changed = [name for name, value in layer.state_dict().items() if not torch.equal(value, before[name])]
    if changed:
        raise _Wrong(
            f"in evaluation mode a batch changes {', '.join(changed)}: what comes out depends on what went in before"
        )
    _near(layer(x), first, 1e-12, "the same batch again in evaluation mode")


def _state(make: MakeNorm, shape: tuple[int, ...]) -> None:
    *_, layer = _both_modes(make, shape)
    x, other, file = _input(shape), make(CHANNELS).double().eval(), io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    copies = {"state_dict": other, "deepcopy": copy.deepcopy(layer), "pickle": pickle.loads(pickle.dumps(layer))}
    for name, another in copies.items():
        _near(_out(another, x), _out(layer, x), 1e-12, f"after {name}")


def _compiled(make: MakeNorm, shape: tuple[int, ...]) -> None:
    x = _input(shape, torch.float32)
    for layer in _both_modes(make, shape, torch.float32):
        expected, another = _out(layer, x), copy.deepcopy(layer)
        torch.compiler.reset()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            y = torch.compile(another, backend="eager", fullgraph=True)(x)
        _near(y, expected, 1e-5, "compiled against eager")


def _exported(make: MakeNorm, shape: tuple[int, ...]) -> None:
    *_, layer = _both_modes(make, shape, torch.float32)
    x = _input(shape, torch.float32)
    _near(torch.export.export(layer, (x,)).module()(x), _out(layer, x), 1e-5, "exported against eager, at evaluation")


def _behind_a_linear_layer(make: MakeNorm, shape: tuple[int, ...]) -> None:
    layer = _layer(make).train()
    if torch.allclose(_out(layer, _input(shape)), _out(layer, 2 * _input(shape).flip(0) - 1), atol=1e-6):
        raise _Wrong(
            "it gives out the same whatever goes in, since one value a sample and channel has no variance: it should "
            "refuse (N, C) with a ValueError, or networks with it train to chance"
        )


#: what is asked -> the check, and the inputs that it is asked of
CHECKS: dict[str, tuple[Callable[[MakeNorm, tuple[int, ...]], None], tuple[str, ...]]] = {
    "the output has the input's shape and type": (_shape, ALL),
    "evaluation changes no state": (_evaluation, ALL),
    "first and second derivatives, in double precision": (_gradients, ALL),
    "every memory format gives the same": (_memory_formats, SPATIAL),
    "single precision is near double": (_single_precision, SPATIAL),
    "so it is far from zero": (_far_from_zero, SPATIAL),
    "half precision is near double": (_half_precision, SPATIAL),
    "constant channels give finite outputs and gradients": (_constant, SPATIAL),
    "one sample, none, or one position: an output or a ValueError": (_few_values, SPATIAL),
    "state_dict, deepcopy and pickle keep what it computes": (_state, SPATIAL),
    "torch.compile takes it in one graph": (_compiled, SPATIAL),
    "torch.export takes it": (_exported, SPATIAL),
    "behind a linear layer its output depends on its input": (_behind_a_linear_layer, FLAT),
}


# --- what it depends on --------------------------------------------------------------------------------------------


def dependences(make: MakeNorm) -> dict[str, float]:
    r"""How much the output changes, :math:`\|y' - y\| / \|y\|`, when something changes that it may depend on.

    Args:
        make: makes the layer from its number of channels; as it starts, not trained.

    Returns:
        ``other samples``, of one sample's output when the others are exchanged; ``scale`` and ``shift``, when the
        whole input is doubled, or 3 is added to it; ``scale of a sample``, of one sample's output when that sample is
        doubled; ``training``, evaluation after twenty batches against training.
    """
    shape = SHAPES["(N, C, H, W)"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x, others, layer = _input(shape), 3 * _input(shape) + 1, make(CHANNELS).double().train()
        past = copy.deepcopy(layer)
        for _ in range(20):
            past(_input(shape))
    exchanged, louder = torch.cat([x[:1], others[1:]]), torch.cat([2 * x[:1], x[1:]])
    y = _out(layer, x)
    return {
        "other samples": _change(y[:1], _out(layer, exchanged)[:1]),
        "scale": _change(y, _out(layer, 2 * x)),
        "shift": _change(y, _out(layer, x + 3)),
        "scale of a sample": _change(y[:1], _out(layer, louder)[:1]),
        "training": _change(y, _out(past.eval(), x)),
    }


def _change(before: Tensor, after: Tensor) -> float:
    return ((after - before).norm() / before.norm().clamp_min(1e-30)).item()
