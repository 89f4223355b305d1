"""What people do around a layer: several passes before one backward, teachers and students, activation checkpointing,
transforms, deferred initialization, changing sizes. torch's twin stands beside where it has one."""

import copy
import io
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import normcore
from normcore import BatchRenorm, ClipSchedule, make_norm

from ..formulas import AVERAGING, CASES, LEARNING, randomized, scattered
from ..helpers import case

pytestmark = pytest.mark.usefixtures("seed")
every_layer = pytest.mark.parametrize("name", CASES)
every_averaging_layer = pytest.mark.parametrize("name", AVERAGING)
SMALL, LARGE = (3, 4, 5, 6), (4, 4, 5, 6)  # the second is served by other kernels, see many
REFERRING = ["rbn", "vbn"]


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """400 values are many, so that small inputs go the ways of large ones."""
    monkeypatch.setattr(normcore.kernels, "FEW", 400)
    monkeypatch.setattr(normcore.layers.base, "SMALL", 400)


def made(name: str) -> nn.Module:
    """With random parameters and a past, in single precision."""
    layer = randomized(CASES[name].layer(4))
    layer(scattered((4, 4, 3), torch.float32))
    return layer


def inputs(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [scattered(shape, torch.float32).requires_grad_() for shape in shapes]


def apart(layer: nn.Module, given: list[Tensor], modes: list[bool]) -> list[Tensor]:
    """The gradients by each input alone, of passes one after the other of which each has its own backward pass."""
    found = []
    for x, training in zip(given, modes, strict=True):
        found += torch.autograd.grad(layer.train(training)(x).sin().sum(), x)
    return found


def together(layer: nn.Module, given: list[Tensor], modes: list[bool]) -> list[Tensor]:
    losses = [layer.train(training)(x).sin().sum() for x, training in zip(given, modes, strict=True)]
    return list(torch.autograd.grad(torch.stack(losses).sum(), given))


# --- several passes before one backward pass -----------------------------------------------------------------------


@every_layer
def test_two_forwards_and_one_backward(name: str) -> None:
    """In every order of small and large inputs and of modes: siamese networks, crops, a teacher that is a student."""
    for shapes in itertools.product((SMALL, LARGE), repeat=2):
        for modes in itertools.product((True, False), repeat=2):
            layer, given = made(name), inputs(*shapes)
            with case(shapes, modes):
                expected = apart(copy.deepcopy(layer), given, list(modes))
                torch.testing.assert_close(together(layer, given, list(modes)), expected, rtol=1e-5, atol=1e-5)


@every_averaging_layer
def test_a_state_may_be_loaded_before_the_backward_pass(name: str) -> None:
    """With torch's twin that is an error, or worse."""
    for training in (True, False):
        layer, other, (x,) = made(name).train(training), made(name), inputs(SMALL)
        expected = apart(copy.deepcopy(layer), [x], [training])
        y = layer(x).sin().sum()
        buffers = {key: value for key, value in other.state_dict().items() if key in dict(layer.named_buffers())}
        layer.load_state_dict(buffers, strict=False)
        with case("training" if training else "evaluation"):
            torch.testing.assert_close(list(torch.autograd.grad(y, x)), expected)


# --- activation checkpointing --------------------------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("reentrant", [True, False])
def test_an_activation_that_is_computed_again_changes_nothing(name: str, reentrant: bool) -> None:
    """Outputs, gradients and state after several batches are those without checkpointing."""
    for shape in (SMALL, LARGE):
        plain = randomized(CASES[name].layer(4))
        checked = copy.deepcopy(plain)
        for step in range(3):
            x = scattered(shape, torch.float32)
            a, b = (x.clone().requires_grad_() for _ in range(2))
            plain(a).sin().sum().backward()
            checkpoint(checked, b, use_reentrant=reentrant).sin().sum().backward()
            with case(shape, "step", step):
                torch.testing.assert_close(b.grad, a.grad)
                for (key, one), two in zip(plain.named_parameters(), checked.parameters(), strict=True):
                    torch.testing.assert_close(two.grad, one.grad, msg=key)
                for (key, one), two in zip(plain.named_buffers(), checked.buffers(), strict=True):
                    torch.testing.assert_close(two, one, msg=key)


@pytest.mark.parametrize("reentrant", [True, False])
def test_torchs_batch_norm_counts_such_a_batch_twice(reentrant: bool) -> None:
    layer, (x,) = nn.BatchNorm2d(4), inputs(SMALL)
    checkpoint(layer, x, use_reentrant=reentrant).sum().backward()
    assert layer.num_batches_tracked == 2


@pytest.mark.parametrize("name", ["brn", "rbn"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_repeated_batch_that_is_not_the_last_is_refused(name: str, reentrant: bool) -> None:
    """What the layer held before its first batch is gone after the second, and the gradient would be another."""
    layer = randomized(CASES[name].layer(4))
    losses = [checkpoint(layer, x, use_reentrant=reentrant).sin().sum() for x in inputs(SMALL, SMALL)]
    with pytest.raises(RuntimeError, match=r"repeats another batch than the layer's last one.*leave it out"):
        torch.stack(losses).sum().backward()


# --- torch.func ----------------------------------------------------------------------------------------------------


@every_layer
def test_an_ensemble_by_vmap_over_parameters(name: str) -> None:
    models = [made(name).eval() for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(models) if models[0].state_dict() else ({}, {})
    for shape in ((2, 4), SMALL):
        if len(shape) == 2 and name in ("lrn", "in", "in tracked"):
            continue
        x = torch.stack([scattered(shape, torch.float32) for _ in models])

        def call(p: dict[str, Tensor], b: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(models[0], (p, b), (x,))

        with case(shape):
            found = torch.func.vmap(call)(parameters, buffers, x)
            expected = torch.stack([model(one) for model, one in zip(models, x, strict=True)])
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_forward_mode(name: str, training: bool) -> None:
    layer = made(name).double().train(training)
    if name in AVERAGING:
        layer.momentum = 0.0  # finite differences ask the same layer many times
    if name == "brn":  # r and d hide from the derivative how the output depends on the batch: with these they do not
        layer.r_max, layer.d_max = 1.0, 0.0
    x = scattered((2, 4, 2, 2)).requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,), check_forward_ad=True)


@every_layer
def test_a_gradient_by_torch_func_in_training(name: str) -> None:
    """As with torch's twin the running averages stand in its way; a layer that keeps none goes through."""
    x = scattered(SMALL, torch.float32)
    layer = made(name)
    if name in AVERAGING or name == "vbn":
        with pytest.raises(RuntimeError, match="in-place operation"):
            torch.func.grad(lambda x: layer(x).sin().sum())(x)
        if name in ("brn", "in tracked", *REFERRING):
            return
        layer = randomized(CASES[name].layer(4, track_running_stats=False))
    found = torch.func.grad(lambda x: layer(x).sin().sum())(x)
    torch.testing.assert_close([found], apart(layer, [x.requires_grad_()], [True]))


# --- what a layer starts from --------------------------------------------------------------------------------------


@every_layer
def test_reset_parameters_resets_all_state(name: str) -> None:
    """Deferred initialization: made on meta, given memory with anything in it, reset."""
    if name == "lrn":
        return  # it has no state
    layer = CASES[name].layer(4, device="meta").to_empty(device="cpu")
    for tensor in layer.state_dict().values():
        tensor.fill_(math.nan if tensor.is_floating_point() else 77)
    layer.reset_parameters()
    expected = CASES[name].layer(4).state_dict()
    torch.testing.assert_close(layer.state_dict(), expected, rtol=0, atol=0)
    layer(scattered(SMALL, torch.float32))
    layer.reset_parameters()
    torch.testing.assert_close(layer.state_dict(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", REFERRING)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reference_batch_that_is_not_finite_is_refused(name: str, value: float) -> None:
    """And leaves nothing behind: the next batch is the reference."""
    layer, x = CASES[name].layer(4), scattered(SMALL, torch.float32)
    bad = x.clone()
    bad[1, 2, 3, 3] = value
    for take in (layer, layer.set_reference):
        with pytest.raises(ValueError, match=r"a reference batch.*must have a finite mean and variance.*in channel 2"):
            take(bad)
        assert layer.reference_size == 0
    layer(x)
    assert layer.reference_size == 3
    torch.testing.assert_close(layer.reference_mean, x.mean((0, 2, 3)))
    layer(bad)  # from now on a matter of this batch alone
    assert layer.reference_mean.isfinite().all()


def test_a_first_batch_of_one_value_is_no_reference() -> None:
    layer = make_norm("vbn", 4)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(torch.randn(1, 4))
    assert layer.reference_size == 0


def test_clips_that_are_infinite() -> None:
    """Closed until the schedule starts, then open; never a product of nothing and infinity."""
    layer = BatchRenorm(4, r_max=math.inf, d_max=math.inf, schedule=ClipSchedule(start=1, r_end=3, d_end=3)).double()
    first, later = scattered((5, 4, 6)), scattered((5, 4, 6)) * 30 + 7
    expected = nn.functional.batch_norm(first, None, None, training=True)
    torch.testing.assert_close(layer(first), expected)
    layer(later)
    open_ = (later - layer.running_mean[:, None]) / (layer.running_var[:, None] + layer.eps).sqrt()
    torch.testing.assert_close(layer(later), open_)


@every_averaging_layer
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_averages_of_half_precision_are_taken_in_single_precision(name: str, dtype: torch.dtype) -> None:
    """A variance of 100,000 is too large for half precision, a tenth of it is not: torch's twin goes on, too."""
    x = (scattered((16, 4, 8, 8), torch.float32) * 2**8.5).to(dtype)
    layer, twin = CASES[name].layer(4, dtype=dtype), nn.BatchNorm2d(4).to(dtype)
    layer(x)
    twin(x)
    assert layer.running_var.dtype == dtype
    assert layer.running_var.isfinite().all()
    single = CASES[name].layer(4)
    single(x.float())
    torch.testing.assert_close(layer.running_var.float(), single.running_var, rtol=2 * torch.finfo(dtype).eps, atol=0)
    if name == "bn":
        torch.testing.assert_close(layer.running_var, twin.running_var)


# --- around a layer ------------------------------------------------------------------------------------------------


@every_layer
def test_a_default_device_is_not_that_of_the_input(name: str) -> None:
    given = [scattered(SMALL, dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)]
    given += [scattered(LARGE, torch.bfloat16)]
    layer = made(name)
    with torch.device("meta"):
        for x, training in itertools.product(given, (True, False)):
            with case(x.dtype, tuple(x.shape), training):
                y = layer.train(training)(x.requires_grad_())
                assert torch.autograd.grad(y.float().square().sum(), x)[0].device.type == "cpu"


@every_layer
def test_a_traced_model_can_be_saved_and_takes_other_sizes(name: str) -> None:
    layer, x, other = made(name).eval(), scattered(SMALL, torch.float32), scattered((2, 4, 7, 3), torch.float32)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(layer, x), file)
    file.seek(0)
    torch.testing.assert_close(torch.jit.load(file)(other), layer(other), rtol=1e-5, atol=1e-5)


@every_layer
def test_an_exported_model_takes_other_sizes(name: str) -> None:
    sizes = {0: torch.export.Dim("n"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    layer, other = made(name).eval(), scattered((2, 4, 7, 3), torch.float32)
    program = torch.export.export(layer, (scattered(SMALL, torch.float32),), dynamic_shapes=(sizes,))
    torch.testing.assert_close(program.module()(other), layer(other), rtol=1e-5, atol=1e-5)


@pytest.mark.ci
@pytest.mark.parametrize("name", ["gn", "rbn"])
def test_compiled_for_changing_sizes(name: str) -> None:
    """By Inductor, forward and backward at three sizes: the mixes of the sample and of the batch."""
    torch._dynamo.reset()
    eager = nn.Sequential(nn.Conv2d(3, 4, 3), made(name))
    compiled = copy.deepcopy(eager)
    run: Callable[[Tensor], Tensor] = torch.compile(compiled, dynamic=True)
    for shape in ((2, 3, 9, 8), (3, 3, 12, 7), (2, 3, 16, 16)):
        x = torch.randn(shape)
        for model, call in ((eager, eager), (compiled, run)):
            model.zero_grad()
            call(x).sin().sum().backward()
        with case(shape):
            for one, two in zip(eager.parameters(), compiled.parameters(), strict=True):
                torch.testing.assert_close(two.grad, one.grad, rtol=1e-4, atol=1e-4)


WRONG: list[tuple[dict[str, object], type[Exception], str]] = [
    ({"num_features": 2.0}, TypeError, r"num_features must be a positive integer, got 2\.0 \(float\)"),
    ({"num_features": True}, TypeError, r"num_features must be a positive integer, got True \(bool\)"),
    ({"num_features": "4"}, TypeError, r"num_features must be a positive integer, got '4' \(str\)"),
    ({"eps": "a"}, TypeError, r"eps must be a finite number, at least 0, got 'a' \(str\)"),
    ({"eps": math.inf}, ValueError, "eps must be a finite number, at least 0, got inf"),
    ({"affine": "yes"}, TypeError, r"affine must be True or False, got 'yes' \(str\)"),
    ({"dtype": torch.int64}, ValueError, r"dtype must be a floating-point type, got torch\.int64"),
    ({"dtype": "float32"}, TypeError, r"dtype must be a torch\.dtype, got 'float32' \(str\)"),
]
WRONG_AVERAGES: list[tuple[dict[str, object], type[Exception], str]] = [
    ({"momentum": "a"}, TypeError, r"momentum must be None or a finite number between 0 and 1, got 'a' \(str\)"),
    ({"track_running_stats": 1}, TypeError, r"track_running_stats must be True or False, got 1 \(int\)"),
    ({"process_group": "world"}, TypeError, r"process_group must be a torch\.distributed\.ProcessGroup.*got 'world'"),
]
WRONG_OF_ONE: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: normcore.GroupNorm(2.0, 4), TypeError, r"num_groups must be a positive integer, got 2\.0"),  # type: ignore[arg-type]
    (lambda: normcore.LocalResponseNorm(size=math.nan), TypeError, "size must be a positive integer, got nan"),  # type: ignore[arg-type]
    (lambda: normcore.LocalResponseNorm(k=math.nan), ValueError, "k must be a finite number, got nan"),
    (lambda: ClipSchedule(start="a"), TypeError, "start, in training batches, must be a finite number"),  # type: ignore[arg-type]
    (lambda: BatchRenorm(4, d_max=math.nan), ValueError, "d_max must be a number, at least 0, got nan"),
    (lambda: BatchRenorm(4, schedule=3), TypeError, "schedule must be None or callable"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("name", LEARNING)
def test_wrong_arguments_are_refused_at_once(name: str) -> None:
    averages = name in AVERAGING and name != "in tracked"
    for options, error, sentence in (*WRONG, *(WRONG_AVERAGES if averages else ())):
        if (name, *options) in (("rms", "bias"), ("in", "process_group")):
            continue
        channels, options = options.get("num_features", 4), {k: v for k, v in options.items() if k != "num_features"}
        with case(options), pytest.raises(error, match=sentence):
            CASES[name].layer(channels, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("make", "error", "sentence"), WRONG_OF_ONE)
def test_wrong_arguments_of_one_layer_are_refused_at_once(
    make: Callable[[], object], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        make()
