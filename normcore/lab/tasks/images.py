"""Classifying images: a data set on its device, what is held out, what an epoch of it is."""

import copy
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import own
from .. import paths, pictures
from ..config import RunConfig
from ..errors import UsageError, unknown
from . import datasets, networks
from .outliers import KINDS, Outliers
from .task import Batch, MakeNorm, Task

ONE_CLASS = "one_class"  # a task option: this share of each training batch is of one class
LARGEST = 4096  # pixels on a side of an image: one of so many takes 48 MB
AUGMENT = "augment"  # a task option: training images are flipped, and shifted by up to so many pixels
SCALING = "scaling"  # a task option: how pixels become numbers, one of ``SCALINGS``
#: from 0 to 255; from 0 to 1; that minus the mean of each channel over the training split; and by its deviation; each
#: image by itself from 0, its darkest value, to 1, its brightest
SCALINGS = ("raw", "unit", "centred", "standardized", "stretched")


class ImageClassification(Task):
    """The right class of an image, by cross-entropy. With the task option ``one_class``, this share of each training
    batch is of one class; with ``augment``, each training image is shifted by up to so many pixels, and every other
    one flipped, anew at each step; ``scaling`` says how pixels become numbers, one of ``SCALINGS``.

    Args:
        dataset: in place of the configuration's.

    Attributes:
        images, held: the images that ``items`` and ``held_items`` count.
    """

    unit: ClassVar[str] = "images"
    probes: ClassVar[tuple[str, ...]] = (
        *Task.probes, "distributions", "outliers", "adversarial", "similarity", "surface",
    )  # fmt: skip

    def __init__(self, config: RunConfig, device: torch.device, dataset: datasets.Dataset | None = None) -> None:
        super().__init__(config, device)
        self.dataset = dataset = dataset or datasets.load(config.dataset, config.image_size, config.colours)
        self.images, self.items, self.held, self.held_items = splits(config, dataset, device)
        self.replayed = (
            self.replayed and self.images.pixels.device.type == device.type
        )  # else a batch waits for its indices
        if len(self.items) < config.batch_size:
            raise UsageError(f"batch_size={config.batch_size} is more than the {len(self.items)} training images")
        self.foreign = foreign_images(config, dataset, device)
        self.bounds = self.held.bounds
        if config.outliers:
            self.images = copy.copy(self.images)  # held-out images are of the same split
            kind, share = config.outlier_kind, config.outliers
            self.images.outliers = Outliers.draw(len(self.images), share, kind, self.foreign)

    @classmethod
    def check(cls, config: RunConfig) -> None:
        cls.check_dataset(config)
        for name, names in {
            "model": networks.MODELS, "colours": datasets.COLOURS,
            "outlier_kind": KINDS,
        }.items():  # fmt: skip
            if getattr(config, name) not in names:
                raise unknown(name, getattr(config, name), names)
        for name in config.task_options.keys() - {ONE_CLASS, AUGMENT, SCALING}:
            raise unknown("option of the task images", name, [ONE_CLASS, AUGMENT, SCALING])
        if (scaling := config.task_options.get(SCALING, "standardized")) not in SCALINGS:
            raise unknown(SCALING, scaling, SCALINGS)
        pixels = config.task_options.get(AUGMENT, 0)
        if isinstance(pixels, bool) or not isinstance(pixels, int) or not 0 <= pixels < max(1, config.image_size):
            raise UsageError(f"{AUGMENT} must be a number of pixels below the image's, got {pixels!r}")
        share = config.task_options.get(ONE_CLASS, 0.0)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise UsageError(f"{ONE_CLASS} must be a share from 0 to 1, got {share!r}")
        if config.outliers and config.outlier_kind == "foreign" and not config.foreign:
            raise UsageError("outlier_kind='foreign' needs the name of another data set, got foreign=''")

    @staticmethod
    def check_dataset(config: RunConfig) -> None:
        """Refuse data that are no images of classes, and images of a size that there is none of."""
        named = [name for name in (config.dataset, config.foreign) if name and not pictures.is_own(name)]
        for name in named:
            paths.plain("the name of a data set", name)
        known = datasets.of_classes()
        for name in named:
            if name not in known and Path(name).is_dir():
                raise UsageError(f"unknown data set {name!r}: pictures of your own are named by their path, ./{name}")
            if name not in known:
                raise unknown("data set", name, known)
        if not 1 <= config.image_size <= LARGEST:
            raise UsageError(f"image_size must be from 1 to {LARGEST} pixels, got {config.image_size}")

    @classmethod
    def try_sizes(cls, config: RunConfig, norm: MakeNorm) -> None:
        """Refuses a network that there is none of at this size, and a normalizer that cannot be trained in it: one that
        does not take vectors, or a batch of one image where a layer has a single value for each channel."""
        make, size = networks.MODELS[config.model], config.image_size
        with torch.device("meta"):
            try:
                make(nn.Identity, 3, 10, size, **config.model_options)
            except TypeError as error:
                raise UsageError(f"model_options: {error}") from error
            try:
                with suppress(RuntimeError):  # a layer of one's own may ask for values, and here are none
                    make(norm, 3, 10, size, **config.model_options)(torch.empty(config.batch_size, 3, size, size))
            except (TypeError, ValueError) as error:
                where = f"{config.model} with {own.short(config.norm)} at {size} pixels, batch_size={config.batch_size}"
                raise UsageError(f"{where}: {error}") from error

    @classmethod
    def prepare(cls, config: RunConfig) -> None:
        datasets.load(config.dataset, config.image_size, config.colours)
        if config.foreign:
            datasets.load(config.foreign, config.image_size)

    def network(self, norm: MakeNorm) -> nn.Module:
        config, dataset = self.config, self.dataset
        make = networks.MODELS[config.model]
        return make(norm, dataset.channels, dataset.classes, config.image_size, **config.model_options)

    def batch(self, index: Tensor, held: bool = False) -> Batch:
        return (self.held if held else self.images).batch(index)

    def measure(self, model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        (x, y), pixels = batch, self.config.task_options.get(AUGMENT, 0)
        return super().measure(model, (augmented(x, pixels) if pixels else x, y))

    def arranged(self, order: Tensor, generator: torch.Generator) -> Tensor:
        share = self.config.task_options.get(ONE_CLASS, 0.0)
        return by_class(order, self.images.labels, self.config.batch_size, share, generator) if share else order

    def provenance(self) -> dict[str, Any]:
        config, dataset = self.config, self.dataset
        foreign = datasets.load(config.foreign, config.image_size).fingerprint if config.foreign else ""
        return {
            "fingerprint": dataset.fingerprint, "origin": dataset.origin, **({"foreign": foreign} if foreign else {}),
        }  # fmt: skip


class Images:
    """A split on the device: uint8 pixels and labels, gathered and standardized a batch at a time.

    The pixels stay as they were decoded, (N, H, W, C); on a CPU, and where they would take more than half of a GPU's
    free memory, they are the mapped file itself. A batch is
    (B, C, H, W), channels_last, float32, standardized by the training split's mean and deviation, or as ``scaling`` has
    it. With ``outliers``, some of the images are.
    """

    def __init__(
        self, split: datasets.Split, dataset: datasets.Dataset, device: torch.device, scaling: str = "standardized"
    ) -> None:
        self.outliers: Outliers | None = None
        self.stretched = scaling == "stretched"
        pixels = _as_tensor(split.images)
        self.pixels = pixels.to(device) if fits(pixels, device) else pixels
        self.labels = torch.from_numpy(split.labels).to(device)
        mean, std = torch.tensor(dataset.mean), torch.tensor(dataset.std).clamp_min(1e-8)
        one, none = torch.ones_like(std), torch.zeros_like(std)
        scale, shift = {
            "standardized": (1 / (255 * std), -mean / std), "centred": (one / 255, -mean),
            "unit": (one / 255, none), "stretched": (one / 255, none), "raw": (one, none),
        }[scaling]  # fmt: skip
        self.scale, self.shift = scale.to(device), shift.to(device)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """What black and white are once they are standardized, (C, 1, 1) each."""
        black, white = self.shift, self.shift + 255 * self.scale
        return black.view(-1, 1, 1), white.view(-1, 1, 1)

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        there = index.to(self.pixels.device) if isinstance(index, Tensor) else index
        pixels = self.pixels[there].to(self.labels.device)
        x = torch.addcmul(self.shift, pixels.to(torch.float32), self.scale)
        if self.stretched:
            low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
            x = (x - low) / (high - low).clamp_min(1 / 255)
        x = x.permute(0, 3, 1, 2)
        if self.outliers is not None:
            assert isinstance(index, Tensor)
            x = self.outliers(x, index)
        return x, self.labels[index]


def fits(pixels: Tensor, device: torch.device) -> bool:
    """Whether a GPU holds so many images and has room for a network beside them; a CPU maps them in any case."""
    return device.type != "cuda" or pixels.nbytes <= torch.cuda.mem_get_info(device)[0] / 2


def _as_tensor(images: Any) -> Tensor:
    with warnings.catch_warnings():  # the mapped array is read-only, and nothing here writes to it
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(images)


def splits(config: RunConfig, dataset: datasets.Dataset, device: torch.device) -> tuple[Images, Tensor, Images, Tensor]:
    """(training images, their indices, evaluation images, their indices).

    The held-out validation images are drawn once for all seeds, so that every run is judged on the same.
    """
    scaling = config.task_options.get(SCALING, "standardized")
    train = Images(dataset.train, dataset, device, scaling)
    if not config.validation:
        test = Images(dataset.test, dataset, device, scaling)
        return train, torch.arange(len(train), device=device), test, torch.arange(len(test), device=device)
    if config.validation + config.batch_size > len(train):
        raise UsageError(f"validation={config.validation} leaves no batch of {config.batch_size} to train on")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).to(device)
    held_out, kept = order[: config.validation].sort().values, order[config.validation :].sort().values
    return train, kept, train, held_out


