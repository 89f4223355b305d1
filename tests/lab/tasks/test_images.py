"""A data set on its device: what a batch holds, and in what order batches come."""

import pytest
import torch

from normcore.lab.runs.training import train
from normcore.lab.tasks import datasets
from normcore.lab.tasks.images import ImageClassification, Images, by_class, foreign_images
from normcore.lab.tasks.outliers import Outliers

from ..helpers import config

pytestmark = pytest.mark.usefixtures("store")
CPU = torch.device("cpu")


def test_a_batch_is_standardized() -> None:
    dataset = datasets.load("digits", 14)
    images = Images(dataset.train, dataset, CPU)
    x, y = images.batch(torch.arange(len(images)))
    assert x.shape == (1437, 1, 14, 14)
    assert x.mean().item() == pytest.approx(0, abs=1e-5)
    assert x.std().item() == pytest.approx(1, abs=1e-3)
    expected = (torch.tensor(dataset.train.images[7, :, :, 0] / 255.0) - dataset.mean[0]) / dataset.std[0]
    torch.testing.assert_close(x[7, 0], expected.float(), rtol=1e-5, atol=1e-5)
    assert y[7] == dataset.train.labels[7]


def test_foreign_images_have_the_channels_of_the_set_and_their_own_mean_and_deviation() -> None:
    grey, coloured = datasets.load("digits", 14), datasets.load("shapes", 14)
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
    assert foreign_images(config(), datasets.load("digits", 14), CPU).numel() == 0


def test_images_of_another_set_take_the_places_of_the_chosen_ones() -> None:
    """Those that have their numbers, in turn."""
    dataset = datasets.load("digits", 14)
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


@pytest.mark.parametrize("share", [0.25, 0.9, 1.0])
def test_a_share_of_each_batch_is_of_one_class(share: float) -> None:
    task = ImageClassification(config(task_options={"one_class": share}), CPU)
    order = by_class(task.items, task.images.labels, 32, share, torch.Generator().manual_seed(0))
    assert len(set(order.tolist())) == len(order) == 1437 // 32 * 32
    commonest = [int(task.images.labels[batch].bincount().max()) for batch in order.split(32)]
    pure = [number >= round(share * 32) for number in commonest]
    assert sum(pure) >= len(pure) - 10  # all but those at a border between two classes
    firsts = task.images.labels[order[::32]].tolist()
    assert firsts != sorted(firsts)


def test_sorted_batches_train_otherwise_and_are_evaluated_alike() -> None:
    """In an order that can be found again."""
    runs = [
        train(config(task_options=options, steps=8), CPU) for options in ({}, {"one_class": 1.0}, {"one_class": 1.0})
    ]
    plain, one, again = (run.curves for run in runs)
    assert one == again
    assert one["train"]["loss"] != plain["train"]["loss"]
    assert train(config(task_options={"one_class": 0.0}, steps=8), CPU).curves == plain
