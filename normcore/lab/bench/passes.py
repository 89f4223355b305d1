"""The passes over memory of every layer where torch.compile makes its code, counted by the compiler's own metrics.

Nothing is timed: what the generated kernels read and write is known when they are made. So it says how far a layer is
from the memory floor on a GPU, too, for which Inductor writes Triton, without one.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from ..provenance import choose_device, provenance
from . import triton_code
from .layers import NAMES, Shape, layer_named

#: of the input: read for the statistics, read again and y written; then x and dy read twice and dx written
FLOOR = {"forward": 3, "backward": 5}
SHAPE: Shape = (32, 64, 56, 56)


def passes(device: str = "auto", *, names: Sequence[str] = NAMES, shape: Shape = SHAPE) -> dict[str, Any]:
    """Kernels and memory traffic of forward and backward of every layer under ``torch.compile``, in training.

    Args:
        device: cpu, for which C++ is written; cuda, whose Triton is counted with or without a GPU; or auto.
        names: which layers.
        shape: of the input.

    Returns:
        ``measured``: by layer and direction the number of generated ``kernels``, and the ``passes``: the bytes that
        they read and write as a multiple of the input's. A kernel that goes over its input twice counts it once, so
        that the passes may be below those of the ``floor``.
    """
    triton = device == "cuda" or choose_device(device).type == "cuda"
    x = torch.randn(shape, requires_grad=True)
    return {
        "setting": {"shape": " x ".join(map(str, shape)), "dtype": "float32", "floor": FLOOR,
                    "code": "Triton" if triton else "C++"},
        "measured": {name: _count(layer_named(name, shape[1], {}), x, triton) for name in names},
        "provenance": provenance(choose_device("cpu")),
    }  # fmt: skip


def _count(layer: nn.Module, x: Tensor, triton: bool) -> dict[str, dict[str, float]]:
    counts = triton_code.count(layer, x) if triton else _count_on_cpu(layer, x)
    return {
        way: {"kernels": kernels, "passes": round(size / x.nbytes, 2)}
        for way, (kernels, size) in zip(FLOOR, counts, strict=True)
    }


def _count_on_cpu(layer: nn.Module, x: Tensor) -> list[tuple[int, float]]:
    """Kernels and bytes, forward and backward."""
    from torch._inductor import config
    from torch._inductor.graph import GraphLowering

    torch._dynamo.reset()
    compiled = torch.compile(layer)
    # what is taken from a cache is not counted
    with config.patch(force_disable_caches=True), mock.patch.object(GraphLowering, "count_bytes", _count_bytes):
        y, forward = _counted(lambda: compiled(x))
        _, backward = _counted(lambda: y.backward(torch.ones_like(y)))
    return [forward, backward]


def _counted(run: Callable[[], Any]) -> tuple[Any, tuple[int, float]]:
    from torch._inductor import compile_fx, metrics

    log = compile_fx.inductor_metrics_log  # bytes are counted where they would be logged
    level, spreads = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False
    metrics.reset()
    try:
        made = run()
    finally:
        log.setLevel(level)
        log.propagate = spreads
    return made, (metrics.generated_kernel_count, metrics.num_bytes_accessed)


def _count_bytes(graph: Any) -> tuple[int, list[Any], list[Any]]:
    """As the compiler has it, but without the tensors that a kernel only has to wait for: where a running average is
    overwritten the compiler's own count takes x and y for read once more."""
    from torch._inductor.dependencies import WeakDep

    total = 0
    for node in graph.scheduler.nodes:
        read = {d.name for d in node.read_writes.reads_and_writes() if not isinstance(d, WeakDep)}
        total += sum(size for name, size in node.get_read_write_buffer_accesses(True, True).items() if name in read)
    return total, [], []


def rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each layer: kernels and passes, forward and backward."""
    return [
        {
            "layer": name,
            **{f"{key}, {way}": counts[way][key] for way in FLOOR for key in ("kernels", "passes")},
        }
        for name, counts in found["measured"].items()
    ]