def augmented(x: Tensor, pixels: int) -> Tensor:
    """Every image shifted by up to so many pixels along either axis, with the mean colour moving in, and by a toss of a
    coin flipped. (N, C, H, W) and the same out, channels_last."""
    n, _, height, width = x.shape
    flipped = torch.rand(n, 1, 1, 1, device=x.device) < 0.5
    around = F.pad(torch.where(flipped, x.flip(3), x), [pixels] * 4)
    first = torch.randint(2 * pixels + 1, (2, n, 1), device=x.device)
    rows, columns = (at + torch.arange(size, device=x.device) for at, size in zip(first, (height, width), strict=True))
    which = torch.arange(n, device=x.device).view(-1, 1, 1)
    return around.permute(0, 2, 3, 1)[which, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)


def by_class(order: Tensor, labels: Tensor, batch_size: int, share: float, generator: torch.Generator) -> Tensor:
    """The items in batches of which this share is of one class, or at a border between classes of two; the rest, and
    the order of the batches, is as drawn. What fills no batch is left out."""
    number, same = len(order) // batch_size, round(share * batch_size)
    sorted_items, others = order[: number * same], order[number * same : number * batch_size]
    sorted_items = sorted_items[labels[sorted_items].argsort(stable=True)].view(number, same)
    drawn = torch.randperm(number, generator=generator).to(order.device)
    return torch.cat([sorted_items[drawn], others.view(number, batch_size - same)], 1).flatten()


