"""The networks of the experiments, each with a slot for a normalizer."""

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...factory import make_norm
from ...layers import BatchNorm
from ..errors import UsageError, unknown
from .task import MakeNorm

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU,
}  # fmt: skip


@functools.cache
def spatial_only(norm: str) -> bool:
    """Whether a normalizer needs spatial axes, and so cannot stand behind a linear layer. The layer itself is asked: it
    refuses an input without them, or gives out a constant there, which tells what comes behind it nothing."""
    x = torch.linspace(-1, 2, 12).square().view(3, 4)
    try:
        y = make_norm(norm, 4)(x)
    except (ValueError, RuntimeError):
        return True
    return bool((y - y[0]).abs().max() < 1e-6)


def activation_behind(norm: nn.Module, activation: Callable[[], nn.Module]) -> nn.Module:
    """The activation behind a normalizer; none behind one that is an activation, too, and says so by ``activates``."""
    return nn.Identity() if getattr(norm, "activates", False) else activation()


def lenet5(
    norm: MakeNorm, channels: int, classes: int, image_size: int, activation: str = "relu", norm_first: bool = True,
    linear_norm: bool = True,
) -> nn.Module:  # fmt: skip
    """LeNet-5 as S4 draws it: two convolutions with max-pooling, two hidden linear layers, ReLU.

    The first convolution pads by 2; a normalizer stands after each convolution and each hidden linear
    layer, before the activation. 28x28 pixels give the source's 16 x 5 x 5 features.

    Args:
        activation: one of ``ACTIVATIONS``.
        norm_first: whether the normalizer stands before the activation, or behind it.
        linear_norm: whether one stands after the linear layers too; not every normalizer can.
    """
    side = (image_size // 2 - 4) // 2
    if side < 1:
        raise UsageError(f"lenet5 needs images of at least 12 pixels, got image_size={image_size}")
    if activation not in ACTIVATIONS:
        raise unknown("activation", activation, ACTIVATIONS)

    def after(number: int, normalized: bool = True) -> list[nn.Module]:
        first = norm(number) if normalized else nn.Identity()
        pair = [first, activation_behind(first, ACTIVATIONS[activation])]
        return pair if norm_first else pair[::-1]

    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2), *after(6), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), *after(16), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * side * side, 120), *after(120, linear_norm),
        nn.Linear(120, 84), *after(84, linear_norm),
        nn.Linear(84, classes),
    )  # fmt: skip


class UnsteadyNoise(nn.Module):
    """Noise whose distribution changes at every step and from channel to channel: what stands behind BN comes out
    with another mean and another scale each time, as if nothing had been normalized.

    In training, y = s x + m with s and m of each sample and channel normal around a scale drawn from U(1, 1.25) and a
    mean drawn from U(-0.5, 0.5) for the channel at this step, with a deviation of 0.1; at evaluation, y = x. It is the
    control of Santurkar et al. 2018, section 2.1: BN followed by covariate shift.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Disturb x, (N, C, *spatial)."""
        if not self.training:
            return x
        table, spatial = x.shape[:2], [1] * (x.dim() - 2)
        scale, shift = 1 + 0.25 * x.new_empty(table[1]).uniform_(), x.new_empty(table[1]).uniform_(-0.5, 0.5)
        s, m = ((center + 0.1 * x.new_empty(table).normal_()).view(*table, *spatial) for center in (scale, shift))
        return s * x + m


