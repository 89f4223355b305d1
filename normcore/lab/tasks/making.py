"""What all tasks have whose networks make pictures."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..config import RunConfig
from ..errors import UsageError, unknown
from . import datasets, generators
from .images import ImageClassification, splits
from .task import MakeNorm, Task


class MakingPictures(Task):
    """Pictures, by a network of one kind, like those of a data set of images or of its images.

    Attributes:
        model: the name of its network, one of ``generators.MODELS``.
        options: names of the task options that it takes.
        most: so many images are held out at most, drawn once for all runs.
    """

    unit: ClassVar[str] = "images"
    metrics: ClassVar[tuple[str, ...]] = ("loss",)
    model: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    most: ClassVar[int]

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        super().__init__(config, device)
        self.dataset = dataset = datasets.load(config.dataset, config.image_size)
        self.images, self.items, self.held, held = splits(config, dataset, device)
        if len(self.items) < config.batch_size:
            raise UsageError(f"batch_size={config.batch_size} is more than the {len(self.items)} training images")
        order = torch.randperm(len(held), generator=torch.Generator().manual_seed(0)).to(device)
        self.held_items = held[order[: self.most]].sort().values
        self.bounds = self.images.bounds

    @classmethod
    def check(cls, config: RunConfig) -> None:
        if config.model != cls.model:
            raise unknown("model", config.model, [cls.model])
        for name in config.task_options.keys() - {*cls.options}:
            raise unknown(f"option of the task {config.task}", name, cls.options)
        for name in ("outliers", "foreign"):
            if getattr(config, name):
                raise UsageError(f"{name} is of the task images, got {getattr(config, name)!r}")
        ImageClassification.check_dataset(config)

    @classmethod
    def try_sizes(cls, config: RunConfig, norm: MakeNorm) -> None:
        with torch.device("meta"):
            try:
                generators.MODELS[config.model](nn.Identity, 3, config.image_size, **config.model_options)
            except TypeError as error:
                raise UsageError(f"model_options: {error}") from error

    @classmethod
    def prepare(cls, config: RunConfig) -> None:
        datasets.load(config.dataset, config.image_size)

    def network(self, norm: MakeNorm) -> nn.Module:
        config, make = self.config, generators.MODELS[self.config.model]
        return make(norm, self.dataset.channels, config.image_size, **config.model_options)

    def standardized(self, pictures: Tensor) -> Tensor:
        """Pictures from 0, black, to 1, white, as those of the data set are."""
        black, white = self.bounds
        return black + (white - black) * pictures

    def as_bytes(self, x: Tensor) -> Tensor:
        """Standardized pictures (N, C, H, W) from 0, black, to 255, white, (N, H, W, C)."""
        black, white = self.bounds
        return (255 * (x - black) / (white - black)).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    def provenance(self) -> dict[str, Any]:
        return {"fingerprint": self.dataset.fingerprint, "origin": self.dataset.origin}
