"""The speed of the training loop, measured: variants take turns within one process, and medians are compared."""

import io
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from . import data
from .errors import DataError
from .provenance import choose_device, provenance
from .runs import RunConfig
from .training import Images, batches, build, deterministic, optimizer, step

STEPS = 40  # a round of a loop


class _Pictures(TorchDataset[tuple[Tensor, int]]):
    """What people write: encoded pictures, decoded by PIL and transformed one by one."""

    def __init__(self, split: data.Split, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.labels = split.labels.tolist()
        self.files = [_png(image) for image in split.images]
        self.mean, self.std = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = np.array(Image.open(io.BytesIO(self.files[index])))
        x = torch.from_numpy(image if image.ndim == 3 else image[:, :, None]).permute(2, 0, 1).float() / 255
        return (x - self.mean) / self.std, self.labels[index]


def _png(image: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(buffer, format="png")
    return buffer.getvalue()


def training(device: str = "auto", batch_size: int = 64, rounds: int = 15) -> dict[str, Any]:
    """Images a second of three loops over the same network and batch size: LeNet-5 with BN.

    ``ours``: the loop of :mod:`normcore.lab.training`. ``plain``: a ``DataLoader`` with two workers that
    decode and transform picture by picture. ``floor``: the same step on one batch that is already in memory.
    Fashion-MNIST where it is found, else the embedded digits. On a CPU one thread trains.

    Returns:
        ``loops`` (images a second: median, and each round's), ``ours_over_floor``, ``ours_over_plain``
        (medians of the ratios within a round, so that a slow moment of the machine slows both), the
        setting and its provenance.
    """
    chosen = choose_device(device)
    name = "fashion_mnist"
    try:
        dataset = data.load(name, 28)
    except DataError:
        name = "digits"
        dataset = data.load(name, 28)
    config = RunConfig(
        dataset=name, image_size=28, model="lenet5", norm="bn", lr=1e-3, batch_size=batch_size, steps=10**9, seed=0
    )
    with deterministic(chosen):
        loops = {
            "ours": _ours(config, dataset, chosen),
            "plain": _plain(config, dataset, chosen),
            "floor": _floor(config, dataset, chosen),
        }
        rates: dict[str, list[float]] = {loop: [] for loop in loops}
        for turn in range(rounds + 1):  # the first round warms up: memory, caches, worker processes
            for loop, run in loops.items():
                rate = batch_size * STEPS / _seconds(run, chosen)
                if turn:
                    rates[loop].append(round(rate, 1))
        found = provenance(chosen)
    median = {loop: statistics.median(values) for loop, values in rates.items()}
    return {
        "dataset": name, "model": "lenet5", "norm": "bn", "batch_size": batch_size, "steps_per_round": STEPS,
        "loops": {loop: {"images_per_second": median[loop], "rounds": rates[loop]} for loop in rates},
        **{f"ours_over_{other}": _ratio(rates["ours"], rates[other]) for other in ("floor", "plain")},
        "provenance": found,
    }  # fmt: skip


def _ratio(ours: list[float], other: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(ours, other, strict=True)), 3)


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _ours(config: RunConfig, dataset: data.Dataset, device: torch.device) -> Callable[[], None]:
    images = Images(dataset.train, dataset, device)
    order = batches(torch.arange(len(images), device=device), config, 0)
    return _loop(config, dataset, device, (images.batch(index) for index in order))


def _floor(config: RunConfig, dataset: data.Dataset, device: torch.device) -> Callable[[], None]:
    batch = Images(dataset.train, dataset, device).batch(torch.arange(config.batch_size, device=device))
    return _loop(config, dataset, device, iter(lambda: batch, None))


def _plain(config: RunConfig, dataset: data.Dataset, device: torch.device) -> Callable[[], None]:
    pictures = _Pictures(dataset.train, dataset.mean, dataset.std)
    loader = DataLoader(
        pictures, config.batch_size, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True
    )

    def forever() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            for x, y in loader:
                yield x.to(device), y.to(device)

    return _loop(config, dataset, device, forever())


def _loop(
    config: RunConfig, dataset: data.Dataset, device: torch.device, source: Iterator[tuple[Tensor, Tensor]]
) -> Callable[[], None]:
    model = build(config, dataset, device)
    optim = optimizer(config, model)

    def run() -> None:
        for _ in range(STEPS):
            step(model, optim, *next(source))

    return run