def foreign_images(config: RunConfig, dataset: datasets.Dataset, device: torch.device) -> Tensor:
    """512 training images of the data set that the run calls foreign, as this one's would be: with as many channels,
    standardized by its own mean and deviation. Without such a set, none."""
    if not config.foreign:
        return torch.empty(0, device=device)
    other = datasets.load(config.foreign, config.image_size)
    x, _ = Images(other.train, other, device).batch(slice(0, 512))
    if other.channels != dataset.channels:
        x = x.mean(1, keepdim=True).expand(-1, dataset.channels, -1, -1)
    return x.contiguous(memory_format=torch.channels_last)


def epochs(
    number: int, dataset: str, image_size: int, batch_size: int, *,
    validation: int = 0, points: int = 10, folds: int = 0,
) -> dict[str, int]:  # fmt: skip
    """The fields of a :class:`RunConfig` that make a run of so many epochs, evaluated after each, with
    ``points`` points of the training curve an epoch. Of a set that the registry knows, no data need be there.

    Args:
        folds: the images of both splits are cut into so many parts, of which one is held out.
    """
    items = datasets.items(dataset, image_size)
    both = sum(items.values())
    train = both - -(-both // folds) if folds else items["train"]
    epoch = (train - validation) // batch_size
    if epoch < 1:
        raise UsageError(f"batch_size={batch_size} and validation={validation} leave no batch to train on")
    return {
        "batch_size": batch_size, "steps": number * epoch, "eval_every": epoch, "log_every": -(-epoch // points),
        "validation": validation,
    }  # fmt: skip
