"""The passes over memory of every layer where torch.compile makes its code, counted by the compiler's own metrics.

Nothing is timed: what the generated kernels read and write is known when they are made. So it says on a CPU, too, how
far a layer is from the memory floor; Inductor fuses the same operations for a GPU, where it writes Triton.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..provenance import choose_device, provenance
from .layers import NAMES, Shape, layer_named

#: of the input: read for the statistics, read again and y written; then x and dy read twice and dx written
FLOOR = {"forward": 3, "backward": 5}
SHAPE: Shape = (32, 64, 56, 56)


def passes(device: str = "auto", *, names: Sequence[str] = NAMES, shape: Shape = SHAPE) -> dict[str, Any]:
    """Kernels and memory traffic of forward and backward of every layer under ``torch.compile``, in training.

    Args:
        device: auto, cpu or cuda.
        names: which layers.
        shape: of the input.

    Returns:
        ``measured``: by layer and direction the number of generated ``kernels``, and the ``passes``: the bytes that
        they read and write as a multiple of the input's. A kernel that goes over its input twice counts it once, so
        that the passes may be below those of the ``floor``.
    """
    chosen = choose_device(device)
    x = torch.randn(shape, device=chosen, requires_grad=True)
    return {
        "setting": {"shape": " x ".join(map(str, shape)), "dtype": "float32", "floor": FLOOR},
        "measured": {name: _count(name, x) for name in names},
        "provenance": provenance(chosen),
    }


def _count(name: str, x: torch.Tensor) -> dict[str, dict[str, float]]:
    from torch._inductor import config

    torch._dynamo.reset()
    layer = torch.compile(layer_named(name, x.shape[1], {}).to(x.device))
    with config.patch(force_disable_caches=True):  # what is taken from a cache is not counted
        y, forward = _counted(lambda: layer(x), x)
        _, backward = _counted(lambda: y.backward(torch.ones_like(y)), x)
    return {"forward": forward, "backward": backward}


def _counted(run: Callable[[], Any], x: torch.Tensor) -> tuple[Any, dict[str, float]]:
    from torch._inductor import compile_fx, metrics

    log = compile_fx.inductor_metrics_log  # bytes are counted where they would be logged
    level, spreads = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False
    metrics.reset()
    try:
        found = run()
    finally:
        log.setLevel(level)
        log.propagate = spreads
    kernels = metrics.generated_kernel_count
    return found, {"kernels": kernels, "passes": round(metrics.num_bytes_accessed / x.nbytes, 2)}


def rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each layer: kernels and passes, forward and backward."""
    return [
        {
            "layer": name,
            **{f"{key}, {way}": counts[way][key] for way in FLOOR for key in ("kernels", "passes")},
        }
        for name, counts in found["measured"].items()
    ]
