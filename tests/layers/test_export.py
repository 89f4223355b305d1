"""Compilers and exporters meet no obstacle: one graph, and the numbers of the eager layer."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from normcore import NORMS, make_norm, reference_pass

BY_INDUCTOR = ["bn", "gn", "sn"]  # the others by its tracing alone, which is where a graph would break


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), make_norm(name, 6), nn.ReLU(inplace=True), nn.Conv2d(6, 2, 1))


def pictures(seed: int = 1) -> Tensor:
    return torch.randn(4, 3, 7, 6, generator=torch.Generator().manual_seed(seed))


def trained(model: nn.Module, forward: nn.Module) -> list[Tensor]:
    """Two steps, of which the second sees what the first has left in the buffers."""
    found = []
    for seed in (1, 2):
        model.zero_grad()
        y = forward(pictures(seed))
        y.square().mean().backward()
        found += [y.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
    return [*found, *(b.clone() for b in model.buffers())]


@pytest.fixture(autouse=True)
def _no_leftover_graphs() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("name", NORMS)
def test_a_compiled_training_step_is_one_graph_and_the_same(name: str) -> None:
    eager = network(name)
    compiled = copy.deepcopy(eager)
    backend = "inductor" if name in BY_INDUCTOR else "aot_eager"
    forward = torch.compile(compiled, fullgraph=True, backend=backend)
    torch.testing.assert_close(trained(compiled, forward), trained(eager, eager), rtol=1e-4, atol=1e-5)


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


@pytest.mark.parametrize("name", NORMS)
def test_the_exported_program_is_the_same(name: str) -> None:
    model = network(name)
    model(pictures(2))
    model.eval()
    program = torch.export.export(model, (pictures(),))
    torch.testing.assert_close(program.module()(pictures(3)), model(pictures(3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NORMS)
def test_onnx_computes_the_same(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = network(name)
    model(pictures(2))
    model.eval()
    file = tmp_path / "model.onnx"
    torch.onnx.export(model, (pictures(),), str(file), dynamo=True, verbose=False)
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: pictures(3).numpy()})
    torch.testing.assert_close(torch.from_numpy(y), model(pictures(3)).detach(), rtol=1e-3, atol=1e-4)
