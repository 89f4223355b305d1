"""One optimizer step of the network ``catdog`` with every normalizer, measured: its time and its memory.

The variants take turns as the layers of :mod:`normcore.lab.bench.layers` do, each with a network and an optimizer of
its own, on the same batch, which is already in memory. On a CPU one thread works, as in the lab's training.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ...factory import NORMS
from ...layers import VirtualBatchNorm
from .. import paths
from ..catdog import HEAD, configs
from ..config import RunConfig
from ..errors import LabError
from ..files import read_sealed
from ..provenance import choose_device, provenance
from ..runs.training import build, deterministic, keep_memory, optimizer, referred, step
from ..tasks import datasets
from ..tasks.images import ImageClassification
from ..tasks.task import Task
from ..verdicts.definitions import KERAS_EPS
from .layers import TEXT, median_interval, saved, take_turns

IMAGE_SIZE, BATCH_SIZE = 64, 16
CALLS = 10  # steps of a variant in its turn
SOURCE_STEPS = 20_000  # of a run; says only when BatchRenorm would open its clips
CODE = "fnbl-code"  # FNBL with the semantics of its report's code


# --- the constructions of document S0, as published ------------------------------------------------------


class PublishedFullNormBB(nn.BatchNorm2d):
    """FNBB as document S0's code has it, restated in PyTorch: channels-last data reshaped to (N C, H, W, 1), batch
    normalization of that one channel, and the shape from before.

    PyTorch wants the channel axis in front, so it is moved there and back. The defaults are Keras': ``eps`` 1e-3,
    and running averages that keep 0.99 of what they were.
    """

    def __init__(self, channels: int, eps: float = KERAS_EPS) -> None:
        super().__init__(1, eps, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x."""
        last = x.movedim(1, -1)
        n, h, w, c = last.shape
        y = super().forward(last.reshape(n * c, h, w, 1).movedim(-1, 1))
        return y.movedim(1, -1).reshape(last.shape).movedim(-1, 1)


