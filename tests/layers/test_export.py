"""Compilers and exporters meet no obstacle: one graph, and the numbers of the eager layers."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import compiled_autograd

from normcore import NORMS, make_norm, reference_pass

from ..helpers import case

BY_INDUCTOR = ["bn", "gn", "sn"]  # the others by its tracing alone, which is where a graph would break


class Network(nn.Module):
    """Each normalizer in a block of its own, side by side, with an output and gradients of its own: all of them are
    compiled at once, which takes seconds, and one that differs is named."""

    def __init__(self, **norms: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict(
            {
                f"block_{name}": nn.Sequential(nn.Conv2d(3, 6, 3), norm, nn.ReLU(inplace=True), nn.Conv2d(6, 2, 1))
                for name, norm in norms.items()
            }
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(block(x) for block in self.blocks.values())


def network(*names: str) -> Network:
    torch.manual_seed(0)
    return Network(**{name: make_norm(name, 6) for name in names})


def pictures(seed: int = 1) -> Tensor:
    return torch.randn(4, 3, 7, 6, generator=torch.Generator().manual_seed(seed))


def trained(model: Network, forward: nn.Module) -> dict[str, list[Tensor]]:
    """By block two steps, of which the second sees what the first has left in the buffers."""
    found: dict[str, list[Tensor]] = {name: [] for name in model.blocks}
    for seed in (1, 2):
        model.zero_grad()
        outputs = forward(pictures(seed))
        torch.stack([y.square().mean() for y in outputs]).sum().backward()
        for (name, block), y in zip(model.blocks.items(), outputs, strict=True):
            found[name] += [y.detach(), *(p.grad.clone() for p in block.parameters() if p.grad is not None)]
    for name, block in model.blocks.items():
        found[name] += [b.clone() for b in block.buffers()]
    return found


def assert_close(found: dict[str, list[Tensor]], expected: dict[str, list[Tensor]]) -> None:
    assert found.keys() == expected.keys()
    for name, tensors in found.items():
        with case(name):
            torch.testing.assert_close(tensors, expected[name], rtol=1e-4, atol=1e-5)


@pytest.fixture
def evaluated() -> Network:
    """All normalizers after a batch, at evaluation."""
    model = network(*NORMS)
    model(pictures(2))
    return model.eval()


@pytest.fixture(autouse=True)
def _no_leftover_graphs() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["inductor", "aot_eager"])
def test_a_compiled_training_step_is_one_graph_and_the_same(backend: str) -> None:
    eager = network(*(BY_INDUCTOR if backend == "inductor" else NORMS))
    eager.blocks["averaging"] = nn.Sequential(nn.Conv2d(3, 6, 3), make_norm("bn", 6, momentum=None, affine=False))
    compiled = copy.deepcopy(eager)
    forward = torch.compile(compiled, fullgraph=True, backend=backend)
    assert_close(trained(compiled, forward), trained(eager, eager))


@pytest.mark.parametrize(
    ("training", "names"),
    [
        (True, ["in", "sn"]),
        (False, ["brn"]),
        *(pytest.param(training, list(NORMS), marks=pytest.mark.fuzz) for training in (True, False)),
    ],
)
def test_the_backward_pass_of_eager_layers_compiles_to_one_graph(training: bool, names: list[str]) -> None:
    """By compiled autograd, which looks into the engine's autograd functions: one example of each, and all layers."""
    eager = network(*names)
    eager(pictures(2))
    eager.train(training)
    once = copy.deepcopy(eager)
    with compiled_autograd._enable(torch.compile(backend="eager", fullgraph=True)):
        found = trained(once, once)
    assert_close(found, trained(eager, eager))


def test_momentum_none_and_masks_compile_to_one_graph() -> None:
    eager = make_norm("bn", 3, momentum=None)
    compiled = copy.deepcopy(eager)
    mask = torch.arange(7) < torch.tensor([[7], [3], [5], [1]])
    x = pictures()[:, :, :, 0]
    forward = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        torch.testing.assert_close(forward(x, mask), eager(x, mask))
    torch.testing.assert_close(compiled.state_dict(), eager.state_dict())


def test_a_compiled_model_takes_a_reference_pass() -> None:
    eager = network("vbn")
    compiled = copy.deepcopy(eager)
    forward = torch.compile(compiled, backend="aot_eager")
    with reference_pass(eager, pictures(5)), reference_pass(compiled, pictures(5)):
        torch.testing.assert_close(forward(pictures()), eager(pictures()), rtol=1e-4, atol=1e-5)


def test_the_exported_program_is_the_same(evaluated: Network) -> None:
    program = torch.export.export(evaluated, (pictures(),)).module()
    for name, y, expected in zip(NORMS, program(pictures(3)), evaluated(pictures(3)), strict=True):
        with case(name):
            torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


def test_onnx_computes_the_same(evaluated: Network, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    file = tmp_path / "model.onnx"
    torch.onnx.export(evaluated, (pictures(),), str(file), dynamo=True, verbose=False)
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: pictures(3).numpy()})
    for name, y, expected in zip(NORMS, outputs, evaluated(pictures(3)), strict=True):
        with case(name):
            torch.testing.assert_close(torch.from_numpy(y), expected.detach(), rtol=1e-3, atol=1e-4)
