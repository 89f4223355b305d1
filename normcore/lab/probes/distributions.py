"""How the values that a layer gives out are distributed: moments, a histogram, and distances.

Everything is computed where the values are, and only small summaries leave the device.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

BINS, REACH = 48, 6.0  # of a histogram: equal bins from -REACH to REACH
SAMPLE = 1 << 16  # values that a distance is taken from, evenly spread over a larger tensor
QUANTILES = 256  # of a distribution that is compared with another


def summary(values: Tensor) -> dict[str, Any]:
    """The distribution of all values of a tensor, whatever its shape.

    Returns:
        ``mean``; ``std`` (biased); ``skew`` and ``kurtosis``, the third and the fourth standardized moment, the latter
        minus 3, both 0 for a normal distribution; ``wasserstein``, see :func:`distance_to_normal`; ``histogram``, the
        share of the values in each of ``BINS`` bins from -``REACH`` to ``REACH``, in hundredths of a percent.
    """
    x = values.detach().flatten().double()
    mean, std = x.mean(), x.std(correction=0)
    z = (x - mean) / std.clamp_min(1e-12)
    counts = torch.histc(x, BINS, -REACH, REACH) / x.numel()
    return {
        "mean": mean.item(), "std": std.item(), "skew": (z**3).mean().item(), "kurtosis": (z**4).mean().item() - 3,
        "wasserstein": distance_to_normal(x), "histogram": (counts * 10_000).round().int().tolist(),
    }  # fmt: skip


def distance_to_normal(values: Tensor) -> float:
    r"""The Wasserstein-1 distance of a sample to the standard normal distribution,

    .. math:: W_1 = \int_0^1 |F^{-1}(u) - \Phi^{-1}(u)|\,du,

    by the midpoint rule over the order statistics (Villani 2009, chapter 6; in one dimension it is the area between
    the distribution functions). In the unit of the values: a normal sample of mean m and deviation 1 is |m| away, one
    of mean 0 and deviation s is 0.798 |s - 1| away.
    """
    x = _sorted(values)
    u = (torch.arange(len(x), device=x.device, dtype=torch.float64) + 0.5) / len(x)
    return (x.double() - torch.special.ndtri(u)).abs().mean().item()


def quantiles(values: Tensor) -> Tensor:
    """``QUANTILES`` evenly spaced quantiles of a sample, those of the middles of as many equal shares."""
    x = _sorted(values)
    at = (torch.arange(QUANTILES, device=x.device, dtype=torch.float64) + 0.5) / QUANTILES * len(x)
    return x[at.long().clamp(max=len(x) - 1)]


def distance(a: Tensor, b: Tensor) -> float:
    """The Wasserstein-1 distance between two samples, from the :func:`quantiles` of each."""
    return (a - b).abs().mean().item()


def apart(samples: Sequence[Tensor]) -> list[float]:
    """For each sample the mean :func:`distance` to the others."""
    known = [quantiles(sample) for sample in samples]
    others = max(1, len(known) - 1)
    return [sum(distance(a, b) for b in known) / others for a in known]


def _sorted(values: Tensor) -> Tensor:
    x = values.detach().flatten().float()
    if len(x) > SAMPLE:
        x = x[torch.linspace(0, len(x) - 1, SAMPLE, device=x.device, dtype=torch.float64).long()]
    return x.sort().values