class PublishedFullNormBL(nn.LayerNorm):
    """FNBL as document S0's code has it, restated in PyTorch: channels-last data reshaped to (1, N H, W, C), layer
    normalization of the last axis, which is what Keras' layer takes by default, and the shape from before.

    ``eps`` is Keras' 1e-3.
    """

    def __init__(self, channels: int, eps: float = KERAS_EPS) -> None:
        super().__init__(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x."""
        last = x.movedim(1, -1)
        n, h, w, c = last.shape
        y = super().forward(last.reshape(1, n * h, w, c))
        return y.reshape(last.shape).movedim(-1, 1)


PUBLISHED_BB, PUBLISHED_BL = "fnbb as published", "fnbl as published"
PUBLISHED: dict[str, Callable[[int], nn.Module]] = {
    PUBLISHED_BB: PublishedFullNormBB,
    PUBLISHED_BL: PublishedFullNormBL,
}
#: every normalizer, FNBL in both its semantics, and the two as published
VARIANTS = (*(name for name in NORMS if name != "fnbl"), CODE, TEXT, *PUBLISHED)


# --- measuring -------------------------------------------------------------------------------------------


def steps(
    device: str = "auto", rounds: int = 21, *, image_size: int = IMAGE_SIZE, batch_size: int = BATCH_SIZE
) -> dict[str, Any]:
    """Time and memory of a step (forward, backward, Adam) of each of ``VARIANTS``, in float32.

    Args:
        device: auto, cpu or cuda.
        rounds: rounds in which the variants take turns.
        image_size, batch_size: of the batch, random pixels in three channels.

    Returns:
        ``measured``, by variant: ``ms``, and the ratios ``of_none`` and ``of_bn`` of times of the same round (each
        its median and the ends of its 95 % interval); ``saved_mb``, megabytes kept for the backward pass; on CUDA
        ``peak_mb``, the most that was allocated at once beyond network and optimizer; ``rounds``, the milliseconds
        of a step in each round. Besides, the setting and its provenance.
    """
    chosen = choose_device(device)
    keep_memory()
    with deterministic(chosen):
        found = provenance(chosen)
        noise = _noise(image_size, batch_size)
        wanted = {name: _config(name, image_size, batch_size) for name in VARIANTS}
        variants = {name: _step(name, config, noise, chosen) for name, config in wanted.items()}
        times = take_turns(variants, rounds, CALLS, chosen, f"catdog, {image_size} px, batch {batch_size}")
        measured = {name: {**_times(name, times), **variant.memory()} for name, variant in variants.items()}
    for name, row in measured.items():
        row.update(norm=wanted[name].norm, rounds=[round(ms, 4) for ms in times[name]])
    return {
        "setting": {
            "model": "catdog", "image_size": image_size, "batch_size": batch_size, "dtype": "float32",
            "rounds": rounds, "steps_per_round": CALLS,
        },
        "measured": measured,
        "provenance": found,
    }  # fmt: skip


class Step:
    """A network with its optimizer; calling it is a step of training on the task's first batch."""

    def __init__(self, config: RunConfig, task: Task, model: nn.Module) -> None:
        self.task, self.model = task, model
        self.batch = task.batch(task.items[: config.batch_size])
        self.optimizer = optimizer(config, model)
        virtual = any(isinstance(layer, VirtualBatchNorm) for layer in model.modules())
        self.reference = self.batch[0] if virtual else None

    def __call__(self) -> None:
        step(self.model, self.optimizer, self.task, self.batch, self.reference)

    def loss(self) -> Tensor:
        with referred(self.model, self.reference):
            return self.task.measure(self.model, self.batch)[0]

    def memory(self) -> dict[str, float]:
        row = {"saved_mb": round(saved_bytes(self.loss, self.model.parameters()) / 1e6, 3)}
        if self.task.device.type == "cuda":
            self.optimizer.zero_grad(set_to_none=True)
            torch.cuda.reset_peak_memory_stats(self.task.device)
            before = torch.cuda.memory_allocated(self.task.device)
            self()
            row["peak_mb"] = round((torch.cuda.max_memory_allocated(self.task.device) - before) / 1e6, 3)
        return row


def _step(name: str, config: RunConfig, dataset: datasets.Dataset, device: torch.device) -> Step:
    task = ImageClassification(config, device, dataset)
    return Step(config, task, _network(name, config, task))


def _config(name: str, image_size: int, batch_size: int) -> RunConfig:
    """As the experiments have it, with BN behind the flattening of all but the plain network, and but for FNBL by its
    code, which they take from ``cln``."""
    base = "fnbl" if name in (CODE, PUBLISHED_BL) else name.partition(" ")[0]
    options: dict[str, Any] = {"norm_options": {"semantics": "code"}} if base == "fnbl" else {}
    (config,) = configs(
        [base if base == "none" else base + HEAD], dataset="shapes", image_size=image_size, batch_size=batch_size,
        steps=SOURCE_STEPS, seeds=1, **options,
    )  # fmt: skip
    return config


def _network(name: str, config: RunConfig, task: ImageClassification) -> nn.Module:
    if name not in PUBLISHED:
        return build(config, task)
    torch.manual_seed(config.seed)
    return task.network(PUBLISHED[name]).to(  # type: ignore[call-overload]
        task.device, memory_format=torch.channels_last
    )


def _noise(image_size: int, batch_size: int) -> datasets.Dataset:
    """One batch of random pixels in two classes; a step takes as long whatever there is to see."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, image_size, image_size, 3), dtype=np.uint8)
    split = datasets.Split(pixels, np.arange(batch_size, dtype=np.int64) % 2)
    return datasets.Dataset("noise", image_size, 2, (0.5,) * 3, (0.29,) * 3, split, split, "", "generated")


def _times(name: str, times: Mapping[str, list[float]]) -> dict[str, list[float]]:
    return {
        "ms": median_interval(times[name]),
        "of_none": _ratio(times[name], times["none"]),
        "of_bn": _ratio(times[name], times["bn"]),
    }


def _ratio(ours: Iterable[float], other: Iterable[float]) -> list[float]:
    return median_interval([a / b for a, b in zip(ours, other, strict=True)])


def saved_bytes(run: Callable[[], object], parameters: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of what ``run`` computes: every storage once, its input among
    them, without those of the parameters, which are there anyway."""
    there = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    return sum(size for address, size in saved(run).items() if address not in there)


# --- reading ---------------------------------------------------------------------------------------------


def read(device: str = "cpu") -> dict[str, Any]:
    """What was measured on the device, as from :func:`steps`, of ``data/benchmarks``.

    Raises:
        LabError: there is nothing yet.
    """
    path = paths.root() / "data" / "benchmarks" / f"steps-{device}.json"
    if not path.is_file():
        raise LabError(f"no {path.name} yet: normcore bench steps --device {device} --json data/benchmarks/{path.name}")
    return read_sealed(path)


def step_costs(device: str = "cpu") -> pd.DataFrame:
    """What a step costs with each normalizer, one row a variant of :func:`rows`.

    Args:
        device: cpu or cuda.

    Raises:
        LabError: nothing was measured there yet.
    """
    return pd.DataFrame(rows(read(device)))


def rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``variant``, its ``norm``, the median ``ms`` of a step and its 95 % interval ``ms_low`` to ``ms_high``, the
    medians of its ratios ``of_none`` and ``of_bn``, ``saved_mb``, ``images_per_second``; on CUDA ``peak_mb``."""
    batch = found["setting"]["batch_size"]
    return [
        {
            "variant": name,
            "norm": row["norm"],
            **dict(zip(("ms", "ms_low", "ms_high"), row["ms"], strict=True)),
            "of_none": row["of_none"][0],
            "of_bn": row["of_bn"][0],
            "saved_mb": row["saved_mb"],
            "images_per_second": round(1000 * batch / row["ms"][0], 1),
            **({"peak_mb": row["peak_mb"]} if "peak_mb" in row else {}),
        }
        for name, row in found["measured"].items()
    ]


def ratio(found: Mapping[str, Any], variant: str, other: str) -> list[float]:
    """Median of the ratio of two variants' times of the same round, and the ends of its 95 % interval."""
    return _ratio(*(found["measured"][name]["rounds"] for name in (variant, other)))
