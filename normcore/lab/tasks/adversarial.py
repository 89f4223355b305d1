"""Generating images: a generator and a discriminator that play against each other."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..config import GENERATED, RunConfig
from ..errors import UsageError
from . import generators
from .making import MakingPictures
from .task import Batch

FEATURES = "features"  # the name of the classifier beside a run in whose features images are compared
SHEET = 4  # images a side that are shown
SMOOTHING = 1e-12  # of a share whose logarithm is taken


class Adversarial(MakingPictures):
    r"""Images like those of a data set, by the loss of Goodfellow et al. 2014 that does not saturate: with a generator
    g, a discriminator d, images x and noise z

    .. math:: L_d = E \log(1 + e^{-d(x)}) + E \log(1 + e^{d(g(z))}), \qquad L_g = E \log(1 + e^{-d(g(z))})

    Both take a step at once, by one optimizer: what is minimized is :math:`L_d` by the weights of d and :math:`L_g` by
    those of g. The loss that is logged is their sum.

    Scores are Fréchet distances and coverages in the features of a classifier, the run's network beside it that is
    named ``features``: see :func:`frechet` and :func:`coverage`. As many images are made as are compared, at most
    2,000.
    """

    scores: ClassVar[tuple[str, ...]] = GENERATED
    probes: ClassVar[tuple[str, ...]] = ("examples",)
    model: ClassVar[str] = "dcgan"
    most: ClassVar[int] = 2000  # of which as many are made

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        super().__init__(config, device)
        self.classifier: nn.Module | None = None

    @classmethod
    def check(cls, config: RunConfig) -> None:
        super().check(config)
        if config.norm == "vbn" and config.batch_size > generators.LARGEST:
            raise UsageError(f"vbn needs batch_size of at most {generators.LARGEST} here, got {config.batch_size}")

    def take(self, beside: Mapping[str, nn.Module]) -> None:
        if FEATURES not in beside:
            raise UsageError(f"adversarial networks need a classifier: beside={{'{FEATURES}': the key of a run}}")
        self.classifier = beside[FEATURES].eval().requires_grad_(False)

    def batch(self, index: Tensor, held: bool = False) -> Batch:
        return (self.held if held else self.images).batch(index)

    def made(self, model: nn.Module, noise: Tensor) -> Tensor:
        """Standardized pictures, between black and white."""
        return self.standardized(model.made(noise))  # type: ignore[operator]

    def measure(self, model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        network: Any = model
        x, _ = batch
        pictures = self.made(model, torch.randn(len(x), network.latent, device=x.device))
        given = pictures.detach().requires_grad_()
        real, taken = network.discriminator(x), network.discriminator(given)
        of_discriminator = F.softplus(-real).mean() + F.softplus(taken).mean()
        of_generator = F.softplus(-taken).mean()
        # its gradient by the pictures is led on to the generator alone, so that the discriminator gets none of it
        (slope,) = torch.autograd.grad(of_generator, given, retain_graph=True)
        led = (pictures * slope).sum()
        return (of_discriminator + led + (of_generator - led).detach(),)

    def evaluate(self, model: nn.Module, held: bool = True, batch_size: int = 125) -> dict[str, float]:
        """The ``scores`` of images that are made, against those that are held out, or as many of those trained on."""
        items = self.held_items if held else self.items[: self.most]
        noise = self._noise(model, len(items))
        real = [self._seen(self.batch(index, held)[0]) for index in items.split(batch_size)]
        made = [self._seen(self.made(model, some)) for some in noise.split(batch_size)]
        features, pictures = (torch.cat([f for f, _ in part]).double().cpu().numpy() for part in (real, made))
        answers = torch.cat([scores for _, scores in made]).argmax(1).cpu().numpy()
        return {"frechet": frechet(features, pictures), "coverage": coverage(answers, self.dataset.classes)}

    def _noise(self, model: nn.Module, number: int) -> Tensor:
        """The same for every look and every run."""
        noise = torch.randn(number, model.latent, generator=torch.Generator().manual_seed(0))  # type: ignore[call-overload]
        return noise.to(self.device)

    def _seen(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the classifier's last linear layer is given, and its scores."""
        assert self.classifier is not None
        last = [layer for layer in self.classifier.modules() if isinstance(layer, nn.Linear)][-1]
        given: list[Tensor] = []
        handle = last.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        try:
            scores: Tensor = self.classifier(x)
        finally:
            handle.remove()
        return given[0], scores

    def examples(self, model: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
        real = self.batch(self.held_items[: SHEET**2], held=True)[0]
        yield "images", self._sheet(real), self._sheet(self.made(model, self._noise(model, SHEET**2)))

    def _sheet(self, x: Tensor) -> Tensor:
        """The pictures side by side, in bytes and in colour."""
        rows = self.as_bytes(x).unflatten(0, (-1, SHEET)).transpose(1, 2)
        return rows.flatten(2, 3).flatten(0, 1).expand(-1, -1, 3)


def frechet(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    r"""The Fréchet distance of two normal distributions with the moments of features a and b, (N, C), over the variance
    of a in all (Dowson & Landau 1982; Heusel et al. 2017, without the division):

    .. math:: \frac{|\mu_a - \mu_b|^2 + \mathrm{tr}(\Sigma_a + \Sigma_b - 2 (\Sigma_a \Sigma_b)^{1/2})}
              {\mathrm{tr}\,\Sigma_a}
    """
    of_a, of_b = (np.cov(f, rowvar=False) for f in (a, b))
    # the eigenvalues of a product of two covariances are those of a covariance: real, not below zero but by rounding
    root = np.sqrt(np.linalg.eigvals(of_a @ of_b).real.clip(0)).sum()
    distance = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(of_a) + np.trace(of_b) - 2 * root
    return float(max(distance, 0.0) / np.trace(of_a))


def coverage(answers: NDArray[np.int64], classes: int) -> float:
    """How evenly the images are spread over the classes that a classifier takes them for: the exponential of the
    entropy of their shares, over the number of classes; 1 where all are as many, 1/K where all are of one of K."""
    shares = np.bincount(answers, minlength=classes) / len(answers)
    return float(np.exp(-(shares * np.log(shares + SMOOTHING)).sum()) / classes)
