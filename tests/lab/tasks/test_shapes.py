"""The drawn shapes: what their classes differ in, and what they do not."""

import functools
import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from normcore.lab.tasks import datasets, shapes

NAMES = ("shapes", "shapes_by_shape", "shapes_by_colour")
Drawn = tuple[NDArray[np.uint8], NDArray[np.int64]]


def draw(name: str, items: int) -> Drawn:
    """The first images of the training split, and their labels."""
    rows = list(itertools.islice(datasets.EMBEDDED[name](), items))
    return np.stack([np.asarray(row[1], np.uint8) for row in rows]), np.array([row[2] for row in rows])


@functools.cache
def many(name: str) -> Drawn:
    return draw(name, 1000)


def best_threshold(values: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The largest share of images that a threshold on these values can put into their classes; chance is 0.5."""
    return 0.5 + float(ks_2samp(values[labels == 0], values[labels == 1]).statistic) / 2


def covariance(images: NDArray[np.uint8], first: int, second: int) -> NDArray[np.float64]:
    """Of two channels, over the pixels of each image."""
    a, b = (images[..., c].reshape(len(images), -1).astype(np.float64) for c in (first, second))
    return (a * b).mean(1) - a.mean(1) * b.mean(1)


def objects(name: str, items: int, monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Where the objects are, (N, 64, 64), seen by drawing the set without its noise; and the labels."""
    with monkeypatch.context() as context:
        context.setattr(shapes, "_NOISE", 0.0)
        images, labels = draw(name, items)
    ground = np.median(images, axis=(1, 2), keepdims=True)
    return (images != ground).any(axis=3).astype(np.uint8), labels


def reach(inside: NDArray[np.uint8]) -> float:
    """The farthest point's distance from the middle, by the radius of a disc of this area: a disc has 1, a square
    the root of pi / 2, 1.25."""
    points = np.argwhere(inside)
    farthest = ((points - points.mean(0)) ** 2).sum(1).max()
    return float(np.sqrt(farthest * np.pi / len(points)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("store")
def test_a_set_is_what_its_entry_says_in_two_classes_of_the_same_size(name: str) -> None:
    found = datasets.load(name, 16)
    assert (found.classes, found.channels, found.origin) == (2, 3, "embedded")
    assert datasets.find(name).items == shapes.ITEMS
    for split, items in (found.train, 4000), (found.test, 1000):
        assert split.images.shape == (items, 16, 16, 3)
        assert np.bincount(split.labels).tolist() == [items // 2] * 2


@pytest.mark.parametrize("name", NAMES)
def test_the_images_are_the_same_each_time_and_no_two_of_them(name: str) -> None:
    images, labels = many(name)
    assert images.shape == (1000, shapes.SIZE, shapes.SIZE, 3)
    assert images.dtype == np.uint8
    again = draw(name, 100)
    np.testing.assert_array_equal(again[0], images[:100])
    np.testing.assert_array_equal(again[1], labels[:100])
    assert len({image.tobytes() for image in images}) == 1000


@pytest.mark.parametrize("name", NAMES)
def test_no_channel_alone_tells_the_classes_apart_by_colour(name: str) -> None:
    """Neither by how far its object is from the ground, and on which side, nor by how much it varies."""
    images, labels = many(name)
    pixels = images.reshape(len(images), -1, 3).astype(np.float64)
    side = pixels.mean(1) - np.median(pixels, axis=1)  # the ground is the larger part, and so the median
    for channel in range(3):
        assert (side[:, channel] > 0).mean() == pytest.approx(0.5, abs=0.05)
        assert best_threshold(side[:, channel], labels) < 0.56
        assert best_threshold(pixels.var(1)[:, channel], labels) < 0.56


@pytest.mark.parametrize("name", ["shapes", "shapes_by_colour"])
def test_red_and_green_together_tell_the_classes_apart(name: str) -> None:
    images, labels = many(name)
    together = covariance(images, 0, 1)
    assert ((together < 0) == (labels == 1)).mean() > 0.99
    assert best_threshold(covariance(images, 0, 2), labels) < 0.56
    assert best_threshold(covariance(images, 1, 2), labels) < 0.56


def test_by_shape_no_two_channels_tell_the_classes_apart() -> None:
    images, labels = many("shapes_by_shape")
    for first, second in (0, 1), (0, 2), (1, 2):
        together = covariance(images, first, second)
        assert (together < 0).mean() == pytest.approx(0.5, abs=0.05)
        assert best_threshold(together, labels) < 0.56


@pytest.mark.parametrize("name", ["shapes", "shapes_by_shape"])
def test_by_shape_a_class_has_discs_and_the_other_squares(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, labels = objects(name, 200, monkeypatch)
    for object_, label in zip(inside, labels, strict=True):
        low, high = (1.12, 1.27) if label else (0.95, 1.05)
        assert low < reach(object_) < high


def test_by_colour_both_classes_have_both_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, labels = objects("shapes_by_colour", 400, monkeypatch)
    square = np.array([reach(object_) > 1.09 for object_ in inside])
    for label in 0, 1:
        assert square[labels == label].mean() == pytest.approx(0.5, abs=0.1)


def test_a_disc_and_a_square_have_the_same_area_and_lie_inside_the_image() -> None:
    """To within the pixels at their edge: the two drawn from the same numbers have the same size and place."""
    edge = np.pad(np.zeros((shapes.SIZE - 2, shapes.SIZE - 2), bool), 1, constant_values=True)
    areas = []
    for seed in range(300):
        disc, square = (shapes.mask(kind, np.random.default_rng(seed)) for kind in (False, True))
        assert not (disc & edge).any()
        areas.append((disc.sum(), square.sum()))
        assert areas[-1][1] == pytest.approx(areas[-1][0], rel=0.05)  # so nothing of it is cut off either
    discs, squares = np.mean(areas, axis=0)
    assert squares == pytest.approx(discs, rel=0.003)
