"""A data set on its device: what a batch holds, and in what order batches come."""

import pytest
import torch

from normcore.lab import data
from normcore.lab.images import Images, batches, foreign_images
from normcore.lab.outliers import Outliers

from .helpers import config

pytestmark = pytest.mark.usefixtures("store")
CPU = torch.device("cpu")


def test_an_epoch_sees_every_image_once() -> None:
    seen = torch.cat(list(batches(torch.arange(96), config(steps=3), 0)))
    assert sorted(seen.tolist()) == list(range(96))
    again = torch.cat(list(batches(torch.arange(96), config(steps=6), 3)))
    assert sorted(again.tolist()) == list(range(96))
    assert not torch.equal(seen, again)


def test_a_fixed_order_is_the_first_epoch_s_in_every_epoch() -> None:
    shuffled = list(batches(torch.arange(96), config(steps=6), 0))
    fixed = list(batches(torch.arange(96), config(steps=6, order="fixed"), 0))
    assert [index.tolist() for index in fixed] == [index.tolist() for index in shuffled[:3]] * 2


def test_batches_can_be_found_again_from_any_step() -> None:
    whole = list(batches(torch.arange(100), config(steps=10), 0))
    for start in (1, 3, 7):
        rest = list(batches(torch.arange(100), config(steps=10), start))
        assert all(torch.equal(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_a_batch_is_standardized() -> None:
    dataset = data.load("digits", 14)
    images = Images(dataset.train, dataset, CPU)
    x, y = images.batch(torch.arange(len(images)))
    assert x.shape == (1437, 1, 14, 14)
    assert x.mean().item() == pytest.approx(0, abs=1e-5)
    assert x.std().item() == pytest.approx(1, abs=1e-3)
    expected = (torch.tensor(dataset.train.images[7, :, :, 0] / 255.0) - dataset.mean[0]) / dataset.std[0]
    torch.testing.assert_close(x[7, 0], expected.float(), rtol=1e-5, atol=1e-5)
    assert y[7] == dataset.train.labels[7]


def test_foreign_images_have_the_channels_of_the_set_and_their_own_mean_and_deviation() -> None:
    grey, coloured = data.load("digits", 14), data.load("shapes", 14)
    found = foreign_images(config(foreign="shapes"), grey, CPU)
    assert found.shape == (512, 1, 14, 14)
    pixels = torch.tensor(coloured.train.images[:512] / 255.0)
    standardized = (pixels - torch.tensor(coloured.mean)) / torch.tensor(coloured.std)
    torch.testing.assert_close(found[:, 0], standardized.mean(-1).float(), rtol=1e-4, atol=1e-4)
    into_colour = foreign_images(config(dataset="shapes", foreign="digits"), coloured, CPU)
    assert into_colour.shape == (512, 3, 14, 14)
    expected = foreign_images(config(foreign="digits"), grey, CPU)
    assert torch.equal(into_colour, expected.expand(-1, 3, -1, -1))
    torch.testing.assert_close(expected, Images(grey.train, grey, CPU).batch(torch.arange(512))[0])
    assert into_colour.is_contiguous(memory_format=torch.channels_last)


def test_without_another_set_there_are_no_foreign_images() -> None:
    assert foreign_images(config(), data.load("digits", 14), CPU).numel() == 0


def test_images_of_another_set_take_the_places_of_the_chosen_ones() -> None:
    """Those that have their numbers, in turn."""
    dataset = data.load("digits", 14)
    foreign = foreign_images(config(foreign="digits"), dataset, CPU).flip(0)
    images = Images(dataset.train, dataset, CPU)
    index = torch.arange(400, 700)
    clean, labels = images.batch(index)
    images.outliers = Outliers.draw(len(images), 0.5, "foreign", foreign)
    found, same_labels = images.batch(index)
    chosen = images.outliers.chosen[index]
    assert torch.equal(same_labels, labels)
    assert torch.equal(found[~chosen], clean[~chosen])
    assert torch.equal(found[chosen], foreign[index % 512][chosen])
    assert 0 < chosen.sum() < 300
