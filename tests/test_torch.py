"""Without any one of torch's names that nobody promises, the layers compute the same by plain operations."""

import ast
import pkgutil
import types
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

import normcore
from normcore import _torch, convert_norms, functional, fused_norm, make_norm, set_engine

from .formulas import (
    CASES,
    FORMULAS,
    MIXES,
    assert_step,
    batch_mix,
    gradient_within_a_gradient,
    parameters_of,
    randomized,
    route,
    scattered,
)  # fmt: skip
from .helpers import case, laid_out

pytestmark = pytest.mark.usefixtures("seed")
FOLDER = Path(normcore.__file__).parent
SOURCE = Path(_torch.__file__).read_text(encoding="utf-8")
#: what the module looks up, by of_torch or by getattr
NAMES: list[str] = [
    next(a.value for a in call.args if isinstance(a, ast.Constant))
    for call in ast.walk(ast.parse(SOURCE))
    if isinstance(call, ast.Call) and ast.unparse(call.func) in ("of_torch", "getattr")
]
OF_THE_COMPILER = ["torch.utils._triton:has_triton", "torch._dynamo.exc:TorchDynamoException"]
OF_LAYERS = ["torch.nn.modules.batchnorm:_BatchNorm", "torch.nn.modules.instancenorm:_InstanceNorm"]
OF_CHECKPOINTING = ["torch:_C._current_graph_task_id"]
OF_THE_ENGINE = [name for name in NAMES if name not in (*OF_THE_COMPILER, *OF_LAYERS, *OF_CHECKPOINTING)]
without_each_of_the_engines = pytest.mark.parametrize("name", OF_THE_ENGINE)


class Operations(TorchDispatchMode):
    """Which operations are called within the block."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.called.append(str(func))
        return func(*args, **(kwargs or {}))


def operations() -> list[str]:
    """Of a forward and a backward pass of the engine, contiguous and channels_last."""
    with Operations() as mode:
        for layout in ("contiguous", "channels_last"):
            x, dy = (laid_out(t, layout) for t in torch.randn(2, 2, 3, 128, 128))
            y = fused_norm(x.requires_grad_(), batch_mix, None, None, None)[0]
            torch.autograd.grad(y, x, dy)
    return mode.called


def lack(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``normcore._torch`` what it is in a torch without the name: its source, looking for another."""
    assert SOURCE.count(f'"{name}"') == 1
    module = types.ModuleType("normcore._torch")
    exec(compile(SOURCE.replace(f'"{name}"', f'"{name}_of_no_torch"'), "_torch.py", "exec"), module.__dict__)
    for key, value in vars(module).items():
        if not key.startswith("__"):
            monkeypatch.setattr(_torch, key, value)


def test_the_core_takes_private_names_of_torch_from_one_module() -> None:
    """Names with an underscore, operators of the dispatcher, kernels called native."""
    looked_at = 0
    for path in FOLDER.rglob("*.py"):
        if path.name == "_torch.py" or path.relative_to(FOLDER).parts[0] == "lab":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = []
            if isinstance(node, ast.Attribute):
                parts = ast.unparse(node).split(".")
                parts = parts if parts[0] in ("torch", "nn", "F", "dist") else []
            elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "torch":
                parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            looked_at += bool(parts)
            private = [p for p in parts if p == "ops" or p.startswith(("_", "native_"))]
            assert not private, f"{path.name}: {'.'.join(parts)}"
    assert looked_at > 100


def test_this_torch_has_every_name() -> None:
    """Otherwise all is right, and slow, and nobody says so."""
    assert len(NAMES) == len(set(NAMES)) > 10
    for name in NAMES:
        assert hasattr(forward_ad, name) if ":" not in name else pkgutil.resolve_name(name) is not None, name
    assert _torch.of_torch("torch:_C._no_such_name", "instead") == "instead"
    assert _torch.of_torch("torch._no_such_module:name") is None


@without_each_of_the_engines
def test_every_layer_follows_its_formula(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs, gradients and buffers in float64, by the engine, whose operations are others than before."""
    before = operations()
    lack(name, monkeypatch)
    assert operations() != before
    with route("engine"):
        for key, layout in ((key, layout) for key in CASES for layout in ("contiguous", "channels_last")):
            layer = randomized(CASES[key].layer(4, dtype=torch.float64))
            for training in (True, True, False):
                with case(key, layout, "training" if training else "evaluation"):
                    assert_step(key, layer.train(training), laid_out(scattered((3, 4, 2, 3)), layout))


@without_each_of_the_engines
def test_derivatives_of_every_kind(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward mode, batched and second derivatives, and transforms, of the mix that has most to hide."""
    lack(name, monkeypatch)
    x = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    arguments = (x, *parameters_of("tangled", 2))

    def call(*arguments: Tensor) -> Tensor:
        return fused_norm(arguments[0], MIXES["tangled"], *arguments[1:])[0]

    assert torch.autograd.gradcheck(call, arguments, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, arguments, fast_mode=True)
    values = tuple(a.detach() for a in arguments)
    many = torch.randn(3, 2, 2, 3, dtype=torch.float64)
    for transformed in (torch.func.jacrev, torch.func.jacfwd, partial(torch.func.vmap, in_dims=(0, None, None, None))):
        given = (many, *values[1:]) if isinstance(transformed, partial) else values
        torch.testing.assert_close(transformed(call)(*given), transformed(FORMULAS["tangled"])(*given))


@without_each_of_the_engines
def test_a_step_within_another_and_in_place_operations(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backward pass of the same graph from a hook of the first, and ReLU in place behind the layer."""
    lack(name, monkeypatch)
    x, weight = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True), torch.ones(3, dtype=torch.float64)
    dy = torch.randn_like(x)
    (expected,) = torch.autograd.grad(FORMULAS["batch"](x, weight, weight, weight), x, dy)
    torch.testing.assert_close(gradient_within_a_gradient(weight, weight, x, dy), (expected, -expected))
    z = fused_norm(x, batch_mix, weight, weight, None)[0].relu_()
    relu = FORMULAS["batch"](x, weight, weight, weight).relu()
    torch.testing.assert_close(torch.autograd.grad(z.sum(), x), torch.autograd.grad(relu.sum(), x))


@pytest.mark.parametrize("name", OF_THE_COMPILER)
def test_a_compiler_that_does_not_work_costs_one_warning(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its error is called; and without a word about Triton nothing is compiled unasked."""

    def broken(*_: object) -> None:
        raise RuntimeError("no compiler today")

    lack(name, monkeypatch)
    assert name != "torch.utils._triton:has_triton" or not _torch.has_triton()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    layer, x = make_norm("sn", 4), torch.randn(2, 4, 3)
    expected = layer.eval()(x)
    try:
        set_engine("compiled")
        with pytest.warns(UserWarning, match="torch.compile does not work here"):
            assert torch.equal(layer(x), expected)
        assert functional._engine == "eager"
    finally:
        set_engine("auto")
        torch._dynamo.reset()


@pytest.mark.parametrize("name", OF_LAYERS)
def test_layers_of_torch_are_exchanged_all_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lack(name, monkeypatch)
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    kinds = (*kinds, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
    monkeypatch.setattr(normcore.surgery, "_TORCH_AVERAGING", (_torch.BatchNorms, _torch.InstanceNorms))
    model = convert_norms(nn.Sequential(*(kind(4) for kind in kinds)), "bn")
    assert [type(layer) for layer in model] == [normcore.BatchNorm] * len(kinds)
