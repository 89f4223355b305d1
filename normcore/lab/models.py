"""The networks of the experiments, each with a slot for a normalizer."""

from collections.abc import Callable

from torch import nn

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


MODELS: dict[str, Callable[[Norm, int, int, int], nn.Module]] = {"lenet5": lenet5}
