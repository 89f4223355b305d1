"""set_engine: the compiled passes give what the eager ones give, and a broken compiler costs one warning."""

import copy
import shutil
import warnings
from collections.abc import Iterator
from functools import partial

import pytest
import torch
import torch._inductor.config as inductor
from torch import Tensor, nn
from torch._dynamo.utils import counters

import normcore.layers.base
import normcore.layers.sample
from normcore import BatchNorm, InstanceNorm, fused_norm, make_norm, set_engine

from .formulas import batch_mix, parameters_of

# every layer whose statistics the engine takes
ENGINE = ["bn", "ln", "in", "gn", "rms", "sn", "brn", "rbn", "vbn", "fnbb", "fnbl"]
compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The engine serves every layer, small as the inputs are, and is as it was afterwards."""
    monkeypatch.setattr(normcore.layers.base, "SMALL", 0)
    monkeypatch.setattr(normcore.layers.sample, "_native", lambda *_: False)
    torch.manual_seed(0)
    torch._dynamo.reset()
    counters.clear()
    yield
    set_engine("auto")
    torch._dynamo.reset()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile without the C++ compiler: the same capture and the same graphs, run by torch's own kernels."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


def made(name: str, channels: int = 6, **options: object) -> nn.Module:
    """A layer with parameters that are not ones and zeros."""
    if name == "fnbl":
        options["semantics"] = "text"
    layer = make_norm(name, channels, **options)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def trained(model: nn.Module, inputs: list[Tensor]) -> dict[str, Tensor]:
    """Outputs in training and at evaluation, gradients of inputs and parameters, and what the layers remember."""
    found = {}
    for i, x in enumerate(inputs):
        x = x.detach().requires_grad_()
        y = model.train()(x)
        y.sin().sum().backward()
        found |= {f"y{i}": y.detach(), f"dx{i}": x.grad}
        with torch.no_grad():
            found[f"eval{i}"] = model.eval()(x)
    found |= {f"gradient of {k}": p.grad for k, p in model.named_parameters()}
    return found | {k: b.clone() for k, b in model.named_buffers()}


def assert_compiled_is_eager(model: nn.Module, *shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> None:
    """Training steps on inputs of these shapes."""
    twin, inputs = copy.deepcopy(model.to(dtype)), [torch.randn(s, dtype=dtype) + i for i, s in enumerate(shapes)]
    set_engine("eager")
    expected = trained(model, inputs)
    assert not counters["stats"]
    set_engine("compiled")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "torch.compile does not work")
        found = trained(twin, inputs)
    assert counters["stats"]["unique_graphs"] > 0
    for key, value in expected.items():
        rounding = 1e-4 if dtype == torch.float32 else 1e-8
        torch.testing.assert_close(
            found[key], value, rtol=rounding, atol=rounding, msg=lambda m, key=key: f"{key}: {m}"
        )


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ENGINE)
def test_every_layer_computes_the_same_compiled(name: str) -> None:
    """Two steps, the second with another size: running statistics, references and clips move in between."""
    assert_compiled_is_eager(made(name), (4, 6, 5, 5), (3, 6, 4, 7))


@pytest.mark.usefixtures("quick")
def test_compiling_is_silent() -> None:
    """No warning that a user could not explain."""
    set_engine("compiled")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made("sn")(torch.randn(4, 6, 5, 5, requires_grad=True)).sum().backward()
    assert not [w for w in caught if not issubclass(w.category, DeprecationWarning)]
    assert counters["stats"]["unique_graphs"] > 0


@compiler
def test_with_the_real_compiler() -> None:
    """The mix of the most operations; the others are traced by the same means and made of the same ones."""
    with inductor.patch(compile_threads=1):
        assert_compiled_is_eager(made("sn"), (4, 6, 5, 5), (4, 6, 5, 5), dtype=torch.float32)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 5), (2, 6, 3, 4, 2)], ids=len)
def test_any_number_of_axes(shape: tuple[int, ...]) -> None:
    assert_compiled_is_eager(made("ln"), shape)


@pytest.mark.usefixtures("quick")
def test_half_precision() -> None:
    dtype = torch.bfloat16
    model, x = made("ln"), torch.randn(4, 6, 5, 5, dtype=dtype)
    set_engine("eager")
    y = model(x)
    set_engine("compiled")
    found = model(x)
    assert counters["stats"]["unique_graphs"] > 0
    assert found.dtype == dtype
    torch.testing.assert_close(found, y)


@pytest.mark.usefixtures("quick")
def test_channels_last_stays() -> None:
    set_engine("compiled")
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    y = fused_norm(x, batch_mix, *parameters_of("batch", 3, torch.float32))[0]
    y.sum().backward()
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("quick")
def test_a_network_of_many_kinds_of_one_layer() -> None:
    """A layer for each channel count, size and eps: all stay compiled. Dynamo gives up at a number of
    recompilations, and would go on without a word, slowly."""
    layers, before = [], 2
    for i, channels in enumerate((3, 4, 6, 8, 10, 12, 16, 20, 24, 32)):
        layers += [nn.Conv2d(before, channels, 1), made("bn", channels, eps=10.0**-i)]
        before = channels
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        assert_compiled_is_eager(nn.Sequential(*layers), (4, 2, 6, 5), (3, 2, 4, 7))
    assert not [reason for reason in counters["unimplemented"] if "limit" in reason]


@pytest.mark.usefixtures("quick")
def test_two_layers_of_a_class_do_not_share_what_is_theirs() -> None:
    """eps, groups and the clips are attributes that the mix reads, not arguments."""
    for name, options in (
        ("bn", [{"eps": 1e-5}, {"eps": 1.0}]),
        ("gn", [{"num_groups": 2}, {"num_groups": 3}]),
        ("brn", [{"r_max": 1.0, "d_max": 0.0, "schedule": None}, {"r_max": 3.0, "d_max": 5.0, "schedule": None}]),
    ):
        model = nn.Sequential(*(made(name, **option) for option in options))
        assert_compiled_is_eager(model, (4, 6, 5, 5), (4, 6, 5, 5))
        counters.clear()


@pytest.mark.usefixtures("quick")
def test_a_mix_made_anew_each_call_reads_its_own_values() -> None:
    """Closures share their code; what they close over differs. They are not compiled once a call either."""
    set_engine("compiled")
    x = torch.randn(4, 3, 5)

    def scaled(factor: Tensor) -> Tensor:
        return fused_norm(x, lambda mean, var: (mean, factor * torch.rsqrt(var + 1e-5), torch.zeros_like(mean)))[0]

    expected = (x - x.mean(2, keepdim=True)) / (x.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    for factor in torch.arange(1.0, 7.0):
        torch.testing.assert_close(scaled(factor), factor * expected, rtol=1e-5, atol=1e-5)
    assert counters["stats"]["unique_graphs"] <= 2


# --- without a compiler ------------------------------------------------------------------------------------


def assert_one_warning_and_the_eager_result() -> None:
    model = made("sn")
    twin = copy.deepcopy(model)
    inputs = [torch.randn(4, 6, 5, 5), torch.randn(4, 6, 5, 5)]
    set_engine("eager")
    expected = trained(model, inputs)
    set_engine("compiled")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = trained(twin, inputs)
    said = [str(w.message) for w in caught if "torch.compile does not work here" in str(w.message)]
    assert len(said) == 1
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_backend_that_fails_costs_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no compiler today")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    assert_one_warning_and_the_eager_result()


def test_a_compiler_that_is_not_there_costs_one_warning() -> None:
    with inductor.patch({"cpp.cxx": (None, "/nowhere/g++"), "force_disable_caches": True, "compile_threads": 1}):
        assert_one_warning_and_the_eager_result()


def test_errors_of_the_mix_are_its_own() -> None:
    """No compiler is to blame for them."""

    def wrong(mean: Tensor, var: Tensor) -> tuple[Tensor, ...]:
        raise ValueError("this mix is wrong")

    for name in ("eager", "compiled"):
        set_engine(name)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "torch.compile does not work")
            with pytest.raises(ValueError, match="this mix is wrong"):
                fused_norm(torch.randn(2, 3, 4), wrong)


# --- choosing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["inductor", "", "Eager", None])
def test_an_unknown_engine_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"engine must be 'auto', 'eager' or 'compiled', got {name!r}"):
        set_engine(name)


@pytest.mark.parametrize("name", ["auto", "eager"])
def test_a_cpu_is_served_eagerly_unless_asked(name: str) -> None:
    set_engine(name)
    BatchNorm(3)(torch.randn(2, 3, 4)), InstanceNorm(3)(torch.randn(2, 3, 4))
    assert not counters["stats"]


def test_a_refused_engine_changes_nothing() -> None:
    set_engine("eager")
    with pytest.raises(ValueError, match="engine must be"):
        set_engine("fast")
    BatchNorm(3)(torch.randn(2, 3, 4))
    assert not counters["stats"]
