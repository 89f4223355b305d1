"""The Triton code that torch.compile writes for a GPU, counted where there is no GPU.

A layer takes its step on the CPU; on the way its graphs, forward and backward, are said to be on a GPU and lowered as
far as the code. Nothing of that code is made into machine code or run. It needs the package triton, and a compiler
with these private parts, as that of torch 2.13 is.
"""

import copy
import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from ..errors import UsageError

GPU = torch.device("cuda", 0)
#: of an H100 (SXM), which the compiler asks for its block sizes; none of them changes what is read and written
PROPERTIES = {
    "name": "H100",
    "major": 9,
    "minor": 0,
    "multi_processor_count": 132,
    "warp_size": 32,
    "max_threads_per_block": 1024,
    "max_threads_per_multi_processor": 2048,
    "regs_per_multiprocessor": 65536,
    "shared_memory_per_block": 49152,
    "shared_memory_per_block_optin": 232448,
    "total_memory": 80 * 2**30,
    "L2_cache_size": 50 * 2**20,
    "gcnArchName": "",
}


def count(layer: nn.Module, x: Tensor) -> list[tuple[int, float]]:
    """Of a training step, forward and backward: the number of kernels, and the bytes that they read and write, where an
    argument that a kernel goes over twice counts once.

    Raises:
        UsageError: the package triton is missing.
    """
    if importlib.util.find_spec("triton") is None:
        raise UsageError("Triton code is written with the package triton: pip install triton")
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.aot_autograd import make_boxed_func
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch._inductor.compile_fx import _recursive_joint_graph_passes
    from torch._inductor.decomposition import select_decomp_table

    kernels: dict[str, list[float]] = {"forward": [], "backward": []}

    def compiler(way: str) -> Callable[..., Any]:
        def compiled(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
            kernels[way] = _kernels(copy.deepcopy(graph), inputs)
            return make_boxed_func(graph.forward)

        return compiled

    def partition(graph: torch.fx.GraphModule, inputs: Sequence[Any], **options: Any) -> Any:
        _recursive_joint_graph_passes(graph)
        return min_cut_rematerialization_partition(graph, inputs, compiler="inductor", **options)

    backend = aot_autograd(
        fw_compiler=compiler("forward"),
        bw_compiler=compiler("backward"),
        partition_fn=partition,
        decompositions=select_decomp_table(),
        keep_inference_input_mutations=True,
    )
    torch._dynamo.reset()
    y = torch.compile(layer, backend=backend)(x)
    y.backward(torch.ones_like(y))
    return [(len(sizes), sum(sizes)) for sizes in kernels.values()]


def _kernels(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> list[float]:
    """Bytes of each kernel, of a graph of operations as the compiler has it on a GPU."""
    from torch._guards import detect_fake_mode
    from torch._inductor import config
    from torch._inductor.compile_fx import _recursive_post_grad_passes
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.passes.fake_tensor_prop import FakeTensorProp

    with V.set_fake_mode(detect_fake_mode(inputs)):
        _recursive_post_grad_passes(graph, is_inference=False)
    mode = FakeTensorMode()
    for node in graph.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": GPU}
    graph.recompile()
    with mode:
        there = [
            torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=GPU) if isinstance(t, Tensor) else t
            for t in inputs
        ]
    FakeTensorProp(graph, mode).propagate_dont_convert_inputs(*there)
    with _gpu(), V.set_fake_mode(mode), _debug(), config.patch(benchmark_kernel=True):
        lowering = GraphLowering(graph, example_inputs=there)
        with V.set_graph_handler(lowering):
            lowering.run(*there)
            code = lowering.codegen()[0].value
    return [1e9 * float(size) for size in re.findall(r"'kernel_num_gb': ([\d.e-]+)", code)]


@contextmanager
def _debug() -> Iterator[None]:
    """The record of its steps that the compiler asks for."""
    from torch._inductor.debug import DebugContext
    from torch._inductor.virtualized import V

    with DebugContext() as context, V.set_debug_handler(context or DebugContext()):
        yield


@contextmanager
def _gpu() -> Iterator[None]:
    """Whoever asks is told of a GPU."""
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor import scheduler
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    properties = SimpleNamespace(**PROPERTIES)
    capability = 10 * properties.major + properties.minor
    target = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", capability, properties.warp_size),
        get_current_device=lambda: GPU.index,
        get_active_torch_device=lambda: GPU,
    )
    answers: list[tuple[Any, dict[str, Any]]] = [
        (CudaInterface.Worker, {"get_device_properties": properties, "current_device": GPU.index}),
        (CudaInterface, {"get_device_properties": properties, "current_device": GPU.index,
                         "get_compute_capability": capability, "is_available": True,
                         "is_triton_capable": True, "raise_if_triton_unavailable": None}),
        (torch.cuda, {"get_device_properties": properties, "get_device_capability": (9, 0), "is_available": True,
                      "current_device": GPU.index, "device_count": 1}),
        (scheduler, {"has_triton": True}),
    ]  # fmt: skip
    with ExitStack() as stack:
        for place, said in answers:
            for name, answer in said.items():
                stack.enter_context(mock.patch.object(place, name, lambda *_, answer=answer, **__: answer))
        stack.enter_context(mock.patch.object(driver, "_active", target))
        yield
