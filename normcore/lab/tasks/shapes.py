"""A generated set of colour images in two classes that differ in shape, in colour combination, or in both.

Each image has one object on a grey ground. By *shape*, class 0 is a disc and class 1 a square. By *colour
combination*, the object's red and green both lie above or both below the ground in class 0, and on opposite
sides of it in class 1. So each channel by itself has the same distribution in both classes, and only channels
together tell them apart.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

SIZE = 64  # pixels a side
ITEMS = {"train": 4000, "test": 1000}
_NOISE = 25.0  # standard deviation, of 255 levels


def rows(by_shape: bool = True, by_colour: bool = True) -> Iterator[tuple[str, NDArray[np.uint8], int, str]]:
    """(split, image (64, 64, 3), label, name) of every image; the same images each time.

    Args:
        by_shape, by_colour: whether the classes differ in this; what they do not differ in is drawn at random.
    """
    random = np.random.default_rng(0)
    for split, items in ITEMS.items():
        for number in range(items):
            label = number % 2
            square = bool(label) if by_shape else bool(random.integers(2))
            opposite = bool(label) if by_colour else bool(random.integers(2))
            yield split, _image(square, opposite, random), label, f"shape {number} of {split}"


def _image(square: bool, opposite: bool, random: np.random.Generator) -> NDArray[np.uint8]:
    red, blue = random.choice([-1, 1], 2)
    colour = np.array([red, -red if opposite else red, blue]) * random.uniform(20, 70, 3)
    inside = mask(square, random)[:, :, None]
    image = random.uniform(90, 165) + inside * colour + random.normal(0, _NOISE, (SIZE, SIZE, 3))
    return image.clip(0, 255).round().astype(np.uint8)


def mask(square: bool, random: np.random.Generator) -> NDArray[np.bool_]:
    """A disc, or a square of the same area at any angle, wholly inside the image."""
    radius = random.uniform(8, 16)
    x, y = random.uniform(1.3 * radius, SIZE - 1.3 * radius, 2)
    across, down = np.meshgrid(np.arange(SIZE) - x, np.arange(SIZE) - y)
    if not square:
        return across**2 + down**2 <= radius**2
    angle, half = random.uniform(0, np.pi / 2), radius * np.sqrt(np.pi) / 2
    turned = np.cos(angle) * across + np.sin(angle) * down, np.cos(angle) * down - np.sin(angle) * across
    return (np.abs(turned[0]) <= half) & (np.abs(turned[1]) <= half)
