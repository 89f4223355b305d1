"""A data set on its device: its images as batches, what is held out, and in what order they come."""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from . import data
from .errors import UsageError
from .outliers import Outliers
from .runs import RunConfig


class Images:
    """A split on the device: uint8 pixels and labels, gathered and standardized a batch at a time.

    The pixels stay as they were decoded, (N, H, W, C); on a CPU they are the mapped file itself. A batch is
    (B, C, H, W), channels_last, float32, standardized by the training split's mean and deviation. With ``outliers``,
    some of the images are.
    """

    def __init__(self, split: data.Split, dataset: data.Dataset, device: torch.device) -> None:
        self.outliers: Outliers | None = None
        self.pixels = _as_tensor(split.images).to(device)
        self.labels = torch.from_numpy(split.labels).to(device)
        std = torch.tensor(dataset.std).clamp_min(1e-8)
        self.scale = (1 / (255 * std)).to(device)
        self.shift = (-torch.tensor(dataset.mean) / std).to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        pixels = self.pixels[index]
        x = torch.addcmul(self.shift, pixels.to(torch.float32), self.scale)
        x = x.permute(0, 3, 1, 2)
        if self.outliers is not None:
            assert isinstance(index, Tensor)
            x = self.outliers(x, index)
        return x, self.labels[index]


def _as_tensor(images: Any) -> Tensor:
    with warnings.catch_warnings():  # the mapped array is read-only, and nothing here writes to it
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(images)


def splits(config: RunConfig, dataset: data.Dataset, device: torch.device) -> tuple[Images, Tensor, Images, Tensor]:
    """(training images, their indices, evaluation images, their indices).

    The held-out validation images are drawn once for all seeds, so that every run is judged on the same.
    """
    train = Images(dataset.train, dataset, device)
    if not config.validation:
        test = Images(dataset.test, dataset, device)
        return train, torch.arange(len(train), device=device), test, torch.arange(len(test), device=device)
    if config.validation + config.batch_size > len(train):
        raise UsageError(f"validation={config.validation} leaves no batch of {config.batch_size} to train on")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).to(device)
    held_out, kept = order[: config.validation].sort().values, order[config.validation :].sort().values
    return train, kept, train, held_out


def batches(items: Tensor, config: RunConfig, start: int) -> Iterator[Tensor]:
    """The indices of every batch from step ``start`` on: each epoch a new order, made from seed and epoch
    alone, so that any step can be found again."""
    per_epoch = len(items) // config.batch_size
    for step in range(start, config.steps):
        epoch, at = divmod(step, per_epoch)
        if step == start or at == 0:
            shuffled = config.seed * 1_000_003 + (epoch if config.order == "shuffled" else 0)
            generator = torch.Generator().manual_seed(shuffled)
            order = items[torch.randperm(len(items), generator=generator).to(items.device)]
        yield order[at * config.batch_size : (at + 1) * config.batch_size]


def foreign_images(config: RunConfig, dataset: data.Dataset, device: torch.device) -> Tensor:
    """512 training images of the data set that the run calls foreign, as this one's would be: with as many channels,
    standardized by its own mean and deviation. Without such a set, none."""
    if not config.foreign:
        return torch.empty(0, device=device)
    other = data.load(config.foreign, config.image_size)
    x, _ = Images(other.train, other, device).batch(slice(0, 512))
    if other.channels != dataset.channels:
        x = x.mean(1, keepdim=True).expand(-1, dataset.channels, -1, -1)
    return x.contiguous(memory_format=torch.channels_last)
