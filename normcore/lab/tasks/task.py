"""What a network is trained to do: all that the training loop does not know."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import HALVES, RunConfig

#: makes the normalization layer for a number of channels
MakeNorm = Callable[[int], nn.Module]
#: what a network is fed with, and what it should give out
Batch = tuple[Any, Any]


class Task(ABC):
    """Data, a network and a loss, made from a configuration on a device.

    The loop draws the order of the items, takes the optimizer's steps and keeps what is measured; whatever else a run
    depends on is here. A task whose network gives scores (N, K, *positions) of K classes for labels (N, *positions)
    writes no loss of its own.

    Attributes:
        unit: what an item is, in the plural.
        metrics: names of what :meth:`measure` gives of a training batch.
        scores: names of what :meth:`evaluate` gives, which is of the whole and, with ``HALVES``, of two halves.
        probes: names of the probes that can look into its networks.
        replayed: whether a step on a GPU may be captured as a CUDA graph.
        items, held_items: indices of what is trained on and of what is evaluated on, one axis, on the device.
        answers: answers that an item asks for: its number of positions.
        foreign: images of another set, where a run names one; else empty.
        bounds: of images, what black and white are, (C, 1, 1) each; else empty.
    """

    unit: ClassVar[str] = "items"
    metrics: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    scores: ClassVar[tuple[str, ...]] = ("loss", "accuracy", *HALVES)
    probes: ClassVar[tuple[str, ...]] = ("shift", "smoothness", "gradients", "training_set", "mixture", "recalibrated")
    replayed: bool = True
    items: Tensor
    held_items: Tensor
    answers: int = 1
    foreign: Tensor
    bounds: tuple[Tensor, Tensor]

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.foreign = torch.empty(0, device=device)
        self.bounds = self.foreign, self.foreign

    @classmethod
    @abstractmethod
    def check(cls, config: RunConfig) -> None:
        """Refuse names and values that the task does not take; reads no data.

        Raises:
            UsageError: what was got, and what there is.
        """

    @classmethod  # noqa: B027 (a task may have nothing to try)
    def try_sizes(cls, config: RunConfig, norm: MakeNorm) -> None:
        """Refuse, on sizes alone and before anything is run, a network that cannot be trained.

        Args:
            norm: makes the run's normalizers.

        Raises:
            UsageError: what was got, and what the network says of it.
        """

    @classmethod
    @abstractmethod
    def prepare(cls, config: RunConfig) -> None:
        """Have the data ready: done once, before workers start, so that what is wrong with it is said first.

        Raises:
            DataError: not found, or damaged.
        """

    @abstractmethod
    def network(self, norm: MakeNorm) -> nn.Module:
        """The network with its normalizers, initialized from torch's generator."""

    def begin(self, model: nn.Module, state: dict[str, Tensor]) -> None:
        """Give the network the weights and buffers (``state``) of another run's, which this one starts from.

        Raises:
            RuntimeError: they are of another network, by ``load_state_dict``.
        """
        model.load_state_dict(state)

    def take(self, beside: Mapping[str, nn.Module]) -> None:  # noqa: B027 (a task may need none)
        """Use the trained networks of other runs, by the names that the run gives them.

        Raises:
            UsageError: one that it needs is not among them.
        """

    @abstractmethod
    def batch(self, index: Tensor, held: bool = False) -> Batch:
        """The training items with these indices, or those that are held out; made without waiting for the device."""

    def long(self) -> Iterator[Batch]:
        """Batches of all that is held out, as long as the probe of time steps looks at it."""
        for index in self.held_items.split(125):
            yield self.batch(index, held=True)

    def arranged(self, order: Tensor, generator: torch.Generator) -> Tensor:
        """An epoch's order of the items, of the one that was drawn at random; batches are consecutive."""
        return order

    def examples(self, model: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Of a task from pictures to pictures: photographs by name, each as the network is given it and what that makes
        of it, (H, W, C) in bytes. Others have none."""
        yield from ()

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What the data were: a ``fingerprint`` and an ``origin`` at the least."""

    def measure(self, model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """The loss to be minimized, and of each other metric the sum over the batch's answers: right answers."""
        x, y = batch
        scores = model(x)
        return F.cross_entropy(scores, y), (scores.detach().argmax(1) == y).sum()

    def evaluate(self, model: nn.Module, held: bool = True, batch_size: int = 125) -> dict[str, float]:
        """The ``scores`` over all held-out items, or over all training items (``held=False``): mean cross-entropy and
        accuracy; and the accuracy over each of two fixed halves of the items, drawn at random once for all runs, so
        that a step can be chosen on one and judged on the other."""
        items = self.held_items if held else self.items
        loss = torch.zeros((), dtype=torch.float64, device=items.device)
        right = []
        for index in items.split(batch_size):
            x, y = self.batch(index, held)
            scores = model(x)
            loss += F.cross_entropy(scores, y, reduction="sum")
            right.append((scores.argmax(1) == y).double().view(len(index), -1).mean(1))
        hits = torch.cat(right)
        of_halves = {name: half.mean().item() for name, half in zip(HALVES, halves(hits), strict=True)}
        return {"loss": loss.item() / (len(items) * self.answers), "accuracy": hits.mean().item(), **of_halves}


def halves(values: Tensor) -> tuple[Tensor, ...]:
    """The values of one half of the items and of the other, drawn at random, the same for every run."""
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
    return values[order.to(values.device)].tensor_split(2)
