"""Networks that make pictures, of a picture or of noise, each with a slot for a normalizer."""

import functools
import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from .networks import activation_behind
from .task import MakeNorm


class Residual(nn.Module):
    """x + norm(conv(relu(norm(conv(x))))), with 3x3 convolutions (Gross & Wilber 2016: no ReLU behind the sum)."""

    def __init__(self, norm: MakeNorm, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *convolved(norm, channels, channels, 3), *convolved(norm, channels, channels, 3)[:2]
        )

    def forward(self, x: Tensor) -> Tensor:
        """x, (N, channels, H, W)."""
        out: Tensor = x + self.branch(x)
        return out


class Enlarged(nn.Module):
    """The nearest pixel at twice the size: a convolution behind it leaves no checkerboard (Odena et al. 2016)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, 2 H, 2 W)."""
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


def convolved(norm: MakeNorm, before: int, after: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A convolution, the normalizer and ReLU; the border is the picture mirrored. Weights start as He et al. 2015
    have it, so that the signal is as large behind every layer, with a normalizer and without."""
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, padding_mode="reflect")
    nn.init.kaiming_normal_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    normalizer = norm(after)
    return [conv, normalizer, activation_behind(normalizer, nn.ReLU)]


def johnson(norm: MakeNorm, channels: int, image_size: int, width: float = 1.0, blocks: int = 5) -> nn.Module:
    """The network of feed-forward style transfer (Johnson, Alahi & Fei-Fei 2016): two convolutions of stride 2,
    residual blocks, and twice the nearest pixel with a convolution in place of the transposed one; a normalizer behind
    every convolution but the last. Its output, (N, channels, H, W), lies between 0, black, and 1, white.

    Args:
        width: multiplies the numbers of channels, 32, 64 and 128.
        blocks: residual ones.
    """
    if image_size < 12 or image_size % 4:
        raise UsageError(f"johnson needs images of a multiple of 4 pixels, at least 12, got image_size={image_size}")
    first, second, third = (_channels(number, width) for number in (32, 64, 128))
    last = nn.Conv2d(first, channels, 9, padding=4, padding_mode="reflect")
    return nn.Sequential(
        *convolved(norm, channels, first, 9),
        *convolved(norm, first, second, 3, 2), *convolved(norm, second, third, 3, 2),
        *(Residual(norm, third) for _ in range(blocks)),
        Enlarged(), *convolved(norm, third, second, 3), Enlarged(), *convolved(norm, second, first, 3),
        last, nn.Sigmoid(),
    )  # fmt: skip


class SRResNet(nn.Module):
    """A residual network that makes a picture of twice the size (Ledig et al. 2017): a convolution, residual blocks and
    one more normalized convolution around which the first one's output is led, then twice the size by sub-pixel
    convolution (Shi et al. 2016). Its normalizers are those of the blocks and the one behind them.

    Args:
        width: multiplies the number of channels, 64.
        blocks: residual ones; the paper has 16.
    """

    def __init__(self, norm: MakeNorm, channels: int, image_size: int, width: float = 1.0, blocks: int = 5) -> None:
        super().__init__()
        if image_size < 12 or image_size % 2:
            raise UsageError(f"srresnet needs images of an even number of pixels, at least 12, got {image_size}")
        inner = _channels(64, width)
        self.first = nn.Sequential(nn.Conv2d(channels, inner, 9, padding=4, padding_mode="reflect"), nn.ReLU())
        self.blocks = nn.Sequential(
            *(Residual(norm, inner) for _ in range(blocks)), *convolved(norm, inner, inner, 3)[:2]
        )
        self.last = nn.Sequential(
            nn.Conv2d(inner, 4 * inner, 3, padding=1, padding_mode="reflect"), nn.PixelShuffle(2), nn.ReLU(),
            nn.Conv2d(inner, channels, 9, padding=4, padding_mode="reflect"),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, channels, 2 H, 2 W)."""
        x = self.first(x)
        out: Tensor = self.last(x + self.blocks(x))
        return out


class DCGAN(nn.Module):
    """A generator and a discriminator of convolutions (Radford, Metz & Chintala 2016): each doubles or halves the side
    between 4 pixels and the whole; a normalizer behind every one but the generator's last and the discriminator's
    first. Transposed convolutions of kernel 4 make pictures between 0, black, and 1, white.

    Args:
        width: multiplies the numbers of channels, 64 next to the picture and twice as many at each smaller side.
        latent: of what pictures are made from, standard normal numbers.

    Attributes:
        noise: what the generator is given beside a reference batch of pictures.
    """

    noise: Tensor

    def __init__(self, norm: MakeNorm, channels: int, image_size: int, width: float = 1.0, latent: int = 64) -> None:
        super().__init__()
        sides = image_size.bit_length() - 3
        if sides < 1 or image_size != 4 << sides:
            raise UsageError(f"dcgan needs images of 8, 16, 32 ... pixels, got image_size={image_size}")
        inner = [_channels(64 << i, width) for i in range(sides)]
        made: list[nn.Module] = []
        for before, after, stride in zip([latent, *inner[:0:-1]], inner[::-1], [1, *[2] * sides], strict=False):
            normalizer = norm(after)
            conv = nn.ConvTranspose2d(before, after, 4, stride, stride // 2, bias=False)
            made += [conv, normalizer, activation_behind(normalizer, nn.ReLU)]
        self.generator = nn.Sequential(*made, nn.ConvTranspose2d(inner[0], channels, 4, 2, 1), nn.Sigmoid())
        seen: list[nn.Module] = [nn.Conv2d(channels, inner[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for before, after in itertools.pairwise(inner):
            normalizer = norm(after)
            seen += [nn.Conv2d(before, after, 4, 2, 1, bias=False), normalizer]
            seen += [activation_behind(normalizer, functools.partial(nn.LeakyReLU, 0.2))]
        self.discriminator = nn.Sequential(*seen, nn.Conv2d(inner[-1], 1, 4), nn.Flatten(0))
        self.latent = latent
        self.register_buffer("noise", torch.randn(LARGEST, latent))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(layer.weight, std=0.02)

    def made(self, noise: Tensor) -> Tensor:
        """Pictures (N, channels, S, S) of noise (N, latent)."""
        pictures: Tensor = self.generator(noise[:, :, None, None])
        return pictures

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N,) of pictures x: above zero, x is taken for a real one. The generator passes as many of its own, so
        that a reference batch reaches all layers."""
        self.made(self.noise[: len(x)])
        scores: Tensor = self.discriminator(x)
        return scores


def _channels(number: int, width: float) -> int:
    if not width > 0:
        raise UsageError(f"width must be above 0, got {width}")
    return max(4, round(number * width))


MODELS: dict[str, Callable[..., nn.Module]] = {"johnson": johnson, "srresnet": SRResNet, "dcgan": DCGAN}
LARGEST = 1024  # pictures in a reference batch


def stages(network: nn.Module, x: Tensor, number: int) -> list[Tensor]:
    """What a classifier of images gives out before each of its first max-poolings: of VGG-16 what Johnson et al. take,
    ``relu1_2``, ``relu2_2``, ``relu3_3`` and ``relu4_3``.

    Raises:
        UsageError: it has fewer.
    """
    found: list[Tensor] = []
    for layer in getattr(network, "features", network).children():
        if isinstance(layer, nn.MaxPool2d):
            found.append(x)
            if len(found) == number:
                return found
        x = layer(x)
    raise UsageError(f"{number} max-poolings are needed of a network that looks at pictures, this one has {len(found)}")


def gram(features: Tensor) -> Tensor:
    r"""The Gram matrices of features (N, C, H, W), :math:`G_{cd} = \frac{1}{C H W} \sum_p f_{cp} f_{dp}`, (N, C, C)
    (Gatys, Ecker & Bethge 2016; the scale is Johnson et al.'s)."""
    rows = features.flatten(2)
    return torch.bmm(rows, rows.transpose(1, 2)) / rows[0].numel()