def fourconv(norm: MakeNorm, channels: int, classes: int, image_size: int, noise: bool = False) -> nn.Module:
    """A network of four convolutions, grown out of LeNet-5. S4 shows the outputs of such a network and does not draw
    it: this is a reconstruction.

    Convolutions of 6 and 16 channels with kernels of 5, of 32 and 32 with kernels of 3, each with the normalizer and
    ReLU, max-pooling behind the first two, then linear layers of 84 and ``classes`` units.

    Args:
        noise: whether :class:`UnsteadyNoise` follows each normalizer.

    Parts: ``features``, whose stages have the parts ``conv``, ``norm``, ``noise``, ``act`` and ``pool``, and ``head``.
    """
    if image_size < 12:
        raise UsageError(f"fourconv needs images of at least 12 pixels, got image_size={image_size}")
    stages, before = [], channels
    for number, kernel, pool in ((6, 5, True), (16, 5, True), (32, 3, False), (32, 3, False)):
        parts: dict[str, nn.Module] = {"conv": nn.Conv2d(before, number, kernel, padding=kernel // 2)}
        parts |= {"norm": norm(number), **({"noise": UnsteadyNoise()} if noise else {})}
        parts |= {"act": activation_behind(parts["norm"], nn.ReLU)}
        parts |= {"pool": nn.MaxPool2d(2)} if pool else {}
        stages.append(nn.Sequential(OrderedDict(parts)))
        before = number
    side = image_size // 4
    head = nn.Sequential(nn.Flatten(), nn.Linear(32 * side * side, 84), nn.ReLU(), nn.Linear(84, classes))
    return nn.Sequential(OrderedDict(features=nn.Sequential(*stages), head=head))


def catdog(
    norm: MakeNorm, channels: int, classes: int, image_size: int, head_norm: bool = True,
    head_options: Mapping[str, Any] | None = None,
) -> nn.Module:  # fmt: skip
    """The network of S0, reconstructed: its drawing is lost, and this fits every fragment that is left.

    Two 3x3 convolutions of 16 channels, each with the normalizer, ReLU and a 3x3 max-pooling of stride 2; then
    linear layers of 128, 128 and ``classes`` units. Behind the flattening the source always normalizes by BN,
    whatever stands before it; ``head_norm=False`` leaves that out, ``head_options`` are that BN's.

    Parts: ``features``, where the normalizer is, and ``head``.
    """
    side = -(-image_size // 4)  # rounded up

    def between(number: int) -> nn.Module:
        return BatchNorm(number, **(head_options or {})) if head_norm else nn.Identity()

    features: list[nn.Module] = []
    for before in (channels, 16):
        # max-pooling and ReLU commute, to the bit; ReLU after it has a quarter of the work
        conv, normalizer = nn.Conv2d(before, 16, 3, padding=1), norm(16)
        features += [conv, normalizer, nn.MaxPool2d(3, 2, 1), activation_behind(normalizer, nn.ReLU)]
    return nn.Sequential(OrderedDict(features=nn.Sequential(*features), head=nn.Sequential(
        nn.Flatten(),
        nn.Linear(16 * side * side, 128), between(128), nn.ReLU(),
        nn.Linear(128, 128), between(128), nn.ReLU(),
        nn.Linear(128, classes),
    )))  # fmt: skip


def alexnet(
    norm: MakeNorm, channels: int, classes: int, image_size: int, width: float = 1.0, dropout: float = 0.0
) -> nn.Module:
    """AlexNet (Krizhevsky, Sutskever & Hinton 2012) for images of 32 pixels: its five convolutions with kernels of 3,
    the first with a stride of 2, and two hidden linear layers; a normalizer after each of the seven, before its ReLU.

    Args:
        width: multiplies the numbers of channels, 64, 192, 384, 256 and 256, and of hidden units, 4096.
        dropout: share of the inputs of each hidden linear layer that is dropped in training; the paper has 0.5.
    """
    side = (image_size + 1) // 2 // 8
    if side < 1:
        raise UsageError(f"alexnet needs images of at least 15 pixels, got image_size={image_size}")
    if not (width > 0 and 0 <= dropout < 1):
        raise UsageError(f"alexnet needs width > 0 and 0 <= dropout < 1, got width={width} and dropout={dropout}")
    layers: list[nn.Module] = []
    before = channels
    for place, number in enumerate((64, 192, 384, 256, 256)):
        after = max(8, round(number * width))
        layers += [nn.Conv2d(before, after, 3, stride=1 if place else 2, padding=1), normalizer := norm(after)]
        layers += [nn.MaxPool2d(2)] if place in (0, 1, 4) else []  # it and ReLU commute, to the bit
        layers.append(activation_behind(normalizer, nn.ReLU))
        before = after
    hidden = max(8, round(4096 * width))
    layers.append(nn.Flatten())
    for inputs in (before * side * side, hidden):
        layers += [nn.Dropout(dropout), nn.Linear(inputs, hidden), normalizer := norm(hidden)]
        layers.append(activation_behind(normalizer, nn.ReLU))
    return nn.Sequential(*layers, nn.Linear(hidden, classes))


def vgg16(
    norm: MakeNorm, channels: int, classes: int, image_size: int, width: float = 1.0, he: bool = True
) -> nn.Module:
    """VGG-16 (Simonyan & Zisserman 2015, configuration D): thirteen 3x3 convolutions in five blocks with a max-pooling
    behind each, the normalizer between each convolution and its ReLU, and two hidden linear layers without dropout.

    Args:
        width: multiplies the numbers of channels, 64 to 512, and of hidden units, 4096.
        he: whether weights start as He et al. 2015 have it, normal with a variance of 2 / fan-in, and biases at zero;
            else as torch initializes its layers, by which the signal shrinks from layer to layer.
    """
    side = image_size // 32
    if side < 1:
        raise UsageError(f"vgg16 needs images of at least 32 pixels, got image_size={image_size}")
    if not width > 0:
        raise UsageError(f"vgg16 needs width > 0, got {width}")
    layers: list[nn.Module] = []
    before = channels
    for number, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        after = max(8, round(number * width))
        for _ in range(convolutions):
            layers += [nn.Conv2d(before, after, 3, padding=1), normalizer := norm(after)]
            layers.append(activation_behind(normalizer, nn.ReLU))
            before = after
        layers.append(nn.MaxPool2d(2))
    hidden = max(8, round(4096 * width))
    layers.append(nn.Flatten())
    for inputs in (before * side * side, hidden):
        layers += [nn.Linear(inputs, hidden), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(hidden, classes))
    for layer in model if he else ():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return model


class Bottleneck(nn.Module):
    """The block of ResNet-50: 1x1, 3x3 and 1x1 convolutions, each with a normalizer, around a shortcut.

    Its last scale starts at zero, so that the block starts as its shortcut (Goyal et al. 2017, section 5.1); without a
    normalizer's scale, the weights of its last convolution do.
    """

    def __init__(self, norm: MakeNorm, before: int, inner: int, stride: int) -> None:
        super().__init__()
        after = 4 * inner
        first, second, last = norm(inner), norm(inner), norm(after)
        self.branch = nn.Sequential(
            nn.Conv2d(before, inner, 1, bias=False), first, activation_behind(first, nn.ReLU),
            nn.Conv2d(inner, inner, 3, stride, 1, bias=False), second, activation_behind(second, nn.ReLU),
            conv := nn.Conv2d(inner, after, 1, bias=False), last,
        )  # fmt: skip
        self.shortcut = nn.Sequential()
        if stride > 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), norm(after))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        scale = getattr(last, "weight", None)
        nn.init.zeros_(conv.weight if scale is None else scale)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, 4 inner, H / stride, W / stride)."""
        return torch.relu(self.branch(x) + self.shortcut(x))


def bottlenecks(norm: MakeNorm, before: int, inner: int, blocks: int, stride: int = 1) -> list[nn.Module]:
    """A stage of a ResNet-50: so many blocks, (N, before, H, W) to (N, 4 inner, H / stride, W / stride)."""
    first = Bottleneck(norm, before, inner, stride)
    return [first, *(Bottleneck(norm, 4 * inner, inner, 1) for _ in range(1, blocks))]


def resnet50(
    norm: MakeNorm, channels: int, classes: int, image_size: int, width: float = 1.0, last_stride: int = 2
) -> nn.Module:
    """ResNet-50 (He et al. 2016) with a normalizer behind every convolution, of :class:`Bottleneck` blocks.

    Args:
        width: multiplies the numbers of channels, 64 in the stem and 256 to 2048 behind the four stages.
        last_stride: of the last stage; 1 leaves it the positions of the stage before, of which small images have few.

    Parts: ``features``, where the normalizers are, and ``head``.
    """
    if image_size < 32:
        raise UsageError(f"resnet50 needs images of at least 32 pixels, got image_size={image_size}")
    if not (width > 0 and last_stride in (1, 2)):
        raise UsageError(
            f"resnet50 needs width > 0 and last_stride 1 or 2, got width={width} and last_stride={last_stride}"
        )
    inner = max(8, round(64 * width))
    conv, first = nn.Conv2d(channels, inner, 7, 2, 3, bias=False), norm(inner)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    features: list[nn.Module] = [conv, first, activation_behind(first, nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    before = inner
    for stage, (blocks, stride) in enumerate(((3, 1), (4, 2), (6, 2), (3, last_stride))):
        features += bottlenecks(norm, before, inner << stage, blocks, stride)
        before = 4 * (inner << stage)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))
    return nn.Sequential(OrderedDict(features=nn.Sequential(*features), head=head))


MODELS: dict[str, Callable[..., nn.Module]] = {
    "lenet5": lenet5, "catdog": catdog, "fourconv": fourconv, "alexnet": alexnet, "vgg16": vgg16, "resnet50": resnet50,
}  # fmt: skip
