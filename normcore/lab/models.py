"""The networks of the experiments, each with a slot for a normalizer."""

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from ..layers import BatchNorm
from .errors import UsageError

#: makes the normalization layer for a number of channels
Norm = Callable[[int], nn.Module]


def lenet5(norm: Norm, channels: int, classes: int, image_size: int) -> nn.Module:
    """LeNet-5 as S4 draws it: two convolutions with max-pooling, two hidden linear layers, ReLU.

    The first convolution pads by 2; a normalizer stands after each convolution and each hidden linear
    layer, before the activation. 28x28 pixels give the source's 16 x 5 x 5 features.
    """
    side = (image_size // 2 - 4) // 2
    if side < 1:
        raise UsageError(f"lenet5 needs images of at least 12 pixels, got image_size={image_size}")
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2), norm(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), norm(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * side * side, 120), norm(120), nn.ReLU(),
        nn.Linear(120, 84), norm(84), nn.ReLU(),
        nn.Linear(84, classes),
    )  # fmt: skip


def catdog(norm: Norm, channels: int, classes: int, image_size: int, head_norm: bool = True) -> nn.Module:
    """The network of S0, reconstructed: its drawing is lost, and this fits every fragment that is left.

    Two 3x3 convolutions of 16 channels, each with the normalizer, ReLU and a 3x3 max-pooling of stride 2; then
    linear layers of 128, 128 and ``classes`` units. Behind the flattening the source always normalizes by BN,
    whatever stands before it; ``head_norm=False`` leaves that out.

    Parts: ``features``, where the normalizer is, and ``head``.
    """
    side = -(-image_size // 4)  # rounded up
    between = BatchNorm if head_norm else nn.Identity
    # max-pooling and ReLU commute, to the bit; ReLU after it has a quarter of the work
    features = nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), norm(16), nn.MaxPool2d(3, 2, 1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), norm(16), nn.MaxPool2d(3, 2, 1), nn.ReLU(),
    )  # fmt: skip
    return nn.Sequential(OrderedDict(features=features, head=nn.Sequential(
        nn.Flatten(),
        nn.Linear(16 * side * side, 128), between(128), nn.ReLU(),
        nn.Linear(128, 128), between(128), nn.ReLU(),
        nn.Linear(128, classes),
    )))  # fmt: skip


MODELS: dict[str, Callable[..., nn.Module]] = {"lenet5": lenet5, "catdog": catdog}
