"""The speed of the training loop, measured: variants take turns within one process, and medians are compared."""

import io
import mmap
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ..config import RunConfig
from ..errors import DataError
from ..provenance import choose_device, provenance
from ..runs.training import batches, build, deterministic, keep_memory, optimizer, step, stepper
from ..tasks import datasets
from ..tasks.images import ImageClassification, Images

Batches = Iterator[tuple[Tensor, Tensor]]

STEPS = 40  # a round of a loop
ENCODED = 2000  # pictures at most that are encoded for the plain loop
LOOPS = ("ours", "plain", "floor")


class Setting(NamedTuple):
    """What is trained, with BN; ``instead`` is the data set where the first is not found."""

    model: str
    dataset: str
    instead: str
    image_size: int
    batch_size: int


SETTINGS = (
    Setting("lenet5", "fashion_mnist", "digits", 28, 64),
    Setting("catdog", "cats_vs_dogs", "shapes", 64, 16),
    Setting("catdog", "cats_vs_dogs", "shapes", 128, 16),
)


class _Pictures(TorchDataset[tuple[Tensor, int]]):
    """What people write: encoded pictures, decoded by PIL and transformed one by one.

    As many as the split has, so that an epoch is as long, but only the first ``ENCODED`` of them, again and again.
    """

    def __init__(self, split: datasets.Split, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.length = len(split.labels)
        self.labels = split.labels[:ENCODED].tolist()
        self.files = [_png(image) for image in split.images[:ENCODED]]
        self.mean, self.std = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        index %= len(self.files)
        image = np.array(Image.open(io.BytesIO(self.files[index])))
        x = torch.from_numpy(image if image.ndim == 3 else image[:, :, None]).permute(2, 0, 1).float() / 255
        return (x - self.mean) / self.std, self.labels[index]


def _png(image: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(buffer, format="png")
    return buffer.getvalue()


def training(
    device: str = "auto", batch_size: int | None = None, rounds: int = 15, *, settings: Sequence[Setting] = SETTINGS
) -> dict[str, Any]:
    """Images a second of three loops over the same network and batch size, in every setting, and their memory.

    ``ours``: the loop of :mod:`normcore.lab.runs.training`. ``plain``: a ``DataLoader`` with two workers that
    decode and transform picture by picture. ``floor``: the same step on one batch that is already in memory.
    On a CPU one thread trains.

    Args:
        device: auto, cpu or cuda.
        batch_size: in place of the settings' own.
        rounds: rounds in which the loops take turns.
        settings: what is trained.

    Returns:
        ``measured``, for each setting: what it is, ``loops`` (images a second: median, and each round's),
        ``ours_over_floor`` and ``ours_over_plain`` (medians of the ratios within a round, so that a slow moment of
        the machine slows both), and the ``memory`` of :func:`memory`. Besides, the setting and its provenance.
    """
    chosen = choose_device(device)
    keep_memory()
    with deterministic(chosen):
        found = provenance(chosen)
        if batch_size:
            settings = [setting._replace(batch_size=batch_size) for setting in settings]
        measured = [_measure(setting, chosen, rounds) for setting in settings]
    return {
        "setting": {"rounds": rounds, "steps_per_round": STEPS, "dtype": "float32"},
        "measured": measured,
        "provenance": found,
    }


def side_by_side(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each setting of :func:`training`: images a second, their ratios, megabytes."""
    return [
        {
            "network": row["model"],
            "images": f"{row['dataset']}, {row['image_size']} px",
            "batch": row["batch_size"],
            **{loop: row["loops"][loop]["images_per_second"] for loop in LOOPS},
            "ours / plain": row["ours_over_plain"],
            "ours / floor": row["ours_over_floor"],
            "private MB": (row["memory"] or {}).get("private_mb"),
            "mapped MB": (row["memory"] or {}).get("mapped_mb"),
        }
        for row in found["measured"]
    ]


def _measure(setting: Setting, device: torch.device, rounds: int) -> dict[str, Any]:
    dataset = _load(setting)
    config = RunConfig(
        dataset=dataset.name, image_size=setting.image_size, model=setting.model, norm="bn", lr=1e-3,
        batch_size=setting.batch_size, steps=10**9, seed=0,
    )  # fmt: skip
    used = memory(dataset) if device.type == "cpu" else None
    rates = _rates(config, dataset, device, rounds)
    loops = {loop: {"images_per_second": round(statistics.median(r), 1), "rounds": r} for loop, r in rates.items()}
    return {
        "dataset": dataset.name, "image_size": setting.image_size, "model": setting.model, "norm": config.norm,
        "batch_size": setting.batch_size,
        "loops": loops,
        **{f"ours_over_{other}": _ratio(rates["ours"], rates[other]) for other in ("floor", "plain")},
        "memory": used,
    }  # fmt: skip


def _load(setting: Setting) -> datasets.Dataset:
    try:
        return datasets.load(setting.dataset, setting.image_size)
    except DataError:
        return datasets.load(setting.instead, setting.image_size)


def _rates(config: RunConfig, dataset: datasets.Dataset, device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Images a second of each loop in each round."""
    task = ImageClassification(config, device, dataset)
    loops = {
        "ours": _ours(config, task),
        "plain": _loop(config, task, _plain(config, task)),
        "floor": _loop(config, task, _floor(config, task)),
    }
    rates: dict[str, list[float]] = {loop: [] for loop in LOOPS}
    for turn in range(rounds + 1):  # the first round warms up: memory, caches, worker processes
        for loop, run in loops.items():
            rate = config.batch_size * STEPS / _seconds(run, device)
            if turn:
                rates[loop].append(round(rate, 1))
    return rates


def _ratio(ours: list[float], other: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(ours, other, strict=True)), 3)


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _floor(config: RunConfig, task: ImageClassification) -> Batches:
    batch = task.batch(task.items[: config.batch_size])
    return iter(lambda: batch, None)


def _plain(config: RunConfig, task: ImageClassification) -> Batches:
    dataset = task.dataset
    pictures = _Pictures(dataset.train, dataset.mean, dataset.std)
    loader = DataLoader(
        pictures, config.batch_size, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True
    )
    while True:
        for x, y in loader:
            yield x.to(task.device), y.to(task.device)


def _ours(config: RunConfig, task: ImageClassification) -> Callable[[], None]:
    model = build(config, task)
    advance = stepper(model, optimizer(config, model), task)
    order = batches(task, config, 0)

    def run() -> None:
        for _ in range(STEPS):
            advance(next(order))

    return run


def _loop(config: RunConfig, task: ImageClassification, source: Batches) -> Callable[[], None]:
    model = build(config, task)
    optim = optimizer(config, model)

    def run() -> None:
        for _ in range(STEPS):
            step(model, optim, task, next(source))

    return run


# --- memory ----------------------------------------------------------------------------------------------


def memory(dataset: datasets.Dataset) -> dict[str, float | None]:
    """``mapped_mb``, megabytes of the decoded images of both splits, and ``private_mb``, those that :class:`Images`
    adds to what a process has of its own (None where the system does not tell).

    That is measured in a second process, after it has read all of them. Pages of a file that one process alone has
    mapped would count as its own, so this process has them mapped, too.
    """
    held = _read_all(dataset)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as second:
        private = second.submit(_added, dataset.name, dataset.image_size).result()
    mapped = sum(images.pixels.nbytes for images in held)
    return {"private_mb": None if private is None else round(private / 1e6, 1), "mapped_mb": round(mapped / 1e6, 1)}


def _added(name: str, image_size: int) -> int | None:
    torch.set_num_threads(1)
    dataset = datasets.load(name, image_size)
    before = _private()
    held = _read_all(dataset)
    after = _private()
    del held
    return None if before is None or after is None else after - before


def _read_all(dataset: datasets.Dataset) -> list[Images]:
    """Both splits on the CPU, with every page of the files read."""
    held = [Images(split, dataset, torch.device("cpu")) for split in (dataset.train, dataset.test)]
    for images in held:
        images.pixels.flatten()[:: mmap.PAGESIZE].sum()
    return held


def _private() -> int | None:
    """Bytes of memory that this process shares with no other."""
    with suppress(ImportError):
        import psutil

        return int(psutil.Process().memory_full_info().uss)
    rollup = Path("/proc/self/smaps_rollup")
    if not rollup.is_file():
        return None
    lines = rollup.read_text(encoding="ascii").splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
