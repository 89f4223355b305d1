"""From pictures to pictures: a photograph in the style of a painting, and a small photograph at twice its size."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..config import RESTORED, RESTYLED, RunConfig
from ..errors import UsageError, unknown
from . import generators, paintings
from .making import MakingPictures
from .networks import vgg16
from .task import Batch

PERCEPTUAL = "perceptual"  # the name of the network beside a run that looks at pictures for it
WEIGHT, PAINTINGS, RANDOM = "weight", "paintings", "random"  # options of style transfer
STAGES, CONTENT = 4, 1  # of the network that looks: the style is compared at all, the content at this one
CALIBRATED = 128  # training photographs from which the units of content and style are taken


class Pixels(MakingPictures):
    """A picture of a picture, of a data set's photographs; their classes are not used."""

    probes: ClassVar[tuple[str, ...]] = ("contrast", "examples")
    most: ClassVar[int] = 256

    def photographs(self, index: Tensor, held: bool = False) -> Tensor:
        """Standardized, (B, C, H, W)."""
        return (self.held if held else self.images).batch(index)[0]

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Each metric of every picture of the batch, (B,); first the loss."""

    def measure(self, model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        found = self.losses(model, batch)
        return found["loss"].mean(), *(found[name].detach().sum() for name in self.metrics[1:])

    def evaluate(self, model: nn.Module, held: bool = True, batch_size: int = 32) -> dict[str, float]:
        """The ``scores``, means over the photographs that are held out, or over as many of those trained on."""
        items = self.held_items if held else self.items[: self.most]
        found = [self.scored(model, self.batch(index, held)) for index in items.split(batch_size)]
        return {name: torch.cat([one[name] for one in found]).double().mean().item() for name in self.scores}

    def scored(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Each score of every picture of the batch, (B,)."""
        return self.losses(model, batch)

    def examples(self, model: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
        if self.dataset.channels != 3:
            return
        for path in paintings.photographs():
            given = self.given(self.of_file(paintings.square(path, self.config.image_size)))
            yield path.stem, self.as_bytes(given)[0], self.as_bytes(self.painted(model, given))[0]

    def given(self, x: Tensor) -> Tensor:
        """What the network is given of photographs."""
        return x

    def of_file(self, pixels: NDArray[np.uint8]) -> Tensor:
        """A picture (H, W, C) as those of the data set are, (1, C, H, W)."""
        picture = torch.tensor(pixels, dtype=torch.float32, device=self.device)
        return torch.addcmul(self.images.shift, picture, self.images.scale).permute(2, 0, 1)[None]

    def painted(self, model: nn.Module, x: Tensor) -> Tensor:
        """The network's picture, between black and white."""
        out: Tensor = model(x)
        return out


class StyleTransfer(Pixels):
    r"""A photograph in the style of a painting, by a network that is trained for that painting (Johnson, Alahi &
    Fei-Fei 2016), which of the set of ``paintings`` (a task option) is that with the run's seed, counted around.

    A classifier looks: the run's network beside it, named ``perceptual``, or with the option ``random`` a VGG-16 of a
    quarter of the width whose weights are He's random ones (Ustyuzhaninov et al. 2017), and knows no photographs. With
    its features :math:`\phi_i` before the first four max-poolings, and their Gram matrices :math:`G_i`, the loss of the
    picture y made of a photograph x, for the painting s, is the content's, plus ``weight`` times the style's:

    .. math:: \frac{\|\phi_2(y) - \phi_2(x)\|^2}{E \|\phi_2(x) - E \phi_2(x)\|^2} + w \, \frac14 \sum_i
              \frac{\|G_i(y) - G_i(s)\|^2}{E \|G_i(x) - G_i(s)\|^2}

    Both are without a unit, expectations being over training photographs: a photograph as it is has about (0, 1), and
    one that has nothing to do with x a content of about 2. The paper's smoothing of the picture is left out.
    """

    metrics: ClassVar[tuple[str, ...]] = ("loss", *RESTYLED)
    scores: ClassVar[tuple[str, ...]] = ("loss", *RESTYLED)
    model: ClassVar[str] = "johnson"
    options: ClassVar[tuple[str, ...]] = WEIGHT, PAINTINGS, RANDOM

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        super().__init__(config, device)
        options = config.task_options
        self.weight = float(options.get(WEIGHT, 1.0))
        self.paintings = paintings.load(options.get(PAINTINGS, ""), config.image_size)
        number = config.seed % len(self.paintings.pixels)
        self.painting = self.paintings.names[number]
        if self.dataset.channels != 3:
            raise UsageError(f"a painting has colours: {config.dataset} is grey, and cannot be painted in its style")
        self.style = self.of_file(self.paintings.pixels[number])
        if options.get(RANDOM):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)
                self.look(vgg16(nn.Identity, 3, 10, config.image_size, width=0.25).to(device))

    @classmethod
    def check(cls, config: RunConfig) -> None:
        super().check(config)
        options = config.task_options
        weight = options.get(WEIGHT, 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight >= 0:
            raise UsageError(f"{WEIGHT} must be a number from 0 on, got {weight!r}")
        if not isinstance(options.get(RANDOM, False), bool):
            raise UsageError(f"{RANDOM} must be true or false, got {options[RANDOM]!r}")
        if options.get(PAINTINGS, "") not in paintings.known():
            raise unknown(PAINTINGS, options.get(PAINTINGS, ""), paintings.known())

    @classmethod
    def prepare(cls, config: RunConfig) -> None:
        super().prepare(config)
        paintings.load(config.task_options[PAINTINGS], config.image_size)

    def take(self, beside: Mapping[str, nn.Module]) -> None:
        if self.config.task_options.get(RANDOM):
            return
        if PERCEPTUAL not in beside:
            raise UsageError(f"style transfer needs a network that looks: beside={{'{PERCEPTUAL}': the key of a run}}")
        self.look(beside[PERCEPTUAL])

    def look(self, network: nn.Module) -> None:
        """Look with this network, and take the units of content and style."""
        self.perceptual = network.eval().requires_grad_(False)
        with torch.no_grad():
            seen = self._seen(self.photographs(self.items[:CALIBRATED]))
            self.grams = [generators.gram(features) for features in self._seen(self.style)]
            self.style_units = [
                _squared(generators.gram(features), wanted).mean()
                for features, wanted in zip(seen, self.grams, strict=True)
            ]
            self.content_unit = _squared(seen[CONTENT], seen[CONTENT].mean(0, keepdim=True)).mean()

    def _seen(self, x: Tensor) -> list[Tensor]:
        return generators.stages(self.perceptual, x, STAGES)

    def batch(self, index: Tensor, held: bool = False) -> Batch:
        x = self.photographs(index, held)
        return x, x

    def painted(self, model: nn.Module, x: Tensor) -> Tensor:
        return self.standardized(model(x))

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        x, _ = batch
        made = self._seen(self.painted(model, x))
        with torch.no_grad():
            given = generators.stages(self.perceptual, x, CONTENT + 1)[CONTENT]
        content = _squared(made[CONTENT], given) / self.content_unit
        parts = [
            _squared(generators.gram(features), wanted) / unit
            for features, wanted, unit in zip(made, self.grams, self.style_units, strict=True)
        ]
        style = torch.stack(parts).mean(0)
        return {"loss": content + self.weight * style, "content": content, "style": style}

    def provenance(self) -> dict[str, Any]:
        found = {"painting": self.painting, "paintings": self.paintings.fingerprint}
        return {**super().provenance(), **found}


class SuperResolution(Pixels):
    """A photograph of half the side, each pixel the mean of four, at its full side, by mean squared error of the
    standardized pixels. Scores are the peak signal-to-noise ratio (``psnr``, in decibels, of pixels in [0, 1], a mean
    over pictures), and by how much that is above bicubic interpolation's (``gain``)."""

    scores: ClassVar[tuple[str, ...]] = ("loss", *RESTORED)
    model: ClassVar[str] = "srresnet"

    def batch(self, index: Tensor, held: bool = False) -> Batch:
        y = self.photographs(index, held)
        return self.given(y), y

    def given(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        x, y = batch
        return {"loss": (self.painted(model, x) - y).square().flatten(1).mean(1)}

    def scored(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        x, y = batch
        made = self.painted(model, x)
        larger = F.interpolate(x, scale_factor=2.0, mode="bicubic", align_corners=False)
        psnr = self._psnr(made, y)
        return {"loss": (made - y).square().flatten(1).mean(1), "psnr": psnr, "gain": psnr - self._psnr(larger, y)}

    def _psnr(self, made: Tensor, y: Tensor) -> Tensor:
        black, white = self.bounds
        error = (made.clamp(black, white) - y) / (white - black)
        return -10 * error.square().flatten(1).mean(1).clamp_min(1e-10).log10()


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances of the pictures' features, (B,)."""
    return (a - b).square().flatten(1).sum(1)
